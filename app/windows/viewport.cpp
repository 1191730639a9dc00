// Vulkan in a Qt window: our instance, Qt's surface, viz's canvas; and the hand on the picture.
#include "viewport.h"

#include <QDropEvent>
#include <QExposeEvent>
#include <QGuiApplication>
#include <QMimeData>
#include <QMouseEvent>
#include <QPlatformSurfaceEvent>
#include <QStyleHints>
#include <QTimer>
#include <QUrl>
#include <QWheelEvent>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "jobs/milestones.h"

namespace vitrine::app {

// ---- graphics -------------------------------------------------------------------------------------------------------

Graphics::Graphics(QObject* parent) : QObject(parent) {
    if (qEnvironmentVariableIsSet("VITRINE_NO_VULKAN")) {
        trouble_ = tr("Vulkan was switched off by VITRINE_NO_VULKAN");
        return;
    }
    viz::DeviceOptions options;
    options.validation = qEnvironmentVariableIsSet("VITRINE_VALIDATION");
    const auto platform = QGuiApplication::platformName();
    options.instance_extensions = {"VK_KHR_surface"};
    if (platform == QLatin1String("xcb"))
        options.instance_extensions.emplace_back("VK_KHR_xcb_surface");
    else if (platform.startsWith(QLatin1String("wayland")))
        options.instance_extensions.emplace_back("VK_KHR_wayland_surface");
    else {
        trouble_ = tr("The window system '%1' cannot show Vulkan").arg(platform);
        return;
    }
    auto device = viz::Device::create(options);
    if (!device) {
        trouble_ = QString::fromStdString(device.error().message);
        return;
    }
    instance_.setVkInstance(device.value()->instance());
    if (!instance_.create()) {
        trouble_ = tr("Qt did not take the Vulkan instance (error %1)").arg(instance_.errorCode());
        return;
    }
    device_ = std::move(*device);
}

Graphics::~Graphics() {
    compositor_.reset();
    instance_.destroy();
}

void Graphics::giveUp(const QString& trouble) {
    compositor_.reset();
    instance_.destroy();
    device_.reset();
    trouble_ = trouble;
}

QString Graphics::deviceName() const { return device_ ? QString::fromStdString(device_->name()) : QString(); }

Result<viz::Compositor*> Graphics::compositor() {
    if (!device_) return fail(ErrorCode::Unsupported, "pictures cannot be composed: {}", trouble_.toStdString());
    if (!compositor_) compositor_ = VITRINE_TRY(viz::Compositor::create(*device_));
    return compositor_.get();
}

// ---- viewport -------------------------------------------------------------------------------------------------------

Viewport::Viewport(Graphics* graphics) : graphics_(graphics) {
    setSurfaceType(QSurface::VulkanSurface);
    setVulkanInstance(&graphics_->instance());
    setObjectName(QStringLiteral("viewport"));
}

Viewport::~Viewport() { dropCanvas(); }

std::int64_t Viewport::pixelWidth() const { return std::llround(width() * devicePixelRatio()); }
std::int64_t Viewport::pixelHeight() const { return std::llround(height() * devicePixelRatio()); }

void Viewport::setScene(const viz::Scene& scene, const viz::Hud& hud) {
    const bool another = scene.picture_id != scene_.picture_id;
    scene_ = scene;
    hud_ = hud;
    if (another) {
        fitted_ = true;
        fit();
    }
    requestUpdate();
}

viz::Scene Viewport::scene() const {
    auto scene = scene_;
    scene.view = view_;
    scene.display_scale = static_cast<float>(devicePixelRatio());
    return scene;
}

void Viewport::setView(const viz::ViewTransform& view, bool fitted) {
    view_ = view;
    fitted_ = fitted;
    requestUpdate();
    Q_EMIT viewChanged();
}

void Viewport::fit() {
    if (scene_.picture.width <= 0) return;
    // The HUD stands at the lower edge: the fitted picture leaves it its place.
    const double kept =
        static_cast<double>(std::min<std::int64_t>(std::llround(80 * devicePixelRatio()), pixelHeight() / 4));
    auto view = viz::ViewTransform::fit(scene_.picture.width, scene_.picture.height, pixelWidth(),
                                        pixelHeight() - static_cast<std::int64_t>(kept), 20 * devicePixelRatio());
    view.centre.y += kept / 2 / view.zoom;
    setView(view, true);
}

void Viewport::oneToOne() {
    auto view = view_;
    view.zoom = 1;
    setView(view, false);
}

void Viewport::zoomBy(double factor) {
    setView(view_.zoomed_at({static_cast<double>(pixelWidth()) / 2, static_cast<double>(pixelHeight()) / 2}, factor,
                            pixelWidth(), pixelHeight()),
            false);
}

QPointF Viewport::toWindow(Point photo) const {
    const auto p = view_.to_screen(photo, pixelWidth(), pixelHeight());
    return QPointF(p.x, p.y) / devicePixelRatio();
}

Point Viewport::toPhoto(QPointF window) const {
    const auto p = window * devicePixelRatio();
    return view_.to_photo({p.x(), p.y()}, pixelWidth(), pixelHeight());
}

Result<Image> Viewport::lastFrame() {
    if (!canvas_) return fail(ErrorCode::NotFound, "nothing was drawn yet");
    return canvas_->last_frame();
}

void Viewport::makeCanvas() {
    if (canvas_ || gave_up_ || !graphics_->ready() || !handle()) return;
    const VkSurfaceKHR surface = QVulkanInstance::surfaceForWindow(this);
    if (!surface) {
        gave_up_ = true;
        Q_EMIT failed(tr("The window system gave no Vulkan surface"));
        return;
    }
    std::uint64_t handle = 0;
    static_assert(sizeof(surface) <= sizeof(handle));
    std::memcpy(&handle, &surface, sizeof(surface));
    auto canvas = viz::Canvas::create(graphics_->device(), handle, pixelWidth(), pixelHeight());
    if (!canvas) {
        gave_up_ = true;
        Q_EMIT failed(QString::fromStdString(canvas.error().message));
        return;
    }
    canvas_ = std::move(*canvas);
}

void Viewport::dropCanvas() { canvas_.reset(); }

void Viewport::drawNow() {
    if (!isExposed() || width() <= 0 || height() <= 0) return;
    makeCanvas();
    if (!canvas_) return;
    auto hud = hud_;
    hud.display_scale = static_cast<float>(devicePixelRatio());
    if (const auto drawn = canvas_->draw(scene(), hud); !drawn) {
        dropCanvas();
        // Once may be a hiccup of the driver; a device that is lost, or fails again and again, is for the main window
        // to replace.
        if (graphics_->device().is_lost() || ++failures_ > 3) {
            gave_up_ = true;
            Q_EMIT failed(QString::fromStdString(drawn.error().message));
        } else {
            requestUpdate();
        }
        return;
    }
    failures_ = 0;
    ++frames_;
    milestone(!scene_.layers.empty() ? "first result drawn"
              : scene_.picture.data  ? "picture drawn"
                                     : "empty room drawn");
}

bool Viewport::event(QEvent* event) {
    switch (event->type()) {
        case QEvent::UpdateRequest:
            drawNow();
            return true;
        case QEvent::PlatformSurface:
            if (static_cast<QPlatformSurfaceEvent*>(event)->surfaceEventType() ==
                QPlatformSurfaceEvent::SurfaceAboutToBeDestroyed)
                dropCanvas();
            break;
        case QEvent::Leave:
            cursor_.reset();
            Q_EMIT pointed(0, 0, false);
            break;
        case QEvent::DragEnter:
        case QEvent::DragMove: {
            auto* drag = static_cast<QDropEvent*>(event);
            if (drag->mimeData()->hasUrls()) drag->acceptProposedAction();
            return true;
        }
        case QEvent::Drop: {
            auto* drop = static_cast<QDropEvent*>(event);
            QStringList paths;
            for (const auto& url : drop->mimeData()->urls())
                if (url.isLocalFile()) paths << url.toLocalFile();
            drop->acceptProposedAction();
            Q_EMIT dropped(paths);
            return true;
        }
        default:
            break;
    }
    return QWindow::event(event);
}

void Viewport::exposeEvent(QExposeEvent*) {
    if (isExposed()) drawNow();
}

void Viewport::resizeEvent(QResizeEvent*) {
    if (canvas_) {
        if (const auto resized = canvas_->resize(pixelWidth(), pixelHeight()); !resized) dropCanvas();
    }
    if (fitted_) fit();
    requestUpdate();
}

void Viewport::updateCursorShape() {
    if (panning_)
        setCursor(Qt::ClosedHandCursor);
    else if (space_)
        setCursor(Qt::OpenHandCursor);
    else
        unsetCursor();
}

void Viewport::mouseMoveEvent(QMouseEvent* event) {
    const auto position = event->position();
    if (panning_) {
        const auto delta = (position - last_) * devicePixelRatio();
        auto view = view_;
        view.centre.x -= delta.x() / view.zoom;
        view.centre.y -= delta.y() / view.zoom;
        setView(view, false);
    }
    if ((position - pressed_at_).manhattanLength() > 4) moved_ = true;
    // Further than a hand that clicks may slip: a rectangle changes what is explained.
    const int slip = QGuiApplication::styleHints()->startDragDistance();
    if (pressed_ && !panning_ && (position - pressed_at_).manhattanLength() >= slip) dragging_ = true;
    last_ = position;
    cursor_ = toPhoto(position);
    if (dragging_) Q_EMIT dragged(drawnBox(), false);
    Q_EMIT pointed(cursor_->x, cursor_->y, true);
}

Box Viewport::drawnBox() const {
    const auto a = toPhoto(pressed_at_), b = toPhoto(last_);
    return {std::min(a.x, b.x), std::min(a.y, b.y), std::max(a.x, b.x), std::max(a.y, b.y)};
}

void Viewport::dropDrag() {
    pressed_ = false;
    if (!std::exchange(dragging_, false)) return;
    Q_EMIT dragDropped();
}

void Viewport::mousePressEvent(QMouseEvent* event) {
    requestActivate();
    pressed_at_ = last_ = event->position();
    moved_ = false;
    if (event->button() == Qt::MiddleButton || (event->button() == Qt::LeftButton && space_))
        panning_ = true;
    else if (event->button() == Qt::LeftButton)
        pressed_ = true;
    else
        dropDrag();
    updateCursorShape();
}

void Viewport::mouseReleaseEvent(QMouseEvent* event) {
    const bool was_panning = panning_;
    panning_ = false;
    updateCursorShape();
    if (event->button() == Qt::LeftButton) {
        pressed_ = false;
        if (std::exchange(dragging_, false)) {
            last_ = event->position();
            return Q_EMIT dragged(drawnBox(), true);
        }
    }
    if (event->button() == Qt::RightButton) return Q_EMIT menuWanted(event->globalPosition().toPoint());
    if (event->button() != Qt::LeftButton || was_panning || moved_) return;
    const auto photo = toPhoto(event->position());
    Q_EMIT clicked(photo.x, photo.y);
}

void Viewport::wheelEvent(QWheelEvent* event) {
    const double steps = event->angleDelta().y() / 120.0;
    if (steps == 0) return;
    const auto at = event->position() * devicePixelRatio();
    setView(view_.zoomed_at({at.x(), at.y()}, std::pow(1.2, steps), pixelWidth(), pixelHeight()), false);
    cursor_ = toPhoto(event->position());
    Q_EMIT pointed(cursor_->x, cursor_->y, true);
}

void Viewport::keyPressEvent(QKeyEvent* event) {
    if (event->key() == Qt::Key_Escape && dragging_) return dropDrag();
    if (event->key() == Qt::Key_Space) {
        space_ = true;
        updateCursorShape();
        return;
    }
    Q_EMIT keyWanted(event);
}

void Viewport::keyReleaseEvent(QKeyEvent* event) {
    if (event->key() == Qt::Key_Space && !event->isAutoRepeat()) {
        space_ = false;
        updateCursorShape();
        return;
    }
    Q_EMIT keyWanted(event);
}

}  // namespace vitrine::app
