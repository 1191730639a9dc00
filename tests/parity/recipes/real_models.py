#!/usr/bin/env python3
"""Writes what published code answers with the real weights of the shared test data: real_models.safetensors.

timm's ViT-Ti with timm's own transform on 20 photographs; CIFAR ResNets and the folded MobileNetV2 as their authors compute them.
Usage: real_models.py DATA (the folder that VITRINE_TEST_DATA names).
"""
import csv
import pathlib
import sys

import numpy as np
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file
from timm.data import create_transform, resolve_data_config
from torchvision import transforms as T

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from spread import DATA, pixels  # noqa: E402

torch.set_grad_enabled(False)
data = pathlib.Path(sys.argv[1])
out = {}

golden = list(csv.DictReader((data / "vit_tiny_patch16_224/golden_top5.tsv").open(), delimiter="\t"))
model = timm.create_model("vit_tiny_patch16_224", num_classes=1000).eval()
model.load_state_dict(load_file(data / "vit_tiny_patch16_224/model.safetensors"))
# The shared config.json: crop_pct 0.9, bicubic, mean and std 0.5.
config = resolve_data_config({}, pretrained_cfg=dict(input_size=(3, 224, 224), crop_pct=0.9, interpolation="bicubic", mean=(0.5,) * 3, std=(0.5,) * 3))
transform = create_transform(**config)
out["vit_tiny_timm_transform"] = torch.cat([model(transform(Image.open(data / "imagenet_photos" / row["file"]).convert("RGB"))[None]) for row in golden])


def cifar(state, x):
    """github.com/akamaster/pytorch_resnet_cifar10, resnet.py (BSD-2): basic blocks, option-A shortcuts."""
    state = {k.removeprefix("module."): v for k, v in state.items()}
    bn = lambda n, t: F.batch_norm(t, state[n + ".running_mean"], state[n + ".running_var"], state[n + ".weight"], state[n + ".bias"])  # noqa: E731
    x = F.relu(bn("bn1", F.conv2d(x, state["conv1.weight"], padding=1)))
    for layer in (1, 2, 3):
        for i in range(sum(f"layer{layer}.{j}.conv1.weight" in state for j in range(100))):
            n, stride = f"layer{layer}.{i}.", 2 if i == 0 and layer > 1 else 1
            y = F.relu(bn(n + "bn1", F.conv2d(x, state[n + "conv1.weight"], stride=stride, padding=1)))
            y = bn(n + "bn2", F.conv2d(y, state[n + "conv2.weight"], padding=1))
            if stride == 2:
                planes = y.shape[1]
                x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, planes // 4, planes // 4))
            x = F.relu(x + y)
    return F.linear(F.avg_pool2d(x, x.shape[3]).flatten(1), state["linear.weight"], state["linear.bias"])


small = pixels((4, 3, 32, 32), 9)
for name in ("resnet20", "resnet56"):
    out[f"{name}"] = cifar(load_file(data / f"resnet_cifar10/{name}.safetensors"), small)
legacy = torch.load(data / "resnet_cifar10/resnet20_legacy_format.th", map_location="cpu", weights_only=True)
out["resnet20_legacy_format"] = cifar(legacy.get("state_dict", legacy), small)


def mobilenet(s, x):
    """MobileNetV2 with folded norms and TensorFlow's SAME padding."""
    def conv(n, t, stride=1, groups=1, act=True):
        w = s[n + ".weight"]
        k = w.shape[2]
        pads = [max((-(-side // stride) - 1) * stride + k - side, 0) for side in t.shape[2:]]
        t = F.pad(t, (pads[1] // 2, pads[1] - pads[1] // 2, pads[0] // 2, pads[0] - pads[0] // 2))
        t = F.conv2d(t, w, s[n + ".bias"], stride, 0, 1, groups)
        return t.clamp(0, 6) if act else t
    x = conv("stem", x, 2)
    for i, stride in enumerate([1, 2, 1, 2, 1, 1, 2, 1, 1, 1, 1, 1, 1, 2, 1, 1, 1], 1):
        y = conv(f"block{i}.expand", x) if f"block{i}.expand.weight" in s else x
        y = conv(f"block{i}.depthwise", y, stride, y.shape[1])
        y = conv(f"block{i}.project", y, act=False)
        x = x + y if stride == 1 and x.shape == y.shape else y
    x = conv("head", x).mean((2, 3), keepdim=True)
    return conv("classifier", x, act=False).flatten(1)


transform = T.Compose([T.Resize(256), T.CenterCrop(224), T.ToTensor(), T.Normalize(0.5, 0.5)])
state = load_file(data / "mobilenet_v2_tf/model.safetensors")
out["mobilenet_v2_tf"] = torch.cat([mobilenet(state, transform(Image.open(data / "imagenet_photos" / row["file"]).convert("RGB"))[None]) for row in golden[:6]])

save_file({k: v.contiguous() for k, v in out.items()}, DATA / "real_models.safetensors")
print({k: list(v.shape) for k, v in out.items()})
