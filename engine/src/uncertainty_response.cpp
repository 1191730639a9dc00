// Runs pictures down the ladder and reads their concepts; foretells the answer's risk; suppresses what foretells it.
#include <vitrine/uncertainty_response.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cmath>
#include <limits>
#include <map>
#include <mutex>
#include <numeric>
#include <set>

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/full.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/topk.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <nlohmann/json.hpp>

#include <vitrine/base/random.h>
#include <vitrine/capture.h>
#include <vitrine/concept_doubt.h>
#include <vitrine/mask_module.h>
#include <vitrine/model_identity.h>
#include <vitrine/parameters_aside.h>
#include <vitrine/torch_errors.h>
#include <vitrine/train_concepts.h>

#include "dataset.h"
#include "statistics.h"

namespace vitrine {

namespace {

constexpr std::uint64_t kOrder = 0x70696373, kSets = 0x73657473, kMatch = 0x6D617463, kResample = 0x72657361;
constexpr std::int64_t kStrongest = 16, kRandomSets = 1000, kNoiseInputs = 64, kLikely = 10, kDecoded = 32,
                       kLiveResamples = 400;
constexpr const char* kEmbedding = "head_input";
constexpr const char *kPictures = "pictures", *kShuffledPictures = "pictures with shuffled weights";  // of a journal
constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

struct Kind {
    std::string name;
    std::int64_t from = 0, count = 0;  // among the tokens that the autoencoder reads
};
enum Figure : std::int64_t { kActive, kDistinct, kOverlap, kNorm, kFigures };

/// What some inputs say of one layer: rungs come first, kinds of tokens second.
struct Part {
    at::Tensor figures;                 // float64 [rungs, kinds, kFigures], host
    at::Tensor errors, squares, total;  // float64 [rungs, kinds], total [rungs, kinds, width], device
    // Of the sound model, over the tokens that speak for a concept:
    at::Tensor heard;           // float64 [noises, latents]: inputs
    at::Tensor member, square;  // float64 [latents]: sums over shuffles
    std::int64_t rungs = 0;     // that were read, the first first

    /// What a journal keeps of it.
    std::vector<at::Tensor> kept(bool judged) const {
        std::vector<at::Tensor> out{figures, errors, squares, total};
        if (judged) out.insert(out.end(), {heard, member, square});
        return out;
    }
};
/// The same of one seed, for each picture that is through: they are added one after the other.
struct Sums {
    std::vector<at::Tensor> figures;
    at::Tensor errors, squares, total;
};
/// One layer on one course down the ladder, with the sound model or with shuffled weights. Seeds are kept apart, so
/// that a course with more pictures or seeds adds up the same numbers in the same order.
struct Course {
    std::vector<std::vector<at::Tensor>> clean;  // of each picture and kind: bool [latents]
    Sums whole;                                  // the pictures as they are: one rung
    std::vector<Sums> seeds;                     // rungs that are drawn
    at::Tensor heard;                            // float64 [noises, latents]
    std::vector<at::Tensor> members, squares;    // of each picture: [latents]
};

/// Rows that are mostly zeros: eight bytes for each that is not.
struct SparseRows {
    std::int64_t rows = 0, columns = 0;
    at::Tensor counts, where, values;  // int64 [rows], int32 and float32 [n], on the host

    explicit SparseRows(const at::Tensor& dense) : rows(dense.size(0)), columns(dense.size(1)) {
        const at::Tensor on = dense.ne(0);
        counts = on.sum(1).to(at::kCPU);
        where = on.nonzero().select(1, 1).to(at::kCPU, at::kInt).contiguous();
        values = dense.masked_select(on).to(at::kCPU, at::kFloat).contiguous();
    }
    /// float32 [rows, columns]
    at::Tensor dense() const {
        const at::Tensor out = at::zeros({rows, columns});
        float* row = out.mutable_data_ptr<float>();
        const auto* count = counts.const_data_ptr<std::int64_t>();
        const auto* column = where.const_data_ptr<std::int32_t>();
        const auto* value = values.const_data_ptr<float>();
        for (std::int64_t r = 0; r < rows; ++r, row += columns)
            for (std::int64_t i = 0; i < count[r]; ++i) row[*column++] = *value++;
        return out;
    }
};

struct Layer {
    const Autoencoder* autoencoder = nullptr;
    LayerResponse out;
    std::int64_t from = 0, count = 0;  // tokens of the activation that are read
    std::vector<Kind> kinds;
    Kind over;
    const Autoencoder* control_by = nullptr;  // who reads shuffled weights
    Course sound, control;
    std::map<std::int64_t, Part> pending;  // of the picture that is read, by seed; -1: as it is
    std::map<std::int64_t, Part> through;  // those of it that are, for a journal
    // Of the reference:
    at::Tensor strength, strongest;  // [kStrongest, latents]
    at::Tensor frequency;            // float64 [latents]: pictures
    std::vector<SparseRows> codes;   // of the predictor's inputs
};

/// One input: which picture, at which rung, by which seed (-1: the picture as it is).
struct Wanted {
    std::int64_t picture = 0;
    std::size_t rung = 0;
    std::int64_t seed = 0;
};

}  // namespace

struct LadderMemory::Kept {
    struct Climb {
        std::string of;               // all that its figures hang on
        std::vector<Course> courses;  // of each layer
    };
    Climb sound, control;
};
LadderMemory::LadderMemory() : kept(std::make_unique<Kept>()) {}
LadderMemory::~LadderMemory() = default;

namespace {

/// Words and numbers of an autoencoder, as a hash.
std::string hash_of_autoencoder(const Autoencoder& one) {
    std::uint64_t out = hash_of(one.config().kind + one.config().point + one.config().tokens + one.config().normalise);
    for (const auto& [name, tensor] : one.tensors()) {
        const at::Tensor host = tensor.to(at::kCPU).contiguous();
        out = mix64(out ^ hash_of({static_cast<const char*>(host.const_data_ptr()), host.nbytes()}));
    }
    return fmt::format("{:016x} {} {}", out, one.config().k, one.config().scale);
}

std::optional<double> held_variance(const Autoencoder& one) {
    const auto held = one.facts.find("held");
    if (held == one.facts.end()) return {};
    const auto said = nlohmann::json::parse(held->second, nullptr, false);
    if (!said.is_object() || !said.contains("explained_variance") || !said["explained_variance"].is_number()) return {};
    return said["explained_variance"].get<double>();
}

class Response {
  public:
    Response(Model& model, const UncertaintyOptions& options) : model_(model), options_(options) {}
    Status prepare();
    Result<UncertaintyResponse> run();

  private:
    using Pixels = std::map<std::int64_t, at::Tensor>;  // by place in the reference

    Status prepare_layer(const std::string& name, const Autoencoder& autoencoder, const at::Tensor& pixels);
    Status prepare_control();
    std::vector<at::Tensor> load_readable(std::int64_t from, std::int64_t count);
    Result<Pixels> load(const std::set<std::int64_t>& pictures);
    Result<at::Tensor> pixels_of(const std::vector<Wanted>& wanted, const Pixels& pictures);
    Result<std::shared_ptr<const Capture>> seen(const at::Tensor& pixels, const std::vector<Edit>& edits = {});
    at::Tensor tokens_of(const Layer& layer, const at::Tensor& activation) const;
    Status advance(std::int64_t inputs, const char* unit = "inputs");
    std::int64_t drawn_rungs() const { return std::ssize(drawn_); }
    static const Course& course_of(const Layer& layer, bool control) { return control ? layer.control : layer.sound; }
    static Course& course_of(Layer& layer, bool control) { return control ? layer.control : layer.sound; }

    std::string key(bool control);
    void remember(LadderMemory::Kept::Climb& kept, bool control);
    void keep(LadderMemory::Kept::Climb& kept, bool control);
    Status climb(bool control);
    Status begin_journal();
    Result<bool> recall(std::int64_t picture, bool control);
    Status write_down(std::int64_t picture, bool control);
    std::vector<at::Tensor> picture_tensors(Layer& layer, std::int64_t picture, bool control);
    Part empty_part(const Layer& layer, bool clean) const;
    Status climb_picture(std::int64_t picture, const Pixels& there, bool control);
    void read_rungs(Layer& layer, const at::Tensor& activation, const std::vector<Wanted>& wanted, bool control);
    void add_rungs(Layer& layer, const at::Tensor& tokens, const at::Tensor& error, const at::Tensor& active,
                   const std::vector<Wanted>& wanted, std::size_t from, std::size_t to, bool control);
    void commit(std::int64_t seed, bool control);
    void tell(bool control, bool now);
    Status read_reference();
    void keep_strongest(Layer& layer, const at::Tensor& greatest, std::int64_t picture);
    const PictureResampling& resampling(std::int64_t pictures, bool live);
    void summarise(const Layer& layer, bool control, bool live, std::vector<RungFigures>& out);
    void find_insensitive(Layer& layer) const;
    std::vector<double> risk_of(const at::Tensor& output, const std::vector<Wanted>& wanted) const;
    Status foretell(Layer& layer);
    Status suppress(Layer& layer);
    Result<std::vector<double>> suppressed(const Layer& layer, const std::vector<std::int64_t>& inputs,
                                           const std::vector<std::int64_t>& latents);
    Estimate estimate(const std::vector<double>& values, const std::vector<std::int64_t>& pictures) const;

