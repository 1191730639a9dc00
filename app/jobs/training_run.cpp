// Posts the training and takes in what it reports.
#include "training_run.h"
#include "jobs/posted_to.h"

#include <QDir>
#include <QFileInfo>
#include <QMetaObject>
#include <QStandardPaths>

#include <algorithm>

namespace vitrine::app {
namespace {

constexpr const char* kTag = "train";
// The trainer gives up after 100 steps outside; a tenth of that is worth a word.
constexpr float kLeast = 0.02f, kMost = 0.98f;
constexpr std::int64_t kPatience = 100, kWord = 10;
constexpr float kMostDead = 0.5f;

QString text(const std::string& utf8) { return QString::fromStdString(utf8); }

QString sentence(const std::string& utf8) {
    auto out = text(utf8);
    if (!out.isEmpty()) out[0] = out[0].toUpper();
    return out;
}

QString joined(const std::vector<std::string>& names) {
    QStringList out;
    for (const auto& name : names) out << text(name);
    return out.join(QLatin1Char(','));
}

QString inPercent(float part) {
    return QString::number(100 * static_cast<double>(part), 'f', 1) + QStringLiteral(" %");
}

bool isThere(const std::filesystem::path& file) {
    std::error_code ignored;
    return std::filesystem::exists(file, ignored);
}

QString method_of(Trained what) { return what == Trained::Mask ? QStringLiteral("ttame") : QStringLiteral("concepts"); }

/// A mask that hides neither all nor nothing.
bool sound(const TrainingMoment& moment) {
    return moment.values[kCoverage] >= kLeast && moment.values[kCoverage] <= kMost;
}

}  // namespace

TrainingRun::TrainingRun(Session& session, Trained what)
    : QObject(&session),
      session_(session),
      declared_(training_settings(what)),
      jobs_([] { return std::make_unique<Trainer>(); }, posted_to(this)) {
    plan_.what = what;
    if (session.model()) followed_ = session.model()->request;
    connect(&session, &Session::modelChanged, this, &TrainingRun::followModel);
    connect(&session, &Session::pictureChanged, this,
            [this] { picture_->set(session_.picture() ? session_.picture()->file : std::filesystem::path()); });
}

TrainingRun::~TrainingRun() {
    stop_.request_stop();  // a checkpoint is written: the run goes on another day
    jobs_.finish();
}

// ---- setting up -----------------------------------------------------------------------------------------------------

void TrainingRun::setData(const QString& folder) {
    if (data_ == folder) return;
    data_ = folder;
    trouble_.clear();
    Q_EMIT changed();
}

void TrainingRun::setOut(const QString& file) {
    if (out_ == file) return;
    out_ = file;
    trouble_.clear();
    Q_EMIT changed();
}

void TrainingRun::set(const std::string& name, const std::string& value) {
    const auto* found = declared(name);
    if (!found) return;
    if (value == found->standard || ((name == "layers" || name == "point") && value.empty()))
        settings_.erase(name);
    else
        settings_[name] = value;
    trouble_.clear();
    Q_EMIT changed();
    if (name == "version") layersNow();
}

void TrainingRun::resetSettings() {
    settings_.clear();
    Q_EMIT changed();
    layersNow();
}

void TrainingRun::setLooking(bool looking) {
    looking_ = looking;
    layersNow();
}

void TrainingRun::followModel() {
    if (busy() || stage_ == Stage::Paused) return;  // setUp catches up
    takeModel();
    trouble_.clear();
    layersNow();
    Q_EMIT changed();
}

/// A new model has other layers, and its masks another file.
void TrainingRun::takeModel() {
    followed_ = session_.model() ? session_.model()->request : std::string();
    settings_.erase("layers");
    settings_.erase("point");
    if (out_ == suggested_) out_ = suggested_ = suggestedFile();
}

/// Back to the form, which is for the model that is open by now.
void TrainingRun::setUp() {
    stage_ = Stage::Setup;
    if (session_.model() && session_.model()->request != followed_) takeModel();
    layersNow();
}

SettingFacts* TrainingRun::declared(const std::string& name) {
    const auto found = std::find_if(declared_.begin(), declared_.end(), [&](const auto& s) { return s.name == name; });
    return found == declared_.end() ? nullptr : &*found;
}

void TrainingRun::layersNow() {
    if (!looking_ || !session_.model() || stage_ != Stage::Setup) return;
    const auto& model = *session_.model();
    if (what() == Trained::Concepts) {
        if (layers_of_ == model.request) return;
        layers_of_ = model.request;
        // Three quarters deep, as the trainer takes by itself.
        auto* point = declared("point");
        point->choices = model.points;
        point->standard = model.layers > 0 ? "blocks." + std::to_string(model.layers * 3 / 4) : model.cam_point;
        Q_EMIT formChanged();
        return;
    }
    if (model.classes < 1) return;
    const auto chosen = settings_.find("version");
    const auto version = chosen == settings_.end() ? declared("version")->standard : chosen->second;
    const auto of = model.request + '\n' + version;
    if (of == layers_of_) return;
    layers_of_ = of;
    session_.post(
        {.tag = "mask layers", .title = {}, .urgency = Urgency::Later},
        [version](Workbench& bench, JobControl&) { return bench.mask_layers(version); },
        [self = QPointer<TrainingRun>(this), of](Result<std::vector<std::string>> layers) {
            if (!self || self->layers_of_ != of) return;
            self->declared("layers")->standard = layers ? joined(*layers).toStdString() : std::string();
            Q_EMIT self->formChanged();
        });
}

/// Beside the model, else among the person's documents; a name that is free, or that a run was paused under.
QString TrainingRun::suggestedFile() const {
    const auto& model = session_.model();
    if (!model) return {};
    const QFileInfo opened(text(model->request));
    QString folder, name;
    if (opened.exists()) {
        folder = opened.absolutePath();
        name = opened.isDir() ? opened.fileName() : opened.completeBaseName();
    }
    if (folder.isEmpty() || !QFileInfo(folder).isWritable())
        folder = QStandardPaths::writableLocation(QStandardPaths::DocumentsLocation);
    if (folder.isEmpty() || !QFileInfo(folder).isWritable()) folder = QDir::homePath();
    if (name.isEmpty()) name = text(model->name);
    name.replace(QLatin1Char('/'), QLatin1Char('_'));
    for (int i = 1;; ++i) {
        const auto file = QStringLiteral("%1/%2%3.%4.safetensors")
                              .arg(folder, name, i == 1 ? QString() : QStringLiteral("-%1").arg(i),
                                   what() == Trained::Mask ? QStringLiteral("mask") : QStringLiteral("concepts"));
        if (!QFileInfo::exists(file) || isThere(checkpoint_of(file.toStdString()))) return file;
    }
}

QString TrainingRun::whyNot() const {
    if (!session_.model()) return tr("Open a model first");
    if (what() == Trained::Mask && session_.model()->classes < 1)
        return tr("This model has no classes, whose masks would be trained");
    if (data_.isEmpty()) return tr("Choose a folder of pictures first");
    if (out_.isEmpty()) return tr("Say which file to write first");
    return {};
}

QString TrainingRun::aboutTheFile() const {
    if (out_.isEmpty()) return {};
    const auto file = std::filesystem::path(out_.toStdString());
    if (goesOn())
        return tr("A paused training lies here. With the same settings it goes on; started anew, it is kept as %1")
            .arg(text(checkpoint_of(aside_of(file)).filename().string()));
    if (QFileInfo(out_).isFile()) return tr("There is such a file; it is replaced when the training has ended");
    return {};
}

bool TrainingRun::goesOn() const { return !out_.isEmpty() && isThere(checkpoint_of(out_.toStdString())); }

// ---- driving --------------------------------------------------------------------------------------------------------

void TrainingRun::start() {
    if (!whyNot().isEmpty() || stage_ != Stage::Setup) return;
    plan_.model = session_.model()->request;
    plan_.data = QFileInfo(data_).absoluteFilePath().toStdString();
    plan_.out = QFileInfo(out_).absoluteFilePath().toStdString();
    plan_.settings = settings_;
    // What the form shows is what is read.
    if (const auto* point = declared("point"); point && !point->standard.empty())
        plan_.settings.try_emplace("point", point->standard);
    model_title_ = text(session_.model()->title);
    curve_.clear();
    looks_.clear();
    moment_.reset();
    preview_.reset();
    outcome_.reset();
    notes_.clear();
    Q_EMIT previewChanged();
    go();
}

void TrainingRun::startAnew() {
    if (!whyNot().isEmpty() || stage_ != Stage::Setup) return;
    if (!goesOn()) return start();
    const std::filesystem::path out = QFileInfo(out_).absoluteFilePath().toStdString();
    const auto aside = checkpoint_of(aside_of(out));
    std::error_code failed;
    std::filesystem::rename(checkpoint_of(out), aside, failed);
    if (failed) {
        trouble_ = tr("The paused training cannot be moved aside: %1").arg(text(failed.message()));
        Q_EMIT changed();
        return;
    }
    start();
    notes_ << tr("The training before is kept as %1").arg(text(aside.filename().string()));
    Q_EMIT moved();
}

void TrainingRun::resume() {
    if (stage_ == Stage::Paused) go();
}

void TrainingRun::go() {
    stage_ = Stage::Starting;
    trouble_.clear();
    doing_ = tr("Starting");
    share_ = -1;
    leaving_ = false;
    sound_ = curve_.empty() ? 0 : curve_.back().step;
    stop_ = std::stop_source();
    picture_->set(session_.picture() ? session_.picture()->file : std::filesystem::path());
    jobs_.post(
        {.tag = kTag, .title = "Training"},
        [this, plan = plan_, picture = picture_, stop = stop_](Trainer&, JobControl& job) {
            // `this` outlives the job: the destructor waits for it.
            TrainingReports reports;
            reports.doing = [&](std::string doing, std::int64_t done, std::int64_t total) {
                job.show([this, doing = std::move(doing), done, total] {
                    if (stage_ == Stage::Pausing) return;  // what is said then stays
                    doing_ = total > 0 ? tr("%1, %2 of %3").arg(text(doing)).arg(done).arg(total) : text(doing);
                    share_ = total > 0 ? static_cast<double>(done) / static_cast<double>(total) : -1;
                    Q_EMIT moved();
                });
            };
            reports.moment = [&](TrainingMoment moment) {
                job.show([this, moment = std::move(moment)] {
                    // What is only said has no figures.
                    const bool says = !moment.note.empty();
                    if (says) notes_ << sentence(moment.note);
                    if (!says || !moment_) moment_ = moment;
                    // A run that goes on starts from what its last step left.
                    if (says && curve_.empty()) sound_ = moment.step;
                    if (!says && sound(moment)) sound_ = moment.step;
                    if (!says) curve_.push_back({moment.step, moment.values});
                    if (const auto& look = moment.look; look && (looks_.empty() || looks_.back().step != look->step))
                        looks_.push_back(*look);
                    share_ = -1;
                    if (stage_ == Stage::Starting) {
                        stage_ = Stage::Running;
                        doing_ = tr("Training");
                        Q_EMIT changed();
                    }
                    Q_EMIT moved();
                });
            };
            reports.preview = [&](MaskPreview preview) {
                job.show([this, preview = std::move(preview)] {
                    preview_ = preview;
                    Q_EMIT previewChanged();
                });
            };
            return Trainer::train(plan, *picture, stop.get_token(), reports);
        },
        [this](Result<TrainingOutcome> outcome) { took(std::move(outcome)); });
    Q_EMIT changed();
    Q_EMIT moved();
}

void TrainingRun::took(Result<TrainingOutcome> outcome) {
    share_ = -1;
    doing_.clear();
    if (!outcome) {
        stage_ = Stage::Setup;
        if (outcome.error().code == ErrorCode::Cancelled)
            doing_ = tr("Stopped before the first step");
        else
            trouble_ = sentence(outcome.error().message);
    } else {
        // Every step, where the reports had their means.
        curve_.clear();
        for (const auto& values : outcome->curve)
            curve_.push_back({static_cast<std::int64_t>(curve_.size()) + 1, values});
        const auto step = static_cast<qlonglong>(outcome->steps);
        if (moment_) moment_->step = outcome->steps;
        for (const auto& skipped : outcome->skipped) notes_ << tr("Skipped: %1").arg(text(skipped));
        if (outcome->finished) {
            stage_ = Stage::Ended;
            doing_ = step > 0 ? tr("Trained in %1 steps on %2 pictures").arg(step).arg(outcome->pictures)
                              : tr("Fitted to tokens of %1 pictures").arg(outcome->pictures);
            if (what() == Trained::Concepts) Q_EMIT session_.autoencoderReady(text(plan_.out.string()));
        } else if (leaving_) {
            stage_ = Stage::Setup;
            doing_ = step > 0 ? tr("Stopped at step %1; its checkpoint is written").arg(step)
                              : tr("Stopped before the first step");
        } else {
            stage_ = Stage::Paused;
            doing_ = step > 0 ? tr("Paused at step %1; its checkpoint is written").arg(step)
                              : tr("Paused before the first step");
        }
        outcome_ = std::move(*outcome);
    }
    if (stage_ == Stage::Setup) setUp();
    Q_EMIT changed();
    Q_EMIT moved();
}

QString TrainingRun::stopping(bool leaving) const {
    if (stage_ == Stage::Starting)
        return leaving ? tr("Stopping before the first step") : tr("Pausing before the first step");
    return leaving ? tr("Stopping after this step") : tr("Pausing after this step");
}

QString TrainingRun::warning() const {
    if (!busy() || !moment_ || curve_.empty()) return {};
    if (what() == Trained::Concepts) {
        const auto dead = curve_.back().values[kDead];
        if (dead < kMostDead) return {};
        return tr("%1 of the concepts have long been silent: fewer concepts, a lower learning rate or another way to "
                  "revive them may help")
            .arg(inPercent(dead));
    }
    const auto steps = curve_.back().step - sound_;
    if (steps < kWord) return {};
    return tr("For %1 steps the masks have covered %2 of the pictures: they hide all or nothing. After %3 such steps "
              "the training ends; hidden parts of another kind, a lower learning rate or another area weight may help")
        .arg(steps)
        .arg(inPercent(curve_.back().values[kCoverage]))
        .arg(kPatience);
}

void TrainingRun::pause() {
    if (stage_ != Stage::Starting && stage_ != Stage::Running) return;
    doing_ = stopping(false);
    stage_ = Stage::Pausing;
    stop_.request_stop();
    Q_EMIT changed();
    Q_EMIT moved();
}

void TrainingRun::stop() {
    if (busy()) {
        leaving_ = true;
        doing_ = stopping(true);
        stage_ = Stage::Pausing;
        stop_.request_stop();
    } else if (stage_ == Stage::Paused) {
        doing_ = tr("Stopped at step %1; its checkpoint is written").arg(outcome_ ? outcome_->steps : 0);
        setUp();
    }
    Q_EMIT changed();
    Q_EMIT moved();
}

void TrainingRun::again() {
    if (stage_ != Stage::Ended) return;
    doing_.clear();
    if (out_ == suggested_) out_ = suggested_ = suggestedFile();
    setUp();
    Q_EMIT changed();
    Q_EMIT moved();
}

double TrainingRun::share() const {
    if (moment_ && moment_->steps > 0 && stage_ != Stage::Starting)
        return static_cast<double>(moment_->step) / static_cast<double>(moment_->steps);
    return share_;
}

QString TrainingRun::whyNotExplain() const {
    const bool mask = what() == Trained::Mask;
    if (stage_ != Stage::Ended) return tr("The training has not ended");
    if (!session_.model() || session_.model()->request != plan_.model)
        return mask ? tr("This mask belongs to %1: open it first").arg(model_title_)
                    : tr("These concepts belong to %1: open it first").arg(model_title_);
    const auto* method = session_.methodFacts(method_of(what()));
    if (!method) return tr("This build has no method that reads such a file");
    if (!session_.look()) return tr("Open a picture first");
    return text(method->why_not);
}

void TrainingRun::explainWithIt() {
    if (!whyNotExplain().isEmpty()) return;
    session_.setMethod(method_of(what()));
    session_.setSetting(what() == Trained::Mask ? "mask" : "autoencoder", plan_.out.string());
    session_.refreshExplanation();  // the file may hold something else than when it was last read
}

}  // namespace vitrine::app
