// Headers of picture files, walked with every length checked: JPEG, PNG, GIF, BMP, TIFF, WebP, PNM.
#include <vitrine/base/image_file.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <optional>
#include <string_view>

#include <vitrine/base/bytes.h>

namespace vitrine {
namespace {

using Bytes = std::span<const std::byte>;
using bytes::big;
using bytes::fits;
using bytes::little;

constexpr std::int64_t kMaxSide = 65'500;  // libjpeg's limit, taken for all

tl::unexpected<Error> cut_short(std::string_view format) {
    return fail(ErrorCode::BadInput, "the {} file is cut short before its size", format);
}
tl::unexpected<Error> damaged(std::string_view format) {
    return fail(ErrorCode::BadInput, "the {} file's header is damaged", format);
}

bool starts(Bytes bytes, std::string_view magic) { return bytes::text(bytes).starts_with(magic); }
unsigned at(Bytes bytes, std::size_t i) { return std::to_integer<unsigned>(bytes[i]); }

/// TIFF's structure, which EXIF shares: the entries of the first directory.
struct Tiff {
    Bytes bytes;
    bool big_endian = false;

    std::uint16_t u16(std::uint64_t i) const {
        return big_endian ? big<std::uint16_t>(&bytes[i]) : little<std::uint16_t>(&bytes[i]);
    }
    std::uint32_t u32(std::uint64_t i) const {
        return big_endian ? big<std::uint32_t>(&bytes[i]) : little<std::uint32_t>(&bytes[i]);
    }
    std::uint64_t u64(std::uint64_t i) const {
        return big_endian ? big<std::uint64_t>(&bytes[i]) : little<std::uint64_t>(&bytes[i]);
    }
};

struct TiffFields {
    std::int64_t width = 0, height = 0;
    int bits = 1, samples = 1, photometric = -1;
    Orientation orientation = 1;
    bool more = false;  ///< a second directory follows
};

std::optional<TiffFields> read_tiff(Bytes bytes) {
    if (bytes.size() < 8) return std::nullopt;
    Tiff tiff{bytes, starts(bytes, "MM")};
    const bool wide = tiff.u16(2) == 43;  // BigTIFF
    if (wide && (bytes.size() < 16 || tiff.u16(4) != 8)) return std::nullopt;
    const std::uint64_t directory = wide ? tiff.u64(8) : tiff.u32(4);
    const std::uint64_t head = wide ? 8 : 2, entry = wide ? 20 : 12, value_at = wide ? 12 : 8;
    if (!fits(directory, head, bytes.size())) return std::nullopt;
    const std::uint64_t count = wide ? tiff.u64(directory) : tiff.u16(directory);
    if (count > 65535) return std::nullopt;
    TiffFields fields;
    std::uint64_t position = directory + head;
    for (std::uint64_t i = 0; i < count; ++i, position += entry) {
        if (!fits(position, entry, bytes.size())) return i > 0 ? std::optional(fields) : std::nullopt;
        const std::uint16_t tag = tiff.u16(position), type = tiff.u16(position + 2);
        const std::uint64_t values = wide ? tiff.u64(position + 4) : tiff.u32(position + 4);
        std::uint64_t where = position + value_at;
        const std::uint64_t width = type == 3 ? 2 : type == 4 ? 4 : type == 16 ? 8 : 0;
        if (width == 0 || values == 0 || values > 65535) continue;
        // Values that do not fit into the entry lie elsewhere; the first is enough.
        if (values * width > (wide ? 8u : 4u)) where = wide ? tiff.u64(where) : tiff.u32(where);
        if (!fits(where, width, bytes.size())) continue;
        const std::uint64_t value = width == 2 ? tiff.u16(where) : width == 4 ? tiff.u32(where) : tiff.u64(where);
        const auto small = static_cast<int>(std::min<std::uint64_t>(value, 1u << 20));
        switch (tag) {
            case 0x0100:
                fields.width = static_cast<std::int64_t>(std::min<std::uint64_t>(value, std::uint64_t{1} << 40));
                break;
            case 0x0101:
                fields.height = static_cast<std::int64_t>(std::min<std::uint64_t>(value, std::uint64_t{1} << 40));
                break;
            case 0x0102:
                fields.bits = small;
                break;
            case 0x0106:
                fields.photometric = small;
                break;
            case 0x0112:
                fields.orientation = small >= 1 && small <= 8 ? small : 1;
                break;
            case 0x0115:
                fields.samples = small;
                break;
            default:
                break;
        }
    }
    if (wide) {
        fields.more = fits(position, 8, bytes.size()) && tiff.u64(position) != 0;
    } else {
        fields.more = fits(position, 4, bytes.size()) && tiff.u32(position) != 0;
    }
    return fields;
}

Orientation exif_orientation(Bytes bytes) {
    // WebP and some writers of PNG keep JPEG's preamble.
    if (starts(bytes, std::string_view("Exif\0\0", 6))) bytes = bytes.subspan(6);
    if (!starts(bytes, std::string_view("II*\0", 4)) && !starts(bytes, std::string_view("MM\0*", 4))) return 1;
    const auto fields = read_tiff(bytes);
    return fields ? fields->orientation : 1;
}

Result<ImageFileInfo> jpeg(Bytes bytes) {
    ImageFileInfo info;
    info.format = "JPEG";
    bool found = false;
    std::uint64_t p = 2;
    while (true) {
        // Between segments any number of FF fill bytes may stand; other bytes are skipped, as libjpeg does.
        while (p < bytes.size() && at(bytes, p) != 0xFF) ++p;
        while (p < bytes.size() && at(bytes, p) == 0xFF) ++p;
        if (p >= bytes.size()) break;
        const unsigned marker = at(bytes, p++);
        if (marker == 0x00 || marker == 0x01 || (marker >= 0xD0 && marker <= 0xD8)) continue;  // no length follows
        if (marker == 0xD9 || marker == 0xDA) break;  // end, or the scan: the header is over
        if (!fits(p, 2, bytes.size())) break;
        const std::uint64_t length = big<std::uint16_t>(&bytes[p]);
        if (length < 2) return damaged(info.format);
        const bool whole = fits(p, length, bytes.size());
        const Bytes segment = bytes.subspan(p + 2, whole ? length - 2 : bytes.size() - p - 2);
        const bool frame = marker >= 0xC0 && marker <= 0xCF && marker != 0xC4 && marker != 0xC8 && marker != 0xCC;
        if (frame && !found) {
            if (segment.size() < 6) return cut_short(info.format);
            info.bits = static_cast<int>(at(segment, 0));
            info.height = big<std::uint16_t>(&segment[1]);
            info.width = big<std::uint16_t>(&segment[3]);
            info.channels = static_cast<int>(at(segment, 5));
            // Four components are inks, with Adobe's marker saying only whether they went through YCCK.
            info.cmyk = info.channels == 4;
            if (info.channels < 1 || info.channels > 4) return damaged(info.format);
            found = true;
        } else if (marker == 0xE1 && starts(segment, std::string_view("Exif\0\0", 6)) && info.orientation == 1) {
            info.orientation = exif_orientation(segment);
        }
        if (!whole) break;
        p += length;
    }
    if (!found) return cut_short(info.format);
    return info;
}

Result<ImageFileInfo> png(Bytes bytes) {
    ImageFileInfo info;
    info.format = "PNG";
    if (!fits(8, 8 + 13, bytes.size())) return cut_short(info.format);
    if (big<std::uint32_t>(&bytes[8]) != 13 || !starts(bytes.subspan(12), "IHDR")) return damaged(info.format);
    info.width = big<std::uint32_t>(&bytes[16]);
    info.height = big<std::uint32_t>(&bytes[20]);
    info.bits = static_cast<int>(at(bytes, 24));
    const unsigned colour = at(bytes, 25);
    switch (colour) {
        case 0:
            info.channels = 1;
            break;
        case 2:
        case 3:
            info.channels = 3;
            break;
        case 4:
            info.channels = 2;
            break;
        case 6:
            info.channels = 4;
            break;
        default:
            return damaged(info.format);
    }
    if (info.bits != 1 && info.bits != 2 && info.bits != 4 && info.bits != 8 && info.bits != 16)
        return damaged(info.format);
    if (colour == 3) info.bits = 8;  // a palette's entries
    std::uint64_t p = 8 + 25;
    while (fits(p, 12, bytes.size())) {
        const std::uint64_t length = big<std::uint32_t>(&bytes[p]);
        const Bytes chunk = bytes.subspan(p + 4);
        if (!fits(4, length, chunk.size())) break;
        if (starts(chunk, "acTL") && length >= 8) info.animated = big<std::uint32_t>(&chunk[4]) > 1;
        if (starts(chunk, "tRNS") && colour == 3) info.channels = 4;
        if (starts(chunk, "eXIf")) info.orientation = exif_orientation(chunk.subspan(4, length));
        if (starts(chunk, "IEND")) break;
        p += 12 + length;
    }
    return info;
}

Result<ImageFileInfo> gif(Bytes bytes) {
    ImageFileInfo info;
    info.format = "GIF";
    if (bytes.size() < 13) return cut_short(info.format);
    info.width = little<std::uint16_t>(&bytes[6]);
    info.height = little<std::uint16_t>(&bytes[8]);
    const auto table = [](unsigned flags) -> std::uint64_t { return flags & 0x80 ? 3ull << ((flags & 7) + 1) : 0; };
    std::uint64_t p = 13 + table(at(bytes, 10));
    const auto skip_blocks = [&] {
        while (p < bytes.size() && at(bytes, p) != 0) p += 1 + at(bytes, p);
        ++p;
    };
    int frames = 0;
    while (p < bytes.size() && frames < 2) {
        const unsigned kind = at(bytes, p++);
        if (kind == 0x2C) {
            if (!fits(p, 9, bytes.size())) break;
            ++frames;
            p += 9 + table(at(bytes, p + 8)) + 1;
            skip_blocks();
        } else if (kind == 0x21) {
            ++p;
            skip_blocks();
        } else {
            break;
        }
    }
    info.animated = frames > 1;
    return info;
}

Result<ImageFileInfo> bmp(Bytes bytes) {
    ImageFileInfo info;
    info.format = "BMP";
    if (bytes.size() < 26) return cut_short(info.format);
    const std::uint32_t header = little<std::uint32_t>(&bytes[14]);
    unsigned depth = 0;
    if (header == 12) {
        info.width = little<std::uint16_t>(&bytes[18]);
        info.height = little<std::uint16_t>(&bytes[20]);
        depth = little<std::uint16_t>(&bytes[24]);
    } else if (header >= 16 && header <= 4096) {
        if (bytes.size() < 30) return cut_short(info.format);
        info.width = static_cast<std::int32_t>(little<std::uint32_t>(&bytes[18]));
        // A negative height means rows from the top.
        const std::int64_t height = static_cast<std::int32_t>(little<std::uint32_t>(&bytes[22]));
        info.height = height < 0 ? -height : height;
        depth = little<std::uint16_t>(&bytes[28]);
    } else {
        return damaged(info.format);
    }
    info.channels = depth == 32 ? 4 : 3;
    return info;
}

Result<ImageFileInfo> tiff(Bytes bytes) {
    const auto fields = read_tiff(bytes);
    if (!fields) return cut_short("TIFF");
    ImageFileInfo info;
    info.format = "TIFF";
    info.width = fields->width;
    info.height = fields->height;
    info.bits = fields->bits;
    info.channels = fields->photometric == 3 ? 3 : fields->samples;
    info.cmyk = fields->photometric == 5;
    info.animated = fields->more;  // pages, of which only the first would be seen
    info.orientation = fields->orientation;
    return info;
}

Result<ImageFileInfo> webp(Bytes bytes) {
    ImageFileInfo info;
    info.format = "WebP";
    bool sized = false;
    std::uint64_t p = 12;
    while (fits(p, 8, bytes.size())) {
        const Bytes chunk = bytes.subspan(p);
        const std::uint64_t length = little<std::uint32_t>(&chunk[4]);
        const Bytes body =
            chunk.subspan(8, static_cast<std::size_t>(std::min<std::uint64_t>(length, chunk.size() - 8)));
        if (starts(chunk, "VP8X") && body.size() >= 10) {
            const unsigned flags = at(body, 0);
            info.animated = (flags & 0x02) != 0;
            if (flags & 0x10) info.channels = 4;
            info.width = 1 + (at(body, 4) | at(body, 5) << 8 | at(body, 6) << 16);
            info.height = 1 + (at(body, 7) | at(body, 8) << 8 | at(body, 9) << 16);
            sized = true;
        } else if (starts(chunk, "VP8 ") && body.size() >= 10 && !sized) {
            if (at(body, 3) != 0x9D || at(body, 4) != 0x01 || at(body, 5) != 0x2A) return damaged(info.format);
            info.width = little<std::uint16_t>(&body[6]) & 0x3FFF;
            info.height = little<std::uint16_t>(&body[8]) & 0x3FFF;
            sized = true;
        } else if (starts(chunk, "VP8L") && body.size() >= 5 && !sized) {
            if (at(body, 0) != 0x2F) return damaged(info.format);
            const std::uint32_t bits = little<std::uint32_t>(&body[1]);
            info.width = 1 + (bits & 0x3FFF);
            info.height = 1 + ((bits >> 14) & 0x3FFF);
            if ((bits >> 28) & 1) info.channels = 4;
            sized = true;
        } else if (starts(chunk, "EXIF")) {
            info.orientation = exif_orientation(body);
        }
        p += 8 + length + (length & 1);
    }
    if (!sized) return cut_short(info.format);
    return info;
}

Result<ImageFileInfo> pnm(Bytes bytes) {
    ImageFileInfo info;
    info.format = "PNM";
    const unsigned kind = at(bytes, 1) - '0';
    std::size_t p = 2;
    const auto space = [&](std::size_t i) {
        return bytes::text(bytes.subspan(i, 1)).find_first_of(" \t\r\n\v\f") == 0;
    };
    // The next word, comments passed over; empty at the end or when it is longer than any number.
    const auto word = [&]() -> std::string_view {
        while (p < bytes.size()) {
            if (at(bytes, p) == '#') {
                while (p < bytes.size() && at(bytes, p) != '\n') ++p;
            } else if (space(p)) {
                ++p;
            } else {
                break;
            }
        }
        const std::size_t from = p;
        while (p < bytes.size() && !space(p) && p - from < 16) ++p;
        return bytes::text(bytes.subspan(from, p - from));
    };
    const auto number = [&]() -> std::int64_t {
        const std::string_view digits = word();
        if (digits.empty() || digits.size() > 12) return -1;
        std::int64_t value = 0;
        for (const char c : digits) {
            if (c < '0' || c > '9') return -1;
            value = value * 10 + (c - '0');
        }
        return value;
    };
    std::int64_t largest = 1;
    if (kind == 7) {
        std::int64_t depth = 0;
        while (true) {
            const std::string_view key = word();
            if (key.empty()) return cut_short(info.format);
            if (key == "ENDHDR") break;
            if (key == "WIDTH") {
                info.width = number();
            } else if (key == "HEIGHT") {
                info.height = number();
            } else if (key == "DEPTH") {
                depth = number();
            } else if (key == "MAXVAL") {
                largest = number();
            } else {
                word();
            }
        }
        if (depth < 1 || depth > 4) return damaged(info.format);
        info.channels = static_cast<int>(depth);
    } else {
        info.width = number();
        info.height = number();
        if (kind != 1 && kind != 4) largest = number();
        info.channels = kind == 3 || kind == 6 ? 3 : 1;
        if (p >= bytes.size() && (info.width < 0 || info.height < 0 || largest < 0)) return cut_short(info.format);
    }
    if (info.width < 0 || info.height < 0 || largest < 1 || largest > 65535) return damaged(info.format);
    info.bits = kind == 1 || kind == 4 ? 1 : largest > 255 ? 16 : 8;
    return info;
}

Result<ImageFileInfo> header_of(Bytes bytes) {
    if (starts(bytes, "\xFF\xD8\xFF")) return jpeg(bytes);
    if (starts(bytes, "\x89PNG\r\n\x1A\n")) return png(bytes);
    if (starts(bytes, "GIF87a") || starts(bytes, "GIF89a")) return gif(bytes);
    if (starts(bytes, std::string_view("II*\0", 4)) || starts(bytes, std::string_view("MM\0*", 4)) ||
        starts(bytes, std::string_view("II+\0", 4)) || starts(bytes, std::string_view("MM\0+", 4)))
        return tiff(bytes);
    if (bytes.size() >= 12 && starts(bytes, "RIFF") && starts(bytes.subspan(8), "WEBP")) return webp(bytes);
    if (starts(bytes, "BM")) return bmp(bytes);
    if (bytes.size() >= 3 && at(bytes, 0) == 'P' && at(bytes, 1) >= '1' && at(bytes, 1) <= '7' &&
        bytes::text(bytes.subspan(2, 1)).find_first_of(" \t\r\n#") == 0)
        return pnm(bytes);
    if (bytes.empty()) return fail(ErrorCode::BadInput, "the file is empty, a picture is wanted");
    return fail(ErrorCode::BadInput, "this is no picture that can be read here (JPEG, PNG, GIF, BMP, TIFF, WebP, PNM)");
}

}  // namespace

Result<ImageFileInfo> inspect_image(std::span<const std::byte> bytes, std::int64_t max_pixels) {
    ImageFileInfo info = VITRINE_TRY(header_of(bytes));
    if (info.width < 1 || info.height < 1)
        return fail(ErrorCode::BadInput, "the {} file says that it has {} x {} pixels", info.format, info.width,
                    info.height);
    if (info.width > kMaxSide || info.height > kMaxSide)
        return fail(ErrorCode::BadInput,
                    "the {} file says that it has {} x {} pixels, more than {} a side are not read", info.format,
                    info.width, info.height, kMaxSide);
    if (info.width * info.height > max_pixels)
        return fail(ErrorCode::BadInput,
                    "the {} file says that it has {} x {} pixels, more than {} in all are not read", info.format,
                    info.width, info.height, max_pixels);
    return info;
}

bool is_picture_name(const std::filesystem::path& file) {
    static constexpr std::array<std::string_view, 11> kEndings{".jpg",  ".jpeg", ".png", ".bmp", ".gif", ".tif",
                                                               ".tiff", ".webp", ".ppm", ".pgm", ".pnm"};
    std::string ending = file.extension().string();
    std::transform(ending.begin(), ending.end(), ending.begin(),
                   [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
    return std::find(kEndings.begin(), kEndings.end(), ending) != kEndings.end();
}

}  // namespace vitrine
