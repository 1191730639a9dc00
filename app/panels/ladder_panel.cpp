// Set up above, plotted below; what was plotted stays until a new climb says more.
#include "ladder_panel.h"

#include <QCheckBox>
#include <QComboBox>
#include <QFileInfo>
#include <QGridLayout>
#include <QHBoxLayout>
#include <QLabel>
#include <QMetaObject>
#include <QPushButton>
#include <QSignalBlocker>
#include <QSpacerItem>
#include <QSpinBox>
#include <QStyleOptionButton>
#include <QStylePainter>
#include <QToolButton>
#include <QVBoxLayout>

#include <algorithm>
#include <cmath>
#include <limits>

#include "jobs/posted_to.h"
#include "panels/calm.h"
#include "panels/format.h"
#include "panels/ladder_player.h"
#include "panels/ladder_plot.h"
#include "panels/run_box.h"
#include "panels/small_widgets.h"
#include "panels/train_panel.h"
#include "windows/theme.h"

namespace vitrine::app {
namespace {

constexpr double kUnknown = std::numeric_limits<double>::quiet_NaN();

QString text(const std::string& utf8) { return QString::fromStdString(utf8); }

QString sentence(const std::string& utf8) {
    auto out = text(utf8);
    if (!out.isEmpty()) out[0] = out[0].toUpper();
    return out;
}

/// What is done to a picture at a rung, for all rungs that are alike.
QString group_of(const QString& rung) {
    if (rung == QLatin1String("clean") || rung.startsWith(QLatin1String("shuffle ")))
        return LadderPanel::tr("shuffled");
    if (rung.startsWith(QLatin1String("blend "))) return LadderPanel::tr("noise mixed in");
    return LadderPanel::tr("noise");
}

/// Fills a box anew only where its items are others, and keeps what was chosen.
void fill(QComboBox* box, const QStringList& items, int standard) {
    QStringList before;
    for (int i = 0; i < box->count(); ++i) before << box->itemText(i);
    if (before == items) return;
    const QSignalBlocker quiet(box);
    const auto chosen = box->currentText();
    box->clear();
    box->addItems(items);
    const auto kept = static_cast<int>(items.indexOf(chosen));
    box->setCurrentIndex(kept >= 0 ? kept : standard);
}

QString trained_words(const LadderTraining& trained) {
    const auto tokens = trained.tokens.empty() ? LadderPanel::tr("an unknown number of")
                                               : rough(QString::fromStdString(trained.tokens).toLongLong());
    auto out = trained.rung.empty() ? LadderPanel::tr("%1 tokens seen").arg(tokens)
                                    : LadderPanel::tr("%1 tokens of pictures at \u2018%2\u2019 seen")
                                          .arg(tokens, QString::fromStdString(trained.rung));
    if (trained.held) out += LadderPanel::tr(", %1 explained of pictures held out").arg(percent(*trained.held));
    return out;
}

/// Its words are cut where there is no room for them, however wide the panel is.
class ElidedButton : public QPushButton {
  public:
    using QPushButton::QPushButton;
    QSize sizeHint() const override { return {96, QPushButton::sizeHint().height()}; }
    QSize minimumSizeHint() const override { return {48, QPushButton::minimumSizeHint().height()}; }

