// The walls between modules: reads the include lines of each and refuses what the design does not allow.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <regex>
#include <string>
#include <vector>

namespace {

namespace fs = std::filesystem;

struct Wall {
    std::string name;
    std::string folder;
    std::vector<std::string> except;     ///< subfolders that have walls of their own
    std::vector<std::string> forbidden;  ///< regular expressions over the text between the quotes or brackets
};

const std::string kTorch = "^(ATen|c10|torch|caffe2)/";
const std::string kQt = "^Q[A-Z]|^Qt";
const std::string kVulkan = "^vulkan/|^imgui|^backends/imgui";
const std::string kOpenCv = "^opencv";
const std::string kViz = "^vitrine/viz/";
// Engine headers stand directly under vitrine/; base, kernels and viz have a folder each.
const std::string kEngine = "^vitrine/[a-z_0-9]+\\.h$";

const std::vector<Wall>& walls() {
    static const std::vector<Wall> all{
        {"base",
         "engine/base",
         {},
         {kTorch, kQt, kVulkan, kOpenCv, kViz, kEngine, "^vitrine/kernels/", "^CLI/", "^spdlog/"}},
        {"kernels", "engine/kernels", {}, {kTorch, kQt, kVulkan, kOpenCv, kViz, kEngine, "^CLI/"}},
        {"engine", "engine", {"engine/base", "engine/kernels"}, {kQt, kVulkan, kViz, "^CLI/", "^cli/"}},
        {"viz", "viz", {}, {kTorch, kQt, kEngine, "^vitrine/kernels/", "^CLI/"}},
        {"plugins", "plugins", {}, {kQt, kVulkan, kViz, "^CLI/", "^cli/", "^\\.\\./\\.\\./engine"}},
        {"cli", "app/cli", {}, {kQt, kVulkan, kOpenCv}},
        {"app", "app", {"app/cli"}, {kOpenCv, "^torch/"}},
    };
    return all;
}

bool is_source(const fs::path& file) {
    const auto extension = file.extension().string();
    return extension == ".h" || extension == ".cpp" || extension == ".cu" || extension == ".cuh" || extension == ".inc";
}

class Walls : public testing::TestWithParam<Wall> {};

TEST_P(Walls, AreNotCrossedByAnyInclude) {
    const fs::path root(VITRINE_SOURCE_DIR);
    const std::regex line_form(R"re(^\s*#\s*include\s*[<"]([^>"]+)[>"])re");
    std::vector<std::regex> forbidden;
    for (const auto& text : GetParam().forbidden) forbidden.emplace_back(text);
    int files = 0;
    for (const auto& entry : fs::recursive_directory_iterator(root / GetParam().folder)) {
        if (!entry.is_regular_file() || !is_source(entry.path())) continue;
        const std::string relative = fs::relative(entry.path(), root).generic_string();
        bool elsewhere = false;
        for (const auto& other : GetParam().except) elsewhere |= relative.rfind(other + "/", 0) == 0;
        if (elsewhere) continue;
        ++files;
        std::ifstream in(entry.path());
        std::string line;
        for (int number = 1; std::getline(in, line); ++number) {
            std::smatch match;
            if (!std::regex_search(line, match, line_form)) continue;
            const std::string included = match[1];
            for (const auto& rule : forbidden)
                EXPECT_FALSE(std::regex_search(included, rule))
                    << relative << ":" << number << " includes " << included;
        }
    }
    EXPECT_GT(files, 0) << "no source was found in " << GetParam().folder;
}

INSTANTIATE_TEST_SUITE_P(Modules, Walls, testing::ValuesIn(walls()), [](const auto& info) { return info.param.name; });

TEST(Sources, OpenWithASentenceThatSaysWhatTheyAreFor) {
    const fs::path root(VITRINE_SOURCE_DIR);
    for (const char* folder : {"engine", "viz", "app", "plugins"}) {
        for (const auto& entry : fs::recursive_directory_iterator(root / folder)) {
            if (!entry.is_regular_file() || (entry.path().extension() != ".h" && entry.path().extension() != ".cpp"))
                continue;
            std::ifstream in(entry.path());
            std::string line;
            std::getline(in, line);
            EXPECT_EQ(line.rfind("// ", 0), 0U) << fs::relative(entry.path(), root) << " starts with: " << line;
        }
    }
}

}  // namespace
