// Reads an index of concepts from its mapped file, trusting no number in it, and compares it with its folder.
#include <vitrine/base/concept_index.h>

#include <sys/stat.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <numeric>
#include <optional>

#include <fmt/ranges.h>

#include <vitrine/base/bytes.h>
#include <vitrine/base/file.h>
#include <vitrine/base/image_file.h>
#include <vitrine/base/json_text.h>
#include <vitrine/base/picture_files.h>
#include <vitrine/base/readers.h>

namespace vitrine {

namespace fs = std::filesystem;

namespace {

constexpr std::int64_t kMostLatents = 1 << 24, kMostPictures = 1 << 28;

std::int64_t whole(const std::map<std::string, std::string>& facts, const std::string& name) {
    const auto found = facts.find(name);
    if (found == facts.end()) return -1;
    const std::string& text = found->second;
    std::int64_t value = -1;
    const auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), value);
    return code == std::errc() && end == text.data() + text.size() ? value : -1;
}

/// Tensors of a file, taken one by one; the first that does not fit is what is said.
class Taker {
  public:
    Taker(TensorFile& file, std::vector<std::shared_ptr<const void>>& keep_alive)
        : file_(file), keep_alive_(keep_alive) {}

    template <class T>
    std::span<const T> take(const std::string& name, DType dtype, std::vector<std::int64_t> shape) {
        const auto found = file_.tensors.find(name);
        if (found == file_.tensors.end()) {
            refuse(fmt::format("has no {}", name));
            return {};
        }
        const TensorEntry& entry = found->second;
        // An extent of -1 may be anything.
        bool fits = entry.dtype == dtype && entry.shape.size() == shape.size();
        for (std::size_t i = 0; fits && i < shape.size(); ++i) fits = shape[i] == -1 || shape[i] == entry.shape[i];
        if (!fits) {
            refuse(fmt::format("has {} as {} of [{}], expected {} of [{}]", name, name_of(entry.dtype),
                               fmt::join(entry.shape, ", "), name_of(dtype), fmt::join(shape, ", ")));
            return {};
        }
        keep_alive_.push_back(entry.keep_alive);
        return {reinterpret_cast<const T*>(entry.data), static_cast<std::size_t>(entry.count())};
    }
    Status status() const {
        if (!problem_) return {};
        return fail(ErrorCode::BadInput, "the index of concepts {}; build it again", *problem_);
    }

  private:
    void refuse(std::string problem) {
        if (!problem_) problem_ = std::move(problem);
    }
    TensorFile& file_;
    std::vector<std::shared_ptr<const void>>& keep_alive_;
    std::optional<std::string> problem_;
};

}  // namespace

const std::vector<std::string>& ConceptIndex::column_names() {
    static const std::vector<std::string> names{"frequency", "picture_frequency", "class_frequency",
                                                "mean",      "maximum",           "class_maximum",
                                                "effect",    "monosemanticity",   "localisation"};
    return names;
}

double ConceptIndex::bin_edge(std::int64_t bin) { return std::exp2(static_cast<double>(bin) / 2 - 12); }

std::string ConceptIndex::fact(const std::string& name) const {
    const auto found = facts_.find(name);
    return found == facts_.end() ? std::string() : found->second;
}

fs::path ConceptIndex::folder() const {
    const auto place = [&](const std::string& key) -> fs::path {
        std::string text;
        if (from_json_bytes(nlohmann::json::parse(fact(key + "_bytes"), nullptr, false), text)) return text;
        return fact(key);
    };
    const fs::path then = place("folder"), from_here = place("folder_from_here");
    std::error_code failed;
    const fs::path here = fs::canonical(file_, failed).parent_path();
    if (failed || from_here.empty()) return then;
    const fs::path now = (here / from_here).lexically_normal();
    // A folder of the same name may hold other pictures: one of ours is looked for.
    std::int64_t first = 0;
    while (first + 1 < pictures_ && picture(first).skipped) ++first;
    const fs::path name(std::string(picture(first).name));
    const auto holds = [&](const fs::path& folder) { return !name.empty() && fs::exists(folder / name, failed); };
    if (holds(now)) return now;
    return !holds(then) && fs::is_directory(now, failed) ? now : then;
}

Result<ConceptIndex> ConceptIndex::open(const fs::path& file) {
    MappedFile mapped = VITRINE_TRY(map_file(file));
    auto index = parse(mapped.bytes, std::move(mapped.keep_alive));
    if (!index) return tl::make_unexpected(std::move(index).error().with_context(file.filename().string()));
    index->file_ = file;
    return index;
}

