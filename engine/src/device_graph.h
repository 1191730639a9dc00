// A piece of device work recorded once and replayed with one launch: what it takes when the host costs nothing.
#pragma once

#include <functional>
#include <memory>

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <vitrine/base/result.h>

namespace vitrine {

/// Whether work on this device may be recorded: VITRINE_GRAPHS=off in the environment forbids it.
bool graphs_allowed(at::Device device);

/// A CUDA graph through libtorch_cuda's class, whose allocator must know that memory belongs to a recording. Nothing of
/// that library is linked, so its functions are looked up by name.
class DeviceGraph {
  public:
    /// Runs `work` on a stream of its own, once to warm up and once recorded. It must not wait for the device, and what
    /// it makes is made again by every replay, in the same memory.
    ///
    /// @error Unsupported  no device, a build without device kernels, a libtorch_cuda without these functions, or work
    ///                     that cannot be recorded (with libtorch's reason)
    static Result<DeviceGraph> record(at::Device device, const std::function<Status()>& work);
    /// On the current stream. The memory that the work used is the recording's own while it lives.
    void replay() const;

    struct Recorded;

  private:
    explicit DeviceGraph(std::shared_ptr<Recorded> recorded) : recorded_(std::move(recorded)) {}
    std::shared_ptr<Recorded> recorded_;
};

}  // namespace vitrine
