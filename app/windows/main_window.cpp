// Builds the room and keeps its parts agreeing with the session.
#include "main_window.h"

#include <QApplication>
#include <QCloseEvent>
#include <QDir>
#include <QDockWidget>
#include <QFileDialog>
#include <QFileInfo>
#include <QHBoxLayout>
#include <QJsonDocument>
#include <QJsonObject>
#include <QLabel>
#include <QMenu>
#include <QMenuBar>
#include <QMessageBox>
#include <QMimeData>
#include <QPointer>
#include <QSaveFile>
#include <QScreen>
#include <QScrollArea>
#include <QSettings>
#include <QStackedWidget>
#include <QStatusBar>
#include <QTimer>
#include <QToolButton>
#include <QVBoxLayout>

#include <algorithm>
#include <cmath>

#include <vitrine/base/readers.h>

#include "jobs/command_line.h"
#include "jobs/comparison.h"
#include "jobs/concept_gallery.h"
#include "jobs/concepts_on_show.h"
#include "jobs/edit_history.h"
#include "jobs/layer_maps.h"
#include "jobs/seen_through.h"
#include "jobs/training_run.h"
#include "panels/choice_button.h"
#include "panels/concept_strip.h"
#include "panels/concepts_panel.h"
#include "panels/empty_state.h"
#include "panels/explain_panel.h"
#include "panels/filmstrip.h"
#include "panels/format.h"
#include "panels/gallery_view.h"
#include "panels/grid_view.h"
#include "panels/head_strip.h"
#include "panels/ladder_panel.h"
#include "panels/layer_strip.h"
#include "panels/map_panel.h"
#include "panels/measures_panel.h"
#include "panels/method_picker.h"
#include "panels/region_row.h"
#include "panels/small_widgets.h"
#include "panels/tcav_panel.h"
#include "panels/train_panel.h"
#include "windows/actions.h"
#include "windows/panel_tabs.h"
#include "windows/scene.h"

