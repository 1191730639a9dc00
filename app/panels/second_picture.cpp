// A button while there is none, a row with thumbnail, name and cross once there is.
#include "second_picture.h"

#include <QDragEnterEvent>
#include <QDropEvent>
#include <QHBoxLayout>
#include <QLabel>
#include <QMimeData>
#include <QPushButton>
#include <QStyle>
#include <QToolButton>
#include <QUrl>
#include <QVBoxLayout>

#include "panels/small_widgets.h"
#include "windows/theme.h"

namespace vitrine::app {

SecondPicture::SecondPicture(Session& session, QWidget* parent) : QFrame(parent), session_(session) {
    constexpr int kSide = 40;
    setObjectName(QStringLiteral("secondPicture"));
    setAccessibleName(tr("Second picture"));
    setAcceptDrops(true);
    auto* column = new QVBoxLayout(this);
    column->setContentsMargins(0, 0, 0, 0);
    column->setSpacing(0);
    choose_ = new QPushButton(tr("Second picture\u2026"));
    choose_->setObjectName(QStringLiteral("chooseSecond"));
    choose_->setToolTip(
        tr("A picture to compare with, for activation patching, for similarity, and for models without classes. It can "
           "be dropped here"));
    column->addWidget(choose_);
    chosen_ = new QWidget;
    chosen_->setObjectName(QStringLiteral("secondRow"));
    chosen_->setAttribute(Qt::WA_StyledBackground);
    auto* row = new QHBoxLayout(chosen_);
    row->setContentsMargins(0, 0, 0, 0);
    row->setSpacing(8);
    picture_ = new PictureBox(kSide);
    row->addWidget(picture_);
    auto* words = new QVBoxLayout;
    words->setSpacing(2);
    role_ = quiet(tr("Second picture"));
    role_->setWordWrap(false);
    name_ = new ReservedLabel(120);
    name_->setObjectName(QStringLiteral("secondName"));
    words->addStretch(1);
    words->addWidget(role_);
    words->addWidget(name_);
    words->addStretch(1);
    row->addLayout(words, 1);
    remove_ = new QToolButton;
    remove_->setObjectName(QStringLiteral("removeSecond"));
    remove_->setIconSize({14, 14});
    remove_->setToolTip(tr("Take the second picture out"));
    remove_->setAccessibleName(remove_->toolTip());
    row->addWidget(remove_);
    column->addWidget(chosen_);
    connect(choose_, &QPushButton::clicked, this, &SecondPicture::wanted);
    connect(remove_, &QToolButton::clicked, &session_, &Session::removeOther);
    for (const auto signal : {&Session::otherChanged, &Session::choiceChanged, &Session::modelChanged})
        connect(&session_, signal, this, &SecondPicture::refresh);
    restyle();
    refresh();
}

void SecondPicture::restyle() { remove_->setIcon(icon(QStringLiteral("close"))); }

void SecondPicture::refresh() {
    const auto& other = session_.other();
    // Where nothing would read it, it is not asked for.
    const auto* method = session_.methodFacts();
    setVisible(other || (method && method->may_read_other) || (session_.model() && session_.model()->classes == 0));
    choose_->setVisible(!other);
    chosen_->setVisible(other.has_value());
    picture_->setImage(other ? other->thumbnail : QImage());
    name_->setText(other ? other->name : QString());
    name_->setToolTip(other ? other->file : QString());
}

void SecondPicture::setDropping(bool dropping) {
    setProperty("dropping", dropping);
    for (QWidget* part : {static_cast<QWidget*>(this), static_cast<QWidget*>(choose_), chosen_}) {
        style()->unpolish(part);
        style()->polish(part);
    }
}

void SecondPicture::dragEnterEvent(QDragEnterEvent* event) {
    if (!event->mimeData()->hasUrls()) return;
    event->acceptProposedAction();
    setDropping(true);
}

void SecondPicture::dragLeaveEvent(QDragLeaveEvent*) { setDropping(false); }

void SecondPicture::dropEvent(QDropEvent* event) {
    setDropping(false);
    for (const auto& url : event->mimeData()->urls()) {
        if (!url.isLocalFile()) continue;
        event->acceptProposedAction();
        return session_.setOther(url.toLocalFile());
    }
}

}  // namespace vitrine::app
