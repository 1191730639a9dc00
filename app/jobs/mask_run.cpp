// Posts the training and takes in what it reports.
#include "mask_run.h"

#include <QDir>
#include <QFileInfo>
#include <QMetaObject>
#include <QStandardPaths>

#include <algorithm>

namespace vitrine::app {
namespace {

constexpr const char* kTag = "train";
// The trainer gives up after 100 steps outside; a tenth of that is worth a word.
constexpr double kLeast = 0.02, kMost = 0.98;
constexpr std::int64_t kPatience = 100, kWord = 10;

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

bool isThere(const std::filesystem::path& file) {
    std::error_code ignored;
    return std::filesystem::exists(file, ignored);
}

}  // namespace

MaskRun::MaskRun(Session& session)
    : QObject(&session),
      session_(session),
      declared_(mask_settings()),
      jobs_([] { return std::make_unique<MaskTrainer>(); },
            [this](std::function<void()> closure) {
                QMetaObject::invokeMethod(this, std::move(closure), Qt::QueuedConnection);
            }) {
    connect(&session, &Session::modelChanged, this, &MaskRun::followModel);
    connect(&session, &Session::pictureChanged, this,
            [this] { picture_->set(session_.picture() ? session_.picture()->file : std::filesystem::path()); });
}

MaskRun::~MaskRun() {
    stop_.request_stop();  // a checkpoint is written: the run goes on another day
    jobs_.finish();
}

// ---- setting up -----------------------------------------------------------------------------------------------------

void MaskRun::setData(const QString& folder) {
    if (data_ == folder) return;
    data_ = folder;
    trouble_.clear();
    Q_EMIT changed();
}

void MaskRun::setOut(const QString& file) {
    if (out_ == file) return;
    out_ = file;
    trouble_.clear();
    Q_EMIT changed();
}

void MaskRun::set(const std::string& name, const std::string& value) {
    const auto found = std::find_if(declared_.begin(), declared_.end(), [&](const auto& s) { return s.name == name; });
    if (found == declared_.end()) return;
    if (value == found->standard || (name == "layers" && value.empty()))
        settings_.erase(name);
    else
        settings_[name] = value;
    trouble_.clear();
    Q_EMIT changed();
    if (name == "version") layersNow();
}

void MaskRun::resetSettings() {
    settings_.clear();
    Q_EMIT changed();
    layersNow();
}

void MaskRun::setLooking(bool looking) {
    looking_ = looking;
    layersNow();
}

/// A new model has other layers, and its masks another file.
void MaskRun::followModel() {
    if (busy() || stage_ == Stage::Paused) return;
    settings_.erase("layers");
    if (out_ == suggested_) out_ = suggested_ = suggestedFile();
    trouble_.clear();
    layersNow();
    Q_EMIT changed();
}

void MaskRun::layersNow() {
    if (!looking_ || !session_.model() || session_.model()->classes < 1 || stage_ != Stage::Setup) return;
    const auto chosen = settings_.find("version");
    auto version = std::string("tame");
    for (const auto& setting : declared_)
        if (setting.name == "version") version = chosen == settings_.end() ? setting.standard : chosen->second;
    const auto of = session_.model()->request + '\n' + version;
    if (of == layers_of_) return;
    layers_of_ = of;
    session_.post(
        {.tag = "mask layers", .title = {}, .urgency = Urgency::Later},
        [version](Workbench& bench, JobControl&) { return bench.mask_layers(version); },
        [self = QPointer<MaskRun>(this), of](Result<std::vector<std::string>> layers) {
            if (!self || self->layers_of_ != of) return;
            for (auto& setting : self->declared_)
                if (setting.name == "layers") setting.standard = layers ? joined(*layers).toStdString() : std::string();
            Q_EMIT self->formChanged();
        });
}

/// Beside the model, else among the person's documents; a name that is free, or that a run was paused under.
QString MaskRun::suggestedFile() const {
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
        const auto file = QStringLiteral("%1/%2%3.mask.safetensors")
                              .arg(folder, name, i == 1 ? QString() : QStringLiteral("-%1").arg(i));
        if (!QFileInfo::exists(file) || isThere(checkpoint_of(file.toStdString()))) return file;
    }
}

QString MaskRun::whyNot() const {
    if (!session_.model()) return tr("Open a model first");
    if (session_.model()->classes < 1) return tr("This model has no classes, whose masks would be trained");
    if (data_.isEmpty()) return tr("Choose a folder of pictures first");
    if (out_.isEmpty()) return tr("Say which file to write first");
    return {};
}

QString MaskRun::aboutTheFile() const {
    if (out_.isEmpty()) return {};
    const auto file = std::filesystem::path(out_.toStdString());
    if (goesOn())
        return tr("A paused training lies here. With the same settings it goes on; started anew, it is kept as %1")
            .arg(text(checkpoint_of(aside_of(file)).filename().string()));
    if (QFileInfo(out_).isFile()) return tr("There is such a file; it is replaced when the training has ended");
    return {};
}

bool MaskRun::goesOn() const { return !out_.isEmpty() && isThere(checkpoint_of(out_.toStdString())); }

// ---- driving --------------------------------------------------------------------------------------------------------

void MaskRun::start() {
    if (!whyNot().isEmpty() || stage_ != Stage::Setup) return;
    plan_.model = session_.model()->request;
    plan_.data = QFileInfo(data_).absoluteFilePath().toStdString();
    plan_.out = QFileInfo(out_).absoluteFilePath().toStdString();
    plan_.settings = settings_;
    model_title_ = text(session_.model()->title);
    curve_.clear();
    moment_.reset();
    preview_.reset();
    outcome_.reset();
    notes_.clear();
    Q_EMIT previewChanged();
    go();
}

