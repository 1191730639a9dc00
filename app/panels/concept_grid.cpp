// A delegate paints each cell; asking for a crop that is not there sets its decoding in motion.
#include "concept_grid.h"

#include <QPainter>
#include <QPainterPath>
#include <QScrollBar>
#include <QStyledItemDelegate>

#include <algorithm>
#include <cmath>

#include <vitrine/viz/scene.h>

#include "panels/format.h"
#include "windows/theme.h"

namespace vitrine::app {
namespace {

constexpr int kCrop = 70, kGap = 4, kInset = 8, kWords = 40, kSpace = 8, kAcross = 2;
constexpr int kCellWidth = 2 * kInset + kAcross * kCrop + (kAcross - 1) * kGap;
constexpr int kCellHeight = kInset + kAcross * kCrop + (kAcross - 1) * kGap + kWords + 4;

class CellDelegate : public QStyledItemDelegate {
  public:
    CellDelegate(ConceptGallery& gallery, QObject* parent) : QStyledItemDelegate(parent), gallery_(gallery) {}
    QSize sizeHint(const QStyleOptionViewItem&, const QModelIndex&) const override {
        return {kCellWidth + kSpace, kCellHeight + kSpace};
    }

    void paint(QPainter* painter, const QStyleOptionViewItem& option, const QModelIndex& index) const override {
        const auto at = static_cast<std::size_t>(index.row());
        if (at >= gallery_.shown().size()) return;
        const std::int64_t latent = gallery_.shown()[at];
        const auto& t = Theme::now();
        painter->save();
        painter->setRenderHints(QPainter::Antialiasing | QPainter::SmoothPixmapTransform);
        const QRectF cell(option.rect.x() + kSpace / 2 + 0.5, option.rect.y() + kSpace / 2 + 0.5, kCellWidth - 1,
                          kCellHeight - 1);
        QPainterPath round;
        round.addRoundedRect(cell, 6, 6);
        const bool chosen = latent == gallery_.selected(), under = option.state & QStyle::State_MouseOver;
        painter->fillPath(round, under ? t.hover : t.raised);
        const bool focus = option.state & QStyle::State_HasFocus;
        painter->strokePath(round, QPen(chosen || focus ? t.accent : t.line, chosen ? 2 : 1));
        const auto tops = gallery_.tops(latent);
        const QPointF first = cell.topLeft() + QPointF(kInset, kInset);
        for (int i = 0; i < kAcross * kAcross; ++i) {
            const QRectF box(first + QPointF(i % kAcross * (kCrop + kGap), i / kAcross * (kCrop + kGap)),
                             QSizeF(kCrop, kCrop));
            if (static_cast<std::size_t>(i) < tops.size())
                paintCrop(*painter, box, gallery_.crop(tops[static_cast<std::size_t>(i)]));
        }
        if (tops.empty()) {
            painter->setFont(sans(11));
            painter->setPen(t.secondary);
            painter->drawText(QRectF(first, QSizeF(kCellWidth - 2 * kInset, 2 * kCrop + kGap)),
                              Qt::AlignCenter | Qt::TextWordWrap, ConceptGrid::tr("Silent on all these pictures"));
        }
        const bool named = !gallery_.nameOf(latent).isEmpty();
        const QRectF words(first.x(), cell.bottom() - kWords, kCellWidth - 2 * kInset, kWords - 4);
        painter->setFont(sans(13, named));
        painter->setPen(named ? t.text : t.secondary);
        painter->drawText(words, Qt::AlignLeft | Qt::AlignTop,
                          painter->fontMetrics().elidedText(gallery_.titleOf(latent), Qt::ElideRight,
                                                            static_cast<int>(words.width())));
        painter->setFont(mono(11));
        painter->setPen(t.secondary);
        painter->drawText(words, Qt::AlignLeft | Qt::AlignBottom, QString::number(latent));
        painter->drawText(words, Qt::AlignRight | Qt::AlignBottom, share_words(gallery_.figure("frequency", latent)));
        painter->restore();
    }

