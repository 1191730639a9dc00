#!/usr/bin/env python3
"""Makes tests/parity/data/checkpoint_values.tsv: what safetensors and torch read from the shared test data.

Run with torch, safetensors and Pillow installed: checkpoint_values.py TEST_DATA > ../data/checkpoint_values.tsv
Columns: "count" file tensors; "tensor" file name dtype shape first middle last; "image" file width height.
Floats are written in hexadecimal, so that the comparison is exact.
"""
import pathlib
import sys

import torch
from PIL import Image
from safetensors.torch import load_file

TYPES = {torch.float32: "F32", torch.int64: "I64"}


def flatten(value, path=""):
    if isinstance(value, torch.Tensor):
        yield path, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from flatten(item, f"{path}.{key}" if path else str(key))


def main(folder):
    folder = pathlib.Path(folder)
    print("# made by tests/parity/recipes/checkpoint_values.py")
    files = ["vit_tiny_patch16_224/model.safetensors", "mobilenet_v2_tf/model.safetensors", "resnet_cifar10/resnet20.safetensors",
             "resnet_cifar10/resnet56.safetensors", "resnet_cifar10/resnet20_legacy_format.th"]
    for file in files:
        path = folder / file
        loaded = load_file(path) if file.endswith(".safetensors") else torch.load(path, map_location="cpu", weights_only=True)
        tensors = dict(sorted(flatten(loaded)))
        print("count", file, len(tensors), sep="\t")
        for name in list(tensors)[:: max(1, len(tensors) // 8)]:
            t = tensors[name].contiguous().flatten()
            values = [float(t[i]).hex() for i in (0, len(t) // 2, len(t) - 1)]
            print("tensor", file, name, TYPES[t.dtype], "x".join(map(str, tensors[name].shape)), *values, sep="\t")
    for path in sorted((folder / "imagenet_photos").glob("*.jpg"))[::20]:
        print("image", path.relative_to(folder), *Image.open(path).size, sep="\t")


if __name__ == "__main__":
    main(sys.argv[1])
