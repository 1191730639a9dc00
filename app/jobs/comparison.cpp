// Keeps cells, posts their jobs one after another and takes in what comes back.
#include "comparison.h"

#include <algorithm>

namespace vitrine::app {
namespace {

QString text(const std::string& utf8) { return QString::fromStdString(utf8); }

Workbench::Report reportTo(JobControl& job) {
    return [&job](std::int64_t done, std::int64_t total, const std::string& unit) { job.report(done, total, unit); };
}

}  // namespace

Comparison::Comparison(Session& session) : QObject(&session), session_(session) {
    // Cheap, and each of another kind: how the answer takes what the map hides, and how few places carry the map.
    measures_ = {"average_drop", "average_gain", "sparseness"};
    connect(&session, &Session::modelChanged, this, [this] {
        beside_.reset();
        follow();
        Q_EMIT scoresChanged();
    });
    connect(&session, &Session::lookChanged, this, &Comparison::follow);
    connect(&session, &Session::choiceChanged, this, &Comparison::follow);
    connect(&session, &Session::evidenceChanged, this, &Comparison::follow);
    connect(&session, &Session::workDropped, this, &Comparison::dropped);
    connect(&session, &Session::jobsChanged, this, &Comparison::readProgress);
    follow();
}

std::string Comparison::tagOf(const Cell& cell) { return "cell " + std::to_string(cell.id); }

Cell* Comparison::find(int id) {
    const int at = indexOf(id);
    return at < 0 ? nullptr : &cells_[static_cast<std::size_t>(at)];
}

int Comparison::indexOf(int id) const {
    for (std::size_t i = 0; i < cells_.size(); ++i)
        if (cells_[i].id == id) return static_cast<int>(i);
    return -1;
}

void Comparison::tell(int id) {
    if (const int at = indexOf(id); at >= 0) Q_EMIT cellChanged(at);
}

// ---- which cells ----------------------------------------------------------------------------------------------------

std::vector<Comparison::Place> Comparison::places() const {
    if (!open_) return session_.method().isEmpty() ? std::vector<Place>{} : std::vector<Place>{{session_.method()}};
    std::vector<Place> out;
    for (const auto& method : methods_) {
        const auto* facts = session_.methodFacts(method);
        if (session_.model() && !facts) continue;  // of another build or model
        out.push_back({method});
        if (session_.steering().active() && !session_.showsOriginal()) out.push_back({method, false, true});
        if (beside_ && facts && facts->class_specific) out.push_back({method, true, false});
    }
    return out;
}

void Comparison::follow() {
    const auto wanted_places = places();
    bool moved = wanted_places.size() != cells_.size();
    std::vector<Cell> next;
    std::vector<int> changed;
    for (const auto& place : wanted_places) {
        auto wanted = session_.wanted(place.method);
        if (place.original) wanted.steer = {};
        if (place.second) wanted.target = beside_, wanted.versus.reset(), wanted.also.clear(), wanted.region.reset();
        const auto same = std::find_if(cells_.begin(), cells_.end(), [&](const Cell& cell) {
            return cell.wanted.method == wanted.method && cell.is_second == place.second &&
                   cell.is_original == place.original;
        });
        Cell cell;
        if (same != cells_.end()) {
            moved = moved || same - cells_.begin() != static_cast<std::ptrdiff_t>(next.size());
            cell = std::move(*same);
            cells_.erase(same);
        } else {
            moved = true;
            cell.id = next_id_++;
        }
        const auto* facts = session_.methodFacts(place.method);
        cell.title = facts ? text(facts->title) : place.method;
        cell.is_second = place.second;
        cell.is_original = place.original;
        const auto name = place.second ? beside_ : session_.explainedClass();
        auto target = !beside_ || !open_ || !facts || !facts->class_specific ? QString()
                      : name                                                 ? session_.className(*name)
                      : session_.region()                                    ? tr("region")
                                                                             : QString();
        if (open_ && (place.original || wanted.steer.active()))
            target += (target.isEmpty() ? QString() : QStringLiteral(", ")) +
                      (place.original ? tr("original") : tr("steered"));
        bool another = target != cell.target;
        cell.target = target;
        if (cell.wanted != wanted) {
            cell.wanted = wanted;
            drop(cell);
            cell.stage = Stage::Waiting;
            cell.trouble.clear();
            cell.stale = cell.found.has_value();
            cell.randomisation.reset();
            another = true;
        }
        if (!session_.look() && (cell.found || cell.stage != Stage::Waiting)) {
            drop(cell);
            cell.found.reset();
            cell.stale = false;
            cell.trouble.clear();
            cell.randomisation.reset();
            cell.stage = Stage::Waiting;
            another = true;
        }
        const auto why_not = !facts ? QString() : place.second ? text(facts->why_not) : session_.whyNot(*facts);
        if (!why_not.isEmpty() && cell.stage == Stage::Waiting) {
            cell.stage = Stage::Failed;
            cell.trouble = why_not;
            another = true;
        }
        if (another) changed.push_back(cell.id);
        next.push_back(std::move(cell));
    }
    for (auto& gone : cells_) drop(gone);
    cells_ = std::move(next);
    if (!open_) mirror();
    if (moved)
        Q_EMIT arranged();
    else
        for (const int id : changed) tell(id);
    if (moved || !changed.empty()) Q_EMIT scoresChanged();
    if (open_) postMaps();
    postScores();
}

void Comparison::mirror() {
    if (cells_.empty()) return;
    auto& cell = cells_.front();
    const auto& explanation = session_.explanation();
    const auto map = explanation ? explanation->plane.values : nullptr;
    const bool another = (cell.found ? cell.found->plane.values : nullptr) != map;
    if (another) {
        dropScores(cell);
        cell.found = explanation;
    }
    const auto stage = !session_.look()                       ? Stage::Waiting
                       : session_.explaining()                ? Stage::Running
                       : !session_.explainTrouble().isEmpty() ? Stage::Failed
                       : explanation && explanation->partial  ? Stage::Stopped
                       : explanation                          ? Stage::Done
                                                              : Stage::Waiting;
    const bool stale = session_.stale() || (explanation && explanation->method != cell.wanted.method);
    if (!another && stage == cell.stage && stale == cell.stale) return;
    cell.stage = stage;
    cell.stale = stale;
    cell.trouble = session_.explainTrouble();
    Q_EMIT cellChanged(0);
    Q_EMIT scoresChanged();
}

// ---- jobs -----------------------------------------------------------------------------------------------------------

void Comparison::drop(Cell& cell) {
    dropScores(cell);
    if (posted_.erase(cell.id) > 0) session_.jobs_.cancel(tagOf(cell));
    cell.progress = {};
}

void Comparison::dropScores(Cell& cell) {
    for (const auto& [name, score] : cell.scores)
        if (score.stage == Stage::Waiting || score.stage == Stage::Running)
            session_.jobs_.cancel(tagOf(cell) + ' ' + name);
    if (cell.checking) session_.jobs_.cancel(tagOf(cell) + " randomisation");
    cell.checking = false;
    cell.scores.clear();
}

void Comparison::postMaps() {
    if (!session_.look() || session_.opening()) return;
    std::vector<int> waiting;
    for (const auto& cell : cells_)
        if (cell.stage == Stage::Waiting && !posted_.contains(cell.id)) waiting.push_back(cell.id);
    for (const int id : waiting)
        if (const auto* cell = find(id)) post(*cell, false);
}

void Comparison::post(const Cell& cell, bool fresh) {
    const int id = cell.id;
    posted_.insert(id);
    session_.post(
        {.tag = tagOf(cell), .title = "Computing " + cell.title.toStdString()},
        // `this` outlives the job: the session, which owns us, waits for it.
        [this, id, wanted = cell.wanted, fresh](Workbench& bench, JobControl& job) {
            job.show([this, id] {
                if (auto* running = find(id)) running->stage = Stage::Running, tell(id);
            });
            return bench.explain(
                wanted, job.stop(), reportTo(job),
                [&](Explanation so_far) {
                    job.show([this, id, so_far = std::move(so_far)]() mutable {
                        auto* running = find(id);
                        if (!running) return;
                        dropScores(*running);
                        running->found = std::move(so_far);
                        running->stale = false;
                        tell(id);
                    });
                },
                fresh);
        },
        [this, id](Result<Explanation> found) {
            posted_.erase(id);
            auto* done = find(id);
            if (!done) return;
            dropScores(*done);
            if (found) {
                done->found = std::move(*found);
                done->stale = false;
                done->stage = Stage::Done;
            } else {
                done->stage = Stage::Failed;
                done->trouble = text(found.error().message);
                if (!done->trouble.isEmpty()) done->trouble[0] = done->trouble[0].toUpper();
            }
            tell(id);
            Q_EMIT scoresChanged();
            postScores();
        });
}

void Comparison::postScores() {
    if (!measuring_ || !session_.look() || session_.opening()) return;
    bool any = false;
    for (auto& cell : cells_) {
        if (cell.stage != Stage::Done || cell.stale || !cell.found) continue;
        for (const auto& name : measures_) {
            if (cell.scores.contains(name)) continue;
            cell.scores[name] = {};
            any = true;
            const int id = cell.id;
            session_.post(
                // Behind every map that waits: what can be seen comes first.
                {.tag = tagOf(cell) + ' ' + name,
                 .title = "Measuring " + cell.title.toStdString(),
                 .urgency = Urgency::Later},
                [this, id, name, wanted = cell.wanted](Workbench& bench, JobControl& job) {
                    job.show([this, id, name] {
                        if (auto* c = find(id); c && c->scores.contains(name))
                            c->scores[name].stage = Stage::Running, Q_EMIT scoresChanged();
                    });
                    return bench.measure(wanted, name, job.stop(), reportTo(job));
                },
                [this, id, name](Result<ScoreFacts> score) {
                    auto* measured = find(id);
                    if (!measured || !measured->scores.contains(name)) return;
                    auto& kept = measured->scores[name];
                    kept.stage = score ? Stage::Done : Stage::Failed;
                    if (score)
                        kept.facts = std::move(*score);
                    else
                        kept.reason = text(score.error().message);
                    Q_EMIT scoresChanged();
                });
        }
    }
    if (any) Q_EMIT scoresChanged();
}

void Comparison::dropped(bool stopped) {
    for (auto& cell : cells_) {
        const bool was_posted = posted_.contains(cell.id);
        drop(cell);
        if (!open_ || (!was_posted && cell.stage != Stage::Running)) continue;
        cell.stage = stopped ? Stage::Stopped : Stage::Waiting;
        if (!stopped) cell.stale = cell.found.has_value();
        tell(cell.id);
    }
    if (stopped) {
        // Asked for again by whoever looks next, not by the stop itself.
        for (auto& cell : cells_)
            for (const auto& name : measures_)
                if (!cell.scores.contains(name)) cell.scores[name] = {Stage::Stopped, {}, tr("It was stopped")};
    }
    Q_EMIT scoresChanged();
}

void Comparison::readProgress() {
    const auto jobs = session_.jobs();
    for (auto& cell : cells_) {
        if (cell.stage != Stage::Running || jobs.running != tagOf(cell)) continue;
        if (cell.progress.done == jobs.progress.done && cell.progress.total == jobs.progress.total) continue;
        cell.progress = jobs.progress;
        tell(cell.id);
    }
}

// ---- asking ---------------------------------------------------------------------------------------------------------

void Comparison::setOpen(bool open) {
    if (open_ == open) return;
    open_ = open;
    for (auto& cell : cells_) {
        // Whose jobs it waited for is the session's or our own: what is not finished starts anew on the other side.
        if (cell.stage == Stage::Done && !cell.stale) continue;
        drop(cell);
        cell.stage = Stage::Waiting;
        cell.stale = cell.found.has_value();
        cell.trouble.clear();
    }
    if (open && methods_.isEmpty() && !session_.method().isEmpty()) methods_ << session_.method();
    follow();
    Q_EMIT openChanged(open);
}

void Comparison::setMethods(const QStringList& methods) {
    if (methods_ == methods) return;
    methods_ = methods;
    methods_.removeDuplicates();
    follow();
}

void Comparison::toggle(const QString& method) {
    auto methods = methods_;
    if (!methods.removeOne(method)) methods << method;
    setMethods(methods);
}

void Comparison::setBeside(std::optional<std::int64_t> index) {
    if (beside_ == index) return;
    beside_ = index;
    follow();
}

void Comparison::stop(int at) {
    if (at < 0 || at >= static_cast<int>(cells_.size())) return;
    auto& cell = cells_[static_cast<std::size_t>(at)];
    if (!open_) return session_.stopExplaining();
    if (cell.stage != Stage::Running && cell.stage != Stage::Waiting) return;
    drop(cell);
    cell.stage = Stage::Stopped;
    Q_EMIT cellChanged(at);
    Q_EMIT scoresChanged();
}

void Comparison::again(int at) {
    if (at < 0 || at >= static_cast<int>(cells_.size()) || !session_.look()) return;
    if (!open_) return session_.refreshExplanation();
    auto& cell = cells_[static_cast<std::size_t>(at)];
    const auto* facts = session_.methodFacts(text(cell.wanted.method));
    if (facts && !facts->why_not.empty()) return;
    drop(cell);
    cell.stage = Stage::Waiting;
    cell.stale = cell.found.has_value();
    cell.trouble.clear();
    cell.randomisation.reset();
    post(cell, true);
    Q_EMIT cellChanged(at);
    Q_EMIT scoresChanged();
}

void Comparison::againAll() {
    for (int i = 0; i < static_cast<int>(cells_.size()); ++i) again(i);
}

void Comparison::remove(int at) {
    if (at < 0 || at >= static_cast<int>(cells_.size())) return;
    auto methods = methods_;
    methods.removeOne(text(cells_[static_cast<std::size_t>(at)].wanted.method));
    setMethods(methods);
}

void Comparison::check(int at) {
    if (at < 0 || at >= static_cast<int>(cells_.size())) return;
    auto& cell = cells_[static_cast<std::size_t>(at)];
    if (cell.stage != Stage::Done || cell.stale || cell.checking) return;
    cell.checking = true;
    cell.randomisation.reset();
    const int id = cell.id;
    session_.post(
        {.tag = tagOf(cell) + " randomisation", .title = "Checking " + cell.title.toStdString()},
        [wanted = cell.wanted](Workbench& bench, JobControl& job) {
            return bench.check_randomisation(wanted, job.stop(), reportTo(job));
        },
        [this, id](Result<Finding> finding) {
            auto* checked = find(id);
            if (!checked) return;
            checked->checking = false;
            checked->randomisation =
                finding ? std::move(*finding) : Finding{"randomisation", finding.error().message, false};
            tell(id);
        });
    Q_EMIT cellChanged(at);
}

void Comparison::setMeasures(const std::vector<std::string>& names) {
    if (measures_ == names) return;
    measures_ = names;
    Q_EMIT scoresChanged();
    postScores();
}

void Comparison::setMeasuring(bool looking) {
    if (measuring_ == looking) return;
    measuring_ = looking;
    if (looking) {
        for (auto& cell : cells_)
            std::erase_if(cell.scores, [](const auto& score) { return score.second.stage == Stage::Stopped; });
        postScores();
    } else {
        for (auto& cell : cells_) {
            // A number that nobody waits for is not worth the wait of others.
            std::erase_if(cell.scores, [&](const auto& score) {
                if (score.second.stage != Stage::Waiting && score.second.stage != Stage::Running) return false;
                session_.jobs_.cancel(tagOf(cell) + ' ' + score.first);
                return true;
            });
        }
    }
    Q_EMIT scoresChanged();
}

}  // namespace vitrine::app
