// What every plugin of every kind promises: a stable name, words for people, declared parameters that hold together.
#include <gtest/gtest.h>
#include <vitrine/registry.h>

#include <regex>
#include <set>

namespace vitrine {
namespace {

std::vector<const Plugin*> all_plugins() {
    std::vector<const Plugin*> all;
    for (const auto& p : registry().architectures()) all.push_back(p.get());
    for (const auto& p : registry().variants()) all.push_back(p.get());
    for (const auto& p : registry().explainers()) all.push_back(p.get());
    for (const auto& p : registry().measures()) all.push_back(p.get());
    for (const auto& p : registry().kernels()) all.push_back(p.get());
    for (const auto& p : registry().references()) all.push_back(p.get());
    return all;
}

TEST(Registry, HoldsAnArchitectureAndAnExplainer) {
    EXPECT_FALSE(registry().architectures().empty());
    EXPECT_FALSE(registry().explainers().empty());
}

TEST(Registry, NamesACloseExplainerWhenOneIsMistyped) {
    const auto found = registry().explainer("rollot");
    ASSERT_FALSE(found.has_value());
    EXPECT_EQ(found.error().code, ErrorCode::NotFound);
    EXPECT_NE(found.error().message.find("rollout"), std::string::npos) << found.error().message;
}

TEST(Plugins, HaveStableNamesAndWordsForPeople) {
    const std::regex snake("[a-z][a-z0-9]*(_[a-z0-9]+)*");
    for (const Plugin* plugin : all_plugins()) {
        const Description d = plugin->description();
        EXPECT_TRUE(std::regex_match(d.name, snake)) << d.name;
        EXPECT_FALSE(d.title.empty()) << d.name;
        EXPECT_FALSE(d.summary.empty()) << d.name;
        // Kernels are implementations of ours; what they compute names its paper where it is used.
        if (dynamic_cast<const Kernel*>(plugin) == nullptr) {
            EXPECT_FALSE(d.source.empty()) << d.name;
        }
    }
}

TEST(Plugins, OfOneKindHaveNamesOfTheirOwn) {
    auto unique = [](const auto& plugins) {
        std::set<std::string> names;
        for (const auto& plugin : plugins)
            EXPECT_TRUE(names.insert(plugin->description().name).second) << plugin->description().name;
    };
    unique(registry().architectures());
    unique(registry().variants());
    unique(registry().explainers());
    unique(registry().measures());
    unique(registry().references());
}

TEST(Plugins, DeclareParametersWhoseDefaultsAreAllowed) {
    for (const Plugin* plugin : all_plugins()) {
        Settings settings(plugin->parameters());
        for (const auto& parameter : plugin->parameters()) {
            EXPECT_FALSE(parameter.meaning.empty()) << plugin->description().name << "." << parameter.name;
            const auto status = settings.set(parameter.name, to_string(parameter.standard));
            EXPECT_TRUE(status.has_value()) << plugin->description().name << ": " << status.error().message;
            EXPECT_TRUE(settings.is_default(parameter.name)) << plugin->description().name << "." << parameter.name;
        }
        EXPECT_FALSE(settings.set("no_such_setting", "1").has_value());
    }
}

}  // namespace
}  // namespace vitrine
