// Sums over the processes that train together, with gradients.
#pragma once

#include <ATen/core/Tensor.h>

#include <vitrine/peers.h>

namespace vitrine {

/// x added up over all processes, in x's type and on its device: from device to device in that type where
/// join_devices() found a way, else by way of host memory and double precision. Raises a c10::Error where the others
/// cannot be reached.
///
/// Each process's loss is its part of the sum that is trained on, so the gradient of a sum is the sum of its gradients.
at::Tensor shared_sum(const at::Tensor& x, Peers& peers);

/// The same in place of x, which is contiguous and has no graph.
void share_sum(const at::Tensor& x, Peers& peers);

/// Batch norm by the statistics of all processes' pictures together; keeps the running ones as at::batch_norm does.
///
/// @param x  float [batch, channels, rows, cols]: this process's pictures, at least one
at::Tensor shared_batch_norm(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                             const at::Tensor& running_mean, const at::Tensor& running_var, double momentum, double eps,
                             Peers& peers);

}  // namespace vitrine
