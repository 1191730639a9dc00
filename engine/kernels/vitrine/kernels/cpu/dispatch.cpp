// Lists the implementations of the attention kernels and picks one for an operation.
#include <vitrine/kernels/chooser.h>

#include <vitrine/kernels/cpu/implementations.h>

#include <cstdlib>
#include <vector>

namespace vitrine::kernels {
namespace {

const std::vector<const AttentionKernels*>& built() {
    static const std::vector<const AttentionKernels*> all = [] {
        std::vector<const AttentionKernels*> list{reference_kernels()};
        for (const AttentionKernels* kernels : {avx2_kernels(), avx512_kernels()})
            if (kernels != nullptr) list.push_back(kernels);
        return list;
    }();
    return all;
}

bool needs_lse(Operation operation) {
    return operation != Operation::LogSumExp && operation != Operation::MapSweepGradient &&
           operation != Operation::PackKeys && operation != Operation::SmallAttention && operation != Operation::Probe;
}

/// Why an implementation cannot do this; null when it can.
const char* obstacle(const AttentionKernels& kernels, Operation operation, const AttentionParams& params) {
    if (const char* why = kernels.machine()) return why;
    if (operation == Operation::FusedSweep && kernels.fused == nullptr) return "it has no kernels on the fused map";
    return kernels.cannot_run(operation, params);
}

std::string names() {
    std::string text;
    for (const AttentionKernels* kernels : built()) text += (text.empty() ? "" : ", ") + std::string(kernels->name);
    return text;
}

}  // namespace

const char* name_of(Operation operation) noexcept {
    switch (operation) {
        case Operation::LogSumExp:
            return "log_sum_exp";
        case Operation::MapRows:
            return "map_rows";
        case Operation::MapRowsLayers:
            return "map_rows_layers";
        case Operation::MapRowsTop:
            return "map_rows_top";
        case Operation::MapColumns:
            return "map_columns";
        case Operation::MapColumnsLayers:
            return "map_columns_layers";
        case Operation::MapTile:
            return "map_tile";
        case Operation::MapSweep:
            return "map_sweep";
        case Operation::MapSweepCounts:
            return "map_sweep_counts";
        case Operation::MapSweepGradient:
            return "map_sweep_gradient";
        case Operation::MapApply:
            return "map_apply";
        case Operation::PackKeys:
            return "pack_keys";
        case Operation::FusedSweep:
            return "fused_sweep";
        case Operation::SmallAttention:
            return "small_attention";
        case Operation::Probe:
            return "probe";
    }
    return "unknown";
}

const char* summary_of(Operation operation) noexcept {
    switch (operation) {
        case Operation::LogSumExp:
            return "The log-sum-exp of every row by one streaming pass.";
        case Operation::MapRows:
            return "Chosen rows of the map: what these queries read.";
        case Operation::MapRowsLayers:
            return "The same rows of all layers and heads in one pass over the keys.";
        case Operation::MapRowsTop:
            return "The largest entries of the same rows of all layers, and which keys they are.";
        case Operation::MapColumns:
            return "Chosen columns of the map: who reads these keys.";
        case Operation::MapColumnsLayers:
            return "The same columns of all layers and heads in one pass over the queries.";
        case Operation::MapTile:
            return "A piece of the map, the mean or the largest entry of square blocks.";
        case Operation::MapSweep:
            return "Sums of all rows with weights, for all heads, without forming the map.";
        case Operation::MapSweepCounts:
            return "The same with row sums and a histogram of the map.";
        case Operation::MapSweepGradient:
            return "Sums of all rows of a function of the map and its gradient.";
        case Operation::MapApply:
            return "The map times values.";
        case Operation::PackKeys:
            return "Lays the keys out so that single rows read memory in order.";
        case Operation::FusedSweep:
            return "Rows, sums and order statistics of the mean, maximum or minimum over heads.";
        case Operation::SmallAttention:
            return "The forward of a short sequence with its whole map, in one pass.";
        case Operation::Probe:
            return "Few queries against very many keys, cut in equal runs over all workers, nothing known beforehand.";
    }
    return "unknown";
}

bool poison_scratch = false;

std::span<const AttentionKernels* const> attention_kernels() noexcept { return built(); }

const AttentionKernels* reference_kernels() noexcept {
    static const AttentionKernels table{
        "reference",
        []() noexcept -> const char* { return nullptr; },
        [](Operation, const AttentionParams&) noexcept -> const char* { return nullptr; },
        &log_sum_exp,
        &map_rows,
        &map_rows_layers,
        &map_rows_top,
        &map_columns,
        &map_columns_layers,
        &map_tile,
        &map_sweep,
        &map_sweep_counts,
        &map_sweep_gradient,
        &map_apply,
        &pack_keys,
        fused_reference(),
        &small_attention,
        &probe};
    return &table;
}

Result<Choice> choose(Operation operation, const AttentionParams& params) {
    const char* forced = std::getenv("VITRINE_KERNEL");
    return choose(operation, params, forced == nullptr ? "" : forced);
}

Result<Choice> choose(Operation operation, const AttentionParams& params, const std::string& forced) {
    if (const char* why = cannot_run(params, needs_lse(operation)))
        return fail(ErrorCode::Unsupported, "{} cannot be computed: {}", name_of(operation), why);
    if (!forced.empty()) {
        for (const AttentionKernels* kernels : built()) {
            if (forced != kernels->name) continue;
            if (const char* why = obstacle(*kernels, operation, params))
                return fail(ErrorCode::Unsupported, "VITRINE_KERNEL asks for {}, which cannot run {} here: {}", forced,
                            name_of(operation), why);
            return Choice{kernels, operation, "VITRINE_KERNEL asks for it"};
        }
        return fail(ErrorCode::BadInput, "VITRINE_KERNEL is {}, but there is only {}", forced, names());
    }
    // The widest vectors win on every operation and size that was measured, so the list is walked from its end; what
    // stops a faster one is part of the answer.
    std::string stopped;
    const auto& all = built();
    for (auto kernels = all.rbegin(); kernels != all.rend(); ++kernels) {
        const char* why = obstacle(**kernels, operation, params);
        if (why == nullptr)
            return Choice{*kernels, operation, stopped.empty() ? "the widest vectors that were built" : stopped};
        stopped += (stopped.empty() ? "" : "; ") + std::string((*kernels)->name) + ": " + why;
    }
    return fail(ErrorCode::Internal, "no implementation of {} can run: {}", name_of(operation), stopped);
}

}  // namespace vitrine::kernels
