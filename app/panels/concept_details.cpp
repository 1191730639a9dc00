// Filled from the index when a concept is chosen; names are written as soon as a line is left.
#include "concept_details.h"

#include <QGridLayout>
#include <QHBoxLayout>
#include <QHelpEvent>
#include <QLabel>
#include <QLineEdit>
#include <QPainter>
#include <QPushButton>
#include <QToolButton>
#include <QToolTip>
#include <QVBoxLayout>

#include <algorithm>
#include <cmath>

#include "panels/concept_grid.h"
#include "panels/format.h"
#include "panels/small_widgets.h"
#include "windows/theme.h"

namespace vitrine::app {
namespace {

constexpr int kPicture = 84, kGap = 4;

QString figure_words(float v) { return std::isfinite(v) ? value(static_cast<double>(v)) : QStringLiteral("–"); }

/// A button that never asks for more width than there is.
class NarrowButton : public QPushButton {
  public:
    explicit NarrowButton(const QString& words) : whole_(words) {
        setToolTip(words);
        setAccessibleName(words);
    }
    QSize sizeHint() const override { return {120, 28}; }
    QSize minimumSizeHint() const override { return {60, 28}; }

  protected:
    void resizeEvent(QResizeEvent* event) override {
        QPushButton::resizeEvent(event);
        setText(fontMetrics().elidedText(whole_, Qt::ElideRight, width() - 28));
    }

