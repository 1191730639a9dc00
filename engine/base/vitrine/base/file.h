// Files: mapping them, reading them whole within a limit, replacing them safely.
#pragma once

#include <cstddef>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <vitrine/base/result.h>

namespace vitrine {

/// A file mapped read-only. The span stays valid as long as the pointer lives, whatever happens to the name; only a program
/// that shortens the very file in place (none replaces a checkpoint so) takes the pages away. An empty file gives an empty span.
struct MappedFile {
    std::span<const std::byte> bytes;
    std::shared_ptr<const void> keep_alive;
};
Result<MappedFile> map_file(const std::filesystem::path& file);

/// A whole file as text or bytes; refused when larger than `max_bytes`.
Result<std::string> read_text(const std::filesystem::path& file, std::size_t max_bytes = 64u << 20);

/// Writes beside and renames, so that a reader sees the old file or the new one, never half.
Status write_file(const std::filesystem::path& file, std::span<const std::byte> bytes);
Status write_text(const std::filesystem::path& file, std::string_view text);

/// A file being written beside its target, in pieces. Destroyed before commit() it leaves nothing behind.
class FileBeside {
  public:
    static Result<FileBeside> create(const std::filesystem::path& file);
    FileBeside(FileBeside&& other) noexcept;
    FileBeside& operator=(FileBeside&&) = delete;
    ~FileBeside();
    Status append(std::span<const std::byte> bytes);
    Status append(std::string_view text);
    Status commit();  ///< flushes to disk and renames onto the target

  private:
    FileBeside() = default;
    std::filesystem::path target_, beside_;
    int fd_ = -1;
};

/// True when `name`, taken relative to a folder, stays inside it: no absolute paths, no "..", no NUL.
bool stays_inside(std::string_view name);

}  // namespace vitrine
