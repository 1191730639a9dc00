"""Times Vitrine's explainers beside captum, pytorch-grad-cam and torchcam: same weights, picture and threads, in one run.

For each method that a package also has the answers are compared first, then both are timed in turn, each at the best of several batch
sizes, by the wall's clock and by processor time, which other programs on the machine hardly disturb: the package here, Vitrine inside one process (`vitrine bench explain`), which also counts the passes that a method spends and times
those alone. Methods that draw at random are compared with the noise set to 0 where that leaves something to compare; under equal draws
they are compared in tests/parity. `saving` shows what fewer or cheaper passes give: token removal, and with --long adaptive integrated
gradients and progressive RISE.

Models: the shared ViT-Ti (timm), MobileNetV2 and ResNet-56 (modules written here).
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import time

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

TARGET = 4


class Mobile(nn.Module):
    """MobileNetV2 with folded norms and TensorFlow's SAME padding."""

    def __init__(self, state):
        super().__init__()
        self.s, self.features, self.linear = state, nn.Identity(), nn.Linear(1280, 1000)
        self.linear.load_state_dict({"weight": state["classifier.weight"].flatten(1)[-1000:], "bias": state["classifier.bias"][-1000:]})

    def conv(self, n, t, stride=1, groups=1, act=True):
        w = self.s[n + ".weight"]
        k = w.shape[2]
        pads = [max((-(-side // stride) - 1) * stride + k - side, 0) for side in t.shape[2:]]
        if any(p % 2 for p in pads):  # uneven padding is a step of its own
            t = F.pad(t, (pads[1] // 2, pads[1] - pads[1] // 2, pads[0] // 2, pads[0] - pads[0] // 2))
            pads = [0, 0]
        t = F.conv2d(t, w, self.s[n + ".bias"], stride, (pads[0] // 2, pads[1] // 2), 1, groups)
        return t.clamp(0, 6) if act else t

    def forward(self, x):
        x = self.conv("stem", x, 2)
        for i, stride in enumerate([1, 2, 1, 2, 1, 1, 2, 1, 1, 1, 1, 1, 1, 2, 1, 1, 1], 1):
            y = self.conv(f"block{i}.expand", x) if f"block{i}.expand.weight" in self.s else x
            y = self.conv(f"block{i}.depthwise", y, stride, y.shape[1])
            y = self.conv(f"block{i}.project", y, act=False)
            x = x + y if stride == 1 and x.shape == y.shape else y
        return self.linear(self.features(self.conv("head", x)).mean((2, 3)))


class Block(nn.Module):
    def __init__(self, into, out, stride):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(into, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out)
        self.conv2, self.bn2 = nn.Conv2d(out, out, 3, 1, 1, bias=False), nn.BatchNorm2d(out)
        self.relu1, self.relu2, self.more = nn.ReLU(), nn.ReLU(), out - into

    def forward(self, x):
        y = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        if self.more:
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.more // 2, self.more // 2))
        return self.relu2(y + x)


class ResNet(nn.Module):
    """He et al.'s CIFAR ResNet of 6n + 2 layers, shortcuts of option A."""

    def __init__(self, n):
        super().__init__()
        self.conv1, self.bn1, self.relu = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()
        stage = lambda into, out: nn.Sequential(*[Block(into if i == 0 else out, out, 2 if i == 0 and out > into else 1) for i in range(n)])  # noqa: E731
        self.layer1, self.layer2, self.layer3 = stage(16, 16), stage(16, 32), stage(32, 64)
        self.linear = nn.Linear(64, 10)

    def forward(self, x):
        x = self.layer3(self.layer2(self.layer1(self.relu(self.bn1(self.conv1(x))))))
        return self.linear(x.mean((2, 3)))


class Probability(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x).softmax(-1)


def open_models(name, data):
    """The module, the file that Vitrine opens, the side of its input, the layer of the CAM family, what reshapes its activation."""
    if name == "vit":
        import timm
        model = timm.create_model("vit_tiny_patch16_224", num_classes=1000)
        model.load_state_dict(load_file(data / "vit_tiny_patch16_224/model.safetensors"))
        return model, data / "vit_tiny_patch16_224", 224, model.blocks[11].norm1, lambda t: t[:, 1:].transpose(1, 2).reshape(len(t), -1, 14, 14)
    if name == "mobilenet":
        model = Mobile(load_file(data / "mobilenet_v2_tf/model.safetensors"))
        return model, data / "mobilenet_v2_tf/model.safetensors", 224, model.features, None
    model = ResNet(9)
    model.load_state_dict(load_file(data / "resnet_cifar10/resnet56.safetensors"), strict=False)
    return model, data / "resnet_cifar10/resnet56.safetensors", 32, model.layer3, None


class Method:
    """One method on both sides: `work(batch)` is the package's, `take` makes of its answer what `vitrine explain` writes."""

    def __init__(self, name, package, work, settings=None, batches=(1,), take=None, silent=None, random=False):
        self.name, self.package, self.work, self.settings, self.batches = name, package, work, settings or {}, batches
        self.take, self.silent, self.random = take or (lambda x: x), silent, random


def labels(side, cells):
    at = np.floor((np.arange(side) + 0.5) * cells / side).astype(int)
    return torch.from_numpy(at[:, None] * cells + at[None])[None, None]


def captum_methods(model, x, args, relu):
    import captum.attr as ca
    n, probability, side = args.samples, Probability(model), x.shape[-1]
    batches = [b for b in args.batches if b <= n] or [n]
    given = lambda: x.clone().requires_grad_(True)  # noqa: E731
    total = lambda a: a[0].sum(0)  # noqa: E731
    deviation = 0.15 * float(x.max() - x.min())
    out = [
        Method("saliency", "captum", lambda b: ca.Saliency(model).attribute(given(), TARGET, abs=False), take=lambda a: a[0].abs().amax(0)),
        Method("input_x_gradient", "captum", lambda b: ca.InputXGradient(model).attribute(given(), TARGET), take=total),
        Method("integrated_gradients", "captum", lambda b: ca.IntegratedGradients(model).attribute(
            x, 0, TARGET, n_steps=n, method="gausslegendre", internal_batch_size=b), {"preset": "captum", "steps": n}, batches, total),
    ]
    for name, form in (("smooth_grad", "smoothgrad"), ("square_grad", "smoothgrad_sq"), ("var_grad", "vargrad")):
        def work(b, form=form, deviation=deviation):
            return ca.NoiseTunnel(ca.Saliency(model)).attribute(x, nt_type=form, nt_samples=n, nt_samples_batch_size=b, stdevs=deviation,
                                                                target=TARGET, abs=False)
        silent = None if name == "var_grad" else ({"noise": 0}, lambda b, work=work: work(b, deviation=1e-12))
        reduce = (lambda a: a[0].abs().amax(0)) if name == "smooth_grad" else total
        out.append(Method(name, "captum", work, {"samples": n}, batches, reduce, silent, True))
    out.append(Method("gradient_shap", "captum", lambda b: ca.GradientShap(model).attribute(x, 0 * x, n_samples=n, target=TARGET),
                      {"samples": n, "baseline": "zero"}, (n,), total, None, True))
    window, stride, cells = (64, 32, 6) if side > 100 else (8, 4, 6)
    out.append(Method("occlusion", "captum", lambda b: ca.Occlusion(probability).attribute(
        x, (3, window, window), (3, stride, stride), 0.0, TARGET, perturbations_per_eval=b), {"window": window, "stride": stride},
        args.batches, lambda a: a[0, 0]))
    mask = labels(side, cells)
    out.append(Method("feature_ablation", "captum", lambda b: ca.FeatureAblation(probability).attribute(
        x, 0.0, TARGET, feature_mask=mask, perturbations_per_eval=b), {"features": "grid", "grid": cells}, args.batches,
        lambda a: torch.stack([a[0, 0][mask[0, 0] == i].mean() for i in range(cells * cells)]).reshape(cells, cells)))
    drawn = {"features": "grid", "grid": cells, "samples": 2 * n}
    out.append(Method("kernel_shap", "captum", lambda b: ca.KernelShap(probability).attribute(
        x, 0.0, TARGET, feature_mask=mask, n_samples=2 * n, perturbations_per_eval=b), drawn, args.batches, random=True))
    out.append(Method("lime", "captum", lambda b: ca.Lime(probability).attribute(
        x, 0.0, TARGET, feature_mask=mask, n_samples=2 * n, perturbations_per_eval=b), drawn | {"fill": "zero"}, args.batches, random=True))
    if relu:
        out += [Method("deep_lift", "captum", lambda b: ca.DeepLift(model).attribute(given(), 0 * x, TARGET), take=total),
                Method("guided_backprop", "captum", lambda b: ca.GuidedBackprop(model).attribute(given(), TARGET),
                       take=lambda a: a[0].abs().amax(0)),
                Method("guided_grad_cam", "captum", lambda b: ca.GuidedGradCam(model, model.layer3).attribute(given(), TARGET),
                       {"preset": "captum"}, take=total)]
    return out


def cam_methods(name, model, x, layer, reshape, args):
    import pytorch_grad_cam as gc
    import torchcam.methods as tc
    from pytorch_grad_cam.ablation_layer import AblationLayer, AblationLayerVit
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    def package(kind, **more):
        """The package's own call; its map is caught before ReLU, min-max and resize."""
        def work(batch):
            cam = kind(model, [layer] if kind is not gc.FullGrad else [], reshape_transform=reshape, **more)
            cam.batch_size = batch
            base = getattr(cam, "base_cam", cam)
            kept, inner = [], base.compute_cam_per_layer if kind is gc.FullGrad else base.get_cam_image
            watch = lambda *a, **k: kept.append(inner(*a, **k)) or kept[-1]  # noqa: E731
            if kind is gc.FullGrad:
                base.compute_cam_per_layer = watch
            else:
                base.get_cam_image = watch
            given = x.clone().requires_grad_(True)
            cam(given, None, target_idx=TARGET) if kind is gc.FinerCAM else cam(given, [ClassifierOutputTarget(TARGET)])
            base.activations_and_grads.release()
            if kind is gc.FullGrad:
                return torch.from_numpy(np.sum(kept[0], axis=1)[0])
            return torch.from_numpy(np.ascontiguousarray(kept[0][0]))
        return work

    def torchcam(kind, raw=True, **more):
        def work(batch):
            if "batch_size" in more:
                more["batch_size"] = batch
            with kind(model, layer, input_shape=tuple(x.shape[1:]), reshape_transform=reshape, **more) as cam:
                if raw:
                    getattr(cam, "base_cam", cam)._relu = False
                return cam(TARGET, model(x.clone().requires_grad_(True)), normalized=False)[0][0].detach()
        return work

    ours, raw = {"preset": "pytorch-grad-cam", "relu": "false"}, {"relu": "false"}
    out = [Method("grad_cam", "pytorch-grad-cam", package(gc.GradCAM), raw), Method("grad_cam_plus_plus", "pytorch-grad-cam", package(gc.GradCAMPlusPlus), ours),
           Method("xgrad_cam", "pytorch-grad-cam", package(gc.XGradCAM), ours), Method("hires_cam", "pytorch-grad-cam", package(gc.HiResCAM), raw),
           Method("layer_cam", "pytorch-grad-cam", package(gc.LayerCAM), raw), Method("eigen_cam", "pytorch-grad-cam", package(gc.EigenCAM), ours),
           Method("eigen_grad_cam", "pytorch-grad-cam", package(gc.EigenGradCAM), raw), Method("finer_cam", "pytorch-grad-cam", package(gc.FinerCAM), ours),
           Method("random_cam", "pytorch-grad-cam", package(gc.RandomCAM), raw, random=True)]
    if reshape is None:
        out.append(Method("shapley_cam", "pytorch-grad-cam", package(gc.ShapleyCAM), {"relu": "false", "utility": "target"}))
    few = [b for b in args.batches if b >= 8][-2:] or args.batches
    if name != "mobilenet" or args.method:  # 1280 channels take minutes: when asked for
        out.append(Method("score_cam", "pytorch-grad-cam", package(gc.ScoreCAM), ours, few))
        out.append(Method("ablation_cam", "pytorch-grad-cam", package(gc.AblationCAM, ablation_layer=AblationLayerVit() if reshape else AblationLayer()),
                          ours, (32,)))  # its values depend on the batch, and ours are those of 32
    if name == "resnet56":
        out += [Method("full_grad", "pytorch-grad-cam", package(gc.FullGrad), {"preset": "pytorch-grad-cam"}),
                Method("cam", "torchcam", torchcam(tc.CAM, fc_layer="linear"), raw),
                Method("is_cam", "torchcam", torchcam(tc.ISCAM, num_samples=2, batch_size=8), raw | {"samples": 2}, few),
                Method("ss_cam", "torchcam", torchcam(tc.SSCAM, num_samples=2, batch_size=8), raw | {"samples": 2}, few, random=True)]
    return out


def run(program, *arguments):
    done = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"status {done.returncode}")
    return done.stdout


def far(mine, theirs, sign):
    """The largest difference as a share of the range; eigenvectors have no sign."""
    mine, theirs = mine.astype(np.float64), theirs.detach().double().numpy()
    if mine.shape != theirs.shape:
        raise SystemExit(f"shapes {mine.shape} and {theirs.shape}")
    span = theirs.max() - theirs.min()
    both = [np.abs(s * mine - theirs).max() / span for s in ((1, -1) if sign else (1,))]
    return float(min(both))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", required=True)
    parser.add_argument("--data", required=True, type=pathlib.Path, help="the folder that VITRINE_TEST_DATA names")
    parser.add_argument("--model", default="vit", choices=["vit", "mobilenet", "resnet56"])
    parser.add_argument("--method", default="", help="these only, separated by commas")
    parser.add_argument("--samples", type=int, default=16, help="steps, noisy copies, random places; twice as many subsets")
    parser.add_argument("--batches", default="4,8,16,32", help="batch sizes, the best of which counts")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--answers-only", action="store_true", help="compare, time nothing")
    parser.add_argument("--no-answers", action="store_true", help="time only (answers were compared before)")
    parser.add_argument("--long", action="store_true", help="also count what adaptive and progressive presets save: minutes")
    parser.add_argument("--out", default="explainers", type=pathlib.Path)
    args = parser.parse_args()
    args.batches = [int(b) for b in args.batches.split(",")]
    args.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(args.threads)
    model, file, side, layer, reshape = open_models(args.model, args.data)
    model.eval()
    picture = np.repeat(np.repeat(np.random.default_rng(2).integers(0, 256, (side // 8, side // 8, 3), dtype=np.uint8), 8, 0), 8, 1)
    (args.out / "picture.ppm").write_bytes(b"P6 %d %d 255\n" % (side, side) + picture.tobytes())
    x = torch.from_numpy(picture).permute(2, 0, 1)[None].float().div(255).sub(0.5).div(0.5)
    common = ["--threads", args.threads, "--set", "preprocess.resize=none", "--set", "preprocess.mean=0.5,0.5,0.5", "--set", "preprocess.std=0.5,0.5,0.5"]
    set_ = lambda name, settings: [part for key, value in settings.items() for part in ("--set", f"{name}.{key}={value}")]  # noqa: E731

    methods = captum_methods(model, x, args, args.model == "resnet56") + cam_methods(args.model, model, x, layer, reshape, args)
    only = set(filter(None, args.method.split(",")))
    methods = [m for m in methods if not only or m.name in only]
    result = {"model": args.model, "threads": args.threads, "torch": torch.__version__, "rounds": args.rounds, "repeats": args.repeats,
              "samples": args.samples, "methods": {}}

    # ---- answers first ----
    for m in [] if args.no_answers else methods:
        entry = result["methods"].setdefault(m.name, {"package": m.package})
        settings, work = (m.settings | m.silent[0], m.silent[1]) if m.silent else (m.settings, m.work)
        if m.random and not m.silent:
            entry["agreement"] = "random: compared in tests/parity under equal draws"
            continue
        theirs = m.take(work(m.batches[0]))
        run(args.program, "explain", file, args.out / "picture.ppm", "--method", m.name, "--target", TARGET, "--out", args.out / "maps", *common,
            *set_(m.name, settings))
        entry["agreement"] = far(np.load(args.out / "maps" / f"{m.name}.npy"), theirs, m.name.startswith("eigen"))
        print(f"{m.name:22} {m.package:18} off by {entry['agreement']:.1e} of the range", flush=True)
        if not entry["agreement"] < 1e-3:
            print(f"{m.name}: the answers differ, and times of unlike things say nothing", file=sys.stderr)
            entry["unlike"] = True

    # ---- then both in turn ----
    def theirs(m):
        best = {}
        for b in m.batches:
            m.work(b)
            times, cpu = [], []
            for _ in range(args.repeats):
                start, used = time.perf_counter(), time.process_time()
                m.work(b)
                times.append((time.perf_counter() - start) * 1e3)
                cpu.append((time.process_time() - used) * 1e3)
            best[b] = statistics.median(times), statistics.median(cpu)
        b = min(best, key=best.get)
        return *best[b], b

    def mine(m):
        found = json.loads(run(args.program, "bench", "explain", "--json", "--model", file, "--image", args.out / "picture.ppm", "--method", m.name, "--target", TARGET,
                               "--repeats", args.repeats, "--batches", ",".join(map(str, m.batches)), *common, *set_(m.name, m.settings)))
        return found["methods"][0]

    for m in [] if args.answers_only else methods:
        entry = result["methods"].setdefault(m.name, {"package": m.package})
        if entry.get("unlike"):
            continue
        rounds = []
        for _ in range(args.rounds):
            own = mine(m)
            rounds.append((own, *theirs(m)))
        own = min(rounds, key=lambda r: r[0]["ms"])[0]
        entry |= {"vitrine_ms": statistics.median(r[0]["ms"] for r in rounds), "package_ms": statistics.median(r[1] for r in rounds),
                  "vitrine_cpu_ms": statistics.median(r[0]["cpu_ms"] for r in rounds), "package_cpu_ms": statistics.median(r[2] for r in rounds),
                  "package_batch": rounds[0][3], "ratio": statistics.median(r[1] / r[0]["ms"] for r in rounds),
                  "ratio_cpu": statistics.median(r[2] / r[0]["cpu_ms"] for r in rounds), "vitrine": own}
        share = " / ".join(f"{own[key]['value']:.3f}" for key in ("in_model_over_passes", "in_model_over_passes_cpu") if key in own)
        print(f"{m.name:22} {m.package:18} vitrine {entry['vitrine_ms']:8.1f} ms, {entry['vitrine_cpu_ms']:8.1f} of processor (batch {own['best_batch']}, "
              f"{own['spent']['forwards']:g} + {own['spent']['gradients']:g} passes, {own['set_up_and_after_cpu_ms']:.1f} apart, {share} of the passes)  package "
              f"{entry['package_ms']:8.1f} ms, {entry['package_cpu_ms']:8.1f}  ratio {entry['ratio']:.2f}, of processor time {entry['ratio_cpu']:.2f}", flush=True)
        (args.out / f"{args.model}.json").write_text(json.dumps(result, indent=1) + "\n")

    # ---- what fewer or cheaper passes give ----
    if args.model == "vit" and not args.answers_only and not only:
        times = {}
        for fill in ("zero", "remove"):
            times[fill] = json.loads(run(args.program, "bench", "explain", "--json", "--model", file, "--image", args.out / "picture.ppm", "--method", "rise",
                                         "--repeats", args.repeats, "--batches", "8,16", *common,
                                         *set_("rise", {"preset": "paper", "masks": 64, "fill": fill, "keep": 0.5})))["methods"][0]["ms"]
        result["saving"] = {"token_removal": {"rise_64_masks_painted_ms": times["zero"], "rise_64_masks_removed_ms": times["remove"],
                                              "ratio": times["zero"] / times["remove"]}}
        print(f"token removal: 64 masks painted {times['zero']:.0f} ms, left out {times['remove']:.0f} ms, {times['zero'] / times['remove']:.2f} x")
    if args.long:
        result.setdefault("saving", {}).update(savings(args, file, common, set_))
    (args.out / f"{args.model}.json").write_text(json.dumps(result, indent=1) + "\n")


def savings(args, file, common, set_):
    """Passes by the preset that knows when to stop, and how like its map is to one of many passes, on a photograph."""
    photo = pathlib.Path(__file__).resolve().parents[1] / "resources/pictures/chelsea.jpg"
    common = common[:2]  # the model's own preprocessing
    def explain(name, seed=0, **settings):
        folder = args.out / "long"
        run(args.program, "explain", file, photo, "--method", name, "--out", folder, "--seed", seed, *common,
            *set_(name, settings))
        entry = json.loads((folder / "manifest.json").read_text())["methods"][0]
        return np.load(folder / f"{name}.npy").astype(np.float64).ravel(), entry["notes"]

    like = lambda a, b: float(np.corrcoef(a, b)[0, 1])  # noqa: E731
    out = {}
    exact, _ = explain("integrated_gradients", preset="captum", steps=400)
    fifty, _ = explain("integrated_gradients", preset="captum", steps=50)
    few, notes = explain("integrated_gradients", preset="adaptive")
    out["adaptive_integrated_gradients"] = {"notes": notes, "like_400_steps": like(few, exact), "50_steps_like_400": like(fifty, exact)}
    print("adaptive:", out["adaptive_integrated_gradients"])
    whole, _ = explain("rise", preset="paper", masks=4000)
    other, _ = explain("rise", 1, preset="paper", masks=4000)
    early, notes = explain("rise", preset="progressive", masks=4000)
    out["progressive_rise"] = {"notes": notes, "like_4000_masks": like(early, whole), "4000_masks_like_4000_others": like(whole, other)}
    print("progressive:", out["progressive_rise"])
    return out


if __name__ == "__main__":
    main()
