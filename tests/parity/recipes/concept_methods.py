#!/usr/bin/env python3
"""Writes tests/parity/data/concepts: what xplique 2.0.2's CraftTorch and captum 0.9.0's TCAV give on small models drawn from a
seed (weights of other parity cases), in double precision.

CRAFT: codes for a fixed bank, scikit-learn's solver run to convergence; importances by xplique's own masks, and by its Sobol
masks put in the place of the Halton ones; a bank found in the crops of one picture, with scikit-learn's own stopping rule and
an exact singular value decomposition in its start.
TCAV: counts of signs and magnitudes for given concept vectors, by a classifier that returns them.

Needs torch, timm, torchvision, safetensors, numpy, scikit-learn 1.7.2, xplique (with tensorflow, tensorflow-probability),
captum.
"""
import json
import pathlib
import sys
import tempfile

import numpy as np
import timm
import torch
import xplique.concepts.craft as base
from captum.concept import TCAV, Classifier, Concept
from safetensors.torch import save_file
from sklearn.decomposition import NMF, _nmf
from torch import nn
from torchvision.models import resnet
from xplique.attributions.global_sensitivity_analysis import HaltonSequenceRS
from xplique.attributions.global_sensitivity_analysis.replicated_designs import ScipySobolSequenceRS
from xplique.concepts import CraftTorch

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import spread  # noqa: E402

torch.set_num_threads(1)
out_folder = spread.DATA / "concepts"
CLASS, CONCEPTS, DESIGNS = 4, 6, 32


def exact_svd(x, count, **_):
    u, s, v = np.linalg.svd(x, full_matrices=False)
    return u[:, :count], s[:count], v[:count]


# scikit-learn's start is drawn: with another seed the bank of the same crops differs by a tenth. Its own start on the exact
# decomposition is the one that can be compared.
_nmf._randomized_svd = _nmf.randomized_svd = exact_svd


def drawn(model, case):
    given = json.loads((spread.DATA / f"{case}.json").read_text())
    state = model.state_dict()
    for _, own, shape, scale, offset in given["tensors"]:
        state[own].copy_(torch.from_numpy(spread.draw(own, tuple(shape), scale, offset, given["seed"])))
    return model.eval().double(), given


def pictures(given, count):
    shape = (count, *given["pixels"][1:])
    return torch.from_numpy(spread.draw("pictures", shape, 1.8, 0.0, given["seed"])).double()


def craft():
    model, given = drawn(resnet.resnet18(num_classes=50), "torchvision_resnet18")
    parts = list(model.children())
    before = nn.Sequential(*parts[:7])  # to layer3
    behind = nn.Sequential(parts[7], parts[8], nn.Flatten(1), parts[9])
    x = pictures(given, 1)
    out = {}
    one = CraftTorch(before, behind, CONCEPTS, batch_size=32, patch_size=16, device="cpu")
    bank = np.abs(spread.draw("bank", (CONCEPTS, 256), 1.0, 0.0, 1)).astype(np.float64)
    reducer = NMF(CONCEPTS, alpha_W=1e-2, tol=1e-14, max_iter=100000)
    reducer.components_, reducer.n_components_, reducer.n_features_in_ = bank, CONCEPTS, 256
    one.factorization = base.Factorization(None, CLASS, None, reducer, None, bank)
    out["codes"] = one.transform(x)[0].reshape(-1, CONCEPTS)
    out["halton.masks"] = np.asarray(HaltonSequenceRS()(CONCEPTS, nb_design=DESIGNS))
    out["halton.importances"] = one.estimate_importance(x, DESIGNS)
    base.HaltonSequenceRS = ScipySobolSequenceRS
    out["sobol.masks"] = np.asarray(ScipySobolSequenceRS()(CONCEPTS, nb_design=DESIGNS))
    out["sobol.importances"] = one.estimate_importance(x, DESIGNS)
    base.HaltonSequenceRS = HaltonSequenceRS
    # The whole of it on the crops of one picture.
    _, crops_u, found = one.fit(x, CLASS)
    out["fit.bank"] = found
    out["fit.activations"] = one._extract_patches(x)[1]
    out["fit.crops"] = crops_u
    print("iterations", one.factorization.reducer.n_iter_)
    one.factorization.reducer.tol, one.factorization.reducer.max_iter = 1e-14, 100000
    out["fit.codes"] = one.transform(x)[0].reshape(-1, CONCEPTS)
    out["fit.importances"] = one.estimate_importance(x, DESIGNS)
    for key, value in out.items():
        print(f"  {key}: {value.shape}, {value.min():.4g} to {value.max():.4g}")
        assert np.isfinite(value).all() and value.max() > value.min()
    save_file({k: torch.from_numpy(np.ascontiguousarray(v)).float() for k, v in out.items()}, str(out_folder / "craft.safetensors"),
              {"target": str(CLASS)})


class Given(Classifier):
    """No training: the vectors that it was made with."""

    def __init__(self, vectors):
        super().__init__()
        self.vectors = vectors

    def train_and_eval(self, dataloader, **kwargs):
        return {"accs": torch.tensor(1.0)}

    def weights(self):
        return self.vectors

    def classes(self):
        return [0, 1]


def tcav(name, model, given, layer):
    x = pictures(given, 12)
    kept = []
    hook = dict(model.named_modules())[layer].register_forward_hook(lambda m, i, o: kept.append(o))
    model(x[:1])
    hook.remove()
    features = kept[0][0].numel()
    # Few numbers of each: along most of them the slopes of all pictures have one sign.
    vectors = torch.from_numpy(spread.draw("vectors", (6, features), 1.0, 0.0, 1))
    vectors = vectors * (vectors.abs() > 0.998)
    signs, magnitudes = [], []
    for i in range(0, 6, 2):  # pairs, as a classifier of two sets gives them
        sets = [Concept(j, f"concept{j}", [pictures(given, 2)]) for j in range(2)]
        with tempfile.TemporaryDirectory() as folder:
            found = TCAV(model, [layer], classifier=Given(vectors[i:i + 2]), save_path=folder)
            found.compute_cavs([sets], force_train=True)
            scores = found.interpret(x, [sets], target=CLASS)["0-1"][layer]
        signs.append(scores["sign_count"].float())
        magnitudes.append(scores["magnitude"].float())
    signs, magnitudes = torch.cat(signs), torch.cat(magnitudes)
    print(name, features, signs, magnitudes)
    assert ((signs > 0) & (signs < 1)).sum() > 2, "signs that are all alike prove nothing"
    return {f"{name}.signs": signs, f"{name}.magnitude": magnitudes}


out_folder.mkdir(exist_ok=True)
craft()
cnn = drawn(resnet.resnet18(num_classes=50), "torchvision_resnet18")
vit = drawn(timm.create_model("vit_tiny_patch16_224", img_size=112, num_classes=10, depth=4), "attention_methods/class_token")
save_file({**tcav("cnn", *cnn, "layer3"), **tcav("vit", *vit, "blocks.2")}, str(out_folder / "tcav.safetensors"),
          {"target": str(CLASS)})
