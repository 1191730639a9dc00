"""Times vitrine beside what people use today for the same questions, in one run, with the answers compared first.

One model of timm with random weights is saved and opened by both sides; both look at the same picture. Then rounds alternate: a
round is one sample of each peer and one run of `vitrine bench attention` on a model of the same shape. Medians, ratios and, on a
device, peak memory are printed and written to OUT/peers.json and OUT/peers.svg. What is not installed is named and left out.
"""

import argparse
import contextlib
import json
import os
import pathlib
import statistics
import subprocess
import time

import numpy as np
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

#        image, patch, width, depth, heads
CASES = {"vit_ti_197": (224, 16, 192, 12, 3), "vit_s_1370": (518, 14, 384, 12, 6), "vit_micro_50": (56, 8, 64, 1, 2),
         "vit_b_197": (224, 16, 768, 12, 12), "vit_l_1370": (518, 14, 1024, 24, 16), "vit_b_16385": (2048, 16, 768, 12, 12)}
TARGET = 3


class Maps(nn.Module):
    """timm's unfused attention with its map kept, as hooks on attn_drop keep it."""

    def __init__(self, attn):
        super().__init__()
        self.attn, self.map, self.keep, self.hold = attn, None, False, True

    def forward(self, x, **_):
        a, (b, n, c) = self.attn, x.shape
        q, k, v = a.qkv(x).reshape(b, n, 3, a.num_heads, c // a.num_heads).permute(2, 0, 3, 1, 4).unbind(0)
        self.q, self.k = (q, k) if self.keep else (None, None)
        weights = ((q * a.scale) @ k.transpose(-2, -1)).softmax(-1)
        self.map = weights if self.hold else None
        return a.proj((weights @ v).transpose(1, 2).reshape(b, n, c))


def rollout(maps):
    r = None
    for m in maps:
        a = (m[0].float().mean(0) + torch.eye(m.shape[-1], device=m.device)) / 2
        r = a if r is None else a @ r
    return r[0, 1:]


def chefer(model, pixels):
    model(pixels)[0, TARGET].backward(inputs=[b.attn.map for b in model.blocks])
    r = torch.eye(model.blocks[0].attn.map.shape[-1], device=pixels.device)
    for b in model.blocks:
        r = r + (b.attn.map.grad[0] * b.attn.map[0]).clamp(min=0).mean(0).float() @ r
    return r[0, 1:].detach()


def legrad(model, pixels):
    tokens = []
    hooks = [b.register_forward_hook(lambda _m, _i, out: tokens.append(out)) for b in model.blocks]
    try:
        model(pixels)
    finally:
        for hook in hooks:
            hook.remove()
    total = 0
    for x, b in zip(tokens, model.blocks):
        score = model.head(model.norm(x.mean(1)))[0, TARGET]
        grad = torch.autograd.grad(score, b.attn.map, retain_graph=True)[0][0]
        total = total + grad.clamp(min=0).mean((0, 1)).float()
    return (total / len(tokens))[1:].detach()


def ours(program, *arguments):
    done = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"status {done.returncode}")
    return done.stdout


def far(a, b):
    a, b = np.asarray(a, np.float64).ravel(), np.asarray(b, np.float64).ravel()
    return float(np.abs(a - b).max() / np.abs(b).max())


class Peer:
    def __init__(self, name, work, answers=None):
        self.name, self.work, self.answers, self.ms, self.peak, self.missing = name, work, answers, [], None, None


