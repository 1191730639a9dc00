#!/usr/bin/env python3
"""Writes the parity cases of the convolutional networks: logits and last maps of torchvision. Weights are not stored, see spread.py."""
import pathlib
import sys

import torch
from torch import nn
from torchvision.models import mobilenet_v2, resnet
from torchvision.models.vgg import VGG, make_layers

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from spread import fill, pixels, specs_of, write_case  # noqa: E402

torch.set_grad_enabled(False)
SEED = 5


def case(name, model, features, size, title):
    model.eval()
    state = {k: v for k, v in model.state_dict().items() if v.is_floating_point()}
    specs = specs_of(state)
    for spec in specs:
        # Residual branches add up; a smaller last norm keeps depth 50 from overflowing the comparison's floats.
        if spec.endswith(("bn3.weight", "bn2.weight")):
            specs[spec] = (0.15, 0.5)
    fill(state, specs, SEED)
    kept = []
    features(model).register_forward_hook(lambda m, i, o: kept.append(o))
    x = pixels((2, 3, size, size), SEED)
    logits = model(x)
    spread = float(logits[0].max() - logits[0].min())
    print(name, f"logits span {spread:.2f}, last map {list(kept[0].shape)} of deviation {float(kept[0].std()):.2f}")
    assert spread > 1
    write_case(name, architecture="cnn", state_names={k: k for k in state}, specs=specs, shapes={k: v.shape for k, v in state.items()}, config={},
               pixels_shape=x.shape, outputs={"logits": logits, "features": kept[0]}, seed=SEED, title=title)


case("torchvision_resnet18", resnet.resnet18(num_classes=50), lambda m: m.layer4, 64, "torchvision resnet18")
case("torchvision_resnet50", resnet.resnet50(num_classes=50), lambda m: m.layer4, 48, "torchvision resnet50")
case("torchvision_resnext", resnet.ResNet(resnet.Bottleneck, [1, 1, 1, 1], num_classes=50, groups=8, width_per_group=4), lambda m: m.layer4, 64,
     "torchvision ResNeXt of 8 groups, one block a stage")
case("torchvision_mobilenet_v2", mobilenet_v2(num_classes=50), lambda m: m.features, 64, "torchvision mobilenet_v2")
for norm in (False, True):
    small = [8, "M", 16, "M", 32, 32, "M", 64, 64, "M", 64, 64, "M"]  # vgg11's plan, an eighth as wide
    model = VGG(make_layers(small, batch_norm=norm), num_classes=50, init_weights=False)
    model.classifier = nn.Sequential(nn.Linear(64 * 49, 64), nn.ReLU(True), nn.Dropout(), nn.Linear(64, 64), nn.ReLU(True), nn.Dropout(), nn.Linear(64, 50))
    case("torchvision_vgg11_bn" if norm else "torchvision_vgg11", model, lambda m: m.features, 64, "torchvision VGG-11 narrowed" + (", batch norm" if norm else ""))
