// Posts the one job a picture needs, and answers the cursor from what it brought.
#include "concepts_on_show.h"

#include <QFileInfo>

#include <algorithm>
#include <cmath>
#include <utility>

#include "concept_book.h"

namespace vitrine::app {
namespace {

/// What was read, or that it was not for what could be given.
struct ConceptsRead {
    Result<ConceptsFound> found;
    bool asks = false;
};

constexpr const char *kTag = "concepts", *kLayers = "concept layers";

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
        layers_asked_for_.clear();
        stopped_ = layers_stopped_ = false;
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
    connect(&session, &Session::workDropped, this, [this](bool stopped) {
        // What a person stopped stays asked for: else the next look at it would start it again.
        if (stopped && layersUnderWay()) {
            session_.jobs_.cancel(kLayers);
            layers_stopped_ = true;
            Q_EMIT changed();
        }
        if (!running_) return;
        session_.jobs_.cancel(kTag);
        running_ = false;
        stopped_ = stopped;
        if (!stopped) asked_for_.clear();
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
    return stopped() ? State::Stopped : State::Loading;
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
    if (looking) forgetStops();
    if (!anyLooks()) {
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

void ConceptsOnShow::setLookingAtLayers(bool looking) {
    if (looking_at_layers_ == looking) return;
    looking_at_layers_ = looking;
    if (looking) forgetStops();
    if (!looking && layersUnderWay()) {
        session_.jobs_.cancel(kLayers);
        layers_asked_for_.clear();
    }
    follow();
}

bool ConceptsOnShow::layersUnderWay() const {
    return !layers_asked_for_.empty() && layers_asked_for_ == wantedKey() && !layers_ && !layers_stopped_ &&
           why_no_layers_.isEmpty();
}

void ConceptsOnShow::followLayers() {
    const auto key = wantedKey();
    if (key != layers_asked_for_) {
        layers_.reset();
        why_no_layers_.clear();
    }
    if (!looking_at_layers_ || !found_ || stale() || !session_.look() || key == layers_asked_for_) return;
    layers_asked_for_ = key;
    layers_stopped_ = false;
    session_.post(
        {.tag = kLayers, .title = "Reading the concepts at every layer", .urgency = Urgency::Normal},
        [source = source_](Workbench& bench, JobControl& job) { return bench.concept_layers(source, job.stop()); },
        [this, key](Result<ConceptLayers> found) {
            if (layers_asked_for_ != key) return;
            if (found)
                layers_ = std::move(*found);
            else if (found.error().code == ErrorCode::Cancelled)
                layers_asked_for_.clear();
            else
                why_no_layers_ = sentence(found.error().message);
            Q_EMIT changed();
        });
}

QString ConceptsOnShow::whyNoLayers() const {
    if (!why_no_layers_.isEmpty()) return why_no_layers_;
    if (!why_.isEmpty()) return why_;
    if (!session_.model()) return tr("Open a model first");
    if (!session_.picture()) return tr("Open a picture first");
    if (stopped()) return tr("Reading the concepts was stopped");
    if (stoppedLayers()) return tr("Reading the concepts at every layer was stopped");
    return session_.look() ? tr("Reading the concepts at every layer") : tr("The model has not run on the picture yet");
}

std::vector<std::int32_t> ConceptsOnShow::strongest(std::size_t most) const {
    return {ranked_.begin(), ranked_.begin() + static_cast<std::ptrdiff_t>(std::min(most, ranked_.size()))};
}

void ConceptsOnShow::choose(const QString& file) {
    const ConceptSource wanted{file.isEmpty() ? std::filesystem::path()
                                              : std::filesystem::path(QFileInfo(file).absoluteFilePath().toStdString()),
                               {}};
    // The same file again was written anew: its concepts are others.
    unsteer_ = found_ && wanted == source_;
    source_ = wanted;
    readAnew();
}

void ConceptsOnShow::give(const std::string& name, const std::string& value) {
    if (value.empty() ? !source_.given.contains(name) : source_.given.contains(name) && source_.given.at(name) == value)
        return;
    if (value.empty())
        source_.given.erase(name);
    else
        source_.given[name] = value;
    readAnew();
}

void ConceptsOnShow::readAnew() {
    setDrawing(false);
    asked_for_.clear();
    layers_asked_for_.clear();
    stopped_ = layers_stopped_ = false;
    why_.clear();
    none_ = false;
    pin(-1);
    follow();
}

/// So that they are asked for again.
void ConceptsOnShow::forgetStops() {
    if (std::exchange(stopped_, false)) asked_for_.clear();
    if (std::exchange(layers_stopped_, false)) layers_asked_for_.clear();
}

void ConceptsOnShow::again() {
    forgetStops();
    follow();
}

void ConceptsOnShow::reread() {
    asked_for_.clear();
    stopped_ = false;
    follow();
}

void ConceptsOnShow::follow() {
    const auto key = wantedKey();
    if (key != asked_for_ && running_) {
        session_.jobs_.cancel(kTag);
        running_ = false;
    }
    if (session_.look() && anyLooks() && !session_.opening() && key != asked_for_) post();
    if (const void* codes = found_ ? found_->picture.get() : nullptr; std::exchange(ranked_of_, codes) != codes)
        ranked_ = picture().ranked(ConceptOrder::Sum);
    followLayers();
    placePatch();
    light();
    Q_EMIT changed();
}

void ConceptsOnShow::post() {
    session_.jobs_.cancel(kTag);
    asked_for_ = wantedKey();
    running_ = true;
    stopped_ = false;
    session_.post(
        {.tag = kTag, .title = "Reading the concepts", .urgency = Urgency::Normal},
        [source = source_](Workbench& bench, JobControl& job) -> Result<ConceptsRead> {
            ConceptsRead out{bench.concepts(source, job.stop()), false};
            out.asks = !out.found && out.found.error().code != ErrorCode::Cancelled && !source.file.empty() &&
                       !asked_by(source, false).empty();
            return out;
        },
        // `this` outlives the job: the session, which owns us, waits for it.
        [this, key = asked_for_](Result<ConceptsRead> read) {
            if (asked_for_ != key) return;
            running_ = false;
            auto found = read ? std::move(read->found) : Result<ConceptsFound>(tl::make_unexpected(read.error()));
            asks_ = read && read->asks;
            const bool first = found_for_.empty() || !found_;
            if (found) {
                const bool another = !found_ || found_->facts.concepts != found->facts.concepts;
                found_ = std::move(*found);
                found_for_ = key;
                why_.clear();
                none_ = false;
                if (another && (pinned_ >= found_->facts.concepts || first)) pinned_ = -1, chosen_.clear();
                // Once there are other concepts: a file that is refused takes nothing away.
                if (const auto& steer = session_.steering();
                    std::exchange(unsteer_, false) || (!steer.edits.empty() && steer.source != source_))
                    session_.steer({});
                if (!source_.file.empty()) Q_EMIT opened(text(source_.file.string()));
            } else if (found.error().code == ErrorCode::Cancelled) {
                asked_for_.clear();
            } else {
                found_.reset();
                found_for_.clear();
                none_ = source_.file.empty();
                why_ = sentence(found.error().message);
            }
            follow();
        });
}

// ---- steering -------------------------------------------------------------------------------------------------------

double ConceptsOnShow::unitOf(std::int64_t number) const {
    if (found_ && number < std::ssize(found_->facts.largest))
        if (const double seen = found_->facts.largest[static_cast<std::size_t>(number)]; seen > 0) return seen;
    double own = std::abs(picture().summary(number).strongest);
    if (found_)
        for (const auto& token : found_->apart) own = std::max(own, static_cast<double>(std::abs(token.at(number))));
    if (own > 0) return own;
    double most = 0;
    for (const auto& one : picture().heard()) most = std::max(most, static_cast<double>(std::abs(one.strongest)));
    return most;
}

QString ConceptsOnShow::whyNoSteering() const {
    if (stopped()) return tr("Reading the concepts was stopped");
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
    if (!anyLooks() || steer.tokens != Steer::Tokens::Chosen || !steer.region || !picture().has_grid())
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
    std::erase_if(slots_, [this](const auto& one) { return !chosen_.contains(one.first); });
    for (const auto one : chosen_) {
        if (slots_.contains(one)) continue;
        int slot = 0;
        while (std::any_of(slots_.begin(), slots_.end(), [slot](const auto& taken) { return taken.second == slot; }))
            ++slot;
        slots_[one] = slot;
    }
    light();
    Q_EMIT pointedChanged();
}

int ConceptsOnShow::slotOf(std::int64_t number) const {
    const auto found = slots_.find(number);
    return found == slots_.end() || !chosen_.contains(number) || chosen_.size() < 2 ? -1 : found->second;
}

QString ConceptsOnShow::tokenName(const std::string& token) {
    if (token == "cls") return tr("class token");
    if (token == "dist") return tr("distillation token");
    if (token.starts_with("reg")) return tr("register %1").arg(text(token.substr(3)));
    return text(token);
}

QString ConceptsOnShow::aside(std::int64_t number) const {
    QStringList out;
    if (found_)
        for (const auto& token : found_->apart)
            if (const float v = token.at(number); v != 0)
                out << tr("%1 %2").arg(tokenName(token.token), QString::number(v, 'g', 3));
    if (out.size() > 2) out = QStringList{out[0], tr("%1 more").arg(out.size() - 1)};
    return out.join(QStringLiteral(", "));
}

Plane ConceptsOnShow::planeOf(std::int64_t number) const {
    auto map = picture().map(number);
    const bool is_signed = std::any_of(map.begin(), map.end(), [](float v) { return v < 0; });
    auto plane = make_plane(picture().rows(), picture().cols(), std::move(map), is_signed, false);
    // From zero to the largest that was seen of it, so that a faint one is faint and a silent one dark.
    if (!is_signed) {
        const double most =
            std::max<double>(plane.high, number < std::ssize(found_->facts.largest) ? unitOf(number) : 0);
        plane.shown_low = 0, plane.shown_high = most > 0 ? static_cast<float>(most) : 1;
    }
    return plane;
}

/// On the picture is the concept under the cursor, else the one that is pinned.
void ConceptsOnShow::light() {
    const auto number = hovered_ >= 0 ? hovered_ : pinned_;
    if (!anyLooks() || number < 0 || number >= picture().concepts() || stale() || !picture().has_grid() ||
        !session_.look())
        return session_.light(std::nullopt);
    std::vector<std::pair<std::int64_t, int>> wanted;
    if (hovered_ < 0 && chosen_.size() > 1)
        for (const auto one : chosen_)
            if (one < picture().concepts()) wanted.emplace_back(one, slotOf(one));
    if (const auto& lit = session_.lit();
        lit && lit->number == number && lit->of == found_->picture.get() &&
        std::equal(lit->together.begin(), lit->together.end(), wanted.begin(), wanted.end(),
                   [](const LitMap& is, const auto& should) { return std::pair(is.number, is.slot) == should; }))
        return;
    LitConcept lit;
    for (const auto& [one, slot] : wanted) lit.together.push_back({one, slot, planeOf(one)});
    lit.aside = aside(number);
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
