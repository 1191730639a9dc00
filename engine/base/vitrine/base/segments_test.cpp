// Superpixels against scikit-image's label images (tests/parity/recipes/segments.py), and what they refuse.
#include <vitrine/base/segments.h>

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <map>

#include <vitrine/base/readers.h>

namespace vitrine {
namespace {

struct Stored {
    Image image;
    std::vector<double> ties;
    std::map<std::string, std::vector<std::int32_t>> labels;
};

Stored stored(const std::string& name) {
    const auto file = read_safetensors(std::filesystem::path(VITRINE_SOURCE_DIR) / "tests/parity/data/segments" /
                                       (name + ".safetensors"))
                          .value();
    Stored out;
    for (const auto& [key, entry] : file.tensors) {
        const auto count = static_cast<std::size_t>(entry.shape[0] * entry.shape[1]);
        if (key == "image") {
            out.image = Image(entry.shape[1], entry.shape[0]);
            std::memcpy(out.image.pixels.data(), entry.data, 3 * count);
        } else if (key == "ties") {
            out.ties.resize(count);
            std::memcpy(out.ties.data(), entry.data, 8 * count);
        } else {
            std::vector<std::int16_t> labels(count);
            std::memcpy(labels.data(), entry.data, 2 * count);
            out.labels[key].assign(labels.begin(), labels.end());
        }
    }
    return out;
}

/// Every setting of the recipe.
std::map<std::string, Segments> all(const Stored& given, bool with_ties) {
    const Field field = field_of(given.image);
    Quickshift standard, lime;
    lime.ratio = 0.2;
    lime.kernel_size = 4;
    lime.max_distance = 200;
    if (with_ties) standard.ties = lime.ties = given.ties;
    return {{"felzenszwalb.standard", felzenszwalb(field).value()},
            {"felzenszwalb.coarse", felzenszwalb(field, {100, 0.5, 50}).value()},
            {"felzenszwalb.xrai", felzenszwalb(field_of(given.image, -1, 1), {50, 0.8, 80}).value()},
            {"slic.standard", slic(field).value()},
            {"slic.smooth", slic(field, {30, 3, 10, 1}).value()},
            {"quickshift.standard", quickshift(field, standard).value()},
            {"quickshift.lime", quickshift(field, lime).value()}};
}

/// Adjusted Rand index of two label images: 1 for the same regions, about 0 for unrelated ones.
double agreement(const std::vector<std::int32_t>& a, const std::vector<std::int32_t>& b) {
    std::map<std::pair<std::int32_t, std::int32_t>, double> both;
    std::map<std::int32_t, double> of_a, of_b;
    for (std::size_t i = 0; i < a.size(); ++i) {
        ++both[{a[i], b[i]}];
        ++of_a[a[i]];
        ++of_b[b[i]];
    }
    const auto pairs = [](double n) { return n * (n - 1) / 2; };
    double together = 0, in_a = 0, in_b = 0;
    for (const auto& [key, n] : both) together += pairs(n);
    for (const auto& [key, n] : of_a) in_a += pairs(n);
    for (const auto& [key, n] : of_b) in_b += pairs(n);
    const double chance = in_a * in_b / pairs(static_cast<double>(a.size()));
    const double most = (in_a + in_b) / 2;
    return most == chance ? 1 : (together - chance) / (most - chance);
}

TEST(Segments, AreScikitImagesOwnOnPicturesWithoutEqualEdges) {
    for (const char* name : {"photo", "grain"}) {
        const Stored given = stored(name);
        ASSERT_EQ(given.labels.size(), 7U);
        for (const auto& [method, found] : all(given, true)) {
            const auto& wanted = given.labels.at(method);
            const bool same = found.labels == wanted;
            EXPECT_TRUE(same) << name << ", " << method << ": " << found.count << " regions, agreement "
                              << agreement(found.labels, wanted);
            EXPECT_GT(found.count, 1) << name << ", " << method << " proves nothing";
        }
    }
}

TEST(Segments, OfFlatPicturesAgreeUpToTies) {
    // Plain areas hold thousands of edges of equal cost, which scikit-image sorts unstably; regions that end at real
    // edges are the same, and where they are split inside a plain area the order decides.
    const Stored given = stored("flat");
    for (const auto& [method, found] : all(given, true))
        EXPECT_GT(agreement(found.labels, given.labels.at(method)), 0.99) << method;
}

TEST(Segments, QuickshiftWithTiesOfItsOwnFindsAlmostTheSameRegions) {
    for (const char* name : {"photo", "grain"}) {
        const Stored given = stored(name);
        for (const auto& [method, found] : all(given, false))
            EXPECT_GT(agreement(found.labels, given.labels.at(method)), 0.99) << name << ", " << method;
    }
}

TEST(Segments, CoverEveryPixelWithLabelsWithoutGaps) {
    Image image(37, 5);
    for (std::size_t i = 0; i < image.pixels.size(); ++i)
        image.pixels[i] = static_cast<std::uint8_t>((i * 2654435761U) >> 24);
    const Field field = field_of(image);
    for (const auto& found : {felzenszwalb(field).value(), slic(field).value(), quickshift(field).value(),
                              slic(field, {1}).value(), slic(field, {500}).value()}) {
        ASSERT_EQ(found.labels.size(), 37U * 5U);
        std::vector<int> seen(static_cast<std::size_t>(found.count));
        for (const auto label : found.labels) ++seen.at(static_cast<std::size_t>(label));
        for (const int n : seen) EXPECT_GT(n, 0);
    }
    EXPECT_EQ(felzenszwalb(field, {1e9, 0, 0}).value().count, 1);
    EXPECT_EQ(felzenszwalb(field, {0, 0, 0}).value().count, 37 * 5);
}

TEST(Segments, OfOnePixelAreOne) {
    Image image(1, 1);
    const Field field = field_of(image);
    EXPECT_EQ(felzenszwalb(field).value().count, 1);
    EXPECT_EQ(slic(field).value().count, 1);
    EXPECT_EQ(quickshift(field).value().count, 1);
}

TEST(Segments, RefuseWhatIsNoPicture) {
    const auto refused = [](const auto& result) { return !result && result.error().code == ErrorCode::BadInput; };
    Field field = field_of(Image(4, 3));
    EXPECT_TRUE(refused(felzenszwalb(Field{})));
    EXPECT_TRUE(refused(felzenszwalb(Field{4, 3, 3, {1, 2}})));
    EXPECT_TRUE(refused(felzenszwalb(Field{std::int64_t{1} << 40, std::int64_t{1} << 40, 3, {}})));
    EXPECT_TRUE(refused(slic(Field{4, 3, 1, std::vector<double>(12)})));
    EXPECT_TRUE(refused(quickshift(Field{4, 3, 1, std::vector<double>(12)})));
    EXPECT_TRUE(refused(felzenszwalb(field, {-1, 0.8, 20})));
    EXPECT_TRUE(refused(felzenszwalb(field, {1, std::nan(""), 20})));
    EXPECT_TRUE(refused(slic(field, {0})));
    EXPECT_TRUE(refused(slic(field, {10, 0})));
    EXPECT_TRUE(refused(quickshift(field, {1, 0.5})));
    const std::vector<double> few(3);
    Quickshift ties;
    ties.ties = few;
    EXPECT_TRUE(refused(quickshift(field, ties)));
    field.values[5] = std::nan("");
    EXPECT_TRUE(refused(felzenszwalb(field)));
    EXPECT_TRUE(refused(slic(field)));
    EXPECT_TRUE(refused(quickshift(field)));
}

}  // namespace
}  // namespace vitrine
