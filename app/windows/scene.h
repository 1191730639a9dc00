// A map on the picture as data to draw, and what a point of the picture reads of it: one composition for the viewport,
// exports and the cells of the grid.
#pragma once

#include <QImage>
#include <QRectF>

#include <array>
#include <optional>

#include <vitrine/viz/scene.h>

#include "jobs/session.h"
#include "panels/view_settings.h"

class QPainter;

namespace vitrine::app {

/// What lies under a point of the photo.
struct Reading {
    bool inside = false;         ///< what the model saw
    std::optional<Token> patch;  ///< of the patch grid
    std::int64_t row = 0, col = 0;
    double value = 0;
    bool has_value = false;
    bool pixel = false;  ///< row and col count the model's pixels
    std::optional<std::array<float, 3>> colour;  ///< of a map that is itself a picture, in place of the value

    QString words() const;  ///< "0.0413", or "0.31 0.72 0.10" of a colour; empty where there is no value
};
Reading reading_at(const Session& session, const Plane* plane, const std::optional<Point>& photo);

/// The picture of the session with a map on it; the view is left to who draws it.
///
/// @param plane  null: the picture alone
/// @param stale  the map is out of date: it steps back
viz::Scene compose(const Session& session, const ViewSettings& settings, const Plane* plane, bool stale);

/// The colour of one of several concepts that are lit together.
viz::Rgb hue_of(int slot);
/// In place of the map: each concept in its own colour, the stronger the less transparent.
void lay_concepts(viz::Scene& scene, const ViewSettings& settings, const std::vector<LitMap>& concepts);
/// Where a concept that is lit is at least half as strong as at its strongest, as lines between cells in `box`, which
/// is what the model saw: for views whose colours are another map's.
void outline_concepts(QPainter& painter, const LitConcept& lit, const QRectF& box);

/// The map alone, one pixel a value.
QImage paint_map(const Plane& plane, const ViewSettings& settings);

}  // namespace vitrine::app
