// Registers the architecture `vit`: opens the plain ViT family, makes small ones for tests and fresh ones to train.
#include <algorithm>
#include <cmath>

#include <vitrine/configure.h>
#include <vitrine/registry.h>

#include "dialects.h"
#include "vit.h"

namespace vitrine::plugin::vit {

namespace {

/// "ViT-Ti/16", as papers call the usual widths.
std::string title_of(const VitConfig& c, const std::string& dialect) {
    static const std::pair<std::int64_t, const char*> sizes[] = {{192, "Ti"}, {384, "S"},  {768, "B"},  {1024, "L"},
                                                                 {1280, "H"}, {1408, "g"}, {1536, "g"}, {1664, "G"}};
    std::string size = fmt::format("{}", c.width);
    for (const auto& [width, name] : sizes)
        if (width == c.width) size = name;
    std::string family = "ViT";
    if (dialect == "openclip" || (dialect == "transformers clip" && c.class_token))
        family = "CLIP ViT";
    else if (c.pool == Pool::AttentionPool)
        family = "SigLIP ViT";
    else if (c.rope_theta)
        family = "DINOv3 ViT";
    else if (c.distillation_token)
        family = "DeiT";
    const std::string patch = c.patch_height == c.patch_width ? fmt::format("{}", c.patch_height)
                                                              : fmt::format("{}x{}", c.patch_height, c.patch_width);
    return fmt::format("{}-{}/{}", family, size, patch);
}

std::string name_of_model(const Checkpoint& checkpoint) {
    for (const char* key : {"architecture", "_name_or_path", "name"}) {
        const auto found = checkpoint.config.find(key);
        if (found != checkpoint.config.end() && found->is_string() && !found->get<std::string>().empty())
            return found->get<std::string>();
    }
    const auto path = checkpoint.path.filename().empty() ? checkpoint.path.parent_path() : checkpoint.path;
    return path.stem().string();
}

/// What the family's published models are fed with, for checkpoints that do not say.
Preprocess usual_preprocess(const VitConfig& c, const std::string& dialect) {
    Preprocess p;
    p.input_height = c.image_height;
    p.input_width = c.image_width;
    const auto side = std::min(c.image_height, c.image_width);
    p.interpolation = Interpolation::Bicubic;
    p.source = "assumed";
    double crop_pct = 0.9;
    if (dialect == "openclip" || dialect == "transformers clip") {
        p.mean = {0.48145466, 0.4578275, 0.40821073};
        p.std = {0.26862954, 0.26130258, 0.27577711};
        crop_pct = 1.0;
    } else if (dialect == "torchvision") {
        p.source = "torchvision preset";  // ViT_B_16_Weights.IMAGENET1K_V1: resize 256, bilinear
        p.interpolation = Interpolation::Bilinear;
        crop_pct = 0.875;
    } else if (dialect == "transformers" && !c.layer_scale) {
        p.mean = p.std = {0.5, 0.5, 0.5};  // ViTImageProcessor
    } else if (dialect == "timm" && !c.layer_scale && !c.distillation_token && c.class_token && c.classes > 0) {
        p.mean = p.std = {0.5, 0.5, 0.5};  // the AugReg weights, by far the most used
    }
    if ((dialect == "transformers clip" || dialect == "timm") && c.pool == Pool::AttentionPool)
        p.mean = p.std = {0.5, 0.5, 0.5}, crop_pct = 1.0;
    if (c.image_height != c.image_width) {
        p.resize = Preprocess::Resize::Exact;
        p.resize_height = c.image_height;
        p.resize_width = c.image_width;
    } else {
        p.resize = Preprocess::Resize::ShortSide;
        p.resize_to = static_cast<std::int64_t>(std::floor(static_cast<double>(side) / crop_pct));
    }
    return p;
}

class VitArchitecture : public Architecture {
  public:
    Description description() const override {
        return {"vit", "Vision transformer",
                "Plain vision transformers under the names of timm, transformers, torchvision, OpenCLIP and the "
                "original repositories",
                "Dosovitskiy et al., An Image is Worth 16x16 Words, ICLR 2021", 0};
    }

    std::vector<Parameter> parameters() const override {
        return {
            {"image_size", std::int64_t{128}, "side of the square input", "px", "", 8, 16384, {}},
            {"patch", std::int64_t{8}, "side of a patch", "px", "", 1, 256, {}},
            {"width", std::int64_t{192}, "width of a token", "", "DeiT-Ti", 8, 8192, {}},
            {"depth", std::int64_t{9}, "number of blocks", "", "", 1, 256, {}},
            {"heads", std::int64_t{3}, "attention heads in a block", "", "DeiT-Ti", 1, 256, {}},
            {"registers", std::int64_t{4}, "register tokens", "", "Darcet et al., ICLR 2024", 0, 256, {}},
            {"mlp_ratio", 4.0, "hidden width of the MLP over the width", "", "Dosovitskiy et al.", 0.25, 16, {}},
            {"layer_scale",
             1e-4,
             "initial layer scale; 0 leaves it out",
             "",
             "Touvron et al., CaiT, ICCV 2021",
             0,
             1,
             {}},
            {"class_token",
             true,
             "a class token; without one the patches are averaged",
             "",
             "Dosovitskiy et al.",
             {},
             {},
             {}},
            {"classes", std::int64_t{20}, "number of classes", "", "", 1, 100000, {}},
        };
    }

