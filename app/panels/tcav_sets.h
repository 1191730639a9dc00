// The concepts that are tested: folders of pictures, and regions that are drawn on pictures and kept in a list that the
// command line reads, too.
#pragma once

#include <QAbstractButton>
#include <QImage>
#include <QWidget>

#include <optional>
#include <vector>

#include <vitrine/base/region_list.h>

#include "jobs/session.h"

class QLabel;
class QLineEdit;
class QPushButton;
class QToolButton;
class QVBoxLayout;

namespace vitrine::app {

struct TcavSet {
    QString name, path;
    bool folder = false;
    std::int64_t pictures = -1;  ///< of a folder; -1: not counted yet
    RegionList list;             ///< where it is none
    std::vector<QImage> tiles;   ///< one a region; null: not seen yet

    std::int64_t examples() const { return folder ? pictures : static_cast<std::int64_t>(list.regions.size()); }
};

/// A region as it was drawn. A click goes to its picture; Delete, or the cross that hovering shows, takes it out.
class RegionTile : public QAbstractButton {
    Q_OBJECT

  public:
    explicit RegionTile(const QImage& image, QWidget* parent = nullptr);
    QSize sizeHint() const override { return {kSide, kSide}; }
    static constexpr int kSide = 48;

  Q_SIGNALS:
    void removeWanted();

  protected:
    void paintEvent(QPaintEvent* event) override;
    void mouseReleaseEvent(QMouseEvent* event) override;
    void keyPressEvent(QKeyEvent* event) override;
    void contextMenuEvent(QContextMenuEvent* event) override;
    void enterEvent(QEnterEvent*) override { update(); }
    void leaveEvent(QEvent*) override { update(); }

  private:
    QRect cross() const { return {kSide - 18, 0, 18, 18}; }
    QImage image_;
};

class TcavSets : public QWidget {
    Q_OBJECT

  public:
    explicit TcavSets(Session& session, QWidget* parent = nullptr);
    ~TcavSets() override;
    void restyle();

    const std::vector<TcavSet>& sets() const { return sets_; }
    QString whyNot() const;  ///< what keeps them from being tested; empty: nothing
    const QString& trouble() const { return trouble_; }
    void setGround(std::optional<Ground> ground);  ///< of the point that is tested; null: not known
    void addFolder(const QString& folder);
    void openList(const QString& file);
    void remove(std::size_t set);
    void removeRegion(std::size_t set, std::size_t region);

    bool drawing() const { return drawing_; }
    void setDrawing(bool drawing);
    void draw(const Box& photo);
    /// What is to be seen on the picture while it is drawn: the cells under `dragged`, else those that were drawn.
    std::optional<Box> box(const std::optional<Box>& dragged) const;
    /// Keeps the region under the name that is written.
    void add();
    static QString listsFolder();  ///< where lists of drawn regions are kept

  Q_SIGNALS:
    void changed();
    void drawingChanged();

  private:
    struct Hands {};                          ///< what the thread has of its own: nothing
    std::optional<Region> candidate() const;  ///< what would be added: drawn, or the region that is explained
    QString whyNoDrawing() const;
    QString whyNoAdding() const;
    std::optional<std::size_t> named(const QString& name) const;
    QString freeName(const QString& wanted) const;
    bool write(const TcavSet& set);
    void seeTiles(const TcavSet& set);
    void fold(const QString& path);
    void rebuild();
    void refresh();

    Session& session_;
    std::vector<TcavSet> sets_;
    std::optional<Ground> ground_;
    std::optional<Region> drawn_;
    bool drawing_ = false;
    QString trouble_, open_;  ///< the path of the set whose regions are seen
    QVBoxLayout* rows_;
    std::vector<RegionTile*> tiles_;  ///< that are seen
    QLineEdit* name_;
    QPushButton *draw_, *add_;
    QToolButton *add_folder_, *open_list_;
    QLabel *hint_, *trouble_words_;
    JobQueue<Hands> jobs_;  // last: it ends before what its answers touch
};

}  // namespace vitrine::app
