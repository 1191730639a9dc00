// The same rows of all blocks at once: what a hovered patch reads in every layer and head.
#include <vitrine/mixing.h>

#include <cstdlib>

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>

#include "device_attention.h"
#include "softmax_mixing.h"
#include <vitrine/torch_errors.h>

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

namespace {

/// Keys are packed while all blocks of a flow take no more than this.
constexpr std::int64_t kMostPackedBytes = std::int64_t{256} << 20;

/// The blocks of a flow and one list of tokens that serves all of them.
struct Blocks {
    std::vector<const Mixing*> mixings;
    std::vector<kernels::AttentionParams> params;  ///< empty where they have to be asked one by one
    std::vector<const DeviceReady*> there;         ///< instead of `params`, where all lie on a device
    std::vector<std::int64_t> tokens;

    std::size_t size() const { return mixings.size(); }
    /// What one layer can run all can: an implementation is stopped by the width of heads, which a flow shares; where
    /// it does not, the plain one takes all.
    Result<kernels::Choice> choose(kernels::Operation operation) const {
        kernels::AttentionParams widest = params.front();
        for (const kernels::AttentionParams& p : params)
            if (p.head_dim > widest.head_dim) widest = p;
        return kernels::choose(operation, widest);
    }
};

enum class Side : std::uint8_t { Queries, Keys };

Result<Blocks> blocks_of(const Flow& flow, std::span<const std::int64_t> tokens, Side side) {
    Blocks found;
    bool fast = true;
    std::int64_t packed_bytes = 0;
    for (const FlowStep& step : flow.steps) {
        if (step.layer < 0) continue;
        const Mixing& mixing = *step.mixing;
        const std::int64_t count = side == Side::Queries ? mixing.queries : mixing.keys;
        std::vector<std::int64_t> at;
        for (const std::int64_t token : tokens) {
            at.push_back(token < 0 ? token + count : token);
            if (at.back() < 0 || at.back() >= count)
                return fail(ErrorCode::BadInput, "{} {} is not there: {} has {}, from 0 to {}",
                            side == Side::Queries ? "query" : "key", token, mixing.name, count, count - 1);
        }
        // One list serves all layers; where negative indices mean different tokens, layers are asked one by one.
        if (found.tokens.empty()) found.tokens = at;
        // Where keys are made anew, one layer's exist at a time.
        const auto* softmax = dynamic_cast<const SoftmaxMixing*>(&mixing);
        fast = fast && found.tokens == at && softmax != nullptr && !softmax->rematerialises();
        found.mixings.push_back(&mixing);
    }
    if (!fast || found.mixings.empty() || tokens.empty()) return found;
    for (const Mixing* mixing : found.mixings) {
        const auto given = VITRINE_TRY(static_cast<const SoftmaxMixing&>(*mixing).given());
        if (given.device != nullptr) {
            found.there.push_back(given.device);
            continue;
        }
        found.params.push_back(*given.host);
        packed_bytes += kernels::packed_keys_size(found.params.back()) * static_cast<std::int64_t>(sizeof(float));
    }
    if (found.there.size() != found.size()) found.there.clear();
    if (found.params.size() != found.size()) {
        found.params.clear();
        return found;
    }
    if (side == Side::Queries)
        for (std::size_t l = 0; l < found.size(); ++l)
            found.params[l] = VITRINE_TRY(
                static_cast<const SoftmaxMixing&>(*found.mixings[l]).row_params(packed_bytes <= kMostPackedBytes));
    return found;
}

/// On a device they stay there.
Result<LayerRows> pieces_there(const Flow& flow, std::span<const std::int64_t> tokens, bool head_mean, Side side) {
    return guarded([&]() -> Result<LayerRows> {
        const Blocks blocks = VITRINE_TRY(blocks_of(flow, tokens, side));
        const bool rows = side == Side::Queries;
        LayerRows found;
        if (!blocks.there.empty()) {
            found.rows = VITRINE_TRY(
                device_pieces_of_layers(blocks.there, blocks.tokens, rows, head_mean, found.implementation));
            return found;
        }
        if (blocks.params.empty()) {
            for (const Mixing* mixing : blocks.mixings) {
                const at::Tensor one = VITRINE_TRY(rows ? mixing->rows({}, tokens) : mixing->columns({}, tokens));
                found.rows.push_back(head_mean ? one.mean(0) : one);
                found.implementation = mixing->implementation();
            }
            return found;
        }
        const auto count = static_cast<std::int64_t>(tokens.size());
        std::vector<float*> outputs;
        for (const kernels::AttentionParams& p : blocks.params) {
            const std::int64_t high = rows ? count : p.queries, wide = rows ? p.keys : count;
            found.rows.push_back(head_mean ? at::empty({high, wide}) : at::empty({p.heads, high, wide}));
            outputs.push_back(found.rows.back().data_ptr<float>());
        }
        const auto choice =
            VITRINE_TRY(blocks.choose(rows ? kernels::Operation::MapRowsLayers : kernels::Operation::MapColumnsLayers));
        (rows ? choice.kernels->map_rows_layers : choice.kernels->map_columns_layers)(
            blocks.params, blocks.tokens, head_mean, outputs, kKernelThreads);
        found.implementation = choice.shown();
        return found;
    });
}

Result<LayerRows> pieces_of_layers(const Flow& flow, std::span<const std::int64_t> tokens, bool head_mean, Side side) {
    return guarded([&]() -> Result<LayerRows> {
        LayerRows found = VITRINE_TRY(pieces_there(flow, tokens, head_mean, side));
        if (found.rows.empty() || found.rows.front().is_cpu()) return found;
        // They are pieces of one tensor: one copy brings them all.
        std::int64_t numbers = 0;
        for (const at::Tensor& piece : found.rows) numbers += piece.numel();
        const at::Tensor host = found.rows.front().as_strided({numbers}, {1}, 0).to(at::kCPU);
        for (at::Tensor& piece : found.rows)
            piece = host.narrow(0, piece.storage_offset(), piece.numel()).view(piece.sizes());
        return found;
    });
}

Status check_top(std::int64_t top, std::int64_t keys, const std::string& name) {
    if (top < 1 || top > keys)
        return fail(ErrorCode::BadInput, "the largest {} entries were asked for, {} has {}", top, name, keys);
    return {};
}

}  // namespace

