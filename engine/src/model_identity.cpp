// Hashes what is steered: the concepts, the lines their values go through and the tokens, for each steering within.
#include <vitrine/model_identity.h>

#include <vitrine/base/random.h>
#include <vitrine/concept_index.h>
#include <vitrine/mask_module.h>

#include "steering_model.h"

namespace vitrine {

namespace {

/// The tokens of a steering, the same text for boxes that cover the same patches.
std::string place_of(const Steering& steering) {
    if (steering.tokens != Steering::Tokens::Chosen) return tokens_text(steering);
    const at::Tensor mask = mask_of(steering);
    std::vector<std::int64_t> patches;
    for (std::int64_t i = 0; i < mask.numel(); ++i)
        if (mask.const_data_ptr<float>()[i] != 0) patches.push_back(i);
    return fmt::format("{} of {} x {}", tokens_text(Steering::Tokens::Chosen, boxes_of(patches, steering.cols)),
                       steering.rows, steering.cols);
}

/// Empty where nothing is changed.
std::string text_of(const Steering& steering) {
    const auto lines = edited_lines(steering);
    if (lines.empty()) return {};
    std::string out = fmt::format("{} {}", concepts_hash(steering.autoencoder), place_of(steering));
    // + 0.0: there is one nought.
    for (const auto& [index, line] : lines)
        out += fmt::format(" {}: {} {}", index, line.first + 0.0, line.second + 0.0);
    return out;
}

}  // namespace

std::string steering_identity(const Model& model) {
    std::string out;
    const Model* at = &model;
    for (std::shared_ptr<Model> inner; const Steering* steering = steering_of(*at); at = inner.get()) {
        if (const std::string text = text_of(*steering); !text.empty()) out += text + '\n';
        inner = unsteered(*at);
    }
    return out.empty() ? out : fmt::format("{:016x}", hash_of(out));
}

std::string model_identity(Model& model) {
    const std::string weights = weights_hash(model), steering = steering_identity(model);
    if (steering.empty()) return weights;
    // A name is little to tell models by, and all there is where the weights cannot be reached.
    std::shared_ptr<Model> inner = unsteered(model);
    while (auto next = unsteered(*inner)) inner = std::move(next);
    return fmt::format("{:016x}",
                       mix64(hash_of(weights.empty() ? inner->info().name : weights) ^ mix64(hash_of(steering))));
}

}  // namespace vitrine
