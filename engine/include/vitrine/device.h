// Devices: opening one by name, and how much memory it has.
#pragma once

#include <cstdint>
#include <string>

#include <c10/core/Device.h>
#include <c10/core/ScalarType.h>

#include <vitrine/base/result.h>

namespace vitrine {

/// "cpu", "cuda", "cuda:1". This program is linked to the CPU part of libtorch alone; the first CUDA device that is asked for loads
/// libtorch_cuda.so, from beside libtorch_cpu.so or from where the system looks.
///
/// @error BadInput     not the name of a device
/// @error Unsupported  neither cpu nor cuda, libtorch_cuda.so cannot be loaded (says why), no such device on this machine
Result<at::Device> device_named(const std::string& name);

/// "fp32", "bf16", "fp16".
/// @error BadInput  another word
Result<at::ScalarType> dtype_named(const std::string& name);

/// Bytes that tensors on this device can still take. On the CPU what the system counts as available; on a device what is free there and
/// what libtorch holds back unused. 0 where it cannot be told.
std::int64_t free_bytes(at::Device device);

/// The most bytes that libtorch's tensors took on a device at once since the last reset; 0 on the CPU, where nobody counts.
std::int64_t peak_bytes(at::Device device);
void reset_peak_bytes(at::Device device);

/// Waits until a device has done all that it was given; nothing on the CPU.
void synchronize(at::Device device);

}  // namespace vitrine
