#!/usr/bin/env python3
"""Writes tests/parity/data/cam: what pytorch-grad-cam 1.5.7 and torchcam 0.5.0 give before ReLU, min-max and resize.

The packages run in double precision on small models drawn from a seed (weights of other parity cases) and on the shared
real models; their maps are caught where they leave get_cam_image (pytorch-grad-cam) and where torchcam's own ReLU and
normalisation are switched off. Noise is drawn from torch generators that C++ has too, and handed to the packages.
ShapleyCAM's second derivative needs plain attention, and so does ours.

Needs torch, timm, torchvision, safetensors, numpy, opencv, scikit-learn, ttach, grad-cam, torchcam.
Usage: cam.py DATA (the folder that VITRINE_TEST_DATA names) [CASE...]
"""
import json
import pathlib
import sys

import numpy as np
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn
from torchvision.models import mobilenet_v2, resnet
from torchvision.models.vgg import VGG, make_layers

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import spread  # noqa: E402
import pytorch_grad_cam as gc  # noqa: E402
import torchcam.methods as tc  # noqa: E402
from pytorch_grad_cam.ablation_layer import AblationLayer, AblationLayerVit  # noqa: E402
from pytorch_grad_cam.utils.model_targets import ClassifierOutputReST, ClassifierOutputTarget  # noqa: E402

torch.set_num_threads(1)
shared = pathlib.Path(sys.argv[1])
only = sys.argv[2:]
out_folder = spread.DATA / "cam"
CLASS, VERSUS, SEED = 4, 7, 5


def fnv(name):
    return spread.key_of(name, 0)


class Cifar(nn.Module):
    """github.com/akamaster/pytorch_resnet_cifar10: basic blocks, option-A shortcuts."""

    def __init__(self, state):
        super().__init__()
        self.s = {k.removeprefix("module."): v.double() for k, v in state.items()}
        self.features = nn.Identity()
        self.linear = nn.Linear(64, 10).double()
        self.linear.load_state_dict({"weight": self.s["linear.weight"], "bias": self.s["linear.bias"]})

    def bn(self, n, t):
        s = self.s
        return F.batch_norm(t, s[n + ".running_mean"], s[n + ".running_var"], s[n + ".weight"], s[n + ".bias"])

    def forward(self, x):
        s = self.s
        x = F.relu(self.bn("bn1", F.conv2d(x, s["conv1.weight"], padding=1)))
        for layer in (1, 2, 3):
            for i in range(sum(f"layer{layer}.{j}.conv1.weight" in s for j in range(100))):
                n, stride = f"layer{layer}.{i}.", 2 if i == 0 and layer > 1 else 1
                y = F.relu(self.bn(n + "bn1", F.conv2d(x, s[n + "conv1.weight"], stride=stride, padding=1)))
                y = self.bn(n + "bn2", F.conv2d(y, s[n + "conv2.weight"], padding=1))
                if stride == 2:
                    planes = y.shape[1]
                    x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, planes // 4, planes // 4))
                x = F.relu(x + y)
        return self.linear(self.features(x).mean((2, 3)))


