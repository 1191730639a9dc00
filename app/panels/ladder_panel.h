// From signal to noise: how many concepts speak while a picture loses its structure, and which ones do not care.
#pragma once

#include <QWidget>

#include <stop_token>

#include "jobs/concept_gallery.h"
#include "jobs/ladder_walk.h"

class QComboBox;
class QGridLayout;
class QLabel;
class QPushButton;
class QSpinBox;
class QVBoxLayout;

namespace vitrine::app {

class PathLine;
class ThinBar;

/// Means with their intervals over the rungs; the explained variance below, on its own scale.
class LadderPlot : public QWidget {
    Q_OBJECT

  public:
    explicit LadderPlot(QWidget* parent = nullptr);
    void setFacts(const LadderFacts* facts, const QString& tokens, bool distinct);
    QSize sizeHint() const override { return {272, 240}; }

  protected:
    void paintEvent(QPaintEvent* event) override;
    void mouseMoveEvent(QMouseEvent* event) override;
    void leaveEvent(QEvent* event) override;

  private:
    struct Line {
        bool control = false;
        std::vector<LadderPoint> points;
    };
    double xOf(std::size_t rung) const;
    const LadderEstimate& figureOf(const LadderPoint& point) const { return distinct_ ? point.distinct : point.active; }
    std::vector<QString> rungs_;
    std::vector<Line> lines_;
    bool distinct_ = false;
    int hovered_ = -1;
};

class LadderPanel : public QWidget {
    Q_OBJECT

  public:
    LadderPanel(Session& session, ConceptGallery& gallery, QWidget* parent = nullptr);
    ~LadderPanel() override;
    void restyle();
    void setFolder(const QString& folder);
    const QString& folder() const { return folder_; }
    bool climbing() const { return climbing_; }
    const std::optional<LadderFacts>& facts() const { return facts_; }
    const QString& trouble() const { return trouble_; }
    void start();
    void stop();
    QSize sizeHint() const override { return {304, 600}; }

  Q_SIGNALS:
    void folderWanted();
    void conceptWanted(qint64 latent);

  private:
    struct Hands {};  ///< what the thread has of its own: nothing
    QString whyNot() const;
    void refresh();
    void refreshPlot();

    Session& session_;
    ConceptGallery& gallery_;
    QString folder_, doing_, trouble_, of_;
    double share_ = -1;
    bool climbing_ = false;
    std::optional<LadderFacts> facts_;
    std::stop_source stop_;
    PathLine* line_;
    QSpinBox *pictures_, *seeds_;
    QPushButton *start_, *stop_button_;
    QComboBox *tokens_, *figure_;
    QLabel *doing_words_, *trouble_words_, *about_, *notes_, *insensitive_words_;
    ThinBar* bar_;
    LadderPlot* plot_;
    QVBoxLayout* insensitive_;
    JobQueue<Hands> jobs_;  // last: it ends before what its answers touch
};

}  // namespace vitrine::app
