// What the benches of attention share: the shapes, work timed side by side, and how targets are written.
#pragma once

#include <algorithm>
#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>
#include <c10/core/Event.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <nlohmann/json.hpp>

#include <vitrine/device.h>
#include <vitrine/model.h>

namespace vitrine {

struct BenchShape {
    const char* name;
    const char* title;
    std::int64_t image, patch, width, depth, heads;
    bool on_cpu;  ///< measured on the CPU where no case is named; the others are for a device
};

/// With more patches a side than this, whole maps are no peer any more.
constexpr std::int64_t kMostPatchesForMaps = 64;

/// A model of the vit architecture of this shape, with random weights.
Result<std::unique_ptr<Model>> bench_model(const BenchShape& shape);

/// bench_attention on a CUDA device: rows, sweeps and gradient methods with answers left on the device.
Result<nlohmann::json> bench_attention_on_device(const BenchShape& shape, at::Device device, at::ScalarType dtype,
                                                 int repeats, std::int64_t memory_budget);

inline double median(std::vector<double> x) {
    std::sort(x.begin(), x.end());
    const std::size_t half = x.size() / 2;
    return x.size() % 2 == 1 ? x[half] : (x[half - 1] + x[half]) / 2;
}

inline nlohmann::json target(double value, double limit, bool at_most) {
    return {{"value", value},
            {at_most ? "at_most" : "at_least", limit},
            {"met", at_most ? value <= limit : value >= limit}};
}

/// Timed work by name, one sample of each a round, so that what disturbs the machine disturbs all of them. By the
/// host's clock from the first call until the device is done; on a device also by its events, which begin when it is
/// reached by the first call and see no waiting before that.
class Interleaved {
  public:
    explicit Interleaved(at::Device device) : device_(device) {}
    /// A sample is the mean of `count` runs in a row.
    void add(std::string name, std::function<Status()> work, int count = 1) {
        jobs_.push_back({std::move(name), std::move(work), count});
    }
    Status run(int repeats) {
        for (int round = -1; round < repeats; ++round)
            for (const auto& [name, work, count] : jobs_) {
                synchronize(device_);
                const auto start = std::chrono::steady_clock::now();
                std::optional<c10::Event> begin, end;
                if (!device_.is_cpu()) record(begin);
                for (int i = 0; i < count; ++i) VITRINE_CHECK(work());
                if (!device_.is_cpu()) record(end);
                synchronize(device_);
                const double ms =
                    std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count() / count;
                if (round < 0) continue;  // the first round warms up
                times_[name].push_back(ms);
                if (begin) device_times_[name].push_back(begin->elapsedTime(*end) / count);
            }
        return {};
    }
    double ms(const std::string& name) const { return median(times_.at(name)); }
    double device_ms(const std::string& name) const { return median(device_times_.at(name)); }
    bool has(const std::string& name) const { return times_.count(name) != 0; }
    /// Median of the ratios of neighbours: what slows a whole round falls out.
    double ratio(const std::string& a, const std::string& b) const {
        std::vector<double> ratios;
        for (std::size_t i = 0; i < times_.at(a).size(); ++i) ratios.push_back(times_.at(a)[i] / times_.at(b)[i]);
        return median(ratios);
    }
    const std::map<std::string, std::vector<double>>& times() const { return times_; }
    const std::map<std::string, std::vector<double>>& device_times() const { return device_times_; }

  private:
    struct Job {
        std::string name;
        std::function<Status()> work;
        int count;
    };
    void record(std::optional<c10::Event>& event) const {
        event.emplace(device_.type(), c10::EventFlag::BACKEND_DEFAULT);
        event->record(c10::impl::VirtualGuardImpl(device_.type()).getStream(device_));
    }
    at::Device device_;
    std::vector<Job> jobs_;
    std::map<std::string, std::vector<double>> times_, device_times_;
};

}  // namespace vitrine
