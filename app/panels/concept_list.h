// The concepts of the picture as rows: a few of the patch under the cursor, whose places are kept, then those of all
// patches, or those of the class token and its like.
#pragma once

#include <QListView>

#include <functional>

#include "jobs/concepts_on_show.h"
#include "panels/view_settings.h"

namespace vitrine::app {

class ConceptRows;

class ConceptList : public QListView {
    Q_OBJECT

  public:
    ConceptList(ConceptsOnShow& concepts, const ViewSettings& settings, QWidget* parent = nullptr);
    /// @param named_first  those with a name come before the others, each part in `order`
    void setOrder(ConceptOrder order, bool named_first = false);
    void setFilter(const QString& words);  ///< part of a name, or a number; silent concepts are found, too
    /// Below the patch's: the concepts of all patches, or those of each token that is none. Never of both at once.
    void setApart(bool apart);
    bool apart() const;
    /// What stands in place of the count of a concept that is steered; empty for none.
    void setBadges(std::function<QString(std::int64_t number)> badge) { badge_ = std::move(badge); }
    void refresh();                                          ///< everything
    void refreshPatch();                                     ///< what is pointed at
    std::int64_t conceptAt(const QModelIndex& index) const;  ///< -1: a heading or an empty place
    int shown() const;                                       ///< concepts below the patch's
    QString badgeOf(std::int64_t number) const { return badge_ ? badge_(number) : QString(); }
    static constexpr int kOfPatch = 4;
    QSize sizeHint() const override { return {272, 112}; }  // what is left is given to it
    QSize minimumSizeHint() const override { return {200, 112}; }

  Q_SIGNALS:
    void menuWanted(qint64 number, const QPoint& global);

  protected:
    void mouseMoveEvent(QMouseEvent* event) override;
    void wheelEvent(QWheelEvent* event) override;
    void mousePressEvent(QMouseEvent* event) override;
    void mouseReleaseEvent(QMouseEvent* event) override;
    void leaveEvent(QEvent* event) override;
    void focusInEvent(QFocusEvent* event) override;
    void focusOutEvent(QFocusEvent* event) override;
    void keyPressEvent(QKeyEvent* event) override;
    void contextMenuEvent(QContextMenuEvent* event) override;
    void resizeEvent(QResizeEvent* event) override;
    void currentChanged(const QModelIndex& current, const QModelIndex& previous) override;

  private:
    ConceptsOnShow& concepts_;
    ConceptRows* rows_;
    std::function<QString(std::int64_t)> badge_;
    std::int64_t pressed_ = -1;
};

}  // namespace vitrine::app
