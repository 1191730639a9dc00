#!/usr/bin/env python3
"""Times the probe, small attention and the sweep on a CUDA device beside PyTorch's own attention, answers checked
first.

    python3 tests/bench/device_attention.py LIBRARY [--json FILE] [--only probe|vit|sweep]

LIBRARY is made as device_attention.cpp says. Every time is the median over rounds in which the candidates take turns,
each a CUDA graph; inputs smaller than the second-level cache rotate among several sets.
"""
import argparse
import ctypes
import json
import statistics
import sys
import warnings

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

ELEMENT = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}


class Library:
    def __init__(self, path):
        self.c = ctypes.CDLL(path)
        for name in ("vitrine_probe", "vitrine_small_attention", "vitrine_head_mean", "vitrine_rollout",
                     "vitrine_sweep"):
            getattr(self.c, name).restype = ctypes.c_char_p
        self.c.vitrine_probe_plan.restype = ctypes.c_int64

    @staticmethod
    def longs(values):
        return (ctypes.c_int64 * len(values))(*values)

    @staticmethod
    def at(t):
        return ctypes.c_void_p(0 if t is None else t.data_ptr())

    @staticmethod
    def stream():
        return ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)

    @staticmethod
    def check(problem):
        if problem:
            raise RuntimeError(problem.decode())

    def plan(self, q, k, what, splits=0, workers=0):
        shape = self.longs([q.shape[0], q.shape[1], k.shape[1], q.shape[2], k.shape[2], q.shape[3]])
        return self.c.vitrine_probe_plan(ELEMENT[q.dtype], shape, ctypes.c_int64(workers), what, ctypes.c_int64(splits))

    def probe(self, q, k, v, out, lse, tickets, workspace, merge=0, splits=0, workers=0):
        shape = self.longs([q.shape[0], q.shape[1], k.shape[1], q.shape[2], k.shape[2], q.shape[3]])
        strides = self.longs([s for x in (q, k, v) for s in x.stride()[:3]])
        self.check(self.c.vitrine_probe(
            ELEMENT[q.dtype], self.at(q), self.at(k), self.at(v), shape, strides, ctypes.c_float(q.shape[3] ** -0.5),
            ctypes.c_int64(workers), merge, ctypes.c_int64(splits), self.at(out), self.at(lse), self.at(tickets),
            self.at(workspace), ctypes.c_int64(workspace.numel()), self.stream()))

    def small(self, q, k, v, out, maps, lse):
        shape = self.longs(q.shape)
        strides = self.longs([s for x in (q, k, v, out) for s in x.stride()[:3]])
        self.check(self.c.vitrine_small_attention(
            ELEMENT[q.dtype], self.at(q), self.at(k), self.at(v), shape, strides, ctypes.c_float(q.shape[3] ** -0.5),
            self.at(out), self.at(maps), self.at(lse), self.stream()))

    def head_mean(self, maps, mean):
        b, h, n, _ = maps.shape
        self.check(self.c.vitrine_head_mean(self.at(maps), ctypes.c_int64(b), ctypes.c_int64(h),
                                            ctypes.c_int64(n * n), self.at(mean), self.stream()))

    def sweep(self, q, k, lse, r, out, workspace):
        """q, k: [heads, tokens, dim]; lse, r, out: [heads, tokens]. Without out: the bytes of workspace."""
        needed = ctypes.c_int64()
        self.check(self.c.vitrine_sweep(
            ELEMENT[q.dtype], self.at(q), self.at(k), self.longs(q.shape),
            self.longs([s for x in (q, k) for s in x.stride()[:2]]), ctypes.c_float(q.shape[2] ** -0.5), self.at(lse),
            self.at(r), self.at(out), self.at(workspace), ctypes.byref(needed), self.stream()))
        return needed.value

    def rollout(self, means, token, out):
        layers, b, n, _ = means.shape
        self.check(self.c.vitrine_rollout(self.at(means), ctypes.c_int64(layers), ctypes.c_int64(b), ctypes.c_int64(n),
                                          ctypes.c_int64(token), self.at(out), self.stream()))


