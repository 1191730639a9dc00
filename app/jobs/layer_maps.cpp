// Posts one job for all layers and takes their maps in one by one.
#include "layer_maps.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace vitrine::app {
namespace {
constexpr const char* kTag = "layers";
constexpr std::size_t kClasses = 10;
}  // namespace

LayerMaps::LayerMaps(Session& session) : QObject(&session), session_(session) {
    connect(&session, &Session::modelChanged, this, [this] {
        layers_.clear();
        shown_.reset();
        follow();
    });
    connect(&session, &Session::lookChanged, this, &LayerMaps::follow);
    connect(&session, &Session::choiceChanged, this, &LayerMaps::follow);
    connect(&session, &Session::evidenceChanged, this, &LayerMaps::litChanged);
    connect(&session, &Session::workDropped, this, [this](bool stopped) {
        if (!running_) return;
        session_.jobs_.cancel(kTag);
        running_ = false;
        stale_ = true;
        stopped_ = stopped;
        shown_.reset();
        Q_EMIT changed();
    });
}

QString LayerMaps::whyNot() const {
    const auto* facts = session_.methodFacts();
    if (!session_.model()) return tr("Open a model first");
    if (!facts) return tr("No method is chosen");
    if (!facts->has("layer") && !facts->has("part"))
        return tr("%1 reads no single layer; a class activation map does").arg(QString::fromStdString(facts->title));
    if (const auto why = session_.whyNot(*facts); !why.isEmpty()) return why;
    if (!hasParts() && session_.model()->layer_points.size() < 2)
        return tr("This model has no row of layers whose maps could be compared");
    if (!session_.look()) return tr("The model has not run on the picture yet");
    return trouble_;
}

bool LayerMaps::hasParts() const {
    const auto* facts = session_.methodFacts();
    return facts && facts->has("part");
}

Wanted LayerMaps::wanted() const {
    auto out = session_.wanted(session_.method());
    out.settings.erase("layer");
    out.settings.erase("part");
    return out;
}

bool LayerMaps::isChosen(int layer) const {
    if (layer < 0 || layer >= static_cast<int>(layers_.size())) return false;
    const auto& one = layers_[static_cast<std::size_t>(layer)];
    const auto& settings = session_.settings();
    if (one.kind == Kind::Class) return session_.explainedClass() == one.index;
    if (one.kind == Kind::Layer) return layer == chosen();
    const auto set = settings.find("part");
    return set != settings.end() && set->second == one.name;
}

float LayerMaps::reach() const {
    float most = 0;
    for (const auto& one : layers_)
        if (one.kind == Kind::Part && one.plane)
            most = std::max({most, std::abs(one.plane->low), std::abs(one.plane->high)});
    return most;
}

int LayerMaps::chosen() const {
    if (hasParts()) {
        int any = -1;
        for (int i = 0; i < static_cast<int>(layers_.size()); ++i)
            if (isChosen(i) && (any < 0 || layers_[static_cast<std::size_t>(i)].kind == last_)) any = i;
        return any;
    }
    const auto& settings = session_.settings();
    const auto set = settings.find("layer");
    const auto name = set != settings.end() ? set->second
                      : session_.model()    ? session_.model()->cam_point
                                            : std::string();
    for (std::size_t i = 0; i < layers_.size(); ++i)
        if (layers_[i].name == name) return static_cast<int>(i);
    return -1;
}

void LayerMaps::choose(int layer) {
    if (layer < 0 || layer >= static_cast<int>(layers_.size())) return;
    const auto& one = layers_[static_cast<std::size_t>(layer)];
    last_ = one.kind;
    if (one.kind == Kind::Class) {
        const bool again = session_.target() == one.index;
        session_.preferExplanation(true);
        session_.setTarget(again ? std::nullopt : std::optional(one.index));
        Q_EMIT changed();
        return;
    }
    if (one.kind == Kind::Part) {
        session_.setSetting("part", isChosen(layer) ? std::string() : one.name);
        Q_EMIT changed();
        return;
    }
    const auto name = one.name;
    const auto& settings = session_.settings();
    const auto set = settings.find("layer");
    const bool own = name == session_.model()->cam_point || (set != settings.end() && set->second == name);
    session_.setSetting("layer", own ? std::string() : name);
    Q_EMIT changed();
}

void LayerMaps::setLooking(bool looking) {
    if (looking_ == looking) return;
    looking_ = looking;
    stopped_ = false;
    if (!looking && running_) {
        session_.jobs_.cancel(kTag);
        running_ = false;
        shown_.reset();
    }
    follow();
}

void LayerMaps::follow() {
    if (!trouble_.isEmpty() && shown_ != wanted()) trouble_.clear();
    if (!whyNot().isEmpty()) {
        if (running_) session_.jobs_.cancel(kTag);
        running_ = stale_ = false;
        if (trouble_.isEmpty()) shown_.reset();
        layers_.clear();
    } else if (shown_ != wanted()) {
        stale_ = !layers_.empty();
        if (looking_ && !session_.opening() && !stopped_) post();
    }
    Q_EMIT changed();
}

