// What is tested above, scores below; they stay until another test says more.
#include "tcav_panel.h"

#include <QApplication>
#include <QClipboard>
#include <QComboBox>
#include <QFileDialog>
#include <QFileInfo>
#include <QHBoxLayout>
#include <QLabel>
#include <QMetaObject>
#include <QPointer>
#include <QPushButton>
#include <QScrollArea>
#include <QSpinBox>
#include <QTimer>
#include <QVBoxLayout>

#include <algorithm>

#include "jobs/command_line.h"
#include "jobs/posted_to.h"
#include "panels/calm.h"
#include "panels/choice_button.h"
#include "panels/format.h"
#include "panels/run_box.h"
#include "panels/small_widgets.h"
#include "panels/tcav_bars.h"
#include "panels/train_panel.h"
#include "windows/theme.h"

namespace vitrine::app {
namespace {

constexpr int kFewestRuns = 30;

QString text(const std::string& utf8) { return QString::fromStdString(utf8); }

QString sentence(const std::string& utf8) {
    auto out = text(utf8);
    if (!out.isEmpty()) out[0] = out[0].toUpper();
    return out;
}

}  // namespace

TcavPanel::TcavPanel(Session& session, QWidget* parent)
    : QWidget(parent), session_(session), jobs_([] { return std::make_unique<Hands>(); }, posted_to(this)) {
    setObjectName(QStringLiteral("tcavPanel"));
    auto* column = new QVBoxLayout(this);
    column->setContentsMargins(16, 12, 16, 16);
    column->setSpacing(8);
    column->addWidget(heading(tr("Test concepts")));
    column->addWidget(quiet(
        tr("Does a concept that pictures show move the answer towards a class, more than random pictures do? (TCAV)")));
    next_ = new QLabel;
    next_->setObjectName(QStringLiteral("tcavNext"));
    next_->setWordWrap(true);
    column->addWidget(next_);
    class_button_ = new ChoiceButton;
    class_button_->setHint(tr("The class whose logit may move"));
    class_button_->setMaximumWidth(QWIDGETSIZE_MAX);
    column->addWidget(captioned(tr("Class"), class_button_));
    const auto folder = [&](const QString& caption, const char* name, const QString& tip, PathLine*& line,
                            void (TcavPanel::*set)(const QString&)) {
        line = new PathLine;
        line->setObjectName(QLatin1String(name));
        line->setPlaceholderText(tr("Drop a folder here"));
        line->setAccessibleName(caption);
        auto* choose = new QPushButton(tr("Choose\u2026"));
        choose->setToolTip(tip);
        auto* both = new QWidget;
        auto* row = new QHBoxLayout(both);
        row->setContentsMargins(0, 0, 0, 0);
        row->setSpacing(8);
        row->addWidget(line, 1);
        row->addWidget(choose);
        column->addWidget(captioned(caption, both));
        connect(line, &PathLine::chosen, this, set);
        connect(choose, &QPushButton::clicked, this, [this, caption, tip, set] {
            const auto chosen = QFileDialog::getExistingDirectory(this, tip);
            if (!chosen.isEmpty()) (this->*set)(chosen);
        });
    };
    folder(tr("Pictures of the class"), "tcavExamples", tr("Choose pictures of the class"), examples_line_,
           &TcavPanel::setExamples);
    sets_ = new TcavSets(session_);
    column->addWidget(sets_);
    folder(tr("Other pictures, for random sets"), "tcavRandom", tr("Choose pictures of anything"), random_line_,
           &TcavPanel::setRandom);
    auto* choices = new QHBoxLayout;
    choices->setSpacing(8);
    runs_ = new Calm<QSpinBox>;
    runs_->setRange(kFewestRuns, 1000);
    runs_->setObjectName(QStringLiteral("tcavRuns"));
    runs_->setAccessibleName(tr("Random sets"));
    runs_->setToolTip(tr("Fewer than %1 say too little of chance").arg(kFewestRuns));
    choices->addWidget(captioned(tr("Random sets"), runs_), 1);
    features_ = new Calm<QComboBox>;
    features_->setObjectName(QStringLiteral("tcavFeatures"));
    features_->setAccessibleName(tr("Told apart by"));
    features_->addItem(tr("all numbers"), QStringLiteral("whole"));
    features_->addItem(tr("their mean"), QStringLiteral("mean"));
    features_->setToolTip(
        tr("By what folders are told apart: all numbers at the point, as published, or their mean over the picture, so "
           "that it does not matter where a concept is. Regions are always told apart by their mean"));
    features_->setMinimumWidth(80);
    choices->addWidget(captioned(tr("Told apart by"), features_), 1);
    column->addLayout(choices);
    point_button_ = new ChoiceButton;
    point_button_->setHint(tr("Where in the model concepts are looked for"));
    point_button_->setMaximumWidth(QWIDGETSIZE_MAX);
    column->addWidget(captioned(tr("At the point"), point_button_));
    run_ = new RunBox(QStringLiteral("tcav"));
    column->addWidget(run_);
    bars_ = new TcavBars;
    column->addWidget(bars_);
    about_ = quiet();
    column->addWidget(about_);
    auto* copies = new QHBoxLayout;
    copies->setSpacing(8);
    copy_command_ = new QPushButton(tr("Copy command"));
    copy_command_->setObjectName(QStringLiteral("tcavCopyCommand"));
    copy_table_ = new QPushButton(tr("Copy table"));
    copy_table_->setObjectName(QStringLiteral("tcavCopyTable"));
    copies->addWidget(copy_command_, 1);
    copies->addWidget(copy_table_, 1);
    column->addLayout(copies);
    notes_ = quiet();
    column->addWidget(notes_);
    column->addStretch(1);

    connect(run_, &RunBox::started, this, &TcavPanel::start);
    connect(run_, &RunBox::stopped, this, &TcavPanel::stop);
    connect(copy_command_, &QPushButton::clicked, this, [this] { QApplication::clipboard()->setText(command()); });
    connect(copy_table_, &QPushButton::clicked, this, [this] { QApplication::clipboard()->setText(bars_->table()); });
    connect(sets_, &TcavSets::changed, this, &TcavPanel::refresh);
    connect(&session_, &Session::modelChanged, this, [this] {
        target_.reset();
        point_.clear();
        forget();
    });
    // The question of the point may have been dropped with the work.
    connect(&session_, &Session::workDropped, this, [this] { asking_ = false; });
    connect(&session_, &Session::lookChanged, this, [this] {
        askGround();
        refresh();
    });
    fillChoices();
    refresh();
    refreshFacts();
}

TcavPanel::~TcavPanel() {
    stop_.request_stop();
    jobs_.finish();
}

void TcavPanel::restyle() {
    sets_->restyle();
    bars_->update();
}

void TcavPanel::fillChoices() {
    class_button_->setItems(
        [this] {
            std::vector<ChoiceItem> items;
            if (!session_.model()) return items;
            items.push_back({tr("The predicted class"), {}, {}, qlonglong(-1), {}, !target_, {}});
            QString group = tr("All classes");
            for (std::int64_t i = 0; i < session_.model()->classes; ++i) {
                items.push_back(
                    {session_.className(i), {}, tr("Class %1").arg(i), qlonglong(i), {}, target_ == i, group});
                group.clear();
            }
            return items;
        },
        tr("Find a class by name"));
    connect(class_button_, &ChoiceButton::chosen, this, [this](const QVariant& value) {
        const auto index = value.toLongLong();
        setTarget(index < 0 ? std::nullopt : std::optional<std::int64_t>(index));
    });
    point_button_->setItems(
        [this] {
            std::vector<ChoiceItem> items;
            if (!session_.model()) return items;
            items.push_back({tr("Three quarters deep"), {}, {}, QString(), {}, point_.isEmpty(), {}});
            const auto& layers = session_.model()->layer_points;
            const auto add = [&](const std::string& name, const QString& group) {
                items.push_back({text(name), {}, {}, text(name), {}, point_ == text(name), group});
            };
            QString group = tr("Layers");
            for (const auto& name : layers) add(name, group), group.clear();
            group = tr("Other points");
            for (const auto& name : session_.model()->points)
                if (std::find(layers.begin(), layers.end(), name) == layers.end()) add(name, group), group.clear();
            return items;
        },
        tr("Find a point by name"));
    connect(point_button_, &ChoiceButton::chosen, this, [this](const QVariant& value) { setPoint(value.toString()); });
}

void TcavPanel::setLooking(bool looking) {
    looking_ = looking;
    if (!looking) sets_->setDrawing(false);
    askGround();
    refresh();
}

void TcavPanel::setTarget(std::optional<std::int64_t> index) {
    target_ = index;
    trouble_.clear();
    refresh();
}

void TcavPanel::setPoint(const QString& point) {
    if (point_ == point) return;
    point_ = point;
    trouble_.clear();
    forget();
}

void TcavPanel::setExamples(const QString& folder) {
    examples_ = folder;
    trouble_.clear();
    refresh();
}

void TcavPanel::setRandom(const QString& folder) {
    random_ = folder;
    trouble_.clear();
    refresh();
}

void TcavPanel::forget() {
    ground_.reset();
    ground_trouble_.clear();
    asking_ = false;
    sets_->setGround(std::nullopt);
    askGround();
    refresh();
}

/// Asks once which cells there are at the point, as soon as somebody looks.
void TcavPanel::askGround() {
    if (!looking_ || asking_ || ground_ || !ground_trouble_.isEmpty() || !session_.model() || !session_.look()) return;
    asking_ = true;
    session_.askGround(point_, [self = QPointer<TcavPanel>(this), point = point_](Result<Ground> ground) {
        if (!self || self->point_ != point) return;
        self->asking_ = false;
        if (ground)
            self->ground_ = *ground;
        else if (ground.error().code != ErrorCode::Cancelled)
            self->ground_trouble_ = sentence(ground.error().message);
        self->sets_->setGround(self->ground_);
        self->refresh();
    });
}

std::optional<std::int64_t> TcavPanel::target() const {
    if (target_) return target_;
    const auto& look = session_.look();
    return look && !look->top.empty() ? std::optional(look->top.front().index) : std::nullopt;
}

QString TcavPanel::whyNot() const {
    if (!session_.model()) return tr("Open a model first");
    if (session_.model()->classes == 0) return tr("This model has no classes whose logits could move");
    if (!ground_trouble_.isEmpty()) return ground_trouble_;
    if (!target()) return tr("Choose a class, or wait for the model's answer");
    if (const auto why_not = sets_->whyNot(); !why_not.isEmpty()) return why_not;
    if (examples_.isEmpty()) return tr("Choose a folder of pictures of the class");
    if (random_.isEmpty()) return tr("Choose a folder of other pictures, from which random sets are drawn");
    return {};
}

TcavPlan TcavPanel::plan() const {
    TcavPlan out;
    out.model = session_.model()->request;
    // By name, so that the command says which one even where it is not the default any more.
    out.point = ground_ ? ground_->cells.point : point_.toStdString();
    out.target = *target();
    out.examples = QFileInfo(examples_).absoluteFilePath().toStdString();
    out.random = QFileInfo(random_).absoluteFilePath().toStdString();
    for (const auto& set : sets_->sets()) out.concepts.emplace_back(set.name.toStdString(), set.path.toStdString());
    out.features = features_->currentData().toString().toStdString();
    out.runs = runs_->value();
    return out;
}

QString TcavPanel::command() const { return facts_ ? text(command_line(ran_)) : QString(); }

void TcavPanel::start() {
    if (!whyNot().isEmpty() || running_) return;
    running_ = true;
    trouble_.clear();
    doing_ = tr("Starting");
    share_ = -1;
    stop_ = std::stop_source();
    const auto asked = plan();
    const auto of = tr("%1, %2").arg(session_.className(asked.target), text(session_.model()->title));
    jobs_.post(
        {.tag = "tcav"},
        [this, asked, stop = stop_](Hands&, JobControl& job) {
            // `this` outlives the job: the destructor waits for it.
            return run_tcav(asked, stop.get_token(), [&](std::string doing, std::int64_t done, std::int64_t total) {
                job.show([this, doing = std::move(doing), done, total] {
                    if (stop_.stop_requested()) return;
                    doing_ = total > 0 ? tr("%1, %2 of %3").arg(text(doing)).arg(done).arg(total) : text(doing);
                    share_ = total > 0 ? static_cast<double>(done) / static_cast<double>(total) : -1;
                    refresh();
                });
            });
        },
        [this, asked, of](Result<TcavFacts> facts) {
            running_ = false;
            doing_.clear();
            if (facts) {
                facts_ = std::move(*facts);
                ran_ = asked;
                of_ = of;
            } else if (facts.error().code == ErrorCode::Cancelled) {
                doing_ = tr("Stopped");
            } else {
                trouble_ = sentence(facts.error().message);
            }
            refresh();
            refreshFacts();
            // On a small screen they would be below what is seen. Once they have their place.
            QTimer::singleShot(0, this, &TcavPanel::revealOutcome);
        });
    refresh();
}

void TcavPanel::revealOutcome() {
    for (auto* around = parentWidget(); around; around = around->parentWidget())
        if (auto* area = qobject_cast<QScrollArea*>(around))
            return area->ensureWidgetVisible(facts_ && trouble_.isEmpty() ? about_ : run_->outcome());
}

void TcavPanel::stop() {
    if (!running_) return;
    stop_.request_stop();
    doing_ = tr("Stopping");
    refresh();
}

void TcavPanel::refresh() {
    Q_EMIT moved();
    const auto index = target();
    class_button_->setFace({}, {}, index ? session_.className(*index) : tr("None yet"),
                           target_ || !index ? QString() : tr("predicted"));
    class_button_->setReason(session_.model() ? QString() : tr("Open a model first"));
    point_button_->setFace(
        {}, {},
        ground_            ? text(ground_->cells.point)
        : point_.isEmpty() ? tr("Three quarters deep")
                           : point_,
        ground_ ? QStringLiteral("%1 \u00d7 %2").arg(ground_->cells.rows).arg(ground_->cells.cols) : QString());
    point_button_->setReason(session_.model() ? QString() : tr("Open a model first"));
    examples_line_->setPath(examples_);
    random_line_->setPath(random_);
    const auto why_not = whyNot();
    run_->setState({running_, stop_.stop_requested(), share_, tr("Test"), why_not, doing_, trouble_});
    // What is still to be done stands where the panel begins, not only under the cursor.
    next_->setText(breakable(why_not));
    next_->setVisible(!why_not.isEmpty());
}

void TcavPanel::refreshFacts() {
    bars_->setFacts(facts_);
    const bool any = facts_.has_value();
    for (QWidget* one :
         {static_cast<QWidget*>(about_), static_cast<QWidget*>(copy_command_), static_cast<QWidget*>(copy_table_)})
        one->setVisible(any);
    notes_->setVisible(any && (!facts_->notes.empty() || !facts_->skipped.empty()));
    if (!any) return;
    copy_command_->setToolTip(tr("The same test at the command line:\n%1").arg(command()));
    about_->setText(breakable(
        tr("%1, at %2. A score is the share of %3 pictures of the class whose logit grows along the concept: mean and "
           "middle 95 % of %4 random sets, of %5 pictures in all. p: Welch's test, two-sided%6; hollow from 0.05 on")
            .arg(of_, text(facts_->point))
            .arg(facts_->examples)
            .arg(facts_->runs)
            .arg(facts_->random)
            .arg(facts_->concepts.size() > 1 ? tr(", times %1 concepts").arg(facts_->concepts.size()) : QString())));
    QStringList notes;
    for (const auto& note : facts_->notes) notes << sentence(note);
    if (!facts_->skipped.empty())
        notes << tr("%1 pictures could not be read, such as: %2")
                     .arg(facts_->skipped.size())
                     .arg(text(facts_->skipped.front()));
    notes_->setText(breakable(notes.join(QLatin1Char('\n'))));
}

}  // namespace vitrine::app
