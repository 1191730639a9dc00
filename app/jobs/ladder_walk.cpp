// Asks the engine twice: a few pictures first, then all.
#include "ladder_walk.h"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>

#include <vitrine/engine.h>
#include <vitrine/picture_set.h>
#include <vitrine/uncertainty_response.h>

namespace vitrine::app {
namespace {

constexpr std::int64_t kFew = 4;

LadderEstimate plain(const Estimate& e) { return {e.mean, e.low, e.high}; }

void add(LadderFacts& out, const std::vector<RungFigures>& rungs, bool control) {
    for (const auto& one : rungs) {
        auto found = std::find_if(out.series.begin(), out.series.end(), [&](const auto& series) {
            return series.control == control && series.tokens == one.tokens;
        });
        if (found == out.series.end()) found = out.series.insert(found, LadderSeries{one.tokens, control, {}});
        found->points.push_back({plain(one.active), plain(one.distinct), one.explained_variance, one.unreliable});
    }
}

LadderFacts facts_of(const UncertaintyResponse& found) {
    LadderFacts out;
    out.pictures = found.climbed;
    out.inputs = found.inputs;
    out.seeds = static_cast<std::int64_t>(found.seeds.size());
    for (const auto& rung : found.rungs) out.rungs.push_back(rung.name());
    out.notes = found.notes;
    if (found.layers.empty()) return out;
    const auto& layer = found.layers.front();
    out.point = layer.point;
    out.kind = layer.kind;
    out.fixed = layer.kind == "top_k";
    add(out, layer.rungs, false);
    add(out, layer.control, true);
    for (const auto& one : layer.insensitive)
        out.insensitive.push_back(
            {one.latent, one.heard.empty() ? 0 : one.heard.front(), one.coherence, one.meaningful()});
    out.notes.insert(out.notes.end(), layer.notes.begin(), layer.notes.end());
    return out;
}

}  // namespace

Result<LadderFacts> climb_ladder(
    const LadderPlan& plan, std::stop_token stop,
    const std::function<void(std::string doing, std::int64_t done, std::int64_t total)>& doing,
    const std::function<void(LadderFacts)>& so_far) {
    // What the person looks at goes first. The threads that this one starts for its sums inherit it.
    setpriority(PRIO_PROCESS, static_cast<id_t>(gettid()), 10);
    doing("Opening a copy of the model", 0, 0);
    OpenOptions open;
    open.trust = true;  // asked for when the window opened it
    const auto model = VITRINE_TRY(open_model(plan.model, open));
    const auto concepts = VITRINE_TRY(Autoencoder::load(plan.autoencoder));
    VITRINE_CHECK(concepts.fits(*model));
    doing("Looking at the pictures", 0, 0);
    const auto pictures = VITRINE_TRY(PictureSet::open({plan.folder}, model->preprocess()));
    UncertaintyOptions options;
    for (std::int64_t i = 0; i < pictures.count(); ++i) options.names.push_back(pictures.picture(i).name);
    options.pixels = [&](std::int64_t index) { return pictures.pixels(index); };
    options.autoencoders = {{concepts.config().point, concepts}};
    options.seeds = plan.seeds;
    options.risk = "none";
    options.suppressed = 0;
    options.stop = stop;
    if (plan.pictures > kFew) {
        options.pictures = options.reference = kFew;
        options.control = false;
        options.progress = [&](const Progress& p) { doing("A few pictures first", p.done, p.total); };
        so_far(facts_of(VITRINE_TRY(uncertainty_response(*model, options))));
    }
    options.pictures = plan.pictures;
    options.reference = std::max<std::int64_t>(plan.pictures, 64);
    options.control = plan.control;
    options.progress = [&](const Progress& p) { doing("From signal to noise", p.done, p.total); };
    return facts_of(VITRINE_TRY(uncertainty_response(*model, options)));
}

}  // namespace vitrine::app