void LayerMaps::post() {
    session_.jobs_.cancel(kTag);
    shown_ = wanted();
    running_ = true;
    if (hasParts()) return postParts();
    const auto& points = session_.model()->layer_points;
    const auto same = [&] {
        return std::equal(
            layers_.begin(), layers_.end(), points.begin(), points.end(),
            [](const Layer& one, const auto& point) { return one.kind == Kind::Layer && one.name == point; });
    };
    if (!same()) {
        layers_.clear();
        for (const auto& point : points) layers_.push_back({Kind::Layer, point, -1, 0, {}, {}});
    }
    session_.post(
        {.tag = kTag, .title = "Computing the layers of " + session_.methodFacts()->title, .urgency = Urgency::Later},
        // `this` outlives the job: the session, which owns us, waits for it.
        [this, asked = *shown_, points](Workbench& bench, JobControl& job) -> Result<int> {
            for (std::size_t i = 0; i < points.size(); ++i) {
                if (job.stop().stop_requested()) return fail(ErrorCode::Cancelled, "stopped");
                auto one = asked;
                if (points[i] != bench.own_layer()) one.settings["layer"] = points[i];
                auto found = bench.explain(one, job.stop(), [](std::int64_t, std::int64_t, const std::string&) {});
                job.report(static_cast<std::int64_t>(i) + 1, static_cast<std::int64_t>(points.size()), "layers");
                job.show([this, i, found = std::move(found)]() mutable { arrived(i, std::move(found)); });
            }
            return 0;
        },
        [this](Result<int>) {
            running_ = stale_ = false;
            Q_EMIT changed();
        });
}

void LayerMaps::arrived(std::size_t at, Result<Explanation> found) {
    if (at >= layers_.size()) return;
    layers_[at].plane = found ? std::optional(found->plane) : std::nullopt;
    layers_[at].trouble = found ? QString() : QString::fromStdString(found.error().message);
    Q_EMIT changed();
}

/// The parts are known once the map is there; the classes are the most probable ones, whatever the target.
void LayerMaps::postParts() {
    const auto& probabilities = session_.look()->probabilities;
    std::vector<std::int64_t> classes(probabilities.size());
    std::iota(classes.begin(), classes.end(), 0);
    const auto most = std::min(kClasses, classes.size());
    std::partial_sort(
        classes.begin(), classes.begin() + static_cast<std::ptrdiff_t>(most), classes.end(), [&](auto a, auto b) {
            const auto p = probabilities[static_cast<std::size_t>(a)], q = probabilities[static_cast<std::size_t>(b)];
            return p != q ? p > q : a < b;
        });
    classes.resize(most);
    std::vector<Layer> of_classes;
    for (const auto index : classes)
        of_classes.push_back({Kind::Class,
                              session_.className(index).toStdString(),
                              index,
                              probabilities[static_cast<std::size_t>(index)],
                              {},
                              {}});
    session_.post(
        {.tag = kTag, .title = "Computing the parts of " + session_.methodFacts()->title, .urgency = Urgency::Later},
        [this, asked = *shown_, of_classes](Workbench& bench, JobControl& job) -> Result<int> {
            const auto silent = [](std::int64_t, std::int64_t, const std::string&) {};
            // The sum: with two classes there is no training mask, and the parts do not ask which map is shown.
            auto base = asked;
            base.settings.erase("show");
            const auto whole = VITRINE_TRY(bench.explain(base, job.stop(), silent));
            std::vector<Layer> cells;
            std::vector<Wanted> questions;
            for (const auto& part : whole.parts) {
                cells.push_back({Kind::Part, part, -1, 0, {}, {}});
                questions.push_back(base);
                questions.back().settings["part"] = part;
            }
            for (const auto& one : of_classes) {
                cells.push_back(one);
                questions.push_back(asked);
                questions.back().target = one.index;
                questions.back().versus.reset();
                questions.back().also.clear();
                questions.back().region.reset();
            }
            job.show([this, cells] {
                const bool same = std::equal(layers_.begin(), layers_.end(), cells.begin(), cells.end(),
                                             [](const Layer& a, const Layer& b) {
                                                 return a.kind == b.kind && a.name == b.name && a.index == b.index;
                                             });
                if (!same) layers_ = cells;
            });
            for (std::size_t i = 0; i < questions.size(); ++i) {
                if (job.stop().stop_requested()) return fail(ErrorCode::Cancelled, "stopped");
                auto found = bench.explain(questions[i], job.stop(), silent);
                job.report(static_cast<std::int64_t>(i) + 1, static_cast<std::int64_t>(questions.size()), "maps");
                job.show([this, i, found = std::move(found)]() mutable { arrived(i, std::move(found)); });
            }
            return 0;
        },
        [this](Result<int> done) {
            running_ = stale_ = false;
            if (!done && done.error().code != ErrorCode::Cancelled) {
                layers_.clear();
                trouble_ = QString::fromStdString(done.error().message);
                if (!trouble_.isEmpty()) trouble_[0] = trouble_[0].toUpper();
            }
            Q_EMIT changed();
        });
}

}  // namespace vitrine::app
