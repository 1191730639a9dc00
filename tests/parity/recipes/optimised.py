#!/usr/bin/env python3
"""Writes tests/parity/data/optimised: what TorchRay 1.0.0.2 gives on two small models.

The models are those of data/attention_methods/class_token.json (a ViT of 7 x 7 patches) and data/torchvision_resnet18.json, whose
weights are drawn from their names. Kept are a mask and a picture of TorchRay's own parts for drawn parameters, and masks of whole
searches of the logit.

Needs torch, torchvision, timm, torchray (pip install --no-deps torchray), matplotlib, safetensors, numpy.
"""
import json
import pathlib
import sys

import numpy as np
import timm
import torch
import torchvision
from safetensors.numpy import save_file
from torchray.attribution.extremal_perturbation import MaskGenerator, Perturbation, extremal_perturbation

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import spread  # noqa: E402

OUT = spread.DATA / "optimised"
AREAS = {"0.1": 800, "0.3": 800}


def build(case_file, model):
    case = json.loads((spread.DATA / case_file).read_text())
    state = model.state_dict()
    with torch.no_grad():
        for saved, own, shape, scale, offset in case["tensors"]:
            state[own].copy_(torch.from_numpy(spread.draw(own, shape, scale, offset, case["seed"])))
    return model.eval(), spread.pixels(case["pixels"], case["seed"])[:1]


def write(name, case_file, model):
    model, x = build(case_file, model)
    x = torch.as_tensor(x).float()
    unit = min(x.shape[2:]) / 224
    step, sigma = max(1, round(7 * unit)), 21 * unit
    with torch.no_grad():
        target = int(model(x).argmax())
        generator = MaskGenerator(x.shape[2:], step, sigma)
        h, w = generator.shape_in
        drawn = torch.from_numpy(spread.draw("parameters", [h, w], 0.5, 0.5, 1)).reshape(1, 1, h, w)
        inner, whole = generator.generate(drawn)
        seen = Perturbation(x, max_blur=20).apply(inner)
    out = {"inner": inner[0, 0, ::4, ::4], "whole": whole[0, 0, ::4, ::4], "seen": seen[0, :, ::4, ::4]}
    for area, steps in AREAS.items():
        mask, history = extremal_perturbation(model, x, target, areas=[float(area)], step=step, sigma=sigma, max_iter=steps)
        out[f"mask.{area}"] = mask[0, 0, ::4, ::4]
        out[f"reward.{area}"] = history[0, 0, -8:].mean().reshape(1)
        print(name, area, float(mask.mean()), float(history[0, 0, -1]))
    OUT.mkdir(exist_ok=True)
    save_file({k: np.ascontiguousarray(v.detach().numpy().astype(np.float32)) for k, v in out.items()},
              OUT / f"{name}.safetensors", {"target": str(target), "torchray": "1.0.0.2"})


torch.manual_seed(0)
torch.set_num_threads(1)
write("vit", "attention_methods/class_token.json", timm.create_model("vit_tiny_patch16_224", img_size=112, num_classes=10, depth=4))
write("cnn", "torchvision_resnet18.json", torchvision.models.resnet18(num_classes=50))