    Model& model_;
    const UncertaintyOptions& options_;
    UncertaintyResponse out_;
    std::vector<std::int64_t> order_;  // of the reference pictures, into options_.names
    std::vector<Layer> layers_;
    std::vector<std::size_t> noise_rungs_, drawn_;  // among the rungs
    std::map<std::pair<std::int64_t, bool>, PictureResampling> resampling_;
    std::chrono::steady_clock::time_point told_;
    std::vector<Wanted> asked_;  // the predictor's inputs, in the order of their codes
    std::vector<double> risk_;
    std::vector<at::Tensor> embeddings_;
    at::ScalarType dtype_ = at::kFloat;
    std::int64_t batch_ = 16, codes_at_once_ = std::int64_t{1} << 25, done_ = 0, planned_ = 0;
    bool foretells_ = false, shuffled_ = false;  // shuffled_: the control climbs
};

Status Response::advance(std::int64_t inputs, const char* unit) {
    if (options_.stop.stop_requested()) return fail(ErrorCode::Cancelled, "stopped");
    done_ += inputs;
    if (options_.progress) options_.progress({std::min(done_, planned_), planned_, unit});
    return {};
}

Status Response::prepare() {
    const auto known = [](const std::string& word, const std::vector<std::string>& words) {
        return std::find(words.begin(), words.end(), word) != words.end();
    };
    if (!known(options_.over, {"patches", "class", "all"}))
        return fail(ErrorCode::BadInput, "over is '{}', expected patches, class or all", options_.over);
    if (!known(options_.pool, {"mean", "max"}))
        return fail(ErrorCode::BadInput, "pool is '{}', expected mean or max", options_.pool);
    if (!known(options_.risk, {"none", "confidence", "label", "scores"}))
        return fail(ErrorCode::BadInput, "risk is '{}', expected confidence, label, scores or none", options_.risk);
    if (options_.risk == "scores" && options_.risk_on_ladder)
        return fail(ErrorCode::BadInput, "imported scores are of pictures as they are, not of rungs of the ladder");
    if (options_.pictures < 1 || options_.seeds < 1 || options_.resamples < 1)
        return fail(ErrorCode::BadInput,
                    "{} pictures, {} seeds and {} resamples are asked for, expected 1 or more of each",
                    options_.pictures, options_.seeds, options_.resamples);
    if (options_.autoencoders.empty()) return fail(ErrorCode::BadInput, "there is no autoencoder to read concepts by");
    const auto names = static_cast<std::int64_t>(options_.names.size());
    if (names == 0) return fail(ErrorCode::BadInput, "there are no pictures");
    const auto as_many = [&](std::size_t given) { return given == 0 || std::int64_t(given) == names; };
    if (!as_many(options_.labels.size()) || !as_many(options_.scores.size()))
        return fail(ErrorCode::BadInput, "{} pictures have {} labels and {} scores", names, options_.labels.size(),
                    options_.scores.size());
    const bool asks = options_.risk == "confidence" || options_.risk == "label";
    foretells_ = options_.risk != "none";
    if (asks && model_.info().classes == 0) {
        foretells_ = false;
        out_.notes.push_back(model_.info().name + " has no classes, so no risk of its answer is foretold");
    }
    out_.rungs = VITRINE_TRY(ladder_of(options_.ladder));
    for (std::size_t r = 0; r < out_.rungs.size(); ++r)
        if (out_.rungs[r].kind == Rung::Kind::Noise) noise_rungs_.push_back(r);
    for (std::size_t r = 0; r < out_.rungs.size(); ++r)
        if (!out_.rungs[r].is_clean()) drawn_.push_back(r);
    for (std::int64_t s = 0; s < options_.seeds; ++s) out_.seeds.push_back(options_.seed + std::uint64_t(s));

    const at::Device device = model_.device();
    if (const auto parameters = model_.parameters(); !parameters.empty())
        dtype_ = parameters.front().second.scalar_type();
    batch_ = options_.batch > 0 ? options_.batch : device.is_cuda() ? 128 : 4;
    if (device.is_cuda()) codes_at_once_ *= 8;

    // Pictures are drawn, so that a folder of class folders gives some of each class; those that cannot be read are
    // passed over.
    const auto wanted = std::min(std::max(options_.pictures, options_.reference), names);
    const auto drawn = ladder_order(names, options_.seed);
    at::Tensor first;
    for (const std::int64_t index : drawn) {
        if (std::ssize(order_) == wanted) break;
        if (first.defined()) {
            order_.push_back(index);
            continue;
        }
        auto pixels = options_.pixels(index);
        if (!pixels) {
            out_.skipped.push_back(options_.names[std::size_t(index)] + ": " + pixels.error().message);
            continue;
        }
        first = *pixels;
        order_.push_back(index);
    }
    const std::int64_t asked = std::ssize(order_) * (1 + (options_.risk_on_ladder ? drawn_rungs() : 0));
    if (foretells_ && asked > kMostRiskInputs)
        return fail(ErrorCode::BadInput, "risk is to be foretold of {} inputs, {} at the most; lower reference", asked,
                    kMostRiskInputs);
    if (!first.defined())
        return fail(ErrorCode::BadInput, "none of the {} pictures can be read: {}", names, out_.skipped.front());
    for (const auto& [name, autoencoder] : options_.autoencoders) {
        if (auto fits = prepare_layer(name, autoencoder, first); !fits)
            return tl::make_unexpected(std::move(fits).error().with_context(name));
    }
    return prepare_control();
}

/// Weights are shuffled by the ladder's seed, or as those were on which the control's own autoencoders were trained.
Status Response::prepare_control() {
    if (!options_.control) return {};
    if (!model_.is_native() || model_.parameters().empty()) {
        if (!options_.control_autoencoders.empty())
            return fail(ErrorCode::Unsupported, "the weights of {} cannot be shuffled: they cannot be reached",
                        model_.info().name);
        return {};
    }
    out_.shuffled_by = options_.seed;
    for (Layer& layer : layers_) layer.control_by = layer.autoencoder;
    const auto& own = options_.control_autoencoders;
    if (own.empty()) return {};
    if (own.size() != layers_.size())
        return fail(ErrorCode::BadInput, "{} autoencoders have {} for the control, expected one for each",
                    layers_.size(), own.size());
    std::optional<std::uint64_t> by;
    for (std::size_t l = 0; l < own.size(); ++l) {
        const auto& [name, one] = own[l];
        const AutoencoderConfig &config = one.config(), &sound = layers_[l].autoencoder->config();
        const auto said = one.facts.find("shuffled_weights");
        std::uint64_t seed = 0;
        if (said == one.facts.end() ||
            std::from_chars(said->second.data(), said->second.data() + said->second.size(), seed).ec != std::errc())
            return fail(ErrorCode::BadInput,
                        "{} was not trained on shuffled weights; the control needs one of vitrine train-concepts with "
                        "--set shuffled_weights={}",
                        name, options_.seed);
        if (by && *by != seed)
            return fail(ErrorCode::BadInput, "{} was trained on weights shuffled by seed {}, {} by seed {}", name, seed,
                        own.front().first, *by);
        by = seed;
        if (config.point != sound.point || config.tokens != sound.tokens)
            return fail(ErrorCode::BadInput, "{} reads {} ({}), expected {} ({}) as {}", name, config.point,
                        config.tokens, sound.point, sound.tokens, layers_[l].out.name);
        if (config.width != sound.width)
            return fail(ErrorCode::BadInput, "{} reads tokens of {} numbers, expected {}", name, config.width,
                        sound.width);
        if (one.tensor("W_dec").device() != model_.device())
            return fail(ErrorCode::BadInput, "the autoencoder is on {}, the model on {}",
                        one.tensor("W_dec").device().str(), model_.device().str());
    }
    out_.shuffled_by = by;
    ParametersAside aside(model_);
    aside.shuffle_all(*by);
    const std::string now = dtype_ == at::kHalf ? std::string() : weights_hash(model_);
    for (std::size_t l = 0; l < own.size(); ++l) {
        const auto& [name, one] = own[l];
        const auto trained = one.facts.find("weights");
        if (trained == one.facts.end() || (!now.empty() && trained->second != now))
            return fail(ErrorCode::BadInput,
                        "{} was trained on other shuffled weights than those of {} by seed {}; train it on this model "
                        "with --set shuffled_weights={}",
                        name, model_.info().name, *by, *by);
        const auto steering = one.facts.find("steering");
        if ((steering == one.facts.end() ? std::string() : steering->second) != steering_identity(model_))
            return fail(ErrorCode::BadInput,
                        "{} was trained while other concepts of {} were steered than now, or none; train it on this "
                        "model with --set shuffled_weights={}",
                        name, model_.info().name, *by);
        Layer& layer = layers_[l];
        layer.control_by = &one;
        layer.out.control_name = name;
        layer.out.control_held = held_variance(one);
        if (const auto seen = one.facts.find("tokens_seen"); seen != one.facts.end())
            layer.out.control_tokens_seen = seen->second;
    }
    return {};
}

Status Response::prepare_layer(const std::string& name, const Autoencoder& autoencoder, const at::Tensor& pixels) {
    const AutoencoderConfig& config = autoencoder.config();
    const at::Device device = model_.device();
    VITRINE_CHECK(autoencoder.fits_weights(model_));
    if (autoencoder.tensor("W_dec").device() != device)
        return fail(ErrorCode::BadInput, "the autoencoder is on {}, the model on {}",
                    autoencoder.tensor("W_dec").device().str(), device.str());
    auto tokens = point_tokens(model_, pixels.to(device, dtype_), config, options_.stop);
    if (!tokens && tokens.error().code != ErrorCode::Cancelled)
        return tl::make_unexpected(std::move(tokens.error()).with_context(name));
    const PointTokens point = VITRINE_TRY(std::move(tokens));
    Layer layer;
    layer.autoencoder = &autoencoder;
    LayerResponse& out = layer.out;
    out.name = name;
    out.point = config.point;
    out.kind = config.kind;
    out.read = config.tokens;
    out.latents = config.latents;
    if (const auto seen = autoencoder.facts.find("tokens_seen"); seen != autoencoder.facts.end())
        out.tokens_seen = seen->second;
    if (const auto rung = autoencoder.facts.find("rung"); rung != autoencoder.facts.end())
        out.trained_at = rung->second;
    out.held = held_variance(autoencoder);

    const std::int64_t prefix = std::ssize(point.prefix), patches = point.rows * point.cols;
    const bool has_class = prefix > 0 && point.prefix.front() == "cls";
    layer.count = point.tokens.size(1);
    if (config.tokens == "class") {
        layer.count = 1;
        layer.kinds = {{"class", 0, 1}};
    } else if (config.tokens == "patches") {
        layer.from = prefix;
        layer.count = patches;
        layer.kinds = {{"patches", 0, patches}};
    } else if (patches == 0) {
        layer.kinds = {{"tokens", 0, layer.count}};
    } else {
        if (has_class) layer.kinds.push_back({"class", 0, 1});
        if (prefix > has_class) layer.kinds.push_back({"registers", has_class, prefix - has_class});
        layer.kinds.push_back({"patches", prefix, patches});
    }
    layer.over = {"all", 0, layer.count};
    for (const Kind& kind : layer.kinds)
        if (kind.name == options_.over || layer.kinds.size() == 1) layer.over = kind;
    out.over = layer.over.name;
    if (out.over != options_.over)
        out.notes.push_back(fmt::format("concepts are judged over the tokens that are read: {}", out.over));
    if (config.kind == "top_k")
        out.notes.push_back(
            fmt::format("this autoencoder gives every token its {} strongest concepts, whatever the token is, so the "
                        "number of active concepts a token cannot rise; read the distinct concepts an input instead",
                        config.k));
    if (config.kind == "k_means")
        out.notes.emplace_back(
            "this dictionary gives every token one concept, whatever the token is, so the number of active concepts a "
            "token cannot rise; read the distinct concepts an input instead");
    if (config.kind == "pca")
        out.notes.emplace_back("this dictionary writes every token by all of its concepts: their number says nothing");
    if (std::string doubt = doubt_of(autoencoder, model_); !doubt.empty()) out.notes.push_back(std::move(doubt));
    layers_.push_back(std::move(layer));
    return {};
}

/// Those of the next pictures that can be read; the others are no part of the reference.
std::vector<at::Tensor> Response::load_readable(std::int64_t from, std::int64_t count) {
    std::vector<std::optional<Result<at::Tensor>>> found(static_cast<std::size_t>(count));
    at::parallel_for(0, count, 1, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i)
            found[std::size_t(i)] = options_.pixels(order_[std::size_t(from + i)]);
    });
    std::vector<at::Tensor> out;
    std::vector<std::int64_t> kept;
    const auto first = order_.begin() + from;
    for (std::size_t i = 0; i < found.size(); ++i) {
        const std::int64_t index = first[std::ptrdiff_t(i)];
        if (*found[i]) {
            out.push_back(std::move(**found[i]));
            kept.push_back(index);
        } else {
            out_.skipped.push_back(options_.names[std::size_t(index)] + ": " + found[i]->error().message);
        }
    }
    order_.erase(std::copy(kept.begin(), kept.end(), first), first + count);
    return out;
}

