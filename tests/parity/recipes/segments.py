#!/usr/bin/env python3
"""Writes tests/parity/data/segments: label images of scikit-image 0.26 for three small pictures.

`photo` is resources/pictures/chelsea.jpg made small, `grain` numbers drawn from a seed and smoothed, `flat` plain rectangles (many
edges of equal cost). The pictures, the numbers with which quickshift breaks ties, and the labels are kept.

Needs scikit-image, numpy, Pillow.
"""
import json
import pathlib
import struct

import numpy as np
import skimage
from PIL import Image
from skimage.segmentation import felzenszwalb, quickshift, slic

ROOT = pathlib.Path(__file__).resolve().parents[3]
DATA = ROOT / "tests/parity/data/segments"


def save(file, arrays):
    names = {np.dtype("u1"): "U8", np.dtype("i2"): "I16", np.dtype("f8"): "F64"}
    header, at = {}, 0
    for name, a in arrays.items():
        header[name] = {"dtype": names[a.dtype], "shape": list(a.shape), "data_offsets": [at, at + a.nbytes]}
        at += a.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    file.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(np.ascontiguousarray(a).tobytes() for a in arrays.values()))


def grain(height, width):
    rng = np.random.default_rng(5)
    x = rng.normal(size=(height, width, 3))
    x = skimage.filters.gaussian(x, sigma=4, channel_axis=-1)
    x += 0.02 * rng.normal(size=x.shape)
    return np.clip(255 * (x - x.min()) / (x.max() - x.min()), 0, 255).astype(np.uint8)


def flat(height, width):
    x = np.full((height, width, 3), 40, np.uint8)
    x[8:30, 6:25] = (200, 60, 60)
    x[20:44, 20:50] = (60, 90, 210)
    return x


def main():
    DATA.mkdir(exist_ok=True)
    photo = Image.open(ROOT / "resources/pictures/chelsea.jpg").convert("RGB")
    photo.thumbnail((80, 80))
    for name, image in {"photo": np.asarray(photo), "grain": grain(40, 56), "flat": flat(48, 64)}.items():
        out = {"image": image, "ties": np.random.default_rng(42).normal(scale=0.00001, size=image.shape[:2])}
        labels = {
            "felzenszwalb.standard": felzenszwalb(image),
            "felzenszwalb.coarse": felzenszwalb(image, scale=100, sigma=0.5, min_size=50),
            "felzenszwalb.xrai": felzenszwalb(image / 127.5 - 1, scale=50, sigma=0.8, min_size=80),
            "slic.standard": slic(image, start_label=0),
            "slic.smooth": slic(image, n_segments=30, compactness=3, sigma=1, start_label=0),
            "quickshift.standard": quickshift(image),
            "quickshift.lime": quickshift(image, kernel_size=4, max_dist=200, ratio=0.2),
        }
        out |= {k: v.astype(np.int16) for k, v in labels.items()}
        print(name, image.shape, {k: int(v.max()) + 1 for k, v in labels.items()})
        # 8-byte numbers first, so that all lie at addresses of their own size.
        save(DATA / f"{name}.safetensors", dict(sorted(out.items(), key=lambda kv: -kv[1].itemsize)))


main()