def graph_of(work):
    """A graph of work(), warmed up on a side stream first."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        work()
        work()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph


def interleaved(graphs, rounds, inner):
    """Microseconds of each graph: medians, and all samples."""
    samples = {name: [] for name in graphs}
    for r in range(rounds + 2):
        for name, graph in graphs.items():
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            begin.record()
            for _ in range(inner):
                graph.replay()
            end.record()
            end.synchronize()
            if r >= 2:
                samples[name].append(begin.elapsed_time(end) * 1e3 / inner)
    return {n: statistics.median(s) for n, s in samples.items()}, samples


def ratio(samples, a, b):
    return statistics.median(x / y for x, y in zip(samples[a], samples[b]))


def copy_rate():
    """Bytes a second of a large copy, read and written; and of a large sum, read alone."""
    a, b = torch.randn(1 << 29, device="cuda"), torch.empty(1 << 29, device="cuda")
    graphs = {"copy": graph_of(lambda: b.copy_(a)), "read": graph_of(lambda: torch.sum(a))}
    us, _ = interleaved(graphs, 7, 2)
    return {"copy": 2 * a.nbytes / us["copy"] * 1e6, "read": a.nbytes / us["read"] * 1e6}


def bench_probe(lib, rates):
    # batches, query heads, key heads, queries, keys, dim, dtype
    bf16, f16, f32 = torch.bfloat16, torch.float16, torch.float32
    cases = [(b, 8, 8, 1, n, 128, bf16) for b in (1, 4, 16) for n in (1024, 8192, 65536, 262144)]
    cases += [(1, 12, 12, 1, n, 64, bf16) for n in (1370, 16385, 65536)]
    cases += [(1, h, h, 1, 65536, 128, bf16) for h in (1, 2, 3)]
    cases += [(3, 16, 16, 1, 8192, 64, bf16), (1, 32, 8, 1, 65536, 128, bf16), (1, 8, 8, 4, 65536, 128, bf16),
              (1, 12, 12, 8, 16385, 64, bf16), (1, 8, 8, 1, 65536, 128, f16), (1, 8, 8, 1, 65536, 64, f32),
              (1, 8, 8, 1, 65536, 128, f32), (1, 12, 12, 1, 16385, 64, f32)]
    # Keys of a head one after the other, in place of the heads of a token.
    cases = [c + (False,) for c in cases] + [(1, 8, 8, 1, 262144, 128, bf16, True)]
    results = []
    for b, h, kh, m, n, d, dtype, head_major in cases:
        bytes_read = 2 * b * n * kh * d * torch.finfo(dtype).bits // 8
        sets = max(1, min(64, (300 << 20) // bytes_read))
        data = []
        for _ in range(sets):
            q = torch.randn(b, m, h, d, device="cuda", dtype=dtype).transpose(1, 2)
            if head_major:
                kv = torch.empty(2, b, kh, n, d, device="cuda", dtype=dtype).normal_()
            else:
                kv = torch.empty(2, b, n, kh, d, device="cuda", dtype=dtype).normal_().transpose(2, 3)
            data.append((q, kv[0], kv[1]))
        q, k, v = data[0]
        splits = lib.plan(q, k, 2)
        size = max(lib.plan(q, k, 0), lib.plan(q, k, 3, splits))
        workspace = torch.zeros(size, dtype=torch.uint8, device="cuda")
        tickets = torch.zeros(b * kh * (m * (h // kh) + 15) // 16 + b * kh, dtype=torch.int32, device="cuda")
        out = torch.empty(b, h, m, d, device="cuda")
        lse = torch.empty(b, h, m, device="cuda")

        def ours(**how):
            for q, k, v in data:
                lib.probe(q, k, v, out, lse, tickets, workspace, **how)

        def theirs(backend):
            def run():
                with sdpa_kernel(backend):
                    for q, k, v in data:
                        F.scaled_dot_product_attention(q, k, v, enable_gqa=h != kh)
            return run

        # Answers first, in double precision over one batch.
        qd, kd, vd = (x[:1].double() for x in data[-1])
        if b * n * kh <= 8 * 262144:
            s = (qd @ kd.repeat_interleave(h // kh, 1).transpose(-2, -1)) * d ** -0.5
            wanted = torch.softmax(s, -1) @ vd.repeat_interleave(h // kh, 1)
            wanted_lse = torch.logsumexp(s, -1)
            limit = {f32: 1e-5, f16: 2e-3, bf16: 1.6e-2}[dtype]
            for how in ({"merge": 0}, {"merge": 1}, {"merge": 2}, {"splits": splits}):
                out.fill_(float("nan"))
                ours(**how)
                error = (out[:1].double() - wanted).abs().max().item()
                off = (lse[:1].double() - wanted_lse).abs().max().item()
                if not (error <= limit and off <= 1e-4):
                    raise SystemExit(f"{(b, h, kh, m, n, d, dtype)} {how}: off by {error:.1e}, log-sum-exp {off:.1e}")
            del s, wanted
        del qd, kd, vd
        graphs = {"probe": graph_of(ours), "last_arriver": graph_of(lambda: ours(merge=1)),
                  "second_launch": graph_of(lambda: ours(merge=2)), "fixed_splits": graph_of(lambda: ours(splits=splits))}
        for name, backend in (("flash", SDPBackend.FLASH_ATTENTION), ("cudnn", SDPBackend.CUDNN_ATTENTION),
                              ("efficient", SDPBackend.EFFICIENT_ATTENTION)):
            if b * n > 4 * 262144 and name != "flash":
                continue
            try:
                graphs[name] = graph_of(theirs(backend))
            except RuntimeError:
                torch.cuda.synchronize()
        us, samples = interleaved(graphs, 7, max(1, int(2000 / (bytes_read * sets / 2e6 + 10 * sets))))
        us = {name: x / sets for name, x in us.items()}
        line = {"batches": b, "heads": h, "key_heads": kh, "queries": m, "keys": n, "dim": d,
                "dtype": str(dtype)[6:], "bytes": bytes_read, "workers": lib.plan(q, k, 1), "splits": splits,
                "us": us, "gb_per_s": bytes_read / us["probe"] / 1e3,
                "share_of_copy": bytes_read / us["probe"] * 1e6 / rates["copy"],
                "fixed_splits_to_probe": ratio(samples, "fixed_splits", "probe")}
        for name in ("flash", "cudnn", "efficient"):
            if name in us:
                line[name + "_to_probe"] = ratio(samples, name, "probe")
        results.append(line)
        line["head_major"] = head_major
        print(f"probe B{b} H{h}/{kh} M{m} N{n} d{d} {line['dtype']}{' head-major' if head_major else ''}: {us['probe']:.1f} us, {line['gb_per_s']:.0f} GB/s,"
              f" {line['share_of_copy']:.2f} of copy | last {us['last_arriver']:.1f} second {us['second_launch']:.1f}"
              f" fixed({splits}) {us['fixed_splits']:.1f} "
              + " ".join(f"{x} {us[x]:.1f}" for x in ("flash", "cudnn", "efficient") if x in us), flush=True)
        del data, q, k, v, graphs
        torch.cuda.empty_cache()
    return results


def bench_sweep(lib):
    """out_j = sum_i r_i p_ij is exp of the log-sum-exp of attention with the roles of queries and keys exchanged and the
    key bias log r_i - lse_i. The fused kernels take no such bias in fp32, so it is three more coordinates: the sum of
    three bf16 numbers, each times one. Making those operands is not timed, the exponential at the end is."""
    results = []
    for h, n, d in ((12, 16385, 64), (16, 1370, 64)):
        q, k, v = torch.randn(n, 3, h, d, device="cuda").bfloat16().permute(1, 2, 0, 3).unbind(0)
        scale = d ** -0.5
        lse = torch.ops.aten._scaled_dot_product_flash_attention(q[None], k[None], v[None])[1][0].float().contiguous()
        r = torch.rand(h, n, device="cuda") + 0.1
        out = torch.full((h, n), float("nan"), device="cuda")
        workspace = torch.empty(lib.sweep(q, k, lse, r, None, None), dtype=torch.uint8, device="cuda")
        rest, parts = (r.log() - lse) / scale, []
        for _ in range(3):
            parts.append(rest.bfloat16())
            rest = rest - parts[-1].float()
        parts = torch.stack(parts, -1)  # [heads, tokens, 3]
        swapped_k = F.pad(torch.cat([q, parts], -1), (0, 5)).contiguous()[None]
        swapped_q = F.pad(torch.cat([k, torch.ones_like(parts)], -1), (0, 5)).contiguous()[None]
        columns = {}

        def ours():
            lib.sweep(q, k, lse, r, out, workspace)

        def flash():
            found = torch.ops.aten._scaled_dot_product_flash_attention(swapped_q, swapped_k, swapped_k, scale=scale)
            columns["flash"] = found[1].exp()

        def cudnn():
            found = torch.ops.aten._scaled_dot_product_cudnn_attention(swapped_q, swapped_k, swapped_k, None, True,
                                                                       scale=scale)
            columns["cudnn"] = found[1].exp()

        def efficient():
            found = torch.ops.aten._scaled_dot_product_efficient_attention(swapped_q, swapped_k, swapped_k, None, True,
                                                                           scale=scale)
            columns["efficient"] = found[1].exp()

        wanted = torch.zeros(n, device="cuda", dtype=torch.float64)  # of one head
        for rows in torch.arange(n, device="cuda").split(2048):
            s = q[1][rows].double() @ k[1].double().T * scale
            wanted += r[1][rows].double() @ torch.exp(s - lse[1][rows].double()[:, None])
        graphs, error = {}, {}
        for name, work in (("sweep", ours), ("flash", flash), ("cudnn", cudnn), ("efficient", efficient)):
            try:
                graphs[name] = graph_of(work)
            except RuntimeError as e:
                print(f"{name}: {str(e)[:100]}")
                continue
            graphs[name].replay()
            found = out if name == "sweep" else columns[name].reshape(h, -1)[:, :n]
            error[name] = ((found[1].double() - wanted).abs().max() / wanted.max()).item()
            if not error[name] < (1e-5 if name == "sweep" else 1e-3):
                raise SystemExit(f"sweep of {h} heads, {n} tokens by {name}: off by {error[name]:.1e}")
        us, samples = interleaved(graphs, 11, 3)
        best = min((x for x in us if x != "sweep"), key=us.get)
        results.append({"heads": h, "tokens": n, "dim": d, "us": us, "error": error, "best": best,
                        "best_to_sweep": ratio(samples, best, "sweep")})
        print(f"sweep H{h} N{n} d{d}: us", {x: round(y, 1) for x, y in us.items()}, "errors",
              {x: f"{y:.1e}" for x, y in error.items()},
              f"| transposed attention by {best} takes {results[-1]['best_to_sweep']:.2f} of the sweep", flush=True)
    return results


def bench_vit(lib):
    import timm
    torch.manual_seed(0)
    model = timm.create_model("vit_base_patch16_224", pretrained=False).cuda().eval().to(torch.bfloat16)
    pixels = torch.randn(1, 3, 224, 224, device="cuda", dtype=torch.bfloat16)
    blocks = list(model.blocks)
    heads, n, d = blocks[0].attn.num_heads, 197, blocks[0].attn.head_dim
    layers = len(blocks)
    maps = torch.empty(layers, 1, heads, n, n, device="cuda")
    means = torch.empty(layers, 1, n, n, device="cuda")
    lse = torch.empty(layers, 1, heads, n, device="cuda")
    rolled = torch.empty(1, n, device="cuda")
    kept = {}
    plain = [b.attn.forward for b in blocks]
    side = torch.cuda.Stream()

    def with_maps(layer, attn, mean, keep_map=True):
        def forward(x, *_, **__):
            qkv = attn.qkv(x).reshape(1, n, 3, heads, d).permute(2, 0, 3, 1, 4)
            q, k, v = qkv.unbind(0)
            out = torch.empty(1, n, heads, d, device="cuda", dtype=x.dtype)
            lib.small(q, k, v, out.transpose(1, 2), maps[layer] if keep_map else None, lse[layer])
            if kept.get("on"):
                kept[layer] = (q.clone(), k.clone())
            if mean:
                side.wait_stream(torch.cuda.current_stream())
                with torch.cuda.stream(side):
                    lib.head_mean(maps[layer], means[layer])
            return attn.proj_drop(attn.proj(attn.norm(out.reshape(1, n, heads * d)) if hasattr(attn, "norm")
                                            else out.reshape(1, n, heads * d)))
        return forward

    def use(make):
        for i, b in enumerate(blocks):
            b.attn.forward = plain[i] if make is None else make(i, b.attn)

    @torch.no_grad()
    def run():
        return model(pixels)

    def maps_and_rollout():
        out = run()
        torch.cuda.current_stream().wait_stream(side)
        lib.rollout(means, 0, rolled)
        return out

    # Answers first.
    use(None)
    wanted = run().float()
    use(lambda i, a: with_maps(i, a, True))
    kept["on"] = True
    found = maps_and_rollout().float()
    kept["on"] = False
    torch.cuda.synchronize()
    r = torch.zeros(1, n, device="cuda", dtype=torch.float64)
    r[:, 0] = 1
    map_error = 0
    for i in reversed(range(layers)):
        q, k = (x.double() for x in kept[i])
        p = torch.softmax(q @ k.transpose(-2, -1) * d ** -0.5, -1)
        map_error = max(map_error, (p - maps[i]).abs().max().item())
        r = (r + (r.unsqueeze(1) @ p.mean(1)).squeeze(1)) / 2
    rollout_error = (r - rolled).abs().max().item()
    logit_error = ((wanted - found).abs().max() / wanted.abs().max()).item()
    print(f"vit: maps off by {map_error:.1e}, rollout {rollout_error:.1e}, logits {logit_error:.1e} of the largest")
    if not (map_error < 1e-5 and rollout_error < 1e-5 and logit_error < 3e-2):
        raise SystemExit("the answers differ")

    graphs = {}
    use(None)
    for name, backends in (("forward_flash", SDPBackend.FLASH_ATTENTION), ("forward_cudnn", SDPBackend.CUDNN_ATTENTION),
                           ("forward_efficient", SDPBackend.EFFICIENT_ATTENTION), ("forward_math", SDPBackend.MATH)):
        try:
            with sdpa_kernel(backends):
                graphs[name] = graph_of(run)
        except RuntimeError as e:
            print(f"{name}: {str(e)[:100]}")
    use(lambda i, a: with_maps(i, a, False, False))
    graphs["ours_no_maps"] = graph_of(run)
    use(lambda i, a: with_maps(i, a, False))
    graphs["ours_maps"] = graph_of(run)
    use(lambda i, a: with_maps(i, a, True))
    graphs["ours_maps_rollout"] = graph_of(maps_and_rollout)

    def separate():
        out = run()
        lib.head_mean(maps.view(layers, heads, n, n), means)
        lib.rollout(means, 0, rolled)
        return out
    use(lambda i, a: with_maps(i, a, False))
    graphs["ours_maps_rollout_after"] = graph_of(separate)
    us, samples = interleaved(graphs, 31, 20)
    best = min((x for x in us if x.startswith("forward")), key=us.get)
    ratios = {x: ratio(samples, x, best) for x in us if x.startswith("ours")}
    # One attention alone, twelve of them in a graph.
    qkv = torch.randn(12, 1, n, 3, heads, d, device="cuda", dtype=torch.bfloat16).permute(0, 3, 1, 4, 2, 5)
    out = torch.empty(12, 1, n, heads, d, device="cuda", dtype=torch.bfloat16).transpose(2, 3)

    def attention(backend):
        def work():
            with sdpa_kernel(backend):
                for i in range(12):
                    F.scaled_dot_product_attention(*qkv[i])
        return work
    alone = {}
    for name, work in (("small_maps", lambda: [lib.small(*qkv[i], out[i], maps[i], lse[i]) for i in range(12)]),
                       ("small_no_maps", lambda: [lib.small(*qkv[i], out[i], None, lse[i]) for i in range(12)]),
                       ("head_means", lambda: lib.head_mean(maps.view(layers, heads, n, n), means)),
                       ("rollout", lambda: lib.rollout(means, 0, rolled)),
                       ("flash", attention(SDPBackend.FLASH_ATTENTION)),
                       ("cudnn", attention(SDPBackend.CUDNN_ATTENTION)),
                       ("efficient", attention(SDPBackend.EFFICIENT_ATTENTION))):
        try:
            alone[name] = graph_of(work)
        except RuntimeError as e:
            print(f"{name}: {str(e)[:100]}")
    alone_us, _ = interleaved(alone, 15, 20)
    print("vit us:", {x: round(y, 1) for x, y in us.items()}, "| best", best, "| to it",
          {x: round(y, 3) for x, y in ratios.items()})
    print("twelve attentions, us:", {x: round(y, 1) for x, y in alone_us.items()}, flush=True)
    return {"us": us, "best_forward": best, "to_best_forward": ratios, "twelve_attentions_us": alone_us,
            "map_error": map_error, "rollout_error": rollout_error, "logit_error": logit_error}


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("kernels", help="the shared library of tests/bench/device_attention.cpp")
    args.add_argument("--json")
    args.add_argument("--only", choices=("probe", "vit", "sweep"))
    args = args.parse_args()
    lib = Library(args.kernels)
    warnings.filterwarnings("ignore", category=UserWarning)  # why a backend of PyTorch cannot run
    rates = copy_rate()
    result = {"device": torch.cuda.get_device_name(), "torch": torch.__version__,
              "copy_gb_per_s": rates["copy"] / 1e9, "read_gb_per_s": rates["read"] / 1e9}
    print(result, flush=True)
    try:
        if args.only in (None, "sweep"):
            result["sweep"] = bench_sweep(lib)
        if args.only in (None, "vit"):
            result["vit"] = bench_vit(lib)
        if args.only in (None, "probe"):
            result["probe"] = bench_probe(lib, rates)
    finally:
        if args.json:
            with open(args.json, "w") as f:
                json.dump(result, f, indent=1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
