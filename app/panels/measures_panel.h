// How the maps that are shown measure on this picture: a row a map, a column a measure.
#pragma once

#include <QWidget>

#include "jobs/comparison.h"

class QLabel;
class QTableWidget;

namespace vitrine::app {

class ChoiceButton;

class MeasuresPanel : public QWidget {
    Q_OBJECT

  public:
    MeasuresPanel(Session& session, Comparison& comparison, QWidget* parent = nullptr);
    void restyle() { refresh(); }
    QTableWidget* table() const { return table_; }
    QSize sizeHint() const override { return {800, 148}; }

  private:
    void refresh();
    void refreshSoon();  ///< once for many changes
    const MeasureFacts* facts(const std::string& name) const;

    Session& session_;
    Comparison& comparison_;
    ChoiceButton* choose_;
    QLabel* empty_;
    QTableWidget* table_;
    bool waiting_ = false;
};

}  // namespace vitrine::app
