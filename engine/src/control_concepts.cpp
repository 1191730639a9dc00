// Takes a sound autoencoder's settings, shuffles the weights, trains.
#include <vitrine/control_concepts.h>

#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <set>

#include <nlohmann/json.hpp>

#include <vitrine/base/random.h>
#include <vitrine/model_identity.h>
#include <vitrine/parameters_aside.h>
#include <vitrine/train_concepts.h>
#include <vitrine/uncertainty_response.h>

namespace vitrine {

namespace fs = std::filesystem;

namespace {

/// How the sound one was trained, less what is of that run alone.
std::vector<std::pair<std::string, std::string>> recipe_of(const Autoencoder& sound,
                                                           const ControlConceptsOptions& options) {
    const AutoencoderConfig& config = sound.config();
    nlohmann::json said = nlohmann::json::object();
    if (const auto found = sound.facts.find("settings"); found != sound.facts.end())
        said = nlohmann::json::parse(found->second, nullptr, false);
    std::vector<std::pair<std::string, std::string>> out;
    std::int64_t steps = options.steps;
    for (const Parameter& one : concept_parameters()) {
        if (!said.is_object() || !said.contains(one.name) || !said[one.name].is_string()) continue;
        const auto text = said[one.name].get<std::string>();
        if (one.name == "steps") {
            if (const std::int64_t had = std::atoll(text.c_str()); had > 0) steps = std::min(steps, had);
            continue;
        }
        static const std::set<std::string> kOfTheRun{
            "held", "held_every", "floor", "checkpoint_seconds", "report_seconds", "shuffled_weights", "dead_tokens"};
        if (kOfTheRun.count(one.name) == 0) out.emplace_back(one.name, text);
    }
    const auto last = [&](const char* name, std::string value) { out.emplace_back(name, std::move(value)); };
    last("point", config.point);
    last("kind", config.kind);
    last("tokens", config.tokens);
    last("latents", std::to_string(config.latents));
    last("normalise", config.normalise);
    if (config.kind == "top_k" || config.kind == "batch_top_k") last("k", std::to_string(config.k));
    // Fitted kinds say nothing of their rounds.
    if (!is_factor_kind(config.kind)) last("steps", std::to_string(steps));
    last("shuffled_weights", std::to_string(options.seed));
    // A tenth, and one at the least where there are two.
    last("held", fmt::format("{}", std::clamp(1.0 / static_cast<double>(options.pictures->count()), 0.1, 0.9)));
    return out;
}

/// What tells one such training from another.
std::string trained_by(const std::vector<std::pair<std::string, std::string>>& recipe, const PictureSet& pictures,
                       const Model& model) {
    std::uint64_t out = 0;
    // The weights are looked at beside it.
    if (const std::string steering = steering_identity(model); !steering.empty()) out = hash_of(steering);
    for (const auto& [name, value] : recipe) out = mix64(out ^ hash_of(name + "=" + value));
    for (std::int64_t i = 0; i < pictures.count(); ++i) out = mix64(out ^ hash_of(pictures.picture(i).name));
    return fmt::format("{:016x}", out);
}

}  // namespace

fs::path control_concepts_file(const fs::path& sound, std::uint64_t seed) {
    const std::string name = fmt::format("{}.shuffled_{}.safetensors", sound.stem().string(), seed);
    const fs::path folder = fs::absolute(sound).parent_path();
    if (access(folder.c_str(), W_OK) == 0) return sound.parent_path() / name;
    const char* data = std::getenv("XDG_DATA_HOME");
    const char* home = std::getenv("HOME");
    const fs::path root = data && *data ? fs::path(data) : fs::path(home ? home : "/tmp") / ".local" / "share";
    return root / "vitrine" / fmt::format("{:08x}-{}", static_cast<std::uint32_t>(hash_of(folder.string())), name);
}

PictureSet control_pictures(const PictureSet& all, std::uint64_t seed, std::int64_t climbing) {
    const auto order = ladder_order(all.count(), seed);
    std::int64_t from = std::max(climbing, all.count() / 2);
    if (from >= all.count()) from = 0;
    std::set<std::string> chosen;
    for (std::int64_t i = from; i < all.count(); ++i)
        chosen.insert(all.picture(order[static_cast<std::size_t>(i)]).name);
    PictureSet out = all;
    out.keep([&](const PictureSet::Picture& one) { return chosen.count(one.name) != 0; });
    return out;
}

Result<Autoencoder> control_concepts(Model& model, const Autoencoder& sound, const ControlConceptsOptions& options) {
    if (!model.is_native() || model.parameters().empty())
        return fail(ErrorCode::Unsupported, "the weights of {} cannot be shuffled: they cannot be reached",
                    model.info().name);
    // Without the weight of its sparsity term one would be trained that leaves nothing out.
    const std::string& kind = sound.config().kind;
    if (sound.facts.count("settings") == 0 && (kind == "relu" || kind == "gated" || kind == "jump_relu"))
        return fail(ErrorCode::Unsupported,
                    "{} does not say how it was trained; train one with vitrine train-concepts and --set "
                    "shuffled_weights={} as it was, and give it as control",
                    options.sound.string(), options.seed);
    TrainConceptsOptions training;
    training.out = control_concepts_file(options.sound, options.seed);
    training.pictures = options.pictures;
    training.settings = recipe_of(sound, options);
    training.stop = options.stop;
    training.progress = [&](const ConceptStep& now) {
        if (options.progress) options.progress({now.step, now.steps, "training steps"});
    };
    const std::string by = trained_by(training.settings, *options.pictures, model);
    // The file names all of them, and those that its kind does not read are refused.
    const auto unread = unread_concept_settings(training.settings);
    std::erase_if(training.settings,
                  [&](const auto& one) { return std::find(unread.begin(), unread.end(), one.first) != unread.end(); });
    // Nobody sees these of a control.
    if (!is_factor_kind(kind))
        for (const auto& [name, value] : {std::pair{"held_every", "-1"}, {"floor", "0"}})
            training.settings.emplace_back(name, value);
    std::error_code failed;
    if (fs::exists(training.out, failed)) {
        auto there = Autoencoder::load(training.out);
        if (there && there->facts["trained_by"] == by) {
            ParametersAside aside(model);
            aside.shuffle_all(options.seed);
            if (there->fits_weights(model)) {
                there->to(model.device());
                return there;
            }
        }
    }
    fs::create_directories(fs::absolute(training.out).parent_path(), failed);
    auto trained = train_concepts(model, training);
    const fs::path checkpoint = training.out.string() + ".checkpoint";
    if (!trained && trained.error().code == ErrorCode::BadInput && fs::exists(checkpoint, failed)) {
        // Of other pictures or settings: this training is the only one that writes there.
        fs::remove(checkpoint, failed);
        trained = train_concepts(model, training);
    }
    const TrainConceptsSummary summary = VITRINE_TRY(std::move(trained));
    if (!summary.finished) return fail(ErrorCode::Cancelled, "stopped");
    Autoencoder out = VITRINE_TRY(Autoencoder::load(training.out));
    out.facts["trained_by"] = by;
    VITRINE_CHECK(out.save(training.out));
    out.to(model.device());
    return out;
}

}  // namespace vitrine
