#!/usr/bin/env python3
"""Writes tests/parity/data/perturbation/*_authors.safetensors: what the authors' own code gives for Sobol and HSIC (Xplique), RISE,
ViT-CX and TIS on the two models of perturbation.py, in double precision, for a probability.

Their programs are run as they are, from folders beside this repository, and only numbers come here:
  RISE      github.com/eclique/RISE d91ea00 (explanations.py)
  ViT-CX    github.com/vaynexie/CausalX-ViT a120d99 (ViT_CX/)
  TIS       github.com/aenglebert/Transformer_Input_Sampling e66c0f8 (tis/)
  Xplique   xplique 2.0.2 with tensorflow 2.20
What they draw at random is replaced by draws that C++ makes too: RISE's grids and shifts are those that perturbation.py kept, ViT-CX's
noise and the first centres of TIS's k-means hang on random_bits of base/random.h. What keeps their code from running here is put
aside: .cuda() does nothing, scikit-learn's `affinity` has become `metric`, clusters are counted by their first channel.

Needs torch, timm, torchvision, scikit-learn, scikit-image, safetensors, fast_pytorch_kmeans 0.1.6, xplique, tensorflow, tensorflow_probability.
Usage: perturbation_authors.py FOLDER_OF_rise_vitcx_tis
"""
import json
import os
import pathlib
import sys
import tempfile

os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ["TF_USE_LEGACY_KERAS"] = "1"
import numpy as np
import tensorflow as tf
import timm
import torch
import torchvision
from safetensors.numpy import load_file, save_file

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import spread  # noqa: E402

OUT = spread.DATA / "perturbation"
CODE = pathlib.Path(sys.argv[1])
SEED = 9
MASK = 2**64 - 1
torch.set_grad_enabled(False)
torch.set_num_threads(1)
tf.config.run_functions_eagerly(True)
torch.Tensor.cuda = lambda self, *a, **k: self
torch.nn.Module.cuda = lambda self, *a, **k: self