Result<ConceptIndex> ConceptIndex::parse(std::span<const std::byte> bytes, std::shared_ptr<const void> keep_alive) {
    TensorFile file = VITRINE_TRY(parse_safetensors(bytes, std::move(keep_alive)));
    if (const auto format = file.metadata.find("format");
        format == file.metadata.end() || format->second != "vitrine.concept_index")
        return fail(ErrorCode::BadInput, "this is no index of concepts; vitrine index-concepts makes one");
    if (const std::int64_t version = whole(file.metadata, "version"); version != kVersion)
        return fail(ErrorCode::BadInput,
                    "the index of concepts is of version {}, this program reads {}; build it again", version, kVersion);
    ConceptIndex out;
    out.latents_ = whole(file.metadata, "latents");
    out.pictures_ = whole(file.metadata, "pictures");
    out.rows_ = whole(file.metadata, "rows");
    out.cols_ = whole(file.metadata, "cols");
    const std::int64_t m = out.latents_, n = out.pictures_;
    if (m < 1 || m > kMostLatents || n < 0 || n > kMostPictures || out.rows_ < 0 || out.cols_ < 0 ||
        out.rows_ > 65536 || out.cols_ > 65536)
        return fail(ErrorCode::BadInput,
                    "the index of concepts says {} concepts and {} pictures of {} x {} patches; build it again", m, n,
                    out.rows_, out.cols_);
    Taker taker(file, out.keep_alive_);
    for (const auto& name : column_names())
        out.columns_.push_back(taker.take<float>("column." + name, DType::F32, {m}));
    out.top_picture_ = taker.take<std::uint32_t>("tops.picture", DType::U32, {m, kTops});
    out.top_cell_ = taker.take<std::uint32_t>("tops.cell", DType::U32, {m, kTops});
    out.top_value_ = taker.take<float>("tops.value", DType::F32, {m, kTops});
    out.class_picture_ = taker.take<std::uint32_t>("class_tops.picture", DType::U32, {m, kTops});
    out.class_value_ = taker.take<float>("class_tops.value", DType::F32, {m, kTops});
    out.histogram_ = taker.take<std::uint32_t>("histogram", DType::U32, {m, kBins});
    out.neighbour_ = taker.take<std::uint32_t>("neighbours.latent", DType::U32, {m, kNeighbours});
    out.cosine_ = taker.take<float>("neighbours.cosine", DType::F32, {m, kNeighbours});
    out.map_ = taker.take<float>("map", DType::F32, {m, 2});
    out.name_end_ = taker.take<std::uint64_t>("picture.name_end", DType::U64, {n});
    out.size_ = taker.take<std::int64_t>("picture.size", DType::I64, {n});
    out.time_ = taker.take<std::int64_t>("picture.time", DType::I64, {n});
    out.answer_ = taker.take<std::int32_t>("picture.answer", DType::I32, {n});
    out.probability_ = taker.take<float>("picture.probability", DType::F32, {n});
    out.skipped_ = taker.take<std::uint8_t>("picture.skipped", DType::U8, {n});
    out.strongest_ = taker.take<std::uint32_t>("strongest.latent", DType::U32, {n, kStrongest});
    out.strongest_value_ = taker.take<float>("strongest.value", DType::F32, {n, kStrongest});
    const auto names = taker.take<std::uint8_t>("picture.names", DType::U8, {-1});
    VITRINE_CHECK(taker.status());
    out.names_ = {reinterpret_cast<const char*>(names.data()), names.size()};
    out.facts_ = std::move(file.metadata);
    return out;
}

std::span<const float> ConceptIndex::column(std::string_view name) const {
    const auto& names = column_names();
    const auto found = std::find(names.begin(), names.end(), name);
    return found == names.end() ? std::span<const float>() : columns_[static_cast<std::size_t>(found - names.begin())];
}

std::vector<std::uint32_t> ConceptIndex::order(std::string_view column_name, bool descending) const {
    const auto values = column(column_name);
    std::vector<std::uint32_t> out(values.size());
    std::iota(out.begin(), out.end(), 0U);
    std::sort(out.begin(), out.end(), [&](std::uint32_t a, std::uint32_t b) {
        const float x = values[a], y = values[b];
        if (std::isnan(x) != std::isnan(y)) return std::isnan(y);
        if (std::isnan(x) || x == y) return a < b;
        return descending ? x > y : x < y;
    });
    return out;
}

std::vector<ConceptTop> ConceptIndex::tops_of(std::int64_t latent, const std::uint32_t* pictures,
                                              const std::uint32_t* cells, const float* values) const {
    std::vector<ConceptTop> out;
    if (latent < 0 || latent >= latents_) return out;
    const std::int64_t cell_count = rows_ * cols_;
    for (std::int64_t i = latent * kTops; i < (latent + 1) * kTops; ++i) {
        const std::uint32_t cell = cells == nullptr ? kNoCell : cells[i];
        // An empty place has the value 0; what points nowhere is of a broken file.
        if (std::isfinite(values[i]) && values[i] > 0 && pictures[i] < pictures_ &&
            (cell == kNoCell || cell < cell_count))
            out.push_back({pictures[i], cell, values[i]});
    }
    return out;
}

