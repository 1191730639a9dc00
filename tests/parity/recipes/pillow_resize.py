#!/usr/bin/env python3
"""Makes tests/parity/data/pillow_resize.tsv: checksums of what Pillow's resize gives for pictures that C++ can draw again.

Run with Pillow 13 and NumPy installed: pillow_resize.py > ../data/pillow_resize.tsv
Columns: picture, filter, input width and height, output width and height, CRC-32 of the output's RGB bytes.
"""
import sys
import zlib

import numpy as np
import PIL
from PIL import Image

FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "hamming": Image.Resampling.HAMMING,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
# Up, down, both at once, one axis alone, odd sizes, single rows and columns, the sizes that models use.
PAIRS = [
    ((64, 48), (32, 24)), ((64, 48), (128, 96)), ((64, 48), (64, 30)), ((64, 48), (31, 48)), ((64, 48), (7, 5)), ((64, 48), (1, 1)),
    ((64, 48), (200, 13)), ((64, 48), (13, 200)), ((37, 53), (36, 52)), ((37, 53), (38, 54)), ((37, 53), (111, 159)), ((37, 53), (19, 27)),
    ((37, 53), (224, 321)), ((1, 1), (5, 7)), ((1, 9), (4, 4)), ((9, 1), (4, 4)), ((2, 2), (3, 3)), ((3, 2), (224, 224)), ((32, 32), (224, 224)),
    ((32, 32), (128, 128)), ((97, 61), (48, 31)), ((97, 61), (96, 62)), ((300, 200), (372, 248)), ((341, 256), (331, 248)), ((256, 341), (248, 330)),
    ((500, 375), (341, 256)), ((500, 375), (331, 248)), ((500, 375), (224, 224)), ((501, 333), (77, 51)), ((640, 11), (64, 110)), ((11, 640), (110, 64)),
    ((1000, 3), (17, 3)), ((1023, 769), (235, 177)),
    # Around the border where Pillow 13 takes the rows first: height lost more than twice the width lost.
    ((60, 80), (50, 60)), ((60, 80), (50, 59)), ((60, 80), (60, 79)), ((60, 80), (70, 79)), ((375, 1000), (224, 224)), ((100, 900), (90, 1000)),
]


def noise(width, height):
    """A picture of hashed positions: every byte value beside every other, so that overshoot is clipped often."""
    x = np.arange(width * height * 3, dtype=np.uint32)
    with np.errstate(over="ignore"):
        x = x * np.uint32(0x9E3779B1)
        x ^= x >> np.uint32(15)
        x = x * np.uint32(0x85EBCA77)
        x ^= x >> np.uint32(13)
    return (x >> np.uint32(24)).astype(np.uint8).reshape(height, width, 3)


def ramp(width, height):
    """A smooth picture: where rounding decides between two neighbours."""
    y, x, c = np.meshgrid(np.arange(height), np.arange(width), np.arange(3), indexing="ij")
    return ((x * 5 + y * 3 + c * 40) // 2 % 256).astype(np.uint8)


def main():
    print(f"# Pillow {PIL.__version__}; made by tests/parity/recipes/pillow_resize.py")
    cases = [(n, f, a, b) for n in (noise, ramp) for f in FILTERS for a, b in PAIRS]
    cases += [(noise, f, (4000, 3000), (331, 248)) for f in ("bilinear", "bicubic")]
    for draw, name, (iw, ih), (ow, oh) in cases:
        out = Image.fromarray(draw(iw, ih)).resize((ow, oh), FILTERS[name])
        print(draw.__name__, name, iw, ih, ow, oh, f"{zlib.crc32(out.tobytes()):08x}", sep="\t")


if __name__ == "__main__":
    sys.exit(main())