/// Pictures that were read before, by their places in the reference.
Result<Response::Pixels> Response::load(const std::set<std::int64_t>& pictures) {
    const std::vector<std::int64_t> each(pictures.begin(), pictures.end());
    std::vector<std::optional<Result<at::Tensor>>> found(each.size());
    at::parallel_for(0, std::ssize(each), 1, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i)
            found[std::size_t(i)] = options_.pixels(order_[std::size_t(each[std::size_t(i)])]);
    });
    Pixels out;
    for (std::size_t i = 0; i < each.size(); ++i) out[each[i]] = VITRINE_TRY(std::move(*found[i]));
    return out;
}

Result<at::Tensor> Response::pixels_of(const std::vector<Wanted>& wanted, const Pixels& pictures) {
    std::vector<at::Tensor> made(wanted.size());
    std::mutex guard;
    std::optional<Error> failed;
    // Each has a generator of its own, so that threads change nothing.
    at::parallel_for(0, std::ssize(wanted), 1, [&](std::int64_t begin, std::int64_t end) {
        const at::NoGradGuard no_grad;
        for (std::int64_t i = begin; i < end; ++i) {
            const Wanted& one = wanted[std::size_t(i)];
            auto pixels = rung_pixels(out_.rungs[one.rung], pictures.at(one.picture), model_.preprocess(),
                                      out_.seeds[std::size_t(std::max<std::int64_t>(one.seed, 0))],
                                      options_.names[std::size_t(order_[std::size_t(one.picture)])]);
            if (pixels) {
                made[std::size_t(i)] = std::move(*pixels);
                continue;
            }
            const std::lock_guard lock(guard);
            failed = pixels.error();
        }
    });
    if (failed) return tl::make_unexpected(*failed);
    return at::cat(made).to(model_.device(), dtype_);
}

Result<std::shared_ptr<const Capture>> Response::seen(const at::Tensor& pixels, const std::vector<Edit>& edits) {
    CaptureOptions options;
    options.mixings = false;
    options.edits = edits;
    options.stop = options_.stop;
    if (edits.empty()) {
        std::set<std::string> points;
        for (const Layer& layer : layers_) points.insert(layer.out.point);
        for (const NamedPoint& point : model_.points())
            if (point.name == kEmbedding) points.insert(kEmbedding);
        options.points.assign(points.begin(), points.end());
    }
    return run_captured(model_, pixels, options);
}

/// [inputs, tokens, width]
at::Tensor Response::tokens_of(const Layer& layer, const at::Tensor& activation) const {
    const at::Tensor all = activation.dim() == 4 ? activation.flatten(2).transpose(1, 2) : activation;
    return all.narrow(1, layer.from, layer.count).to(at::kFloat);
}

/// Inputs of one picture, whose seeds follow each other.
void Response::read_rungs(Layer& layer, const at::Tensor& activation, const std::vector<Wanted>& wanted, bool control) {
    const Autoencoder& by = control ? *layer.control_by : *layer.autoencoder;
    const at::Tensor all = tokens_of(layer, activation);
    const std::int64_t tokens = all.size(1), width = all.size(2), latents = by.config().latents;
    const std::int64_t piece = std::max<std::int64_t>(1, codes_at_once_ / (tokens * latents));
    for (std::int64_t begin = 0; begin < all.size(0); begin += piece) {
        const std::int64_t count = std::min(piece, all.size(0) - begin);
        const at::Tensor x = all.narrow(0, begin, count);
        const at::Tensor flat = x.reshape({-1, width});
        const Codes codes = by.encode(flat);
        const at::Tensor error = (by.decode(codes.active, codes) - flat).view(x.sizes());
        const at::Tensor active = codes.active.view({count, tokens, latents});
        for (std::int64_t i = 0; i < count;) {
            std::int64_t n = 1;
            while (i + n < count && wanted[std::size_t(begin + i + n)].seed == wanted[std::size_t(begin + i)].seed) ++n;
            add_rungs(layer, x.narrow(0, i, n), error.narrow(0, i, n), active.narrow(0, i, n), wanted,
                      std::size_t(begin + i), std::size_t(begin + i + n), control);
            i += n;
        }
    }
}

