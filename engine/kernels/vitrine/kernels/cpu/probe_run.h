// The probe's walk over the schedule, shared by the plain and the vector versions: they differ in one segment alone.
#pragma once

#include <vitrine/kernels/probe.h>

namespace vitrine::kernels {

/// One block of rows against keys [first, last) of its key head.
struct ProbeBlock {
    std::int64_t batch, key_head;
    std::int64_t row, rows;  ///< first row of the block, and how many, at most kLeanRows
    std::int64_t first, last;
};

/// Writes the highest score and the sum of exponentials of every row, and out: [rows, head_dim], the sums of
/// exp(score - high) v.
using ProbeSegment = void (*)(const ProbeParams& params, const ProbeBlock& block, LeanPart* parts, float* out);

void probe_by(ProbeSegment segment, const ProbeParams& params, const ProbeResult& result,
              const ParallelFor& parallel_for);

}  // namespace vitrine::kernels
