// Sums between the CUDA devices of processes that train together, by NCCL, which is looked for when it is wanted.
#pragma once

#include <memory>
#include <string>

#include <ATen/core/Tensor.h>

#include <vitrine/peers.h>

namespace vitrine {

/// This process's device among those of all. Every process makes the same calls in the same order.
class DeviceSums {
  public:
    /// float32, float64 or int64, contiguous, on this device: becomes the sum of all processes' tensors, on the current
    /// stream, so that it can be recorded. Nothing is waited for. NCCL adds each number in one place and hands it on,
    /// so all processes have the same bits; how it is added follows from sizes and machine alone, and so do the bits.
    ///
    /// @error Io  a device or a process of the others failed
    Status sum(const at::Tensor& x) const;
    static bool takes(const at::Tensor& x);
    /// Ends what is still waited for on this device: the others will not come.
    void abandon();
    ~DeviceSums();

  private:
    struct Joined;
    explicit DeviceSums(std::unique_ptr<Joined> joined);
    std::unique_ptr<Joined> joined_;
    friend Result<std::string> join_devices(Peers& peers, at::Device device);
};

/// Sets peers.devices where all processes have a CUDA device of their own and NCCL; all of them call it.
/// VITRINE_NCCL=off in the environment of one keeps to host memory.
///
/// @return  why sums go through host memory, a sentence; empty where they do not, or where there is one process
/// @error   what a process could not say to the others
Result<std::string> join_devices(Peers& peers, at::Device device);

}  // namespace vitrine
