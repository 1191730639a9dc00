// Asks the engine as `vitrine tcav` does.
#include "tcav_run.h"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>

#include <vitrine/engine.h>
#include <vitrine/tcav.h>

namespace vitrine::app {

TcavEstimate estimate_of(std::vector<double> scores) {
    if (scores.empty()) return {};
    std::sort(scores.begin(), scores.end());
    const auto at = [&](double share) {
        const double place = share * static_cast<double>(scores.size() - 1);
        const auto below = static_cast<std::size_t>(place);
        const auto above = std::min(below + 1, scores.size() - 1);
        return scores[below] + (place - std::floor(place)) * (scores[above] - scores[below]);
    };
    TcavEstimate out{0, at(0.025), at(0.975)};
    for (const double score : scores) out.mean += score / static_cast<double>(scores.size());
    return out;
}

Result<TcavFacts> run_tcav(const TcavPlan& plan, std::stop_token stop,
                           const std::function<void(std::string doing, std::int64_t done, std::int64_t total)>& doing) {
    // What the person looks at goes first. The threads that this one starts for its sums inherit it.
    setpriority(PRIO_PROCESS, static_cast<id_t>(gettid()), 10);
    doing("Opening a copy of the model", 0, 0);
    OpenOptions open;
    open.trust = true;  // asked for when the window opened it
    const auto model = VITRINE_TRY(open_model(plan.model, open));
    TcavOptions options;
    options.index = plan.target;
    options.examples = plan.examples;
    options.random = plan.random;
    options.concepts = plan.concepts;
    options.point = plan.point;
    options.features = plan.features;
    options.runs = plan.runs;
    options.stop = std::move(stop);
    options.progress = [&](const Progress& p) {
        doing(p.unit == std::string_view("runs") ? "Telling apart" : "Looking at the pictures", p.done, p.total);
    };
    const auto found = VITRINE_TRY(tcav(*model, options));
    TcavFacts out{found.point, found.explained, found.examples, found.random, plan.runs,
                  {},          found.notes,     found.skipped};
    for (const TcavScore& one : found.concepts)
        out.concepts.push_back({one.name, one.features, one.examples, one.drawn, estimate_of(one.scores),
                                estimate_of(one.random), one.accuracy, one.random_accuracy, one.p, one.p_corrected});
    return out;
}

}  // namespace vitrine::app
