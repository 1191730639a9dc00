// Trains a classifier: draws and augments batches on the device, distils from teachers, steps, measures, keeps
// checkpoints, writes the model.
#include <vitrine/train.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <tuple>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Context.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/argmax.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/full.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <vitrine/base/file.h>
#include <vitrine/base/json_text.h>
#include <vitrine/base/readers.h>
#include <vitrine/device.h>
#include <vitrine/engine.h>
#include <vitrine/registry.h>

#include <vitrine/torch_errors.h>
#include "augment.h"
#include "dataset.h"
#include "intercept.h"
#include "optimizer.h"
#include "tensor_io.h"
#include "text.h"
#include "training_checkpoint.h"

namespace vitrine {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

namespace {

constexpr const char* kCheckpointFormat = "vitrine.training";

Parameter number(std::string name, double standard, std::string meaning, std::optional<double> low,
                 std::optional<double> high, std::string source = "") {
    return {std::move(name), standard, std::move(meaning), "", std::move(source), low, high, {}};
}
Parameter whole_number(std::string name, std::int64_t standard, std::string meaning, std::optional<double> low,
                       std::string unit = "") {
    return {std::move(name), standard, std::move(meaning), std::move(unit), "", low, std::nullopt, {}};
}
Parameter words(std::string name, std::string standard, std::string meaning, std::vector<std::string> choices = {}) {
    return {std::move(name), std::move(standard), std::move(meaning), "", "",
            std::nullopt,    std::nullopt,        std::move(choices)};
}

}  // namespace

std::vector<Parameter> train_parameters() {
    const AugmentOptions a;
    return {
        number("epochs", 100, "passes over all pictures", 0.0, std::nullopt),
        whole_number("steps", 0, "optimiser steps; 0 takes them from epochs", 0),
        whole_number("batch", 512, "pictures a step", 1, "pictures"),
        words("share", "",
              "how often each set is drawn, numbers with commas between; empty: by its number of pictures"),
        whole_number("seed", 0, "every random choice follows from it", 0),
        number("lr", 1e-3, "highest learning rate", 0.0, 10.0),
        number("lr_floor", 0.01, "last learning rate as a share of the highest", 0.0, 1.0),
        number("warmup", 0.05, "share of the steps over which the learning rate rises", 0.0, 1.0),
        words("optimizer", "adamw", "adamw, or muon for the matrices inside the blocks", {"adamw", "muon"}),
        number("weight_decay", 0.05, "decoupled weight decay of matrices and kernels", 0.0, 10.0),
        number("beta2", 0.999, "AdamW's second decay", 0.0, 0.99999),
        number("clip", 1.0, "largest norm of all gradients together; 0 is no limit", 0.0, std::nullopt),
        number("average", 0.999,
               "decay of the running average of the weights, which is what is written; 0 writes the weights themselves",
               0.0, 0.99999),
        number("smoothing", 0.1, "label smoothing", 0.0, 0.9),
        number("label_weight", 1.0, "weight of the loss against the labels", 0.0, 100.0),
        words("teacher", "", "a model with the same class names whose answers are followed"),
        number("teacher_weight", 1.0, "weight of following the teacher", 0.0, 100.0),
        number("temperature", 2.0, "softens teacher and student alike", 0.1, 20.0,
               "G. Hinton et al., arXiv 1503.02531"),
        words("auxiliary", "",
              "a model with other classes whose answers are followed by extra outputs that are cut off at the end"),
        number("auxiliary_weight", 1.0, "weight of following the auxiliary model's answers; 0 makes no extra outputs",
               0.0, 100.0),
        number("features_weight", 0.0,
               "weight of following the auxiliary model's tokens after its last norm, through a projection cut off at "
               "the end",
               0.0, 100.0),
        whole_number("teacher_side", 0, "side at which pictures are shown to teachers; 0 is their own", 0, "pixels"),
        words("start", "",
              "a checkpoint to go on from: its classifier is replaced by a fresh one for these classes (fine-tuning)"),
        whole_number("input_side", 0, "side of the model's input; 0 is its own", 0, "pixels"),
        number("drop_path", 0.0,
               "stochastic depth: chance that the last block's branches are skipped, less for earlier ones", 0.0, 0.9,
               "G. Huang et al., arXiv 1603.09382"),
        words("validate", "", "a pack or a folder of packs to measure top-1 on"),
        number("validate_every", 5, "epochs between measurements", 0.001, std::nullopt),
        number("checkpoint_seconds", 60, "seconds between checkpoints", 0.0, std::nullopt),
        number("report_seconds", 1, "seconds between reports; 0 reports every step", 0.0, std::nullopt),
        words("precision", "fp16", "type of the written weights", {"fp16", "fp32", "bf16"}),
        whole_number(
            "view", 0,
            "side at which pictures are augmented before they are brought to the model's; 0 is the model's own", 0,
            "pixels"),
        whole_number("small_side", 0,
                     "side of the model's input at the start of the run, for speed; 0 is its own from the start", 0,
                     "pixels"),
        number("small_share", 0.5, "share of the steps at small_side", 0.0, 1.0),
        number("match", 0.0,
               "share of a larger set's pictures that are first made like those of the smallest set; the others then "
               "learn only to tell classes of "
               "their own set apart, so that sharpness does not tell the set",
               0.0, 1.0),
        number("context", 0.0,
               "share of the matched pictures that are pasted, smaller, over pieces of pictures of the largest set",
               0.0, 1.0),
        words("unlabelled", "",
              "a pack or a folder of packs without use for its labels: only teachers are followed on it"),
        number("unlabelled_share", 0.1, "pictures of it a step, as a share of the batch and added to it", 0.0, 1.0),
        number("gentle", 0.0, "share of the steps at the end without mixing, erasing and strong crops", 0.0, 1.0),
        number("scale_low", a.scale_low, "smallest share of the area a crop keeps", 0.01, 1.0),
        number("aspect", a.aspect, "crops are up to this much wider or taller", 1.0, 4.0),
        number("flip", a.flip, "chance of a mirrored picture", 0.0, 1.0),
        number("reduce", a.reduce, "chance that a picture is reduced and enlarged again", 0.0, 1.0),
        number("reduce_fully", a.reduce_fully, "share of those that are reduced to low_side", 0.0, 1.0),
        whole_number("low_side", a.low_side, "smallest side pictures are reduced to", 4, "pixels"),
        number("sharpen", a.sharpen, "chance of sharpening or blurring", 0.0, 1.0),
        number("detail", a.detail, "chance of another picture's fine detail", 0.0, 1.0),
        number("colour", a.colour, "strength of brightness, contrast and saturation changes", 0.0, 0.9),
        number("grey", a.grey, "chance of a grey picture", 0.0, 1.0),
        number("grain", a.grain, "chance of noise", 0.0, 1.0),
        number("erase", a.erase, "chance of a rectangle of noise", 0.0, 1.0),
        number("mixup", a.mixup, "chance that a picture is blended with another", 0.0, 1.0),
        number("cutmix", a.cutmix, "chance that a rectangle of another picture is pasted in", 0.0, 1.0),
    };
}

namespace {

AugmentOptions augment_options(const Settings& s) {
    AugmentOptions a;
    a.scale_low = s.number("scale_low");
    a.aspect = s.number("aspect");
    a.flip = s.number("flip");
    a.reduce = s.number("reduce");
    a.reduce_fully = s.number("reduce_fully");
    a.low_side = s.integer("low_side");
    a.sharpen = s.number("sharpen");
    a.detail = s.number("detail");
    a.colour = s.number("colour");
    a.grey = s.number("grey");
    a.grain = s.number("grain");
    a.erase = s.number("erase");
    a.mixup = s.number("mixup");
    a.cutmix = s.number("cutmix");
    return a;
}

std::int64_t input_side(const Model& model) { return model.preprocess().input_height; }

// What is known about a run, as one class, because its parts are needed together at every step.
class Training {
  public:
    Training(const TrainOptions& options, Settings settings) : options_(options), settings_(std::move(settings)) {}

