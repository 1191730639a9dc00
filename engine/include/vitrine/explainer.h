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

#include <vitrine/capture.h>
#include <vitrine/model.h>
#include <vitrine/plugin.h>

namespace vitrine {

/// What is explained. Without an index the method is class-agnostic or explains the predicted class.
struct Target {
    std::optional<std::int64_t> index;
    std::optional<std::int64_t> versus;  ///< explains index minus versus
};

struct Check {
    std::string name;     ///< "row sums"
    bool passed = true;
    std::string finding;  ///< "within 3e-7"
};

/// Numbers beside a map: one for each head of each layer, say. Goes into the manifest.
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
    std::int64_t memory_budget = 0;

    /// One run without gradients, kept for all methods.
    Result<std::shared_ptr<const Capture>> capture();
    void use(std::shared_ptr<const Capture> capture) { capture_ = std::move(capture); }

  private:
    std::shared_ptr<const Capture> capture_;
};

class Explainer : public Plugin {
  public:
    /// Why this method has no meaning on this model; empty when it has. Asked before work starts.
    virtual std::optional<std::string> why_not(const Model& model) const = 0;
    virtual bool class_specific() const = 0;
    virtual Result<Attribution> explain(ExplainContext& context, const Settings& settings) const = 0;
};

}  // namespace vitrine
