// Lists of codes: found, decoded and trained through.
#include "sparse_codes.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <vector>

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/searchsorted.h>
#include <ATen/ops/topk.h>
#include <torch/csrc/autograd/custom_function.h>

#include <vitrine/kernels/sparse_decode.h>

#include "device_sparse.h"
#include "softmax_mixing.h"

namespace vitrine {

namespace {

const kernels::SparseKernels& chosen_kernels() {
    const auto found = kernels::choose_sparse();
    TORCH_CHECK(found.has_value(), found ? "" : found.error().message);
    return **found;
}

kernels::SparseRows described(const at::Tensor& indices, const at::Tensor& values, const at::Tensor& starts,
                              const at::Tensor& rows, std::int64_t m, std::int64_t d) {
    kernels::SparseRows p;
    p.indices = indices.const_data_ptr<std::int64_t>();
    p.values = values.const_data_ptr<float>();
    if (rows.defined()) p.rows = rows.const_data_ptr<float>();
    if (starts.defined()) p.starts = starts.const_data_ptr<std::int64_t>();
    p.n = starts.defined() ? starts.size(0) - 1 : indices.size(0);
    p.k = starts.defined() ? 0 : indices.size(1);
    p.m = m;
    p.d = d;
    const char* const problem = kernels::cannot_run(p);
    TORCH_CHECK(problem == nullptr, "lists of codes: ", problem);
    return p;
}

at::Tensor decoded(const at::Tensor& indices, const at::Tensor& values, const at::Tensor& starts,
                   const at::Tensor& rows) {
    if (rows.is_cuda()) return device_sparse_decode(indices, values, starts, rows);
    const auto p = described(indices, values, starts, rows, rows.size(0), rows.size(1));
    at::Tensor out = at::empty({p.n, p.d}, rows.options().requires_grad(false));
    chosen_kernels().decode(p, out.mutable_data_ptr<float>(), kKernelThreads);
    return out;
}

}  // namespace

at::Tensor lists_value_gradient(const at::Tensor& indices, const at::Tensor& starts, const at::Tensor& rows,
                                const at::Tensor& d_out) {
    if (rows.is_cuda()) return device_sparse_value_gradient(indices, starts, rows, d_out);
    at::Tensor out = at::empty(indices.sizes(), rows.options().requires_grad(false));
    const auto p = described(indices, out, starts, rows, rows.size(0), rows.size(1));
    chosen_kernels().value_gradient(p, d_out.const_data_ptr<float>(), out.mutable_data_ptr<float>(), kKernelThreads);
    return out;
}

at::Tensor lists_row_gradient(const at::Tensor& indices, const at::Tensor& values, const at::Tensor& starts,
                              std::int64_t m, const at::Tensor& d_out, const at::Tensor& sums) {
    if (d_out.is_cuda()) return device_sparse_row_gradient(indices, values, starts, m, d_out, sums);
    const auto p = described(indices, values, starts, {}, m, d_out.size(1));
    at::Tensor out = at::empty({p.m, p.d}, d_out.options());
    chosen_kernels().row_gradient(p, d_out.const_data_ptr<float>(), out.mutable_data_ptr<float>(),
                                  sums.defined() ? sums.data_ptr<float>() : nullptr, kKernelThreads);
    return out;
}

namespace {

/// Functions of autograd take what may be missing so.
std::optional<at::Tensor> if_defined(const at::Tensor& x) {
    return x.defined() ? std::optional<at::Tensor>(x) : std::nullopt;
}

struct DecodeLists : torch::autograd::Function<DecodeLists> {
    static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& indices,
                              const at::Tensor& values, const at::Tensor& rows,
                              const std::optional<at::Tensor>& starts) {
        // What may be missing comes last: needs_input_grad() counts those that are not.
        const at::Tensor of_values = values.contiguous(), of_rows = rows.contiguous();
        context->save_for_backward({indices, of_values, starts.value_or(at::Tensor()), of_rows});
        return decoded(indices, of_values, starts.value_or(at::Tensor()), of_rows);
    }
    static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                   const torch::autograd::variable_list& gradients) {
        const auto saved = context->get_saved_variables();
        const at::Tensor d_out = gradients[0].contiguous();
        at::Tensor d_values, d_rows;
        if (context->needs_input_grad(1)) d_values = lists_value_gradient(saved[0], saved[2], saved[3], d_out);
        if (context->needs_input_grad(2))
            d_rows = lists_row_gradient(saved[0], saved[1], saved[2], saved[3].size(0), d_out);
        return {at::Tensor(), d_values, d_rows, at::Tensor()};
    }
};

