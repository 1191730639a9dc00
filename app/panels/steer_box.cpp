// Turns the controls into edits of the chosen concepts, and shows both answers.
#include "steer_box.h"

#include <QApplication>
#include <QClipboard>
#include <QComboBox>
#include <QDoubleSpinBox>
#include <QHBoxLayout>
#include <QKeyEvent>
#include <QLabel>
#include <QMenu>
#include <QPushButton>
#include <QSignalBlocker>
#include <QSlider>
#include <QStandardItemModel>
#include <QToolButton>
#include <QVBoxLayout>
#include <QWheelEvent>

#include <algorithm>
#include <cmath>

#include "jobs/steer_curves.h"
#include "panels/calm.h"
#include "panels/format.h"
#include "panels/small_widgets.h"
#include "panels/steer_curve_view.h"
#include "windows/theme.h"

namespace vitrine::app {
namespace {

constexpr double kReach = 10;  // times the largest that was seen
constexpr int kSteps = 10;     // of the slider, to one
constexpr int kAnswers = 2;
/// Keys that follow one another sooner are one step to take back.
constexpr qint64 kOneRow_ms = 1000;

/// The wheel scrolls the panel.
class CalmSlider : public QSlider {
  public:
    using QSlider::QSlider;

  protected:
    void wheelEvent(QWheelEvent* event) override { event->ignore(); }
};

/// Takes back what is being typed; the number itself is a step of the window's.
class StepSpin : public Calm<QDoubleSpinBox> {
  public:
    bool event(QEvent* event) override {
        if (event->type() == QEvent::ShortcutOverride) {
            const auto* key = static_cast<QKeyEvent*>(event);
            if ((key->matches(QKeySequence::Undo) || key->matches(QKeySequence::Redo)) &&
                cleanText() == textFromValue(value())) {
                event->ignore();
                return true;
            }
        }
        return QDoubleSpinBox::event(event);
    }
};

QString factorWords(double factor) { return QString::number(factor, 'g', 3); }

}  // namespace

QString SteerBox::badgeOf(const Session& session, std::int64_t number) {
    const auto* edit = session.steering().find(number);
    if (!edit) return {};
    switch (edit->mode) {
        case Mode::Suppress:
            return tr("off");
        case Mode::Scale:
            return QStringLiteral("\u00d7") + factorWords(edit->value);
        case Mode::Set:
            return QLatin1Char('=') + QString::number(edit->value, 'g', 3);
    }
    return {};
}

SteerBox::SteerBox(Session& session, ConceptsOnShow& concepts, QWidget* parent)
    : QWidget(parent), session_(session), concepts_(concepts) {
    setObjectName(QStringLiteral("steerBox"));
    auto* column = new QVBoxLayout(this);
    column->setContentsMargins(16, 0, 16, 12);
    column->setSpacing(8);
    auto* top = new QHBoxLayout;
    top->setSpacing(4);
    which_ = new ReservedLabel(160);
    which_->setObjectName(QStringLiteral("steerWhich"));
    which_->setProperty("role", "heading");
    top->addWidget(which_, 1);
    const auto tool = [&](const char* name, const QString& words) {
        auto* made = new QToolButton;
        made->setObjectName(QLatin1String(name));
        made->setText(words);  // read out, and shown where there is no icon
        made->setIconSize({16, 16});
        top->addWidget(made);
        return made;
    };
    original_ = tool("steerOriginal", tr("Original"));
    original_->setCheckable(true);
    how_far_ = tool("steerHowFar", tr("How far it steers"));
    how_far_->setCheckable(true);
    reset_ = tool("steerReset", tr("Reset"));
    save_ = tool("steerSave", tr("Save\u2026"));
    column->addLayout(top);
    controls_ = new QWidget;
    auto* controls = new QVBoxLayout(controls_);
    controls->setContentsMargins(0, 0, 0, 0);
    controls->setSpacing(8);
    auto* modes = new QHBoxLayout;
    modes->setSpacing(0);
    const QString words[] = {tr("As it is"), tr("Off"), tr("Scale"), tr("Fix")};
    const QString tips[] = {
        tr("Nothing is changed"), tr("Suppressed: as if the concept were silent"), tr("Its strength times a factor"),
        tr("Its strength is the same everywhere: a multiple of the largest that was seen, in the index or here")};
    const char* names[] = {"steerLeave", "steerOff", "steerScale", "steerFix"};
    for (int i = 0; i < 4; ++i) {
        modes_[i] = new QPushButton(words[i]);
        modes_[i]->setObjectName(QLatin1String(names[i]));
        modes_[i]->setCheckable(true);
        modes_[i]->setToolTip(tips[i]);
        modes_[i]->setProperty("segment", i == 0 ? "left" : i == 3 ? "right" : "middle");
        modes->addWidget(modes_[i], 1);
        connect(modes_[i], &QPushButton::clicked, this,
                [this, i] { i == 0 ? apply(std::nullopt, 1) : apply(static_cast<Mode>(i - 1), i == 1 ? 0 : 2); });
    }
    controls->addLayout(modes);
    auto* amount = new QHBoxLayout;
    amount->setSpacing(8);
    slider_ = new CalmSlider(Qt::Horizontal);
    slider_->setObjectName(QStringLiteral("steerSlider"));
    slider_->setAccessibleName(tr("How much"));
    slider_->setRange(static_cast<int>(-kReach * kSteps), static_cast<int>(kReach * kSteps));
    slider_->setPageStep(kSteps);
    number_ = new StepSpin;
    number_->setObjectName(QStringLiteral("steerNumber"));
    number_->setAccessibleName(tr("How much"));
    number_->setRange(-kReach, kReach);
    number_->setDecimals(2);
    number_->setSingleStep(0.1);
    number_->setKeyboardTracking(false);
    number_->setPrefix(QStringLiteral("\u00d7 "));
    number_->setFixedWidth(92);
    amount->addWidget(slider_, 1);
    amount->addWidget(number_);
    controls->addLayout(amount);
    column->addWidget(controls_);

    auto* where = new QHBoxLayout;
    where->setSpacing(8);
    auto* caption = quiet(tr("On"));
    caption->setWordWrap(false);
    tokens_ = new Calm<QComboBox>;
    tokens_->setObjectName(QStringLiteral("steerTokens"));
    tokens_->setAccessibleName(tr("On which tokens"));
    for (const auto& one : {tr("all tokens"), tr("the class token"), tr("the patches"), tr("some patches")})
        tokens_->addItem(one);
    draw_ = new QPushButton(tr("Draw"));
    draw_->setObjectName(QStringLiteral("steerDraw"));
    draw_->setCheckable(true);
    where->addWidget(caption);
    where->addWidget(tokens_, 1);
    where->addWidget(draw_);
    column->addLayout(where);
    answers_ = new PredictionsView(kAnswers);
    answers_->setObjectName(QStringLiteral("steerAnswers"));
    column->addWidget(answers_);
    curves_ = new SteerCurves(session_, concepts_, this);
    curve_ = new SteerCurveView;
    column->addWidget(curve_);
    measure_ = new QPushButton(tr("Measure it"));
    measure_->setObjectName(QStringLiteral("steerMeasure"));
    column->addWidget(measure_);

    connect(how_far_, &QToolButton::toggled, this, [this](bool open) {
        curves_->setOpen(open);
        refresh();
    });
    connect(curves_, &SteerCurves::changed, this, &SteerBox::refreshCurve);
    connect(measure_, &QPushButton::clicked, curves_, &SteerCurves::again);
    connect(original_, &QToolButton::clicked, &session_, &Session::showOriginal);
    connect(reset_, &QToolButton::clicked, this, [this] {
        auto none = session_.steering();
        none.edits.clear();
        session_.steer(none);
    });
    connect(save_, &QToolButton::clicked, this, &SteerBox::saveWanted);
    connect(slider_, &QSlider::sliderPressed, this, [this] { ++gesture_; });
    connect(slider_, &QSlider::valueChanged, this, [this](int at) { slid(static_cast<double>(at) / kSteps); });
    connect(number_, &QDoubleSpinBox::valueChanged, this, &SteerBox::slid);
    connect(tokens_, &QComboBox::currentIndexChanged, this, [this](int at) {
        auto steer = session_.steering();
        steer.tokens = static_cast<Steer::Tokens>(at);
        if (steer.tokens == Steer::Tokens::Chosen && !steer.region) {
            if (const auto drawn = concepts_.regionOfTarget()) steer.region = drawn;
            concepts_.setDrawing(!steer.region);
        } else {
            concepts_.setDrawing(false);
        }
        session_.steer(steer);
    });
    connect(draw_, &QPushButton::clicked, &concepts_, &ConceptsOnShow::setDrawing);
    connect(answers_, &PredictionsView::chosen, &session_, [this](qint64 index) { session_.setTarget(index); });
    for (const auto signal : {&ConceptsOnShow::changed, &ConceptsOnShow::pointedChanged})
        connect(&concepts_, signal, this, &SteerBox::refresh);
    connect(&session_, &Session::steerChanged, this, &SteerBox::refresh);
    connect(&session_, &Session::lookChanged, this, &SteerBox::refreshAnswers);
    connect(&session_, &Session::choiceChanged, this, &SteerBox::refreshAnswers);
    restyle();
}

void SteerBox::restyle() {
    original_->setIcon(icon(QStringLiteral("eye")));
    how_far_->setIcon(icon(QStringLiteral("curve")));
    save_->setIcon(icon(QStringLiteral("save")));
    refresh();
}

std::optional<SteeredConcept> SteerBox::first() const {
    for (const auto number : concepts_.chosen())
        if (const auto* edit = session_.steering().find(number)) return *edit;
    return std::nullopt;
}

/// @param factor  of Scale; of Set, times the largest that was seen of each concept
void SteerBox::apply(std::optional<Mode> mode, double factor, quint64 gesture) {
    auto steer = session_.steering();
    steer.source = concepts_.source();
    for (const auto number : concepts_.chosen()) {
        if (!mode)
            steer.drop(number);
        else
            steer.put({number, *mode,
                       *mode == Mode::Set     ? factor * concepts_.unitOf(number)
                       : *mode == Mode::Scale ? factor
                                              : 0.0});
    }
    session_.steer(steer, gesture);
}

void SteerBox::slid(double factor) {
    const auto edit = first();
    if (!edit || edit->mode == Mode::Suppress) return;
    if (!slider_->isSliderDown() && (!slid_.isValid() || slid_.elapsed() > kOneRow_ms)) ++gesture_;
    slid_.start();
    apply(edit->mode, factor, gesture_);
}

void SteerBox::openMenu(qint64 number, const QPoint& global) {
    QMenu menu(this);
    menu.setToolTipsVisible(true);
    const bool pinned = concepts_.chosen().contains(number);
    connect(menu.addAction(pinned ? tr("Let it go") : tr("Pin")), &QAction::triggered, &concepts_,
            [this, number, pinned] { concepts_.pin(number, pinned); });
    menu.addSeparator();
    const auto why_not = concepts_.whyNoSteering();
    const auto add = [&](const QString& words, std::optional<Mode> mode, double factor) {
        auto* action = menu.addAction(words);
        action->setEnabled(why_not.isEmpty());
        action->setToolTip(why_not);
        connect(action, &QAction::triggered, this, [this, number, mode, factor] {
            if (!concepts_.chosen().contains(number)) concepts_.pin(number);
            apply(mode, factor);
        });
    };
    add(tr("Off"), Mode::Suppress, 0);
    add(tr("Twice as strong"), Mode::Scale, 2);
    add(tr("As it is"), std::nullopt, 1);
    menu.addSeparator();
    connect(menu.addAction(tr("Copy its number")), &QAction::triggered, this,
            [number] { QApplication::clipboard()->setText(QString::number(number)); });
    menu.exec(global);
}

void SteerBox::refresh() {
    const auto& steer = session_.steering();
    const auto& chosen = concepts_.chosen();
    const bool ready = concepts_.state() == ConceptsOnShow::State::Ready;
    setVisible(ready);
    if (!ready) return;
    const bool any = !steer.edits.empty();
    const auto why_none = tr("Nothing is steered");
    original_->setEnabled(any);
    original_->setChecked(session_.showsOriginal());
    original_->setToolTip(any ? tr("Shows the model as it was opened (hold D)") : why_none);
    reset_->setEnabled(any);
    reset_->setToolTip(any ? tr("Leaves every concept as it is") : why_none);
    save_->setEnabled(any);
    save_->setToolTip(any ? tr("Writes the steered model: a small file that names the model and what is changed")
                          : why_none);
    QString words;
    if (chosen.size() == 1)
        words = concepts_.nameOf(*chosen.begin());
    else if (chosen.size() > 1)
        words = tr("%1 concepts").arg(chosen.size());
    else
        words = steer.edits.empty() ? tr("Click one to steer") : tr("Steered");
    const auto also = std::count_if(steer.edits.begin(), steer.edits.end(),
                                    [&](const auto& edit) { return !chosen.contains(edit.number); });
    if (also > 0) words += chosen.empty() ? tr(": %1").arg(also) : tr(", %1 more").arg(also);
    which_->setText(words);
    which_->setToolTip(chosen.empty() ? QString() : tr("What is chosen in the list"));

    const auto why_not = chosen.empty() ? tr("Click a concept first") : concepts_.whyNoSteering();
    how_far_->setEnabled(!chosen.empty() || curves_->isOpen());
    how_far_->setToolTip(chosen.empty()
                             ? tr("Click a concept first")
                             : tr("How far it steers: the concept set from \u221210 to 10 times the largest that was "
                                  "seen of it, beside other concepts and directions by chance"));
    // The curve stands where the controls do: there is no room for both on a small screen.
    controls_->setVisible(!chosen.empty() && !curves_->isOpen());
    const auto edit = first();
    const int mode = edit ? static_cast<int>(edit->mode) + 1 : 0;
    for (int i = 0; i < 4; ++i) {
        modes_[i]->setEnabled(why_not.isEmpty());
        modes_[i]->setChecked(i == mode);
    }
    const bool slides = why_not.isEmpty() && edit && edit->mode != Mode::Suppress;
    double factor = 1;
    if (edit && edit->mode == Mode::Scale) factor = edit->value;
    if (edit && edit->mode == Mode::Suppress) factor = 0;
    if (edit && edit->mode == Mode::Set) {
        const double unit = concepts_.unitOf(edit->number);
        factor = unit > 0 ? edit->value / unit : 0;
    }
    const QSignalBlocker a(slider_), b(number_), c(tokens_);
    slider_->setValue(static_cast<int>(std::lround(factor * kSteps)));
    number_->setValue(factor);
    const auto tip = !why_not.isEmpty()        ? why_not
                     : !edit                   ? tr("Choose Scale or Fix first")
                     : !slides                 ? tr("A concept that is off has no strength")
                     : edit->mode == Mode::Set ? tr("Fixed at %1: times the largest that was seen of this concept, %2")
                                                     .arg(value(edit->value), value(concepts_.unitOf(edit->number)))
                                               : tr("Times the concept's own strength");
    for (QWidget* one : {static_cast<QWidget*>(slider_), static_cast<QWidget*>(number_)}) {
        one->setEnabled(slides);
        one->setToolTip(tip);
    }
    tokens_->setCurrentIndex(static_cast<int>(steer.tokens));
    for (int i = 0; i < tokens_->count(); ++i) {
        const auto reason = concepts_.whyNotOn(static_cast<Steer::Tokens>(i));
        auto* item = qobject_cast<QStandardItemModel*>(tokens_->model())->item(i);
        item->setEnabled(reason.isEmpty());
        item->setToolTip(reason);
    }
    const bool region = steer.tokens == Steer::Tokens::Chosen;
    draw_->setVisible(region);
    draw_->setChecked(concepts_.drawing());
    draw_->setToolTip(
        steer.region
            ? tr("Patches %1; a drag on the picture chooses others").arg(QString::fromStdString(steer.region->text()))
            : tr("A drag on the picture chooses the patches"));
    tokens_->setToolTip(region && !steer.region ? tr("No patches are chosen yet: drag on the picture")
                                                : tr("Where the concepts are changed"));
    refreshAnswers();
    refreshCurve();
}

void SteerBox::refreshAnswers() {
    const auto& look = session_.look();
    const bool any = !curves_->isOpen() && !session_.steering().edits.empty() && look && !look->top.empty();
    answers_->setVisible(any);
    if (!any) return;
    answers_->setPredictions(look->top, session_.explainedClass(), {}, session_.before());
}

void SteerBox::refreshCurve() {
    curve_->setVisible(curves_->isOpen());
    measure_->setVisible(curves_->isOpen() && curves_->stopped());
    if (curves_->isOpen()) curve_->setCurve(curves_->curve(), curves_->words());
}

}  // namespace vitrine::app
