// Composition and reading of a map on the picture.
#include "scene.h"

#include <QPainter>

#include <algorithm>
#include <cmath>
#include <tuple>

#include "panels/format.h"
#include "windows/theme.h"

namespace vitrine::app {

QString Reading::words() const {
    if (!has_value) return {};
    if (!colour) return app::value(value);
    QStringList out;
    for (const float c : *colour) out << QString::number(c, 'f', 2);
    return out.join(QLatin1Char(' '));
}

Reading reading_at(const Session& session, const Plane* plane, const std::optional<Point>& photo) {
    Reading reading;
    const auto& look = session.look();
    if (!photo || !look) return reading;
    const auto input = look->geometry.to_input(*photo);
    const auto& g = look->geometry;
    if (input.x < 0 || input.y < 0 || input.x >= static_cast<double>(g.input_width) ||
        input.y >= static_cast<double>(g.input_height))
        return reading;
    if (photo->x < 0 || photo->y < 0 || photo->x >= static_cast<double>(g.photo_width) ||
        photo->y >= static_cast<double>(g.photo_height))
        return reading;
    const auto cell = [&](std::int64_t rows, std::int64_t cols) {
        return std::pair{
            static_cast<std::int64_t>(input.y * static_cast<double>(rows) / static_cast<double>(g.input_height)),
            static_cast<std::int64_t>(input.x * static_cast<double>(cols) / static_cast<double>(g.input_width))};
    };
    reading.inside = true;
    if (look->grid_rows > 0) {
        const auto [row, col] = cell(look->grid_rows, look->grid_cols);
        reading.patch = Token{row, col};
    }
    if (plane) {
        std::tie(reading.row, reading.col) = cell(plane->rows, plane->cols);
        reading.value = plane->at(reading.row, reading.col);
        reading.has_value = true;
        if (plane->colours) reading.colour = plane->colour_at(reading.row, reading.col);
        reading.pixel = plane->rows == g.input_height && plane->cols == g.input_width;
    }
    return reading;
}

viz::Scene compose(const Session& session, const ViewSettings& settings, const Plane* plane, bool stale) {
    viz::Scene scene;
    scene.palette = Theme::now().palette();
    const auto& picture = session.picture();
    if (!picture) return scene;
    scene.picture = picture->photo;
    scene.picture_id = session.pictureId();
    const auto& look = session.look();
    if (!look) return scene;
    scene.seen = look->geometry.seen();
    scene.grid_rows = look->grid_rows;
    scene.grid_cols = look->grid_cols;
    scene.show_grid = settings.grid;
    if (const auto patch = session.hovered()) scene.hovered = viz::Cell{patch->row, patch->col};
    if (const auto& region = session.region()) scene.region = session.boxOf(*region);
    if (const auto patch = session.pinned()) scene.pinned = viz::Cell{patch->row, patch->col};
    if (plane) {
        viz::MapLayer layer;
        layer.map = plane->view();
        layer.area = *scene.seen;
        layer.scale = scale_of(*plane, settings);
        layer.colours = colours_of(*plane, settings);
        layer.upsampling = settings.upsampling;
        layer.solid = settings.solid;
        // What is out of date steps back until its successor arrives.
        layer.opacity = settings.opacity * (stale ? 0.5F : 1.0F);
        scene.layers.push_back(std::move(layer));
    }
    return scene;
}

viz::Rgb hue_of(int slot) {
    // Told apart by people who see fewer colours, too: Okabe and Ito, "Color Universal Design", 2008.
    static constexpr std::array<viz::Rgb, 7> kHues{{{0x56, 0xB4, 0xE9},
                                                    {0xE6, 0x9F, 0x00},
                                                    {0xCC, 0x79, 0xA7},
                                                    {0x00, 0x9E, 0x73},
                                                    {0xF0, 0xE4, 0x42},
                                                    {0xD5, 0x5E, 0x00},
                                                    {0x00, 0x72, 0xB2}}};
    return kHues[static_cast<std::size_t>(std::max(slot, 0)) % kHues.size()];
}

void lay_concepts(viz::Scene& scene, const ViewSettings& settings, const std::vector<LitMap>& concepts) {
    if (!scene.seen) return;
    scene.layers.clear();
    for (const auto& one : concepts) {
        viz::MapLayer layer;
        layer.map = one.plane.view();
        layer.area = *scene.seen;
        // Of a signed one what speaks for it: nothing is less than transparent.
        layer.scale = {.low = 0, .high = std::max(one.plane.shown_high, 1e-6F), .logarithmic = settings.logarithmic};
        layer.hue = hue_of(one.slot);
        layer.upsampling = settings.upsampling;
        layer.opacity = settings.opacity;
        scene.layers.push_back(std::move(layer));
    }
}

void outline_concepts(QPainter& painter, const LitConcept& lit, const QRectF& box) {
    const auto outline = [&](const Plane& plane, const QColor& colour) {
        const float least = plane.high / 2;
        if (!(least > 0)) return;
        const auto in = [&](std::int64_t r, std::int64_t c) {
            return r >= 0 && c >= 0 && r < plane.rows && c < plane.cols && plane.at(r, c) >= least;
        };
        const auto at = [&](std::int64_t r, std::int64_t c) {
            return QPointF(box.left() + box.width() * static_cast<double>(c) / static_cast<double>(plane.cols),
                           box.top() + box.height() * static_cast<double>(r) / static_cast<double>(plane.rows));
        };
        std::vector<QLineF> lines;
        for (std::int64_t r = 0; r <= plane.rows; ++r)
            for (std::int64_t c = 0; c <= plane.cols; ++c) {
                if (in(r, c) != in(r - 1, c)) lines.emplace_back(at(r, c), at(r, c + 1));
                if (in(r, c) != in(r, c - 1)) lines.emplace_back(at(r, c), at(r + 1, c));
            }
        for (const auto& pen : {QPen(QColor(0, 0, 0, 160), 3), QPen(colour, 1.5)}) {
            painter.setPen(pen);
            painter.drawLines(lines.data(), static_cast<int>(lines.size()));
        }
    };
    painter.save();
    painter.setClipRect(box.adjusted(-2, -2, 2, 2), Qt::IntersectClip);
    const auto colour = [](int slot) {
        const auto rgb = hue_of(slot);
        return QColor(rgb.r, rgb.g, rgb.b);
    };
    if (lit.together.empty()) outline(lit.plane, Qt::white);
    for (const auto& one : lit.together) outline(one.plane, colour(one.slot));
    painter.restore();
}

QImage paint_map(const Plane& plane, const ViewSettings& settings) {
    QImage image(static_cast<int>(plane.cols), static_cast<int>(plane.rows), QImage::Format_RGB32);
    const auto scale = scale_of(plane, settings);
    const auto colours = colours_of(plane, settings);
    const auto byte = [](float v) { return static_cast<int>(std::lround(255 * (v > 0 ? std::min(v, 1.0F) : 0))); };
    for (int r = 0; r < image.height(); ++r) {
        auto* line = reinterpret_cast<QRgb*>(image.scanLine(r));
        for (int c = 0; c < image.width(); ++c) {
            if (plane.colours) {
                const auto [red, green, blue] = plane.colour_at(r, c);
                line[c] = qRgb(byte(red), byte(green), byte(blue));
                continue;
            }
            const auto colour = viz::colour_at(colours, viz::position_of(plane.at(r, c), scale));
            line[c] = qRgb(colour.r, colour.g, colour.b);
        }
    }
    return image;
}

}  // namespace vitrine::app
