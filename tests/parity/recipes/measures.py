#!/usr/bin/env python3
"""Writes tests/parity/data/measures: what torchcam, pytorch-grad-cam, quantus, scikit-image and SciPy say of one drawn map.

The models are those of the cases torchvision_resnet18 and attention_methods/class_token, whose weights are drawn from
their names (spread.py); map, noise and boxes are drawn or written here, and tests/parity/measures_parity_test.cpp draws
the same ones. Only numbers that the packages gave are stored.

Needs torch, torchvision, timm, torchcam 0.5.0, grad-cam 1.5.7, quantus 0.6.0, scikit-image, scipy, safetensors.
"""
import json
import pathlib
import sys
import warnings

import numpy as np
import quantus
import timm
import torch
from pytorch_grad_cam.metrics.road import NoisyLinearImputer
from pytorch_grad_cam.metrics.perturbation_confidence import PerturbationConfidenceMetric, RemoveLeastRelevantFirst, RemoveMostRelevantFirst
from safetensors.torch import save_file
from scipy.stats import spearmanr
from skimage.metrics import structural_similarity
from torchcam.metrics import ClassificationMetric, DeletionInsertionMetric
from torchvision.models import resnet

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import spread  # noqa: E402

warnings.filterwarnings("ignore")
if not hasattr(np, "trapz"):
    np.trapz = np.trapezoid
# It wants steps that divide the pixels of one channel, and takes pixels of three: three numbers a pixel need steps of 3 n.
quantus.helpers.asserts.assert_features_in_step = lambda **_: None
OUT = spread.DATA / "measures"
SIDE = 7


class GivenMap:
    """What torchcam's metrics ask of an extractor: it gives the map that is there."""

    def __init__(self, model, cam):
        self.model, self.cam = model, cam

    def __call__(self, *_, **__):
        return [self.cam]

    def fuse_cams(self, cams):
        return cams[0]

    def _hooks_off(self):
        from contextlib import nullcontext
        return nullcontext()


def filled(model, case):
    state = model.state_dict()
    for saved, own, shape, scale, offset in case["tensors"]:
        assert list(state[own].shape) == shape, own
        state[own].copy_(torch.from_numpy(spread.draw(own, shape, scale, offset, case["seed"])))
    return model.eval()