def build(case, device, dtype):
    image, patch, width, depth, heads = CASES[case]
    torch.manual_seed(1)
    model = timm.models.vision_transformer.VisionTransformer(img_size=image, patch_size=patch, embed_dim=width, depth=depth, num_heads=heads,
                                                             num_classes=1000)
    with torch.no_grad():
        for name, p in model.named_parameters():  # spread out, so that maps are no flat fields
            if name.endswith("qkv.weight"):
                p.normal_(0, (3.0 / width) ** 0.5 / 2)
            elif name == "head.weight":
                p.normal_(0, 1 / width ** 0.5)
    model.eval().requires_grad_(False)
    return model


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="fp32", choices=["fp32", "bf16", "fp16"])
    parser.add_argument("--case", default="vit_ti_197", choices=sorted(CASES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--out", default="peers")
    args = parser.parse_args()
    out = pathlib.Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    if args.threads:
        torch.set_num_threads(args.threads)
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[args.dtype]
    on_device = args.device != "cpu"
    image, patch, width, depth, heads = CASES[args.case]
    tokens = (image // patch) ** 2 + 1
    sync = torch.cuda.synchronize if on_device else lambda: None

    # ---- the same model and picture for both ----
    fused = build(args.case, args.device, dtype)
    folder = out / "model"
    folder.mkdir(exist_ok=True)
    save_file({k: v.contiguous() for k, v in fused.state_dict().items()}, str(folder / "model.safetensors"))
    (folder / "config.json").write_text(json.dumps({
        "architecture": "vit", "num_classes": 1000, "num_features": width, "global_pool": "token",
        "model_args": {"img_size": image, "patch_size": patch, "embed_dim": width, "depth": depth, "num_heads": heads},
        "pretrained_cfg": {"input_size": [3, image, image], "interpolation": "bicubic", "crop_pct": 1.0, "mean": [0.5] * 3, "std": [0.5] * 3}}))
    picture = np.random.default_rng(2).integers(0, 256, (image, image, 3), dtype=np.uint8)
    Image.fromarray(picture).save(out / "picture.ppm")
    pixels = torch.from_numpy(picture).permute(2, 0, 1)[None].float().div(255).sub(0.5).div(0.5)

    plain = build(args.case, args.device, dtype)
    plain.load_state_dict(fused.state_dict())
    for b in plain.blocks:
        b.attn = Maps(b.attn)
    common = ["--device", args.device, "--dtype", args.dtype] + (["--threads", args.threads] if args.threads else [])

    # ---- answers first ----
    fused, plain, pixels = fused.to(args.device, dtype), plain.to(args.device, dtype), pixels.to(args.device, dtype)
    agreement, missing = {}, {}
    bound = 1e-3 if args.dtype == "fp32" else 8e-2  # the peers work in the model's own precision

    def compare(name, mine, theirs):
        agreement[name] = far(mine, theirs)
        if not agreement[name] < bound:
            raise SystemExit(f"{name}: vitrine and the peer differ by {agreement[name]:.1e} of the largest value, allowed {bound:.0e}")

    def kept_keys():
        """Queries and keys of every layer, one map at a time."""
        for b in plain.blocks:
            b.attn.keep, b.attn.hold = True, False
        with torch.no_grad():
            plain(pixels)
        found = [(b.attn.q.clone(), b.attn.k.clone()) for b in plain.blocks]
        for b in plain.blocks:
            b.attn.keep, b.attn.hold, b.attn.q, b.attn.k = False, True, None, None
        return found

    def rows():
        with torch.no_grad():
            return [((q[:, :, :1] * (q.shape[-1] ** -0.5)) @ k.transpose(-2, -1)).softmax(-1) for q, k in kept]

    kept = kept_keys()
    ours(args.program, "attention", folder, out / "picture.ppm", "--layer", "all", "--head", "all", "--query", "cls", "--out", out / "row.npy",
         "--set", "preprocess.resize=none", *common)
    compare("row", np.load(out / "row.npy").reshape(depth, heads, tokens), torch.stack([r[0, :, 0] for r in rows()]).float().cpu())
    wanted = {"rollout": (lambda: rollout([b.attn.map for b in plain.blocks]), False), "chefer": (lambda: chefer(plain, pixels), True),
              "legrad": (lambda: legrad(plain, pixels), True)}
    for name, (answer, graph) in wanted.items():
        try:
            inputs = pixels.clone().requires_grad_(graph)
            with contextlib.nullcontext() if graph else torch.no_grad():
                if not graph:
                    plain(inputs)
                theirs = (chefer if name == "chefer" else legrad)(plain, inputs) if graph else answer()
            theirs = theirs.float().cpu()
        except torch.OutOfMemoryError:
            missing[name] = "the peer runs out of memory"
            if on_device:
                torch.cuda.empty_cache()
            continue
        finally:
            for b in plain.blocks:
                b.attn.map = None
        ours(args.program, "explain", folder, out / "picture.ppm", "--method", name, "--target", TARGET, "--out", out / "explained",
             "--set", "preprocess.resize=none", *common)
        compare(name, np.load(out / "explained" / f"{name}.npy"), theirs)

    # ---- the peers ----
    peers = []

    def forward(model=fused):
        with torch.no_grad():
            return model(pixels)

    def keeping_maps():
        forward(plain)

    def dense_rollout():
        forward(plain)
        return rollout([b.attn.map for b in plain.blocks])

    def with_graph(method):
        return method(plain, pixels.clone().requires_grad_(True))

    peers += [Peer("forward", forward), Peer("maps_by_hooks", keeping_maps, "capture"), Peer("rollout_dense", dense_rollout, "explain_rollout"),
              Peer("row_rerun_unfused", keeping_maps, "row"), Peer("row_matmul", rows, "row"),
              Peer("chefer_generic", lambda: with_graph(chefer), "explain_chefer"), Peer("legrad_plain", lambda: with_graph(legrad), "explain_legrad")]
    if on_device:
        try:  # the fastest forward there is: all launches of it in one graph
            static = pixels.clone()
            with torch.no_grad():
                side = torch.cuda.Stream()
                with torch.cuda.stream(side):
                    for _ in range(3):
                        fused(static)
                torch.cuda.current_stream().wait_stream(side)
                graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(graph):
                    fused(static)
            peers.append(Peer("forward_cuda_graph", graph.replay))
        except RuntimeError as error:
            missing["forward_cuda_graph"] = str(error).splitlines()[0]
    try:
        from pytorch_grad_cam import GradCAM
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
        side_patches = image // patch
        cam = GradCAM(fused, [fused.blocks[-1].norm1], reshape_transform=lambda t: t[:, 1:].transpose(1, 2).reshape(1, width, side_patches, side_patches))
        peers.append(Peer("grad_cam_package", lambda: cam(pixels.clone().requires_grad_(True), [ClassifierOutputTarget(TARGET)]), "explain_grad_cam"))
    except ImportError as error:
        missing["grad_cam_package"] = f"not installed: {error}"
    try:
        from captum.attr import Saliency
        captum = Saliency(fused)
        peers.append(Peer("saliency_captum", lambda: captum.attribute(pixels.clone().requires_grad_(True), target=TARGET), "explain_saliency"))
    except ImportError as error:
        missing["saliency_captum"] = f"not installed: {error}"
    try:
        if not on_device:
            raise ImportError("it runs on a device")
        from torch.nn.attention.flex_attention import flex_attention
        compiled = torch.compile(flex_attention)
        q, k = kept[0]
        peers.append(Peer("flex_attention_one_layer", lambda: compiled(q, k, k)))
    except (ImportError, IndexError) as error:
        missing["flex_attention_one_layer"] = str(error) or "nothing was kept to run it on"
    try:
        import flash_attn
        q, k = (x.transpose(1, 2).contiguous() for x in kept[0])
        peers.append(Peer("flash_attn_one_layer", lambda: flash_attn.flash_attn_func(q, k, k)))
    except (ImportError, IndexError) as error:
        missing["flash_attn_one_layer"] = f"not installed: {error}"

    def sample(peer):
        if peer.missing:
            return
        try:
            if on_device:
                torch.cuda.reset_peak_memory_stats()
            sync()
            start = time.perf_counter()
            peer.work()
            sync()
            peer.ms.append((time.perf_counter() - start) * 1e3)
            if on_device:
                peer.peak = torch.cuda.max_memory_allocated()
        except (torch.OutOfMemoryError, RuntimeError) as error:
            peer.missing = str(error).splitlines()[0].split(". ")[0]
            missing[peer.name] = peer.missing
        for b in plain.blocks:
            b.attn.map = None
        if peer.missing and on_device:
            torch.cuda.empty_cache()

    own = []
    for peer in peers:  # once to warm up
        sample(peer)
        peer.ms.clear()
    for _ in range(args.rounds):
        for peer in peers:
            sample(peer)
        if on_device:
            torch.cuda.empty_cache()  # the other process needs the memory
        own.append(json.loads(ours(args.program, "bench", "attention", "--json", "--case", args.case, "--repeats", 3, *common))["cases"][0])

    # ---- what it says ----
    mine = {name: statistics.median(run["median_ms"][name] for run in own) for name in own[0]["median_ms"]}
    result = {"case": args.case, "tokens": tokens, "device": torch.cuda.get_device_name() if on_device else f"CPU, {torch.get_num_threads()} threads",
              "dtype": args.dtype, "torch": torch.__version__, "rounds": args.rounds, "agreement": agreement, "missing": missing,
              "vitrine_ms": mine, "vitrine_peak_bytes": own[0].get("peak_bytes", {}), "vitrine_implementation": own[0]["implementation"], "peers": {}}
    print(f"{args.case}, {result['device']}, {args.dtype}; largest difference of answers: " + ", ".join(f"{k} {v:.0e}" for k, v in agreement.items()))
    print(f"{'peer':<28}{'ms':>12}{'GB':>8}   {'vitrine':<18}{'ms':>12}{'times':>10}")
    for peer in peers:
        if not peer.ms:
            continue
        ms = statistics.median(peer.ms)
        entry = {"ms": ms, "samples_ms": peer.ms, "peak_bytes": peer.peak}
        # A peer that runs the model anew answers what ours answers from the run it kept: both costs are its own.
        answer = peer.answers if peer.answers in mine else None
        if answer:
            entry |= {"vitrine": answer, "vitrine_ms": mine[answer], "ratio": ms / mine[answer]}
        elif peer.answers:
            missing[peer.answers] = "vitrine has no such method in this bench"
        result["peers"][peer.name] = entry
        gigabytes = f"{peer.peak / 1e9:.2f}" if peer.peak else ""
        print(f"{peer.name:<28}{ms:>12.3f}{gigabytes:>8}   {answer or '':<18}" + (f"{mine[answer]:>12.3f}{entry['ratio']:>10.1f}" if answer else ""))
    for name, why in missing.items():
        print(f"missing {name}: {why}")
    (out / "peers.json").write_text(json.dumps(result, indent=2) + "\n")
    plot(result, out / "peers.svg")
    print(f"wrote {out / 'peers.json'} and {out / 'peers.svg'}")


def plot(result, file):
    try:
        os.environ.setdefault("MPLBACKEND", "Agg")
        import matplotlib.pyplot as plt
    except ImportError:
        print("no plot: matplotlib is not installed")
        return
    pairs = [(name, e["ms"], e["vitrine"], e["vitrine_ms"]) for name, e in result["peers"].items() if "ratio" in e]
    if not pairs:
        return
    figure, axes = plt.subplots(figsize=(8, 0.7 * len(pairs) + 1.4), layout="constrained")
    places = np.arange(len(pairs))
    axes.barh(places - 0.2, [p[1] for p in pairs], 0.38, label="peer", color="#9aa4b2")
    axes.barh(places + 0.2, [p[3] for p in pairs], 0.38, label="vitrine", color="#2f6fde")
    for place, (_, ms, _, own) in zip(places, pairs):
        axes.text(max(ms, own) * 1.1, place, f"{ms / own:.1f}x", va="center")
    axes.set(yticks=places, yticklabels=[f"{p[0]}\n{p[2]}" for p in pairs], xscale="log", xlabel="ms (log)",
             title=f"{result['case']}, {result['device']}, {result['dtype']}")
    axes.invert_yaxis()
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    axes.margins(x=0.15)
    figure.savefig(file)


if __name__ == "__main__":
    main()
