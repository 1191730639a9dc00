// Statistics over pictures against SciPy, statsmodels and published numbers.
#include "cli/statistics.h"

#include <gtest/gtest.h>
#include <vitrine/base/file.h>

#include <cmath>

#include <nlohmann/json.hpp>

namespace vitrine::cli {
namespace {

using nlohmann::json;

json reference() {
    const auto text =
        read_text(std::filesystem::path(VITRINE_SOURCE_DIR) / "tests/parity/data/measures/statistics.json");
    EXPECT_TRUE(text.has_value());
    return json::parse(*text);
}

double deviation_of_the_mean(const std::vector<double>& values) {
    const double mean = mean_of(values);
    double sum = 0;
    for (const double value : values) sum += (value - mean) * (value - mean);
    return std::sqrt(sum) / static_cast<double>(values.size());
}

TEST(Statistics, IntervalsAreThoseOfSciPy) {
    const json expected = reference();
    ASSERT_EQ(expected["lists"].size(), 4u);
    for (const json& list : expected["lists"]) {
        const auto values = list["values"].get<std::vector<double>>();
        Resampler resampler(3);
        const auto interval = resampler.interval_of(values);
        ASSERT_TRUE(interval.has_value());
        // A 2.5 % quantile of 10,000 normal draws is off by sqrt(0.025 * 0.975 / 10,000) / 0.0584 = 0.027 deviations;
        // four of those, and half a picture's step where means are of few whole numbers.
        const double step = list["name"] == "hits" ? 1.0 / static_cast<double>(values.size()) : 0;
        const double bound = 4 * 0.027 * deviation_of_the_mean(values) + step;
        EXPECT_NEAR(interval->low, list["low"].get<double>(), bound) << list["name"];
        EXPECT_NEAR(interval->high, list["high"].get<double>(), bound) << list["name"];
        EXPECT_LT(bound, 0.3 * (interval->high - interval->low)) << "the bound would let anything pass";
    }
}

TEST(Statistics, SignFlipsAreThoseOfSciPy) {
    const json expected = reference();
    ASSERT_EQ(expected["lists"].size(), 4u);
    for (const json& list : expected["lists"]) {
        const auto values = list["values"].get<std::vector<double>>();
        const double wanted = list["p"].get<double>();
        const auto p = sign_flip_p(values, 3);
        ASSERT_TRUE(p.has_value());
        // All flips are counted up to 13 values, so nothing is left to chance; else four deviations of 10,000 draws.
        const double bound = values.size() <= 13 ? 1e-12 : 4 * std::sqrt(wanted * (1 - wanted) / kResamples);
        EXPECT_NEAR(*p, wanted, bound) << list["name"];
    }
    EXPECT_FALSE(sign_flip_p({}, 0).has_value());
    EXPECT_EQ(sign_flip_p(std::vector<double>(40, 0.0), 0), 1.0) << "methods that do not differ";
    EXPECT_EQ(sign_flip_p(std::vector<double>(40, 0.1), 0), 1.0 / (kResamples + 1)) << "the least that can be said";
    EXPECT_EQ(sign_flip_p({1, 1, 1}, 0), 0.25);
}

TEST(Statistics, HolmIsThatOfStatsmodelsAndTheTextbook) {
    const json expected = reference();
    ASSERT_EQ(expected["holm"].size(), 4u);
    for (const json& one : expected["holm"]) {
        const auto corrected = holm(one["p"].get<std::vector<double>>());
        const auto wanted = one["corrected"].get<std::vector<double>>();
        ASSERT_EQ(corrected.size(), wanted.size());
        for (std::size_t i = 0; i < wanted.size(); ++i) EXPECT_NEAR(corrected[i], wanted[i], 1e-12);
    }
    // The worked example of the encyclopaedia's article "Holm-Bonferroni method": of 0.01, 0.04, 0.03 and 0.005 at the
    // level 0.05 the first and the last are rejected.
    const auto example = holm({0.01, 0.04, 0.03, 0.005});
    EXPECT_LE(example[0], 0.05);
    EXPECT_GT(example[1], 0.05);
    EXPECT_GT(example[2], 0.05);
    EXPECT_LE(example[3], 0.05);
    EXPECT_TRUE(holm({}).empty());
}

TEST(Statistics, DrawsAreTheSameForListsOfOneLength) {
    Resampler one(7), other(7);
    const std::vector<double> first{1, 2, 3, 4, 9}, second{5, 1, 0, 2, 2};
    ASSERT_TRUE(one.interval_of(first).has_value());
    const auto after = one.interval_of(second), fresh = other.interval_of(second);
    ASSERT_TRUE(after && fresh);
    EXPECT_EQ(after->low, fresh->low);
    EXPECT_EQ(after->high, fresh->high);
    EXPECT_FALSE(one.interval_of({1}).has_value());
    EXPECT_EQ(median_of({3, 1, 2}), 2);
    EXPECT_EQ(median_of({4, 1, 2, 3}), 2.5);
}

TEST(Split, PartsAreDisjointAndWhole) {
    int in_a = 0;
    std::vector<int> fifths(5);
    const Split a = *Split::parse("A"), b = *Split::parse("B");
    for (int i = 0; i < 1000; ++i) {
        const std::string name = "ILSVRC2012_val_" + std::to_string(10000 + i);
        EXPECT_NE(a.holds(name), b.holds(name));
        if (a.holds(name)) ++in_a;
        int held = 0;
        for (int part = 1; part <= 5; ++part)
            if (Split::parse(std::to_string(part) + "/5")->holds(name)) ++held, ++fifths[part - 1];
        EXPECT_EQ(held, 1);
    }
    // Four deviations of a fair draw.
    EXPECT_NEAR(in_a, 500, 4 * std::sqrt(250.0));
    for (const int fifth : fifths) EXPECT_NEAR(fifth, 200, 4 * std::sqrt(160.0));
    // A name's part is part of what is published: it does not change with the machine or the version.
    EXPECT_TRUE(a.holds("ILSVRC2012_val_00000557") != b.holds("ILSVRC2012_val_00000557"));
    EXPECT_EQ(Split::parse("A")->holds("chelsea"), Split::parse("1/2")->holds("chelsea"));
    for (const char* text : {"C", "", "0/2", "3/2", "1/", "/2", "1/2x", "-1/2", "1"})
        EXPECT_FALSE(Split::parse(text).has_value()) << text;
}

}  // namespace
}  // namespace vitrine::cli
