// The plain kernels: fp32 arithmetic, one thread an answer, any layout. What the fast ones are held to.
#include <vitrine/kernels/cuda/launches.cuh>

namespace vitrine::kernels::cuda {
namespace {

constexpr int kThreads = 128;

template <Element kElement>
__device__ float element_at(const char* row, int d) {
    if constexpr (kElement == Element::F32)
        return reinterpret_cast<const float*>(row)[d];
    else if constexpr (kElement == Element::F16)
        return __half2float(reinterpret_cast<const __half*>(row)[d]);
    else
        return __bfloat162float(reinterpret_cast<const __nv_bfloat16*>(row)[d]);
}

template <Element kElement>
__device__ float dot(const char* a, const char* b, int dim) {
    float sum = 0;
    for (int d = 0; d < dim; ++d) sum = fmaf(element_at<kElement>(a, d), element_at<kElement>(b, d), sum);
    return sum;
}

template <Element kElement>
__device__ float score(const Problem& p, int h, int i, int j) {
    const char* q = p.q + h * p.q_stride[0] + i * p.q_stride[1];
    const char* k = p.k + h / p.group * p.k_stride[0] + j * p.k_stride[1];
    return general_score(p, dot<kElement>(q, k, p.head_dim), h, i, j);
}

template <Element kElement>
__device__ float entry(const Problem& p, int h, int i, int j) {
    return expf(score<kElement>(p, h, i, j) - safe_lse(p.lse[static_cast<long long>(h) * p.queries + i]));
}

__device__ long long this_thread() { return static_cast<long long>(blockIdx.x) * kThreads + threadIdx.x; }
unsigned blocks_for(long long count) { return static_cast<unsigned>((count + kThreads - 1) / kThreads); }

template <Element kElement>
__global__ void lse_kernel(const __grid_constant__ LseTask task) {
    const Problem& p = task.p;
    const long long at = this_thread();
    if (at >= static_cast<long long>(p.heads) * p.queries) return;
    const int h = static_cast<int>(at / p.queries), i = static_cast<int>(at % p.queries);
    float high = minus_infinity();
    for (int j = 0; j < p.keys; ++j) high = fmaxf(high, score<kElement>(p, h, i, j));
    double sum = 0;
    if (high != minus_infinity())
        for (int j = 0; j < p.keys; ++j) sum += expf(score<kElement>(p, h, i, j) - high);
    if (task.against == nullptr) {
        task.out[at] = high == minus_infinity() ? high : static_cast<float>(high + log(sum));
        return;
    }
    const bool skipped = task.r[h * task.r_head_stride + i] == 0 || high == minus_infinity();
    task.out[at] =
        skipped ? 0.0F : static_cast<float>(sum * exp(static_cast<double>(high) - safe_lse(task.against[at])));
}

/// One layer of a strip: the layer comes first, so that a task of many is read in place.
struct StripOne {
    StripLayer layer;
    std::int64_t host_list[kMaxListed];
    const std::int64_t* list;
    int listed, rows;
};
template <Element kElement>
__global__ void strip_kernel(const __grid_constant__ StripOne task) {
    const Problem& p = task.layer.p;
    const int streamed = task.rows != 0 ? p.keys : p.queries;
    const long long at = this_thread();
    if (at >= static_cast<long long>(task.listed) * streamed) return;
    const int x = static_cast<int>(task.rows != 0 ? at / streamed : at % task.listed);
    const int other = static_cast<int>(task.rows != 0 ? at % streamed : at / task.listed);
    const int fixed = static_cast<int>(task.list != nullptr ? task.list[x] : task.host_list[x]);
    float sum = 0;
    for (int h = 0; h < p.heads; ++h) {
        const float value = task.rows != 0 ? entry<kElement>(p, h, fixed, other) : entry<kElement>(p, h, other, fixed);
        sum += value;
        if (task.layer.out != nullptr) task.layer.out[static_cast<long long>(h) * streamed * task.listed + at] = value;
    }
    if (task.layer.mean != nullptr) task.layer.mean[at] = sum / static_cast<float>(p.heads);
}

template <Element kElement>
__global__ void tile_kernel(const __grid_constant__ TileTask task) {
    const Problem& p = task.p;
    const long long cells = static_cast<long long>(task.cells_q) * task.cells_k, at = this_thread();
    if (at >= cells * (task.head_mean != 0 ? 1 : p.heads)) return;
    const int h = static_cast<int>(at / cells);
    const int first_i = task.q0 + static_cast<int>(at % cells / task.cells_k) * task.pool;
    const int first_j = task.k0 + static_cast<int>(at % cells % task.cells_k) * task.pool;
    const int end_i = min(first_i + task.pool, task.q1), end_j = min(first_j + task.pool, task.k1);
    double sum = 0;
    float high = minus_infinity();
    for (int i = first_i; i < end_i; ++i)
        for (int j = first_j; j < end_j; ++j) {
            float value = 0;
            if (task.head_mean != 0) {
                for (int x = 0; x < p.heads; ++x) value += entry<kElement>(p, x, i, j);
                value /= static_cast<float>(p.heads);
            } else {
                value = entry<kElement>(p, h, i, j);
            }
            sum += value;
            high = fmaxf(high, value);
        }
    if (task.mean != nullptr)
        task.mean[at] = static_cast<float>(sum / (static_cast<double>(end_i - first_i) * (end_j - first_j)));
    if (task.maximum != nullptr) task.maximum[at] = high;
}

template <Element kElement>
__global__ void apply_kernel(const __grid_constant__ ApplyTask task) {
    const Problem& p = task.p;
    const long long at = this_thread();
    if (at >= static_cast<long long>(p.heads) * p.queries * task.v.dim) return;
    const int d = static_cast<int>(at % task.v.dim), i = static_cast<int>(at / task.v.dim % p.queries);
    const int h = static_cast<int>(at / task.v.dim / p.queries);
    const char* v = task.v.x + h / p.group * task.v.stride[0];
    float sum = 0;
    for (int j = 0; j < p.keys; ++j)
        sum = fmaf(entry<kElement>(p, h, i, j), element_at<kElement>(v + j * task.v.stride[1], d), sum);
    task.out[at] = sum;
}

struct PlainSweep {
    SweepTask sweep;
    const float* r;
    long long r_head_stride;
    int gradient;
};
template <Element kElement>
__global__ void sweep_kernel(const __grid_constant__ PlainSweep task) {
    const SweepTask& s = task.sweep;
    const Problem& p = s.p;
    const long long at = this_thread();
    if (at >= static_cast<long long>(p.heads) * p.keys) return;
    const int h = static_cast<int>(at / p.keys), j = static_cast<int>(at % p.keys);
    const DeviceHistogram& histogram = s.histogram;
    double sum = 0;
    for (int i = 0; i < p.queries; ++i) {
        const float r = task.r[h * task.r_head_stride + i];
        if (r == 0) continue;
        float value = 1;
        if (s.needs_map != 0) {
            if (p.lse[static_cast<long long>(h) * p.queries + i] == minus_infinity()) continue;
            value = entry<kElement>(p, h, i, j);
        }
        if (task.gradient != 0) {
            const char* v = s.v.x + h / p.group * s.v.stride[0] + j * s.v.stride[1];
            const char* d_out = s.d_out.x + h * s.d_out.stride[0] + i * s.d_out.stride[1];
            value *= dot<kElement>(d_out, v, s.v.dim);
            value = fmaxf(value, s.relu * value);
        }
        sum += static_cast<double>(r) * value;
        if (histogram.counts == nullptr) continue;
        int bin = histogram.bins + 1;
        if (value < histogram.low)
            bin = 0;
        else if (value < histogram.high)
            bin = 1 + min(histogram.bins - 1, static_cast<int>((value - histogram.low) * histogram.per_unit));
        atomicAdd(&histogram.counts[static_cast<long long>(h) * (histogram.bins + 2) + bin], 1ULL);
    }
    s.out[at] = static_cast<float>(sum);
}

struct PlainFused {
    FusedTask fused;
    const float* r;
};
template <Element kElement>
__device__ float fused_entry(const Problem& p, Fusion fusion, int i, int j) {
    float value = entry<kElement>(p, 0, i, j);
    for (int h = 1; h < p.heads; ++h) {
        const float x = entry<kElement>(p, h, i, j);
        if (fusion == Fusion::Mean)
            value += x;
        else if (fusion == Fusion::Max)
            value = x > value || x != x ? x : value;
        else
            value = x < value || x != x ? x : value;
    }
    return fusion == Fusion::Mean ? value * (1.0F / static_cast<float>(p.heads)) : value;
}
__device__ bool drops(const FusedDropped& d, float value, int i, int j, int keys) {
    if (j == d.kept_key && i < d.kept_queries) return false;
    return value < d.threshold || (value == d.threshold && static_cast<long long>(i) * keys + j < d.tie_end);
}
template <Element kElement>
__global__ void fused_kernel(const __grid_constant__ PlainFused task) {
    const FusedTask& f = task.fused;
    const Problem& p = f.p;
    const long long at = this_thread();
    if (f.mode == FusedMode::Rows) {
        if (at >= static_cast<long long>(f.listed) * p.keys) return;
        const int x = static_cast<int>(at / p.keys);
        const int i = static_cast<int>(f.list != nullptr ? f.list[x] : f.host_list[x]);
        f.out[at] = fused_entry<kElement>(p, f.fusion, i, static_cast<int>(at % p.keys));
    } else if (f.mode == FusedMode::Sweep) {
        if (at >= p.keys) return;
        const int j = static_cast<int>(at);
        double sum = 0;
        for (int i = 0; i < p.queries; ++i) {
            if (task.r[i] == 0) continue;
            const float value = fused_entry<kElement>(p, f.fusion, i, j);
            if (!drops(f.dropped, value, i, j, p.keys)) sum += static_cast<double>(task.r[i]) * value;
        }
        f.out[at] = static_cast<float>(sum);
    } else if (f.mode == FusedMode::RowSums) {
        if (at >= p.queries) return;
        const int i = static_cast<int>(at);
        double sum = 0;
        for (int j = 0; j < p.keys; ++j) {
            const float value = fused_entry<kElement>(p, f.fusion, i, j);
            if (!drops(f.dropped, value, i, j, p.keys)) sum += value;
        }
        f.out[at] = static_cast<float>(sum);
    } else {
        if (at >= static_cast<long long>(p.queries) * p.keys) return;
        const float value =
            fused_entry<kElement>(p, f.fusion, static_cast<int>(at / p.keys), static_cast<int>(at % p.keys));
        const std::uint32_t bits = __float_as_uint(value);
        const long long bin = static_cast<long long>(bits - f.first) >> f.shift;
        if (bits < f.first) {
            if (f.below != nullptr) atomicAdd(f.below, 1ULL);
        } else if (bin < f.bins) {
            atomicAdd(&f.counts[bin], 1ULL);
        }
    }
}

}  // namespace

const char* reference_lse(Element element, const LseTask& task, const Launch& launch) {
    return with_element(element, [&](auto e) {
        const long long count = static_cast<long long>(task.p.heads) * task.p.queries;
        return launch_kernel(lse_kernel<e()>, task, dim3(blocks_for(count)), kThreads, 0, launch);
    });
}

const char* reference_strip(Element element, const StripLayer& layer, const StripTask& task, const Launch& launch) {
    return with_element(element, [&](auto e) {
        StripOne one;
        one.layer = layer;
        for (int x = 0; x < kMaxListed; ++x) one.host_list[x] = task.host_list[x];
        one.list = task.list;
        one.listed = task.listed;
        one.rows = task.rows;
        const long long count = static_cast<long long>(task.listed) * (task.rows != 0 ? layer.p.keys : layer.p.queries);
        return launch_kernel(strip_kernel<e()>, one, dim3(blocks_for(count)), kThreads, 0, launch);
    });
}

const char* reference_tile(Element element, const TileTask& task, const Launch& launch) {
    return with_element(element, [&](auto e) {
        const long long cells = static_cast<long long>(task.cells_q) * task.cells_k;
        const dim3 grid(blocks_for(cells * (task.head_mean != 0 ? 1 : task.p.heads)));
        return launch_kernel(tile_kernel<e()>, task, grid, kThreads, 0, launch);
    });
}

const char* reference_apply(Element element, const ApplyTask& task, const Launch& launch) {
    return with_element(element, [&](auto e) {
        const long long count = static_cast<long long>(task.p.heads) * task.p.queries * task.v.dim;
        return launch_kernel(apply_kernel<e()>, task, dim3(blocks_for(count)), kThreads, 0, launch);
    });
}

const char* reference_sweep(Element element, const SweepTask& task, const float* r, long long r_head_stride,
                            bool gradient, const Launch& launch) {
    return with_element(element, [&](auto e) {
        const PlainSweep plain{task, r, r_head_stride, gradient ? 1 : 0};
        const long long count = static_cast<long long>(task.p.heads) * task.p.keys;
        return launch_kernel(sweep_kernel<e()>, plain, dim3(blocks_for(count)), kThreads, 0, launch);
    });
}

const char* reference_fused(Element element, const FusedTask& task, const float* r, const Launch& launch) {
    return with_element(element, [&](auto e) {
        const PlainFused plain{task, r};
        const Problem& p = task.p;
        const long long count = task.mode == FusedMode::Rows      ? static_cast<long long>(task.listed) * p.keys
                                : task.mode == FusedMode::Sweep   ? p.keys
                                : task.mode == FusedMode::RowSums ? p.queries
                                                                  : static_cast<long long>(p.queries) * p.keys;
        return launch_kernel(fused_kernel<e()>, plain, dim3(blocks_for(count)), kThreads, 0, launch);
    });
}

}  // namespace vitrine::kernels::cuda
