// Losses of sparse autoencoders, and the gradients of JumpReLU's thresholds.
#include "autoencoder_objective.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/cumsum.h>
#include <ATen/ops/full.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/tanh.h>
#include <ATen/ops/topk.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/custom_function.h>

#include <vitrine/base/random.h>

#include "shared_sums.h"

namespace vitrine {

namespace {

constexpr double kTanhScale = 4;        // SAELens, jumprelu_tanh_scale
constexpr double kGhostEpsilon = 1e-6;  // Prisma, sae.py

at::Tensor in_band(const at::Tensor& before, const at::Tensor& threshold, double band) {
    return ((before - threshold) / band).abs().lt(0.5);
}

struct JumpRelu : torch::autograd::Function<JumpRelu> {
    static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& before,
                              const at::Tensor& threshold, double band) {
        context->save_for_backward({before, threshold});
        context->saved_data["band"] = band;
        return before * (before > threshold);
    }
    static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                   const torch::autograd::variable_list& gradients) {
        const auto saved = context->get_saved_variables();
        const at::Tensor &before = saved[0], &threshold = saved[1], &gradient = gradients[0];
        const double band = context->saved_data["band"].toDouble();
        return {gradient * (before > threshold),
                -(threshold / band) * (in_band(before, threshold, band) * gradient).sum(0), at::Tensor()};
    }
};

struct JumpStep : torch::autograd::Function<JumpStep> {
    static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& before,
                              const at::Tensor& threshold, double band) {
        context->save_for_backward({before, threshold});
        context->saved_data["band"] = band;
        return (before > threshold).to(before.scalar_type());
    }
    static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                   const torch::autograd::variable_list& gradients) {
        const auto saved = context->get_saved_variables();
        const double band = context->saved_data["band"].toDouble();
        return {at::Tensor(), (in_band(saved[0], saved[1], band) * gradients[0]).sum(0) * (-1 / band), at::Tensor()};
    }
};

at::Tensor row_lengths(const at::Tensor& rows) { return at::linalg_vector_norm(rows, 2, {1}); }

/// What the codes say, without bias, in the normalised space.
at::Tensor directions(const Autoencoder& autoencoder, const at::Tensor& active, std::int64_t from, std::int64_t to) {
    const at::Tensor rows = autoencoder.tensor("W_dec").narrow(0, from, to - from);
    at::Tensor part = active.narrow(1, from, to - from);
    if (autoencoder.config().weigh_by_decoder) part = part / row_lengths(rows).clamp_min(1e-30);
    return at::matmul(part, rows);
}

/// The convention's distance of a reconstruction from the tokens. Scalar.
at::Tensor distance(const at::Tensor& reconstructed, const at::Tensor& tokens, const ConceptObjective& objective) {
    const at::Tensor square = (reconstructed - tokens).square();
    if (objective.convention == "prisma")  // the divisor is the length, not its square
        return (square / row_lengths(tokens - tokens.mean(0, true)).unsqueeze(1)).mean();
    if (objective.convention == "saelens") return square.sum(1).mean();
    if (objective.convention == "saev") return square.mean();
    TORCH_CHECK(objective.convention == "openai", "no losses are known as '", objective.convention, "'");
    if (objective.variance > 0) return square.mean() / objective.variance;
    return (square.mean(1) / tokens.square().mean(1)).mean();
}

at::Tensor l1(const Autoencoder& autoencoder, const at::Tensor& active, const at::Tensor& tokens,
              const ConceptObjective& objective) {
    const at::Tensor size = active.abs();
    const bool gated = autoencoder.config().kind == "gated";
    if (objective.convention == "saelens" || (objective.convention == "prisma" && gated))
        return (size * row_lengths(autoencoder.tensor("W_dec"))).sum(1).mean();
    if (objective.convention == "openai") return (size.sum(1) / row_lengths(tokens)).mean();
    return size.sum(1).mean();
}

}  // namespace

at::Tensor jump_relu(const at::Tensor& before, const at::Tensor& threshold, double band) {
    return JumpRelu::apply(before, threshold, band);
}

