// Finds libtorch_cuda's graph functions in the library that device.cpp loaded, and records with them.
#include "device_graph.h"

#include <cstdlib>
#include <string_view>

#include <vitrine/device.h>
#include <vitrine/torch_errors.h>

#if VITRINE_DEVICE_KERNELS
#include <dlfcn.h>

#include <ATen/cuda/CUDAGraph.h>
#include <c10/core/StreamGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#endif

namespace vitrine {

bool graphs_allowed(at::Device device) {
    const char* graphs = std::getenv("VITRINE_GRAPHS");
    return device.is_cuda() && (graphs == nullptr || std::string_view(graphs) != "off");
}

#if VITRINE_DEVICE_KERNELS

namespace {

/// The members as the C++ ABI of Linux names them; a libtorch where they look otherwise has not these names.
struct Functions {
    void (*construct)(void*, bool) = nullptr;
    void (*destroy)(void*) = nullptr;
    void (*begin)(void*, c10::MempoolId_t, cudaStreamCaptureMode) = nullptr;
    void (*end)(void*) = nullptr;
    void (*replay)(void*) = nullptr;
    bool all = true;

    Functions() {
        find(construct, "_ZN2at4cuda9CUDAGraphC1Eb");
        find(destroy, "_ZN2at4cuda9CUDAGraphD1Ev");
        find(begin, "_ZN2at4cuda9CUDAGraph13capture_beginESt4pairIyyE21cudaStreamCaptureMode");
        find(end, "_ZN2at4cuda9CUDAGraph11capture_endEv");
        find(replay, "_ZN2at4cuda9CUDAGraph6replayEv");
    }
    template <class F>
    void find(F& to, const char* name) {
        to = reinterpret_cast<F>(dlsym(RTLD_DEFAULT, name));
        all = all && to != nullptr;
    }
};

}  // namespace

struct DeviceGraph::Recorded {
    explicit Recorded(const Functions& with) : functions(with) { functions.construct(object, false); }
    ~Recorded() { functions.destroy(object); }
    Recorded(const Recorded&) = delete;
    Recorded& operator=(const Recorded&) = delete;

    Functions functions;
    alignas(at::cuda::CUDAGraph) std::byte object[sizeof(at::cuda::CUDAGraph)];
};

Result<DeviceGraph> DeviceGraph::record(at::Device device, const std::function<Status()>& work) {
    if (!device.is_cuda()) return fail(ErrorCode::Unsupported, "{} records no graphs", device.str());
    const Functions functions;
    if (!functions.all)
        return fail(ErrorCode::Unsupported, "this libtorch_cuda has no graph functions of 2.11's names");
    return guarded([&]() -> Result<DeviceGraph> {
        const c10::impl::VirtualGuardImpl guard(device.type());
        const c10::Stream stream = guard.getNewStream(device.has_index() ? device : guard.getDevice());
        const c10::StreamGuard on(stream);
        auto recorded = std::make_shared<Recorded>(functions);
        synchronize(device);
        VITRINE_CHECK(work());  // libraries take what they keep for a stream
        synchronize(device);
        // Other threads may go on as they like: autograd's own allocates nothing outside this recording.
        functions.begin(recorded->object, {0, 0}, cudaStreamCaptureModeThreadLocal);
        Status done;
        try {
            done = work();
        } catch (...) {
            try {
                functions.end(recorded->object);
            } catch (...) {  // the first reason is the one to tell
            }
            throw;
        }
        functions.end(recorded->object);
        VITRINE_CHECK(std::move(done));
        return DeviceGraph(std::move(recorded));
    });
}

void DeviceGraph::replay() const { recorded_->functions.replay(recorded_->object); }

#else

struct DeviceGraph::Recorded {};

Result<DeviceGraph> DeviceGraph::record(at::Device, const std::function<Status()>&) {
    return fail(ErrorCode::Unsupported, "the device kernels are not in this build");
}

void DeviceGraph::replay() const {}

#endif

}  // namespace vitrine
