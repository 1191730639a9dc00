// Reads preprocessing and class names out of the configuration files around a checkpoint.
#include <vitrine/configure.h>

#include <algorithm>
#include <cmath>

#include <vitrine/base/file.h>

#include "text.h"

namespace vitrine {

namespace {

using nlohmann::json;

const json& child(const json& object, const char* key) {
    static const json nothing;
    if (!object.is_object()) return nothing;
    const auto found = object.find(key);
    return found == object.end() ? nothing : *found;
}

Result<std::array<double, 3>> three(const json& value, const char* name) {
    std::array<double, 3> out{};
    if (value.is_number()) {
        out.fill(value.get<double>());
        return out;
    }
    if (!value.is_array() || value.size() != 3 ||
        !std::all_of(value.begin(), value.end(), [](const json& v) { return v.is_number(); }))
        return fail(ErrorCode::BadInput, "{} is {}, expected three numbers", name, value.dump());
    for (std::size_t i = 0; i < 3; ++i) out[i] = value[i].get<double>();
    return out;
}

Status check_std(const std::array<double, 3>& std_dev) {
    for (const double s : std_dev)
        if (!(std::abs(s) > 1e-12) || !std::isfinite(s))
            return fail(ErrorCode::BadInput, "std holds {}, expected numbers other than 0", s);
    return {};
}

Status check_size(std::int64_t height, std::int64_t width) {
    if (height < 1 || width < 1 || height > 16384 || width > 16384)
        return fail(ErrorCode::BadInput, "the input size is {} x {}, expected 1 to 16384 a side", height, width);
    return {};
}

Result<Interpolation> interpolation_of(const json& value, const char* name) {
    // PIL's numbers, as transformers writes them.
    static const Interpolation pil[] = {Interpolation::Nearest, Interpolation::Lanczos, Interpolation::Bilinear,
                                        Interpolation::Bicubic, Interpolation::Box,     Interpolation::Hamming};
    if (value.is_number_integer()) {
        const auto index = value.get<std::int64_t>();
        if (index >= 0 && index < 6) return pil[index];
    } else if (value.is_string()) {
        // timm draws at random while training and takes bilinear when it evaluates.
        const std::string text = lower(value.get<std::string>());
        if (text == "random") return Interpolation::Bilinear;
        if (const auto found = interpolation_named(text)) return *found;
    }
    return fail(ErrorCode::BadInput, "{} is {}, expected bilinear, bicubic, nearest, box, hamming or lanczos", name,
                value.dump());
}

/// A size as transformers writes it: 224, {"height", "width"} or {"shortest_edge"}. Heights of 0 are not given.
struct Size {
    std::int64_t height = 0, width = 0, shortest = 0;
};
Result<Size> size_of_json(const json& value, const char* name) {
    const auto whole = [](const json& v) {
        return v.is_number() ? static_cast<std::int64_t>(v.get<double>()) : std::int64_t{0};
    };
    Size out;
    if (value.is_number()) {
        out.height = out.width = whole(value);
    } else if (value.is_array() && value.size() == 2) {
        out.height = whole(value[0]);
        out.width = whole(value[1]);
    } else if (!child(value, "shortest_edge").is_null()) {
        out.shortest = whole(child(value, "shortest_edge"));
        VITRINE_CHECK(check_size(out.shortest, out.shortest));
        return out;
    } else if (value.is_object()) {
        out.height = whole(child(value, "height"));
        out.width = whole(child(value, "width"));
    }
    if (out.height < 1 || out.width < 1 || out.height > 16384 || out.width > 16384)
        return fail(ErrorCode::BadInput, "{} is {}, expected a size", name, value.dump());
    return out;
}

Result<Preprocess> from_timm(const json& config, Preprocess p) {
    p.source = "timm config.json";
    p.apply_exif = true;
    p.floor_crop = false;
    p.assumed.clear();
    const std::int64_t assumed_height = p.input_height, assumed_width = p.input_width;
    if (const json& size = child(config, "input_size"); size.is_array() && (size.size() == 2 || size.size() == 3)) {
        for (const json& v : size)
            if (!v.is_number_integer())
                return fail(ErrorCode::BadInput, "input_size is {}, expected [3, height, width]", size.dump());
        if (size.size() == 3 && size[0] != 3)
            return fail(ErrorCode::Unsupported, "the model takes {} colour channels; only RGB pictures can be fed",
                        size[0].dump());
        p.input_height = size[size.size() - 2].get<std::int64_t>();
        p.input_width = size[size.size() - 1].get<std::int64_t>();
    } else if (size.is_number_integer()) {
        p.input_height = p.input_width = size.get<std::int64_t>();
    } else if (!size.is_null()) {
        return fail(ErrorCode::BadInput, "input_size is {}, expected [3, height, width]", size.dump());
    } else {
        p.input_height = assumed_height;
        p.input_width = assumed_width;
        p.assumed.insert("input_size");
    }
    VITRINE_CHECK(check_size(p.input_height, p.input_width));
    if (const json& mean = child(config, "mean"); !mean.is_null())
        p.mean = VITRINE_TRY(three(mean, "mean"));
    else
        p.assumed.insert("mean");
    if (const json& std_dev = child(config, "std"); !std_dev.is_null())
        p.std = VITRINE_TRY(three(std_dev, "std"));
    else
        p.assumed.insert("std");
    if (const json& kind = child(config, "interpolation"); kind.is_string() && !kind.get<std::string>().empty())
        p.interpolation = VITRINE_TRY(interpolation_of(kind, "interpolation"));
    else if (!kind.is_null() && !kind.is_string())
        return fail(ErrorCode::BadInput, "interpolation is {}, expected a name", kind.dump());
    else
        p.assumed.insert("interpolation");
    double crop_pct = 0.875;  // timm.data.constants.DEFAULT_CROP_PCT
    if (const json& pct = child(config, "crop_pct"); pct.is_number()) {
        crop_pct = pct.get<double>();
        if (!(crop_pct > 0.01) || crop_pct > 4)
            return fail(ErrorCode::BadInput, "crop_pct is {}, expected 0.01 to 4", crop_pct);
    } else if (!pct.is_null()) {
        return fail(ErrorCode::BadInput, "crop_pct is {}, expected a number", pct.dump());
    } else {
        p.assumed.insert("crop_pct");
    }
    const auto scaled = [&](std::int64_t side) {
        return static_cast<std::int64_t>(std::floor(static_cast<double>(side) / crop_pct));
    };
    const json& mode = child(config, "crop_mode");
    const std::string crop_mode = mode.is_string() && mode != "" ? mode.get<std::string>() : "center";
    p.resize_height = scaled(p.input_height);
    p.resize_width = scaled(p.input_width);
    VITRINE_CHECK(check_size(p.resize_height, p.resize_width));
    if (crop_mode == "squash") {
        p.resize = Preprocess::Resize::Exact;
    } else if (crop_mode == "border") {
        p.resize = Preprocess::Resize::Contain;
        for (std::size_t c = 0; c < 3; ++c)  // Python's round: to the even neighbour, as nearbyint does
            p.padding[c] = static_cast<std::uint8_t>(std::clamp(std::nearbyint(255 * p.mean[c]), 0.0, 255.0));
    } else if (crop_mode != "center") {
        return fail(ErrorCode::BadInput, "crop_mode is {}, expected center, squash or border", mode.dump());
    } else if (p.resize_height == p.resize_width) {
        p.resize = Preprocess::Resize::ShortSide;
        p.resize_to = p.resize_height;
    } else {
        p.resize = Preprocess::Resize::Cover;
    }
    return p;
}

/// What an image processor of transformers takes where its file is silent.
/// @source transformers 5.24, the class attributes of models/*/image_processing_pil_*.py
struct Processor {
    const char* type;
    std::initializer_list<const char*> models;  // model_type in config.json, for files that name no processor
    bool short_side;                            // a bare number is the short side, not a square
    Interpolation interpolation;
    std::array<double, 3> mean, std;
    std::int64_t size;
    bool sized_by_short_side;
    std::int64_t crop;  // 0: none
};
const Processor* processor_of(const json& config, const json& model) {
    using enum Interpolation;
    static const std::array<double, 3> half{0.5, 0.5, 0.5}, imagenet{0.485, 0.456, 0.406},
        imagenet_std{0.229, 0.224, 0.225}, openai{0.48145466, 0.4578275, 0.40821073},
        openai_std{0.26862954, 0.26130258, 0.27577711};
    static const Processor known[] = {
        {"ViT", {"vit", "vit_mae", "vit_msn", "ijepa"}, false, Bilinear, half, half, 224, false, 0},
        {"DeiT", {"deit"}, false, Bicubic, half, half, 256, false, 224},
        {"CLIP", {"clip", "clip_vision_model"}, true, Bicubic, openai, openai_std, 224, true, 224},
        {"Siglip", {"siglip", "siglip_vision_model"}, true, Bicubic, half, half, 224, false, 0},
        {"Bit", {"dinov2", "dinov2_with_registers"}, true, Bicubic, openai, openai_std, 224, true, 224},
        {"ConvNext", {"convnext", "resnet"}, true, Bicubic, half, half, 384, true, 0},
        {"DINOv3ViT", {"dinov3_vit"}, false, Bilinear, imagenet, imagenet_std, 224, false, 0}};
    std::string type;
    for (const char* key : {"image_processor_type", "feature_extractor_type"})
        if (const json& name = child(config, key); type.empty() && name.is_string()) type = name.get<std::string>();
    for (const char* ending : {"Fast", "Pil", "ImageProcessor", "FeatureExtractor"})
        if (type.ends_with(ending)) type.resize(type.size() - std::string_view(ending).size());
    const json& model_type = child(model, "model_type");
    for (const Processor& one : known)
        if (type == one.type || (type.empty() && std::any_of(one.models.begin(), one.models.end(),
                                                             [&](const char* m) { return model_type == m; })))
            return &one;
    return nullptr;
}

Result<Preprocess> from_transformers(const json& config, const json& model, Preprocess p) {
    p.source = "preprocessor_config.json";
    p.assumed.clear();
    const Processor* usual = processor_of(config, model);
    const bool shrinks_then_crops = usual != nullptr && std::string_view(usual->type) == "ConvNext";
    const auto flag = [&](const char* key, bool otherwise) {
        const json& v = child(config, key);
        return v.is_boolean() ? v.get<bool>() : otherwise;
    };
    if (const json& resample = child(config, "resample"); !resample.is_null())
        p.interpolation = VITRINE_TRY(interpolation_of(resample, "resample"));
    else if (usual != nullptr)
        p.interpolation = usual->interpolation;
    else
        p.assumed.insert("interpolation");
    if (flag("do_pad", false)) return fail(ErrorCode::Unsupported, "do_pad is true, which is not supported");
    const bool crops = flag("do_center_crop", usual != nullptr && usual->crop > 0);
    p.floor_crop = true;  // transformers.image_transforms.center_crop: (height - crop) // 2
    p.resize = Preprocess::Resize::None;
    if (flag("do_resize", true)) {
        const json& size = child(config, "size");
        if (size.is_null() && usual == nullptr)
            return fail(ErrorCode::BadInput, "preprocessor_config.json resizes but has no \"size\"");
        if (!child(size, "longest_edge").is_null() || !child(size, "max_height").is_null())
            return fail(ErrorCode::Unsupported,
                        "size is {}; only a height and width or a shortest_edge can be followed", size.dump());
        Size to{usual == nullptr ? 0 : usual->size, usual == nullptr ? 0 : usual->size, 0};
        if (!size.is_null()) to = VITRINE_TRY(size_of_json(size, "size"));
        const bool bare = size.is_number();
        // Old files write a bare number. Processors differ in what it means; unnamed ones are guessed by the crop.
        if ((size.is_null() && usual->sized_by_short_side) || (bare && (usual == nullptr ? crops : usual->short_side)))
            to.shortest = to.height;
        if (bare && usual == nullptr) p.assumed.insert("resize");
        if (to.shortest > 0 && shrinks_then_crops) {
            // ConvNextImageProcessor.resize: below 384 a wider resize and a crop, from there on a squash.
            double crop_pct = 224.0 / 256.0;
            if (const json& pct = child(config, "crop_pct"); pct.is_number()) crop_pct = pct.get<double>();
            if (!(crop_pct > 0.01) || crop_pct > 4)
                return fail(ErrorCode::BadInput, "crop_pct is {}, expected 0.01 to 4", crop_pct);
            p.resize = to.shortest < 384 ? Preprocess::Resize::ShortSide : Preprocess::Resize::Exact;
            p.resize_to = static_cast<std::int64_t>(static_cast<double>(to.shortest) / crop_pct);
            p.input_height = p.input_width = p.resize_height = p.resize_width = to.shortest;
            if (crops)
                return fail(ErrorCode::Unsupported, "{} crops twice (do_center_crop is true), which cannot be followed",
                            usual->type);
        } else if (to.shortest > 0) {
            p.resize = Preprocess::Resize::ShortSide;
            p.resize_to = p.input_height = p.input_width = to.shortest;
            // transformers then keeps the picture's shape; models are fed one size here, so the middle is taken.
            if (!crops) p.assumed.insert("crop");
        } else {
            p.resize = Preprocess::Resize::Exact;
            p.resize_height = p.input_height = to.height;
            p.resize_width = p.input_width = to.width;
        }
    }
    if (crops) {
        const json& crop_size = child(config, "crop_size");
        if (crop_size.is_null() && (usual == nullptr || usual->crop == 0))
            return fail(ErrorCode::BadInput, "preprocessor_config.json crops but has no \"crop_size\"");
        Size crop_to{usual == nullptr ? 0 : usual->crop, usual == nullptr ? 0 : usual->crop, 0};
        if (!crop_size.is_null()) crop_to = VITRINE_TRY(size_of_json(crop_size, "crop_size"));
        p.input_height = crop_to.shortest > 0 ? crop_to.shortest : crop_to.height;
        p.input_width = crop_to.shortest > 0 ? crop_to.shortest : crop_to.width;
    }
    VITRINE_CHECK(check_size(p.input_height, p.input_width));
    if (const json& factor = child(config, "rescale_factor");
        factor.is_number() && std::abs(factor.get<double>() * 255 - 1) > 1e-3)
        return fail(ErrorCode::Unsupported, "rescale_factor is {}, expected 1/255", factor.dump());
    if (!flag("do_rescale", true)) return fail(ErrorCode::Unsupported, "do_rescale is false, which is not supported");
    if (!flag("do_normalize", true)) {
        p.mean = {0, 0, 0};
        p.std = {1, 1, 1};
        return p;
    }
    const auto statistic = [&](const char* key, const char* name, const std::array<double, 3>* usual_value,
                               std::array<double, 3>& out) -> Status {
        if (const json& value = child(config, key); !value.is_null())
            out = VITRINE_TRY(three(value, key));
        else if (usual_value != nullptr)
            out = *usual_value;
        else
            p.assumed.insert(name);
        return {};
    };
    VITRINE_CHECK(statistic("image_mean", "mean", usual == nullptr ? nullptr : &usual->mean, p.mean));
    VITRINE_CHECK(statistic("image_std", "std", usual == nullptr ? nullptr : &usual->std, p.std));
    return p;
}

Result<Preprocess> from_openclip(const json& config, Preprocess p) {
    p.source = "open_clip_config.json";
    p.assumed.clear();
    // open_clip.constants: OPENAI_DATASET_MEAN and _STD, bicubic, short side, centre crop.
    p.mean = {0.48145466, 0.4578275, 0.40821073};
    p.std = {0.26862954, 0.26130258, 0.27577711};
    p.interpolation = Interpolation::Bicubic;
    p.resize = Preprocess::Resize::ShortSide;
    const json& cfg = child(config, "preprocess_cfg");
    if (const json& mean = child(cfg, "mean"); !mean.is_null()) p.mean = VITRINE_TRY(three(mean, "mean"));
    if (const json& std_dev = child(cfg, "std"); !std_dev.is_null()) p.std = VITRINE_TRY(three(std_dev, "std"));
    if (const json& kind = child(cfg, "interpolation"); kind.is_string() && kind != "random")
        p.interpolation = VITRINE_TRY(interpolation_of(kind, "interpolation"));
    const json& size = child(child(child(config, "model_cfg"), "vision_cfg"), "image_size");
    if (!size.is_null()) {
        const Size to = VITRINE_TRY(size_of_json(size, "image_size"));
        p.input_height = to.height;
        p.input_width = to.width;
    } else {
        p.assumed.insert("input_size");
    }
    p.resize_to = p.resize_height = p.input_height;
    p.resize_width = p.input_width;
    const json& mode = child(cfg, "resize_mode");
    const std::string resize_mode = mode.is_string() && mode != "" ? mode.get<std::string>() : "shortest";
    if (resize_mode == "squash") {
        p.resize = Preprocess::Resize::Exact;
    } else if (resize_mode == "longest") {
        p.resize = Preprocess::Resize::Contain;
        if (const json& colour = child(cfg, "fill_color"); colour.is_number()) {
            const double fill = colour.get<double>();
            if (!(fill >= 0 && fill <= 255))
                return fail(ErrorCode::BadInput, "fill_color is {}, expected 0 to 255", colour.dump());
            p.padding.fill(static_cast<std::uint8_t>(fill));
        }
    } else if (resize_mode != "shortest") {
        return fail(ErrorCode::BadInput, "resize_mode is {}, expected shortest, longest or squash", mode.dump());
    } else if (p.input_height != p.input_width) {
        p.resize = Preprocess::Resize::Cover;
        p.interpolation = Interpolation::Bicubic;  // open_clip.transform passes none there
    }
    return p;
}

}  // namespace

Result<Preprocess> preprocess_for(const Checkpoint& checkpoint, Preprocess otherwise) {
    const json& config = checkpoint.config;
    const auto finish = [](Result<Preprocess> made) -> Result<Preprocess> {
        if (made) VITRINE_CHECK(check_std(made->std));
        return made;
    };
    if (!checkpoint.preprocessor.empty() && checkpoint.preprocessor.is_object())
        return finish(from_transformers(checkpoint.preprocessor, config, std::move(otherwise)));
    if (child(config, "preprocess_cfg").is_object() || child(config, "model_cfg").is_object())
        return finish(from_openclip(config, std::move(otherwise)));
    const json& nested = child(config, "pretrained_cfg");
    const json& timm = nested.is_object() ? nested : config;
    for (const char* key : {"input_size", "mean", "std", "crop_pct", "interpolation"}) {
        if (child(timm, key).is_null()) continue;
        auto made = from_timm(timm, std::move(otherwise));
        if (made && !nested.is_object()) made->source = "the configuration beside the file";
        return finish(std::move(made));
    }
    otherwise.assumed = {"input_size", "mean", "std", "interpolation", "crop_pct"};
    if (otherwise.source.empty()) otherwise.source = "assumed";
    return finish(std::move(otherwise));
}

Result<Labels> labels_for(const Checkpoint& checkpoint, std::int64_t classes) {
    if (classes <= 0) return Labels{};
    const json& config = checkpoint.config;
    const auto sized = [&](Labels labels) -> Result<Labels> {
        if (static_cast<std::int64_t>(labels.names.size()) != classes)
            return fail(ErrorCode::BadInput, "{} has {} names, expected {}, one for each class", labels.source,
                        labels.names.size(), classes);
        return labels;
    };
    const auto listed = [&](const json& list, const char* source) -> Result<Labels> {
        Labels labels;
        labels.source = source;
        for (const json& name : list) {
            if (!name.is_string()) return fail(ErrorCode::BadInput, "{} holds {}, expected names", source, name.dump());
            labels.names.push_back(name.get<std::string>());
        }
        return sized(std::move(labels));
    };
    const json& nested = child(config, "pretrained_cfg");
    for (const json* where : {&config, &nested}) {
        if (const json& labels = child(*where, "labels"); labels.is_array())
            return listed(labels, "labels of the configuration");
        if (const json& labels = child(*where, "label_names"); labels.is_array())
            return listed(labels, "label_names of the configuration");
    }
    if (const json& labels = child(config, "labels"); labels.is_string()) {
        const std::string name = labels.get<std::string>();
        if (!stays_inside(name))
            return fail(ErrorCode::BadInput, "labels is '{}', expected a file beside the checkpoint", name);
        std::error_code ignored;
        const auto folder =
            std::filesystem::is_directory(checkpoint.path, ignored) ? checkpoint.path : checkpoint.path.parent_path();
        const std::string text = VITRINE_TRY(read_text(folder / name, 16u << 20));
        Labels read;
        read.source = name;
        std::string line;
        for (const char c : text + (text.ends_with('\n') ? "" : "\n")) {
            if (c == '\n') {
                read.names.push_back(line);
                line.clear();
            } else if (c != '\r') {
                line.push_back(c);
            }
        }
        while (static_cast<std::int64_t>(read.names.size()) > classes && read.names.back().empty())
            read.names.pop_back();
        return sized(std::move(read));
    }
    if (const json& names = child(config, "id2label");
        names.is_object() && static_cast<std::int64_t>(names.size()) == classes) {
        Labels labels;
        labels.source = "config.json id2label";
        bool useful = false;
        for (std::int64_t i = 0; i < classes; ++i) {
            const json& name = child(names, std::to_string(i).c_str());
            labels.names.push_back(name.is_string() ? name.get<std::string>() : "");
            // transformers writes LABEL_0, LABEL_1, ... where nobody gave names: that is no name.
            useful = useful || (name.is_string() && labels.names.back() != fmt::format("LABEL_{}", i));
        }
        if (useful) return labels;
    }
    const json& tag = child(nested, "tag");
    const std::string tag_text = tag.is_string() ? lower(tag.get<std::string>()) : "";
    if (classes == 1000) {
        Labels labels{imagenet1k_names(), "ImageNet-1k (bundled, chosen by class count)", true};
        if (tag_text.ends_with("in1k"))
            labels.source = "ImageNet-1k (bundled, chosen by the tag " + tag_text + ")", labels.assumed = false;
        return labels;
    }
    if (classes == 10) return Labels{cifar10_names(), "CIFAR-10 (bundled, chosen by class count)", true};
    return Labels{};
}

}  // namespace vitrine
