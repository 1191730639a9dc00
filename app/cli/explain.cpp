// vitrine explain: why a model answered so, as raw maps, overlays and a manifest.
#include <vitrine/base/file.h>
#include <vitrine/device.h>
#include <vitrine/seen_through.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <set>

#include "cli/chosen.h"
#include "cli/commands.h"
#include "cli/may_write.h"
#include "cli/overlay.h"
#include "cli/targets.h"

namespace vitrine::cli {

namespace fs = std::filesystem;

namespace {

std::string unique(std::string name, std::set<std::string>& used) {
    const std::string base = name;
    for (int i = 2; !used.insert(name).second; ++i) name = fmt::format("{}-{}", base, i);
    return name;
}

using Method = Chosen<Explainer>;

constexpr std::size_t kTop = 5;  // of the predictions that are listed; --target top10 names more

/// A map that is itself a picture, each cell as large as it is in the model's input.
Image picture_of(const at::Tensor& colours, std::int64_t height, std::int64_t width) {
    const at::Tensor c = colours.detach().to(at::kCPU, at::kFloat).contiguous();
    const auto* values = c.const_data_ptr<float>();
    const std::int64_t rows = c.size(1), cols = c.size(2);
    Image out(width, height);
    for (std::int64_t y = 0; y < height; ++y)
        for (std::int64_t x = 0; x < width; ++x)
            for (std::int64_t k = 0; k < 3; ++k) {
                const float value = values[(k * rows + y * rows / height) * cols + x * cols / width];
                out.pixels[static_cast<std::size_t>((y * width + x) * 3 + k)] =
                    static_cast<std::uint8_t>(std::lround(255 * std::clamp(value, 0.0F, 1.0F)));
            }
    return out;
}

/// What draws overlays, made once for all pictures; without Vulkan it says why there are none.
struct Overlays {
#if VITRINE_VIZ
    std::unique_ptr<viz::Device> device;
    std::unique_ptr<viz::Compositor> compositor;
    std::string missing;
    Overlays() {
        auto made = viz::Device::create();
        if (!made) {
            missing = made.error().message;
            return;
        }
        device = std::move(*made);
        auto composer = viz::Compositor::create(*device);
        if (!composer) {
            missing = composer.error().message;
            return;
        }
        compositor = std::move(*composer);
    }
#else
    std::string missing = "this build draws no overlays";
#endif
};

/// A folder of ours is written anew; a manifest of others and what is read are left alone.
Status may_write_into(const fs::path& folder, const std::vector<Method>& methods, const std::vector<ReadPlace>& reads) {
    std::set<std::string> used;
    for (const Method& method : methods) {
        const std::string name = unique(slug(method.name), used);
        for (const char* ending : {".npy", ".png", ".channels.npy", ".colours.npy", ".colours.png"})
            VITRINE_CHECK(spares_what_is_read(folder / (name + ending), reads));
    }
    const fs::path manifest = folder / "manifest.json";
    std::error_code ignored;
    if (!fs::exists(manifest, ignored)) return {};
    const auto text = read_text(manifest);
    const auto said = text ? nlohmann::json::parse(*text, nullptr, false) : nlohmann::json();
    if (said.is_object() && said.contains("vitrine")) return {};
    return fail(ErrorCode::BadInput, "{} is there already and is none of vitrine explain; give another --out",
                manifest.string());
}

/// Runs the methods on one picture and target, writes DIR; returns the first failure, whose place is also in the
/// manifest.
Status explain_one(const Common& common, Model& model, const Input& input, ExplainContext& context,
                   const std::vector<Answer>& answers, const std::vector<Method>& methods,
                   const std::vector<double>& seen_through, Overlays& overlays, const fs::path& folder,
                   const std::vector<ReadPlace>& reads, nlohmann::json& manifest) {
    std::error_code failed;
    fs::create_directories(folder, failed);
    if (failed) return fail(ErrorCode::Io, "the folder {} cannot be made: {}", folder.string(), failed.message());
    VITRINE_CHECK(may_write_into(folder, methods, reads));
    manifest.update({{"vitrine", version()},
                     {"model",
                      {{"name", model.info().name},
                       {"opened_as", common.model},
                       {"architecture", model.info().architecture},
                       {"dialect", model.info().dialect},
                       {"parameters", model.info().parameters},
                       {"notes", model.info().notes}}},
                     {"image", {{"file", input.file.string()}, {"name", input.name}, {"note", input.note}}},
                     {"preprocessing", describe(model.preprocess())},
                     {"geometry", describe(input.geometry)},
                     {"precision", common.dtype},
                     {"device", common.device},
                     {"seed", common.seed},
                     {"methods", nlohmann::json::array()}});
    auto& predictions = manifest["predictions"] = nlohmann::json::array();
    for (std::size_t i = 0; i < std::min(answers.size(), kTop); ++i) predictions.push_back(describe(answers[i]));
    if (context.other != nullptr)
        manifest["other"] = {{"file", context.other->file.string()}, {"name", context.other->name}};
    if (auto target = describe(context.target, model); !target.is_null()) manifest["target"] = std::move(target);
    if (context.target.versus)
        manifest["versus"] = {{"index", *context.target.versus},
                              {"label", model.labels().name(*context.target.versus)}};

    Status first;
    std::set<std::string> used;
    for (const auto& method : methods) {
        const std::string name = unique(slug(method.name), used);  // of its files
        nlohmann::json entry{{"name", method.plugin->description().name},
                             {"settings", values_of(method.settings)},
                             {"source", method.plugin->description().source}};
        if (const auto passes = method.plugin->passes(model, method.settings))
            entry["passes"] = {{"forwards", passes->forwards}, {"backwards", passes->backwards}};
        reset_peak_bytes(at::Device(common.device));
        const auto begin = std::chrono::steady_clock::now();
        auto result = [&]() -> Result<Attribution> {
            if (auto why = method.plugin->why_not(model))
                return fail(ErrorCode::Unsupported, "{} cannot run on {}: {}", method.name, model.info().name, *why);
            if (context.other == nullptr && method.plugin->reads_other(method.settings))
                return fail(ErrorCode::Unsupported, "it compares with a second picture: give one with --other FILE");
            return method.plugin->explain(context, method.settings);
        }();
        entry["time_ms"] = std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin).count();
        if (const at::Device device(common.device); !device.is_cpu()) entry["device_peak_bytes"] = peak_bytes(device);
        const Status finish = [&]() -> Status {
            if (!result) return tl::make_unexpected(result.error());
            const Attribution& attribution = *result;
            entry["file"] = name + ".npy";
            entry["shape"] = attribution.map.sizes().vec();
            entry["space"] = attribution.on_tokens ? "token grid" : "model input pixels";
            entry["signed"] = attribution.is_signed;
            entry["class_specific"] = attribution.class_specific;
            entry["explained"] = attribution.explained;
            entry["implementation"] = attribution.implementation;
            entry["prefix_mass"] = attribution.prefix_mass;
            entry["notes"] = attribution.notes;
            entry["partial"] = attribution.partial;
            entry["checks"] = nlohmann::json::array();
            for (const auto& check : attribution.checks)
                entry["checks"].push_back({{"name", check.name}, {"passed", check.passed}, {"finding", check.finding}});
            for (const auto& table : attribution.tables)
                entry["tables"].push_back({{"name", table.name},
                                           {"unit", table.unit},
                                           {"rows", table.rows},
                                           {"cols", table.cols},
                                           {"values", table.values}});
            VITRINE_CHECK(save_npy(folder / (name + ".npy"), attribution.map));
            if (attribution.channels.defined())
                VITRINE_CHECK(save_npy(folder / (name + ".channels.npy"), attribution.channels));
            if (attribution.colours.defined()) {
                VITRINE_CHECK(save_npy(folder / (name + ".colours.npy"), attribution.colours));
                VITRINE_CHECK(
                    write_picture(folder / (name + ".colours.png"),
                                  picture_of(attribution.colours, input.pixels.size(2), input.pixels.size(3))));
                entry["colours"] = {{"file", name + ".colours.png"}, {"array", name + ".colours.npy"}};
            }
            if (!seen_through.empty())
                for (const auto& one : VITRINE_TRY(look_through(context, attribution, seen_through))) {
                    const std::string file = fmt::format("{}.seen_{:g}.png", name, one.keep);
                    VITRINE_CHECK(write_picture(folder / file, image_of(one.pixels, model.preprocess())));
                    entry["seen_through"].push_back({{"keep", one.keep},
                                                     {"file", file},
                                                     {"visible", one.visible},
                                                     {"explained", one.objective.explained},
                                                     {"whole", one.whole},
                                                     {"seen", one.seen}});
                }
#if VITRINE_VIZ
            if (overlays.compositor) {
                double clipped = 0;
                const viz::ValueScale scale = display_scale(attribution, &clipped);
                const Image overlay = VITRINE_TRY(overlays.compositor->render(overlay_scene(input, attribution),
                                                                              input.photo.width, input.photo.height));
                VITRINE_CHECK(write_picture(folder / (name + ".png"), overlay));
                entry["overlay"] = {{"file", name + ".png"},
                                    {"low", scale.low},
                                    {"high", scale.high},
                                    {"clipped_share", clipped},
                                    {"upsampling", "nearest"},
                                    {"colour_map", attribution.is_signed ? "diverging" : "viridis"},
                                    {"drawn_by", overlays.device->name()}};
            }
#endif
            return {};
        }();
        if (!finish) {
            entry["error"] = finish.error().message;
            entry["exit_status"] = exit_status(finish.error());
            say(fmt::format("{}: {}", method.name, finish.error().message));
            if (first) first = finish;
        } else {
            say(fmt::format("{}: {} in {:.0f} ms{}", method.name, (folder / (name + ".npy")).string(),
                            entry["time_ms"].get<double>(),
                            overlays.missing.empty() ? "" : " (no overlay: " + overlays.missing + ")"));
        }
        if (!overlays.missing.empty()) entry["no_overlay"] = overlays.missing;
        manifest["methods"].push_back(std::move(entry));
        // Written after every method, so that a run that is cut short keeps what it has.
        VITRINE_CHECK(write_text(folder / "manifest.json", json_text(manifest, 2) + "\n"));
    }
    return first;
}

}  // namespace

