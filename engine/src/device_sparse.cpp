// Hands lists of codes on a CUDA device to the kernels there, on libtorch's stream.
#include "device_sparse.h"

#include <ATen/ops/empty.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/Stream.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#if VITRINE_DEVICE_KERNELS
#include <vitrine/kernels/cuda/sparse_decode.h>
#endif

namespace vitrine {

#if VITRINE_DEVICE_KERNELS

namespace {

namespace cuda = kernels::cuda;

cuda::DeviceSparseRows described(const at::Tensor& indices, const at::Tensor& values, const at::Tensor& starts,
                                 const at::Tensor& rows, std::int64_t m, std::int64_t d) {
    cuda::DeviceSparseRows p;
    p.indices = indices.const_data_ptr<std::int64_t>();
    p.values = values.const_data_ptr<float>();
    if (rows.defined()) p.rows = rows.const_data_ptr();
    p.element = rows.defined() && rows.scalar_type() == at::kBFloat16 ? cuda::Element::BF16 : cuda::Element::F32;
    if (starts.defined()) p.starts = starts.const_data_ptr<std::int64_t>();
    p.n = starts.defined() ? starts.size(0) - 1 : indices.size(0);
    p.k = starts.defined() ? 0 : indices.size(1);
    p.m = m;
    p.d = d;
    return p;
}

/// The tensors' device is current, libtorch's stream is given.
struct Call {
    explicit Call(const at::Tensor& on) : guard(on.device()) {
        launch.stream = c10::impl::VirtualGuardImpl(c10::DeviceType::CUDA).getStream(on.device()).native_handle();
    }
    static void done(const char* problem) {
        TORCH_CHECK(problem == nullptr, "the kernels on lists of codes cannot run on this device: ", problem);
    }
    c10::DeviceGuard guard;
    cuda::Launch launch;
};

at::TensorOptions floats_beside(const at::Tensor& x) {
    return at::TensorOptions().dtype(at::kFloat).device(x.device());
}

}  // namespace

bool device_sparse_built() { return true; }
std::int64_t device_most_largest() { return cuda::kMostLargest; }

at::Tensor device_sparse_decode(const at::Tensor& indices, const at::Tensor& values, const at::Tensor& starts,
                                const at::Tensor& rows) {
    const auto p = described(indices, values, starts, rows, rows.size(0), rows.size(1));
    const Call call(rows);
    at::Tensor out = at::empty({p.n, p.d}, floats_beside(rows));
    Call::done(cuda::sparse_decode(p, out.mutable_data_ptr<float>(), call.launch));
    return out;
}

at::Tensor device_sparse_value_gradient(const at::Tensor& indices, const at::Tensor& starts, const at::Tensor& rows,
                                        const at::Tensor& d_out) {
    at::Tensor out = at::empty(indices.sizes(), floats_beside(rows));
    const auto p = described(indices, out, starts, rows, rows.size(0), rows.size(1));
    const Call call(rows);
    Call::done(
        cuda::sparse_value_gradient(p, d_out.const_data_ptr<float>(), out.mutable_data_ptr<float>(), call.launch));
    return out;
}

at::Tensor device_sparse_row_gradient(const at::Tensor& indices, const at::Tensor& values, const at::Tensor& starts,
                                      std::int64_t m, const at::Tensor& d_out, const at::Tensor& sums) {
    const auto p = described(indices, values, starts, {}, m, d_out.size(1));
    Call call(d_out);
    at::Tensor out = at::empty({p.m, p.d}, floats_beside(d_out));
    const auto bytes = static_cast<std::int64_t>(cuda::sparse_row_gradient_workspace(p));
    const at::Tensor scratch = at::empty({bytes}, d_out.options().dtype(at::kByte));
    call.launch.workspace = scratch.data_ptr();
    call.launch.workspace_bytes = static_cast<std::size_t>(bytes);
    Call::done(cuda::sparse_row_gradient(p, d_out.const_data_ptr<float>(), out.mutable_data_ptr<float>(),
                                         sums.defined() ? sums.data_ptr<float>() : nullptr, call.launch));
    return out;
}

void device_largest(const at::Tensor& x, const at::Tensor& values, const at::Tensor& indices) {
    const Call call(x);
    Call::done(cuda::largest(x.const_data_ptr<float>(), x.size(0), x.size(1), values.size(1), values.data_ptr<float>(),
                             indices.data_ptr<std::int64_t>(), call.launch));
}

#else

namespace {
[[noreturn]] void none() {
    TORCH_CHECK(false, "the device kernels are not in this build");
    std::abort();
}
}  // namespace

bool device_sparse_built() { return false; }
std::int64_t device_most_largest() { return 0; }
at::Tensor device_sparse_decode(const at::Tensor&, const at::Tensor&, const at::Tensor&, const at::Tensor&) { none(); }
at::Tensor device_sparse_value_gradient(const at::Tensor&, const at::Tensor&, const at::Tensor&, const at::Tensor&) {
    none();
}
at::Tensor device_sparse_row_gradient(const at::Tensor&, const at::Tensor&, const at::Tensor&, std::int64_t,
                                      const at::Tensor&, const at::Tensor&) {
    none();
}
void device_largest(const at::Tensor&, const at::Tensor&, const at::Tensor&) { none(); }

#endif

}  // namespace vitrine
