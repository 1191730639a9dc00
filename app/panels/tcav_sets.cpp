// Keeps lists of regions on disk while they are drawn, and shows what is in them.
#include "tcav_sets.h"

#include <QContextMenuEvent>
#include <QDir>
#include <QFileDialog>
#include <QFileInfo>
#include <QGridLayout>
#include <QHBoxLayout>
#include <QKeyEvent>
#include <QLabel>
#include <QLineEdit>
#include <QMenu>
#include <QMetaObject>
#include <QPainter>
#include <QPainterPath>
#include <QPushButton>
#include <QToolButton>
#include <QVBoxLayout>

#include <algorithm>
#include <cstdio>
#include <sstream>

#include <vitrine/base/image_file.h>
#include <vitrine/base/picture_files.h>

#include "jobs/posted_to.h"
#include "panels/format.h"
#include "panels/region_row.h"
#include "panels/small_widgets.h"
#include "windows/theme.h"

namespace vitrine::app {
namespace {

constexpr std::int64_t kFewest = 6;  // examples, as the engine asks
constexpr int kAcross = 4;
constexpr std::size_t kMostTiles = 60;

QString text(const std::string& utf8) { return QString::fromStdString(utf8); }

QString sentence(QString words) {
    if (!words.isEmpty()) words[0] = words[0].toUpper();
    return words;
}

/// The rectangle around the cells of a line; nothing where they are none.
std::optional<Region> boundsOf(const std::string& cells) {
    std::optional<Region> out;
    std::istringstream parts(cells);
    for (std::string part; std::getline(parts, part, ';');) {
        long long row = 0, col = 0, to_row = 0, to_col = 0;
        const int read = std::sscanf(part.c_str(), "%9lld,%9lld-%9lld,%9lld", &row, &col, &to_row, &to_col);
        if (read == 2) to_row = row, to_col = col;
        if ((read != 2 && read != 4) || row < 0 || col < 0 || to_row < row || to_col < col) return std::nullopt;
        const Region one{row, col, to_row, to_col};
        if (!out) out = one;
        out = Region{std::min(out->row, one.row), std::min(out->col, one.col), std::max(out->to_row, one.to_row),
                     std::max(out->to_col, one.to_col)};
    }
    return out;
}

/// @param seen  what the model sees, over which the cells lie evenly
QImage tileOf(const ImageView& seen, const Region& region, std::int64_t rows, std::int64_t cols) {
    if (!seen.data || rows <= 0 || cols <= 0 || region.to_row >= rows || region.to_col >= cols) return {};
    const QImage picture(seen.data, static_cast<int>(seen.width), static_cast<int>(seen.height),
                         static_cast<qsizetype>(seen.row_bytes), QImage::Format_RGB888);
    const double w = static_cast<double>(seen.width) / static_cast<double>(cols),
                 h = static_cast<double>(seen.height) / static_cast<double>(rows);
    const QRectF box(static_cast<double>(region.col) * w, static_cast<double>(region.row) * h,
                     static_cast<double>(region.to_col - region.col + 1) * w,
                     static_cast<double>(region.to_row - region.row + 1) * h);
    // Twice as large as it is seen, for screens that show twice as much.
    return picture.copy(box.toAlignedRect())
        .scaled(2 * RegionTile::kSide, 2 * RegionTile::kSide, Qt::KeepAspectRatio, Qt::SmoothTransformation);
}

}  // namespace

RegionTile::RegionTile(const QImage& image, QWidget* parent) : QAbstractButton(parent), image_(image) {
    setFixedSize(kSide, kSide);
    setFocusPolicy(Qt::StrongFocus);
    setMouseTracking(true);
}

void RegionTile::paintEvent(QPaintEvent*) {
    const auto& t = Theme::now();
    QPainter painter(this);
    painter.setRenderHints(QPainter::Antialiasing | QPainter::SmoothPixmapTransform);
    QPainterPath frame;
    frame.addRoundedRect(QRectF(rect()).adjusted(0.5, 0.5, -0.5, -0.5), 4, 4);
    painter.fillPath(frame, t.faint);
    if (!image_.isNull()) {
        const auto size = QSizeF(image_.size()).scaled(QSizeF(rect().size()), Qt::KeepAspectRatio);
        QRectF at(QPointF(0, 0), size);
        at.moveCenter(QRectF(rect()).center());
        painter.save();
        painter.setClipPath(frame);
        painter.drawImage(at, image_);
        painter.restore();
    }
    painter.strokePath(frame, QPen(hasFocus() ? t.accent : t.line, hasFocus() ? 2 : 1));
    if (!underMouse() && !hasFocus()) return;
    painter.setPen(Qt::NoPen);
    painter.setBrush(t.panel);
    painter.drawRoundedRect(cross(), 4, 4);
    painter.drawPixmap(cross().topLeft() + QPoint(3, 3),
                       iconPixmap(QStringLiteral("close"), t.text, 12, devicePixelRatioF()));
}

void RegionTile::mouseReleaseEvent(QMouseEvent* event) {
    const bool crossed = event->button() == Qt::LeftButton && isDown() && cross().contains(event->pos());
    if (crossed) setDown(false);
    // The tile goes with its region: nothing of it may be touched behind this.
    crossed ? Q_EMIT removeWanted() : QAbstractButton::mouseReleaseEvent(event);
}

void RegionTile::keyPressEvent(QKeyEvent* event) {
    if (event->key() == Qt::Key_Delete || event->key() == Qt::Key_Backspace) return Q_EMIT removeWanted();
    QAbstractButton::keyPressEvent(event);
}

void RegionTile::contextMenuEvent(QContextMenuEvent* event) {
    QMenu menu(this);
    auto* show = menu.addAction(tr("Show its picture"));
    auto* take_out = menu.addAction(tr("Take it out"));
    const auto* chosen = menu.exec(event->globalPos());
    if (chosen == show) click();
    if (chosen == take_out) Q_EMIT removeWanted();
}

// ---- the concepts ---------------------------------------------------------------------------------------------------

TcavSets::TcavSets(Session& session, QWidget* parent)
    : QWidget(parent), session_(session), jobs_([] { return std::make_unique<Hands>(); }, posted_to(this)) {
    auto* column = new QVBoxLayout(this);
    column->setContentsMargins(0, 0, 0, 0);
    column->setSpacing(8);
    auto* top = new QHBoxLayout;
    top->setSpacing(4);
    top->addWidget(heading(tr("Concepts")));
    top->addStretch(1);
    const auto tool = [&](const char* name, const QString& words, const QString& tip) {
        auto* made = new QToolButton;
        made->setObjectName(QLatin1String(name));
        made->setText(words);
        made->setToolTip(tip);
        top->addWidget(made);
        return made;
    };
    add_folder_ = tool("tcavAddFolder", tr("Add folder\u2026"), tr("A folder of pictures that show the concept"));
    open_list_ = tool("tcavOpenList", tr("Open list\u2026"), tr("Regions that were drawn before, or written by hand"));
    column->addLayout(top);
    auto* drawing = new QHBoxLayout;
    drawing->setSpacing(8);
    name_ = new QLineEdit;
    name_->setObjectName(QStringLiteral("tcavName"));
    name_->setPlaceholderText(tr("Name, such as stripes"));
    name_->setAccessibleName(tr("Name of the concept"));
    name_->setMaxLength(80);
    draw_ = new QPushButton(tr("Draw"));
    draw_->setObjectName(QStringLiteral("tcavDraw"));
    draw_->setCheckable(true);
    draw_->setProperty("segment", "alone");  // seen while it is pressed
    drawing->addWidget(name_, 1);
    drawing->addWidget(draw_);
    auto* both = new QWidget;
    both->setLayout(drawing);
    drawing->setContentsMargins(0, 0, 0, 0);
    column->addWidget(captioned(tr("Draw one on pictures"), both));
    add_ = new QPushButton(tr("Add to concept"));
    add_->setObjectName(QStringLiteral("tcavAdd"));
    column->addWidget(add_);
    hint_ = quiet();
    hint_->setObjectName(QStringLiteral("tcavHint"));
    column->addWidget(hint_);
    trouble_words_ = new QLabel;
    trouble_words_->setObjectName(QStringLiteral("tcavSetsTrouble"));
    trouble_words_->setProperty("role", "warning");
    trouble_words_->setWordWrap(true);
    trouble_words_->setTextInteractionFlags(Qt::TextSelectableByMouse);
    column->addWidget(trouble_words_);
    // Last: what is pressed again and again stays where it is while they grow.
    rows_ = new QVBoxLayout;
    rows_->setSpacing(4);
    column->addLayout(rows_);

    connect(add_folder_, &QToolButton::clicked, this, [this] {
        const auto folder = QFileDialog::getExistingDirectory(this, tr("Choose pictures that show the concept"));
        if (!folder.isEmpty()) addFolder(folder);
    });
    connect(open_list_, &QToolButton::clicked, this, [this] {
        const auto file = QFileDialog::getOpenFileName(this, tr("Open a list of regions"), listsFolder(),
                                                       tr("Lists of regions (*.txt);;All files (*)"));
        if (!file.isEmpty()) openList(file);
    });
    connect(draw_, &QPushButton::clicked, this, &TcavSets::setDrawing);
    connect(add_, &QPushButton::clicked, this, &TcavSets::add);
    connect(name_, &QLineEdit::textChanged, this, &TcavSets::refresh);
    connect(name_, &QLineEdit::returnPressed, this, [this] {
        if (whyNoAdding().isEmpty()) add();
    });
    const auto another = [this] {
        drawn_.reset();
        refresh();
    };
    connect(&session_, &Session::pictureChanged, this, another);
    connect(&session_, &Session::modelChanged, this, another);
    connect(&session_, &Session::lookChanged, this, &TcavSets::refresh);
    connect(&session_, &Session::choiceChanged, this, &TcavSets::refresh);
    refresh();
}

TcavSets::~TcavSets() { jobs_.finish(); }

void TcavSets::restyle() { rebuild(); }

QString TcavSets::listsFolder() {
    // Where the names of concepts are, too, when they cannot lie beside them.
    auto data = qEnvironmentVariable("XDG_DATA_HOME");
    if (data.isEmpty()) data = QDir::homePath() + QStringLiteral("/.local/share");
    return data + QStringLiteral("/vitrine/regions");
}

QString TcavSets::whyNot() const {
    if (sets_.empty()) return tr("Add a concept: a folder of pictures, or regions that you draw");
    for (const auto& set : sets_) {
        if (set.folder ? set.pictures >= 0 && set.pictures < kFewest : set.examples() < kFewest)
            return tr("%1 has %2 of the %3 examples that a test needs at least: add more, or remove it")
                .arg(set.name)
                .arg(set.examples())
                .arg(kFewest);
        if (ground_ && set.list.rows > 0 &&
            (set.list.rows != ground_->cells.rows || set.list.cols != ground_->cells.cols))
            return tr("%1 was drawn on %2 \u00d7 %3 cells and %4 has %5 \u00d7 %6: choose a point like the one it was "
                      "drawn at, or remove it")
                .arg(set.name)
                .arg(set.list.rows)
                .arg(set.list.cols)
                .arg(text(ground_->cells.point))
                .arg(ground_->cells.rows)
                .arg(ground_->cells.cols);
    }
    return {};
}

void TcavSets::setGround(std::optional<Ground> ground) {
    ground_ = std::move(ground);
    drawn_.reset();
    if (!ground_) setDrawing(false);
    if (ground_)
        for (const auto& set : sets_)
            if (!set.folder) seeTiles(set);
    refresh();
    Q_EMIT drawingChanged();
}

std::optional<std::size_t> TcavSets::named(const QString& name) const {
    const auto found = std::find_if(sets_.begin(), sets_.end(), [&](const TcavSet& set) { return set.name == name; });
    if (found == sets_.end()) return std::nullopt;
    return static_cast<std::size_t>(found - sets_.begin());
}

QString TcavSets::freeName(const QString& wanted) const {
    auto out = wanted;
    out.replace(QLatin1Char('='), QLatin1Char('-'));  // it parts name and path at the command line
    for (int i = 2; named(out); ++i) out = tr("%1 %2").arg(wanted).arg(i);
    return out;
}

void TcavSets::addFolder(const QString& folder) {
    const QFileInfo info(folder);
    TcavSet set;
    set.path = info.absoluteFilePath();
    trouble_.clear();
    if (!info.isDir()) trouble_ = tr("There is no folder at %1").arg(folder);
    if (std::any_of(sets_.begin(), sets_.end(), [&](const TcavSet& one) { return one.path == set.path; }))
        trouble_ = tr("This folder is a concept already");
    if (!trouble_.isEmpty()) return refresh();
    set.name = freeName(QDir(set.path).dirName());
    set.folder = true;
    jobs_.post(
        {},
        [path = set.path.toStdString()](Hands&, JobControl& job) -> Result<std::int64_t> {
            return std::ssize(VITRINE_TRY(files_below(path, is_picture_name, job.stop())).files);  // as the test does
        },
        [this, path = set.path](Result<std::int64_t> count) {
            for (auto& one : sets_)
                if (one.path == path) one.pictures = count.value_or(0);
            if (!count && count.error().code != ErrorCode::Cancelled) trouble_ = sentence(text(count.error().message));
            rebuild();
        });
    sets_.push_back(std::move(set));
    rebuild();
}

void TcavSets::openList(const QString& file) {
    const QFileInfo info(file);
    TcavSet set;
    set.path = info.absoluteFilePath();
    trouble_.clear();
    if (std::any_of(sets_.begin(), sets_.end(), [&](const TcavSet& one) { return one.path == set.path; })) {
        trouble_ = tr("This list is a concept already");
        return refresh();
    }
    auto list = read_region_list(set.path.toStdString());
    if (!list) {
        trouble_ = sentence(text(list.error().message));
        return refresh();
    }
    set.name = freeName(info.completeBaseName());
    set.list = std::move(*list);
    set.tiles.resize(set.list.regions.size());
    open_ = set.path;
    name_->setText(set.name);
    seeTiles(set);
    sets_.push_back(std::move(set));
    rebuild();
}

void TcavSets::remove(std::size_t at) {
    if (at >= sets_.size()) return;
    sets_.erase(sets_.begin() + static_cast<std::ptrdiff_t>(at));
    rebuild();
}

void TcavSets::removeRegion(std::size_t at, std::size_t region) {
    if (at >= sets_.size() || region >= sets_[at].list.regions.size()) return;
    auto& set = sets_[at];
    const auto before = set;
    set.list.regions.erase(set.list.regions.begin() + static_cast<std::ptrdiff_t>(region));
    set.tiles.erase(set.tiles.begin() + static_cast<std::ptrdiff_t>(region));
    if (!write(set)) set = before;
    rebuild();
    // Whoever goes through them with the keys goes on there.
    if (!tiles_.empty()) tiles_[std::min(region, tiles_.size() - 1)]->setFocus();
}

bool TcavSets::write(const TcavSet& set) {
    trouble_.clear();
    const auto folder = QFileInfo(set.path).absolutePath();
    if (!QDir().mkpath(folder)) {
        trouble_ = tr("The folder %1 cannot be made, so the regions are not kept").arg(folder);
    } else if (const auto done = write_region_list(set.path.toStdString(), set.list); !done) {
        trouble_ = sentence(text(done.error().message));
    }
    return trouble_.isEmpty();
}

/// What is in the first of its regions, decoded one after the other.
void TcavSets::seeTiles(const TcavSet& set) {
    if (!ground_) return;
    const auto rows = set.list.rows > 0 ? set.list.rows : ground_->cells.rows,
               cols = set.list.cols > 0 ? set.list.cols : ground_->cells.cols;
    auto regions = set.list.regions;
    if (regions.size() > kMostTiles) regions.resize(kMostTiles);
    std::vector<bool> wanted(regions.size());
    for (std::size_t i = 0; i < wanted.size(); ++i) wanted[i] = i < set.tiles.size() && set.tiles[i].isNull();
    if (std::find(wanted.begin(), wanted.end(), true) == wanted.end()) return;
    jobs_.post(
        {.tag = set.path.toStdString()},
        [see = ground_->see, regions, wanted, rows, cols](Hands&, JobControl& job) -> Result<std::vector<QImage>> {
            std::vector<QImage> out(regions.size());
            std::filesystem::path file;
            ImageView seen;
            for (std::size_t i = 0; i < regions.size() && !job.stop().stop_requested(); ++i) {
                const auto box = boundsOf(regions[i].cells);
                if (!wanted[i] || !box) continue;
                if (regions[i].picture != file) {
                    file = regions[i].picture;
                    seen = see(file).value_or(ImageView{});
                }
                out[i] = tileOf(seen, *box, rows, cols);
            }
            return out;
        },
        [this, path = set.path, regions](Result<std::vector<QImage>> tiles) {
            if (!tiles) return;
            for (auto& one : sets_) {
                if (one.path != path) continue;
                // Regions may have come and gone meanwhile.
                for (std::size_t i = 0; i < regions.size(); ++i)
                    for (std::size_t k = 0; k < one.list.regions.size(); ++k)
                        if (one.tiles[k].isNull() && one.list.regions[k].picture == regions[i].picture &&
                            one.list.regions[k].cells == regions[i].cells)
                            one.tiles[k] = (*tiles)[i];
            }
            rebuild();
        });
}

// ---- drawing --------------------------------------------------------------------------------------------------------

QString TcavSets::whyNoDrawing() const {
    if (!session_.picture()) return tr("Open a picture first");
    if (!session_.look()) return tr("The model has not run on the picture yet");
    if (!ground_) return tr("It is not known yet which cells there are at this point");
    return {};
}

QString TcavSets::whyNoAdding() const {
    const auto name = name_->text().trimmed();
    if (const auto why_not = whyNoDrawing(); !why_not.isEmpty()) return why_not;
    if (name.isEmpty()) return tr("Write the concept's name first");
    if (name.contains(QLatin1Char('=')) || name.contains(QLatin1Char('/')) || name.startsWith(QLatin1Char('.')))
        return tr("A name has no = and no /, and does not begin with a full stop: it becomes a file's");
    if (const auto at = named(name); at && sets_[*at].folder)
        return tr("%1 is a folder: choose another name").arg(name);
    if (!candidate())
        return drawing_ ? tr("Drag on the picture first") : tr("Press Draw and drag on the picture first");
    return {};
}

std::optional<Region> TcavSets::candidate() const {
    if (drawn_ || !ground_ || !session_.region()) return drawn_;
    return session_.cellsUnder(session_.boxOf(*session_.region()), ground_->cells.rows, ground_->cells.cols);
}

void TcavSets::setDrawing(bool drawing) {
    drawing = drawing && whyNoDrawing().isEmpty();
    draw_->setChecked(drawing);
    if (drawing_ == drawing) return;
    drawing_ = drawing;
    if (!drawing_) drawn_.reset();
    refresh();
    Q_EMIT drawingChanged();
}

void TcavSets::draw(const Box& photo) {
    if (!drawing_ || !ground_) return;
    // A drag beside the picture takes nothing away.
    if (const auto region = session_.cellsUnder(photo, ground_->cells.rows, ground_->cells.cols)) drawn_ = region;
    refresh();
    Q_EMIT drawingChanged();
}

std::optional<Box> TcavSets::box(const std::optional<Box>& dragged) const {
    if (!drawing_ || !ground_ || !session_.look()) return std::nullopt;
    const auto rows = ground_->cells.rows, cols = ground_->cells.cols;
    const auto region = dragged ? session_.cellsUnder(*dragged, rows, cols) : drawn_;
    return region ? std::optional(session_.boxOf(*region, rows, cols)) : std::nullopt;
}

void TcavSets::add() {
    trouble_ = whyNoAdding();
    if (!trouble_.isEmpty()) return refresh();
    const auto region = *candidate();
    const auto name = name_->text().trimmed();
    auto at = named(name);
    bool fresh = false;
    if (!at) {
        const auto file = listsFolder() + QLatin1Char('/') + name + QStringLiteral(".txt");
        if (QFileInfo::exists(file)) {
            // Of an earlier day: it goes on.
            openList(file);
            at = named(name);
            if (!at) return;
        } else {
            TcavSet set;
            set.name = name;
            set.path = file;
            sets_.push_back(std::move(set));
            at = sets_.size() - 1;
            fresh = true;
        }
    }
    auto& set = sets_[*at];
    const auto rows = ground_->cells.rows, cols = ground_->cells.cols;
    const auto before = set;
    if (set.list.regions.empty()) set.list.rows = rows, set.list.cols = cols;
    const auto& picture = session_.picture()->file;
    if (set.list.rows > 0 && (set.list.rows != rows || set.list.cols != cols)) {
        trouble_ = tr("%1 was drawn on %2 \u00d7 %3 cells, here are %4 \u00d7 %5: choose another name or point")
                       .arg(name)
                       .arg(set.list.rows)
                       .arg(set.list.cols)
                       .arg(rows)
                       .arg(cols);
    } else if (std::any_of(set.list.regions.begin(), set.list.regions.end(), [&](const ListedRegion& one) {
                   return one.picture == picture && one.cells == region.text();
               })) {
        trouble_ = tr("%1 has this region already").arg(name);
    } else {
        set.list.regions.push_back({picture, region.text(), 0});
        set.tiles.push_back(tileOf(session_.look()->seen, region, rows, cols));
        if (write(set))
            drawn_.reset(), open_ = set.path;
        else
            set = before;
    }
    if (fresh && set.list.regions.empty()) sets_.pop_back();
    // What is greyed hands the focus on, and the panel would scroll to who gets it.
    if (add_->hasFocus()) draw_->setFocus();
    rebuild();
    Q_EMIT drawingChanged();
}

// ---- what is seen ---------------------------------------------------------------------------------------------------

void TcavSets::fold(const QString& path) {
    open_ = open_ == path ? QString() : path;
    for (const auto& set : sets_)
        if (set.path == open_) name_->setText(set.name);
    rebuild();
}

void TcavSets::rebuild() {
    // They are deleted a moment later, and would be seen until then.
    for (int i = 0; i < rows_->count(); ++i)
        if (auto* row = rows_->itemAt(i)->widget()) row->hide();
    clearLayout(rows_);
    tiles_.clear();
    for (std::size_t i = 0; i < sets_.size(); ++i) {
        const auto& set = sets_[i];
        auto* row = new QWidget;
        auto* line = new QHBoxLayout(row);
        line->setContentsMargins(0, 0, 0, 0);
        line->setSpacing(4);
        auto* name = new ReservedLabel(96);
        name->setText(set.name);
        const auto examples = set.examples();
        auto* amount = quiet(set.folder      ? examples < 0    ? tr("folder")
                                               : examples == 1 ? tr("1 picture")
                                                               : tr("%1 pictures").arg(count(examples))
                                  : examples == 1 ? tr("1 region")
                                             : tr("%1 regions").arg(count(examples)));
        amount->setWordWrap(false);
        amount->setToolTip(set.path);
        line->addWidget(name, 1);
        line->addWidget(amount);
        const bool open = !set.folder && open_ == set.path;
        const auto tool = [&](const QString& icon_name, const QString& words) {
            auto* made = new QToolButton;
            made->setIcon(icon(icon_name));
            made->setIconSize({14, 14});
            made->setToolTip(words);
            made->setAccessibleName(words);
            line->addWidget(made);
            return made;
        };
        if (!set.folder) {
            auto* regions = tool(QStringLiteral("eye"), open ? tr("Hide its regions") : tr("Show its regions"));
            regions->setCheckable(true);
            regions->setChecked(open);
            connect(regions, &QToolButton::clicked, this, [this, path = set.path] { fold(path); });
        }
        auto* away = tool(QStringLiteral("close"), tr("Take %1 out of the test; what is on disk stays").arg(set.name));
        away->setObjectName(QStringLiteral("tcavRemove"));
        connect(away, &QToolButton::clicked, this, [this, i] { remove(i); });
        rows_->addWidget(row);
        if (!open || set.list.regions.empty()) continue;
        auto* tiles = new QWidget;
        auto* grid = new QGridLayout(tiles);
        grid->setContentsMargins(0, 0, 0, 4);
        grid->setSpacing(6);
        grid->setColumnStretch(kAcross, 1);
        const auto shown = std::min(kMostTiles, set.list.regions.size());
        for (std::size_t k = 0; k < shown; ++k) {
            const auto& region = set.list.regions[k];
            auto* tile = new RegionTile(set.tiles[k]);
            tiles_.push_back(tile);
            const auto bounds = boundsOf(region.cells);
            tile->setToolTip(tr("%1, %2").arg(text(region.picture.filename().string()),
                                              bounds ? wordsOf(*bounds) : text(region.cells)));
            tile->setAccessibleName(tile->toolTip());
            connect(tile, &RegionTile::clicked, this, [this, file = text(region.picture.string())] {
                const auto& film = session_.film();
                const auto frame =
                    std::find_if(film.begin(), film.end(), [&](const auto& f) { return f.file == file; });
                frame == film.end() ? session_.openPaths({file})
                                    : session_.showPicture(static_cast<int>(frame - film.begin()));
            });
            connect(
                tile, &RegionTile::removeWanted, this, [this, i, k] { removeRegion(i, k); }, Qt::QueuedConnection);
            grid->addWidget(tile, static_cast<int>(k) / kAcross, static_cast<int>(k) % kAcross);
        }
        rows_->addWidget(tiles);
        if (shown < set.list.regions.size())
            rows_->addWidget(quiet(breakable(
                tr("and %1 more in %2").arg(count(set.examples() - static_cast<std::int64_t>(shown))).arg(set.path))));
    }
    refresh();
    Q_EMIT changed();
}

void TcavSets::refresh() {
    const auto no_drawing = whyNoDrawing(), no_adding = whyNoAdding();
    if (drawing_ && !ground_) setDrawing(false);
    draw_->setEnabled(drawing_ || no_drawing.isEmpty());
    draw_->setChecked(drawing_);
    draw_->setToolTip(no_drawing.isEmpty() ? tr("Drags on the picture draw the concept (Esc ends it)") : no_drawing);
    add_->setEnabled(no_adding.isEmpty());
    add_->setToolTip(no_adding);
    const auto region = candidate();
    QString words;
    if (region)
        words = tr("%1 \u00d7 %2 cells of %3 can be added")
                    .arg(region->to_row - region->row + 1)
                    .arg(region->to_col - region->col + 1)
                    .arg(session_.picture() ? text(session_.picture()->name) : QString());
    else if (drawing_)
        words = tr("Drag on the picture over what shows the concept, add it, and go on with the next picture");
    else
        words = tr("Press Draw, then drag on the picture over what shows the concept");
    hint_->setText(breakable(words));
    trouble_words_->setText(breakable(trouble_));
    trouble_words_->setVisible(!trouble_.isEmpty());
}

}  // namespace vitrine::app