Part Response::empty_part(const Layer& layer, bool clean) const {
    const auto here = at::TensorOptions().device(model_.device()).dtype(at::kDouble);
    const std::int64_t rungs = clean ? 1 : drawn_rungs(), kinds = std::ssize(layer.kinds);
    const AutoencoderConfig& config = layer.autoencoder->config();
    Part out;
    out.figures = at::zeros({rungs, kinds, kFigures}, at::kDouble);
    out.errors = at::zeros({rungs, kinds}, here);
    out.squares = at::zeros({rungs, kinds}, here);
    out.total = at::zeros({rungs, kinds, config.width}, here);
    out.heard = at::zeros({std::ssize(noise_rungs_), config.latents}, here);
    out.member = at::zeros({config.latents}, here);
    out.square = at::zeros({config.latents}, here);
    return out;
}

/// wanted[from] to wanted[to - 1]: neighbouring rungs of one seed.
void Response::add_rungs(Layer& layer, const at::Tensor& x, const at::Tensor& error, const at::Tensor& active,
                         const std::vector<Wanted>& wanted, std::size_t from, std::size_t to, bool control) {
    const Wanted& first = wanted[from];
    const bool clean = first.seed < 0;
    const std::int64_t kinds = std::ssize(layer.kinds), count = x.size(0);
    Course& course = course_of(layer, control);
    Part& part = layer.pending[first.seed];
    if (!part.figures.defined()) part = empty_part(layer, clean);
    if (clean && std::ssize(course.clean) <= first.picture) course.clean.resize(std::size_t(first.picture) + 1);
    auto& alone = course.clean[std::size_t(first.picture)];
    const at::Tensor on = active.ne(0);
    std::vector<at::Tensor> figures;
    for (std::int64_t k = 0; k < kinds; ++k) {
        const Kind& kind = layer.kinds[std::size_t(k)];
        const at::Tensor heard = on.narrow(1, kind.from, kind.count), any = heard.any(1);
        if (clean) {
            if (k == 0) alone.clear();
            alone.push_back(any[0].clone());
        }
        const at::Tensor either = any.logical_or(alone[std::size_t(k)]).sum(1).to(at::kDouble),
                         both = any.logical_and(alone[std::size_t(k)]).sum(1).to(at::kDouble);
        const at::Tensor some = x.narrow(1, kind.from, kind.count), wrong = error.narrow(1, kind.from, kind.count);
        figures.push_back(at::stack(
            {heard.sum(at::IntArrayRef{1, 2}).to(at::kDouble) / double(kind.count), any.sum(1).to(at::kDouble),
             // Where nothing is heard in either, nothing differs.
             at::where(either > 0, both / either.clamp_min(1), at::ones_like(either)),
             at::linalg_vector_norm(some, 2, at::IntArrayRef{2}).mean(1).to(at::kDouble)},
            1));
        const auto put = [&](at::Tensor& to, const at::Tensor& what) {
            to.select(1, k).narrow(0, part.rungs, count).copy_(what);
        };
        put(part.errors, wrong.square().sum(at::IntArrayRef{1, 2}, false, at::kDouble));
        put(part.squares, some.square().sum(at::IntArrayRef{1, 2}, false, at::kDouble));
        put(part.total, some.sum(1, false, at::kDouble));
    }
    part.figures.narrow(0, part.rungs, count).copy_(at::stack(figures, 1));
    part.rungs += count;
    if (control || clean) return;
    const at::Tensor judged = active.narrow(1, layer.over.from, layer.over.count);
    for (std::size_t i = from; i < to; ++i) {
        const at::Tensor one = judged[std::int64_t(i - from)];
        for (std::size_t n = 0; n < noise_rungs_.size(); ++n)
            if (noise_rungs_[n] == wanted[i].rung) part.heard[std::int64_t(n)] += one.ne(0).any(0);
        if (out_.rungs[wanted[i].rung].kind != Rung::Kind::Shuffle) continue;
        const at::Tensor mean = one.mean(0).to(at::kDouble);
        part.member += mean;
        part.square += mean.square();
    }
}

/// A seed of the picture that is read is through, or (-1) the picture as it is.
void Response::commit(std::int64_t seed, bool control) {
    for (Layer& layer : layers_) {
        Course& course = course_of(layer, control);
        const Part part = std::move(layer.pending.at(seed));
        layer.pending.erase(seed);
        if (options_.journal != nullptr) layer.through[seed] = part;
        if (seed >= std::ssize(course.seeds)) course.seeds.resize(std::size_t(seed) + 1);
        Sums& sums = seed < 0 ? course.whole : course.seeds[std::size_t(seed)];
        const auto picture = sums.figures.size();
        sums.figures.push_back(part.figures);
        if (!sums.errors.defined()) {
            sums.errors = at::zeros_like(part.errors);
            sums.squares = at::zeros_like(part.squares);
            sums.total = at::zeros_like(part.total);
        }
        sums.errors += part.errors;
        sums.squares += part.squares;
        sums.total += part.total;
        if (seed < 0 || control) continue;
        if (!course.heard.defined()) course.heard = at::zeros_like(part.heard);
        course.heard += part.heard;
        if (course.members.size() <= picture) {
            course.members.push_back(at::zeros_like(part.member));
            course.squares.push_back(at::zeros_like(part.square));
        }
        course.members[picture] += part.member;
        course.squares[picture] += part.square;
    }
}

Status Response::begin_journal() {
    std::map<std::string, std::string> made_with{{"batch", std::to_string(batch_)}};
    std::vector<std::string> parts{kPictures};
    for (const Layer& layer : layers_)
        made_with["the autoencoder " + layer.out.name] = hash_of_autoencoder(*layer.autoencoder);
    if (out_.shuffled_by) {
        parts.emplace_back(kShuffledPictures);
        made_with["weights shuffled by seed"] = std::to_string(*out_.shuffled_by);
        for (const Layer& layer : layers_)
            if (layer.control_by != layer.autoencoder)
                made_with["the autoencoder " + layer.out.control_name] = hash_of_autoencoder(*layer.control_by);
    }
    return options_.journal->begin(made_with, parts, std::min(options_.pictures, std::ssize(order_)));
}

/// All that is kept of a picture that is through or, with empty parts, is about to be recalled. What is only ever added
/// up over seeds stands at the first one.
std::vector<at::Tensor> Response::picture_tensors(Layer& layer, std::int64_t picture, bool control) {
    std::vector<at::Tensor> out = course_of(layer, control).clean[std::size_t(picture)];
    for (const auto& [seed, part] : layer.through) {
        const auto some = part.kept(seed == 0 && !control);
        out.insert(out.end(), some.begin(), some.end());
    }
    return out;
}

Status Response::write_down(std::int64_t picture, bool control) {
    std::string bytes;
    for (Layer& layer : layers_) {
        for (auto& [seed, part] : layer.through) {
            if (seed < 1 || control) continue;
            Part& first = layer.through.at(0);
            first.heard += part.heard;
            first.member += part.member;
            first.square += part.square;
        }
        for (const at::Tensor& one : picture_tensors(layer, picture, control)) {
            const at::Tensor host = one.to(at::kCPU).contiguous();
            bytes.append(static_cast<const char*>(host.const_data_ptr()), host.nbytes());
        }
        layer.through.clear();
    }
    return options_.journal->keep(order_[std::size_t(picture)], control ? kShuffledPictures : kPictures, bytes);
}

/// A picture that an earlier run was through with, added up as if it had been read now. False where there is none.
Result<bool> Response::recall(std::int64_t picture, bool control) {
    const auto found =
        VITRINE_TRY(options_.journal->found(order_[std::size_t(picture)], control ? kShuffledPictures : kPictures));
    if (!found) return false;
    const std::int64_t seeds = drawn_.empty() ? 0 : options_.seeds;
    std::size_t at_ = 0;
    bool whole = true;
    for (Layer& layer : layers_) {
        const std::int64_t latents = (control ? *layer.control_by : *layer.autoencoder).config().latents;
        auto& clean = course_of(layer, control).clean;
        clean.resize(std::max(clean.size(), std::size_t(picture) + 1));
        clean[std::size_t(picture)].assign(
            layer.kinds.size(), at::zeros({latents}, at::TensorOptions().device(model_.device()).dtype(at::kBool)));
        for (at::Tensor& one : clean[std::size_t(picture)]) one = one.clone();
        for (std::int64_t seed = -1; seed < seeds; ++seed) layer.through[seed] = empty_part(layer, seed < 0);
        for (const at::Tensor& one : picture_tensors(layer, picture, control)) {
            // Any byte but 0 is a yes, whatever stands in the file.
            const at::Tensor host = at::empty_like(one, at::TensorOptions().device(at::kCPU).dtype(
                                                            one.scalar_type() == at::kBool ? at::kByte : at::kDouble));
            whole = whole && host.nbytes() <= found->size() - at_;
            if (!whole) break;
            std::copy_n(found->data() + at_, host.nbytes(), static_cast<char*>(host.mutable_data_ptr()));
            at_ += host.nbytes();
            at::Tensor(one).copy_(host);
        }
        layer.pending = std::move(layer.through);
        layer.through.clear();
    }
    if (!whole || at_ != found->size())
        return fail(ErrorCode::BadInput,
                    "what was kept of {} is {} bytes long, and this ladder's is of another length; take another file",
                    options_.names[std::size_t(order_[std::size_t(picture)])], found->size());
    for (std::int64_t seed = -1; seed < seeds; ++seed) commit(seed, control);
    for (Layer& layer : layers_) layer.through.clear();
    return true;
}

