#!/usr/bin/env python3
"""Outputs of scikit-learn's PLSRegression (NIPALS, scale=False) that tests/parity is compared with.

    pip install numpy==2.4.6 scikit-learn==1.9.1 torch safetensors
    python3 tests/parity/recipes/partial_least_squares.py tests/parity/data/partial_least_squares.json

50 rows of 200 columns: five hidden directions and noise, drawn by spread.py. Stored: the coefficients with 1, 3 and 10
components, and with 10 the weights of the last component, the scores of the first, the importances (VIP) and what is
left of the target.
"""
import json
import os
import sys

import numpy as np
from sklearn.cross_decomposition import PLSRegression

sys.path.insert(0, os.path.dirname(__file__))
from spread import draw  # noqa: E402

hidden = draw("hidden", [50, 5], 1.0, 0.0, 7).astype(np.float64)
mix = draw("mix", [5, 200], 1.0, 0.0, 7).astype(np.float64)
x = hidden @ mix + draw("noise", [50, 200], 0.5, 0.0, 7).astype(np.float64)
y = hidden @ np.array([1.0, -0.5, 0.25, 0.0, 0.0]) + draw("of the target", [50], 0.2, 0.0, 7).astype(np.float64)
x -= x.mean(0)
y -= y.mean()
out = {}
for components in (1, 3, 10):
    fit = PLSRegression(n_components=components, scale=False, max_iter=1000, tol=1e-15).fit(x, y)
    out[f"beta_{components}"] = fit.coef_.ravel().tolist()
w, t, q = fit.x_weights_, fit.x_scores_, fit.y_loadings_.ravel()
explained = q**2 * (t**2).sum(0)
out["weights_of_the_last"] = w[:, -1].tolist()
out["scores_of_the_first"] = t[:, 0].tolist()
out["vip"] = np.sqrt(200 * (w**2 @ explained) / explained.sum()).tolist()
out["left"] = (y - fit.predict(x).ravel()).tolist()
with open(sys.argv[1], "w") as file:
    json.dump(out, file)
    file.write("\n")
