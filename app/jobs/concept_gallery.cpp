// Opens the book, keeps the list, and asks for pictures as they are looked at.
#include "concept_gallery.h"

#include <QFileInfo>
#include <QMetaObject>

#include <algorithm>
#include <cmath>
#include <utility>

namespace vitrine::app {
namespace {

constexpr std::size_t kMostWishes = 600;  // more than a screen shows
// Around the patch: so much that one sees what it is part of.
constexpr double kPatchesAcross = 5, kShareAcross = 0.45;

QString text(const std::string& utf8) { return QString::fromStdString(utf8); }

QString sentence(const std::string& utf8) {
    auto out = text(utf8);
    if (!out.isEmpty()) out[0] = out[0].toUpper();
    return out;
}

struct FolderSeen {
    FolderChanges changes;
    bool known = true;  ///< it is where the index looks for it
};

/// A square around the patch, or the whole picture; no larger than it is shown.
ConceptCrop crop_of(const ImageView& seen, std::int64_t rows, std::int64_t cols, std::uint32_t cell, bool whole) {
    const QImage picture(seen.data, static_cast<int>(seen.width), static_cast<int>(seen.height),
                         static_cast<qsizetype>(seen.row_bytes), QImage::Format_RGB888);
    QRectF box(0, 0, picture.width(), picture.height()), patch;
    if (cell != kNoCell && rows > 0 && cols > 0) {
        const double w = box.width() / static_cast<double>(cols), h = box.height() / static_cast<double>(rows);
        patch = QRectF(static_cast<double>(cell % cols) * w, static_cast<double>(cell / cols) * h, w, h);
        if (!whole) {
            const double least = std::min(box.width(), box.height());
            const double side = std::min(std::max(std::max(w, h) * kPatchesAcross, kShareAcross * least), least);
            box = QRectF(std::clamp(patch.center().x() - side / 2, 0.0, box.width() - side),
                         std::clamp(patch.center().y() - side / 2, 0.0, box.height() - side), side, side);
        }
    }
    ConceptCrop out;
    const auto pixels = box.toRect();
    out.image = picture.copy(pixels).scaled(ConceptGallery::kCropSide, ConceptGallery::kCropSide, Qt::KeepAspectRatio,
                                            Qt::SmoothTransformation);
    if (!patch.isEmpty())
        out.patch = QRectF((patch.x() - pixels.x()) / pixels.width(), (patch.y() - pixels.y()) / pixels.height(),
                           patch.width() / pixels.width(), patch.height() / pixels.height());
    return out;
}

JobThread::Deliver to(QObject* receiver) {
    return [receiver](std::function<void()> closure) {
        QMetaObject::invokeMethod(receiver, std::move(closure), Qt::QueuedConnection);
    };
}

}  // namespace

ConceptGallery::ConceptGallery(Session& session)
    : QObject(&session),
      session_(session),
      files_([] { return std::make_unique<Hands>(); }, to(this)),
      builds_([] { return std::make_unique<Hands>(); }, to(this)) {
    for (auto& decoder : decoders_)
        decoder = std::make_unique<JobQueue<Hands>>([] { return std::make_unique<Hands>(); }, to(this));
    told_.setSingleShot(true);
    told_.setInterval(33);
    connect(&told_, &QTimer::timeout, this, &ConceptGallery::picturesChanged);
    connect(&session, &Session::modelChanged, this, &ConceptGallery::followModel);
    connect(&session, &Session::autoencoderReady, this, [this](const QString& file) { choose(file); });
    connect(&session, &Session::workDropped, this, [this](bool stopped) {
        if (stopped) {  // what is still looked at is asked for again when it is next painted
            heating_ = false;
            heat_wishes_.clear();
        }
        if (state_ != State::Opening) return;
        if (stopped) {
            ++book_id_;
            state_ = State::Failed;
            trouble_ = tr("Opening was stopped");
            Q_EMIT changed();
        } else {
            QMetaObject::invokeMethod(this, &ConceptGallery::again, Qt::QueuedConnection);
        }
    });
}

ConceptGallery::~ConceptGallery() {
    stop_.request_stop();
    builds_.finish();
    files_.finish();
    for (auto& decoder : decoders_) decoder->finish();
}

// ---- opening --------------------------------------------------------------------------------------------------------

void ConceptGallery::setOpen(bool open) {
    if (open == open_) return;
    open_ = open;
    Q_EMIT openChanged(open);
    if (!open) return;
    if (state_ == State::Ready)
        lookAtFolder();
    else if (!autoencoder_.isEmpty() && state_ != State::Opening)
        again();
}

void ConceptGallery::choose(const QString& autoencoder, std::map<std::string, std::string> given) {
    if (autoencoder.isEmpty()) return;
    autoencoder_ = QFileInfo(autoencoder).absoluteFilePath();
    given_ = std::move(given);
    if (!given_.empty()) given_of_[autoencoder_] = given_;
    came_with_model_ = false;
    build_words_.clear();
    build_trouble_.clear();
    again();
}

void ConceptGallery::give(const std::string& name, const std::string& value) {
    const auto found = given_.find(name);
    if (building_ || (found == given_.end() ? value.empty() : found->second == value)) return;
    if (value.empty())
        given_.erase(found);
    else
        given_[name] = value;
    given_of_[autoencoder_] = given_;
    Q_EMIT gave(name, value);
    again();
}

std::map<std::string, std::string> ConceptGallery::givenOf(const QString& autoencoder) const {
    if (autoencoder == autoencoder_) return given_;
    const auto found = given_of_.find(QFileInfo(autoencoder).absoluteFilePath());
    return found == given_of_.end() ? std::map<std::string, std::string>() : found->second;
}

/// Concepts are of one model: another opens another book, or none.
void ConceptGallery::followModel() {
    if (!session_.model() || session_.model()->request == model_) return;
    given_of_.clear();  // points are of a model
    if (autoencoder_.isEmpty() || came_with_model_) {
        autoencoder_ = text(Workbench::own_concepts(session_.model()->request).string());
        given_.clear();
        came_with_model_ = true;
    }
    again();
}

void ConceptGallery::again() {
    if (autoencoder_.isEmpty()) {
        show({});
        state_ = State::Nothing;
        Q_EMIT changed();
        return;
    }
    if (!open_ || !session_.model()) {
        state_ = open_ ? State::Failed : State::Nothing;  // read when somebody looks
        trouble_ = tr("Open a model first");
        book_ = {};
        ++book_id_;
        Q_EMIT changed();
        return;
    }
    state_ = State::Opening;
    model_ = session_.model()->request;
    const auto id = ++book_id_;
    session_.post(
        {.tag = "concepts of the gallery", .title = "Opening concepts"},
        [source = ConceptSource{autoencoder_.toStdString(), given_}](Workbench& bench, JobControl&) -> Result<Opened> {
            Opened out{bench.concept_book(source), false};
            out.asks = !out.book && !asked_by(source).empty();
            return out;
        },
        [self = QPointer<ConceptGallery>(this), id](Result<Opened> opened) {
            if (!self || self->book_id_ != id) return;
            self->took(opened ? std::move(*opened) : Opened{tl::make_unexpected(opened.error()), false});
        });
    Q_EMIT changed();
}

void ConceptGallery::took(Opened opened) {
    auto& book = opened.book;
    if (book) {
        // The index knew what the file does not say.
        const auto known = book->given;
        const auto before = std::exchange(given_, known);
        if (!known.empty()) given_of_[autoencoder_] = known;
        show(std::move(*book));
        for (const auto& [name, value] : known)
            if (!before.contains(name)) Q_EMIT gave(name, value);
        return;
    }
    show({});
    state_ = State::Failed;
    trouble_ = sentence(book.error().message);
    asks_ = opened.asks || !given_.empty();
    Q_EMIT changed();
}

void ConceptGallery::show(ConceptBook book) {
    ++book_id_;  // what is under way is another's
    dropPictures();
    folder_change_.clear();
    folder_gone_ = false;
    book_ = std::move(book);
    names_trouble_ = sentence(book_.called_trouble);
    trouble_ = sentence(book_.index_trouble);
    if (!book_.autoencoder.empty()) autoencoder_ = text(book_.autoencoder.string());
    if (!book_.folder.empty()) folder_ = text(book_.folder.string());
    state_ = book_.index ? State::Ready : State::NoIndex;
    if (selected_ >= (book_.index ? book_.index->latents() : 0)) selected_ = -1;
    fold();
    list();
    Q_EMIT listChanged();
    Q_EMIT changed();
    Q_EMIT selectedChanged();
    lookAtFolder();
}

void ConceptGallery::dropPictures() {
    crops_.clear();
    wishes_.clear();
    wished_.clear();
    heats_.clear();
    heat_wishes_.clear();
}

void ConceptGallery::lookAtFolder() {
    if (!book_.index) return;
    files_.post(
        {.tag = "folder"},
        [index = book_.index, folder = book_.folder](Hands&, JobControl&) -> Result<FolderSeen> {
            return FolderSeen{VITRINE_TRY(changes_since(*index, folder)), folder == index->folder()};
        },
        [this, id = book_id_](Result<FolderSeen> seen) {
            if (id != book_id_) return;
            folder_gone_ = !seen;
            folder_change_ = sentence(seen ? seen->changes.sentence() : seen.error().message);
            if (seen && !seen->known && folder_change_.isEmpty())
                folder_change_ = tr("Its pictures are found in %1, which the index does not know yet")
                                     .arg(text(book_.folder.string()));
            Q_EMIT changed();
        });
}

// ---- the index ------------------------------------------------------------------------------------------------------

void ConceptGallery::setFolder(const QString& folder) {
    if (folder == folder_ || building_) return;
    folder_ = folder;
    build_trouble_.clear();
    if (state_ == State::Ready && !folder.isEmpty()) {
        book_.folder = QFileInfo(folder).absoluteFilePath().toStdString();
        ++book_id_;  // what is under way is of the folder before
        dropPictures();
        lookAtFolder();
        Q_EMIT picturesChanged();
    }
    Q_EMIT changed();
}

QString ConceptGallery::whyNoBuild() const {
    if (!session_.model()) return tr("Open a model first");
    if (autoencoder_.isEmpty()) return tr("Choose an autoencoder first");
    if (folder_.isEmpty()) return tr("Choose a folder of pictures first");
    if (building_) return tr("It is being built");
    return {};
}

void ConceptGallery::build() {
    if (!whyNoBuild().isEmpty()) return;
    building_ = true;
    build_share_ = -1;
    build_trouble_.clear();
    build_words_ = tr("Starting");
    stop_ = std::stop_source();
    const IndexPlan plan{session_.model()->request,
                         QFileInfo(folder_).absoluteFilePath().toStdString(),
                         {autoencoder_.toStdString(), given_}};
    builds_.post(
        {.tag = "index"},
        [this, plan, stop = stop_](Hands&, JobControl& job) {
            // `this` outlives the job: the destructor waits for it.
            return build_index(plan, stop.get_token(), [&](std::string doing, std::int64_t done, std::int64_t total) {
                job.show([this, doing = std::move(doing), done, total] {
                    if (stop_.stop_requested()) return;  // what is said then stays
                    build_words_ = total > 0 ? tr("%1, %2 of %3").arg(text(doing)).arg(done).arg(total) : text(doing);
                    build_share_ = total > 0 ? static_cast<double>(done) / static_cast<double>(total) : -1;
                    Q_EMIT buildMoved();
                });
            });
        },
        [this, file = autoencoder_](Result<IndexMade> made) {
            building_ = false;
            build_share_ = -1;
            build_words_.clear();
            if (!made && made.error().code == ErrorCode::Cancelled)
                build_words_ = tr("Stopped before the first picture");
            else if (!made)
                build_trouble_ = sentence(made.error().message);
            else if (!made->finished)
                build_words_ = tr("Stopped after %1 pictures. It goes on from there").arg(made->run);
            else if (!made->skipped.empty())
                build_words_ = tr("%1 pictures could not be read. The first: %2")
                                   .arg(made->skipped.size())
                                   .arg(text(made->skipped.front()));
            if (made && made->finished && file == autoencoder_) again();
            if (made && made->finished) Q_EMIT built();
            Q_EMIT changed();
            Q_EMIT buildMoved();
        });
    Q_EMIT changed();
    Q_EMIT buildMoved();
}

void ConceptGallery::stopBuilding() {
    if (!building_) return;
    stop_.request_stop();
    build_words_ = tr("Stopping after this picture");
    Q_EMIT buildMoved();
}

// ---- which are shown ------------------------------------------------------------------------------------------------

void ConceptGallery::setQuery(ConceptQuery query) {
    query.search = text(query.search).trimmed().toCaseFolded().toStdString();
    if (query == query_) return;
    query_ = std::move(query);
    list();
    Q_EMIT listChanged();
}

void ConceptGallery::fold() {
    for (auto& [latent, called] : book_.called) {
        QString all = text(called.name);
        for (const auto& tag : called.tags) all += QLatin1Char('\n') + text(tag);
        called.folded = all.toCaseFolded().toStdString();
    }
}

void ConceptGallery::list() {
    shown_.clear();
    is_shown_.clear();
    if (!book_.index) return;
    shown_ = chosen(*book_.index, book_.called, query_);
    is_shown_.assign(static_cast<std::size_t>(book_.index->latents()), false);
    for (const auto latent : shown_) is_shown_[latent] = true;
}

bool ConceptGallery::isShown(std::int64_t latent) const {
    return latent >= 0 && static_cast<std::size_t>(latent) < is_shown_.size() &&
           is_shown_[static_cast<std::size_t>(latent)];
}

QStringList ConceptGallery::tags() const {
    QStringList out;
    for (const auto& [latent, called] : book_.called)
        for (const auto& tag : called.tags) out << text(tag);
    out.removeDuplicates();
    out.sort(Qt::CaseInsensitive);
    return out;
}

void ConceptGallery::select(std::int64_t latent) {
    if (latent == selected_ || !book_.index || latent >= book_.index->latents()) return;
    selected_ = latent;
    heats_.clear();
    heat_wishes_.clear();
    Q_EMIT selectedChanged();
}

// ---- a concept ------------------------------------------------------------------------------------------------------

QString ConceptGallery::nameOf(std::int64_t latent) const {
    const auto found = book_.called.find(latent);
    return found == book_.called.end() ? QString() : text(found->second.name);
}

QString ConceptGallery::titleOf(std::int64_t latent) const {
    const auto name = nameOf(latent);
    return name.isEmpty() ? tr("Concept %1").arg(latent) : name;
}

QStringList ConceptGallery::tagsOf(std::int64_t latent) const {
    QStringList out;
    if (const auto found = book_.called.find(latent); found != book_.called.end())
        for (const auto& tag : found->second.tags) out << text(tag);
    return out;
}

void ConceptGallery::took(Result<CalledConcepts> called) {
    const auto before = names_trouble_;
    names_trouble_ = called ? QString() : sentence(called.error().message);
    if (called) {
        book_.called = std::move(*called);
        book_.called_another = false;
        fold();
        list();
        Q_EMIT callChanged();
    }
    if (names_trouble_ != before) Q_EMIT changed();
    Q_EMIT listChanged();
}

void ConceptGallery::adoptNames() {
    if (!book_.called_another) return;
    files_.post(
        {}, [file = book_.autoencoder, mark = book_.mark](Hands&, JobControl&) { return adopt_names(file, mark); },
        [this, id = book_id_](Result<CalledConcepts> called) {
            if (id == book_id_) took(std::move(called));
        });
}

void ConceptGallery::call(std::int64_t latent, const QString& name, const QStringList& tags, bool again) {
    if (!again) Q_EMIT callAsked(latent, name.simplified(), tags);
    std::vector<std::string> plain;
    for (const auto& tag : tags)
        if (const auto one = tag.simplified(); !one.isEmpty()) plain.push_back(one.toStdString());
    files_.post(
        {},
        [file = book_.autoencoder, mark = book_.mark, latent, name = name.simplified().toStdString(), plain](
            Hands&, JobControl&) { return call_concept(file, mark, latent, name, plain); },
        [this, id = book_id_](Result<CalledConcepts> called) {
            if (id == book_id_) took(std::move(called));
        });
}

float ConceptGallery::figure(const char* column, std::int64_t latent) const {
    const auto all = book_.index ? book_.index->column(column) : std::span<const float>();
    return latent >= 0 && static_cast<std::size_t>(latent) < all.size() ? all[static_cast<std::size_t>(latent)] : NAN;
}

std::vector<ConceptTop> ConceptGallery::tops(std::int64_t latent) const {
    if (!book_.index) return {};
    auto out = book_.index->tops(latent);
    return out.empty() ? book_.index->class_tops(latent) : out;
}

// ---- pictures -------------------------------------------------------------------------------------------------------

ConceptGallery::CropKey ConceptGallery::keyOf(const ConceptTop& top, bool whole) {
    // A whole picture is the same wherever its patch is: its place is all that differs.
    const std::uint64_t cell = top.cell == kNoCell ? 0xFFFF : top.cell & 0xFFFF;
    return static_cast<std::uint64_t>(top.picture) << 17 | cell << 1 | (whole ? 1 : 0);
}

const ConceptCrop* ConceptGallery::crop(const ConceptTop& top, bool whole) {
    const auto key = keyOf(top, whole);
    if (const auto* found = crops_.find(key)) return found;
    if (!book_.index || under_way_.contains(key)) return nullptr;
    if (wished_.insert(key).second) {
        wishes_.push_back({key, top, whole});
        if (wishes_.size() > kMostWishes) {
            wished_.erase(wishes_.front().key);
            wishes_.pop_front();
        }
    }
    pump();
    return nullptr;
}

void ConceptGallery::pump() {
    for (std::size_t which = 0; which < decoders_.size(); ++which) {
        if (busy_[which] || wishes_.empty()) continue;
        const auto wish = wishes_.back();
        wishes_.pop_back();
        wished_.erase(wish.key);
        under_way_.insert(wish.key);
        busy_[which] = true;
        const auto file = book_.folder / std::string(book_.index->picture(wish.top.picture).name);
        decoders_[which]->post(
            {},
            [see = book_.see, file, rows = book_.index->rows(), cols = book_.index->cols(), wish](
                Hands&, JobControl&) -> Result<ConceptCrop> {
                return crop_of(VITRINE_TRY(see(file)), rows, cols, wish.top.cell, wish.whole);
            },
            [this, which, key = wish.key, id = book_id_](Result<ConceptCrop> crop) {
                busy_[which] = false;
                under_way_.erase(key);
                if (id == book_id_) {
                    ConceptCrop made;
                    if (crop)
                        made = std::move(*crop);
                    else
                        made.trouble = sentence(crop.error().message);
                    const auto weight = 2 * made.image.sizeInBytes() + 200;  // its face as well
                    crops_.put(key, std::move(made), weight);
                    if (!told_.isActive()) told_.start();
                }
                if (book_.index) pump();
            });
    }
}

const Plane* ConceptGallery::heat(std::uint32_t picture) {
    if (const auto found = heats_.find(picture); found != heats_.end())
        return found->second.empty() ? nullptr : &found->second;
    if (selected_ < 0 || std::find(heat_wishes_.begin(), heat_wishes_.end(), picture) != heat_wishes_.end())
        return nullptr;
    heat_wishes_.push_back(picture);
    heatNow();
    return nullptr;
}

/// One after the other, behind all that the person asks of the model meanwhile.
void ConceptGallery::heatNow() {
    if (heating_ || heat_wishes_.empty() || !book_.index || selected_ < 0) return;
    heating_ = true;
    const auto picture = heat_wishes_.front();
    const auto file = book_.folder / std::string(book_.index->picture(picture).name);
    session_.post(
        {.tag = "concept heat", .title = {}, .urgency = Urgency::Later},
        [source = ConceptSource{book_.autoencoder, book_.given}, latent = selected_, file](
            Workbench& bench, JobControl& job) { return bench.concept_heat(source, latent, file, job.stop()); },
        [self = QPointer<ConceptGallery>(this), picture, latent = selected_, id = book_id_](Result<Plane> heat) {
            if (!self) return;
            self->heating_ = false;
            if (self->book_id_ == id && self->selected_ == latent) {
                std::erase(self->heat_wishes_, picture);
                self->heats_[picture] = heat ? std::move(*heat) : Plane{};
                if (!self->told_.isActive()) self->told_.start();
            }
            self->heatNow();
        });
}

QString ConceptGallery::pictureName(std::uint32_t picture) const {
    if (!book_.index) return {};
    const auto name = book_.index->picture(picture).name;
    return QString::fromUtf8(name.data(), static_cast<qsizetype>(name.size()));
}

QString ConceptGallery::pictureFile(std::uint32_t picture) const {
    return text((book_.folder / pictureName(picture).toStdString()).string());
}

}  // namespace vitrine::app
