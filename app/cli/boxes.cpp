// Reads tables of boxes.
#include "cli/boxes.h"

#include <vitrine/base/file.h>

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

}  // namespace

Result<Boxes> Boxes::make(const std::string& file) {
    Boxes out;
    if (!file.empty()) out.given_ = VITRINE_TRY(read_boxes(file));
    return out;
}

Result<const Boxed*> Boxes::of(const fs::path& picture) {
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
