// The menus of the main window, what was opened before, and the search among commands.
#include <QActionGroup>
#include <QApplication>
#include <QClipboard>
#include <QDockWidget>
#include <QFileDialog>
#include <QFileInfo>
#include <QLabel>
#include <QMenu>
#include <QMenuBar>
#include <QSettings>

#include "jobs/comparison.h"
#include "jobs/concept_gallery.h"
#include "jobs/concepts_on_show.h"
#include "panels/choice_button.h"
#include "panels/empty_state.h"
#include "panels/explain_panel.h"
#include "panels/grid_view.h"
#include "panels/small_widgets.h"
#include "panels/tcav_panel.h"
#include "windows/actions.h"

namespace vitrine::app {
namespace {

constexpr int kRecent = 10;

}  // namespace

void MainWindow::buildMenus() {
    auto& a = *actions_;
    const auto menu = [this](const QString& title) {
        auto* made = menu_bar_->addMenu(title);
        made->setToolTipsVisible(true);
        return made;
    };
    QString group;
    const auto add = [&](QMenu* where, const QString& title, const QList<QKeySequence>& keys, auto call) {
        auto* action = where->addAction(title);
        action->setShortcuts(keys);
        action->setShortcutContext(Qt::WindowShortcut);
        addAction(action);
        connect(action, &QAction::triggered, this, call);
        a.all.push_back(action);
        if (!keys.isEmpty()) {
            if (a.groups.empty() || a.groups.back().first != group)
                a.groups.emplace_back(group, std::vector<QAction*>{});
            a.groups.back().second.push_back(action);
        }
        return action;
    };
    const auto key = [](const char* words) { return QList<QKeySequence>{QKeySequence(QLatin1String(words))}; };

    group = tr("File");
    auto* file = menu(tr("&File"));
    add(file, tr("Open picture…"), key("Ctrl+O"), [this] { openPicture(); });
    add(file, tr("Open folder of pictures…"), key("Ctrl+Shift+O"), [this] { openPictureFolder(); });
    auto* recent_pictures = file->addMenu(tr("Recent pictures"));
    connect(recent_pictures, &QMenu::aboutToShow, this,
            [this, recent_pictures] { fillRecent(recent_pictures, kPictures); });
    file->addSeparator();
    a.export_picture = add(file, tr("Export picture…"), key("Ctrl+E"), [this] {
        const auto path = QFileDialog::getSaveFileName(this, tr("Export picture"), suggestedName(QStringLiteral("png")),
                                                       tr("PNG (*.png)"));
        if (path.isEmpty()) return;
        if (const auto done = exportPicture(path); !done)
            tell(done.error());
        else
            hint(tr("Written to %1").arg(path));
    });
    a.export_map = add(file, tr("Export map…"), key("Ctrl+Shift+E"), [this] {
        const auto path = QFileDialog::getSaveFileName(this, tr("Export the raw map"),
                                                       suggestedName(QStringLiteral("npy")), tr("NumPy (*.npy)"));
        if (path.isEmpty()) return;
        if (const auto done = exportMap(path); !done)
            tell(done.error());
        else
            hint(tr("Written to %1").arg(path));
    });
    file->addSeparator();
    add(file, tr("Quit"), key("Ctrl+Q"), [this] { close(); });

    group = tr("Edit");
    auto* edit = menu(tr("&Edit"));
    a.undo = add(edit, tr("Undo"), {QKeySequence(Qt::CTRL | Qt::Key_Z)}, [this] { step(false); });
    a.redo = add(edit, tr("Redo"), {QKeySequence(Qt::CTRL | Qt::SHIFT | Qt::Key_Z), QKeySequence(Qt::CTRL | Qt::Key_Y)},
                 [this] { step(true); });
    edit->addSeparator();
    a.copy_picture = add(edit, tr("Copy picture"), key("Ctrl+C"), [this] {
        if (!viewport_) return;
        const auto frame = viewport_->lastFrame();
        if (!frame) return tell(frame.error());
        QApplication::clipboard()->setImage(QImage(frame->pixels.data(), static_cast<int>(frame->width),
                                                   static_cast<int>(frame->height),
                                                   static_cast<qsizetype>(frame->width * 3), QImage::Format_RGB888)
                                                .copy());
    });
    a.copy_value = add(edit, tr("Copy value"), key("Ctrl+Shift+C"),
                       [this] { QApplication::clipboard()->setText(status_value_->text()); });
    edit->addSeparator();
    a.unpin = add(edit, tr("Unpin"), key("Esc"), [this] {
        // First what was pinned last, then what is explained.
        if (tcav_->sets()->drawing()) return tcav_->sets()->setDrawing(false);
        if (concepts_->drawing()) return concepts_->setDrawing(false);
        if (concepts_->pinned() >= 0) return concepts_->pin(-1);
        if (!session_->pinned() && session_->region()) session_->clearRegion();
        session_->pin(std::nullopt);
        grid_->unpin();
    });

    group = tr("View");
    auto* view = menu(tr("&View"));
    // On what is shown: the picture, or all cells of the grid.
    const auto on_stage = [this](auto call) {
        return [this, call] {
            if (comparison_->isOpen())
                call(*grid_);
            else if (viewport_)
                call(*viewport_);
        };
    };
    a.fit = add(view, tr("Fit"), key("F"), on_stage([](auto& shown) { shown.fit(); }));
    a.one = add(view, tr("One to one"), key("1"), on_stage([](auto& shown) { shown.oneToOne(); }));
    a.zoom_in = add(view, tr("Zoom in"), {QKeySequence(Qt::Key_Plus), QKeySequence(Qt::Key_Equal)},
                    on_stage([](auto& shown) { shown.zoomBy(1.25); }));
    a.zoom_out = add(view, tr("Zoom out"), key("-"), on_stage([](auto& shown) { shown.zoomBy(0.8); }));
    view->addSeparator();
    a.grid = add(view, tr("Patch grid"), key("G"),
                 [this] { view_settings_.grid = !view_settings_.grid, settingsChanged(); });
    a.solid =
        add(view, tr("Solid"), key("S"), [this] { view_settings_.solid = !view_settings_.solid, settingsChanged(); });
    a.live = add(view, tr("Attention follows the cursor"), key("H"),
                 [this] { session_->setLive(!session_->live()), explain_->refresh(), refreshActions(); });
    for (auto* checkable : {a.grid, a.solid, a.live}) checkable->setCheckable(true);
    view->addSeparator();
    a.gallery = add(view, tr("Gallery of concepts"), key("Ctrl+G"), [this] { gallery_->setOpen(!gallery_->isOpen()); });
    a.gallery->setCheckable(true);
    view->addSeparator();
    auto* theme = view->addMenu(tr("Theme"));
    auto* themes = new QActionGroup(this);
    a.theme_system = add(theme, tr("System"), {}, [this] { setTheme(Theme::Choice::System); });
    a.theme_dark = add(theme, tr("Dark"), {}, [this] { setTheme(Theme::Choice::Dark); });
    a.theme_light = add(theme, tr("Light"), {}, [this] { setTheme(Theme::Choice::Light); });
    const auto choice = Theme::choiceNamed(settings_->value(QStringLiteral("theme")).toString());
    int which = 0;
    for (auto* one : {a.theme_system, a.theme_dark, a.theme_light}) {
        one->setCheckable(true);
        one->setChecked(static_cast<int>(choice) == which++);
        themes->addAction(one);
    }
    view->addSeparator();
    view->addAction(train_dock_->toggleViewAction());
    a.hide = add(view, tr("Hide panels"), key("F11"), [this] { hidePanels(!panels_hidden_); });
    a.hide->setCheckable(true);

    group = tr("Model");
    auto* model = menu(tr("&Model"));
    add(model, tr("Open model file…"), key("Ctrl+M"), [this] { openModelFile(); });
    add(model, tr("Open model folder…"), key("Ctrl+Shift+M"), [this] { openModelFolder(); });
    auto* recent_models = model->addMenu(tr("Recent models"));
    connect(recent_models, &QMenu::aboutToShow, this, [this, recent_models] { fillRecent(recent_models, kModels); });
    a.starter =
        add(model, tr("Open the built-in model"), {}, [this] { session_->openModel(QStringLiteral("starter")); });
    add(model, tr("Train a mask…"), {}, [this] { openTraining(Trained::Mask); });
    add(model, tr("Train concepts…"), {}, [this] { openTraining(Trained::Concepts); });
    model->addSeparator();
    // Page Up and Page Down as well: brackets need AltGr on some keyboards.
    a.layer_down = add(model, tr("Previous layer"), {QKeySequence(Qt::Key_BracketLeft), QKeySequence(Qt::Key_PageUp)},
                       [this] { session_->setLayer(session_->layer() - 1); });
    a.layer_up = add(model, tr("Next layer"), {QKeySequence(Qt::Key_BracketRight), QKeySequence(Qt::Key_PageDown)},
                     [this] { session_->setLayer(session_->layer() + 1); });
    a.head_down = add(model, tr("Previous head"), key(","), [this] { session_->setHead(session_->head() - 1); });
    a.head_up = add(model, tr("Next head"), key("."), [this] { session_->setHead(session_->head() + 1); });

    group = tr("Explain");
    explain_menu_ = menu(tr("E&xplain"));
    a.flip = add(explain_menu_, tr("Switch explanation and attention"), key("E"),
                 [this] { session_->preferExplanation(!session_->prefersExplanation()); });
    a.target = add(explain_menu_, tr("Choose the class…"), key("Ctrl+T"), [this] { target_button_->openList(); });
    a.region = add(explain_menu_, tr("Explain a region"), key("R"), [this] {
        if (comparison_->isOpen()) comparison_->setOpen(false);
        session_->startRegion();
        explain_->focusRegion();
        sayWhereRegionsCount();
    });
    add(explain_menu_, tr("Second picture…"), {}, [this] { openSecondPicture(); });
    add(explain_menu_, tr("From signal to noise…"), {}, [this] { openPanel(ladder_dock_); });
    add(explain_menu_, tr("Test concepts…"), {}, [this] { openPanel(tcav_dock_); });
    a.methods = add(explain_menu_, tr("Choose methods…"), key("Ctrl+K"), [this] { method_button_->openList(); });
    a.several = add(explain_menu_, tr("Several methods side by side"), key("M"),
                    [this] { comparison_->setOpen(!comparison_->isOpen()); });
    a.several->setCheckable(true);
    a.again = add(explain_menu_, tr("Compute again"), key("F5"), [this] {
        if (comparison_->isOpen() && !session_->asking()) comparison_->againAll();
        session_->refreshExplanation();
    });
    a.stop = add(explain_menu_, tr("Stop the work"), key("Shift+F5"), [this] { session_->cancelAll(); });

    group = tr("Compare");
    auto* compare = menu(tr("&Compare"));
    a.compare_model = add(compare, tr("Compare with another model…"), {}, [] {});
    a.compare_variant = add(compare, tr("Compare with a changed self…"), {}, [] {});
    a.compare_flip = add(compare, tr("Show the original (hold D)"), {},
                         [this] { session_->showOriginal(!session_->showsOriginal()); });
    a.compare_flip->setCheckable(true);
    for (auto* action : {a.compare_model, a.compare_variant}) {
        action->setEnabled(false);
        action->setToolTip(tr("This version shows one model at a time"));
    }

    group = tr("Window");
    auto* window = menu(tr("&Window"));
    for (auto* dock : {film_dock_, explain_dock_, concepts_dock_, model_dock_, map_dock_, train_dock_, ladder_dock_,
                       tcav_dock_, strip_dock_, layers_dock_, concept_layers_dock_, measures_dock_})
        window->addAction(dock->toggleViewAction());
    window->addSeparator();
    add(window, tr("Reset the layout"), {}, [this] { resetLayout(); });

    group = tr("Help");
    auto* help = menu(tr("&Help"));
    add(help, tr("Keys"), key("F1"), [this] {
        const bool show = !keys_dock_->isVisible() || !keys_->isVisible();
        keys_dock_->setVisible(show);
        if (show) keys_dock_->raise();
    });
    add(help, tr("Find a command…"), key("Ctrl+Shift+P"), [this] { openCommands(); });
    add(help, tr("About Vitrine"), {}, [this] {
        hint(tr("Vitrine %1 opens vision models and shows why they answer as they do. Drawing by %2.")
                 .arg(QStringLiteral(VITRINE_APP_VERSION),
                      graphics_->ready() ? graphics_->deviceName() : tr("nothing: %1").arg(graphics_->trouble())));
    });

    std::vector<ShortcutSheet::Group> sheet;
    sheet.push_back({tr("On the picture"),
                     {{tr("Hover"), tr("What this patch reads")},
                      {tr("Click"), tr("Pin the patch, or unpin it")},
                      {tr("Wheel"), tr("Zoom at the cursor")},
                      {tr("Drag"), tr("Explain a region")},
                      {tr("Space-drag"), tr("Pan")},
                      {tr("Hold X"), tr("The picture bare")},
                      {tr("Hold D"), tr("The model as it was opened, while it is steered")},
                      {tr("Right-click"), tr("What applies here")},
                      {tr("Double click"), tr("In the grid: this method alone")}}});
    for (const auto& [name, actions] : a.groups) {
        ShortcutSheet::Group one{name, {}};
        for (const auto* action : actions) {
            QStringList keys;
            for (const auto& sequence : action->shortcuts()) keys << sequence.toString(QKeySequence::NativeText);
            one.keys.emplace_back(keys.join(QStringLiteral("  ")),
                                  QString(action->text()).remove(QChar(0x2026)).remove(QLatin1Char('&')));
        }
        sheet.push_back(std::move(one));
    }
    keys_->setGroups(sheet);
}

void MainWindow::remember(const QString& key, const QString& path) {
    auto list = remembered(key);
    list.removeAll(path);
    list.prepend(path);
    while (list.size() > kRecent) list.removeLast();
    settings_->setValue(key, list);
}

QStringList MainWindow::remembered(const QString& key) const { return settings_->value(key).toStringList(); }

void MainWindow::fillRecent(QMenu* menu, const QString& key) {
    menu->clear();
    menu->setToolTipsVisible(true);
    const auto list = remembered(key);
    for (const auto& path : list) {
        const QFileInfo file(path);
        auto* action = menu->addAction(menu->fontMetrics().elidedText(file.fileName(), Qt::ElideMiddle, 320));
        action->setEnabled(file.exists());
        action->setToolTip(file.exists() ? path : tr("%1 is not there any more").arg(path));
        connect(action, &QAction::triggered, this,
                [this, key, path] { key == kModels ? session_->openModel(path) : session_->openPaths({path}); });
    }
    if (list.isEmpty()) menu->addAction(tr("Nothing was opened yet"))->setEnabled(false);
    if (list.isEmpty()) return;
    menu->addSeparator();
    connect(menu->addAction(tr("Forget these")), &QAction::triggered, this, [this, key] { settings_->remove(key); });
}

void MainWindow::openCommands() {
    std::vector<ChoiceItem> items;
    for (const auto* menu_action : menu_bar_->actions()) {
        QString group = QString(menu_action->text()).remove(QLatin1Char('&'));
        for (auto* action : actions_->all) {
            if (!menu_action->menu()->actions().contains(action)) continue;
            items.push_back({QString(action->text()).remove(QLatin1Char('&')),
                             action->shortcut().toString(QKeySequence::NativeText),
                             {},
                             QVariant::fromValue<QObject*>(action),
                             action->isEnabled() ? QString() : action->toolTip(),
                             false,
                             group});
            group.clear();
        }
    }
    QString group = tr("Panel");
    for (auto* dock : findChildren<QDockWidget*>()) {
        items.push_back({dock->windowTitle(), {}, {}, QVariant::fromValue<QObject*>(dock), {}, false, group});
        group.clear();
    }
    constexpr int kWidth = 440;
    const auto at = mapToGlobal(QPoint((width() - kWidth) / 2, menuWidget()->height() + 8));
    openChoices(this, at, kWidth, tr("Find a command"), std::move(items), [this](const QVariant& value) {
        if (auto* action = qobject_cast<QAction*>(value.value<QObject*>())) action->trigger();
        if (auto* dock = qobject_cast<QDockWidget*>(value.value<QObject*>())) openPanel(dock);
    });
}

}  // namespace vitrine::app
