#!/usr/bin/env python3
"""Outputs of esda's Moran on small grids, compared in engine/base/vitrine/base/concept_records_test.cpp.

    pip install esda==2.9.0 libpysal==4.14.1
    python3 tests/parity/recipes/morans_i.py tests/parity/data/morans_i.json

Cells that share a side are neighbours (rook), weights are not normalised. The grids: noise, a smooth slope with noise,
and a sparse map as a concept leaves it.
"""
import json
import sys

import numpy as np
from esda import Moran
from libpysal.weights import lat2W


def main():
    random = np.random.default_rng(3)
    slope = np.add.outer(np.arange(7), np.arange(7)) / 12
    sparse = np.maximum(random.normal(size=(14, 14)) - 1.5, 0)
    grids = [random.normal(size=(5, 8)), slope + 0.2 * random.normal(size=(7, 7)), sparse]
    out = []
    for grid in grids:
        grid = grid.astype(np.float32).astype(np.float64)
        found = Moran(grid.ravel(), lat2W(*grid.shape, rook=True), transformation="b", permutations=0)
        out.append({"rows": grid.shape[0], "cols": grid.shape[1], "cells": grid.ravel().tolist(), "moran": float(found.I)})
    with open(sys.argv[1], "w") as file:
        json.dump(out, file)


if __name__ == "__main__":
    main()
