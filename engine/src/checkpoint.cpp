// Checkpoints: which file of a folder holds the tensors, what lies beside it, and tensors as float32.
#include <vitrine/checkpoint.h>

#include <ATen/ops/empty.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>
#include <set>

#include <vitrine/base/file.h>

#include "text.h"

namespace vitrine {

namespace fs = std::filesystem;

namespace {

std::string shape_text(const std::vector<std::int64_t>& shape) { return fmt::format("[{}]", fmt::join(shape, ", ")); }

bool is_file(const fs::path& path) {
    std::error_code ignored;
    return fs::is_regular_file(path, ignored);
}

/// A JSON object beside the checkpoint; {} when there is none. A file that is there and broken is an error, not
/// silence.
Result<nlohmann::json> read_json(const fs::path& file) {
    if (!is_file(file)) return nlohmann::json::object();
    const std::string text = VITRINE_TRY(read_text(file, 16u << 20));
    // nlohmann's parser recurses; a depth callback keeps "[[[[..." from exhausting the stack.
    bool too_deep = false;
    const auto guard = [&](int depth, nlohmann::json::parse_event_t, nlohmann::json&) {
        if (depth > 64) too_deep = true;
        return !too_deep;
    };
    auto parsed = nlohmann::json::parse(text, guard, false, true);
    if (too_deep) return fail(ErrorCode::BadInput, "{} is nested more than 64 levels deep", file.filename().string());
    if (parsed.is_discarded() || !parsed.is_object())
        return fail(ErrorCode::BadInput, "{} is not a JSON object", file.filename().string());
    return parsed;
}

/// Which file of a hub folder holds the tensors.
Result<fs::path> file_of_folder(const fs::path& folder) {
    static const char* const known[] = {"model.safetensors", "model.safetensors.index.json",
                                        "open_clip_model.safetensors", "pytorch_model.bin",
                                        "open_clip_pytorch_model.bin"};
    for (const char* name : known)
        if (is_file(folder / name)) return folder / name;
    std::vector<fs::path> found;
    std::error_code error;
    for (const auto& entry : fs::directory_iterator(folder, error)) {
        const std::string extension = lower(entry.path().extension().string());
        static const std::set<std::string> weights{".safetensors", ".bin", ".pt", ".pth", ".th", ".ckpt"};
        if (weights.count(extension) != 0 && is_file(entry.path())) found.push_back(entry.path());
    }
    if (error) return fail(ErrorCode::Io, "the folder {} cannot be read: {}", folder.string(), error.message());
    if (found.size() == 1) return found.front();
    std::sort(found.begin(), found.end());
    if (found.empty())
        return fail(
            ErrorCode::NotFound,
            "{} holds no checkpoint; expected model.safetensors, model.safetensors.index.json or pytorch_model.bin",
            folder.string());
    std::vector<std::string> names;
    for (const auto& file : found) names.push_back(file.filename().string());
    return fail(ErrorCode::BadInput, "{} holds {} checkpoints; name one of them: {}", folder.string(), names.size(),
                fmt::join(names, ", "));
}

using Tensors = std::map<std::string, TensorEntry>;

Tensors below(const Tensors& tensors, const std::string& prefix) {
    Tensors out;
    for (auto it = tensors.lower_bound(prefix); it != tensors.end() && it->first.starts_with(prefix); ++it)
        if (it->first.size() > prefix.size()) out.emplace(it->first.substr(prefix.size()), it->second);
    return out;
}

/// Takes wrappers off: training scripts save {"model": ..., "optimizer": ...}, data-parallel ones put "module." in
/// front.
std::string unwrap(Tensors& tensors) {
    std::string stripped;
    for (int level = 0; level < 4; ++level) {
        bool changed = false;
        // What a training script keeps beside the weights does not count against a prefix being shared.
        static const char* const sets[] = {"model_ema.",
                                           "ema.",
                                           "state_dict_ema.",
                                           "state_dict.",
                                           "model_state_dict.",
                                           "model_state.",
                                           "teacher.backbone.",
                                           "teacher.module.backbone.",
                                           "teacher.",
                                           "model.",
                                           "net."};
        static constexpr std::array beside{"optimizer",   "optim",      "scheduler", "lr_scheduler",    "scaler",
                                           "amp",         "epoch",      "student",   "dino_loss",       "args",
                                           "step",        "loss",       "best",      "global_step",     "model.",
                                           "state_dict.", "model_ema.", "ema.",      "state_dict_ema.", "teacher."};
        for (const char* prefix : sets) {
            Tensors chosen = below(tensors, prefix);
            if (chosen.empty()) continue;
            const bool rest_is_baggage = std::all_of(tensors.begin(), tensors.end(), [&](const auto& item) {
                if (item.first.starts_with(prefix)) return true;
                return std::any_of(beside.begin(), beside.end(),
                                   [&](const char* word) { return item.first.starts_with(word); });
            });
            if (!rest_is_baggage) continue;
            stripped += prefix;
            tensors = std::move(chosen);
            changed = true;
            break;
        }
        for (const std::string prefix : {"module.", "backbone.", "_orig_mod."}) {
            Tensors chosen = below(tensors, prefix);
            if (chosen.empty() || chosen.size() != tensors.size()) continue;
            stripped += prefix;
            tensors = std::move(chosen);
            changed = true;
        }
        if (!changed) break;
    }
    return stripped;
}

std::optional<at::ScalarType> scalar_type(DType dtype) {
    switch (dtype) {
        case DType::Bool:
            return at::kBool;
        case DType::U8:
            return at::kByte;
        case DType::I8:
            return at::kChar;
        case DType::I16:
            return at::kShort;
        case DType::U16:
            return at::kUInt16;
        case DType::I32:
            return at::kInt;
        case DType::U32:
            return at::kUInt32;
        case DType::I64:
            return at::kLong;
        case DType::U64:
            return at::kUInt64;
        case DType::F16:
            return at::kHalf;
        case DType::BF16:
            return at::kBFloat16;
        case DType::F32:
            return at::kFloat;
        case DType::F64:
            return at::kDouble;
        case DType::F8E4M3:
            return at::kFloat8_e4m3fn;
        case DType::F8E5M2:
            return at::kFloat8_e5m2;
        case DType::C64:
        case DType::C128:
        case DType::QI8:
        case DType::QU8:
        case DType::QI32:
            break;
    }
    return std::nullopt;
}

}  // namespace

std::vector<std::int64_t> Checkpoint::shape(const std::string& name) const {
    const auto found = file.tensors.find(name);
    return found == file.tensors.end() ? std::vector<std::int64_t>{} : found->second.shape;
}

Result<at::Tensor> Checkpoint::tensor(const std::string& name) const {
    const auto found = file.tensors.find(name);
    if (found == file.tensors.end()) return fail(ErrorCode::NotFound, "{}{} is missing", stripped_prefix, name);
    auto made = to_tensor(found->second);
    if (!made) return tl::make_unexpected(std::move(made.error()).with_context(stripped_prefix + name));
    return made;
}

Result<at::Tensor> Checkpoint::tensor(const std::string& name, std::vector<std::int64_t> shape) const {
    const auto found = file.tensors.find(name);
    if (found != file.tensors.end() && found->second.shape != shape)
        return fail(ErrorCode::BadInput, "{}{} is {}, expected {}", stripped_prefix, name,
                    shape_text(found->second.shape), shape_text(shape));
    return tensor(name);
}

Result<at::Tensor> to_tensor(const TensorEntry& entry) {
    const auto type = scalar_type(entry.dtype);
    if (!type)
        return fail(ErrorCode::Unsupported, "its type {} is not supported; expected a plain number type",
                    name_of(entry.dtype));
    // The reach of shape and strides; the reader has checked that it lies within the file.
    std::int64_t reach = 1, count = 1;
    for (std::size_t i = 0; i < entry.shape.size(); ++i) {
        if (entry.shape[i] < 0 || __builtin_mul_overflow(count, entry.shape[i], &count))
            return fail(ErrorCode::BadInput, "its shape {} is impossible", shape_text(entry.shape));
        if (entry.shape[i] > 0) reach += (entry.shape[i] - 1) * entry.strides[i];
    }
    try {
        if (count == 0) return at::empty(entry.shape, at::kFloat);
        // A tensor may be expanded in the file (stride 0): a few bytes must not become gigabytes.
        if (count > reach && count > (std::int64_t{1} << 26))
            return fail(ErrorCode::BadInput, "it repeats {} stored numbers to a shape of {}; that is refused", reach,
                        shape_text(entry.shape));
        // By memcpy and not in place: a file need not align its numbers.
        auto storage = at::empty({reach}, *type);
        std::memcpy(storage.mutable_data_ptr(), entry.data, static_cast<std::size_t>(reach) * size_of(entry.dtype));
        return storage.as_strided(entry.shape, entry.strides).to(at::kFloat).contiguous();
    } catch (const std::exception& error) {
        return fail(ErrorCode::OutOfMemory, "a tensor of shape {} does not fit into memory", shape_text(entry.shape));
    }
}

Result<Checkpoint> read_checkpoint(const fs::path& path) {
    std::error_code error;
    const auto status = fs::status(path, error);
    if (error || !fs::exists(status)) {
        if (error && error != std::errc::no_such_file_or_directory && error != std::errc::not_a_directory)
            return fail(ErrorCode::Io, "{} cannot be opened: {}", path.string(), error.message());
        return fail(ErrorCode::NotFound, "there is no file or folder {}", path.string());
    }
    Checkpoint checkpoint;
    checkpoint.path = path;
    const bool folder = fs::is_directory(status);
    if (!folder && !fs::is_regular_file(status))
        return fail(ErrorCode::BadInput, "{} is neither a file nor a folder", path.string());
    const fs::path file = folder ? VITRINE_TRY(file_of_folder(path)) : path;

    // What lies beside: NAME.json is about this file; config.json is about the folder's model, thus only for the usual
    // names.
    fs::path sidecar = file;
    sidecar.replace_extension(".json");
    const std::string stem = file.filename().string();
    const bool usual =
        folder || stem.starts_with("model.") || stem.starts_with("pytorch_model.") || stem.starts_with("open_clip_");
    // A folder may hold one tower twice, OpenCLIP's file beside transformers' one: each has its own configuration.
    const fs::path open_clip_config = file.parent_path() / "open_clip_config.json";
    const bool open_clip = stem.starts_with("open_clip_") && is_file(open_clip_config);
    if (is_file(sidecar) && sidecar != file) {
        checkpoint.config = VITRINE_TRY(read_json(sidecar));
    } else if (open_clip) {
        checkpoint.config = VITRINE_TRY(read_json(open_clip_config));
    } else if (usual && is_file(file.parent_path() / "config.json")) {
        checkpoint.config = VITRINE_TRY(read_json(file.parent_path() / "config.json"));
    } else if (usual && is_file(open_clip_config)) {
        checkpoint.config = VITRINE_TRY(read_json(open_clip_config));
    } else {
        checkpoint.config = nlohmann::json::object();
    }
    checkpoint.preprocessor = nlohmann::json::object();
    if (usual && !open_clip) {
        checkpoint.preprocessor = VITRINE_TRY(read_json(file.parent_path() / "preprocessor_config.json"));
        // transformers 5 saves a CLIP or SigLIP processor as one file.
        if (checkpoint.preprocessor.empty()) {
            const auto whole = VITRINE_TRY(read_json(file.parent_path() / "processor_config.json"));
            if (const auto found = whole.find("image_processor"); found != whole.end() && found->is_object())
                checkpoint.preprocessor = *found;
        }
    }

    if (stem.ends_with(".index.json")) {
        checkpoint.kind = FileKind::Safetensors;
        checkpoint.file = VITRINE_TRY(read_sharded_safetensors(file));
    } else {
        checkpoint.kind = VITRINE_TRY(sniff(file));
        switch (checkpoint.kind) {
            case FileKind::Safetensors:
                checkpoint.file = VITRINE_TRY(read_safetensors(file));
                break;
            case FileKind::TorchSaveZip:
            case FileKind::TorchSaveLegacy:
                checkpoint.file = VITRINE_TRY(read_torch_save(file));
                break;
            case FileKind::TorchScript:
                return checkpoint;
            case FileKind::Onnx:
                return fail(
                    ErrorCode::Unsupported,
                    "{} is an ONNX file, which this version does not open; convert it to safetensors or TorchScript",
                    file.string());
            case FileKind::Image:
                return fail(ErrorCode::BadInput, "{} is a picture, not a checkpoint", file.string());
            case FileKind::Json:
                return fail(ErrorCode::BadInput,
                            "{} is a JSON file, not a checkpoint; name the weights or their folder", file.string());
            case FileKind::Unknown:
                return fail(ErrorCode::BadInput,
                            "{} is no checkpoint: neither safetensors, nor a file of torch.save, nor TorchScript",
                            file.string());
        }
    }
    if (checkpoint.file.tensors.empty()) return fail(ErrorCode::BadInput, "{} holds no tensors", file.string());
    checkpoint.stripped_prefix = unwrap(checkpoint.file.tensors);
    return checkpoint;
}

}  // namespace vitrine
