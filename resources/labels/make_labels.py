#!/usr/bin/env python3
"""Writes imagenet1k.txt and imagenet1k.inc: the class names torchvision publishes (BSD-3-Clause). Run when torchvision changes them."""
import pathlib

from torchvision.models._meta import _IMAGENET_CATEGORIES

# torchvision made two doubles unique by invention; the data set's own words are "crane" (134, 517) and "maillot" (638, 639), and a
# name that means two classes must be refused with both indices, so they stay double.
NAMES = [{"crane bird": "crane", "maillot tank suit": "maillot"}.get(name, name) for name in _IMAGENET_CATEGORIES]

here = pathlib.Path(__file__).parent
(here / "imagenet1k.txt").write_text("\n".join(NAMES) + "\n")
lines = ["// The 1000 ImageNet-1k class names in index order; written by make_labels.py from torchvision (BSD-3-Clause)."]
lines += ['"' + name.replace('"', '\\"') + '",' for name in NAMES]
(here / "imagenet1k.inc").write_text("\n".join(lines) + "\n")
