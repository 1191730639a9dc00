// The map kernels of a CUDA device over tensors as they lie there: nothing is copied, answers stay on the device.
#pragma once

#include <span>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include <vitrine/kernels/cuda/attention.h>
#include <vitrine/mixing.h>

#include "softmax_mixing.h"

namespace vitrine {

/// Whether the device kernels take this attention: they were built, it lies on a CUDA device in fp32, fp16 or bf16, and
/// VITRINE_KERNEL does not force a kernel of the CPU.
bool device_kernels_take(const at::Tensor& q);

/// What the device kernels are given, and the tensors that the pointers in it mean.
struct DeviceReady {
    at::Tensor q, k;             ///< [heads or key heads, tokens, head_dim], last stride 1
    at::Tensor bias, mask, lse;  ///< lse [heads, queries] fp32 contiguous; bias and mask as they broadcast
    kernels::cuda::DeviceAttention params;
};
/// Fills it in from q and k [heads, tokens, head_dim] and the terms; `like` is the shape of the scores without keys.
/// `lse` is [heads, queries] or undefined: then a pass of ours finds it.
Result<DeviceReady> prepare_device(const at::Tensor& q, const at::Tensor& k, const std::vector<ScoreTerm>& terms,
                                   std::vector<std::int64_t> like, double scale, bool causal, const at::Tensor& lse);

// The operations of a Mixing; `shown` is set to what ran, "map_rows cuda_sm80". Indices were checked.
using Indices = std::vector<std::int64_t>;
/// [chosen heads, chosen queries, keys]; all heads where `heads` holds all in order.
Result<at::Tensor> device_rows(const DeviceReady& ready, const Indices& heads, const Indices& queries,
                               std::string& shown);
/// [chosen heads, queries, chosen keys]
Result<at::Tensor> device_columns(const DeviceReady& ready, const Indices& heads, const Indices& keys,
                                  std::string& shown);
Result<at::Tensor> device_tile(const DeviceReady& ready, const Indices& heads, std::int64_t q0, std::int64_t q1,
                               std::int64_t k0, std::int64_t k1, std::int64_t pool, Pooling pooling,
                               std::string& shown);
/// r: [1 or heads, queries] fp32 contiguous on the device. [heads, keys]
Result<at::Tensor> device_left(const DeviceReady& ready, const at::Tensor& r, std::string& shown);
/// Back through layers of one device, the last first: r becomes the mean over heads of r^T P, and at a layer with a
/// residual path the mean of that and r. r: [queries of the last] fp32 contiguous there. [keys of the first]
Result<at::Tensor> device_walk(std::span<const DeviceReady* const> layers, const std::vector<bool>& residual,
                               const at::Tensor& r, std::string& shown);
/// v: [heads, keys, dim]. [heads, queries, dim]
Result<at::Tensor> device_right(const DeviceReady& ready, const at::Tensor& v, std::string& shown);
/// v: [key or value heads, keys, dim], d_output: [heads, queries, dim], of q's type. [heads, keys]
Result<at::Tensor> device_sensitivity(const DeviceReady& ready, const at::Tensor& v, const at::Tensor& d_output,
                                      kernels::SweepFunctor functor, const at::Tensor& r, std::string& shown);
/// The same rows, or columns, of many layers in one launch, on the device, as pieces of one tensor. Each [heads,
/// queries, keys], or without heads their mean.
Result<std::vector<at::Tensor>> device_pieces_of_layers(std::span<const DeviceReady* const> layers,
                                                        const Indices& tokens, bool rows, bool head_mean,
                                                        std::string& shown);

/// One map fused of all heads; the meanings are those of fused_sweep.h. [chosen queries, keys]
Result<at::Tensor> device_fused_rows(const DeviceReady& ready, kernels::HeadFusion fusion, const Indices& queries,
                                     std::string& shown);
/// r: [1, queries] fp32 contiguous on the device. [keys]
Result<at::Tensor> device_fused_left(const DeviceReady& ready, kernels::HeadFusion fusion, const at::Tensor& r,
                                     const kernels::Dropped& dropped, std::string& shown);
/// [queries]
Result<at::Tensor> device_fused_row_sums(const DeviceReady& ready, kernels::HeadFusion fusion,
                                         const kernels::Dropped& dropped, std::string& shown);
/// int64 [bins + 1]: the bins, and how many entries lie below the first.
Result<at::Tensor> device_fused_counts(const DeviceReady& ready, kernels::HeadFusion fusion, std::uint32_t first,
                                       int shift, std::int64_t bins, std::string& shown);

/// Queues exponentials on this device and says how many; see kernels/cuda/floor.h.
Result<std::int64_t> device_exponentials(at::Device device);

/// rows_of_layers with its answers where the kept tensors are.
Result<LayerRows> rows_of_layers_there(const Flow& flow, std::span<const std::int64_t> queries, bool head_mean);

}  // namespace vitrine