/// What of this picture was not read before: as it is, then by each seed rung after rung. On the CPU no run of the
/// model holds inputs of two seeds, so that more seeds change none of the runs before.
Status Response::climb_picture(std::int64_t picture, const Pixels& there, bool control) {
    const Course& course = course_of(layers_.front(), control);
    const bool anew = std::ssize(course.whole.figures) <= picture && options_.journal != nullptr;
    if (anew && VITRINE_TRY(recall(picture, control))) {
        tell(control, false);
        return advance(1 + drawn_rungs() * options_.seeds);
    }
    for (Layer& layer : layers_) layer.through.clear();
    const auto through = [&](std::int64_t seed) {
        return seed < std::ssize(course.seeds) && std::ssize(course.seeds[std::size_t(seed)].figures) > picture;
    };
    const std::int64_t together =
        model_.device().is_cuda() ? std::max<std::int64_t>(1, batch_ / std::max<std::int64_t>(1, drawn_rungs())) : 1;
    std::vector<std::vector<Wanted>> runs;
    if (std::ssize(course.whole.figures) <= picture) runs.push_back({{picture, 0, -1}});
    for (std::int64_t begin = 0; begin < options_.seeds; begin += together) {
        std::vector<Wanted> wanted;
        for (std::int64_t s = begin; s < std::min(options_.seeds, begin + together); ++s)
            for (const std::size_t r : drawn_)
                if (!through(s)) wanted.push_back({picture, r, s});
        for (std::size_t from = 0; from < wanted.size(); from += std::size_t(batch_)) {
            const auto at_ = wanted.begin() + std::ptrdiff_t(from);
            runs.emplace_back(at_,
                              wanted.begin() + std::ptrdiff_t(std::min(from + std::size_t(batch_), wanted.size())));
        }
    }
    for (const std::vector<Wanted>& some : runs) {
        const auto run = VITRINE_TRY(seen(VITRINE_TRY(pixels_of(some, there))));
        for (Layer& layer : layers_) read_rungs(layer, run->points.at(layer.out.point), some, control);
        for (const Wanted& one : some)
            if (one.seed < 0 || one.rung == drawn_.back()) commit(one.seed, control);
        VITRINE_CHECK(advance(std::ssize(some)));
        if (options_.place)
            options_.place({control, picture + 1, std::min(options_.pictures, std::ssize(order_)),
                            std::max<std::int64_t>(some.back().seed + 1, 1), options_.seeds,
                            out_.rungs[some.back().rung].name()});
        tell(control, false);
    }
    return anew ? write_down(picture, control) : Status{};
}

Status Response::climb(bool control) {
    for (Layer& layer : layers_) layer.pending.clear();
    shuffled_ = control;
    const auto climb_all = [&]() -> Status {
        Pixels there;
        for (std::int64_t picture = 0; picture < std::min(options_.pictures, std::ssize(order_));) {
            there.clear();
            const std::int64_t next = std::min(kDecoded, std::min(options_.pictures, std::ssize(order_)) - picture);
            const std::vector<at::Tensor> decoded = load_readable(picture, next);
            for (std::size_t i = 0; i < decoded.size(); ++i) there[picture + std::int64_t(i)] = decoded[i];
            for (std::size_t i = 0; i < decoded.size(); ++i, ++picture)
                VITRINE_CHECK(climb_picture(picture, there, control));
        }
        out_.climbed = std::min(options_.pictures, std::ssize(order_));
        return {};
    };
    Status done = climb_all();
    tell(control, true);
    return done;
}

/// All that the figures of a climb hang on, but for how many pictures and seeds there are.
std::string Response::key(bool control) {
    std::string out = fmt::format("{} {} {} {} {} {}", options_.memory->stamp, options_.seed, options_.over, batch_,
                                  model_.device().str(), static_cast<int>(dtype_));
    if (control) out += fmt::format(" shuffled by {}", *out_.shuffled_by);
    for (const Rung& rung : out_.rungs) out += fmt::format(" {} {}", rung.name(), rung.share);
    out += fmt::format(" {}", options_.ladder.blend_noise);
    std::uint64_t names = 0;
    for (const std::string& name : options_.names) names = mix64(names ^ hash_of(name));
    out += fmt::format(" {} ", names) + model_identity(model_);
    for (const Layer& layer : layers_)
        out += fmt::format(" {}", hash_of_autoencoder(control ? *layer.control_by : *layer.autoencoder));
    return out;
}

void Response::remember(LadderMemory::Kept::Climb& kept, bool control) {
    const LadderMemory::Kept::Climb before = std::move(kept);
    kept = {key(control), {}};
    if (before.of != kept.of || before.courses.size() != layers_.size()) return;
    const Course& first = before.courses.front();
    const auto most = std::min(options_.pictures, std::ssize(order_));
    if (std::ssize(first.whole.figures) > most || std::ssize(first.seeds) > options_.seeds) return;
    for (std::size_t l = 0; l < layers_.size(); ++l) course_of(layers_[l], control) = before.courses[l];
    done_ += std::ssize(first.whole.figures);
    for (const Sums& one : first.seeds) done_ += std::ssize(one.figures) * drawn_rungs();
}

void Response::keep(LadderMemory::Kept::Climb& kept, bool control) {
    for (const Layer& layer : layers_) kept.courses.push_back(course_of(layer, control));
}

/// What is known by now, for people who look on.
void Response::tell(bool control, bool now) {
    if (!options_.so_far) return;
    const auto at_ = std::chrono::steady_clock::now();
    if (!now && std::chrono::duration<double>(at_ - told_).count() < options_.so_far_seconds) return;
    UncertaintyResponse out = out_;
    out.climbed = std::ssize(layers_.front().sound.whole.figures);
    out.inputs = done_;
    for (Layer& layer : layers_) {
        LayerResponse one = layer.out;
        summarise(layer, false, true, one.rungs);
        if (control) summarise(layer, true, true, one.control);
        out.layers.push_back(std::move(one));
    }
    options_.so_far(out);
    told_ = std::chrono::steady_clock::now();
}

const PictureResampling& Response::resampling(std::int64_t pictures, bool live) {
    const std::pair key{pictures, live};
    if (const auto found = resampling_.find(key); found != resampling_.end()) return found->second;
    std::erase_if(resampling_, [&](const auto& one) { return one.first.first < pictures - 1; });
    return resampling_
        .try_emplace(key, pictures, live ? std::min(options_.resamples, kLiveResamples) : options_.resamples,
                     random_bits(options_.seed, kResample, 0))
        .first->second;
}

