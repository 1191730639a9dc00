// Where the interface's two font families lie on this system.
#pragma once

#include <filesystem>
#include <optional>

namespace vitrine::viz {

struct FontFile {
    std::filesystem::path file;
    /// Line height over em: ImGui sizes fonts by the former, design and Qt by the latter. From each font's hhea table.
    float line_per_em = 1.2f;
};

/// Inter, or DejaVu Sans; nothing where neither is installed.
std::optional<FontFile> find_sans();
/// JetBrains Mono, or DejaVu Sans Mono.
std::optional<FontFile> find_mono();

}  // namespace vitrine::viz
