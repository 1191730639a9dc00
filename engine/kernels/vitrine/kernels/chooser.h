// Picks the implementation of each attention kernel, with the reason, and lists what there is.
//
//     const auto choice = choose(Operation::MapRows, params);
//     choice->kernels->map_rows(params, heads, queries, out, threads);
//     shown = choice->shown();   // "map_rows avx512"
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include <vitrine/base/result.h>
#include <vitrine/kernels/attention.h>
#include <vitrine/kernels/fused_sweep.h>
#include <vitrine/kernels/probe.h>
#include <vitrine/kernels/small_attention.h>
#include <vitrine/kernels/sweep_gradient.h>

namespace vitrine::kernels {

enum class Operation : std::uint8_t {
    LogSumExp,
    MapRows,
    MapRowsLayers,
    MapRowsTop,
    MapColumns,
    MapColumnsLayers,
    MapTile,
    MapSweep,
    MapSweepCounts,
    MapSweepGradient,
    MapApply,
    PackKeys,
    FusedSweep,
    SmallAttention,
    Probe
};
inline constexpr Operation kOperations[] = {
    Operation::LogSumExp,      Operation::MapRows,          Operation::MapRowsLayers, Operation::MapRowsTop,
    Operation::MapColumns,     Operation::MapColumnsLayers, Operation::MapTile,       Operation::MapSweep,
    Operation::MapSweepCounts, Operation::MapSweepGradient, Operation::MapApply,      Operation::PackKeys,
    Operation::FusedSweep,     Operation::SmallAttention,   Operation::Probe};
/// "map_rows"
const char* name_of(Operation operation) noexcept;
/// What it gives, one sentence.
const char* summary_of(Operation operation) noexcept;

/// One implementation of every operation; the signatures are those of attention.h, sweep_gradient.h,
/// small_attention.h and probe.h.
struct AttentionKernels {
    const char* name;                   ///< "reference", "avx2", "avx512": what VITRINE_KERNEL takes
    const char* (*machine)() noexcept;  ///< why this machine cannot run it; null when it can
    /// Why it cannot do this operation on these parameters; null when it can. The general conditions of cannot_run()
    /// come first.
    const char* (*cannot_run)(Operation operation, const AttentionParams& params) noexcept;
    decltype(&vitrine::kernels::log_sum_exp) log_sum_exp;
    decltype(&vitrine::kernels::map_rows) map_rows;
    decltype(&vitrine::kernels::map_rows_layers) map_rows_layers;
    decltype(&vitrine::kernels::map_rows_top) map_rows_top;
    decltype(&vitrine::kernels::map_columns) map_columns;
    decltype(&vitrine::kernels::map_columns_layers) map_columns_layers;
    decltype(&vitrine::kernels::map_tile) map_tile;
    decltype(&vitrine::kernels::map_sweep) map_sweep;
    decltype(&vitrine::kernels::map_sweep_counts) map_sweep_counts;
    decltype(&vitrine::kernels::map_sweep_gradient) map_sweep_gradient;
    decltype(&vitrine::kernels::map_apply) map_apply;
    decltype(&vitrine::kernels::pack_keys) pack_keys;
    const FusedKernels* fused = nullptr;  ///< null where it has none
    decltype(&vitrine::kernels::small_attention) small_attention = nullptr;
    decltype(&vitrine::kernels::probe) probe = nullptr;  ///< choose() takes attention_of(its parameters)
};

/// All implementations that were built, the plain one first, then by growing speed.
std::span<const AttentionKernels* const> attention_kernels() noexcept;

struct Choice {
    const AttentionKernels* kernels = nullptr;
    Operation operation = Operation::MapRows;
    std::string reason;  ///< why this one: "the widest vectors of this processor"
    std::string shown() const { return std::string(name_of(operation)) + " " + kernels->name; }
};

/// The implementation that runs this operation on these parameters.
///
/// The environment variable VITRINE_KERNEL forces one by its name.
/// @error BadInput     VITRINE_KERNEL names none of them (all are named)
/// @error Unsupported  the parameters cannot be run, or the forced one cannot run here (with its reason)
Result<Choice> choose(Operation operation, const AttentionParams& params);

/// The same with the forced name given ("" forces none).
Result<Choice> choose(Operation operation, const AttentionParams& params, const std::string& forced);

}  // namespace vitrine::kernels