void Response::summarise(const Layer& layer, bool control, bool live, std::vector<RungFigures>& out) {
    const Course& course = course_of(layer, control);
    const std::int64_t rungs = std::ssize(out_.rungs), kinds = std::ssize(layer.kinds), drawn = drawn_rungs(),
                       width = layer.autoencoder->config().width;
    // What is under way is of the course that climbs.
    const bool under_way = live && control == shuffled_;
    const Part* alone = nullptr;
    if (const auto one = layer.pending.find(-1); under_way && one != layer.pending.end()) alone = &one->second;
    const std::int64_t pictures = std::ssize(course.whole.figures) + (alone != nullptr);
    at::Tensor figures = at::zeros({pictures, rungs, kinds, kFigures}, at::kDouble);  // sums over seeds
    at::Tensor counts = at::zeros({pictures, rungs}, at::kDouble);
    const auto here = at::TensorOptions().device(model_.device()).dtype(at::kDouble);
    at::Tensor errors = at::zeros({rungs, kinds}, here), squares = at::zeros({rungs, kinds}, here),
               total = at::zeros({rungs, kinds, width}, here);
    // One tile and no noise are the clean picture: what was found there holds.
    std::vector<std::int64_t> clean;
    for (std::int64_t r = 0; r < rungs; ++r)
        if (out_.rungs[std::size_t(r)].is_clean()) clean.push_back(r);
    const auto add = [&](const std::vector<std::int64_t>& to, std::int64_t picture, const at::Tensor& of_rungs) {
        const at::Tensor where = at::tensor(to, at::kLong);
        figures[picture].index_add_(0, where, of_rungs);
        counts[picture].index_add_(0, where, at::ones_like(where, at::kDouble));
    };
    const auto add_sums = [&](const std::vector<std::int64_t>& to, const auto& sums, std::int64_t n) {
        const at::Tensor where = at::tensor(to, at::kLong).to(model_.device());
        errors.index_add_(0, where, sums.errors.narrow(0, 0, n));
        squares.index_add_(0, where, sums.squares.narrow(0, 0, n));
        total.index_add_(0, where, sums.total.narrow(0, 0, n));
    };
    std::vector<std::int64_t> all_drawn(drawn_.begin(), drawn_.end());
    for (const std::int64_t r : clean) {
        for (std::size_t p = 0; p < course.whole.figures.size(); ++p)
            add({r}, std::int64_t(p), course.whole.figures[p]);
        if (!course.whole.figures.empty()) add_sums({r}, course.whole, 1);
        if (alone == nullptr) continue;
        add({r}, pictures - 1, alone->figures);
        add_sums({r}, *alone, 1);
    }
    for (const Sums& sums : course.seeds) {
        for (std::size_t p = 0; p < sums.figures.size(); ++p) add(all_drawn, std::int64_t(p), sums.figures[p]);
        if (!sums.figures.empty()) add_sums(all_drawn, sums, drawn);
    }
    for (const auto& [seed, part] : layer.pending) {
        if (!under_way || seed < 0 || part.rungs == 0) continue;
        const std::int64_t picture =
            seed < std::ssize(course.seeds) ? std::ssize(course.seeds[std::size_t(seed)].figures) : 0;
        const std::vector<std::int64_t> some(all_drawn.begin(), all_drawn.begin() + part.rungs);
        add(some, picture, part.figures.narrow(0, 0, part.rungs));
        add_sums(some, part, part.rungs);
    }

    const at::Tensor means = figures / counts.clamp_min(1).view({pictures, rungs, 1, 1});
    const at::Tensor inputs = counts.sum(0);
    at::Tensor kind_counts = at::zeros({kinds}, at::kDouble);
    for (std::int64_t k = 0; k < kinds; ++k) kind_counts[k] = double(layer.kinds[std::size_t(k)].count);
    const at::Tensor tokens = inputs.unsqueeze(1) * kind_counts;
    const at::Tensor spread = squares.to(at::kCPU) - total.square().sum(2).to(at::kCPU) / tokens.clamp_min(1);
    const at::Tensor left = errors.to(at::kCPU);
    out.resize(std::size_t(rungs * kinds));
    // Pictures come one after the other, so that a rung was read of the first few.
    const at::Tensor known = counts.gt(0).sum(0);
    std::map<std::int64_t, std::vector<std::int64_t>> by_pictures;
    for (std::int64_t r = 0; r < rungs; ++r) by_pictures[known[r].item<std::int64_t>()].push_back(r);
    for (const auto& [n, some] : by_pictures) {
        std::vector<std::int64_t> which{0};
        which.insert(which.end(), some.begin(), some.end());
        const std::int64_t m = std::ssize(which);
        const at::Tensor of = means.narrow(0, 0, n).index_select(1, at::tensor(which, at::kLong));
        at::Tensor middle, ratio_middle;
        if (n > 1) {
            const at::Tensor resampled = resampling(n, live).means(of.reshape({n, -1})).view({-1, m, kinds, kFigures});
            middle = PictureResampling::middle(resampled.view({resampled.size(0), -1})).view({2, m, kinds, kFigures});
            const at::Tensor ratios = resampled.select(3, kActive) / resampled.select(3, kActive).narrow(1, 0, 1);
            ratio_middle = PictureResampling::middle(ratios.reshape({ratios.size(0), -1})).view({2, m, kinds});
        }
        const at::Tensor mean = n > 0 ? of.mean(0) : at::full({m, kinds, kFigures}, kNaN, at::kDouble);
        for (std::int64_t i = 1; i < m; ++i)
            for (std::int64_t k = 0; k < kinds; ++k) {
                const std::int64_t r = which[std::size_t(i)];
                const auto estimate_of = [&](Figure figure) {
                    return Estimate{mean[i][k][figure].item<double>(),
                                    n > 1 ? middle[0][i][k][figure].item<double>() : kNaN,
                                    n > 1 ? middle[1][i][k][figure].item<double>() : kNaN};
                };
                RungFigures& one = out[std::size_t(r * kinds + k)];
                one.rung = out_.rungs[std::size_t(r)].name();
                one.tokens = layer.kinds[std::size_t(k)].name;
                one.inputs = inputs[r].item<std::int64_t>();
                one.active = estimate_of(kActive);
                one.distinct = estimate_of(kDistinct);
                one.overlap = estimate_of(kOverlap);
                one.norm = mean[i][k][kNorm].item<double>();
                const double at_first = mean[0][k][kActive].item<double>();
                one.ratio = {at_first > 0 ? one.active.mean / at_first : kNaN,
                             n > 1 ? ratio_middle[0][i][k].item<double>() : kNaN,
                             n > 1 ? ratio_middle[1][i][k].item<double>() : kNaN};
                const double whole = spread[r][k].item<double>();
                // One token has no variance, and what the sums leave of it is rounding.
                one.explained_variance = whole > 0 && n > 0 && tokens[r][k].item<double>() > 1
                                             ? 1 - left[r][k].item<double>() / whole
                                             : kNaN;
                one.unreliable = n > 0 && !(one.explained_variance >= 0.5);
            }
    }
}

void Response::keep_strongest(Layer& layer, const at::Tensor& greatest, std::int64_t picture) {
    // Of equal ones the earlier picture stays: topk is asked for a strict order by hand.
    const at::Tensor least = layer.strength.amin(0), better = greatest > least;
    const at::Tensor place = layer.strength.argmin(0, true);
    const at::Tensor value = at::where(better, greatest, least).unsqueeze(0);
    layer.strength.scatter_(0, place, value);
    const at::Tensor before = layer.strongest.gather(0, place);
    layer.strongest.scatter_(0, place, at::where(better.unsqueeze(0), at::full_like(before, picture), before));
}

Status Response::read_reference() {
    const at::Device device = model_.device();
    for (Layer& layer : layers_) {
        const auto options = at::TensorOptions().device(device);
        layer.strength = at::zeros({kStrongest, layer.out.latents}, options.dtype(at::kFloat));
        layer.strongest = at::full({kStrongest, layer.out.latents}, -1, options.dtype(at::kLong));
        layer.frequency = at::zeros({layer.out.latents}, options.dtype(at::kDouble));
    }
    std::vector<std::size_t> rungs{0};
    if (foretells_ && options_.risk_on_ladder)
        for (std::size_t r = 1; r < out_.rungs.size(); ++r)
            if (!out_.rungs[r].is_clean()) rungs.push_back(r);
    for (std::int64_t from = 0; from < std::ssize(order_);) {
        const std::vector<at::Tensor> decoded = load_readable(from, std::min(kDecoded, std::ssize(order_) - from));
        Pixels there;
        std::vector<Wanted> wanted;
        for (std::size_t i = 0; i < decoded.size(); ++i) {
            there[from + std::int64_t(i)] = decoded[i];
            for (const std::size_t rung : rungs) wanted.push_back({from + std::int64_t(i), rung, 0});
        }
        for (std::size_t begin = 0; begin < wanted.size(); begin += std::size_t(batch_)) {
            const auto end = wanted.begin() + std::ptrdiff_t(std::min(begin + std::size_t(batch_), wanted.size()));
            const std::vector<Wanted> some(wanted.begin() + std::ptrdiff_t(begin), end);
            const auto run = VITRINE_TRY(seen(VITRINE_TRY(pixels_of(some, there))));
            const auto embedding = run->points.find(kEmbedding);
            const at::Tensor& end_of_it = embedding != run->points.end() ? embedding->second : run->output;
            const at::Tensor flat = end_of_it.flatten(1).to(at::kCPU, at::kFloat);
            for (std::size_t i = 0; i < some.size(); ++i)
                if (some[i].rung == 0) embeddings_.push_back(flat[std::int64_t(i)].clone());
            if (foretells_) {
                const auto risks = risk_of(run->output, some);
                risk_.insert(risk_.end(), risks.begin(), risks.end());
                asked_.insert(asked_.end(), some.begin(), some.end());
            }
            for (Layer& layer : layers_) {
                const at::Tensor all = tokens_of(layer, run->points.at(layer.out.point));
                const std::int64_t piece =
                    std::max<std::int64_t>(1, codes_at_once_ / (all.size(1) * layer.out.latents));
                for (std::int64_t at_ = 0; at_ < all.size(0); at_ += piece) {
                    const std::int64_t count = std::min(piece, all.size(0) - at_);
                    const Codes codes = layer.autoencoder->encode(all.narrow(0, at_, count).reshape({-1, all.size(2)}));
                    const at::Tensor judged =
                        codes.active.view({count, all.size(1), -1}).narrow(1, layer.over.from, layer.over.count);
                    const at::Tensor greatest = judged.amax(1);
                    for (std::int64_t i = 0; i < count; ++i) {
                        const Wanted& one = some[std::size_t(at_ + i)];
                        if (one.rung != 0) continue;
                        keep_strongest(layer, greatest[i], one.picture);
                        layer.frequency += judged[i].ne(0).any(0);
                    }
                    if (foretells_) layer.codes.emplace_back(options_.pool == "max" ? greatest : judged.mean(1));
                }
            }
            VITRINE_CHECK(advance(std::ssize(some), "pictures"));
        }
        from += std::ssize(decoded);
    }
    return {};
}

