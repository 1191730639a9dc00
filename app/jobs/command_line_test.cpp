// What the window did, as words for a shell.
#include "command_line.h"

#include <gtest/gtest.h>

namespace vitrine::app {
namespace {

Wanted asked(const std::string& method) {
    Wanted out;
    out.method = method;
    return out;
}

TEST(CommandLine, ARegionTakesThePlaceOfTheClass) {
    auto wanted = asked("grad_cam");
    wanted.target = 3;
    wanted.versus = 5;
    EXPECT_EQ(command_line("starter", 10, "a/cat.png", wanted),
              "vitrine explain starter a/cat.png --method grad_cam --target 3 --versus 5 --out DIR");
    wanted.also = {7};
    wanted.probability = true;
    EXPECT_EQ(command_line("starter", 10, "a/cat.png", wanted),
              "vitrine explain starter a/cat.png --method grad_cam --target 3+7 --set target.scale=probability "
              "--versus 5 --out DIR");
    wanted.region = Region{3, 4, 5, 9};
    EXPECT_EQ(command_line("starter", 10, "a/cat.png", wanted),
              "vitrine explain starter a/cat.png --method grad_cam --region 3,4-5,9 --out DIR");
    wanted.region = Region{3, 4, 3, 4};
    EXPECT_EQ(command_line("starter", 10, "a/cat.png", wanted),
              "vitrine explain starter a/cat.png --method grad_cam --region 3,4 --out DIR");
}

TEST(CommandLine, SettingsAndNamesThatAShellWouldSplitAreWhole) {
    auto wanted = asked("occlusion");
    wanted.settings = {{"window", "16"}, {"fill", "mean"}};
    wanted.shared = {{"factors", "0.9, 1"}};
    EXPECT_EQ(command_line("my model", 10, "it's.png", wanted),
              "vitrine explain 'my model' 'it'\\''s.png' --method occlusion --set occlusion.fill=mean --set "
              "occlusion.window=16 --set 'smooth.factors=0.9, 1' --out DIR");
}

TEST(CommandLine, TheSecondPictureIsNamedForWhatItIs) {
    auto wanted = asked("activation_patching");
    wanted.other = "b.png";
    EXPECT_EQ(command_line("m", 10, "a.png", wanted),
              "vitrine explain m a.png --method activation_patching --other b.png --out DIR");
    wanted.method = "grad_cam";
    EXPECT_EQ(command_line("m", 0, "a.png", wanted),
              "vitrine explain m a.png --method grad_cam --reference b.png --out DIR");
}

TEST(CommandLine, ATestOfConceptsNamesItsFoldersAndLists) {
    TcavPlan plan;
    plan.model = "starter";
    plan.point = "blocks.7";
    plan.target = 3;
    plan.examples = "cats";
    plan.random = "any thing";
    plan.concepts = {{"fur", "fur"}, {"ears", "my lists/ears.txt"}};
    plan.runs = 40;
    EXPECT_EQ(command_line(plan),
              "vitrine tcav starter --class 3 --examples cats --concept fur=fur --concept 'ears=my lists/ears.txt' "
              "--random 'any thing' --point blocks.7 --features whole --runs 40");
}

TEST(Tcav, AnEstimateIsTheMiddleOfTheRuns) {
    std::vector<double> scores;
    for (int i = 40; i >= 0; --i) scores.push_back(i / 40.0);
    const auto found = estimate_of(scores);
    EXPECT_NEAR(found.mean, 0.5, 1e-12);
    EXPECT_NEAR(found.low, 0.025, 1e-12);
    EXPECT_NEAR(found.high, 0.975, 1e-12);
    EXPECT_EQ(estimate_of({0.25}).high, 0.25);
    EXPECT_EQ(estimate_of({}).mean, 0);
}

TEST(CommandLine, WhatAMethodReadsFollowsItsSettings) {
    auto wanted = asked("cdam");
    EXPECT_FALSE(Workbench::reads_other(wanted));
    EXPECT_EQ(Workbench::no_region(wanted), "");
    wanted.settings["score"] = "similarity";
    EXPECT_TRUE(Workbench::reads_other(wanted));
    EXPECT_NE(Workbench::no_region(wanted), "");
    EXPECT_NE(Workbench::no_region(asked("chefer")), "");
    EXPECT_EQ(Workbench::no_region(asked("rollout")), "") << "it explains no target, and so depends on none";
    auto flipped = asked("grad_cam");
    EXPECT_EQ(Workbench::no_region(flipped), "");
    flipped.shared["flips"] = "horizontal";
    EXPECT_NE(Workbench::no_region(flipped), "") << "in a mirrored copy it is another place";
}

}  // namespace
}  // namespace vitrine::app