  private:
    ConceptGallery& gallery_;
};

}  // namespace

QString share_words(float share) {
    if (!std::isfinite(share)) return QStringLiteral("–");
    if (share == 0) return QStringLiteral("0 %");
    const double p = 100.0 * static_cast<double>(share);
    return (p < 0.001 ? QStringLiteral("< 0.001")
                      : QString::number(p, 'f',
                                        p < 0.01   ? 3
                                        : p < 0.1  ? 2
                                        : p < 9.95 ? 1
                                                   : 0)) +
           QStringLiteral(" %");
}

namespace {

void paintPicture(QPainter& painter, const QRectF& box, const ConceptCrop* crop, const Plane* heat) {
    QPainterPath round;
    round.addRoundedRect(box, 4, 4);
    painter.save();
    painter.setClipPath(round);
    // Filled, cut at the edges, as the strip of pictures.
    const auto size = QSizeF(crop->image.size()).scaled(box.size(), Qt::KeepAspectRatioByExpanding);
    const QRectF whole(box.center().x() - size.width() / 2, box.center().y() - size.height() / 2, size.width(),
                       size.height());
    painter.drawImage(whole, crop->image);
    const QRectF patch(whole.x() + crop->patch.x() * whole.width(), whole.y() + crop->patch.y() * whole.height(),
                       crop->patch.width() * whole.width(), crop->patch.height() * whole.height());
    if (heat && heat->high > 0) {
        QImage colours(static_cast<int>(heat->cols), static_cast<int>(heat->rows), QImage::Format_ARGB32);
        for (int y = 0; y < colours.height(); ++y)
            for (int x = 0; x < colours.width(); ++x) {
                const float share = std::clamp(heat->at(y, x) / heat->high, 0.0f, 1.0f);
                const auto c = viz::colour_at(viz::ColourMap::Viridis, static_cast<double>(share));
                colours.setPixel(x, y, qRgba(c.r, c.g, c.b, static_cast<int>(200 * share)));
            }
        painter.setRenderHint(QPainter::SmoothPixmapTransform, false);
        painter.drawImage(whole, colours);
    } else if (!crop->patch.isEmpty()) {
        QPainterPath rest;
        rest.addRect(box);
        rest.addRect(patch);
        rest.setFillRule(Qt::OddEvenFill);
        painter.fillPath(rest, QColor(0, 0, 0, 72));
    }
    if (!crop->patch.isEmpty()) {
        painter.setPen(QPen(QColor(255, 255, 255, 200), 1));
        painter.setBrush(Qt::NoBrush);
        painter.drawRect(patch);
    }
    painter.restore();
}

}  // namespace

void paintCrop(QPainter& painter, const QRectF& box, const ConceptCrop* crop, const Plane* heat) {
    if (!crop || crop->image.isNull()) {
        const auto& t = Theme::now();
        QPainterPath round;
        round.addRoundedRect(box, 4, 4);
        painter.fillPath(round, t.faint);
        if (crop)
            painter.drawPixmap(box.center() - QPointF(10, 10), iconPixmap(QStringLiteral("warning"), t.warning, 20,
                                                                          painter.device()->devicePixelRatio()));
        return;
    }
    if (heat) return paintPicture(painter, box, crop, heat);
    // Scaling and clipping take a quarter of a millisecond each, a copy of pixels next to nothing.
    const double ratio = painter.device()->devicePixelRatioF();
    const auto size = (box.size() * ratio).toSize();
    if (crop->face.size() != size) {
        crop->face = QImage(size, QImage::Format_ARGB32_Premultiplied);
        crop->face.fill(Qt::transparent);
        crop->face.setDevicePixelRatio(ratio);
        QPainter once(&crop->face);
        once.setRenderHints(QPainter::Antialiasing | QPainter::SmoothPixmapTransform);
        paintPicture(once, QRectF(QPointF(), box.size()), crop, nullptr);
    }
    painter.drawImage(QPointF(std::round(box.x() * ratio) / ratio, std::round(box.y() * ratio) / ratio), crop->face);
}

ConceptCells::ConceptCells(ConceptGallery& gallery, QObject* parent) : QAbstractListModel(parent), gallery_(gallery) {
    connect(&gallery, &ConceptGallery::listChanged, this, [this] { beginResetModel(), endResetModel(); });
}

int ConceptCells::rowCount(const QModelIndex& parent) const {
    return parent.isValid() ? 0 : static_cast<int>(gallery_.shown().size());
}

QVariant ConceptCells::data(const QModelIndex& index, int role) const {
    const auto at = static_cast<std::size_t>(index.row());
    if (at >= gallery_.shown().size()) return {};
    const std::int64_t latent = gallery_.shown()[at];
    if (role == Qt::AccessibleTextRole) return gallery_.titleOf(latent);
    if (role == Qt::ToolTipRole) {
        QStringList lines{gallery_.titleOf(latent).toHtmlEscaped()};
        if (const auto tags = gallery_.tagsOf(latent); !tags.isEmpty())
            lines << tags.join(QStringLiteral(", ")).toHtmlEscaped();
        lines
            << tr("Number %1, in %2 of the patches").arg(latent).arg(share_words(gallery_.figure("frequency", latent)));
        return QStringLiteral("<p>%1</p>").arg(lines.join(QStringLiteral("<br>")));
    }
    return {};
}

ConceptGrid::ConceptGrid(ConceptGallery& gallery, QWidget* parent) : QListView(parent), gallery_(gallery) {
    setObjectName(QStringLiteral("conceptGrid"));
    setAccessibleName(tr("Concepts"));
    setModel(new ConceptCells(gallery, this));
    setItemDelegate(new CellDelegate(gallery, this));
    setViewMode(IconMode);
    setResizeMode(Adjust);
    setMovement(Static);
    setUniformItemSizes(true);
    setMouseTracking(true);
    setVerticalScrollMode(ScrollPerPixel);
    verticalScrollBar()->setSingleStep(48);
    setHorizontalScrollBarPolicy(Qt::ScrollBarAlwaysOff);
    setFrameShape(NoFrame);
    connect(&gallery, &ConceptGallery::picturesChanged, viewport(), qOverload<>(&QWidget::update));
    connect(&gallery, &ConceptGallery::selectedChanged, viewport(), qOverload<>(&QWidget::update));
    connect(this, &QListView::clicked, this, [this](const QModelIndex& index) {
        gallery_.select(gallery_.shown()[static_cast<std::size_t>(index.row())]);
        Q_EMIT detailsWanted();
    });
    connect(this, &QListView::activated, this, [this](const QModelIndex& index) {
        gallery_.select(gallery_.shown()[static_cast<std::size_t>(index.row())]);
        Q_EMIT detailsWanted();
    });
}

void ConceptGrid::showSelected() {
    const auto& shown = gallery_.shown();
    const auto found = std::find(shown.begin(), shown.end(), static_cast<std::uint32_t>(gallery_.selected()));
    if (gallery_.selected() < 0 || found == shown.end()) return;
    const auto index = model()->index(static_cast<int>(found - shown.begin()), 0);
    setCurrentIndex(index);
    scrollTo(index);
}

}  // namespace vitrine::app
