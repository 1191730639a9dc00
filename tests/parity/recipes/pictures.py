#!/usr/bin/env python3
"""Writes small picture files of every awkward kind into tests/parity/data/pictures, with what Pillow reads from some of them."""
import pathlib

import numpy as np
from PIL import Image

folder = pathlib.Path(__file__).resolve().parents[1] / "data" / "pictures"
folder.mkdir(parents=True, exist_ok=True)
rng = np.random.default_rng(0)


def picture(width, height):
    y, x = np.mgrid[0:height, 0:width]
    base = np.stack([128 + 100 * np.sin(x / 5), 128 + 100 * np.cos(y / 4), 128 + 90 * np.sin((x + y) / 7)], -1)
    return np.clip(base + rng.normal(0, 12, base.shape), 0, 255).astype(np.uint8)


def keep(name, image):
    image.convert("RGB").save(folder / f"{name}.ppm")


rgb = Image.fromarray(picture(49, 33))
for name, options in {"subsampled": {"quality": 75}, "full": {"quality": 92, "subsampling": 0}, "progressive": {"quality": 80, "progressive": True}}.items():
    rgb.save(folder / f"{name}.jpg", **options)
    keep(name, Image.open(folder / f"{name}.jpg"))
rgb.convert("L").save(folder / "grey.jpg", quality=85)
keep("grey", Image.open(folder / "grey.jpg"))
rgb.convert("CMYK").save(folder / "cmyk.jpg", quality=90)
keep("cmyk", Image.open(folder / "cmyk.jpg"))
exif = Image.Exif()
exif[0x0112] = 6
rgb.save(folder / "turned.jpg", quality=85, exif=exif)
small = Image.fromarray(picture(16, 12))
small.save(folder / "plain.png")
small.save(folder / "plain.ppm")
alpha = np.dstack([np.asarray(small), np.full((12, 16), 255, np.uint8)])
alpha[:, :8, 3] = 0
alpha[:, 8:10, 3] = 128
Image.fromarray(alpha).save(folder / "alpha.png")
Image.fromarray(alpha).convert("LA").save(folder / "grey_alpha.png")
small.convert("P").save(folder / "palette.png")
keep("palette", Image.open(folder / "palette.png"))
Image.fromarray((np.asarray(small.convert("L")).astype(np.uint16) * 257)).save(folder / "deep.png")
small.save(folder / "plain.bmp")
small.save(folder / "plain.tiff")
small.save(folder / "lossless.webp", lossless=True)
frames = [Image.fromarray(picture(16, 12)) for _ in range(3)]
frames[0].save(folder / "animated.gif", save_all=True, append_images=frames[1:])
keep("animated", Image.open(folder / "animated.gif"))
frames[0].save(folder / "animated.png", save_all=True, append_images=frames[1:])
frames[0].save(folder / "animated.webp", save_all=True, append_images=frames[1:])
print(sum(f.stat().st_size for f in folder.iterdir()), "bytes")
