// All concepts as cells of crops from their top pictures. Only cells in sight are painted, and only their pictures are
// decoded.
#pragma once

#include <QAbstractListModel>
#include <QListView>

#include "jobs/concept_gallery.h"

namespace vitrine::app {

/// The crop, its strongest patch lit and the rest a shade darker; what stands there while it is decoded, or why not.
/// @param heat  where the concept is in the whole picture; null: the patch alone
void paintCrop(QPainter& painter, const QRectF& box, const ConceptCrop* crop, const Plane* heat = nullptr);

/// "3.4 %", "0.002 %": shares of patches are often small.
QString share_words(float share);

class ConceptCells : public QAbstractListModel {
    Q_OBJECT

  public:
    explicit ConceptCells(ConceptGallery& gallery, QObject* parent = nullptr);
    int rowCount(const QModelIndex& parent = {}) const override;
    QVariant data(const QModelIndex& index, int role) const override;

  private:
    ConceptGallery& gallery_;
};

class ConceptGrid : public QListView {
    Q_OBJECT

  public:
    explicit ConceptGrid(ConceptGallery& gallery, QWidget* parent = nullptr);
    void showSelected();

  Q_SIGNALS:
    void detailsWanted();

  private:
    ConceptGallery& gallery_;
};

}  // namespace vitrine::app
