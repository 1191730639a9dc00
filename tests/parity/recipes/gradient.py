"""Makes tests/parity/data/gradient/: what captum and PAIR's saliency say of one ViT and two CNNs, for plugins/gradient.

Run with torch 2.11, numpy, scipy, safetensors, captum 0.9.0 and saliency 0.2.1:  python gradient.py FOLDER_OF_resnet56.safetensors
The models are written out here, with a ReLU module for each place (captum wants that), over the weights that Vitrine opens.
Noise, baselines and places are drawn by name (spread.py), so that both sides use the same ones; captum's own draws are replaced.
Channels are stored at every second row and column.
"""
import copy
import json
import pathlib
import sys

import captum.attr as ca
import numpy as np
import saliency.core as pair
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

from spread import DATA, draw, pixels

torch.set_num_threads(1)
OUT = DATA / "gradient"
OUT.mkdir(exist_ok=True)
TARGET, VERSUS = 4, 7


class Vit(nn.Module):
    """The model of capture_timm_fused_native.safetensors: two heads, patches of 8."""

    def __init__(self, weights):
        super().__init__()
        self.w, self.heads = weights, 2

    def forward(self, x):
        w = self.w
        norm = lambda x, name: F.layer_norm(x, x.shape[-1:], w[name + ".weight"], w[name + ".bias"], 1e-6)
        linear = lambda x, name: F.linear(x, w[name + ".weight"], w[name + ".bias"])
        x = F.conv2d(x, w["patch_embed.proj.weight"], w["patch_embed.proj.bias"], 8).flatten(2).transpose(1, 2)
        x = torch.cat([w["cls_token"].expand(len(x), -1, -1), x], 1) + w["pos_embed"]
        for i in range(3):
            b = f"blocks.{i}."
            y = linear(norm(x, b + "norm1"), b + "attn.qkv").unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
            y = F.scaled_dot_product_attention(*y).transpose(1, 2).flatten(2)
            x = x + linear(y, b + "attn.proj")
            x = x + linear(F.gelu(linear(norm(x, b + "norm2"), b + "mlp.fc1")), b + "mlp.fc2")
        return linear(norm(x, "norm")[:, 0], "head")


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
        stage = lambda into, out: nn.Sequential(*[Block(into if i == 0 else out, out, 2 if i == 0 and out > into else 1) for i in range(n)])
        self.layer1, self.layer2, self.layer3 = stage(16, 16), stage(16, 32), stage(32, 64)
        self.linear = nn.Linear(64, 10)

    def forward(self, x):
        x = self.layer3(self.layer2(self.layer1(self.relu(self.bn1(self.conv1(x))))))
        return self.linear(x.mean((2, 3)))


def vgg():
    """Pooling windows that do not overlap: captum's max pooling rule loses shares where they do. In place, as torchvision has it."""
    relu = lambda: nn.ReLU(inplace=True)
    features = nn.Sequential(nn.Conv2d(3, 8, 3, 1, 1), relu(), nn.Conv2d(8, 8, 3, 1, 1), relu(), nn.MaxPool2d(2, 2),
                             nn.Conv2d(8, 16, 3, 1, 1), relu(), nn.MaxPool2d(2, 2))
    model = nn.Sequential()
    model.features, model.pool, model.flat = features, nn.AdaptiveAvgPool2d(1), nn.Flatten()
    model.classifier = nn.Sequential(nn.Linear(16, 24), relu(), nn.Dropout(), nn.Linear(24, 11))
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(torch.from_numpy(draw("vgg." + name, p.shape, (6 / p[0].numel()) ** 0.5 if p.dim() > 1 else 0.2, seed=1)))
    return model.eval()


class Copy(nn.Module):
    def forward(self, x):
        return x.clone()


def apart(model):
    """The same with a copy in front of each pooling.

    Where pooling follows ReLU on the very same tensor, captum hands ReLU the gradient from before the pooling rule was applied
    (its hooks run in the order of registration), and the sum is off by a percent. With a copy between, the rule holds.
    """
    out = copy.deepcopy(model)
    out.features = nn.Sequential(*[part for m in out.features for part in ([Copy(), m] if isinstance(m, nn.MaxPool2d) else [m])])
    return out


def deep_lift(model, x, baseline):
    found, gap = ca.DeepLift(model).attribute(x.clone(), baseline, TARGET, return_convergence_delta=True)
    assert gap.abs().item() < 1e-4 * found.abs().sum(), gap
    return found


def noise(i, shape):
    return torch.from_numpy(draw(f"noise.{i}", tuple(shape), 0.5))


def with_noise(method, x, form, samples, **more):
    """captum's NoiseTunnel with our noise."""
    normal = torch.normal
    torch.normal = lambda mean, std: torch.cat([noise(i, x.shape) for i in range(samples)])
    try:
        return ca.NoiseTunnel(method).attribute(x, nt_type=form, nt_samples=samples, stdevs=0.5, target=TARGET, **more)
    finally:
        torch.normal = normal


def gradient_shap(model, x, samples=4):
    """captum's GradientShap: noise, baseline and place of sample i are ours."""
    baselines = torch.cat([torch.from_numpy(draw(f"baseline.{i}", tuple(x.shape), 1.0)) for i in range(samples)])
    places = [0.5 + 0.5 * float(draw(f"place.{i}", (1,), 1.0)[0]) for i in range(samples)]
    normal, uniform, choice = torch.normal, np.random.uniform, np.random.choice
    torch.normal = lambda mean, std: torch.cat([noise(i, x.shape) for i in range(samples)])
    np.random.uniform = lambda low, high, size: np.array(places)
    np.random.choice = lambda count, size: np.arange(size)
    try:
        return ca.GradientShap(model).attribute(x, baselines, n_samples=samples, stdevs=0.5, target=TARGET)
    finally:
        torch.normal, np.random.uniform, np.random.choice = normal, uniform, choice


