// Loads libtorch's CUDA part when a device is asked for, and asks its allocator about memory.
#include <vitrine/device.h>

#include <dlfcn.h>

#include <ATen/Context.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <filesystem>
#include <fstream>
#include <mutex>

#include <vitrine/torch_errors.h>

namespace vitrine {
namespace {

/// Must come before anything asks libtorch whether there is CUDA: the answer is remembered.
Status load_cuda() {
    static std::mutex mutex;
    std::lock_guard lock(mutex);
    // The guard is registered by libc10_cuda and says that the library is here, without asking the question.
    if (c10::impl::hasDeviceGuardImpl(c10::DeviceType::CUDA)) return {};
    std::string why;
    Dl_info cpu{};
    std::filesystem::path beside;
    if (dladdr(reinterpret_cast<const void*>(&at::globalContext), &cpu) != 0 && cpu.dli_fname != nullptr)
        beside = std::filesystem::path(cpu.dli_fname).parent_path() / "libtorch_cuda.so";
    // The system's way first, so that LD_LIBRARY_PATH decides.
    for (const std::string& name : {std::string("libtorch_cuda.so"), beside.string()}) {
        if (name.empty()) continue;
        if (dlopen(name.c_str(), RTLD_NOW | RTLD_GLOBAL) != nullptr) return {};
        if (const char* text = dlerror(); why.empty() && text != nullptr) why = text;
    }
    return fail(ErrorCode::Unsupported,
                "libtorch_cuda.so cannot be loaded ({}); give a libtorch with CUDA by LD_LIBRARY_PATH, or use cpu",
                why);
}

bool has_allocator(at::Device device) { return device.is_cuda() && c10::impl::hasDeviceGuardImpl(device.type()); }

c10::DeviceIndex index_of(at::Device device) {
    return device.has_index() ? device.index() : c10::impl::VirtualGuardImpl(device.type()).getDevice().index();
}

}  // namespace

Result<at::Device> device_named(const std::string& name) {
    std::optional<at::Device> device;
    try {
        device.emplace(name);
    } catch (const c10::Error&) {
        return fail(ErrorCode::BadInput, "the device is '{}', expected cpu, cuda or cuda:N", name);
    }
    if (!device->is_cuda() && !device->is_cpu())
        return fail(ErrorCode::Unsupported, "device {} was asked for, expected cpu or cuda", name);
    if (device->is_cpu()) return *device;
    if (Status loaded = load_cuda(); !loaded)
        return tl::make_unexpected(std::move(loaded).error().with_context("device " + name));
    return guarded([&]() -> Result<at::Device> {
        const std::int64_t count = c10::impl::VirtualGuardImpl(c10::DeviceType::CUDA).deviceCount();
        if (count == 0 || (device->has_index() && device->index() >= count))
            return fail(ErrorCode::Unsupported,
                        "device {} was asked for, and this machine has {} CUDA device{}; use cpu", name, count,
                        count == 1 ? "" : "s");
        at::globalContext().lazyInitDevice(c10::DeviceType::CUDA);
        // libtorch multiplies in fp32 unless asked otherwise, but convolves in TF32: maps of gradients differed from
        // the CPU's by 2e-4.
        static std::once_flag once;
        std::call_once(once, [] { at::globalContext().setAllowTF32CuDNN(false); });
        return *device;
    });
}

Result<at::ScalarType> dtype_named(const std::string& name) {
    if (name == "fp32") return at::kFloat;
    if (name == "bf16") return at::kBFloat16;
    if (name == "fp16") return at::kHalf;
    return fail(ErrorCode::BadInput, "the precision is '{}', expected fp32, bf16 or fp16", name);
}

std::int64_t free_bytes(at::Device device) {
    if (device.is_cpu()) {
        std::ifstream lines("/proc/meminfo");
        std::string word;
        std::int64_t kilobytes = 0;
        while (lines >> word)
            if (word == "MemAvailable:" && lines >> kilobytes) return kilobytes * 1024;
        return 0;
    }
    if (!has_allocator(device)) return 0;
    auto* allocator = at::getDeviceAllocator(device.type());
    const auto stats = allocator->getDeviceStats(index_of(device));
    // The first of each triple counts all pools.
    return static_cast<std::int64_t>(allocator->getMemoryInfo(index_of(device)).first) +
           stats.reserved_bytes[0].current - stats.allocated_bytes[0].current;
}

std::int64_t peak_bytes(at::Device device) {
    if (!has_allocator(device)) return 0;
    return at::getDeviceAllocator(device.type())->getDeviceStats(index_of(device)).allocated_bytes[0].peak;
}

void reset_peak_bytes(at::Device device) {
    if (has_allocator(device)) at::getDeviceAllocator(device.type())->resetPeakStats(index_of(device));
}

void synchronize(at::Device device) {
    if (has_allocator(device)) c10::impl::VirtualGuardImpl(device.type()).synchronizeDevice(index_of(device));
}

}  // namespace vitrine
