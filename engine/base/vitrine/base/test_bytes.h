// For tests: hostile and honest files built byte by byte, zips and pickles included.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace vitrine::testing {

template <class T>
std::string little(T value) {
    std::string out;
    for (std::size_t i = 0; i < sizeof(T); ++i) out += static_cast<char>(static_cast<std::uint64_t>(value) >> (8 * i));
    return out;
}

/// A copy on the heap of exactly these bytes, so that the address sanitizer sees a read beyond them.
struct Bytes {
    std::shared_ptr<std::byte[]> copy;
    std::span<const std::byte> span;
    explicit Bytes(std::string_view text) : copy(new std::byte[text.size()]) {
        if (!text.empty()) std::memcpy(copy.get(), text.data(), text.size());
        span = {copy.get(), text.size()};
    }
};

/// A folder that goes when the test does.
class Folder {
  public:
    Folder() {
        std::string name = (std::filesystem::temp_directory_path() / "vitrine_test_XXXXXX").string();
        path_ = ::mkdtemp(name.data());
    }
    Folder(const Folder&) = delete;
    Folder& operator=(const Folder&) = delete;
    ~Folder() {
        std::error_code ignored;
        std::filesystem::remove_all(path_, ignored);
    }
    std::filesystem::path operator/(const std::string& name) const { return path_ / name; }
    const std::filesystem::path& path() const { return path_; }
    std::filesystem::path put(const std::string& name, std::string_view bytes) const {
        std::ofstream(path_ / name, std::ios::binary).write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
        return path_ / name;
    }

  private:
    std::filesystem::path path_;
};

/// A safetensors file: the header's length, the header, the data.
inline std::string safetensors(const std::string& header, std::string_view data) {
    return little<std::uint64_t>(header.size()) + header + std::string(data);
}

/// One member of a zip to be written, with what its headers shall claim.
struct Member {
    std::string name, data;
    std::uint16_t method = 0;
    std::uint64_t claimed_size = ~0ull;    ///< unpacked
    std::uint64_t claimed_packed = ~0ull;  ///< in the archive
    std::uint64_t claimed_offset = ~0ull;
    std::uint16_t flags = 0;
    std::string local_name = {};  ///< what the local header says, when something else
    bool wide = false;            ///< sizes and offset in the zip64 extra
};

inline std::string zip(const std::vector<Member>& members, bool zip64 = false) {
    std::string out, directory;
    for (const Member& m : members) {
        const std::uint64_t offset = m.claimed_offset == ~0ull ? out.size() : m.claimed_offset;
        const std::uint64_t size = m.claimed_size == ~0ull ? m.data.size() : m.claimed_size;
        const std::uint64_t packed = m.claimed_packed == ~0ull ? m.data.size() : m.claimed_packed;
        const std::string& local = m.local_name.empty() ? m.name : m.local_name;
        const auto narrow = [&](std::uint64_t v) { return little<std::uint32_t>(m.wide ? 0xFFFFFFFF : v); };
        out += "PK\3\4" + little<std::uint16_t>(20) + little<std::uint16_t>(m.flags) + little<std::uint16_t>(m.method) +
               little<std::uint32_t>(0) + little<std::uint32_t>(0) + narrow(packed) + narrow(size) +
               little<std::uint16_t>(local.size()) + little<std::uint16_t>(0) + local + m.data;
        const std::string extra = m.wide ? little<std::uint16_t>(1) + little<std::uint16_t>(24) +
                                               little<std::uint64_t>(size) + little<std::uint64_t>(packed) +
                                               little<std::uint64_t>(offset)
                                         : "";
        directory += "PK\1\2" + little<std::uint16_t>(20) + little<std::uint16_t>(20) + little<std::uint16_t>(m.flags) +
                     little<std::uint16_t>(m.method) + little<std::uint32_t>(0) + little<std::uint32_t>(0) +
                     narrow(packed) + narrow(size) + little<std::uint16_t>(m.name.size()) +
                     little<std::uint16_t>(extra.size()) + little<std::uint16_t>(0) + little<std::uint16_t>(0) +
                     little<std::uint16_t>(0) + little<std::uint32_t>(0) + narrow(offset) + m.name + extra;
    }
    const std::uint64_t at = out.size();
    out += directory;
    if (zip64) {
        const std::uint64_t end = out.size();
        out += "PK\6\6" + little<std::uint64_t>(44) + little<std::uint16_t>(45) + little<std::uint16_t>(45) +
               little<std::uint32_t>(0) + little<std::uint32_t>(0) + little<std::uint64_t>(members.size()) +
               little<std::uint64_t>(members.size()) + little<std::uint64_t>(directory.size()) +
               little<std::uint64_t>(at);
        out += "PK\6\7" + little<std::uint32_t>(0) + little<std::uint64_t>(end) + little<std::uint32_t>(1);
    }
    const auto count = little<std::uint16_t>(zip64 ? 0xFFFF : members.size());
    out += "PK\5\6" + little<std::uint16_t>(0) + little<std::uint16_t>(0) + count + count +
           little<std::uint32_t>(zip64 ? 0xFFFFFFFF : directory.size()) +
           little<std::uint32_t>(zip64 ? 0xFFFFFFFF : at) + little<std::uint16_t>(0);
    return out;
}

