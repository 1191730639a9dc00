// Trains an attention module: draws pictures, runs the frozen model with and without the mask, steps, keeps
// checkpoints.
#include <vitrine/train_mask.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cmath>
#include <cstring>
#include <numeric>
#include <sstream>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/argmax.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/index.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/quantile.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/upsample_bilinear2d.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <fmt/ranges.h>
#include <nlohmann/json.hpp>

#include <vitrine/base/bytes.h>
#include <vitrine/base/json_text.h>
#include <vitrine/base/picture_files.h>
#include <vitrine/base/random.h>
#include <vitrine/base/readers.h>
#include <vitrine/capture.h>
#include <vitrine/checkpoint.h>
#include <vitrine/device.h>
#include <vitrine/device_sums.h>
#include <vitrine/model_identity.h>
#include <vitrine/pack.h>
#include <vitrine/steering.h>
#include <vitrine/torch_errors.h>
#include <vitrine/training_mode.h>

#include "augment.h"
#include "dataset.h"
#include "device_graph.h"
#include "mask_objective.h"
#include "parameters.h"
#include "shared_sums.h"
#include "tensor_io.h"
#include "text.h"
#include "training_checkpoint.h"

namespace vitrine {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

std::vector<Parameter> mask_parameters() {
    const auto number = number_parameter;
    const auto whole = whole_parameter;
    const auto words = words_parameter;
    const char* paper = "T-TAME";
    return {
        words("layers", "", "named points with commas between; empty: three, by architecture", {}, paper),
        words("version", "tame", "the module: tame, ttame (times the class token), ablations, or l_cam",
              mask_versions(), paper),
        words(
            "policy", "auto",
            "what a mask hides: black, mean (the mean colour), or auto: mean for models with patch tokens, else black",
            {"auto", "black", "mean"}, paper),
        words("masking", "random",
              "whose masks the area and the smoothness weigh: of all the batch's classes (random), or of the own one",
              {"random", "diagonal"}, paper),
        words("mode", "default",
              "default: the frozen model answers as always and smoothness is rescaled to a batch of 32; reference: the "
              "published run, the frozen model in training mode, no rescaling",
              {"default", "reference"}, paper),
        number("epochs", 8, "passes over all pictures", 0, 1e6, paper),
        whole("steps", 0, "optimiser steps; 0 takes them from epochs", "", ""),
        whole("batch", 32, "pictures a step", "pictures", paper),
        number("lr", 1e-3, "highest learning rate of the one cycle", 0, 10, paper),
        number("weight_decay", 5e-4, "decay of all but biases", 0, 1, paper),
        number("cross_entropy", 1.5, "weight of answering as for the whole picture", 0, 1000, paper),
        number("area", 2, "weight of the masks' area", 0, 1000, paper),
        number("smooth", 0.01, "weight of the masks' roughness", 0, 1000, paper),
        number("flip", 0.5, "chance of a mirrored picture", 0, 1, paper),
        number("held", 0.1, "share of the pictures that is held out and measured at the end", 0, 0.9, ""),
        whole(
            "best_every", 0,
            "steps between looks at the pictures held out; the mask with the least AD at 15 % is written. 0: the last "
            "step's, as published",
            "", paper),
        whole("side", 0, "side to which pictures are brought before a random crop; 0: 256 / 224 of the input's",
              "pixels", paper),
        whole("seed", 0, "every random choice follows from it", "", ""),
        whole("preview_every", 25, "steps between previews", "", ""),
        number("checkpoint_seconds", 30, "seconds between checkpoints", 0, 1e6, ""),
        number("report_seconds", 1, "seconds between reports; 0: every step", 0, 1e6, ""),
        whole("floor", 0, "repetitions of the passes alone, timed beside the steps; 0: not timed", "", ""),
        words("precision", "fp16", "type of the written weights", {"fp16", "fp32"}, ""),
    };
}

namespace {

constexpr const char* kCheckpointFormat = "vitrine.mask.training";
constexpr std::uint64_t kOrder = 0x6d61736b, kCrop = 0x63726f70, kHeld = 0x68656c64;
constexpr std::int64_t kPatience = 100;  // steps with masks that hide all or nothing, before the run gives up
constexpr std::int64_t kAhead = 64, kBeforeRecording = 2;  // steps

class MaskTraining {
  public:
    MaskTraining(Model& model, const TrainMaskOptions& options)
        : model_(model), options_(options), settings_(mask_parameters()) {}

    Status prepare();
    Result<TrainMaskSummary> run();

  private:
    /// What is due after a step. Clocks differ, so process 0 tells the others.
    struct Due {
        bool stop = false, report = false, checkpoint = false;
    };

    /// Where a view lies in a picture.
    struct Cut {
        std::int64_t picture, top, left, mirrored;
    };

    Status settle();
    Status open_pictures();
    Status begin();
    Status compare();
    Status resume_if_there();
    Status write_checkpoint();
    Status write_mask();
    Status finish();
    std::string record() const;
    std::vector<Cut> cuts_of(std::int64_t step);
    at::Tensor to_device(const std::vector<Cut>& cuts) const;
    at::Tensor next_cuts(std::int64_t step);
    at::Tensor pieces(const at::Tensor& cuts) const;
    NamedTensors state() const;
    at::Tensor centred(const std::vector<std::int64_t>& pictures) const;
    std::vector<std::int64_t> drawn(std::int64_t step);
    std::vector<std::int64_t> share_of(const std::vector<std::int64_t>& batch) const;
    RunOfStep run_of_step() const;
    Status step(Due& due);
    Status look();
    Result<MaskFigures> held_figures();
    void share_gradients(at::Tensor& figures, Due& due);
    Status time_floor();
    Status record_step(const at::Tensor& cuts);
    Result<at::Tensor> pass(const at::Tensor& cuts, Due* due);
    bool several() const { return options_.peers != nullptr && options_.peers->count() > 1; }
    bool first() const { return !several() || options_.peers->rank() == 0; }
    Status agree(const Status& mine) const { return several() ? options_.peers->agree(mine) : mine; }
    fs::path checkpoint_file() const { return options_.out.string() + ".checkpoint"; }
    fs::path picture_file() const { return options_.out.string() + ".pictures"; }