  protected:
    void paintEvent(QPaintEvent*) override {
        QStyleOptionButton option;
        initStyleOption(&option);
        const int room = style()->subElementRect(QStyle::SE_PushButtonContents, &option, this).width();
        option.text = fontMetrics().elidedText(text(), Qt::ElideRight, room);
        QStylePainter(this).drawControl(QStyle::CE_PushButton, option);
    }
};

QLabel* cell(const QString& words, const QString& tip, Qt::Alignment alignment = Qt::AlignRight) {
    auto* label = new QLabel(words);
    label->setProperty("role", "small");
    label->setAlignment(alignment | Qt::AlignVCenter);
    label->setToolTip(tip);
    return label;
}

QLabel* number_cell(const QString& words, const QString& tip) {
    auto* label = new QLabel(words);
    label->setFont(mono(11));
    label->setAlignment(Qt::AlignRight | Qt::AlignVCenter);
    label->setToolTip(tip);
    label->setTextInteractionFlags(Qt::TextSelectableByMouse);
    return label;
}

/// A risk, or how it changed: then with its sign.
QString risk_words(double v, bool change) {
    if (!std::isfinite(v)) return QStringLiteral("–");
    return (change && v > 0 ? QStringLiteral("+") : QString()) + QString::number(v, 'f', 3);
}

/// How well the risk is foretold, by one figure.
QString with_interval(const LadderEstimate& e, double p) {
    return LadderPanel::tr("%1 (%2 to %3, p %4)").arg(value(e.mean), value(e.low), value(e.high), value(p));
}

}  // namespace

// ---- the panel ------------------------------------------------------------------------------------------------------

LadderPanel::LadderPanel(Session& session, ConceptGallery& gallery, QWidget* parent)
    : QWidget(parent),
      session_(session),
      gallery_(gallery),
      jobs_([] { return std::make_unique<Hands>(); }, posted_to(this)) {
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
    layers_ = new QVBoxLayout;
    layers_->setSpacing(4);
    column->addLayout(layers_);
    auto* numbers = new QHBoxLayout;
    const auto number = [&](const QString& caption, int most, int standard, const char* name) {
        auto* box = new Calm<QSpinBox>;
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
    auto* beside = new QHBoxLayout;
    control_ = new Calm<QComboBox>;
    control_->setObjectName(QStringLiteral("ladderControl"));
    control_->addItems({tr("Left out"), tr("Read by these concepts"), tr("By concepts of their own")});
    control_->setItemData(1, tr("Quick, but these concepts never saw such tokens"), Qt::ToolTipRole);
    control_->setItemData(2, tr("The fair comparison: some are trained on the shuffled weights first"),
                          Qt::ToolTipRole);
    control_->setCurrentIndex(1);
    control_->setSizeAdjustPolicy(QComboBox::AdjustToMinimumContentsLengthWithIcon);
    beside->addWidget(captioned(tr("The same with shuffled weights"), control_), 2);
    steps_ = new Calm<QSpinBox>;
    steps_->setObjectName(QStringLiteral("ladderControlSteps"));
    steps_->setRange(1, 100'000);
    steps_->setValue(500);
    steps_->setSingleStep(100);
    steps_box_ = captioned(tr("Steps at most"), steps_);
    beside->addWidget(steps_box_, 1);
    column->addLayout(beside);
    risk_ = new QCheckBox(tr("Foretell the answer's risk from concepts"));
    risk_->setObjectName(QStringLiteral("ladderRisk"));
    risk_->setToolTip(
        tr("1 - the largest probability, of up to 512 pictures, by partial least squares with pictures held out"));
    column->addWidget(risk_);
    suppress_ = new QCheckBox(tr("Suppress the ten that foretell it"));
    suppress_->setObjectName(QStringLiteral("ladderSuppress"));
    auto* below_risk = new QHBoxLayout;
    below_risk->setContentsMargins(24, 0, 0, 0);
    below_risk->addWidget(suppress_);
    column->addLayout(below_risk);
    run_ = new RunBox(QStringLiteral("ladder"));
    column->addWidget(run_);
    const auto choice = [&](const QString& name, const char* object) {
        auto* box = new Calm<QComboBox>;
        box->setAccessibleName(name);
        box->setObjectName(QLatin1String(object));
        box->setSizeAdjustPolicy(QComboBox::AdjustToMinimumContentsLengthWithIcon);
        connect(box, &QComboBox::activated, this, [this] {
            refreshChoices();
            refreshPlot();
            refreshFound();
        });
        return box;
    };
    figure_ = choice(tr("What is counted"), "ladderFigure");
    tokens_ = choice(tr("Of which tokens"), "ladderTokens");
    across_ = choice(tr("Along what"), "ladderAcross");
    which_ = choice(tr("Which"), "ladderWhich");
    auto* views = new QHBoxLayout;
    views->setSpacing(8);
    views->addWidget(figure_, 3);
    views->addWidget(tokens_, 2);
    column->addLayout(views);
    auto* along = new QHBoxLayout;
    along->setSpacing(8);
    along->addWidget(across_, 3);
    along->addWidget(which_, 2);
    column->addLayout(along);
    plot_ = new LadderPlot;
    column->addWidget(plot_);
    about_ = quiet();
    column->addWidget(about_);
    player_ = new LadderPlayer(session_, gallery_);
    column->addWidget(player_);
    found_ = choice(tr("Layer of what is listed"), "ladderFound");
    found_box_ = captioned(tr("Found at"), found_);
    column->addWidget(found_box_);
    insensitive_words_ = heading(tr("Heard on nearly all noise"));
    column->addWidget(insensitive_words_);
    const auto table = [&] {
        auto* grid = new QGridLayout;
        grid->setHorizontalSpacing(8);
        grid->setVerticalSpacing(4);
        grid->setColumnStretch(0, 1);
        column->addLayout(grid);
        return grid;
    };
    insensitive_ = table();
    suppression_words_ = heading(tr("With ten concepts silent"));
    column->addWidget(suppression_words_);
    suppression_about_ = quiet();
    suppression_about_->setObjectName(QStringLiteral("ladderSuppressed"));
    column->addWidget(suppression_about_);
    suppression_ = table();
    notes_ = quiet();
    column->addWidget(notes_);
    column->addStretch(1);

    connect(choose, &QPushButton::clicked, this, &LadderPanel::folderWanted);
    connect(line_, &PathLine::chosen, this, &LadderPanel::setFolder);
    connect(run_, &RunBox::started, this, &LadderPanel::start);
    connect(run_, &RunBox::stopped, this, &LadderPanel::stop);
    connect(control_, &QComboBox::activated, this, &LadderPanel::refresh);
    connect(risk_, &QCheckBox::toggled, this, &LadderPanel::refresh);
    connect(which_, &QComboBox::activated, this, [this](int at) {
        // What is listed follows the layer that is plotted.
        if (acrossLayers()) return;
        found_->setCurrentIndex(at);
        refreshFound();
    });
    connect(player_, &LadderPlayer::conceptWanted, this, &LadderPanel::conceptWanted);
    connect(&session_, &Session::modelChanged, this, [this] {
        // Autoencoders of other layers are of a model.
        more_.clear();
        refreshLayers();
        refresh();
    });
    connect(&gallery_, &ConceptGallery::changed, this, [this] {
        if (folder_.isEmpty()) folder_ = gallery_.folder();
        refreshLayers();
        refresh();
    });
    connect(&gallery_, &ConceptGallery::listChanged, this, &LadderPanel::refreshFound);
    refreshLayers();
    refresh();
    refreshChoices();
    refreshPlot();
    refreshFound();
}

LadderPanel::~LadderPanel() {
    stop_.request_stop();
    jobs_.finish();
}

void LadderPanel::restyle() {
    plot_->update();
    player_->restyle();
}

void LadderPanel::addLayer(const QString& autoencoder) {
    if (autoencoder.isEmpty() || autoencoder == gallery_.autoencoder() || more_.contains(autoencoder)) return;
    more_ << autoencoder;
    refreshLayers();
    refresh();
}

void LadderPanel::refreshLayers() {
    more_.removeAll(gallery_.autoencoder());
    clearLayout(layers_);
    const auto row = [&](const QString& file, bool removable) {
        auto* line = new QWidget;
        auto* layout = new QHBoxLayout(line);
        layout->setContentsMargins(0, 0, 0, 0);
        layout->setSpacing(4);
        auto* name = new ReservedLabel(200);
        name->setText(QFileInfo(file).fileName());
        name->setToolTip(file);
        layout->addWidget(name, 1);
        if (removable) {
            auto* away = new QToolButton;
            away->setIcon(icon(QStringLiteral("close")));
            away->setToolTip(tr("Leave this layer out"));
            away->setAccessibleName(tr("Leave %1 out").arg(QFileInfo(file).fileName()));
            connect(away, &QToolButton::clicked, this, [this, file] {
                more_.removeAll(file);
                // The button is part of what is made anew.
                QMetaObject::invokeMethod(this, &LadderPanel::refreshLayers, Qt::QueuedConnection);
            });
            layout->addWidget(away);
        }
        layers_->addWidget(line);
    };
    if (gallery_.autoencoder().isEmpty()) return;
    auto* caption = quiet(more_.isEmpty() ? tr("Concepts") : tr("Concepts of %1 layers").arg(more_.size() + 1));
    layers_->addWidget(caption);
    row(gallery_.autoencoder(), false);
    for (const auto& file : more_) row(file, true);
    auto* add = new QPushButton(tr("Add an autoencoder of another layer…"));
    add->setObjectName(QStringLiteral("ladderAddLayer"));
    connect(add, &QPushButton::clicked, this, &LadderPanel::layerWanted);
    layers_->addWidget(add);
}

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
    LadderPlan plan;
    plan.model = session_.model()->request;
    plan.folder = QFileInfo(folder_).absoluteFilePath().toStdString();
    for (const auto& file : QStringList(gallery_.autoencoder()) + more_)
        plan.autoencoders.push_back({file.toStdString(), gallery_.givenOf(file)});
    plan.pictures = pictures_->value();
    plan.seeds = seeds_->value();
    plan.control = static_cast<LadderControl>(control_->currentIndex());
    plan.control_steps = steps_->value();
    plan.risk = risk_->isChecked();
    plan.suppress = plan.risk && suppress_->isChecked();
    const auto of =
        more_.isEmpty()
            ? tr("%1 and %2").arg(text(session_.model()->title), QFileInfo(gallery_.autoencoder()).fileName())
            : tr("%1 and %2 autoencoders").arg(text(session_.model()->title)).arg(plan.autoencoders.size());
    const bool goes_on = facts_ && !facts_->whole && plan == ran_;
    ran_ = plan;
    const auto take = [this, of, goes_on, wanted = plan.pictures](LadderFacts facts) {
        // A course that was broken off is read again: what is seen stays until there is more.
        if (goes_on && !facts.whole && facts.inputs <= facts_->inputs) return;
        facts_ = std::move(facts);
        of_ = of;
        wanted_pictures_ = wanted;
        refreshChoices();
        refreshPlot();
        refreshFound();
        Q_EMIT grew();
    };
    jobs_.post(
        {.tag = "ladder"},
        [this, plan, take, stop = stop_](Hands& hands, JobControl& job) {
            // `this` outlives the job: the destructor waits for it.
            return climb_ladder(
                plan, hands.memory, stop.get_token(),
                [&](std::string doing, double share) {
                    job.show([this, doing = std::move(doing), share] {
                        if (stop_.stop_requested()) return;
                        doing_ = text(doing);
                        share_ = share;
                        refresh();
                    });
                },
                [&](LadderFacts facts) {
                    job.show([take, facts = std::move(facts)]() mutable { take(std::move(facts)); });
                });
        },
        [this, take](Result<LadderFacts> facts) {
            climbing_ = false;
            doing_.clear();
            if (facts) {
                take(std::move(*facts));
            } else if (facts.error().code == ErrorCode::Cancelled) {
                doing_ = tr("Stopped; what was read is kept");
            } else {
                trouble_ = sentence(facts.error().message);
            }
            refresh();
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
    Q_EMIT moved();
    line_->setPath(folder_);
    const auto why_not = whyNot();
    run_->setState({climbing_, stop_.stop_requested(), share_, facts_ && !facts_->whole ? tr("Go on") : tr("Start"),
                    why_not, doing_, trouble_});
    for (QWidget* one : {static_cast<QWidget*>(pictures_), static_cast<QWidget*>(seeds_),
                         static_cast<QWidget*>(control_), static_cast<QWidget*>(steps_), static_cast<QWidget*>(risk_)})
        one->setEnabled(!climbing_);
    suppress_->setEnabled(!climbing_ && risk_->isChecked());
    suppress_->setToolTip(risk_->isChecked()
                              ? tr("In the worst quarter of pictures held out, beside ten random concepts as frequent; "
                                   "the model runs again, twelve times for each of them")
                              : tr("Only where the risk is foretold"));
    steps_box_->setVisible(control_->currentIndex() == static_cast<int>(LadderControl::Trained));
}

LadderPanel::Figure LadderPanel::figure() const { return static_cast<Figure>(std::max(0, figure_->currentIndex())); }

/// A risk is one number a layer.
bool LadderPanel::acrossLayers() const { return across_->currentIndex() == 1 || figure() >= Figure::R2; }

std::vector<const LadderLayer*> LadderPanel::layersInOrder() const {
    std::vector<const LadderLayer*> out;
    for (const auto& layer : facts_->layers) out.push_back(&layer);
    if (!session_.model()) return out;
    const auto& points = session_.model()->points;
    const auto place = [&](const LadderLayer* layer) {
        return std::find(points.begin(), points.end(), layer->point) - points.begin();
    };
    std::stable_sort(out.begin(), out.end(), [&](auto* a, auto* b) { return place(a) < place(b); });
    return out;
}

QString LadderPanel::nameOf(const LadderLayer& layer) const {
    const auto alike = std::count_if(facts_->layers.begin(), facts_->layers.end(),
                                     [&](const auto& other) { return other.point == layer.point; });
    return alike > 1 ? tr("%1, %2").arg(text(layer.point), text(layer.file)) : text(layer.point);
}

void LadderPanel::refreshChoices() {
    const bool any = facts_ && !facts_->layers.empty();
    for (QWidget* one : {static_cast<QWidget*>(figure_), static_cast<QWidget*>(tokens_)}) one->setVisible(any);
    if (!any) {
        across_->hide();
        which_->hide();
        found_box_->hide();
        return;
    }
    const auto layers = layersInOrder();
    const auto first = static_cast<int>(std::find(layers.begin(), layers.end(), &facts_->layers.front()) -
                                        layers.begin());  // the one that the gallery shows
    const bool several = layers.size() > 1,
               risk = std::any_of(layers.begin(), layers.end(), [](const auto*one) { return one->risk.has_value(); });
    QStringList figures{tr("Concepts a token"), tr("Concepts a picture"), tr("Ratio to clean"),
                        tr("Shared with clean")};
    if (risk) figures << tr("Risk: R²") << tr("Risk: Spearman") << tr("Risk: AUROC");
    fill(figure_, figures, layers.front()->fixed ? 1 : 0);
    figure_->setItemData(2, tr("A token's concepts, as a ratio to the clean picture's"), Qt::ToolTipRole);
    figure_->setItemData(3, tr("Of the concepts of a picture and of the clean one, the share that both have (Jaccard)"),
                         Qt::ToolTipRole);
    QStringList kinds;
    for (const auto* layer : layers)
        for (const auto& series : layer->series)
            if (!series.control && !kinds.contains(text(series.tokens))) kinds << text(series.tokens);
    fill(tokens_, kinds, std::max(0, static_cast<int>(kinds.indexOf(QStringLiteral("patches")))));
    QStringList names;
    for (const auto* layer : layers) names << nameOf(*layer);
    fill(found_, names, first);
    fill(across_, {tr("Rung by rung"), tr("Layer by layer")}, 0);
    QStringList which;
    if (acrossLayers())
        for (const auto& rung : facts_->rungs) which << text(rung);
    else
        which = names;
    fill(which_, which, acrossLayers() ? static_cast<int>(which.size()) - 1 : found_->currentIndex());
    found_box_->setVisible(several && facts_->whole);
    tokens_->setVisible(figure() < Figure::R2);
    across_->setVisible(several && figure() < Figure::R2);
    which_->setVisible(several && figure() < Figure::R2);
}

void LadderPanel::refreshPlot() {
    if (!facts_ || facts_->layers.empty()) return plot_->setContent({});
    const auto layers = layersInOrder();
    const auto kind = tokens_->currentText();
    const auto what = figure();
    const auto estimate = [&](const LadderPoint& point) {
        return what == Figure::Picture   ? point.distinct
               : what == Figure::Ratio   ? point.ratio
               : what == Figure::Overlap ? point.overlap
                                         : point.active;
    };
    const auto series_of = [&](const LadderLayer& layer, bool control) -> const LadderSeries* {
        for (const auto& one : layer.series)
            if (one.control == control && text(one.tokens) == kind && one.points.size() == facts_->rungs.size())
                return &one;
        return nullptr;
    };
    const auto empty = [](bool control, const LadderLayer& layer) {
        LadderPlot::Curve out;
        out.control = control;
        out.name = !control        ? tr("the model")
                   : layer.control ? tr("shuffled weights, own concepts")
                                   : tr("shuffled weights");
        return out;
    };
    LadderPlot::Content content;
    if (what == Figure::Ratio) content.level = 1;
    content.shares = what == Figure::Overlap;
    if (what >= Figure::R2) {
        LadderPlot::Curve found, permuted;
        found.name = tr("the model");
        permuted.name = tr("scores permuted, mean");
        permuted.control = true;
        for (const auto* layer : layers) {
            content.places.push_back(nameOf(*layer));
            constexpr LadderEstimate kNone{kUnknown, kUnknown, kUnknown};
            const LadderRisk risk =
                layer->risk.value_or(LadderRisk{kNone, kNone, kNone, 1, 1, 1, kUnknown, kUnknown, kUnknown});
            const auto one = [&](const auto& r2, const auto& spearman, const auto& auroc) {
                return what == Figure::R2 ? r2 : what == Figure::Spearman ? spearman : auroc;
            };
            found.values.push_back(one(risk.r2, risk.spearman, risk.auroc));
            permuted.values.push_back({one(risk.null_r2, risk.null_spearman, risk.null_auroc), kUnknown, kUnknown});
        }
        content.curves = {std::move(found), std::move(permuted)};
        return plot_->setContent(std::move(content));
    }
    const auto put = [&](LadderPlot::Curve& curve, const LadderPoint* point) {
        curve.values.push_back(point ? estimate(*point) : LadderEstimate{kUnknown, kUnknown, kUnknown});
        curve.explained.push_back(point ? point->explained : kUnknown);
        curve.norms.push_back(point ? point->norm : kUnknown);
        curve.unreliable.push_back(point && point->unreliable);
    };
    if (acrossLayers()) {
        const auto rung = static_cast<std::size_t>(std::max(0, which_->currentIndex()));
        for (const auto* layer : layers) content.places.push_back(nameOf(*layer));
        for (const bool control : {false, true}) {
            auto curve = empty(control, *layers.front());
            bool there = false;
            for (const auto* layer : layers) {
                const auto* series = series_of(*layer, control);
                there = there || series;
                put(curve, series && rung < series->points.size() ? &series->points[rung] : nullptr);
            }
            if (there) content.curves.push_back(std::move(curve));
        }
        return plot_->setContent(std::move(content));
    }
    const auto at = std::min(static_cast<std::size_t>(std::max(0, which_->currentIndex())), layers.size() - 1);
    for (const auto& rung : facts_->rungs) {
        content.places.push_back(text(rung));
        content.groups.push_back(group_of(text(rung)));
    }
    for (const bool control : {false, true})
        if (const auto* series = series_of(*layers[at], control)) {
            auto curve = empty(control, *layers[at]);
            for (const auto& point : series->points) put(curve, &point);
            content.curves.push_back(std::move(curve));
        }
    plot_->setContent(std::move(content));
}

void LadderPanel::refreshFound() {
    const bool any = facts_ && !facts_->layers.empty(), whole = any && facts_->whole;
    clearLayout(insensitive_);
    clearLayout(suppression_);
    about_->setVisible(any);
    notes_->setVisible(whole);
    for (QWidget* one : {insensitive_words_, suppression_words_, suppression_about_}) one->setVisible(false);
    if (!any) return;
    const auto layers = layersInOrder();
    const auto pictures =
        whole ? QString::number(facts_->pictures) : tr("so far %1 of %2").arg(facts_->pictures).arg(wanted_pictures_);
    QStringList about{tr("%1. Pictures: %2, draws of each: %3. Means, and 95 % over resampled pictures.")
                          .arg(of_, pictures)
                          .arg(facts_->seeds)};
    if (std::any_of(layers.begin(), layers.end(), [](const auto* one) { return one->fixed; }))
        about << tr("Each token has the same number of concepts by its kind, so only those of a picture can change.");
    for (const auto* layer : layers) {
        about << (layers.size() > 1 ? tr("Concepts of %1: %2.").arg(nameOf(*layer), trained_words(layer->trained))
                                    : tr("Concepts: %1.").arg(trained_words(layer->trained)));
        if (layer->control) about << tr("Those of the shuffled weights: %1.").arg(trained_words(*layer->control));
    }
    about_->setText(breakable(about.join(QLatin1Char(' '))));
    if (!whole) return;
    const auto& layer =
        *layers[std::min(static_cast<std::size_t>(std::max(0, found_->currentIndex())), layers.size() - 1)];
    refreshHeard(layer);
    refreshSuppression(layer);
    QStringList notes;
    for (const auto& one : layersInOrder()) {
        if (one->risk)
            notes << tr("%1: of the risk R² is %2, Spearman %3, AUROC %4; 95 % over the pictures held out, resampled")
                         .arg(nameOf(*one), with_interval(one->risk->r2, one->risk->p_r2),
                              with_interval(one->risk->spearman, one->risk->p_spearman),
                              with_interval(one->risk->auroc, one->risk->p_auroc));
        for (const auto& note : one->notes)
            notes << (facts_->layers.size() > 1 ? nameOf(*one) + QStringLiteral(": ") + text(note) : sentence(note));
    }
    for (const auto& note : facts_->notes) notes << sentence(note);
    notes_->setText(breakable(notes.join(QLatin1Char('\n'))));
}

void LadderPanel::refreshHeard(const LadderLayer& layer) {
    constexpr std::size_t kListed = 12;
    insensitive_words_->setVisible(true);
    if (layer.insensitive.empty()) return insensitive_->addWidget(quiet(tr("None")), 0, 0, 1, 4);
    const auto heard_tip = tr("Share of the noise on which the concept is heard");
    const auto index_tip =
        tr("Insensitivity: 1 where it is as strong in one picture as in another, 0 where shuffling a picture "
           "changes nothing");
    const auto alike_tip =
        tr("How much more alike its 16 strongest pictures are than random ones, in deviations; from 3 on the concept "
           "means something, and the number is set in bold");
    int row = 0;
    insensitive_->addWidget(cell(tr("Concept"), {}, Qt::AlignLeft), row, 0);
    insensitive_->addWidget(cell(tr("noise"), heard_tip), row, 1);
    insensitive_->addWidget(cell(tr("insens."), index_tip), row, 2);
    insensitive_->addWidget(cell(tr("alike"), alike_tip), row, 3);
    // Names change while somebody looks: those of the gallery are the newest.
    const bool on_show = layer.path == gallery_.autoencoder().toStdString();
    for (const auto& one : layer.insensitive) {
        if (++row > static_cast<int>(kListed)) break;
        const auto title = on_show            ? gallery_.titleOf(one.latent)
                           : one.name.empty() ? tr("Concept %1").arg(one.latent)
                                              : text(one.name);
        auto* button = new ElidedButton(title);
        button->setStyleSheet(QStringLiteral("text-align: left"));  // as what stands above it
        button->setEnabled(on_show);
        button->setToolTip(
            on_show ? title : tr("%1: open %2 in the Concepts panel to look at it").arg(title, text(layer.file)));
        connect(button, &QPushButton::clicked, this, [this, latent = one.latent] { Q_EMIT conceptWanted(latent); });
        insensitive_->addWidget(button, row, 0);
        const auto some = [](const std::optional<double>& v, int digits) {
            return v ? QString::number(*v, 'f', digits) : QStringLiteral("–");
        };
        insensitive_->addWidget(number_cell(percent(one.heard), heard_tip), row, 1);
        insensitive_->addWidget(number_cell(some(one.insensitivity, 2), index_tip), row, 2);
        auto* alike = number_cell(some(one.coherence, 1), alike_tip);
        if (one.meaningful) {
            auto font = mono(11);
            font.setWeight(QFont::DemiBold);
            alike->setFont(font);
        }
        insensitive_->addWidget(alike, row, 3);
    }
    if (layer.insensitive.size() > kListed)
        insensitive_->addWidget(quiet(tr("and %1 more").arg(layer.insensitive.size() - kListed)), row, 0, 1, 4);
}

void LadderPanel::refreshSuppression(const LadderLayer& layer) {
    if (layer.suppression.empty()) return;
    suppression_words_->setVisible(true);
    suppression_about_->setVisible(true);
    suppression_about_->setText(tr("Means of %1 pictures, the worst quarter of those held out, and 95 % over resampled "
                                   "ones. The risk is 1 less the largest probability.")
                                    .arg(layer.suppression.front().inputs));
    int row = 0;
    for (const auto& one : layer.suppression) {
        if (row > 0) suppression_->addItem(new QSpacerItem(0, 4), row++, 0);
        suppression_->addWidget(
            cell(one.raising ? tr("The ten that raise it most") : tr("The ten that weigh most, up or down"), {},
                 Qt::AlignLeft),
            row++, 0, 1, 3);
        const auto line = [&](const QString& words, const LadderEstimate& e, bool change, const QString& tip) {
            suppression_->addWidget(new QLabel(words), row, 0);
            suppression_->addWidget(number_cell(risk_words(e.mean, change), tip), row, 1);
            suppression_->addWidget(
                number_cell(tr("%1 to %2").arg(risk_words(e.low, change), risk_words(e.high, change)), tip), row, 2);
            ++row;
        };
        line(tr("Before"), one.before, false, tr("The risk as it is"));
        line(tr("After"), one.after, false, tr("The risk with these concepts silent"));
        line(tr("Change"), one.change, true, tr("After less before"));
        line(tr("Random ten"), one.control, true,
             tr("The change with ten random concepts as frequent instead, the mean of five draws"));
        line(tr("Difference"), one.difference, true, tr("The change less that with random concepts"));
    }
}

}  // namespace vitrine::app
