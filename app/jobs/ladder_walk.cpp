// Asks the engine, and puts what it finds into plain structs.
#include "ladder_walk.h"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <map>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/tensor.h>

#include <vitrine/base/concept_index.h>
#include <vitrine/base/random.h>
#include <vitrine/beside.h>
#include <vitrine/concept_index.h>
#include <vitrine/concept_names.h>
#include <vitrine/control_concepts.h>
#include <vitrine/engine.h>
#include <vitrine/picture_set.h>
#include <vitrine/torch_errors.h>
#include <vitrine/uncertainty_response.h>

#include "concept_book.h"

namespace vitrine::app {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t kReference = 64, kRiskReference = 512, kPlayed = 24, kSuppressed = 10;

LadderEstimate plain(const Estimate& e) { return {e.mean, e.low, e.high}; }

void add(LadderLayer& out, const std::vector<RungFigures>& rungs, bool control) {
    for (const auto& one : rungs) {
        auto found = std::find_if(out.series.begin(), out.series.end(), [&](const auto& series) {
            return series.control == control && series.tokens == one.tokens;
        });
        if (found == out.series.end()) found = out.series.insert(found, LadderSeries{one.tokens, control, {}});
        found->points.push_back({plain(one.active), plain(one.distinct), plain(one.ratio), plain(one.overlap),
                                 one.explained_variance, one.norm, one.unreliable, one.inputs});
    }
}

/// What the names of each autoencoder's concepts are known by, by its file.
using Marks = std::map<std::string, std::string>;

LadderLayer layer_of(const LayerResponse& layer, const Marks& marks) {
    LadderLayer out;
    out.path = layer.name;
    out.file = out.path.filename().string();
    out.point = layer.point;
    out.kind = layer.kind;
    out.fixed = layer.kind == "top_k";
    add(out, layer.rungs, false);
    add(out, layer.control, true);
    const auto mark = marks.find(layer.name);
    const auto names = layer.insensitive.empty() || mark == marks.end()
                           ? ConceptNames()
                           : ConceptNames::of(layer.name, mark->second).value_or(ConceptNames());
    for (const auto& one : layer.insensitive) {
        const auto* called = names.find(one.latent);
        out.insensitive.push_back({one.latent, one.heard.empty() ? 0 : one.heard.front(), one.insensitivity,
                                   one.coherence, one.meaningful(), called ? called->name : std::string()});
    }
    for (const auto& one : layer.suppression)
        out.suppression.push_back({one.chosen == "raising", one.inputs, plain(one.before), plain(one.after),
                                   plain(one.change), plain(one.control), plain(one.difference)});
    if (layer.risk) {
        const auto& found = *layer.risk;
        const double none = std::numeric_limits<double>::quiet_NaN();
        const auto &low = found.low, &high = found.high;
        out.risk =
            LadderRisk{{found.found.r2, low.r2, high.r2},
                       {found.found.spearman.value_or(none), low.spearman.value_or(none), high.spearman.value_or(none)},
                       {found.found.auroc.value_or(none), low.auroc.value_or(none), high.auroc.value_or(none)},
                       found.p_r2,
                       found.p_spearman,
                       found.p_auroc,
                       found.null.r2,
                       found.null.spearman.value_or(none),
                       found.null.auroc.value_or(none)};
    }
    out.trained = {layer.tokens_seen, layer.held, layer.trained_at};
    if (!layer.control_name.empty()) out.control = LadderTraining{layer.control_tokens_seen, layer.control_held};
    out.notes = layer.notes;
    return out;
}

LadderFacts facts_of(const UncertaintyResponse& found, const Marks& marks, bool whole) {
    LadderFacts out;
    out.whole = whole;
    out.pictures = found.climbed;
    out.inputs = found.inputs;
    out.seeds = static_cast<std::int64_t>(found.seeds.size());
    for (const auto& rung : found.rungs) out.rungs.push_back(rung.name());
    out.notes = found.notes;
    for (const auto& layer : found.layers) out.layers.push_back(layer_of(layer, marks));
    return out;
}

/// Of the files as they are now: with others nothing is remembered.
std::string stamp_of(const fs::path& folder, const PictureSet& pictures) {
    std::uint64_t out = hash_of(folder.string());
    std::error_code ignored;
    for (std::int64_t i = 0; i < pictures.count(); ++i) {
        const auto& one = pictures.picture(i);
        out = mix64(out ^ hash_of(one.name));
        if (one.file.empty()) continue;
        out = mix64(out ^ static_cast<std::uint64_t>(fs::file_size(one.file, ignored)));
        out =
            mix64(out ^ static_cast<std::uint64_t>(fs::last_write_time(one.file, ignored).time_since_epoch().count()));
    }
    return fmt::format("{:016x}", out);
}

void give_way() {
    // What the person looks at goes first. The threads that this one starts for its sums inherit it.
    setpriority(PRIO_PROCESS, static_cast<id_t>(gettid()), 10);
}

Result<std::shared_ptr<Model>> own_copy(const std::string& request) {
    OpenOptions open;
    open.trust = true;  // asked for when the window opened it
    return open_model(request, open);
}

/// What its file does not say is as it was given, else as it was when its pictures were indexed.
Result<Autoencoder> opened(const ConceptSource& source) {
    auto given = source.given;
    if (given.empty())
        if (const auto index = ConceptIndex::open(found_beside(concept_index_file(source.file))))
            given = given_of(index->fact("given")).value_or(std::move(given));
    auto out = Autoencoder::load(source.file, given);
    const auto name = source.file.filename().string();
    if (out && out->config().point.empty())
        return fail(
            ErrorCode::BadInput,
            "the file {} does not say which point of the model it reads; open it once in the Concepts panel and "
            "choose the point there",
            name);
    if (out || asked_by(source).empty()) return out;
    return fail(out.error().code, "{}; the Concepts panel asks for that once the file is opened there",
                out.error().message);
}

}  // namespace

