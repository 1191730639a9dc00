// Encodes the tokens of a picture a few hundred at a time, and keeps what is not zero.
#include "concept_codes.h"

#include <algorithm>
#include <chrono>
#include <limits>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <fmt/ranges.h>

#include <vitrine/beside.h>
#include <vitrine/concept_doubt.h>
#include <vitrine/concept_index.h>
#include <vitrine/concept_names.h>
#include <vitrine/engine.h>
#include <vitrine/steering.h>
#include <vitrine/torch_errors.h>

namespace vitrine::app {

namespace {

constexpr std::int64_t kTokensAtOnce = 256;  // of 16 384 concepts: 17 MB

}  // namespace

FileStamp FileStamp::of(const std::filesystem::path& file) {
    FileStamp out;
    std::error_code failed;
    const auto written = std::filesystem::last_write_time(file, failed);
    if (failed) return out;
    const auto size = std::filesystem::file_size(file, failed);
    if (failed) return out;
    out.written = written, out.size = size;
    return out;
}

std::filesystem::path ConceptShelf::file_of(const ConceptSource& source) {
    return source.file.empty() ? built_in_concepts() : source.file;
}

Result<std::map<std::int32_t, ConceptName>> names_of(const std::filesystem::path& autoencoder,
                                                     const std::string& mark) {
    std::map<std::int32_t, ConceptName> out;
    const auto read = VITRINE_TRY(ConceptNames::of(autoencoder, mark));
    for (const auto& [number, one] : read.all())
        if (!one.name.empty() && number <= std::numeric_limits<std::int32_t>::max())
            out[static_cast<std::int32_t>(number)] = {one.name, fmt::format("{}", fmt::join(one.tags, ", ")), one.note};
    return out;
}

Result<std::shared_ptr<const Autoencoder>> ConceptShelf::take(Model& model, const ConceptSource& source) {
    const bool built_in = source.file.empty();
    const auto file = file_of(source);
    const auto untrained = [&] {
        return fail(ErrorCode::Unsupported, "no concepts came with {}: open an autoencoder that was trained on it",
                    model.info().title.empty() ? model.info().name : model.info().title);
    };
    if (file.empty()) return untrained();
    const auto written = FileStamp::of(file);
    const auto index_file = found_beside(concept_index_file(file));
    const auto indexed = FileStamp::of(index_file);
    const bool same = autoencoder_ && source_ == source && written_ == written;
    if (same && indexed_ == indexed) return autoencoder_;
    auto held = autoencoder_;
    if (!same) {
        auto loaded = Autoencoder::load(file, source.given);
        const Status fits = loaded ? loaded->fits_weights(model) : Status(tl::make_unexpected(loaded.error()));
        if (!fits && built_in) return untrained();
        VITRINE_CHECK(fits);
        mark_ = concepts_mark(*loaded);
        loaded->to(model.device());
        held = std::make_shared<const Autoencoder>(std::move(*loaded));
    }
    source_ = source;
    written_ = written;
    indexed_ = indexed;
    largest_.clear();
    if (const auto index = ConceptIndex::open(index_file);
        index && index->latents() == held->config().latents && index_fits(*index, model, *held))
        for (const float most : index->column("maximum"))
            largest_.push_back(!(most > 0) ? 0 : held->config().kind == "k_means" ? 1 : most);  // there: closeness
    return autoencoder_ = std::move(held);
}

Result<std::shared_ptr<Model>> steered_model(const std::shared_ptr<Model>& model, const Autoencoder& autoencoder,
                                             const Steer& steer, bool again) {
    using Mode = ConceptEdit::Mode;
    std::vector<ConceptEdit> edits;
    for (const auto& one : steer.edits)
        edits.push_back({one.number,
                         one.mode == SteeredConcept::Mode::Suppress ? Mode::Suppress
                         : one.mode == SteeredConcept::Mode::Scale  ? Mode::Scale
                                                                    : Mode::Set,
                         one.value});
    Steering::Tokens tokens = Steering::Tokens::All;
    std::vector<PatchBox> boxes;
    switch (steer.tokens) {
        case Steer::Tokens::All:
            break;
        case Steer::Tokens::Class:
            tokens = Steering::Tokens::Class;
            break;
        case Steer::Tokens::Patches:
            tokens = Steering::Tokens::Patches;
            break;
        case Steer::Tokens::Chosen:
            tokens = Steering::Tokens::Chosen;
            if (steer.region)
                boxes.push_back({steer.region->row, steer.region->col, steer.region->to_row, steer.region->to_col});
            break;
    }
    if (again) return VITRINE_TRY(steered_again(*model, std::move(edits), tokens, std::move(boxes)));
    Steering steering{.autoencoder = autoencoder};
    steering.edits = std::move(edits);
    steering.tokens = tokens;
    steering.boxes = std::move(boxes);
    steering.file = steer.source.file.empty() ? built_in_concepts() : steer.source.file;
    steering.given = steer.source.given;
    return VITRINE_TRY(steered(model, std::move(steering)));
}

Result<SteerCurve> curve_of(const std::shared_ptr<Model>& model, const Autoencoder& autoencoder, const Steer& steer,
                            const at::Tensor& pixels, const SteerabilityOptions& options) {
    Steer one{steer.source, {{options.index, SteeredConcept::Mode::Suppress, 0}}, steer.tokens, steer.region};
    const auto scope = VITRINE_TRY(steered_model(model, autoencoder, one, false));
    const auto found = VITRINE_TRY(steerability(*model, *steering_of(*scope), pixels, options));
    SteerCurve out;
    out.number = options.index;
    out.top = model->labels().name(found.top);
    out.probability = found.probability;
    out.concepts = std::ssize(found.random_latents);
    out.directions = std::ssize(found.random_directions);
    const auto by_chance = [](const std::vector<SteeringCurve>& curves, std::size_t at, double& mean, double& most) {
        for (const SteeringCurve& curve : curves) {
            mean += curve.points[at].divergence / static_cast<double>(curves.size());
            most = std::max(most, curve.points[at].divergence);
        }
    };
    for (std::size_t i = 0; i < found.latent.points.size(); ++i) {
        const SteeredAnswer& at = found.latent.points[i];
        SteerCurve::Point point{at.value, at.divergence, at.changed, model->labels().name(at.top), at.probability};
        by_chance(found.random_latents, i, point.concepts, point.concepts_most);
        by_chance(found.random_directions, i, point.directions, point.directions_most);
        out.points.push_back(std::move(point));
    }
    return out;
}

std::string words_of_steering(const Model& model) {
    const auto* steering = steering_of(model);
    return steering ? sentence_of(*steering) : std::string();
}

Result<ConceptsFound> concepts_of(Model& model, const at::Tensor& pixels, const Autoencoder& autoencoder,
                                  std::stop_token stop) {
    const auto start = std::chrono::steady_clock::now();
    const at::NoGradGuard no_grad;
    const auto& config = autoencoder.config();
    const auto parameters = model.parameters();
    const auto typed =
        pixels.to(model.device(), parameters.empty() ? at::kFloat : parameters.front().second.scalar_type());
    const auto point = VITRINE_TRY(point_tokens(model, typed, config, stop));

    ConceptsFound out;
    auto& facts = out.facts;
    facts.kind = config.kind;
    facts.point = config.point;
    facts.tokens = config.tokens;
    facts.concepts = config.latents;
    facts.width = config.width;
    facts.k = config.kind == "top_k" || config.kind == "batch_top_k" ? config.k : 0;
    if (const auto format = autoencoder.facts.find("format"); format != autoencoder.facts.end())
        facts.format = format->second;
    const bool one_token = config.tokens == "class", grid = point.rows > 0 && !one_token;
    if (one_token)
        facts.no_map = "these concepts are of the class token alone, so there is no map of them";
    else if (!grid)
        facts.no_map =
            fmt::format("which tokens of {} are patches is not known, so there is no map of them", config.point);

    const std::int64_t before = grid ? std::ssize(point.prefix) : 0, patches = point.rows * point.cols;
    const bool without_prefix = config.tokens == "patches" && grid;  // those are nothing it was trained on
    auto tokens = point.tokens[0];
    if (one_token) tokens = tokens.narrow(0, 0, 1);
    if (without_prefix) tokens = tokens.narrow(0, before, patches);
    tokens = tokens.to(at::kFloat);
    const std::int64_t first = grid && !without_prefix ? before : 0;  // of those that are listed
    const std::int64_t listed = grid ? first + patches : tokens.size(0);

    std::vector<std::int64_t> starts{0};
    std::vector<ConceptValue> entries;
    double left = 0, active = 0, left_class = -1;  // left: not explained
    const bool class_first = first > 0 && point.prefix.front() == "cls";
    for (std::int64_t from = 0; from < tokens.size(0); from += kTokensAtOnce) {
        if (stop.stop_requested()) return fail(ErrorCode::Cancelled, "stopped");
        const auto some = tokens.narrow(0, from, std::min(kTokensAtOnce, tokens.size(0) - from));
        const auto codes = autoencoder.encode(some);
        const auto miss = (autoencoder.decode(codes.active, codes) - some).to(at::kDouble).square();
        left += miss.sum().item<double>();
        if (from == 0 && class_first) left_class = miss[0].sum().item<double>();
        const auto plain = codes.active.to(at::kCPU, at::kFloat).contiguous();
        const float* values = plain.const_data_ptr<float>();
        for (std::int64_t t = 0; t < plain.size(0); ++t) {
            const bool in_list = from + t >= first && from + t < listed;
            auto* alone = from + t < first ? &out.apart.emplace_back() : nullptr;
            if (alone) alone->token = point.prefix[static_cast<std::size_t>(from + t)];
            for (std::int64_t id = 0; id < config.latents; ++id) {
                const float v = values[t * config.latents + id];
                if (v == 0) continue;
                ++active;
                if (in_list) entries.push_back({static_cast<std::int32_t>(id), v});
                if (alone) alone->concepts.push_back({static_cast<std::int32_t>(id), v});
            }
            if (alone) sort_concepts(alone->concepts);
            if (in_list) starts.push_back(std::ssize(entries));
        }
    }
    facts.active = active / static_cast<double>(tokens.size(0));
    const auto apart = (tokens - tokens.mean(0, true)).to(at::kDouble).square();
    const double whole = apart.sum().item<double>();
    if (whole > 0) facts.explained = 1 - left / whole;
    // Hundreds of patches would hide what is said of the one token that most answers are read from.
    if (left_class >= 0)
        if (const double own = apart[0].sum().item<double>(); own > 0) facts.explained_class = 1 - left_class / own;
    if (facts.explained && *facts.explained < 0.5)
        facts.notes.push_back("less than half is explained: what these concepts say of this picture is unreliable");
    if (std::string doubt = doubt_of(autoencoder, model); !doubt.empty()) facts.notes.push_back(std::move(doubt));
    out.picture = std::make_shared<const ConceptsOfPicture>(grid ? point.rows : 0, grid ? point.cols : 0,
                                                            config.latents, std::move(starts), std::move(entries));
    out.milliseconds = std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
    return out;
}

Result<ConceptLayers> concept_layers(Model& model, const at::Tensor& pixels, const Autoencoder& autoencoder,
                                     const std::vector<std::string>& points, std::stop_token stop) {
    const at::NoGradGuard no_grad;
    const auto& config = autoencoder.config();
    const auto parameters = model.parameters();
    const auto typed =
        pixels.to(model.device(), parameters.empty() ? at::kFloat : parameters.front().second.scalar_type());
    const auto own = VITRINE_TRY(point_tokens(model, typed, config, stop));
    const std::int64_t patches = own.rows * own.cols, before = std::ssize(own.prefix);
    if (patches == 0) return fail(ErrorCode::Unsupported, "which tokens of {} are patches is not known", config.point);
    CaptureOptions options;
    options.mixings = false;
    options.points = points;
    options.stop = stop;
    const auto seen = VITRINE_TRY(run_captured(model, typed, options));
    ConceptLayers out;
    out.concepts = config.latents;
    for (const auto& name : points) {
        const auto found = seen->points.find(name);
        if (found == seen->points.end()) continue;
        if (stop.stop_requested()) return fail(ErrorCode::Cancelled, "stopped");
        const at::Tensor x = found->second.dim() == 4 ? found->second.flatten(2).transpose(1, 2) : found->second;
        if (x.dim() != 3 || x.size(1) != own.tokens.size(1) || x.size(2) != config.width) continue;
        at::Tensor tokens = x[0].to(at::kFloat);
        if (config.tokens == "class")
            tokens = tokens.narrow(0, 0, 1);
        else
            tokens = tokens.narrow(0, before, patches);
        at::Tensor most;
        double left = 0;
        for (std::int64_t from = 0; from < tokens.size(0); from += kTokensAtOnce) {
            const auto some = tokens.narrow(0, from, std::min(kTokensAtOnce, tokens.size(0) - from));
            const auto codes = autoencoder.encode(some);
            left += (autoencoder.decode(codes.active, codes) - some).to(at::kDouble).square().sum().item<double>();
            const auto here = std::get<0>(codes.active.max(0));
            most = most.defined() ? here.where(here > most, most) : here;
        }
        const double whole = (tokens - tokens.mean(0, true)).to(at::kDouble).square().sum().item<double>();
        if (name == config.point) out.own = static_cast<int>(out.points.size());
        out.points.push_back(name);
        out.explained.push_back(whole > 0 ? 1 - left / whole : 0);
        most = most.to(at::kCPU, at::kFloat).contiguous();
        const float* values = most.const_data_ptr<float>();
        out.strongest.insert(out.strongest.end(), values, values + config.latents);
    }
    if (out.points.size() < 2)
        return fail(ErrorCode::Unsupported, "no other layer of {} has tokens like those of {}", model.info().name,
                    config.point);
    return out;
}

}  // namespace vitrine::app
