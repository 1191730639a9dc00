// The room: menus, the top bar, the docks around the picture and the status bar.
#pragma once

#include <QElapsedTimer>
#include <QMainWindow>

#include <memory>

#include "jobs/session.h"
#include "jobs/training.h"
#include "panels/view_settings.h"
#include "windows/scene.h"
#include "windows/theme.h"
#include "windows/viewport.h"

class QDockWidget;
class QJsonObject;
class QLabel;
class QMenu;
class QMenuBar;
class QSettings;
class QStackedWidget;
class QToolButton;

namespace vitrine::app {

class ChoiceButton;
class Comparison;
class ConceptStrip;
class ConceptsOnShow;
class ConceptsPanel;
class ConceptGallery;
class EditHistory;
class EmptyState;
class ExplainPanel;
class Filmstrip;
class GalleryView;
class GridView;
class HeadStrip;
class LadderPanel;
class LayerMaps;
class LayerStrip;
class MapPanel;
class MeasuresPanel;
class ModelPanel;
class NoticeBar;
class PanelTabs;
class SeenThrough;
class ShortcutSheet;
class TcavPanel;
class ThinBar;
class TrainPanel;
class TrainingRun;

class MainWindow : public QMainWindow {
    Q_OBJECT

  public:
    explicit MainWindow(QWidget* parent = nullptr);
    ~MainWindow() override;

    /// Opens what was named on the command line; what is missing is filled in from what is built in.
    void start(const QStringList& paths);

    Session& session() { return *session_; }
    Comparison& comparison() { return *comparison_; }
    GridView* grid() const { return grid_; }
    ConceptGallery& conceptGallery() { return *gallery_; }
    GalleryView* galleryView() const { return gallery_view_; }
    LadderPanel* ladderPanel() const { return ladder_; }
    QDockWidget* ladderDock() const { return ladder_dock_; }
    TcavPanel* tcavPanel() const { return tcav_; }
    QDockWidget* tcavDock() const { return tcav_dock_; }
    Viewport* viewport() const { return viewport_; }
    Graphics* graphics() const { return graphics_.get(); }
    HeadStrip* headStrip() const { return head_strip_; }
    MapPanel* mapPanel() const { return map_; }
    QDockWidget* mapDock() const { return map_dock_; }
    LayerMaps& layerMaps() { return *layer_maps_; }
    LayerStrip* layerStrip() const { return layer_strip_; }
    QDockWidget* layersDock() const { return layers_dock_; }
    MeasuresPanel* measures() const { return measures_; }
    QDockWidget* measuresDock() const { return measures_dock_; }
    TrainingRun& maskRun() { return *mask_run_; }
    TrainingRun& conceptRun() { return *concept_run_; }
    SeenThrough& seenThrough() { return *seen_through_; }
    ConceptsOnShow& concepts() { return *concepts_; }
    ConceptsPanel* conceptsPanel() const { return concepts_panel_; }
    QDockWidget* conceptsDock() const { return concepts_dock_; }
    TrainPanel* trainPanel() const { return train_; }
    QDockWidget* trainDock() const { return train_dock_; }
    ChoiceButton* methodButton() const { return method_button_; }
    NoticeBar* notice() const { return notice_; }
    ViewSettings& viewSettings() { return view_settings_; }
    void settingsChanged();  ///< after `viewSettings` was changed

    /// The picture with its evidence at the photo's own size. PNG.
    Status exportPicture(const QString& file);
    /// The raw map that is shown. NumPy.
    Status exportMap(const QString& file);
    /// Makes the device and the viewport anew, as after a lost device.
    void replaceGraphics();
    /// After losses without end: says why, and goes on without the picture as where there is no Vulkan.
    void giveUpGraphics(const QString& why);

    static std::unique_ptr<QSettings> settings();  ///< VITRINE_SETTINGS names a file; otherwise the user's own

  protected:
    void closeEvent(QCloseEvent* event) override;
    void dragEnterEvent(QDragEnterEvent* event) override;
    void dragLeaveEvent(QDragLeaveEvent* event) override;
    void dropEvent(QDropEvent* event) override;
    void keyPressEvent(QKeyEvent* event) override;
    void keyReleaseEvent(QKeyEvent* event) override;

  private:
    void buildTop();
    void buildStage();
    void buildGallery();
    void buildDocks();
    void buildMenus();
    void buildStatus();
    void makeViewport();
    void dropViewport();
    void showMessage(const QString& title, const QString& sentence);
    void restyle();
    void setTheme(Theme::Choice choice);

