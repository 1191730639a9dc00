// What numbers over pictures are worth: intervals by resampling, paired differences, corrections, disjoint halves.
#include "cli/statistics.h"

#include <vitrine/base/random.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <numeric>
#include <random>

namespace vitrine::cli {

std::optional<Interval> Resampler::interval_of(const std::vector<double>& values) {
    const std::size_t n = values.size();
    if (n < 2) return std::nullopt;
    constexpr std::size_t kMostKept = std::size_t{1} << 24;  // draws; a table has many columns of few lengths
    std::vector<std::uint32_t>* draws = nullptr;
    if (n * kResamples <= kMostKept) draws = &kept_[n];
    std::mt19937_64 random(seed_);
    if (draws != nullptr && draws->empty()) {
        draws->resize(n * kResamples);
        for (std::uint32_t& draw : *draws) draw = static_cast<std::uint32_t>(random() % n);
    }
    std::vector<double> means(kResamples);
    for (std::size_t r = 0; r < means.size(); ++r) {
        double sum = 0;
        for (std::size_t i = 0; i < n; ++i) sum += values[draws != nullptr ? (*draws)[r * n + i] : random() % n];
        means[r] = sum / static_cast<double>(n);
    }
    std::sort(means.begin(), means.end());
    return Interval{means[kResamples / 40], means[kResamples - 1 - kResamples / 40]};
}

std::optional<double> sign_flip_p(const std::vector<double>& differences, std::uint64_t seed) {
    if (differences.empty()) return std::nullopt;
    const double found = std::abs(std::accumulate(differences.begin(), differences.end(), 0.0));
    // Sums in another order differ in their last digits and are equal all the same.
    double size = 0;
    for (const double difference : differences) size += std::abs(difference);
    const double least = found - 1e-12 * size;
    const std::size_t n = differences.size();
    const bool all = n < 14;  // 2^13 = 8192
    const std::int64_t count = all ? std::int64_t{1} << n : kResamples;
    std::mt19937_64 random(seed);
    std::int64_t as_far = all ? 0 : 1;
    for (std::int64_t flip = 0; flip < count; ++flip) {
        double sum = 0;
        std::uint64_t signs = static_cast<std::uint64_t>(flip);
        for (std::size_t i = 0; i < n; ++i) {
            if (!all && i % 64 == 0) signs = random();
            sum += (signs >> (i % 64) & 1U) != 0 ? differences[i] : -differences[i];
        }
        if (std::abs(sum) >= least) ++as_far;
    }
    return static_cast<double>(as_far) / static_cast<double>(all ? count : count + 1);
}

std::vector<double> holm(const std::vector<double>& p) {
    std::vector<std::size_t> order(p.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return p[a] < p[b]; });
    std::vector<double> out(p.size());
    double largest = 0;
    for (std::size_t i = 0; i < order.size(); ++i) {
        largest = std::max(largest, std::min(1.0, p[order[i]] * static_cast<double>(p.size() - i)));
        out[order[i]] = largest;
    }
    return out;
}

double mean_of(const std::vector<double>& values) {
    double sum = 0;
    for (const double value : values) sum += value;
    return sum / static_cast<double>(values.size());
}

double median_of(std::vector<double> values) {
    const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
    std::nth_element(values.begin(), middle, values.end());
    if (values.size() % 2 == 1) return *middle;
    return (*middle + *std::max_element(values.begin(), middle)) / 2;
}

Result<Split> Split::parse(const std::string& text) {
    if (text == "A" || text == "B") return Split{text == "A" ? 0 : 1, 2};
    Split out;
    const char* const end = text.data() + text.size();
    const auto slash = text.find('/');
    if (slash != std::string::npos) {
        const auto part = std::from_chars(text.data(), text.data() + slash, out.part);
        const auto parts = std::from_chars(text.data() + slash + 1, end, out.parts);
        if (part.ec == std::errc() && part.ptr == text.data() + slash && parts.ec == std::errc() && parts.ptr == end &&
            out.part >= 1 && out.part <= out.parts) {
            --out.part;
            return out;
        }
    }
    return fail(ErrorCode::BadInput, "--split is '{}', expected A, B, or a part such as 2/5", text);
}

bool Split::holds(std::string_view stem) const {
    return parts == 1 || static_cast<std::int64_t>(mix64(hash_of(stem)) % static_cast<std::uint64_t>(parts)) == part;
}

}  // namespace vitrine::cli
