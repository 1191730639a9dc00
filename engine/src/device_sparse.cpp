// Hands lists of codes on a CUDA device to the kernels there, on libtorch's stream.
#include "device_sparse.h"

#include <ATen/ops/empty.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/Stream.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#if VITRINE_DEVICE_KERNELS
#include <vitrine/kernels/cuda/list_step.h>
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

namespace {

void row_gradients(const cuda::DeviceSparseRows& p, const cuda::RowGradient* which, int count, float* heard,
                   const at::Tensor& beside) {
    Call call(beside);
    const auto bytes = static_cast<std::int64_t>(cuda::sparse_row_gradient_workspace(p));
    const at::Tensor scratch = at::empty({bytes}, beside.options().dtype(at::kByte).requires_grad(false));
    call.launch.workspace = scratch.data_ptr();
    call.launch.workspace_bytes = static_cast<std::size_t>(bytes);
    Call::done(cuda::sparse_row_gradients(p, which, count, heard, call.launch));
}

const float* numbers(const at::Tensor& x) { return x.defined() ? x.const_data_ptr<float>() : nullptr; }
float* room(const at::Tensor& x) { return x.defined() ? x.data_ptr<float>() : nullptr; }

}  // namespace

at::Tensor device_sparse_row_gradient(const at::Tensor& indices, const at::Tensor& values, const at::Tensor& starts,
                                      std::int64_t m, const at::Tensor& d_out, const at::Tensor& sums) {
    const auto p = described(indices, values, starts, {}, m, d_out.size(1));
    at::Tensor out = at::empty({p.m, p.d}, floats_beside(d_out));
    cuda::RowGradient gradient;
    gradient.values = p.values;
    gradient.d_out = numbers(d_out);
    gradient.d_rows = room(out);
    gradient.sums = room(sums);
    row_gradients(p, &gradient, 1, nullptr, d_out);
    return out;
}

void device_largest(const at::Tensor& x, const at::Tensor& values, const at::Tensor& indices) {
    const Call call(x);
    Call::done(cuda::largest(x.const_data_ptr<float>(), x.size(0), x.size(1), values.size(1), values.data_ptr<float>(),
                             indices.data_ptr<std::int64_t>(), call.launch));
}

bool device_list_step_takes(std::int64_t width) { return cuda::list_step_takes(width); }

ListErrorFound device_list_error(const ListErrorAsked& asked) {
    const at::Tensor& x = asked.x;
    const auto options = floats_beside(x);
    ListErrorFound found{at::empty(asked.values.sizes(), options), at::empty(asked.values.sizes(), options),
                         at::empty(x.sizes(), options), at::empty({x.size(0), 4}, options),
                         asked.made ? at::empty(x.sizes(), options) : at::Tensor()};
    cuda::ListError p;
    p.lists = described(asked.indices, asked.values, asked.starts, asked.rows, asked.rows.size(0), x.size(1));
    p.keep_negative = asked.keep_negative;
    p.bias = numbers(asked.bias);
    p.x = numbers(x);
    p.centre = numbers(asked.centre);
    p.scale = numbers(asked.scale);
    p.shift = numbers(asked.shift);
    p.over = static_cast<cuda::ErrorOver>(asked.over);
    p.factor = static_cast<float>(asked.factor);
    p.active = room(found.active);
    p.d_values = room(found.d_values);
    p.d_said = room(found.d_said);
    p.made = room(found.made);
    p.sums = room(found.sums);
    const Call call(x);
    Call::done(cuda::list_error(p, call.launch));
    return found;
}

void device_list_gradients(const ListErrorAsked& asked, const ListErrorFound& found, const at::Tensor& read,
                           const ListGradients& to) {
    const std::int64_t m = asked.rows.size(0);
    cuda::RowGradient both[2];
    both[0].values = numbers(found.active);
    both[0].d_out = numbers(found.d_said);
    both[0].d_rows = room(to.decoder);
    both[0].plus = numbers(to.plus_decoder);
    // What would only lengthen a row is undone anyway, and would upset Adam's moments.
    both[0].along = numbers(asked.rows);
    both[0].squares = room(to.squares);
    both[1].values = numbers(found.d_values);
    both[1].d_out = numbers(read);
    both[1].d_rows = room(to.encoder);
    both[1].plus = numbers(to.plus_encoder);
    both[1].sums = room(to.encoder_bias);
    both[1].squares = room(to.squares) + m;
    row_gradients(described(asked.indices, found.active, asked.starts, {}, m, read.size(1)), both, 2, room(to.heard),
                  read);
}

