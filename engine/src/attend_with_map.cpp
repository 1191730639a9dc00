// Attention of a short sequence that leaves its map beside the output, in place of libtorch's.
#include "softmax_mixing.h"

#include <vitrine/torch_errors.h>

#include <ATen/ops/empty.h>

namespace vitrine {
namespace {

/// [heads, tokens, dim] or [1, heads, tokens, dim], short, fp32 on the CPU: windows and batches are for libtorch.
bool short_enough(const at::Tensor& x) {
    return !x.is_nested() && x.is_cpu() && x.scalar_type() == at::kFloat && x.layout() == at::kStrided &&
           (x.dim() == 3 || (x.dim() == 4 && x.size(0) == 1)) && x.size(-2) <= kMostTokensWithMaps && x.numel() > 0;
}

/// Rows without gaps inside, as the kernels read them.
at::Tensor readable(const at::Tensor& x) {
    const at::Tensor heads = as_heads(x).detach();
    return heads.stride(-1) == 1 ? heads : heads.contiguous();
}

}  // namespace

Result<bool> attend_with_map(SoftmaxParts& parts) {
    if (!short_enough(parts.q) || !short_enough(parts.k) || !short_enough(parts.v) || !parts.terms.empty())
        return false;
    return guarded([&]() -> Result<bool> {
        const at::Tensor q = readable(parts.q), k = readable(parts.k), v = readable(parts.v);
        const std::int64_t heads = q.size(0), queries = q.size(1), keys = k.size(1), dim = v.size(2);
        if (k.size(2) != q.size(2) || v.size(1) != keys || v.size(0) != k.size(0)) return false;
        // Tokens outermost, as libtorch leaves it: what comes next joins the heads without a copy.
        const at::Tensor out = at::empty({queries, heads, dim}).transpose(0, 1);
        const at::Tensor map = at::empty({heads, queries, keys}), lse = at::empty({heads, queries});
        kernels::AttentionParams p;
        p.q = q.data_ptr<float>();
        p.k = k.data_ptr<float>();
        p.heads = heads;
        p.key_heads = k.size(0);
        p.queries = queries;
        p.keys = keys;
        p.head_dim = q.size(2);
        p.scale = static_cast<float>(parts.scale);
        p.causal = parts.causal;
        kernels::SmallAttentionParams s;
        s.v = v.data_ptr<float>();
        s.value_dim = dim;
        s.out = out.data_ptr<float>();
        s.map = map.data_ptr<float>();
        s.lse = lse.data_ptr<float>();
        for (int axis = 0; axis < 2; ++axis) {
            p.q_stride[axis] = q.stride(axis);
            p.k_stride[axis] = k.stride(axis);
            s.v_stride[axis] = v.stride(axis);
            s.out_stride[axis] = out.stride(axis);
        }
        if (kernels::cannot_run(p, s) != nullptr) return false;
        const auto choice = VITRINE_TRY(kernels::choose(kernels::Operation::SmallAttention, p));
        choice.kernels->small_attention(p, s, kKernelThreads);
        parts.output = parts.q.dim() == 4 ? out.unsqueeze(0) : out;
        parts.lse = lse;
        parts.map = map;
        parts.source = choice.shown();
        return true;
    });
}

}  // namespace vitrine