at::Tensor jump_step(const at::Tensor& before, const at::Tensor& threshold, double band) {
    return JumpStep::apply(before, threshold, band);
}

namespace {

/// Of what each process chose of its tokens, what is among the largest of all processes' tokens together. How many that
/// is of each is not known before, so that a device is waited for once.
CodeLists largest_of_all_processes(const at::Tensor& before, std::int64_t k, Peers& peers) {
    double tokens = static_cast<double>(before.size(0));
    const Status done = peers.sum({&tokens, 1});
    TORCH_CHECK(done.has_value(), done ? "" : done.error().message);
    const std::int64_t wanted = k * static_cast<std::int64_t>(tokens);
    CodeLists own = largest_of_all(before, std::min(wanted, before.numel()));
    const at::Tensor mine = own.values.to(at::kDouble);
    // Everybody's candidates, process after process; places without one lie below all.
    const at::Tensor all = at::zeros({peers.count(), wanted}, mine.options());
    all[peers.rank()].fill_(-std::numeric_limits<double>::max());
    all[peers.rank()].narrow(0, 0, mine.numel()).copy_(mine);
    share_sum(all, peers);
    const at::Tensor least = std::get<0>(at::topk(all.flatten(), wanted, 0)).min();
    // Of equal ones the first are taken, and the order of processes is that of tokens.
    const at::Tensor equal = all == least, places = wanted - (all > least).sum(),
                     before_mine = equal.narrow(0, 0, peers.rank()).sum(), tied = mine == least;
    const at::Tensor taken =
        (mine > least).logical_or(tied.logical_and(at::cumsum(tied, 0, at::kLong) + before_mine <= places));
    const at::Tensor which = taken.nonzero().squeeze(1),
                     ends = at::cat({at::zeros({1}, which.options()), at::cumsum(taken, 0, at::kLong)});
    return {own.indices.index_select(0, which), own.values.index_select(0, which), ends.index_select(0, own.starts)};
}

}  // namespace

bool choose_lists(const Autoencoder& autoencoder, TrainingCodes& codes, Peers* peers) {
    const at::NoGradGuard no_grad;
    const AutoencoderConfig& config = autoencoder.config();
    codes.before = at::addmm(autoencoder.tensor("b_enc"), codes.read, autoencoder.tensor("W_enc"));
    std::optional<CodeLists> found;
    if (config.kind == "top_k")
        found = largest_lists(codes.before, config.k);
    else if (config.kind == "batch_top_k" && peers != nullptr && peers->count() > 1)
        found = largest_of_all_processes(codes.before, config.k, *peers);
    else if (config.kind == "batch_top_k")
        found = largest_of_all(codes.before, std::min(config.k * codes.before.size(0), codes.before.numel()));
    if (found) codes.lists = std::move(*found);
    return found.has_value();
}

TrainingCodes training_codes(const Autoencoder& autoencoder, const at::Tensor& tokens,
                             const ConceptObjective& objective, bool lists, Peers* peers) {
    const AutoencoderConfig& config = autoencoder.config();
    if (lists && !config.weigh_by_decoder && lists_apply(autoencoder.tensor("W_enc"))) {
        TrainingCodes codes;
        {
            const at::NoGradGuard no_grad;
            codes.read = autoencoder.prepared(tokens, codes).contiguous();
        }
        if (choose_lists(autoencoder, codes, peers)) {
            const at::Tensor numbers =
                listed_products(codes.lists, codes.read, autoencoder.tensor("W_enc"), autoencoder.tensor("b_enc"),
                                config.subtract_decoder_bias ? autoencoder.tensor("b_dec") : at::Tensor());
            codes.values = config.keep_negative ? numbers : at::relu(numbers);
            return codes;
        }
    }
    Codes codes = autoencoder.encode(tokens, /*batch=*/true);
    if (config.kind == "jump_relu")
        codes.active = jump_relu(codes.before, autoencoder.tensor("threshold"), objective.band);
    return codes;
}

