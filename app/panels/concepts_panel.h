// The Concepts panel: which autoencoder reads the picture, what it found, and the way between a concept and its
// patches.
#pragma once

#include <QWidget>

#include <functional>

#include "jobs/concepts_on_show.h"
#include "panels/view_settings.h"

class QComboBox;
class QLabel;
class QLineEdit;
class QPushButton;
class QToolButton;

namespace vitrine::app {

class ChoiceButton;
class ConceptList;
class SettingsForm;
class SteerBox;
class ThinBar;

class ConceptsPanel : public QWidget {
    Q_OBJECT

  public:
    ConceptsPanel(Session& session, ConceptsOnShow& concepts, const ViewSettings& settings, QWidget* parent = nullptr);
    /// Files that were opened before, the latest first.
    void setRecent(std::function<QStringList()> recent) { recent_ = std::move(recent); }
    void restyle();
    ConceptList* list() const { return list_; }
    QSize sizeHint() const override { return {304, 600}; }

  Q_SIGNALS:
    void fileWanted();
    void galleryWanted();
    void saveWanted();  ///< the steered model

  private:
    void buildForm();
    void refresh();
    void refreshFacts();
    void refreshWhich();

    Session& session_;
    ConceptsOnShow& concepts_;
    std::function<QStringList()> recent_;
    ChoiceButton* chooser_;
    QLabel *facts_, *sign_, *why_;
    ThinBar* bar_;
    QWidget *said_, *tools_, *ask_, *which_;
    QPushButton *open_, *again_, *patches_, *apart_;
    QToolButton* fold_;
    SettingsForm* form_;
    QString form_of_;
    QLineEdit* search_;
    QComboBox* order_;
    ConceptList* list_;
    SteerBox* steer_;
    const void* listed_ = nullptr;  ///< the codes that the list shows
};

}  // namespace vitrine::app
