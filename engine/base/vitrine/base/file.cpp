// Files: mapping, bounded reading, and replacement by a finished file beside.
#include <vitrine/base/file.h>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>

#include <vitrine/base/bytes.h>

namespace vitrine {
namespace {

std::string shown(const std::filesystem::path& file) {
    return bytes::printable(file.filename().empty() ? file.native() : file.filename().native());
}

tl::unexpected<Error> system_failure(const char* doing, const std::filesystem::path& file) {
    const int number = errno;
    const ErrorCode code = number == ENOENT || number == ENOTDIR ? ErrorCode::NotFound
                           : number == ENOMEM                    ? ErrorCode::OutOfMemory
                                                                 : ErrorCode::Io;
    return fail(code, "{} cannot be {}: {}", shown(file), doing, std::strerror(number));
}

class Descriptor {
  public:
    explicit Descriptor(int fd) : fd_(fd) {}
    Descriptor(const Descriptor&) = delete;
    Descriptor& operator=(const Descriptor&) = delete;
    ~Descriptor() {
        if (fd_ >= 0) ::close(fd_);
    }
    int get() const { return fd_; }

  private:
    int fd_;
};

// A regular file, open for reading. O_NONBLOCK: a named pipe would otherwise wait for a writer for ever.
Status check_regular(const Descriptor& fd, const std::filesystem::path& file, struct stat& info) {
    if (fd.get() < 0) return system_failure("opened", file);
    if (::fstat(fd.get(), &info) != 0) return system_failure("examined", file);
    if (S_ISDIR(info.st_mode)) return fail(ErrorCode::BadInput, "{} is a folder, a file is wanted", shown(file));
    if (!S_ISREG(info.st_mode)) return fail(ErrorCode::BadInput, "{} is no regular file", shown(file));
    return {};
}

int open_for_reading(const std::filesystem::path& file) {
    return ::open(file.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
}

}  // namespace

Result<MappedFile> map_file(const std::filesystem::path& file) {
    const Descriptor fd(open_for_reading(file));
    struct stat info {};
    VITRINE_CHECK(check_regular(fd, file, info));
    const auto size = static_cast<std::size_t>(info.st_size);
    if (size == 0) return MappedFile{};
    void* const address = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, fd.get(), 0);
    if (address == MAP_FAILED) return system_failure("mapped", file);
    std::shared_ptr<const void> owner(address, [size](const void* p) { ::munmap(const_cast<void*>(p), size); });
    return MappedFile{{static_cast<const std::byte*>(address), size}, std::move(owner)};
}

Result<std::string> read_text(const std::filesystem::path& file, std::size_t max_bytes) {
    const Descriptor fd(open_for_reading(file));
    struct stat info {};
    VITRINE_CHECK(check_regular(fd, file, info));
    const auto too_large = [&] {
        return fail(ErrorCode::BadInput, "{} is larger than the {} bytes allowed here", shown(file), max_bytes);
    };
    if (static_cast<std::uint64_t>(info.st_size) > max_bytes) return too_large();
    std::string text;
    // Files such as those of /proc say 0 and hold more, so the end is where reading says it is.
    char buffer[65536];
    while (true) {
        const ssize_t got = ::read(fd.get(), buffer, sizeof(buffer));
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return system_failure("read", file);
        if (got == 0) return text;
        if (text.size() + static_cast<std::size_t>(got) > max_bytes) return too_large();
        text.append(buffer, static_cast<std::size_t>(got));
    }
}

FileBeside::FileBeside(FileBeside&& other) noexcept
    : target_(std::move(other.target_)), beside_(std::move(other.beside_)), fd_(std::exchange(other.fd_, -1)) {}

FileBeside::~FileBeside() {
    if (fd_ < 0) return;
    ::close(fd_);
    ::unlink(beside_.c_str());
}

Result<FileBeside> FileBeside::create(const std::filesystem::path& file) {
    // Renaming over a device or a pipe would put a file in its place.
    struct stat info {};
    if (::stat(file.c_str(), &info) == 0 && !S_ISREG(info.st_mode) && !S_ISDIR(info.st_mode))
        return fail(ErrorCode::BadInput, "{} is no regular file, so it is not replaced; choose another name",
                    shown(file));
    static std::atomic<unsigned> counter{0};
    FileBeside out;
    out.target_ = file;
    for (int attempt = 0; attempt < 100; ++attempt) {
        out.beside_ = file;
        out.beside_ += fmt::format(".{}-{}.part", ::getpid(), counter++);
        out.fd_ = ::open(out.beside_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (out.fd_ >= 0) return out;
        if (errno != EEXIST) break;
    }
    return system_failure("written", file);
}

Status FileBeside::append(std::span<const std::byte> bytes) {
    while (!bytes.empty()) {
        const ssize_t put = ::write(fd_, bytes.data(), bytes.size());
        if (put < 0 && errno == EINTR) continue;
        if (put < 0) return system_failure("written", target_);
        bytes = bytes.subspan(static_cast<std::size_t>(put));
    }
    return {};
}

Status FileBeside::append(std::string_view text) { return append(std::as_bytes(std::span(text.data(), text.size()))); }

Status FileBeside::commit() {
    // The contents must be on disk before the name is: otherwise a power cut leaves the new name with nothing in it.
    if (::fsync(fd_) != 0 && errno != EINVAL && errno != EROFS) return system_failure("written", target_);
    if (::rename(beside_.c_str(), target_.c_str()) != 0) return system_failure("replaced", target_);
    ::close(std::exchange(fd_, -1));
    return {};
}

Status write_file(const std::filesystem::path& file, std::span<const std::byte> bytes) {
    FileBeside beside = VITRINE_TRY(FileBeside::create(file));
    VITRINE_CHECK(beside.append(bytes));
    return beside.commit();
}

Status write_text(const std::filesystem::path& file, std::string_view text) {
    return write_file(file, std::as_bytes(std::span(text.data(), text.size())));
}

bool stays_inside(std::string_view name) {
    if (name.empty() || name.find('\0') != std::string_view::npos) return false;
    if (name.front() == '/' || name.front() == '\\') return false;
    if (name.size() >= 2 && name[1] == ':') return false;  // a drive letter
    std::size_t start = 0;
    while (start <= name.size()) {
        const std::size_t end = std::min(name.find_first_of("/\\", start), name.size());
        if (name.substr(start, end - start) == "..") return false;
        start = end + 1;
    }
    return true;
}

}  // namespace vitrine
