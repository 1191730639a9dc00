// Settings before, curves and figures during, the held-out figures after.
#include "train_panel.h"

#include <QDragEnterEvent>
#include <QDropEvent>
#include <QGridLayout>
#include <QHBoxLayout>
#include <QLabel>
#include <QMimeData>
#include <QPushButton>
#include <QToolButton>
#include <QUrl>
#include <QVBoxLayout>

#include <algorithm>
#include <cmath>

#include "panels/curve_view.h"
#include "panels/format.h"
#include "panels/method_settings.h"
#include "panels/small_widgets.h"
#include "windows/theme.h"

namespace vitrine::app {
namespace {

// The rest waits under More.
constexpr const char* kFirst[] = {"layers",  "version", "policy", "point", "tokens", "kind",
                                  "latents", "k",       "epochs", "batch", "lr"};
constexpr int kPreview = 112;

QString text(const std::string& utf8) { return QString::fromStdString(utf8); }

/// "45 s", "2 min 5 s", "3 h 10 min".
QString wait(double seconds) {
    const auto s = static_cast<qlonglong>(std::llround(std::max(seconds, 0.0)));
    if (s < 60) return TrainPanel::tr("%1 s").arg(s);
    if (s < 3600) return TrainPanel::tr("%1 min %2 s").arg(s / 60).arg(s % 60);
    return TrainPanel::tr("%1 h %2 min").arg(s / 3600).arg(s / 60 % 60);
}

/// The picture as the masked model sees it: what the mask hides sinks into the ground.
QImage seenThrough(const MaskPreview& preview) {
    const auto& seen = preview.seen;
    const auto& mask = preview.mask;
    QImage out(static_cast<int>(seen.width), static_cast<int>(seen.height), QImage::Format_RGB888);
    const QColor ground = Theme::now().room;
    const int under[3] = {ground.red(), ground.green(), ground.blue()};
    for (int y = 0; y < out.height(); ++y) {
        const auto* from = seen.data + y * seen.row_bytes;
        auto* to = out.scanLine(y);
        const double row = std::clamp((y + 0.5) * static_cast<double>(mask.rows) / out.height() - 0.5, 0.0,
                                      static_cast<double>(mask.rows - 1));
        const auto y0 = static_cast<std::int64_t>(row), y1 = std::min(y0 + 1, mask.rows - 1);
        for (int x = 0; x < out.width(); ++x) {
            const double col = std::clamp((x + 0.5) * static_cast<double>(mask.cols) / out.width() - 0.5, 0.0,
                                          static_cast<double>(mask.cols - 1));
            const auto x0 = static_cast<std::int64_t>(col), x1 = std::min(x0 + 1, mask.cols - 1);
            const double fy = row - static_cast<double>(y0), fx = col - static_cast<double>(x0);
            const double m = (mask.at(y0, x0) * (1 - fx) + mask.at(y0, x1) * fx) * (1 - fy) +
                             (mask.at(y1, x0) * (1 - fx) + mask.at(y1, x1) * fx) * fy;
            for (int c = 0; c < 3; ++c)
                to[3 * x + c] = static_cast<uchar>(std::lround(from[3 * x + c] * m + under[c] * (1 - m)));
        }
    }
    return out;
}

QWidget* row_of(std::initializer_list<QWidget*> widgets, int stretched = 0) {
    auto* box = new QWidget;
    auto* row = new QHBoxLayout(box);
    row->setContentsMargins(0, 0, 0, 0);
    row->setSpacing(8);
    int at = 0;
    for (auto* widget : widgets) row->addWidget(widget, at++ == stretched ? 1 : 0);
    return box;
}

}  // namespace

PathLine::PathLine(QWidget* parent) : QLineEdit(parent) {
    setAcceptDrops(true);
    connect(this, &QLineEdit::editingFinished, this, [this] { Q_EMIT chosen(QLineEdit::text()); });
}

void PathLine::setPath(const QString& path) {
    if (QLineEdit::text() == path) return;
    setText(path);
    setToolTip(path);
    setCursorPosition(static_cast<int>(path.size()));
}

void PathLine::focusOutEvent(QFocusEvent* event) {
    QLineEdit::focusOutEvent(event);
    setCursorPosition(static_cast<int>(QLineEdit::text().size()));
}

void PathLine::dragEnterEvent(QDragEnterEvent* event) {
    if (event->mimeData()->hasUrls()) event->acceptProposedAction();
}

void PathLine::dropEvent(QDropEvent* event) {
    for (const auto& url : event->mimeData()->urls()) {
        if (!url.isLocalFile()) continue;
        event->acceptProposedAction();
        Q_EMIT chosen(url.toLocalFile());
        return;
    }
}

TrainPanel::TrainPanel(Session& session, TrainingRun& mask, TrainingRun& concepts, QWidget* parent)
    : QWidget(parent), session_(session), mask_(&mask), concepts_(&concepts), run_(&mask) {
    setObjectName(QStringLiteral("trainPanel"));
    auto* column = new QVBoxLayout(this);
    column->setContentsMargins(16, 12, 16, 16);
    column->setSpacing(8);
    auto* title_row = new QHBoxLayout;
    title_row->addWidget(heading(tr("Train")));
    title_row->addStretch(1);
    auto* kinds = new QHBoxLayout;
    kinds->setSpacing(0);
    const auto kind = [&](const QString& words, const char* side, const char* name) {
        auto* made = new QPushButton(words);
        made->setObjectName(QLatin1String(name));
        made->setProperty("segment", side);
        made->setCheckable(true);
        kinds->addWidget(made);
        return made;
    };
    of_mask_ = kind(tr("A mask"), "left", "trainMask");
    of_concepts_ = kind(tr("Concepts"), "right", "trainConcepts");
    title_row->addLayout(kinds);
    column->addLayout(title_row);

    // Before.
    setup_ = new QWidget;
    auto* setup = columnIn(setup_, 8);
    about_ = quiet();
    setup->addWidget(about_);
    const auto chooser = [](const QString& name) {
        auto* button = new QPushButton(tr("Choose…"));
        button->setObjectName(name);
        return button;
    };
    data_ = new PathLine;
    data_->setObjectName(QStringLiteral("trainData"));
    data_->setPlaceholderText(tr("Drop a folder here"));
    auto* choose_data = chooser(QStringLiteral("chooseTrainData"));
    setup->addWidget(captioned(tr("Pictures"), row_of({data_, choose_data})));
    out_ = new PathLine;
    out_->setObjectName(QStringLiteral("trainOut"));
    auto* choose_out = chooser(QStringLiteral("chooseTrainOut"));
    setup->addWidget(captioned(tr("Write to"), row_of({out_, choose_out})));
    data_->setAccessibleName(tr("Pictures"));
    out_->setAccessibleName(tr("Write to"));
    about_file_ = quiet();
    setup->addWidget(about_file_);
    column->addWidget(setup_);
    settings_ = new QWidget;
    auto* settings = columnIn(settings_, 8);
    auto* title = new QHBoxLayout;
    title->addWidget(heading(tr("Settings")));
    title->addStretch(1);
    reset_ = new QToolButton;
    reset_->setText(tr("Defaults"));
    reset_->setObjectName(QStringLiteral("resetTraining"));
    title->addWidget(reset_);
    settings->addLayout(title);
    first_ = new SettingsForm(true);
    settings->addWidget(first_);
    fold_ = new QToolButton;
    fold_->setObjectName(QStringLiteral("foldTraining"));
    fold_->setText(tr("More"));
    fold_->setToolButtonStyle(Qt::ToolButtonTextBesideIcon);
    fold_->setIconSize({14, 14});
    fold_->setLayoutDirection(Qt::RightToLeft);
    fold_->setCheckable(true);
    auto* fold_row = new QHBoxLayout;
    fold_row->addWidget(fold_);
    fold_row->addStretch(1);
    settings->addLayout(fold_row);
    more_box_ = new QWidget;
    more_ = new SettingsForm(true);
    columnIn(more_box_, 0)->addWidget(more_);
    settings->addWidget(more_box_);

    // During and after.
    of_run_ = quiet();
    column->addWidget(of_run_);
    const auto said = [column](QWidget*& box, QLabel*& sign, QLabel*& words, const QString& name) {
        box = new QWidget;
        box->setObjectName(name);
        auto* row = new QHBoxLayout(box);
        row->setContentsMargins(0, 0, 0, 0);
        row->setSpacing(8);
        sign = new QLabel;
        words = new QLabel;
        words->setObjectName(name + QStringLiteral("Words"));
        words->setWordWrap(true);
        words->setTextInteractionFlags(Qt::TextSelectableByMouse);
        row->addWidget(sign, 0, Qt::AlignTop);
        row->addWidget(words, 1);
        column->addWidget(box);
    };
    said(trouble_, trouble_sign_, trouble_words_, QStringLiteral("trainTrouble"));
    said(warning_, warning_sign_, warning_words_, QStringLiteral("trainWarning"));
    const auto button = [](const QString& words, const char* name, bool primary = false) {
        auto* made = new QPushButton(words);
        made->setObjectName(QLatin1String(name));
        if (primary) made->setProperty("primary", true);
        return made;
    };
    start_ = button(tr("Start training"), "trainStart", true);
    anew_ = button(tr("Start anew"), "trainAnew");
    pause_ = button(tr("Pause"), "trainPause");
    resume_ = button(tr("Resume"), "trainResume", true);
    stop_ = button(tr("Stop"), "trainStop");
    explain_ = button({}, "trainExplain", true);
    again_ = button(tr("Train another"), "trainAgain");
    pause_->setToolTip(tr("Writes a checkpoint after this step and waits"));
    resume_->setToolTip(tr("Goes on from the checkpoint"));
    stop_->setToolTip(tr("Back to the settings; the checkpoint stays, so that this training can go on"));
    auto* buttons = new QHBoxLayout;
    buttons->setSpacing(8);
    for (auto* one : {start_, anew_, pause_, resume_, explain_, stop_, again_}) buttons->addWidget(one, 1);
    column->addLayout(buttons);
    bar_ = new ThinBar;
    column->addWidget(bar_);
    doing_ = quiet();
    doing_->setObjectName(QStringLiteral("trainDoing"));
    column->addWidget(doing_);
    column->addWidget(settings_);

    held_ = new QWidget;
    held_->setObjectName(QStringLiteral("trainHeld"));
    auto* held = columnIn(held_, 4);
    held->addWidget(heading(tr("On pictures it was not trained on")));
    held_words_ = quiet();
    held->addWidget(held_words_);
    held_grid_ = new QGridLayout;
    held_grid_->setHorizontalSpacing(12);
    held_grid_->setVerticalSpacing(4);
    held_grid_->setColumnStretch(0, 1);
    held->addLayout(held_grid_);
    column->addWidget(held_);
    speed_ = quiet();
    speed_->setObjectName(QStringLiteral("trainSpeed"));
    column->addWidget(speed_);

    auto* curve_title = new QHBoxLayout;
    curve_title->addWidget(heading(tr("Curves")));
    curve_title->addStretch(1);
    logarithmic_ = new QToolButton;
    logarithmic_->setObjectName(QStringLiteral("trainLogarithmic"));
    logarithmic_->setText(tr("Log"));
    logarithmic_->setToolTip(tr("Draw the loss on a logarithmic scale; shares have their own, on the right"));
    logarithmic_->setCheckable(true);
    logarithmic_->setChecked(true);
    curve_title->addWidget(logarithmic_);
    column->addLayout(curve_title);
    curves_ = new CurveView;
    curves_->setEmptyWords(tr("The loss and its parts are drawn here while it is trained"));
    column->addWidget(curves_);
    more_curves_ = new CurveView;
    more_curves_->setLogarithmic(false);
    column->addWidget(more_curves_);
    look_curves_ = new CurveView;
    look_curves_->setObjectName(QStringLiteral("trainLooks"));
    look_curves_->setLogarithmic(false);
    look_curves_->setCurves({{tr("change of the answer, nats"), 0}, {tr("answered alike"), 1, true}});
    look_curves_->setAccessibleName(tr("Curves of the answers on held pictures"));
    column->addWidget(look_curves_);

    running_ = new QWidget;
    auto* running = new QHBoxLayout(running_);
    running->setContentsMargins(0, 4, 0, 0);
    running->setSpacing(16);
    auto* preview = new QVBoxLayout;
    preview->setSpacing(4);
    picture_ = new PictureBox(kPreview);
    picture_->setAccessibleName(tr("The picture through its mask"));
    picture_->setToolTip(tr("The current picture through the mask of its predicted class"));
    preview->addWidget(picture_);
    preview->addStretch(1);
    running->addLayout(preview);
    auto* figures = new QGridLayout;
    figures->setHorizontalSpacing(8);
    figures->setVerticalSpacing(6);
    figures->setColumnStretch(0, 1);
    for (int i = 0; i < kFigures; ++i) {
        captions_[i] = quiet();
        captions_[i]->setWordWrap(false);
        figures_[i] = new QLabel;
        figures_[i]->setFont(mono(11));
        figures_[i]->setAlignment(Qt::AlignRight | Qt::AlignVCenter);
        figures->addWidget(captions_[i], i, 0);
        figures->addWidget(figures_[i], i, 1);
    }
    figures_[0]->setObjectName(QStringLiteral("trainStep"));
    figures->setRowStretch(kFigures, 1);
    running->addLayout(figures, 1);
    column->addWidget(running_);
    preview_words_ = quiet();
    column->addWidget(preview_words_);
    notes_ = quiet();
    column->addWidget(notes_);
    column->addStretch(1);

    connect(choose_data, &QPushButton::clicked, this, &TrainPanel::folderWanted);
    connect(choose_out, &QPushButton::clicked, this, &TrainPanel::fileWanted);
    connect(data_, &PathLine::chosen, this, [this](const QString& folder) { run_->setData(folder); });
    connect(out_, &PathLine::chosen, this, [this](const QString& file) { run_->setOut(file); });
    connect(reset_, &QToolButton::clicked, this, [this] { run_->resetSettings(); });
    connect(fold_, &QToolButton::toggled, this, &TrainPanel::unfold);
    for (const auto& [one, does] : {std::pair{start_, &TrainingRun::start},
                                    {anew_, &TrainingRun::startAnew},
                                    {pause_, &TrainingRun::pause},
                                    {resume_, &TrainingRun::resume},
                                    {stop_, &TrainingRun::stop},
                                    {again_, &TrainingRun::again},
                                    {explain_, &TrainingRun::explainWithIt}})
        connect(one, &QPushButton::clicked, this, [this, does = does] { (run_->*does)(); });
    connect(logarithmic_, &QToolButton::toggled, curves_, &CurveView::setLogarithmic);
    connect(of_mask_, &QPushButton::clicked, this, [this] { show(Trained::Mask); });
    connect(of_concepts_, &QPushButton::clicked, this, [this] { show(Trained::Concepts); });
    follow(mask);
    follow(concepts);
    for (const auto signal : {&Session::modelChanged, &Session::lookChanged})
        connect(&session_, signal, this, &TrainPanel::refresh);
    unfold(false);
    show(Trained::Mask);
}

/// Both go on whichever is shown.
void TrainPanel::follow(TrainingRun& run) {
    const auto shown = [this, &run](void (TrainPanel::*refresh)()) {
        return [this, &run, refresh] {
            if (run_ == &run) (this->*refresh)();
        };
    };
    connect(&run, &TrainingRun::changed, this, shown(&TrainPanel::refresh));
    connect(&run, &TrainingRun::moved, this, shown(&TrainPanel::refreshFigures));
    connect(&run, &TrainingRun::previewChanged, this, shown(&TrainPanel::refreshPreview));
    connect(&run, &TrainingRun::formChanged, this, shown(&TrainPanel::buildForms));
}

void TrainPanel::show(Trained what) {
    const bool mask = what == Trained::Mask;
    run_ = mask ? mask_ : concepts_;
    of_mask_->setChecked(mask);
    of_concepts_->setChecked(!mask);
    about_->setText(mask ? tr("A small module beside the model learns which parts of a picture its answer needs. The "
                              "model stays as it is; no labels are needed.")
                         : tr("An autoencoder learns to write what a layer says of each patch as a sum of few concepts "
                              "out of many. The model stays as it is; no labels are needed."));
    const Figure step{tr("Step"), tr("Optimiser steps done, of all"),
                      [](const TrainingMoment& now) { return tr("%1 of %2").arg(count(now.step), count(now.steps)); }};
    const Figure left{tr("Time left"), tr("At the speed so far"), [](const TrainingMoment& now) {
                          return now.per_second > 0 && now.seconds_left > 0 ? wait(now.seconds_left) : QString();
                      }};
    const auto speed = [](const TrainingMoment& now) {
        return now.per_second > 0 ? now.per_second < 1000 ? QString::number(now.per_second, 'f', 1)
                                                          : count(std::llround(now.per_second))
                                  : QString();
    };
    if (mask) {
        told_ = {step,
                 {tr("Agreement"), tr("Share of masked pictures that are answered as the whole ones"),
                  [](const TrainingMoment& now) { return percent(now.agreement); }},
                 {tr("Coverage"), tr("Mean of the masks of the pictures' own classes"),
                  [](const TrainingMoment& now) { return percent(now.values[kCoverage]); }},
                 {tr("Pictures/s"), tr("Mean since the start"), speed},
                 left};
        curves_->setCurves({{tr("total"), 0},
                            {tr("answer"), 1},
                            {tr("area"), 2},
                            {tr("smoothness"), 3},
                            {tr("coverage"), kCoverage, true}});
    } else {
        told_ = {step,
                 {tr("Explained"), tr("Share of the variance of the layer's tokens that the concepts give again"),
                  [](const TrainingMoment& now) { return percent(now.values[kExplained]); }},
                 {tr("Active"), tr("Concepts that speak for a token, in the mean"),
                  [](const TrainingMoment& now) { return value(now.values[kActive]); }},
                 {tr("Silent"), tr("Share of the concepts that have long spoken for no token"),
                  [](const TrainingMoment& now) { return percent(now.values[kDead]); }},
                 {tr("Answer moved"),
                  tr("How far the answers for some held pictures move with what the concepts say in the layer's place, "
                     "in nats, and the share that is answered alike. Looked at about twenty times; every how many "
                     "steps is set under More"),
                  [](const TrainingMoment& now) {
                      return now.look
                                 ? tr("%1, %2 alike").arg(value(now.look->divergence), percent(now.look->agreement))
                                 : QString();
                  }},
                 {tr("Tokens/s"), tr("Mean since the start, the model's runs included"), speed},
                 left};
        curves_->setCurves({{tr("total"), 0},
                            {tr("reconstruction"), 1},
                            {tr("explained"), kExplained, true},
                            {tr("silent"), kDead, true}});
        more_curves_->setCurves({{tr("active concepts a token"), kActive}});
    }
    for (std::size_t i = 0; i < kFigures; ++i) {
        const bool any = i < told_.size();
        captions_[i]->setVisible(any);
        figures_[i]->setVisible(any);
        if (!any) continue;
        captions_[i]->setText(told_[i].name);
        for (auto* label : {captions_[i], figures_[i]}) label->setToolTip(told_[i].tip);
        figures_[i]->setAccessibleName(told_[i].name);
    }
    picture_->setVisible(mask);
    explain_->setText(mask ? tr("Explain with it") : tr("Show its concepts"));
    buildForms();
    restyle();
}

QWidget* TrainPanel::control(const std::string& setting) const {
    auto* found = first_->control(setting);
    return found ? found : more_->control(setting);
}

void TrainPanel::restyle() {
    fold_->setIcon(icon(QStringLiteral("chevron_down")));
    trouble_sign_->setPixmap(iconPixmap(QStringLiteral("failure"), Theme::now().error, 16, devicePixelRatioF()));
    warning_sign_->setPixmap(iconPixmap(QStringLiteral("warning"), Theme::now().warning, 16, devicePixelRatioF()));
    refresh();
    refreshFigures();
    refreshPreview();
    curves_->update();
    more_curves_->update();
    look_curves_->update();
}

void TrainPanel::unfold(bool more) {
    more_box_->setVisible(more);
    fold_->setToolTip(more ? tr("Hide these settings") : tr("Weights of the loss, schedule, previews and more"));
}

void TrainPanel::buildForms() {
    std::vector<SettingFacts> first, more = run_->declared();
    for (const char* name : kFirst) {
        const auto found = std::find_if(more.begin(), more.end(), [&](const auto& s) { return s.name == name; });
        if (found == more.end()) continue;
        first.push_back(*found);
        more.erase(found);
    }
    const auto set = [this](const std::string& name, const std::string& value) { run_->set(name, value); };
    first_->build(first, set);
    more_->build(more, set);
    refresh();
}

void TrainPanel::refresh() {
    using Stage = TrainingRun::Stage;
    const auto stage = run_->stage();
    const bool setup = stage == Stage::Setup, ended = stage == Stage::Ended, paused = stage == Stage::Paused;
    setup_->setVisible(setup);
    settings_->setVisible(setup);
    data_->setPath(run_->data());
    out_->setPath(run_->out());
    const auto about = run_->aboutTheFile();
    about_file_->setText(breakable(about));
    about_file_->setVisible(!about.isEmpty());
    first_->fill(run_->settings());
    more_->fill(run_->settings());
    const auto unread = unread_settings(run_->what(), run_->settings());
    first_->setUnread(unread);
    more_->setUnread(unread);
    reset_->setEnabled(!run_->settings().empty());
    reset_->setToolTip(run_->settings().empty() ? tr("These are the trainer's own settings")
                                                : tr("Take the trainer's own settings back"));
    of_run_->setVisible(!setup);
    of_run_->setText(
        tr("For %1, from %2 into %3").arg(run_->modelTitle(), breakable(run_->data()), breakable(run_->out())));
    trouble_->setVisible(!run_->trouble().isEmpty());
    trouble_words_->setText(breakable(run_->trouble()));
    start_->setVisible(setup);
    const auto why_not = run_->whyNot();
    start_->setText(run_->goesOn() ? tr("Go on") : tr("Start training"));
    start_->setEnabled(why_not.isEmpty());
    start_->setToolTip(why_not);
    anew_->setVisible(setup && run_->goesOn());
    anew_->setEnabled(why_not.isEmpty());
    anew_->setToolTip(why_not.isEmpty() ? tr("From the first step; the paused training is moved aside, not lost")
                                        : why_not);
    pause_->setVisible(run_->busy());
    pause_->setEnabled(stage != Stage::Pausing);
    resume_->setVisible(paused);
    stop_->setVisible(run_->busy() || paused);
    stop_->setEnabled(stage != Stage::Pausing);
    explain_->setVisible(ended);
    const auto why_not_explain = run_->whyNotExplain();
    explain_->setEnabled(why_not_explain.isEmpty());
    explain_->setToolTip(why_not_explain.isEmpty() ? tr("Shows what it makes of the current picture")
                                                   : why_not_explain);
    again_->setVisible(ended);

    held_->setVisible(ended);
    speed_->hide();
    clearLayout(held_grid_);
    if (ended && run_->outcome()) fillHeld(*run_->outcome());
}

void TrainPanel::fillHeld(const TrainingOutcome& found) {
    const bool mask = run_->what() == Trained::Mask;
    if (!mask) fillSpeed(found);
    if (found.held == 0)
        held_words_->setText(tr("None was held out, so nothing was measured"));
    else if (mask)
        held_words_->setText(tr("%1 held out; the mask covers %2 and keeps the answer of %3")
                                 .arg(count(found.held), percent(found.coverage), percent(found.agreement)));
    else if (!found.answers)
        held_words_->setText(tr("%1 held out").arg(count(found.held)));
    else
        held_words_->setText(tr("%1 held out; with what the concepts say in the layer's place, %2 are answered alike")
                                 .arg(count(found.held), percent(found.agreement)));
    if (found.held == 0) return;
    const auto put = [this](const QString& words, int row, int col, const QString& tip = {}) {
        auto* label = quiet(words);
        label->setWordWrap(false);
        label->setToolTip(tip);
        if (col > 0) label->setFont(mono(11));
        if (col > 0) label->setAlignment(Qt::AlignRight);
        held_grid_->addWidget(label, row, col);
    };
    if (!mask) {
        struct Row {
            QString name, figure, tip;
        };
        std::vector<Row> rows{
            {tr("Explained variance"), percent(found.explained), tr("Of the layer's tokens; higher is better")}};
        for (const auto& [kind, share] : found.explained_of)
            rows.push_back({kind == "class"       ? tr("  in the class token")
                            : kind == "registers" ? tr("  in registers")
                                                  : tr("  in patches"),
                            percent(share), tr("Of the variance among the tokens of this kind")});
        if (found.answers) {
            rows.push_back({tr("Answer kept"), percent(found.substitution),
                            tr("1 less the change of the answer, over its change with nothing in the layer's place")});
            rows.push_back({tr("Change of the answer"), tr("%1 nats").arg(value(found.divergence)),
                            tr("Mean Kullback-Leibler divergence from the model's own answer")});
        }
        rows.insert(rows.end(), {{tr("Active a token"), value(found.active), tr("Concepts, in the mean")},
                                 {tr("Active a picture"), value(found.distinct), tr("Different concepts, in the mean")},
                                 {tr("Never active"), percent(found.never), tr("Share of the concepts")},
                                 {tr("Active everywhere"), percent(found.dense),
                                  tr("Share of the concepts that speak for more than 1 % of the tokens")}});
        int row = 0;
        for (const auto& one : rows) {
            put(one.name, row, 0, one.tip);
            put(one.figure, row++, 1, one.tip);
        }
        return;
    }
    put(tr("Of the map kept"), 0, 0);
    const QString kept[] = {tr("100 %"), tr("50 %"), tr("15 %")};
    for (int k = 0; k < 3; ++k) put(kept[k], 0, k + 1);
    put(tr("Average drop, %"), 1, 0, tr("How much of the answer's probability is lost; lower is better"));
    put(tr("Increase, %"), 2, 0, tr("How many pictures are answered more surely; higher is better"));
    for (std::size_t k = 0; k < 3; ++k) {
        put(QString::number(found.average_drop[k], 'f', 1), 1, static_cast<int>(k) + 1);
        put(QString::number(found.increase[k], 'f', 1), 2, static_cast<int>(k) + 1);
    }
}

void TrainPanel::fillSpeed(const TrainingOutcome& found) {
    if (!(found.steps_per_second > 0)) return;
    auto words = tr("%1 tokens/s with the model's runs, %2 in the steps alone")
                     .arg(count(std::llround(found.per_second)), count(std::llround(found.steps_per_second)));
    if (found.ceiling_per_second > 0)
        words += found.ceiling_products == 1 ? tr(": %1 of the %2 that the encoder's product alone allows")
                                                   .arg(percent(found.steps_per_second / found.ceiling_per_second),
                                                        count(std::llround(found.ceiling_per_second)))
                                             : tr(": %1 of the %2 that its %3 matrix products alone allow")
                                                   .arg(percent(found.steps_per_second / found.ceiling_per_second),
                                                        count(std::llround(found.ceiling_per_second)))
                                                   .arg(found.ceiling_products);
    speed_->setText(words);
    speed_->setToolTip(tr("The products and a copy of the codes were timed in the same run, at its own sizes"));
    speed_->show();
}

void TrainPanel::refreshFigures() {
    const bool busy = run_->busy();
    bar_->setProgress(busy, run_->share());
    doing_->setText(run_->doing());
    doing_->setVisible(!run_->doing().isEmpty());
    const bool any = !run_->curve().empty();
    curves_->setPoints(run_->curve());
    more_curves_->setPoints(run_->curve());
    more_curves_->setVisible(any && run_->what() == Trained::Concepts);
    std::vector<TrainingRun::Point> looks;
    for (const auto& look : run_->looks())
        looks.push_back({look.step, {static_cast<float>(look.divergence), static_cast<float>(look.agreement)}});
    look_curves_->setPoints(looks);
    look_curves_->setVisible(!looks.empty());
    logarithmic_->setVisible(any);
    running_->setVisible(run_->moment().has_value());
    const auto none = QStringLiteral("–");
    if (const auto& now = run_->moment())
        for (std::size_t i = 0; i < told_.size(); ++i) {
            const bool known = i == 0 || (any && (busy || told_[i].name != tr("Time left")));
            const auto words = known ? told_[i].words(*now) : QString();
            figures_[i]->setText(words.isEmpty() ? none : words);
        }
    const auto warning = run_->warning();
    warning_words_->setText(warning);
    warning_->setVisible(!warning.isEmpty());
    notes_->setText(breakable(run_->notes().join(QLatin1Char('\n'))));
    notes_->setVisible(!run_->notes().isEmpty());
}

void TrainPanel::refreshPreview() {
    const auto& preview = run_->preview();
    const bool has = preview && preview->trouble.empty();
    picture_->setImage(has ? seenThrough(*preview) : QImage());
    preview_words_->setVisible(preview.has_value());
    if (!preview) return;
    preview_words_->setText(has ? tr("At step %1, %2: its mask covers %3")
                                      .arg(count(preview->step), text(preview->label), percent(preview->coverage))
                                : tr("No preview: %1").arg(text(preview->trouble)));
}

}  // namespace vitrine::app
