// Reads tables of boxes, and masks.
#include "cli/boxes.h"

#include <vitrine/base/file.h>
#include <vitrine/base/image_file.h>
#include <vitrine/preprocess.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <sstream>

namespace vitrine::cli {

namespace fs = std::filesystem;

namespace {

std::optional<std::vector<double>> numbers_in(const std::string& text, char between) {
    std::vector<double> out;
    std::istringstream parts(text);
    std::string part;
    while (std::getline(parts, part, between)) {
        double number = 0;
        const auto [end, code] = std::from_chars(part.data(), part.data() + part.size(), number);
        if (code != std::errc() || end != part.data() + part.size() || !std::isfinite(number)) return std::nullopt;
        out.push_back(number);
    }
    return out;
}

/// Lines of tab-separated fields: the file, then x0, y0, x1, y1 (one box a line, lines of one file add up), or one
/// field with such fours, commas inside and semicolons between them. A whole number in a field named imagenet_index,
/// index, class or label is the picture's class. A first line without numbers names the fields.
Result<BoxTable> read_boxes(const fs::path& file) {
    BoxTable out;
    std::istringstream lines(VITRINE_TRY(read_text(file)));
    std::string line;
    std::vector<std::string> header;
    for (std::size_t count = 1; std::getline(lines, line); ++count) {
        if (!line.empty() && line.back() == '\r') line.pop_back();
        if (line.empty()) continue;
        std::vector<std::string> fields;
        std::istringstream parts(line);
        std::string field;
        while (std::getline(parts, field, '\t')) fields.push_back(field);
        const auto broken = [&] {
            return fail(ErrorCode::BadInput, "{} line {} is '{}', expected a file and x0, y0, x1, y1", file.string(),
                        count, line.substr(0, 80));
        };
        if (fields.size() < 2) return broken();
        if (count == 1 && std::none_of(fields.begin() + 1, fields.end(), [](const std::string& text) {
                return !text.empty() && (std::isdigit(static_cast<unsigned char>(text[0])) != 0 || text[0] == '-');
            })) {
            header = fields;
            continue;
        }
        Boxed& entry = out[fields[0]];
        std::vector<double> loose;  // numbers that stand alone in their fields
        for (std::size_t i = 1; i < fields.size(); ++i) {
            const std::string& name = i < header.size() ? header[i] : std::string();
            const auto alone = numbers_in(fields[i], '\t');
            if (name == "imagenet_index" || name == "index" || name == "class" || name == "label") {
                if (alone && alone->size() == 1 && alone->front() >= 0 && alone->front() == std::floor(alone->front()))
                    entry.label = static_cast<std::int64_t>(alone->front());
                continue;
            }
            if (alone && alone->size() == 1) {
                loose.push_back(alone->front());
                continue;
            }
            if (fields[i].find(',') == std::string::npos) continue;  // a word for people
            std::istringstream fours(fields[i]);
            std::string four;
            while (std::getline(fours, four, ';')) {
                const auto numbers = numbers_in(four, ',');
                if (!numbers || numbers->size() != 4) return broken();
                entry.boxes.push_back({(*numbers)[0], (*numbers)[1], (*numbers)[2], (*numbers)[3]});
            }
        }
        if (loose.size() == 4)
            entry.boxes.push_back({loose[0], loose[1], loose[2], loose[3]});
        else if (!loose.empty())
            return broken();
        for (const Box& box : entry.boxes)
            if (!(box.width() > 0) || !(box.height() > 0)) return broken();
    }
    return out;
}

const Boxed* find(const BoxTable& table, const fs::path& picture) {
    // By its whole name, by folder and name, by name.
    for (const std::string& name : {picture.string(), (picture.parent_path().filename() / picture.filename()).string(),
                                    picture.filename().string()})
        if (const auto found = table.find(name); found != table.end()) return &found->second;
    return nullptr;
}

/// The mask of a picture: by folder and name, by name; ending like the picture or in any other way of pictures.
std::optional<fs::path> mask_of(const fs::path& folder, const fs::path& picture) {
    for (const fs::path& place : {folder / picture.parent_path().filename(), folder}) {
        const fs::path name = place / picture.filename();
        std::error_code ignored;
        if (fs::is_regular_file(name, ignored)) return name;
        for (const char* ending : {".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".pnm"})
            if (fs::path other = fs::path(name).replace_extension(ending); fs::is_regular_file(other, ignored))
                return other;
    }
    return std::nullopt;
}

Result<Image> read_mask(const fs::path& file) {
    Photo mask = VITRINE_TRY(read_photo(file));
    const auto refused = [&](const char* what) {
        return fail(ErrorCode::BadInput, "the mask {} {}; expected 8 bit without loss and without alpha, as PNG",
                    file.string(), what);
    };
    // Whether a pixel is zero must be what the file says and not what a decoder made of it.
    const std::string bytes = VITRINE_TRY(read_text(file, std::size_t{2} << 30));
    if (VITRINE_TRY(inspect_image(std::as_bytes(std::span(bytes)))).format == "JPEG")
        return refused("is a JPEG, whose zeros are not kept");
    if (mask.note.find("16 bit") != std::string::npos)
        return refused("has 16 bit, whose low numbers would become zero");
    if (mask.note.find("transparent") != std::string::npos) return refused("is partly transparent");
    return std::move(mask.image);
}

}  // namespace

Result<std::vector<Box>> pieces_of(const Image& mask) {
    constexpr std::size_t kMost = 1'000'000;
    std::vector<Box> out;
    std::map<std::pair<std::int64_t, std::int64_t>, std::size_t> above, here;  // runs of a row, by their ends
    for (std::int64_t y = 0; y < mask.height; ++y, above.swap(here), here.clear()) {
        for (std::int64_t x = 0; x < mask.width;) {
            const auto set = [&](std::int64_t at) {
                const std::uint8_t* pixel = mask.at(at, y);
                return (pixel[0] | pixel[1] | pixel[2]) != 0;
            };
            if (!set(x)) {
                ++x;
                continue;
            }
            const std::int64_t begin = x;
            while (x < mask.width && set(x)) ++x;
            const auto same = above.find({begin, x});
            if (same == above.end()) {
                if (out.size() == kMost)
                    return fail(ErrorCode::BadInput, "the mask falls into more than {} pieces", kMost);
                here[{begin, x}] = out.size();
                out.push_back({static_cast<double>(begin), static_cast<double>(y), static_cast<double>(x),
                               static_cast<double>(y + 1)});
            } else {
                out[same->second].y1 += 1;
                here.insert(*same);
            }
        }
    }
    return out;
}

Result<std::vector<Box>> boxes_in_photo(const Boxed& known, const InputGeometry& geometry) {
    std::vector<Box> out = known.boxes;
    if (known.mask_width == 0) return out;
    const double across = static_cast<double>(geometry.photo_width) / static_cast<double>(known.mask_width);
    const double down = static_cast<double>(geometry.photo_height) / static_cast<double>(known.mask_height);
    // A mask of another size has sides rounded to whole pixels, no more.
    if (std::abs(static_cast<double>(geometry.photo_height) / across - static_cast<double>(known.mask_height)) > 1 ||
        std::abs(static_cast<double>(geometry.photo_width) / down - static_cast<double>(known.mask_width)) > 1)
        return fail(ErrorCode::BadInput, "the mask is {} x {}, the upright picture {} x {}: not the same shape",
                    known.mask_width, known.mask_height, geometry.photo_width, geometry.photo_height);
    for (Box& box : out) box = {box.x0 * across, box.y0 * down, box.x1 * across, box.y1 * down};
    return out;
}

Result<Boxes> Boxes::make(const std::string& file, const std::string& masks) {
    Boxes out;
    if (!file.empty()) out.given_ = VITRINE_TRY(read_boxes(file));
    std::error_code ignored;
    if (!masks.empty() && !fs::is_directory(masks, ignored))
        return fail(ErrorCode::NotFound, "there is no folder {} of masks", masks);
    out.masks_ = masks;
    return out;
}

Result<std::optional<Boxed>> Boxes::of(const fs::path& picture) {
    const Boxed* found = VITRINE_TRY(listed(picture));
    std::optional<Boxed> out;
    if (found != nullptr) out = *found;
    if (masks_.empty()) return out;
    // A picture without a mask has no boxes either: the two are not the same measure.
    if (out) out->boxes.clear();
    const auto file = mask_of(masks_, picture);
    if (!file) return out;
    const Image mask = VITRINE_TRY(read_mask(*file));
    if (!out) out.emplace();
    auto pieces = pieces_of(mask);
    if (!pieces) return tl::make_unexpected(std::move(pieces).error().with_context(file->string()));
    out->boxes = std::move(*pieces);
    out->mask_width = mask.width;
    out->mask_height = mask.height;
    return out;
}

Result<const Boxed*> Boxes::listed(const fs::path& picture) {
    if (given_) return find(*given_, picture);
    const fs::path folder = picture.parent_path();
    auto found = tables_.find(folder);
    if (found == tables_.end()) {
        BoxTable table;
        std::error_code ignored;
        // In the folder of the pictures, or in the one above their class folders.
        for (const fs::path& place : {folder, folder.parent_path()}) {
            if (!fs::exists(place / "boxes.tsv", ignored)) continue;
            table = VITRINE_TRY(read_boxes(place / "boxes.tsv"));
            break;
        }
        found = tables_.emplace(folder, std::move(table)).first;
    }
    return find(found->second, picture);
}

}  // namespace vitrine::cli
