// Saves the contract suite's ViT the way people get theirs.
#include "tiny_model.h"

#include <vitrine/autoencoder.h>
#include <vitrine/base/file.h>
#include <vitrine/base/readers.h>
#include <vitrine/registry.h>

namespace vitrine::test {

namespace {

Status write_tensors(const std::filesystem::path& file, const std::vector<std::pair<std::string, at::Tensor>>& tensors,
                     const std::map<std::string, std::string>& metadata) {
    std::vector<at::Tensor> kept;
    std::vector<NamedTensor> named;
    for (const auto& [name, tensor] : tensors) {
        kept.push_back(tensor.detach().to(at::kCPU, at::kFloat).contiguous());
        TensorEntry entry;
        entry.dtype = DType::F32;
        entry.shape = kept.back().sizes().vec();
        entry.strides = kept.back().strides().vec();
        entry.data = reinterpret_cast<const std::byte*>(kept.back().const_data_ptr<float>());
        named.push_back({name, entry});
    }
    return write_safetensors(file, named, metadata);
}

Status write_model(const std::filesystem::path& folder, const Architecture& architecture, Model& model,
                   const std::string& title, bool with_head = true) {
    auto parameters = model.parameters();
    if (!with_head) std::erase_if(parameters, [](const auto& one) { return one.first.starts_with("head."); });
    std::error_code failed;
    std::filesystem::create_directories(folder, failed);
    VITRINE_CHECK(write_tensors(folder / "model.safetensors", parameters, {}));
    auto configuration = architecture.configuration(model, title);
    if (!with_head) configuration["num_classes"] = configuration["pretrained_cfg"]["num_classes"] = 0;
    return write_text(folder / "config.json", configuration.dump());
}

/// 64 concepts that read the tiny ViT.
Result<AutoencoderConfig> of_the_tiny_one() {
    const auto* architecture = VITRINE_TRY(registry().architecture("vit"));
    const auto model = VITRINE_TRY(architecture->tiny(7));
    AutoencoderConfig config;
    config.width = model->info().width;
    config.latents = 64;
    config.point = model->info().layers > 1 ? "blocks.1" : "blocks.0";
    return config;
}

Status write_random(const AutoencoderConfig& config, const std::filesystem::path& file) {
    auto one = VITRINE_TRY(Autoencoder::make(config, 3));
    return one.save(file);
}

}  // namespace

Status write_tiny_model(const std::filesystem::path& folder) {
    const auto* architecture = VITRINE_TRY(registry().architecture("vit"));
    const auto model = VITRINE_TRY(architecture->tiny(7));
    return write_model(folder, *architecture, *model, "vit_tiny_test");
}

Status write_headless_model(const std::filesystem::path& folder) {
    const auto* architecture = VITRINE_TRY(registry().architecture("vit"));
    const auto model = VITRINE_TRY(architecture->tiny(7));
    return write_model(folder, *architecture, *model, "vit_headless_test", false);
}

Status write_wide_model(const std::filesystem::path& folder, std::int64_t side) {
    const auto* architecture = VITRINE_TRY(registry().architecture("vit"));
    Settings settings(architecture->parameters());
    for (const auto& [name, value] : {std::pair<const char*, std::string>{"image_size", std::to_string(side)},
                                      {"patch", "16"},
                                      {"width", "64"},
                                      {"depth", "1"},
                                      {"heads", "1"},
                                      {"registers", "0"},
                                      {"classes", "3"}})
        VITRINE_CHECK(settings.set(name, value));
    const auto model = VITRINE_TRY(architecture->create(settings, 5));
    return write_model(folder, *architecture, *model, "vit_wide_test");
}

Status write_tiny_concepts(const std::filesystem::path& file, bool says_point) {
    AutoencoderConfig config = VITRINE_TRY(of_the_tiny_one());
    config.k = 3;
    if (!says_point) config.point.clear();
    return write_random(config, file);
}

Status write_wide_concepts(const std::filesystem::path& file, std::int64_t latents, std::int64_t k) {
    AutoencoderConfig config;
    config.width = 64;
    config.latents = latents;
    config.k = k;
    config.point = "blocks.0";
    return write_random(config, file);
}

Status write_free_concepts(const std::filesystem::path& file, std::int64_t layer) {
    AutoencoderConfig config = VITRINE_TRY(of_the_tiny_one());
    config.kind = "relu";
    config.point = "blocks." + std::to_string(layer);
    return write_random(config, file);
}

Status write_foreign_concepts(const std::filesystem::path& file, const std::string& activation) {
    AutoencoderConfig config = VITRINE_TRY(of_the_tiny_one());
    config.kind = "relu";
    config.point.clear();
    const auto one = VITRINE_TRY(Autoencoder::make(config, 3));
    return write_tensors(file,
                         {{"encoder.weight", one.tensor("W_enc").t()},
                          {"latent_bias", one.tensor("b_enc")},
                          {"pre_bias", one.tensor("b_dec")},
                          {"decoder.weight", one.tensor("W_dec").t()}},
                         {{"activation", activation}});
}

}  // namespace vitrine::test