  private:
    QString whole_;
};

}  // namespace

// ---- histogram ------------------------------------------------------------------------------------------------------

ConceptHistogram::ConceptHistogram(QWidget* parent) : QWidget(parent) {
    setSizePolicy(QSizePolicy::Expanding, QSizePolicy::Fixed);
    setAccessibleName(tr("Pictures by the concept's greatest value"));
    setToolTip(tr("How many pictures have their greatest value here"));
}

void ConceptHistogram::setBins(std::span<const std::uint32_t> bins) {
    bins_.assign(bins.begin(), bins.end());
    update();
}

void ConceptHistogram::paintEvent(QPaintEvent*) {
    const auto& t = Theme::now();
    QPainter painter(this);
    painter.setFont(mono(11));
    const auto last_full = std::find_if(bins_.rbegin(), bins_.rend(), [](auto n) { return n > 0; });
    if (last_full == bins_.rend()) return;
    // The bins that say something, with one to spare on either side.
    const auto first = std::max<std::ptrdiff_t>(
        0, std::find_if(bins_.begin(), bins_.end(), [](auto n) { return n > 0; }) - bins_.begin() - 1);
    const auto last = std::min<std::ptrdiff_t>(static_cast<std::ptrdiff_t>(bins_.size()), bins_.rend() - last_full + 1);
    const auto most = *std::max_element(bins_.begin(), bins_.end());
    const QRectF box(0, 4, width(), height() - 22);
    const double wide = box.width() / static_cast<double>(last - first);
    for (auto i = first; i < last; ++i) {
        const auto n = bins_[static_cast<std::size_t>(i)];
        if (n == 0) continue;
        const double high = std::max(1.0, box.height() * n / most);
        painter.fillRect(
            QRectF(static_cast<double>(i - first) * wide, box.bottom() - high, std::max(1.0, wide - 1), high),
            t.accent);
    }
    painter.setPen(t.line);
    painter.drawLine(box.bottomLeft(), box.bottomRight());
    painter.setPen(t.secondary);
    const QRectF words(0, box.bottom() + 3, width(), 15);
    painter.drawText(words, Qt::AlignLeft, value(ConceptIndex::bin_edge(first)));
    painter.drawText(words, Qt::AlignRight, value(ConceptIndex::bin_edge(last)));
}

// ---- pictures -------------------------------------------------------------------------------------------------------

ConceptPictures::ConceptPictures(Session& session, ConceptGallery& gallery, QWidget* parent)
    : QWidget(parent), session_(session), gallery_(gallery) {
    QSizePolicy policy(QSizePolicy::Expanding, QSizePolicy::Fixed);
    policy.setHeightForWidth(true);
    setSizePolicy(policy);
    setMouseTracking(true);
    setAccessibleName(tr("Pictures in which it is strongest"));
    connect(&gallery, &ConceptGallery::picturesChanged, this, qOverload<>(&QWidget::update));
}

int ConceptPictures::columns(int width) const { return std::max(1, (width + kGap) / (kPicture + kGap)); }

int ConceptPictures::heightForWidth(int width) const {
    const int count = static_cast<int>(gallery_.tops(gallery_.selected()).size()), across = columns(width);
    return (count + across - 1) / across * (kPicture + kGap);
}

QRect ConceptPictures::boxAt(int index) const {
    const int across = columns(width());
    return {index % across * (kPicture + kGap), index / across * (kPicture + kGap), kPicture, kPicture};
}

int ConceptPictures::indexAt(const QPoint& at) const {
    const int count = static_cast<int>(gallery_.tops(gallery_.selected()).size());
    for (int i = 0; i < count; ++i)
        if (boxAt(i).contains(at)) return i;
    return -1;
}

void ConceptPictures::paintEvent(QPaintEvent* event) {
    if (gallery_.selected() < 0) return;
    QPainter painter(this);
    painter.setRenderHints(QPainter::Antialiasing | QPainter::SmoothPixmapTransform);
    const auto tops = gallery_.tops(gallery_.selected());
    for (int i = 0; i < static_cast<int>(tops.size()); ++i) {
        if (!boxAt(i).intersects(event->rect())) continue;
        const auto& top = tops[static_cast<std::size_t>(i)];
        const auto* crop = gallery_.crop(top, true);
        paintCrop(painter, boxAt(i), crop, crop && !crop->image.isNull() ? gallery_.heat(top.picture) : nullptr);
    }
}

bool ConceptPictures::event(QEvent* event) {
    if (event->type() == QEvent::ToolTip) {
        auto* help = static_cast<QHelpEvent*>(event);
        const int at = indexAt(help->pos());
        if (at < 0) {
            QToolTip::hideText();
            return true;
        }
        const auto top = gallery_.tops(gallery_.selected())[static_cast<std::size_t>(at)];
        const auto picture = gallery_.index()->picture(top.picture);
        QStringList lines{gallery_.pictureName(top.picture)};
        if (const auto* crop = gallery_.crop(top, true); crop && crop->image.isNull()) lines << crop->trouble;
        lines << tr("Value %1").arg(value(static_cast<double>(top.value)));
        if (picture.answer >= 0)
            lines << tr("Answered %1, %2")
                         .arg(session_.className(picture.answer), percent(static_cast<double>(picture.probability)));
        QToolTip::showText(help->globalPos(), lines.join(QLatin1Char('\n')), this);
        return true;
    }
    return QWidget::event(event);
}

void ConceptPictures::mouseMoveEvent(QMouseEvent* event) {
    setCursor(indexAt(event->pos()) >= 0 ? Qt::PointingHandCursor : Qt::ArrowCursor);
}

void ConceptPictures::mouseReleaseEvent(QMouseEvent* event) {
    const int at = indexAt(event->pos());
    if (at < 0 || event->button() != Qt::LeftButton) return;
    const auto top = gallery_.tops(gallery_.selected())[static_cast<std::size_t>(at)];
    const auto* crop = gallery_.crop(top, true);
    if (!crop || crop->image.isNull()) return;
    gallery_.setOpen(false);
    session_.openPaths({gallery_.pictureFile(top.picture)});
}

// ---- the pane -------------------------------------------------------------------------------------------------------

ConceptDetails::ConceptDetails(Session& session, ConceptGallery& gallery, QWidget* parent)
    : QWidget(parent), session_(session), gallery_(gallery) {
    setObjectName(QStringLiteral("conceptDetails"));
    auto* column = new QVBoxLayout(this);
    column->setContentsMargins(16, 12, 16, 16);
    column->setSpacing(8);
    auto* top = new QHBoxLayout;
    number_ = heading({});
    top->addWidget(number_);
    top->addStretch(1);
    close_ = new QToolButton;
    close_->setObjectName(QStringLiteral("closeConcept"));
    close_->setIconSize({12, 12});
    close_->setToolTip(tr("Back to all concepts"));
    close_->setAccessibleName(tr("Back to all concepts"));
    top->addWidget(close_);
    column->addLayout(top);
    name_ = new QLineEdit;
    name_->setObjectName(QStringLiteral("conceptName"));
    name_->setPlaceholderText(tr("Name this concept"));
    name_->setAccessibleName(tr("Name"));
    column->addWidget(name_);
    tags_ = new QLineEdit;
    tags_->setObjectName(QStringLiteral("conceptTags"));
    tags_->setPlaceholderText(tr("Tags, with commas between"));
    tags_->setAccessibleName(tr("Tags"));
    column->addWidget(tags_);
    auto* ways = new QHBoxLayout;
    ways->setSpacing(8);
    const auto way = [&](const QString& words, const QString& tip, const char* name) {
        auto* made = new QPushButton(words);
        made->setObjectName(QLatin1String(name));
        made->setToolTip(tip);
        ways->addWidget(made, 1);
        return made;
    };
    on_picture_ = way(tr("On the picture"), tr("Shows where it is on the open picture"), "conceptOnPicture");
    near_ = way(tr("What is near"), tr("Lists this concept and its neighbours"), "conceptNear");
    column->addLayout(ways);
    trouble_ = new QLabel;
    trouble_->setObjectName(QStringLiteral("conceptNamesTrouble"));
    trouble_->setProperty("role", "warning");
    trouble_->setWordWrap(true);
    trouble_->setTextInteractionFlags(Qt::TextSelectableByMouse);
    column->addWidget(trouble_);

    pictures_words_ = heading(tr("Strongest here"));
    column->addWidget(pictures_words_);
    pictures_ = new ConceptPictures(session, gallery);
    column->addWidget(pictures_);
    column->addWidget(heading(tr("Figures")));
    figures_ = new QGridLayout;
    figures_->setHorizontalSpacing(12);
    figures_->setVerticalSpacing(4);
    figures_->setColumnStretch(0, 1);
    column->addLayout(figures_);
    histogram_words_ = heading(tr("Greatest value of each picture"));
    column->addWidget(histogram_words_);
    histogram_ = new ConceptHistogram;
    column->addWidget(histogram_);
    column->addWidget(heading(tr("Near to it")));
    neighbours_ = new QVBoxLayout;
    neighbours_->setSpacing(4);
    column->addLayout(neighbours_);
    column->addStretch(1);

    connect(close_, &QToolButton::clicked, this, &ConceptDetails::closed);
    connect(on_picture_, &QPushButton::clicked, this, [this] { Q_EMIT onPictureWanted(of_); });
    connect(&session, &Session::pictureChanged, this,
            [this] { on_picture_->setEnabled(session_.picture().has_value()); });
    connect(near_, &QPushButton::clicked, this, [this] { Q_EMIT nearWanted(of_); });
    for (auto* line : {name_, tags_}) connect(line, &QLineEdit::editingFinished, this, &ConceptDetails::callNow);
    connect(&gallery, &ConceptGallery::selectedChanged, this, &ConceptDetails::refresh);
    connect(&gallery, &ConceptGallery::listChanged, this, &ConceptDetails::fill);
    restyle();
}

void ConceptDetails::restyle() {
    close_->setIcon(icon(QStringLiteral("close")));
    update();
}

void ConceptDetails::callNow() {
    if (of_ < 0) return;
    const auto tags = tags_->text().split(QLatin1Char(','), Qt::SkipEmptyParts);
    QStringList plain;
    for (const auto& tag : tags)
        if (!tag.simplified().isEmpty()) plain << tag.simplified();
    plain.removeDuplicates();
    plain.sort();
    auto before = gallery_.tagsOf(of_);
    before.sort();
    if (name_->text().simplified() == gallery_.nameOf(of_) && plain == before) return;
    gallery_.call(of_, name_->text(), plain);
}

void ConceptDetails::fill() {
    if (of_ < 0) return;
    // What is being typed is left alone.
    if (!name_->hasFocus()) name_->setText(gallery_.nameOf(of_));
    if (!tags_->hasFocus()) tags_->setText(gallery_.tagsOf(of_).join(QStringLiteral(", ")));
    trouble_->setText(breakable(gallery_.namesTrouble()));
    trouble_->setVisible(!gallery_.namesTrouble().isEmpty());
}

void ConceptDetails::refresh() {
    if (of_ != gallery_.selected()) callNow();  // of the one before
    of_ = gallery_.selected();
    if (of_ < 0 || !gallery_.index()) return;
    number_->setText(tr("Concept %1").arg(count(of_)));
    name_->clearFocus();
    tags_->clearFocus();
    fill();
    const auto tops = gallery_.tops(of_);
    // The codes of k_means are all 1: what counts there is how close a patch is to the centre.
    const bool close = gallery_.index()->fact("value") == "closeness";
    pictures_words_->setText(tops.empty() ? tr("It is silent on all these pictures")
                             : close      ? tr("Closest to its centre")
                                          : tr("Strongest here"));
    histogram_words_->setText(close ? tr("Closest patch of each picture") : tr("Greatest value of each picture"));
    const auto closeness = tr("How close a patch is to the centre: 1 in it, towards 0 far from it. ");
    pictures_->updateGeometry();
    pictures_->update();
    clearLayout(figures_);
    const struct {
        QString name, figure, tip;
    } rows[] = {
        {tr("Patches"), share_words(gallery_.figure("frequency", of_)), tr("Share in which it speaks")},
        {tr("Pictures"), share_words(gallery_.figure("picture_frequency", of_)), tr("Share with such a patch")},
        {tr("Class token"), share_words(gallery_.figure("class_frequency", of_)),
         tr("Share of pictures in whose class token it speaks")},
        {tr("Mean"), figure_words(gallery_.figure("mean", of_)),
         (close ? closeness : QString()) + tr("Over the patches in which it speaks")},
        {tr("Greatest"), figure_words(gallery_.figure("maximum", of_)),
         (close ? closeness : QString()) + tr("Over all patches")},
        {tr("Effect on the answer"), figure_words(gallery_.figure("effect", of_)),
         tr("What the logit of the pictures' own answers loses without it, to first order, over its top pictures. "
            "Above "
            "0: it speaks for them")},
        {tr("Alike pictures"), figure_words(gallery_.figure("monosemanticity", of_)),
         tr("How alike its top pictures are to the model (monosemanticity): 1 all alike, 0 no more than any two")},
        {tr("In one place"), figure_words(gallery_.figure("localisation", of_)),
         tr("Moran's I over the patches of its top pictures (localisation): 1 one blob, about 0 scattered")}};
    int row = 0;
    for (const auto& one : rows) {
        auto* name = quiet(one.name);
        name->setWordWrap(false);
        auto* figure = new QLabel(one.figure);
        figure->setFont(mono(11));
        figure->setAlignment(Qt::AlignRight);
        for (auto* label : {name, figure}) label->setToolTip(one.tip);
        figure->setAccessibleName(one.name);
        figures_->addWidget(name, row, 0);
        figures_->addWidget(figure, row++, 1);
    }
    histogram_->setBins(gallery_.index()->histogram(of_));
    histogram_->setVisible(!tops.empty());
    histogram_words_->setVisible(!tops.empty());
    clearLayout(neighbours_);
    const auto near = gallery_.index()->neighbours(of_);
    near_->setEnabled(!near.empty());
    for (const auto& one : near) {
        auto* button = new NarrowButton(
            QStringLiteral("%1  %2").arg(QString::number(one.cosine, 'f', 2), gallery_.titleOf(one.latent)));
        button->setObjectName(QStringLiteral("neighbour"));
        button->setProperty("latent", static_cast<qlonglong>(one.latent));
        // Queued: the button itself goes when another concept is shown.
        connect(
            button, &QPushButton::clicked, this, [this, latent = one.latent] { gallery_.select(latent); },
            Qt::QueuedConnection);
        neighbours_->addWidget(button);
    }
    if (near.empty()) neighbours_->addWidget(quiet(tr("None is known")));
}

}  // namespace vitrine::app
