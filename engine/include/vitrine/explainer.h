// Plugin kind: says which parts of a picture carried the answer.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include <vitrine/base/geometry.h>
#include <vitrine/capture.h>
#include <vitrine/model.h>
#include <vitrine/plugin.h>
#include <vitrine/target.h>

namespace vitrine {

struct Check {
    std::string name;     ///< "row sums"
    bool passed = true;
    std::string finding;  ///< "within 3e-7"
};

/// Numbers beside a map: one for each head of each layer, say. Goes into the manifest; the window draws it.
/// A row that bears the name of an attention step is that layer, a column "head N" that head: the window goes there.
struct Table {
    std::string name;                          ///< "attention_distance"
    std::string unit;                          ///< "input pixels"; "" when it has none
    std::vector<std::string> rows, cols;       ///< labels: "blocks.3.attn", "head 2"
    std::vector<std::vector<double>> values;   ///< one list a row, which may be shorter than `cols`
};

/// The result of one method on one picture.
struct Attribution {
    std::string method;
    at::Tensor map;        ///< float32 [rows, cols], raw: after the method's own ReLU, before min-max, display or resize
    at::Tensor channels;   ///< float32 [3, H, W] for input-gradient methods, else undefined
    at::Tensor colours;    ///< float32 [3, rows, cols], 0 to 1: a map that is itself a picture; else undefined
    bool on_tokens = true; ///< rows x cols is the token grid; false: the model's input pixels
    bool is_signed = false;
    bool class_specific = false;
    double prefix_mass = 0;     ///< share that prefix tokens carried and that is not in the map
    std::string explained;      ///< "attention of the class token", "logit of tabby"
    std::string implementation; ///< what computed it
    std::vector<Check> checks;
    std::vector<Table> tables;
    std::vector<std::string> notes;
    bool partial = false;
};

struct Progress {
    std::int64_t done = 0, total = 0;
    std::string unit;
};

/// What an explainer is given. One context serves several methods on one picture: the capture is shared.
class ExplainContext {
  public:
    ExplainContext(Model& model, const Input& input, Target target, std::uint64_t seed = 0);
    Model& model;
    const Input& input;
    Target target;
    std::uint64_t seed = 0;
    std::stop_token stop;
    std::function<void(const Progress&)> progress;  ///< may be empty
    /// Shown the map so far, now and then, by methods that refine (Attribution::partial is set); may be empty.
    std::function<void(const Attribution&)> refined;
    /// Another picture, for methods that compare two; may be null.
    const Input* other = nullptr;
    std::int64_t memory_budget = 0;
    std::int64_t batch = 0;  ///< pictures a pass, for methods that need many; 0: what runs fastest (batch_size())
    /// Where the object is, in the photograph's pixels; for measures that need it.
    std::vector<Box> boxes;

    /// One run without gradients, kept for all methods. `maps`: this method will read all maps (CaptureOptions::maps); it
    /// counts where no method before it has run the model.
    Result<std::shared_ptr<const Capture>> capture(bool maps = false);
    void use(std::shared_ptr<const Capture> capture) { capture_ = std::move(capture); }

    /// The target against this model's answer.
    ///
    /// @param standard  what the method explains when the target leaves it open
    Result<Objective> objective(Scale standard = Scale::Logit);

    /// The explained number of each picture, without gradients, some pictures a pass; honours stop.
    ///
    /// @param pixels  [count, 3, height, width], normalised; may be lazy: `make(from, count)` gives [count, 3, height, width]
    /// @return        [count], float32, on the CPU
    Result<at::Tensor> scores(const Objective& objective, const at::Tensor& pixels);
    Result<at::Tensor> scores(const Objective& objective, std::int64_t count,
                              const std::function<at::Tensor(std::int64_t from, std::int64_t count)>& make);
    /// The same with patches left out instead of painted over: only the kept ones go through the model.
    ///
    /// @param kept  [count, patches], boolean, row-major over the patch grid; at least one patch a row
    /// @error Unsupported  the model cannot leave patches out (Model::no_token_removal)
    Result<at::Tensor> scores_of_kept(const Objective& objective, const at::Tensor& kept);
    /// The numbers and their gradients with respect to the pixels, handed over one picture at a time: memory of one batch.
    ///
    /// @param fold  sees each picture's number and gradient [3, height, width], float32 on the CPU, in order
    Status slopes(const Objective& objective, std::int64_t count,
                  const std::function<at::Tensor(std::int64_t from, std::int64_t count)>& make,
                  const std::function<void(std::int64_t picture, double score, const at::Tensor& gradient)>& fold);
    struct Slopes {
        at::Tensor scores;     ///< [count], on the CPU
        at::Tensor gradients;  ///< [count, 3, height, width], on the CPU
    };
    Result<Slopes> slopes(const Objective& objective, const at::Tensor& pixels);
    /// Pictures a pass: `batch`, or what keeps the caches warm on a processor and a device busy.
    std::int64_t batch_size() const;

  private:
    std::shared_ptr<const Capture> capture_;
};

/// What an objective reads of a run: the answer, or the activation at its point, which the run must have kept.
///
/// @error BadInput  the run has no such point, or it has not so many tokens
Result<at::Tensor> answer_of(const Capture& capture, const Objective& objective, const Model& model);

/// An activation as a map of channels: tokens [batch, tokens, width] without their prefix, or [batch, channels, rows, cols]
/// as it is.
///
/// @return  [batch, channels, rows, cols], with the graph
/// @error Unsupported  tokens whose layout is unknown, or of another number
Result<at::Tensor> as_grid(const at::Tensor& activation, const TokenLayout& layout);

/// How often a method runs the model on one picture.
struct Passes {
    std::int64_t forwards = 0, backwards = 0;
};

class Explainer : public Plugin {
  public:
    /// Why this method has no meaning on this model; empty when it has. Asked before work starts.
    virtual std::optional<std::string> why_not(const Model& model) const = 0;
    virtual bool class_specific() const = 0;
    /// Whether explain() reads ExplainContext::other with these settings, and so needs one: whoever asks offers to choose
    /// a second picture, and gives it to no other method.
    virtual bool reads_other(const Settings& settings) const {
        (void)settings;
        return false;
    }
    /// Why a class-specific method cannot explain the activation of a region (Target::region) with these settings; empty
    /// when it can.
    virtual std::optional<std::string> no_region(const Settings& settings) const {
        (void)settings;
        return std::nullopt;
    }
    virtual Result<Attribution> explain(ExplainContext& context, const Settings& settings) const = 0;
    /// What explain() will spend, the shared capture not counted; nothing where it cannot be known before.
    virtual std::optional<Passes> passes(const Model& model, const Settings& settings) const {
        (void)model, (void)settings;
        return std::nullopt;
    }
};

}  // namespace vitrine