namespace {

/// What the k dead latents with the largest numbers say of each token, in the normalised space, without bias.
/// [n, width]
///
/// @param as_they_are  numbers below zero say something too; else ReLU follows
at::Tensor said_by_dead(const Autoencoder& autoencoder, const TrainingCodes& codes, const at::Tensor& dead,
                        std::int64_t k, bool as_they_are) {
    const AutoencoderConfig& config = autoencoder.config();
    const at::Tensor& bias = autoencoder.tensor("b_dec");
    const auto size = [&](const at::Tensor& numbers) { return as_they_are ? numbers : at::relu(numbers); };
    const bool all = k >= config.latents;  // then there is nothing to choose
    at::Tensor chosen;
    if (!all) {
        // How many are dead is not asked, which would wait for a device: where there are fewer than k, living ones
        // are chosen too and count nothing.
        const at::Tensor candidates =
            codes.before.detach().masked_fill(dead.logical_not(), -std::numeric_limits<double>::infinity());
        const std::optional<CodeLists> lists = largest_lists(candidates, k);
        chosen = lists ? lists->indices : std::get<1>(at::topk(candidates, k, -1));
    }
    if (codes.listed() && static_cast<double>(k) <= kSparseEnough * static_cast<double>(config.latents)) {
        const CodeLists those{chosen, codes.before.gather(1, chosen), {}};
        const at::Tensor numbers =
            listed_products(those, codes.read, autoencoder.tensor("W_enc"), autoencoder.tensor("b_enc"),
                            config.subtract_decoder_bias ? bias : at::Tensor());
        const at::Tensor kept = size(numbers) * dead.index_select(0, chosen.flatten()).view_as(chosen);
        return decode_lists(chosen, kept, {}, autoencoder.tensor("W_dec"));
    }
    at::Tensor before = codes.before;
    if (codes.listed()) {  // once more, in the graph: so many of all are faster as a product
        const at::Tensor read = config.subtract_decoder_bias ? codes.read + (bias.detach() - bias) : codes.read;
        before = at::addmm(autoencoder.tensor("b_enc"), read, autoencoder.tensor("W_enc"));
    }
    at::Tensor active = size(before) * dead;
    if (!all) active = at::zeros_like(before).scatter(1, chosen, active.gather(1, chosen));
    return directions(autoencoder, active, 0, config.latents);
}

}  // namespace

at::Tensor auxiliary_loss(const Autoencoder& autoencoder, const at::Tensor& tokens, const TrainingCodes& codes,
                          const at::Tensor& reconstructed, const at::Tensor& dead, std::int64_t k, Peers* peers) {
    const at::Tensor& bias = autoencoder.tensor("b_dec");
    if (!dead.defined() || k < 1) return at::zeros({}, bias.options().requires_grad(false));
    const at::Tensor said = said_by_dead(autoencoder, codes, dead, k, /*as_they_are=*/false) + bias;
    at::Tensor error = (tokens.to(bias.scalar_type()) - reconstructed).detach();
    if (codes.scale.defined()) error = error / at::where(codes.scale > 0, codes.scale, codes.scale.new_ones({1}));
    // The decoder adds its bias to what it says of the error; the target has it too (openai), so that nothing is
    // asked of the bias.
    const at::Tensor target = error + bias.detach();
    at::Tensor spread;
    if (peers != nullptr && peers->count() > 1) {
        const at::Tensor precise = target.to(at::kDouble);
        const at::Tensor sums =
            shared_sum(at::cat({precise.sum(0), at::full({1}, double(target.size(0)), precise.options())}), *peers);
        const at::Tensor count = sums.narrow(0, target.size(1), 1);
        const at::Tensor centre = sums.narrow(0, 0, target.size(1)) / count;
        spread = (shared_sum((precise - centre).square().sum(), *peers) / (count * double(target.size(1))))
                     .squeeze()
                     .to(target.scalar_type());
    } else {
        spread = (target - target.mean(0, true)).square().mean();
    }
    const at::Tensor counts = (spread > 0).logical_and(dead.any());
    const at::Tensor loss = (said - target).square().mean() / at::where(spread > 0, spread, spread.new_ones({}));
    return at::where(counts.logical_and(loss.isfinite()), loss, loss.new_zeros({}));
}