def one(name, path, model):
    case = json.loads((spread.DATA / f"{path}.json").read_text())
    model = filled(model, case)
    with torch.no_grad():
        x = spread.pixels(case["pixels"], case["seed"])[:1]
        logits = model(x)[0]
        p = logits.softmax(0)
    # A probability that can move both ways.
    index = int((p - 0.4).abs().argmin())
    size = x.shape[-1]
    cam = torch.from_numpy(spread.draw("map", [1, SIDE, SIDE], 1.0, 0.0, 1))
    cam = (cam - cam.min()) / (cam.max() - cam.min())
    up = torch.nn.functional.interpolate(cam[None], (size, size), mode="bilinear", align_corners=False)[0]  # [1, H, W]
    softmax = lambda z: z.softmax(-1)  # noqa: E731
    # Resizing repeats values at the border, and packages break ties each in their own way: what depends on the order
    # alone is asked about a map without ties, which is stored.
    fine = (up.flatten().argsort(stable=True).argsort().double() / (size**2 - 1)).float().reshape(1, size, size)
    assert len(fine.unique()) == size * size and fine.min() == 0 and fine.max() == 1
    out = {"class": torch.tensor([index]), "probability": p[index].reshape(1), "map": fine[0]}

    metric = ClassificationMetric(GivenMap(model, cam), softmax)
    with torch.no_grad():
        metric.update(x, index)
    out["torchcam.drop"] = torch.tensor([metric.summary()["avg_drop"]])
    out["torchcam.increase"] = torch.tensor([metric.summary()["conf_increase"]])
    metric = DeletionInsertionMetric(GivenMap(model, fine), softmax, steps=20)
    with torch.no_grad():
        metric.update(x, index)
    found = metric.summary()
    print(name, index, float(p[index]), found)
    keys = sorted(found)
    out["torchcam.deletion"] = torch.tensor([found[next(k for k in keys if "del" in k)]])
    out["torchcam.insertion"] = torch.tensor([found[next(k for k in keys if "ins" in k)]])

    imputer = NoisyLinearImputer(noise=0.0)
    target = [lambda o: o.softmax(-1)[index]]
    for order, remover in (("most", RemoveMostRelevantFirst), ("least", RemoveLeastRelevantFirst)):
        scores = []
        for percentile in (20, 50, 90):
            score, seen = PerturbationConfidenceMetric(remover(percentile, imputer))(x, fine.numpy(), target, model, return_visualization=True)
            scores.append(float(score[0]))
            if order == "most" and percentile == 20 and name == "cnn":
                out["road.picture"] = seen[0]  # [3, H, W], the 80 % most relevant pixels imputed
        out[f"road.{order}"] = torch.tensor(scores)

    xs, ys = x.numpy(), np.array([index])
    a, b = up.numpy()[None], fine.numpy()[None]  # [1, 1, H, W]
    common = {"disable_warnings": True, "display_progressbar": False, "normalise": False}
    call = dict(model=model, x_batch=xs, y_batch=ys, channel_first=True)
    of_map = lambda m, of=a, **more: torch.tensor(np.asarray(m(**call, a_batch=of.copy(), **more), dtype=np.float64)).float().flatten()  # noqa: E731
    out["quantus.sparseness"] = of_map(quantus.Sparseness(abs=True, **common))
    out["quantus.complexity"] = of_map(quantus.Complexity(abs=True, **common))
    block = 16
    # Small enough that neither term of the difference drowns the other.
    small = a * 1e-4
    out["quantus.infidelity"] = torch.tensor(
        quantus.Infidelity(perturb_patch_sizes=[block], n_perturb_samples=1, **common)(**call, a_batch=small, softmax=True)).float()
    step = size * size // 8
    out["quantus.pixel_flipping"] = of_map(quantus.PixelFlipping(features_in_step=3 * step, perturb_baseline=0.0, **common), of=b, softmax=True)
    out["quantus.region_perturbation"] = of_map(
        quantus.RegionPerturbation(patch_size=block, regions_evaluation=12, perturb_baseline=0.0, order="morf", **common), softmax=True)
    # Boxes that leave the maximum out and in.
    peak = int(fine.argmax())
    row, col = divmod(peak, size)
    for which, (y0, x0, y1, x1) in {"far": (size // 3, size // 2, size, size), "near": (max(0, row - 9), max(0, col - 6), row + 5, col + 11)}.items():
        s = np.zeros((1, 1, size, size))
        s[..., y0:y1, x0:x1] = 1
        out[f"box.{which}"] = torch.tensor([x0, y0, min(x1, size), min(y1, size)])
        at = dict(s_batch=s, of=b)
        out[f"quantus.pointing_game.{which}"] = of_map(quantus.PointingGame(abs=False, **common), **at)
        out[f"quantus.top_k.{which}"] = of_map(quantus.TopKIntersection(k=200, abs=False, **common), **at)
        out[f"quantus.mass.{which}"] = of_map(quantus.RelevanceMassAccuracy(abs=False, **common), **at)
        out[f"quantus.rank.{which}"] = of_map(quantus.RelevanceRankAccuracy(abs=False, **common), **at)
        out[f"quantus.attribution_localisation.{which}"] = of_map(
            quantus.AttributionLocalisation(abs=False, positive_attributions=True, **common), **at)

    # Gradients of the logit, and noise that both draw alike.
    def gradient(model, inputs, targets, **_):
        z = torch.as_tensor(inputs, dtype=torch.float32).reshape(-1, *x.shape[1:]).requires_grad_(True)
        with torch.enable_grad():
            (g,) = torch.autograd.grad(model(z)[:, index].sum(), z)
        return g.sum(1, keepdim=True).numpy()

    drawn = iter(range(1000))

    def noisy(arr, indices, **_):
        return arr + spread.draw(f"noise.{next(drawn)}", arr.shape, 0.2, 0.0, 2)

    out["quantus.max_sensitivity"] = torch.tensor(np.asarray(
        quantus.MaxSensitivity(nr_samples=3, perturb_func=noisy, **common)(**call, a_batch=gradient(model, xs, ys), explain_func=gradient))).float()

    other = torch.from_numpy(spread.draw("other", [SIDE * 2, SIDE * 2], 1.0, 0.0, 1)).numpy()
    mine = torch.from_numpy(spread.draw("mine", [SIDE * 2, SIDE * 2], 1.0, 0.0, 1)).numpy() * 0.5 + other
    rounded = np.round(mine * 4)  # ties
    out["scipy.spearman"] = torch.tensor([spearmanr(mine.ravel(), other.ravel())[0], spearmanr(rounded.ravel(), other.ravel())[0]]).float()
    out["skimage.ssim"] = torch.tensor([structural_similarity(mine, other, data_range=float(max(mine.max(), other.max()) - min(mine.min(), other.min())))]).float()
    save_file({k: v.detach().float().contiguous() for k, v in out.items()}, OUT / f"{name}.safetensors")
    for k, v in out.items():
        print("  ", k, v.flatten()[:8].tolist() if v.numel() < 100 else list(v.shape))


OUT.mkdir(exist_ok=True)
one("cnn", "torchvision_resnet18", resnet.resnet18(num_classes=50))
one("vit", "attention_methods/class_token", timm.create_model("vit_tiny_patch16_224", img_size=112, num_classes=10, depth=4))
