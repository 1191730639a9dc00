// Posts the one job a picture needs, and answers the cursor from what it brought.
#include "concepts_on_show.h"

#include <QFileInfo>

#include <algorithm>
#include <cmath>

namespace vitrine::app {
namespace {

constexpr const char* kTag = "concepts";

QString text(const std::string& utf8) { return QString::fromStdString(utf8); }

QString sentence(const std::string& utf8) {
    auto out = text(utf8);
    if (!out.isEmpty()) out[0] = out[0].toUpper();
    return out;
}

}  // namespace

ConceptsOnShow::ConceptsOnShow(Session& session) : QObject(&session), session_(session) {
    connect(&session, &Session::modelChanged, this, [this] {
        // Concepts are of one model's activations.
        source_ = {};
        found_.reset();
        asked_for_.clear();
        found_for_.clear();
        why_.clear();
        none_ = false;
        hovered_ = pinned_ = -1;
        drawing_ = false;
        chosen_.clear();
        follow();
    });
    connect(&session, &Session::lookChanged, this, &ConceptsOnShow::follow);
    connect(&session, &Session::evidenceChanged, this, &ConceptsOnShow::placePatch);
    connect(&session, &Session::workDropped, this, [this] {
        if (!running_) return;
        session_.jobs_.cancel(kTag);
        running_ = false;
        asked_for_.clear();
        Q_EMIT changed();
    });
}

std::string ConceptsOnShow::wantedKey() const {
    if (!session_.model() || !session_.picture()) return {};
    std::string key = session_.model()->request + '\n' + std::to_string(session_.pictureId()) + '\n';
    key += source_.file.string();
    for (const auto& [name, value] : source_.given) key += '\n' + name + '=' + value;
    return key;
}

ConceptsOnShow::State ConceptsOnShow::state() const {
    if (!session_.model() || !session_.picture()) return State::Nothing;
    if (!why_.isEmpty()) return none_ ? State::None : State::Refused;
    if (found_) return State::Ready;
    if (!session_.look() && !session_.looking()) return State::Nothing;
    return State::Loading;
}

const ConceptsOfPicture& ConceptsOnShow::picture() const {
    static const ConceptsOfPicture none;
    return found_ ? *found_->picture : none;
}

bool ConceptsOnShow::isNamed(std::int64_t number) const {
    return found_ && found_->facts.names.contains(static_cast<std::int32_t>(number));
}

QString ConceptsOnShow::nameOf(std::int64_t number) const {
    return isNamed(number) ? text(found_->facts.names.at(static_cast<std::int32_t>(number)).name)
                           : tr("Concept %1").arg(number);
}

// ---- what is read ---------------------------------------------------------------------------------------------------

void ConceptsOnShow::setLooking(bool looking) {
    if (looking_ == looking) return;
    looking_ = looking;
    if (!looking) {
        if (running_) {
            session_.jobs_.cancel(kTag);
            running_ = false;
            asked_for_.clear();
        }
        hovered_ = -1;
    }
    follow();
    light();
}

void ConceptsOnShow::choose(const QString& file) {
    source_ = {file.isEmpty() ? std::filesystem::path()
                              : std::filesystem::path(QFileInfo(file).absoluteFilePath().toStdString()),
               {}};
    again();
}

void ConceptsOnShow::give(const std::string& name, const std::string& value) {
    if (value.empty() ? !source_.given.contains(name) : source_.given.contains(name) && source_.given.at(name) == value)
        return;
    if (value.empty())
        source_.given.erase(name);
    else
        source_.given[name] = value;
    again();
}

void ConceptsOnShow::again() {
    session_.steer({});  // of other concepts
    setDrawing(false);
    asked_for_.clear();
    why_.clear();
    none_ = false;
    pin(-1);
    follow();
}

void ConceptsOnShow::reread() {
    asked_for_.clear();
    follow();
}

void ConceptsOnShow::follow() {
    const auto key = wantedKey();
    if (key != asked_for_ && running_) {
        session_.jobs_.cancel(kTag);
        running_ = false;
    }
    if (session_.look() && looking_ && !session_.opening() && key != asked_for_) post();
    placePatch();
    light();
    Q_EMIT changed();
}

void ConceptsOnShow::post() {
    session_.jobs_.cancel(kTag);
    asked_for_ = wantedKey();
    running_ = true;
    session_.post(
        {.tag = kTag, .title = "Reading the concepts", .urgency = Urgency::Normal},
        [source = source_](Workbench& bench, JobControl& job) { return bench.concepts(source, job.stop()); },
        // `this` outlives the job: the session, which owns us, waits for it.
        [this, key = asked_for_](Result<ConceptsFound> found) {
            if (asked_for_ != key) return;
            running_ = false;
            const bool first = found_for_.empty() || !found_;
            if (found) {
                const bool another = !found_ || found_->facts.concepts != found->facts.concepts;
                found_ = std::move(*found);
                found_for_ = key;
                why_.clear();
                none_ = false;
                if (another && (pinned_ >= found_->facts.concepts || first)) pinned_ = -1, chosen_.clear();
                if (!source_.file.empty()) Q_EMIT opened(text(source_.file.string()));
            } else if (found.error().code == ErrorCode::Cancelled) {
                asked_for_.clear();
            } else {
                found_.reset();
                found_for_.clear();
                none_ = source_.file.empty();
                why_ = sentence(found.error().message);
            }
            placePatch();
            light();
            Q_EMIT changed();
        });
}

// ---- steering -------------------------------------------------------------------------------------------------------

double ConceptsOnShow::unitOf(std::int64_t number) const {
    if (found_ && number < std::ssize(found_->facts.largest))
        if (const double seen = found_->facts.largest[static_cast<std::size_t>(number)]; seen > 0) return seen;
    const double own = std::abs(picture().summary(number).strongest);
    if (own > 0) return own;
    double most = 0;
    for (const auto& one : picture().heard()) most = std::max(most, static_cast<double>(std::abs(one.strongest)));
    return most;
}

QString ConceptsOnShow::whyNoSteering() const {
    if (state() != State::Ready || stale()) return tr("The concepts are still being read");
    if (!session_.look()) return tr("The model has not run on the picture yet");
    return {};
}

QString ConceptsOnShow::whyNotOn(Steer::Tokens tokens) const {
    if (!found_ || !session_.look()) return {};
    const auto& read = found_->facts.tokens;
    using Tokens = Steer::Tokens;
    if (tokens == Tokens::Class && read == "patches") return tr("These concepts are of patches alone");
    if (tokens == Tokens::Class && session_.look()->prefix.empty()) return tr("This model has no class token");
    if ((tokens == Tokens::Patches || tokens == Tokens::Chosen) && read == "class")
        return tr("These concepts are of the class token alone");
    if (tokens == Tokens::Chosen && !picture().has_grid()) return tr("Which tokens are patches is not known here");
    return {};
}

void ConceptsOnShow::setDrawing(bool drawing) {
    drawing = drawing && picture().has_grid();
    if (drawing_ == drawing) return;
    drawing_ = drawing;
    Q_EMIT pointedChanged();
}

void ConceptsOnShow::draw(const Box& photo) {
    const auto region = regionUnder(photo);
    if (!region) return;
    auto steer = session_.steering();
    steer.region = region;
    steer.tokens = Steer::Tokens::Chosen;
    setDrawing(false);
    session_.steer(steer);
}

std::optional<Region> ConceptsOnShow::regionUnder(const Box& photo) const {
    return session_.cellsUnder(photo, picture().rows(), picture().cols());
}

std::optional<Region> ConceptsOnShow::regionOfTarget() const {
    return session_.region() && picture().has_grid() ? regionUnder(session_.boxOf(*session_.region())) : std::nullopt;
}

std::optional<Box> ConceptsOnShow::steered() const {
    const auto& steer = session_.steering();
    if (!looking_ || steer.tokens != Steer::Tokens::Chosen || !steer.region || !picture().has_grid())
        return std::nullopt;
    return session_.boxOf(*steer.region, picture().rows(), picture().cols());
}

// ---- pointing -------------------------------------------------------------------------------------------------------

void ConceptsOnShow::pointAt(const std::optional<Point>& photo) {
    cursor_ = photo;
    placePatch();
}

void ConceptsOnShow::placePatch() {
    std::optional<std::pair<std::int64_t, std::int64_t>> now;
    const auto& look = session_.look();
    if (look && found_ && !stale() && picture().has_grid()) {
        const auto& g = look->geometry;
        const auto cell = [&](Point input) {
            if (input.x < 0 || input.y < 0 || input.x >= static_cast<double>(g.input_width) ||
                input.y >= static_cast<double>(g.input_height))
                return;
            now = {static_cast<std::int64_t>(input.y * static_cast<double>(picture().rows()) /
                                             static_cast<double>(g.input_height)),
                   static_cast<std::int64_t>(input.x * static_cast<double>(picture().cols()) /
                                             static_cast<double>(g.input_width))};
        };
        const auto inside = [&](const Point& p) {
            return p.x >= 0 && p.y >= 0 && p.x < static_cast<double>(g.photo_width) &&
                   p.y < static_cast<double>(g.photo_height);
        };
        if (cursor_ && inside(*cursor_)) cell(g.to_input(*cursor_));
        if (const auto& pinned = session_.pinned(); !now && pinned && pinned->is_patch() && look->grid_rows > 0)
            // Its middle: the concepts' grid may be another than that of attention.
            cell({(static_cast<double>(pinned->col) + 0.5) * static_cast<double>(g.input_width) /
                      static_cast<double>(look->grid_cols),
                  (static_cast<double>(pinned->row) + 0.5) * static_cast<double>(g.input_height) /
                      static_cast<double>(look->grid_rows)});
    }
    if (patch_ == now) return;
    patch_ = now;
    Q_EMIT pointedChanged();
}

std::span<const ConceptValue> ConceptsOnShow::atPatch() const {
    return patch_ ? picture().at(picture().cell(patch_->first, patch_->second)) : std::span<const ConceptValue>();
}

float ConceptsOnShow::valueAtPatch(std::int64_t number) const {
    for (const auto& one : atPatch())
        if (one.id == number) return one.value;
    return 0;
}

void ConceptsOnShow::hover(std::int64_t number) {
    if (hovered_ == number) return;
    hovered_ = number;
    light();
    Q_EMIT pointedChanged();
}

void ConceptsOnShow::pin(std::int64_t number, bool beside) {
    if (number < 0) {
        if (pinned_ < 0 && chosen_.empty()) return;
        pinned_ = -1;
        chosen_.clear();
    } else if (beside) {
        if (chosen_.erase(number) == 0)
            chosen_.insert(pinned_ = number);
        else if (pinned_ == number)
            pinned_ = chosen_.empty() ? -1 : *chosen_.begin();
    } else if (pinned_ == number && chosen_.size() == 1) {
        pinned_ = -1;
        chosen_.clear();
    } else {
        pinned_ = number;
        chosen_ = {number};
    }
    light();
    Q_EMIT pointedChanged();
}

Plane ConceptsOnShow::planeOf(std::int64_t number) const {
    auto map = picture().map(number);
    const bool is_signed = std::any_of(map.begin(), map.end(), [](float v) { return v < 0; });
    auto plane = make_plane(picture().rows(), picture().cols(), std::move(map), is_signed, false);
    // From zero, and a silent concept is dark, not bright.
    if (!is_signed) plane.shown_low = 0, plane.shown_high = plane.high > 0 ? plane.high : 1;
    return plane;
}

/// On the picture is the concept under the cursor, else the one that is pinned.
void ConceptsOnShow::light() {
    const auto number = hovered_ >= 0 ? hovered_ : pinned_;
    if (!looking_ || number < 0 || number >= picture().concepts() || stale() || !picture().has_grid() ||
        !session_.look())
        return session_.light(std::nullopt);
    if (const auto& lit = session_.lit(); lit && lit->number == number && lit->of == found_->picture.get()) return;
    LitConcept lit;
    lit.number = number;
    lit.of = found_->picture.get();
    lit.title = nameOf(number);
    lit.plane = planeOf(number);
    lit.wanted.method = "concepts";
    lit.wanted.settings["index"] = std::to_string(number);
    if (!source_.file.empty()) lit.wanted.settings["autoencoder"] = source_.file.string();
    std::string given;
    for (const auto& [name, value] : source_.given) given += (given.empty() ? "" : ",") + name + '=' + value;
    if (!given.empty()) lit.wanted.settings["given"] = given;
    session_.light(std::move(lit));
}

}  // namespace vitrine::app
