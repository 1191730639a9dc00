// Dictionaries of concepts: their arithmetic, what they read of a model, and whether they fit it.
#include <vitrine/autoencoder.h>

#include <algorithm>
#include <cmath>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/cumsum.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/nonzero.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/repeat_interleave.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/std.h>
#include <ATen/ops/topk.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <fmt/ranges.h>

#include <vitrine/capture.h>
#include <vitrine/explainer.h>
#include <vitrine/mask_module.h>

#include "autoencoder_files.h"
#include "non_negative.h"
#include "sparse_codes.h"
#include "text.h"

namespace vitrine {

namespace {

constexpr double kNormEpsilon = 1e-5, kFirstThreshold = 0.01;

at::Tensor row_lengths(const at::Tensor& rows) { return at::linalg_vector_norm(rows, 2, {1}); }

bool known(const std::vector<std::string>& names, const std::string& name) {
    return std::find(names.begin(), names.end(), name) != names.end();
}

}  // namespace

std::vector<std::string> autoencoder_kinds() { return {"relu", "gated", "top_k", "batch_top_k", "jump_relu"}; }
std::vector<std::string> factor_kinds() { return {"pca", "k_means", "nmf"}; }
bool is_factor_kind(const std::string& kind) { return known(factor_kinds(), kind); }

Status check_config(const AutoencoderConfig& config) {
    const std::vector<std::string> norms = {"none", "layer_norm", "constant_norm", "expected_average"},
                                   tokens = {"all", "class", "patches"};
    if (!known(autoencoder_kinds(), config.kind) && !is_factor_kind(config.kind))
        return fail(ErrorCode::BadInput, "the kind is '{}', expected one of {}, {}", config.kind,
                    fmt::join(autoencoder_kinds(), ", "), fmt::join(factor_kinds(), ", "));
    if (!known(norms, config.normalise))
        return fail(ErrorCode::BadInput, "tokens are normalised by '{}', expected one of {}", config.normalise,
                    fmt::join(norms, ", "));
    if (!known(tokens, config.tokens))
        return fail(ErrorCode::BadInput, "the tokens are '{}', expected one of {}", config.tokens,
                    fmt::join(tokens, ", "));
    if (config.width < 1 || config.latents < 1)
        return fail(ErrorCode::BadInput, "an autoencoder has a width and latents, found {} and {}", config.width,
                    config.latents);
    if (config.normalise == "layer_norm" && config.width < 2)
        return fail(ErrorCode::BadInput, "one number has no deviation: layer_norm needs a width of 2 or more");
    const bool chooses = config.kind == "top_k" || config.kind == "batch_top_k";
    if (chooses && (config.k < 1 || config.k > config.latents))
        return fail(ErrorCode::BadInput, "k is {}, expected 1 to {}, the number of latents", config.k, config.latents);
    if (config.weigh_by_decoder && !chooses)
        return fail(ErrorCode::BadInput, "only top_k and batch_top_k weigh by the decoder, the kind is {}",
                    config.kind);
    if (!std::isfinite(config.scale) || config.scale <= 0)
        return fail(ErrorCode::BadInput, "the scale is {}, expected a positive number", config.scale);
    if (is_factor_kind(config.kind) && config.normalise != "none")
        return fail(ErrorCode::BadInput, "{} takes tokens as they are: normalise is '{}', expected none", config.kind,
                    config.normalise);
    if (config.kind == "pca" && config.latents % 2 != 0)
        return fail(ErrorCode::BadInput, "pca has two latents a component, found {}: give an even number",
                    config.latents);
    if (!std::isfinite(config.ridge) || config.ridge < 0 || (config.ridge > 0 && config.kind != "nmf"))
        return fail(ErrorCode::BadInput, "the ridge is {}, expected 0, or for nmf a positive number", config.ridge);
    return {};
}

std::vector<std::pair<std::string, std::vector<std::int64_t>>> autoencoder_shapes(const AutoencoderConfig& config) {
    const std::int64_t d = config.width, m = config.latents;
    std::vector<std::pair<std::string, std::vector<std::int64_t>>> out = {{"W_enc", {d, m}}};
    if (config.kind == "gated")
        out.insert(out.end(), {{"b_gate", {m}}, {"r_mag", {m}}, {"b_mag", {m}}});
    else
        out.push_back({"b_enc", {m}});
    if (config.kind == "jump_relu") out.push_back({"threshold", {m}});
    if (config.kind == "batch_top_k") out.push_back({"threshold", {1}});
    out.insert(out.end(), {{"W_dec", {m, d}}, {"b_dec", {d}}});
    return out;
}

Result<Autoencoder> Autoencoder::make(AutoencoderConfig config, std::uint64_t seed) {
    VITRINE_CHECK(check_config(config));
    Autoencoder out;
    out.config_ = std::move(config);
    auto generator = at::make_generator<at::CPUGeneratorImpl>(seed);
    at::Tensor decoder = at::empty({out.config_.latents, out.config_.width}).uniform_(-1, 1, generator);
    decoder /= row_lengths(decoder).clamp_min(1e-12).unsqueeze(1);
    if (is_factor_kind(out.config_.kind)) {
        const std::int64_t rows = out.config_.kind == "pca" ? out.config_.latents / 2 : out.config_.latents;
        if (out.config_.kind == "nmf") decoder = decoder.abs();
        return of_rows(out.config_, decoder.narrow(0, 0, rows), at::zeros({out.config_.width}));
    }
    for (const auto& [name, shape] : autoencoder_shapes(out.config_)) {
        at::Tensor tensor;
        if (name == "W_dec")
            tensor = decoder;
        else if (name == "W_enc")
            tensor = decoder.t().clone(at::MemoryFormat::Contiguous);  // never the decoder's own storage
        else if (name == "threshold" && out.config_.kind == "jump_relu")
            tensor = at::full(shape, kFirstThreshold);
        else
            tensor = at::zeros(shape);
        out.tensors_.emplace_back(name, std::move(tensor));
    }
    return out;
}

Result<Autoencoder> Autoencoder::of_rows(AutoencoderConfig config, const at::Tensor& rows, const at::Tensor& bias) {
    if (!is_factor_kind(config.kind))
        return fail(ErrorCode::BadInput, "the kind is '{}', expected one of {}", config.kind,
                    fmt::join(factor_kinds(), ", "));
    const at::Tensor given = rows.detach();
    // Each component and its opposite, side by side: the first so many latents are whole components.
    const at::Tensor decoder = config.kind == "pca" ? at::stack({given, -given}, 1).flatten(0, 1) : given.clone();
    config.subtract_decoder_bias = true;
    const bool clusters = config.kind == "k_means";  // asked for when the configuration has been moved
    return of(std::move(config), {}, [&](const std::string& name) -> Result<at::Tensor> {
        if (name == "W_enc") return decoder.t().clone(at::MemoryFormat::Contiguous);
        if (name == "W_dec") return decoder;
        if (name == "b_dec") return bias.detach().clone();
        // |x - c|^2 is least where x c - |c|^2 / 2 is greatest.
        if (clusters) return decoder.square().sum(1) / -2;
        return at::zeros({decoder.size(0)}, decoder.options());
    });
}

const at::Tensor& Autoencoder::tensor(const std::string& name) const {
    for (const auto& [key, value] : tensors_)
        if (key == name) return value;
    static const at::Tensor none;
    return none;
}

void Autoencoder::to(at::Device device) {
    for (auto& [name, tensor] : tensors_) tensor = tensor.detach().to(device);
}

at::Tensor Autoencoder::prepared(const at::Tensor& tokens, Codes& out) const {
    at::Tensor x = tokens.to(tensor("W_enc").options().requires_grad(false));
    if (config_.normalise == "layer_norm") {
        out.shift = x.mean(1, true);
        x = x - out.shift;
        out.scale = x.std(1, /*unbiased=*/true, /*keepdim=*/true);
        x = x / (out.scale + kNormEpsilon);
    } else if (config_.normalise == "constant_norm") {
        // A token of length 0 stays one.
        out.scale = at::linalg_vector_norm(x, 2, {1}, true) / std::sqrt(static_cast<double>(config_.width));
        x = x / at::where(out.scale > 0, out.scale, at::full({1}, 1.0, x.options()));
    } else if (config_.normalise == "expected_average") {
        out.scale = at::full({x.size(0), 1}, 1 / config_.scale, x.options());
        x = x * config_.scale;
    }
    if (config_.subtract_decoder_bias) x = x - tensor("b_dec");
    return config_.kind == "nmf" ? at::relu(x) : x;
}

Codes Autoencoder::encode(const at::Tensor& tokens, bool batch) const {
    Codes out;
    const at::Tensor x = prepared(tokens, out);
    out.before = at::addmm(tensor(config_.kind == "gated" ? "b_gate" : "b_enc"), x, tensor("W_enc"));
    if (config_.weigh_by_decoder) out.before = out.before * row_lengths(tensor("W_dec"));
    out.active = activate(out.before, batch);
    return out;
}

at::Tensor largest(const at::Tensor& rows, std::int64_t k) {
    const at::NoGradGuard no_grad;
    if (auto lists = largest_lists(rows, k)) return lists->indices;
    auto [values, chosen] = at::topk(rows, k, -1);
    const at::Tensor least = values.narrow(-1, k - 1, 1);
    // Which of several equal ones topk takes it does not say. Where all that reach the least are chosen, it is no
    // matter.
    const at::Tensor tied = (rows >= least).sum(-1).gt(k);
    if (!tied.any().item<bool>()) return chosen;
    const at::Tensor which = tied.nonzero().squeeze(1);
    const at::Tensor some = rows.index_select(0, which), bound = least.index_select(0, which);
    const at::Tensor above = some > bound, equal = some == bound;
    const at::Tensor places = k - above.sum(-1, true);
    const at::Tensor taken = above.logical_or(equal.logical_and(at::cumsum(equal, -1, at::kInt) <= places));
    chosen.index_copy_(0, which, taken.nonzero().select(1, 1).view({which.size(0), k}));
    return chosen;
}

at::Tensor Autoencoder::activate(const at::Tensor& before, bool batch) const {
    if (config_.kind == "gated") {
        // The magnitude's product is the gate's, scaled latent by latent.
        const at::Tensor product = before - tensor("b_gate");
        return (before > 0) * at::relu(product * tensor("r_mag").exp() + tensor("b_mag"));
    }
    if (config_.kind == "jump_relu") return at::relu(before) * (before > tensor("threshold"));
    if (config_.kind == "relu" || config_.kind == "pca") return at::relu(before);
    if (config_.kind == "k_means") {
        if (before.size(0) == 0) return at::zeros_like(before);
        return at::zeros_like(before).scatter(1, largest(before, 1), 1);
    }
    if (config_.kind == "nmf") {
        const at::Tensor rows = tensor("W_dec").detach().to(at::kDouble);
        return non_negative_least_squares(at::matmul(rows, rows.t()), before, config_.ridge);
    }
    if (config_.kind == "batch_top_k" && !batch) {
        const at::Tensor theta = tensor("threshold").detach().clamp_min(0);
        return before * (before > theta);
    }
    // Over a whole batch all latents of all tokens compete: one long row.
    const at::Tensor rows = config_.kind == "top_k" ? before : before.reshape({1, -1});
    const std::int64_t k = config_.kind == "top_k" ? config_.k : std::min(config_.k * before.size(0), before.numel());
    if (before.size(0) == 0) return at::zeros_like(before);
    at::Tensor chosen;
    if (config_.kind == "batch_top_k" && lists_apply(before)) {
        const CodeLists lists = largest_of_all(before, k);
        const at::Tensor sizes = lists.starts.narrow(0, 1, before.size(0)) - lists.starts.narrow(0, 0, before.size(0));
        chosen = (at::repeat_interleave(sizes, std::optional<std::int64_t>(k)) * before.size(1) + lists.indices)
                     .unsqueeze(0);
    } else {
        chosen = largest(rows, k);
    }
    const at::Tensor kept = rows.gather(1, chosen);
    return at::zeros_like(rows).scatter(1, chosen, config_.keep_negative ? kept : at::relu(kept)).view(before.sizes());
}

at::Tensor Autoencoder::unweighed(const at::Tensor& active) const {
    if (!config_.weigh_by_decoder) return active;
    // A latent that says nothing has no weight to take off.
    return active / row_lengths(tensor("W_dec")).clamp_min(1e-30).narrow(0, 0, active.size(1));
}

std::optional<at::Tensor> Autoencoder::decoded_sparsely(const at::Tensor& active, const Codes& codes) const {
    const at::Tensor& rows = tensor("W_dec");
    if (!lists_apply(rows) || active.scalar_type() != at::kFloat || active.device() != rows.device()) return {};
    if (at::GradMode::is_enabled() && (active.requires_grad() || rows.requires_grad())) return {};
    // On a device how many are active would have to be waited for; top_k says it itself, of what it chose.
    const bool known = config_.kind == "top_k" && !config_.keep_negative && active.is_same(codes.active) &&
                       static_cast<double>(config_.k) <= kSparseEnough * static_cast<double>(config_.latents);
    const auto lists = active.is_cpu() ? lists_of(active, kSparseEnough)
                       : known         ? largest_lists(active, config_.k)
                                       : std::nullopt;
    if (!lists) return {};
    at::Tensor values = lists->values;
    if (config_.weigh_by_decoder)
        values = values / row_lengths(rows).clamp_min(1e-30).index_select(0, lists->indices.flatten()).view_as(values);
    return decode_lists(lists->indices, values, lists->starts, rows) + tensor("b_dec");
}

at::Tensor Autoencoder::decode(const at::Tensor& active, const Codes& codes, std::int64_t latents) const {
    const std::int64_t count = latents == 0 ? config_.latents : std::min(latents, config_.latents);
    std::optional<at::Tensor> sparse = count == config_.latents ? decoded_sparsely(active, codes) : std::nullopt;
    at::Tensor out =
        sparse ? std::move(*sparse)
               : at::addmm(tensor("b_dec"), unweighed(active.narrow(1, 0, count)), tensor("W_dec").narrow(0, 0, count));
    if (codes.scale.defined()) out = out * codes.scale;
    if (codes.shift.defined()) out = out + codes.shift;
    return out;
}

at::Tensor Autoencoder::difference(const at::Tensor& changed, const Codes& codes) const {
    const at::Tensor out = at::matmul(unweighed(changed - codes.active), tensor("W_dec"));
    return codes.scale.defined() ? out * codes.scale : out;
}

Status fold_decoder_norms(Autoencoder& autoencoder) {
    const AutoencoderConfig& config = autoencoder.config();
    if ((config.kind == "top_k" || config.kind == "batch_top_k") && !config.weigh_by_decoder)
        return fail(ErrorCode::Unsupported,
                    "{} chooses by size: with decoder rows of length 1 it would choose other latents", config.kind);
    if (is_factor_kind(config.kind))
        return fail(ErrorCode::Unsupported, "the rows of {} are what its codes are made from: they stay as they are",
                    config.kind);
    at::Tensor lengths = row_lengths(autoencoder.tensor("W_dec").detach());
    lengths = at::where(lengths > 0, lengths, at::full({1}, 1.0, lengths.options()));
    for (auto& [name, tensor] : autoencoder.tensors_) {
        if (name == "W_dec")
            tensor = tensor.detach() / lengths.unsqueeze(1);
        else if (name == "W_enc" || name == "b_enc" || name == "b_gate" || name == "b_mag" ||
                 (name == "threshold" && config.kind == "jump_relu"))
            tensor = tensor.detach() * lengths;
    }
    autoencoder.config_.weigh_by_decoder = false;
    return {};
}

Result<PointTokens> point_tokens(Model& model, const at::Tensor& pixels, const AutoencoderConfig& config,
                                 std::stop_token stop) {
    const std::string name = model.info().name;
    if (config.point.empty())
        return fail(ErrorCode::BadInput,
                    "the file does not say which activations it reads; name them with point=NAME, as --given of a "
                    "command or as METHOD.given of a method (vitrine info MODEL --points lists them)");
    const auto points = model.points();
    if (std::none_of(points.begin(), points.end(), [&](const NamedPoint& p) { return p.name == config.point; })) {
        std::vector<std::string> names;
        for (const NamedPoint& p : points) names.push_back(p.name);
        return fail(ErrorCode::BadInput, "{} has no point '{}'{} (vitrine info MODEL --points lists them)", name,
                    config.point, suggest(config.point, names));
    }
    const at::NoGradGuard no_grad;
    CaptureOptions options;
    options.mixings = false;
    options.points = {config.point};
    options.stop = std::move(stop);
    const auto seen = VITRINE_TRY(run_captured(model, pixels, options));
    const auto found = seen->points.find(config.point);
    if (found == seen->points.end())
        return fail(ErrorCode::Unsupported, "{} did not pass its point {} on this picture", name, config.point);
    PointTokens out;
    const at::Tensor& x = found->second;
    const TokenLayout layout = model.layout(pixels.size(2), pixels.size(3));
    if (x.dim() == 4) {
        out.rows = x.size(2);
        out.cols = x.size(3);
        out.tokens = x.flatten(2).transpose(1, 2);
    } else if (x.dim() == 3) {
        out.tokens = x;
        const std::int64_t patches = layout.rows * layout.cols;
        // Patches before the class token joins them are tokens without a prefix.
        if (layout.known() && patches > 0 && (x.size(1) == layout.tokens() || x.size(1) == patches)) {
            out.rows = layout.rows;
            out.cols = layout.cols;
            if (x.size(1) == layout.tokens()) out.prefix = layout.prefix;
        }
    } else {
        return fail(ErrorCode::Unsupported, "{} is no map and no row of tokens, it has {} axes", config.point, x.dim());
    }
    if (out.tokens.size(2) != config.width)
        return fail(ErrorCode::BadInput,
                    "the concepts are of tokens {} wide, and {} of {} is {} wide; open concepts that were made of this "
                    "model, or where their file names no point give another point=NAME",
                    config.width, config.point, name, out.tokens.size(2));
    if (config.tokens == "class" && (out.prefix.empty() || out.prefix.front() != "cls"))
        return fail(ErrorCode::Unsupported, "the concepts are of a class token, which {} of {} has not", config.point,
                    name);
    if (config.tokens == "patches" && out.rows == 0)
        return fail(ErrorCode::Unsupported, "which tokens of {} are patches is not known; use tokens=all",
                    config.point);
    return out;
}

Result<at::Tensor> concept_tokens(Model& model, const at::Tensor& pixels, const AutoencoderConfig& config,
                                  std::stop_token stop) {
    const PointTokens all = VITRINE_TRY(point_tokens(model, pixels, config, std::move(stop)));
    if (config.tokens == "class") return all.tokens.narrow(1, 0, 1);
    if (config.tokens == "patches") return all.tokens.narrow(1, std::ssize(all.prefix), all.rows * all.cols);
    return all.tokens;
}

Status Autoencoder::fits(Model& model) const {
    const auto& p = model.preprocess();
    const at::Tensor nothing = at::zeros({1, 3, p.input_height, p.input_width});
    VITRINE_TRY(concept_tokens(model, nothing, config_));
    return fits_weights(model);
}

Status Autoencoder::fits_weights(Model& model) const {
    const auto trained = facts.find("weights");
    if (trained == facts.end() || trained->second.empty()) return {};
    // fp16 rounds otherwise than bf16, of which the hash is made.
    const auto parameters = model.parameters();
    if (parameters.empty() || parameters.front().second.scalar_type() == at::kHalf) return {};
    const std::string now = weights_hash(model);
    if (now != trained->second && facts.count("shuffled_weights") != 0)
        return fail(ErrorCode::BadInput,
                    "the concepts were trained on {} with its weights shuffled; give them to uncertainty_response as "
                    "control, and here those of the model as it is",
                    facts.count("model") != 0 ? facts.at("model") : "another model");
    if (now != trained->second)
        return fail(ErrorCode::BadInput,
                    "the concepts were trained on {} with weights {}, and {} has weights {}; train some on this model",
                    facts.count("model") != 0 ? facts.at("model") : "another model", trained->second, model.info().name,
                    now);
    return {};
}

}  // namespace vitrine