void device_row_squares(const at::Tensor& rows, const at::Tensor& squares) {
    const Call call(rows);
    Call::done(cuda::row_squares(numbers(rows), rows.size(0), rows.size(1), room(squares), call.launch));
}

at::Tensor device_column_sums(const at::Tensor& x, double factor, const at::Tensor& sums, const at::Tensor& taken_off,
                              const at::Tensor& columns, const at::Tensor& weights, const at::Tensor& plus) {
    const at::Tensor parts = at::empty({cuda::kColumnParts, x.size(1)}, floats_beside(x)),
                     less = taken_off.defined() ? at::empty(x.sizes(), floats_beside(x)) : at::Tensor();
    cuda::ColumnSums p;
    p.x = numbers(x);
    p.n = x.size(0);
    p.d = x.size(1);
    p.factor = static_cast<float>(factor);
    p.taken_off = numbers(taken_off);
    p.less = room(less);
    p.columns = numbers(columns);
    p.weights = numbers(weights);
    p.m = weights.defined() ? weights.size(0) : 0;
    p.plus = numbers(plus);
    p.parts = room(parts);
    p.sums = room(sums);
    const Call call(x);
    Call::done(cuda::column_sums(p, call.launch));
    return less;
}

namespace {

cuda::ListFigures described(const ListFigured& figured) {
    cuda::ListFigures p;
    p.sums = numbers(figured.sums);
    p.n = figured.sums.size(0);
    p.tokens = static_cast<double>(figured.batch);
    p.revival = numbers(figured.revival);
    p.revival_share = static_cast<float>(figured.revival_share);
    p.figures = room(figured.figures);
    return p;
}

}  // namespace

void device_list_figures(const ListFigured& figured) {
    const cuda::ListFigures p = described(figured);
    const Call call(figured.sums);
    Call::done(cuda::list_finish(&p, nullptr, call.launch));
}

void device_list_update(const ListUpdated& update, const ListFigured* figured) {
    cuda::ListUpdate p;
    const std::int64_t m = update.weights[0].size(0);
    p.squares[0] = numbers(update.squares);
    p.squares[1] = numbers(update.squares) + m;
    for (int b = 0; b < 2; ++b) {
        p.slopes[b] = numbers(update.gradients[2 + b]);
        p.sizes[b] = update.gradients[2 + b].size(0);
    }
    for (int t = 0; t < 4; ++t) p.counts[t] = room(update.counts[t]);
    p.heard = numbers(update.heard);
    p.silent = update.silent.data_ptr<std::int64_t>();
    p.batch = update.batch;
    p.window = update.window;
    p.longest = update.longest;
    p.rate_there = numbers(update.rate_there);
    p.rate = update.rate;
    p.beta1 = update.beta1;
    p.beta2 = update.beta2;
    p.clip = update.clip;
    p.figures = room(update.figures);
    const at::Tensor scalars = at::empty({4}, floats_beside(update.figures));
    p.scalars = room(scalars);
    const Call call(update.figures);
    const cuda::ListFigures figures = figured != nullptr ? described(*figured) : cuda::ListFigures();
    Call::done(cuda::list_finish(figured != nullptr ? &figures : nullptr, &p, call.launch));

    cuda::ListAdam adam;
    cuda::AdamTensor* const tensors[] = {&adam.rows, &adam.columns, &adam.biases[0], &adam.biases[1]};
    for (int t = 0; t < 4; ++t)
        *tensors[t] = {room(update.weights[t]), room(update.first[t]), room(update.second[t]),
                       numbers(update.gradients[t])};
    adam.m = m;
    adam.d = update.weights[0].size(1);
    adam.scalars = p.scalars;
    adam.beta1 = static_cast<float>(update.beta1);
    adam.beta2 = static_cast<float>(update.beta2);
    adam.epsilon = static_cast<float>(update.epsilon);
    Call::done(cuda::list_adam(adam, call.launch));
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
bool device_list_step_takes(std::int64_t) { return false; }
ListErrorFound device_list_error(const ListErrorAsked&) { none(); }
void device_list_gradients(const ListErrorAsked&, const ListErrorFound&, const at::Tensor&, const ListGradients&) {
    none();
}
void device_row_squares(const at::Tensor&, const at::Tensor&) { none(); }
at::Tensor device_column_sums(const at::Tensor&, double, const at::Tensor&, const at::Tensor&, const at::Tensor&,
                              const at::Tensor&, const at::Tensor&) {
    none();
}
void device_list_figures(const ListFigured&) { none(); }
void device_list_update(const ListUpdated&, const ListFigured*) { none(); }

#endif

}  // namespace vitrine