struct ListedProducts : torch::autograd::Function<ListedProducts> {
    static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& indices,
                              const at::Tensor& values, const std::optional<at::Tensor>& starts, const at::Tensor& x,
                              const at::Tensor& encoder, const at::Tensor& /*bias*/,
                              const std::optional<at::Tensor>& subtracted) {
        context->save_for_backward(
            {indices, starts.value_or(at::Tensor()), x.contiguous(), encoder, subtracted.value_or(at::Tensor())});
        return values.clone();
    }
    static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                   const torch::autograd::variable_list& gradients) {
        const auto saved = context->get_saved_variables();
        const at::Tensor &encoder = saved[3], &subtracted = saved[4];
        const at::Tensor d_values = gradients[0].contiguous(),
                         d_bias = at::empty({encoder.size(1)}, encoder.options().requires_grad(false));
        const at::Tensor d_columns =
            lists_row_gradient(saved[0], d_values, saved[1], encoder.size(1), saved[2], d_bias);
        // All of x has the same subtracted from it, so only the sums of the gradients to each latent reach it.
        const at::Tensor d_subtracted = subtracted.defined() ? -at::matmul(encoder, d_bias) : at::Tensor();
        return {at::Tensor(), at::Tensor(), at::Tensor(), at::Tensor(), d_columns.t().contiguous(),
                d_bias,       d_subtracted};
    }
};

/// The places of the `count` largest of all, rising. Float32 on the CPU.
at::Tensor places_of_largest(const at::Tensor& flat, std::int64_t count) {
    const std::int64_t all = flat.numel();
    const float* x = flat.const_data_ptr<float>();
    // A bound that somewhat more than these exceed, from every so-many-th number; what exceeds it is few.
    constexpr std::int64_t kSample = 1 << 16;
    std::vector<float> sample;
    const std::int64_t every = std::max<std::int64_t>(1, all / kSample);
    for (std::int64_t i = 0; i < all; i += every) sample.push_back(x[i]);
    const auto samples = static_cast<double>(sample.size());
    const double share = static_cast<double>(count) / static_cast<double>(all);
    const auto reached = static_cast<std::int64_t>(share * samples + 6 * std::sqrt(share * samples) + 8);
    float bound = -std::numeric_limits<float>::infinity();
    if (reached < std::ssize(sample)) {
        std::nth_element(sample.begin(), sample.begin() + reached, sample.end(), std::greater<>());
        bound = sample[static_cast<std::size_t>(reached)];
    }
    const auto found = [&](float least, auto&& taken) {
        constexpr std::int64_t kPieces = 64;
        std::vector<std::vector<std::int64_t>> pieces(kPieces);
        at::parallel_for(0, kPieces, 1, [&](std::int64_t begin, std::int64_t end) {
            for (std::int64_t p = begin; p < end; ++p)
                for (std::int64_t i = all * p / kPieces; i < all * (p + 1) / kPieces; ++i)
                    if (x[i] >= least) pieces[static_cast<std::size_t>(p)].push_back(i);
        });
        taken.clear();
        for (const auto& piece : pieces) taken.insert(taken.end(), piece.begin(), piece.end());
    };
    std::vector<std::int64_t> candidates;
    found(bound, candidates);
    if (std::ssize(candidates) < count) found(-std::numeric_limits<float>::infinity(), candidates);
    TORCH_CHECK(std::ssize(candidates) >= count, "numbers before the activation are not finite");
    std::vector<float> values;
    values.reserve(candidates.size());
    for (const std::int64_t i : candidates) values.push_back(x[i]);
    std::nth_element(values.begin(), values.begin() + (count - 1), values.end(), std::greater<>());
    const float least = values[static_cast<std::size_t>(count - 1)];
    const std::int64_t above = std::count_if(values.begin(), values.end(), [&](float v) { return v > least; });
    std::int64_t equal = count - above;
    at::Tensor out = at::empty({count}, at::kLong);
    auto* to = out.mutable_data_ptr<std::int64_t>();
    for (const std::int64_t i : candidates)
        if (x[i] > least || (x[i] == least && equal-- > 0)) *to++ = i;
    return out;
}

}  // namespace

