// The picture's concepts at every layer, as a table of colours: who is chosen, then who is strongest.
#pragma once

#include <QWidget>

#include "jobs/concepts_on_show.h"
#include "panels/view_settings.h"

class QPushButton;

namespace vitrine::app {

class ConceptStrip : public QWidget {
    Q_OBJECT

  public:
    ConceptStrip(ConceptsOnShow& concepts, const ViewSettings& settings, QWidget* parent = nullptr);
    std::int64_t conceptAt(int row) const;  ///< -1: none
    QRect cell(int row, int layer) const;   ///< empty where there is none
    QSize sizeHint() const override { return {800, 148}; }
    QSize minimumSizeHint() const override { return {240, 72}; }

  protected:
    void paintEvent(QPaintEvent* event) override;
    void resizeEvent(QResizeEvent* event) override;
    void mouseMoveEvent(QMouseEvent* event) override;
    void mouseReleaseEvent(QMouseEvent* event) override;
    void keyPressEvent(QKeyEvent* event) override;
    void leaveEvent(QEvent* event) override;
    void focusOutEvent(QFocusEvent* event) override;
    bool event(QEvent* event) override;

  private:
    void choose();  ///< which concepts have a row
    void offer();   ///< to read what was stopped
    int wordsEnd() const;
    int at(const QPoint& position) const;

    ConceptsOnShow& concepts_;
    const ViewSettings& settings_;
    std::vector<std::int64_t> rows_;
    int current_ = -1;
    QPushButton* again_;  ///< after a stop
};

}  // namespace vitrine::app