Result<LayerRows> rows_of_layers_there(const Flow& flow, std::span<const std::int64_t> queries, bool head_mean) {
    return pieces_there(flow, queries, head_mean, Side::Queries);
}

Result<LayerRows> rows_of_layers(const Flow& flow, std::span<const std::int64_t> queries, bool head_mean) {
    return pieces_of_layers(flow, queries, head_mean, Side::Queries);
}

Result<LayerRows> columns_of_layers(const Flow& flow, std::span<const std::int64_t> keys, bool head_mean) {
    return pieces_of_layers(flow, keys, head_mean, Side::Keys);
}

Result<std::pair<at::Tensor, at::Tensor>> top_entries(const at::Tensor& x, std::int64_t top) {
    return guarded([&]() -> Result<std::pair<at::Tensor, at::Tensor>> {
        const at::Tensor rows = x.to(at::kCPU, at::kFloat).contiguous();
        const std::int64_t keys = rows.dim() == 0 ? 0 : rows.size(-1);
        VITRINE_CHECK(check_top(top, keys, "a row"));
        std::vector<std::int64_t> shape = rows.sizes().vec();
        shape.back() = top;
        at::Tensor values = at::empty(shape), indices = at::empty(shape, at::kLong);
        for (std::int64_t row = 0; row < rows.numel() / keys; ++row)
            kernels::select_top(rows.data_ptr<float>() + row * keys, keys, top, values.data_ptr<float>() + row * top,
                                indices.data_ptr<std::int64_t>() + row * top);
        return std::pair{values, indices};
    });
}

Result<LayerTop> top_of_layers(const Flow& flow, std::span<const std::int64_t> queries, bool head_mean,
                               std::int64_t top) {
    return guarded([&]() -> Result<LayerTop> {
        const Blocks blocks = VITRINE_TRY(blocks_of(flow, queries, Side::Queries));
        for (const Mixing* mixing : blocks.mixings) VITRINE_CHECK(check_top(top, mixing->keys, mixing->name));
        LayerTop found;
        if (blocks.params.empty()) {
            const LayerRows rows = VITRINE_TRY(rows_of_layers(flow, queries, head_mean));
            for (const at::Tensor& one : rows.rows) {
                auto [values, indices] = VITRINE_TRY(top_entries(one, top));
                found.values.push_back(std::move(values));
                found.indices.push_back(std::move(indices));
            }
            found.implementation = rows.implementation;
            return found;
        }
        std::vector<float*> values;
        std::vector<std::int64_t*> indices;
        for (const kernels::AttentionParams& p : blocks.params) {
            std::vector<std::int64_t> shape{static_cast<std::int64_t>(queries.size()), top};
            if (!head_mean) shape.insert(shape.begin(), p.heads);
            found.values.push_back(at::empty(shape));
            found.indices.push_back(at::empty(shape, at::kLong));
            values.push_back(found.values.back().data_ptr<float>());
            indices.push_back(found.indices.back().data_ptr<std::int64_t>());
        }
        const auto choice = VITRINE_TRY(blocks.choose(kernels::Operation::MapRowsTop));
        choice.kernels->map_rows_top(blocks.params, blocks.tokens, head_mean, top, values, indices, kKernelThreads);
        found.implementation = choice.shown();
        return found;
    });
}

}  // namespace vitrine
