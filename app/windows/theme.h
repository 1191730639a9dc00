// The palettes, fonts and icons of the room, and the style sheet made of them.
#pragma once

#include <QColor>
#include <QFont>
#include <QIcon>
#include <QString>

#include <vitrine/viz/scene.h>

class QApplication;

namespace vitrine::app {

struct Theme {
    enum class Choice { System, Dark, Light };

    bool dark = true;
    QColor room, panel, raised, line, text, secondary, accent, warning, error, good;
    QColor hover;  ///< the ground of a control under the cursor
    QColor faint;  ///< tracks of bars and sliders

    static Theme make(bool dark);
    /// The theme in force; set by `apply`. Widgets that paint themselves read it.
    static const Theme& now();
    /// Palette, style sheet and fonts of the whole program. VITRINE_THEME (dark, light) overrides the choice.
    static void apply(QApplication& application, Choice choice);
    static Choice choiceNamed(const QString& name);
    static QString nameOf(Choice choice);

    viz::Palette palette() const;
};

/// Sizes are logical pixels: 11 small, 13 text, 16 heading, 22 title.
QFont sans(int pixels = 13, bool semibold = false);
QFont mono(int pixels = 11);

/// One of our icons in the colours of the theme in force; grey when disabled, accent when checked.
QIcon icon(const QString& name);
QPixmap iconPixmap(const QString& name, const QColor& colour, int side, qreal ratio);

}  // namespace vitrine::app
