// Finds the place of files that go with another file.
#include <vitrine/beside.h>

#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <functional>
#include <string>

#include <vitrine/base/bytes.h>

namespace vitrine {

namespace fs = std::filesystem;

fs::path kept_beside(const fs::path& file) {
    std::error_code failed;
    const fs::path folder = fs::absolute(file, failed).parent_path();
    if (access(folder.c_str(), W_OK) == 0) return file;
    const char* data = std::getenv("XDG_DATA_HOME");
    const char* home = std::getenv("HOME");
    const fs::path root = data && *data ? fs::path(data) : fs::path(home ? home : "/tmp") / ".local" / "share";
    return root / "vitrine" /
           fmt::format("{:08x}-{}", static_cast<std::uint32_t>(std::hash<std::string>()(folder.string())),
                       file.filename().string());
}

fs::path found_beside(const fs::path& file) {
    auto own = kept_beside(file);
    std::error_code ignored;
    return fs::exists(own, ignored) ? own : file;
}

Status make_folder_of(const fs::path& file) {
    std::error_code failed;
    fs::create_directories(fs::absolute(file).parent_path(), failed);
    if (failed)
        return fail(ErrorCode::Io, "{} cannot be written: {}", bytes::printable(file.string()), failed.message());
    return {};
}

}  // namespace vitrine
