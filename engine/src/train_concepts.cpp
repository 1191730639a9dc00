// Trains a sparse autoencoder: runs pictures, mixes their tokens, steps, keeps checkpoints, measures on held pictures.
#include <vitrine/train_concepts.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cmath>
#include <cstring>
#include <map>
#include <mutex>
#include <optional>
#include <set>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>
#include <c10/core/Event.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <nlohmann/json.hpp>

#include <vitrine/autoencoder_fidelity.h>
#include <vitrine/base/bytes.h>
#include <vitrine/base/json_text.h>
#include <vitrine/capture.h>
#include <vitrine/concept_factors.h>
#include <vitrine/concept_names.h>
#include <vitrine/device.h>
#include <vitrine/device_sums.h>
#include <vitrine/ladder.h>
#include <vitrine/mask_module.h>
#include <vitrine/model_identity.h>
#include <vitrine/parameters_aside.h>
#include <vitrine/preprocess.h>
#include <vitrine/steering.h>
#include <vitrine/torch_errors.h>

#include "concept_settings.h"
#include "concept_steps.h"
#include "dataset.h"
#include "float_products.h"
#include "shared_sums.h"
#include "tensor_io.h"
#include "text.h"
#include "training_checkpoint.h"
#include "training_pictures.h"

namespace vitrine {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

at::Tensor with_changed_tokens(const at::Tensor& x, const TokenLayout& layout, const AutoencoderConfig& config,
                               const std::function<at::Tensor(const at::Tensor&)>& change) {
    if (x.dim() == 4) {
        const at::Tensor rows = x.permute({0, 2, 3, 1});
        return change(rows.reshape({-1, x.size(1)})).view(rows.sizes()).permute({0, 3, 1, 2}).to(x.scalar_type());
    }
    std::int64_t from = 0, count = x.size(1);
    if (config.tokens == "class") count = 1;
    // Patches stand last, and alone where the class token has not joined them yet.
    if (config.tokens == "patches") count = layout.rows * layout.cols, from = x.size(1) - count;
    const at::Tensor some = x.narrow(1, from, count);
    const at::Tensor changed = change(some.reshape({-1, x.size(2)})).view(some.sizes()).to(x.scalar_type());
    if (count == x.size(1)) return changed;
    return at::cat({x.narrow(1, 0, from), changed, x.narrow(1, from + count, x.size(1) - from - count)}, 1);
}

Result<ConceptFigures> concept_figures(Model& model, const Autoencoder& autoencoder, std::int64_t count,
                                       const std::function<Result<at::Tensor>(std::int64_t picture)>& pixels) {
    FidelityOptions options;
    options.pictures = count;
    options.resamples = 0;
    std::atomic<bool> any = false;
    std::mutex guard;
    std::map<std::int64_t, std::string> unreadable;
    options.pixels = [&](std::int64_t picture) {
        auto found = pixels(picture);
        if (found) {
            any = true;
        } else {
            const std::lock_guard lock(guard);
            unreadable[picture] = found.error().message;
        }
        return found;
    };
    const auto measured = autoencoder_fidelity(model, autoencoder, options);
    ConceptFigures out;
    for (auto& [picture, why] : unreadable) out.skipped.push_back(std::move(why));
    if (!measured && !any) return out;
    const Fidelity found = VITRINE_TRY(measured);
    const FidelityOfTokens& all = found.tokens.front();
    out.pictures = found.pictures;
    out.tokens = all.tokens;
    out.explained_variance = all.explained_variance.value;
    out.cosine = all.cosine.value;
    out.active = all.active.value;
    for (const FidelityOfTokens& kind : found.tokens) {
        if (kind.name == "class" && found.tokens.size() > 1) out.active_class = kind.active.value;
        if (kind.name == "patches" && found.tokens.size() > 1) out.active_patches = kind.active.value;
        if (kind.name != "all")
            out.kinds.push_back({kind.name, kind.tokens, kind.explained_variance.value, kind.active.value});
    }
    out.distinct = found.distinct.value;
    out.never = found.never;
    out.rare = found.rare;
    out.dense = found.dense;
    if (model.info().classes == 0) return out;
    out.answers = true;
    out.agreement = found.agreement.value;
    out.divergence = found.divergence.value;
    out.substitution = found.zeroed.value > 0 ? found.substitution.value : 0;
    return out;
}

namespace {

constexpr const char* kCheckpointFormat = "vitrine.concepts.training";
constexpr std::uint64_t kOrder = 0x6f726472, kHeld = 0x68656c64, kMix = 0x6d697874;
constexpr std::int64_t kMostHeld = 512, kMostLive = 64, kDeadTokens = 10000000;
constexpr std::int64_t kMostNamed = 10000;  // pictures that a finished file knows one by one
constexpr double kLongPass = 1;             // seconds after which a pass of the ceiling is not repeated
/// What the result does not depend on: a run may go on with others, and the finished file is the same.
const std::vector<std::string>& free_settings() {
    static const std::vector<std::string> names{"report_seconds", "checkpoint_seconds", "floor", "held_every"};
    return names;
}

std::string short_key(std::uint64_t key) { return fmt::format("{:08x}", key & 0xFFFFFFFFU); }

/// Tokens of pictures in an order drawn anew for every round, mixed in a buffer that is filled up when half is used.
class TokenStream {
  public:
    TokenStream(Model& model, const TrainingPictures& pictures, std::vector<std::int64_t> used,
                AutoencoderConfig config, std::int64_t rows, std::int64_t at_once, std::uint64_t seed, Peers* peers,
                std::int64_t tokens_of_picture)
        : model_(model),
          pictures_(pictures),
          used_(std::move(used)),
          config_(std::move(config)),
          rows_(rows),
          at_once_(at_once),
          seed_(seed),
          peers_(peers != nullptr && peers->count() > 1 ? peers : nullptr),
          tokens_of_picture_(tokens_of_picture) {
        const auto options = at::TensorOptions().device(model.device()).dtype(at::kFloat);
        mixed_ = at::empty({rows_, config_.width}, options);
        filled_ = at::empty({rows_, config_.width}, options);
    }

