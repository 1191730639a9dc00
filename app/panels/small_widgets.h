// The small painted widgets of the panels: predictions, range, badges, the notice bar and the thin progress bar.
#pragma once

#include <QDockWidget>
#include <QFrame>
#include <QImage>
#include <QLabel>
#include <QMainWindow>
#include <QPushButton>
#include <QToolButton>
#include <QWidget>

#include <optional>
#include <vector>

#include "jobs/session.h"
#include "panels/view_settings.h"

class QVBoxLayout;

namespace vitrine::app {

/// The five most probable classes with bars; a click makes one the target. Space for five rows is always kept.
class PredictionsView : public QWidget {
    Q_OBJECT

  public:
    explicit PredictionsView(QWidget* parent = nullptr) : PredictionsView(5, parent) {}
    explicit PredictionsView(int rows, QWidget* parent = nullptr);
    /// @param empty   what to say when there is nothing to show
    /// @param before  probabilities of every class by the model that was not steered: a second, thinner bar; or empty
    void setPredictions(std::vector<Prediction> predictions, std::optional<std::int64_t> target, const QString& empty,
                        std::vector<double> before = {});
    QSize sizeHint() const override { return {240, rows_ * kRow}; }
    QSize minimumSizeHint() const override { return {160, rows_ * kRow}; }

  Q_SIGNALS:
    void chosen(qint64 index);

  protected:
    void paintEvent(QPaintEvent* event) override;
    void mouseMoveEvent(QMouseEvent* event) override;
    void mouseReleaseEvent(QMouseEvent* event) override;
    void keyPressEvent(QKeyEvent* event) override;
    void leaveEvent(QEvent* event) override;
    bool event(QEvent* event) override;

  private:
    static constexpr int kRow = 32;
    int rowAt(const QPoint& position) const;
    std::vector<Prediction> predictions_;
    std::optional<double> beforeOf(const Prediction& prediction) const;
    std::optional<std::int64_t> target_;
    std::vector<double> before_;
    QString empty_;
    int rows_;
    int hovered_ = -1, focused_ = 0;
};

/// The colour bar with two handles and the histogram of the map behind it. A double click takes the default range back.
class RangeBar : public QWidget {
    Q_OBJECT

  public:
    explicit RangeBar(QWidget* parent = nullptr);
    void setPlane(const Plane* plane, const ViewSettings& settings);
    QSize sizeHint() const override { return {240, 72}; }
    QSize minimumSizeHint() const override { return {160, 72}; }

  Q_SIGNALS:
    void rangeChanged(float low, float high);
    void rangeReset();

  protected:
    void paintEvent(QPaintEvent* event) override;
    void mousePressEvent(QMouseEvent* event) override;
    void mouseMoveEvent(QMouseEvent* event) override;
    void mouseReleaseEvent(QMouseEvent* event) override;
    void mouseDoubleClickEvent(QMouseEvent* event) override;

  private:
    double left() const { return 7; }
    double span() const { return width() - 14.0; }
    double xOf(float value) const;
    float valueAt(double x) const;
    std::optional<Plane> plane_;
    ViewSettings settings_;
    std::vector<int> histogram_;
    int dragged_ = 0;  ///< -1 low, 1 high, 0 none
};

/// A picture in a frame that keeps its space while there is none.
class PictureBox : public QWidget {
    Q_OBJECT

  public:
    explicit PictureBox(int side, QWidget* parent = nullptr);
    void setImage(const QImage& image);
    const QImage& image() const { return image_; }
    void setStale(bool stale);  ///< dimmed while the next one is on its way
    QSize sizeHint() const override { return {side_, side_}; }

  protected:
    void paintEvent(QPaintEvent* event) override;

  private:
    int side_;
    bool stale_ = false;
    QImage image_;
};

/// One finding: a sign, its name and what was found. Never by colour alone.
class FindingRow : public QWidget {
    Q_OBJECT

  public:
    explicit FindingRow(const Finding& finding, QWidget* parent = nullptr);
};

/// One sentence under the top bar, with detail to copy. Hidden when there is nothing to say. A failure that another one
/// covers comes back when that is closed.
class NoticeBar : public QFrame {
    Q_OBJECT

  public:
    explicit NoticeBar(QWidget* parent = nullptr);
    void show(const Notice& notice);
    void dismiss();  ///< all of it
    void closeOne();
    void restyle();
    const QString& sentence() const { return notice_.sentence; }

  private:
    void fill();
    Notice notice_;
    std::vector<Notice> covered_;
    QLabel* sign_;
    QLabel* text_;
    QLabel* more_;
    QPushButton* action_;
    QToolButton* copy_;
    QToolButton* close_;
};

/// Two pixels of progress; its space is always there.
class ThinBar : public QWidget {
    Q_OBJECT

  public:
    explicit ThinBar(QWidget* parent = nullptr);
    /// @param share  0 to 1; negative: under way, share unknown
    void setProgress(bool active, double share);

  protected:
    void paintEvent(QPaintEvent* event) override;
    void timerEvent(QTimerEvent* event) override;

  private:
    bool active_ = false;
    double share_ = -1, phase_ = 0;
    int timer_ = 0;
};

/// The heading of a dock; it steps back where tabs name the docks already.
class DockTitle : public QWidget {
    Q_OBJECT

  public:
    explicit DockTitle(QDockWidget* dock, QMainWindow* window);
    void restyle();
    QSize sizeHint() const override { return {80, tabbed() ? 4 : 32}; }
    QSize minimumSizeHint() const override { return sizeHint(); }
    void settle();  ///< after docks were moved

  private:
    bool tabbed() const;
    QDockWidget* dock_;
    QMainWindow* window_;
    QLabel* label_;
    QToolButton* close_;
};

/// One line that keeps its place: as wide as `reserved` where there is room, cut with the whole as tooltip where not.
class ReservedLabel : public QLabel {
    Q_OBJECT

  public:
    explicit ReservedLabel(int reserved, QWidget* parent = nullptr);
    QSize sizeHint() const override { return {reserved_, QLabel::sizeHint().height()}; }
    QSize minimumSizeHint() const override { return {24, QLabel::minimumSizeHint().height()}; }

  protected:
    void paintEvent(QPaintEvent* event) override;
    bool event(QEvent* event) override;

  private:
    int reserved_;
};

/// "Opacity" above a control: the caption every setting has.
QWidget* captioned(const QString& caption, QWidget* control, QLabel** value = nullptr);
QLabel* heading(const QString& text);
QLabel* quiet(const QString& text = {});
void clearLayout(class QLayout* layout);
QVBoxLayout* columnIn(QWidget* box, int spacing);  ///< without margins
/// One of a row of buttons of which one is down.
///
/// @param place  "left", "middle" or "right" in the row
QPushButton* segment(const QString& words, const char* place, const char* name = "");

}  // namespace vitrine::app