Result<LadderFacts> climb_ladder(const LadderPlan& plan, std::shared_ptr<LadderMemory>& memory, std::stop_token stop,
                                 const std::function<void(std::string doing, double share)>& doing,
                                 const std::function<void(LadderFacts)>& so_far) {
    give_way();
    doing("Opening a copy of the model", -1);
    const auto model = VITRINE_TRY(own_copy(plan.model));
    UncertaintyOptions options;
    Marks marks;
    for (const auto& source : plan.autoencoders) {
        const auto& file = source.file;
        auto concepts = VITRINE_TRY(opened(source));
        if (const auto fits = concepts.fits(*model); !fits)
            return tl::make_unexpected(plan.autoencoders.size() > 1
                                           ? Error(fits.error()).with_context(file.filename().string())
                                           : fits.error());
        marks[file.string()] = concepts_mark(concepts);
        options.autoencoders.emplace_back(file.string(), std::move(concepts));
    }
    doing("Looking at the pictures", -1);
    const auto pictures = VITRINE_TRY(PictureSet::open({plan.folder}, model->preprocess()));
    for (std::int64_t i = 0; i < pictures.count(); ++i) options.names.push_back(pictures.picture(i).name);
    options.pixels = [&](std::int64_t index) { return pictures.pixels(index); };
    options.seeds = plan.seeds;
    options.pictures = plan.pictures;
    options.suppressed = 0;
    options.stop = stop;
    if (!memory) memory = std::make_shared<LadderMemory>();
    memory->stamp = stamp_of(plan.folder, pictures);
    options.memory = memory;
    options.so_far_seconds = 0.3;
    options.so_far = [&](const UncertaintyResponse& found) {
        if (found.inputs > 0) so_far(facts_of(found, marks, false));
    };
    double share = -1;
    bool foretold = false;  // what runs the model from then on is suppression
    options.progress = [&](const Progress& p) {
        share = p.total > 0 ? static_cast<double>(p.done) / static_cast<double>(p.total) : -1;
        if (p.unit == "pictures") doing("What concepts mean in pictures", share);
        if (p.unit == "fits") foretold = true, doing("Foretelling the risk", share);
        if (p.unit == "inputs" && foretold) doing("Suppressing the concepts that foretell it", share);
    };
    options.place = [&](const LadderPlace& at) {
        doing(fmt::format("{}icture {} of {}, draw {} of {}: {}", at.control ? "Weights shuffled, p" : "P", at.picture,
                          at.pictures, at.seed, at.seeds, at.rung),
              share);
    };
    if (plan.control == LadderControl::Trained) {
        // First what there is to see without training; all of it is remembered.
        options.control = false;
        options.risk = "none";
        options.reference = 1;
        VITRINE_CHECK(uncertainty_response(*model, options));
        const PictureSet rest = control_pictures(pictures, options.seed, plan.pictures);
        for (const auto& [file, sound] : options.autoencoders) {
            ControlConceptsOptions training;
            training.sound = file;
            training.pictures = &rest;
            training.seed = options.seed;
            training.steps = plan.control_steps;
            training.stop = stop;
            training.progress = [&](const Progress& p) {
                doing(fmt::format("Training concepts of the shuffled weights, step {} of {}", p.done, p.total),
                      static_cast<double>(p.done) / static_cast<double>(std::max<std::int64_t>(p.total, 1)));
            };
            options.control_autoencoders.emplace_back(control_concepts_file(file, options.seed).string(),
                                                      VITRINE_TRY(control_concepts(*model, sound, training)));
        }
    }
    options.control = plan.control != LadderControl::None;
    options.risk = plan.risk ? "confidence" : "none";
    options.suppressed = plan.risk && plan.suppress ? kSuppressed : 0;
    options.reference = std::max(plan.pictures, plan.risk ? kRiskReference : kReference);
    auto found = VITRINE_TRY(uncertainty_response(*model, options));
    if (plan.control == LadderControl::Trained && plan.pictures >= pictures.count())
        found.notes.emplace_back("the control's concepts were trained on the pictures that climb: there are no others");
    return facts_of(found, marks, true);
}

