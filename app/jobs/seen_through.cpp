// Follows one cell of the comparison.
#include "seen_through.h"

namespace vitrine::app {
namespace {
constexpr const char* kTag = "seen through";
}

SeenThrough::SeenThrough(Session& session, const Comparison& comparison)
    : QObject(&session), session_(session), comparison_(comparison) {
    connect(&comparison, &Comparison::arranged, this, &SeenThrough::follow);
    connect(&comparison, &Comparison::cellChanged, this, &SeenThrough::follow);
    connect(&session, &Session::lookChanged, this, &SeenThrough::follow);
    connect(&session, &Session::workDropped, this, [this] {
        cancel();
        Q_EMIT changed();
    });
}

int SeenThrough::cell() const { return cell_ < static_cast<int>(comparison_.cells().size()) ? cell_ : 0; }

QString SeenThrough::whyNot() const {
    if (!session_.model()) return tr("Open a model first");
    if (!session_.look()) return tr("The model has not run on the picture yet");
    return trouble_;
}

void SeenThrough::setLooking(bool looking) {
    looking_ = looking;
    if (!looking && running_) cancel();
    follow();
}

void SeenThrough::setCell(int cell) {
    cell_ = cell;
    follow();
}

void SeenThrough::cancel() {
    if (running_) session_.jobs_.cancel(kTag);
    running_ = false;
    of_.reset();
}

void SeenThrough::follow() {
    const auto& cells = comparison_.cells();
    const auto at = static_cast<std::size_t>(cell());
    if (!session_.look() || at >= cells.size()) {
        cancel();
        found_.reset();
        trouble_.clear();
    } else if (const auto& one = cells[at]; one.stage == Stage::Done && !one.stale && one.found) {
        if (one.found->plane.values != of_) {
            stale_ = found_.has_value();
            if (looking_ && !session_.opening()) {
                of_ = one.found->plane.values;
                post(one.wanted);
            }
        }
    } else if (one.stage == Stage::Failed) {
        cancel();
        found_.reset();
        trouble_ = one.trouble;
    } else {
        stale_ = found_.has_value();
    }
    Q_EMIT changed();
}

void SeenThrough::post(const Wanted& wanted) {
    session_.jobs_.cancel(kTag);
    running_ = true;
    trouble_.clear();
    session_.post(
        {.tag = kTag, .title = "Looking through the map", .urgency = Urgency::Later},
        [wanted](Workbench& bench, JobControl& job) {
            return bench.through(wanted, job.stop(), [](std::int64_t, std::int64_t, const std::string&) {});
        },
        [self = QPointer<SeenThrough>(this), of = of_](Result<ThroughFacts> found) {
            if (!self || self->of_ != of) return;
            self->running_ = false;
            if (found) {
                self->found_ = std::move(*found);
                self->stale_ = false;
            } else if (found.error().code != ErrorCode::Cancelled) {
                self->found_.reset();
                self->trouble_ = QString::fromStdString(found.error().message);
                if (!self->trouble_.isEmpty()) self->trouble_[0] = self->trouble_[0].toUpper();
            } else {
                self->of_.reset();
            }
            Q_EMIT self->changed();
        });
}

}  // namespace vitrine::app