    Recognition recognise(const Checkpoint& checkpoint) const override { return recognise_dialect(checkpoint); }

    Result<std::unique_ptr<Model>> build(const Checkpoint& checkpoint) const override {
        Translation t = VITRINE_TRY(translate(checkpoint));
        auto model = VITRINE_TRY(VitModel::make(t.config, std::move(t.tensors)));
        ModelInfo& info = model->info();
        info.name = name_of_model(checkpoint);
        info.title = title_of(t.config, t.dialect);
        info.dialect = t.dialect;
        info.why = recognise_dialect(checkpoint).why;
        info.notes = std::move(t.notes);
        const Preprocess usual = usual_preprocess(t.config, t.dialect);
        model->preprocess() = VITRINE_TRY(preprocess_for(checkpoint, usual));
        const Preprocess& p = model->preprocess();
        if (p.input_height % t.config.patch_height != 0 || p.input_width % t.config.patch_width != 0)
            return fail(ErrorCode::BadInput, "the configuration's input {} x {} is not a multiple of the patch {} x {}",
                        p.input_height, p.input_width, t.config.patch_height, t.config.patch_width);
        if (t.config.learned_positions &&
            (p.input_height != t.config.image_height || p.input_width != t.config.image_width))
            info.notes.push_back(fmt::format(
                "positions are resized from {} x {} to {} x {} patches", t.config.grid_height(), t.config.grid_width(),
                p.input_height / t.config.patch_height, p.input_width / t.config.patch_width));
        model->labels() = VITRINE_TRY(labels_for(checkpoint, t.config.classes));
        return std::unique_ptr<Model>(std::move(model));
    }

    Result<std::unique_ptr<Model>> tiny(std::uint64_t seed) const override {
        VitConfig c;
        c.image_height = c.image_width = 32;
        c.patch_height = c.patch_width = 8;
        c.width = 32;
        c.depth = 3;
        c.heads = 2;
        c.mlp_hidden = 64;
        c.classes = 10;
        c.registers = 1;
        c.position_prefix = 0;
        auto model = VITRINE_TRY(VitModel::spread(c, seed));
        name(*model, "tiny vision transformer");
        return std::unique_ptr<Model>(std::move(model));
    }

    Result<std::unique_ptr<Model>> create(const Settings& settings, std::uint64_t seed) const override {
        VitConfig c;
        c.image_height = c.image_width = settings.integer("image_size");
        c.patch_height = c.patch_width = settings.integer("patch");
        c.width = settings.integer("width");
        c.depth = settings.integer("depth");
        c.heads = settings.integer("heads");
        c.registers = settings.integer("registers");
        c.mlp_hidden =
            static_cast<std::int64_t>(std::llround(static_cast<double>(c.width) * settings.number("mlp_ratio")));
        c.layer_scale = settings.number("layer_scale") > 0;
        c.class_token = settings.flag("class_token");
        c.pool = c.class_token ? Pool::ClassToken : Pool::MeanPatches;
        // timm norms the mean itself where it pools.
        c.fc_norm = !c.class_token;
        c.final_norm = c.class_token;
        c.position_prefix = 0;  // positions belong to patches (timm's no_embed_class)
        c.classes = settings.integer("classes");
        auto model = VITRINE_TRY(VitModel::fresh(c, seed, settings.number("layer_scale")));
        name(*model, "fresh vision transformer");
        return std::unique_ptr<Model>(std::move(model));
    }

    nlohmann::json configuration(const Model& model, const std::string& name) const override {
        const auto* vit = dynamic_cast<const VitModel*>(&model);
        return vit != nullptr ? timm_config(*vit, name) : nlohmann::json::object();
    }

  private:
    static void name(VitModel& model, const char* why) {
        const VitConfig& c = model.config();
        model.info().name = fmt::format("vit_{}_patch{}_{}", c.width, c.patch_height, c.image_height);
        model.info().title = title_of(c, "timm");
        model.info().dialect = "timm";
        model.info().why = why;
        Preprocess& p = model.preprocess();
        p.resize = Preprocess::Resize::ShortSide;
        p.resize_to = c.image_height;
        p.input_height = c.image_height;
        p.input_width = c.image_width;
        p.mean = {0.485, 0.456, 0.406};
        p.std = {0.229, 0.224, 0.225};
        p.source = "made here";
        p.assumed.clear();
    }
};

}  // namespace

}  // namespace vitrine::plugin::vit

VITRINE_PLUGIN(vit) { registry.add(std::make_unique<vitrine::plugin::vit::VitArchitecture>()); }
