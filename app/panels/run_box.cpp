// The buttons, the bar and the words of a run.
#include "panels/run_box.h"

#include <QHBoxLayout>
#include <QLabel>
#include <QPushButton>
#include <QVBoxLayout>

#include "panels/format.h"
#include "panels/small_widgets.h"

namespace vitrine::app {

RunBox::RunBox(const QString& name, QWidget* parent) : QWidget(parent) {
    auto* column = new QVBoxLayout(this);
    column->setContentsMargins(0, 0, 0, 0);
    column->setSpacing(8);
    auto* buttons = new QHBoxLayout;
    start_ = new QPushButton;
    start_->setObjectName(name + QStringLiteral("Start"));
    start_->setProperty("primary", true);
    stop_ = new QPushButton(tr("Stop"));
    stop_->setObjectName(name + QStringLiteral("Stop"));
    buttons->addWidget(start_, 1);
    buttons->addWidget(stop_, 1);
    column->addLayout(buttons);
    bar_ = new ThinBar;
    column->addWidget(bar_);
    doing_ = quiet();
    doing_->setObjectName(name + QStringLiteral("Doing"));
    column->addWidget(doing_);
    trouble_ = new QLabel;
    trouble_->setObjectName(name + QStringLiteral("Trouble"));
    trouble_->setProperty("role", "warning");
    trouble_->setWordWrap(true);
    trouble_->setTextInteractionFlags(Qt::TextSelectableByMouse);
    column->addWidget(trouble_);
    connect(start_, &QPushButton::clicked, this, &RunBox::started);
    connect(stop_, &QPushButton::clicked, this, &RunBox::stopped);
}

void RunBox::setState(const State& state) {
    start_->setText(state.start);
    start_->setVisible(!state.running);
    start_->setEnabled(state.why_not.isEmpty());
    start_->setToolTip(state.why_not);
    stop_->setVisible(state.running);
    stop_->setEnabled(!state.stopping);
    bar_->setProgress(state.running, state.share);
    doing_->setText(breakable(state.doing));
    doing_->setVisible(!state.doing.isEmpty());
    trouble_->setText(breakable(state.trouble));
    trouble_->setVisible(!state.trouble.isEmpty());
}

QWidget* RunBox::outcome() const { return trouble_->text().isEmpty() ? doing_ : trouble_; }

}  // namespace vitrine::app