void MaskRun::startAnew() {
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

void MaskRun::resume() {
    if (stage_ == Stage::Paused) go();
}

void MaskRun::go() {
    stage_ = Stage::Starting;
    trouble_.clear();
    doing_ = tr("Starting");
    share_ = -1;
    leaving_ = false;
    sound_ = curve_.empty() ? 0 : curve_.back().step;
    stop_ = std::stop_source();
    picture_->set(session_.picture() ? session_.picture()->file : std::filesystem::path());
    jobs_.post(
        {.tag = kTag, .title = "Training a mask"},
        [this, plan = plan_, picture = picture_, stop = stop_](MaskTrainer&, JobControl& job) {
            // `this` outlives the job: the destructor waits for it.
            MaskReports reports;
            reports.doing = [&](std::string doing, std::int64_t done, std::int64_t total) {
                job.show([this, doing = std::move(doing), done, total] {
                    if (stage_ == Stage::Pausing) return;  // what is said then stays
                    doing_ = total > 0 ? tr("%1, %2 of %3").arg(text(doing)).arg(done).arg(total) : text(doing);
                    share_ = total > 0 ? static_cast<double>(done) / static_cast<double>(total) : -1;
                    Q_EMIT moved();
                });
            };
            reports.moment = [&](MaskMoment moment) {
                job.show([this, moment = std::move(moment)] {
                    // What is only said has no figures.
                    const bool says = !moment.note.empty();
                    if (says) notes_ << sentence(moment.note);
                    if (!says || !moment_) moment_ = moment;
                    // A run that goes on starts from what its last step left.
                    if (says && curve_.empty()) sound_ = moment.step;
                    if (!says && moment.coverage >= kLeast && moment.coverage <= kMost) sound_ = moment.step;
                    if (!says)
                        curve_.push_back({moment.step,
                                          {static_cast<float>(moment.total), static_cast<float>(moment.answer),
                                           static_cast<float>(moment.area), static_cast<float>(moment.smooth),
                                           static_cast<float>(moment.coverage)}});
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
            return MaskTrainer::train(plan, *picture, stop.get_token(), reports);
        },
        [this](Result<MaskOutcome> outcome) { took(std::move(outcome)); });
    Q_EMIT changed();
    Q_EMIT moved();
}

void MaskRun::took(Result<MaskOutcome> outcome) {
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
            doing_ = tr("Trained in %1 steps on %2 pictures").arg(step).arg(outcome->pictures);
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
    if (stage_ == Stage::Setup) layersNow();
    Q_EMIT changed();
    Q_EMIT moved();
}

QString MaskRun::stopping(bool leaving) const {
    if (stage_ == Stage::Starting)
        return leaving ? tr("Stopping before the first step") : tr("Pausing before the first step");
    return leaving ? tr("Stopping after this step") : tr("Pausing after this step");
}

QString MaskRun::warning() const {
    if (!busy() || !moment_ || curve_.empty()) return {};
    const auto steps = curve_.back().step - sound_;
    if (steps < kWord) return {};
    return tr("For %1 steps the masks have covered %2 of the pictures: they hide all or nothing. After %3 such steps "
              "the "
              "training ends; hidden parts of another kind, a lower learning rate or another area weight may help")
        .arg(steps)
        .arg(QString::number(100 * static_cast<double>(curve_.back().values[4]), 'f', 1) + QStringLiteral(" %"))
        .arg(kPatience);
}

void MaskRun::pause() {
    if (stage_ != Stage::Starting && stage_ != Stage::Running) return;
    doing_ = stopping(false);
    stage_ = Stage::Pausing;
    stop_.request_stop();
    Q_EMIT changed();
    Q_EMIT moved();
}

void MaskRun::stop() {
    if (busy()) {
        leaving_ = true;
        doing_ = stopping(true);
        stage_ = Stage::Pausing;
        stop_.request_stop();
    } else if (stage_ == Stage::Paused) {
        stage_ = Stage::Setup;
        doing_ = tr("Stopped at step %1; its checkpoint is written").arg(outcome_ ? outcome_->steps : 0);
        layersNow();
    }
    Q_EMIT changed();
    Q_EMIT moved();
}

void MaskRun::again() {
    if (stage_ != Stage::Ended) return;
    stage_ = Stage::Setup;
    doing_.clear();
    if (out_ == suggested_) out_ = suggested_ = suggestedFile();
    layersNow();
    Q_EMIT changed();
    Q_EMIT moved();
}

double MaskRun::share() const {
    if (moment_ && moment_->steps > 0 && stage_ != Stage::Starting)
        return static_cast<double>(moment_->step) / static_cast<double>(moment_->steps);
    return share_;
}

QString MaskRun::whyNotExplain() const {
    if (stage_ != Stage::Ended) return tr("The training has not ended");
    if (!session_.model() || session_.model()->request != plan_.model)
        return tr("This mask belongs to %1: open it first").arg(model_title_);
    const auto* method = session_.methodFacts(QStringLiteral("ttame"));
    if (!method) return tr("This build has no method that reads masks");
    if (!session_.look()) return tr("Open a picture first");
    return text(method->why_not);
}

void MaskRun::explainWithIt() {
    if (!whyNotExplain().isEmpty()) return;
    session_.setMethod(QStringLiteral("ttame"));
    session_.setSetting("mask", plan_.out.string());
    session_.refreshExplanation();  // the file may hold another mask than when it was last read
}

}  // namespace vitrine::app
