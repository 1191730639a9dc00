// How kernel tests call: threads that must not change a bit, and outputs that show where a kernel wrote.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <limits>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include <vitrine/kernels/attention.h>

namespace vitrine::cases {

using Floats = std::vector<float>;

inline const kernels::ParallelFor kSerial = [](std::int64_t n,
                                               const std::function<void(std::int64_t, std::int64_t)>& f) { f(0, n); };
/// Two threads with an uneven cut.
inline const kernels::ParallelFor kTwo = [](std::int64_t n, const std::function<void(std::int64_t, std::int64_t)>& f) {
    const std::int64_t cut = (n + 2) / 3;
    std::thread other([&] { f(0, cut); });
    if (cut < n) f(cut, n);
    other.join();
};
/// One item at a time, from the last to the first.
inline const kernels::ParallelFor kBackwards = [](std::int64_t n,
                                                  const std::function<void(std::int64_t, std::int64_t)>& f) {
    for (std::int64_t i = n; i-- > 0;) f(i, i + 1);
};

/// Output memory poisoned with not-a-number, between bands that must stay as they were.
class Guarded {
  public:
    explicit Guarded(std::int64_t count)
        : store_(static_cast<std::size_t>(count) + 2 * kBand, std::numeric_limits<float>::quiet_NaN()) {
        std::fill_n(store_.begin(), kBand, kMark);
        std::fill_n(store_.end() - kBand, kBand, kMark);
    }
    float* data() { return store_.data() + kBand; }
    Floats take() {
        for (std::size_t i = 0; i < kBand; ++i) {
            EXPECT_EQ(store_[i], kMark) << "written before the output";
            EXPECT_EQ(store_[store_.size() - 1 - i], kMark) << "written behind the output";
        }
        return Floats(store_.begin() + kBand, store_.end() - kBand);
    }

  private:
    static constexpr std::size_t kBand = 64;
    static constexpr float kMark = 12345.0F;
    Floats store_;
};

/// What a call leaves in such an output.
template <class F>
Floats guarded(std::int64_t count, const F& call) {
    Guarded out(count);
    call(out.data());
    return out.take();
}

}  // namespace vitrine::cases
