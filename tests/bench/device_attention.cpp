// The probe, small attention, rollout and the sweep of the device with a plain C interface, for device_attention.py.
//
//     nvcc -shared -std=c++20 -Xcompiler -fPIC -I engine/kernels -I engine/base tests/bench/device_attention.cpp
//          build/release/engine/libvitrine_cuda_kernels.a build/release/engine/libvitrine_kernels.a
//          -o libdevice_attention.so
#include <vitrine/kernels/cuda/attention.h>
#include <vitrine/kernels/cuda/probe.h>
#include <vitrine/kernels/cuda/small_attention.h>

using namespace vitrine::kernels::cuda;

namespace {

DeviceProbe probe_of(int element, const void* q, const void* k, const void* v, const std::int64_t* shape,
                     const std::int64_t* strides, float scale, std::int64_t workers) {
    DeviceProbe p;
    p.element = static_cast<Element>(element);
    p.q = q;
    p.k = k;
    p.v = v;
    for (int i = 0; i < 3; ++i) {
        p.q_stride[i] = strides[i];
        p.k_stride[i] = strides[3 + i];
        p.v_stride[i] = strides[6 + i];
    }
    p.batches = shape[0];
    p.heads = shape[1];
    p.key_heads = shape[2];
    p.queries = shape[3];
    p.keys = shape[4];
    p.head_dim = shape[5];
    p.scale = scale;
    p.workers = workers;
    return p;
}

}  // namespace

extern "C" {

/// merge: 0 automatic, 1 last arriver, 2 second launch; splits above 0: fixed splits. Answers null or a sentence.
const char* vitrine_probe(int element, const void* q, const void* k, const void* v, const std::int64_t* shape,
                          const std::int64_t* strides, float scale, std::int64_t workers, int merge,
                          std::int64_t splits, float* out, float* lse, std::int32_t* tickets, void* workspace,
                          std::int64_t workspace_bytes, void* stream) {
    const DeviceProbe p = probe_of(element, q, k, v, shape, strides, scale, workers);
    const Launch launch{stream, workspace, static_cast<std::size_t>(workspace_bytes)};
    if (splits > 0) return probe_splits(p, splits, out, lse, launch);
    return probe(p, {out, lse, nullptr, tickets, static_cast<ProbeMerge>(merge)}, launch);
}

/// what: 0 bytes of workspace, 1 workers, 2 best splits, 3 bytes of workspace with so many splits.
std::int64_t vitrine_probe_plan(int element, const std::int64_t* shape, std::int64_t workers, int what,
                                std::int64_t splits) {
    const std::int64_t none[9] = {};
    const DeviceProbe p = probe_of(element, nullptr, nullptr, nullptr, shape, none, 1, workers);
    if (what == 0) return static_cast<std::int64_t>(probe_workspace(p));
    if (what == 1) return probe_workers(p);
    if (what == 2) return probe_best_splits(p);
    return static_cast<std::int64_t>(probe_splits_workspace(p, splits));
}

/// shape: batches, heads, tokens, dim; strides: batch, head, token of q, k, v and out.
const char* vitrine_small_attention(int element, const void* q, const void* k, const void* v, const std::int64_t* shape,
                                    const std::int64_t* strides, float scale, void* out, float* map, float* lse,
                                    void* stream) {
    DeviceAttention p;
    DeviceSmallAttention s;
    p.element = static_cast<Element>(element);
    p.q = q;
    p.k = k;
    s.v = v;
    s.q_batch = strides[0];
    s.k_batch = strides[3];
    s.v_batch = strides[6];
    s.out_batch = strides[9];
    for (int i = 0; i < 2; ++i) {
        p.q_stride[i] = strides[1 + i];
        p.k_stride[i] = strides[4 + i];
        s.v_stride[i] = strides[7 + i];
        s.out_stride[i] = strides[10 + i];
    }
    s.batches = shape[0];
    p.heads = p.key_heads = shape[1];
    p.queries = p.keys = shape[2];
    p.head_dim = shape[3];
    p.scale = scale;
    s.out = out;
    s.map = map;
    s.lse = lse;
    return small_attention(p, s, {stream});
}

const char* vitrine_head_mean(const float* maps, std::int64_t batches, std::int64_t heads, std::int64_t cells,
                              float* mean, void* stream) {
    return head_mean(maps, batches, heads, cells, mean, {stream});
}

const char* vitrine_rollout(const float* means, std::int64_t layers, std::int64_t batches, std::int64_t tokens,
                            std::int64_t token, float* out, void* stream) {
    return rollout(means, layers, batches, tokens, token, out, {stream});
}

/// shape: heads, tokens, dim; strides: head, token of q and of k. r, out: [heads, tokens]. With no place for the output
/// the bytes of workspace go to `needed`.
const char* vitrine_sweep(int element, const void* q, const void* k, const std::int64_t* shape,
                          const std::int64_t* strides, float scale, const float* lse, const float* r, float* out,
                          void* workspace, std::int64_t* needed, void* stream) {
    DeviceAttention a;
    a.element = static_cast<Element>(element);
    a.q = q;
    a.k = k;
    for (int i = 0; i < 2; ++i) {
        a.q_stride[i] = strides[i];
        a.k_stride[i] = strides[2 + i];
    }
    a.heads = a.key_heads = shape[0];
    a.queries = a.keys = shape[1];
    a.head_dim = shape[2];
    a.scale = scale;
    a.lse = lse;
    const std::size_t bytes = sweep_workspace(a);
    *needed = static_cast<std::int64_t>(bytes);
    if (out == nullptr) return nullptr;
    const Chosen chosen = choose(Operation::MapSweep, a, compute_capability(0));
    if (chosen.problem != nullptr) return chosen.problem;
    return map_sweep(a, r, a.queries, out, {}, {stream, workspace, bytes, chosen.implementation});
}

}  // extern "C"
