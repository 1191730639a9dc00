// One row of what is open, one of search and order; below it the state, the cells or the map, and the details beside
// them, or in their place where there is little room.
#include "gallery_view.h"

#include <QComboBox>
#include <QFileInfo>
#include <QHBoxLayout>
#include <QKeyEvent>
#include <QLabel>
#include <QLineEdit>
#include <QPushButton>
#include <QScrollArea>
#include <QSignalBlocker>
#include <QStackedWidget>
#include <QToolButton>
#include <QVBoxLayout>

#include <algorithm>

#include "panels/concept_details.h"
#include "panels/concept_grid.h"
#include "panels/concept_map.h"
#include "panels/format.h"
#include "panels/given_form.h"
#include "panels/method_settings.h"
#include "panels/small_widgets.h"
#include "panels/train_panel.h"
#include "windows/theme.h"

namespace vitrine::app {
namespace {

using Order = ConceptQuery::Order;
using Only = ConceptQuery::Only;
constexpr int kDetails = 308, kBeside = 660;  // narrower, the details take the place of the cells

QHBoxLayout* row_in(QWidget* box, int top, int bottom) {
    auto* row = new QHBoxLayout(box);
    row->setContentsMargins(12, top, 12, bottom);
    row->setSpacing(8);
    return row;
}

}  // namespace

GalleryView::GalleryView(Session& session, ConceptGallery& gallery, QWidget* parent)
    : QWidget(parent), session_(session), gallery_(gallery) {
    setObjectName(QStringLiteral("gallery"));
    auto* column = new QVBoxLayout(this);
    column->setContentsMargins(0, 0, 0, 0);
    column->setSpacing(0);

    auto* top = new QWidget;
    auto* top_row = row_in(top, 8, 4);
    auto* title = new QLabel(tr("Concepts"));
    title->setProperty("role", "heading");
    top_row->addWidget(title);
    file_ = new QPushButton;
    file_->setObjectName(QStringLiteral("galleryFile"));
    file_->setMinimumWidth(60);
    file_->setSizePolicy(QSizePolicy::Maximum, QSizePolicy::Fixed);
    top_row->addWidget(file_);
    count_ = new ReservedLabel(150);
    count_->setProperty("role", "small");
    count_->setObjectName(QStringLiteral("galleryCount"));
    top_row->addWidget(count_);
    top_row->addStretch(1);
    const auto segment = [&](const QString& words, const char* side, const char* name) {
        auto* made = new QPushButton(words);
        made->setCheckable(true);
        made->setProperty("segment", side);
        made->setObjectName(QLatin1String(name));
        return made;
    };
    as_grid_ = segment(tr("Cells"), "left", "galleryCells");
    as_map_ = segment(tr("Map"), "right", "galleryMap");
    auto* segments = new QHBoxLayout;
    segments->setSpacing(0);
    segments->addWidget(as_grid_);
    segments->addWidget(as_map_);
    top_row->addLayout(segments);
    close_ = new QToolButton;
    close_->setObjectName(QStringLiteral("closeGallery"));
    close_->setIconSize({14, 14});
    close_->setToolTip(tr("Back to the picture"));
    close_->setAccessibleName(tr("Back to the picture"));
    top_row->addWidget(close_);
    column->addWidget(top);

    tools_ = new QWidget;
    auto* tools = row_in(tools_, 4, 8);
    search_ = new QLineEdit;
    search_->setObjectName(QStringLiteral("gallerySearch"));
    search_->setPlaceholderText(tr("Name, tag or number"));
    search_->setAccessibleName(tr("Find concepts"));
    search_->setClearButtonEnabled(true);
    search_->setMinimumWidth(80);
    tools->addWidget(search_, 1);
    only_ = new QComboBox;
    only_->setObjectName(QStringLiteral("galleryOnly"));
    only_->setAccessibleName(tr("Which"));
    only_->setSizeAdjustPolicy(QComboBox::AdjustToContents);
    only_->setMaximumWidth(170);
    tools->addWidget(only_);
    order_ = new QComboBox;
    order_->setObjectName(QStringLiteral("galleryOrder"));
    order_->setAccessibleName(tr("Order"));
    const std::pair<Order, QString> orders[] = {{Order::Frequency, tr("How often")},
                                                {Order::Effect, tr("Effect on the answer")},
                                                {Order::Maximum, tr("Greatest value")},
                                                {Order::Localisation, tr("In one place")},
                                                {Order::Monosemanticity, tr("Alike pictures")},
                                                {Order::Number, tr("Number")}};
    for (const auto& [value, words] : orders) order_->addItem(words, static_cast<int>(value));
    tools->addWidget(order_);
    upwards_ = new QToolButton;
    upwards_->setObjectName(QStringLiteral("galleryUpwards"));
    upwards_->setText(tr("Least first"));
    upwards_->setCheckable(true);
    tools->addWidget(upwards_);
    column->addWidget(tools_);

    changed_ = new QFrame;
    changed_->setObjectName(QStringLiteral("notice"));
    auto* changed = row_in(changed_, 4, 4);
    changed_words_ = new QLabel;
    changed_words_->setObjectName(QStringLiteral("galleryChanged"));
    changed_words_->setWordWrap(true);
    changed->addWidget(changed_words_, 1);
    update_ = new QPushButton(tr("Update the index"));
    update_->setObjectName(QStringLiteral("galleryUpdate"));
    changed->addWidget(update_);
    find_ = new QPushButton(tr("Find its pictures…"));
    find_->setObjectName(QStringLiteral("galleryFind"));
    find_->setToolTip(tr("Chooses the folder in which they are now"));
    changed->addWidget(find_);
    adopt_ = new QPushButton(tr("Use these names"));
    adopt_->setObjectName(QStringLiteral("galleryAdopt"));
    adopt_->setToolTip(tr("Takes the names as those of this autoencoder, such as one that was trained further"));
    changed->addWidget(adopt_);
    column->addWidget(changed_);

    building_ = new QWidget;
    auto* building = row_in(building_, 4, 4);
    build_words_ = quiet();
    build_words_->setObjectName(QStringLiteral("galleryBuildWords"));
    building->addWidget(build_words_, 1);
    stop_ = new QPushButton(tr("Stop"));
    stop_->setObjectName(QStringLiteral("galleryStop"));
    building->addWidget(stop_);
    column->addWidget(building_);
    bar_ = new ThinBar;
    column->addWidget(bar_);

    body_ = new QStackedWidget;
    column->addWidget(body_, 1);
    state_ = new QFrame;
    state_->setObjectName(QStringLiteral("stage"));
    auto* middle = new QVBoxLayout(state_);
    middle->setContentsMargins(48, 24, 48, 24);
    middle->setSpacing(8);
    middle->addStretch(2);
    title_ = new QLabel;
    title_->setProperty("role", "title");
    title_->setAlignment(Qt::AlignCenter);
    title_->setWordWrap(true);
    title_->setObjectName(QStringLiteral("galleryTitle"));
    words_ = new QLabel;
    words_->setProperty("role", "secondary");
    words_->setAlignment(Qt::AlignCenter);
    words_->setWordWrap(true);
    words_->setTextInteractionFlags(Qt::TextSelectableByMouse);
    words_->setObjectName(QStringLiteral("galleryWords"));
    middle->addWidget(title_);
    middle->addWidget(words_);
    folder_row_ = new QWidget;
    auto* folder = row_in(folder_row_, 8, 0);
    folder_ = new PathLine;
    folder_->setObjectName(QStringLiteral("galleryFolder"));
    folder_->setPlaceholderText(tr("Drop a folder of pictures here"));
    folder_->setAccessibleName(tr("Pictures"));
    folder->addWidget(folder_, 1);
    auto* choose_folder = new QPushButton(tr("Choose…"));
    folder->addWidget(choose_folder);
    middle->addWidget(folder_row_);
    given_row_ = new QWidget;
    auto* given = row_in(given_row_, 8, 8);
    given_ = new SettingsForm;
    given_->setObjectName(QStringLiteral("galleryGiven"));
    given_->setMaximumWidth(360);
    given->addStretch(1);
    given->addWidget(given_, 4);
    given->addStretch(1);
    middle->addWidget(given_row_);
    auto* buttons = new QHBoxLayout;
    buttons->setSpacing(8);
    buttons->addStretch(1);
    const auto button = [&](const QString& words, const char* name, bool primary) {
        auto* made = new QPushButton(words);
        made->setObjectName(QLatin1String(name));
        if (primary) made->setProperty("primary", true);
        buttons->addWidget(made);
        return made;
    };
    build_ = button(tr("Build the index"), "galleryBuild", true);
    action_ = button(tr("Choose an autoencoder…"), "galleryChoose", false);
    second_ = button(tr("Train concepts…"), "galleryTrain", false);
    buttons->addStretch(1);
    middle->addLayout(buttons);
    middle->addStretch(3);
    body_->addWidget(state_);

    both_ = new QWidget;
    auto* both = new QHBoxLayout(both_);
    both->setContentsMargins(0, 0, 0, 0);
    both->setSpacing(0);
    pages_ = new QStackedWidget;
    grid_ = new ConceptGrid(gallery);
    map_ = new ConceptMap(gallery);
    pages_->addWidget(grid_);
    pages_->addWidget(map_);
    auto* nothing = quiet(tr("No concept is like that"));
    nothing->setAlignment(Qt::AlignCenter);
    pages_->addWidget(nothing);
    both->addWidget(pages_, 1);
    details_ = new ConceptDetails(session, gallery);
    details_area_ = new QScrollArea;
    details_area_->setWidgetResizable(true);
    details_area_->setHorizontalScrollBarPolicy(Qt::ScrollBarAlwaysOff);
    details_area_->setFrameShape(QFrame::NoFrame);
    details_area_->setWidget(details_);
    both->addWidget(details_area_);
    body_->addWidget(both_);

    for (auto* one : {file_, action_}) connect(one, &QPushButton::clicked, this, &GalleryView::fileWanted);
    connect(second_, &QPushButton::clicked, this, &GalleryView::trainingWanted);
    for (auto* one : {choose_folder, find_}) connect(one, &QPushButton::clicked, this, &GalleryView::folderWanted);
    connect(adopt_, &QPushButton::clicked, &gallery_, &ConceptGallery::adoptNames);
    connect(folder_, &PathLine::chosen, &gallery_, &ConceptGallery::setFolder);
    for (auto* one : {build_, update_}) connect(one, &QPushButton::clicked, &gallery_, &ConceptGallery::build);
    connect(stop_, &QPushButton::clicked, &gallery_, &ConceptGallery::stopBuilding);
    connect(close_, &QToolButton::clicked, this, [this] { gallery_.setOpen(false); });
    connect(as_grid_, &QPushButton::clicked, this, [this] { showMap(false); });
    connect(as_map_, &QPushButton::clicked, this, [this] { showMap(true); });
    connect(search_, &QLineEdit::textChanged, this, &GalleryView::ask);
    for (auto* box : {order_, only_}) connect(box, &QComboBox::activated, this, &GalleryView::ask);
    connect(upwards_, &QToolButton::toggled, this, &GalleryView::ask);
    connect(grid_, &ConceptGrid::detailsWanted, this, [this] { showDetails(true); });
    connect(map_, &ConceptMap::detailsWanted, this, [this] { showDetails(true); });
    connect(details_, &ConceptDetails::closed, this, [this] { showDetails(false); });
    connect(details_, &ConceptDetails::onPictureWanted, this, &GalleryView::onPictureWanted);
    connect(details_, &ConceptDetails::nearWanted, this, [this](std::int64_t latent) {
        auto query = gallery_.query();
        query.order = Order::Near;
        query.near = latent;
        query.only = Only::All;
        query.search.clear();
        gallery_.setQuery(query);
        showMap(false);
    });
    connect(&gallery_, &ConceptGallery::changed, this, &GalleryView::refresh);
    connect(&gallery_, &ConceptGallery::listChanged, this, &GalleryView::refreshList);
    connect(&gallery_, &ConceptGallery::buildMoved, this, &GalleryView::refreshBuild);
    connect(&gallery_, &ConceptGallery::selectedChanged, this, [this] {
        if (gallery_.selected() < 0) showDetails(false);
        grid_->showSelected();
        map_->showSelected();
    });
    connect(&session_, &Session::modelChanged, this, &GalleryView::refresh);
    showMap(false);
    restyle();
    refresh();
}

void GalleryView::restyle() {
    close_->setIcon(icon(QStringLiteral("close")));
    details_->restyle();
    map_->restyle();
    grid_->viewport()->update();
}

void GalleryView::showMap(bool map) {
    as_grid_->setChecked(!map);
    as_map_->setChecked(map);
    refreshList();
    if (map)
        map_->showSelected();
    else
        grid_->showSelected();
}

void GalleryView::look(std::int64_t latent) {
    gallery_.select(latent);
    showDetails(true);
}

void GalleryView::ask() {
    ConceptQuery query;
    query.search = search_->text().toStdString();
    const int order = order_->currentData().toInt();
    query.order = static_cast<Order>(order);
    if (query.order == Order::Near) query.near = gallery_.query().near;
    query.descending = !upwards_->isChecked();
    const auto only = only_->currentData();
    if (only.typeId() == QMetaType::QString) {
        query.only = Only::Tagged;
        query.tag = only.toString().toStdString();
    } else {
        query.only = static_cast<Only>(only.toInt());
    }
    gallery_.setQuery(query);
}

void GalleryView::refresh() {
    using State = ConceptGallery::State;
    const auto state = gallery_.state();
    const bool ready = state == State::Ready;
    const QString file = QFileInfo(gallery_.autoencoder()).fileName();
    file_->setText(fontMetrics().elidedText(file.isEmpty() ? tr("Choose…") : file, Qt::ElideMiddle, 200));
    file_->setToolTip(file.isEmpty() ? tr("Choose an autoencoder") : gallery_.autoencoder());
    tools_->setVisible(ready);
    for (auto* one : {as_grid_, as_map_}) {
        one->setEnabled(ready);
        one->setToolTip(ready ? QString() : tr("There are no concepts to be shown yet"));
    }
    body_->setCurrentWidget(ready ? both_ : state_);
    QStringList said;
    if (ready && !gallery_.folderChange().isEmpty())
        said << gallery_.folderChange() + (gallery_.folderGone() ? QString() : tr("; what is shown is as it was then"));
    // The button does what the rest of the sentence says how to do by hand.
    if (const auto trouble = gallery_.namesTrouble(); ready && !trouble.isEmpty())
        said << (gallery_.namesOfAnother() ? trouble.section(QLatin1Char(';'), 0, 0) : trouble);
    changed_words_->setText(breakable(said.join(QLatin1Char('\n'))));
    changed_words_->setToolTip(gallery_.namesOfAnother() ? gallery_.namesTrouble() : QString());
    changed_->setVisible(!said.isEmpty());
    update_->setVisible(ready && !gallery_.folderChange().isEmpty() && !gallery_.folderGone());
    find_->setVisible(ready && gallery_.folderGone());
    adopt_->setVisible(ready && gallery_.namesOfAnother());
    const bool setup = state == State::NoIndex;
    // What a file of another library leaves open is asked for, and can be taken back until the index is there.
    const bool asks = session_.model() && !gallery_.building() &&
                      ((state == State::Failed && gallery_.asksForMore()) || (setup && !gallery_.given().empty()));
    given_row_->setVisible(asks);
    if (asks) {
        if (const auto& model = session_.model()->request; given_->empty() || given_of_ != model) {
            given_of_ = model;
            given_->build(given_settings(session_.model()->points),
                          [this](const std::string& name, const std::string& value) {
                              gallery_.give(name, value == kAsFile ? std::string() : value);
                          });
        }
        given_->fill(gallery_.given());
    }
    folder_row_->setVisible(setup && !gallery_.building());
    folder_->setPath(gallery_.folder());
    build_->setVisible(setup && !gallery_.building());
    const auto why_not = gallery_.whyNoBuild();
    for (auto* one : {build_, update_}) {
        one->setEnabled(why_not.isEmpty());
        one->setToolTip(why_not);
    }
    action_->setVisible(state == State::Nothing || state == State::Failed);
    second_->setVisible(state == State::Nothing);
    switch (state) {
        case State::Nothing:
            title_->setText(tr("No concepts yet"));
            words_->setText(
                tr("Concepts are what a layer of the model says of a picture, one by one. An autoencoder "
                   "that was trained on the layer finds them; choose its file, or train one"));
            break;
        case State::Opening:
            title_->setText(tr("Opening %1").arg(breakable(file)));
            words_->setText(tr("Its concepts are compared with the model"));
            break;
        case State::NoIndex:
            if (gallery_.building()) {
                title_->setText(tr("The index is being built"));
                words_->setText(tr("Its concepts are shown when it is done. It can be stopped and goes on from there"));
            } else if (gallery_.trouble().isEmpty()) {
                title_->setText(tr("Which pictures say what its concepts are?"));
                words_->setText(tr("The model looks once at every picture of a folder. What each concept finds there "
                                   "is kept beside %1")
                                    .arg(breakable(file)));
            } else {
                title_->setText(tr("Its index is of no use here"));
                words_->setText(breakable(gallery_.trouble()));
            }
            break;
        case State::Failed:
            title_->setText(asks ? tr("What %1 does not say").arg(breakable(file))
                                 : tr("These concepts cannot be shown"));
            words_->setText(breakable(gallery_.trouble()));
            break;
        case State::Ready:
            break;
    }
    if (!ready) details_shown_ = false;
    refreshList();
    refreshBuild();
    arrange();
}

void GalleryView::refreshList() {
    const auto* index = gallery_.index();
    const auto shown = static_cast<std::int64_t>(gallery_.shown().size());
    count_->setText(!index                      ? QString()
                    : shown == index->latents() ? tr("all %1").arg(count(shown))
                                                : tr("%1 of %2").arg(count(shown), count(index->latents())));
    const auto& query = gallery_.query();
    {
        const QSignalBlocker quiet(only_);
        only_->clear();
        const std::pair<Only, QString> all[] = {{Only::All, tr("All")},      {Only::Fired, tr("That spoke")},
                                                {Only::Never, tr("Silent")}, {Only::Dense, tr("Often: over 1 %")},
                                                {Only::Named, tr("Named")},  {Only::Tagged, tr("Tagged")}};
        for (const auto& [value, words] : all) only_->addItem(words, static_cast<int>(value));
        for (const auto& tag : gallery_.tags()) only_->addItem(tr("Tag: %1").arg(tag), tag);
        const auto tag = QString::fromStdString(query.tag);
        only_->setCurrentIndex(std::max(0, tag.isEmpty() ? only_->findData(static_cast<int>(query.only))
                                                         : only_->findText(tr("Tag: %1").arg(tag))));
    }
    {
        const QSignalBlocker quiet(order_);
        const int near = order_->findData(static_cast<int>(Order::Near));
        if (near >= 0) order_->removeItem(near);
        if (query.order == Order::Near)
            order_->addItem(
                tr("Near %1").arg(fontMetrics().elidedText(gallery_.titleOf(query.near), Qt::ElideRight, 120)),
                static_cast<int>(Order::Near));
        order_->setCurrentIndex(order_->findData(static_cast<int>(query.order)));
    }
    upwards_->setEnabled(query.order != Order::Near);
    const auto typed = search_->text().trimmed().toCaseFolded();
    if (typed != QString::fromStdString(query.search)) {
        const QSignalBlocker quiet(search_);
        search_->setText(QString::fromStdString(query.search));
    }
    pages_->setCurrentIndex(as_map_->isChecked() ? 1 : shown > 0 ? 0 : 2);
}

void GalleryView::refreshBuild() {
    const bool building = gallery_.building();
    const auto& trouble = gallery_.buildTrouble();
    bar_->setProgress(building || gallery_.state() == ConceptGallery::State::Opening, gallery_.buildShare());
    build_words_->setText(breakable(trouble.isEmpty() ? gallery_.buildWords() : trouble));
    build_words_->setProperty("role", trouble.isEmpty() ? "small" : "warning");
    build_words_->style()->unpolish(build_words_);
    build_words_->style()->polish(build_words_);
    building_->setVisible(!build_words_->text().isEmpty());
    stop_->setVisible(building);
}

void GalleryView::showDetails(bool show) {
    details_shown_ = show && gallery_.selected() >= 0;
    arrange();
    grid_->showSelected();
}

void GalleryView::arrange() {
    const bool room = width() >= kBeside;
    details_area_->setVisible(details_shown_);
    pages_->setVisible(room || !details_shown_);
    details_area_->setMinimumWidth(room ? kDetails : 0);
    details_area_->setMaximumWidth(room ? kDetails : QWIDGETSIZE_MAX);
}

void GalleryView::keyPressEvent(QKeyEvent* event) {
    if (event->key() == Qt::Key_Escape && details_shown_) return showDetails(false);
    QWidget::keyPressEvent(event);
}

void GalleryView::resizeEvent(QResizeEvent* event) {
    QWidget::resizeEvent(event);
    arrange();
}

}  // namespace vitrine::app
