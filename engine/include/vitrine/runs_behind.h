// Running what lies behind a named point again, with other activations in its place: concepts weighed, channels left
// out.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <vitrine/capture.h>
#include <vitrine/explainer.h>

namespace vitrine {

class RunsBehind {
  public:
    /// Of a row of blocks what lies before the point's block is run once, here.
    ///
    /// @param whole  every run starts at the pixels: points before the blocks are asked for
    /// @error as run_captured
    static Result<RunsBehind> make(ExplainContext& context, std::string point, bool whole = false);

    /// How many blocks run again; 0: the model does, from the pixels.
    std::int64_t blocks() const { return before_.defined() ? chain_->blocks - block_ : 0; }
    /// From the point on batches broadcast: `replace` is given one activation and may return several.
    bool shared() const { return shared_; }

    /// @param count    inputs of this run
    /// @param replace  the point's activation -> `count` others
    /// @param points   named points to keep
    Result<std::shared_ptr<const Capture>> run(std::int64_t count, std::function<at::Tensor(const at::Tensor&)> replace,
                                               std::vector<std::string> points = {});

  private:
    RunsBehind(ExplainContext& context, std::string point) : context_(&context), point_(std::move(point)) {}

    ExplainContext* context_;
    std::string point_;
    std::optional<Chain> chain_;
    std::int64_t block_ = -1;
    at::Tensor before_;
    bool shared_ = false;
};

}  // namespace vitrine
