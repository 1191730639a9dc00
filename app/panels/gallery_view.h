// The gallery of concepts, where the picture otherwise is: all of them as crops or as a map, and the details of one.
#pragma once

#include <QWidget>

#include "jobs/concept_gallery.h"

class QComboBox;
class QFrame;
class QLabel;
class QLineEdit;
class QPushButton;
class QScrollArea;
class QStackedWidget;
class QToolButton;

namespace vitrine::app {

class ConceptDetails;
class ConceptGrid;
class ConceptMap;
class PathLine;
class SettingsForm;
class ThinBar;

class GalleryView : public QWidget {
    Q_OBJECT

  public:
    GalleryView(Session& session, ConceptGallery& gallery, QWidget* parent = nullptr);
    /// Less than its parts wish for: they would push the window wider than a small screen.
    QSize minimumSizeHint() const override { return {240, 180}; }
    void restyle();
    ConceptGrid* grid() const { return grid_; }
    ConceptMap* map() const { return map_; }
    ConceptDetails* details() const { return details_; }
    void showMap(bool map);
    void look(std::int64_t latent);  ///< at its details

  Q_SIGNALS:
    void fileWanted();
    void folderWanted();
    void trainingWanted();
    void onPictureWanted(qint64 latent);

  protected:
    void resizeEvent(QResizeEvent* event) override;
    void keyPressEvent(QKeyEvent* event) override;

  private:
    void ask();  ///< what the controls say
    void refresh();
    void refreshList();
    void refreshBuild();
    void arrange();
    void showDetails(bool show);

    Session& session_;
    ConceptGallery& gallery_;
    QPushButton *file_, *as_grid_, *as_map_, *action_, *second_, *build_, *stop_, *update_, *find_, *adopt_;
    QToolButton *close_, *upwards_;
    QLineEdit* search_;
    QComboBox *order_, *only_;
    QLabel *count_, *title_, *words_, *build_words_, *changed_words_;
    QWidget *tools_, *state_, *building_, *folder_row_, *given_row_;
    QFrame* changed_;
    PathLine* folder_;
    SettingsForm* given_;
    std::string given_of_;  // whose points the form offers
    ThinBar* bar_;
    QStackedWidget *body_, *pages_;
    QWidget* both_;
    QScrollArea* details_area_;
    ConceptGrid* grid_;
    ConceptMap* map_;
    ConceptDetails* details_;
    bool details_shown_ = false;
};

}  // namespace vitrine::app