namespace vitrine::app {
namespace {

QString text(const std::string& utf8) { return QString::fromStdString(utf8); }

// What is explained beside classes, in the list of targets.
constexpr qlonglong kRegion = -2, kLike = -3, kMore = -4, kProbability = -5;

constexpr int kLayout = 7;  // of the docks: a saved one of another number is not restored
constexpr int kMostDeviceLosses = 3;
constexpr int kDeviceLossesWithin_ms = 60'000;

QString pictureFilter() {
    return QObject::tr("Pictures (*.jpg *.jpeg *.png *.bmp *.gif *.tif *.tiff *.webp *.ppm *.pgm);;All files (*)");
}
QString modelFilter() {
    return QObject::tr("Models (*.safetensors *.pth *.pt *.bin *.ckpt *.onnx *.json);;All files (*)");
}

QScrollArea* scrolled(QWidget* inner) {
    auto* area = new QScrollArea;
    area->setWidgetResizable(true);
    area->setHorizontalScrollBarPolicy(Qt::ScrollBarAlwaysOff);
    area->setFrameShape(QFrame::NoFrame);
    area->setWidget(inner);
    area->setMinimumWidth(264);
    return area;
}

}  // namespace

std::unique_ptr<QSettings> MainWindow::settings() {
    if (const auto file = qEnvironmentVariable("VITRINE_SETTINGS"); !file.isEmpty())
        return std::make_unique<QSettings>(file, QSettings::IniFormat);
    return std::make_unique<QSettings>(QStringLiteral("vitrine"), QStringLiteral("vitrine"));
}

MainWindow::MainWindow(QWidget* parent)
    : QMainWindow(parent), settings_(settings()), actions_(std::make_unique<Actions>()) {
    setObjectName(QStringLiteral("room"));
    setWindowTitle(QStringLiteral("Vitrine"));
    setWindowIcon(QIcon(QStringLiteral(":/vitrine/icons/vitrine.svg")));
    setAcceptDrops(true);
    setDockOptions(AnimatedDocks | AllowTabbedDocks | AllowNestedDocks);
    setTabPosition(Qt::RightDockWidgetArea, QTabWidget::North);
    setTabPosition(Qt::LeftDockWidgetArea, QTabWidget::North);
    setTabPosition(Qt::BottomDockWidgetArea, QTabWidget::North);
    tabs_ = new PanelTabs(this);
    resize(QSize(1280, 800).boundedTo(screen()->availableSize()));
    Theme::apply(*qApp, Theme::choiceNamed(settings_->value(QStringLiteral("theme")).toString()));
    view_settings_.opacity = settings_->value(QStringLiteral("view/opacity"), 0.75).toFloat();
    view_settings_.grid = settings_->value(QStringLiteral("view/grid"), false).toBool();
    if (const auto map =
            viz::colour_map_named(settings_->value(QStringLiteral("view/colours")).toString().toStdString()))
        view_settings_.colours = *map;

    session_ = new Session(this);
    comparison_ = new Comparison(*session_);
    layer_maps_ = new LayerMaps(*session_);
    seen_through_ = new SeenThrough(*session_, *comparison_);
    mask_run_ = new TrainingRun(*session_, Trained::Mask);
    concept_run_ = new TrainingRun(*session_, Trained::Concepts);
    concepts_ = new ConceptsOnShow(*session_);
    gallery_ = new ConceptGallery(*session_);
    history_ = new EditHistory(*session_, *concepts_, *gallery_, session_);
    graphics_ = std::make_unique<Graphics>();
    buildTop();
    buildStage();
    buildDocks();
    buildStatus();
    buildMenus();
    restyle();

    connect(session_, &Session::noticed, notice_, &NoticeBar::show);
    connect(session_, &Session::settled, notice_, &NoticeBar::dismiss);
    connect(session_, &Session::consentWanted, this, &MainWindow::askConsent, Qt::QueuedConnection);
    connect(session_, &Session::modelOpened, this, [this](const QString& request) {
        if (request != QLatin1String("starter")) remember(kModels, request);
    });
    connect(session_, &Session::pictureOpened, this, [this](const QString& file) { remember(kPictures, file); });
    connect(session_, &Session::modelChanged, this, [this] { refreshTop(), refreshStage(), refreshActions(); });
    connect(session_, &Session::pictureChanged, this, [this] {
        view_settings_.range.reset();
        cursor_.reset();
        drawn_.reset();
        refreshTop(), refreshStage(), refreshScene();
    });
    connect(session_, &Session::lookChanged, this,
            [this] { refreshTop(), refreshScene(), refreshStatus(), refreshActions(); });
    connect(session_, &Session::choiceChanged, this, [this] {
        // One range for the original and the steered map, so that they can be compared.
        if (!session_->steersAlone()) view_settings_.range.reset();
        refreshTop(), refreshScene(), refreshActions();
    });
    connect(session_, &Session::evidenceChanged, this, [this] { refreshScene(), refreshStatus(), refreshActions(); });
    connect(session_, &Session::jobsChanged, this, &MainWindow::refreshJobs);
    connect(history_, &EditHistory::changed, this, &MainWindow::refreshActions);

    const auto geometry = settings_->value(QStringLiteral("window/geometry")).toByteArray();
    if (!geometry.isEmpty()) restoreGeometry(geometry);
    const auto state = settings_->value(QStringLiteral("window/state")).toByteArray();
    if (state.isEmpty() || !restoreState(state, kLayout)) resetLayout();
    for (auto* title : findChildren<DockTitle*>()) title->settle();
    refreshTop();
    refreshStage();
    refreshScene();
    refreshStatus();
    refreshActions();
    refreshJobs();
}

MainWindow::~MainWindow() {
    // Order matters: no job may report, no frame may be drawn, once the parts below go; and panels that are hidden say
    // so to the session.
    hide();
    session_->disconnect(this);
    delete session_;
    session_ = nullptr;
    delete container_;
    container_ = nullptr;
}

void MainWindow::start(const QStringList& paths) { session_->openPaths(paths, true); }

// ---- building -------------------------------------------------------------------------------------------------------

void MainWindow::buildTop() {
    auto* top = new QWidget;
    auto* column = new QVBoxLayout(top);
    column->setContentsMargins(0, 0, 0, 0);
    column->setSpacing(0);
    menu_bar_ = new QMenuBar;
    column->addWidget(menu_bar_);
    auto* bar = new QFrame;
    bar->setObjectName(QStringLiteral("topBar"));
    auto* row = new QHBoxLayout(bar);
    row->setContentsMargins(12, 8, 12, 8);
    row->setSpacing(8);
    model_button_ = new ChoiceButton;
    target_button_ = new ChoiceButton;
    versus_button_ = new ChoiceButton;
    method_button_ = new ChoiceButton;
    row->addWidget(model_button_);
    row->addSpacing(8);
    row->addWidget(target_button_);
    row->addWidget(versus_button_);
    row->addSpacing(8);
    row->addWidget(method_button_);
    grid_button_ = new QToolButton;
    grid_button_->setObjectName(QStringLiteral("gridButton"));
    grid_button_->setCheckable(true);
    grid_button_->setIconSize({20, 20});
    grid_button_->setToolTip(tr("Several methods side by side (M)"));
    grid_button_->setAccessibleName(tr("Several methods side by side"));
    connect(grid_button_, &QToolButton::clicked, this, [this](bool on) { comparison_->setOpen(on); });
    row->addWidget(grid_button_);
    row->addStretch(1);
    search_button_ = new QToolButton;
    search_button_->setToolButtonStyle(Qt::ToolButtonTextBesideIcon);
    search_button_->setText(tr("Search"));
    search_button_->setToolTip(tr("Find a command (Ctrl+Shift+P)"));
    connect(search_button_, &QToolButton::clicked, this, &MainWindow::openCommands);
    row->addWidget(search_button_);
    column->addWidget(bar);
    thin_bar_ = new ThinBar;
    column->addWidget(thin_bar_);
    notice_ = new NoticeBar;
    column->addWidget(notice_);
    setMenuWidget(top);

    model_button_->setHint(tr("Choose or open a model"));
    model_button_->setItems(
        [this] {
            std::vector<ChoiceItem> items;
            const auto current = session_->model() ? text(session_->model()->request) : QString();
            if (Workbench::has_starter())
                items.push_back({tr("Starter, built in"),
                                 {},
                                 {},
                                 QStringLiteral("starter"),
                                 {},
                                 current == QLatin1String("starter"),
                                 {}});
            QString group = tr("Opened before");
            for (const auto& path : remembered(kModels)) {
                const QFileInfo file(path);
                items.push_back({file.fileName(),
                                 {},
                                 path,
                                 path,
                                 file.exists() ? QString() : tr("%1 is not there any more").arg(path),
                                 current == path,
                                 group});
                group.clear();
            }
            items.push_back(
                {tr("Open a file"), QStringLiteral("Ctrl+M"), {}, QStringLiteral("\nfile"), {}, false, tr("Open")});
            items.push_back({tr("Open a folder"),
                             {},
                             tr("A hub folder: config.json beside model.safetensors"),
                             QStringLiteral("\nfolder"),
                             {},
                             false,
                             {}});
            return items;
        },
        tr("Find a model"));
    connect(model_button_, &ChoiceButton::chosen, this, [this](const QVariant& value) {
        const auto what = value.toString();
        if (what == QLatin1String("\nfile")) return openModelFile();
        if (what == QLatin1String("\nfolder")) return openModelFolder();
        session_->openModel(what);
    });

    const auto classes = [this](bool versus) {
        std::vector<ChoiceItem> items;
        if (!session_->model()) return items;
        const auto region = [&] {
            items.push_back({tr("A region of the picture"),
                             tr("drag"),
                             tr("How active the model is there. A drag on the picture chooses it, too"),
                             kRegion,
                             session_->whyNoRegion(),
                             session_->region().has_value(),
                             {}});
        };
        if (session_->model()->classes == 0) {
            const auto& other = session_->other();
            items.push_back({other ? tr("Like %1").arg(other->name) : tr("Like a second picture\u2026"),
                             {},
                             {},
                             kLike,
                             {},
                             other && !session_->region(),
                             {}});
            region();
            return items;
        }
        const auto chosen = versus ? session_->versus() : session_->target();
        items.push_back({versus ? tr("None") : tr("The predicted class"),
                         {},
                         {},
                         qlonglong(-1),
                         {},
                         !chosen && (versus || !session_->region()),
                         {}});
        if (!versus) {
            const auto why = session_->region() ? tr("A region is explained, not a class") : QString();
            region();
            items.push_back({tr("One more class\u2026"),
                             {},
                             tr("The numbers of several classes are added"),
                             kMore,
                             why,
                             !session_->also().empty(),
                             {}});
            items.push_back({tr("As a probability"),
                             {},
                             tr("In place of the number that a method takes by itself, mostly the logit"),
                             kProbability,
                             why,
                             session_->probability(),
                             {}});
        }
        const auto& look = session_->look();
        const auto note = [&](std::int64_t index) {
            return look && index < static_cast<std::int64_t>(look->probabilities.size())
                       ? percent(look->probabilities[static_cast<std::size_t>(index)])
                       : QString();
        };
        const auto add = [&](std::int64_t index, const QString& group) {
            const bool same = versus && index == session_->explainedClass();
            items.push_back({session_->className(index), note(index), tr("Class %1").arg(index), qlonglong(index),
                             same ? tr("This is the class that is explained") : QString(),
                             chosen == index && (versus || !session_->region()), group});
        };
        if (look) {
            QString group = tr("Most probable");
            for (const auto& p : look->top) add(p.index, group), group.clear();
        }
        QString group = tr("All classes");
        for (std::int64_t i = 0; i < session_->model()->classes; ++i) add(i, group), group.clear();
        return items;
    };
    target_button_->setItems([classes] { return classes(false); }, tr("Find a class by name"));
    versus_button_->setItems([classes] { return classes(true); }, tr("Find a class by name"));
    target_button_->setHint(tr("The class that is explained"));
    versus_button_->setHint(tr("Explains the difference to this class"));
    const auto asIndex = [](const QVariant& value) -> std::optional<std::int64_t> {
        const auto index = value.toLongLong();
        return index < 0 ? std::nullopt : std::optional<std::int64_t>(index);
    };
    connect(target_button_, &ChoiceButton::chosen, this, [this, asIndex](const QVariant& value) {
        if (value.toLongLong() == kRegion) return actions_->region->trigger();
        if (value.toLongLong() == kLike) {
            session_->clearRegion();
            if (!session_->other()) openSecondPicture();
            return;
        }
        if (value.toLongLong() == kMore) return chooseAlso();
        if (value.toLongLong() == kProbability) return session_->setProbability(!session_->probability());
        session_->setTarget(asIndex(value));
    });
    connect(versus_button_, &ChoiceButton::chosen, this,
            [this, asIndex](const QVariant& value) { session_->setVersus(asIndex(value)); });

    method_button_->setHint(tr("How the answer is explained"));
    method_button_->setOpener([this] { MethodPicker::open(*session_, *comparison_, method_button_); });
}

void MainWindow::buildStage() {
    stage_ = new QStackedWidget;
    stage_->setObjectName(QStringLiteral("stage"));
    empty_ = new EmptyState;
    stage_->addWidget(empty_);
    message_ = new QFrame;
    message_->setObjectName(QStringLiteral("stage"));
    auto* column = new QVBoxLayout(message_);
    column->setContentsMargins(48, 48, 48, 48);
    column->setSpacing(8);
    column->addStretch(2);
    message_title_ = new QLabel;
    message_title_->setProperty("role", "title");
    message_title_->setAlignment(Qt::AlignCenter);
    message_text_ = new QLabel;
    message_text_->setProperty("role", "secondary");
    message_text_->setAlignment(Qt::AlignCenter);
    message_text_->setWordWrap(true);
    message_text_->setTextInteractionFlags(Qt::TextSelectableByMouse);
    column->addWidget(message_title_);
    column->addWidget(message_text_);
    column->addStretch(3);
    stage_->addWidget(message_);
    grid_ = new GridView(*session_, *comparison_, view_settings_);
    stage_->addWidget(grid_);
    connect(grid_, &GridView::methodsWanted, this,
            [this](QWidget* anchor) { MethodPicker::open(*session_, *comparison_, anchor); });
    connect(grid_, &GridView::shownAlone, this, [this](const QString& method) {
        comparison_->setOpen(false);
        session_->setMethod(method);
    });
    connect(comparison_, &Comparison::openChanged, this, [this](bool open) {
        grid_button_->setChecked(open);
        refreshTop(), refreshStage(), refreshActions();
    });
    connect(grid_, &GridView::pointed, this, [this] {
        concepts_->pointAt(grid_->point());
        refreshStatus();
    });
    buildGallery();
    setCentralWidget(stage_);
    connect(empty_, &EmptyState::openPictureWanted, this, &MainWindow::openPicture);
    connect(empty_, &EmptyState::openModelWanted, this, &MainWindow::openModelFile);
    connect(empty_, &EmptyState::recentWanted, this, [this](const QString& path) { session_->openPaths({path}); });
    makeViewport();
}

void MainWindow::buildGallery() {
    gallery_view_ = new GalleryView(*session_, *gallery_);
    stage_->addWidget(gallery_view_);
    connect(gallery_view_, &GalleryView::fileWanted, this, &MainWindow::openConcepts);
    connect(gallery_view_, &GalleryView::folderWanted, this, [this] {
        const auto folder = QFileDialog::getExistingDirectory(
            this, tr("Choose the pictures to index"),
            gallery_->folder().isEmpty() ? settings_->value(QStringLiteral("folders/pictures")).toString()
                                         : gallery_->folder());
        if (!folder.isEmpty()) gallery_->setFolder(folder);
    });
    connect(gallery_view_, &GalleryView::trainingWanted, this, [this] { openTraining(Trained::Concepts); });
    // The panel and the gallery show the same concepts.
    connect(session_, &Session::autoencoderReady, concepts_, &ConceptsOnShow::choose);
    connect(session_, &Session::conceptsWanted, this, [this](const QString& file) {
        Q_EMIT session_->autoencoderReady(file);
        openPanel(concepts_dock_);
    });
    connect(concepts_, &ConceptsOnShow::opened, gallery_, [this](const QString& file) {
        const auto& given = concepts_->source().given;
        if (file != gallery_->autoencoder() || given != gallery_->given()) gallery_->choose(file, given);
    });
    connect(gallery_, &ConceptGallery::gave, concepts_, [this](const std::string& name, const std::string& value) {
        if (concepts_->source().file == gallery_->autoencoder().toStdString()) concepts_->give(name, value);
    });
    connect(gallery_, &ConceptGallery::callChanged, concepts_, &ConceptsOnShow::reread);
    connect(gallery_, &ConceptGallery::built, concepts_, &ConceptsOnShow::reread);
    connect(gallery_view_, &GalleryView::onPictureWanted, this, [this](std::int64_t latent) {
        gallery_->setOpen(false);
        concepts_dock_->show();
        concepts_dock_->raise();
        if (concepts_->pinned() != latent) concepts_->pin(latent);
    });
    // Most like to be looked through with the pictures it was trained on.
    connect(session_, &Session::autoencoderReady, this, [this] {
        if (gallery_->folder().isEmpty()) gallery_->setFolder(concept_run_->data());
    });
    // Who opens a picture wants to see it.
    connect(session_, &Session::pictureChanged, gallery_, [this, last = std::filesystem::path()]() mutable {
        if (!session_->picture() || session_->picture()->file == last) return;
        if (!last.empty()) gallery_->setOpen(false);
        last = session_->picture()->file;
    });
    connect(gallery_, &ConceptGallery::openChanged, this, [this](bool open) {
        if (open && comparison_->isOpen()) comparison_->setOpen(false);
        refreshStage(), refreshActions();
    });
    connect(comparison_, &Comparison::openChanged, this, [this](bool open) {
        if (open) gallery_->setOpen(false);
    });
}

void MainWindow::makeViewport() {
    grid_->setGraphics(graphics_.get());
    if (!graphics_->ready()) return;
    viewport_ = new Viewport(graphics_.get());
    container_ = QWidget::createWindowContainer(viewport_);
    container_->setFocusPolicy(Qt::StrongFocus);
    container_->setMinimumSize(240, 180);
    stage_->addWidget(container_);
    connect(viewport_, &Viewport::pointed, this, [this](double x, double y, bool inside) {
        cursor_ = inside ? std::optional<Point>({x, y}) : std::nullopt;
        session_->hover(drawn_ ? std::nullopt : readingAt(cursor_).patch);
        concepts_->pointAt(drawn_ ? std::nullopt : cursor_);
        refreshScene();
        refreshStatus();
    });
    connect(viewport_, &Viewport::dragged, this, [this](const Box& photo, bool done) {
        if (tcav_->sets()->drawing()) {
            drawn_ = done ? std::nullopt : std::optional(photo);
            if (done) tcav_->sets()->draw(photo);
            return refreshScene();
        }
        if (concepts_->drawing()) {
            drawn_ = done ? std::nullopt : std::optional(photo);
            if (done) concepts_->draw(photo);
            return refreshScene();
        }
        if (const auto why = session_->whyNoRegion(); !why.isEmpty()) {
            if (done) hint(why);
            return;
        }
        if (!drawn_) session_->prepareRegion();
        drawn_ = photo;
        if (done) {
            drawn_.reset();
            session_->setRegion(photo);
            sayWhereRegionsCount();
        }
        refreshScene();
    });
    connect(viewport_, &Viewport::dragDropped, this, [this] {
        drawn_.reset();
        refreshScene();
    });
    connect(viewport_, &Viewport::clicked, this, [this](double x, double y) {
        const auto patch = readingAt(Point{x, y}).patch;
        if (!patch) return;
        session_->pin(session_->pinned() == patch ? std::nullopt : patch);
    });
    connect(viewport_, &Viewport::menuWanted, this, [this](const QPoint& at) {
        QMenu menu(this);
        menu.setToolTipsVisible(true);
        const auto patch = readingAt(cursor_).patch;
        auto* pin =
            menu.addAction(icon(QStringLiteral("pin")),
                           patch ? tr("Pin patch %1, %2").arg(patch->row).arg(patch->col) : tr("Pin this patch"));
        pin->setEnabled(patch.has_value());
        connect(pin, &QAction::triggered, this, [this, patch] { session_->pin(patch); });
        menu.addAction(actions_->unpin);
        menu.addSeparator();
        menu.addAction(actions_->copy_value);
        menu.addAction(actions_->copy_picture);
        menu.addAction(actions_->export_picture);
        menu.addSeparator();
        menu.addAction(actions_->fit);
        menu.addAction(actions_->one);
        menu.addAction(actions_->grid);
        menu.exec(at);
    });
    connect(viewport_, &Viewport::dropped, this, [this](const QStringList& paths) { session_->openPaths(paths); });
    connect(viewport_, &Viewport::viewChanged, this, &MainWindow::refreshStatus);
    connect(viewport_, &Viewport::keyWanted, this,
            [this](QKeyEvent* event) { handleKey(event, event->type() == QEvent::KeyPress); });
    connect(
        viewport_, &Viewport::failed, this,
        [this](const QString& sentence) {
            // A suspended laptop loses its device now and then; one that is lost at every frame is broken.
            if (last_loss_.isValid() && last_loss_.hasExpired(kDeviceLossesWithin_ms)) device_losses_ = 0;
            last_loss_.start();
            if (++device_losses_ <= kMostDeviceLosses) {
                hint(tr("The graphics device was lost and is being set up again."));
                replaceGraphics();
            } else {
                giveUpGraphics(
                    tr("The graphics device failed %1 times, the last time so: %2").arg(device_losses_).arg(sentence));
            }
        },
        Qt::QueuedConnection);
}

void MainWindow::dropViewport() {
    if (!container_) return;
    stage_->removeWidget(container_);
    delete container_;
    container_ = nullptr;
    viewport_ = nullptr;
}

void MainWindow::replaceGraphics() {
    std::optional<viz::ViewTransform> view;
    if (viewport_ && !viewport_->isFitted()) view = viewport_->scene().view;
    dropViewport();
    grid_->setGraphics(nullptr);
    graphics_ = std::make_unique<Graphics>();
    makeViewport();
    refreshStage();
    refreshScene();
    if (viewport_ && view) viewport_->takeView(*view);
}

void MainWindow::giveUpGraphics(const QString& why) {
    dropViewport();
    graphics_->giveUp(why);
    refreshStage();
    refreshActions();
}

void MainWindow::showMessage(const QString& title, const QString& sentence) {
    message_title_->setText(title);
    message_text_->setText(sentence);
    stage_->setCurrentWidget(message_);
}

void MainWindow::buildDocks() {
    const auto dock = [this](const QString& name, const QString& title, QWidget* widget, Qt::DockWidgetArea area) {
        auto* made = new QDockWidget(title, this);
        made->setObjectName(name);
        made->setWidget(widget);
        made->setFeatures(QDockWidget::DockWidgetMovable | QDockWidget::DockWidgetClosable);
        made->setTitleBarWidget(new DockTitle(made, this));
        addDockWidget(area, made);
        return made;
    };
    filmstrip_ = new Filmstrip(*session_);
    film_dock_ = dock(QStringLiteral("pictures"), tr("Pictures"), filmstrip_, Qt::LeftDockWidgetArea);
    explain_ = new ExplainPanel(*session_, *comparison_, view_settings_);
    explain_dock_ = dock(QStringLiteral("explain"), tr("Explain"), scrolled(explain_), Qt::RightDockWidgetArea);
    concepts_panel_ = new ConceptsPanel(*session_, *concepts_, view_settings_);
    concepts_panel_->setRecent([this] { return remembered(kConcepts); });
    concepts_dock_ =
        dock(QStringLiteral("concepts"), tr("Concepts"), scrolled(concepts_panel_), Qt::RightDockWidgetArea);
    connect(concepts_dock_, &QDockWidget::visibilityChanged, concepts_, &ConceptsOnShow::setLooking);
    connect(concepts_, &ConceptsOnShow::opened, this, [this](const QString& file) { remember(kConcepts, file); });
    connect(concepts_panel_, &ConceptsPanel::fileWanted, this, &MainWindow::openConcepts);
    connect(concepts_panel_, &ConceptsPanel::galleryWanted, gallery_, [this] { gallery_->setOpen(true); });
    connect(concepts_, &ConceptsOnShow::pointedChanged, this, &MainWindow::refreshActions);
    connect(concepts_panel_, &ConceptsPanel::saveWanted, this, &MainWindow::saveSteered);
    connect(session_, &Session::steerChanged, this, [this] { refreshTop(), refreshScene(), refreshActions(); });
    model_panel_ = new ModelPanel(*session_);
    model_dock_ = dock(QStringLiteral("model"), tr("Model"), scrolled(model_panel_), Qt::RightDockWidgetArea);
    map_ = new MapPanel(*session_, view_settings_);
    map_dock_ = dock(QStringLiteral("map"), tr("Map"), scrolled(map_), Qt::RightDockWidgetArea);
    train_ = new TrainPanel(*session_, *mask_run_, *concept_run_);
    train_dock_ = dock(QStringLiteral("train"), tr("Train"), scrolled(train_), Qt::RightDockWidgetArea);
    ladder_ = new LadderPanel(*session_, *gallery_);
    ladder_dock_ = dock(QStringLiteral("ladder"), tr("Ladder"), scrolled(ladder_), Qt::RightDockWidgetArea);
    connect(ladder_, &LadderPanel::folderWanted, this, [this] {
        const auto folder = QFileDialog::getExistingDirectory(this, tr("Choose the pictures"), ladder_->folder());
        if (!folder.isEmpty()) ladder_->setFolder(folder);
    });
    connect(ladder_, &LadderPanel::layerWanted, this, [this] {
        ladder_->addLayer(QFileDialog::getOpenFileName(this, tr("Choose an autoencoder of another layer"),
                                                       settings_->value(QStringLiteral("folders/concepts")).toString(),
                                                       tr("Autoencoders (*.safetensors *.pt *.pth);;All files (*)")));
    });
    connect(ladder_, &LadderPanel::conceptWanted, this, [this](std::int64_t latent) {
        gallery_->setOpen(true);
        gallery_view_->look(latent);
    });
    tcav_ = new TcavPanel(*session_);
    tcav_dock_ = dock(QStringLiteral("tcav"), tr("Concept test"), scrolled(tcav_), Qt::RightDockWidgetArea);
    connect(tcav_dock_, &QDockWidget::visibilityChanged, tcav_, &TcavPanel::setLooking);
    connect(tcav_->sets(), &TcavSets::drawingChanged, this, [this] { refreshScene(), refreshActions(); });
    keys_ = new ShortcutSheet;
    keys_dock_ = dock(QStringLiteral("keys"), tr("Keys"), scrolled(keys_), Qt::RightDockWidgetArea);
    head_strip_ = new HeadStrip(*session_);
    head_strip_->setColours(view_settings_.colours);
    strip_dock_ = dock(QStringLiteral("heads"), tr("Layers and heads"), head_strip_, Qt::BottomDockWidgetArea);
    layer_strip_ = new LayerStrip(*layer_maps_, view_settings_);
    layers_dock_ = dock(QStringLiteral("layers"), tr("Layers of the method"), layer_strip_, Qt::BottomDockWidgetArea);
    concept_strip_ = new ConceptStrip(*concepts_, view_settings_);
    concept_layers_dock_ =
        dock(QStringLiteral("conceptLayers"), tr("Concepts by layer"), concept_strip_, Qt::BottomDockWidgetArea);
    connect(concept_layers_dock_, &QDockWidget::visibilityChanged, concepts_, &ConceptsOnShow::setLookingAtLayers);
    measures_ = new MeasuresPanel(*session_, *comparison_, *seen_through_);
    measures_dock_ = dock(QStringLiteral("measures"), tr("Measures"), measures_, Qt::BottomDockWidgetArea);
    // A dock behind another's tab is no hidden widget, but its own signal knows: nothing is computed that nobody sees.
    connect(measures_dock_, &QDockWidget::visibilityChanged, comparison_, &Comparison::setMeasuring);
    connect(measures_dock_, &QDockWidget::visibilityChanged, seen_through_, &SeenThrough::setLooking);
    connect(layers_dock_, &QDockWidget::visibilityChanged, layer_maps_, &LayerMaps::setLooking);
    for (auto* run : {mask_run_, concept_run_}) {
        connect(train_dock_, &QDockWidget::visibilityChanged, run, &TrainingRun::setLooking);
        connect(run, &TrainingRun::moved, this, &MainWindow::refreshJobs);
    }
    connect(ladder_, &LadderPanel::moved, this, &MainWindow::refreshJobs);
    connect(tcav_, &TcavPanel::moved, this, &MainWindow::refreshJobs);
    connect(gallery_, &ConceptGallery::buildMoved, this, &MainWindow::refreshJobs);
    connect(train_, &TrainPanel::folderWanted, this, &MainWindow::chooseTrainingFolder);
    connect(train_, &TrainPanel::fileWanted, this, &MainWindow::chooseTrainingFile);
    connect(explain_, &ExplainPanel::settingsChanged, this, &MainWindow::settingsChanged);
    connect(explain_, &ExplainPanel::secondPictureWanted, this, &MainWindow::openSecondPicture);
    connect(explain_, &ExplainPanel::insideWanted, this, [this] { openPanel(layers_dock_); });
}

void MainWindow::resetLayout() {
    panels_hidden_ = false;
    for (auto* dock : {film_dock_, explain_dock_, concepts_dock_, model_dock_, map_dock_, train_dock_, ladder_dock_,
                       tcav_dock_, keys_dock_, strip_dock_, layers_dock_, concept_layers_dock_, measures_dock_}) {
        dock->setFloating(false);
        removeDockWidget(dock);
    }
    addDockWidget(Qt::LeftDockWidgetArea, film_dock_);
    addDockWidget(Qt::RightDockWidgetArea, explain_dock_);
    addDockWidget(Qt::RightDockWidgetArea, concepts_dock_);
    addDockWidget(Qt::RightDockWidgetArea, model_dock_);
    addDockWidget(Qt::RightDockWidgetArea, map_dock_);
    addDockWidget(Qt::RightDockWidgetArea, train_dock_);
    addDockWidget(Qt::RightDockWidgetArea, ladder_dock_);
    addDockWidget(Qt::RightDockWidgetArea, tcav_dock_);
    addDockWidget(Qt::RightDockWidgetArea, keys_dock_);
    for (auto* dock : {strip_dock_, layers_dock_, concept_layers_dock_, measures_dock_})
        addDockWidget(Qt::BottomDockWidgetArea, dock);
    tabifyDockWidget(strip_dock_, layers_dock_);
    tabifyDockWidget(layers_dock_, concept_layers_dock_);
    tabifyDockWidget(concept_layers_dock_, measures_dock_);
    tabifyDockWidget(explain_dock_, concepts_dock_);
    tabifyDockWidget(explain_dock_, model_dock_);
    tabifyDockWidget(explain_dock_, map_dock_);
    tabifyDockWidget(explain_dock_, train_dock_);
    tabifyDockWidget(explain_dock_, ladder_dock_);
    tabifyDockWidget(explain_dock_, tcav_dock_);
    tabifyDockWidget(explain_dock_, keys_dock_);
    for (auto* dock : {film_dock_, explain_dock_, concepts_dock_, model_dock_, map_dock_, strip_dock_, layers_dock_,
                       concept_layers_dock_, measures_dock_})
        dock->show();
    train_dock_->hide();
    ladder_dock_->hide();
    tcav_dock_->hide();
    keys_dock_->hide();
    explain_dock_->raise();
    strip_dock_->raise();
    resizeDocks({film_dock_, explain_dock_}, {104, 304}, Qt::Horizontal);
    resizeDocks({strip_dock_}, {168}, Qt::Vertical);
    for (auto* title : findChildren<DockTitle*>()) title->settle();
}

void MainWindow::openPanel(QDockWidget* dock) {
    if (panels_hidden_) hidePanels(false);
    dock->show();
    dock->raise();
}

void MainWindow::hidePanels(bool hide) {
    if (hide == panels_hidden_) return;
    panels_hidden_ = hide;
    if (hide) {
        before_hiding_ = saveState(kLayout);
        for (auto* dock : findChildren<QDockWidget*>()) dock->hide();
    } else {
        restoreState(before_hiding_, kLayout);
    }
    actions_->hide->setChecked(hide);
}

void MainWindow::buildStatus() {
    const auto label = [this](int width) {
        auto* made = new ReservedLabel(width);  // space is kept, so that nothing jumps when a value arrives
        made->setFont(mono(11));
        return made;
    };
    const auto left = [&](int width) {
        auto* made = label(width);
        statusBar()->addWidget(made);
        return made;
    };
    statusBar()->setSizeGripEnabled(false);
    statusBar()->setContentsMargins(8, 0, 8, 0);
    status_value_ = left(176);
    status_place_ = left(136);
    status_work_ = left(232);
    status_size_ = left(80);
    status_value_->setObjectName(QStringLiteral("statusValue"));
    status_place_->setObjectName(QStringLiteral("statusPlace"));
    status_jobs_ = label(96);
    status_jobs_->setObjectName(QStringLiteral("statusJobs"));
    status_jobs_->setAlignment(Qt::AlignRight | Qt::AlignVCenter);
    stop_button_ = new QToolButton;
    stop_button_->setIconSize({14, 14});
    stop_button_->setAccessibleName(tr("Stop the work"));
    connect(stop_button_, &QToolButton::clicked, session_, &Session::cancelAll);
    statusBar()->addPermanentWidget(status_jobs_, 1);  // what is left
    statusBar()->addPermanentWidget(stop_button_);
}

// ---- refreshing -----------------------------------------------------------------------------------------------------

void MainWindow::restyle() {
    search_button_->setIcon(icon(QStringLiteral("search")));
    grid_button_->setIcon(icon(QStringLiteral("grid")));
    grid_->restyle();
    gallery_view_->restyle();
    search_button_->setIconSize({16, 16});
    stop_button_->setIcon(icon(QStringLiteral("stop")));
    actions_->export_picture->setIcon(icon(QStringLiteral("save")));
    actions_->copy_picture->setIcon(icon(QStringLiteral("copy")));
    actions_->fit->setIcon(icon(QStringLiteral("fit")));
    notice_->restyle();
    for (auto* title : findChildren<DockTitle*>()) title->restyle();
    tabs_->restyle();
    explain_->restyle();
    model_panel_->refresh();
    map_->restyle();
    layer_strip_->restyle();
    measures_->restyle();
    train_->restyle();
    ladder_->restyle();
    tcav_->restyle();
    concepts_panel_->restyle();
    empty_->setState(session_->model().has_value(), session_->model() ? text(session_->model()->title) : QString(),
                     remembered(kPictures) + remembered(kModels));
    update();
}

void MainWindow::setTheme(Theme::Choice choice) {
    settings_->setValue(QStringLiteral("theme"), Theme::nameOf(choice));
    Theme::apply(*qApp, choice);
    restyle();
    refreshScene();
}

void MainWindow::settingsChanged() {
    settings_->setValue(QStringLiteral("view/opacity"), view_settings_.opacity);
    settings_->setValue(QStringLiteral("view/grid"), view_settings_.grid);
    settings_->setValue(QStringLiteral("view/colours"),
                        QString::fromStdString(std::string(viz::name_of(view_settings_.colours))));
    head_strip_->setColours(view_settings_.colours);
    map_->restyle();
    grid_->refresh();
    layer_strip_->restyle();
    explain_->refresh();
    concepts_panel_->restyle();
    refreshScene();
    refreshActions();
}

void MainWindow::refreshTop() {
    const auto& model = session_->model();
    const auto explained = session_->explainedClass();
    const auto& look = session_->look();
    model_button_->setFace(QStringLiteral("model"), {}, model ? text(model->title) : tr("No model"),
                           !model                           ? QString()
                           : look && !look->steered.empty() ? tr("steered")
                                                            : rough(model->parameters));
    QString share, classes;
    if (explained) {
        double sum = 0;
        QStringList names;
        auto all = session_->also();
        all.insert(all.begin(), *explained);
        for (const auto index : all) {
            names << session_->className(index);
            if (look && index < static_cast<std::int64_t>(look->probabilities.size()))
                sum += look->probabilities[static_cast<std::size_t>(index)];
        }
        classes = names.join(QStringLiteral(" + "));
        if (look) share = percent(sum);
    }
    const auto& region = session_->region();
    if (region) share = tr("%1 \u00d7 %2").arg(region->to_row - region->row + 1).arg(region->to_col - region->col + 1);
    target_button_->setFace({}, session_->probability() && explained ? tr("probability of") : tr("why"),
                            region      ? tr("region %1").arg(wordsOf(*region))
                            : explained ? classes
                            : model && model->classes == 0
                                ? session_->other() ? tr("like %1").arg(session_->other()->name) : tr("no classes")
                                : tr("no answer yet"),
                            share);
    QString why_not;
    if (!model) why_not = tr("Open a model first");
    target_button_->setReason(why_not);
    target_button_->setHint(
        !model || model->classes > 0
            ? tr("The class that is explained, or a region of the picture")
            : tr("This model has no classes: a second picture to be like, or a region, is explained"));
    if (model && model->classes == 0)
        why_not = tr("This model has no classes that could be compared");
    else if (region)
        why_not = tr("A region is explained, not a class");
    const auto* method = session_->methodFacts();
    if (why_not.isEmpty() && method && !method->class_specific)
        why_not = tr("%1 does not depend on the class").arg(text(method->title));
    versus_button_->setFace({}, tr("vs"), session_->versus() ? session_->className(*session_->versus()) : tr("none"));
    versus_button_->setReason(why_not);
    method_button_->setFace(QStringLiteral("spark"), {}, method ? text(method->title) : tr("No method"));
    method_button_->setReason(!model                   ? tr("Open a model first")
                              : model->methods.empty() ? tr("This build has no methods")
                                                       : QString());
    const auto& picture = session_->picture();
    QStringList title;
    if (picture) title << text(picture->name);
    if (model) title << text(model->title);
    title << QStringLiteral("Vitrine");
    setWindowTitle(title.join(QStringLiteral(" \u2013 ")));
}

void MainWindow::refreshStage() {
    empty_->setState(session_->model().has_value(), session_->model() ? text(session_->model()->title) : QString(),
                     remembered(kPictures) + remembered(kModels));
    if (gallery_->isOpen()) {
        stage_->setCurrentWidget(gallery_view_);
    } else if (!session_->picture()) {
        stage_->setCurrentWidget(empty_);
    } else if (comparison_->isOpen()) {
        stage_->setCurrentWidget(grid_);
    } else if (viewport_) {
        if (stage_->currentWidget() != container_) {
            stage_->setCurrentWidget(container_);
            container_->setFocus();
        }
    } else {
        showMessage(
            tr("The picture cannot be drawn here"),
            tr("%1. Drawing needs a Vulkan driver; the package mesa-vulkan-drivers brings one for every processor. The "
               "panels work, and so does the command line: vitrine explain MODEL PICTURE --method rollout --out DIR")
                .arg(graphics_->trouble()));
    }
}

Reading MainWindow::readingAt(const std::optional<Point>& photo) const {
    return reading_at(*session_, session_->shown(), photo);
}

/// A range that was set by hand is another map's where a concept is lit.
ViewSettings MainWindow::settingsOfShown() const {
    auto settings = view_settings_;
    if (session_->lit()) settings.range.reset();
    return settings;
}

viz::Scene MainWindow::composeScene() const {
    auto scene = compose(*session_, settingsOfShown(), session_->shown(),
                         !session_->lit() && session_->showsExplanation() && session_->stale());
    scene.bare = bare_;
    if (const auto& lit = session_->lit(); lit && !lit->together.empty())
        lay_concepts(scene, view_settings_, lit->together);
    if (const auto box = concepts_->steered(); box && !scene.region) scene.region = box;
    if (tcav_->sets()->drawing()) {
        scene.region = tcav_->sets()->box(drawn_);
    } else if (drawn_ && concepts_->drawing()) {
        const auto region = concepts_->regionUnder(*drawn_);
        scene.region =
            region ? std::optional(session_->boxOf(*region, concepts_->picture().rows(), concepts_->picture().cols()))
                   : std::nullopt;
    } else if (drawn_) {
        // In whole cells, as it will be; freely while it is not known which there are.
        const auto region = session_->regionUnder(*drawn_);
        scene.region = region                    ? std::optional(session_->boxOf(*region))
                       : session_->regionCells() ? std::nullopt
                                                 : drawn_;
    }
    return scene;
}

viz::Hud MainWindow::composeHud() const {
    viz::Hud hud;
    if (!session_->picture() || bare_) return hud;
    const auto& look = session_->look();
    if (!look) {
        hud.notice = (session_->looking() ? tr("Running the model")
                      : session_->model() ? QString()
                                          : tr("Open a model to see what it attends to"))
                         .toStdString();
        return hud;
    }
    const auto* plane = session_->shown();
    const auto& lit = session_->lit();
    const bool explanation = session_->showsExplanation();
    if (lit) {
        hud.what = lit->title.toStdString();
        hud.timing = lit->aside.toStdString();
        if (lit->plane.low == 0 && lit->plane.high == 0)
            hud.notice =
                (lit->aside.isEmpty() ? tr("Silent on this picture") : tr("Silent on the patches")).toStdString();
    } else if (explanation) {
        if (const auto* method = session_->methodFacts()) hud.what = method->title;
        if (session_->explaining()) hud.notice = tr("Computing %1").arg(QString::fromStdString(hud.what)).toStdString();
        if (!session_->explainTrouble().isEmpty()) hud.notice = session_->explainTrouble().toStdString();
        // What is drawn bears its own name until the method that was chosen has a map.
        if (const auto& found = session_->explanation()) {
            hud.what = found->title;
            hud.timing = (text(found->implementation) + QLatin1Char(' ') + duration(found->milliseconds)).toStdString();
        }
    } else if (const auto& row = session_->row()) {
        hud.what = (row->head < 0 ? tr("layer %1 mean").arg(row->layer)
                                  : tr("layer %1 head %2").arg(row->layer).arg(row->head))
                       .toStdString();
        hud.timing = (text(row->implementation) + QLatin1Char(' ') + duration(row->milliseconds)).toStdString();
    }
    if (!lit && !look->steered.empty()) hud.what += tr(", steered").toStdString();
    if (!lit && session_->showsOriginal()) hud.what += tr(", original").toStdString();
    const auto reading = readingAt(cursor_);
    hud.value = reading.words().toStdString();
    if (reading.inside)
        hud.where =
            (reading.pixel ? tr("pixel %1, %2") : tr("patch %1, %2")).arg(reading.row).arg(reading.col).toStdString();
    else if (!explanation && !lit)
        hud.where = session_->asked().is_patch()
                        ? tr("of patch %1, %2").arg(session_->asked().row).arg(session_->asked().col).toStdString()
                        : look->readout;
    if (plane && plane->colours) {
        hud.what = tr("colours: %1").arg(text(plane->colours_mean)).toStdString();
    } else if (plane) {
        hud.upsampling = std::string(viz::name_of(view_settings_.upsampling));
        hud.unit = explanation || lit ? hud.what : "attention";
        hud.show_colour_bar = !lit || lit->together.empty();  // several have a colour each
        hud.scale = scale_of(*plane, settingsOfShown());
        hud.colours = colours_of(*plane, view_settings_);
    }
    return hud;
}

void MainWindow::refreshScene() {
    if (viewport_) viewport_->setScene(composeScene(), composeHud());
}

void MainWindow::refreshStatus() {
    const auto reading = readingAt(comparison_->isOpen() ? grid_->point() : cursor_);
    if (reading.inside) {
        auto words = (reading.pixel ? tr("pixel %1,%2") : tr("patch %1,%2")).arg(reading.row).arg(reading.col);
        if (reading.has_value) words += QStringLiteral("  ") + reading.words();
        status_value_->setText(words);
    } else if (cursor_ && session_->look()) {
        status_value_->setText(tr("not seen by the model"));
    } else {
        status_value_->setText(session_->pinned()
                                   ? tr("pinned patch %1,%2").arg(session_->pinned()->row).arg(session_->pinned()->col)
                                   : QString());
    }
    QString place, work;
    if (session_->lit()) {
        place = session_->lit()->title;
    } else if (session_->look() && session_->showsExplanation()) {
        if (const auto* method = session_->methodFacts()) place = text(method->title).toLower();
        if (const auto& found = session_->explanation()) {
            place = text(found->title).toLower();
            work = text(found->implementation) + QLatin1Char(' ') + duration(found->milliseconds);
        }
    } else if (const auto& row = session_->row(); row && session_->look()) {
        place =
            row->head < 0 ? tr("layer %1 mean").arg(row->layer) : tr("layer %1 head %2").arg(row->layer).arg(row->head);
        work = text(row->implementation) + QLatin1Char(' ') + duration(row->milliseconds);
    }
    status_place_->setText(place);
    status_work_->setText(work);
    status_work_->setToolTip(tr("What computed the map that is shown, and how long it took"));
    status_size_->setText(
        session_->look() && session_->look()->capture_bytes > 0 ? bytes(session_->look()->capture_bytes) : QString());
    status_size_->setToolTip(tr("Kept of the run, so that maps can be computed when they are looked at"));
}

/// What runs beside the window's own work, each started and stopped in a panel.
QStringList MainWindow::underWay() const {
    QStringList out;
    const auto add = [&](bool busy, const QString& what, double share) {
        if (busy) out << (share < 0 ? what : tr("%1  %2 %").arg(what).arg(static_cast<int>(100 * share)));
    };
    for (const auto* run : {mask_run_, concept_run_}) {
        const auto& now = run->moment();
        add(run->busy(), run == mask_run_ ? tr("Training a mask") : tr("Training concepts"),
            now && now->steps > 0 ? static_cast<double>(now->step) / static_cast<double>(now->steps) : -1);
    }
    add(ladder_->climbing(), tr("From signal to noise"), ladder_->share());
    add(tcav_->running(), tr("Testing concepts"), tcav_->share());
    add(gallery_->building(), tr("Building the index"), gallery_->buildShare());
    return out;
}

void MainWindow::refreshJobs() {
    const auto jobs = session_->jobs();
    const bool busy = !jobs.running.empty() && !jobs.title.empty();
    double share = -1;
    if (jobs.progress.total > 0)
        share = static_cast<double>(jobs.progress.done) / static_cast<double>(jobs.progress.total);
    thin_bar_->setProgress(busy, share);
    QString words = tr("jobs: none");
    if (busy) {
        words = text(jobs.title);
        if (jobs.progress.total > 0)
            words += tr("  %1 of %2 %3").arg(jobs.progress.done).arg(jobs.progress.total).arg(text(jobs.progress.unit));
    } else if (jobs.waiting > 1) {
        words = tr("jobs: %1").arg(jobs.waiting);
    } else if (const auto runs = underWay(); !runs.isEmpty()) {
        words = runs.size() == 1 ? runs.front() : tr("%1, and %2 more").arg(runs.front()).arg(runs.size() - 1);
    }
    status_jobs_->setText(words);
    stop_button_->setEnabled(busy || jobs.waiting > 1);
    stop_button_->setToolTip(stop_button_->isEnabled() ? tr("Stop the work (Shift+F5)") : tr("Nothing is running"));
}

void MainWindow::refreshActions() {
    auto& a = *actions_;
    const bool picture = session_->picture().has_value(), look = session_->look().has_value();
    const bool layers = look && !session_->look()->heads.empty();
    const auto enable = [](QAction* action, bool on, const QString& why_not) {
        action->setEnabled(on);
        action->setToolTip(on ? QString() : why_not);
    };
    const auto no_picture = tr("Open a picture first"), no_answer = tr("It needs a model and a picture"),
               no_layers = tr("There are no attention layers to step through");
    enable(a.export_picture, picture && graphics_->ready(), graphics_->ready() ? no_picture : graphics_->trouble());
    enable(a.export_map, session_->shown() != nullptr, no_answer);
    const bool grid = comparison_->isOpen();
    for (auto* action : {a.fit, a.one, a.zoom_in, a.zoom_out})
        enable(action, picture && (viewport_ || grid), viewport_ ? no_picture : graphics_->trouble());
    enable(a.copy_picture, picture && viewport_ && !grid,
           grid        ? tr("It copies the picture of one map")
           : viewport_ ? no_picture
                       : graphics_->trouble());
    enable(a.grid, !look || session_->look()->grid_rows > 0, tr("This model has no patches"));
    enable(a.copy_value, look, no_answer);
    const bool pinned_concept = concepts_->pinned() >= 0 || concepts_->drawing() || tcav_->sets()->drawing();
    const bool steered = session_->steering().active();
    enable(a.compare_flip, steered, tr("Nothing is steered: the Concepts panel does that"));
    a.compare_flip->setChecked(session_->showsOriginal());
    const auto& steps = history_->stack();
    const auto step_words = [](const QString& words, const QString& step) {
        return step.isEmpty() ? words : words + QStringLiteral(": ") + step;
    };
    a.undo->setText(step_words(tr("Undo"), steps.undoText()).replace(QLatin1Char('&'), QStringLiteral("&&")));
    a.redo->setText(step_words(tr("Redo"), steps.redoText()).replace(QLatin1Char('&'), QStringLiteral("&&")));
    enable(a.undo, steps.canUndo(), tr("Nothing was done to concepts yet"));
    enable(a.redo, steps.canRedo(), tr("Nothing was taken back"));
    enable(a.unpin, session_->pinned().has_value() || grid || session_->region() || pinned_concept,
           tr("Nothing is pinned"));
    a.unpin->setText(session_->region() && !session_->pinned() ? tr("Clear the region") : tr("Unpin"));
    for (auto* action : {a.several, a.methods}) enable(action, session_->model().has_value(), tr("Open a model first"));
    a.several->setChecked(grid);
    a.gallery->setChecked(gallery_->isOpen());
    grid_button_->setEnabled(session_->model().has_value());
    grid_button_->setToolTip(grid_button_->isEnabled() ? tr("Several methods side by side (M)")
                                                       : tr("Open a model first"));
    for (auto* action : {a.layer_up, a.layer_down, a.head_up, a.head_down, a.flip})
        enable(action, layers, look ? no_layers : no_answer);
    enable(a.target, session_->model().has_value(), tr("Open a model first"));
    enable(a.region, session_->whyNoRegion().isEmpty(), session_->whyNoRegion());
    enable(a.again, look || session_->asking(), no_answer);
    enable(a.starter, Workbench::has_starter(), tr("The built-in model is not part of this build"));
    a.grid->setChecked(view_settings_.grid);
    a.solid->setChecked(view_settings_.solid);
    a.live->setChecked(session_->live());
}

// ---- doing ----------------------------------------------------------------------------------------------------------

/// What stands beside an export says how to make it again, which is not known of a map that is still on its way.
Status MainWindow::settled() const {
    if (!session_->lit() && session_->showsExplanation() && session_->explaining())
        return fail(ErrorCode::Unsupported, "the map is still being computed: export it when it is there, or stop it");
    return {};
}

Status MainWindow::exportPicture(const QString& file) {
    if (!session_->picture()) return fail(ErrorCode::NotFound, "there is no picture to export: open one");
    VITRINE_CHECK(settled());
    auto* compositor = VITRINE_TRY(graphics_->compositor());
    auto scene = composeScene();
    const auto width = scene.picture.width, height = scene.picture.height;
    scene.view.centre = {static_cast<double>(width) / 2, static_cast<double>(height) / 2};
    scene.view.zoom = 1;
    scene.hovered.reset();  // the cursor is no part of the picture; what was pinned is
    scene.display_scale = 1;
    const auto drawn = VITRINE_TRY(compositor->render(scene, width, height));
    QImage image(drawn.pixels.data(), static_cast<int>(drawn.width), static_cast<int>(drawn.height),
                 static_cast<qsizetype>(drawn.width * 3), QImage::Format_RGB888);
    const auto words = manifest();
    for (const auto& key : words.keys()) image.setText(key, words[key].toString());
    // Beside and renamed: a reader sees the old file or the new one.
    const auto part = file + QStringLiteral(".part");
    if (!image.save(part, "PNG"))
        return fail(ErrorCode::Io, "{} cannot be written: is the folder there, and is there space?",
                    file.toStdString());
    std::error_code error;
    std::filesystem::rename(part.toStdString(), file.toStdString(), error);
    if (error) return fail(ErrorCode::Io, "{} cannot be replaced: {}", file.toStdString(), error.message());
    return {};
}

Status MainWindow::exportMap(const QString& file) {
    const auto* plane = session_->shown();
    if (!plane) return fail(ErrorCode::NotFound, "there is no map to export: it needs a model and a picture");
    VITRINE_CHECK(settled());
    const std::int64_t shape[] = {plane->rows, plane->cols}, of_colours[] = {3, plane->rows, plane->cols};
    std::filesystem::path path = file.toStdString();
    VITRINE_CHECK(write_npy(path, plane->values->data(), shape));
    VITRINE_CHECK(writeManifest(file));
    if (!plane->colours) return {};
    return write_npy(path.replace_extension(".colours.npy"), plane->colours->data(), of_colours);
}

QJsonObject MainWindow::manifest() const {
    const auto& model = session_->model();
    const auto& picture = session_->picture();
    const auto& found = session_->explanation();
    const auto& lit = session_->lit();
    if (!model || !picture || (!lit && (!found || !session_->showsExplanation()))) return {};
    const auto wanted = lit ? lit->wanted : session_->wanted(text(found->method));
    QJsonObject out{
        {QStringLiteral("vitrine"), QStringLiteral(VITRINE_APP_VERSION)},
        {QStringLiteral("model"), text(model->request)},
        {QStringLiteral("image"), text(picture->file.string())},
        {QStringLiteral("method"), text(wanted.method)},
        {QStringLiteral("explained"), lit ? lit->title : text(found->explained)},
        {QStringLiteral("command"), text(command_line(model->request, model->classes, picture->file, wanted))}};
    // The command line opens what was saved; what is steered only here it cannot make again.
    if (const auto& look = session_->look(); wanted.steer.active() && look) {
        out[QStringLiteral("steered")] = text(look->steered);
        out.remove(QStringLiteral("command"));
    }
    if (!lit && found->partial) out[QStringLiteral("partial")] = QStringLiteral("stopped before its end");
    if (wanted.region) {
        out[QStringLiteral("region")] = text(wanted.region->text());
        if (session_->regionCells()) out[QStringLiteral("point")] = text(session_->regionCells()->point);
    }
    return out;
}

/// Beside the map: NAME.npy and NAME.json.
Status MainWindow::writeManifest(const QString& map) const {
    const auto words = manifest();
    if (words.isEmpty()) return {};
    std::filesystem::path path = map.toStdString();
    QSaveFile file(text(path.replace_extension(".json").string()));
    const auto bytes = QJsonDocument(words).toJson();
    if (!file.open(QIODevice::WriteOnly) || file.write(bytes) != bytes.size() || !file.commit())
        return fail(ErrorCode::Io, "{} cannot be written: {}", path.string(), file.errorString().toStdString());
    return {};
}

QString MainWindow::suggestedName(const QString& ending) const {
    const auto& picture = session_->picture();
    if (!picture) return {};
    const QFileInfo file(text(picture->file.string()));
    const auto folder = settings_->value(QStringLiteral("folders/export"), QDir::homePath()).toString();
    QString what = session_->lit()                ? QStringLiteral("concept%1").arg(session_->lit()->number)
                   : session_->showsExplanation() ? session_->method()
                                                  : QStringLiteral("layer%1").arg(session_->layer());
    if (!session_->lit() && !session_->showsExplanation() && session_->head() >= 0)
        what += QStringLiteral("_head%1").arg(session_->head());
    return QStringLiteral("%1/%2_%3.%4").arg(folder, file.completeBaseName(), what, ending);
}

void MainWindow::tell(const Error& error) {
    Notice notice{Notice::Kind::Failure, text(error.message), {}};
    if (!notice.sentence.isEmpty()) notice.sentence[0] = notice.sentence[0].toUpper();
    notice_->show(notice);
}

void MainWindow::hint(const QString& sentence) {
    notice_->show({Notice::Kind::Hint, sentence, {}});
    QTimer::singleShot(8000, this, [this, sentence] {
        if (notice_->sentence() == sentence) notice_->dismiss();
    });
}

void MainWindow::openPicture() {
    const auto files = QFileDialog::getOpenFileNames(
        this, tr("Open picture"), settings_->value(QStringLiteral("folders/pictures")).toString(), pictureFilter());
    if (files.isEmpty()) return;
    settings_->setValue(QStringLiteral("folders/pictures"), QFileInfo(files.front()).absolutePath());
    session_->openPaths(files);
}

void MainWindow::openSecondPicture() {
    const auto file =
        QFileDialog::getOpenFileName(this, tr("Choose the second picture"),
                                     settings_->value(QStringLiteral("folders/pictures")).toString(), pictureFilter());
    if (file.isEmpty()) return;
    settings_->setValue(QStringLiteral("folders/pictures"), QFileInfo(file).absolutePath());
    session_->setOther(file);
}

void MainWindow::openPictureFolder() {
    const auto folder = QFileDialog::getExistingDirectory(
        this, tr("Open folder of pictures"), settings_->value(QStringLiteral("folders/pictures")).toString());
    if (folder.isEmpty()) return;
    settings_->setValue(QStringLiteral("folders/pictures"), folder);
    session_->openPaths({folder});
}

void MainWindow::openModelFile() {
    const auto file = QFileDialog::getOpenFileName(
        this, tr("Open model"), settings_->value(QStringLiteral("folders/models")).toString(), modelFilter());
    if (file.isEmpty()) return;
    settings_->setValue(QStringLiteral("folders/models"), QFileInfo(file).absolutePath());
    session_->openPaths({file});  // the same endings are those of autoencoders
}

void MainWindow::openModelFolder() {
    const auto folder = QFileDialog::getExistingDirectory(
        this, tr("Open model folder"), settings_->value(QStringLiteral("folders/models")).toString());
    if (folder.isEmpty()) return;
    settings_->setValue(QStringLiteral("folders/models"), QFileInfo(folder).absolutePath());
    session_->openModel(folder);
}

/// A region that changes nothing would look like a fault.
void MainWindow::sayWhereRegionsCount() {
    const auto* method = session_->methodFacts();
    if (method && !method->class_specific)
        hint(tr("%1 does not depend on what is explained; gradients and class activation maps do")
                 .arg(text(method->title)));
}

void MainWindow::chooseAlso() {
    std::vector<ChoiceItem> items;
    const auto& also = session_->also();
    for (std::int64_t i = 0; session_->model() && i < session_->model()->classes; ++i) {
        const bool same = i == session_->explainedClass();
        items.push_back({session_->className(i),
                         {},
                         tr("Class %1").arg(i),
                         qlonglong(i),
                         same ? tr("This is the class that is explained") : QString(),
                         std::find(also.begin(), also.end(), i) != also.end(),
                         {}});
    }
    openChoices(target_button_, target_button_->mapToGlobal(QPoint(0, target_button_->height() + 4)),
                std::max(target_button_->width(), 320), tr("Find a class by name"), std::move(items),
                [this](const QVariant& value) { session_->toggleAlso(value.toLongLong()); });
}

void MainWindow::openTraining(Trained what) {
    train_->show(what);
    openPanel(train_dock_);
    train_->setFocus();
}

void MainWindow::chooseTrainingFolder() {
    const auto before = train_->run().data();
    const auto folder = QFileDialog::getExistingDirectory(
        this, tr("Choose the pictures to train on"),
        before.isEmpty() ? settings_->value(QStringLiteral("folders/pictures")).toString() : before);
    if (!folder.isEmpty()) train_->run().setData(folder);
}

void MainWindow::chooseTrainingFile() {
    const auto file =
        QFileDialog::getSaveFileName(this, tr("Write to"), train_->run().out(), tr("Tensors (*.safetensors)"));
    if (!file.isEmpty()) train_->run().setOut(file);
}

void MainWindow::openConcepts() {
    const auto file = QFileDialog::getOpenFileName(this, tr("Open an autoencoder"),
                                                   settings_->value(QStringLiteral("folders/concepts")).toString(),
                                                   tr("Autoencoders (*.safetensors *.pt *.pth);;All files (*)"));
    if (file.isEmpty()) return;
    settings_->setValue(QStringLiteral("folders/concepts"), QFileInfo(file).absolutePath());
    Q_EMIT session_->autoencoderReady(file);
}

void MainWindow::saveSteered() {
    const auto& model = session_->model();
    if (!model) return;
    const QFileInfo opened(text(model->request));
    const auto folder = opened.exists()
                            ? opened.absolutePath()
                            : settings_->value(QStringLiteral("folders/models"), QDir::homePath()).toString();
    auto file = QFileDialog::getSaveFileName(
        this, tr("Save the steered model"), QStringLiteral("%1/%2.steered.json").arg(folder, opened.completeBaseName()),
        tr("Steered models (*.steered.json)"));
    if (file.isEmpty()) return;
    if (!file.endsWith(QLatin1String(".steered.json"))) file += QStringLiteral(".steered.json");
    session_->saveSteered(file);
}

void MainWindow::step(bool again) {
    const auto& steps = history_->stack();
    const auto words = again ? tr("Done again: %1").arg(steps.redoText()) : tr("Taken back: %1").arg(steps.undoText());
    if (again)
        history_->redo();
    else
        history_->undo();
    hint(words);
}

void MainWindow::askConsent(const QString& request) {
    QMessageBox box(this);
    box.setObjectName(QStringLiteral("consent"));
    box.setWindowTitle(tr("Run this model?"));
    box.setIconPixmap(iconPixmap(QStringLiteral("warning"), Theme::now().warning, 32, devicePixelRatioF()));
    box.setText(tr("%1 is a TorchScript program.").arg(QFileInfo(request).fileName()));
    box.setInformativeText(
        tr("Opening it runs what it contains with your rights. Run it only if you trust where it came from."));
    auto* run = box.addButton(tr("Run it"), QMessageBox::AcceptRole);
    auto* cancel = box.addButton(tr("Leave it"), QMessageBox::RejectRole);
    box.setDefaultButton(cancel);
    box.setEscapeButton(cancel);
    box.exec();
    if (box.clickedButton() == run) session_->openModel(request, true);
}

// ---- events ---------------------------------------------------------------------------------------------------------

void MainWindow::closeEvent(QCloseEvent* event) {
    if (panels_hidden_) hidePanels(false);
    settings_->setValue(QStringLiteral("window/geometry"), saveGeometry());
    settings_->setValue(QStringLiteral("window/state"), saveState(kLayout));
    settings_->sync();
    event->accept();
}

void MainWindow::dragEnterEvent(QDragEnterEvent* event) {
    if (!event->mimeData()->hasUrls()) return;
    event->acceptProposedAction();
    empty_->setDropping(true);
}

void MainWindow::dragLeaveEvent(QDragLeaveEvent*) { empty_->setDropping(false); }

void MainWindow::dropEvent(QDropEvent* event) {
    empty_->setDropping(false);
    QStringList paths;
    for (const auto& url : event->mimeData()->urls())
        if (url.isLocalFile()) paths << url.toLocalFile();
    event->acceptProposedAction();
    session_->openPaths(paths);
}

/// Keys that reach us without having been a shortcut: holding X, and everything while the viewport has the focus.
bool MainWindow::handleKey(QKeyEvent* event, bool pressed) {
    if (event->key() == Qt::Key_X && event->modifiers() == Qt::NoModifier) {
        if (!event->isAutoRepeat() && bare_ != pressed) {
            bare_ = pressed;
            refreshScene();
        }
        return true;
    }
    if (event->key() == Qt::Key_D && event->modifiers() == Qt::NoModifier && session_->steering().active()) {
        if (!event->isAutoRepeat()) session_->showOriginal(pressed);
        return true;
    }
    if (!pressed) return false;
    const QKeySequence keys(event->keyCombination());
    for (auto* action : actions_->all) {
        if (!action->isEnabled() || !action->shortcuts().contains(keys)) continue;
        action->trigger();
        return true;
    }
    return false;
}

void MainWindow::keyPressEvent(QKeyEvent* event) {
    if (!handleKey(event, true)) QMainWindow::keyPressEvent(event);
}

void MainWindow::keyReleaseEvent(QKeyEvent* event) {
    if (!handleKey(event, false)) QMainWindow::keyReleaseEvent(event);
}

}  // namespace vitrine::app
