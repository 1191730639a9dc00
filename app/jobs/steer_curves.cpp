// Asks again whenever the question is another, and makes way for whatever else is asked.
#include "steer_curves.h"

#include <utility>

#include "jobs/concepts_on_show.h"

namespace vitrine::app {
namespace {

constexpr const char* kTag = "steer curve";

}  // namespace

SteerCurves::SteerCurves(Session& session, ConceptsOnShow& concepts, QObject* parent)
    : QObject(parent), session_(session), concepts_(concepts) {
    for (const auto signal : {&Session::lookChanged, &Session::evidenceChanged, &Session::steerChanged})
        connect(&session, signal, this, &SteerCurves::follow);
    for (const auto signal : {&ConceptsOnShow::changed, &ConceptsOnShow::pointedChanged})
        connect(&concepts, signal, this, &SteerCurves::follow);
    // Answers and maps come first.
    connect(&session, &Session::steerAsked, this, &SteerCurves::stop);
    connect(&session, &Session::choiceChanged, this, &SteerCurves::stop);
    connect(&session, &Session::workDropped, this, [this](bool stopped) {
        if (!stopped) return stop();
        if (!open_ || wanted_.empty() || (wanted_ == asked_for_ && !running_)) return;
        // It stays asked for: else the next look at it would start it again.
        session_.jobs_.cancel(kTag);
        running_ = false;
        stopped_ = true;
        asked_for_ = wanted_;
        say(tr("Measuring how far it steers was stopped"));
    });
}

void SteerCurves::setOpen(bool open) {
    open_ = open;
    if (!open) stop();
    again();
}

void SteerCurves::again() {
    if (std::exchange(stopped_, false)) asked_for_.clear();
    follow();
}

void SteerCurves::stop() {
    if (!std::exchange(running_, false)) return;
    session_.jobs_.cancel(kTag);
    asked_for_.clear();
}

void SteerCurves::say(const QString& words) {
    if (words_ == words) return;
    words_ = words;
    Q_EMIT changed();
}

void SteerCurves::follow() {
    if (!open_) return;
    const auto& chosen = concepts_.chosen();
    const auto why_not = chosen.size() != 1               ? tr("Choose one concept")
                         : !session_.model()              ? QString()
                         : session_.model()->classes == 0 ? tr("This model has no classes whose answer could move")
                                                          : concepts_.whyNoSteering();
    std::string key;
    auto steer = session_.steering();
    steer.edits.clear();  // of the model as it was opened
    steer.source = concepts_.source();
    if (why_not.isEmpty()) {
        key = session_.model()->request + '\n' + std::to_string(session_.pictureId()) + '\n' +
              std::to_string(*chosen.begin()) + '\n' + steer.source.file.string() + '\n' +
              std::to_string(concepts_.unitOf(*chosen.begin())) + '\n' + std::to_string(static_cast<int>(steer.tokens));
        if (steer.tokens == Steer::Tokens::Chosen && steer.region) key += steer.region->text();
    }
    wanted_ = key;
    if (key != asked_for_) {
        stop();
        curve_.reset();
        asked_for_.clear();
        stopped_ = false;
    }
    if (key.empty()) return say(why_not);
    if (key == asked_for_) return;
    say(tr("Measuring how far it steers\u2026"));
    if (session_.looking() || session_.explaining() || session_.opening()) return;
    asked_for_ = key;
    running_ = true;
    const auto number = *chosen.begin();
    session_.post(
        {.tag = kTag, .title = "Measuring how far a concept steers", .urgency = Urgency::Later},
        [steer, number, unit = concepts_.unitOf(number)](Workbench& bench, JobControl& job) {
            return bench.steer_curve(steer, number, unit, job.stop(),
                                     [&](std::int64_t done, std::int64_t total, const std::string& words) {
                                         job.report(done, total, words);
                                     });
        },
        [self = QPointer<SteerCurves>(this), key](Result<SteerCurve> curve) {
            if (!self || self->asked_for_ != key) return;
            self->running_ = false;
            if (curve) {
                self->curve_ = std::move(*curve);
                self->words_.clear();
                Q_EMIT self->changed();
            } else if (curve.error().code == ErrorCode::Cancelled) {
                self->asked_for_.clear();
            } else {
                auto words = QString::fromStdString(curve.error().message);
                words[0] = words[0].toUpper();
                self->say(words);
            }
        });
}

}  // namespace vitrine::app
