// Posts jobs and keeps what came back.
#include "session.h"

#include "milestones.h"

#include <QFileInfo>
#include <QMetaObject>

#include <algorithm>
#include <cmath>
#include <utility>

namespace vitrine::app {
namespace {

QString text(const std::string& utf8) { return QString::fromStdString(utf8); }

QImage image_of(const ImageView& view) {
    // A deep copy: thumbnails are small and QImage's cleanup hooks would tie two lifetimes together.
    return QImage(view.data, static_cast<int>(view.width), static_cast<int>(view.height),
                  static_cast<qsizetype>(view.row_bytes), QImage::Format_RGB888)
        .copy();
}

/// A run, or what it would take where the person is asked first.
struct Looked {
    std::optional<Look> look;
    std::optional<RunCost> asking;
    std::vector<double> own{};  ///< probabilities of the model that is not steered
};

/// How the engine thread reaches this one: a queued call that Qt drops when the receiver is gone.
JobThread::Deliver through(QObject* receiver) {
    return [receiver](std::function<void()> closure) {
        QMetaObject::invokeMethod(receiver, std::move(closure), Qt::QueuedConnection);
    };
}

}  // namespace

Session::Session(QObject* parent)
    : QObject(parent),
      readers_([] { return std::make_unique<Reader>(); }, through(this)),
      jobs_([] { return std::make_unique<Workbench>(); }, through(this)) {
    const auto changed = [this] { Q_EMIT jobsChanged(); };
    jobs_.on_change(changed);
    readers_.on_change(changed);
    steer_rest_.setSingleShot(true);
    steer_rest_.setInterval(150);
    connect(&steer_rest_, &QTimer::timeout, this, &Session::steerNow);
}

JobStatus Session::jobs() const {
    auto status = jobs_.status();
    auto reading = readers_.status();
    reading.waiting += status.waiting;
    if (status.running.empty()) return reading;
    status.waiting = reading.waiting;
    return status;
}

Session::~Session() {
    jobs_.finish();
    readers_.finish();
}

/// Makes way for something to be opened.
void Session::dropWork() {
    for (const char* tag : {"look", "explain", "check", "cells"}) jobs_.cancel(tag);
    looking_ = explaining_ = false;
    opening_ = true;
    Q_EMIT workDropped(false);
}

void Session::tell(const Error& error, const QString& about) {
    if (error.code == ErrorCode::Cancelled) return;
    static const char* const kinds[] = {"bad input",     "not found", "unsupported", "input or output",
                                        "out of memory", "cancelled", "internal"};
    Notice notice;
    notice.kind = Notice::Kind::Failure;
    notice.sentence = text(error.message);
    if (!notice.sentence.isEmpty()) notice.sentence[0] = notice.sentence[0].toUpper();
    notice.detail = QStringLiteral("%1\n\nKind: %2\nWhile: %3")
                        .arg(text(error.message), QLatin1String(kinds[static_cast<int>(error.code)]), about);
    if (model_) notice.detail += QStringLiteral("\nModel: %1 (%2)").arg(text(model_->name), text(model_->request));
    if (picture_) notice.detail += QStringLiteral("\nPicture: %1").arg(text(picture_->file.string()));
    Q_EMIT noticed(notice);
}

// ---- opening --------------------------------------------------------------------------------------------------------

void Session::openPaths(const QStringList& paths, bool at_start) {
    std::vector<std::filesystem::path> files;
    for (const auto& path : paths) {
        const bool built_in = path == QLatin1String("starter") && !QFileInfo::exists(path);
        files.emplace_back((built_in ? path : QFileInfo(path).absoluteFilePath()).toStdString());
    }
    if (files.empty() && !at_start) return;
    // Beside the engine: what is opened ends the work that runs there, and must not wait for it.
    readers_.post(
        {.tag = {}, .title = "Looking at the files"},
        [files](Reader&, JobControl&) -> Result<Sorted> { return Workbench::sort(files); },
        [self = QPointer<Session>(this), this, at_start](Result<Sorted> sorted) {
            if (!self) return;
            if (!sorted) return tell(sorted.error(), QStringLiteral("opening files"));
            if (!sorted->refused.empty()) {
                Notice notice{Notice::Kind::Failure, text(sorted->refused.front()), {}};
                notice.sentence[0] = notice.sentence[0].toUpper();
                if (sorted->refused.size() > 1)
                    notice.sentence += QStringLiteral(" (and %1 more)").arg(sorted->refused.size() - 1);
                for (const auto& refusal : sorted->refused) notice.detail += text(refusal) + QLatin1Char('\n');
                Q_EMIT noticed(notice);
            }
            const auto model = !sorted->models.empty()                ? text(sorted->models.back().string())
                               : at_start && Workbench::has_starter() ? QStringLiteral("starter")
                                                                      : QString();
            if (!sorted->autoencoders.empty()) waiting_concepts_ = {text(sorted->autoencoders.back().string()), model};
            if (!model.isEmpty()) openModel(model);
            QStringList pictures;
            for (const auto& picture : sorted->pictures) pictures << text(picture.string());
            if (pictures.isEmpty() && at_start)
                for (const auto& picture : Workbench::builtin_pictures()) pictures << text(picture.string());
            addPictures(pictures);
            offerConcepts();
        });
}

void Session::offerConcepts() {
    const auto& [file, model] = waiting_concepts_;
    if (file.isEmpty() || opening_ || !model_ || (!model.isEmpty() && model != text(model_->request))) return;
    Q_EMIT conceptsWanted(std::exchange(waiting_concepts_, {}).file);
}

void Session::addPictures(const QStringList& files) {
    int show = -1;
    for (const auto& file : files) {
        const auto same =
            std::find_if(film_.begin(), film_.end(), [&](const FilmFrame& frame) { return frame.file == file; });
        const int at = static_cast<int>(same - film_.begin());
        if (same == film_.end()) film_.push_back({file, QFileInfo(file).fileName(), {}, {}});
        if (show < 0) show = at;
    }
    if (show < 0) return;
    Q_EMIT filmChanged();
    showPicture(show);
    decodeThumbnails();
}

void Session::openModel(const QString& request, bool trusted) {
    const auto name = request.toStdString();
    if (!waiting_concepts_.model.isEmpty() && waiting_concepts_.model != request) waiting_concepts_ = {};
    dropWork();
    struct Opened {
        std::optional<ModelFacts> facts;
        bool needs_consent = false;
    };
    post(
        {.tag = "model", .title = "Opening " + QFileInfo(request).fileName().toStdString()},
        [name, trusted](Workbench& bench, JobControl& job) -> Result<Opened> {
            if (!trusted && bench.sort({name}).needs_consent) return Opened{{}, true};
            return Opened{VITRINE_TRY(bench.open_model(name, trusted, job.stop())), false};
        },
        [this, request](Result<Opened> opened) {
            opening_ = false;
            if (!opened) {
                tell(opened.error(), QStringLiteral("opening the model %1").arg(request));
                if (waiting_concepts_.model == request) waiting_concepts_ = {};  // they would be refused beside another
                resume();
                return;
            }
            if (opened->needs_consent) {
                resume();
                Q_EMIT consentWanted(request);
                return;
            }
            model_ = std::move(opened->facts);
            steer_wanted_ = steer_ = {};
            original_ = false;
            Q_EMIT steerChanged();
            region_.reset();
            region_cells_.reset();
            region_trouble_.clear();
            dropResults();
            target_.reset();
            versus_.reset();
            also_.clear();
            // The method stays when the new model can take it; otherwise the first that can.
            const auto* facts = methodFacts();
            if (!facts || !facts->why_not.empty()) {
                method_.clear();
                for (const auto& candidate : model_->methods) {
                    if (!candidate.why_not.empty()) continue;
                    if (method_.isEmpty()) method_ = text(candidate.name);
                    if (candidate.name == "rollout") method_ = text(candidate.name);
                }
            }
            layer_ = head_ = -1;
            hovered_.reset();
            pinned_.reset();
            Q_EMIT settled();
            Q_EMIT modelChanged();
            Q_EMIT choiceChanged();
            milestone("model opened");
            Q_EMIT modelOpened(request);
            if (picture_) lookNow();
            offerConcepts();
        });
    Q_EMIT jobsChanged();
}

void Session::showPicture(int index) {
    if (index < 0 || index >= static_cast<int>(film_.size())) return;
    current_ = index;
    Q_EMIT filmChanged();
    const auto file = film_[static_cast<std::size_t>(index)].file;
    dropWork();
    post(
        {.tag = "picture", .title = "Opening " + film_[static_cast<std::size_t>(index)].name.toStdString()},
        [path = file.toStdString()](Workbench& bench, JobControl& job) { return bench.open_picture(path, job.stop()); },
        [this, file](Result<PictureFacts> picture) {
            opening_ = false;
            const auto frame =
                std::find_if(film_.begin(), film_.end(), [&](const FilmFrame& f) { return f.file == file; });
            if (!picture) {
                if (frame != film_.end()) frame->trouble = text(picture.error().message);
                // The picture before is still on the bench: its place in the filmstrip is the current one again.
                current_ = -1;
                for (std::size_t i = 0; picture_ && i < film_.size(); ++i)
                    if (film_[i].file == text(picture_->file.string())) current_ = static_cast<int>(i);
                Q_EMIT filmChanged();
                tell(picture.error(), QStringLiteral("opening the picture %1").arg(file));
                resume();
                offerConcepts();
                return;
            }
            picture_ = std::move(*picture);
            ++picture_id_;
            const bool had_region = region_.has_value();
            region_.reset();
            dropResults();
            hovered_.reset();
            pinned_.reset();
            Q_EMIT settled();
            Q_EMIT pictureChanged();
            if (had_region) Q_EMIT choiceChanged();
            milestone("picture opened");
            Q_EMIT pictureOpened(file);
            if (model_) lookNow();
            offerConcepts();
        });
    Q_EMIT jobsChanged();
}

void Session::reopenPicture() { showPicture(current_); }

void Session::removePicture(int index) {
    if (index < 0 || index >= static_cast<int>(film_.size()) || film_.size() < 2) return;
    film_.erase(film_.begin() + index);
    if (index < current_) --current_;
    const bool was_shown = index == current_;
    current_ = std::min(current_, static_cast<int>(film_.size()) - 1);
    Q_EMIT filmChanged();
    if (was_shown) showPicture(current_);
}

void Session::setOther(const QString& file) {
    constexpr std::int64_t kSide = 96;
    const auto path = QFileInfo(file).absoluteFilePath();
    post(
        {.tag = "other", .title = "Opening " + QFileInfo(path).fileName().toStdString(), .urgency = Urgency::Now},
        [path = path.toStdString()](Workbench& bench, JobControl&) { return bench.open_other(path, kSide); },
        [this, path](Result<OtherFacts> other) {
            if (!other) return tell(other.error(), QStringLiteral("opening the second picture %1").arg(path));
            Q_EMIT settled();
            otherIs(OtherPicture{path, text(other->name), image_of(other->thumbnail)});
        });
    Q_EMIT jobsChanged();
}

void Session::removeOther() {
    jobs_.cancel("other");
    if (!other_) return;
    post(
        {.tag = "other", .title = {}},
        [](Workbench& bench, JobControl&) -> Result<bool> { return bench.drop_other(), true; },
        [](const Result<bool>&) {});
    otherIs(std::nullopt);
}

void Session::otherIs(std::optional<OtherPicture> other) {
    other_ = std::move(other);
    Q_EMIT otherChanged();
    Q_EMIT choiceChanged();
    if (const auto* facts = methodFacts(); facts && facts->class_specific) explainNow();
}

void Session::decodeThumbnails() {
    constexpr std::int64_t kSide = 192;  // twice the logical size in the filmstrip
    for (const auto& frame : film_) {
        if (!frame.thumbnail.isNull() || !frame.trouble.isEmpty()) continue;
        post(
            {.tag = "thumbnail " + frame.file.toStdString(), .title = {}, .urgency = Urgency::Later},
            [path = frame.file.toStdString()](Workbench& bench, JobControl&) { return bench.thumbnail(path, kSide); },
            [this, file = frame.file](Result<ImageView> thumbnail) {
                const auto at =
                    std::find_if(film_.begin(), film_.end(), [&](const FilmFrame& f) { return f.file == file; });
                if (at == film_.end()) return;
                if (thumbnail)
                    at->thumbnail = image_of(*thumbnail);
                else
                    at->trouble = text(thumbnail.error().message);
                Q_EMIT filmChanged();
            });
    }
}

void Session::dropResults() {
    asking_.reset();
    look_.reset();
    row_.reset();
    strip_.reset();
    piece_.reset();
    explanation_.reset();
    lit_.reset();
    own_probabilities_.clear();
    looked_ = {};
    replay_.clear();
    explain_trouble_.clear();
    Q_EMIT lookChanged();
    Q_EMIT evidenceChanged();
    Q_EMIT stripChanged();
    Q_EMIT pieceChanged();
    Q_EMIT replayChanged();
}

// ---- asking ---------------------------------------------------------------------------------------------------------

void Session::lookNow(bool consented) {
    looking_ = true;
    asking_.reset();
    jobs_.cancel("explain");
    jobs_.cancel("check");
    post(
        {.tag = "look", .title = "Running " + model_->title},
        [consented, steer = inForce()](Workbench& bench, JobControl& job) -> Result<Looked> {
            if (!consented)
                if (auto cost = VITRINE_TRY(bench.cost()); cost.needs_word) return Looked{{}, std::move(cost)};
            // Run once a picture, and then at hand: what the steered answer is compared with.
            const auto own = VITRINE_TRY(bench.look({}, job.stop()));
            if (!steer.active()) return Looked{own, {}, own.probabilities};
            return Looked{VITRINE_TRY(bench.look(steer, job.stop())), {}, own.probabilities};
        },
        [this, steer = inForce()](Result<Looked> looked) {
            looking_ = false;
            if (!looked) {
                tell(looked.error(), QStringLiteral("running the model on the picture"));
                if (steer.active() && looked.error().code != ErrorCode::Cancelled) {
                    // What was shown last still stands.
                    steer_wanted_ = steer_ = look_ && looked_.active() ? looked_ : Steer{};
                    original_ = false;
                    Q_EMIT steerChanged();
                    Q_EMIT choiceChanged();
                    if (look_)
                        explainNow();
                    else
                        return lookNow();
                }
                Q_EMIT lookChanged();
                return;
            }
            if (!looked->look) {
                asking_ = std::move(looked->asking);
                Q_EMIT lookChanged();
                Q_EMIT noticed({Notice::Kind::Warning,
                                QStringLiteral("This picture is large for this model. ") + text(asking_->sentence),
                                {},
                                QStringLiteral("Compute"),
                                [self = QPointer<Session>(this)] {
                                    if (self) self->runAnyway();
                                }});
                return;
            }
            look_ = std::move(*looked->look);
            looked_ = steer;
            own_probabilities_ = std::move(looked->own);
            milestone("model run");
            const int layers = static_cast<int>(look_->heads.size());
            if (layer_ < 0 || layer_ >= layers) layer_ = layers - 1;
            if (head_ >= heads()) head_ = -1;
            Q_EMIT lookChanged();
            Q_EMIT evidenceChanged();
            explainNow();
            rowNow();
            stripNow();
            if (steer_wanted_ != steer_) steer_rest_.start();
            if (layers == 0) return;
            post(
                {.tag = "check", .title = "Checking the replay", .urgency = Urgency::Later},
                [steer](Workbench& bench, JobControl& job) {
                    return bench.check(steer, job.stop(),
                                       [&](std::int64_t done, std::int64_t total, const std::string& unit) {
                                           job.report(done, total, unit);
                                       });
                },
                [this](Result<std::vector<Finding>> findings) {
                    if (!findings) return tell(findings.error(), QStringLiteral("checking the replayed attention"));
                    replay_ = std::move(*findings);
                    Q_EMIT replayChanged();
                });
        });
    Q_EMIT lookChanged();
}

void Session::runAnyway() {
    if (asking_) lookNow(true);
}

/// Takes up again what was stopped for something that then failed.
void Session::resume() {
    if (!model_ || !picture_) return;
    if (look_ && looked_ != inForce())
        lookNow(true);
    else if (!look_ && !asking_)
        lookNow();
    else if (!explanation_ && explain_trouble_.isEmpty())
        explainNow();
    else
        Q_EMIT evidenceChanged();
}

void Session::explainNow(bool fresh) {
    jobs_.cancel("explain");
    if (!look_ || method_.isEmpty()) return;
    const auto* facts = methodFacts();
    if (!facts) return;
    explaining_ = true;
    refining_ = false;
    explain_trouble_.clear();
    post(
        {.tag = "explain", .title = "Computing " + facts->title},
        [this, asked = wanted(method_), fresh](Workbench& bench, JobControl& job) {
            return bench.explain(
                asked, job.stop(),
                [&](std::int64_t done, std::int64_t total, const std::string& unit) { job.report(done, total, unit); },
                [&](Explanation so_far) {
                    // `this` outlives the job: the destructor waits for it.
                    job.show([this, so_far = std::move(so_far)]() mutable {
                        refining_ = true;
                        explanation_ = std::move(so_far);
                        Q_EMIT evidenceChanged();
                    });
                },
                fresh);
        },
        [this](Result<Explanation> explanation) {
            explaining_ = false;
            if (explanation) {
                explanation_ = std::move(*explanation);
                Q_EMIT settled();
            } else if (explanation.error().code != ErrorCode::Cancelled) {
                explanation_.reset();
                explain_trouble_ = text(explanation.error().message);
                tell(explanation.error(), QStringLiteral("explaining by %1").arg(method_));
            }
            Q_EMIT evidenceChanged();
            if (steer_rest_.isActive()) {
                steer_rest_.stop();
                steerNow();
            }
        });
    Q_EMIT evidenceChanged();
}

void Session::rowNow() {
    if (!look_ || look_->heads.empty()) return;
    postRead(
        {.tag = "row", .title = {}, .urgency = Urgency::Now},
        [token = asked(), layer = layer_, head = head_](const Capture& run, const std::stop_token&) {
            return Reader::row(run, token, layer, head);
        },
        [this](Result<Row> row) {
            if (!row) {
                row_.reset();
                tell(row.error(), QStringLiteral("reading a row of attention"));
            } else {
                row_ = std::move(*row);
            }
            Q_EMIT evidenceChanged();
        });
}

void Session::stripNow() {
    if (!look_ || look_->heads.empty() || !look_->no_grid.empty()) return;
    postRead(
        {.tag = "strip", .title = {}, .urgency = Urgency::Normal},
        [token = asked()](const Capture& run, std::stop_token stop) {
            return Reader::strip(run, token, std::move(stop));
        },
        [this](Result<Strip> strip) {
            if (!strip) return tell(strip.error(), QStringLiteral("reading all heads"));
            strip_ = std::move(*strip);
            Q_EMIT stripChanged();
        });
}

void Session::askPiece(std::int64_t q0, std::int64_t q1, std::int64_t k0, std::int64_t k1, int cells, bool largest) {
    if (!look_ || look_->heads.empty()) return;
    postRead(
        {.tag = "piece", .title = {}, .urgency = Urgency::Normal},
        [=, layer = layer_, head = head_](const Capture& run, const std::stop_token&) {
            return Reader::piece(run, layer, head, q0, q1, k0, k1, cells, largest);
        },
        [this](Result<MapPiece> piece) {
            if (!piece) return tell(piece.error(), QStringLiteral("reading a piece of the map"));
            piece_ = std::move(*piece);
            Q_EMIT pieceChanged();
        });
}

const MethodFacts* Session::methodFacts() const { return methodFacts(method_); }

const MethodFacts* Session::methodFacts(const QString& method) const {
    if (!model_) return nullptr;
    const auto name = method.toStdString();
    for (const auto& facts : model_->methods)
        if (facts.name == name) return &facts;
    return nullptr;
}

Wanted Session::wanted(const QString& method) const {
    Wanted out;
    out.method = method.toStdString();
    if (const auto set = settings_.find(method); set != settings_.end()) out.settings = set->second;
    out.shared = shared_;
    out.steer = inForce();
    if (const auto* facts = methodFacts(method); facts && facts->class_specific) {
        out.region = region_;
        if (!region_) {
            out.target = target_, out.versus = versus_, out.also = also_;
            out.probability = probability_ && model_->classes > 0;
        }
        const bool alike = model_->classes == 0 && !region_;
        if (other_ && (alike || (facts->may_read_other && Workbench::reads_other(out))))
            out.other = other_->file.toStdString();
    }
    return out;
}

void Session::setMethod(const QString& name) {
    prefers_explanation_ = true;
    if (method_ != name) {
        method_ = name;
        Q_EMIT choiceChanged();
        explainNow();
    }
    Q_EMIT evidenceChanged();
}

const MethodSettings& Session::settings() const {
    static const MethodSettings none;
    const auto found = settings_.find(method_);
    return found == settings_.end() ? none : found->second;
}

namespace {
/// Notes what differs from the defaults; false where nothing changed or nothing is declared.
bool set_in(MethodSettings& chosen, const std::vector<SettingFacts>& declared, const std::string& name,
            const std::string& value) {
    const auto setting =
        std::find_if(declared.begin(), declared.end(), [&](const SettingFacts& facts) { return facts.name == name; });
    if (setting == declared.end()) return false;
    const auto before = chosen;
    if (value == setting->standard)
        chosen.erase(name);
    else
        chosen[name] = value;
    return chosen != before;
}
}  // namespace

void Session::setSetting(const std::string& name, const std::string& value) {
    const auto* facts = methodFacts();
    if (!facts || !set_in(settings_[method_], facts->settings, name, value)) return;
    prefers_explanation_ = true;
    Q_EMIT choiceChanged();
    explainNow();
}

void Session::setShared(const std::string& name, const std::string& value) {
    if (!model_ || !set_in(shared_, model_->shared, name, value)) return;
    prefers_explanation_ = true;
    Q_EMIT choiceChanged();
    explainNow();
}

void Session::resetShared() {
    if (shared_.empty()) return;
    shared_.clear();
    Q_EMIT choiceChanged();
    explainNow();
}

void Session::resetSettings() {
    if (settings().empty()) return;
    settings_.erase(method_);
    prefers_explanation_ = true;
    Q_EMIT choiceChanged();
    explainNow();
}

void Session::setTarget(std::optional<std::int64_t> index) {
    if (target_ == index && !region_ && also_.empty()) return;
    region_.reset();
    also_.clear();
    target_ = index;
    if (versus_ && versus_ == explainedClass()) versus_.reset();
    Q_EMIT choiceChanged();
    if (const auto* facts = methodFacts(); facts && facts->class_specific) explainNow();
}

void Session::setVersus(std::optional<std::int64_t> index) {
    if (versus_ == index) return;
    versus_ = index;
    Q_EMIT choiceChanged();
    if (const auto* facts = methodFacts(); facts && facts->class_specific) explainNow();
}

void Session::toggleAlso(std::int64_t index) {
    if (region_ || index == explainedClass()) return;
    target_ = explainedClass();  // the classes beside it stay beside this one
    const auto at = std::find(also_.begin(), also_.end(), index);
    if (at == also_.end())
        also_.push_back(index);
    else
        also_.erase(at);
    if (versus_ == index) versus_.reset();
    Q_EMIT choiceChanged();
    if (const auto* facts = methodFacts(); facts && facts->class_specific) explainNow();
}

void Session::setProbability(bool yes) {
    if (probability_ == yes) return;
    probability_ = yes;
    Q_EMIT choiceChanged();
    if (const auto* facts = methodFacts(); facts && facts->class_specific) explainNow();
}

// ---- a region -------------------------------------------------------------------------------------------------------

QString Session::whyNoRegion() const {
    if (!model_) return QStringLiteral("Open a model first");
    if (!picture_) return QStringLiteral("Open a picture first");
    if (model_->cam_point.empty()) return QStringLiteral("This model names no layer in which a region could be read");
    if (!look_) return QStringLiteral("The model has not run on the picture yet");
    return region_trouble_;
}

QString Session::whyNot(const MethodFacts& method) const {
    if (!method.why_not.empty()) return text(method.why_not);
    if (!region_) return {};
    auto reason = text(Workbench::no_region(wanted(text(method.name))));
    return reason.isEmpty() ? reason : QStringLiteral("No region: %1").arg(reason);
}

/// Asks the model once which cells there are.
void Session::withCells(std::function<void()> then) {
    if (!whyNoRegion().isEmpty()) return;
    if (region_cells_) {
        if (then) then();
        return;
    }
    jobs_.cancel("cells");
    post(
        {.tag = "cells", .title = {}, .urgency = Urgency::Now},
        [](Workbench& bench, JobControl& job) { return bench.region_facts(job.stop()); },
        [this, then = std::move(then)](Result<RegionFacts> cells) {
            if (cells) {
                region_cells_ = *cells;
                if (then && look_) then();
                Q_EMIT evidenceChanged();  // what is being drawn goes by whole cells now
                return;
            }
            if (cells.error().code != ErrorCode::Cancelled) region_trouble_ = text(cells.error().message);
            tell(cells.error(), QStringLiteral("looking for the cells of a region"));
            Q_EMIT choiceChanged();
        });
}

void Session::prepareRegion() { withCells({}); }

void Session::askGround(const QString& point, std::function<void(Result<Ground>)> then) {
    jobs_.cancel("ground");
    post(
        {.tag = "ground", .title = {}, .urgency = Urgency::Now},
        [point = point.toStdString()](Workbench& bench, JobControl& job) { return bench.ground(point, job.stop()); },
        std::move(then));
}

std::optional<Region> Session::regionUnder(const Box& photo) const {
    return region_cells_ ? cellsUnder(photo, region_cells_->rows, region_cells_->cols) : std::nullopt;
}

std::optional<Region> Session::cellsUnder(const Box& photo, std::int64_t row_count, std::int64_t col_count) const {
    if (!look_ || row_count <= 0 || col_count <= 0) return std::nullopt;
    const auto& g = look_->geometry;
    const auto from = g.to_input({photo.x0, photo.y0}), to = g.to_input({photo.x1, photo.y1});
    const auto span = [](double low, double high, std::int64_t pixels,
                         std::int64_t cells) -> std::optional<std::pair<std::int64_t, std::int64_t>> {
        const double cell = static_cast<double>(pixels) / static_cast<double>(cells);
        if (!(high > 0) || !(low < static_cast<double>(pixels))) return std::nullopt;
        const auto last = static_cast<double>(cells - 1);
        const double a = std::clamp(std::floor(low / cell), 0.0, last);
        // A rectangle that ends on a cell's edge does not touch the next one.
        const double b = std::clamp(std::ceil(high / cell) - 1, a, last);
        return std::pair{static_cast<std::int64_t>(a), static_cast<std::int64_t>(b)};
    };
    const auto rows = span(std::min(from.y, to.y), std::max(from.y, to.y), g.input_height, row_count);
    const auto cols = span(std::min(from.x, to.x), std::max(from.x, to.x), g.input_width, col_count);
    if (!rows || !cols) return std::nullopt;
    return Region{rows->first, cols->first, rows->second, cols->second};
}

Box Session::boxOf(const Region& region) const {
    return region_cells_ ? boxOf(region, region_cells_->rows, region_cells_->cols) : Box{};
}

Box Session::boxOf(const Region& region, std::int64_t rows, std::int64_t cols) const {
    if (!look_ || rows <= 0 || cols <= 0) return {};
    const auto& g = look_->geometry;
    const auto first = g.cell(region.row, region.col, rows, cols);
    const auto last = g.cell(region.to_row, region.to_col, rows, cols);
    return {first.x0, first.y0, last.x1, last.y1};
}

void Session::setRegion(Region region) {
    withCells([this, region]() mutable {
        const auto rows = region_cells_->rows - 1, cols = region_cells_->cols - 1;
        region.row = std::clamp<std::int64_t>(region.row, 0, rows);
        region.col = std::clamp<std::int64_t>(region.col, 0, cols);
        region.to_row = std::clamp(region.to_row, region.row, rows);
        region.to_col = std::clamp(region.to_col, region.col, cols);
        if (region_ == region) return;
        region_ = region;
        pinned_.reset();
        prefers_explanation_ = true;
        Q_EMIT choiceChanged();
        if (const auto* facts = methodFacts(); facts && facts->class_specific) explainNow();
        Q_EMIT evidenceChanged();
    });
}

void Session::setRegion(const Box& photo) {
    withCells([this, photo] {
        if (const auto region = regionUnder(photo)) setRegion(*region);
    });
}

void Session::startRegion() {
    if (region_) return;
    withCells([this] {
        if (pinned_ && pinned_->is_patch()) {
            const auto box = look_->geometry.cell(pinned_->row, pinned_->col, look_->grid_rows, look_->grid_cols);
            return setRegion(box);
        }
        const auto rows = region_cells_->rows, cols = region_cells_->cols;
        setRegion(Region{3 * rows / 8, 3 * cols / 8, (5 * rows - 1) / 8, (5 * cols - 1) / 8});
    });
}

void Session::clearRegion() {
    if (!region_) return;
    region_.reset();
    Q_EMIT choiceChanged();
    if (const auto* facts = methodFacts(); facts && facts->class_specific) explainNow();
    Q_EMIT evidenceChanged();
}

void Session::refreshExplanation() { asking_ ? runAnyway() : explainNow(true); }

int Session::heads() const {
    if (!look_ || layer_ < 0 || layer_ >= static_cast<int>(look_->heads.size())) return 0;
    return static_cast<int>(look_->heads[static_cast<std::size_t>(layer_)]);
}

void Session::setPlace(int layer, int head) {
    if (!look_ || look_->heads.empty()) return;
    layer_ = std::clamp(layer, 0, static_cast<int>(look_->heads.size()) - 1);
    head_ = std::clamp(head, -1, heads() - 1);
    prefers_explanation_ = false;
    Q_EMIT evidenceChanged();
    rowNow();
}

void Session::setLayer(int layer) { setPlace(layer, head_); }
void Session::setHead(int head) { setPlace(layer_, head); }

void Session::hover(std::optional<Token> patch) {
    if (look_ && !look_->no_grid.empty()) patch.reset();
    if (hovered_ == patch) return;
    const auto before = asked();
    hovered_ = patch;
    Q_EMIT evidenceChanged();
    if (asked() == before) return;
    rowNow();
    stripNow();
}

void Session::pin(std::optional<Token> patch) {
    if (look_ && !look_->no_grid.empty()) patch.reset();
    if (pinned_ == patch) return;
    const auto before = asked();
    pinned_ = patch;
    Q_EMIT evidenceChanged();
    if (asked() == before) return;
    rowNow();
    stripNow();
}

Token Session::asked() const {
    if (pinned_) return *pinned_;
    // While a region is explained the cursor reads the map of it.
    if (hovered_ && live_ && !(region_ && prefers_explanation_)) return *hovered_;
    return {};
}

void Session::setLive(bool live) {
    if (live_ == live) return;
    const auto before = asked();
    live_ = live;
    Q_EMIT evidenceChanged();
    if (asked() == before) return;
    rowNow();
    stripNow();
}

void Session::preferExplanation(bool yes) {
    const auto before = asked();
    prefers_explanation_ = yes;
    Q_EMIT evidenceChanged();
    if (asked() == before) return;
    rowNow();
    stripNow();
}

bool Session::showsExplanation() const {
    if (look_ && look_->heads.empty()) return true;
    return prefers_explanation_ && !asked().is_patch();
}

void Session::light(std::optional<LitConcept> lit) {
    if (!lit && !lit_) return;
    lit_ = std::move(lit);
    Q_EMIT evidenceChanged();
}

// ---- steering -------------------------------------------------------------------------------------------------------

Steer Session::inForce() const { return original_ || !steer_.active() ? Steer{} : steer_; }

void Session::steer(const Steer& steer, quint64 gesture) {
    if (steer == steer_wanted_) return;
    const auto before = std::exchange(steer_wanted_, steer);
    Q_EMIT steerAsked(before, gesture);
    // Who changes something wants to see what it does.
    if (original_) original_ = false, steer_ = steer;
    Q_EMIT steerChanged();
    steerNow();
}

void Session::steerNow() {
    if (looking_ || steer_rest_.isActive() || (steer_wanted_ == steer_ && looked_ == inForce())) return;
    const auto before = inForce();
    steer_ = steer_wanted_;
    if (inForce() == before && looked_ == before) return;
    if (look_) lookNow(true);
    tellSteered();
}

void Session::tellSteered() {
    steer_alone_ = true;
    Q_EMIT choiceChanged();
    steer_alone_ = false;
}

void Session::showOriginal(bool original) {
    if (original_ == original || (original && !steer_.active())) return;
    original_ = original;
    jobs_.cancel("look");
    if (look_) lookNow(true);
    Q_EMIT steerChanged();
    tellSteered();
}

void Session::saveSteered(const QString& file) {
    post(
        {.tag = "save steered", .title = "Writing the steered model", .urgency = Urgency::Now},
        [steer = steer_wanted_, path = file.toStdString()](Workbench& bench, JobControl&) -> Result<bool> {
            VITRINE_CHECK(bench.save_steered(steer, path));
            return true;
        },
        [this, file, steer = steer_wanted_](Result<bool> saved) {
            if (!saved) return tell(saved.error(), QStringLiteral("writing %1").arg(file));
            Q_EMIT noticed({Notice::Kind::Hint, QStringLiteral("Written to %1").arg(file), {}});
            if (steer == steer_wanted_) Q_EMIT steerSaved();
        });
}

std::vector<double> Session::before() const {
    return look_ && looked_.active() ? own_probabilities_ : std::vector<double>{};
}

const Plane* Session::shown() const {
    if (!look_) return nullptr;
    if (lit_) return &lit_->plane;
    if (showsExplanation()) return explanation_ && !explanation_->plane.empty() ? &explanation_->plane : nullptr;
    return row_ && !row_->plane.empty() ? &row_->plane : nullptr;
}

std::optional<std::int64_t> Session::explainedClass() const {
    if (region_) return std::nullopt;
    if (target_) return target_;
    if (look_ && !look_->top.empty()) return look_->top.front().index;
    return std::nullopt;
}

QString Session::className(std::int64_t index) const {
    if (!model_ || index < 0 || index >= static_cast<std::int64_t>(model_->labels.size()))
        return QStringLiteral("class %1").arg(index);
    return text(model_->labels[static_cast<std::size_t>(index)]);
}

void Session::stopExplaining() {
    if (!explaining_) return;
    jobs_.cancel("explain");
    explaining_ = false;
    Q_EMIT evidenceChanged();
}

void Session::cancelAll() {
    jobs_.cancel_all();
    readers_.cancel_all();
    looking_ = explaining_ = opening_ = false;
    if (look_ && looked_ != inForce()) {
        // What was not run is not in force.
        steer_wanted_ = steer_ = looked_;
        original_ = false;
        Q_EMIT steerChanged();
        tellSteered();
    }
    Q_EMIT workDropped(true);
    Q_EMIT lookChanged();
    Q_EMIT evidenceChanged();
    Q_EMIT jobsChanged();
    // An opening that was cancelled after its last look at the stop token has changed the bench: what the window shows
    // is laid back.
    post(
        {.tag = "at hand"},
        [](Workbench& bench, JobControl&) -> Result<std::pair<std::string, std::filesystem::path>> {
            return bench.at_hand();
        },
        [this](Result<std::pair<std::string, std::filesystem::path>> at_hand) {
            if (!at_hand) return;
            if (model_ && at_hand->first != model_->request) openModel(text(model_->request), true);
            if (picture_ && at_hand->second != picture_->file) showPicture(current_);
        });
    decodeThumbnails();
}

}  // namespace vitrine::app
