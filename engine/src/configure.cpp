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
    } else if (value.is_object() && value.contains("shortest_edge")) {
        out.shortest = whole(value["shortest_edge"]);
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
    const std::string crop_mode = mode.is_string() ? mode.get<std::string>() : "center";
    p.resize_height = scaled(p.input_height);
    p.resize_width = scaled(p.input_width);
    VITRINE_CHECK(check_size(p.resize_height, p.resize_width));
    if (crop_mode == "squash") {
        p.resize = Preprocess::Resize::Exact;
    } else if (crop_mode == "border") {
        return fail(ErrorCode::Unsupported, "crop_mode is border, which is not supported; expected center or squash");
    } else if (p.resize_height == p.resize_width) {
        p.resize = Preprocess::Resize::ShortSide;
        p.resize_to = p.resize_height;
    } else {
        p.resize = Preprocess::Resize::Cover;
    }
    return p;
}

Result<Preprocess> from_transformers(const json& config, Preprocess p) {
    p.source = "preprocessor_config.json";
    p.assumed.clear();
    const auto flag = [&](const char* key, bool otherwise) {
        const json& v = child(config, key);
        return v.is_boolean() ? v.get<bool>() : otherwise;
    };
    const json& resample = child(config, "resample");
    if (!resample.is_null())
        p.interpolation = VITRINE_TRY(interpolation_of(resample, "resample"));
    else
        p.assumed.insert("interpolation");
    const bool crops = flag("do_center_crop", false);
    const json& size = child(config, "size");
    p.resize = Preprocess::Resize::None;
    if (flag("do_resize", true)) {
        if (size.is_null()) return fail(ErrorCode::BadInput, "preprocessor_config.json resizes but has no \"size\"");
        const Size to = VITRINE_TRY(size_of_json(size, "size"));
        // Older files write one number and mean the short side when a crop follows.
        if (to.shortest > 0 || (size.is_number() && crops)) {
            p.resize = Preprocess::Resize::ShortSide;
            p.resize_to = to.shortest > 0 ? to.shortest : to.height;
            p.input_height = p.input_width = p.resize_to;
        } else {
            p.resize = Preprocess::Resize::Exact;
            p.resize_height = p.input_height = to.height;
            p.resize_width = p.input_width = to.width;
        }
        // DeiT's processor widens by 256 / 224 through crop_pct.
        if (const json& pct = child(config, "crop_pct");
            pct.is_number() && !crops && p.resize == Preprocess::Resize::ShortSide) {
            const double crop_pct = pct.get<double>();
            if (!(crop_pct > 0.01) || crop_pct > 4)
                return fail(ErrorCode::BadInput, "crop_pct is {}, expected 0.01 to 4", crop_pct);
            p.resize_to = static_cast<std::int64_t>(static_cast<double>(p.resize_to) / crop_pct);
        }
    }
    if (crops) {
        const json& crop_size = child(config, "crop_size");
        if (crop_size.is_null())
            return fail(ErrorCode::BadInput, "preprocessor_config.json crops but has no \"crop_size\"");
        const Size crop_to = VITRINE_TRY(size_of_json(crop_size, "crop_size"));
        p.input_height = crop_to.shortest > 0 ? crop_to.shortest : crop_to.height;
        p.input_width = crop_to.shortest > 0 ? crop_to.shortest : crop_to.width;
        p.floor_crop = true;  // transformers.image_transforms.center_crop: (height - crop) // 2
    }
    VITRINE_CHECK(check_size(p.input_height, p.input_width));
    if (const json& factor = child(config, "rescale_factor");
        factor.is_number() && std::abs(factor.get<double>() * 255 - 1) > 1e-3)
        return fail(ErrorCode::Unsupported, "rescale_factor is {}, expected 1/255", factor.dump());
    if (!flag("do_rescale", true)) return fail(ErrorCode::Unsupported, "do_rescale is false, which is not supported");
    if (flag("do_normalize", true)) {
        if (const json& mean = child(config, "image_mean"); !mean.is_null())
            p.mean = VITRINE_TRY(three(mean, "image_mean"));
        else
            p.assumed.insert("mean");
        if (const json& std_dev = child(config, "image_std"); !std_dev.is_null())
            p.std = VITRINE_TRY(three(std_dev, "image_std"));
        else
            p.assumed.insert("std");
    } else {
        p.mean = {0, 0, 0};
        p.std = {1, 1, 1};
    }
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
    if (const json& kind = child(cfg, "interpolation"); kind.is_string())
        p.interpolation = VITRINE_TRY(interpolation_of(kind, "interpolation"));
    const json& size = child(child(child(config, "model_cfg"), "vision_cfg"), "image_size");
    if (!size.is_null()) {
        const Size to = VITRINE_TRY(size_of_json(size, "image_size"));
        p.input_height = to.height;
        p.input_width = to.width;
    } else {
        p.assumed.insert("input_size");
    }
    if (p.input_height != p.input_width)
        return fail(ErrorCode::Unsupported,
                    "image_size is {} x {}; OpenCLIP's preprocessing is known here for square inputs only",
                    p.input_height, p.input_width);
    p.resize_to = p.input_height;
    if (const json& mode = child(cfg, "resize_mode"); mode.is_string() && mode.get<std::string>() == "squash") {
        p.resize = Preprocess::Resize::Exact;
        p.resize_height = p.resize_width = p.input_height;
    } else if (mode.is_string() && mode.get<std::string>() == "longest") {
        return fail(ErrorCode::Unsupported,
                    "resize_mode is longest, which is not supported; expected shortest or squash");
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
        return finish(from_transformers(checkpoint.preprocessor, std::move(otherwise)));
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
