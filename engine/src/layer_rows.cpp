// The same rows of all blocks at once: what a hovered patch reads in every layer and head.
#include <vitrine/mixing.h>

#include <cstdlib>

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>

#include "softmax_mixing.h"
#include "torch_errors.h"

namespace vitrine {
namespace {

// Kept keys are read in runs of one token's heads, each in another page: with pages of 2 MiB instead of 4 KiB a row of
// all layers takes two thirds of the time. libtorch reads this once, at its first allocation; what the user has set
// stands.
[[maybe_unused]] const int kLargePages = setenv("THP_MEM_ALLOC_ENABLE", "1", 0);

}  // namespace

Result<at::Tensor> Mixing::sensitivity(const at::Tensor&, Sensitivity, const at::Tensor&) const {
    return fail(ErrorCode::Unsupported, "{} is of kind {}, whose gradient has no sweep", name, kind());
}

Result<LayerRows> rows_of_layers(const Flow& flow, std::span<const std::int64_t> queries, bool head_mean) {
    return guarded([&]() -> Result<LayerRows> {
        LayerRows found;
        std::vector<kernels::AttentionParams> layers;
        std::vector<float*> outputs;
        std::vector<std::int64_t> wanted;
        bool fast = true;
        for (const FlowStep& step : flow.steps) {
            if (step.layer < 0) continue;
            const Mixing& mixing = *step.mixing;
            std::vector<std::int64_t> at;
            for (const std::int64_t query : queries) {
                at.push_back(query < 0 ? query + mixing.queries : query);
                if (at.back() < 0 || at.back() >= mixing.queries)
                    return fail(ErrorCode::BadInput, "query {} is not there: {} has {}, from 0 to {}", query,
                                mixing.name, mixing.queries, mixing.queries - 1);
            }
            // One list serves all layers; where negative indices mean different tokens, layers are asked one by one.
            if (wanted.empty()) wanted = at;
            fast = fast && wanted == at;
            const auto* softmax = dynamic_cast<const SoftmaxMixing*>(&mixing);
            if (softmax == nullptr || !fast) {
                fast = false;
                continue;
            }
            layers.push_back(*VITRINE_TRY(softmax->params()));
        }
        const auto count = static_cast<std::int64_t>(queries.size());
        if (fast && !layers.empty() && count > 0) {
            for (const kernels::AttentionParams& p : layers) {
                found.rows.push_back(head_mean ? at::empty({count, p.keys}) : at::empty({p.heads, count, p.keys}));
                outputs.push_back(found.rows.back().data_ptr<float>());
            }
            // What one layer can run all can: an implementation is stopped by the width of heads, which a flow shares;
            // where it does not, the plain one takes all.
            kernels::AttentionParams widest = layers.front();
            for (const kernels::AttentionParams& p : layers)
                if (p.head_dim > widest.head_dim) widest = p;
            const auto choice = VITRINE_TRY(kernels::choose(kernels::Operation::MapRowsLayers, widest));
            choice.kernels->map_rows_layers(layers, wanted, head_mean, outputs, kKernelThreads);
            found.implementation = choice.shown();
            return found;
        }
        for (const FlowStep& step : flow.steps) {
            if (step.layer < 0) continue;
            const at::Tensor rows = VITRINE_TRY(step.mixing->rows({}, queries));
            found.rows.push_back(head_mean ? rows.mean(0) : rows);
            found.implementation = step.mixing->implementation();
        }
        return found;
    });
}

}  // namespace vitrine
