#!/usr/bin/env python3
"""Writes tests/parity/data/smoothing.safetensors: Grad-CAM with pytorch-grad-cam 1.5.7's aug_smooth, and of two layers.

ResNet-18 with the weights of its parity case, in double precision. The package enlarges each map to the picture before it
is averaged; here its target size is the finest native grid, so that what is compared is the fusion and not the resizing.

Needs what cam.py needs.
Usage: smoothing.py DATA (as for cam.py)
"""
import sys
import pathlib

import torch
from safetensors.torch import save_file
from torchvision.models import resnet

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import spread  # noqa: E402
from cam import CLASS, SEED, drawn  # noqa: E402
from pytorch_grad_cam import GradCAM  # noqa: E402
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget  # noqa: E402


def main():
    model = drawn(resnet.resnet18(num_classes=50), "torchvision_resnet18")
    x = spread.pixels((1, 3, 128, 96), SEED).double()
    out = {}
    for layers, grid in (("layer4",), (3, 4)), (("layer3", "layer4"), (6, 8)):
        cam = GradCAM(model, [getattr(model, name) for name in layers])
        cam.get_target_width_height = lambda _, grid=grid: grid
        for name, smooth in ("plain", False), ("smooth", True):
            found = cam(x, [ClassifierOutputTarget(CLASS)], aug_smooth=smooth)[0]
            out[f"{name}.{'_'.join(layers)}"] = torch.from_numpy(found).float().contiguous()
    for key, value in out.items():
        print(key, tuple(value.shape), f"{float(value.min()):.3g} to {float(value.max()):.3g}")
    assert (out["smooth.layer4"] - out["plain.layer4"]).abs().max() > 0.01
    save_file(out, str(spread.DATA / "smoothing.safetensors"))


if __name__ == "__main__":
    main()
