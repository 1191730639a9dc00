// The one file of the window that knows tensors: it asks the engine and hands back plain values.
#include "workbench.h"

#include <vitrine/autoencoder.h>
#include <vitrine/autoencoder_file.h>
#include <vitrine/base/image_file.h>
#include <vitrine/base/readers.h>
#include <vitrine/base/resize.h>
#include <vitrine/concept_index.h>
#include <vitrine/engine.h>
#include <vitrine/folder_measure.h>
#include <vitrine/mask_module.h>
#include <vitrine/reads_apart.h>
#include <vitrine/region.h>
#include <vitrine/seen_through.h>
#include <vitrine/smoothing.h>
#include <vitrine/steering.h>
#include <vitrine/tcav.h>
#include <vitrine/torch_errors.h>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <chrono>
#include <cmath>
#include <limits>
#include <numeric>

#include "concept_codes.h"

namespace vitrine::app {
namespace {

double milliseconds_since(std::chrono::steady_clock::time_point start) {
    return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
}

/// Keeps the picture alive as long as the view.
ImageView view_of(std::shared_ptr<const Image> image) {
    ImageView view;
    view.data = image->pixels.data();
    view.width = image->width;
    view.height = image->height;
    view.row_bytes = image->width * 3;
    view.keep_alive = std::move(image);
    return view;
}

std::vector<float> floats_of(const at::Tensor& tensor) {
    const auto plain = tensor.detach().to(at::kCPU, at::kFloat).contiguous();
    const float* data = plain.const_data_ptr<float>();
    return {data, data + plain.numel()};
}

std::string words_for(Readout readout) {
    switch (readout) {
        case Readout::ClassToken:
            return "class token";
        case Readout::MeanPatches:
            return "mean of the patches";
        case Readout::AttentionPool:
            return "attention pooling";
        case Readout::GlobalPool:
            return "global pooling";
        case Readout::Unknown:
            break;
    }
    return "unknown";
}

/// The weights of a query over a step's tokens: one patch, or where the answer is read. Empty when the step has another
/// layout.
Result<at::Tensor> weights_of(const Flow& flow, const Mixing& mixing, Token token) {
    const auto weights = at::zeros({1, mixing.queries});
    auto* w = weights.mutable_data_ptr<float>();
    const auto& layout = mixing.query_layout;
    if (token.is_patch()) {
        if (!layout.known()) return fail(ErrorCode::Unsupported, "patches cannot be pointed at: {}", layout.unknown);
        if (token.row >= layout.rows || token.col >= layout.cols || token.col < 0)
            return fail(ErrorCode::BadInput, "patch {}, {} lies outside the grid of {} x {}", token.row, token.col,
                        layout.rows, layout.cols);
        w[layout.token_at(token.row, token.col)] = 1;
        return weights;
    }
    // An earlier layer may have other tokens than the last one: then its class token if it has one, else the mean.
    if (auto readout = readout_of_blocks(flow); readout && readout->numel() == mixing.queries)
        return readout->detach().to(at::kCPU, at::kFloat).reshape({1, -1});
    if (layout.known() && layout.prefix_count() > 0)
        w[0] = 1;
    else
        std::fill(w, w + mixing.queries, 1.0F / static_cast<float>(mixing.queries));
    return weights;
}

/// [heads, keys]: what the token reads. One row of P where one token asks, r^T P where a distribution does.
Result<at::Tensor> read_by(const Flow& flow, const Mixing& mixing, Token token) {
    const auto weights = VITRINE_TRY(weights_of(flow, mixing, token));
    const float* w = weights.const_data_ptr<float>();
    std::int64_t asked = -1, several = 0;
    for (std::int64_t i = 0; i < mixing.queries; ++i)
        if (w[i] != 0) asked = i, ++several;
    if (several == 1) {
        const std::array<std::int64_t, 1> query{asked};
        return VITRINE_TRY(mixing.rows({}, query)).select(1, 0);
    }
    return mixing.left(weights);
}

Result<Plane> on_patches(const Mixing& mixing, const at::Tensor& row) {
    const auto& layout = mixing.key_layout;
    if (!layout.known()) return fail(ErrorCode::Unsupported, "there is no map to draw: {}", layout.unknown);
    if (layout.rows * layout.cols == 0)
        return fail(ErrorCode::Unsupported, "{} has no patch grid on its key side", mixing.name);
    return make_plane(layout.rows, layout.cols,
                      floats_of(row.narrow(0, layout.prefix_count(), layout.rows * layout.cols)), false, false);
}

/// "attention_distance" -> "Attention distance".
std::string title_of(std::string name) {
    std::replace(name.begin(), name.end(), '_', ' ');
    if (!name.empty()) name.front() = static_cast<char>(std::toupper(static_cast<unsigned char>(name.front())));
    return name;
}

/// 3 of "head 3", -1 of anything else.
std::int64_t head_of(std::string_view label) {
    constexpr std::string_view kHead = "head ";
    if (!label.starts_with(kHead)) return -1;
    label.remove_prefix(kHead.size());
    std::int64_t head = -1;
    const auto [end, error] = std::from_chars(label.data(), label.data() + label.size(), head);
    return error == std::errc{} && end == label.data() + label.size() ? head : -1;
}

TableFacts facts_of(const Table& table, const Flow* flow) {
    TableFacts facts{title_of(table.name), table.unit, table.rows, table.cols, table.values, {}, {}, 0, 0};
    facts.values.resize(facts.rows.size());
    for (const auto& row : facts.rows) {
        std::int64_t layer = -1;
        for (std::int64_t i = 0; flow && i < flow->layers() && layer < 0; ++i)
            if (flow->block(i)->mixing->name == row) layer = i;
        facts.layers.push_back(layer);
    }
    for (const auto& col : facts.cols) facts.heads.push_back(head_of(col));
    facts.low = std::numeric_limits<double>::infinity();
    facts.high = -facts.low;
    for (auto& row : facts.values) {
        row.resize(std::min(row.size(), facts.cols.size()));
        for (const double v : row)
            if (std::isfinite(v)) facts.low = std::min(facts.low, v), facts.high = std::max(facts.high, v);
    }
    if (facts.low > facts.high) facts.low = facts.high = 0;
    return facts;
}

/// Points like the one that is read by default, one a layer: alike but for their numbers ("blocks.3.norm1"), else all
/// that are maps of channels.
std::vector<std::string> layers_like(const std::vector<NamedPoint>& points, const std::string& own) {
    // Without parts that are numbers: "blocks.3.norm1" is like "blocks.4.norm1" and not like "blocks.3.norm2".
    const auto stem = [](const std::string& name) {
        std::string out;
        for (std::size_t from = 0; from <= name.size();) {
            const auto dot = std::min(name.find('.', from), name.size());
            const auto part = name.substr(from, dot - from);
            out += part.find_first_not_of("0123456789") == std::string::npos ? "#." : part + ".";
            from = dot + 1;
        }
        return out;
    };
    std::vector<std::string> out;
    for (const auto& point : points)
        if (!own.empty() && stem(point.name) == stem(own)) out.push_back(point.name);
    if (out.size() > 1) return out;
    out.clear();
    for (const auto& point : points)
        if (point.meaning.ends_with("rows, cols]")) out.push_back(point.name);
    return out;
}

bool holds_model(const std::filesystem::path& folder) {
    std::error_code ignored;
    for (const char* name : {"model.safetensors", "pytorch_model.bin", "model.safetensors.index.json"})
        if (std::filesystem::exists(folder / name, ignored)) return true;
    // ViT-Prisma writes one beside its autoencoders too.
    return std::filesystem::exists(folder / "config.json", ignored) && !holds_autoencoder(folder);
}

}  // namespace

SettingFacts setting_of(const Parameter& parameter) {
    SettingFacts facts;
    using Kind = SettingFacts::Kind;
    facts.kind = std::holds_alternative<bool>(parameter.standard)           ? Kind::Flag
                 : std::holds_alternative<std::int64_t>(parameter.standard) ? Kind::Integer
                 : std::holds_alternative<double>(parameter.standard)       ? Kind::Number
                 : parameter.choices.empty()                                ? Kind::Text
                                                                            : Kind::Choice;
    facts.name = parameter.name;
    facts.meaning = parameter.meaning;
    facts.unit = parameter.unit;
    facts.source = parameter.source;
    facts.standard = to_string(parameter.standard);
    facts.low = parameter.low;
    facts.high = parameter.high;
    facts.choices = parameter.choices;
    return facts;
}

std::array<float, 3> Plane::colour_at(std::int64_t row, std::int64_t col) const {
    const auto at = static_cast<std::size_t>(row * cols + col), plane = static_cast<std::size_t>(rows * cols);
    return {(*colours)[at], (*colours)[at + plane], (*colours)[at + 2 * plane]};
}

MapView Plane::view() const {
    const auto& drawn = colours ? colours : values;
    MapView view;
    view.data = drawn->data();
    view.shape[0] = colours ? 3 : 1, view.shape[1] = rows, view.shape[2] = cols;
    view.stride[0] = rows * cols, view.stride[1] = cols, view.stride[2] = 1;
    view.keep_alive = drawn;
    return view;
}

Plane make_plane(std::int64_t rows, std::int64_t cols, std::vector<float> values, bool is_signed, bool per_pixel) {
    Plane plane;
    plane.rows = rows;
    plane.cols = cols;
    plane.is_signed = is_signed;
    std::vector<float> finite;
    finite.reserve(values.size());
    std::copy_if(values.begin(), values.end(), std::back_inserter(finite), [](float v) { return std::isfinite(v); });
    if (!finite.empty()) {
        const auto [low, high] = std::minmax_element(finite.begin(), finite.end());
        plane.low = plane.shown_low = *low;
        plane.high = plane.shown_high = *high;
        if (per_pixel) {
            // A few hot pixels would leave the rest of a gradient map dark.
            if (is_signed)
                for (float& v : finite) v = std::abs(v);
            const auto at =
                finite.begin() + static_cast<std::ptrdiff_t>(static_cast<double>(finite.size() - 1) * 0.995);
            std::nth_element(finite.begin(), at, finite.end());
            plane.shown_high = *at;
        }
        if (is_signed) {
            const float reach = per_pixel ? plane.shown_high : std::max(std::abs(plane.low), std::abs(plane.high));
            plane.shown_low = -reach;
            plane.shown_high = reach;
        }
    }
    plane.values = std::make_shared<const std::vector<float>>(std::move(values));
    return plane;
}

/// A map with how it was made.
struct Made {
    Wanted wanted;
    std::unique_ptr<Explainer> explainer;  ///< under the shared settings
    Settings settings;
    Attribution attribution;
    double milliseconds = 0;
};

namespace {

Result<Explanation> facts_of(const Made& made, const Flow* flow) {
    const auto& found = made.attribution;
    const auto description = made.explainer->description();
    Explanation out;
    out.milliseconds = made.milliseconds;
    out.method = made.wanted.method;
    out.title = description.title;
    out.source = description.source;
    out.explained = found.explained;
    out.implementation = found.implementation;
    out.on_tokens = found.on_tokens;
    out.class_specific = found.class_specific;
    out.partial = found.partial;
    out.prefix_mass = found.prefix_mass;
    out.notes = found.notes;
    for (const auto& check : found.checks) out.checks.push_back({check.name, check.finding, check.passed});
    for (const auto& table : found.tables) out.tables.push_back(facts_of(table, flow));
    // A method with parts names them in its first table.
    const auto declared = made.explainer->parameters();
    if (!found.tables.empty() &&
        std::any_of(declared.begin(), declared.end(), [](const Parameter& p) { return p.name == "part"; }))
        out.parts = found.tables.front().rows;
    if (!found.map.defined() || found.map.dim() != 2 || found.map.numel() == 0)
        return fail(ErrorCode::Internal, "{} gave no map", out.title);
    out.plane =
        make_plane(found.map.size(0), found.map.size(1), floats_of(found.map), found.is_signed, !found.on_tokens);
    if (found.colours.defined()) {
        if (found.colours.sizes() != at::IntArrayRef({3, out.plane.rows, out.plane.cols}))
            return fail(ErrorCode::Internal, "{} gave colours of another shape than its map", out.title);
        out.plane.colours = std::make_shared<const std::vector<float>>(floats_of(found.colours));
        out.plane.colours_mean = "first three components";
    }
    return out;
}

}  // namespace

bool MethodFacts::has(std::string_view setting) const {
    return std::any_of(settings.begin(), settings.end(), [&](const auto& s) { return s.name == setting; });
}

std::string Region::text() const {
    if (row == to_row && col == to_col) return fmt::format("{},{}", row, col);
    return fmt::format("{},{}-{},{}", row, col, to_row, to_col);
}

namespace {

/// A method as it is asked: under its settings and those of all methods.
struct Asked {
    std::unique_ptr<Explainer> explainer;
    Settings settings;
};

Result<Asked> asked_of(const Wanted& wanted) {
    Settings shared(smoothing_parameters());
    for (const auto& [name, value] : wanted.shared) VITRINE_CHECK(shared.set(name, value));
    VITRINE_CHECK(check_smoothing(shared));
    Asked out;
    out.explainer = smoothed(*VITRINE_TRY(registry().explainer(wanted.method)), shared);
    out.settings = Settings(out.explainer->parameters());
    for (const auto& [name, value] : wanted.settings) VITRINE_CHECK(out.settings.set(name, value));
    return out;
}

/// With some choice of its settings.
bool may_read_other(const Explainer& explainer) {
    Settings settings(explainer.parameters());
    if (explainer.reads_other(settings)) return true;
    for (const auto& parameter : explainer.parameters())
        for (const auto& choice : parameter.choices) {
            Settings changed = settings;
            if (changed.set(parameter.name, choice) && explainer.reads_other(changed)) return true;
        }
    return false;
}

}  // namespace

const SteeredConcept* Steer::find(std::int64_t number) const {
    const auto at = std::find_if(edits.begin(), edits.end(), [&](const auto& edit) { return edit.number == number; });
    return at == edits.end() ? nullptr : &*at;
}

void Steer::put(SteeredConcept edit) {
    drop(edit.number);
    edits.insert(std::upper_bound(edits.begin(), edits.end(), edit,
                                  [](const auto& a, const auto& b) { return a.number < b.number; }),
                 edit);
}

void Steer::drop(std::int64_t number) {
    std::erase_if(edits, [&](const auto& edit) { return edit.number == number; });
}

/// The picture that is compared with, and what the model made of it.
struct Other {
    std::filesystem::path file;
    std::string name;
    std::shared_ptr<const Image> photo;
    Orientation orientation = 1;
    std::shared_ptr<const Input> input;  // for the model that is open, as is:
    at::Tensor features;                 // its answer, where that is no class; else undefined
};

/// A model, as it was opened or steered, and what it made of the picture.
struct Workbench::Run {
    Steer steer;
    std::shared_ptr<Model> model;
    std::shared_ptr<const Capture> capture{};
    std::optional<Look> look{};
    FileStamp concepts{};  ///< the autoencoder's, when it was read to steer by
    void forget() { capture.reset(), look.reset(); }
};

struct Workbench::Parts {
    std::string request;
    std::shared_ptr<Model> model;  // as it was opened
    Run own;                       // of it
    std::optional<Run> steered;    // the latest
    std::filesystem::path file;
    std::string name;
    std::shared_ptr<const Image> photo;
    Orientation orientation = 1;
    std::shared_ptr<const Input> input;             // of photo and model
    std::vector<std::shared_ptr<const Made>> made;  // of input and model or the steered one, the latest last
    std::optional<Other> other;
    std::optional<RegionGrid> region_grid;  // of the model
    ConceptShelf concepts;                  // for the model

