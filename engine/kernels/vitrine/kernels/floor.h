// What this machine can do at best: the ceilings that kernels are compared with, measured by running into them.
#pragma once

#include <cstdint>
#include <span>

#include <vitrine/kernels/attention.h>

namespace vitrine::kernels {

/// Floating point operations a second (a multiply-add counts two) in single precision, of `threads` items of a
/// ParallelFor that each run independent multiply-adds in registers for about 5 ms. Take the best of several.
double measure_flops(std::int64_t threads, const ParallelFor& parallel_for);

/// Bytes a second of reading `data` once, cut among `threads` items. Vector loads into independent sums, nothing
/// written.
double measure_read(std::span<const float> data, std::int64_t threads, const ParallelFor& parallel_for);

}  // namespace vitrine::kernels
