// Builds the panel and keeps it agreeing with what is read.
#include "concepts_panel.h"

#include <QButtonGroup>
#include <QComboBox>
#include <QFileInfo>
#include <QHBoxLayout>
#include <QLabel>
#include <QLineEdit>
#include <QPushButton>
#include <QSignalBlocker>
#include <QToolButton>
#include <QVBoxLayout>

#include <algorithm>
#include <utility>

#include "panels/calm.h"
#include "panels/choice_button.h"
#include "panels/concept_list.h"
#include "panels/format.h"
#include "panels/given_form.h"
#include "panels/list_row.h"
#include "panels/method_settings.h"
#include "panels/small_widgets.h"
#include "panels/steer_box.h"
#include "windows/theme.h"

namespace vitrine::app {
namespace {

using State = ConceptsOnShow::State;

constexpr double kMuchLess = 0.1;  // that the class token's share is told beside that of all tokens
constexpr int kNamedFirst = 3;  // beside what ConceptOrder has

QString text(const std::string& utf8) { return QString::fromStdString(utf8); }

QString kindWords(const ConceptFacts& facts) {
    const auto& kind = facts.kind;
    if (kind == "top_k") return ConceptsPanel::tr("Top-k %1").arg(facts.k);
    if (kind == "batch_top_k") return ConceptsPanel::tr("Batch top-k %1").arg(facts.k);
    if (kind == "jump_relu") return ConceptsPanel::tr("JumpReLU");
    if (kind == "relu") return ConceptsPanel::tr("ReLU");
    if (kind == "nmf") return ConceptsPanel::tr("NMF");
    if (kind == "pca") return ConceptsPanel::tr("PCA");
    if (kind == "k_means") return ConceptsPanel::tr("k-means");
    auto words = text(kind).replace(QLatin1Char('_'), QLatin1Char(' '));
    if (!words.isEmpty()) words[0] = words[0].toUpper();
    return words;
}

}  // namespace

ConceptsPanel::ConceptsPanel(Session& session, ConceptsOnShow& concepts, const ViewSettings& settings, QWidget* parent)
    : QWidget(parent), session_(session), concepts_(concepts) {
    setObjectName(QStringLiteral("conceptsPanel"));
    auto* column = new QVBoxLayout(this);
    column->setContentsMargins(0, 12, 0, 0);
    column->setSpacing(8);
    const auto inset = [column](QWidget* widget) {
        auto* row = new QHBoxLayout;
        row->setContentsMargins(16, 0, 16, 0);
        row->addWidget(widget);
        column->addLayout(row);
    };

    chooser_ = new ChoiceButton;
    chooser_->setObjectName(QStringLiteral("choice"));
    chooser_->setHint(tr("Which autoencoder reads the picture"));
    chooser_->setItems(
        [this] {
            std::vector<ChoiceItem> items;
            const auto& source = concepts_.source();
            items.push_back({tr("Built in"),
                             {},
                             tr("The autoencoder that came with the model"),
                             QString(),
                             {},
                             source.file.empty(),
                             {}});
            QString group = tr("Opened before");
            for (const auto& path : recent_ ? recent_() : QStringList()) {
                const QFileInfo file(path);
                items.push_back({file.fileName(),
                                 {},
                                 path,
                                 path,
                                 file.exists() ? QString() : tr("%1 is not there any more").arg(path),
                                 text(source.file.string()) == path,
                                 group});
                group.clear();
            }
            items.push_back({tr("Open a file"), {}, {}, QStringLiteral("\nfile"), {}, false, tr("Open")});
            return items;
        },
        tr("Find an autoencoder"));
    connect(chooser_, &ChoiceButton::chosen, this, [this](const QVariant& value) {
        if (value.toString() == QLatin1String("\nfile")) return Q_EMIT fileWanted();
        concepts_.choose(value.toString());
    });
    inset(chooser_);
    bar_ = new ThinBar;
    column->addWidget(bar_);
    facts_ = quiet();
    facts_->setObjectName(QStringLiteral("conceptFacts"));
    inset(facts_);

    // Where there is no list: why, and what to do.
    said_ = new QWidget;
    auto* said = columnIn(said_, 8);
    auto* sentence = new QHBoxLayout;
    sentence->setSpacing(8);
    sign_ = new QLabel;
    why_ = new QLabel;
    why_->setObjectName(QStringLiteral("conceptsWhy"));
    why_->setWordWrap(true);
    why_->setTextInteractionFlags(Qt::TextSelectableByMouse);
    sentence->addWidget(sign_, 0, Qt::AlignTop);
    sentence->addWidget(why_, 1);
    said->addLayout(sentence);
    open_ = new QPushButton(tr("Open an autoencoder\u2026"));
    open_->setObjectName(QStringLiteral("openConcepts"));
    connect(open_, &QPushButton::clicked, this, &ConceptsPanel::fileWanted);
    said->addWidget(open_);
    again_ = new QPushButton(tr("Read them"));
    again_->setObjectName(QStringLiteral("readConcepts"));
    connect(again_, &QPushButton::clicked, &concepts_, &ConceptsOnShow::again);
    said->addWidget(again_);
    inset(said_);

    ask_ = new QWidget;
    auto* ask = columnIn(ask_, 4);
    fold_ = new QToolButton;
    fold_->setObjectName(QStringLiteral("foldGiven"));
    fold_->setText(tr("What the file does not say"));
    fold_->setToolTip(
        tr("Files of other libraries do not say all that is needed: which activations they read, or how"));
    fold_->setToolButtonStyle(Qt::ToolButtonTextBesideIcon);
    fold_->setIconSize({14, 14});
    fold_->setLayoutDirection(Qt::RightToLeft);
    fold_->setCheckable(true);
    auto* fold_row = new QHBoxLayout;
    fold_row->addWidget(fold_);
    fold_row->addStretch(1);
    ask->addLayout(fold_row);
    form_ = new SettingsForm;
    form_->hide();
    ask->addWidget(form_);
    connect(fold_, &QToolButton::toggled, form_, &QWidget::setVisible);
    inset(ask_);

    tools_ = new QWidget;
    auto* tools = new QHBoxLayout(tools_);
    tools->setContentsMargins(0, 0, 0, 0);
    tools->setSpacing(8);
    search_ = new QLineEdit;
    search_->setObjectName(QStringLiteral("findConcept"));
    search_->setPlaceholderText(tr("Find"));
    search_->setAccessibleName(tr("Find a concept by name or number"));
    search_->setClearButtonEnabled(true);
    order_ = new Calm<QComboBox>;
    order_->setObjectName(QStringLiteral("conceptOrder"));
    order_->setAccessibleName(tr("Order"));
    order_->setToolTip(tr("What comes first"));
    order_->addItem(tr("Sum"), static_cast<int>(ConceptOrder::Sum));
    order_->addItem(tr("Strongest"), static_cast<int>(ConceptOrder::Strongest));
    order_->addItem(tr("Patches"), static_cast<int>(ConceptOrder::Patches));
    order_->addItem(tr("Named first"), kNamedFirst);
    order_->setItemData(3, tr("Those that have a name, then the others, by the sum over the patches"), Qt::ToolTipRole);
    order_->setCurrentIndex(3);
    order_->setItemData(0, tr("The sum over the patches"), Qt::ToolTipRole);
    order_->setItemData(1, tr("The strongest patch"), Qt::ToolTipRole);
    order_->setItemData(2, tr("The number of patches"), Qt::ToolTipRole);
    tools->addWidget(search_, 1);
    tools->addWidget(order_);
    auto* gallery = new QToolButton;
    gallery->setObjectName(QStringLiteral("openGallery"));
    gallery->setText(tr("All"));
    gallery->setToolTip(tr("All concepts with the pictures in which they are strongest (Ctrl+G)"));
    connect(gallery, &QToolButton::clicked, this, &ConceptsPanel::galleryWanted);
    tools->addWidget(gallery);
    inset(tools_);
    which_ = new QWidget;
    auto* which = new QHBoxLayout(which_);
    which->setContentsMargins(0, 0, 0, 0);
    which->setSpacing(0);
    patches_ = segment(tr("Patches"), "left", "ofPatches");
    apart_ = segment(tr("Other tokens"), "right", "ofTokens");
    auto* either = new QButtonGroup(this);
    for (auto* button : {patches_, apart_}) {
        either->addButton(button);
        which->addWidget(button, 1);
    }
    patches_->setChecked(true);
    patches_->setToolTip(tr("The concepts of all patches together"));
    inset(which_);
    list_ = new ConceptList(concepts_, settings);
    list_->setOrder(ConceptOrder::Sum, true);
    connect(apart_, &QPushButton::toggled, this, &ConceptsPanel::refreshWhich);
    list_->setMinimumHeight(7 * kListRow);  // on a small screen the panel scrolls instead
    column->addWidget(list_, 1);
    steer_ = new SteerBox(session_, concepts_);
    column->addWidget(steer_);
    column->addStretch(0);
    list_->setBadges([this](std::int64_t number) { return SteerBox::badgeOf(session_, number); });
    connect(steer_, &SteerBox::saveWanted, this, &ConceptsPanel::saveWanted);
    connect(list_, &ConceptList::menuWanted, steer_, &SteerBox::openMenu);
    connect(&session_, &Session::steerChanged, list_, &ConceptList::refreshPatch);

    connect(search_, &QLineEdit::textChanged, this,
            [this](const QString& words) { list_->setFilter(words.trimmed()); });
    connect(order_, &QComboBox::currentIndexChanged, this, [this] {
        const int which = order_->currentData().toInt();
        list_->setOrder(which == kNamedFirst ? ConceptOrder::Sum : static_cast<ConceptOrder>(which),
                        which == kNamedFirst);
    });
    connect(&concepts_, &ConceptsOnShow::changed, this, &ConceptsPanel::refresh);
    connect(&concepts_, &ConceptsOnShow::pointedChanged, list_, &ConceptList::refreshPatch);
    restyle();
}

void ConceptsPanel::restyle() {
    fold_->setIcon(icon(QStringLiteral("chevron_down")));
    steer_->restyle();
    list_->refresh();
    refresh();
}

/// A choice of the file's own words where one says nothing; asked again for another model, whose points are others.
void ConceptsPanel::buildForm() {
    const auto& model = session_.model();
    const auto of = model ? text(model->request) : QString();
    if (of == form_of_ && !form_->empty()) return;
    form_of_ = of;
    form_->build(given_settings(model ? model->points : std::vector<std::string>()),
                 [this](const std::string& name, const std::string& value) {
                     concepts_.give(name, value == kAsFile ? std::string() : value);
                 });
}

void ConceptsPanel::refresh() {
    const auto state = concepts_.state();
    const auto& source = concepts_.source();
    chooser_->setFace(QStringLiteral("layers"), {},
                      !source.file.empty()      ? text(source.file.filename().string())
                      : state == State::None    ? tr("No autoencoder")
                      : state == State::Nothing ? tr("Autoencoder")
                                                : tr("Built in"));
    chooser_->setReason(session_.model() ? QString() : tr("Open a model first"));
    const bool list = concepts_.found() && state == State::Ready;
    const bool stopped = concepts_.stopped();
    const bool loading = state == State::Loading || (list && concepts_.stale() && !stopped);
    bar_->setProgress(loading, -1);
    QString why = concepts_.why();
    if (state == State::Nothing)
        why = !session_.model()     ? tr("Open a model: its concepts in the picture are listed here")
              : !session_.picture() ? tr("Open a picture: its concepts are listed here")
              : session_.asking()   ? tr("Not run yet: F5 or Compute starts it")
                                    : tr("The model has not run on the picture yet");
    if (state == State::Loading) why = session_.look() ? tr("Reading the concepts") : tr("Running the model");
    if (stopped) why = tr("Reading the concepts was stopped");
    said_->setVisible(!list || stopped);
    again_->setVisible(stopped);
    why_->setText(breakable(why));
    const bool refused = state == State::Refused;
    sign_->setVisible(refused);
    if (refused) sign_->setPixmap(iconPixmap(QStringLiteral("failure"), Theme::now().error, 16, devicePixelRatioF()));
    open_->setVisible(refused || state == State::None);
    const bool asks = !source.file.empty() && (refused || !source.given.empty());
    ask_->setVisible(asks);
    if (asks) {
        buildForm();
        form_->fill(source.given);
        if (refused && concepts_.asksForMore()) fold_->setChecked(true);
    }
    tools_->setVisible(list);
    refreshWhich();
    list_->setVisible(list);
    // The place in the list stays while only steering changes.
    const void* codes = concepts_.found() ? concepts_.found()->picture.get() : nullptr;
    if (std::exchange(listed_, codes) != codes)
        list_->refresh();
    else
        list_->refreshPatch();
    refreshFacts();
}

/// Class token and patches are listed side by side and never as one.
void ConceptsPanel::refreshWhich() {
    const bool list = concepts_.found() && concepts_.state() == State::Ready;
    const bool any = list && !concepts_.found()->apart.empty();
    which_->setVisible(any);
    if (any) {
        const auto& apart = concepts_.found()->apart;
        auto name = apart.size() == 1 ? ConceptsOnShow::tokenName(apart[0].token) : tr("other tokens");
        name[0] = name[0].toUpper();
        apart_->setText(name);
        QStringList names;
        for (const auto& one : apart) names << ConceptsOnShow::tokenName(one.token);
        apart_->setToolTip(tr("The concepts of each token that is no patch: %1").arg(names.join(QStringLiteral(", "))));
    }
    const bool apart = any && apart_->isChecked();
    list_->setApart(apart);
    order_->setEnabled(!apart);
    order_->setToolTip(apart ? tr("A token's concepts come by their strength") : tr("What comes first"));
}

void ConceptsPanel::refreshFacts() {
    const bool ready = concepts_.found() && concepts_.state() == State::Ready;
    facts_->setVisible(ready);
    if (!ready) return;
    const auto& facts = concepts_.found()->facts;
    QStringList words;
    words << tr("%1, %2 concepts at %3").arg(kindWords(facts), count(facts.concepts), breakable(text(facts.point)));
    auto second = tr("%1 active in a token").arg(QString::number(facts.active, 'f', facts.active < 10 ? 1 : 0));
    if (facts.explained && *facts.explained < 0)
        second = tr("Explains this picture worse than its mean would (%1), ").arg(percent(*facts.explained)) + second;
    else if (facts.explained && facts.explained_class && *facts.explained_class < *facts.explained - kMuchLess)
        second = tr("Explains %1 (class token %2), ")
                     .arg(percent(*facts.explained), percent(std::max(0.0, *facts.explained_class))) +
                 second;
    else if (facts.explained)
        second = tr("Explains %1 of this picture, ").arg(percent(*facts.explained)) + second;
    words << second;
    if (!facts.no_map.empty()) {
        auto no_map = text(facts.no_map);
        no_map[0] = no_map[0].toUpper();
        words << breakable(no_map);
    }
    if (facts.explained && *facts.explained < 0.5) words << tr("Less than half is explained: not to be relied on");
    auto trouble = text(facts.names_trouble);
    if (!trouble.isEmpty()) {
        trouble[0] = trouble[0].toUpper();
        words << breakable(trouble.section(QLatin1Char(';'), 0, 0));  // what to do is said where one points
    }
    facts_->setText(words.join(QLatin1Char('\n')));
    QStringList more;
    if (!concepts_.source().file.empty()) more << text(concepts_.source().file.string());
    if (!facts.format.empty()) more << tr("A file of %1").arg(text(facts.format));
    more << tr("Width %1, tokens: %2").arg(facts.width).arg(text(facts.tokens));
    if (facts.explained_class)
        more << tr("Of what sets the class token apart from the mean of all tokens %1 is explained")
                    .arg(percent(*facts.explained_class));
    for (const auto& note : facts.notes) more << text(note);
    if (!trouble.isEmpty()) more << trouble;
    more << tr("Read in %1").arg(duration(concepts_.found()->milliseconds));
    facts_->setToolTip(more.join(QLatin1Char('\n')));
}

}  // namespace vitrine::app
