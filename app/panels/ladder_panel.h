// From signal to noise: how many concepts speak while a picture loses its structure, and which ones do not care.
#pragma once

#include <QWidget>

#include <memory>
#include <optional>
#include <stop_token>
#include <vector>

#include "jobs/concept_gallery.h"
#include "jobs/ladder_walk.h"

class QCheckBox;
class QComboBox;
class QGridLayout;
class QLabel;
class QPushButton;
class QSpinBox;
class QVBoxLayout;

namespace vitrine::app {

class LadderPlayer;
class LadderPlot;
class PathLine;
class RunBox;

class LadderPanel : public QWidget {
    Q_OBJECT

  public:
    LadderPanel(Session& session, ConceptGallery& gallery, QWidget* parent = nullptr);
    ~LadderPanel() override;
    void restyle();
    void setFolder(const QString& folder);
    const QString& folder() const { return folder_; }
    /// One layer more: an autoencoder beside the one that the gallery shows.
    void addLayer(const QString& autoencoder);
    const QStringList& moreLayers() const { return more_; }
    bool climbing() const { return climbing_; }
    double share() const { return share_; }  ///< of the climb; negative: not known
    const std::optional<LadderFacts>& facts() const { return facts_; }
    const QString& trouble() const { return trouble_; }
    LadderPlot* plot() const { return plot_; }
    LadderPlayer* player() const { return player_; }
    void start();
    void stop();
    QSize sizeHint() const override { return {304, 600}; }

  Q_SIGNALS:
    void folderWanted();
    void layerWanted();
    void grew();   ///< facts() say more
    void moved();  ///< the climb began, went on or ended
    void conceptWanted(qint64 latent);

  private:
    /// What the thread has of its own: what was measured.
    struct Hands {
        std::shared_ptr<LadderMemory> memory;
    };
    enum class Figure : std::uint8_t { Token, Picture, Ratio, Overlap, R2, Spearman, Auroc };
    QString whyNot() const;
    void refresh();
    void refreshLayers();
    void refreshChoices();
    void refreshPlot();
    void refreshFound();
    void refreshHeard(const LadderLayer& layer);
    void refreshSuppression(const LadderLayer& layer);
    Figure figure() const;
    bool acrossLayers() const;
    QString nameOf(const LadderLayer& layer) const;
    std::vector<const LadderLayer*> layersInOrder() const;  ///< as the model has them

    Session& session_;
    ConceptGallery& gallery_;
    QString folder_, doing_, trouble_, of_;
    QStringList more_;  ///< autoencoders of other layers
    double share_ = -1;
    bool climbing_ = false;
    std::optional<LadderFacts> facts_;
    LadderPlan ran_;                    ///< what they were asked for
    std::int64_t wanted_pictures_ = 0;  ///< of the climb that facts_ are of
    std::stop_source stop_;
    PathLine* line_;
    QVBoxLayout* layers_;
    QSpinBox *pictures_, *seeds_, *steps_;
    QComboBox* control_;
    QCheckBox *risk_, *suppress_;
    QWidget* steps_box_;
    QComboBox *tokens_, *figure_, *across_, *which_, *found_;
    QWidget* found_box_;
    QLabel *about_, *notes_, *insensitive_words_, *suppression_words_, *suppression_about_;
    RunBox* run_;
    LadderPlot* plot_;
    LadderPlayer* player_;
    QGridLayout *insensitive_, *suppression_;
    JobQueue<Hands> jobs_;  // last: it ends before what its answers touch
};

}  // namespace vitrine::app