void Response::find_insensitive(Layer& layer) const {
    LayerResponse& out = layer.out;
    const Course& course = layer.sound;
    const std::int64_t shuffles = options_.seeds * std::count_if(drawn_.begin(), drawn_.end(), [&](std::size_t r) {
                                      return out_.rungs[r].kind == Rung::Kind::Shuffle;
                                  });
    // One shuffle of a picture says nothing of how far its shuffles differ.
    if (shuffles > 1) {
        BetweenPictures between;
        for (std::size_t p = 0; p < course.members.size(); ++p)
            between.add(course.members[p], course.squares[p], shuffles);
        out.insensitivity = between.insensitivity();
    }
    if (noise_rungs_.empty()) return;
    const auto inputs = static_cast<double>(out_.climbed * options_.seeds);
    out.noise_inputs = out_.climbed * options_.seeds;
    out.heard = (course.heard / inputs).to(at::kCPU);
    if (out.noise_inputs < kNoiseInputs)
        out.notes.push_back(
            fmt::format("{} inputs of noise are fewer than {}: which concepts are heard on nearly all of "
                        "them is not certain",
                        out.noise_inputs, kNoiseInputs));

    // Sums of unit vectors tell the mean cosine of all pairs: (|sum|^2 - k) / (k (k - 1)).
    at::Tensor unit = at::stack(embeddings_).to(at::kDouble);
    unit = unit / at::linalg_vector_norm(unit, 2, at::IntArrayRef{1}, true).clamp_min(1e-30);
    const auto alike = [&](const std::vector<std::int64_t>& pictures) {
        const auto k = static_cast<double>(pictures.size());
        const double length =
            unit.index_select(0, at::tensor(pictures, at::kLong)).sum(0).square().sum().item<double>();
        return (length - k) / (k * (k - 1));
    };
    const std::int64_t pictures = unit.size(0);
    double mean = 0, squares = 0;
    const bool enough = pictures >= 2 * kStrongest;
    for (std::int64_t s = 0; enough && s < kRandomSets; ++s) {
        StepRandom random(options_.seed, std::uint64_t(s), kSets);
        std::set<std::int64_t> drawn;
        while (std::ssize(drawn) < kStrongest) drawn.insert(random.below(pictures));
        const double one = alike({drawn.begin(), drawn.end()});
        mean += one / double(kRandomSets);
        squares += one * one / double(kRandomSets);
    }
    const double deviation = std::sqrt(std::max(0.0, squares - mean * mean));
    if (!enough)
        out.notes.push_back(fmt::format("{} reference pictures are fewer than {}: no concept is tried for meaning",
                                        pictures, 2 * kStrongest));

    const at::Tensor frequency = (layer.frequency / double(pictures)).to(at::kCPU);
    const at::Tensor strength = layer.strength.to(at::kCPU), strongest = layer.strongest.to(at::kCPU);
    for (std::int64_t latent = 0; latent < out.latents; ++latent) {
        if (!(out.heard[0][latent].item<double>() >= options_.heard)) continue;
        NoiseConcept one;
        one.latent = latent;
        for (std::int64_t n = 0; n < out.heard.size(0); ++n) one.heard.push_back(out.heard[n][latent].item<double>());
        if (out.insensitivity.defined())
            if (const double index = out.insensitivity[latent].item<double>(); std::isfinite(index))
                one.insensitivity = index;
        one.frequency = frequency[latent].item<double>();
        std::vector<std::pair<float, std::int64_t>> best;
        for (std::int64_t i = 0; i < kStrongest; ++i)
            if (const auto picture = strongest[i][latent].item<std::int64_t>(); picture >= 0)
                best.emplace_back(-strength[i][latent].item<float>(), picture);
        std::sort(best.begin(), best.end());
        for (const auto& entry : best) one.pictures.push_back(entry.second);
        if (enough && deviation > 0 && std::ssize(one.pictures) == kStrongest)
            one.coherence = (alike(one.pictures) - mean) / deviation;
        out.insensitive.push_back(std::move(one));
    }
    std::stable_sort(out.insensitive.begin(), out.insensitive.end(), [](const auto& a, const auto& b) {
        return a.coherence.value_or(-1e300) > b.coherence.value_or(-1e300);
    });
    const auto meaningful = std::count_if(out.insensitive.begin(), out.insensitive.end(),
                                          [](const NoiseConcept& one) { return one.meaningful(); });
    out.notes.push_back(
        fmt::format("{} of {} concepts are heard on {:g} % of the {} inputs of {}; {} of them have strongest "
                    "pictures that are alike (z of 3 or more)",
                    out.insensitive.size(), out.latents, 100 * options_.heard, out.noise_inputs,
                    out_.rungs[noise_rungs_[0]].name(), meaningful));
}

/// NaN where it is not known.
std::vector<double> Response::risk_of(const at::Tensor& output, const std::vector<Wanted>& wanted) const {
    std::vector<double> out;
    const bool answers = options_.risk != "scores";
    const at::Tensor chance =
        answers ? at::log_softmax(output.to(at::kFloat), 1).exp().to(at::kCPU, at::kDouble) : at::Tensor();
    for (std::size_t i = 0; i < wanted.size(); ++i) {
        const auto picture = static_cast<std::size_t>(order_[std::size_t(wanted[i].picture)]);
        if (options_.risk == "scores") {
            out.push_back(options_.scores.empty() ? kNaN : options_.scores[picture]);
        } else if (options_.risk == "label") {
            const std::int64_t label = options_.labels.empty() ? -1 : options_.labels[picture];
            out.push_back(label < 0 || label >= chance.size(1) ? kNaN
                                                               : 1 - chance[std::int64_t(i)][label].item<double>());
        } else {
            out.push_back(1 - chance[std::int64_t(i)].max().item<double>());
        }
    }
    return out;
}

Status Response::foretell(Layer& layer) {
    std::vector<at::Tensor> rows;
    std::vector<std::int64_t> known, groups;
    std::vector<double> scores;
    for (std::size_t i = 0; i < risk_.size(); ++i) {
        if (!std::isfinite(risk_[i])) continue;
        known.push_back(std::int64_t(i));
        groups.push_back(asked_[i].picture);
        scores.push_back(risk_[i]);
    }
    if (known.empty()) {
        layer.out.notes.emplace_back("nothing is foretold: no picture has a score");
        return {};
    }
    if (known.size() < risk_.size())
        layer.out.notes.push_back(fmt::format("{} of {} inputs have a score", known.size(), risk_.size()));
    at::Tensor codes = at::zeros({std::ssize(risk_), layer.out.latents});
    std::int64_t from = 0;
    for (const SparseRows& piece : layer.codes) {
        codes.narrow(0, from, piece.rows).copy_(piece.dense());
        from += piece.rows;
    }
    if (known.size() < risk_.size()) codes = codes.index_select(0, at::tensor(known, at::kLong));
    RiskOptions options = options_.predictor;
    options.seed = options_.seed;
    options.resamples = options_.resamples;
    options.stop = options_.stop;
    options.progress = options_.progress;
    auto risk = output_risk(codes.to(model_.device()), at::tensor(scores, at::kDouble), groups, options);
    if (!risk) {
        if (risk.error().code != ErrorCode::BadInput) return tl::make_unexpected(risk.error());
        // The ladder was climbed and holds; what is too little for folds is said.
        layer.out.notes.push_back("nothing is foretold: " + risk.error().message);
        return {};
    }
    // Its inputs are among all that were read.
    for (RiskFold& fold : risk->folds)
        for (std::int64_t& input : fold.held) input = known[std::size_t(input)];
    layer.out.risk = std::move(*risk);
    if (options_.suppressed == 0) return {};
    if (options_.risk == "scores") {
        layer.out.notes.emplace_back("nothing is suppressed: an imported score cannot be made again");
        return {};
    }
    return suppress(layer);
}

/// The scores of these inputs with some concepts silent at the layer's point, on all tokens that it reads.
Result<std::vector<double>> Response::suppressed(const Layer& layer, const std::vector<std::int64_t>& inputs,
                                                 const std::vector<std::int64_t>& latents) {
    const at::Tensor silent = at::tensor(latents, at::kLong).to(model_.device());
    std::vector<double> out;
    for (std::size_t begin = 0; begin < inputs.size(); begin += std::size_t(batch_)) {
        std::vector<Wanted> some;
        std::set<std::int64_t> pictures;
        for (std::size_t i = begin; i < std::min(begin + std::size_t(batch_), inputs.size()); ++i) {
            some.push_back(asked_[std::size_t(inputs[i])]);
            pictures.insert(some.back().picture);
        }
        const at::Tensor pixels = VITRINE_TRY(pixels_of(some, VITRINE_TRY(load(pictures))));
        const TokenLayout layout = model_.layout(pixels.size(2), pixels.size(3));
        Edit edit;
        edit.kind = Edit::Kind::ReplacePoint;
        edit.where = layer.out.point;
        edit.replace = [&](const at::Tensor& activation) {
            return with_changed_tokens(activation, layout, layer.autoencoder->config(), [&](const at::Tensor& tokens) {
                const Codes codes = layer.autoencoder->encode(tokens);
                return tokens + layer.autoencoder->difference(codes.active.index_fill(1, silent, 0), codes);
            });
        };
        const auto run = VITRINE_TRY(seen(pixels, {edit}));
        const auto risks = risk_of(run->output, some);
        out.insert(out.end(), risks.begin(), risks.end());
        VITRINE_CHECK(advance(std::ssize(some)));
    }
    return out;
}

