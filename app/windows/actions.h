// What the main window's parts share: its actions, and where it remembers what was opened.
#pragma once

#include <QAction>

#include <utility>
#include <vector>

#include "windows/main_window.h"

namespace vitrine::app {

inline const QString kModels = QStringLiteral("recent/models"), kPictures = QStringLiteral("recent/pictures"),
                     kConcepts = QStringLiteral("recent/concepts");

/// The actions that change with what is open.
struct MainWindow::Actions {
    QAction *export_picture, *export_map, *copy_picture, *copy_value, *unpin, *undo, *redo;
    QAction *fit, *one, *zoom_in, *zoom_out, *grid, *solid, *live, *hide, *theme_system, *theme_dark, *theme_light;
    QAction *layer_up, *layer_down, *head_up, *head_down, *starter;
    QAction *flip, *target, *region, *again, *stop, *several, *methods, *gallery;
    QAction *compare_model, *compare_variant, *compare_flip;
    std::vector<std::pair<QString, std::vector<QAction*>>> groups;  ///< for the sheet of keys
    std::vector<QAction*> all;
};

}  // namespace vitrine::app