    Status prepare();
    Result<TrainSummary> run();

  private:
    at::Tensor step_loss(std::int64_t step);
    at::Tensor features_loss(const at::Tensor& tokens, const TokenLayout& layout, const at::Tensor& wanted,
                             const TokenLayout& wanted_layout);
    Result<std::unique_ptr<Model>> continued(const Architecture& architecture, const std::string& name);
    void plan_drops();
    Status measure();
    Status write_checkpoint();
    Status resume_if_there();
    Status write_model();
    std::string settings_record() const;
    fs::path checkpoint_file() const { return options_.out.string() + ".checkpoint"; }
    void report(std::string note = {});

    const TrainOptions& options_;
    Settings settings_;
    std::vector<std::pair<std::string, std::string>> architecture_settings_;
    Data data_, validation_, unlabelled_;
    std::unique_ptr<Model> model_;
    std::shared_ptr<Model> teacher_, auxiliary_;
    const Architecture* architecture_ = nullptr;
    std::vector<Edit> drops_;  // stochastic depth, at the points where branches are added
    std::unique_ptr<Optimizer> optimizer_;
    AugmentOptions strong_, gentle_;
    at::TensorOptions labels_options() const { return at::TensorOptions().dtype(at::kBool).device(device_); }
    std::vector<at::Tensor> set_classes_;  // bool [classes] for each set: which classes occur in it
    at::Device device_ = at::kCPU;
    at::ScalarType type_ = at::kFloat;
    std::uint64_t seed_ = 0;
    NamedTensors
        projections_;  // weight and bias for patches, then for the class token; trained beside the model, never written
    std::int64_t classes_ = 0, extra_ = 0, side_ = 0, small_side_ = 0, view_ = 0, batch_ = 0, steps_ = 0, step_ = 0,
                 resumed_at_ = 0;
    std::vector<std::pair<std::string, double>> accuracies_;
    double accuracy_ = -1;
    TrainSummary summary_;
    // For reports: what has happened since the last one.
    at::Tensor loss_sum_;
    std::int64_t loss_steps_ = 0;
    Clock::time_point began_, reported_;
};

Status Training::prepare() {
    if (options_.out.empty()) return fail(ErrorCode::BadInput, "training needs a file to write");
    VITRINE_CHECK(can_train_into(options_.out));
    device_ = VITRINE_TRY(device_named(options_.device));
    if (options_.dtype == "bf16") {
        if (!device_.is_cuda())
            return fail(ErrorCode::Unsupported, "training in bf16 needs a CUDA device; use fp32 on the CPU");
        type_ = at::kBFloat16;
    } else if (options_.dtype != "fp32") {
        return fail(ErrorCode::BadInput, "the precision is '{}', expected fp32 or bf16", options_.dtype);
    }
    const Architecture* architecture = VITRINE_TRY(registry().architecture(options_.architecture));

    // A setting belongs to the trainer or to the architecture; an unknown one is told all names.
    Settings theirs(architecture->parameters());
    const auto declared = [](const std::vector<Parameter>& parameters, const std::string& name) {
        return std::any_of(parameters.begin(), parameters.end(), [&](const Parameter& p) { return p.name == name; });
    };
    VITRINE_CHECK(settings_.set("seed", std::to_string(options_.seed)));
    for (const auto& [name, value] : options_.settings) {
        if (declared(settings_.declared(), name)) {
            VITRINE_CHECK(settings_.set(name, value));
        } else if (declared(theirs.declared(), name)) {
            VITRINE_CHECK(theirs.set(name, value));
        } else {
            std::vector<std::string> names;
            for (const auto& p : settings_.declared()) names.push_back(p.name);
            for (const auto& p : theirs.declared()) names.push_back(p.name);
            return fail(ErrorCode::BadInput, "there is no setting '{}' for training {}{}", name, options_.architecture,
                        suggest(name, names));
        }
    }
    seed_ = static_cast<std::uint64_t>(settings_.integer("seed"));
    batch_ = settings_.integer("batch");

    const std::int64_t pack_size = declared(theirs.declared(), "image_size") ? theirs.integer("image_size") : 128;
    data_ = VITRINE_TRY(open_data(options_.data, pack_size));
    VITRINE_CHECK(share_batch(data_, batch_, settings_.text("share")));
    classes_ = static_cast<std::int64_t>(data_.classes.size());
    if (const auto& path = settings_.text("validate"); !path.empty()) {
        validation_ = VITRINE_TRY(open_data(path, pack_size, data_.classes, /*grow=*/false));
        for (auto& set : validation_.sets) set.images = set.images.to(device_);
    }

    if (const auto& path = settings_.text("unlabelled"); !path.empty()) {
        if (settings_.text("teacher").empty() && settings_.text("auxiliary").empty())
            return fail(
                ErrorCode::BadInput,
                "unlabelled pictures teach nothing without a model to follow; name one with teacher or auxiliary");
        unlabelled_ = VITRINE_TRY(open_data(path, pack_size));
        const auto extra =
            std::max<std::int64_t>(static_cast<std::int64_t>(unlabelled_.sets.size()),
                                   std::llround(settings_.number("unlabelled_share") * static_cast<double>(batch_)));
        VITRINE_CHECK(share_batch(unlabelled_, extra, ""));
        for (auto& set : unlabelled_.sets) set.images = set.images.to(device_);
    }

    const OpenOptions teaching{.trust = false, .device = options_.device, .dtype = options_.dtype, .preprocess = {}};
    if (const auto& name = settings_.text("teacher"); !name.empty()) {
        teacher_ = VITRINE_TRY(open_model(name, teaching));
        if (teacher_->labels().names != data_.classes)
            return fail(
                ErrorCode::BadInput, "the teacher {} answers in {} classes ({}), expected those of the data: {}", name,
                teacher_->info().classes, fmt::join(teacher_->labels().names, ", "), fmt::join(data_.classes, ", "));
    }
    if (const auto& name = settings_.text("auxiliary"); !name.empty()) {
        auxiliary_ = VITRINE_TRY(open_model(name, teaching));
        if (settings_.number("auxiliary_weight") > 0) extra_ = auxiliary_->info().classes;
        if (settings_.number("auxiliary_weight") > 0 && extra_ < 2)
            return fail(ErrorCode::Unsupported, "the auxiliary model {} has no classifier to follow", name);
    }

    if (!declared(theirs.declared(), "classes"))
        return fail(ErrorCode::Unsupported, "{} cannot be trained from scratch here", options_.architecture);
    VITRINE_CHECK(theirs.set("classes", std::to_string(classes_ + extra_)));
    for (const auto& p : theirs.declared())
        architecture_settings_.emplace_back(p.name, to_string(theirs.value(p.name)));
    if (const auto& start = settings_.text("start"); !start.empty())
        model_ = VITRINE_TRY(continued(*architecture, start));
    else
        model_ = VITRINE_TRY(architecture->create(theirs, seed_));
    architecture_ = architecture;
    model_->labels() = Labels{data_.classes, "the training data", false};
    if (const std::int64_t side = settings_.integer("input_side"); side > 0) {
        model_->preprocess().input_height = model_->preprocess().input_width = side;
        if (const TokenLayout tokens = model_->layout(side, side); !tokens.known())
            return fail(ErrorCode::BadInput, "input_side: {}", tokens.unknown);
    }
    // The whole picture is what the data is labelled by, so it is what the finished model is shown.
    model_->preprocess().resize = Preprocess::Resize::ShortSide;
    model_->preprocess().resize_to = model_->preprocess().input_height;
    model_->preprocess().interpolation = Interpolation::Bicubic;
    side_ = input_side(*model_);
    view_ = settings_.integer("view") > 0 ? settings_.integer("view") : side_;
    small_side_ = settings_.integer("small_side");
    if (const TokenLayout tokens = model_->layout(small_side_, small_side_); small_side_ > 0 && !tokens.known())
        return fail(ErrorCode::BadInput, "small_side: {}", tokens.unknown);
    strong_ = augment_options(settings_);
    gentle_ = gentle(strong_);
    model_->to(device_, type_);
    for (auto& set : data_.sets) {
        set.images = set.images.to(device_);
        set.labels = set.labels.to(device_);
        at::Tensor occurs = at::full({classes_}, false, labels_options());
        set_classes_.push_back(occurs.index_fill_(0, set.labels, true));
    }
    OptimizerOptions o;
    o.beta2 = settings_.number("beta2");
    o.weight_decay = settings_.number("weight_decay");
    o.clip = settings_.number("clip");
    o.average = settings_.number("average");
    o.muon = settings_.text("optimizer") == "muon";
    NamedTensors trained = model_->parameters();
    if (settings_.number("features_weight") > 0) {
        const Model* followed = auxiliary_ ? auxiliary_.get() : teacher_.get();
        if (followed == nullptr)
            return fail(ErrorCode::BadInput,
                        "features_weight is set, but there is no model to follow; name one with teacher or auxiliary");
        const std::int64_t from = model_->info().width, to = followed->info().width;
        at::Generator generator = at::globalContext().defaultGenerator(at::kCPU).clone();
        generator.set_current_seed(seed_ + 1);
        for (const char* part : {"patches", "class"}) {
            at::Tensor weight =
                at::randn({to, from}, generator, at::kFloat).mul_(1.0 / std::sqrt(static_cast<double>(from)));
            projections_.emplace_back(fmt::format("feature_head.{}.weight", part), weight.to(device_, type_));
            projections_.emplace_back(fmt::format("feature_head.{}.bias", part),
                                      at::zeros({to}, weight.options()).to(device_, type_));
        }
        trained.insert(trained.end(), projections_.begin(), projections_.end());
    }
    optimizer_ = std::make_unique<Optimizer>(std::move(trained), o);
    plan_drops();
    summary_.parameters = 0;
    for (const auto& [name, tensor] : model_->parameters()) summary_.parameters += tensor.numel();

    steps_ = settings_.integer("steps");
    if (steps_ == 0)
        steps_ =
            std::max<std::int64_t>(1, std::llround(settings_.number("epochs") * static_cast<double>(data_.count()) /
                                                   static_cast<double>(batch_)));
    loss_sum_ = at::zeros({}, at::TensorOptions().dtype(at::kFloat).device(device_));
    return resume_if_there();
}

// A model from a checkpoint whose classifier is replaced: the checkpoint is changed before the architecture builds from
// it, so that every architecture can do it.
Result<std::unique_ptr<Model>> Training::continued(const Architecture& architecture, const std::string& name) {
    Checkpoint checkpoint =
        VITRINE_TRY(read_checkpoint(name == "starter" ? VITRINE_TRY(resource(name)) : fs::path(name)));
    auto before = VITRINE_TRY(architecture.build(checkpoint));
    const std::int64_t had = before->info().classes, wanted = classes_ + extra_;
    if (extra_ == 0 && before->labels().names == data_.classes) {
        summary_.notes.push_back(fmt::format("started from {}, classifier included", name));
        return before;
    }
    std::vector<std::string> replaced;
    StepRandom random(seed_, 0, 0x68656164ULL);
    for (auto& [key, entry] : checkpoint.file.tensors) {
        if (had <= 0 || entry.shape.empty() || entry.shape.size() > 2 || entry.shape[0] != had ||
            key.find("block") != std::string::npos || key.find("layer") != std::string::npos)
            continue;
        replaced.push_back(key);
        entry.shape[0] = wanted;
        const std::int64_t columns = entry.shape.size() == 2 ? entry.shape[1] : 0;
        auto values = std::make_shared<std::vector<float>>(
            static_cast<std::size_t>(wanted * std::max<std::int64_t>(columns, 1)), 0.0F);
        if (columns > 0)
            for (auto& value : *values) value = static_cast<float>(0.02 * random.normal());
        entry.strides = columns > 0 ? std::vector<std::int64_t>{columns, 1} : std::vector<std::int64_t>{1};
        entry.dtype = DType::F32;
        entry.data = reinterpret_cast<const std::byte*>(values->data());
        entry.keep_alive = values;
    }
    if (replaced.empty()) return fail(ErrorCode::Unsupported, "{} has no classifier that could be replaced", name);
    for (const char* key : {"num_classes", "label_names", "labels", "id2label", "label2id"})
        checkpoint.config.erase(key);
    if (checkpoint.config.contains("pretrained_cfg")) {
        checkpoint.config["pretrained_cfg"].erase("num_classes");
        checkpoint.config["pretrained_cfg"].erase("label_names");
    }
    summary_.notes.push_back(fmt::format("started from {}, with a fresh {}", name, fmt::join(replaced, " and ")));
    return architecture.build(checkpoint);
}

// Answers and the tokens after the last norm, through the named point that native models declare.
std::pair<at::Tensor, at::Tensor> with_tokens(Model& model, const at::Tensor& pixels, std::vector<Edit> edits = {},
                                              bool tokens = true) {
    CaptureOptions wanted;
    wanted.mixings = false;
    wanted.gradients = at::GradMode::is_enabled();
    if (tokens) wanted.points = {"norm"};
    wanted.edits = std::move(edits);
    Recorder recorder(wanted);
    at::Tensor answers;
    {
        const Listening listening(recorder);
        answers = model.forward(pixels);
    }
    if (!tokens) return {answers, {}};
    Capture capture;
    recorder.finish(capture);
    TORCH_CHECK(capture.points.count("norm") != 0,
                "the model declares no point 'norm', so its tokens cannot be followed");
    return {answers, capture.points.at("norm")};
}

// Mean squared distance between the projected tokens of the student and the teacher's, each teacher channel brought to
// unit spread over the batch, because a few channels of a norm's output are far larger than the rest and would be all
// that is learned.
at::Tensor Training::features_loss(const at::Tensor& tokens, const TokenLayout& layout, const at::Tensor& wanted,
                                   const TokenLayout& wanted_layout) {
    const std::int64_t batch = tokens.size(0), width = tokens.size(2);
    const auto cells = [](const at::Tensor& t, const TokenLayout& l) {
        return t.narrow(1, l.prefix_count(), l.rows * l.cols);
    };
    at::Tensor patches = cells(tokens, layout);  // [batch, rows * cols, width]
    if (layout.rows != wanted_layout.rows || layout.cols != wanted_layout.cols) {
        // The student's grid is brought to the teacher's, one axis after the other.
        const auto options = at::TensorOptions().dtype(at::kFloat).device(tokens.device());
        const auto axis = [&](std::int64_t out, std::int64_t in) {
            const at::Tensor zero = at::zeros({1}, options);
            return resampling(zero, at::full({1}, static_cast<double>(in), options), zero, at::full({1}, 1.0, options),
                              out, in)
                .squeeze(0)
                .to(tokens.scalar_type());
        };
        patches = at::matmul(axis(wanted_layout.rows, layout.rows),
                             patches.reshape({batch, layout.rows, layout.cols * width}));
        patches = at::matmul(axis(wanted_layout.cols, layout.cols),
                             patches.reshape({batch * wanted_layout.rows, layout.cols, width}))
                      .reshape({batch, wanted_layout.rows * wanted_layout.cols, width});
    }
    const auto distance = [&](const at::Tensor& mine, const at::Tensor& theirs) {
        at::Tensor target;
        {
            const at::NoGradGuard no_grad;
            const at::Tensor t = theirs.to(at::kFloat);
            std::vector<std::int64_t> over;
            for (std::int64_t d = 0; d + 1 < t.dim(); ++d) over.push_back(d);
            const at::Tensor mean = t.mean(over, /*keepdim=*/true);
            const at::Tensor spread = (t - mean).square().mean(over, /*keepdim=*/true).sqrt();
            target = (t - mean) / (spread + 1e-3);
        }
        return (mine.to(at::kFloat) - target).square().mean();
    };
    const auto project = [&](const at::Tensor& x, std::size_t which) {
        return at::linear(x, projections_[which].second, projections_[which + 1].second);
    };
    at::Tensor loss = distance(project(patches, 0), cells(wanted, wanted_layout));
    if (layout.prefix_count() > 0 && wanted_layout.prefix_count() > 0)
        loss = loss + distance(project(tokens.select(1, 0), 2), wanted.select(1, 0));
    return loss;
}

// Branches are skipped at the named points that every block declares for what it adds, so no model knows that it is
// being trained.
void Training::plan_drops() {
    const double rate = settings_.number("drop_path");
    const std::int64_t layers = model_->info().layers;
    if (rate <= 0 || layers < 2) return;
    for (std::int64_t layer = 1; layer < layers; ++layer) {
        const double keep = 1.0 - rate * static_cast<double>(layer) / static_cast<double>(layers - 1);
        for (const char* branch : {"attn", "mlp"}) {
            Edit edit;
            edit.kind = Edit::Kind::ReplacePoint;
            edit.where = fmt::format("blocks.{}.{}", layer, branch);
            edit.replace = [keep](const at::Tensor& x) {
                at::Tensor mask;
                {
                    const at::NoGradGuard no_grad;
                    mask = at::rand({x.size(0), 1, 1}, x.options().dtype(at::kFloat).requires_grad(false))
                               .lt(keep)
                               .to(x.scalar_type()) /
                           keep;
                }
                return x * mask;
            };
            drops_.push_back(std::move(edit));
        }
    }
}

at::Tensor Training::step_loss(std::int64_t step) {
    StepRandom random(seed_, static_cast<std::uint64_t>(step), 0x61756720ULL);
    at::manual_seed(random.next());  // for what the model itself draws: stochastic depth
    const bool small =
        small_side_ > 0 && static_cast<double>(step) < static_cast<double>(steps_) * settings_.number("small_share");
    const std::int64_t side = small ? small_side_ : side_;
    const std::int64_t view = small ? std::min(small_side_, view_) : view_;
    const bool easy = static_cast<double>(step) >= static_cast<double>(steps_) * (1.0 - settings_.number("gentle"));
    const AugmentOptions& augment = easy ? gentle_ : strong_;

    at::Tensor input, share, labels, other_labels, allowed, known;
    {
        const at::NoGradGuard no_grad;
        const double match = settings_.number("match");
        std::int64_t smallest = data_.sets.front().side();
        const DataSet* largest = &data_.sets.front();
        for (const auto& set : data_.sets) {
            smallest = std::min(smallest, set.side());
            if (set.side() > largest->side()) largest = &set;
        }
        // Group 0 is told apart over all classes; a larger set's unmatched pictures are a group of their own, over its
        // classes.
        struct Group {
            std::vector<at::Tensor> views, labels;
            at::Tensor allowed;
            std::int64_t count = 0;
            bool labelled = true;
        };
        std::vector<Group> groups(1);
        groups[0].allowed = at::full({classes_}, true, labels_options());
        for (std::size_t s = 0; s < data_.sets.size(); ++s) {
            const auto& set = data_.sets[s];
            const at::Tensor chosen =
                at::tensor(set.draw(seed_, s, step)).to(device_, at::kLong, /*non_blocking=*/true);
            const at::Tensor pictures = at::index_select(set.images, 0, chosen),
                             names = at::index_select(set.labels, 0, chosen);
            const bool apart = match > 0 && set.side() > smallest;
            const std::int64_t matched = apart ? std::llround(match * static_cast<double>(set.batch)) : set.batch;
            if (matched > 0) {
                const at::Tensor these = pictures.narrow(0, 0, matched);
                groups[0].views.push_back(
                    random_views(apart ? shrunken(these, smallest, random) : these, view, augment, random));
                groups[0].labels.push_back(names.narrow(0, 0, matched));
                groups[0].count += matched;
            }
            if (matched < set.batch) {
                Group group;
                group.count = set.batch - matched;
                group.views.push_back(random_views(pictures.narrow(0, matched, group.count), view, augment, random));
                group.labels.push_back(names.narrow(0, matched, group.count));
                group.allowed = set_classes_[s];
                groups.push_back(std::move(group));
            }
        }
        for (std::size_t s = 0; s < unlabelled_.sets.size(); ++s) {
            const auto& set = unlabelled_.sets[s];
            const at::Tensor chosen =
                at::tensor(set.draw(seed_, 1000 + s, step)).to(device_, at::kLong, /*non_blocking=*/true);
            Group group;
            group.count = set.batch;
            group.views.push_back(random_views(at::index_select(set.images, 0, chosen), view, augment, random));
            group.labels.push_back(at::zeros({set.batch}, at::TensorOptions().dtype(at::kLong).device(device_)));
            group.allowed = groups[0].allowed;
            group.labelled = false;
            groups.push_back(std::move(group));
        }
        std::vector<at::Tensor> views;
        for (const auto& group : groups) views.insert(views.end(), group.views.begin(), group.views.end());
        const at::Tensor looks = random_looks(at::cat(views), augment, random);
        // Mixing stays inside a group: a picture has one list of classes it is told apart over.
        std::vector<at::Tensor> mixed_views, shares, own_labels, partner_labels, masks, knowns;
        const auto share_options = at::TensorOptions().dtype(at::kFloat).device(device_);
        std::int64_t from = 0;
        for (const auto& group : groups) {
            if (group.count == 0) continue;
            const Mixed mixed = mix(looks.narrow(0, from, group.count), augment, random);
            from += group.count;
            mixed_views.push_back(mixed.views);
            shares.push_back(mixed.share);
            own_labels.push_back(at::cat(group.labels));
            partner_labels.push_back(at::index_select(own_labels.back(), 0, mixed.partner));
            masks.push_back(group.allowed.unsqueeze(0).expand({group.count, classes_}));
            knowns.push_back(at::full({group.count}, group.labelled ? 1.0 : 0.0, share_options));
        }
        input = at::cat(mixed_views);
        share = at::cat(shares);
        labels = at::cat(own_labels);
        other_labels = at::cat(partner_labels);
        known = at::cat(knowns);   // 0 where there is no label
        allowed = at::cat(masks);  // bool [batch, classes]
    }
    const auto fed_to = [&](const Model& model, std::int64_t side) {
        const at::NoGradGuard no_grad;
        return normalised(resized(input, side), model.preprocess().mean, model.preprocess().std).to(type_);
    };
    const double features_weight = settings_.number("features_weight");
    at::Tensor logits, tokens;  // [batch, classes + extra], [batch, tokens, width]
    if (features_weight > 0 || !drops_.empty())
        std::tie(logits, tokens) = with_tokens(*model_, fed_to(*model_, side), drops_, features_weight > 0);
    else
        logits = model_->forward(fed_to(*model_, side));
    logits = logits.to(at::kFloat);
    const at::Tensor forbidden = (1.0 - allowed.to(at::kFloat)) * -1e4;
    const at::Tensor own = logits.narrow(1, 0, classes_) + forbidden;
    at::Tensor loss = at::zeros({}, logits.options());
    if (const double weight = settings_.number("label_weight"); weight > 0) {
        at::Tensor target;
        {
            const at::NoGradGuard no_grad;
            const double smooth = settings_.number("smoothing");
            const at::Tensor index = at::arange(classes_, labels.options()).view({1, -1});
            const auto one_hot = [&](const at::Tensor& l) { return index.eq(l.view({-1, 1})).to(at::kFloat); };
            const at::Tensor s = share.view({-1, 1});
            const at::Tensor among = allowed.to(at::kFloat);
            target = (s * one_hot(labels) + (1.0 - s) * one_hot(other_labels)) * (1.0 - smooth) +
                     smooth * among / among.sum(1, /*keepdim=*/true);
        }
        loss = loss - weight * (known * (target * at::log_softmax(own, 1)).sum(1)).sum() / known.sum();
    }
    // Divergence from a teacher's answers, times T^2 so that its gradient keeps its size (Hinton et al. 2015, section
    // 2).
    const auto follow = [&](const at::Tensor& teaching, const at::Tensor& answers) {
        const double t = settings_.number("temperature");
        const at::Tensor wanted = at::log_softmax(teaching.to(at::kFloat) / t, 1);
        const at::Tensor given = at::log_softmax(answers / t, 1);
        return t * t * (wanted.exp() * (wanted - given)).sum(1).mean();
    };
    // Both may be followed; tokens are those of the auxiliary model, or of the teacher where there is no other.
    const auto learn_from = [&](Model& model, const at::Tensor& answers, double weight, bool its_tokens, bool masked) {
        const std::int64_t shown =
            settings_.integer("teacher_side") > 0 ? settings_.integer("teacher_side") : input_side(model);
        at::Tensor teaching, wanted;
        {
            const at::NoGradGuard no_grad;
            if (its_tokens)
                std::tie(teaching, wanted) = with_tokens(model, fed_to(model, shown));
            else
                teaching = model.forward(fed_to(model, shown));
        }
        if (answers.defined())
            loss = loss + weight * follow(masked ? teaching.to(at::kFloat) + forbidden : teaching, answers);
        if (its_tokens)
            loss = loss + features_weight *
                              features_loss(tokens, model_->layout(side, side), wanted, model.layout(shown, shown));
    };
    if (teacher_)
        learn_from(*teacher_, own, settings_.number("teacher_weight"), features_weight > 0 && !auxiliary_, true);
    if (auxiliary_)
        learn_from(*auxiliary_, extra_ > 0 ? logits.narrow(1, classes_, extra_) : at::Tensor(),
                   settings_.number("auxiliary_weight"), features_weight > 0, false);
    return loss;
}

void Training::report(std::string note) {
    const auto now = Clock::now();
    TrainProgress progress;
    progress.step = step_;
    progress.steps = steps_;
    progress.epoch = static_cast<double>(step_) * static_cast<double>(batch_) / static_cast<double>(data_.count());
    if (loss_steps_ > 0) summary_.loss = loss_sum_.item<double>() / static_cast<double>(loss_steps_);
    progress.loss = summary_.loss;
    progress.learning_rate = learning_rate_at(std::max<std::int64_t>(0, step_ - 1), steps_,
                                              std::llround(settings_.number("warmup") * static_cast<double>(steps_)),
                                              settings_.number("lr"), settings_.number("lr_floor"));
    const double since = std::chrono::duration<double>(now - reported_).count();
    progress.pictures_per_second = since > 0 ? static_cast<double>(loss_steps_ * batch_) / since : 0;
    progress.seconds = std::chrono::duration<double>(now - began_).count();
    if (step_ > resumed_at_)
        progress.seconds_left =
            progress.seconds / static_cast<double>(step_ - resumed_at_) * static_cast<double>(steps_ - step_);
    progress.accuracy = accuracy_;
    progress.note = std::move(note);
    loss_sum_.zero_();
    loss_steps_ = 0;
    reported_ = Clock::now();
    accuracy_ = -1;
    if (options_.progress) options_.progress(progress);
}

Status Training::measure() {
    if (validation_.sets.empty()) return {};
    const at::NoGradGuard no_grad;
    optimizer_->show_average();
    accuracies_.clear();
    std::int64_t right = 0;
    for (const auto& set : validation_.sets) {
        std::int64_t right_here = 0;
        const std::int64_t piece = device_.is_cuda() ? 1024 : 64;
        for (std::int64_t at = 0; at < set.count(); at += piece) {
            const std::int64_t n = std::min(piece, set.count() - at);
            const at::Tensor views = normalised(whole(set.images.narrow(0, at, n), side_), model_->preprocess().mean,
                                                model_->preprocess().std);
            const at::Tensor answer =
                at::argmax(model_->forward(views.to(type_)).narrow(1, 0, classes_), 1).to(at::kCPU);
            right_here += answer.eq(set.labels.narrow(0, at, n)).sum().item<std::int64_t>();
        }
        accuracies_.emplace_back(set.name, static_cast<double>(right_here) / static_cast<double>(set.count()));
        right += right_here;
    }
    optimizer_->show_weights();
    accuracy_ = static_cast<double>(right) / static_cast<double>(validation_.count());
    summary_.accuracy = accuracy_;
    summary_.accuracy_of_set = accuracies_;
    return {};
}

std::string Training::settings_record() const {
    nlohmann::json record;
    record["architecture"] = options_.architecture;
    for (const auto& [name, value] : architecture_settings_) record["model"][name] = value;
    for (const auto& p : settings_.declared()) record["training"][p.name] = to_string(settings_.value(p.name));
    record["classes"] = data_.classes;
    for (const auto& set : data_.sets)
        record["data"].push_back(
            {{"name", set.name}, {"pictures", set.count()}, {"side", set.side()}, {"batch", set.batch}});
    record["dtype"] = options_.dtype;
    return json_text(record);
}

Status Training::write_checkpoint() {
    return write_tensors(
        checkpoint_file(), optimizer_->state(),
        {{"format", kCheckpointFormat}, {"step", std::to_string(step_)}, {"settings", settings_record()}});
}

Status Training::resume_if_there() {
    // Whatever changes the run must be the same; where it measures and reports may differ.
    auto found = VITRINE_TRY(read_training_checkpoint(
        checkpoint_file(), {.format = kCheckpointFormat,
                            .of = "a training run",
                            .settings = settings_record(),
                            .free = {"validate", "validate_every", "checkpoint_seconds", "report_seconds", "precision"},
                            .steps = steps_}));
    if (!found) return {};
    VITRINE_CHECK(optimizer_->restore(found->state, found->step));
    step_ = resumed_at_ = found->step;
    summary_.notes.push_back(fmt::format("resumed at step {} of {}", step_, steps_));
    return {};
}

Status Training::write_model() {
    const at::NoGradGuard no_grad;
    const std::string& precision = settings_.text("precision");
    const at::ScalarType type = precision == "fp16" ? at::kHalf : precision == "bf16" ? at::kBFloat16 : at::kFloat;
    NamedTensors tensors;
    for (const auto& [name, tensor] : optimizer_->average()) {
        if (name.starts_with("feature_head.")) continue;
        // The classifier's extra outputs followed the auxiliary model and have done their work.
        const bool cut = extra_ > 0 && tensor.dim() >= 1 && tensor.size(0) == classes_ + extra_ &&
                         name.find("block") == std::string::npos;
        tensors.emplace_back(name, (cut ? tensor.narrow(0, 0, classes_) : tensor).to(type));
    }
    VITRINE_CHECK(write_tensors(options_.out, tensors, {{"format", "pt"}, {"vitrine.settings", settings_record()}}));

    const auto& p = model_->preprocess();
    nlohmann::json config = architecture_->configuration(*model_, model_->info().name);
    config["num_classes"] = classes_;
    config["label_names"] = data_.classes;
    auto& fed = config["pretrained_cfg"];
    fed["input_size"] = {3, p.input_height, p.input_width};
    fed["interpolation"] = std::string(name_of(p.interpolation));
    fed["crop_pct"] = 1.0;
    fed["crop_mode"] = "center";
    fed["mean"] = p.mean;
    fed["std"] = p.std;
    fed["num_classes"] = classes_;
    const fs::path beside = options_.out.filename() == "model.safetensors"
                                ? options_.out.parent_path() / "config.json"
                                : fs::path(options_.out).replace_extension(".json");
    VITRINE_CHECK(write_text(beside, json_text(config, 2) + "\n"));
    std::error_code ignored;
    summary_.size_bytes = static_cast<std::int64_t>(fs::file_size(options_.out, ignored));
    return {};
}

Result<TrainSummary> Training::run() {
    began_ = reported_ = Clock::now();
    auto kept = began_;
    const auto warmup = std::llround(settings_.number("warmup") * static_cast<double>(steps_));
    const double report_seconds = settings_.number("report_seconds");
    const double checkpoint_seconds = settings_.number("checkpoint_seconds");
    const auto measure_every =
        std::max<std::int64_t>(1, std::llround(settings_.number("validate_every") * static_cast<double>(data_.count()) /
                                               static_cast<double>(batch_)));
    if (resumed_at_ > 0) report(summary_.notes.back());
    while (step_ < steps_) {
        if (options_.stop.stop_requested()) {
            VITRINE_CHECK(write_checkpoint());
            report("stopped, checkpoint written");
            summary_.steps = step_;
            summary_.seconds = std::chrono::duration<double>(Clock::now() - began_).count();
            return summary_;
        }
        const at::Tensor loss = step_loss(step_);
        loss.backward();
        optimizer_->step(learning_rate_at(step_, steps_, warmup, settings_.number("lr"), settings_.number("lr_floor")));
        loss_sum_.add_(loss.detach());
        ++loss_steps_;
        ++step_;

        if (step_ % measure_every == 0 && step_ < steps_) VITRINE_CHECK(measure());
        const auto now = Clock::now();
        if (accuracy_ >= 0 || std::chrono::duration<double>(now - reported_).count() >= report_seconds) {
            std::string note;
            if (accuracy_ >= 0)
                for (const auto& [name, value] : accuracies_)
                    note += fmt::format("{}{} {:.2f} %", note.empty() ? "" : ", ", name, 100 * value);
            report(note);
            if (!std::isfinite(summary_.loss))
                return fail(ErrorCode::BadInput,
                            "the loss became {} by step {}; lower the learning rate (now {}) or raise warmup",
                            summary_.loss, step_, settings_.number("lr"));
        }
        if (step_ < steps_ && std::chrono::duration<double>(now - kept).count() >= checkpoint_seconds) {
            VITRINE_CHECK(write_checkpoint());
            kept = Clock::now();
        }
    }
    VITRINE_CHECK(measure());
    VITRINE_CHECK(write_model());
    report("model written");
    std::error_code ignored;
    fs::remove(checkpoint_file(), ignored);
    summary_.finished = true;
    summary_.steps = step_;
    summary_.seconds = std::chrono::duration<double>(Clock::now() - began_).count();
    return summary_;
}

}  // namespace

Result<TrainSummary> train_classifier(const TrainOptions& options) {
    return guarded([&]() -> Result<TrainSummary> {
        Training training(options, Settings(train_parameters()));
        VITRINE_CHECK(training.prepare());
        return training.run();
    });
}

}  // namespace vitrine
