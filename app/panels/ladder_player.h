// The picture on show at every step from signal to noise: a strip of its steps, the step that is chosen, and the
// concepts that speak there, with a ring around those that stayed.
#pragma once

#include <QImage>
#include <QWidget>

#include <stop_token>
#include <vector>

#include "jobs/concept_gallery.h"
#include "jobs/ladder_walk.h"

class QLabel;
class QPushButton;

namespace vitrine::app {

class PictureBox;
class ThinBar;

/// Small pictures in rows, of which one is chosen.
class LadderStrip : public QWidget {
    Q_OBJECT

  public:
    explicit LadderStrip(QWidget* parent = nullptr);
    void setSteps(std::vector<QImage> images, std::vector<QString> names);
    void choose(int step);
    int chosen() const { return chosen_; }
    QRect tile(int step) const;
    QSize sizeHint() const override { return {272, heightFor(272)}; }

  Q_SIGNALS:
    void chose(int step);

  protected:
    void paintEvent(QPaintEvent* event) override;
    void mousePressEvent(QMouseEvent* event) override;
    void mouseMoveEvent(QMouseEvent* event) override;
    void keyPressEvent(QKeyEvent* event) override;
    void resizeEvent(QResizeEvent* event) override;
    bool event(QEvent* event) override;

  private:
    static constexpr int kTile = 28, kGap = 4;
    int columns(int wide) const { return std::max(1, (wide + kGap) / (kTile + kGap)); }
    int heightFor(int wide) const;
    int stepAt(const QPoint& position) const;
    std::vector<QImage> images_;
    std::vector<QString> names_;
    int chosen_ = 0;
};

/// Concepts as rows: ringed, or a dot alone.
class PlayedConcepts : public QWidget {
    Q_OBJECT

  public:
    struct Row {
        qint64 latent = 0;
        QString title;
        double share = 0;  ///< of the largest of all steps
        double sum = 0;
        bool stays = false;
    };
    explicit PlayedConcepts(QWidget* parent = nullptr);
    void setRows(std::vector<Row> rows);
    const std::vector<Row>& rows() const { return rows_; }
    QSize sizeHint() const override { return {272, kRow * kMost}; }
    static constexpr int kRow = 22, kMost = 12;

  Q_SIGNALS:
    void chosen(qint64 latent);

  protected:
    void paintEvent(QPaintEvent* event) override;
    void mousePressEvent(QMouseEvent* event) override;
    void mouseMoveEvent(QMouseEvent* event) override;
    void leaveEvent(QEvent* event) override;
    void keyPressEvent(QKeyEvent* event) override;

  private:
    std::vector<Row> rows_;
    int hovered_ = -1, focused_ = 0;
};

class LadderPlayer : public QWidget {
    Q_OBJECT

  public:
    LadderPlayer(Session& session, ConceptGallery& gallery, QWidget* parent = nullptr);
    ~LadderPlayer() override;
    void restyle();
    void play();
    bool playing() const { return playing_; }
    const std::vector<PlayedStep>& steps() const { return steps_; }
    const QString& trouble() const { return trouble_; }
    LadderStrip* strip() const { return strip_; }
    PlayedConcepts* concepts() const { return concepts_; }

  Q_SIGNALS:
    void conceptWanted(qint64 latent);

  private:
    struct Hands {};  ///< what the thread has of its own: nothing
    QString whyNot() const;
    ConceptSource source() const;
    void forget();
    void refresh();
    void showStep();

    Session& session_;
    ConceptGallery& gallery_;
    std::vector<PlayedStep> steps_;
    std::vector<QImage> images_;
    QString trouble_;
    ConceptSource of_;  ///< what the steps, those under way too, are read by
    double most_ = 0;
    bool playing_ = false;
    std::stop_source stop_;
    QPushButton* button_;
    ThinBar* bar_;
    QLabel *trouble_words_, *words_;
    PictureBox* box_;
    LadderStrip* strip_;
    PlayedConcepts* concepts_;
    JobQueue<Hands> jobs_;  // last: it ends before what its answers touch
};

}  // namespace vitrine::app