    /// [count, width], a part of the buffer: good until the next call
    Result<at::Tensor> next(std::int64_t count, std::stop_token stop) {
        if (left() < std::max(count, rows_ / 2)) VITRINE_CHECK(timed_fill(count, stop));
        const at::Tensor out = mixed_.narrow(0, read_, count);
        read_ += count;
        return out;
    }
    /// What next() will give first: at least `least` tokens, and as many as are there up to `most`.
    Result<at::Tensor> ahead(std::int64_t least, std::int64_t most, std::stop_token stop) {
        if (left() < least) VITRINE_CHECK(timed_fill(least, stop));
        return mixed_.narrow(0, read_, std::min(left(), std::max(least, most)));
    }
    /// What is in the buffer and not read yet. [n, width]
    at::Tensor unread() const { return mixed_.narrow(0, read_, left()); }
    std::int64_t picture() const { return picture_; }
    std::int64_t fills() const { return fills_; }
    std::int64_t bytes() const { return 2 * rows_ * config_.width * 4; }
    std::int64_t tokens() const { return rows_; }
    /// By their numbers; some of those that are used.
    const std::set<std::int64_t>& broken() const { return broken_; }
    /// Mean of this call, of reading and running.
    double seconds_a_picture() const { return ran_ > 0 ? running_ / static_cast<double>(ran_) : 0; }
    const std::vector<std::string>& skipped() const { return skipped_; }
    /// What was skipped so far, for a run that goes on.
    nlohmann::json skipped_record() const {
        nlohmann::json out = nlohmann::json::array();
        for (std::size_t i = 0; i < skipped_.size(); ++i) out.push_back({skipped_indices_[i], json_bytes(skipped_[i])});
        return out;
    }
    bool restore_skipped(const nlohmann::json& record) {
        if (!record.is_array()) return false;
        for (const auto& item : record) {
            std::string text;
            if (!item.is_array() || item.size() != 2 || !item[0].is_number_integer() || !from_json_bytes(item[1], text))
                return false;
            if (!broken_.insert(item[0].get<std::int64_t>()).second) continue;
            skipped_indices_.push_back(item[0].get<std::int64_t>());
            skipped_.push_back(std::move(text));
        }
        return true;
    }

    bool restore(const at::Tensor& unread, std::int64_t picture, std::int64_t fills) {
        if (unread.dim() != 2 || unread.size(0) > rows_ || unread.size(1) != config_.width || picture < 0 || fills < 0)
            return false;
        end_ = unread.size(0);
        read_ = 0;
        mixed_.narrow(0, 0, end_).copy_(unread);
        picture_ = picture;
        fills_ = fills;
        return true;
    }

  private:
    std::int64_t left() const { return end_ - read_; }

    std::int64_t drawn(std::int64_t at) {
        const auto count = static_cast<std::int64_t>(used_.size());
        if (const std::int64_t round = at / count; round != round_) {
            order_ = StepRandom(seed_, static_cast<std::uint64_t>(round), kOrder).permutation(count);
            round_ = round;
        }
        return used_[static_cast<std::size_t>(order_[static_cast<std::size_t>(at % count)])];
    }

    Status timed_fill(std::int64_t wanted, const std::stop_token& stop) {
        const auto began = Clock::now();
        const std::int64_t before = picture_;
        Status done = fill(wanted, stop);
        running_ += std::chrono::duration<double>(Clock::now() - began).count();
        ran_ += picture_ - before;
        return done;
    }

    /// Fills up, or leaves everything as it was.
    Status fill(std::int64_t wanted, const std::stop_token& stop) {
        const std::int64_t before = picture_;
        Status done = fill_up(wanted, stop);
        if (!done) picture_ = before;
        return done;
    }

    Status fill_up(std::int64_t wanted, const std::stop_token& stop) {
        const at::NoGradGuard no_grad;
        const std::int64_t old = left(), first = picture_;
        filled_.narrow(0, 0, old).copy_(unread());
        std::int64_t have = old;
        while (true) {
            const std::size_t known = skipped_.size();
            std::vector<std::int64_t> found;
            have = VITRINE_TRY(run_pictures(old, wanted, stop, found));
            if (peers_ == nullptr || !VITRINE_TRY(tell_of_broken(found))) break;
            // Once more without them, as one process would have gone on.
            for (std::size_t i = known; i < skipped_.size(); ++i) broken_.erase(skipped_indices_[i]);
            skipped_.resize(known);
            skipped_indices_.resize(known);
            picture_ = first;
        }
        // What others ran is zero here; a sum of one number and zeros is that number.
        if (peers_ != nullptr && have > old) share_sum(filled_.narrow(0, old, have - old), *peers_);
        const auto order = StepRandom(seed_, static_cast<std::uint64_t>(fills_++), kMix).permutation(have);
        const at::Tensor which =
            at::from_blob(const_cast<std::int64_t*>(order.data()), {have}, at::kLong).to(mixed_.device());
        at::Tensor to = mixed_.narrow(0, 0, have);
        at::index_select_out(to, filled_.narrow(0, 0, have), 0, which);
        read_ = 0;
        end_ = have;
        return {};
    }

    /// Runs pictures until the buffer is full; gives how many tokens it holds then. Processes take turns, and each
    /// reads what it runs: `found` are those that this one could not read and nobody knew of.
    Result<std::int64_t> run_pictures(std::int64_t have, std::int64_t wanted, const std::stop_token& stop,
                                      std::vector<std::int64_t>& found) {
        std::int64_t run = 0, most = 0;  // most: tokens that one run of pictures gave
        while (have + most <= rows_ || have < wanted) {
            const bool mine = peers_ == nullptr || run++ % peers_->count() == peers_->rank();
            std::vector<at::Tensor> pixels;
            for (std::int64_t taken = 0; taken < at_once_;) {
                if (stop.stop_requested()) return fail(ErrorCode::Cancelled, "stopped");
                const std::int64_t pass = picture_ / std::ssize(used_), index = drawn(picture_++);
                if (broken_.count(index) > 0) continue;
                const bool doubtful = doubtful_.count(index) > 0;
                if (mine || doubtful) {
                    auto read = pictures_.pixels(index, pass);
                    if (read && doubtful)
                        read = fail(ErrorCode::Io, "picture {} could not be read by another process", index);
                    if (!read) {
                        broken_.insert(index);
                        if (!doubtful) found.push_back(index);
                        skipped_.push_back(read.error().message);
                        skipped_indices_.push_back(index);
                        if (broken_.size() < used_.size()) continue;
                        if (!found.empty() && peers_ != nullptr) return have;  // all are to hear of it
                        return fail(ErrorCode::BadInput, "none of {} pictures could be read; the first: {}",
                                    used_.size(), skipped_.front());
                    }
                    pixels.push_back(std::move(*read));
                }
                ++taken;
            }
            at::Tensor tokens;
            if (mine) {
                tokens = VITRINE_TRY(concept_tokens(model_, at::cat(pixels), config_, stop)).to(at::kFloat);
                tokens = tokens.reshape({-1, config_.width});
            }
            most = mine ? tokens.size(0) : tokens_of_picture_ * at_once_;
            if (have + most > rows_ && have >= wanted) break;
            const std::int64_t kept = std::min(most, rows_ - have);
            at::Tensor to = filled_.narrow(0, have, kept);
            if (mine)
                to.copy_(tokens.narrow(0, 0, kept));
            else
                to.zero_();
            have += kept;
        }
        return have;
    }