at::Tensor auxiliary_loss_saelens(const Autoencoder& autoencoder, const at::Tensor& tokens, const TrainingCodes& codes,
                                  const at::Tensor& reconstructed, const at::Tensor& dead) {
    const std::int64_t k = autoencoder.config().width / 2;
    if (!dead.defined() || k < 1) return at::zeros({}, reconstructed.options().requires_grad(false));
    at::Tensor said = said_by_dead(autoencoder, codes, dead, k, /*as_they_are=*/true);
    if (codes.scale.defined()) said = said * codes.scale;
    const at::Tensor error = (tokens.to(reconstructed.scalar_type()) - reconstructed).detach();
    const at::Tensor share = (dead.sum().to(error.scalar_type()) / static_cast<double>(k)).clamp_max(1);
    return share * (said - error).square().sum(1).mean();
}

at::Tensor auxiliary_loss_saev(const Autoencoder& autoencoder, const at::Tensor& tokens, const TrainingCodes& codes,
                               const at::Tensor& reconstructed, const at::Tensor& dead, std::int64_t k) {
    const at::Tensor& bias = autoencoder.tensor("b_dec");
    if (!dead.defined() || k < 1) return at::zeros({}, bias.options().requires_grad(false));
    at::Tensor said = said_by_dead(autoencoder, codes, dead, k, /*as_they_are=*/true) + bias;
    if (codes.scale.defined()) said = said * codes.scale;
    const at::Tensor error = (tokens.to(reconstructed.scalar_type()) - reconstructed).detach();
    const at::Tensor loss = (said - error).square().mean();
    return at::where(dead.any(), loss, loss.new_zeros({}));
}

at::Tensor ghost_loss(const Autoencoder& autoencoder, const at::Tensor& tokens, const Codes& codes,
                      const at::Tensor& reconstructed, const at::Tensor& dead, const at::Tensor& reconstruction) {
    if (!dead.defined()) return at::zeros({}, reconstructed.options().requires_grad(false));
    const at::Tensor error = (tokens.to(reconstructed.scalar_type()) - reconstructed).detach();
    const double least = -std::numeric_limits<double>::infinity();
    const at::Tensor active = codes.before.masked_fill(dead.logical_not(), least).exp();
    at::Tensor ghost = at::matmul(active, autoencoder.tensor("W_dec"));
    ghost = ghost * (row_lengths(error) / (kGhostEpsilon + 2 * row_lengths(ghost))).detach().unsqueeze(1);
    const at::Tensor centred = error - error.mean(0, true);
    const at::Tensor each = (ghost - error).square() / row_lengths(centred).unsqueeze(1);
    const at::Tensor loss = ((reconstruction / (each + kGhostEpsilon)).detach() * each).mean();
    return at::where(dead.any(), loss, loss.new_zeros({}));
}