// Pickles, piece by piece.
namespace pkl {
inline std::string global(const std::string& module, const std::string& name) {
    return "c" + module + "\n" + name + "\n";
}
inline std::string text(std::string_view value) {
    return "X" + little<std::uint32_t>(value.size()) + std::string(value);
}
inline std::string integer(std::int64_t value) {
    if (value >= 0 && value < 256) return "K" + little<std::uint8_t>(value);
    return "\x8a\x08" + little<std::uint64_t>(value);
}
inline std::string tuple(const std::vector<std::int64_t>& values) {
    std::string out = "(";
    for (const std::int64_t v : values) out += integer(v);
    return out + "t";
}
inline std::string storage(const std::string& type, const std::string& key, std::int64_t count,
                           const std::string& legacy = "") {
    return "(" + text("storage") + global("torch", type) + text(key) + text("cpu") + integer(count) + legacy + "tQ";
}
/// A whole _rebuild_tensor_v2 call.
inline std::string tensor(const std::string& storage, std::int64_t offset, const std::vector<std::int64_t>& shape,
                          const std::vector<std::int64_t>& strides) {
    return global("torch._utils", "_rebuild_tensor_v2") + "(" + storage + integer(offset) + tuple(shape) +
           tuple(strides) + "\x89" + global("collections", "OrderedDict") + ")RtR";
}
inline std::string dict(const std::vector<std::pair<std::string, std::string>>& items) {
    std::string out = "}(";
    for (const auto& [key, value] : items) out += text(key) + value;
    return out + "u";
}
inline std::string whole(const std::string& body) { return "\x80\x02" + body + "."; }
}  // namespace pkl

/// An archive of torch.save around a pickle and its storages.
inline std::string torch_zip(const std::string& pickle,
                             const std::vector<std::pair<std::string, std::string>>& storages,
                             const std::string& byteorder = "little") {
    std::vector<Member> members = {{"archive/data.pkl", pickle}, {"archive/byteorder", byteorder}};
    for (const auto& [key, data] : storages) members.push_back({"archive/data/" + key, data});
    members.push_back({"archive/version", "3\n"});
    return zip(members);
}

/// A legacy file around a pickle: magic, protocol, system, object, keys, then the storages as given (count included).
inline std::string torch_legacy(const std::string& pickle, const std::vector<std::string>& keys,
                                const std::string& storages, bool little_endian = true) {
    using namespace pkl;
    std::string list = "](";
    for (const auto& key : keys) list += text(key);
    const std::string magic("\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19", 12);
    return whole(magic) + whole(std::string("M\xe9\x03")) +
           whole(dict({{"protocol_version", "M\xe9\x03"}, {"little_endian", little_endian ? "\x88" : "\x89"}})) +
           pickle + whole(list + "e") + storages;
}

template <class T>
std::string values(std::initializer_list<T> list) {
    std::string out(list.size() * sizeof(T), '\0');
    std::memcpy(out.data(), std::data(list), out.size());
    return out;
}

}  // namespace vitrine::testing