bool lists_apply(const at::Tensor& rows) {
    return rows.scalar_type() == at::kFloat && (rows.is_cpu() || (rows.is_cuda() && device_sparse_built()));
}

std::optional<CodeLists> largest_lists(const at::Tensor& rows, std::int64_t k) {
    constexpr std::int64_t kMostOnCpu = 1024;
    if (!lists_apply(rows) || rows.dim() != 2 || k < 1 || k > (rows.is_cuda() ? device_most_largest() : kMostOnCpu))
        return {};
    const at::NoGradGuard no_grad;
    const at::Tensor x = rows.contiguous();
    CodeLists out;
    out.values = at::empty({x.size(0), k}, x.options().requires_grad(false));
    out.indices = at::empty({x.size(0), k}, out.values.options().dtype(at::kLong));
    if (x.is_cuda())
        device_largest(x, out.values, out.indices);
    else
        chosen_kernels().largest(x.const_data_ptr<float>(), x.size(0), x.size(1), k,
                                 out.values.mutable_data_ptr<float>(), out.indices.mutable_data_ptr<std::int64_t>(),
                                 kKernelThreads);
    return out;
}

CodeLists largest_of_all(const at::Tensor& rows, std::int64_t count) {
    const at::NoGradGuard no_grad;
    const at::Tensor flat = rows.detach().contiguous().flatten();
    const at::Tensor places =
        flat.is_cpu() && flat.scalar_type() == at::kFloat
            ? places_of_largest(flat, count)
            : std::get<0>(std::get<1>(at::topk(flat, count, 0, /*largest=*/true, /*sorted=*/false)).sort());
    CodeLists out;
    out.values = flat.index_select(0, places);
    const at::Tensor tokens = places.div(rows.size(1), "floor");
    out.indices = places - tokens * rows.size(1);
    out.starts = at::searchsorted(tokens, at::arange(rows.size(0) + 1, places.options()));
    return out;
}

std::optional<CodeLists> lists_of(const at::Tensor& active, double most) {
    if (!active.is_cpu() || active.scalar_type() != at::kFloat || active.dim() != 2) return {};
    const at::NoGradGuard no_grad;
    const at::Tensor x = active.contiguous();
    const std::int64_t n = x.size(0), m = x.size(1);
    const float* from = x.const_data_ptr<float>();
    CodeLists out;
    out.starts = at::empty({n + 1}, at::kLong);
    auto* starts = out.starts.mutable_data_ptr<std::int64_t>();
    starts[0] = 0;
    at::parallel_for(0, n, 1, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i) {
            std::int32_t count = 0;
            for (std::int64_t j = 0; j < m; ++j) count += from[i * m + j] != 0 ? 1 : 0;
            starts[i + 1] = count;
        }
    });
    for (std::int64_t i = 0; i < n; ++i) starts[i + 1] += starts[i];
    if (static_cast<double>(starts[n]) > most * static_cast<double>(x.numel())) return {};
    out.indices = at::empty({starts[n]}, at::kLong);
    out.values = at::empty({starts[n]}, x.options());
    auto* indices = out.indices.mutable_data_ptr<std::int64_t>();
    auto* values = out.values.mutable_data_ptr<float>();
    at::parallel_for(0, n, 1, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i)
            for (std::int64_t j = 0, to = starts[i]; to < starts[i + 1]; ++j)
                if (from[i * m + j] != 0) {
                    indices[to] = j;
                    values[to++] = from[i * m + j];
                }
    });
    return out;
}

at::Tensor decode_lists(const at::Tensor& indices, const at::Tensor& values, const at::Tensor& starts,
                        const at::Tensor& rows) {
    return DecodeLists::apply(indices, values, rows, if_defined(starts));
}

at::Tensor listed_products(const CodeLists& lists, const at::Tensor& x, const at::Tensor& encoder,
                           const at::Tensor& bias, const at::Tensor& subtracted) {
    return ListedProducts::apply(lists.indices, lists.values, if_defined(lists.starts), x, encoder, bias,
                                 if_defined(subtracted));
}

}  // namespace vitrine
