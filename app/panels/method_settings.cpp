// One control a declared parameter; a changed one is marked and can be taken back.
#include "method_settings.h"

#include <QCheckBox>
#include <QComboBox>
#include <QCompleter>
#include <QDoubleSpinBox>
#include <QGridLayout>
#include <QHBoxLayout>
#include <QLabel>
#include <QLineEdit>
#include <QSignalBlocker>
#include <QSpinBox>
#include <QToolButton>
#include <QVBoxLayout>

#include <algorithm>
#include <cmath>
#include <limits>

#include "panels/calm.h"
#include "panels/small_widgets.h"
#include "windows/theme.h"

namespace vitrine::app {
namespace {

QString text(const std::string& utf8) { return QString::fromStdString(utf8); }

/// "discard_ratio" -> "Discard ratio".
QString words(const std::string& name) {
    auto out = text(name).replace(QLatin1Char('_'), QLatin1Char(' '));
    if (!out.isEmpty()) out[0] = out[0].toUpper();
    return out;
}

/// As Settings parses it, shortest form.
QString plain(double number) { return QString::number(number, 'g', 12); }

/// A number without the zeros that say nothing.
class NumberBox : public Calm<QDoubleSpinBox> {
  public:
    NumberBox() { setDecimals(6); }
    QString textFromValue(double number) const override { return plain(number); }
};

}  // namespace

SettingsForm::SettingsForm(bool wide_words, QWidget* parent) : QWidget(parent), wide_words_(wide_words) {
    grid_ = new QGridLayout(this);
    grid_->setContentsMargins(0, 0, 0, 0);
    grid_->setHorizontalSpacing(12);
    grid_->setVerticalSpacing(4);
    grid_->setColumnStretch(0, 1);
}

QWidget* SettingsForm::control(const std::string& name) const {
    for (const auto& line : lines_)
        if (line.facts.name == name) return line.control;
    return nullptr;
}

void SettingsForm::build(const std::vector<SettingFacts>& settings, const Set& set) {
    lines_.clear();
    clearLayout(grid_);
    int row = 0;
    for (const auto& setting : settings) {
        const auto called = setting.caption.empty() ? words(setting.name) : text(setting.caption);
        auto* caption = new QLabel(called);
        auto* control = make(setting, set);
        caption->setBuddy(control);
        const auto tip = QStringLiteral("<p>%1.</p><p>%2</p>")
                             .arg(words(setting.meaning).toHtmlEscaped(),
                                  tr("Default: %1%2")
                                      .arg(text(setting.standard).toHtmlEscaped(),
                                           setting.source.empty()
                                               ? QString()
                                               : QStringLiteral(" (%1)").arg(text(setting.source).toHtmlEscaped())));
        caption->setToolTip(tip);
        control->setToolTip(tip);
        control->setAccessibleName(called);
        control->setAccessibleDescription(text(setting.meaning));
        if (wide_words_ && setting.kind == SettingFacts::Kind::Text) {
            grid_->addWidget(caption, row++, 0, 1, 2);
            grid_->addWidget(control, row++, 0, 1, 2);
        } else {
            grid_->addWidget(caption, row, 0);
            grid_->addWidget(control, row++, 1);
        }
        lines_.push_back({setting, caption, control});
    }
}

QWidget* SettingsForm::make(const SettingFacts& facts, const Set& set_value) {
    constexpr int kWidth = 132;
    const auto set = [set_value, name = facts.name](const QString& value) { set_value(name, value.toStdString()); };
    const auto suffix = facts.unit.empty() ? QString() : QLatin1Char(' ') + text(facts.unit);
    QWidget* made = nullptr;
    switch (facts.kind) {
        case SettingFacts::Kind::Flag: {
            auto* box = new QCheckBox;
            connect(box, &QCheckBox::toggled, this,
                    [set](bool on) { set(on ? QStringLiteral("true") : QStringLiteral("false")); });
            made = box;
            break;
        }
        case SettingFacts::Kind::Integer: {
            auto* box = new Calm<QSpinBox>;
            box->setRange(static_cast<int>(std::max(facts.low.value_or(-1e9), -1e9)),
                          static_cast<int>(std::min(facts.high.value_or(1e9), 1e9)));
            box->setKeyboardTracking(false);
            box->setSuffix(suffix);
            connect(box, &QSpinBox::valueChanged, this, [set](int value) { set(QString::number(value)); });
            made = box;
            break;
        }
        case SettingFacts::Kind::Number: {
            auto* box = new NumberBox;
            box->setRange(facts.low.value_or(-1e9), facts.high.value_or(1e9));
            const double span = facts.low && facts.high ? *facts.high - *facts.low : 10;
            box->setSingleStep(std::pow(10.0, std::floor(std::log10(span / 10))));
            // A small number in a wide range, such as a learning rate, is stepped by its own size.
            if (const double standard = std::abs(text(facts.standard).toDouble());
                standard > 0 && standard < span / 100)
                box->setStepType(QAbstractSpinBox::AdaptiveDecimalStepType);
            box->setKeyboardTracking(false);
            box->setSuffix(suffix);
            connect(box, &QDoubleSpinBox::valueChanged, this, [set](double value) { set(plain(value)); });
            made = box;
            break;
        }
        case SettingFacts::Kind::Choice: {
            auto* box = new Calm<QComboBox>;
            for (const auto& choice : facts.choices) box->addItem(text(choice));
            connect(box, &QComboBox::currentTextChanged, this, set);
            made = box;
            break;
        }
        case SettingFacts::Kind::Text: {
            auto* line = new QLineEdit;
            connect(line, &QLineEdit::editingFinished, this, [line, set] { set(line->text()); });
            made = line;
            if (facts.choices.empty()) break;
            // Words of which many are known.
            auto* box = new Calm<QComboBox>;
            for (const auto& choice : facts.choices) box->addItem(text(choice));
            box->setLineEdit(line);
            box->setInsertPolicy(QComboBox::NoInsert);
            box->completer()->setFilterMode(Qt::MatchContains);
            box->completer()->setCompletionMode(QCompleter::PopupCompletion);
            box->setMinimumContentsLength(12);
            box->setSizeAdjustPolicy(QComboBox::AdjustToMinimumContentsLengthWithIcon);
            connect(box, &QComboBox::textActivated, this, set);
            made = box;
            break;
        }
    }
    const bool wide = wide_words_ && facts.kind == SettingFacts::Kind::Text;
    if (facts.kind != SettingFacts::Kind::Flag && !wide) made->setFixedWidth(kWidth);
    return made;
}

void SettingsForm::fill(const MethodSettings& chosen) {
    for (const auto& line : lines_) {
        const auto found = chosen.find(line.facts.name);
        const auto value = text(found == chosen.end() ? line.facts.standard : found->second);
        const QSignalBlocker quiet(line.control);
        if (auto* flag = qobject_cast<QCheckBox*>(line.control)) flag->setChecked(value == QLatin1String("true"));
        if (auto* whole = qobject_cast<QSpinBox*>(line.control)) whole->setValue(value.toInt());
        if (auto* number = qobject_cast<QDoubleSpinBox*>(line.control)) number->setValue(value.toDouble());
        if (auto* choice = qobject_cast<QComboBox*>(line.control)) choice->setCurrentText(value);
        if (auto* words = qobject_cast<QLineEdit*>(line.control)) words->setText(value);
        // A changed setting is said by weight and by the button above, not by colour alone.
        line.caption->setFont(sans(13, found != chosen.end()));
    }
}

void SettingsForm::setUnread(const std::vector<std::string>& names) {
    for (const auto& line : lines_) {
        const bool read = std::find(names.begin(), names.end(), line.facts.name) == names.end();
        line.caption->setEnabled(read);
        line.control->setEnabled(read);
    }
}

MethodSettingsView::MethodSettingsView(Session& session, QWidget* parent) : QWidget(parent), session_(session) {
    auto* column = new QVBoxLayout(this);
    column->setContentsMargins(0, 8, 0, 0);
    column->setSpacing(8);
    const auto part = [column](QWidget*& box) {
        box = new QWidget;
        auto* lines = new QVBoxLayout(box);
        lines->setContentsMargins(0, 0, 0, 0);
        lines->setSpacing(4);
        column->addWidget(box);
        return lines;
    };
    const auto resetter = [](const QString& name) {
        auto* button = new QToolButton;
        button->setObjectName(name);
        button->setText(tr("Defaults"));
        return button;
    };
    auto* own = part(own_);
    auto* title = new QHBoxLayout;
    title->addWidget(heading(tr("Settings")));
    title->addStretch(1);
    reset_ = resetter(QStringLiteral("resetSettings"));
    title->addWidget(reset_);
    own->addLayout(title);
    form_ = new SettingsForm;
    own->addWidget(form_);
    // What all methods take is wanted seldom: one line until it is opened, or until something of it is set.
    auto* all = part(for_all_);
    auto* all_title = new QHBoxLayout;
    fold_ = new QToolButton;
    fold_->setObjectName(QStringLiteral("foldShared"));
    fold_->setText(tr("Copies and layers"));
    fold_->setToolTip(
        tr("Maps of flipped, scaled and brightened copies and of several layers, made one: for all methods"));
    fold_->setToolButtonStyle(Qt::ToolButtonTextBesideIcon);
    fold_->setIconSize({14, 14});
    fold_->setLayoutDirection(Qt::RightToLeft);
    fold_->setCheckable(true);
    all_title->addWidget(fold_);
    all_title->addStretch(1);
    reset_shared_ = resetter(QStringLiteral("resetShared"));
    all_title->addWidget(reset_shared_);
    all->addLayout(all_title);
    folded_ = new QWidget;
    auto* folded = new QVBoxLayout(folded_);
    folded->setContentsMargins(0, 0, 0, 0);
    shared_form_ = new SettingsForm;
    folded->addWidget(shared_form_);
    all->addWidget(folded_);
    unfold(false);
    connect(fold_, &QToolButton::toggled, this, &MethodSettingsView::unfold);
    connect(reset_, &QToolButton::clicked, &session_, &Session::resetSettings);
    connect(reset_shared_, &QToolButton::clicked, &session_, &Session::resetShared);
    connect(&session_, &Session::modelChanged, this, [this] { method_.clear(), refresh(); });
    connect(&session_, &Session::choiceChanged, this, &MethodSettingsView::refresh);
    refresh();
}

void MethodSettingsView::unfold(bool shared) {
    fold_->setChecked(shared);
    folded_->setVisible(shared);
    reset_shared_->setVisible(shared);
    fold_->setIcon(icon(QStringLiteral("chevron_down")));
}

void MethodSettingsView::restyle() {
    fold_->setIcon(icon(QStringLiteral("chevron_down")));
    fill();
}

void MethodSettingsView::setShown(bool shown) {
    shown_ = shown;
    own_->setVisible(!form_->empty());
    for_all_->setVisible(!shared_form_->empty());
    setVisible(shown_ && session_.methodFacts() != nullptr);
}

QWidget* MethodSettingsView::control(const std::string& name) const { return form_->control(name); }
QWidget* MethodSettingsView::sharedControl(const std::string& name) const { return shared_form_->control(name); }

void MethodSettingsView::refresh() {
    const auto* facts = session_.methodFacts();
    if (!facts) {
        method_.clear();
        form_->build({}, {});
    } else if (facts->name != method_) {
        method_ = facts->name;
        // A mask's parts are chosen in the strip, and what of it is shown by a switch of its own.
        auto settings = facts->settings;
        if (facts->has("part"))
            std::erase_if(settings,
                          [](const auto& setting) { return setting.name == "part" || setting.name == "show"; });
        form_->build(settings,
                     [this](const std::string& name, const std::string& value) { session_.setSetting(name, value); });
    }
    if (session_.model() && shared_form_->empty())
        shared_form_->build(session_.model()->shared, [this](const std::string& name, const std::string& value) {
            session_.setShared(name, value);
        });
    fill();
    setShown(shown_);
}

void MethodSettingsView::fill() {
    const auto& chosen = session_.settings();
    form_->fill(chosen);
    shared_form_->fill(session_.shared());
    reset_->setEnabled(!chosen.empty());
    reset_->setToolTip(chosen.empty() ? tr("These are the method's own settings")
                                      : tr("Take the method's own settings back"));
    reset_shared_->setEnabled(!session_.shared().empty());
    reset_shared_->setToolTip(session_.shared().empty() ? tr("Each map is of the picture as it is")
                                                        : tr("Explain the picture as it is again"));
    fold_->setFont(sans(11, !session_.shared().empty()));
    if (!session_.shared().empty() && !fold_->isChecked()) unfold(true);
}

}  // namespace vitrine::app