    /// Whether any process could not read pictures that nobody knew of: from now on all of them look at these.
    Result<bool> tell_of_broken(const std::vector<std::int64_t>& found) {
        double count = static_cast<double>(found.size());
        VITRINE_CHECK(peers_->sum({&count, 1}));
        if (count == 0) return false;
        std::vector<double> which(static_cast<std::size_t>(*std::max_element(used_.begin(), used_.end())) + 1);
        for (const std::int64_t index : found) which[static_cast<std::size_t>(index)] = 1;
        VITRINE_CHECK(peers_->sum(which));
        for (std::size_t i = 0; i < which.size(); ++i)
            if (which[i] > 0) doubtful_.insert(static_cast<std::int64_t>(i));
        return true;
    }

    Model& model_;
    const TrainingPictures& pictures_;
    std::vector<std::int64_t> used_, order_;
    AutoencoderConfig config_;
    std::int64_t rows_, at_once_;
    std::uint64_t seed_;
    at::Tensor mixed_, filled_;  // [rows, width] each
    std::int64_t read_ = 0, end_ = 0, picture_ = 0, fills_ = 0, round_ = -1;
    std::int64_t ran_ = 0;  // pictures, by this object
    double running_ = 0;    // seconds that it took
    std::set<std::int64_t> broken_;
    std::set<std::int64_t> doubtful_;  // one of several processes could not read them
    std::vector<std::string> skipped_;
    std::vector<std::int64_t> skipped_indices_;  // of the same pictures
    Peers* peers_;                               // null where there is one process
    std::int64_t tokens_of_picture_;
};

class ConceptTraining {
  public:
    ConceptTraining(Model& model, const TrainConceptsOptions& options) : model_(model), options_(options) {}

    Status prepare();
    Result<TrainConceptsSummary> run();
    /// In the place of the steps: one buffer of tokens, factorised.
    Result<TrainConceptsSummary> factorise();
    bool is_factorisation() const { return is_factor_kind(config_.kind); }
    /// Where memory did not suffice: what the run takes of it, and which setting to lower.
    Error short_of_memory(Error raw) const;

  private:
    /// What is due after a step. Clocks differ, so process 0 tells the others.
    struct Due {
        bool stop = false, report = false, checkpoint = false;
    };

    Status settle();
    Status begin();
    Status resume();
    Status write_checkpoint();
    Status finish(Autoencoder& made);
    Status report(std::string note);
    Status look();
    Status take_step(const at::Tensor& tokens);
    Result<Due> due() const;
    Result<ConceptFigures> held_figures(const Autoencoder& autoencoder, const std::vector<std::int64_t>& which);
    void time_floor();
    void count_pictures();
    bool several() const { return options_.peers != nullptr && options_.peers->count() > 1; }
    bool first() const { return !several() || options_.peers->rank() == 0; }
    Status agree(const Status& mine) const { return several() ? options_.peers->agree(mine) : mine; }
    nlohmann::json record() const;
    fs::path checkpoint_file() const { return options_.out.string() + ".checkpoint"; }

