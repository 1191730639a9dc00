#!/usr/bin/env python3
"""Outputs of SciPy and statsmodels that app/cli/statistics_test.cpp is compared with.

    pip install numpy==2.2.6 scipy==1.17.1 statsmodels==0.14.5
    python3 tests/parity/recipes/measure_statistics.py tests/parity/data/measures/statistics.json

Differences of two methods over pictures: `few` and `thirteen` (all sign flips can be counted), `many` (a curve's area),
`hits` (a pointing game: -1, 0 or 1, mostly 0). For each the percentile interval of the mean by 200,000 resamples and the
two-sided p of SciPy's paired permutation test, which flips signs: exact where there are at most 13 differences, else from
999,999 flips.
"""
import json
import sys

import numpy as np
from scipy import stats
from statsmodels.stats.multitest import multipletests

random = np.random.default_rng(5)
lists = {
    "few": random.normal(0.4, 1, 10),
    "thirteen": random.normal(0.2, 1, 13),
    "many": random.normal(0.02, 0.15, 200),
    "hits": random.choice([-1.0, 0.0, 1.0], 150, p=[0.08, 0.75, 0.17]),
}
out = {"lists": [], "holm": []}
for name, values in lists.items():
    values = np.round(values, 6)
    interval = stats.bootstrap((values,), np.mean, n_resamples=200_000, method="percentile", batch=1000,
                               rng=np.random.default_rng(6)).confidence_interval
    p = stats.permutation_test((values,), np.mean, permutation_type="samples", alternative="two-sided", batch=1000,
                               n_resamples=np.inf if len(values) <= 13 else 999_999,
                               rng=np.random.default_rng(7)).pvalue
    out["lists"].append({"name": name, "values": values.tolist(), "low": float(interval.low),
                         "high": float(interval.high), "p": float(p)})
for p in ([0.01, 0.04, 0.03, 0.005], [0.2], [0.5, 0.5, 0.9], [1e-4, 1e-4, 0.03, 0.011, 0.8, 0.02, 0.049]):
    out["holm"].append({"p": p, "corrected": multipletests(p, method="holm")[1].tolist()})
with open(sys.argv[1], "w") as file:
    json.dump(out, file)
    file.write("\n")
