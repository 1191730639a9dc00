// One concept: what it is called, its figures, where it is strongest, and the concepts near to it.
#pragma once

#include <QWidget>

#include "jobs/concept_gallery.h"

class QGridLayout;
class QLabel;
class QLineEdit;
class QPushButton;
class QToolButton;
class QVBoxLayout;

namespace vitrine::app {

/// How many pictures have their greatest value in each bin, on a logarithmic scale of values.
class ConceptHistogram : public QWidget {
    Q_OBJECT

  public:
    explicit ConceptHistogram(QWidget* parent = nullptr);
    void setBins(std::span<const std::uint32_t> bins);
    QSize sizeHint() const override { return {240, 72}; }

  protected:
    void paintEvent(QPaintEvent* event) override;

  private:
    std::vector<std::uint32_t> bins_;
};

/// The top pictures, whole, with the concept's heat over them.
class ConceptPictures : public QWidget {
    Q_OBJECT

  public:
    ConceptPictures(Session& session, ConceptGallery& gallery, QWidget* parent = nullptr);
    bool hasHeightForWidth() const override { return true; }
    int heightForWidth(int width) const override;
    QSize sizeHint() const override { return {240, heightForWidth(240)}; }

  protected:
    void paintEvent(QPaintEvent* event) override;
    bool event(QEvent* event) override;
    void mouseMoveEvent(QMouseEvent* event) override;
    void mouseReleaseEvent(QMouseEvent* event) override;

  private:
    int columns(int width) const;
    QRect boxAt(int index) const;
    int indexAt(const QPoint& at) const;
    Session& session_;
    ConceptGallery& gallery_;
};

class ConceptDetails : public QWidget {
    Q_OBJECT

  public:
    ConceptDetails(Session& session, ConceptGallery& gallery, QWidget* parent = nullptr);
    void restyle();
    QLineEdit* nameLine() const { return name_; }
    QLineEdit* tagsLine() const { return tags_; }

  Q_SIGNALS:
    void closed();
    void nearWanted(qint64 latent);       ///< the gallery shows what is near
    void onPictureWanted(qint64 latent);  ///< where it is on the open picture

  private:
    void refresh();
    void fill();  ///< name and tags
    void callNow();

    Session& session_;
    ConceptGallery& gallery_;
    std::int64_t of_ = -1;
    QLabel *number_, *trouble_, *histogram_words_, *pictures_words_;
    QLineEdit *name_, *tags_;
    QToolButton* close_;
    QPushButton *near_, *on_picture_;
    QGridLayout* figures_;
    ConceptHistogram* histogram_;
    QVBoxLayout* neighbours_;
    ConceptPictures* pictures_;
};

}  // namespace vitrine::app
