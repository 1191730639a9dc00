// All steps are read at once, so that going from one to the next is immediate.
#include "ladder_player.h"

#include <QHBoxLayout>
#include <QHelpEvent>
#include <QKeyEvent>
#include <QLabel>
#include <QMetaObject>
#include <QMouseEvent>
#include <QPainter>
#include <QPainterPath>
#include <QPushButton>
#include <QToolTip>
#include <QVBoxLayout>

#include <algorithm>

#include "jobs/posted_to.h"
#include "panels/format.h"
#include "panels/small_widgets.h"
#include "windows/theme.h"

namespace vitrine::app {

// ---- the strip ------------------------------------------------------------------------------------------------------

LadderStrip::LadderStrip(QWidget* parent) : QWidget(parent) {
    setFocusPolicy(Qt::StrongFocus);
    setMouseTracking(true);
    setAccessibleName(tr("Steps from the picture to noise"));
    setSizePolicy(QSizePolicy::Expanding, QSizePolicy::Fixed);
}

int LadderStrip::heightFor(int wide) const {
    const int each = columns(wide), count = static_cast<int>(images_.size());
    const int rows = std::max(1, (count + each - 1) / each);
    return rows * (kTile + kGap) - kGap;
}

void LadderStrip::setSteps(std::vector<QImage> images, std::vector<QString> names) {
    images_ = std::move(images);
    names_ = std::move(names);
    chosen_ = std::clamp(chosen_, 0, std::max(0, static_cast<int>(images_.size()) - 1));
    setFixedHeight(heightFor(width()));
    choose(chosen_);
    update();
}

void LadderStrip::choose(int step) {
    if (step < 0 || step >= static_cast<int>(images_.size())) return;
    chosen_ = step;
    setAccessibleDescription(names_[static_cast<std::size_t>(step)]);
    update();
    Q_EMIT chose(step);
}

QRect LadderStrip::tile(int step) const {
    const int each = columns(width());
    return {step % each * (kTile + kGap), step / each * (kTile + kGap), kTile, kTile};
}

int LadderStrip::stepAt(const QPoint& position) const {
    for (int i = 0; i < static_cast<int>(images_.size()); ++i)
        if (tile(i).contains(position)) return i;
    return -1;
}

void LadderStrip::paintEvent(QPaintEvent*) {
    const auto& t = Theme::now();
    QPainter painter(this);
    painter.setRenderHint(QPainter::Antialiasing);
    painter.setRenderHint(QPainter::SmoothPixmapTransform);
    for (int i = 0; i < static_cast<int>(images_.size()); ++i) {
        const QRect box = tile(i);
        QPainterPath shape;
        shape.addRoundedRect(box, 3, 3);
        painter.save();
        painter.setClipPath(shape);
        painter.drawImage(box, images_[static_cast<std::size_t>(i)]);
        painter.restore();
        if (i != chosen_) continue;
        // Told by its frame's width too, not by colour alone.
        painter.setPen(QPen(t.accent, 2));
        painter.drawRoundedRect(QRectF(box).adjusted(1, 1, -1, -1), 3, 3);
        painter.setPen(QPen(t.panel, 1));
        painter.drawRoundedRect(QRectF(box).adjusted(2.5, 2.5, -2.5, -2.5), 2, 2);
    }
    if (hasFocus()) {
        painter.setPen(QPen(t.text, 1));
        painter.drawRoundedRect(QRectF(tile(chosen_)).adjusted(-1.5, -1.5, 1.5, 1.5), 4, 4);
    }
}

void LadderStrip::mousePressEvent(QMouseEvent* event) {
    if (const int step = stepAt(event->position().toPoint()); step >= 0) choose(step);
}

/// A drag goes through the steps as a slider does.
void LadderStrip::mouseMoveEvent(QMouseEvent* event) {
    if (!(event->buttons() & Qt::LeftButton)) return;
    if (const int step = stepAt(event->position().toPoint()); step >= 0 && step != chosen_) choose(step);
}

void LadderStrip::keyPressEvent(QKeyEvent* event) {
    const int last = static_cast<int>(images_.size()) - 1, each = columns(width());
    switch (event->key()) {
        case Qt::Key_Left:
            return choose(chosen_ - 1);
        case Qt::Key_Right:
            return choose(chosen_ + 1);
        case Qt::Key_Up:
            return choose(chosen_ - each);
        case Qt::Key_Down:
            return choose(chosen_ + each);
        case Qt::Key_Home:
            return choose(0);
        case Qt::Key_End:
            return choose(last);
        default:
            QWidget::keyPressEvent(event);
    }
}

void LadderStrip::resizeEvent(QResizeEvent*) { setFixedHeight(heightFor(width())); }

bool LadderStrip::event(QEvent* event) {
    if (event->type() == QEvent::ToolTip) {
        const auto* help = static_cast<QHelpEvent*>(event);
        if (const int step = stepAt(help->pos()); step >= 0)
            QToolTip::showText(help->globalPos(), names_[static_cast<std::size_t>(step)], this);
        else
            QToolTip::hideText();
        return true;
    }
    return QWidget::event(event);
}

// ---- the concepts ---------------------------------------------------------------------------------------------------

PlayedConcepts::PlayedConcepts(QWidget* parent) : QWidget(parent) {
    setFocusPolicy(Qt::StrongFocus);
    setMouseTracking(true);
    setAccessibleName(tr("Concepts at this step"));
    setSizePolicy(QSizePolicy::Expanding, QSizePolicy::Fixed);
    setFixedHeight(kRow * kMost);
}

void PlayedConcepts::setRows(std::vector<Row> rows) {
    rows_ = std::move(rows);
    rows_.resize(std::min(rows_.size(), static_cast<std::size_t>(kMost)));
    focused_ = std::clamp(focused_, 0, std::max(0, static_cast<int>(rows_.size()) - 1));
    QStringList words;
    for (const auto& row : rows_) words << (row.stays ? tr("%1, stayed").arg(row.title) : row.title);
    setAccessibleDescription(words.join(QStringLiteral("; ")));
    update();
}

void PlayedConcepts::paintEvent(QPaintEvent*) {
    const auto& t = Theme::now();
    QPainter painter(this);
    painter.setRenderHint(QPainter::Antialiasing);
    constexpr int kBar = 64, kNumber = 44;
    for (int i = 0; i < static_cast<int>(rows_.size()); ++i) {
        const auto& row = rows_[static_cast<std::size_t>(i)];
        const QRectF box(0, i * kRow, width(), kRow);
        if (i == hovered_ || (hasFocus() && i == focused_)) {
            painter.setPen(hasFocus() && i == focused_ ? QPen(t.accent, 1) : QPen(Qt::NoPen));
            painter.setBrush(t.hover);
            painter.drawRoundedRect(box.adjusted(0.5, 0.5, -0.5, -0.5), 4, 4);
        }
        const QPointF middle(11, box.center().y());
        painter.setPen(Qt::NoPen);
        painter.setBrush(row.stays ? t.accent : t.secondary);
        painter.drawEllipse(middle, 2.5, 2.5);
        if (row.stays) {
            painter.setBrush(Qt::NoBrush);
            painter.setPen(QPen(t.accent, 1.5));
            painter.drawEllipse(middle, 6.5, 6.5);
        }
        painter.setFont(sans(13));
        painter.setPen(t.text);
        const int room = width() - 26 - kBar - kNumber - 12;
        painter.drawText(QRectF(26, box.top(), room, kRow), Qt::AlignLeft | Qt::AlignVCenter,
                         painter.fontMetrics().elidedText(row.title, Qt::ElideRight, room));
        const QRectF track(width() - kBar - kNumber - 4, box.center().y() - 2, kBar, 4);
        painter.setPen(Qt::NoPen);
        painter.setBrush(t.faint);
        painter.drawRoundedRect(track, 2, 2);
        painter.setBrush(row.stays ? t.accent : t.secondary);
        painter.drawRoundedRect(QRectF(track.left(), track.top(), track.width() * std::clamp(row.share, 0.0, 1.0), 4),
                                2, 2);
        painter.setFont(mono(11));
        painter.setPen(t.secondary);
        painter.drawText(QRectF(width() - kNumber, box.top(), kNumber - 4, kRow), Qt::AlignRight | Qt::AlignVCenter,
                         value(row.sum));
    }
}

void PlayedConcepts::mousePressEvent(QMouseEvent* event) {
    const int at = static_cast<int>(event->position().y()) / kRow;
    if (at < 0 || at >= static_cast<int>(rows_.size())) return;
    focused_ = at;
    Q_EMIT chosen(rows_[static_cast<std::size_t>(at)].latent);
}

void PlayedConcepts::mouseMoveEvent(QMouseEvent* event) {
    const int at = static_cast<int>(event->position().y()) / kRow;
    hovered_ = at < static_cast<int>(rows_.size()) ? at : -1;
    if (hovered_ >= 0) {
        const auto& row = rows_[static_cast<std::size_t>(hovered_)];
        setToolTip(row.stays ? tr("%1: heard in the picture as it is, and at every step on the way here").arg(row.title)
                             : tr("%1: not heard all the way from the picture as it is").arg(row.title));
    }
    update();
}

void PlayedConcepts::leaveEvent(QEvent*) {
    hovered_ = -1;
    update();
}

void PlayedConcepts::keyPressEvent(QKeyEvent* event) {
    const int last = static_cast<int>(rows_.size()) - 1;
    if (last < 0) return QWidget::keyPressEvent(event);
    if (event->key() == Qt::Key_Up)
        focused_ = std::max(0, focused_ - 1);
    else if (event->key() == Qt::Key_Down)
        focused_ = std::min(last, focused_ + 1);
    else if (event->key() == Qt::Key_Return || event->key() == Qt::Key_Enter || event->key() == Qt::Key_Space)
        Q_EMIT chosen(rows_[static_cast<std::size_t>(focused_)].latent);
    else
        return QWidget::keyPressEvent(event);
    update();
}

// ---- the player -----------------------------------------------------------------------------------------------------

LadderPlayer::LadderPlayer(Session& session, ConceptGallery& gallery, QWidget* parent)
    : QWidget(parent),
      session_(session),
      gallery_(gallery),
      jobs_([] { return std::make_unique<Hands>(); }, posted_to(this)) {
    setObjectName(QStringLiteral("ladderPlayer"));
    auto* column = new QVBoxLayout(this);
    column->setContentsMargins(0, 0, 0, 0);
    column->setSpacing(8);
    column->addWidget(heading(tr("The picture on show, step by step")));
    button_ = new QPushButton(tr("Read all its steps"));
    button_->setObjectName(QStringLiteral("ladderPlay"));
    column->addWidget(button_);
    bar_ = new ThinBar;
    column->addWidget(bar_);
    trouble_words_ = new QLabel;
    trouble_words_->setProperty("role", "warning");
    trouble_words_->setWordWrap(true);
    column->addWidget(trouble_words_);
    strip_ = new LadderStrip;
    strip_->setObjectName(QStringLiteral("ladderStrip"));
    column->addWidget(strip_);
    auto* row = new QHBoxLayout;
    row->setSpacing(12);
    box_ = new PictureBox(112);
    box_->setFixedSize(112, 112);
    words_ = quiet();
    words_->setObjectName(QStringLiteral("ladderStep"));
    row->addWidget(box_);
    row->addWidget(words_, 1, Qt::AlignTop);
    column->addLayout(row);
    concepts_ = new PlayedConcepts;
    concepts_->setObjectName(QStringLiteral("ladderConcepts"));
    column->addWidget(concepts_);
    connect(button_, &QPushButton::clicked, this, &LadderPlayer::play);
    connect(strip_, &LadderStrip::chose, this, &LadderPlayer::showStep);
    connect(concepts_, &PlayedConcepts::chosen, this, &LadderPlayer::conceptWanted);
    connect(&session_, &Session::modelChanged, this, &LadderPlayer::forget);
    connect(&session_, &Session::pictureChanged, this, [this] {
        // Who has one before them goes on with the next.
        const bool again = !steps_.empty() && isVisible();
        forget();
        if (again) play();
    });
    connect(&gallery_, &ConceptGallery::changed, this, [this] {
        if ((playing_ || !steps_.empty() || !trouble_.isEmpty()) && of_ != source()) forget();
        refresh();
    });
    connect(&gallery_, &ConceptGallery::listChanged, this, [this] {
        if (!steps_.empty()) showStep();
    });
    refresh();
}

LadderPlayer::~LadderPlayer() {
    stop_.request_stop();
    jobs_.finish();
}

void LadderPlayer::restyle() {
    strip_->update();
    concepts_->update();
}

QString LadderPlayer::whyNot() const {
    if (!session_.model()) return tr("Open a model first");
    if (gallery_.autoencoder().isEmpty()) return tr("Choose an autoencoder in the Concepts panel first");
    if (!session_.picture() || session_.picture()->file.empty()) return tr("Open a picture from a file first");
    return {};
}

ConceptSource LadderPlayer::source() const { return {gallery_.autoencoder().toStdString(), gallery_.given()}; }

void LadderPlayer::forget() {
    stop_.request_stop();
    jobs_.cancel("play");
    playing_ = false;
    steps_.clear();
    images_.clear();
    trouble_.clear();
    refresh();
}

void LadderPlayer::play() {
    if (!whyNot().isEmpty() || playing_) return;
    playing_ = true;
    trouble_.clear();
    stop_ = std::stop_source();
    of_ = source();
    jobs_.post(
        {.tag = "play"},
        [model = session_.model()->request, concepts = of_, picture = session_.picture()->file, stop = stop_](
            Hands&, JobControl&) { return play_ladder(model, concepts, picture, stop.get_token()); },
        [this](Result<std::vector<PlayedStep>> steps) {
            playing_ = false;
            if (steps) {
                steps_ = std::move(*steps);
            } else {
                steps_.clear();
                trouble_ = QString::fromStdString(steps.error().message);
                if (!trouble_.isEmpty()) trouble_[0] = trouble_[0].toUpper();
            }
            images_.clear();
            std::vector<QString> names;
            most_ = 0;
            for (const auto& step : steps_) {
                images_.push_back(QImage(step.rgb.data(), static_cast<int>(step.width), static_cast<int>(step.height),
                                         static_cast<qsizetype>(step.width) * 3, QImage::Format_RGB888)
                                      .copy());
                names.push_back(QString::fromStdString(step.rung));
                if (!step.concepts.empty()) most_ = std::max(most_, step.concepts.front().sum);
            }
            strip_->setSteps(images_, names);
            refresh();
        });
    refresh();
}

void LadderPlayer::refresh() {
    const auto why_not = whyNot();
    button_->setVisible(steps_.empty());
    button_->setEnabled(why_not.isEmpty() && !playing_);
    button_->setToolTip(why_not);
    bar_->setProgress(playing_, -1);
    bar_->setVisible(playing_);
    trouble_words_->setText(breakable(trouble_));
    trouble_words_->setVisible(!trouble_.isEmpty());
    for (QWidget* one : {static_cast<QWidget*>(strip_), static_cast<QWidget*>(box_), static_cast<QWidget*>(words_),
                         static_cast<QWidget*>(concepts_)})
        one->setVisible(!steps_.empty());
}

void LadderPlayer::showStep() {
    const auto at = static_cast<std::size_t>(strip_->chosen());
    if (at >= steps_.size()) return;
    const auto& step = steps_[at];
    box_->setImage(images_[at]);
    words_->setText(tr("%1\n%2 concepts are heard; %3 of them stayed since the picture as it is: they have a ring")
                        .arg(QString::fromStdString(step.rung), count(step.heard), count(step.stay)));
    std::vector<PlayedConcepts::Row> rows;
    for (const auto& one : step.concepts)
        rows.push_back({one.latent, gallery_.titleOf(one.latent), most_ > 0 ? one.sum / most_ : 0, one.sum, one.stays});
    concepts_->setRows(std::move(rows));
}

}  // namespace vitrine::app
