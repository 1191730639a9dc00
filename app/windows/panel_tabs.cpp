// Looks at each tab bar when it is laid out, and chooses between names and icons.
#include "panel_tabs.h"

#include <QDockWidget>
#include <QEvent>
#include <QMainWindow>
#include <QStyle>
#include <QTabBar>

#include "windows/theme.h"

namespace vitrine::app {
namespace {

constexpr const char* kIcons = "icons";
constexpr int kPadding_px = 24;  // beside a name, as in room.qss

}  // namespace

PanelTabs::PanelTabs(QMainWindow* window) : QObject(window), window_(window) { window->installEventFilter(this); }

void PanelTabs::restyle() { settleAll(true); }

bool PanelTabs::eventFilter(QObject* watched, QEvent* event) {
    const auto type = event->type();
    if (watched == window_) {
        if (type == QEvent::LayoutRequest) settleAll(false);
        if (type == QEvent::ChildPolished)
            if (auto* bar = qobject_cast<QTabBar*>(static_cast<QChildEvent*>(event)->child())) {
                bar->setFocusPolicy(Qt::TabFocus);
                bar->installEventFilter(this);
            }
    } else if (type == QEvent::Resize || type == QEvent::Show) {
        settle(static_cast<QTabBar*>(watched), false);
    }
    return QObject::eventFilter(watched, event);
}

void PanelTabs::settleAll(bool anew) {
    for (auto* bar : window_->findChildren<QTabBar*>(QString(), Qt::FindDirectChildrenOnly)) settle(bar, anew);
}

void PanelTabs::settle(QTabBar* bar, bool anew) {
    int names = 0;
    for (int i = 0; i < bar->count(); ++i)
        names += bar->fontMetrics().size(Qt::TextShowMnemonic, bar->tabText(i)).width() + kPadding_px;
    const bool icons = names > bar->width();
    if (icons != bar->property(kIcons).toBool()) {
        bar->setProperty(kIcons, icons);
        bar->style()->unpolish(bar);
        bar->style()->polish(bar);
    }
    // Each new icon lays the tabs out anew.
    for (int i = 0; i < bar->count(); ++i) {
        if (!icons) {
            if (!bar->tabIcon(i).isNull()) bar->setTabIcon(i, {});
            continue;
        }
        if (!anew && !bar->tabIcon(i).isNull()) continue;
        for (const auto* dock : window_->findChildren<QDockWidget*>())
            if (dock->windowTitle() == bar->tabText(i)) bar->setTabIcon(i, icon(dock->objectName()));
    }
}

}  // namespace vitrine::app
