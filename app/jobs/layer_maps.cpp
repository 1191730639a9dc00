// Posts one job for all layers and takes their maps in one by one.
#include "layer_maps.h"

#include <algorithm>

namespace vitrine::app {
namespace {
constexpr const char* kTag = "layers";
}

LayerMaps::LayerMaps(Session& session) : QObject(&session), session_(session) {
    connect(&session, &Session::modelChanged, this, [this] {
        layers_.clear();
        shown_.reset();
        follow();
    });
    connect(&session, &Session::lookChanged, this, &LayerMaps::follow);
    connect(&session, &Session::choiceChanged, this, &LayerMaps::follow);
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
    if (!facts->has("layer"))
        return tr("%1 reads no single layer; a class activation map does").arg(QString::fromStdString(facts->title));
    if (!facts->why_not.empty()) return QString::fromStdString(facts->why_not);
    if (session_.model()->layer_points.size() < 2)
        return tr("This model has no row of layers whose maps could be compared");
    if (!session_.look()) return tr("The model has not run on the picture yet");
    return {};
}

Wanted LayerMaps::wanted() const {
    auto out = session_.wanted(session_.method());
    out.settings.erase("layer");
    return out;
}

int LayerMaps::chosen() const {
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
    const auto& name = layers_[static_cast<std::size_t>(layer)].name;
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
    if (!whyNot().isEmpty()) {
        if (running_) session_.jobs_.cancel(kTag);
        running_ = stale_ = false;
        shown_.reset();
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
    const auto& points = session_.model()->layer_points;
    if (layers_.size() != points.size()) {
        layers_.clear();
        for (const auto& point : points) layers_.push_back({point, {}, {}});
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
                job.show([this, i, found = std::move(found)] {
                    if (i >= layers_.size()) return;
                    layers_[i].plane = found ? std::optional(found->plane) : std::nullopt;
                    layers_[i].trouble = found ? QString() : QString::fromStdString(found.error().message);
                    Q_EMIT changed();
                });
            }
            return 0;
        },
        [this](Result<int>) {
            running_ = stale_ = false;
            Q_EMIT changed();
        });
}

}  // namespace vitrine::app
