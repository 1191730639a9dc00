// Finds NCCL and hands libtorch's tensors to it.
#include <vitrine/device_sums.h>

#include <dlfcn.h>

#include <array>
#include <cstdlib>
#include <exception>
#include <string_view>

#include <c10/core/DeviceGuard.h>
#include <c10/core/Stream.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <vitrine/device.h>

namespace vitrine {

namespace {

// What nccl.h (2.x) declares, as far as it is called.
struct NcclId {
    char bytes[128];
};
constexpr int kNcclSuccess = 0, kNcclInProgress = 7, kNcclInvalidUsage = 5, kNcclSum = 0, kNcclInt64 = 4,
              kNcclFloat32 = 7, kNcclFloat64 = 8;

struct Nccl {
    int (*unique_id)(NcclId*) = nullptr;
    int (*init)(void** comm, int count, NcclId id, int rank) = nullptr;
    int (*all_reduce)(const void* from, void* to, std::size_t count, int type, int operation, void* comm,
                      void* stream) = nullptr;
    int (*problem)(void* comm, int* code) = nullptr;
    int (*destroy)(void* comm) = nullptr;
    int (*abort)(void* comm) = nullptr;
    const char* (*text)(int code) = nullptr;

    Status check(int code) const {
        if (code == kNcclSuccess || code == kNcclInProgress) return {};
        return fail(ErrorCode::Io, "NCCL failed: {}", text(code));
    }
};

/// The one that libtorch brought where it has one.
Result<Nccl> find_nccl() {
    if (const char* asked = std::getenv("VITRINE_NCCL"); asked != nullptr && std::string_view(asked) == "off")
        return fail(ErrorCode::Unsupported, "VITRINE_NCCL is off");
    void* const handle = dlopen("libnccl.so.2", RTLD_NOW | RTLD_LOCAL);
    if (handle == nullptr) return fail(ErrorCode::NotFound, "libnccl.so.2 was not found");
    Nccl out;
    bool all = true;
    const auto find = [&](const char* name, auto& function) {
        function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(dlsym(handle, name));
        all = all && function != nullptr;
    };
    find("ncclGetUniqueId", out.unique_id);
    find("ncclCommInitRank", out.init);
    find("ncclAllReduce", out.all_reduce);
    find("ncclCommGetAsyncError", out.problem);
    find("ncclCommDestroy", out.destroy);
    find("ncclCommAbort", out.abort);
    find("ncclGetErrorString", out.text);
    if (!all) return fail(ErrorCode::Unsupported, "libnccl.so.2 lacks a function");
    return out;
}

}  // namespace

struct DeviceSums::Joined {
    Nccl nccl;
    void* comm = nullptr;
    at::Device device = at::kCPU;
};

DeviceSums::DeviceSums(std::unique_ptr<Joined> joined) : joined_(std::move(joined)) {}

DeviceSums::~DeviceSums() {
    if (joined_->comm == nullptr) return;
    bool done = std::uncaught_exceptions() == 0;  // else the others may wait for what will not come
    if (done) {
        try {
            synchronize(joined_->device);
        } catch (...) {
            done = false;
        }
    }
    if (done)
        joined_->nccl.destroy(joined_->comm);
    else
        abandon();
}

void DeviceSums::abandon() {
    if (joined_->comm != nullptr) joined_->nccl.abort(joined_->comm);
    joined_->comm = nullptr;
}

bool DeviceSums::takes(const at::Tensor& x) {
    return x.is_cuda() &&
           (x.scalar_type() == at::kFloat || x.scalar_type() == at::kDouble || x.scalar_type() == at::kLong);
}

Status DeviceSums::sum(const at::Tensor& x) const {
    TORCH_CHECK(takes(x) && x.is_contiguous() && x.device() == joined_->device,
                "sums between devices are of contiguous float32, float64 or int64");
    if (joined_->comm == nullptr) return fail(ErrorCode::Io, "NCCL failed: the others were given up");
    const c10::DeviceGuard guard(x.device());
    void* const stream = c10::impl::VirtualGuardImpl(c10::DeviceType::CUDA).getStream(x.device()).native_handle();
    const int type = x.scalar_type() == at::kFloat    ? kNcclFloat32
                     : x.scalar_type() == at::kDouble ? kNcclFloat64
                                                      : kNcclInt64;
    VITRINE_CHECK(joined_->nccl.check(joined_->nccl.all_reduce(
        x.data_ptr(), x.data_ptr(), static_cast<std::size_t>(x.numel()), type, kNcclSum, joined_->comm, stream)));
    int earlier = kNcclSuccess;
    VITRINE_CHECK(joined_->nccl.check(joined_->nccl.problem(joined_->comm, &earlier)));
    return joined_->nccl.check(earlier);
}

Result<std::string> join_devices(Peers& peers, at::Device device) {
    if (peers.count() < 2 || peers.devices != nullptr) return std::string();
    const Result<Nccl> found =
        device.is_cuda() ? find_nccl() : fail(ErrorCode::Unsupported, "there is none for the CPU");
    double able = found ? 1 : 0, on_device = device.is_cuda() ? 1 : 0;
    std::array<double, 2> all{able, on_device};
    VITRINE_CHECK(peers.sum(all));
    if (all[1] == 0) return std::string();  // host memory is where everything is
    if (all[0] < peers.count())
        return fmt::format("sums go through host memory: {}",
                           !found ? found.error().message : "another process has no CUDA device or no NCCL");
    NcclId id{};
    Status mine;
    if (peers.rank() == 0) mine = found->check(found->unique_id(&id));
    VITRINE_CHECK(peers.agree(mine));
    std::array<double, sizeof(id.bytes)> bytes{};
    if (peers.rank() == 0)
        for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<unsigned char>(id.bytes[i]);
    VITRINE_CHECK(peers.sum(bytes));
    for (std::size_t i = 0; i < bytes.size(); ++i)
        id.bytes[i] = static_cast<char>(static_cast<unsigned char>(bytes[i]));
    auto joined = std::make_unique<DeviceSums::Joined>();
    joined->nccl = *found;
    const c10::DeviceGuard guard(device);
    joined->device = guard.current_device();
    const int code = found->init(&joined->comm, peers.count(), id, peers.rank());
    // The only use that can be wrong here.
    mine = code == kNcclInvalidUsage ? fail(ErrorCode::Unsupported,
                                            "NCCL wants a device of its own for each process; give each another "
                                            "--device cuda:N")
                                     : found->check(code);
    const Status together = peers.agree(mine);
    if (!together) {
        if (mine) found->abort(joined->comm);
        return fmt::format("sums go through host memory: {}", together.error().message);
    }
    peers.devices = std::shared_ptr<DeviceSums>(new DeviceSums(std::move(joined)));
    return std::string();
}

}  // namespace vitrine