    Model& model_;
    const TrainConceptsOptions& options_;
    Settings settings_;
    std::optional<ParametersAside> shuffled_;
    AutoencoderConfig config_;
    ConceptStepsOptions steps_options_;
    std::optional<TrainingPictures> pictures_;
    std::optional<TokenStream> stream_;
    std::optional<ConceptSteps> steps_;
    std::vector<std::int64_t> used_, held_, looked_at_;  // the last: of those held out, while it goes on
    std::uint64_t seed_ = 0;
    std::int64_t batch_ = 0, count_ = 0, begun_at_ = 0;
    std::vector<at::Tensor> waiting_;
    Clock::time_point began_, reported_, kept_;
    double stepping_ = 0, aside_ = 0;                        // seconds in steps, and in looks at what is held out
    double look_ = 0;                                        // seconds of the last one
    std::int64_t timed_ = 0;                                 // steps
    std::vector<std::pair<c10::Event, c10::Event>> events_;  // of steps on a device that were not added up yet
    std::optional<ConceptFigures> live_;
    std::int64_t live_step_ = 0;
    TrainConceptsSummary summary_;
};

Status ConceptTraining::settle() {
    if (options_.out.empty()) return fail(ErrorCode::BadInput, "training needs a file to write; give it with --out");
    if (first()) VITRINE_CHECK(can_train_into(options_.out));
    std::vector<std::pair<std::string, std::string>> given{{"seed", std::to_string(options_.seed)}};
    given.insert(given.end(), options_.settings.begin(), options_.settings.end());
    settings_ = VITRINE_TRY(concept_settings(given, summary_.notes));
    config_.subtract_decoder_bias = settings_.flag("subtract_bias");
    config_.keep_negative = settings_.flag("keep_negative");
    config_.weigh_by_decoder = settings_.flag("weigh_by_decoder");
    seed_ = static_cast<std::uint64_t>(settings_.integer("seed"));
    if (const std::string given = settings_.text("shuffled_weights"); !given.empty()) {
        std::uint64_t by = 0;
        const auto [end, code] = std::from_chars(given.data(), given.data() + given.size(), by);
        if (code != std::errc() || end != given.data() + given.size())
            return fail(ErrorCode::BadInput, "shuffled_weights is '{}', expected a seed: a whole number from 0", given);
        if (!model_.is_native() || model_.parameters().empty())
            return fail(ErrorCode::Unsupported, "the weights of {} cannot be shuffled: they cannot be reached",
                        model_.info().name);
        shuffled_.emplace(model_).shuffle_all(by);
    }
    config_.point = settings_.text("point");
    if (config_.point.empty())
        config_.point =
            model_.info().layers > 0 ? fmt::format("blocks.{}", model_.info().layers * 3 / 4) : model_.info().cam_point;
    config_.kind = settings_.text("kind");
    config_.tokens = settings_.text("tokens");
    config_.normalise = settings_.text("normalise");
    config_.k = settings_.integer("k");
    // What comes past the point says how wide its tokens are.
    const auto points = model_.points();
    std::vector<std::string> names;
    for (const NamedPoint& p : points) names.push_back(p.name);
    if (std::find(names.begin(), names.end(), config_.point) == names.end())
        return fail(ErrorCode::BadInput, "{} has no point '{}'{} (vitrine info MODEL --points lists them)",
                    model_.info().name, config_.point, suggest(config_.point, names));
    const auto& p = model_.preprocess();
    CaptureOptions looking;
    looking.mixings = false;
    looking.points = {config_.point};
    const auto seen = VITRINE_TRY(run_captured(model_, at::zeros({1, 3, p.input_height, p.input_width}), looking));
    const auto found = seen->points.find(config_.point);
    if (found == seen->points.end() || found->second.dim() < 3 || found->second.dim() > 4)
        return fail(ErrorCode::Unsupported, "{} of {} is neither tokens nor a map", config_.point, model_.info().name);
    config_.width = found->second.dim() == 4 ? found->second.size(1) : found->second.size(2);
    config_.latents = settings_.integer("latents");
    if (config_.latents <= 0)
        config_.latents = !is_factorisation()     ? 8 * config_.width
                          : config_.kind == "pca" ? std::min<std::int64_t>(64, 2 * config_.width)
                                                  : std::min<std::int64_t>(64, config_.width);
    summary_.point = config_.point;
    summary_.latents = config_.latents;
    const at::Tensor one =
        VITRINE_TRY(concept_tokens(model_, at::zeros({1, 3, p.input_height, p.input_width}), config_));

    pictures_.emplace(VITRINE_TRY(TrainingPictures::open(options_.data, options_.pictures, p)));
    summary_.notes.insert(summary_.notes.end(), pictures_->notes().begin(), pictures_->notes().end());
    const Rung rung = VITRINE_TRY(rung_of(settings_.text("rung")));
    // Whether it can be made of pictures of this size.
    VITRINE_CHECK(rung_pixels(rung, at::zeros({1, 3, p.input_height, p.input_width}), p, seed_, ""));
    pictures_->set_rung(rung, seed_);
    const std::int64_t count = pictures_->count();
    const auto order = StepRandom(seed_, 0, kHeld).permutation(count);
    const auto held =
        std::min<std::int64_t>(count - 1, std::llround(settings_.number("held") * static_cast<double>(count)));
    held_.assign(order.begin(), order.begin() + std::min(held, kMostHeld));
    // As they were drawn: the first by name would be those of the first class folders.
    looked_at_.assign(held_.begin(), held_.begin() + std::min(std::ssize(held_), kMostLive));
    used_.assign(order.begin() + held, order.end());
    std::sort(held_.begin(), held_.end());
    std::sort(looked_at_.begin(), looked_at_.end());
    std::sort(used_.begin(), used_.end());
    summary_.pictures = static_cast<std::int64_t>(used_.size());

    batch_ = settings_.integer("batch");
    const std::int64_t rows = settings_.integer("buffer") * 1000000 / (2 * 4 * config_.width);
    if (is_factorisation() && rows < 1)
        return fail(ErrorCode::BadInput, "a buffer of {} MB holds no tokens of {} numbers; raise buffer",
                    settings_.integer("buffer"), config_.width);
    if (!is_factorisation() && (batch_ < 1 || rows < 2 * batch_))
        return fail(
            ErrorCode::BadInput,
            "a buffer of {} MB holds {} tokens of {} numbers, and {} are needed for a batch of {}; raise buffer "
            "or lower batch",
            settings_.integer("buffer"), rows, config_.width, 2 * batch_, batch_);
    const std::int64_t tokens = one.size(1) * summary_.pictures;
    count_ = settings_.integer("steps");
    if (count_ == 0 && !is_factorisation())
        count_ = std::max<std::int64_t>(
            1, std::llround(settings_.number("epochs") * static_cast<double>(tokens) / static_cast<double>(batch_)));
    // More than all tokens would only hold some of them twice.
    const std::int64_t mixed = std::min(rows, is_factorisation() ? tokens : std::max(2 * batch_, tokens));
    // A run of more pictures than half the buffer takes would not find its place when the other half is used up.
    const std::int64_t most = std::max<std::int64_t>(1, std::min(summary_.pictures, mixed / (2 * one.size(1))));
    stream_.emplace(model_, *pictures_, used_, config_, mixed,
                    std::clamp<std::int64_t>(settings_.integer("pictures"), 1, most), seed_, options_.peers,
                    one.size(1));
    summary_.buffer_bytes = stream_->bytes();

    ConceptObjective& objective = steps_options_.objective;
    objective.convention = settings_.text("convention");
    objective.sparsity = settings_.number("sparsity");
    objective.form = settings_.text("form");
    objective.band = settings_.number("band");
    objective.pull = settings_.number("pull");
    objective.revive = settings_.text("revive");
    objective.revive_k = settings_.integer("revive_k");
    objective.revive_weight = settings_.number("revive_weight");
    steps_options_.start = settings_.text("start");
    steps_options_.unit_rows = settings_.text("rows") == "unit";
    steps_options_.threshold_rate = settings_.number("threshold_rate");
    steps_options_.learning_rate = settings_.number("lr");
    steps_options_.last_share = settings_.number("lr_end");
    steps_options_.epsilon = settings_.number("epsilon");
    steps_options_.clip = settings_.number("clip");
    steps_options_.steps = count_;
    steps_options_.warmup = std::min(settings_.integer("warmup"), count_ / 2);
    steps_options_.prefixes = settings_.integer("prefixes");
    steps_options_.dead_window = settings_.integer("dead_steps") * batch_;
    if (steps_options_.dead_window == 0) steps_options_.dead_window = settings_.integer("dead_tokens");
    if (steps_options_.dead_window == 0) steps_options_.dead_window = std::min(kDeadTokens, count_ * batch_ / 8);
    steps_options_.seed = seed_;
    steps_options_.peers = options_.peers;
    if (several() && is_factorisation())
        return fail(ErrorCode::Unsupported, "{} is fitted by one process; start it without the others", config_.kind);
    if (several() && (objective.convention == "prisma" || objective.revive == "ghost"))
        return fail(ErrorCode::Unsupported,
                    "Prisma's losses divide by what a whole batch is, which several processes do not share; use "
                    "another convention and revive=aux, or one process");
    if (several() && batch_ < options_.peers->count())
        return fail(ErrorCode::BadInput, "batch is {}, expected at least one token for each of {} processes", batch_,
                    options_.peers->count());
    summary_.products = model_.device().is_cuda() ? settings_.text("products") : "fp32";
    return {};
}

Status ConceptTraining::prepare() {
    VITRINE_CHECK(agree(settle()));
    if (is_factorisation()) return {};
    if (several())
        if (auto why = VITRINE_TRY(join_devices(*options_.peers, model_.device())); !why.empty())
            summary_.notes.push_back(std::move(why));
    VITRINE_CHECK(begin());
    return agree(resume());
}

/// A first look at the tokens, which a run that goes on takes as well: the bias and the variance come from it.
Status ConceptTraining::begin() {
    // saev's start is made of as many tokens as there are latents. They are trained on as well.
    const std::int64_t most = steps_options_.start == "saev" ? std::max(ConceptSteps::kMostOfStart, config_.latents)
                                                             : ConceptSteps::kMostOfStart;
    const auto sample = stream_->ahead(batch_, most, several() ? std::stop_token() : options_.stop);
    if (!sample) {
        if (several()) options_.peers->give_up(sample.error());
        return tl::make_unexpected(sample.error());
    }
    auto made = ConceptSteps::make(config_, steps_options_, *sample);
    VITRINE_CHECK(agree(made ? Status{} : tl::make_unexpected(made.error())));
    steps_.emplace(std::move(*made));
    config_ = steps_->autoencoder().config();
    return {};
}

nlohmann::json ConceptTraining::record() const {
    nlohmann::json out;
    for (const auto& p : settings_.declared()) out[p.name] = to_string(settings_.value(p.name));
    // A checkpoint from before there was this goes on.
    if (!shuffled_) out.erase("shuffled_weights");
    if (settings_.text("rung") == "clean") out.erase("rung");
    out["point"] = config_.point;
    out["latents"] = std::to_string(config_.latents);
    out["steps"] = std::to_string(count_);
    out["model"] = model_.info().name;
    out["weights"] = model_identity(model_);
    // Said before the number, which tells nobody what is other.
    if (const std::string changes = changes_of(model_); !changes.empty()) out["steered"] = changes;
    return out;
}

Status ConceptTraining::write_checkpoint() {
    if (!first()) return {};
    NamedTensors tensors = steps_->state();
    tensors.emplace_back("buffer", stream_->unread());
    at::Tensor curve = at::empty({static_cast<std::int64_t>(summary_.curve.size()), 7});
    std::memcpy(curve.mutable_data_ptr<float>(), summary_.curve.data(),
                summary_.curve.size() * sizeof(summary_.curve[0]));
    tensors.emplace_back("curve", curve);
    tensors.emplace_back("pictures", pictures_->identities());
    return write_tensors(checkpoint_file(), tensors,
                         {{"format", kCheckpointFormat},
                          {"step", std::to_string(steps_->steps_taken())},
                          {"picture", std::to_string(stream_->picture())},
                          {"fills", std::to_string(stream_->fills())},
                          {"skipped", stream_->skipped_record().dump()},
                          {"settings", json_text(record())}});
}

Status ConceptTraining::resume() {
    const CheckpointWanted wanted{kCheckpointFormat, "concepts", json_text(record()), free_settings(), count_};
    const auto found = VITRINE_TRY(read_training_checkpoint(checkpoint_file(), wanted));
    if (!found) return {};
    const auto tensor = [&](const char* name) {
        for (const auto& [given, value] : found->state)
            if (given == name) return value;
        return at::Tensor();
    };
    const at::Tensor buffer = tensor("buffer"), curve = tensor("curve"), pictures = tensor("pictures");
    if (pictures.defined() && pictures.dim() == 2 && pictures.size(0) == 2 && pictures.scalar_type() == at::kFloat)
        if (const std::string changes = pictures_->changes_since(pictures); !changes.empty())
            return fail(ErrorCode::BadInput,
                        "{} is not as it was when {} began: {}; trained pictures could become held-out ones: bring the "
                        "folder back, or remove the checkpoint to start anew",
                        options_.data.string(), checkpoint_file().string(), changes);
    const Status restored = steps_->restore(found->state, found->step);
    if (!restored || !buffer.defined() || !pictures.defined() ||
        !stream_->restore(buffer, found->whole("picture"), found->whole("fills")) ||
        !stream_->restore_skipped(nlohmann::json::parse(found->fact("skipped"), nullptr, false)) || !curve.defined() ||
        curve.dim() != 2 || curve.size(0) != found->step || curve.size(1) != 7 || curve.scalar_type() != at::kFloat)
        return fail(ErrorCode::BadInput, "{} is broken or of other concepts; remove it to start anew",
                    checkpoint_file().string());
    summary_.curve.resize(static_cast<std::size_t>(found->step));
    const at::Tensor host = curve.contiguous();
    std::memcpy(summary_.curve.data(), host.const_data_ptr<float>(), summary_.curve.size() * sizeof(summary_.curve[0]));
    summary_.notes.push_back(fmt::format("resumed at step {} of {}", found->step, count_));
    return {};
}

Status ConceptTraining::report(std::string note) {
    if (waiting_.empty() && note.empty()) return {};
    ConceptStep now;
    now.step = steps_->steps_taken();
    now.steps = count_;
    now.tokens = now.step * batch_;
    now.note = std::move(note);
    now.learning_rate = learning_rate_at(std::max<std::int64_t>(0, now.step - 1), count_, steps_options_.warmup,
                                         steps_options_.learning_rate, steps_options_.last_share);
    std::array<double, 7> mean{};
    if (!waiting_.empty()) {
        const at::Tensor figures = at::stack(waiting_).to(at::kCPU).contiguous();
        const auto* value = figures.const_data_ptr<float>();
        for (std::int64_t i = 0; i < figures.size(0); ++i, value += 7) {
            auto& row = summary_.curve.emplace_back();
            std::copy(value, value + 7, row.begin());
            for (std::size_t k = 0; k < 7; ++k) mean[k] += row[k] / static_cast<double>(figures.size(0));
        }
        waiting_.clear();
    } else if (!summary_.curve.empty()) {
        std::copy(summary_.curve.back().begin(), summary_.curve.back().end(), mean.begin());
    }
    now.total = mean[0], now.reconstruction = mean[1], now.sparsity = mean[2], now.revival = mean[3];
    now.explained_variance = mean[4], now.active = mean[5], now.dead = mean[6];
    // The figures are here, so the device has done these steps.
    for (const auto& [begin, end] : events_) stepping_ += begin.elapsedTime(end) / 1000;
    timed_ += std::ssize(events_);
    events_.clear();
    now.held = live_;
    now.held_step = live_step_;
    const double spent = std::chrono::duration<double>(Clock::now() - began_).count() - aside_;
    const auto taken = static_cast<double>(now.step - begun_at_);
    if (taken > 0 && spent > 0) {
        now.tokens_per_second = taken * static_cast<double>(batch_) / spent;
        now.seconds_left = spent / taken * static_cast<double>(count_ - now.step);
        summary_.tokens_per_second = now.tokens_per_second;
        if (stepping_ > 0)
            summary_.step_tokens_per_second = static_cast<double>(timed_) * static_cast<double>(batch_) / stepping_;
    }
    if (options_.progress && first()) options_.progress(now);
    reported_ = Clock::now();
    if (!std::isfinite(now.total))
        return fail(ErrorCode::BadInput, "the loss became {} by step {}; lower lr (now {})", now.total, now.step,
                    settings_.number("lr"));
    return {};
}

Result<ConceptTraining::Due> ConceptTraining::due() const {
    const auto elapsed = [](Clock::time_point since, double seconds) {
        return std::chrono::duration<double>(Clock::now() - since).count() >= seconds;
    };
    Due out{options_.stop.stop_requested(), elapsed(reported_, settings_.number("report_seconds")),
            elapsed(kept_, settings_.number("checkpoint_seconds"))};
    if (!several()) return out;
    std::array<double, 3> told{out.stop ? 1.0 : 0.0, out.report && first() ? 1.0 : 0.0,
                               out.checkpoint && first() ? 1.0 : 0.0};
    VITRINE_CHECK(options_.peers->sum(told));
    return Due{told[0] > 0, told[1] > 0, told[2] > 0};
}

Status ConceptTraining::take_step(const at::Tensor& tokens) {
    const FloatProducts products(summary_.products);
    const at::Device device = model_.device();
    const auto before = Clock::now();
    std::optional<c10::Event> begin;
    const auto mark = [&] {
        c10::Event event(device.type(), c10::EventFlag::BACKEND_DEFAULT);
        event.record(c10::impl::VirtualGuardImpl(device.type()).getStream(device));
        return event;
    };
    if (device.is_cuda()) begin.emplace(mark());
    // Steps that are recorded or were not yet are slower: the rate is that of those launched as graphs, where any are.
    const bool was_recorded = steps_->recorded();
    auto figures = guarded([&]() -> Result<at::Tensor> { return steps_->step(tokens); });
    if (!figures) {
        if (several()) options_.peers->give_up(figures.error());
        return tl::make_unexpected(figures.error());
    }
    waiting_.push_back(std::move(*figures));
    if (was_recorded && !summary_.recorded) {
        summary_.recorded = true;
        stepping_ = 0, timed_ = 0;
        events_.clear();
    }
    if (begin) {
        if (steps_->recorded() == was_recorded) events_.emplace_back(std::move(*begin), mark());
    } else {
        stepping_ += std::chrono::duration<double>(Clock::now() - before).count();
        ++timed_;
    }
    return {};
}

Result<TrainConceptsSummary> ConceptTraining::run() {
    began_ = reported_ = kept_ = Clock::now();
    begun_at_ = steps_->steps_taken();
    if (begun_at_ > 0) VITRINE_CHECK(report(summary_.notes.back()));
    const auto stopped = [&]() -> Result<TrainConceptsSummary> {
        VITRINE_CHECK(report(""));
        if (steps_->steps_taken() > 0) VITRINE_CHECK(agree(write_checkpoint()));
        VITRINE_CHECK(report("stopped, checkpoint written"));
        summary_.steps = steps_->steps_taken();
        count_pictures();
        return summary_;
    };
    const std::int64_t every = steps_between_looks(settings_.integer("held_every"), count_);
    bool stop = !several() && options_.stop.stop_requested();
    while (steps_->steps_taken() < count_) {
        if (stop) return stopped();
        // Several processes stop where all have heard of it, after a step; one also while it runs pictures.
        const auto tokens = stream_->next(batch_, several() ? std::stop_token() : options_.stop);
        if (!tokens) {
            if (tokens.error().code == ErrorCode::Cancelled) return stopped();
            if (several()) options_.peers->give_up(tokens.error());
            return tl::make_unexpected(tokens.error());
        }
        VITRINE_CHECK(take_step(*tokens));
        if (every > 0 && steps_->steps_taken() % every == 0 && steps_->steps_taken() < count_)
            VITRINE_CHECK(agree(first() ? look() : Status{}));
        const Due now = VITRINE_TRY(due());
        stop = now.stop;
        if (now.report) VITRINE_CHECK(agree(report("")));
        if (steps_->steps_taken() < count_ && now.checkpoint) {
            VITRINE_CHECK(agree(report("")));
            VITRINE_CHECK(agree(write_checkpoint()));
            kept_ = Clock::now();
        }
    }
    VITRINE_CHECK(agree(report("")));
    count_pictures();
    VITRINE_CHECK(agree(first() ? finish(steps_->autoencoder()) : Status{}));
    summary_.finished = true;
    summary_.steps = steps_->steps_taken();
    return summary_;
}

/// Some of the pictures held out, while it goes on. Nothing of it comes into the steps, so clocks may decide.
Status ConceptTraining::look() {
    if (held_.empty()) return {};
    const auto began = Clock::now();
    if (settings_.integer("held_every") == 0) {
        if (!options_.progress) return {};
        constexpr double kRuns = 3;  // as they are, with what the latents say in the place of tokens, and with zeros
        const double share = several() ? options_.peers->count() : 1;  // pictures that are run beside each
        const double expected =
            look_ > 0 ? look_ : kRuns * share * static_cast<double>(looked_at_.size()) * stream_->seconds_a_picture();
        const double spent = std::chrono::duration<double>(began - began_).count() - aside_;
        if (!has_time_to_look(spent, aside_, expected)) return {};
    }
    live_ = VITRINE_TRY(held_figures(steps_->autoencoder(), looked_at_));
    live_step_ = steps_->steps_taken();
    look_ = std::chrono::duration<double>(Clock::now() - began).count();
    aside_ += look_;
    return {};
}

Result<ConceptFigures> ConceptTraining::held_figures(const Autoencoder& autoencoder,
                                                     const std::vector<std::int64_t>& which) {
    const auto pixels = [&](std::int64_t i) { return pictures_->pixels(which[static_cast<std::size_t>(i)]); };
    return concept_figures(model_, autoencoder, std::ssize(which), pixels);
}

/// The ceiling of a step: its whole products, and the codes before the activation by way of a copy. Of several
/// processes each has its part of a batch.
void ConceptTraining::time_floor() {
    const std::int64_t repetitions = settings_.integer("floor");
    if (repetitions == 0 || !steps_) return;
    const auto timed = guarded([&]() -> Status {
        const at::NoGradGuard no_grad;
        const FloatProducts products(summary_.products);
        const auto options = at::TensorOptions().device(model_.device()).dtype(at::kFloat);
        const std::int64_t count = several() ? options_.peers->count() : 1, n = (batch_ + count - 1) / count;
        const std::int64_t d = config_.width, m = config_.latents;
        const bool listed = steps_->listed();
        const int decodes = config_.kind == "gated" ? 2 : 1;  // the gate's own loss decodes what passed it
        summary_.floor_products = listed ? 1 : 2 + 3 * decodes;
        const at::Tensor x = at::rand({n, d}, options), encoder = at::rand({d, m}, options), decoder = encoder.t();
        // What comes out has its place, so that no allocation is timed.
        at::Tensor before = at::empty({n, m}, options), copy = at::empty_like(before), said, rows, slope;
        if (!listed)
            said = at::empty({n, d}, options), rows = at::empty({m, d}, options), slope = at::empty({d, m}, options);
        const auto pass = [&] {
            const auto began = Clock::now();
            at::matmul_out(before, x, encoder);
            copy.copy_(before);
            if (!listed) {
                copy.copy_(before);
                for (int i = 0; i < decodes; ++i) {
                    at::matmul_out(said, before, decoder);
                    at::matmul_out(rows, before.t(), x);
                    at::matmul_out(copy, x, encoder);
                }
                at::matmul_out(slope, x.t(), before);
            }
            synchronize(model_.device());
            return std::chrono::duration<double>(Clock::now() - began).count();
        };
        double seconds = pass();  // the first is slower, and stands only where more would take long
        if (seconds < kLongPass) {
            seconds = 0;
            for (std::int64_t i = 0; i < repetitions; ++i) seconds += pass();
            seconds /= static_cast<double>(repetitions);
        }
        if (seconds > 0) summary_.floor_tokens_per_second = static_cast<double>(batch_) / seconds;
        return {};
    });
    if (!timed) summary_.notes.push_back("what the steps cannot exceed was not timed: " + timed.error().message);
}

Error ConceptTraining::short_of_memory(Error raw) const {
    if (raw.code != ErrorCode::OutOfMemory || batch_ < 1 || !stream_) return raw;
    constexpr double kGigabyte = 1e9, kFloat = 4;
    const auto m = static_cast<double>(config_.latents), d = static_cast<double>(config_.width);
    const double buffer = static_cast<double>(stream_->bytes()) / kGigabyte;
    const auto gigabytes = [](double numbers) { return numbers * kFloat / kGigabyte; };
    // Encoder and decoder, their gradients and Adam's two moments; of the codes of a batch before and after their
    // activation, with gradients, lists keep the first alone.
    const bool chooses = config_.kind == "top_k" || config_.kind == "batch_top_k";
    const double weights = gigabytes(2 * m * d * (is_factorisation() ? 1 : 4)),
                 codes = is_factorisation() ? 0 : gigabytes(static_cast<double>(batch_) * m * (chooses ? 1 : 4));
    const bool of_weights = weights >= codes && weights >= buffer, of_codes = !of_weights && codes >= buffer;
    raw.message = fmt::format(
        "there is not enough memory: about {:.1f} GB are needed, {:.1f} for {} latents of {} numbers{}, {:.1f} for the "
        "tokens that are mixed, and what the model takes for the pictures it runs at once; lower {}",
        weights + codes + buffer, weights, config_.latents, config_.width,
        codes > 0 ? fmt::format(", {:.1f} for the codes of a batch of {}", codes, batch_) : "", buffer,
        of_weights ? "latents"
        : of_codes ? "batch or latents"
                   : "buffer or pictures");
    return raw;
}

/// Those that could not be read were not trained on.
void ConceptTraining::count_pictures() {
    summary_.skipped = stream_->skipped();
    summary_.pictures = std::ssize(used_) - std::ssize(stream_->broken());
}

Result<TrainConceptsSummary> ConceptTraining::factorise() {
    std::error_code ignored;
    if (fs::exists(checkpoint_file(), ignored))
        return fail(ErrorCode::BadInput, "{} is of a training that was stopped; end it, remove it or write elsewhere",
                    checkpoint_file().string());
    batch_ = stream_->tokens();
    FactorOptions options;
    if (settings_.integer("steps") > 0) options.iterations = settings_.integer("steps");
    options.from_least = settings_.text("negative") == "shift";
    options.seed = seed_;
    options.stop = options_.stop;
    count_ = 1;
    began_ = reported_ = Clock::now();
    ConceptStep now;
    now.steps = options.iterations;
    now.tokens = batch_;
    options.progress = [&](std::int64_t iteration) {
        now.step = iteration;
        now.note = fmt::format("of {} on {} tokens", config_.kind, batch_);
        if (options_.progress &&
            std::chrono::duration<double>(Clock::now() - reported_).count() >= settings_.number("report_seconds")) {
            options_.progress(now);
            reported_ = Clock::now();
        }
    };
    const at::Tensor tokens = VITRINE_TRY(stream_->next(batch_, options_.stop));
    Autoencoder made = VITRINE_TRY(fit_factors(config_, tokens, options));
    count_pictures();
    VITRINE_CHECK(finish(made));
    summary_.notes.push_back(made.facts["fitted"]);
    summary_.finished = true;
    summary_.steps = now.step;
    return summary_;
}

Status ConceptTraining::finish(Autoencoder& made) {
    if (made.config().weigh_by_decoder) VITRINE_CHECK(fold_decoder_norms(made));
    if (!held_.empty()) summary_.held = VITRINE_TRY(held_figures(made, held_));
    summary_.skipped.insert(summary_.skipped.end(), summary_.held.skipped.begin(), summary_.held.skipped.end());
    summary_.tokens = count_ * batch_;
    const ConceptFigures& held = summary_.held;
    made.facts["model"] = bytes::to_utf8(model_.info().name);
    made.facts["weights"] = weights_hash(model_);
    // Concepts of steered activations: they are read on the same weights, but are not those of the model as it is.
    if (const std::string steering = steering_identity(model_); !steering.empty()) {
        made.facts["steering"] = steering;
        made.facts["steered"] = changes_of(model_);
    }
    if (shuffled_) made.facts["shuffled_weights"] = settings_.text("shuffled_weights");
    if (const std::string rung = settings_.text("rung"); rung != "clean") made.facts["rung"] = rung;
    nlohmann::json settings = record();
    for (const std::string& name : free_settings()) settings.erase(name);
    made.facts["settings"] = json_text(settings);
    made.facts["tokens_seen"] = std::to_string(summary_.tokens);
    nlohmann::json pictures{{"count", pictures_->count()},
                            {"trained", static_cast<std::uint64_t>(summary_.pictures)},
                            {"seed", seed_},
                            {"fingerprint", fingerprint_of(pictures_->keys())}};
    if (summary_.pictures <= kMostNamed) {
        std::string keys;
        for (const std::int64_t i : used_)
            if (stream_->broken().count(i) == 0) keys += short_key(pictures_->keys()[static_cast<std::size_t>(i)]);
        pictures["keys"] = keys;
    }
    made.facts["pictures"] = pictures.dump();
    if (held.pictures > 0) {
        nlohmann::json said{{"pictures", held.pictures},
                            {"explained_variance", held.explained_variance},
                            {"cosine", held.cosine},
                            {"active", held.active},
                            {"distinct", held.distinct},
                            {"never", held.never},
                            {"agreement", held.agreement},
                            {"divergence", held.divergence},
                            {"substitution", held.substitution}};
        for (const ConceptTokens& kind : held.kinds) said["explained_variance_of"][kind.name] = kind.explained_variance;
        made.facts["held"] = said.dump();
    }
    VITRINE_CHECK(made.save(options_.out));
    std::error_code ignored;
    // Names that lie there are of the concepts that were there before; these are others under the same numbers.
    if (const fs::path names = concept_names_file(options_.out); fs::exists(names, ignored)) {
        if (const auto aside = put_names_aside(names))
            summary_.notes.push_back(fmt::format("the names of the concepts that were in {} before are now in {}",
                                                 options_.out.filename().string(), aside->filename().string()));
    }
    summary_.size_bytes = static_cast<std::int64_t>(fs::file_size(options_.out, ignored));
    fs::remove(checkpoint_file(), ignored);
    time_floor();  // what fails now costs nothing
    return {};
}

}  // namespace

std::string trained_on(const Autoencoder& autoencoder, const PictureSet& pictures) {
    const auto fact = autoencoder.facts.find("pictures");
    if (fact == autoencoder.facts.end()) return {};
    const auto said = nlohmann::json::parse(fact->second, nullptr, false);
    if (!said.is_object() || !said.contains("fingerprint") || !said["fingerprint"].is_string() ||
        !said.contains("trained") || !said["trained"].is_number_unsigned())
        return {};
    const std::vector<std::uint64_t> here = keys_of(pictures);
    std::int64_t known = 0;
    if (said.contains("keys") && said["keys"].is_string()) {
        const std::string keys = said["keys"].get<std::string>();
        std::set<std::string> trained;
        for (std::size_t i = 0; i + 8 <= keys.size(); i += 8) trained.insert(keys.substr(i, 8));
        known = std::count_if(here.begin(), here.end(), [&](auto key) { return trained.count(short_key(key)) > 0; });
    } else if (fingerprint_of(here) == said["fingerprint"].get<std::string>()) {
        known = said["trained"].get<std::int64_t>();
    } else {
        return "whether these pictures were trained on is not known: of more than 10,000 the file keeps no list";
    }
    return known == 0 ? fmt::format("none of these {} pictures was trained on, by their names and sizes", here.size())
                      : fmt::format("{} of these {} pictures were trained on", known, here.size());
}

Result<TrainConceptsSummary> train_concepts(Model& model, const TrainConceptsOptions& options) {
    ConceptTraining training(model, options);
    auto trained = guarded([&]() -> Result<TrainConceptsSummary> {
        if (const Status prepared = training.prepare(); !prepared) {
            // Stopped while the first tokens were gathered: nothing is lost, and nothing is to be kept.
            if (prepared.error().code == ErrorCode::Cancelled) return TrainConceptsSummary{};
            return tl::make_unexpected(prepared.error());
        }
        return training.is_factorisation() ? training.factorise() : training.run();
    });
    if (!trained) return tl::make_unexpected(training.short_of_memory(std::move(trained.error())));
    return trained;
}

}  // namespace vitrine
