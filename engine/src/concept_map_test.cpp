// Neighbours and the map of concepts: against the plain computation, the same every time, kin near kin.
#include "concept_map.h"

#include <cmath>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/randn.h>
#include <gmock/gmock.h>

namespace vitrine {
namespace {

at::Tensor random_rows(std::int64_t n, std::int64_t width) {
    auto random = at::make_generator<at::CPUGeneratorImpl>(std::uint64_t{5});
    return at::randn({n, width}, random);
}

TEST(ConceptMap, NeighboursAreTheNearestByCosine) {
    at::Tensor rows = random_rows(1100, 8);  // more than a piece
    rows[3].zero_();
    rows[7] = rows[9] * 2.0;
    rows[8] = rows[9] * 3.0;
    const NearRows near = *near_rows(rows, 5);
    const at::Tensor unit = rows / at::linalg_vector_norm(rows, 2, {1}, true).clamp_min(1e-30);
    const at::Tensor cosine = at::matmul(unit, unit.t());
    for (const std::int64_t i : {0, 512, 1023, 1024, 1099}) {
        std::vector<std::pair<float, std::int64_t>> all;
        for (std::int64_t j = 0; j < 1100; ++j)
            if (j != i && j != 3) all.emplace_back(-cosine[i][j].item<float>(), j);
        std::sort(all.begin(), all.end());
        for (std::size_t k = 0; k < 5; ++k) {
            EXPECT_NEAR(near.cosine[std::size_t(5 * i) + k], -all[k].first, 1e-6);
            EXPECT_EQ(near.row[std::size_t(5 * i) + k], all[k].second);
        }
    }
    EXPECT_NEAR(near.cosine[5 * 9], 1, 1e-6);
    EXPECT_NEAR(near.cosine[5 * 9 + 1], 1, 1e-6);
    EXPECT_TRUE(std::isnan(near.cosine[5 * 3])) << "a row of length 0 is near to none";
    const NearRows few = *near_rows(rows.narrow(0, 0, 3), 5);
    EXPECT_FALSE(std::isnan(few.cosine[1]));
    EXPECT_TRUE(std::isnan(few.cosine[2])) << "there are but two others";
    EXPECT_TRUE(std::isnan(near_rows(rows.narrow(0, 0, 1), 5)->cosine[0]));
}

TEST(ConceptMap, TheMapIsTheSameEveryTimeAndHasKinNearKin) {
    // Six directions, 40 rows about each.
    const at::Tensor centres = random_rows(6, 32) * 2.0;
    const at::Tensor rows = centres.repeat_interleave(40, 0) + random_rows(240, 32) * 0.5;
    const NearRows near = *near_rows(rows, 15);
    const auto start = principal_plane(rows);
    const auto places = *lay_out(near, start, 100);
    EXPECT_EQ(places, *lay_out(near, principal_plane(rows), 100));
    EXPECT_NE(places, start);
    EXPECT_EQ(*lay_out(near, start, 0), start);
    int kin = 0;
    for (std::size_t i = 0; i < 240; ++i) {
        std::size_t nearest = 0;
        double least = 1e9;
        for (std::size_t j = 0; j < 240; ++j) {
            const double d = std::hypot(places[2 * i] - places[2 * j], places[2 * i + 1] - places[2 * j + 1]);
            if (j != i && d < least) least = d, nearest = j;
        }
        kin += i / 40 == nearest / 40 ? 1 : 0;
    }
    EXPECT_GE(kin, 238);
    for (const float p : places) EXPECT_LE(std::abs(p), 1.0001F);
}

TEST(ConceptMap, OddSizesAreLaidOut) {
    for (const std::int64_t n : {1, 2, 3, 5}) {
        const at::Tensor rows = random_rows(n, n == 5 ? 1 : 4);
        const auto places = lay_out(*near_rows(rows, 15), principal_plane(rows), 20);
        ASSERT_TRUE(places.has_value());
        EXPECT_EQ(places->size(), static_cast<std::size_t>(2 * n));
        for (const float p : *places) EXPECT_TRUE(std::isfinite(p));
    }
    const at::Tensor same = random_rows(1, 4).repeat({20, 1});
    const auto together = *lay_out(*near_rows(same, 15), principal_plane(same), 20);
    for (const float p : together) EXPECT_TRUE(std::isfinite(p));
    std::stop_source stop;
    stop.request_stop();
    EXPECT_EQ(near_rows(same, 15, stop.get_token()).error().code, ErrorCode::Cancelled);
}

}  // namespace
}  // namespace vitrine