    /// The picture is another.
    void forget_runs() {
        input.reset();
        own.forget();
        if (steered) steered->forget();
        made.clear();
    }
};

/// The model that is asked for. One that is steered otherwise takes the place of the one before.
Result<Workbench::Run*> Workbench::run_of(const Steer& steer) {
    auto& at_hand = *parts_;
    if (!at_hand.model) return fail(ErrorCode::NotFound, "there is no model yet: open one");
    if (!steer.active()) return &at_hand.own;
    // Looked at before the file is read: one that is written meanwhile is read again, never taken for the old one.
    const auto concepts = FileStamp::of(ConceptShelf::file_of(steer.source));
    const bool again =
        at_hand.steered && at_hand.steered->steer.source == steer.source && at_hand.steered->concepts == concepts;
    if (again && at_hand.steered->steer == steer) return &*at_hand.steered;
    auto model = VITRINE_TRY(guarded([&]() -> Result<std::shared_ptr<Model>> {
        const auto autoencoder = VITRINE_TRY(at_hand.concepts.take(*at_hand.model, steer.source));
        return steered_model(again ? at_hand.steered->model : at_hand.model, *autoencoder, steer, again);
    }));
    // Maps of places that a slider passed are not asked for again.
    std::erase_if(at_hand.made, [&](const auto& made) { return made->wanted.steer.active(); });
    at_hand.steered = Run{.steer = steer, .model = std::move(model), .concepts = concepts};
    return &*at_hand.steered;
}

Result<ExplainContext> Workbench::context_for(const Wanted& wanted, std::stop_token stop, const Report& report) {
    Target target{wanted.target, wanted.versus, wanted.also};
    if (wanted.probability) target.scale = Scale::Probability;
    const auto* run = VITRINE_TRY(run_of(wanted.steer));
    ExplainContext context(*run->model, *parts_->input, std::move(target));
    if (wanted.region) {
        VITRINE_TRY(region_facts(stop));
        context.target.region = VITRINE_TRY(region_tokens(wanted.region->text(), *parts_->region_grid));
        context.target.point = parts_->region_grid->point;
    }
    if (!wanted.other.empty()) {
        // An opening that was cancelled after its last look at the bench has changed it.
        if (!parts_->other || parts_->other->file != wanted.other) VITRINE_CHECK(read_other(wanted.other));
        auto& other = *parts_->other;
        auto& model = *parts_->model;
        if (!other.input) {
            auto prepared = VITRINE_TRY(prepare(*other.photo, model.preprocess()));
            prepared.file = other.file;
            prepared.name = other.name;
            prepared.geometry.orientation = other.orientation;
            other.input = std::make_shared<const Input>(std::move(prepared));
        }
        context.other = other.input.get();
        if (model.info().classes == 0 && !wanted.region) {
            if (!other.features.defined())
                other.features = VITRINE_TRY(vitrine::run(model, other.input->pixels, stop))[0];
            context.target.reference = other.features;
            context.target.reference_name = other.name;
        }
    }
    context.stop = std::move(stop);
    context.progress = [report](const Progress& progress) { report(progress.done, progress.total, progress.unit); };
    if (run->capture) context.use(run->capture);
    return context;
}

Workbench::Workbench() : parts_(std::make_unique<Parts>()) {}
Workbench::~Workbench() = default;

Sorted Workbench::sort(const std::vector<std::filesystem::path>& paths) {
    constexpr std::size_t kMostPictures = 2000;  // a filmstrip, not an archive
    Sorted sorted;
    for (const auto& path : paths) {
        std::error_code error;
        const auto status = std::filesystem::status(path, error);
        if (path == "starter" && !std::filesystem::exists(status)) {
            sorted.models.push_back(path);
        } else if (error || !std::filesystem::exists(status)) {
            sorted.refused.push_back(fmt::format("{} is not there any more", path.string()));
        } else if (std::filesystem::is_directory(status)) {
            if (holds_model(path)) {
                sorted.models.push_back(path);
                continue;
            }
            if (holds_autoencoder(path)) {
                sorted.autoencoders.push_back(path);
                continue;
            }
            std::vector<std::filesystem::path> found;
            for (const auto& entry : std::filesystem::directory_iterator(path, error))
                if (is_picture_name(entry.path()) && found.size() < kMostPictures) found.push_back(entry.path());
            std::sort(found.begin(), found.end());
            if (found.empty())
                sorted.refused.push_back(fmt::format("{} holds neither a model nor pictures", path.string()));
            sorted.pictures.insert(sorted.pictures.end(), found.begin(), found.end());
        } else if (is_steered_name(path)) {
            // What it was made of may be a program.
            const auto model = innermost_model(path);
            if (!model) {
                sorted.refused.push_back(model.error().message);
                continue;
            }
            sorted.models.push_back(path);
            const auto kind = sniff(*model);
            sorted.needs_consent = kind && *kind == FileKind::TorchScript;
        } else {
            const auto kind = sniff(path);
            if (!kind) {
                sorted.refused.push_back(kind.error().message);
            } else if (*kind == FileKind::Image || (*kind == FileKind::Unknown && is_picture_name(path))) {
                sorted.pictures.push_back(path);
            } else if (holds_autoencoder(path)) {
                sorted.autoencoders.push_back(path);
            } else if (*kind == FileKind::Unknown) {
                sorted.refused.push_back(fmt::format("{} is neither a picture nor a checkpoint that Vitrine knows",
                                                     path.filename().string()));
            } else {
                sorted.models.push_back(path);
                sorted.needs_consent = *kind == FileKind::TorchScript;
            }
        }
    }
    return sorted;
}

Result<ModelFacts> Workbench::open_model(const std::string& request, bool trust, std::stop_token stop) {
    OpenOptions options;
    options.trust = trust;
    auto model = VITRINE_TRY(vitrine::open_model(request, options));
    ModelFacts facts;
    const auto& info = model->info();
    facts.request = request;
    facts.name = info.name;
    facts.title = info.title.empty() ? info.name : info.title;
    facts.architecture = info.architecture;
    facts.dialect = info.dialect;
    facts.why = info.why;
    facts.readout = words_for(info.readout);
    facts.parameters = info.parameters;
    facts.size_bytes = info.size_bytes;
    facts.layers = info.layers;
    facts.heads = info.heads;
    facts.width = info.width;
    facts.classes = info.classes;
    facts.patch_height = info.patch_height;
    facts.patch_width = info.patch_width;
    facts.notes = info.notes;
    facts.cam_point = info.cam_point;
    const auto points = model->points();
    facts.layer_points = layers_like(points, info.cam_point);
    for (const auto& point : points) facts.points.push_back(point.name);
    for (std::int64_t i = 0; i < info.classes; ++i) facts.labels.push_back(model->labels().name(i));
    facts.label_source = model->labels().source;
    facts.labels_assumed = model->labels().assumed;
    const auto& preprocess = model->preprocess();
    facts.input_height = preprocess.input_height;
    facts.input_width = preprocess.input_width;
    facts.preprocessing = preprocess.summary();
    facts.preprocessing_source = preprocess.source;
    facts.assumed.assign(preprocess.assumed.begin(), preprocess.assumed.end());
    for (const auto& explainer : registry().explainers()) {
        const auto description = explainer->description();
        MethodFacts method;
        method.name = description.name;
        method.title = description.title;
        method.summary = description.summary;
        method.source = description.source;
        method.family = description.family;
        method.formula = description.formula;
        method.weakness = description.weakness;
        method.why_not = explainer->why_not(*model).value_or("");
        method.class_specific = explainer->class_specific();
        method.may_read_other = may_read_other(*explainer);
        if (method.why_not.empty())
            if (const auto passes = explainer->passes(*model, Settings(explainer->parameters())))
                method.passes = PassFacts{passes->forwards, passes->backwards};
        // A file that is called "model" would read as if a word were missing; the title is what the window shows.
        if (method.why_not.starts_with(info.name + " ")) method.why_not.replace(0, info.name.size(), facts.title);
        for (const auto& parameter : explainer->parameters()) method.settings.push_back(setting_of(parameter));
        facts.methods.push_back(std::move(method));
    }
    for (const auto& parameter : smoothing_parameters()) facts.shared.push_back(setting_of(parameter));
    for (const auto& measure : registry().measures()) {
        if (dynamic_cast<const FolderMeasure*>(measure.get()) != nullptr) continue;  // has nothing to say of a map
        const auto description = measure->description();
        facts.measures.push_back({description.name, description.title, description.summary, description.source,
                                  measure->higher_is_better()});
    }
    if (stop.stop_requested()) return fail(ErrorCode::Cancelled, "stopped");
    parts_->model = std::move(model);
    parts_->own = Run{{}, parts_->model};
    parts_->steered.reset();
    parts_->request = request;
    if (parts_->other) parts_->other->input.reset(), parts_->other->features.reset();
    parts_->region_grid.reset();
    parts_->concepts.forget();
    parts_->forget_runs();
    return facts;
}

Result<PictureFacts> Workbench::open_picture(const std::filesystem::path& file, std::stop_token stop) {
    auto photo = VITRINE_TRY(read_photo(file, parts_->model ? parts_->model->preprocess().apply_exif : true));
    PictureFacts facts;
    facts.file = file;
    facts.name = file.filename().string();
    facts.note = photo.note;
    auto image = std::make_shared<const Image>(std::move(photo.image));
    facts.photo = view_of(image);
    if (stop.stop_requested()) return fail(ErrorCode::Cancelled, "stopped");
    parts_->file = file;
    parts_->name = facts.name;
    parts_->photo = std::move(image);
    parts_->orientation = photo.orientation;
    parts_->forget_runs();
    return facts;
}

Result<OtherFacts> Workbench::open_other(const std::filesystem::path& file, std::int64_t side) {
    OtherFacts facts{file.filename().string(), VITRINE_TRY(thumbnail(file, side))};
    VITRINE_CHECK(read_other(file));
    // The file may hold another picture than when it was last read.
    std::erase_if(parts_->made, [&](const auto& made) { return made->wanted.other == file; });
    return facts;
}

Status Workbench::read_other(const std::filesystem::path& file) {
    auto photo = VITRINE_TRY(read_photo(file, parts_->model ? parts_->model->preprocess().apply_exif : true));
    parts_->other = Other{
        file, file.filename().string(), std::make_shared<const Image>(std::move(photo.image)), photo.orientation, {},
        {}};
    return {};
}

void Workbench::drop_other() { parts_->other.reset(); }

std::pair<std::string, std::filesystem::path> Workbench::at_hand() const { return {parts_->request, parts_->file}; }

Result<ImageView> Workbench::thumbnail(const std::filesystem::path& file, std::int64_t side) const {
    const auto photo = VITRINE_TRY(read_photo(file));
    const double scale =
        static_cast<double>(side) / static_cast<double>(std::max(photo.image.width, photo.image.height));
    const auto length = [&](std::int64_t pixels) {
        return std::max<std::int64_t>(1, std::llround(static_cast<double>(pixels) * scale));
    };
    return view_of(std::make_shared<const Image>(VITRINE_TRY(
        resize(photo.image, length(photo.image.width), length(photo.image.height), Interpolation::Bilinear))));
}

Result<RunCost> Workbench::cost() const {
    // Beyond these a person would rather be asked: the wait is felt, or the memory is missed elsewhere.
    constexpr double kLong_s = 5;
    constexpr std::int64_t kLarge = 2'000'000'000;
    if (!parts_->model) return fail(ErrorCode::NotFound, "there is no model yet: open one");
    if (!parts_->photo) return fail(ErrorCode::NotFound, "there is no picture yet: open one");
    const auto& preprocess = parts_->model->preprocess();
    const auto cost = capture_cost(*parts_->model, preprocess.input_height, preprocess.input_width);
    RunCost out;
    out.needs_word = cost.seconds > kLong_s || cost.kept() > kLarge || cost.keep == CaptureCost::Keep::Nothing;
    if (out.needs_word) out.sentence = cost.sentence(parts_->model->info().layers);
    return out;
}

Result<Look> Workbench::look(const Steer& steer, std::stop_token stop) {
    auto& at_hand = *parts_;
    if (!at_hand.model) return fail(ErrorCode::NotFound, "there is no model yet: open one");
    if (!at_hand.photo) return fail(ErrorCode::NotFound, "there is no picture yet: open one");
    auto* run = VITRINE_TRY(run_of(steer));
    if (run->look) return *run->look;
    auto& model = *run->model;
    auto input = at_hand.input;
    if (!input) {
        auto prepared = VITRINE_TRY(prepare(*at_hand.photo, model.preprocess()));
        prepared.file = at_hand.file;
        prepared.name = at_hand.name;
        prepared.geometry.orientation = at_hand.orientation;
        input = std::make_shared<const Input>(std::move(prepared));
    }
    CaptureOptions options;
    options.stop = stop;
    auto capture = VITRINE_TRY(run_captured(model, input->pixels, options));

    Look look;
    look.geometry = input->geometry;
    look.seen = view_of(std::make_shared<const Image>(input->seen));
    look.capture_bytes = capture->size_bytes;
    look.forward_ms = capture->forward_ms;
    look.notes = capture->notes;
    look.readout = words_for(model.info().readout);
    if (!input->note.empty()) look.notes.push_back(input->note);
    if (model.info().classes > 0) {
        for (auto& answer : top(capture->output, model.labels(), 5))
            look.top.push_back({answer.index, answer.label, answer.logit, answer.probability});
        const auto probabilities = floats_of(at::softmax(capture->output.detach().to(at::kFloat).reshape({-1}), 0));
        look.probabilities.assign(probabilities.begin(), probabilities.end());
    }
    const auto& flow = capture->flow;
    for (std::int64_t layer = 0; layer < flow.layers(); ++layer)
        if (const auto* step = flow.block(layer)) look.heads.push_back(step->mixing->heads);
    if (const auto* first = flow.block(0)) {
        const auto& layout = first->mixing->query_layout;
        look.prefix = layout.prefix;
        look.no_grid = layout.unknown;
        if (layout.known()) {
            look.grid_rows = layout.rows;
            look.grid_cols = layout.cols;
        }
    } else {
        look.no_grid = "this model has no attention layers";
    }
    look.run = capture;
    look.apart = reads_apart(*capture);
    look.steered = words_of_steering(model);
    at_hand.input = input;
    run->capture = std::move(capture);
    run->look = look;
    return look;
}

Result<Row> Reader::row(const Capture& run, Token token, std::int64_t layer, std::int64_t head) {
    const auto& flow = run.flow;
    const auto* step = flow.block(layer);
    if (!step) return fail(ErrorCode::BadInput, "there is no layer {}: the model has {}", layer, flow.layers());
    const auto& mixing = *step->mixing;
    if (head >= mixing.heads)
        return fail(ErrorCode::BadInput, "there is no head {} in layer {}: it has {}", head, layer, mixing.heads);
    const auto start = std::chrono::steady_clock::now();
    const auto all = VITRINE_TRY(read_by(flow, mixing, token));
    const auto chosen = head < 0 ? all.mean(0) : all.select(0, head);
    Row row;
    row.token = token;
    row.layer = layer;
    row.head = head;
    row.plane = VITRINE_TRY(on_patches(mixing, chosen));
    row.milliseconds = milliseconds_since(start);
    row.implementation = mixing.implementation();
    const auto& layout = mixing.key_layout;
    const auto first = floats_of(chosen.narrow(0, 0, layout.prefix_count()));
    for (std::size_t i = 0; i < first.size(); ++i) row.prefix.emplace_back(layout.prefix[i], first[i]);
    return row;
}

Result<Strip> Reader::strip(const Capture& run, Token token, std::stop_token stop) {
    const auto start = std::chrono::steady_clock::now();
    const auto& flow = run.flow;
    Strip strip;
    strip.token = token;
    for (std::int64_t layer = 0; layer < flow.layers(); ++layer) {
        if (stop.stop_requested()) return fail(ErrorCode::Cancelled, "stopped");
        const auto& mixing = *flow.block(layer)->mixing;
        const auto all = VITRINE_TRY(read_by(flow, mixing, token));
        auto& heads = strip.layers.emplace_back();
        for (std::int64_t head = 0; head < mixing.heads; ++head)
            heads.push_back(VITRINE_TRY(on_patches(mixing, all.select(0, head))));
    }
    strip.milliseconds = milliseconds_since(start);
    return strip;
}

std::string MapPiece::name_of(std::int64_t token, const std::vector<std::string>& names, std::int64_t cols) {
    const auto prefix = static_cast<std::int64_t>(names.size());
    if (token < prefix) return names[static_cast<std::size_t>(token)];
    if (cols <= 0) return fmt::format("token {}", token);
    return fmt::format("patch {}, {}", (token - prefix) / cols, (token - prefix) % cols);
}

Result<MapPiece> Reader::piece(const Capture& run, std::int64_t layer, std::int64_t head, std::int64_t q0,
                               std::int64_t q1, std::int64_t k0, std::int64_t k1, std::int64_t cells, bool largest) {
    const auto& flow = run.flow;
    const auto* step = flow.block(layer);
    if (!step) return fail(ErrorCode::BadInput, "there is no layer {}: the model has {}", layer, flow.layers());
    const auto& mixing = *step->mixing;
    if (head >= mixing.heads)
        return fail(ErrorCode::BadInput, "there is no head {} in layer {}: it has {}", head, layer, mixing.heads);
    MapPiece piece;
    piece.layer = layer;
    piece.head = head;
    piece.queries = mixing.queries;
    piece.keys = mixing.keys;
    piece.q0 = std::clamp<std::int64_t>(q0, 0, mixing.queries);
    piece.q1 = std::clamp<std::int64_t>(q1, 0, mixing.queries);
    piece.k0 = std::clamp<std::int64_t>(k0, 0, mixing.keys);
    piece.k1 = std::clamp<std::int64_t>(k1, 0, mixing.keys);
    if (piece.q0 >= piece.q1 || piece.k0 >= piece.k1 || cells < 1)
        return fail(ErrorCode::BadInput, "the piece [{}, {}) x [{}, {}) of a map of {} x {} is empty", q0, q1, k0, k1,
                    mixing.queries, mixing.keys);
    const auto start = std::chrono::steady_clock::now();
    const auto longest = std::max(piece.q1 - piece.q0, piece.k1 - piece.k0);
    piece.pool = (longest + cells - 1) / cells;
    std::vector<std::int64_t> chosen;
    if (head >= 0) chosen.push_back(head);
    piece.largest = largest;
    const auto heads = VITRINE_TRY(mixing.tile(chosen, piece.q0, piece.q1, piece.k0, piece.k1, piece.pool,
                                               largest ? Pooling::Max : Pooling::Mean));
    const auto tile = largest ? heads.amax(0) : heads.mean(0);
    piece.plane = make_plane(tile.size(0), tile.size(1), floats_of(tile), false, true);
    piece.milliseconds = milliseconds_since(start);
    piece.implementation = mixing.implementation();
    const auto describe = [](const TokenLayout& layout, std::vector<std::string>& names, std::int64_t& cols) {
        if (!layout.known()) return;
        names = layout.prefix;
        cols = layout.cols;
    };
    describe(mixing.query_layout, piece.query_names, piece.query_cols);
    describe(mixing.key_layout, piece.key_names, piece.key_cols);
    return piece;
}

Status Workbench::save_steered(const Steer& steer, const std::filesystem::path& file) {
    if (!steer.active()) return fail(ErrorCode::BadInput, "nothing is steered");
    const auto* run = VITRINE_TRY(run_of(steer));
    return guarded([&] { return vitrine::save_steered(*run->model, parts_->request, file); });
}

Result<SteerCurve> Workbench::steer_curve(const Steer& steer, std::int64_t number, double unit, std::stop_token stop,
                                          const Report& report) {
    auto& at_hand = *parts_;
    if (!at_hand.model || !at_hand.input) return fail(ErrorCode::NotFound, "the model has not run on a picture yet");
    return guarded([&]() -> Result<SteerCurve> {
        const auto autoencoder = VITRINE_TRY(at_hand.concepts.take(*at_hand.model, steer.source));
        SteerabilityOptions options;
        options.index = number;
        options.unit = unit;
        options.stop = std::move(stop);
        options.progress = [&](std::int64_t done, std::int64_t total) { report(done, total, "curves"); };
        const auto& largest = at_hand.concepts.largest();
        for (const float seen : largest) options.units.push_back(seen > 0 ? seen : unit);
        return curve_of(at_hand.model, *autoencoder, steer, at_hand.input->pixels, options);
    });
}

Result<std::vector<Finding>> Workbench::check(const Steer& steer, std::stop_token stop, const Report& report) {
    const auto* run = VITRINE_TRY(run_of(steer));
    if (!run->capture) return fail(ErrorCode::NotFound, "the model has not run on this picture yet");
    std::vector<Finding> findings;
    const auto& steps = run->capture->flow.steps;
    std::int64_t passed = 0;
    double output_error = 0, row_error = 0;
    for (std::size_t i = 0; i < steps.size(); ++i) {
        if (stop.stop_requested()) return fail(ErrorCode::Cancelled, "stopped");
        const auto found = VITRINE_TRY(steps[i].mixing->check());
        output_error = std::max(output_error, found.output_error);
        row_error = std::max(row_error, found.row_sum_error);
        if (found.passed)
            ++passed;
        else
            findings.push_back({steps[i].mixing->name, found.sentence, false});
        report(static_cast<std::int64_t>(i) + 1, static_cast<std::int64_t>(steps.size()), "layers");
    }
    if (!steps.empty()) {
        findings.insert(findings.begin(),
                        Finding{"replay",
                                fmt::format("{} of {} layers, output within {:.0e}, row sums within {:.0e}", passed,
                                            steps.size(), output_error, row_error),
                                passed == static_cast<std::int64_t>(steps.size())});
    }
    return findings;
}

Result<Explanation> Workbench::explain(const Wanted& wanted, std::stop_token stop, const Report& report,
                                       const Refined& refined, bool fresh) {
    const auto made = VITRINE_TRY(attribution(wanted, std::move(stop), report, refined, fresh));
    const auto* run = VITRINE_TRY(run_of(wanted.steer));
    auto facts = VITRINE_TRY(facts_of(*made, run->capture ? &run->capture->flow : nullptr));
    if (const auto words = words_of_steering(*run->model); !words.empty())
        facts.notes.insert(facts.notes.begin(), "steered: " + words);
    return facts;
}

bool Workbench::reads_other(const Wanted& wanted) {
    const auto asked = asked_of(wanted);
    return asked && asked->explainer->reads_other(asked->settings);
}

std::string Workbench::no_region(const Wanted& wanted) {
    const auto asked = asked_of(wanted);
    if (!asked || !asked->explainer->class_specific()) return {};
    return asked->explainer->no_region(asked->settings).value_or("");
}

Result<RegionFacts> Workbench::region_facts(std::stop_token stop) {
    if (!parts_->model) return fail(ErrorCode::NotFound, "there is no model yet: open one");
    auto& grid = parts_->region_grid;
    if (!grid) grid = VITRINE_TRY(region_grid(*parts_->model, {}, std::move(stop)));
    return RegionFacts{grid->rows, grid->cols, grid->point};
}

Result<Ground> Workbench::ground(const std::string& point, std::stop_token stop) {
    if (!parts_->model) return fail(ErrorCode::NotFound, "there is no model yet: open one");
    auto& model = *parts_->model;
    const auto grid = VITRINE_TRY(region_grid(model, point.empty() ? tcav_point(model) : point, std::move(stop)));
    return Ground{{grid.rows, grid.cols, grid.point}, seer(model.preprocess())};
}

Result<std::shared_ptr<const Made>> Workbench::attribution(const Wanted& wanted, std::stop_token stop,
                                                           const Report& report, const Refined& refined, bool fresh) {
    constexpr std::size_t kMostKept = 64;  // maps of input pixels with their channels are 0.8 MB each
    constexpr auto kBetween = std::chrono::milliseconds(150);
    if (!parts_->input || !parts_->model) return fail(ErrorCode::NotFound, "the model has not run on this picture yet");
    auto& model = *VITRINE_TRY(run_of(wanted.steer))->model;  // first: it drops maps of concepts that are others now
    auto& kept = parts_->made;
    const auto same = std::find_if(kept.begin(), kept.end(), [&](const auto& m) { return m->wanted == wanted; });
    if (same != kept.end() && !fresh) return *same;
    auto made = std::make_shared<Made>();
    made->wanted = wanted;
    auto asked = VITRINE_TRY(asked_of(wanted));
    made->explainer = std::move(asked.explainer);
    made->settings = std::move(asked.settings);
    const auto& explainer = *made->explainer;
    if (const auto reason = explainer.why_not(model)) return fail(ErrorCode::Unsupported, "{}", *reason);
    if (wanted.region && explainer.class_specific())
        if (const auto reason = explainer.no_region(made->settings))
            return fail(ErrorCode::Unsupported, "{} cannot explain a region: {}", explainer.description().title,
                        *reason);
    if (wanted.other.empty() && explainer.reads_other(made->settings))
        return fail(ErrorCode::Unsupported,
                    "{} compares with a second picture: choose one by Second picture\u2026 in the Explain panel",
                    explainer.description().title);
    if (wanted.other.empty() && !wanted.region && parts_->model->info().classes == 0 && explainer.class_specific())
        return fail(ErrorCode::Unsupported,
                    "this model has no classes to explain: choose a picture to be like by Second picture\u2026 in the "
                    "Explain panel, or draw a region");
    ExplainContext context = VITRINE_TRY(context_for(wanted, std::move(stop), report));
    const auto start = std::chrono::steady_clock::now();
    auto shown = start;
    if (refined)
        context.refined = [&](const Attribution& so_far) {
            const auto now = std::chrono::steady_clock::now();
            if (shown != start && now - shown < kBetween) return;
            shown = now;
            made->attribution = so_far;
            made->attribution.partial = true;
            made->milliseconds = milliseconds_since(start);
            if (auto facts = facts_of(*made, nullptr)) refined(std::move(*facts));
        };
    auto attribution = explainer.explain(context, made->settings);
    if (!attribution) return tl::unexpected(attribution.error());
    made->attribution = std::move(*attribution);
    made->milliseconds = milliseconds_since(start);
    std::erase_if(kept, [&](const auto& m) { return m->wanted == wanted; });
    if (kept.size() == kMostKept) kept.erase(kept.begin());
    kept.push_back(made);
    return std::shared_ptr<const Made>(made);
}

Result<ConceptBook> Workbench::concept_book(const ConceptSource& source) const {
    if (!parts_->model) return fail(ErrorCode::NotFound, "there is no model yet: open one");
    return open_book(*parts_->model, source);
}

Result<Plane> Workbench::concept_heat(const ConceptSource& source, std::int64_t latent,
                                      const std::filesystem::path& picture, std::stop_token stop) {
    if (!parts_->model) return fail(ErrorCode::NotFound, "there is no model yet: open one");
    return guarded([&]() -> Result<Plane> {
        auto& model = *parts_->model;
        const auto held = VITRINE_TRY(parts_->concepts.take(model, source));
        const auto& concepts = *held;
        if (latent < 0 || latent >= concepts.config().latents)
            return fail(ErrorCode::BadInput, "there is no concept {}", latent);
        const auto input = VITRINE_TRY(load_input(picture, model.preprocess()));
        const auto parameters = model.parameters();
        const auto type = parameters.empty() ? at::kFloat : parameters.front().second.scalar_type();
        const auto found =
            VITRINE_TRY(point_tokens(model, input.pixels.to(model.device(), type), concepts.config(), std::move(stop)));
        if (found.rows < 1 || concepts.config().tokens == "class")
            return fail(ErrorCode::Unsupported, "these concepts are read from no patches");
        const at::NoGradGuard no_grad;
        const at::Tensor patches =
            found.tokens[0]
                .narrow(0, static_cast<std::int64_t>(found.prefix.size()), found.rows * found.cols)
                .to(at::kFloat);
        const at::Tensor values = concept_strength(concepts, patches, concepts.encode(patches))
                                      .select(1, latent)
                                      .to(at::kCPU, at::kFloat)
                                      .contiguous();
        const auto* first = values.const_data_ptr<float>();
        return make_plane(found.rows, found.cols, {first, first + values.numel()}, false, false);
    });
}

Result<std::vector<std::string>> Workbench::mask_layers(const std::string& version) const {
    if (!parts_->model) return fail(ErrorCode::NotFound, "there is no model yet: open one");
    return guarded([&] { return vitrine::mask_layers(*parts_->model, version); });
}

Result<ConceptsFound> Workbench::concepts(const ConceptSource& source, std::stop_token stop) {
    if (!parts_->input || !parts_->model) return fail(ErrorCode::NotFound, "the model has not run on this picture yet");
    return guarded([&]() -> Result<ConceptsFound> {
        const auto autoencoder = VITRINE_TRY(parts_->concepts.take(*parts_->model, source));
        auto found = VITRINE_TRY(concepts_of(*parts_->model, parts_->input->pixels, *autoencoder, std::move(stop)));
        if (auto names = names_of(ConceptShelf::file_of(source), parts_->concepts.mark()))
            found.facts.names = std::move(*names);
        else
            found.facts.names_trouble = names.error().message;
        found.facts.largest = parts_->concepts.largest();
        return found;
    });
}

Result<ConceptLayers> Workbench::concept_layers(const ConceptSource& source, std::stop_token stop) {
    if (!parts_->input || !parts_->model) return fail(ErrorCode::NotFound, "the model has not run on this picture yet");
    return guarded([&]() -> Result<ConceptLayers> {
        const auto autoencoder = VITRINE_TRY(parts_->concepts.take(*parts_->model, source));
        return app::concept_layers(*parts_->model, parts_->input->pixels, *autoencoder,
                                   layers_like(parts_->model->points(), autoencoder->config().point), std::move(stop));
    });
}

std::string Workbench::own_layer() const { return parts_->model ? parts_->model->info().cam_point : std::string(); }

Result<ScoreFacts> Workbench::measure(const Wanted& wanted, const std::string& name, std::stop_token stop,
                                      const Report& report) {
    const auto score = VITRINE_TRY(score_of(wanted, name, {}, std::move(stop), report));
    return ScoreFacts{name, score.first.unit, score.first.value, score.first.notes, score.second};
}

Result<std::pair<Score, double>> Workbench::score_of(const Wanted& wanted, const std::string& name,
                                                     const MethodSettings& set, std::stop_token stop,
                                                     const Report& report) {
    const auto* measure = VITRINE_TRY(registry().measure(name));
    const auto made = VITRINE_TRY(attribution(wanted, stop, report, {}, false));
    if (const auto reason = measure->why_not(*VITRINE_TRY(run_of(wanted.steer))->model, *made->explainer))
        return fail(ErrorCode::Unsupported, "{}", *reason);
    Settings settings(measure->parameters());
    for (const auto& [setting, value] : set) VITRINE_CHECK(settings.set(setting, value));
    ExplainContext context = VITRINE_TRY(context_for(wanted, std::move(stop), report));
    const auto start = std::chrono::steady_clock::now();
    auto measured = measure->measure(context, {*made->explainer, made->settings, made->attribution}, settings);
    if (!measured) return tl::unexpected(measured.error());
    auto score = std::move(*measured);
    if (score.left_out) return fail(ErrorCode::Unsupported, "{}", *score.left_out);
    if (!std::isfinite(score.value)) return fail(ErrorCode::Unsupported, "the number is not finite");
    return std::pair{std::move(score), milliseconds_since(start)};
}

Result<ThroughFacts> Workbench::through(const Wanted& wanted, std::stop_token stop, const Report& report) {
    const auto made = VITRINE_TRY(attribution(wanted, stop, report, {}, false));
    ExplainContext context = VITRINE_TRY(context_for(wanted, std::move(stop), report));
    const auto start = std::chrono::steady_clock::now();
    auto looked = guarded([&] { return look_through(context, made->attribution, {100, 50, 15}); });
    if (!looked) return tl::unexpected(looked.error());
    ThroughFacts out;
    for (const auto& one : *looked) {
        out.explained = one.objective.explained;
        out.whole = one.whole;
        out.kept.push_back({one.keep, one.visible, one.seen,
                            view_of(std::make_shared<const Image>(image_of(one.pixels, parts_->model->preprocess())))});
    }
    out.milliseconds = milliseconds_since(start);
    return out;
}

Result<Finding> Workbench::check_randomisation(const Wanted& wanted, std::stop_token stop, const Report& report) {
    // Three shuffles tell a map that follows the weights from one that does not; ten are the measure's own default.
    const auto [score, took] =
        VITRINE_TRY(score_of(wanted, "parameter_randomisation", {{"seeds", "3"}}, std::move(stop), report));
    if (score.curve.size() < 2) return fail(ErrorCode::Internal, "the randomisation gave no course");
    // It begins with no layer broken, the map from another seed, and ends with all.
    const double own = score.curve.front(), broken = score.curve.back();
    return Finding{"randomisation",
                   fmt::format("likeness {:.2f} to the map with all weights shuffled, {:.2f} to its own from another "
                               "seed; 3 shuffles",
                               broken, own),
                   std::abs(broken) <= 0.5 * std::abs(own)};
}

std::vector<std::filesystem::path> Workbench::builtin_pictures() { return vitrine::builtin_pictures(); }

std::filesystem::path Workbench::own_concepts(const std::string& request) {
    return request == "starter" ? ConceptShelf::file_of({}) : std::filesystem::path();
}

bool Workbench::has_starter() {
    const auto folder = resource("starter");
    if (!folder) return false;
    std::error_code ignored;
    for (const auto& entry : std::filesystem::directory_iterator(*folder, ignored))
        if (entry.path().extension() == ".safetensors") return true;
    return false;
}

}  // namespace vitrine::app
