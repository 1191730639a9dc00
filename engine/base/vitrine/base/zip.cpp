// The central directory of a zip, read as hostile input.
#include <vitrine/base/zip.h>

#include <algorithm>
#include <optional>

#include <vitrine/base/bytes.h>
#include <vitrine/base/file.h>

namespace vitrine {
namespace {

constexpr std::uint32_t kLocal = 0x04034b50, kCentral = 0x02014b50, kEnd = 0x06054b50, kEnd64 = 0x06064b50,
                        kLocator64 = 0x07064b50;
constexpr std::uint64_t kLocalSize = 30, kCentralSize = 46, kEndSize = 22, kEnd64Size = 56, kLocatorSize = 20;
constexpr std::uint64_t kMaxMembers = 1'000'000;

struct Directory {
    std::uint64_t offset = 0, size = 0, count = 0;
};

std::optional<std::uint64_t> find_end(std::span<const std::byte> bytes) {
    if (bytes.size() < kEndSize) return std::nullopt;
    const std::uint64_t last = bytes.size() - kEndSize;
    const std::uint64_t first = last > 0xFFFF ? last - 0xFFFF : 0;
    for (std::uint64_t at = last + 1; at-- > first;) {
        if (bytes::little<std::uint32_t>(&bytes[at]) != kEnd) continue;
        if (at + kEndSize + bytes::little<std::uint16_t>(&bytes[at + 20]) == bytes.size()) return at;
    }
    return std::nullopt;
}

Result<Directory> find_directory(std::span<const std::byte> bytes) {
    const auto end = find_end(bytes);
    if (!end)
        return fail(ErrorCode::BadInput, "the archive has no directory at its end, so it is cut short or damaged");
    const std::byte* const e = &bytes[*end];
    Directory directory{bytes::little<std::uint32_t>(e + 16), bytes::little<std::uint32_t>(e + 12),
                        bytes::little<std::uint16_t>(e + 10)};
    std::uint64_t limit = *end;
    bool volumes = bytes::little<std::uint16_t>(e + 8) != directory.count;
    const std::uint16_t volume = bytes::little<std::uint16_t>(e + 4);
    volumes = volumes || (volume != 0 && volume != 0xFFFF);
    if (*end >= kLocatorSize && bytes::little<std::uint32_t>(&bytes[*end - kLocatorSize]) == kLocator64) {
        const auto at = bytes::little<std::uint64_t>(&bytes[*end - kLocatorSize + 8]);
        if (!bytes::fits(at, kEnd64Size, *end - kLocatorSize) || bytes::little<std::uint32_t>(&bytes[at]) != kEnd64)
            return fail(ErrorCode::BadInput, "the archive's zip64 directory is not where it is said to be");
        const std::byte* const e64 = &bytes[at];
        const Directory small = directory;
        directory = {bytes::little<std::uint64_t>(e64 + 48), bytes::little<std::uint64_t>(e64 + 40),
                     bytes::little<std::uint64_t>(e64 + 32)};
        // Two directories that differ would show two readers two archives.
        const auto agrees = [](std::uint64_t narrow, std::uint64_t wide, std::uint64_t none) {
            return narrow == none || narrow == wide;
        };
        if (!agrees(small.offset, directory.offset, 0xFFFFFFFF) || !agrees(small.size, directory.size, 0xFFFFFFFF) ||
            !agrees(small.count, directory.count, 0xFFFF))
            return fail(ErrorCode::BadInput, "the archive's two directories disagree");
        volumes = volumes || bytes::little<std::uint32_t>(e64 + 16) != 0 ||
                  bytes::little<std::uint64_t>(e64 + 24) != directory.count;
        limit = at;
    }
    if (volumes) return fail(ErrorCode::BadInput, "the archive is one of several volumes");
    if (!bytes::fits(directory.offset, directory.size, limit))
        return fail(ErrorCode::BadInput, "the archive's directory lies beyond the file");
    if (directory.count > kMaxMembers || directory.count > directory.size / kCentralSize)
        return fail(ErrorCode::BadInput, "the archive claims {} members, more than its directory holds",
                    directory.count);
    return directory;
}

// Fields of 32 bits that are full stand in the zip64 extra, in this order.
bool widen(std::span<const std::byte> extra, std::uint64_t& size, std::uint64_t& packed, std::uint64_t& offset) {
    if (size != 0xFFFFFFFF && packed != 0xFFFFFFFF && offset != 0xFFFFFFFF) return true;
    while (extra.size() >= 4) {
        const auto id = bytes::little<std::uint16_t>(extra.data());
        const auto length = bytes::little<std::uint16_t>(extra.data() + 2);
        if (length > extra.size() - 4) return false;
        std::span<const std::byte> field = extra.subspan(4, length);
        extra = extra.subspan(4u + length);
        if (id != 1) continue;
        for (std::uint64_t* value : {&size, &packed, &offset}) {
            if (*value != 0xFFFFFFFF) continue;
            if (field.size() < 8) return false;
            *value = bytes::little<std::uint64_t>(field.data());
            field = field.subspan(8);
        }
        return true;
    }
    return false;
}

}  // namespace

Result<Zip> open_zip(std::span<const std::byte> bytes) {
    const Directory directory = VITRINE_TRY(find_directory(bytes));
    Zip zip;
    zip.members.reserve(directory.count);
    struct Extent {
        std::uint64_t begin, end;
        std::string_view name;
    };
    std::vector<Extent> extents;
    extents.reserve(directory.count);

    std::uint64_t at = directory.offset;
    const std::uint64_t directory_end = directory.offset + directory.size;
    for (std::uint64_t i = 0; i < directory.count; ++i) {
        if (!bytes::fits(at, kCentralSize, directory_end) || bytes::little<std::uint32_t>(&bytes[at]) != kCentral)
            return fail(ErrorCode::BadInput, "entry {} of the archive's directory is damaged", i);
        const std::byte* const c = &bytes[at];
        const auto flags = bytes::little<std::uint16_t>(c + 8);
        std::uint64_t packed = bytes::little<std::uint32_t>(c + 20), size = bytes::little<std::uint32_t>(c + 24),
                      offset = bytes::little<std::uint32_t>(c + 42);
        const auto name_length = bytes::little<std::uint16_t>(c + 28),
                   extra_length = bytes::little<std::uint16_t>(c + 30),
                   comment_length = bytes::little<std::uint16_t>(c + 32);
        if (!bytes::fits(at + kCentralSize, std::uint64_t{name_length} + extra_length + comment_length, directory_end))
            return fail(ErrorCode::BadInput, "entry {} of the archive's directory is damaged", i);
        ZipMember member;
        member.name = bytes::text(bytes.subspan(at + kCentralSize, name_length));
        member.method = bytes::little<std::uint16_t>(c + 10);
        const std::string name = bytes::printable(member.name);
        if (!stays_inside(member.name))
            return fail(ErrorCode::BadInput, "the archive's member {} leaves its folder", name);
        if (flags & 1) return fail(ErrorCode::BadInput, "the archive's member {} is encrypted", name);
        if (!widen(bytes.subspan(at + kCentralSize + name_length, extra_length), size, packed, offset))
            return fail(ErrorCode::BadInput, "the archive's member {} lacks its zip64 sizes", name);
        at += kCentralSize + name_length + extra_length + comment_length;

        if (!bytes::fits(offset, kLocalSize, directory.offset) ||
            bytes::little<std::uint32_t>(&bytes[offset]) != kLocal)
            return fail(ErrorCode::BadInput, "the archive's member {} is not where the directory says", name);
        const std::byte* const l = &bytes[offset];
        const std::uint64_t local_name = bytes::little<std::uint16_t>(l + 26),
                            local_extra = bytes::little<std::uint16_t>(l + 28);
        const std::uint64_t begin = offset + kLocalSize + local_name + local_extra;
        if (!bytes::fits(begin, packed, directory.offset))
            return fail(ErrorCode::BadInput, "the archive's member {} claims {} bytes and ends beyond the file", name,
                        packed);
        if (bytes::text(bytes.subspan(offset + kLocalSize, local_name)) != member.name ||
            bytes::little<std::uint16_t>(l + 8) != member.method)
            return fail(ErrorCode::BadInput, "the archive's member {} is called or packed otherwise at its place",
                        name);
        if (member.stored() && packed != size)
            return fail(ErrorCode::BadInput, "the archive's member {} has {} bytes and claims {}", name, packed, size);
        member.size = size;
        member.data = bytes.subspan(begin, packed);
        if (!zip.index.emplace(member.name, zip.members.size()).second)
            return fail(ErrorCode::BadInput, "the archive holds {} twice", name);
        extents.push_back({offset, begin + packed, member.name});
        zip.members.push_back(member);
    }
    std::sort(extents.begin(), extents.end(), [](const Extent& a, const Extent& b) { return a.begin < b.begin; });
    for (std::size_t i = 1; i < extents.size(); ++i) {
        if (extents[i].begin < extents[i - 1].end)
            return fail(ErrorCode::BadInput, "the archive's members {} and {} overlap",
                        bytes::printable(extents[i - 1].name), bytes::printable(extents[i].name));
    }
    return zip;
}

}  // namespace vitrine
