// The lit picture: a Vulkan window inside ours, zoomed, panned and pointed at.
//
// Lives on the interface thread with all of viz. What is drawn is given as a Scene without its view; the view is kept
// here.
#pragma once

#include <QImage>
#include <QString>
#include <QStringList>
#include <QVulkanInstance>
#include <QWindow>

#include <cstring>

#include <memory>
#include <optional>

#include <vitrine/viz/compositor.h>

namespace vitrine::app {

/// The device, shared by the viewport and exports, and what stood in its way.
class Graphics : public QObject {
    Q_OBJECT

  public:
    /// Makes a device able to show windows; `trouble` says why there is none.
    explicit Graphics(QObject* parent = nullptr);
    ~Graphics() override;
    bool ready() const { return device_ != nullptr; }
    const QString& trouble() const { return trouble_; }
    viz::Device& device() { return *device_; }
    QVulkanInstance& instance() { return instance_; }
    QString deviceName() const;
    /// An off-screen compositor on the same device, made when first asked for.
    Result<viz::Compositor*> compositor();
    /// Lets go of the device, as if there had been none; viewports on it must be gone.
    void giveUp(const QString& trouble);

  private:
    std::unique_ptr<viz::Device> device_;
    std::unique_ptr<viz::Compositor> compositor_;
    QVulkanInstance instance_;
    QString trouble_;
};

class Viewport : public QWindow {
    Q_OBJECT

  public:
    explicit Viewport(Graphics* graphics);
    ~Viewport() override;

    /// Replaces what is shown; the view (zoom, centre) stays, or fits again when the picture changed.
    void setScene(const viz::Scene& scene, const viz::Hud& hud);
    /// The scene as drawn, with its view.
    viz::Scene scene() const;

    void fit();
    void oneToOne();
    void zoomBy(double factor);
    /// Zoom and centre of another viewport on the same picture, which this one replaces.
    void takeView(const viz::ViewTransform& view) { setView(view, false); }
    bool isDragging() const { return dragging_; }
    void dropDrag();  ///< gives the rectangle up that is being drawn
    double zoom() const { return view_.zoom; }
    bool isFitted() const { return fitted_; }

    QPointF toWindow(Point photo) const;  ///< logical pixels
    Point toPhoto(QPointF window) const;
    std::optional<Point> cursor() const { return cursor_; }  ///< in photo pixels
    Result<Image> lastFrame();                               ///< without HUD
    std::int64_t framesDrawn() const { return frames_; }

  Q_SIGNALS:
    void pointed(double x, double y, bool inside);  ///< the cursor, in photo pixels
    void clicked(double x, double y);
    /// A rectangle is being drawn, in photo pixels; `done` where the button was let go.
    void dragged(const vitrine::Box& photo, bool done);
    void dragDropped();  ///< it was given up
    void menuWanted(const QPoint& global);
    void dropped(const QStringList& paths);
    void viewChanged();
    void failed(const QString& sentence);  ///< drawing does not work any more
    void keyWanted(QKeyEvent* event);      ///< pressed or released while the viewport has the focus

  protected:
    bool event(QEvent* event) override;
    void exposeEvent(QExposeEvent* event) override;
    void resizeEvent(QResizeEvent* event) override;
    void mouseMoveEvent(QMouseEvent* event) override;
    void mousePressEvent(QMouseEvent* event) override;
    void mouseReleaseEvent(QMouseEvent* event) override;
    void wheelEvent(QWheelEvent* event) override;
    void keyPressEvent(QKeyEvent* event) override;
    void keyReleaseEvent(QKeyEvent* event) override;

  private:
    void drawNow();
    void makeCanvas();
    void dropCanvas();
    void setView(const viz::ViewTransform& view, bool fitted);
    std::int64_t pixelWidth() const;
    std::int64_t pixelHeight() const;
    void updateCursorShape();
    Box drawnBox() const;

    Graphics* graphics_;
    std::unique_ptr<viz::Canvas> canvas_;
    viz::Scene scene_;
    viz::Hud hud_;
    viz::ViewTransform view_;
    bool fitted_ = true, space_ = false, panning_ = false, pressed_ = false, dragging_ = false, moved_ = false,
         gave_up_ = false;
    QPointF pressed_at_, last_;
    std::optional<Point> cursor_;
    std::int64_t frames_ = 0;
    int failures_ = 0;
};

}  // namespace vitrine::app