std::vector<ConceptTop> ConceptIndex::tops(std::int64_t latent) const {
    return tops_of(latent, top_picture_.data(), top_cell_.data(), top_value_.data());
}

std::vector<ConceptTop> ConceptIndex::class_tops(std::int64_t latent) const {
    return tops_of(latent, class_picture_.data(), nullptr, class_value_.data());
}

std::span<const std::uint32_t> ConceptIndex::histogram(std::int64_t latent) const {
    if (latent < 0 || latent >= latents_) return {};
    return histogram_.subspan(static_cast<std::size_t>(latent * kBins), kBins);
}

std::vector<ConceptNeighbour> ConceptIndex::neighbours(std::int64_t latent) const {
    std::vector<ConceptNeighbour> out;
    if (latent < 0 || latent >= latents_) return out;
    for (auto i = static_cast<std::size_t>(latent * kNeighbours);
         i < static_cast<std::size_t>((latent + 1) * kNeighbours); ++i)
        if (neighbour_[i] < latents_ && std::isfinite(cosine_[i])) out.push_back({neighbour_[i], cosine_[i]});
    return out;
}

IndexedPicture ConceptIndex::picture(std::int64_t picture) const {
    IndexedPicture out;
    if (picture < 0 || picture >= pictures_) return out;
    const auto i = static_cast<std::size_t>(picture);
    const std::uint64_t from = i == 0 ? 0 : name_end_[i - 1], end = name_end_[i];
    if (from <= end && end <= names_.size()) out.name = names_.substr(from, end - from);
    out.size_bytes = size_[i];
    out.time_ns = time_[i];
    out.answer = answer_[i] < 0 ? -1 : answer_[i];
    out.probability = probability_[i];
    out.skipped = skipped_[i] != 0;
    return out;
}

std::int64_t ConceptIndex::find(std::string_view name) const {
    std::int64_t low = 0, high = pictures_;
    while (low < high) {
        const std::int64_t middle = low + (high - low) / 2;
        if (picture(middle).name < name)
            low = middle + 1;
        else
            high = middle;
    }
    return low < pictures_ && picture(low).name == name ? low : -1;
}

std::vector<PictureConcept> ConceptIndex::strongest(std::int64_t picture) const {
    std::vector<PictureConcept> out;
    if (picture < 0 || picture >= pictures_) return out;
    for (auto i = static_cast<std::size_t>(picture * kStrongest);
         i < static_cast<std::size_t>((picture + 1) * kStrongest); ++i)
        if (strongest_[i] < latents_ && std::isfinite(strongest_value_[i]) && strongest_value_[i] > 0)
            out.push_back({strongest_[i], strongest_value_[i]});
    return out;
}

Result<std::vector<FolderPicture>> pictures_below(const fs::path& folder, std::vector<std::string>* notes) {
    const FilesBelow found = VITRINE_TRY(files_below(folder, is_picture_name));
    if (notes != nullptr) notes->insert(notes->end(), found.notes.begin(), found.notes.end());
    std::vector<FolderPicture> out;
    for (const fs::path& file : found.files) {
        struct stat info {};
        if (::stat(file.c_str(), &info) != 0 || !S_ISREG(info.st_mode)) continue;
        out.push_back({file.lexically_relative(folder).generic_string(), info.st_size,
                       std::int64_t{info.st_mtim.tv_sec} * 1'000'000'000 + info.st_mtim.tv_nsec});
    }
    std::sort(out.begin(), out.end(), [](const auto& a, const auto& b) { return a.name < b.name; });
    return out;
}

std::string FolderChanges::sentence() const {
    std::vector<std::string> parts;
    const auto add = [&](const std::vector<std::string>& names, const char* what) {
        if (names.empty()) return;
        parts.push_back(fmt::format("{} {} {}", names.size(), names.size() == 1 ? "was" : "were", what));
    };
    add(added, "added");
    add(removed, "removed");
    add(changed, "changed");
    if (parts.empty()) return {};
    return fmt::format("of the pictures {} since the index was built", fmt::join(parts, ", "));
}

Result<FolderChanges> changes_since(const ConceptIndex& index, const fs::path& folder) {
    const auto now = VITRINE_TRY(pictures_below(folder.empty() ? index.folder() : folder));
    FolderChanges out;
    std::int64_t i = 0;
    for (const FolderPicture& picture : now) {
        while (i < index.pictures() && index.picture(i).name < picture.name)
            out.removed.emplace_back(index.picture(i++).name);
        if (i == index.pictures() || index.picture(i).name != picture.name) {
            out.added.push_back(picture.name);
            continue;
        }
        const IndexedPicture then = index.picture(i++);
        if (then.size_bytes != picture.size_bytes || then.time_ns != picture.time_ns)
            out.changed.push_back(picture.name);
    }
    while (i < index.pictures()) out.removed.emplace_back(index.picture(i++).name);
    return out;
}

}  // namespace vitrine
