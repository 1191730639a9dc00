// One step of training a sparse autoencoder, and what it starts from.
#include "concept_steps.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <tuple>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <c10/core/CachingDeviceAllocator.h>

#include <vitrine/base/random.h>

#include "device_sparse.h"
#include "shared_sums.h"
#include "sparse_codes.h"

namespace vitrine {

namespace {

/// Up to here a double counts exactly.
constexpr std::int64_t kLongestSilence = (std::int64_t{1} << 48) - 1;
constexpr std::int64_t kBeforeRecording = 2;  // steps

/// Numbers as three floats, which hold a double to the bit: files are read as float32. [3, n]
at::Tensor in_floats(const at::Tensor& x) {
    const at::Tensor whole = x.to(at::kDouble), high = whole.to(at::kFloat), middle = (whole - high).to(at::kFloat);
    return at::stack({high, middle, (whole - high - middle).to(at::kFloat)});
}

/// What distance() of autoencoder_objective.cpp divides a token's square error by, and the factor of its sum, but for
/// the number of tokens.
std::pair<int, double> error_over(const ConceptObjective& objective, double width) {
    enum { kNothing, kMeanSquare, kCentredLength };  // kernels::cuda::ErrorOver
    if (objective.convention == "prisma") return {kCentredLength, 1 / width};
    if (objective.convention == "saelens") return {kNothing, 1};
    if (objective.convention == "saev") return {kNothing, 1 / width};
    TORCH_CHECK(objective.convention == "openai", "no losses are known as '", objective.convention, "'");
    if (objective.variance > 0) return {kNothing, 1 / (width * objective.variance)};
    return {kMeanSquare, 1 / width};
}

at::Tensor row_lengths(const at::Tensor& rows) { return at::linalg_vector_norm(rows, 2, {1}, /*keepdim=*/true); }

/// @param seen  [n, width], normalised
void begin_as(const std::string& start, Autoencoder& fresh, const at::Tensor& seen, std::uint64_t seed) {
    constexpr double kBlend = 0.8;                                    // saev, reinit_blend
    constexpr double kFirstLength = 0.1;                              // SAELens, decoder_init_norm
    constexpr std::int64_t kDirections = 256;                         // openai, init_from_data_
    const AutoencoderConfig& config = fresh.config();
    at::Tensor decoder = fresh.tensor("W_dec"), encoder = fresh.tensor("W_enc"), bias = fresh.tensor("b_dec");
    auto generator = at::make_generator<at::CPUGeneratorImpl>(mix64(seed ^ hash_of("start")));
    TORCH_CHECK(start == "median" || start == "mean" || start == "openai" || start == "prisma" || start == "saelens" ||
                    start == "saev",
                "no start is known as '", start, "'");
    if (start == "mean") bias.copy_(seen.mean(0));
    if (start == "median" || start == "openai" || start == "prisma")
        bias.copy_(geometric_median(seen.narrow(0, 0, std::min(seen.size(0), ConceptSteps::kMostOfStart))));
    if (start == "saelens") {
        decoder.mul_(kFirstLength);
        encoder.mul_(kFirstLength);
    } else if (start == "prisma") {
        const at::Tensor own = at::empty({config.width, config.latents}).uniform_(-1, 1, generator);
        encoder.copy_(own / row_lengths(own).clamp_min(1e-12));
    } else if (start == "saev") {
        // Tokens come mixed; where there are fewer than latents they are taken again, with other draws.
        const at::Tensor which = at::arange(config.latents, seen.options().dtype(at::kLong)).remainder(seen.size(0));
        const double bound = std::sqrt(6.0 / static_cast<double>(config.width));
        const at::Tensor drawn =
            at::empty({config.latents, config.width}).uniform_(-bound, bound, generator).to(seen.device());
        const at::Tensor rows = kBlend * (seen - seen.mean(0, true)).index_select(0, which) + (1 - kBlend) * drawn;
        decoder.copy_(rows / row_lengths(rows).clamp_min(1e-12));
        encoder.copy_(decoder.t());
    } else if (start == "openai") {
        at::Tensor unit = at::randn({kDirections, config.width}, generator).to(seen.device());
        unit = unit / row_lengths(unit);
        Codes codes;
        codes.before = at::matmul(config.subtract_decoder_bias ? unit : unit + bias, encoder);
        codes.active = fresh.activate(codes.before, /*batch=*/true);
        const double length = row_lengths(fresh.decode(codes.active, codes) - bias).mean().item<double>();
        if (length > 0) encoder.div_(length);
    }
}

}  // namespace

at::Tensor geometric_median(const at::Tensor& points, int iterations) {
    const at::NoGradGuard no_grad;
    at::Tensor centre = points.mean(0, true);
    for (int i = 0; i < iterations; ++i) {
        const at::Tensor weight = row_lengths(points - centre).clamp_min(1e-8).reciprocal();
        const at::Tensor next = (points * weight).sum(0, true) / weight.sum();
        const bool settled = row_lengths(next - centre).item<double>() <= 1e-7 * row_lengths(centre).item<double>();
        centre = next;
        if (settled) break;
    }
    return centre.squeeze(0);
}

Result<ConceptSteps> ConceptSteps::make(AutoencoderConfig config, ConceptStepsOptions options,
                                        const at::Tensor& sample) {
    const at::NoGradGuard no_grad;
    if (!sample.defined() || sample.dim() != 2 || sample.size(0) < 1)
        return fail(ErrorCode::BadInput, "there are no tokens to begin with");
    if (config.normalise == "expected_average") {
        const double length = row_lengths(sample).mean().item<double>();
        config.scale = length > 0 ? std::sqrt(static_cast<double>(sample.size(1))) / length : 1;
    }
    Autoencoder fresh = VITRINE_TRY(Autoencoder::make(std::move(config), options.seed));
    fresh.to(sample.device());
    // The bias is subtracted from tokens as they are encoded, normalised; it is 0 yet.
    Codes codes;
    begin_as(options.start, fresh, fresh.prepared(sample, codes), options.seed);
    if (options.objective.convention == "openai" && options.objective.variance == 0)
        options.objective.variance = (sample - sample.mean(0, true)).square().mean().item<double>();
    return ConceptSteps(std::move(fresh), std::move(options));
}

ConceptSteps::ConceptSteps(Autoencoder autoencoder, ConceptStepsOptions options)
    : autoencoder_(std::move(autoencoder)), options_(std::move(options)) {
    const AutoencoderConfig& config = autoencoder_.config();
    std::vector<std::pair<std::string, at::Tensor>> trained;
    for (const auto& [name, tensor] : autoencoder_.tensors()) {
        if (name != "threshold") {
            trained.emplace_back(name, tensor);
        } else if (config.kind == "jump_relu") {
            log_threshold_ = tensor.detach().log();
            trained.emplace_back("log_threshold", log_threshold_);
            at::Tensor threshold = tensor;
            threshold.set_requires_grad(true);
        } else {
            threshold_ = tensor.detach().to(at::kDouble);
        }
    }
    optimizer_ = std::make_unique<Optimizer>(
        std::move(trained),
        OptimizerOptions{.epsilon = options_.epsilon, .weight_decay = 0, .clip = options_.clip, .average = 0});
    // One place more, for what is to be forgotten.
    silent_ =
        at::zeros({config.latents + 1}, autoencoder_.tensor("W_dec").options().dtype(at::kLong).requires_grad(false));
}

void ConceptSteps::unit_rows() {
    if (!options_.unit_rows) return;
    const at::NoGradGuard no_grad;
    at::Tensor rows = autoencoder_.tensor("W_dec").detach();
    at::Tensor lengths = row_lengths(rows).clamp_min(1e-12);
    // Rows that a step on lists left stay as they are, so that going on from a file changes nothing.
    if (on_lists()) lengths.masked_fill_((lengths - 1).abs() < 1e-6, 1);
    rows.div_(lengths);
    unit_ = on_lists();
}

/// The least number that is still chosen, smoothed: what decides where there is no batch.
void ConceptSteps::follow_threshold(const at::Tensor& active) {
    const at::NoGradGuard no_grad;
    const at::Tensor none = at::full({1}, std::numeric_limits<float>::infinity(), active.options());
    at::Tensor least = at::cat({at::where(active > 0, active, none).flatten(), none}).min().to(at::kDouble);
    if (several()) {
        at::Tensor all = at::zeros({options_.peers->count()}, least.options());
        all[options_.peers->rank()].copy_(least);
        least = shared_sum(all, *options_.peers).min();
    }
    // The first says more than the 0 that it would be smoothed with; SAELens and saev smooth it all the same.
    const std::string& convention = options_.objective.convention;
    const double first = convention == "saelens" || convention == "saev" ? options_.threshold_rate : 1.0;
    const at::Tensor rate = at::where(threshold_ > 0, at::full({1}, options_.threshold_rate, threshold_.options()),
                                      at::full({1}, first, threshold_.options()));
    threshold_.copy_(
        at::where(at::isfinite(least), (1 - rate) * threshold_ + rate * least.clamp_max(1e30), threshold_));
    autoencoder_.tensor("threshold").detach().copy_(threshold_);
}

bool ConceptSteps::listed() const {
    const AutoencoderConfig& config = autoencoder_.config();
    const std::string& revive = options_.objective.revive;
    return (config.kind == "top_k" || config.kind == "batch_top_k") && !config.weigh_by_decoder && options_.unit_rows &&
           options_.prefixes < 2 && (revive == "aux" || revive == "none") && lists_apply(autoencoder_.tensor("W_enc"));
}

/// Without dead latents their loss is 0 and costs as much as the rest. Which steps look follows from their numbers
/// alone, so that a run that goes on does what one in one piece does.
void ConceptSteps::look_for_dead() {
    if (taken_ % (silent_.is_cpu() ? 1 : kLookEvery) != 0) return;
    any_dead_ = silent_.narrow(0, 0, autoencoder_.config().latents).max().item<std::int64_t>() > options_.dead_window;
}

at::Tensor ConceptSteps::step(const at::Tensor& tokens) {
    look_for_dead();
    if (on_lists() && !unit_) unit_rows();
    const double rate =
        learning_rate_at(taken_, options_.steps, options_.warmup, options_.learning_rate, options_.last_share);
    // Sums through host memory cannot be recorded, and the choice of latents over all processes' tokens needs them.
    const bool alone =
        !several() || (options_.peers->devices != nullptr && on_lists() && autoencoder_.config().kind == "top_k");
    const bool record = graphs_allowed(tokens.device()) && here_ >= kBeforeRecording && alone &&
                        options_.prefixes < 2 && !not_recorded_;
    const at::Tensor figures = record ? recorded_pass(tokens, rate) : pass(tokens, rate, {});
    ++taken_;
    ++here_;
    if (taken_ == options_.steps) {
        const at::NoGradGuard no_grad;
        if (!unit_) unit_rows();
        if (log_threshold_.defined()) autoencoder_.tensor("threshold").detach().copy_(log_threshold_.detach().exp());
    }
    return figures;
}

at::Tensor ConceptSteps::recorded_pass(const at::Tensor& tokens, double rate) {
    for (Recording& known : graphs_) {
        if (known.with_dead != any_dead_ || known.tokens.sizes() != tokens.sizes()) continue;
        known.tokens.copy_(tokens);
        known.rate.fill_(rate);
        known.graph->replay();
        return known.figures.clone();
    }
    Recording made{any_dead_, std::nullopt, tokens.detach().clone(),
                   at::full({1}, rate, tokens.options().dtype(at::kFloat)), at::Tensor()};
    at::Tensor first;
    auto graph = DeviceGraph::record(tokens.device(), [&]() -> Status {
        made.figures = at::Tensor();
        made.figures = pass(made.tokens, rate, made.rate);
        if (!first.defined()) first = made.figures.clone();  // the run before the recording is this step
        return {};
    });
    // What ran before lies in memory that the recording cannot use.
    at::getDeviceAllocator(tokens.device().type())->emptyCache();
    if (graph) {
        made.graph.emplace(std::move(*graph));
        graphs_.push_back(std::move(made));
        return first;
    }
    not_recorded_ = true;
    for (const auto& [name, tensor] : autoencoder_.tensors())
        const_cast<at::Tensor&>(tensor).mutable_grad() = at::Tensor();
    return first.defined() ? first : pass(tokens, rate, {});
}

/// Gradients, figures and who was heard, added up over the processes.
void ConceptSteps::share_gradients(at::Tensor& figures, at::Tensor& heard) {
    std::vector<at::Tensor> flat{figures, heard.to(at::kFloat)};
    for (const auto& [name, tensor] : autoencoder_.tensors())
        if (tensor.grad().defined()) flat.push_back(tensor.grad().flatten());
    const at::Tensor sums = shared_sum(at::cat(flat), *options_.peers);
    std::int64_t at = 0;
    const auto next = [&](std::int64_t count) { return sums.narrow(0, (at += count) - count, count); };
    figures = next(figures.numel()).clone();
    heard = next(heard.numel()) > 0;
    for (const auto& [name, tensor] : autoencoder_.tensors())
        if (tensor.grad().defined())
            const_cast<at::Tensor&>(tensor).mutable_grad() = next(tensor.numel()).view(tensor.sizes()).clone();
}

/// This process's tokens of a batch, and what share they are.
std::pair<at::Tensor, double> ConceptSteps::own_share(const at::Tensor& batch) const {
    if (!several()) return {batch, 1.0};
    const std::int64_t count = options_.peers->count(), rank = options_.peers->rank(), n = batch.size(0);
    const at::Tensor own = batch.narrow(0, n * rank / count, n * (rank + 1) / count - n * rank / count);
    return {own, static_cast<double>(own.size(0)) / static_cast<double>(n)};
}

/// Whether a step is one of lists from end to end, by kernels made for it. It is what pass() does, within rounding.
bool ConceptSteps::on_lists() const {
    const AutoencoderConfig& config = autoencoder_.config();
    return listed() && autoencoder_.tensor("W_dec").is_cuda() && device_list_step_takes(config.width) &&
           (config.kind != "top_k" || config.k <= device_most_largest()) &&
           autoencoder_.tensor("W_enc").is_contiguous() && autoencoder_.tensor("W_dec").is_contiguous();
}

at::Tensor ConceptSteps::pass_on_lists(const at::Tensor& batch, double rate, const at::Tensor& rate_there) {
    const at::NoGradGuard no_grad;
    const AutoencoderConfig& config = autoencoder_.config();
    const std::int64_t m = config.latents, d = config.width;
    // What autograd is asked for, the loss of dead latents alone, comes to `grad` of these.
    const at::Tensor decoder = autoencoder_.tensor("W_dec"), encoder = autoencoder_.tensor("W_enc"),
                     encoder_bias = autoencoder_.tensor("b_enc"), decoder_bias = autoencoder_.tensor("b_dec");
    const auto [tokens, share] = own_share(batch);
    const at::Tensor whole = batch.to(at::kFloat).contiguous(), x = tokens.to(at::kFloat).contiguous();
    const auto options = x.options().requires_grad(false);

    TrainingCodes codes;
    const at::Tensor centre = at::empty({d}, options);
    const bool plain = config.normalise == "none" && config.subtract_decoder_bias && !several();
    codes.read = device_column_sums(whole, 1.0 / static_cast<double>(whole.size(0)), centre,
                                    plain ? decoder_bias : at::Tensor());
    if (!plain) codes.read = autoencoder_.prepared(x, codes).contiguous();
    TORCH_CHECK(choose_lists(autoencoder_, codes, options_.peers), "there is no kernel for so many of the largest");

    const ConceptObjective& objective = options_.objective;
    ListErrorAsked asked;
    asked.indices = codes.lists.indices;
    asked.values = codes.lists.values;
    asked.starts = codes.lists.starts;
    asked.rows = decoder;
    asked.bias = decoder_bias;
    asked.x = x;
    asked.centre = centre;
    if (codes.scale.defined()) asked.scale = codes.scale.contiguous();
    if (codes.shift.defined()) asked.shift = codes.shift.contiguous();
    asked.keep_negative = config.keep_negative;
    asked.made = any_dead_ && objective.revive == "aux" && objective.revive_k > 0;
    std::tie(asked.over, asked.factor) = error_over(objective, static_cast<double>(d));
    asked.factor /= static_cast<double>(batch.size(0));
    const ListErrorFound found = device_list_error(asked);

    at::Tensor revival;
    if (asked.made) {
        codes.values = found.active;
        const at::AutoGradMode with_graph(true);
        const at::Tensor dead = silent_.narrow(0, 0, m) > options_.dead_window;
        const at::Tensor loss =
            auxiliary_loss(autoencoder_, x, codes, found.made, dead, objective.revive_k, options_.peers) *
            objective.revive_weight;
        if (loss.requires_grad()) (several() ? loss * share : loss).backward();
        revival = loss.detach().to(at::kFloat);
    }

    // All that processes share lies in one piece.
    std::vector<at::Tensor> parts;
    const std::int64_t sizes[] = {8, m, m, d, m * d, m * d};
    std::int64_t room = 0;
    for (const std::int64_t size : sizes) room += (size + 3) / 4 * 4;
    const at::Tensor flat = at::empty({room}, options);
    room = 0;
    for (const std::int64_t size : sizes) {
        parts.push_back(flat.narrow(0, room, size));
        room += (size + 3) / 4 * 4;
    }
    const at::Tensor figures = parts[0], heard = parts[1];
    const at::Tensor squares = at::empty({2, m}, options);
    ListGradients to{parts[4], parts[5], parts[2], heard, squares, decoder.grad(), {}};
    if (encoder.grad().defined()) to.plus_encoder = encoder.grad().t().contiguous();
    device_list_gradients(asked, found, codes.read, to);
    device_column_sums(found.d_said, 1, parts[3], {}, config.subtract_decoder_bias ? encoder : at::Tensor(),
                       config.subtract_decoder_bias ? parts[2] : at::Tensor(), decoder_bias.grad());
    if (encoder_bias.grad().defined()) parts[2].add_(encoder_bias.grad());
    for (const auto& [name, tensor] : autoencoder_.tensors())
        const_cast<at::Tensor&>(tensor).mutable_grad() = at::Tensor();
    const ListFigured figured{found.sums, revival, figures, batch.size(0), share};
    if (several()) {
        device_list_figures(figured);
        share_sum(flat, *options_.peers);
        device_row_squares(parts[4].view({m, d}), squares.select(0, 0));
        device_row_squares(parts[5].view({m, d}), squares.select(0, 1));
    }
    if (threshold_.defined()) follow_threshold(found.active);

    ListUpdated update;
    const char* const names[] = {"W_dec", "W_enc", "b_enc", "b_dec"};
    const at::Tensor gradients[] = {parts[4], parts[5], parts[2], parts[3]};
    for (int t = 0; t < 4; ++t) {
        const Optimizer::Moments of = optimizer_->moments(names[t]);
        update.weights[t] = of.weight;
        update.first[t] = of.first;
        update.second[t] = of.second;
        update.counts[t] = of.count;
        update.gradients[t] = gradients[t];
    }
    update.squares = squares;
    update.heard = heard;
    update.silent = silent_;
    update.figures = figures;
    update.rate_there = rate_there;
    update.batch = batch.size(0);
    update.window = options_.dead_window;
    update.longest = kLongestSilence;
    update.rate = rate;
    update.beta1 = optimizer_->options().beta1;
    update.beta2 = optimizer_->options().beta2;
    update.epsilon = optimizer_->options().epsilon;
    update.clip = optimizer_->options().clip;
    device_list_update(update, several() ? nullptr : &figured);
    optimizer_->stepped_elsewhere();
    return figures.narrow(0, 0, 7);
}

at::Tensor ConceptSteps::pass(const at::Tensor& batch, double rate, const at::Tensor& rate_there) {
    if (on_lists()) return pass_on_lists(batch, rate, rate_there);
    const AutoencoderConfig& config = autoencoder_.config();
    unit_rows();
    if (log_threshold_.defined()) {
        const at::NoGradGuard no_grad;
        autoencoder_.tensor("threshold").detach().copy_(log_threshold_.detach().exp());
    }
    const at::Tensor silent = silent_.narrow(0, 0, config.latents), dead = silent > options_.dead_window;
    const auto prefixes =
        options_.prefixes > 1
            ? prefix_lengths(config.latents, options_.prefixes,
                             options_.seed + 0x9E3779B97F4A7C15U * static_cast<std::uint64_t>(taken_ + 1))
            : std::vector<std::int64_t>{};
    const auto [tokens, share] = own_share(batch);
    const at::AutoGradMode with_graph(true);
    const TrainingCodes codes = training_codes(autoencoder_, tokens, options_.objective, listed(), options_.peers);
    const ConceptLoss loss = concept_loss(autoencoder_, tokens, codes, options_.objective,
                                          any_dead_ ? dead : at::Tensor(), prefixes, options_.peers);
    (several() ? loss.total * share : loss.total).backward();

    const at::NoGradGuard no_grad;
    const at::Tensor active = (codes.listed() ? codes.values : codes.active).detach();
    const at::Tensor x = tokens.to(at::kFloat);
    const at::Tensor error = (loss.reconstructed.detach().to(at::kFloat) - x).square().sum(),
                     spread = (batch.to(at::kFloat) - batch.to(at::kFloat).mean(0, true)).square().sum();
    at::Tensor figures = at::stack(
        {loss.total.detach().to(at::kFloat) * share, loss.reconstruction.detach().to(at::kFloat) * share,
         loss.sparsity.detach().to(at::kFloat) * share, loss.revival.detach().to(at::kFloat) * share,
         error / spread.clamp_min(1e-30), active.ne(0).sum().to(at::kFloat) / static_cast<double>(batch.size(0)),
         dead.to(at::kFloat).mean() * share});
    const at::Tensor speaks = config.keep_negative ? active != 0 : active > 0;
    at::Tensor heard;
    if (codes.listed()) {  // several may name a latent, and all write the same
        heard = at::zeros({config.latents + 1}, active.options().dtype(at::kBool));
        heard.scatter_(0, at::where(speaks, codes.lists.indices, config.latents).flatten(), 1);
        heard = heard.narrow(0, 0, config.latents);
    } else {
        heard = speaks.any(0);
    }
    if (several()) share_gradients(figures, heard);
    figures.select(0, 4).neg_().add_(1);

    const at::Tensor& decoder = autoencoder_.tensor("W_dec");
    if (at::Tensor slope = decoder.grad(); slope.defined() && options_.unit_rows) {
        // What would only lengthen a row is undone by the next step anyway, and would upset Adam's moments.
        const at::Tensor rows = decoder.detach();
        slope.sub_((slope * rows).sum(1, true) * rows);
    }
    if (log_threshold_.defined()) {
        at::Tensor threshold = autoencoder_.tensor("threshold");
        if (threshold.grad().defined()) log_threshold_.mutable_grad() = threshold.grad() * threshold.detach();
        threshold.mutable_grad() = at::Tensor();
    }
    silent.add_(batch.size(0)).masked_fill_(heard, 0).clamp_max_(kLongestSilence);
    if (threshold_.defined()) follow_threshold(active);
    optimizer_->step(rate, rate_there);
    return figures;
}

std::vector<std::pair<std::string, at::Tensor>> ConceptSteps::state() const {
    auto out = optimizer_->state();
    out.emplace_back("silent", in_floats(silent_.narrow(0, 0, autoencoder_.config().latents)).flatten());
    out.emplace_back("any_dead", at::full({1}, any_dead_ ? 1.0F : 0.0F));
    if (threshold_.defined()) out.emplace_back("smoothed_threshold", in_floats(threshold_).flatten());
    return out;
}

Status ConceptSteps::restore(const std::vector<std::pair<std::string, at::Tensor>>& state, std::int64_t steps) {
    VITRINE_CHECK(optimizer_->restore(state, steps));
    const at::NoGradGuard no_grad;
    const auto given = [&](const char* name, std::int64_t count) -> Result<at::Tensor> {
        for (const auto& [own, tensor] : state)
            if (own == name && tensor.dim() == 1 && tensor.size(0) == count) return tensor;
        return fail(ErrorCode::BadInput, "the training checkpoint lacks {}", name);
    };
    const std::int64_t latents = autoencoder_.config().latents;
    silent_.narrow(0, 0, latents)
        .copy_(VITRINE_TRY(given("silent", 3 * latents)).to(at::kDouble).view({3, latents}).sum(0));
    any_dead_ = VITRINE_TRY(given("any_dead", 1)).item<float>() > 0;
    if (threshold_.defined()) {
        threshold_.copy_(VITRINE_TRY(given("smoothed_threshold", 3)).to(at::kDouble).sum(0, true));
        autoencoder_.tensor("threshold").detach().copy_(threshold_);
    }
    if (log_threshold_.defined()) autoencoder_.tensor("threshold").detach().copy_(log_threshold_.detach().exp());
    taken_ = steps;
    unit_ = false;
    return {};
}

}  // namespace vitrine
