// The built-in model and the built-in photographs: they open, fit their promises, and the model is right about them.
#include <vitrine/engine.h>

#include <gmock/gmock.h>

#include <map>

namespace vitrine {
namespace {

TEST(Starter, IsSmallAndDeclaresItsTokensAndClasses) {
    const auto folder = resource("starter");
    ASSERT_TRUE(folder.has_value()) << folder.error().message;
    EXPECT_LE(std::filesystem::file_size(*folder / "model.safetensors"), 12'000'000U);
    const auto model = open_model("starter");
    ASSERT_TRUE(model.has_value()) << model.error().message;
    const TokenLayout layout = (*model)->layout(128, 128);
    EXPECT_EQ(layout.rows * layout.cols, 256);
    EXPECT_THAT(layout.prefix, testing::ElementsAre("cls", "reg0", "reg1", "reg2", "reg3"));
    EXPECT_EQ((*model)->labels().names.size(), 20U);
    EXPECT_TRUE((*model)->preprocess().assumed.empty());
}

TEST(Starter, IsRightAboutTheBuiltInPictures) {
    const std::map<std::string, std::string> shows{{"chelsea.jpg", "cat"}, {"moose.jpg", "deer"}, {"puppy.jpg", "dog"}};
    const auto model = open_model("starter");
    ASSERT_TRUE(model.has_value()) << model.error().message;
    std::size_t seen = 0;
    for (const auto& file : builtin_pictures()) {
        const auto known = shows.find(file.filename().string());
        ASSERT_NE(known, shows.end()) << file << " is shown to people, so say here what it shows";
        const auto input = load_input(file, (*model)->preprocess());
        if (!input && input.error().code == ErrorCode::Unsupported) GTEST_SKIP() << input.error().message;
        ASSERT_TRUE(input.has_value()) << input.error().message;
        const auto logits = run(**model, input->pixels);
        ASSERT_TRUE(logits.has_value()) << logits.error().message;
        const Answer answer = top(*logits, (*model)->labels(), 1).front();
        EXPECT_EQ(answer.label, known->second) << file;
        EXPECT_GE(answer.probability, 0.6) << file;
        ++seen;
    }
    EXPECT_EQ(seen, shows.size());
}

}  // namespace
}  // namespace vitrine
