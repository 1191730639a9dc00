// The table of measures, the choice of its columns and the pictures beside it.
#include "measures_panel.h"

#include <QBuffer>
#include <QHBoxLayout>
#include <QHeaderView>
#include <QLabel>
#include <QTableWidget>
#include <QTimer>
#include <QVBoxLayout>

#include <algorithm>

#include "panels/choice_button.h"
#include "panels/format.h"
#include "panels/small_widgets.h"
#include "windows/theme.h"

namespace vitrine::app {
namespace {

QString text(const std::string& utf8) { return QString::fromStdString(utf8); }

constexpr int kPicture = 88;

/// "0.0413", "12.3 %", "2.1 nats".
QString words(const ScoreFacts& score) {
    const auto unit = text(score.unit);
    return unit.isEmpty() ? value(score.value) : value(score.value) + QLatin1Char(' ') + unit;
}

}  // namespace

MeasuresPanel::MeasuresPanel(Session& session, Comparison& comparison, SeenThrough& through, QWidget* parent)
    : QWidget(parent), session_(session), comparison_(comparison), through_(through) {
    setObjectName(QStringLiteral("measuresPanel"));
    auto* row = new QHBoxLayout(this);
    row->setContentsMargins(12, 4, 12, 8);
    row->setSpacing(12);
    auto* side = new QVBoxLayout;
    choose_ = new ChoiceButton;
    choose_->setFace({}, {}, tr("Measures"));
    choose_->setHint(tr("Choose which numbers are computed; a choice again takes one out"));
    side->addWidget(choose_);
    side->addStretch(1);
    row->addLayout(side);
    table_ = new QTableWidget;
    table_->setObjectName(QStringLiteral("measuresTable"));
    table_->setAccessibleName(tr("Measures of the maps that are shown"));
    table_->setEditTriggers(QAbstractItemView::NoEditTriggers);
    table_->setSelectionMode(QAbstractItemView::NoSelection);
    table_->setFocusPolicy(Qt::TabFocus);
    table_->setShowGrid(false);
    table_->setVerticalScrollMode(QAbstractItemView::ScrollPerPixel);
    table_->setHorizontalScrollMode(QAbstractItemView::ScrollPerPixel);
    table_->verticalHeader()->hide();
    table_->verticalHeader()->setDefaultSectionSize(24);
    table_->verticalHeader()->setMinimumSectionSize(24);
    table_->horizontalHeader()->setHighlightSections(false);
    table_->horizontalHeader()->setMinimumSectionSize(96);
    table_->setCornerButtonEnabled(false);
    row->addWidget(table_, 1);
    empty_ = quiet();
    empty_->setAlignment(Qt::AlignCenter);
    row->addWidget(empty_, 1);

    seen_ = new QWidget;
    seen_->setObjectName(QStringLiteral("seenThrough"));
    auto* seen = new QVBoxLayout(seen_);
    seen->setContentsMargins(0, 0, 0, 0);
    seen->setSpacing(4);
    seen_title_ = new ReservedLabel(3 * kPicture + 24);
    seen_title_->setProperty("role", "small");
    seen_title_->setObjectName(QStringLiteral("seenTitle"));
    seen->addWidget(seen_title_);
    auto* three = new QHBoxLayout;
    three->setSpacing(12);
    for (int i = 0; i < 3; ++i) {
        auto* one = new QVBoxLayout;
        one->setSpacing(4);
        pictures_[i] = new PictureBox(kPicture);
        captions_[i] = quiet();
        captions_[i]->setFont(mono(11));
        captions_[i]->setWordWrap(false);
        captions_[i]->setAlignment(Qt::AlignCenter);
        captions_[i]->setFixedWidth(kPicture);
        one->addWidget(pictures_[i]);
        one->addWidget(captions_[i]);
        three->addLayout(one);
    }
    seen->addLayout(three);
    seen->addStretch(1);
    row->addWidget(seen_);
    connect(table_, &QTableWidget::cellClicked, &through_, &SeenThrough::setCell);
    connect(&through_, &SeenThrough::changed, this, &MeasuresPanel::refreshThrough);

    choose_->setItems(
        [this] {
            std::vector<ChoiceItem> items;
            if (!session_.model()) return items;
            for (const auto& measure : session_.model()->measures) {
                const auto& chosen = comparison_.measures();
                const bool in = std::find(chosen.begin(), chosen.end(), measure.name) != chosen.end();
                items.push_back({text(measure.title),
                                 {},
                                 text(measure.summary + (measure.source.empty() ? "" : "\n" + measure.source)),
                                 text(measure.name),
                                 {},
                                 in,
                                 {}});
            }
            return items;
        },
        tr("Find a measure"));
    connect(choose_, &ChoiceButton::chosen, this, [this](const QVariant& name) {
        auto chosen = comparison_.measures();
        const auto measure = name.toString().toStdString();
        if (std::erase(chosen, measure) == 0) chosen.push_back(measure);
        comparison_.setMeasures(chosen);
    });
    connect(&comparison_, &Comparison::arranged, this, &MeasuresPanel::refreshSoon);
    connect(&comparison_, &Comparison::scoresChanged, this, &MeasuresPanel::refreshSoon);
    connect(&session_, &Session::modelChanged, this, &MeasuresPanel::refreshSoon);
    refresh();
}

const MeasureFacts* MeasuresPanel::facts(const std::string& name) const {
    if (session_.model())
        for (const auto& measure : session_.model()->measures)
            if (measure.name == name) return &measure;
    return nullptr;
}

void MeasuresPanel::refreshSoon() {
    if (waiting_) return;
    waiting_ = true;
    QTimer::singleShot(0, this, [this] {
        waiting_ = false;
        refresh();
    });
}

QString MeasuresPanel::caption(int at) const { return captions_[at]->text(); }

void MeasuresPanel::refreshThrough() {
    const auto& found = through_.found();
    const auto& cells = comparison_.cells();
    const auto cell = static_cast<std::size_t>(through_.cell());
    const bool any = session_.look() && cell < cells.size();
    seen_->setVisible(any);
    if (!any) return;
    // With several maps it is said whose pictures these are.
    const auto whose = cells.size() > 1 ? cells[cell].title + QStringLiteral(": ") : QString();
    const auto why = through_.whyNot();
    const auto number = found ? text(found->explained).section(QStringLiteral(" of "), 0, 0) : QString();
    seen_title_->setText(found ? tr("%1through the map; %2 before: %3").arg(whose, number, value(found->whole))
                         : why.isEmpty() ? tr("%1through the map").arg(whose)
                                         : why);
    if (auto words = seen_title_->text(); !words.isEmpty()) {
        words[0] = words[0].toUpper();
        seen_title_->setText(words);
    }
    seen_title_->setToolTip(found ? tr("What average drop and its kin show the model: the picture through the map, the "
                                       "rest black.\n%1: %2 of the "
                                       "whole picture")
                                        .arg(text(found->explained), value(found->whole))
                                  : why);
    constexpr double kShares[] = {100, 50, 15};
    for (int i = 0; i < 3; ++i) {
        const auto at = static_cast<std::size_t>(i);
        if (!found || at >= found->kept.size()) {
            pictures_[i]->setImage({});
            pictures_[i]->setToolTip({});
            captions_[i]->setText(tr("%1 %").arg(kShares[i]));
            continue;
        }
        const auto& one = found->kept[at];
        const auto& view = one.picture;
        const QImage image = QImage(view.data, static_cast<int>(view.width), static_cast<int>(view.height),
                                    static_cast<qsizetype>(view.row_bytes), QImage::Format_RGB888)
                                 .copy();
        pictures_[i]->setImage(image);
        captions_[i]->setText(tr("%1 %  %2").arg(one.keep).arg(value(one.number)));
        QByteArray png;
        QBuffer buffer(&png);
        image.save(&buffer, "PNG");
        auto number = text(found->explained);
        if (!number.isEmpty()) number[0] = number[0].toUpper();
        const auto kept =
            tr("%1 % of the map kept, %2 of the pixels to be seen").arg(one.keep).arg(percent(one.visible));
        const auto change = tr("%1: %2 before, %3 of this").arg(number, value(found->whole), value(one.number));
        const auto tip = kept + QLatin1Char('\n') + change;
        pictures_[i]->setAccessibleName(tip);
        captions_[i]->setToolTip(tip);
        pictures_[i]->setToolTip(
            QStringLiteral("<img width=\"%1\" src=\"data:image/png;base64,%2\"><p>%3<br>%4</p>")
                .arg(std::max(256, image.width()))
                .arg(QString::fromLatin1(png.toBase64()), kept.toHtmlEscaped(), change.toHtmlEscaped()));
    }
    seen_->setEnabled(!through_.stale());
    for (auto* picture : pictures_) picture->setStale(through_.stale());
}

void MeasuresPanel::refresh() {
    refreshThrough();
    const auto& t = Theme::now();
    choose_->setReason(session_.model() ? QString() : tr("Open a model first"));
    const auto& cells = comparison_.cells();
    std::vector<std::string> columns;
    for (const auto& name : comparison_.measures())
        if (facts(name)) columns.push_back(name);
    const bool any = !cells.empty() && !columns.empty() && session_.look();
    table_->setVisible(any);
    empty_->setVisible(!any);
    if (!any)
        return empty_->setText(!session_.model()  ? tr("Open a model and a picture to see how its maps measure")
                               : columns.empty()  ? tr("No measure is chosen")
                               : !session_.look() ? tr("They are computed once the model has answered the picture")
                                                  : tr("There is no map to measure"));
    table_->setColumnCount(static_cast<int>(columns.size()) + 1);
    table_->setRowCount(static_cast<int>(cells.size()));
    const auto item = [this](int row, int col) {
        auto* found = table_->item(row, col);
        if (!found) table_->setItem(row, col, found = new QTableWidgetItem);
        return found;
    };
    const auto heading = [this](int col) {
        auto* found = table_->horizontalHeaderItem(col);
        if (!found) table_->setHorizontalHeaderItem(col, found = new QTableWidgetItem);
        return found;
    };
    heading(0)->setText(tr("Map"));
    heading(0)->setTextAlignment(Qt::AlignLeft | Qt::AlignVCenter);
    for (std::size_t m = 0; m < columns.size(); ++m) {
        const auto* measure = facts(columns[m]);
        auto* head = heading(static_cast<int>(m) + 1);
        const auto better = !measure->higher_is_better   ? tr("neither way is better")
                            : *measure->higher_is_better ? tr("higher is better")
                                                         : tr("lower is better");
        head->setText(text(measure->title) + (!measure->higher_is_better   ? QString()
                                              : *measure->higher_is_better ? QStringLiteral(" \u2191")
                                                                           : QStringLiteral(" \u2193")));
        head->setToolTip(QStringLiteral("<p>%1.</p><p>%2; on this picture alone.</p>")
                             .arg(text(measure->summary).toHtmlEscaped(), better));
        head->setTextAlignment(Qt::AlignRight | Qt::AlignVCenter);
    }
    for (std::size_t c = 0; c < cells.size(); ++c) {
        const auto& cell = cells[c];
        const int row = static_cast<int>(c);
        auto* name = item(row, 0);
        name->setText(cell.target.isEmpty() ? cell.title : tr("%1, %2").arg(cell.title, cell.target));
        name->setFont(sans(13));
        name->setToolTip(name->text());
        name->setForeground(cell.stage == Stage::Failed ? t.secondary : t.text);
        for (std::size_t m = 0; m < columns.size(); ++m) {
            auto* shown = item(row, static_cast<int>(m) + 1);
            shown->setTextAlignment(Qt::AlignRight | Qt::AlignVCenter);
            shown->setFont(mono(11));
            QString says, tip;
            QColor ink = t.secondary;
            const auto score = cell.scores.find(columns[m]);
            if (cell.stage == Stage::Failed) {
                says = QStringLiteral("\u2013");
                tip = cell.trouble;
            } else if (cell.stage == Stage::Stopped) {
                says = QStringLiteral("\u2013");
                tip = tr("The map is partial: it was stopped");
            } else if (score == cell.scores.end()) {
                says = QStringLiteral("\u00b7");
                tip = tr("It follows the map");
            } else if (score->second.stage == Stage::Done) {
                says = words(score->second.facts);
                ink = t.text;
                QStringList lines{tr("%1, in %2").arg(says, duration(score->second.facts.milliseconds))};
                for (const auto& note : score->second.facts.notes) lines << text(note);
                tip = lines.join(QLatin1Char('\n'));
            } else if (score->second.stage == Stage::Running) {
                says = QStringLiteral("\u2026");
                tip = tr("Being measured");
            } else if (score->second.stage == Stage::Waiting) {
                says = QStringLiteral("\u00b7");
                tip = tr("Its turn comes");
            } else {
                says = QStringLiteral("\u2013");
                tip = score->second.reason;
            }
            shown->setText(says);
            shown->setToolTip(tip);
            shown->setData(Qt::AccessibleDescriptionRole, tip);
            shown->setForeground(ink);
        }
    }
    table_->horizontalHeader()->setSectionResizeMode(QHeaderView::ResizeToContents);
    table_->horizontalHeader()->setSectionResizeMode(0, QHeaderView::Interactive);
    int widest = 120;
    for (const auto& cell : cells)
        widest = std::max(widest, QFontMetrics(sans(13)).horizontalAdvance(
                                      cell.target.isEmpty() ? cell.title : tr("%1, %2").arg(cell.title, cell.target)) +
                                      24);
    table_->setColumnWidth(0, std::min(widest, 280));
}

}  // namespace vitrine::app