    void refreshTop();
    void refreshStage();
    void refreshScene();
    void refreshStatus();
    QStringList underWay() const;
    void refreshJobs();
    void refreshActions();
    ViewSettings settingsOfShown() const;
    viz::Scene composeScene() const;
    viz::Hud composeHud() const;
    Reading readingAt(const std::optional<Point>& photo) const;

    void openPicture();
    void openPictureFolder();
    void openSecondPicture();
    void openModelFile();
    void openModelFolder();
    void openTraining(Trained what);
    void sayWhereRegionsCount();
    void chooseAlso();  ///< one more class beside the target
    void chooseTrainingFolder();
    void chooseTrainingFile();
    void openConcepts();
    void saveSteered();
    void step(bool again);  ///< takes back what was done last to concepts, or does it again
    void askConsent(const QString& request);
    void remember(const QString& key, const QString& path);
    QStringList remembered(const QString& key) const;
    void fillRecent(QMenu* menu, const QString& key);
    void openCommands();
    void openPanel(QDockWidget* dock);
    void hidePanels(bool hide);
    void resetLayout();
    /// How what is shown was made; empty where it is no explanation.
    Status settled() const;
    QJsonObject manifest() const;
    Status writeManifest(const QString& map) const;
    QString suggestedName(const QString& ending) const;
    void tell(const Error& error);
    void hint(const QString& sentence);
    bool handleKey(QKeyEvent* event, bool pressed);

    std::unique_ptr<QSettings> settings_;
    ViewSettings view_settings_;
    std::unique_ptr<Graphics> graphics_;
    Session* session_ = nullptr;
    Comparison* comparison_ = nullptr;

    PanelTabs* tabs_ = nullptr;
    QMenuBar* menu_bar_ = nullptr;
    ChoiceButton *model_button_ = nullptr, *target_button_ = nullptr, *versus_button_ = nullptr,
                 *method_button_ = nullptr;
    QToolButton *grid_button_ = nullptr, *search_button_ = nullptr;
    GridView* grid_ = nullptr;
    ConceptGallery* gallery_ = nullptr;
    EditHistory* history_ = nullptr;
    GalleryView* gallery_view_ = nullptr;
    ThinBar* thin_bar_ = nullptr;
    NoticeBar* notice_ = nullptr;
    QStackedWidget* stage_ = nullptr;
    EmptyState* empty_ = nullptr;
    QWidget* message_ = nullptr;
    QLabel *message_title_ = nullptr, *message_text_ = nullptr;
    QWidget* container_ = nullptr;
    Viewport* viewport_ = nullptr;
    QDockWidget *film_dock_ = nullptr, *explain_dock_ = nullptr, *model_dock_ = nullptr, *strip_dock_ = nullptr,
                *map_dock_ = nullptr, *keys_dock_ = nullptr, *layers_dock_ = nullptr, *measures_dock_ = nullptr,
                *train_dock_ = nullptr, *ladder_dock_ = nullptr, *concepts_dock_ = nullptr,
                *concept_layers_dock_ = nullptr, *tcav_dock_ = nullptr;
    Filmstrip* filmstrip_ = nullptr;
    ExplainPanel* explain_ = nullptr;
    ModelPanel* model_panel_ = nullptr;
    HeadStrip* head_strip_ = nullptr;
    MapPanel* map_ = nullptr;
    LayerMaps* layer_maps_ = nullptr;
    LayerStrip* layer_strip_ = nullptr;
    MeasuresPanel* measures_ = nullptr;
    TrainingRun *mask_run_ = nullptr, *concept_run_ = nullptr;
    SeenThrough* seen_through_ = nullptr;
    TrainPanel* train_ = nullptr;
    LadderPanel* ladder_ = nullptr;
    TcavPanel* tcav_ = nullptr;
    ConceptsOnShow* concepts_ = nullptr;
    ConceptsPanel* concepts_panel_ = nullptr;
    ConceptStrip* concept_strip_ = nullptr;
    ShortcutSheet* keys_ = nullptr;
    QLabel *status_value_ = nullptr, *status_place_ = nullptr, *status_work_ = nullptr, *status_size_ = nullptr,
           *status_jobs_ = nullptr;
    QToolButton* stop_button_ = nullptr;
    QMenu* explain_menu_ = nullptr;

    struct Actions;
    std::unique_ptr<Actions> actions_;
    std::optional<Point> cursor_;
    std::optional<Box> drawn_;  ///< the region that is being drawn, in photo pixels
    bool bare_ = false, panels_hidden_ = false;
    QByteArray before_hiding_;
    int device_losses_ = 0;
    QElapsedTimer last_loss_;
};

}  // namespace vitrine::app
