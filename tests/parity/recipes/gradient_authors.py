#!/usr/bin/env python3
"""Writes tests/parity/data/gradient/authors.safetensors and data/cam/full_grad_authors.safetensors: what the authors' own code gives for
SmoothGrad and its square (saliency 0.2.1, Google PAIR) and for FullGrad (github.com/idiap/fullgrad-saliency 7c106b3).

The models are the ViT of gradient.py, and torchvision's ResNet-18, VGG and MobileNetV2 as cam.py draws them. The noise comes from torch generators that C++ has
too. Their programs are run as they are, from a folder beside this repository, and only numbers come here.

Needs torch, torchvision, safetensors, numpy, saliency.
Usage: gradient_authors.py FOLDER_OF_fullgrad
"""
import json
import pathlib
import sys

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F
from torchvision.models import mobilenet_v2, resnet
from torchvision.models.vgg import VGG, make_layers

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import spread  # noqa: E402

CODE = pathlib.Path(sys.argv[1])
CLASS, SEED, MASK = 4, 5, 2**64 - 1
torch.set_num_threads(1)


def mix64(z):
    z = (z + 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def random_bits(seed, stream, index):
    """engine/base/vitrine/base/random.h"""
    inner = mix64((mix64(seed) + stream * 0x9E3779B97F4A7C15) & MASK)
    return mix64((inner + index * 0x9E3779B97F4A7C15) & MASK)


class Vit(nn.Module):
    """The model of capture_timm_fused_native.safetensors: two heads, patches of 8."""

    def __init__(self, weights):
        super().__init__()
        self.w, self.heads = weights, 2

    def forward(self, x):
        w = self.w
        norm = lambda x, name: F.layer_norm(x, x.shape[-1:], w[name + ".weight"], w[name + ".bias"], 1e-6)  # noqa: E731
        linear = lambda x, name: F.linear(x, w[name + ".weight"], w[name + ".bias"])  # noqa: E731
        x = F.conv2d(x, w["patch_embed.proj.weight"], w["patch_embed.proj.bias"], 8).flatten(2).transpose(1, 2)
        x = torch.cat([w["cls_token"].expand(len(x), -1, -1), x], 1) + w["pos_embed"]
        for i in range(3):
            b = f"blocks.{i}."
            y = linear(norm(x, b + "norm1"), b + "attn.qkv").unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
            y = F.scaled_dot_product_attention(*y).transpose(1, 2).flatten(2)
            x = x + linear(y, b + "attn.proj")
            x = x + linear(F.gelu(linear(norm(x, b + "norm2"), b + "mlp.fc1")), b + "mlp.fc2")
        return linear(norm(x, "norm")[:, 0], "head")


def smoothed(model, x):
    """PAIR's SmoothGrad with its own standard deviation; sample i's noise is that of Vitrine's seed 5."""
    import saliency.core as pair

    def call(batch, call_model_args=None, expected_keys=None):
        p = torch.from_numpy(np.asarray(batch)).permute(0, 3, 1, 2).float().requires_grad_(True)
        model(p)[:, CLASS].sum().backward()
        return {pair.INPUT_OUTPUT_GRADIENTS: p.grad.permute(0, 2, 3, 1).double().numpy()}

    normal, sample = np.random.normal, iter(range(1000))

    def noise(mean, deviation, shape):
        generator = torch.Generator().manual_seed(random_bits(SEED, 0, next(sample)))
        return torch.randn(x.shape, generator=generator)[0].permute(1, 2, 0).numpy() * deviation

    np.random.normal = noise
    try:
        found = {}
        for key, magnitude in (("smooth_grad", False), ("square_grad", True)):
            sample = iter(range(1000))
            mask = pair.GradientSaliency().GetSmoothedMask(x[0].permute(1, 2, 0).numpy(), call, nsamples=7, magnitude=magnitude)
            found[key] = torch.from_numpy(mask).permute(2, 0, 1)[:, ::2, ::2].float().contiguous()
        return found
    finally:
        np.random.normal = normal


def drawn(model, case):
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


def full_grad(model, size):
    sys.path.insert(0, str(CODE / "fullgrad"))
    from saliency.fullgrad import FullGrad
    x = spread.pixels((1, 3, *size), SEED).double()
    randn = torch.randn
    torch.randn = lambda *a, **k: randn(*a, **k).double()
    check = FullGrad.checkCompleteness

    def tell(self):
        try:
            check(self)
        except AssertionError as error:  # networks with other constants than biases: theirs stops here
            print("  their own check:", str(error).strip().splitlines()[0])

    FullGrad.checkCompleteness = tell
    try:
        return FullGrad(model, (3, *size)).saliency(x, torch.tensor([CLASS]))[0, 0, ::4, ::4].detach().float().contiguous()
    finally:
        torch.randn, FullGrad.checkCompleteness = randn, check


def main():
    stored = load_file(spread.DATA / "capture_timm_fused.safetensors")
    vit = Vit(load_file(spread.DATA / "capture_timm_fused_native.safetensors"))
    assert (vit(stored["pixels"]) - stored["logits"]).abs().max() < 1e-4
    out = smoothed(vit, stored["pixels"])
    save_file(out, spread.DATA / "gradient/authors.safetensors")
    # Their folder has the same name as PAIR's package.
    for name in [name for name in sys.modules if name.split(".")[0] == "saliency"]:
        del sys.modules[name]
    maps = {"resnet18": full_grad(drawn(resnet.resnet18(num_classes=50), "torchvision_resnet18"), (128, 128)),
            "vgg": full_grad(drawn(vgg(), "torchvision_vgg11_bn"), (160, 128)),
            "mobilenet_v2": full_grad(drawn(mobilenet_v2(num_classes=50), "torchvision_mobilenet_v2"), (96, 96))}
    save_file(maps, spread.DATA / "cam/full_grad_authors.safetensors")
    for key, value in (out | maps).items():
        assert value.isfinite().all() and value.abs().max() > 0
        print(key, tuple(value.shape), float(value.min()), float(value.max()))


main()