class Mobile(nn.Module):
    """MobileNetV2 with folded norms and TensorFlow's SAME padding."""

    def __init__(self, state):
        super().__init__()
        self.s = {k: v.double() for k, v in state.items()}
        self.features = nn.Identity()
        self.linear = nn.Linear(1280, 1000).double()
        self.linear.load_state_dict({"weight": self.s["classifier.weight"].flatten(1)[-1000:],
                                     "bias": self.s["classifier.bias"][-1000:]})

    def conv(self, n, t, stride=1, groups=1, act=True):
        w = self.s[n + ".weight"]
        k = w.shape[2]
        pads = [max((-(-side // stride) - 1) * stride + k - side, 0) for side in t.shape[2:]]
        t = F.pad(t, (pads[1] // 2, pads[1] - pads[1] // 2, pads[0] // 2, pads[0] - pads[0] // 2))
        t = F.conv2d(t, w, self.s[n + ".bias"], stride, 0, 1, groups)
        return t.clamp(0, 6) if act else t

    def forward(self, x):
        x = self.conv("stem", x, 2)
        for i, stride in enumerate([1, 2, 1, 2, 1, 1, 2, 1, 1, 1, 1, 1, 1, 2, 1, 1, 1], 1):
            y = self.conv(f"block{i}.expand", x) if f"block{i}.expand.weight" in self.s else x
            y = self.conv(f"block{i}.depthwise", y, stride, y.shape[1])
            y = self.conv(f"block{i}.project", y, act=False)
            x = x + y if stride == 1 and x.shape == y.shape else y
        return self.linear(self.features(self.conv("head", x)).mean((2, 3)))


def drawn(model, case):
    """The weights of another parity case."""
    given = json.loads((spread.DATA / f"{case}.json").read_text())
    state = model.state_dict()
    for saved, own, shape, scale, offset in given["tensors"]:
        state[own].copy_(torch.from_numpy(spread.draw(own, tuple(shape), scale, offset, given["seed"])))
    return model.eval().double()


def vgg():
    plan = [8, "M", 16, "M", 32, 32, "M", 64, 64, "M", 64, 64, "M"]
    model = VGG(make_layers(plan, batch_norm=True), num_classes=50, init_weights=False)
    model.classifier = nn.Sequential(nn.Linear(64 * 49, 64), nn.ReLU(True), nn.Dropout(), nn.Linear(64, 64), nn.ReLU(True),
                                     nn.Dropout(), nn.Linear(64, 50))
    return model


def caught(method, model, layer, reshape, x, target, weights=False, **more):
    """pytorch-grad-cam's map as get_cam_image returns it, and if asked its weights of channels."""
    kept, weighed = [], []
    cam = method(model, [layer], reshape_transform=reshape, **more)
    base = getattr(cam, "base_cam", cam)
    inner = base.get_cam_image

    def on_tokens(x, layer, targets, activations, grads, smooth):
        # Its ShapleyCAM weighs tokens but then multiplies them unreshaped, which fails: the product is done here.
        weights = base.get_cam_weights(x, layer, targets, activations, grads)
        return (weights[:, :, None, None] * reshape(activations).detach().numpy()).sum(1)

    def watch(*a, **k):
        kept.append((on_tokens if method is gc.ShapleyCAM and reshape else inner)(*a, **k))
        return kept[-1]

    base.get_cam_image = watch
    if weights:
        own = base.get_cam_weights
        base.get_cam_weights = lambda *a, **k: weighed.append(own(*a, **k)) or weighed[-1]
    if method is gc.FinerCAM:
        cam(x, None, target_idx=CLASS)
    else:
        cam(x, [target])
    found = [torch.from_numpy(np.ascontiguousarray(t[0][0])).float() for t in (kept, weighed) if t]
    return found if weights else found[0]


def raw(method, model, layer, reshape, x, **more):
    """torchcam's map without its ReLU and normalisation."""
    with method(model, layer, input_shape=tuple(x.shape[1:]), reshape_transform=reshape, **more) as cam:
        getattr(cam, "base_cam", cam)._relu = False
        scores = model(x)
        return cam(CLASS, scores, normalized=False)[0][0].detach().float()


def full_gradient(model, x, activations):
    """FullGrad written out, scaled as the authors' code scales: layer by layer, aligned corners."""
    seen = []

    def watch(m, i, o):
        o.retain_grad()
        if isinstance(m, nn.BatchNorm2d):
            bias = m.bias - m.running_mean * m.weight / (m.running_var + m.eps).sqrt()
        elif isinstance(m, nn.Conv2d):
            bias = m.bias
        else:
            bias = (o.detach() == 6) * 6.0  # relu6(z) - relu6'(z) z
        if bias is not None:
            seen.append((o, bias.detach() if bias.ndim == 4 else bias.detach()[None, :, None, None]))

    kinds = (nn.Conv2d, nn.BatchNorm2d) + ((nn.ReLU6,) if activations else ())
    for m in model.modules():
        if isinstance(m, (nn.ReLU, nn.ReLU6)):
            m.inplace = False
    hooks = [m.register_forward_hook(watch) for m in model.modules() if isinstance(m, kinds)]
    x = x.detach().clone().requires_grad_(True)
    score = model(x)[0, CLASS]
    score.backward()
    for hook in hooks:
        hook.remove()

    def put(t):
        t = t.abs()
        t = t - t.min()
        return F.interpolate(t / (t.max() + 1e-6), x.shape[2:], mode="bilinear", align_corners=True).sum(1)[0]

    total = x.grad * x.detach()
    out, whole = put(total), total.sum()
    for o, bias in seen:
        term = bias * o.grad
        whole = whole + term.sum()
        if term.abs().max() > 0:
            out = out + put(term)
    last = [m for m in model.modules() if isinstance(m, nn.Linear)][-1]
    sum_, score = float((whole + last.bias[CLASS]).detach()), float(score.detach())
    print(f"  input and biases sum to {sum_:.6f}, the score is {score:.6f}")
    assert not activations or abs(sum_ - score) < 1e-6 * abs(score)
    return out.float()[::4, ::4].contiguous()


class Noise:
    """One draw a channel, in order."""

    def __init__(self, std):
        self.std, self.generator = std, torch.Generator().manual_seed(SEED)

    def sample(self, size):
        return torch.stack([torch.randn(size[2:], generator=self.generator) for _ in range(size[1])])[None].double() * self.std


def case(name, model, layer, point, size, *, prefix=None, grid=None, parts=("gradient",), ablation=AblationLayer):
    if only and name not in only:
        return
    x = spread.pixels((1, 3, *size), SEED).double()
    reshape = None
    if grid:
        def reshape(t):
            return t[:, prefix:].reshape(t.shape[0], *grid, t.shape[2]).permute(0, 3, 1, 2)
    x.requires_grad_(True)  # some of these models hold no parameters that do
    model.eval()
    out = {}
    target = ClassifierOutputTarget(CLASS)
    one = lambda key, method, **more: out.__setitem__(key, caught(method, model, layer, reshape, x, target, **more))  # noqa: E731
    two = lambda key, method, **more: out.__setitem__(key, raw(method, model, layer, reshape, x, **more))  # noqa: E731
    if "gradient" in parts:
        one("grad_cam", gc.GradCAM)
        out["grad_cam_plus_plus.pytorch-grad-cam"], out["grad_cam_plus_plus.pytorch-grad-cam.weights"] = caught(
            gc.GradCAMPlusPlus, model, layer, reshape, x, target, weights=True)
        one("xgrad_cam.pytorch-grad-cam", gc.XGradCAM)
        one("hires_cam", gc.HiResCAM)
        one("layer_cam", gc.LayerCAM)
        one("eigen_cam.pytorch-grad-cam", gc.EigenCAM)
        one("eigen_grad_cam", gc.EigenGradCAM)
        one("finer_cam.pytorch-grad-cam", gc.FinerCAM)
        two("grad_cam.torchcam", tc.GradCAM)
        two("grad_cam_plus_plus.torchcam", tc.GradCAMpp)
        two("xgrad_cam.torchcam", tc.XGradCAM)
        two("layer_cam.torchcam", tc.LayerCAM)
        two("finer_cam.torchcam", tc.FinerCAM)
    if "random" in parts:
        uniform = np.random.uniform
        generator = torch.Generator().manual_seed(fnv(point) ^ SEED)
        np.random.uniform = lambda low, high, size: (torch.rand(size[1], generator=generator, dtype=torch.float64) * 2 - 1).numpy()[None]
        one("random_cam", gc.RandomCAM)
        np.random.uniform = uniform
    if "shapley" in parts:
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            one("shapley_cam.target", gc.ShapleyCAM)
            out["shapley_cam.rest"] = caught(gc.ShapleyCAM, model, layer, reshape, x, ClassifierOutputReST(CLASS))
    if "cam" in parts:
        fc = next(n for n, m in model.named_modules() if isinstance(m, nn.Linear) and m.out_features in (10, 50, 1000))
        with tc.CAM(model, layer, fc_layer=fc) as cam:
            model(x)
            out["cam"] = cam(CLASS, normalized=False)[0][0].detach().float()
    with torch.no_grad():
        if "score" in parts:
            one("score_cam.pytorch-grad-cam", gc.ScoreCAM)
            two("score_cam.torchcam", tc.ScoreCAM)
        if "smooth" in parts:
            with tc.SSCAM(model, layer, num_samples=2, reshape_transform=reshape) as cam:
                cam._relu, cam._distrib = False, Noise(2.0)
                model(x)
                out["ss_cam"] = cam(CLASS, normalized=False)[0][0].float()
            two("is_cam", tc.ISCAM, num_samples=3)
    if "ablation" in parts:
        one("ablation_cam.pytorch-grad-cam", gc.AblationCAM, ablation_layer=ablation())
    if "several" in parts:
        layers = [model.layer3, model.layer4]
        with tc.LayerCAM(model, layers) as cam:
            maps = cam(CLASS, model(x), normalized=True)
            out["layer_cam.several"] = cam.fuse_cams(maps)[0].detach().float()
    if "full" in parts:
        kept = []
        cam = gc.FullGrad(model, [])
        inner = cam.compute_cam_per_layer
        cam.compute_cam_per_layer = lambda *a: kept.append(inner(*a)) or kept[-1]
        cam(x.detach(), [target])
        # A quarter of the pixels each way is enough to compare.
        out["full_grad.pytorch-grad-cam"] = torch.from_numpy(np.sum(kept[0], axis=1)[0]).float()[::4, ::4].contiguous()
        out["full_grad.paper"] = full_gradient(model, x, True)
        out["full_grad.biases"] = full_gradient(model, x, False)
    for key, value in out.items():
        span = float(value.max() - value.min())
        assert value.isfinite().all() and span > 1e-7 * float(value.abs().max()), (name, key)
        print(f"  {key}: {tuple(value.shape)}, {float(value.min()):.3g} to {float(value.max()):.3g}")
    out_folder.mkdir(exist_ok=True)
    save_file({k: v.contiguous() for k, v in out.items()}, str(out_folder / f"{name}.safetensors"))
    print(name, (out_folder / f"{name}.safetensors").stat().st_size, "bytes")


class Plain(nn.Module):
    """Convolutions whose activation is one module, used twice, in place."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 5, 4, 2), nn.Conv2d(8, 12, 3, 1, 1)
        self.norm, self.act, self.head = nn.BatchNorm2d(12), nn.ReLU(inplace=True), nn.Linear(12, 10)

    def forward(self, x):
        x = self.act(self.first(x))
        return self.head(self.act(self.norm(self.second(x))).mean((2, 3)))


class ChannelsLast(nn.Module):
    """A map whose channels are its last axis."""

    def __init__(self):
        super().__init__()
        self.patches, self.norm, self.mix, self.head = nn.Conv2d(3, 8, 4, 4), nn.LayerNorm(8), nn.Linear(8, 6), nn.Linear(6, 10)

    def forward(self, x):
        x = self.mix(self.norm(self.patches(x).permute(0, 2, 3, 1)))
        return self.head(torch.tanh(x).mean((1, 2)))


def traced(name, model, layer, point, channels_last):
    """A TorchScript file and Grad-CAM of it written out."""
    if only and name not in only:
        return
    state = model.state_dict()
    for key, (scale, offset) in spread.specs_of(state).items():
        state[key].copy_(torch.from_numpy(spread.draw(key, tuple(state[key].shape), scale, offset, SEED)))
    model.eval()
    for p in model.parameters():
        p.requires_grad_(False)
    size = (32, 48)
    x = spread.pixels((1, 3, *size), SEED)
    torch.jit.save(torch.jit.trace(model, x), out_folder / f"{name}.pt")
    (out_folder / f"{name}.json").write_text(json.dumps({"input_size": [3, *size], "mean": [0.5] * 3, "std": [0.5] * 3}) + "\n")
    kept = []
    hook = layer.register_forward_hook(lambda m, i, o: kept.append(o.clone()) or kept[-1])
    score = model(x.requires_grad_(True))[0, CLASS]
    hook.remove()
    a, g = kept[-1], torch.autograd.grad(score, kept[-1])[0]
    if channels_last:
        a, g = a.permute(0, 3, 1, 2), g.permute(0, 3, 1, 2)
    out = {"grad_cam": (g.mean((2, 3), keepdim=True) * a).sum(1)[0], "hires_cam": (g * a).sum(1)[0]}
    save_file({k: v.detach().contiguous() for k, v in out.items()}, str(out_folder / f"{name}.safetensors"))
    print(name, point, {k: tuple(v.shape) for k, v in out.items()})


def main():
    out_folder.mkdir(exist_ok=True)
    m = Plain()
    traced("traced_cnn", m, m.act, "act#2", False)
    m = ChannelsLast()
    traced("traced_channels_last", m, m.mix, "mix", True)
    make = timm.create_model
    vit = lambda: drawn(make("vit_tiny_patch16_224", img_size=112, num_classes=10, depth=4), "attention_methods/class_token")  # noqa: E731
    if not only or "vit" in only:
        m = vit()
        case("vit", m, m.blocks[3].norm1, "blocks.3.norm1", (112, 112), prefix=1, grid=(7, 7), ablation=AblationLayerVit,
             parts=("gradient", "random", "shapley", "ablation"))
    if not only or "vit_mean" in only:
        m = drawn(make("vit_tiny_patch16_224", img_size=(64, 96), patch_size=(16, 8), num_classes=10, depth=3, global_pool="avg",
                       fc_norm=True), "attention_methods/mean_pooling")
        case("vit_mean", m, m.blocks[2], "blocks.2", (64, 96), prefix=1, grid=(4, 12), parts=("gradient", "shapley", "score", "smooth"))
    if not only or "resnet18" in only:
        m = drawn(resnet.resnet18(num_classes=50), "torchvision_resnet18")
        case("resnet18", m, m.layer4, "features", (128, 128), parts=("gradient", "random", "shapley", "cam", "several", "full"))
    if not only or "mobilenet_v2" in only:
        m = drawn(mobilenet_v2(num_classes=50), "torchvision_mobilenet_v2")
        case("mobilenet_v2", m, m.features, "features", (96, 96), parts=("gradient", "full"))
    if not only or "vgg" in only:
        m = drawn(vgg(), "torchvision_vgg11_bn")
        case("vgg", m, m.features, "features", (160, 128), parts=("gradient", "shapley", "score", "smooth", "ablation"))
    if not only or "resnet56" in only:
        m = Cifar(load_file(shared / "resnet_cifar10/resnet56.safetensors"))
        case("resnet56", m, m.features, "features", (32, 32), parts=("gradient", "shapley", "cam", "score", "ablation"))
    if not only or "mobilenet" in only:
        m = Mobile(load_file(shared / "mobilenet_v2_tf/model.safetensors"))
        case("mobilenet", m, m.features, "features", (224, 224), parts=("gradient", "shapley", "cam"))
    if not only or "vit_tiny" in only:
        m = make("vit_tiny_patch16_224", num_classes=1000)
        m.load_state_dict(load_file(shared / "vit_tiny_patch16_224/model.safetensors"))
        m.double()
        case("vit_tiny", m, m.blocks[11].norm1, "blocks.11.norm1", (224, 224), prefix=1, grid=(14, 14), parts=("gradient", "shapley"))


if __name__ == "__main__":
    main()