Status explain(const Common& common, const ExplainOptions& options) {
    std::vector<std::string> owners{"preprocess", "target"};
    auto methods = VITRINE_TRY(choose_each<Explainer>(
        common, options.methods, [](const std::string& name) { return registry().explainer(name); }, owners));
    const auto smoothing = VITRINE_TRY(smooth(common, methods, owners));
    VITRINE_CHECK(check_owners(common, owners));
    const auto model = VITRINE_TRY(open(common));
    const TargetMaker maker = VITRINE_TRY(TargetMaker::make(common, *model, options.asked));
    std::optional<Input> other;
    if (!options.other.empty()) other = VITRINE_TRY(load_input(options.other, model->preprocess()));

    const bool many_images = options.images.size() > 1;
    const auto& asked = options.asked.targets;
    const bool many_targets = asked.size() > 1 || (asked.size() == 1 && (asked[0] == "top5" || asked[0] == "top10"));
    std::vector<ReadPlace> reads{{common.model, "the model"}, {options.other, "the other picture"}};
    for (const std::string& image : options.images) reads.push_back({image, "the picture"});
    std::set<std::string> used;
    Overlays overlays;
    auto documents = nlohmann::json::array();
    Status first;
    for (std::size_t i = 0; i < options.images.size(); ++i) {
        auto one = [&]() -> Status {
            Input input = VITRINE_TRY(load_input(options.images[i], model->preprocess()));
            ExplainContext base(*model, input, {}, common.seed);
            base.memory_budget = common.memory_bytes;
            const auto capture = VITRINE_TRY(base.capture());
            const auto answers =
                model->info().classes > 0 ? top(capture->output, model->labels(), 10) : std::vector<Answer>{};

            const auto targets = VITRINE_TRY(maker.of(options.images[i], answers));

            fs::path folder = options.out;
            if (many_images) folder /= unique(slug(fs::path(options.images[i]).stem().string()), used);
            Status worst;
            for (const auto& [label, target] : targets) {
                ExplainContext context(*model, input, target, common.seed);
                context.memory_budget = common.memory_bytes;
                context.batch = common.batch > 1 ? common.batch : 0;
                context.other = other ? &*other : nullptr;
                context.use(capture);
                context.progress = [](const Progress& p) { progress(p); };
                nlohmann::json manifest;
                if (smoothing.any()) manifest["smoothing"] = values_of(smoothing.options);
                const Status status =
                    explain_one(common, *model, input, context, answers, methods, options.seen_through, overlays,
                                many_targets ? folder / label : folder, reads, manifest);
                documents.push_back(std::move(manifest));
                if (!status && worst) worst = status;
            }
            return worst;
        }();
        if (!one && options.images.size() > 1) say(fmt::format("{}: {}", options.images[i], one.error().message));
        if (!one && first) first = one;
        if (many_images)
            progress({static_cast<std::int64_t>(i + 1), static_cast<std::int64_t>(options.images.size()), "pictures"});
    }
    if (common.json) fmt::print("{}\n", documents.size() == 1 ? json_text(documents[0], 2) : json_text(documents, 2));
    return first;
}

}  // namespace vitrine::cli
