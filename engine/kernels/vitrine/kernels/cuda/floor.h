// What a device can do at best: a ceiling that kernels are compared with, measured by running into it.
#pragma once

#include <cstdint>

#include <vitrine/kernels/cuda/attention.h>

namespace vitrine::kernels::cuda {

/// Queues independent exponentials (ex2.approx) in the registers of full multiprocessors, some milliseconds of them.
/// `count` is set to how many: divide by the time that it takes.
const char* exponentials(std::int64_t& count, const Launch& launch) noexcept;

}  // namespace vitrine::kernels::cuda
