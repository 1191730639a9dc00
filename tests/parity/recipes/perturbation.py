#!/usr/bin/env python3
"""Writes tests/parity/data/perturbation: what captum, lime and the RISE authors' formulas give on two small models.

The models are those of data/attention_methods/class_token.json (a ViT of 7 x 7 patches) and data/torchvision_resnet18.json, whose
weights are drawn from their names. All run in double precision and explain a probability. Random samples and masks are kept
(as subsets, or as the grids and shifts that make them), so that the same ones can be injected.

Needs torch, torchvision, timm, captum, lime, scikit-image, scipy, safetensors, numpy.
"""
import json
import pathlib
import sys

import numpy as np
import timm
import torch
import torchvision
from captum.attr import FeatureAblation, KernelShap, Occlusion
from captum._utils.models.linear_model import SkLearnLinearRegression
from lime import lime_image
from safetensors.numpy import save_file
from scipy.stats import qmc
from skimage.transform import resize

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import spread  # noqa: E402

OUT = spread.DATA / "perturbation"
torch.set_grad_enabled(False)
torch.set_num_threads(1)


class Probability(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x).softmax(-1)


def build(case_file, model):
    case = json.loads((spread.DATA / case_file).read_text())
    state = model.state_dict()
    for saved, own, shape, scale, offset in case["tensors"]:
        state[own].copy_(torch.from_numpy(spread.draw(own, shape, scale, offset, case["seed"])))
    x = spread.pixels(case["pixels"], case["seed"])[:1].double()
    return Probability(model.double().eval()), x


def grid_labels(height, width, rows, cols):
    y = np.floor((np.arange(height) + 0.5) * rows / height).astype(int)
    x = np.floor((np.arange(width) + 0.5) * cols / width).astype(int)
    return y[:, None] * cols + x[None]


class DoubleRegression(SkLearnLinearRegression):
    """captum's model, given its float32 samples in double precision: 1e6 as a weight costs six digits."""

    def fit(self, train_data, **kwargs):
        rows = [tuple(t.double() for t in batch) for batch in train_data]
        return super().fit(rows, **kwargs)


class Recorded(lime_image.LimeImageExplainer):
    def data_labels(self, *args, **kwargs):
        self.data, labels = super().data_labels(*args, **kwargs)
        return self.data, labels


def lime(model, x, labels, target, samples):
    explainer = Recorded(verbose=False, random_state=7)
    picture = x[0].permute(1, 2, 0).numpy()
    answer = lambda images: model(torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)).numpy()  # noqa: E731
    found = explainer.explain_instance(picture, answer, labels=[target], top_labels=None, num_samples=samples,
                                       segmentation_fn=lambda image: labels, random_seed=1)
    values = np.zeros(labels.max() + 1)
    for feature, weight in found.local_exp[target]:
        values[feature] = weight
    return explainer.data.astype(np.float32), values


def kernel_shap(model, x, labels, target, samples):
    torch.manual_seed(3)
    method = KernelShap(model)
    method.interpretable_model = DoubleRegression()
    drawn, inner = [], method.perturb_func

    def recorded(*args, **kwargs):
        for sample in inner(*args, **kwargs):
            drawn.append(sample[0].numpy().astype(np.float32))
            yield sample

    method.perturb_func = recorded
    values = method.attribute(x, target=target, feature_mask=torch.from_numpy(labels)[None, None], n_samples=samples,
                              baselines=0.0, return_input_shape=False)
    return np.stack(drawn[:samples]), values[0].double().numpy()


def rise(model, x, target, masks, cells=7, keep=0.5):
    """explanations.py of eclique/RISE, its formulas written out: masks, then sum of scores times masks / N / p."""
    rng = np.random.default_rng(11)
    size = np.array(x.shape[2:])
    cell = np.ceil(size / cells).astype(int)
    grids = (rng.random((masks, cells, cells)) < keep).astype(np.float32)
    shifts = np.stack([rng.integers(0, cell[0], masks), rng.integers(0, cell[1], masks)], 1)
    all_masks = np.stack([
        resize(g, (cells + 1) * cell, order=1, mode="reflect", anti_aliasing=False)[a:a + size[0], b:b + size[1]]
        for g, (a, b) in zip(grids, shifts)])
    scores = torch.cat([model(x * torch.from_numpy(m).double()[None, None])[:, target] for m in all_masks])
    m = torch.from_numpy(all_masks).double().reshape(masks, -1)
    found = (scores @ m).reshape(*size.tolist()) / masks / keep
    ramp = spread.draw("ramp", (m.shape[1], 3), 1.0, 0.0, 0)
    return {"rise.grids": grids, "rise.shifts": shifts.astype(np.float32), "rise.projections": (m.numpy() @ ramp).astype(np.float32),
            "rise.map": found.numpy()[::4, ::4].astype(np.float32)}


def main():
    OUT.mkdir(exist_ok=True)
    models = {
        "vit": build("attention_methods/class_token.json", timm.create_model("vit_tiny_patch16_224", img_size=112, num_classes=10, depth=4)),
        "cnn": build("torchvision_resnet18.json", torchvision.models.resnet18(num_classes=50)),
    }
    for name, (model, x) in models.items():
        answer = model(x)[0]
        target = int(answer.argmax())
        height, width = x.shape[2:]
        out = {"probability": answer[target:target + 1].numpy()}
        for window, stride in ((15, 8), (20, 13)):
            found = Occlusion(model).attribute(x, (3, window, window), (3, stride, stride), 0.0, target, perturbations_per_eval=8)
            out[f"occlusion.{window}.{stride}"] = found[0, 0].numpy()[::2, ::2]
        for kind, labels in {"patches": grid_labels(height, width, *((7, 7) if name == "vit" else (8, 8))),
                             "grid": grid_labels(height, width, 5, 5)}.items():
            found = FeatureAblation(model).attribute(x, 0.0 if kind == "patches" else x.mean((2, 3), keepdim=True).expand_as(x), target,
                                                     feature_mask=torch.from_numpy(labels)[None, None], perturbations_per_eval=8)
            rows = labels.max() + 1
            out[f"feature_ablation.{kind}"] = np.array([found[0, 0].numpy()[labels == i].mean() for i in range(rows)])
        coarse = grid_labels(height, width, 4, 4)
        out["lime.samples"], out["lime.values"] = lime(model, x, coarse, target, 150)
        out["kernel_shap.samples"], out["kernel_shap.values"] = kernel_shap(model, x, coarse, target, 120)
        out |= rise(model, x, target, 60)
        out["sobol.points"] = qmc.Sobol(20, scramble=False).random(33)[1:]
        out = {k: np.ascontiguousarray(v, dtype=np.float32) for k, v in out.items()}
        save_file(out, OUT / f"{name}.safetensors", metadata={"target": str(target)})
        print(name, target, float(answer[target]), (OUT / f"{name}.safetensors").stat().st_size)


main()
