"""Weights and inputs that Python and C++ make alike from a name, so that parity data hold shapes and outputs only.

Default initialisations prove nothing (near-uniform attention, zero heads), so every parameter is drawn anew: uniform in
offset +- scale, by a counter-based generator (splitmix64) keyed by the FNV-1a hash of the parameter's name and a seed.
tests/parity/parity_test.cpp draws the same numbers.
"""
import json
import math
import pathlib

import numpy as np
import torch
from safetensors.numpy import save_file

DATA = pathlib.Path(__file__).resolve().parents[1] / "data"


def key_of(name: str, seed: int) -> int:
    h = 0xCBF29CE484222325
    for byte in name.encode():
        h = ((h ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return (h + seed * 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF


def draw(name: str, shape, scale: float, offset: float = 0.0, seed: int = 0) -> np.ndarray:
    count = int(np.prod(shape)) if len(shape) else 1
    with np.errstate(over="ignore"):
        z = np.uint64(key_of(name, seed)) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    unit = (z >> np.uint64(40)).astype(np.float64) / 2.0**24 * 2.0 - 1.0
    return (offset + scale * unit).astype(np.float32).reshape(shape)


def rule(name: str, shape):
    """(scale, offset) of a tensor by its name: unit norms and layer scales that vary, matrices that keep the variance."""
    last = name.split(".")[-1]
    norm = any(word in name for word in ("norm", "layrnorm", ".ln", "ln_", "bn", "downsample.1", "bias_norm"))
    if last == "running_var":
        return 0.4, 1.0
    if last == "running_mean":
        return 0.3, 0.0
    if last in ("gamma", "lambda1", "gamma_1", "gamma_2") or (norm and last == "weight" and len(shape) == 1):
        return 0.35, 1.0
    if len(shape) == 1 and last == "weight":  # batch norm without a telling name
        return 0.35, 1.0
    if len(shape) <= 1:
        return 0.3, 0.0
    if len(shape) == 4:
        fan = shape[1] * shape[2] * shape[3]
        return math.sqrt(3.0) * math.sqrt((1.0 if shape[2] == shape[3] and shape[2] >= 8 else 2.0) / fan), 0.0
    if any(word in name for word in ("token", "embed", "probe", "latent", "position")):
        return 1.0, 0.0
    return math.sqrt(3.0) * math.sqrt(1.0 / shape[-1]), 0.0


def is_query_or_key(name: str):
    return any(w in name for w in ("query", "key.", "q_proj", "k_proj", "attn_pool.q.", "attn_pool.kv.", "qkv", "in_proj"))


def entropy_share(maps: torch.Tensor) -> float:
    """Mean entropy of the rows of [heads, queries, keys] over log(keys)."""
    p = maps.double().clamp_min(1e-30)
    return float((-(p * p.log()).sum(-1)).mean() / math.log(maps.shape[-1]))


def fill(state, specs, seed):
    for name, tensor in state.items():
        if name in specs:
            tensor.copy_(torch.from_numpy(draw(name, tuple(tensor.shape), *specs[name], seed)))


def specs_of(state):
    return {name: rule(name, tuple(t.shape)) for name, t in state.items() if t.is_floating_point()}


def as_text(case):
    """JSON with one tensor a line."""
    head = {k: v for k, v in case.items() if k != "tensors"}
    rows = ",\n".join(json.dumps(row) for row in case["tensors"])
    return json.dumps(head)[:-1] + ', "tensors": [\n' + rows + "\n]}\n"


def write_case(name, *, architecture, state_names, specs, shapes, config, pixels_shape, outputs, seed, title, file="model", tolerance=1e-4):
    """One JSON (what to make) and one safetensors (what must come out).

    state_names maps the file's names to the module's names, under which the numbers are drawn; several are joined along the first axis.
    """
    DATA.mkdir(exist_ok=True)
    parts = [(saved, own) for saved, names in sorted(state_names.items()) for own in ([names] if isinstance(names, str) else names)]
    tensors = [[saved, own, list(shapes[own]), specs[own][0], specs[own][1]] for saved, own in parts]
    case = {"title": title, "architecture": architecture, "file": file, "config": config, "seed": seed, "pixels": list(pixels_shape),
            "tolerance": tolerance, "tensors": tensors}
    (DATA / f"{name}.json").write_text(as_text(case))
    save_file({k: np.ascontiguousarray(v.detach().float().numpy()) for k, v in outputs.items()}, DATA / f"{name}.safetensors")
    size = sum(p.stat().st_size for p in DATA.glob(f"{name}.*"))
    print(f"{name}: {size / 1024:.0f} KiB")


def pixels(shape, seed):
    """Smooth enough that patches differ, and in the range of normalised pictures."""
    return torch.from_numpy(draw("pixels", shape, 1.8, 0.0, seed))
