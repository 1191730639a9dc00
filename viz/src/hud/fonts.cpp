// Finds fonts by the folders that distributions use; fontconfig would be one more library for two files.
#include "hud/fonts.h"

#include <cstdlib>
#include <initializer_list>
#include <string>
#include <vector>

namespace vitrine::viz {

namespace {

struct Candidate {
    const char* file;
    float line_per_em;
};

std::optional<FontFile> find(std::initializer_list<const char*> folders, std::initializer_list<Candidate> candidates) {
    std::vector<std::filesystem::path> roots;
    if (const char* home = std::getenv("HOME")) {
        roots.emplace_back(std::filesystem::path(home) / ".local/share/fonts");
        roots.emplace_back(std::filesystem::path(home) / ".fonts");
    }
    roots.insert(roots.end(), {"/usr/local/share/fonts", "/usr/share/fonts"});
    for (const auto& candidate : candidates) {
        for (const auto& root : roots) {
            for (const char* folder : folders) {
                auto file = root / folder / candidate.file;
                std::error_code ignored;
                if (std::filesystem::is_regular_file(file, ignored))
                    return FontFile{std::move(file), candidate.line_per_em};
            }
        }
    }
    return std::nullopt;
}

}  // namespace

std::optional<FontFile> find_sans() {
    return find({"opentype/inter", "truetype/inter", "inter", "OTF", "TTF", "truetype/dejavu", "dejavu", "."},
                {{"Inter-Regular.otf", 1.21f}, {"Inter-Regular.ttf", 1.21f}, {"DejaVuSans.ttf", 1.164f}});
}

std::optional<FontFile> find_mono() {
    return find(
        {"truetype/jetbrains-mono", "jetbrains-mono", "jetbrains-mono-fonts", "TTF", "truetype/dejavu", "dejavu", "."},
        {{"JetBrainsMono-Regular.ttf", 1.32f}, {"DejaVuSansMono.ttf", 1.164f}});
}

}  // namespace vitrine::viz
