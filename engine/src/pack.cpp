// Packs labelled folders of photographs into one safetensors file of equal squares, and reads such files.
#include <vitrine/pack.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <fstream>
#include <mutex>
#include <set>
#include <thread>

#include <ATen/ops/empty.h>

#include <vitrine/base/bytes.h>
#include <vitrine/base/file.h>
#include <vitrine/base/image_file.h>
#include <vitrine/base/picture_files.h>
#include <vitrine/base/readers.h>
#include <vitrine/preprocess.h>

#include "text.h"

namespace vitrine {

namespace fs = std::filesystem;

namespace {

constexpr const char* kFormat = "vitrine.pack";

struct ClassFolder {
    fs::path folder;
    std::string name;
};

// The class folders in order: as classes.tsv lists them, else alphabetical.
Result<std::vector<ClassFolder>> class_folders(const fs::path& folder) {
    std::error_code ignored;
    if (!fs::is_directory(folder, ignored)) return fail(ErrorCode::NotFound, "{} is not a folder", folder.string());
    std::vector<ClassFolder> classes;
    const fs::path list = folder / "classes.tsv";
    if (fs::exists(list, ignored)) {
        const std::string text = VITRINE_TRY(read_text(list, 1u << 20));
        std::size_t line_number = 0;
        for (std::size_t at = 0; at < text.size();) {
            const std::size_t end = std::min(text.find('\n', at), text.size());
            std::string line = text.substr(at, end - at);
            at = end + 1;
            ++line_number;
            if (!line.empty() && line.back() == '\r') line.pop_back();
            if (line.empty()) continue;
            const std::size_t tab = line.find('\t');
            if (tab == std::string::npos || tab == 0 || tab + 1 == line.size())
                return fail(ErrorCode::BadInput, "{} line {} is '{}', expected a folder, a tab and a class name",
                            list.string(), line_number, line);
            const std::string inside = line.substr(0, tab);
            if (!stays_inside(inside) || !fs::is_directory(folder / inside, ignored))
                return fail(ErrorCode::BadInput, "{} line {} names the folder '{}', which is not in {}", list.string(),
                            line_number, inside, folder.string());
            classes.push_back({folder / inside, line.substr(tab + 1)});
        }
    } else {
        for (const auto& entry : fs::directory_iterator(folder, ignored))
            if (entry.is_directory(ignored) && !entry.path().filename().string().starts_with("."))
                classes.push_back({entry.path(), entry.path().filename().string()});
        std::sort(classes.begin(), classes.end(), [](const auto& a, const auto& b) { return a.name < b.name; });
    }
    if (classes.empty())
        return fail(ErrorCode::BadInput, "{} has no class folders; put each class's photographs in a folder of its own",
                    folder.string());
    return classes;
}

Result<Image> to_square(const Image& photo, std::int64_t size, const std::string& fit, Interpolation interpolation) {
    if (photo.width == size && photo.height == size) return photo;
    if (fit == "squash") return resize(photo, size, size, interpolation);
    const std::int64_t shorter = std::min(photo.width, photo.height);
    const auto scaled = [&](std::int64_t side) {
        return std::max(size,
                        static_cast<std::int64_t>(std::llround(static_cast<double>(side) * static_cast<double>(size) /
                                                               static_cast<double>(shorter))));
    };
    const Image resized = VITRINE_TRY(resize(photo, scaled(photo.width), scaled(photo.height), interpolation));
    return crop(resized, (resized.width - size) / 2, (resized.height - size) / 2, size, size);
}

}  // namespace

Result<Pack> pack_in_memory(const PackOptions& options, PackSummary* summary) {
    if (options.size < 8 || options.size > 1024)
        return fail(ErrorCode::BadInput, "size is {}, expected 8 to 1024 pixels", options.size);
    if (options.fit != "crop" && options.fit != "squash")
        return fail(ErrorCode::BadInput, "fit is '{}', expected crop or squash", options.fit);
    std::error_code missing;
    if (!fs::is_directory(options.folder, missing))
        return fail(ErrorCode::NotFound, "{} is not a folder", options.folder.string());
    const std::vector<ClassFolder> folders = options.unlabelled
                                                 ? std::vector<ClassFolder>{{options.folder, "pictures"}}
                                                 : VITRINE_TRY(class_folders(options.folder));

    struct Job {
        fs::path file;
        std::int64_t label;
    };
    std::vector<Job> jobs;
    std::vector<std::string> skipped;
    Pack pack;
    pack.source = options.folder.filename().string();
    for (std::size_t label = 0; label < folders.size(); ++label) {
        pack.classes.push_back(folders[label].name);
        FilesBelow found = VITRINE_TRY(files_below(folders[label].folder, is_picture_name));
        for (auto& file : found.files) jobs.push_back({std::move(file), static_cast<std::int64_t>(label)});
        for (std::string& note : found.notes) skipped.push_back(std::move(note));
    }
    if (jobs.empty())
        return fail(ErrorCode::BadInput, "{} has {}", options.folder.string(),
                    options.unlabelled ? "no pictures in it" : "class folders but no pictures in them");

    // Decoders have threads of their own; each writes its square at its own place, so that the order is that of the
    // names.
    const auto total = static_cast<std::int64_t>(jobs.size());
    const std::int64_t side = options.size;
    const std::int64_t bytes_each = side * side * 3;
    at::Tensor images = at::empty({total, side, side, 3}, at::kByte);
    auto* const pixels = images.mutable_data_ptr<std::uint8_t>();
    std::vector<std::string> trouble(jobs.size());
    std::vector<std::uint8_t> unsupported(jobs.size(), 0);
    std::atomic<std::int64_t> next{0};
    std::atomic<std::int64_t> done{0};
    const auto work = [&] {
        for (std::int64_t i = next++; i < total && !options.stop.stop_requested(); i = next++) {
            const auto at = static_cast<std::size_t>(i);
            try {
                auto photo = read_photo(jobs[at].file);
                auto square = photo ? to_square(photo->image, side, options.fit, options.interpolation)
                                    : tl::make_unexpected(photo.error());
                if (square) {
                    std::memcpy(pixels + i * bytes_each, square->pixels.data(), static_cast<std::size_t>(bytes_each));
                } else {
                    trouble[at] = square.error().message;
                    unsupported[at] = square.error().code == ErrorCode::Unsupported;
                }
            } catch (const std::exception& error) {
                trouble[at] = jobs[at].file.string() + ": " + error.what();
            }
            ++done;
        }
    };
    {
        const unsigned machine = std::max(1u, std::thread::hardware_concurrency());
        const auto count = std::min<std::int64_t>(total, options.threads > 0 ? options.threads : machine);
        std::vector<std::jthread> threads;
        for (std::int64_t i = 0; i < count; ++i) threads.emplace_back(work);
        while (done < total && !options.stop.stop_requested()) {
            std::this_thread::sleep_for(std::chrono::milliseconds(total < 200 ? 2 : 50));
            if (options.progress) options.progress({done, total, "pictures"});
        }
    }
    if (options.stop.stop_requested())
        return fail(ErrorCode::Cancelled, "packing {} was stopped after {} of {} pictures", options.folder.string(),
                    done.load(), total);

    // Close the gaps that unreadable files left.
    std::vector<std::int64_t> labels;
    bool only_unsupported = true;
    for (std::size_t i = 0; i < jobs.size(); ++i) {
        if (!trouble[i].empty()) {
            skipped.push_back(trouble[i]);
            only_unsupported = only_unsupported && unsupported[i] != 0;
            continue;
        }
        const auto to = static_cast<std::int64_t>(labels.size());
        if (to != static_cast<std::int64_t>(i))
            std::memmove(pixels + to * bytes_each, pixels + static_cast<std::int64_t>(i) * bytes_each,
                         static_cast<std::size_t>(bytes_each));
        labels.push_back(jobs[i].label);
    }
    if (labels.empty())
        return fail(only_unsupported ? ErrorCode::Unsupported : ErrorCode::BadInput,
                    "none of the {} pictures in {} could be read; the first: {}", total, options.folder.string(),
                    trouble.front());
    const auto kept = static_cast<std::int64_t>(labels.size());
    pack.images = kept == total ? images : images.narrow(0, 0, kept).clone();
    pack.labels = at::empty({kept}, at::kLong);
    std::memcpy(pack.labels.mutable_data_ptr<std::int64_t>(), labels.data(), labels.size() * sizeof(std::int64_t));
    if (summary) {
        summary->pictures = kept;
        summary->classes = pack.classes;
        summary->skipped = std::move(skipped);
        summary->size_bytes = kept * (bytes_each + 8);
    }
    return pack;
}

Result<PackSummary> pack_folder(const PackOptions& options) {
    if (options.out.empty()) return fail(ErrorCode::BadInput, "packing needs a file to write; give it with --out");
    PackSummary summary;
    const Pack pack = VITRINE_TRY(pack_in_memory(options, &summary));
    VITRINE_CHECK(write_pack(options.out, pack));
    std::error_code ignored;
    summary.size_bytes = static_cast<std::int64_t>(fs::file_size(options.out, ignored));
    return summary;
}

Result<Pack> read_pack(const fs::path& file) {
    if (const auto kind = sniff(file); kind && (is_picture_name(file) || *kind == FileKind::Image))
        return fail(ErrorCode::BadInput,
                    "{} is a picture, expected a folder of pictures or a pack of them (vitrine pack makes one)",
                    file.string());
    auto contents = read_safetensors(file);
    if (!contents) return tl::make_unexpected(std::move(contents.error()).with_context("reading " + file.string()));
    const auto& metadata = contents->metadata;
    if (const auto format = metadata.find("format"); format == metadata.end() || format->second != kFormat)
        return fail(ErrorCode::BadInput,
                    "{} is a safetensors file but no pack of pictures; vitrine pack makes one from a folder",
                    file.string());
    const auto images = contents->tensors.find("images");
    const auto labels = contents->tensors.find("labels");
    if (images == contents->tensors.end() || labels == contents->tensors.end())
        return fail(ErrorCode::BadInput, "{} lacks {}", file.string(),
                    images == contents->tensors.end() ? "images" : "labels");
    const auto& shape = images->second.shape;
    if (images->second.dtype != DType::U8 || shape.size() != 4 || shape[3] != 3 || shape[1] != shape[2] ||
        shape[0] < 1 || shape[1] < 1)
        return fail(ErrorCode::BadInput, "{}: images is {} [{}], expected U8 [n, side, side, 3]", file.string(),
                    name_of(images->second.dtype), fmt::join(shape, ", "));
    if (labels->second.dtype != DType::I64 || labels->second.shape != std::vector<std::int64_t>{shape[0]})
        return fail(ErrorCode::BadInput, "{}: labels is {} [{}], expected I64 [{}]", file.string(),
                    name_of(labels->second.dtype), fmt::join(labels->second.shape, ", "), shape[0]);
    Pack pack;
    const auto listed = metadata.find("classes");
    const auto names =
        listed == metadata.end() ? nlohmann::json() : nlohmann::json::parse(listed->second, nullptr, false);
    if (!names.is_array())
        return fail(ErrorCode::BadInput, "{}: the metadata names no classes, expected a JSON list of names",
                    file.string());
    std::set<std::string> seen;
    for (const auto& name : names) {
        if (!name.is_string() || !seen.insert(name.get<std::string>()).second)
            return fail(ErrorCode::BadInput, "{}: the class names are not distinct texts", file.string());
        pack.classes.push_back(name.get<std::string>());
    }
    if (const auto source = metadata.find("source"); source != metadata.end()) pack.source = source->second;

    pack.images = at::empty(shape, at::kByte);
    std::memcpy(pack.images.mutable_data_ptr<std::uint8_t>(), images->second.data,
                static_cast<std::size_t>(pack.images.numel()));
    pack.labels = at::empty({shape[0]}, at::kLong);
    auto* const values = pack.labels.mutable_data_ptr<std::int64_t>();
    std::memcpy(values, labels->second.data, static_cast<std::size_t>(shape[0]) * sizeof(std::int64_t));
    for (std::int64_t i = 0; i < shape[0]; ++i)
        if (values[i] < 0 || values[i] >= static_cast<std::int64_t>(pack.classes.size()))
            return fail(ErrorCode::BadInput, "{}: picture {} has label {}, but there are {} classes", file.string(), i,
                        values[i], pack.classes.size());
    return pack;
}

Status write_pack(const fs::path& file, const Pack& pack) {
    const at::Tensor images = pack.images.contiguous();
    const at::Tensor labels = pack.labels.contiguous();
    const auto entry = [](const at::Tensor& tensor, DType dtype) {
        TensorEntry e;
        e.dtype = dtype;
        e.shape = tensor.sizes().vec();
        e.strides = tensor.strides().vec();
        e.data = static_cast<const std::byte*>(tensor.const_data_ptr());
        return e;
    };
    // Names of folders may be any bytes, and the file's header is UTF-8.
    std::vector<std::string> classes;
    for (const std::string& name : pack.classes) classes.push_back(bytes::to_utf8(name));
    const NamedTensor tensors[] = {{"images", entry(images, DType::U8)}, {"labels", entry(labels, DType::I64)}};
    return write_safetensors(
        file, tensors,
        {{"format", kFormat}, {"classes", nlohmann::json(classes).dump()}, {"source", bytes::to_utf8(pack.source)}});
}

}  // namespace vitrine