def blur_ig(model, x, **more):
    """PAIR's Blur IG in double precision outside the model."""

    def call(batch, call_model_args=None, expected_keys=None):
        p = torch.from_numpy(np.asarray(batch)).permute(0, 3, 1, 2).float().requires_grad_(True)
        model(p)[:, TARGET].sum().backward()
        return {pair.INPUT_OUTPUT_GRADIENTS: p.grad.permute(0, 2, 3, 1).double().numpy()}

    out = pair.BlurIG().GetMask(x[0].permute(1, 2, 0).double().numpy(), call, batch_size=1, **more)
    return torch.from_numpy(out).permute(2, 0, 1)[None]


def xrai(model):
    """PAIR's XRAI, its segments found at the picture's own size, of a picture of blocks with noise on them."""
    x = np.repeat(np.repeat(draw("xrai.coarse", (1, 3, 6, 8), 1.0), 16, 2), 16, 3) + np.float32(0.1) * draw("xrai.fine", (1, 3, 96, 128), 1.0)
    picture = x[0].transpose(1, 2, 0).astype(np.float64)

    def call(batch, call_model_args=None, expected_keys=None):
        p = torch.from_numpy(np.asarray(batch)).permute(0, 3, 1, 2).float().requires_grad_(True)
        model(p)[:, TARGET].sum().backward()
        return {pair.INPUT_OUTPUT_GRADIENTS: p.grad.permute(0, 2, 3, 1).double().numpy()}

    masks = pair.xrai._get_segments_felzenszwalb(picture, resize_image=False)
    settings = pair.XRAIParameters(steps=20)
    found = torch.from_numpy(pair.XRAI().GetMask(picture, call, segments=masks, extra_parameters=settings))
    print("xrai:", len(masks), "regions,", len(found.unique()), "densities")
    save_file({"map": found[::2, ::2].float().contiguous()}, OUT / "xrai.safetensors")


def case(name, model, x, relu=False, layer=None, lifted=None):
    out = {"logits": model(x).detach()}
    out["saliency"] = ca.Saliency(model).attribute(x, TARGET, abs=False)
    out["input_x_gradient"] = ca.InputXGradient(model).attribute(x.clone(), TARGET)
    difference = lambda x: (lambda y: y[:, TARGET : TARGET + 1] - y[:, VERSUS : VERSUS + 1])(model(x))
    out["input_x_gradient_versus"] = ca.InputXGradient(difference).attribute(x.clone(), 0)
    ig = ca.IntegratedGradients(model)
    out["ig_captum"] = ig.attribute(x, 0, TARGET, n_steps=20, method="gausslegendre")
    out["ig_white"] = ig.attribute(x, 1, TARGET, n_steps=20, method="gausslegendre")  # mean and std 0.5
    for form in ("left", "right", "middle", "trapezoid"):
        out["ig_riemann_" + form] = ig.attribute(x, 0, TARGET, n_steps=9, method="riemann_" + form)
    saliency = ca.Saliency(model)
    for form in ("smoothgrad", "smoothgrad_sq", "vargrad"):
        out[form] = with_noise(saliency, x, form, 6, abs=False)
    out["gradient_shap"] = gradient_shap(model, x)
    out["blur_ig"] = blur_ig(model, x, max_sigma=8, steps=10)
    out["blur_ig_sqrt"] = blur_ig(model, x, max_sigma=50, steps=7, sqrt=True)
    if relu:
        out["deep_lift"] = deep_lift(lifted or model, x, 0 * x)
        out["deep_lift_white"] = deep_lift(lifted or model, x, 0 * x + 1)
        out["guided_backprop"] = ca.GuidedBackprop(model).attribute(x.clone(), TARGET)
        out["guided_grad_cam"] = ca.GuidedGradCam(model, layer).attribute(x.clone(), TARGET)
        assert out["guided_grad_cam"].abs().max() > 0, "the map is zero: another target"
    for key, value in out.items():
        value = value.detach().float()
        assert value.isfinite().all() and value.abs().max() > 0, key
        out[key] = (value[0, :, ::2, ::2] if value.dim() == 4 else value).contiguous()
    save_file(out, OUT / f"{name}.safetensors")
    print(name, out["logits"].numpy().round(2), (OUT / f"{name}.safetensors").stat().st_size // 1024, "KiB")


def main():
    stored = load_file(DATA / "capture_timm_fused.safetensors")
    vit = Vit(load_file(DATA / "capture_timm_fused_native.safetensors"))
    assert (vit(stored["pixels"]) - stored["logits"]).abs().max() < 1e-4
    case("vit", vit, stored["pixels"])

    resnet = ResNet(9).eval()
    weights = load_file(pathlib.Path(sys.argv[1]) / "resnet56.safetensors")
    missing = resnet.load_state_dict(weights, strict=False)
    assert not missing.unexpected_keys and all(k.endswith("num_batches_tracked") for k in missing.missing_keys), missing
    case("resnet56", resnet, pixels((1, 3, 32, 32), 3), True, resnet.layer3)

    small = vgg()
    save_file({k: v.contiguous() for k, v in small.state_dict().items()}, OUT / "vgg_model.safetensors")
    x = pixels((1, 3, 32, 48), 4)
    traced = torch.jit.trace(small, x)
    traced.save(str(OUT / "vgg_traced.pt"))
    (OUT / "vgg_traced.json").write_text(json.dumps(
        {"input_size": [3, 32, 48], "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "crop_pct": 1.0}))
    (OUT / "vgg_model.json").write_text((OUT / "vgg_traced.json").read_text())
    case("vgg", small, x, True, small.features, apart(small))
    xrai(small)


main()
