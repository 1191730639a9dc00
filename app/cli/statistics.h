// What numbers over pictures are worth: intervals by resampling, paired differences, corrections, disjoint halves.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <vitrine/base/result.h>

namespace vitrine::cli {

constexpr int kResamples = 10000;

struct Interval {
    double low = 0, high = 0;
};

/// Draws pictures with replacement; the same draws for every list of the same length, which are kept.
class Resampler {
  public:
    explicit Resampler(std::uint64_t seed) : seed_(seed) {}

    /// The middle 95 % of the means of kResamples lists as long as this one; nothing for fewer than two values.
    /// @source B. Efron, R. Tibshirani, An Introduction to the Bootstrap, 1993, section 13.3 (percentile interval)
    std::optional<Interval> interval_of(const std::vector<double>& values);

  private:
    std::uint64_t seed_;
    std::map<std::size_t, std::vector<std::uint32_t>> kept_;
};

/// How likely a mean as far from zero as this one is when each difference might as well have the other sign, two-sided.
///
/// Signs are flipped rather than pictures resampled: under the null the differences of two methods that do not differ
/// are symmetric, and then this test is exact at any number of pictures, also for the many ties of a pointing game. All
/// 2^n flips where they are at most kResamples, else kResamples drawn ones, the one that was found counted among them.
///
/// @return nothing where there is no difference to flip
/// @source R. A. Fisher, The Design of Experiments, 1935, section 21; B. Phipson, G. Smyth, 2010, for the one that is
/// added
std::optional<double> sign_flip_p(const std::vector<double>& differences, std::uint64_t seed);

/// Probabilities corrected for their number, in their order: the chance that any of them is a false alarm stays below
/// each.
/// @source S. Holm, A Simple Sequentially Rejective Multiple Test Procedure, Scandinavian Journal of Statistics 6, 1979
std::vector<double> holm(const std::vector<double>& p);

double mean_of(const std::vector<double>& values);
double median_of(std::vector<double> values);

/// A share of the pictures that hangs on their names alone, so that what is chosen on one share is measured on another.
struct Split {
    std::int64_t part = 0, parts = 1;

    /// "A", "B" (halves), or "2/5".
    static Result<Split> parse(const std::string& text);
    /// @param stem  the picture's name without folders and extension: a converted picture stays where it was
    bool holds(std::string_view stem) const;
};

}  // namespace vitrine::cli
