// Keeps the numbers of a region and the session agreeing.
#include "region_row.h"

#include <QGridLayout>
#include <QHBoxLayout>
#include <QLabel>
#include <QSignalBlocker>
#include <QSpinBox>
#include <QToolButton>
#include <QVBoxLayout>

#include <algorithm>
#include <utility>

#include "panels/calm.h"
#include "panels/format.h"
#include "panels/small_widgets.h"
#include "windows/theme.h"

namespace vitrine::app {

QString wordsOf(const Region& region) {
    const auto corner = [](std::int64_t row, std::int64_t col) { return QStringLiteral("%1,%2").arg(row).arg(col); };
    const auto first = corner(region.row, region.col), last = corner(region.to_row, region.to_col);
    return first == last ? first : QObject::tr("%1 to %2").arg(first, last);
}

RegionRow::RegionRow(Session& session, QWidget* parent) : QFrame(parent), session_(session) {
    setObjectName(QStringLiteral("regionRow"));
    setAccessibleName(tr("Region"));
    auto* column = new QVBoxLayout(this);
    column->setContentsMargins(0, 4, 0, 4);
    column->setSpacing(4);
    auto* top = new QHBoxLayout;
    auto* title = new QLabel(tr("Region"));
    title->setFont(sans(13, true));
    top->addWidget(title);
    top->addStretch(1);
    clear_ = new QToolButton;
    clear_->setObjectName(QStringLiteral("clearRegion"));
    clear_->setIconSize({14, 14});
    clear_->setToolTip(tr("Explain the class again (Esc)"));
    clear_->setAccessibleName(tr("Clear the region"));
    top->addWidget(clear_);
    column->addLayout(top);
    const auto box = [this](const char* name, const QString& words) {
        auto* made = new Calm<QSpinBox>;
        made->setObjectName(QLatin1String(name));
        made->setAccessibleName(words);
        made->setKeyboardTracking(false);
        made->setFixedWidth(72);
        connect(made, &QSpinBox::valueChanged, this, &RegionRow::changed);
        return made;
    };
    row_ = box("regionRowFrom", tr("First row"));
    to_row_ = box("regionRowTo", tr("Last row"));
    col_ = box("regionColumnFrom", tr("First column"));
    to_col_ = box("regionColumnTo", tr("Last column"));
    auto* numbers = new QGridLayout;
    numbers->setHorizontalSpacing(8);
    numbers->setVerticalSpacing(4);
    const auto line = [&](int at, const QString& words, QSpinBox* from, QSpinBox* to) {
        auto* label = new QLabel(words);
        label->setProperty("role", "small");
        label->setBuddy(from);
        auto* until = new QLabel(tr("to"));
        until->setProperty("role", "small");
        numbers->addWidget(label, at, 0);
        numbers->addWidget(from, at, 1);
        numbers->addWidget(until, at, 2);
        numbers->addWidget(to, at, 3);
    };
    line(0, tr("Rows"), row_, to_row_);
    line(1, tr("Columns"), col_, to_col_);
    numbers->setColumnStretch(0, 1);
    column->addLayout(numbers);
    facts_ = quiet();
    column->addWidget(facts_);
    connect(clear_, &QToolButton::clicked, &session_, &Session::clearRegion);
    connect(&session_, &Session::choiceChanged, this, &RegionRow::refresh);
    restyle();
    refresh();
}

void RegionRow::restyle() { clear_->setIcon(icon(QStringLiteral("close"))); }

void RegionRow::takeFocus() {
    focus_wanted_ = true;
    refresh();
}

void RegionRow::refresh() {
    const auto& region = session_.region();
    const auto& cells = session_.regionCells();
    setVisible(region && cells);
    if (!region || !cells) return;
    const auto show = [](QSpinBox* box, std::int64_t low, std::int64_t high, std::int64_t value) {
        const QSignalBlocker quiet(box);
        box->setRange(static_cast<int>(low), static_cast<int>(high));
        box->setValue(static_cast<int>(value));
    };
    show(row_, 0, cells->rows - 1, region->row);
    show(to_row_, region->row, cells->rows - 1, region->to_row);
    show(col_, 0, cells->cols - 1, region->col);
    show(to_col_, region->col, cells->cols - 1, region->to_col);
    facts_->setText(
        tr("Explained is how active %1 is in these of its %2 \u00d7 %3 cells. Drag on the picture to draw another")
            .arg(breakable(QString::fromStdString(cells->point)))
            .arg(cells->rows)
            .arg(cells->cols));
    if (std::exchange(focus_wanted_, false)) row_->setFocus(Qt::ShortcutFocusReason);
}

void RegionRow::changed() {
    // A first row behind the last one takes it along.
    session_.setRegion(Region{row_->value(), col_->value(), std::max(row_->value(), to_row_->value()),
                              std::max(col_->value(), to_col_->value())});
}

}  // namespace vitrine::app