Estimate Response::estimate(const std::vector<double>& values, const std::vector<std::int64_t>& pictures) const {
    std::map<std::int64_t, std::pair<double, double>> of;  // sum and count
    for (std::size_t i = 0; i < values.size(); ++i) {
        of[pictures[i]].first += values[i];
        of[pictures[i]].second += 1;
    }
    std::vector<double> means;
    for (const auto& [picture, sum] : of) means.push_back(sum.first / sum.second);
    const at::Tensor each = at::tensor(means, at::kDouble).unsqueeze(1);
    Estimate out{each.mean().item<double>(), kNaN, kNaN};
    if (means.size() < 2) return out;
    const PictureResampling resampling(each.size(0), options_.resamples, random_bits(options_.seed, kResample, 1));
    const at::Tensor middle = PictureResampling::middle(resampling.means(each));
    out.low = middle[0][0].item<double>();
    out.high = middle[1][0].item<double>();
    return out;
}

Status Response::suppress(Layer& layer) {
    const OutputRisk& risk = *layer.out.risk;
    at::Tensor share = at::zeros({layer.out.latents}, at::kDouble);
    for (const SparseRows& piece : layer.codes) share += piece.dense().ne(0).sum(0);
    share = share / double(risk_.size());
    const std::vector<double> frequency(share.const_data_ptr<double>(), share.const_data_ptr<double>() + share.numel());

    // The worst quartile of each fold's held inputs: neither the fit nor the choice has seen them.
    std::vector<std::vector<std::int64_t>> worst;
    std::int64_t inputs = 0;
    for (const RiskFold& fold : risk.folds) {
        std::vector<double> scores;
        for (const std::int64_t i : fold.held) scores.push_back(risk_[std::size_t(i)]);
        const double bound = quantile_of(scores, 0.75);
        auto& list = worst.emplace_back();
        for (const std::int64_t i : fold.held)
            if (risk_[std::size_t(i)] > bound) list.push_back(i);
        inputs += std::ssize(list);
    }
    if (inputs == 0) return {};
    done_ = 0;
    planned_ = inputs * 2 * (1 + options_.suppression_controls);
    for (const char* chosen : {"largest", "raising"}) {
        Suppression out;
        out.chosen = chosen;
        std::vector<double> before, after, change, control, difference;
        std::vector<std::int64_t> pictures;
        for (std::size_t f = 0; f < worst.size(); ++f) {
            const at::Tensor beta = risk.folds[f].beta;
            const double* slope = beta.const_data_ptr<double>();
            const auto weight = [&](std::int64_t i) { return out.chosen == "largest" ? std::abs(slope[i]) : slope[i]; };
            std::vector<std::int64_t> order(static_cast<std::size_t>(layer.out.latents));
            std::iota(order.begin(), order.end(), std::int64_t{0});
            std::erase_if(order, [&](std::int64_t i) { return !(weight(i) > 0); });
            std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) { return weight(a) > weight(b); });
            order.resize(std::min(order.size(), std::size_t(options_.suppressed)));
            out.latents.push_back(order);
            if (order.empty() || worst[f].empty()) continue;
            const auto changed = VITRINE_TRY(suppressed(layer, worst[f], order));
            std::vector<double> by_chance(worst[f].size(), 0.0);
            for (std::int64_t c = 0; c < options_.suppression_controls; ++c) {
                // For each one of the unchosen that are most nearly as frequent.
                StepRandom random(options_.seed, f * 1000 + std::uint64_t(c), kMatch);
                std::set<std::int64_t> taken(order.begin(), order.end());
                std::vector<std::int64_t> others;
                for (const std::int64_t latent : order) {
                    std::vector<std::pair<double, std::int64_t>> near;
                    for (std::int64_t i = 0; i < layer.out.latents; ++i)
                        if (taken.count(i) == 0 && frequency[std::size_t(i)] > 0)
                            near.emplace_back(std::abs(frequency[std::size_t(i)] - frequency[std::size_t(latent)]), i);
                    if (near.empty()) break;
                    const auto some = std::min<std::int64_t>(kLikely, std::ssize(near));
                    std::partial_sort(near.begin(), near.begin() + some, near.end());
                    others.push_back(near[std::size_t(random.below(some))].second);
                    taken.insert(others.back());
                }
                const auto random_change = VITRINE_TRY(suppressed(layer, worst[f], others));
                for (std::size_t i = 0; i < by_chance.size(); ++i)
                    by_chance[i] += random_change[i] / double(options_.suppression_controls);
            }
            for (std::size_t i = 0; i < worst[f].size(); ++i) {
                const double was = risk_[std::size_t(worst[f][i])];
                before.push_back(was);
                after.push_back(changed[i]);
                change.push_back(changed[i] - was);
                control.push_back(by_chance[i] - was);
                difference.push_back(changed[i] - by_chance[i]);
                pictures.push_back(asked_[std::size_t(worst[f][i])].picture);
            }
        }
        if (before.empty()) continue;
        out.inputs = std::ssize(before);
        out.before = estimate(before, pictures);
        out.after = estimate(after, pictures);
        out.change = estimate(change, pictures);
        if (options_.suppression_controls > 0) {
            out.control = estimate(control, pictures);
            out.difference = estimate(difference, pictures);
        } else {
            out.control = out.difference = {kNaN, kNaN, kNaN};
        }
        layer.out.suppression.push_back(std::move(out));
    }
    return {};
}

Result<UncertaintyResponse> Response::run() {
    const std::int64_t drawn = drawn_rungs();
    const bool controlled = out_.shuffled_by.has_value();
    const std::int64_t climbs = (1 + drawn * options_.seeds) * (controlled ? 2 : 1);
    const auto count = [&] {
        return std::ssize(order_) * (1 + (foretells_ && options_.risk_on_ladder ? drawn : 0)) +
               std::min(options_.pictures, std::ssize(order_)) * climbs;
    };
    planned_ = count();
    // A person who looks on sees the ladder first.
    const auto remembered = [&](bool control) -> Status {
        if (options_.memory == nullptr) return climb(control);
        auto& kept = control ? options_.memory->kept->control : options_.memory->kept->sound;
        remember(kept, control);
        Status done = climb(control);
        if (done || done.error().code == ErrorCode::Cancelled) keep(kept, control);
        return done;
    };
    if (options_.journal != nullptr) VITRINE_CHECK(begin_journal());
    VITRINE_CHECK(remembered(false));
    if (controlled) {
        ParametersAside aside(model_);
        aside.shuffle_all(*out_.shuffled_by);
        VITRINE_CHECK(remembered(true));
    } else if (options_.control) {
        out_.notes.push_back("there is no control with shuffled weights: the parameters of " + model_.info().name +
                             " cannot be reached");
    }
    VITRINE_CHECK(read_reference());
    out_.inputs = count();
    if (foretells_)
        out_.risk = options_.risk == "confidence" ? "1 - the largest probability"
                    : options_.risk == "label"    ? "1 - the true label's probability"
                                                  : "an imported score";
    if (foretells_)
        out_.notes.emplace_back(
            "The predictor is an adaptation: the paper foretells a hallucination score of a language model's summaries "
            "from the concepts of its input; here it is a score of a vision model's answer.");
    for (Layer& layer : layers_) {
        summarise(layer, false, false, layer.out.rungs);
        if (controlled) summarise(layer, true, false, layer.out.control);
        find_insensitive(layer);
        if (foretells_) VITRINE_CHECK(foretell(layer));
        out_.layers.push_back(std::move(layer.out));
    }
    for (const std::int64_t index : order_) out_.pictures.push_back(options_.names[std::size_t(index)]);
    return std::move(out_);
}

}  // namespace

std::vector<std::int64_t> ladder_order(std::int64_t pictures, std::uint64_t seed) {
    return StepRandom(seed, 0, kOrder).permutation(pictures);
}

Result<UncertaintyResponse> uncertainty_response(Model& model, const UncertaintyOptions& options) {
    return guarded([&]() -> Result<UncertaintyResponse> {
        const at::NoGradGuard no_grad;
        Response response(model, options);
        VITRINE_CHECK(response.prepare());
        return response.run();
    });
}

}  // namespace vitrine
