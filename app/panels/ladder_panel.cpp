// Set up above, plotted below; what was plotted stays until a new climb says more.
#include "ladder_panel.h"

#include <QComboBox>
#include <QFileInfo>
#include <QHBoxLayout>
#include <QLabel>
#include <QMetaObject>
#include <QMouseEvent>
#include <QPainter>
#include <QPainterPath>
#include <QPushButton>
#include <QSignalBlocker>
#include <QSpinBox>
#include <QVBoxLayout>

#include <algorithm>
#include <cmath>

#include "panels/format.h"
#include "panels/small_widgets.h"
#include "panels/train_panel.h"
#include "windows/theme.h"

namespace vitrine::app {
namespace {

constexpr int kLeft = 40, kRight = 8, kAbove = 24, kBelow = 20, kBetween = 20;
constexpr double kEnoughVariance = 0.5;

QString text(const std::string& utf8) { return QString::fromStdString(utf8); }

QString sentence(const std::string& utf8) {
    auto out = text(utf8);
    if (!out.isEmpty()) out[0] = out[0].toUpper();
    return out;
}

}  // namespace

// ---- the plot -------------------------------------------------------------------------------------------------------

LadderPlot::LadderPlot(QWidget* parent) : QWidget(parent) {
    setMouseTracking(true);
    setSizePolicy(QSizePolicy::Expanding, QSizePolicy::Fixed);
    setAccessibleName(tr("Concepts from signal to noise"));
}

void LadderPlot::setFacts(const LadderFacts* facts, const QString& tokens, bool distinct) {
    rungs_.clear();
    lines_.clear();
    distinct_ = distinct;
    hovered_ = -1;
    if (facts) {
        for (const auto& rung : facts->rungs) rungs_.push_back(text(rung));
        for (const auto& series : facts->series)
            if (text(series.tokens) == tokens && series.points.size() == rungs_.size())
                lines_.push_back({series.control, series.points});
    }
    update();
}

double LadderPlot::xOf(std::size_t rung) const {
    const double wide = width() - kLeft - kRight;
    return kLeft +
           wide * (static_cast<double>(rung) + 0.5) / static_cast<double>(std::max<std::size_t>(rungs_.size(), 1));
}

void LadderPlot::paintEvent(QPaintEvent*) {
    const auto& t = Theme::now();
    QPainter painter(this);
    painter.setRenderHint(QPainter::Antialiasing);
    painter.setFont(sans(11));
    if (lines_.empty()) {
        QPainterPath frame;
        frame.addRoundedRect(QRectF(rect()).adjusted(0.5, 0.5, -0.5, -0.5), 6, 6);
        painter.strokePath(frame, QPen(t.line));
        painter.setPen(t.secondary);
        painter.drawText(rect().adjusted(24, 12, -24, -12), Qt::AlignCenter | Qt::TextWordWrap,
                         tr("How many concepts speak at each step from the picture to noise is drawn here"));
        return;
    }
    const int usable = height() - kAbove - kBetween - kBelow;
    const QRectF upper(kLeft, kAbove, width() - kLeft - kRight, usable * 0.66);
    const QRectF lower(kLeft, upper.bottom() + kBetween, upper.width(), usable * 0.34);
    double most = 0, least = INFINITY;
    for (const auto& line : lines_)
        for (const auto& point : line.points) {
            const auto& e = figureOf(point);
            for (const double v : {e.mean, e.high})
                if (std::isfinite(v)) most = std::max(most, v);
            if (e.mean > 0) least = std::min(least, e.mean);
        }
    if (!(most > 0)) most = 1;
    // The shuffled model often says ten times as much: then both are read on a logarithmic scale.
    const bool logarithmic = std::isfinite(least) && most > 5 * least;
    std::vector<double> ticks;
    double low = 0;
    if (logarithmic) {
        low = std::pow(10.0, std::floor(std::log10(least)));
        most = std::pow(10.0, std::ceil(std::log10(most)));
        for (double v = low; v <= most * 1.001; v *= 10) ticks.push_back(v);
    } else {
        const double power = std::pow(10.0, std::floor(std::log10(most / 3)));
        const double step = most / 3 / power > 5 ? 10 * power : most / 3 / power > 2 ? 5 * power : 2 * power;
        most = step * std::ceil(most / step - 1e-9);
        for (double v = 0; v <= most * 1.001; v += step) ticks.push_back(v);
    }
    const auto yOf = [&](double v) {
        const double share = logarithmic ? std::log(std::max(v, low) / low) / std::log(most / low) : v / most;
        return upper.bottom() - upper.height() * std::clamp(share, 0.0, 1.0);
    };
    const auto yOfShare = [&](double v) { return lower.bottom() - lower.height() * std::clamp(v, 0.0, 1.0); };
    painter.setFont(mono(11));
    const auto tick = [&](double y, const QString& words) {
        y = std::round(y) + 0.5;
        painter.setPen(t.line);
        painter.drawLine(QPointF(kLeft, y), QPointF(width() - kRight, y));
        painter.setPen(t.secondary);
        painter.drawText(QRectF(0, y - 8, kLeft - 6, 16), Qt::AlignRight | Qt::AlignVCenter, words);
    };
    for (const double v : ticks) tick(yOf(v), QString::number(v, 'g', 4));
    for (const double share : {0.0, kEnoughVariance, 1.0})
        tick(yOfShare(share), QString::number(100 * share) + QLatin1Char('%'));
    painter.setFont(sans(11));
    painter.setPen(t.secondary);
    painter.drawText(QRectF(kLeft, upper.bottom() + 2, upper.width(), kBetween - 2), Qt::AlignLeft | Qt::AlignVCenter,
                     tr("explained variance"));
    if (hovered_ >= 0) {
        painter.setPen(t.secondary);
        const double x = std::round(xOf(static_cast<std::size_t>(hovered_))) + 0.5;
        painter.drawLine(QPointF(x, upper.top()), QPointF(x, lower.bottom()));
        painter.drawText(QRectF(kLeft, height() - kBelow + 2, upper.width(), kBelow - 2), Qt::AlignCenter,
                         rungs_[static_cast<std::size_t>(hovered_)]);
    } else {
        painter.drawText(QRectF(kLeft, height() - kBelow + 2, upper.width(), kBelow - 2), Qt::AlignLeft,
                         rungs_.front());
        painter.drawText(QRectF(kLeft, height() - kBelow + 2, upper.width(), kBelow - 2), Qt::AlignRight,
                         rungs_.back());
    }
    int legend = kLeft;
    for (const auto& line : lines_) {
        const QColor colour = line.control ? t.secondary : t.accent;
        QPen pen(colour, line.control ? 1.5 : 2);
        if (line.control) pen.setDashPattern({4, 3});
        QPolygonF means, shares;
        // A hollow point: too little of the tokens is explained to be read.
        for (std::size_t i = 0; i < line.points.size(); ++i) {
            const auto& point = line.points[i];
            const auto& e = figureOf(point);
            if (!std::isfinite(e.mean)) continue;
            means << QPointF(xOf(i), yOf(e.mean));
            if (std::isfinite(point.explained)) shares << QPointF(xOf(i), yOfShare(point.explained));
            painter.setPen(QPen(colour, 1.5));
            if (std::isfinite(e.low) && std::isfinite(e.high))
                painter.drawLine(QPointF(xOf(i), yOf(e.low)), QPointF(xOf(i), yOf(e.high)));
        }
        painter.setPen(pen);
        painter.drawPolyline(means);
        painter.drawPolyline(shares);
        for (std::size_t i = 0; i < line.points.size(); ++i) {
            const auto& e = figureOf(line.points[i]);
            if (!std::isfinite(e.mean)) continue;
            painter.setPen(QPen(colour, 1.5));
            painter.setBrush(line.points[i].unreliable ? t.panel : colour);
            painter.drawEllipse(QPointF(xOf(i), yOf(e.mean)), 3, 3);
        }
        painter.setBrush(Qt::NoBrush);
        const auto words = line.control ? tr("weights shuffled") : tr("the model");
        painter.setPen(pen);
        painter.drawLine(QPointF(legend, 10.5), QPointF(legend + 14, 10.5));
        painter.setFont(sans(11));
        painter.setPen(t.text);
        painter.drawText(QRectF(legend + 20, 2, 140, 17), Qt::AlignLeft | Qt::AlignVCenter, words);
        legend += 20 + painter.fontMetrics().horizontalAdvance(words) + 16;
    }
}

void LadderPlot::mouseMoveEvent(QMouseEvent* event) {
    int nearest = -1;
    for (std::size_t i = 0; i < rungs_.size() && !lines_.empty(); ++i)
        if (nearest < 0 || std::abs(xOf(i) - event->position().x()) <
                               std::abs(xOf(static_cast<std::size_t>(nearest)) - event->position().x()))
            nearest = static_cast<int>(i);
    hovered_ = nearest;
    QStringList lines;
    if (nearest >= 0) {
        lines << rungs_[static_cast<std::size_t>(nearest)];
        for (const auto& line : lines_) {
            const auto& point = line.points[static_cast<std::size_t>(nearest)];
            const auto& e = figureOf(point);
            lines << tr("%1: %2, from %3 to %4; %5 explained%6")
                         .arg(line.control ? tr("weights shuffled") : tr("the model"), value(e.mean), value(e.low),
                              value(e.high), percent(point.explained),
                              point.unreliable ? tr(", too little to be read") : QString());
        }
    }
    setToolTip(lines.join(QLatin1Char('\n')));
    update();
}

void LadderPlot::leaveEvent(QEvent*) {
    hovered_ = -1;
    update();
}

// ---- the panel ------------------------------------------------------------------------------------------------------

LadderPanel::LadderPanel(Session& session, ConceptGallery& gallery, QWidget* parent)
    : QWidget(parent),
      session_(session),
      gallery_(gallery),
      jobs_([] { return std::make_unique<Hands>(); },
            [this](std::function<void()> closure) {
                QMetaObject::invokeMethod(this, std::move(closure), Qt::QueuedConnection);
            }) {
    setObjectName(QStringLiteral("ladderPanel"));
    auto* column = new QVBoxLayout(this);
    column->setContentsMargins(16, 12, 16, 16);
    column->setSpacing(8);
    column->addWidget(heading(tr("From signal to noise")));
    column->addWidget(
        quiet(tr("Pictures lose their structure step by step, down to noise. Concepts that still speak "
                 "then speak for nothing that is there.")));
    line_ = new PathLine;
    line_->setObjectName(QStringLiteral("ladderFolder"));
    line_->setPlaceholderText(tr("Drop a folder here"));
    line_->setAccessibleName(tr("Pictures"));
    auto* choose = new QPushButton(tr("Choose…"));
    auto* folder = new QWidget;
    auto* folder_row = new QHBoxLayout(folder);
    folder_row->setContentsMargins(0, 0, 0, 0);
    folder_row->setSpacing(8);
    folder_row->addWidget(line_, 1);
    folder_row->addWidget(choose);
    column->addWidget(captioned(tr("Pictures"), folder));
    auto* numbers = new QHBoxLayout;
    const auto number = [&](const QString& caption, int most, int standard, const char* name) {
        auto* box = new QSpinBox;
        box->setRange(1, most);
        box->setValue(standard);
        box->setObjectName(QLatin1String(name));
        box->setAccessibleName(caption);
        numbers->addWidget(captioned(caption, box), 1);
        return box;
    };
    pictures_ = number(tr("How many"), 512, 16, "ladderPictures");
    seeds_ = number(tr("Draws of each"), 64, 4, "ladderSeeds");
    column->addLayout(numbers);
    auto* buttons = new QHBoxLayout;
    start_ = new QPushButton(tr("Start"));
    start_->setObjectName(QStringLiteral("ladderStart"));
    start_->setProperty("primary", true);
    stop_button_ = new QPushButton(tr("Stop"));
    stop_button_->setObjectName(QStringLiteral("ladderStop"));
    buttons->addWidget(start_, 1);
    buttons->addWidget(stop_button_, 1);
    column->addLayout(buttons);
    bar_ = new ThinBar;
    column->addWidget(bar_);
    doing_words_ = quiet();
    column->addWidget(doing_words_);
    trouble_words_ = new QLabel;
    trouble_words_->setObjectName(QStringLiteral("ladderTrouble"));
    trouble_words_->setProperty("role", "warning");
    trouble_words_->setWordWrap(true);
    trouble_words_->setTextInteractionFlags(Qt::TextSelectableByMouse);
    column->addWidget(trouble_words_);
    auto* views = new QHBoxLayout;
    views->setSpacing(8);
    figure_ = new QComboBox;
    figure_->setAccessibleName(tr("What is counted"));
    figure_->addItem(tr("Concepts a token"));
    figure_->addItem(tr("Concepts a picture"));
    tokens_ = new QComboBox;
    tokens_->setAccessibleName(tr("Of which tokens"));
    views->addWidget(figure_, 1);
    views->addWidget(tokens_);
    column->addLayout(views);
    plot_ = new LadderPlot;
    column->addWidget(plot_);
    about_ = quiet();
    column->addWidget(about_);
    insensitive_words_ = heading(tr("Heard on nearly all noise"));
    column->addWidget(insensitive_words_);
    insensitive_ = new QVBoxLayout;
    insensitive_->setSpacing(4);
    column->addLayout(insensitive_);
    notes_ = quiet();
    column->addWidget(notes_);
    column->addStretch(1);

    connect(choose, &QPushButton::clicked, this, &LadderPanel::folderWanted);
    connect(line_, &PathLine::chosen, this, &LadderPanel::setFolder);
    connect(start_, &QPushButton::clicked, this, &LadderPanel::start);
    connect(stop_button_, &QPushButton::clicked, this, &LadderPanel::stop);
    for (auto* box : {figure_, tokens_}) connect(box, &QComboBox::activated, this, &LadderPanel::refreshPlot);
    connect(&session_, &Session::modelChanged, this, &LadderPanel::refresh);
    connect(&gallery_, &ConceptGallery::changed, this, [this] {
        if (folder_.isEmpty()) folder_ = gallery_.folder();
        refresh();
    });
    connect(&gallery_, &ConceptGallery::listChanged, this, &LadderPanel::refreshPlot);
    refresh();
    refreshPlot();
}

LadderPanel::~LadderPanel() {
    stop_.request_stop();
    jobs_.finish();
}

void LadderPanel::restyle() { plot_->update(); }

void LadderPanel::setFolder(const QString& folder) {
    folder_ = folder;
    trouble_.clear();
    refresh();
}

QString LadderPanel::whyNot() const {
    if (!session_.model()) return tr("Open a model first");
    if (gallery_.autoencoder().isEmpty()) return tr("Choose an autoencoder in the Concepts panel first");
    if (folder_.isEmpty()) return tr("Choose a folder of pictures first");
    return {};
}

void LadderPanel::start() {
    if (!whyNot().isEmpty() || climbing_) return;
    climbing_ = true;
    trouble_.clear();
    doing_ = tr("Starting");
    share_ = -1;
    stop_ = std::stop_source();
    LadderPlan plan{session_.model()->request,
                    QFileInfo(folder_).absoluteFilePath().toStdString(),
                    gallery_.autoencoder().toStdString(),
                    pictures_->value(),
                    seeds_->value(),
                    true};
    const auto of = tr("%1 and %2").arg(text(session_.model()->title), QFileInfo(gallery_.autoencoder()).fileName());
    jobs_.post(
        {.tag = "ladder"},
        [this, plan, of, stop = stop_](Hands&, JobControl& job) {
            // `this` outlives the job: the destructor waits for it.
            return climb_ladder(
                plan, stop.get_token(),
                [&](std::string doing, std::int64_t done, std::int64_t total) {
                    job.show([this, doing = std::move(doing), done, total] {
                        if (stop_.stop_requested()) return;
                        doing_ = total > 0 ? tr("%1, %2 of %3").arg(text(doing)).arg(done).arg(total) : text(doing);
                        share_ = total > 0 ? static_cast<double>(done) / static_cast<double>(total) : -1;
                        refresh();
                    });
                },
                [&](LadderFacts facts) {
                    job.show([this, of, facts = std::move(facts)] {
                        facts_ = facts;
                        of_ = of;
                        refreshPlot();
                    });
                });
        },
        [this, of](Result<LadderFacts> facts) {
            climbing_ = false;
            doing_.clear();
            if (facts) {
                facts_ = std::move(*facts);
                of_ = of;
            } else if (facts.error().code == ErrorCode::Cancelled) {
                doing_ = tr("Stopped");
            } else {
                trouble_ = sentence(facts.error().message);
            }
            refresh();
            refreshPlot();
        });
    refresh();
}

void LadderPanel::stop() {
    if (!climbing_) return;
    stop_.request_stop();
    doing_ = tr("Stopping");
    refresh();
}

void LadderPanel::refresh() {
    line_->setPath(folder_);
    const auto why_not = whyNot();
    start_->setVisible(!climbing_);
    start_->setEnabled(why_not.isEmpty());
    start_->setToolTip(why_not);
    stop_button_->setVisible(climbing_);
    stop_button_->setEnabled(!stop_.stop_requested());
    bar_->setProgress(climbing_, share_);
    doing_words_->setText(doing_);
    doing_words_->setVisible(!doing_.isEmpty());
    trouble_words_->setText(breakable(trouble_));
    trouble_words_->setVisible(!trouble_.isEmpty());
}

void LadderPanel::refreshPlot() {
    const bool any = facts_ && !facts_->series.empty();
    for (QWidget* one : {static_cast<QWidget*>(figure_), static_cast<QWidget*>(tokens_), static_cast<QWidget*>(about_)})
        one->setVisible(any);
    clearLayout(insensitive_);
    insensitive_words_->setVisible(any);
    notes_->setVisible(any && !facts_->notes.empty());
    if (!any) return plot_->setFacts(nullptr, {}, false);
    QStringList kinds;
    for (const auto& series : facts_->series)
        if (!series.control) kinds << text(series.tokens);
    QStringList before;
    for (int i = 0; i < tokens_->count(); ++i) before << tokens_->itemText(i);
    if (before != kinds) {
        const QSignalBlocker quiet(tokens_);
        tokens_->clear();
        tokens_->addItems(kinds);
        tokens_->setCurrentIndex(std::max(0, tokens_->findText(QStringLiteral("patches"))));
        if (facts_->fixed) figure_->setCurrentIndex(1);
    }
    plot_->setFacts(&*facts_, tokens_->currentText(), figure_->currentIndex() == 1);
    about_->setText(
        breakable(tr("%1: %2 pictures, %3 draws of each, mean and 95 % over resampled pictures. Hollow: less than half "
                     "of the variance is explained")
                      .arg(of_)
                      .arg(facts_->pictures)
                      .arg(facts_->seeds)) +
        (facts_->fixed ? tr(". Each token has the same number of concepts by its kind, so only those of a picture can "
                            "change")
                       : QString()));
    constexpr std::size_t kListed = 12;
    for (std::size_t i = 0; i < std::min(kListed, facts_->insensitive.size()); ++i) {
        const auto& one = facts_->insensitive[i];
        auto* button =
            new QPushButton(fontMetrics().elidedText(tr("%1  %2%3")
                                                         .arg(percent(one.heard), gallery_.titleOf(one.latent),
                                                              one.meaningful ? tr(", alike pictures") : QString()),
                                                     Qt::ElideRight, 220));
        button->setToolTip(tr("%1 is heard on %2 of the noise").arg(gallery_.titleOf(one.latent), percent(one.heard)));
        connect(button, &QPushButton::clicked, this, [this, latent = one.latent] { Q_EMIT conceptWanted(latent); });
        insensitive_->addWidget(button);
    }
    if (facts_->insensitive.empty())
        insensitive_->addWidget(quiet(tr("None")));
    else if (facts_->insensitive.size() > kListed)
        insensitive_->addWidget(quiet(tr("and %1 more").arg(facts_->insensitive.size() - kListed)));
    QStringList notes;
    for (const auto& note : facts_->notes) notes << sentence(note);
    notes_->setText(breakable(notes.join(QLatin1Char('\n'))));
}

}  // namespace vitrine::app