    Model& model_;
    const TrainMaskOptions& options_;
    Settings settings_;
    MaskConfig config_;
    MaskPolicy policy_ = MaskPolicy::Black;
    MaskWeights weights_;
    std::optional<TrainingMode> frozen_;  // of mode=reference
    std::optional<MaskModule> mask_;
    std::string identity_;  // of the model
    std::unique_ptr<MaskSgd> optimizer_;
    OneCycle schedule_;
    at::Tensor images_;  // uint8 [n, side, side, 3], on the model's device
    std::vector<std::int64_t> used_, held_;
    std::vector<std::int64_t> order_;
    std::int64_t order_round_ = -1;
    at::Device device_ = at::kCPU;
    at::ScalarType type_ = at::kFloat;
    std::uint64_t seed_ = 0;
    std::int64_t batch_ = 0, steps_ = 0, step_ = 0, height_ = 0, width_ = 0, collapsed_ = 0;
    double rescale_ = 1;
    bool reference_ = false, random_ = true;
    TrainMaskSummary summary_;
    std::vector<at::Tensor> waiting_;
    std::optional<DeviceGraph> graph_, floor_graph_;
    at::Tensor floor_pixels_;
    at::Tensor recorded_cuts_, recorded_figures_;  // what the recorded step reads and gives
    bool not_recorded_ = false;
    std::int64_t stepped_ = 0;  // in this run
    at::Tensor ahead_;  // int64 [kAhead, this process's batch, 4] on the device: cuts of the steps from ahead_from_
    std::int64_t ahead_from_ = 0;
    at::Tensor mean_, std_;  // [1, 3, 1, 1]
    double floor_seconds_ = 0, recorded_floor_seconds_ = 0, aside_seconds_ = 0;
    double agreement_ = 0;  // of the last step that was read
    /// The mask with the least AD at 15 % of those that were looked at.
    struct Best {
        std::int64_t step = 0;
        double drop = 0;
        NamedTensors tensors;
    } best_;
    std::int64_t floor_count_ = 0;
};

Status MaskTraining::open_pictures() {
    const std::int64_t wanted = settings_.integer("side");
    const std::int64_t input = std::max(height_, width_);
    const std::int64_t side = wanted > 0 ? wanted : (input * 256 + 112) / 224;
    if (side < input)
        return fail(ErrorCode::BadInput, "side is {}, expected at least the model's input of {} pixels", side, input);
    std::error_code ignored;
    if (!fs::exists(options_.data, ignored))
        return fail(ErrorCode::NotFound, "there is nothing at {}", options_.data.string());
    std::vector<Pack> packs;
    if (!fs::is_directory(options_.data, ignored)) {
        packs.push_back(VITRINE_TRY(read_pack(options_.data)));
    } else {
        std::vector<fs::path> files;
        for (const auto& entry : fs::directory_iterator(options_.data, ignored))
            if (entry.path().extension() == ".safetensors" && other_format_of_ours(entry.path()).empty())
                files.push_back(entry.path());
        std::sort(files.begin(), files.end());
        for (const auto& file : files) packs.push_back(VITRINE_TRY(read_pack(file)));
    }
    if (packs.empty()) {
        // Decoded once: a run that goes on finds them beside its checkpoint.
        const std::string source =
            bytes::to_utf8(fmt::format("{} at {}", fs::weakly_canonical(options_.data, ignored).string(), side));
        if (auto kept = fs::exists(picture_file(), ignored) ? read_pack(picture_file())
                                                            : Result<Pack>(fail(ErrorCode::NotFound, "none"));
            kept && kept->source == source) {
            packs.push_back(std::move(*kept));
        } else {
            PackOptions packing;
            packing.folder = options_.data;
            packing.size = side;
            packing.unlabelled = true;
            packing.stop = options_.stop;
            packing.progress = options_.decoding;
            PackSummary found;
            Pack pack = VITRINE_TRY(pack_in_memory(packing, &found));
            summary_.skipped = std::move(found.skipped);
            pack.source = source;
            if (first()) VITRINE_CHECK(write_pack(picture_file(), pack));
            packs.push_back(std::move(pack));
        }
    }
    std::vector<at::Tensor> images;
    for (const Pack& pack : packs) {
        if (pack.size() < input)
            return fail(ErrorCode::BadInput, "the pack from {} has pictures of {} pixels, the model needs {}",
                        pack.source, pack.size(), input);
        if (pack.size() != packs.front().size())
            return fail(ErrorCode::BadInput, "the packs have pictures of {} and of {} pixels, expected one size",
                        packs.front().size(), pack.size());
        images.push_back(pack.images);
    }
    const auto channels = [&](const std::array<double, 3>& values) {
        return at::tensor({static_cast<float>(values[0]), static_cast<float>(values[1]), static_cast<float>(values[2])})
            .view({1, 3, 1, 1})
            .to(device_);
    };
    mean_ = channels(model_.preprocess().mean);
    std_ = channels(model_.preprocess().std);
    images_ = (images.size() == 1 ? images.front() : at::cat(images)).to(device_);
    const std::int64_t count = images_.size(0);
    const auto order = StepRandom(seed_, 0, kHeld).permutation(count);
    const auto held =
        std::min<std::int64_t>(count - 1, std::llround(settings_.number("held") * static_cast<double>(count)));
    held_.assign(order.begin(), order.begin() + held);
    used_.assign(order.begin() + held, order.end());
    std::sort(held_.begin(), held_.end());
    std::sort(used_.begin(), used_.end());
    summary_.pictures = static_cast<std::int64_t>(used_.size());
    return {};
}

Status MaskTraining::prepare() {
    VITRINE_CHECK(agree(settle()));
    // Process 0 decodes a folder, the others read what it wrote.
    VITRINE_CHECK(agree(first() ? open_pictures() : Status{}));
    VITRINE_CHECK(agree(first() ? Status{} : open_pictures()));
    if (several())
        if (auto why = VITRINE_TRY(join_devices(*options_.peers, device_)); !why.empty())
            summary_.notes.push_back(std::move(why));
    VITRINE_CHECK(agree(begin()));
    return several() ? compare() : Status{};
}

Status MaskTraining::settle() {
    if (options_.out.empty()) return fail(ErrorCode::BadInput, "training needs a file to write");
    if (first()) VITRINE_CHECK(can_train_into(options_.out));
    VITRINE_CHECK(settings_.set("seed", std::to_string(options_.seed)));
    std::vector<std::string> known;
    for (const Parameter& one : settings_.declared()) known.push_back(one.name);
    for (const auto& [name, value] : options_.settings) {
        if (std::find(known.begin(), known.end(), name) == known.end())
            return fail(ErrorCode::BadInput, "{}", no_setting(name, known, "train-mask"));
        VITRINE_CHECK(settings_.set(name, value));
    }
    if (model_.info().classes < 1)
        return fail(ErrorCode::Unsupported, "{} has no classes, whose masks would be trained", model_.info().name);
    seed_ = static_cast<std::uint64_t>(settings_.integer("seed"));
    batch_ = settings_.integer("batch");
    if (batch_ < 1) return fail(ErrorCode::BadInput, "batch is {}, expected at least 1", batch_);
    device_ = model_.device();
    if (const auto parameters = model_.parameters(); !parameters.empty()) {
        type_ = parameters.front().second.scalar_type();
        for (const auto& [name, tensor] : parameters) tensor.set_requires_grad(false);
    }
    height_ = model_.preprocess().input_height;
    width_ = model_.preprocess().input_width;
    reference_ = settings_.text("mode") == "reference";
    if (reference_ && !model_.is_native())
        return fail(ErrorCode::Unsupported,
                    "mode=reference runs the frozen model in training mode, and {} is a program that runs as it was "
                    "exported; use mode=default",
                    model_.info().name);
    if (reference_) {
        frozen_.emplace();
        frozen_->seed = seed_;
        frozen_->peers = options_.peers;
    }
    random_ = settings_.text("masking") == "random";
    const std::string policy = settings_.text("policy");
    policy_ = policy == "mean" || (policy == "auto" && model_.info().layers > 0) ? MaskPolicy::Mean : MaskPolicy::Black;
    weights_.cross_entropy = settings_.number("cross_entropy");
    weights_.area = settings_.number("area");
    weights_.smooth = settings_.number("smooth");

    config_.version = settings_.text("version");
    config_.classes = model_.info().classes;
    std::istringstream names(settings_.text("layers"));
    for (std::string name; std::getline(names, name, ',');) {
        name.erase(0, name.find_first_not_of(' '));
        name.erase(name.find_last_not_of(' ') + 1);
        if (!name.empty()) config_.layers.push_back(name);
    }
    if (config_.layers.empty()) config_.layers = VITRINE_TRY(mask_layers(model_, config_.version));
    // The published order is that of the run, whatever order was written.
    const auto points = model_.points();
    const auto place = [&](const std::string& name) {
        return std::find_if(points.begin(), points.end(), [&](const NamedPoint& p) { return p.name == name; }) -
               points.begin();
    };
    std::stable_sort(config_.layers.begin(), config_.layers.end(),
                     [&](const auto& a, const auto& b) { return place(a) < place(b); });
    summary_.layers = config_.layers;

    const at::Tensor nothing = at::zeros({1, 3, height_, width_}, at::TensorOptions().device(device_).dtype(type_));
    if (config_.reads_tokens())
        config_.prefix = static_cast<std::int64_t>(model_.layout(height_, width_).prefix.size());
    const InTrainingMode listing(frozen_ ? &*frozen_ : nullptr, {});
    const MaskFeatures seen = VITRINE_TRY(mask_features(model_, nothing, config_));
    if (frozen_ && !frozen_->refused.empty())
        return fail(ErrorCode::Unsupported, "mode=reference runs {} in training mode, and {}; use mode=default",
                    model_.info().name, frozen_->refused);
    for (const at::Tensor& map : seen.maps) {
        config_.channels.push_back(config_.channels_of(map));
        if (batch_ * map.numel() / map.size(0) / config_.channels_of(map) < 2)
            return fail(ErrorCode::BadInput,
                        "a batch of 1 has one number a channel in a 1 x 1 map, too few for a norm");
    }
    mask_ = VITRINE_TRY(MaskModule::make(config_, seed_));
    mask_->to(device_);
    if (frozen_) mask_->backbone = frozen_->statistics;  // the same tensors: they move with every step
    summary_.parameters = mask_->size();
    return {};
}

Status MaskTraining::begin() {
    batch_ = std::min(batch_, static_cast<std::int64_t>(used_.size()));
    if (several() && options_.peers->count() > batch_)
        return fail(ErrorCode::BadInput, "{} processes cannot share a batch of {}; start fewer or raise batch",
                    options_.peers->count(), batch_);
    // A sum over batch x batch masks divided by twice the batch grows with it.
    rescale_ = reference_ || !random_ ? 1 : 32.0 / static_cast<double>(batch_);
    steps_ = settings_.integer("steps");
    if (steps_ == 0)
        steps_ = std::max<std::int64_t>(1, std::llround(settings_.number("epochs") * static_cast<double>(used_.size()) /
                                                        static_cast<double>(batch_)));
    schedule_.peak = settings_.number("lr");
    schedule_.steps = steps_;
    optimizer_ = std::make_unique<MaskSgd>(mask_->parameters(), settings_.number("weight_decay"));

    mask_->facts = {{"model", bytes::to_utf8(model_.info().name)},
                    {"weights", weights_hash(model_)},
                    {"policy", policy_ == MaskPolicy::Mean ? "mean" : "black"},
                    {"input", fmt::format("{} x {}", height_, width_)},
                    {"settings", record()}};
    if (const std::string steering = steering_identity(model_); !steering.empty()) {
        mask_->facts["steering"] = steering;
        mask_->facts["steered"] = changes_of(model_);
    }
    identity_ = model_identity(model_);
    return resume_if_there();
}

/// Processes that disagree would train nonsense without a word.
Status MaskTraining::compare() {
    const auto count = static_cast<std::size_t>(options_.peers->count()),
               rank = static_cast<std::size_t>(options_.peers->rank());
    const std::uint64_t key = mix64(hash_of(record()) ^ hash_of(identity_));
    // Two numbers of 32 bits and a step each, which doubles hold.
    constexpr std::size_t kFacts = 3;
    std::vector<double> all(kFacts * count);
    all[kFacts * rank] = static_cast<double>(key >> 32U);
    all[kFacts * rank + 1] = static_cast<double>(key & 0xffffffffU);
    all[kFacts * rank + 2] = static_cast<double>(step_);
    VITRINE_CHECK(options_.peers->sum(all));
    for (std::size_t other = 1; other < count; ++other) {
        if (all[kFacts * other] != all[0] || all[kFacts * other + 1] != all[1])
            return fail(ErrorCode::BadInput,
                        "process {} has other settings, other weights or another number of pictures than process 0",
                        other);
        if (all[kFacts * other + 2] != all[2])
            return fail(ErrorCode::BadInput,
                        "process {} would go on at step {}, process 0 at step {}; --out must lie on a disk that all of "
                        "them see",
                        other, all[kFacts * other + 2], all[2]);
    }
    return {};
}

std::string MaskTraining::record() const {
    nlohmann::json out;
    for (const auto& p : settings_.declared()) out[p.name] = to_string(settings_.value(p.name));
    out["layers"] = fmt::format("{}", fmt::join(config_.layers, ","));
    out["batch"] = std::to_string(batch_);
    out["steps"] = std::to_string(steps_);
    out["pictures"] = std::to_string(used_.size());
    out["model"] = model_.info().name;
    return json_text(out);
}

std::vector<std::int64_t> MaskTraining::drawn(std::int64_t step) {
    const auto count = static_cast<std::int64_t>(used_.size());
    std::vector<std::int64_t> out;
    for (std::int64_t at = step * batch_; at < (step + 1) * batch_; ++at) {
        const std::int64_t round = at / count;
        if (round != order_round_) {
            order_ = StepRandom(seed_, static_cast<std::uint64_t>(round), kOrder).permutation(count);
            order_round_ = round;
        }
        out.push_back(used_[static_cast<std::size_t>(order_[static_cast<std::size_t>(at % count)])]);
    }
    return out;
}

at::Tensor MaskTraining::pieces(const at::Tensor& cuts) const {
    const std::int64_t n = cuts.size(0);
    const auto column = [&](std::int64_t c) { return cuts.select(1, c).view({n, 1, 1}); };
    const at::Tensor x = at::arange(width_, cuts.options()).view({1, 1, width_});
    const at::Tensor rows = column(1) + at::arange(height_, cuts.options()).view({1, height_, 1});
    const at::Tensor cols = column(2) + at::where(column(3).gt(0), width_ - 1 - x, x);
    const at::Tensor chosen = at::index(images_, {column(0), rows, cols});
    return (chosen.permute({0, 3, 1, 2}).to(at::kFloat) / 255.0 - mean_) / std_;
}

std::vector<MaskTraining::Cut> MaskTraining::cuts_of(std::int64_t step) {
    const std::int64_t side = images_.size(1);
    const auto round = static_cast<std::uint64_t>(step * batch_ / static_cast<std::int64_t>(used_.size()));
    std::vector<Cut> out;
    for (const std::int64_t picture : share_of(drawn(step))) {
        StepRandom random(seed_ + mix64(round), static_cast<std::uint64_t>(picture), kCrop);
        const std::int64_t top = random.below(side - height_ + 1), left = random.below(side - width_ + 1);
        out.push_back({picture, top, left, random.chance(settings_.number("flip")) ? 1 : 0});
    }
    return out;
}

at::Tensor MaskTraining::to_device(const std::vector<Cut>& cuts) const {
    static_assert(sizeof(Cut) == 4 * sizeof(std::int64_t));
    at::Tensor out = at::empty({static_cast<std::int64_t>(cuts.size()), 4}, at::kLong);
    std::memcpy(out.mutable_data_ptr<std::int64_t>(), cuts.data(), cuts.size() * sizeof(Cut));
    return out.to(device_);
}

at::Tensor MaskTraining::next_cuts(std::int64_t step) {
    // Several steps' cuts travel in one copy: each copy waits for the device.
    if (step < ahead_from_ || step >= ahead_from_ + kAhead || !ahead_.defined()) {
        std::vector<Cut> cuts;
        for (std::int64_t s = step; s < step + kAhead; ++s)
            for (const Cut& cut : cuts_of(s)) cuts.push_back(cut);
        ahead_ = to_device(cuts).view({kAhead, -1, 4});
        ahead_from_ = step;
    }
    return ahead_.select(0, step - ahead_from_);
}

at::Tensor MaskTraining::centred(const std::vector<std::int64_t>& pictures) const {
    const std::int64_t side = images_.size(1);
    std::vector<Cut> cuts;
    for (const std::int64_t picture : pictures) cuts.push_back({picture, (side - height_) / 2, (side - width_) / 2, 0});
    return pieces(to_device(cuts));
}

/// This process's part of a batch: as long as the others', or longer by one.
std::vector<std::int64_t> MaskTraining::share_of(const std::vector<std::int64_t>& batch) const {
    if (!several()) return batch;
    const auto count = static_cast<std::size_t>(options_.peers->count()),
               rank = static_cast<std::size_t>(options_.peers->rank());
    const auto at = [&](std::size_t r) {
        return batch.begin() + static_cast<std::ptrdiff_t>(batch.size() * r / count);
    };
    return {at(rank), at(rank + 1)};
}

/// Which of the batch's pictures this process has, for what the frozen model does in training mode.
RunOfStep MaskTraining::run_of_step() const {
    return {step_, several() ? batch_ * options_.peers->rank() / options_.peers->count() : 0, batch_};
}

Result<at::Tensor> MaskTraining::pass(const at::Tensor& cuts, Due* due) {
    const InTrainingMode scope(frozen_ ? &*frozen_ : nullptr, run_of_step());
    const at::Tensor pixels = pieces(cuts);
    const MaskFeatures seen = VITRINE_TRY(mask_features(model_, pixels.to(type_), config_));
    const at::Tensor classes = at::argmax(seen.answer, 1);
    // Every mask is trained on the classes of the whole batch, wherever they were predicted.
    at::Tensor of_batch = classes;
    std::int64_t from = 0;
    if (several()) {
        from = batch_ * options_.peers->rank() / options_.peers->count();
        of_batch = at::zeros({batch_}, classes.options());
        of_batch.narrow(0, from, classes.size(0)).copy_(classes);
        of_batch = shared_sum(of_batch, *options_.peers);
    }
    const at::AutoGradMode with_graph(true);
    // [this process's, batch, t, t]
    const at::Tensor all = at::sigmoid(mask_->logits(seen.maps, of_batch, /*training=*/true, options_.peers));
    const at::Tensor own = all.diagonal(from, 0, 1).permute({2, 0, 1}).unsqueeze(1);
    const at::Tensor seen_through = masked(pixels, own, policy_, model_.preprocess());
    const at::Tensor answer = model_.forward(seen_through.to(type_));
    const MaskLoss loss = mask_loss(answer, classes, random_ ? all : own, weights_, rescale_);
    // All terms are means over pictures, so the batch's is the sum of shares. One process has all and multiplies by 1.
    const double share = static_cast<double>(classes.size(0)) / static_cast<double>(batch_);
    (several() ? loss.total * share : loss.total).backward();
    const at::NoGradGuard no_grad;
    at::Tensor figures =
        at::stack({loss.total.detach(), loss.cross_entropy.detach(), loss.area.detach(), loss.smooth.detach(),
                   own.detach().mean(), at::argmax(answer.detach(), 1).eq(classes).to(at::kFloat).mean()});
    if (several()) {
        figures = figures * share;
        share_gradients(figures, *due);
    }
    optimizer_->apply();
    return figures;
}

Status MaskTraining::step(Due& due) {
    const at::Tensor cuts = next_cuts(step_);
    const auto [rate, momentum] = schedule_.at(step_);
    optimizer_->set(rate, momentum);
    ++stepped_;
    if (graph_) {
        recorded_cuts_.copy_(cuts);
        graph_->replay();
        waiting_.push_back(recorded_figures_.clone());
    } else if (stepped_ > kBeforeRecording && !not_recorded_ && !several() && !frozen_ && model_.is_native() &&
               graphs_allowed(device_)) {  // in training mode dropout is drawn anew on the CPU in every step
        VITRINE_CHECK(record_step(cuts));
    } else {
        waiting_.push_back(VITRINE_TRY(pass(cuts, &due)));
    }
    ++step_;
    return {};
}

/// Takes this step and records it for those to come: small models spend most of a step on launches.
Status MaskTraining::record_step(const at::Tensor& cuts) {
    recorded_cuts_ = cuts.clone();
    bool taken = false;
    auto graph = DeviceGraph::record(device_, [&]() -> Status {
        recorded_figures_ = at::Tensor();
        recorded_figures_ = VITRINE_TRY(pass(recorded_cuts_, nullptr));
        if (!taken) waiting_.push_back(recorded_figures_.clone());
        taken = true;
        return {};
    });
    // What ran before lies in memory that the recording cannot use.
    at::getDeviceAllocator(device_.type())->emptyCache();
    if (graph) {
        graph_.emplace(std::move(*graph));
        return {};
    }
    not_recorded_ = true;
    recorded_figures_ = at::Tensor();
    for (const auto& [name, tensor] : mask_->parameters())
        const_cast<at::Tensor&>(tensor).mutable_grad() = at::Tensor();
    if (!taken) waiting_.push_back(VITRINE_TRY(pass(cuts, nullptr)));
    return {};
}

/// Adds up gradients and figures over the processes, and says what is due, in one go.
void MaskTraining::share_gradients(at::Tensor& figures, Due& due) {
    std::vector<at::Tensor> flat{figures.to(at::kFloat)};
    for (const auto& [name, tensor] : mask_->parameters())
        if (tensor.grad().defined()) flat.push_back(tensor.grad().flatten());
    flat.push_back(
        at::tensor({due.stop ? 1.F : 0.F, due.report && first() ? 1.F : 0.F, due.checkpoint && first() ? 1.F : 0.F})
            .to(figures.device()));
    const at::Tensor sums = shared_sum(at::cat(flat), *options_.peers);
    figures = sums.narrow(0, 0, figures.numel()).clone();
    std::int64_t at = figures.numel();
    for (const auto& [name, tensor] : mask_->parameters()) {
        if (!tensor.grad().defined()) continue;
        tensor.mutable_grad() = sums.narrow(0, at, tensor.numel()).view(tensor.sizes());
        at += tensor.numel();
    }
    const at::Tensor told = sums.narrow(0, at, 3).to(at::kCPU).contiguous();
    const auto* value = told.const_data_ptr<float>();
    due = {value[0] > 0, value[1] > 0, value[2] > 0};
}

/// The frozen model's passes alone, as they come and, where steps are recorded, recorded as well.
Status MaskTraining::time_floor() {
    const auto entered = Clock::now();
    if (!floor_pixels_.defined()) floor_pixels_ = pieces(next_cuts(step_)).to(type_);
    const auto passes = [&]() -> Status {
        {
            const at::NoGradGuard no_grad;
            model_.forward(floor_pixels_);
        }
        const at::AutoGradMode with_graph(true);
        const at::Tensor leaf = floor_pixels_.detach().requires_grad_(true);
        model_.forward(leaf).sum().backward();
        return {};
    };
    const auto timed = [&](const std::function<Status()>& work, double& seconds) -> Status {
        synchronize(device_);
        const auto began = Clock::now();
        VITRINE_CHECK(work());
        synchronize(device_);
        seconds += std::chrono::duration<double>(Clock::now() - began).count();
        return {};
    };
    VITRINE_CHECK(timed(passes, floor_seconds_));
    ++floor_count_;
    if (graph_) {
        if (!floor_graph_) {
            floor_graph_.emplace(VITRINE_TRY(DeviceGraph::record(device_, passes)));
            at::getDeviceAllocator(device_.type())->emptyCache();
            floor_graph_->replay();
        }
        const auto again = [&]() -> Status {
            floor_graph_->replay();
            return {};
        };
        VITRINE_CHECK(timed(again, recorded_floor_seconds_));
    }
    aside_seconds_ += std::chrono::duration<double>(Clock::now() - entered).count();
    return {};
}

/// All that training changes in the mask, and in the frozen model's statistics: the tensors themselves.
NamedTensors MaskTraining::state() const {
    NamedTensors out = mask_->parameters();
    for (const auto& item : mask_->statistics()) out.push_back(item);
    if (frozen_)
        for (const auto& [name, tensor] : frozen_->statistics) out.emplace_back("backbone." + name, tensor);
    return out;
}

Result<MaskFigures> MaskTraining::held_figures() {
    return mask_figures(model_, *mask_, policy_, static_cast<std::int64_t>(held_.size()),
                        [&](std::int64_t from, std::int64_t count) {
                            return centred({held_.begin() + from, held_.begin() + from + count});
                        });
}

/// Keeps the mask if none before was as good on the pictures held out.
Status MaskTraining::look() {
    const auto began = Clock::now();
    if (!held_.empty()) {
        const double drop = VITRINE_TRY(held_figures()).average_drop[2];
        if (best_.step == 0 || drop < best_.drop) {
            best_ = {step_, drop, state()};
            for (auto& [name, tensor] : best_.tensors) tensor = tensor.detach().clone();
        }
    }
    aside_seconds_ += std::chrono::duration<double>(Clock::now() - began).count();
    return {};
}

Status MaskTraining::write_checkpoint() {
    if (!first()) return {};
    NamedTensors tensors = state();
    for (const auto& item : optimizer_->state()) tensors.push_back(item);
    for (const auto& [name, tensor] : best_.tensors) tensors.emplace_back("best." + name, tensor);
    at::Tensor curve = at::empty({static_cast<std::int64_t>(summary_.curve.size()), 5});
    std::memcpy(curve.mutable_data_ptr<float>(), summary_.curve.data(),
                summary_.curve.size() * sizeof(summary_.curve[0]));
    tensors.emplace_back("curve", curve);
    return write_tensors(checkpoint_file(), tensors,
                         {{"format", kCheckpointFormat},
                          {"step", std::to_string(step_)},
                          {"collapsed", std::to_string(collapsed_)},
                          {"agreement", fmt::format("{}", agreement_)},
                          {"best_step", std::to_string(best_.step)},
                          {"best_drop", fmt::format("{}", best_.drop)},
                          {"weights", identity_},
                          {"settings", record()}});
}

Status MaskTraining::resume_if_there() {
    const fs::path file = checkpoint_file();
    auto found = VITRINE_TRY(read_training_checkpoint(
        file, {.format = kCheckpointFormat,
               .of = "a mask",
               .settings = record(),
               .free = {"report_seconds", "checkpoint_seconds", "preview_every", "precision", "floor"},
               .steps = steps_}));
    if (!found) return {};
    if (found->fact("weights") != identity_)
        return fail(ErrorCode::BadInput,
                    "{} was trained for other weights of {} or for other concepts steered in it; remove it to start "
                    "anew",
                    file.string(), model_.info().name);
    const at::NoGradGuard no_grad;
    const NamedTensors own = state();
    std::size_t taken = 0;
    const at::Tensor* curve = nullptr;
    for (auto& [name, tensor] : found->state) {
        tensor = tensor.to(device_);
        if (name == "curve") curve = &tensor;
        if (name.starts_with("best.")) best_.tensors.emplace_back(name.substr(5), tensor);
        for (const auto& [key, to] : own)
            if (key == name && to.sizes() == tensor.sizes()) {
                const_cast<at::Tensor&>(to).copy_(tensor);
                ++taken;
            }
    }
    best_.step = found->whole("best_step");
    best_.drop = found->number("best_drop");
    const bool best_fits =
        best_.step <= 0 ? best_.tensors.empty()
                        : best_.step <= found->step && best_.tensors.size() == own.size() &&
                              std::all_of(best_.tensors.begin(), best_.tensors.end(), [&](const auto& item) {
                                  return std::any_of(own.begin(), own.end(), [&](const auto& other) {
                                      return other.first == item.first && other.second.sizes() == item.second.sizes();
                                  });
                              });
    if (found->step < 1 || taken != own.size() || !best_fits || !optimizer_->restore(found->state) ||
        curve == nullptr || curve->dim() != 2 || curve->size(0) != found->step || curve->size(1) != 5)
        return fail(ErrorCode::BadInput, "{} is broken or of another mask; remove it to start anew", file.string());
    step_ = found->step;
    collapsed_ = std::max<std::int64_t>(0, found->whole("collapsed"));
    agreement_ = found->number("agreement");
    summary_.curve.resize(static_cast<std::size_t>(step_));
    const at::Tensor host = curve->to(at::kCPU).contiguous();
    std::memcpy(summary_.curve.data(), host.const_data_ptr<float>(), summary_.curve.size() * sizeof(summary_.curve[0]));
    summary_.notes.push_back(fmt::format("resumed at step {} of {}", step_, steps_));
    return {};
}

Status MaskTraining::write_mask() {
    const auto& last =
        best_.step > 0 ? summary_.curve[static_cast<std::size_t>(best_.step - 1)] : summary_.curve.back();
    mask_->facts["losses"] = nlohmann::json{
        {"total", last[0]},
        {"cross_entropy", last[1]},
        {"area", last[2]},
        {"smooth", last[3]},
        {"coverage", last[4]}}.dump();
    if (summary_.held.pictures > 0)
        mask_->facts["held"] = nlohmann::json{{"pictures", summary_.held.pictures},
                                              {"agreement", summary_.held.agreement},
                                              {"coverage", summary_.held.coverage},
                                              {"average_drop", summary_.held.average_drop},
                                              {"increase_in_confidence", summary_.held.increase}}
                                   .dump();
    VITRINE_CHECK(mask_->save(options_.out, settings_.text("precision") == "fp32" ? at::kFloat : at::kHalf));
    std::error_code ignored;
    summary_.size_bytes = static_cast<std::int64_t>(fs::file_size(options_.out, ignored));
    return {};
}

Result<TrainMaskSummary> MaskTraining::run() {
    const auto began = Clock::now();
    auto reported = began, kept = began;
    const std::int64_t first_step = step_;
    double spent = 0;
    const std::int64_t preview_every = settings_.integer("preview_every"), floors = settings_.integer("floor"),
                       best_every = settings_.integer("best_every");
    // Figures stay on the device until someone asks: reading each would wait for each step.
    const auto gather = [&](std::string note) -> Status {
        if (waiting_.empty() && note.empty()) return {};
        MaskStep now;
        now.step = step_;
        now.steps = steps_;
        now.note = std::move(note);
        now.learning_rate = schedule_.at(std::max<std::int64_t>(0, step_ - 1)).first;
        if (!waiting_.empty()) {
            const at::Tensor figures = at::stack(waiting_).to(at::kCPU).contiguous();
            const auto* value = figures.const_data_ptr<float>();
            for (std::int64_t i = 0; i < figures.size(0); ++i, value += 6) {
                summary_.curve.push_back({value[0], value[1], value[2], value[3], value[4]});
                collapsed_ = value[4] < 0.02F || value[4] > 0.98F ? collapsed_ + 1 : 0;
                agreement_ = value[5];
            }
            const at::Tensor mean = figures.mean(0);
            const auto* of = mean.const_data_ptr<float>();
            now.total = of[0], now.cross_entropy = of[1], now.area = of[2], now.smooth = of[3], now.coverage = of[4],
            now.agreement = of[5];
            waiting_.clear();
        } else if (!summary_.curve.empty()) {  // nothing new: the last step's, as after resuming
            const auto& of = summary_.curve.back();
            now.total = of[0], now.cross_entropy = of[1], now.area = of[2], now.smooth = of[3], now.coverage = of[4];
            now.agreement = agreement_;
        }
        spent = std::chrono::duration<double>(Clock::now() - began).count() - aside_seconds_;
        if (step_ > first_step && spent > 0) {
            now.pictures_per_second = static_cast<double>((step_ - first_step) * batch_) / spent;
            now.seconds_left = spent / static_cast<double>(step_ - first_step) * static_cast<double>(steps_ - step_);
        }
        summary_.pictures_per_second = now.pictures_per_second;
        if (options_.progress && first()) options_.progress(now);
        reported = Clock::now();
        if (!std::isfinite(now.total))
            return fail(ErrorCode::BadInput, "the loss became {} by step {}; lower the learning rate (now {})",
                        now.total, step_, settings_.number("lr"));
        if (collapsed_ >= kPatience)
            return fail(ErrorCode::BadInput,
                        "for {} steps the masks have covered {:.1f} % of the pictures: they hide all or nothing; try "
                        "another policy (now {}), a lower learning rate or another weight of area",
                        collapsed_, 100 * now.coverage, mask_->facts["policy"]);
        return {};
    };
    if (step_ > 0) VITRINE_CHECK(gather(summary_.notes.back()));
    bool stop = false;
    while (step_ < steps_) {
        // Several processes stop where all have heard of it, after a step.
        if (several() ? stop : options_.stop.stop_requested()) {
            VITRINE_CHECK(gather(""));
            if (step_ > 0) VITRINE_CHECK(agree(write_checkpoint()));
            VITRINE_CHECK(gather("stopped, checkpoint written"));
            summary_.steps = step_;
            return summary_;
        }
        const auto elapsed = [](Clock::time_point since, double seconds) {
            return std::chrono::duration<double>(Clock::now() - since).count() >= seconds;
        };
        const auto is_due = [&] {
            return Due{options_.stop.stop_requested(), elapsed(reported, settings_.number("report_seconds")),
                       elapsed(kept, settings_.number("checkpoint_seconds"))};
        };
        Due due = is_due();
        if (const Status stepped = step(due); !stepped) {
            if (several()) options_.peers->give_up(stepped.error());
            return tl::make_unexpected(stepped.error());
        }
        if (floor_count_ < floors && step_ > first_step + kBeforeRecording + 1) VITRINE_CHECK(time_floor());
        if (!several()) due = is_due();
        if (best_every > 0 && (step_ % best_every == 0 || step_ == steps_))
            VITRINE_CHECK(agree(first() ? look() : Status{}));
        stop = due.stop;
        if (due.report) VITRINE_CHECK(gather(""));
        if (options_.preview && first() && preview_every > 0 && step_ % preview_every == 0)
            options_.preview(*mask_, step_);
        if (step_ < steps_ && due.checkpoint) {
            VITRINE_CHECK(gather(""));
            VITRINE_CHECK(agree(write_checkpoint()));
            kept = Clock::now();
        }
    }
    synchronize(device_);
    VITRINE_CHECK(gather(""));
    if (floor_count_ > 0)
        summary_.floor_pictures_per_second = static_cast<double>(floor_count_ * batch_) / floor_seconds_;
    if (recorded_floor_seconds_ > 0)
        summary_.recorded_floor_pictures_per_second =
            static_cast<double>(floor_count_ * batch_) / recorded_floor_seconds_;
    VITRINE_CHECK(agree(first() ? finish() : Status{}));
    summary_.finished = true;
    summary_.steps = step_;
    return summary_;
}

/// Measures the mask on the pictures held out and writes it.
Status MaskTraining::finish() {
    if (best_.step > 0) {
        const at::NoGradGuard no_grad;
        for (const auto& [name, to] : state())
            for (const auto& [kept, from] : best_.tensors)
                if (kept == name) const_cast<at::Tensor&>(to).copy_(from);
        summary_.best_step = best_.step;
        summary_.notes.push_back(fmt::format("step {} of {} was written, where AD at 15 % was least: {:.2f} %",
                                             best_.step, steps_, best_.drop));
    }
    if (!held_.empty()) summary_.held = VITRINE_TRY(held_figures());
    VITRINE_CHECK(write_mask());
    std::error_code ignored;
    fs::remove(checkpoint_file(), ignored);
    fs::remove(picture_file(), ignored);
    return {};
}

}  // namespace

Result<MaskFigures> mask_figures(Model& model, const MaskModule& mask, MaskPolicy policy, std::int64_t count,
                                 const std::function<at::Tensor(std::int64_t from, std::int64_t count)>& pixels) {
    return guarded([&]() -> Result<MaskFigures> {
        const at::NoGradGuard no_grad;
        MaskFigures out;
        out.pictures = count;
        const auto parameters = model.parameters();
        const at::ScalarType type = parameters.empty() ? at::kFloat : parameters.front().second.scalar_type();
        constexpr std::array<double, 3> kHidden{0.0, 0.5, 0.85};
        constexpr std::int64_t kPiece = 32;
        for (std::int64_t from = 0; from < count; from += kPiece) {
            const std::int64_t n = std::min(kPiece, count - from);
            const at::Tensor pictures = pixels(from, n);
            MaskFeatures seen;
            {
                const WithStatistics scope(mask.backbone);
                seen = VITRINE_TRY(mask_features(model, pictures.to(type), mask.config()));
            }
            // What is measured is the model as it was opened.
            if (!mask.backbone.empty()) seen.answer = model.forward(pictures.to(type)).to(at::kFloat);
            const at::Tensor classes = at::argmax(seen.answer, 1, true);
            const at::Tensor whole = at::softmax(seen.answer, 1).gather(1, classes);
            // Only the rows that are looked at.
            const at::Tensor all = mask.logits(seen.maps, classes.flatten());
            const at::Tensor c = all.diagonal(0, 0, 1).permute({2, 0, 1}).unsqueeze(1), a = at::sigmoid(c);
            out.coverage += a.mean().item<double>() * static_cast<double>(n);
            const auto answer = [&](const at::Tensor& x) { return model.forward(x.to(type)).to(at::kFloat); };
            out.agreement += at::argmax(answer(masked(pictures, a, policy, model.preprocess())), 1, true)
                                 .eq(classes)
                                 .sum()
                                 .item<double>();
            const at::Tensor map =
                at::upsample_bilinear2d(min_max(c), {pictures.size(2), pictures.size(3)}, /*align_corners=*/false);
            for (std::size_t k = 0; k < kHidden.size(); ++k) {
                at::Tensor shown = map;
                if (kHidden[k] > 0) {
                    const at::Tensor floor =
                        at::quantile(map.flatten(1), kHidden[k], 1, true).unsqueeze(-1).unsqueeze(-1);
                    shown = at::where(map < floor, at::zeros_like(map), map);
                }
                const at::Tensor p =
                    at::softmax(answer(masked(pictures, shown, MaskPolicy::Black, model.preprocess())), 1)
                        .gather(1, classes);
                out.average_drop[k] += 100 * ((whole - p).clamp_min(0) / whole).sum().item<double>();
                out.increase[k] += 100 * (p > whole).sum().item<double>();
            }
        }
        const auto n = static_cast<double>(std::max<std::int64_t>(1, count));
        out.agreement /= n;
        out.coverage /= n;
        for (auto* list : {&out.average_drop, &out.increase})
            for (double& value : *list) value /= n;
        return out;
    });
}

Result<TrainMaskSummary> train_mask(Model& model, const TrainMaskOptions& options) {
    return guarded([&]() -> Result<TrainMaskSummary> {
        try {
            MaskTraining training(model, options);
            VITRINE_CHECK(training.prepare());
            return training.run();
        } catch (...) {
            if (options.peers != nullptr && options.peers->count() > 1)
                options.peers->give_up(current_exception_error());
            throw;
        }
    });
}

}  // namespace vitrine
