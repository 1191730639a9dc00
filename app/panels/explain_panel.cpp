// Builds and fills the right-hand panels.
#include "explain_panel.h"

#include <QCheckBox>
#include <QComboBox>
#include <QGridLayout>
#include <QHBoxLayout>
#include <QLabel>
#include <QPushButton>
#include <QSignalBlocker>
#include <QSlider>
#include <QToolButton>
#include <QVBoxLayout>

#include <algorithm>

#include "panels/calm.h"
#include "panels/format.h"
#include "panels/method_settings.h"
#include "panels/region_row.h"
#include "panels/second_picture.h"
#include "panels/small_widgets.h"
#include "panels/table_view.h"
#include "windows/theme.h"

namespace vitrine::app {
namespace {

QString text(const std::string& utf8) { return QString::fromStdString(utf8); }

/// "reg" of "reg3".
std::string stemOf(std::string name) {
    while (!name.empty() && name.back() >= '0' && name.back() <= '9') name.pop_back();
    return name;
}

/// "cls" or "cls, 4 reg": names that differ only in their number are counted.
QString prefixWords(const std::vector<std::string>& prefix) {
    QStringList words;
    std::size_t i = 0;
    while (i < prefix.size()) {
        std::size_t end = i + 1;
        while (end < prefix.size() && stemOf(prefix[end]) == stemOf(prefix[i])) ++end;
        words << (end - i == 1 ? text(prefix[i]) : QStringLiteral("%1 %2").arg(end - i).arg(text(stemOf(prefix[i]))));
        i = end;
    }
    return words.join(QStringLiteral(", "));
}

QFrame* rule() {
    auto* line = new QFrame;
    line->setFixedHeight(1);
    line->setStyleSheet(QStringLiteral("background: %1;").arg(Theme::now().line.name()));
    line->setObjectName(QStringLiteral("rule"));
    return line;
}

}  // namespace

ExplainPanel::ExplainPanel(Session& session, Comparison& comparison, ViewSettings& settings, QWidget* parent)
    : QWidget(parent), session_(session), comparison_(comparison), settings_(settings) {
    auto* column = new QVBoxLayout(this);
    column->setContentsMargins(16, 12, 16, 16);
    column->setSpacing(8);

    column->addWidget(heading(tr("Answer")));
    predictions_ = new PredictionsView;
    column->addWidget(predictions_);
    region_ = new RegionRow(session_);
    column->addWidget(region_);
    second_ = new SecondPicture(session_);
    column->addWidget(second_);
    connect(second_, &SecondPicture::wanted, this, &ExplainPanel::secondPictureWanted);
    column->addSpacing(4);
    column->addWidget(rule());
    column->addSpacing(4);

    auto* title_row = new QHBoxLayout;
    title_row->addWidget(heading(tr("Evidence")));
    title_row->addStretch(1);
    refresh_ = new QToolButton;
    refresh_->setAccessibleName(tr("Compute again"));
    refresh_->setIconSize({16, 16});
    title_row->addWidget(refresh_);
    column->addLayout(title_row);
    auto* switches = new QHBoxLayout;
    switches->setSpacing(0);
    show_explanation_ = segment(tr("Explanation"), "left");
    show_attention_ = segment(tr("Attention"), "right");
    show_explanation_->setToolTip(tr("The map of the chosen method (E)"));
    show_attention_->setToolTip(tr("One head of one layer (E)"));
    switches->addWidget(show_explanation_, 1);
    switches->addWidget(show_attention_, 1);
    column->addLayout(switches);
    of_mask_ = new QWidget;
    auto* of_mask = new QHBoxLayout(of_mask_);
    of_mask->setContentsMargins(0, 0, 0, 0);
    of_mask->setSpacing(0);
    map_ = segment(tr("Map"), "left");
    mask_ = segment(tr("Training mask"), "middle");
    inside_ = segment(tr("Inside"), "right");
    map_->setObjectName(QStringLiteral("maskAsMap"));
    mask_->setObjectName(QStringLiteral("maskAsMask"));
    inside_->setObjectName(QStringLiteral("maskInside"));
    map_->setToolTip(tr("The mask's numbers from their least to their greatest"));
    inside_->setToolTip(tr("What each layer adds to the mask, and the masks of other classes"));
    for (auto* one : {map_, mask_, inside_}) of_mask->addWidget(one, 1);
    column->addWidget(of_mask_);
    evidence_title_ = new QLabel;
    evidence_title_->setObjectName("evidenceTitle");
    evidence_title_->setWordWrap(true);
    evidence_title_->setFont(sans(13, true));
    evidence_what_ = quiet();
    evidence_facts_ = quiet();
    evidence_facts_->setFont(mono(11));
    column->addSpacing(4);
    column->addWidget(evidence_title_);
    column->addWidget(evidence_what_);
    column->addWidget(evidence_facts_);
    auto* findings = new QWidget;
    findings_ = new QVBoxLayout(findings);
    findings_->setContentsMargins(0, 4, 0, 0);
    findings_->setSpacing(4);
    column->addWidget(findings);
    check_ = new QPushButton(tr("Check against shuffled weights"));
    check_->setObjectName(QStringLiteral("checkRandomisation"));
    column->addWidget(check_);
    auto* tables = new QWidget;
    tables_ = new QVBoxLayout(tables);
    tables_->setContentsMargins(0, 4, 0, 0);
    tables_->setSpacing(8);
    column->addWidget(tables);
    method_settings_ = new MethodSettingsView(session_);
    column->addWidget(method_settings_);
    live_ = new QCheckBox(tr("Attention follows the cursor"));
    live_->setToolTip(tr("Hovering a patch shows what it reads. Off: the cursor reads the values of the map (H)"));
    column->addWidget(live_);
    column->addSpacing(4);
    column->addWidget(rule());
    column->addSpacing(4);

    column->addWidget(heading(tr("View")));
    range_ = new RangeBar;
    column->addWidget(range_);
    opacity_ = new QSlider(Qt::Horizontal);
    opacity_->setRange(0, 100);
    column->addWidget(captioned(tr("Opacity"), opacity_, &opacity_value_));
    colours_ = new Calm<QComboBox>;
    colours_->setObjectName(QStringLiteral("colourMaps"));
    colours_->setIconSize({64, 12});
    for (int i = 0; i < viz::kColourMaps; ++i) {
        const auto map = static_cast<viz::ColourMap>(i);
        // Diverging is chosen by signed maps themselves; jet misleads and is only for presets that reproduce a paper.
        if (map == viz::ColourMap::Diverging || map == viz::ColourMap::Jet) continue;
        QImage swatch(64, 12, QImage::Format_RGB32);
        for (int x = 0; x < 64; ++x) {
            const auto colour = viz::colour_at(map, x / 63.0);
            for (int y = 0; y < 12; ++y) swatch.setPixel(x, y, qRgb(colour.r, colour.g, colour.b));
        }
        auto name = QString::fromStdString(std::string(viz::name_of(map)));
        name[0] = name[0].toUpper();
        colours_->addItem(QPixmap::fromImage(swatch), name, i);
    }
    column->addWidget(captioned(tr("Colours"), colours_));
    auto* sampling = new QWidget;
    auto* sampling_row = new QHBoxLayout(sampling);
    sampling_row->setContentsMargins(0, 0, 0, 0);
    sampling_row->setSpacing(0);
    const char* places[] = {"left", "middle", "right"};
    const QString names[] = {tr("Nearest"), tr("Bilinear"), tr("Bicubic")};
    for (int i = 0; i < 3; ++i) {
        upsampling_[i] = segment(names[i], places[i]);
        sampling_row->addWidget(upsampling_[i], 1);
        connect(upsampling_[i], &QPushButton::clicked, this, [this, i] {
            settings_.upsampling = static_cast<viz::Upsampling>(i);
            Q_EMIT settingsChanged();
        });
    }
    upsampling_[0]->setToolTip(tr("True patches"));
    column->addWidget(captioned(tr("Between patches"), sampling));
    solid_ = new QCheckBox(tr("Solid"));
    solid_->setToolTip(tr("Off: opacity follows the value, so that the photo stays visible"));
    grid_ = new QCheckBox(tr("Patch grid"));
    logarithmic_ = new QCheckBox(tr("Logarithmic"));
    auto* toggles = new QGridLayout;
    toggles->setHorizontalSpacing(16);
    toggles->setVerticalSpacing(4);
    toggles->addWidget(solid_, 0, 0);
    toggles->addWidget(grid_, 0, 1);
    toggles->addWidget(logarithmic_, 1, 0);
    column->addLayout(toggles);
    column->addStretch(1);

    connect(predictions_, &PredictionsView::chosen, &session_, [this](qint64 index) { session_.setTarget(index); });
    connect(show_explanation_, &QPushButton::clicked, &session_, [this] { session_.preferExplanation(true); });
    connect(show_attention_, &QPushButton::clicked, &session_, [this] { session_.preferExplanation(false); });
    connect(refresh_, &QToolButton::clicked, &session_,
            [this] { session_.explaining() ? session_.stopExplaining() : session_.refreshExplanation(); });
    connect(map_, &QPushButton::clicked, this, [this] { showOf("map"); });
    connect(mask_, &QPushButton::clicked, this, [this] { showOf("mask"); });
    connect(inside_, &QPushButton::clicked, this, [this] {
        refreshMask();
        Q_EMIT insideWanted();
    });
    connect(&session_, &Session::choiceChanged, this, &ExplainPanel::refreshMask);
    connect(check_, &QPushButton::clicked, &comparison_, [this] { comparison_.check(0); });
    connect(&comparison_, &Comparison::cellChanged, this, &ExplainPanel::refreshEvidence);
    connect(live_, &QCheckBox::toggled, &session_, &Session::setLive);
    connect(opacity_, &QSlider::valueChanged, this, [this](int percent) {
        settings_.opacity = static_cast<float>(percent) / 100.0F;
        Q_EMIT settingsChanged();
    });
    connect(colours_, &QComboBox::currentIndexChanged, this, [this] {
        settings_.colours = static_cast<viz::ColourMap>(colours_->currentData().toInt());
        Q_EMIT settingsChanged();
    });
    const auto toggle = [this](QCheckBox* box, bool ViewSettings::*member) {
        connect(box, &QCheckBox::toggled, this, [this, member](bool on) {
            settings_.*member = on;
            Q_EMIT settingsChanged();
        });
    };
    toggle(solid_, &ViewSettings::solid);
    toggle(grid_, &ViewSettings::grid);
    toggle(logarithmic_, &ViewSettings::logarithmic);
    connect(range_, &RangeBar::rangeChanged, this, [this](float low, float high) {
        settings_.range = {low, high};
        Q_EMIT settingsChanged();
    });
    connect(range_, &RangeBar::rangeReset, this, [this] {
        settings_.range.reset();
        Q_EMIT settingsChanged();
    });
    connect(&session_, &Session::lookChanged, this, &ExplainPanel::refreshPredictions);
    connect(&session_, &Session::choiceChanged, this, &ExplainPanel::refreshPredictions);
    connect(&session_, &Session::modelChanged, this, &ExplainPanel::refreshPredictions);
    connect(&session_, &Session::evidenceChanged, this, &ExplainPanel::refreshEvidence);
    connect(&session_, &Session::replayChanged, this, &ExplainPanel::refreshEvidence);
    restyle();
    refresh();
}

void ExplainPanel::restyle() {
    refresh_->setIcon(icon(QStringLiteral("refresh")));
    for (auto* line : findChildren<QFrame*>(QStringLiteral("rule")))
        line->setStyleSheet(QStringLiteral("background: %1;").arg(Theme::now().line.name()));
    findings_key_.clear();
    method_settings_->restyle();
    second_->restyle();
    region_->restyle();
    refreshEvidence();
}

void ExplainPanel::focusRegion() { region_->takeFocus(); }

void ExplainPanel::refresh() {
    refreshPredictions();
    refreshEvidence();
    const QSignalBlocker a(opacity_), b(colours_), c(solid_), d(grid_), e(logarithmic_), f(live_);
    opacity_->setValue(static_cast<int>(settings_.opacity * 100.0F + 0.5F));
    opacity_value_->setText(QStringLiteral("%1 %").arg(opacity_->value()));
    colours_->setCurrentIndex(colours_->findData(static_cast<int>(settings_.colours)));
    for (int i = 0; i < 3; ++i) upsampling_[i]->setChecked(static_cast<int>(settings_.upsampling) == i);
    solid_->setChecked(settings_.solid);
    grid_->setChecked(settings_.grid);
    logarithmic_->setChecked(settings_.logarithmic);
    live_->setChecked(session_.live());
}

void ExplainPanel::refreshPredictions() {
    const auto& look = session_.look();
    QString empty;
    if (!session_.model())
        empty = tr("Open a model to see its answer");
    else if (!session_.picture())
        empty = tr("Open a picture to see the answer");
    else if (session_.asking())
        empty = tr("Not run yet: F5 or Compute starts it");
    else if (session_.looking())
        empty = tr("Running the model");
    else if (look && session_.model()->classes == 0)
        empty = session_.other() ? tr("No classes: what is like the second picture is explained")
                                 : tr("No classes: a second picture can stand in for one");
    predictions_->setPredictions(look ? look->top : std::vector<Prediction>{}, session_.explainedClass(), empty,
                                 session_.before());
}

/// They stay beside a head of attention, too: a click in a table leads to the head, and the next one must be at hand.
void ExplainPanel::refreshTables() {
    const auto& found = session_.explanation();
    const auto of = found ? found->plane.values : nullptr;
    if (of != tables_of_) {
        tables_of_ = of;
        clearLayout(tables_);
        if (found)
            for (const auto& table : found->tables) tables_->addWidget(new TableView(session_, table, settings_));
    }
    for (int i = 0; i < tables_->count(); ++i)
        if (auto* table = qobject_cast<TableView*>(tables_->itemAt(i)->widget())) table->setStale(session_.stale());
}

/// Takes the part that is shown back as well: one click leads from anywhere to either.
void ExplainPanel::showOf(const char* which) {
    session_.preferExplanation(true);
    session_.setSetting("part", {});
    session_.setSetting("show", which);
    refreshMask();
}

void ExplainPanel::refreshMask() {
    const auto* method = session_.methodFacts();
    const bool of_mask = method && method->has("part") && method->has("show");
    of_mask_->setVisible(of_mask && session_.showsExplanation() && session_.look());
    if (!of_mask) return;
    const auto& settings = session_.settings();
    const auto shows = settings.find("show");
    const bool part = settings.contains("part"), mask = shows != settings.end() && shows->second == "mask";
    map_->setChecked(!part && !mask);
    mask_->setChecked(!part && mask);
    inside_->setChecked(part);
    mask_->setEnabled(!session_.versus());
    mask_->setToolTip(session_.versus() ? tr("A training mask is of one class; the map is the difference of two")
                                        : tr("What covered the pictures in training, from 0 to 1"));
}

void ExplainPanel::refreshEvidence() {
    refreshTables();
    refreshMask();
    const bool explanation = session_.showsExplanation();
    show_explanation_->setChecked(explanation);
    show_attention_->setChecked(!explanation);
    method_settings_->setShown(explanation && session_.look());
    const bool attention = session_.look() && !session_.look()->heads.empty();
    show_attention_->setEnabled(attention || !session_.look());
    show_attention_->setToolTip(show_attention_->isEnabled() ? tr("One head of one layer (E)")
                                                             : tr("This model has no attention layers"));
    grid_->setEnabled(attention || !session_.look());
    grid_->setToolTip(grid_->isEnabled() ? QString() : tr("This model has no patches"));
    live_->setEnabled(attention || !session_.look());
    live_->setToolTip(live_->isEnabled()
                          ? tr("Hovering a patch shows what it reads. Off: the cursor reads the values of the map (H)")
                          : tr("This model has no attention layers"));
    refresh_->setEnabled(session_.look().has_value() && session_.methodFacts());
    refresh_->setIcon(icon(session_.explaining() ? QStringLiteral("stop") : QStringLiteral("refresh")));
    refresh_->setToolTip(!session_.look()          ? tr("It needs a model and a picture")
                         : !session_.methodFacts() ? tr("No method here explains this model")
                         : session_.explaining()   ? tr("Stop; what there is stays")
                                                   : tr("Compute again (F5)"));
    const auto* one = !comparison_.isOpen() && !comparison_.cells().empty() ? &comparison_.cells().front() : nullptr;
    check_->setVisible(explanation && session_.explanation());
    check_->setEnabled(one && one->stage == Stage::Done && !one->stale && !one->checking);
    check_->setText(one && one->checking ? tr("Checking against shuffled weights")
                                         : tr("Check against shuffled weights"));
    check_->setToolTip(
        comparison_.isOpen()   ? tr("In the grid a right click on a map checks it")
        : one && one->checking ? tr("It is being checked")
        : check_->isEnabled()
            ? tr("Does the map change when the model's weights are shuffled, layer by layer? It takes as "
                 "many maps as the model has layers, three times")
            : tr("It needs a finished map"));
    QString title, what, facts;
    std::vector<Finding> findings;
    QStringList notes;
    if (!session_.look()) {
        title = tr("No evidence yet");
        what = session_.looking() ? tr("Running the model") : tr("It appears here once a model has answered a picture");
    } else if (explanation) {
        const auto* method = session_.methodFacts();
        title = method ? text(method->title) : tr("No method");
        if (const auto& found = session_.explanation()) {
            title = text(found->title);  // what is shown, which the chosen method may still be to replace
            what = text(found->explained);
            facts = QStringLiteral("%1  %2").arg(
                text(found->implementation.empty() ? found->method : found->implementation),
                duration(found->milliseconds));
            facts += QStringLiteral("\n%1 \u00d7 %2 %3")
                         .arg(found->plane.rows)
                         .arg(found->plane.cols)
                         .arg(found->on_tokens ? tr("patches") : tr("pixels"));
            if (found->prefix_mass > 0)
                facts += tr("\n%1 lies on tokens outside the grid").arg(percent(found->prefix_mass));
            if (session_.stale())
                what = method && method->name != found->method ? tr("Computing %1").arg(text(method->title))
                                                               : tr("Computing again");
            if (!found->class_specific) notes << tr("Does not depend on the class");
            findings = found->checks;
            for (const auto& note : found->notes) notes << text(note);
            if (found->partial)
                notes << (session_.explaining() ? tr("So far: it is being refined")
                                                : tr("Partial: the work was stopped"));
        } else if (!method) {
            title = tr("No method here explains this model");
            // Said once, with what it keeps from running: most methods ask for the same.
            std::vector<std::pair<QString, QStringList>> reasons;
            for (const auto& facts_of : session_.model()->methods) {
                const auto why = text(facts_of.why_not);
                auto same = std::find_if(reasons.begin(), reasons.end(), [&](const auto& r) { return r.first == why; });
                if (same == reasons.end()) same = reasons.insert(same, {why, {}});
                same->second << text(facts_of.title);
            }
            for (const auto& [why, methods] : reasons)
                notes << (reasons.size() == 1 ? why : tr("%1: %2").arg(methods.join(QStringLiteral(", ")), why));
        } else if (session_.explaining()) {
            what = tr("Computing");
        } else if (!session_.explainTrouble().isEmpty()) {
            what = session_.explainTrouble();
        }
    } else if (const auto& row = session_.row()) {
        title = row->head < 0 ? tr("Layer %1, mean over heads").arg(row->layer)
                              : tr("Layer %1 head %2").arg(row->layer).arg(row->head);
        what = row->token.is_patch() ? tr("What patch %1, %2 reads").arg(row->token.row).arg(row->token.col)
                                     : tr("What the answer is read from: %1").arg(text(session_.look()->readout));
        facts = QStringLiteral("%1  %2").arg(text(row->implementation), duration(row->milliseconds));
        // Registers are many and alike: names that differ only in their number are summed.
        std::vector<std::pair<std::string, float>> sums;
        for (const auto& [name, mass] : row->prefix) {
            if (sums.empty() || sums.back().first != stemOf(name)) sums.emplace_back(stemOf(name), 0.0F);
            sums.back().second += mass;
        }
        for (const auto& [name, mass] : sums) facts += QStringLiteral("\n%1  %2").arg(text(name), percent(mass));
    } else {
        title = tr("No attention to show");
    }
    if (explanation && one && one->randomisation) findings.push_back(*one->randomisation);
    for (const auto& finding : session_.replay()) findings.push_back(finding);
    evidence_title_->setText(title);
    evidence_what_->setText(breakable(what));
    evidence_what_->setVisible(!what.isEmpty());
    evidence_facts_->setText(facts);
    evidence_facts_->setVisible(!facts.isEmpty());
    // Stale evidence steps back while the new one is on its way.
    evidence_facts_->setEnabled(!(explanation && session_.stale()));
    QString key;
    for (const auto& finding : findings)
        key += text(finding.name + finding.finding) + (finding.passed ? QLatin1Char('+') : QLatin1Char('-'));
    key += notes.join(QLatin1Char('|'));
    if (key != findings_key_) {
        findings_key_ = key;
        clearLayout(findings_);
        for (const auto& finding : findings) findings_->addWidget(new FindingRow(finding));
        for (const auto& note : notes) findings_->addWidget(quiet(breakable(note)));
    }
    const auto* shown = session_.shown();
    // A map that is itself a picture has neither a range nor a choice of colours; only how much of it is laid over.
    const bool colours = shown && shown->colours;
    auto settings = settings_;
    if (session_.lit()) settings.range.reset();  // set by hand for another map
    range_->setPlane(shown, settings);
    opacity_value_->setText(QStringLiteral("%1 %").arg(opacity_->value()));
    const auto why = colours ? tr("This map has colours of its own: %1").arg(text(shown->colours_mean)) : QString();
    for (QWidget* control : {static_cast<QWidget*>(solid_), static_cast<QWidget*>(logarithmic_)}) {
        control->setEnabled(!colours);
        control->setToolTip(why);
    }
    if (!colours) solid_->setToolTip(tr("Off: opacity follows the value, so that the photo stays visible"));
    for (auto* choice : upsampling_) {
        choice->setEnabled(!colours);
        choice->setToolTip(colours                    ? tr("Cells with colours of their own are drawn as they are")
                           : choice == upsampling_[0] ? tr("True patches")
                                                      : QString());
    }
    colours_->setEnabled(!colours && (!shown || !shown->is_signed));
    colours_->setToolTip(colours                     ? why
                         : shown && shown->is_signed ? tr("Signed maps are drawn blue to red around zero")
                                                     : QString());
}

// ---- model ----------------------------------------------------------------------------------------------------------

ModelPanel::ModelPanel(Session& session, QWidget* parent) : QWidget(parent), session_(session) {
    auto* column = new QVBoxLayout(this);
    column->setContentsMargins(16, 12, 16, 16);
    column->setSpacing(8);
    title_ = new QLabel;
    title_->setProperty("role", "title");
    title_->setWordWrap(true);
    column->addWidget(title_);
    why_ = quiet();
    column->addWidget(why_);
    auto* facts = new QWidget;
    facts_ = new QVBoxLayout(facts);
    facts_->setContentsMargins(0, 4, 0, 4);
    facts_->setSpacing(4);
    column->addWidget(facts);
    column->addWidget(rule());
    column->addSpacing(4);
    auto* row = new QHBoxLayout;
    row->addWidget(heading(tr("What the model sees")));
    row->addStretch(1);
    assumed_ = new QLabel(tr("assumed"));
    assumed_->setProperty("role", "badge");
    row->addWidget(assumed_);
    column->addLayout(row);
    seen_ = new PictureBox(160);
    column->addWidget(seen_);
    preprocessing_ = quiet();
    column->addWidget(preprocessing_);
    picture_note_ = quiet();
    column->addWidget(picture_note_);
    auto* notes = new QWidget;
    notes_ = new QVBoxLayout(notes);
    notes_->setContentsMargins(0, 4, 0, 0);
    notes_->setSpacing(4);
    column->addWidget(notes);
    column->addStretch(1);
    connect(&session_, &Session::modelChanged, this, &ModelPanel::refresh);
    connect(&session_, &Session::lookChanged, this, &ModelPanel::refresh);
    refresh();
}

void ModelPanel::refresh() {
    clearLayout(facts_);
    clearLayout(notes_);
    const auto& model = session_.model();
    const auto& look = session_.look();
    for (auto* line : findChildren<QFrame*>(QStringLiteral("rule")))
        line->setStyleSheet(QStringLiteral("background: %1;").arg(Theme::now().line.name()));
    if (!model) {
        title_->setText(tr("No model"));
        why_->setText(tr("Drop one on the window, or use Model > Open"));
        preprocessing_->clear();
        picture_note_->clear();
        assumed_->hide();
        seen_->setImage({});
        return;
    }
    title_->setText(breakable(text(model->title)));
    why_->setText(breakable(text(model->why)));
    const auto fact = [this](const QString& name, const QString& words) {
        auto* line = new QWidget;
        auto* row = new QHBoxLayout(line);
        row->setContentsMargins(0, 0, 0, 0);
        auto* label = quiet(name);
        label->setWordWrap(false);
        row->addWidget(label, 0, Qt::AlignTop);
        auto* value = new QLabel(breakable(words));
        value->setFont(mono(11));
        value->setWordWrap(true);
        value->setAlignment(Qt::AlignRight | Qt::AlignTop);
        value->setTextInteractionFlags(Qt::TextSelectableByMouse);
        row->addWidget(value, 1);
        facts_->addWidget(line);
    };
    fact(tr("Name"), text(model->name));
    fact(tr("Architecture"),
         text(model->dialect.empty() ? model->architecture : model->architecture + ", " + model->dialect));
    fact(tr("Parameters"), count(model->parameters));
    if (model->size_bytes > 0) fact(tr("Size"), bytes(model->size_bytes));
    if (model->layers > 0)
        fact(tr("Layers"), tr("%1, %2 heads each, width %3").arg(model->layers).arg(model->heads).arg(model->width));
    if (look && look->grid_rows > 0)
        fact(tr("Tokens"), tr("%1 \u00d7 %2 patches%3")
                               .arg(look->grid_rows)
                               .arg(look->grid_cols)
                               .arg(look->prefix.empty() ? QString() : tr(" + %1").arg(prefixWords(look->prefix))));
    if (model->patch_height > 0)
        fact(tr("Patch"), tr("%1 \u00d7 %2 pixels").arg(model->patch_width).arg(model->patch_height));
    fact(tr("Answer from"), text(model->readout));
    fact(tr("Classes"), model->classes > 0 ? count(model->classes) : tr("none"));
    if (look) {
        fact(tr("Forward run"), duration(look->forward_ms));
        fact(tr("Kept for maps"), bytes(look->capture_bytes));
    }
    seen_->setImage(look ? QImage(look->seen.data, static_cast<int>(look->seen.width),
                                  static_cast<int>(look->seen.height), static_cast<qsizetype>(look->seen.row_bytes),
                                  QImage::Format_RGB888)
                               .copy()
                         : QImage());
    preprocessing_->setText(breakable(
        text(model->preprocessing) +
        (model->preprocessing_source.empty() ? QString() : tr("\nFrom %1").arg(text(model->preprocessing_source)))));
    assumed_->setVisible(!model->assumed.empty());
    QStringList guessed;
    for (const auto& field : model->assumed) guessed << text(field);
    assumed_->setToolTip(
        tr("No configuration said so: %1. Put a NAME.json beside the model.").arg(guessed.join(QStringLiteral(", "))));
    picture_note_->setText(session_.picture() ? breakable(text(session_.picture()->note)) : QString());
    picture_note_->setVisible(!picture_note_->text().isEmpty());
    if (!model->label_source.empty())
        notes_->addWidget(quiet(tr("Class names: %1").arg(breakable(text(model->label_source)))));
    for (const auto& note : model->notes) notes_->addWidget(quiet(breakable(text(note))));
    if (look)
        for (const auto& note : look->notes) notes_->addWidget(quiet(breakable(text(note))));
}

}  // namespace vitrine::app