ConceptLoss concept_loss(const Autoencoder& autoencoder, const at::Tensor& given, const TrainingCodes& codes,
                         const ConceptObjective& objective, const at::Tensor& dead,
                         const std::vector<std::int64_t>& prefixes, Peers* peers) {
    const AutoencoderConfig& config = autoencoder.config();
    const at::Tensor& bias = autoencoder.tensor("b_dec");
    const at::Tensor tokens = given.to(bias.options().requires_grad(false));
    const at::Tensor nothing = at::zeros({}, tokens.options());
    const auto undone = [&](at::Tensor x) {
        if (codes.scale.defined()) x = x * codes.scale;
        return codes.shift.defined() ? x + codes.shift : x;
    };
    ConceptLoss loss{nothing, nothing, nothing, nothing, nothing, {}};

    TORCH_CHECK(!codes.listed() || prefixes.size() < 2, "lists of codes are decoded whole");
    // Each prefix adds its own latents to the one before: together one product.
    const std::vector<std::int64_t> ends = prefixes.empty() ? std::vector{config.latents} : prefixes;
    at::Tensor said = bias;
    std::int64_t from = 0;
    for (const std::int64_t end : ends) {
        said = (codes.listed()
                    ? decode_lists(codes.lists.indices, codes.values, codes.lists.starts, autoencoder.tensor("W_dec"))
                    : directions(autoencoder, codes.active, from, end)) +
               said;
        loss.reconstructed = undone(said);
        loss.reconstruction = loss.reconstruction + distance(loss.reconstructed, tokens, objective);
        from = end;
    }
    loss.reconstruction = loss.reconstruction / static_cast<double>(ends.size());

    const at::Tensor passed = config.kind == "gated" ? at::relu(codes.before) : codes.active;
    const bool chooses = config.kind == "top_k" || config.kind == "batch_top_k";
    if (!chooses && objective.sparsity != 0) {
        at::Tensor size;
        if (config.kind == "jump_relu" && objective.form == "step")
            size = jump_step(codes.before, autoencoder.tensor("threshold"), objective.band).sum(1).mean();
        else if (config.kind == "jump_relu" && objective.form == "tanh")
            size = at::tanh(kTanhScale * passed * row_lengths(autoencoder.tensor("W_dec"))).sum(1).mean();
        else
            size = l1(autoencoder, passed, tokens, objective);
        loss.sparsity = size * objective.sparsity;
    }
    if (config.kind == "jump_relu" && objective.pull != 0 && dead.defined()) {
        const at::Tensor short_of = at::relu(autoencoder.tensor("threshold") - codes.before);
        loss.sparsity =
            loss.sparsity + objective.pull * (short_of * dead * row_lengths(autoencoder.tensor("W_dec"))).sum(1).mean();
    }
    if (config.kind == "gated") {
        const at::Tensor via_gate = directions(autoencoder, passed, 0, config.latents) + bias;
        if (objective.convention == "prisma") {
            // Prisma compares with what is encoded, bias off, and in the normalised space.
            at::Tensor x = tokens;
            if (codes.shift.defined())
                x = (x - codes.shift) / (codes.scale + 1e-5);
            else if (codes.scale.defined())
                x = x / codes.scale;
            loss.gate = (via_gate - (x - bias)).square().sum(1).mean();
        } else {
            loss.gate = distance(undone(via_gate), tokens, objective);
        }
    }
    if (objective.revive == "ghost")
        loss.revival = ghost_loss(autoencoder, tokens, codes, loss.reconstructed, dead, loss.reconstruction);
    else if (objective.revive == "aux" && dead.defined())
        loss.revival = auxiliary_loss(autoencoder, tokens, codes, loss.reconstructed, dead, objective.revive_k, peers) *
                       objective.revive_weight;
    else if (objective.revive == "auxk_saelens")
        loss.revival = auxiliary_loss_saelens(autoencoder, tokens, codes, loss.reconstructed, dead);
    else if (objective.revive == "auxk_saev")
        loss.revival = auxiliary_loss_saev(autoencoder, tokens, codes, loss.reconstructed, dead, objective.revive_k) *
                       objective.revive_weight;
    else
        TORCH_CHECK(objective.revive == "aux" || objective.revive == "none", "nothing is known as '", objective.revive,
                    "' for dead latents");
    loss.total = loss.reconstruction + loss.sparsity + loss.revival + loss.gate;
    return loss;
}

std::vector<std::int64_t> prefix_lengths(std::int64_t latents, std::int64_t count, std::uint64_t seed) {
    constexpr std::uint64_t kStream = hash_of("matryoshka");
    std::vector<std::pair<double, std::int64_t>> times;
    // Draws without repetition are the first of exponential times with the weights as rates.
    for (std::int64_t n = 2; count > 1 && n < latents; ++n) {
        const double weight = 1 / std::sqrt(double(n - 1)) - 1 / std::sqrt(double(n));
        const double u = (double(random_bits(seed, kStream, std::uint64_t(n)) >> 11) + 0.5) * 0x1p-53;
        times.emplace_back(-std::log(u) / weight, n);
    }
    const std::size_t drawn = std::min<std::size_t>(times.size(), std::size_t(std::max<std::int64_t>(count - 1, 0)));
    std::nth_element(times.begin(), times.begin() + std::ptrdiff_t(drawn), times.end());
    std::vector<std::int64_t> out;
    for (std::size_t i = 0; i < drawn; ++i) out.push_back(times[i].second);
    out.push_back(latents);
    std::sort(out.begin(), out.end());
    return out;
}

}  // namespace vitrine
