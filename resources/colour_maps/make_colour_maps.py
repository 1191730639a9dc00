#!/usr/bin/env python3
"""Writes colour_maps.inc: the 256 texels of each colour map, as matplotlib has them. Run when a map is added."""
import pathlib

import matplotlib
import numpy as np

# The order of enum ColourMap in viz/include/vitrine/viz/scene.h.
MAPS = ["viridis", "cividis", "magma", "inferno", "turbo", "RdBu_r", "gray", "jet"]

lines = ["// 256 RGB texels of each colour map in the order of enum ColourMap; written by make_colour_maps.py."]
for name in MAPS:
    texels = np.rint(matplotlib.colormaps[name].resampled(256)(np.arange(256))[:, :3] * 255).astype(int)
    lines.append(f"// {name}")
    for row in texels.reshape(16, 16, 3):
        lines.append(" ".join(f"0x{r:02x}{g:02x}{b:02x}," for r, g, b in row))
pathlib.Path(__file__).with_name("colour_maps.inc").write_text("\n".join(lines) + "\n")