Result<std::vector<PlayedStep>> play_ladder(const std::string& request, const ConceptSource& autoencoder,
                                            const fs::path& picture, std::stop_token stop) {
    give_way();
    return guarded([&]() -> Result<std::vector<PlayedStep>> {
        const at::NoGradGuard no_grad;
        const auto model = VITRINE_TRY(own_copy(request));
        const auto concepts = VITRINE_TRY(opened(autoencoder));
        VITRINE_CHECK(concepts.fits(*model));
        const Input input = VITRINE_TRY(load_input(picture, model->preprocess()));
        const AutoencoderConfig& config = concepts.config();
        const auto colour = [](const auto& three) {
            return at::tensor({float(three[0]), float(three[1]), float(three[2])}).view({3, 1, 1});
        };
        const at::Tensor mean = colour(model->preprocess().mean), deviation = colour(model->preprocess().std);
        std::vector<PlayedStep> out;
        at::Tensor clean;
        std::map<Rung::Kind, at::Tensor> staying;  // bool [latents]
        for (const Rung& rung : VITRINE_TRY(ladder_of({}))) {
            if (stop.stop_requested()) return fail(ErrorCode::Cancelled, "stopped");
            if (rung.is_clean() && rung.kind != Rung::Kind::Clean) continue;
            const at::Tensor pixels = VITRINE_TRY(rung_pixels(rung, input.pixels, model->preprocess(), 0, input.name));
            const PointTokens read = VITRINE_TRY(point_tokens(*model, pixels, config, stop));
            at::Tensor tokens = read.tokens[0];
            const std::int64_t prefix = std::ssize(read.prefix), patches = read.rows * read.cols;
            if (config.tokens == "class")
                tokens = tokens.narrow(0, 0, 1);
            else if (patches > 0)
                tokens = tokens.narrow(0, prefix, patches);
            const at::Tensor active = concepts.encode(tokens).active;
            const at::Tensor heard = active.ne(0).any(0), sums = active.sum(0).to(at::kDouble).contiguous();
            if (rung.kind == Rung::Kind::Clean) clean = heard;
            at::Tensor& stays = staying[rung.kind];
            stays = (stays.defined() ? stays : clean).logical_and(heard);

            PlayedStep step;
            step.rung = rung.name();
            step.heard = heard.sum().item<std::int64_t>();
            step.stay = stays.sum().item<std::int64_t>();
            const at::Tensor seen = ((pixels[0] * deviation + mean).clamp(0, 1) * 255).round().to(at::kByte);
            const at::Tensor rows = seen.permute({1, 2, 0}).contiguous();
            step.height = rows.size(0);
            step.width = rows.size(1);
            step.rgb.assign(rows.const_data_ptr<std::uint8_t>(), rows.const_data_ptr<std::uint8_t>() + rows.numel());
            std::vector<std::int64_t> order;
            const at::Tensor stay = stays.contiguous();
            const double* sum = sums.const_data_ptr<double>();
            for (std::int64_t i = 0; i < sums.numel(); ++i)
                if (sum[i] != 0) order.push_back(i);
            std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) { return sum[a] > sum[b]; });
            order.resize(std::min(order.size(), static_cast<std::size_t>(kPlayed)));
            for (const std::int64_t i : order) step.concepts.push_back({i, sum[i], stay.const_data_ptr<bool>()[i]});
            out.push_back(std::move(step));
        }
        return out;
    });
}

}  // namespace vitrine::app
