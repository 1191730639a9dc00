// The tabs of panels that share a place: their names while they fit, else their icons, and the name of the chosen one.
#pragma once

#include <QObject>

class QMainWindow;
class QTabBar;

namespace vitrine::app {

/// Follows the tab bars that a window makes for its docks. A tab keeps its text, which is its tooltip and its name for
/// who cannot see it; the style sheet hides it where `icons` is set. An icon is called as the dock's object is.
class PanelTabs : public QObject {
    Q_OBJECT

  public:
    explicit PanelTabs(QMainWindow* window);
    void restyle();  ///< after another theme

  protected:
    bool eventFilter(QObject* watched, QEvent* event) override;

  private:
    void settleAll(bool anew);
    void settle(QTabBar* bar, bool anew);
    QMainWindow* window_;
};

}  // namespace vitrine::app
