// How the maps that are shown measure on this picture: a row a map, a column a measure. Beside the table, what the
// measures show the model again through one of the maps.
#pragma once

#include <QWidget>

#include "jobs/comparison.h"
#include "jobs/seen_through.h"

class QLabel;
class QTableWidget;

namespace vitrine::app {

class ChoiceButton;
class PictureBox;

class MeasuresPanel : public QWidget {
    Q_OBJECT

  public:
    MeasuresPanel(Session& session, Comparison& comparison, SeenThrough& through, QWidget* parent = nullptr);
    void restyle() { refresh(); }
    QTableWidget* table() const { return table_; }
    PictureBox* picture(int at) const { return pictures_[at]; }  ///< with 100, 50 and 15 % of the map
    QString caption(int at) const;                               ///< under it
    QSize sizeHint() const override { return {800, 148}; }

  private:
    void refresh();
    void refreshThrough();
    void refreshSoon();  ///< once for many changes
    const MeasureFacts* facts(const std::string& name) const;

    Session& session_;
    Comparison& comparison_;
    ChoiceButton* choose_;
    SeenThrough& through_;
    QLabel* empty_;
    QWidget* seen_;
    QLabel *seen_title_, *captions_[3];
    PictureBox* pictures_[3];
    QTableWidget* table_;
    bool waiting_ = false;
};

}  // namespace vitrine::app