def mix64(z):
    z = (z + 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def random_bits(seed, stream, index):
    """engine/base/vitrine/base/random.h"""
    inner = mix64((mix64(seed) + stream * 0x9E3779B97F4A7C15) & MASK)
    return mix64((inner + index * 0x9E3779B97F4A7C15) & MASK)


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
    return model.double().eval(), spread.pixels(case["pixels"], case["seed"])[:1].double()


def rise(model, x, target, given):
    sys.path.insert(0, str(CODE / "rise"))
    import explanations
    grids, shifts = given["rise.grids"], given["rise.shifts"].astype(int)
    rand, randint, resize = np.random.rand, np.random.randint, explanations.resize
    left = iter(shifts.flatten().tolist())
    np.random.rand = lambda *shape: 1 - grids  # below p1 where the grid is 1
    np.random.randint = lambda low, high: next(left)
    explanations.resize = lambda image, shape, **more: resize(image, tuple(int(s) for s in shape), **more)
    try:
        method = explanations.RISE(Probability(model), tuple(x.shape[2:]), gpu_batch=10)
        with tempfile.TemporaryDirectory() as folder:
            method.generate_masks(len(grids), grids.shape[1], 0.5, savepath=folder + "/masks.npy")
    finally:
        np.random.rand, np.random.randint, explanations.resize = rand, randint, resize
    method.masks = method.masks.double()
    return method(x)[target].numpy()[::4, ::4]


def xplique(model, x, target, kind, grid, designs):
    from xplique.attributions import HsicAttributionMethod, SobolAttributionMethod
    picture, one_hot = x.permute(0, 2, 3, 1).numpy().astype(np.float32), np.eye(1000, dtype=np.float32)[target : target + 1]

    def operator(f, pictures, labels):
        answer = torch.cat([f(p) for p in torch.from_numpy(np.asarray(pictures)).permute(0, 3, 1, 2).double().split(16)])
        return tf.constant(answer[:, target].numpy().astype(np.float32))

    make = SobolAttributionMethod if kind == "sobol" else HsicAttributionMethod
    method = make(Probability(model), grid_size=grid, nb_design=designs, operator=operator, batch_size=64)
    kept, estimate = [], method.estimator
    method.estimator = lambda *given: kept.append(estimate(*given)) or kept[-1]  # before it is enlarged
    method.explain(picture, one_hot)
    return np.asarray(kept[0], np.float64).reshape(grid, grid)


def vit_cx(model, x, target, side):
    sys.path[:0] = [str(CODE / "vitcx/ViT_CX")]
    import ViT_CX as theirs
    clustering = theirs.AgglomerativeClustering

    class Clustering:
        def __init__(self, affinity, **more):
            self.inner = clustering(metric=affinity, **more)

        def fit(self, distance):
            order = {}
            for label in self.inner.fit(distance).labels_:
                order.setdefault(label, len(order))
            self.labels_ = np.array([order[label] for label in self.inner.labels_])

    randn = torch.randn
    theirs.AgglomerativeClustering = Clustering
    torch.randn = lambda shape: torch.stack([randn(shape[1:], dtype=torch.float32, generator=torch.Generator().manual_seed(
        random_bits(SEED, 0xC4, i))) for i in range(shape[0])]).double()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.enable_grad():
            for p in model.parameters():
                p.requires_grad_(True)
            reshape = lambda t: theirs.reshape_function_vit(t, side, side)  # noqa: E731
            return theirs.ViT_CX(model, x, model.blocks[-1].norm1, target, 0.1, reshape, 20)
    finally:
        torch.randn = randn
        torch.set_default_dtype(torch.float32)


def tis(model, x, target, masks):
    sys.path.insert(0, str(CODE / "tis"))
    from tis.tis import TIS
    choice = np.random.choice

    def first(n, size, replace):
        order = list(range(n))
        for k in range(masks):
            other = k + random_bits(SEED, 0x3EA5, k) % (n - k)
            order[k], order[other] = order[other], order[k]
        return np.array(order[:masks])

    np.random.choice = first
    method = TIS(model, n_masks=masks, batch_size=16, normalise=False, verbose=False)
    raw = method.generate_raw_masks
    centres = []
    method.generate_raw_masks = lambda a: centres.append(raw(a.float())) or centres[-1]  # 0.1.6 has no double
    try:
        found = method(x, target).numpy()
    finally:
        np.random.choice = choice
    assert (centres[0].abs().sum(1) > 0).all(), "a cluster lost all its points: another seed"
    return found, centres[0].numpy()


def main():
    cases = {
        "vit": ("attention_methods/class_token.json", timm.create_model("vit_tiny_patch16_224", img_size=112, num_classes=10, depth=4)),
        "cnn": ("torchvision_resnet18.json", torchvision.models.resnet18(num_classes=50)),
    }
    for name, (case, model) in cases.items():
        model, x = build(case, model)
        given = load_file(OUT / f"{name}.safetensors")
        target = int(model(x)[0].argmax())
        out = {"rise": rise(model, x, target, given)}
        out["sobol"] = xplique(model, x, target, "sobol", 4, 16)
        out["hsic"] = xplique(model, x, target, "hsic", 5, 150)
        if name == "vit":
            out["tis"], out["tis.centres"] = tis(model, x, target, 60)
            out["vit_cx"] = vit_cx(model, x, target, 7)[::2, ::2]
        for key, value in out.items():
            assert np.isfinite(value).all() and value.max() > value.min(), key
            print(name, key, value.shape, float(value.min()), float(value.max()))
        save_file({k: np.ascontiguousarray(v, dtype=np.float32) for k, v in out.items()}, OUT / f"{name}_authors.safetensors",
                  metadata={"target": str(target)})
        print((OUT / f"{name}_authors.safetensors").stat().st_size, "bytes")


main()
