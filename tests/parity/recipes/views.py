#!/usr/bin/env python3
"""Writes tests/parity/data/views: the inner views, gradient rollout, Grad-SAM and CDAM on the models of attention_methods.

Models, weights and pixels are those of tests/parity/data/attention_methods (each case's JSON says how to draw them), and
hooks on the timm modules do the rest in double precision. Gradient rollout is vit-explain's own code, run in single
precision from a checkout of github.com/jacobgil/vit-explain (d6e863e) whose folder is the first argument. CDAM is the
function get_CDAM of CDAM.ipynb from a checkout of github.com/lenbrocki/CDAM (2c502d5), the second argument, with its own
hooks. Grad-SAM has no code of its authors: the paper's sum is written out, and that of the columns.

Needs torch, timm, torchvision, safetensors, numpy; cv2 is imported by vit-explain and not used.
"""
import ast
import importlib.util
import json
import pathlib
import sys
import types

import numpy as np
import timm
import torch
from safetensors.torch import save_file

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import spread  # noqa: E402

if len(sys.argv) < 3:
    sys.exit("the folders of vit-explain and CDAM are wanted")
VIT_EXPLAIN, CDAM = map(pathlib.Path, sys.argv[1:3])
CASES = spread.DATA / "attention_methods"
OUT = spread.DATA / "views"
CLASS, VERSUS = 4, 7
v = timm.create_model
BUILD = {
    "class_token": lambda: v("vit_tiny_patch16_224", img_size=112, num_classes=10, depth=4),
    "distilled": lambda: v("deit_tiny_distilled_patch16_224", img_size=80, num_classes=10, depth=3),
    "mean_pooling": lambda: v("vit_tiny_patch16_224", img_size=(64, 96), patch_size=(16, 8), num_classes=10, depth=3,
                              global_pool="avg", fc_norm=True),
    "registers": lambda: v("vit_tiny_patch16_224", img_size=64, num_classes=10, depth=3, qk_norm=True, init_values=1e-2,
                           reg_tokens=2),
    "clip": lambda: v("vit_base_patch32_clip_quickgelu_224", img_size=128, num_classes=10, depth=3, embed_dim=192,
                      num_heads=3),
    "pooling_head": lambda: v("vit_base_patch16_siglip_224", img_size=80, num_classes=10, depth=3, embed_dim=192,
                              num_heads=3),
}


def load(name):
    case = json.loads((CASES / f"{name}.json").read_text())
    model = BUILD[name]().eval().requires_grad_(False)
    specs = {own: (scale, offset) for _, own, _, scale, offset in case["tensors"]}
    state = model.state_dict()
    assert set(state) == set(specs), set(state) ^ set(specs)
    spread.fill(state, specs, case["seed"])
    draws = spread.draw("pixels", tuple(case["pixels"]), 1.8, 0.0, case["seed"])
    x = torch.from_numpy(draws)[:1].clone()
    # Another picture of the same size: this one turned by half a circle, dimmed.
    return model, x, (x.flip(-1).flip(-2) * 0.7).contiguous()


def answer(model, x):
    out = model(x)
    return ((out[0] + out[1]) / 2 if isinstance(out, tuple) else out)[0]


class Listener:
    """Keeps what passes the blocks, and changes it where told: change(name, tensor) -> tensor."""

    def __init__(self, model):
        self.model, self.kept, self.change = model, {}, lambda name, x: x
        for i, b in enumerate(model.blocks):
            b.norm1.register_forward_hook(lambda m, a, out, n=f"{i}.norm1": self.seen(n, out))
            b.attn.forward = lambda x, m=b.attn, i=i, **_: self.attend(x, m, i)
            b.mlp.register_forward_hook(lambda m, a, out, n=f"{i}.mlp": self.seen(n, out))
            b.register_forward_hook(lambda m, a, out, n=f"{i}.block": self.seen(n, out))
            if i == 0:
                b.register_forward_pre_hook(lambda m, a: self.kept.__setitem__("embedding", a[0]))

        if getattr(model, "attn_pool", None) is not None:
            model.attn_pool.forward = lambda x, m=model.attn_pool, **_: self.pool(x, m)

    def pool(self, x, m):
        b, n, c = x.shape
        q = m.q(m.latent.expand(b, -1, -1)).reshape(b, m.latent_len, m.num_heads, m.head_dim).transpose(1, 2)
        k, val = m.kv(x).reshape(b, n, 2, m.num_heads, m.head_dim).permute(2, 0, 3, 1, 4)
        p = ((m.q_norm(q) * m.scale) @ m.k_norm(k).transpose(-2, -1)).softmax(-1)
        self.kept["pool.map"] = p
        out = m.proj((p @ val).transpose(1, 2).reshape(b, m.latent_len, c))
        return (out + m.mlp(m.norm(out)))[:, 0]

    def seen(self, name, x):
        self.kept[name] = x = self.change(name, x)
        return x

    def attend(self, x, m, i):
        b, n, c = x.shape
        q, k, val = m.qkv(x).reshape(b, n, 3, m.num_heads, c // m.num_heads).permute(2, 0, 3, 1, 4)
        p = ((m.q_norm(q) * m.scale) @ m.k_norm(k).transpose(-2, -1)).softmax(-1)
        self.kept[f"{i}.map"], self.kept[f"{i}.values"] = p, val
        heads = self.seen(f"{i}.heads", p @ val)
        return self.seen(f"{i}.attn", m.proj(m.norm(heads.transpose(1, 2).reshape(b, n, c))))

    def run(self, x, change=None):
        self.change = change or (lambda name, y: y)
        out = answer(self.model, x)
        self.change = lambda name, y: y
        return out


def tail(model, tokens):
    """Final norm and head on single tokens [n, width]."""
    z = model.norm(tokens)
    if getattr(model, "attn_pool", None) is not None:
        z = model.attn_pool(z[:, None])
    z = model.fc_norm(z)
    if hasattr(model, "head_dist"):
        return (model.head(z) + model.head_dist(z)) / 2
    return model.head(z)


def frozen(model, x, pooled_only=False):
    """f(c): what a part c of the last tokens x [n, width] adds to the class's logit, the norms' scales held as x sets them."""
    class Held:
        def __init__(self, norm, at):
            self.norm, self.on = norm, isinstance(norm, torch.nn.LayerNorm)
            if self.on:
                self.scale = (at.var(-1, unbiased=False, keepdim=True) + norm.eps).rsqrt()

        def linear(self, c):
            return (c - c.mean(-1, keepdim=True)) * self.scale * self.norm.weight if self.on else c

        def bias(self):
            return self.norm.bias if self.on else 0.0

    norm = Held(model.norm, x)
    prefix = model.num_prefix_tokens
    pool = (lambda t: t[prefix:].mean(0)) if model.global_pool == "avg" else (lambda t: t[0])
    fc = Held(model.fc_norm, pool(model.norm(x)))
    w, b = model.head.weight[CLASS], model.head.bias[CLASS]
    if hasattr(model, "head_dist"):
        w2, b2 = model.head_dist.weight[CLASS], model.head_dist.bias[CLASS]
        f = lambda c: (norm.linear(c)[0] @ w + norm.linear(c)[1] @ w2) / 2
        constant = (norm.bias() @ w + norm.bias() @ w2 + b + b2) / 2
    else:
        f = lambda c: fc.linear(pool(norm.linear(c))) @ w
        constant = w @ (fc.linear(norm.bias() + 0 * w) + fc.bias()) + b
    return f, constant


def scale(block, which):
    module = getattr(block, which)
    return module.gamma if hasattr(module, "gamma") else 1.0


def direct(model, ear, logit):
    depth, heads = len(model.blocks), model.blocks[0].attn.num_heads
    kept = {k: t[0] for k, t in ear.kept.items()}
    f, constant = frozen(model, kept[f"{depth - 1}.block"])
    rows = [f(kept["embedding"])]
    by_head, by_bias, by_mlp, by_patch = [], [], [], 0
    n = kept["embedding"].shape[0]
    for i, b in enumerate(model.blocks):
        w = b.attn.proj.weight
        dim = w.shape[1] // heads
        one = []
        for h in range(heads):
            through = w[:, h * dim:(h + 1) * dim].T * scale(b, "ls1")
            one.append(f(kept[f"{i}.heads"][h] @ through))
            written = kept[f"{i}.values"][h] @ through
            # Key j's share: what its value puts into every query.
            by_patch = by_patch + torch.stack([f(kept[f"{i}.map"][h][:, j:j + 1] * written[j]) for j in range(n)])
        by_head.append(torch.stack(one))
        by_bias.append(f((b.attn.proj.bias * scale(b, "ls1")).expand(n, -1)))
        by_mlp.append(f(kept[f"{i}.mlp"] * scale(b, "ls2")))
    out = {"dla.heads": torch.stack(by_head), "dla.bias": torch.stack(by_bias), "dla.mlp": torch.stack(by_mlp),
           "dla.ends": torch.stack([rows[0], constant]), "dla.map": by_patch[model.num_prefix_tokens:]}
    total = sum(out[k].sum() for k in ("dla.heads", "dla.bias", "dla.mlp", "dla.ends"))
    assert abs(total - logit) < 1e-9 * max(1, abs(logit)), (total, logit)
    return out


def readout(model, ear, n):
    """Where the answer is read behind the last block: of a pooling head, its row, the mean over its heads."""
    if getattr(model, "attn_pool", None) is not None:
        return ear.kept["pool.map"][0].mean(0)[0].detach().clone()
    r = torch.zeros(n, dtype=torch.float64)
    if model.global_pool == "avg":
        r[model.num_prefix_tokens:] = 1 / (n - model.num_prefix_tokens)
    elif hasattr(model, "head_dist"):
        r[:2] = 0.5
    else:
        r[0] = 1
    return r


def ablation(model, ear, x, logit):
    depth, heads = len(model.blocks), model.blocks[0].attn.num_heads
    maps = [ear.kept[f"{i}.map"][0] for i in range(depth)]
    r = readout(model, ear, maps[0].shape[-1])
    out = {}
    for by in ("zero", "mean"):
        drops, total = torch.zeros(depth, heads, dtype=torch.float64), 0
        for i in range(depth):
            for h in range(heads):
                def change(name, y):
                    if name != f"{i}.heads":
                        return y
                    y = y.clone()
                    y[:, h] = 0 if by == "zero" else y[:, h].mean(1, keepdim=True)
                    return y
                drops[i, h] = logit - ear.run(x, change)[CLASS]
                total = total + drops[i, h] * (r @ maps[i][h])
        out[f"ablation.{by}"] = drops
        out[f"ablation.{by}_map"] = (total / drops.abs().sum())[model.num_prefix_tokens:]
    return out


def patching(model, ear, x, other, logit):
    depth, prefix, out = len(model.blocks), model.num_prefix_tokens, {}
    ear.run(other)
    theirs = dict(ear.kept)
    layer = (depth - 1) // 2
    for part, name in (("block", "block"), ("attention", "attn"), ("mlp", "mlp")):
        values = []
        for t in range(prefix, theirs["0.block"].shape[1]):
            def change(where, y):
                if where != f"{layer}.{name}":
                    return y
                y = y.clone()
                y[:, t] = theirs[where][:, t]
                return y
            values.append(ear.run(x, change)[CLASS] - logit)
        out[f"patching.{part}"] = torch.stack(values)
    out["patching.table"] = torch.stack([torch.stack([
        ear.run(x, lambda where, y, w=f"{i}.{n}": theirs[w] if where == w else y)[CLASS] - logit for n in ("attn", "mlp")])
        for i in range(depth)])
    return out


def pca(tokens):
    u, s, _ = torch.linalg.svd(tokens - tokens.mean(0), full_matrices=False)
    p = (u * s)[:, :3]
    return p * torch.sign(torch.gather(p, 0, p.abs().argmax(0, keepdim=True)))


def gradients(model, ear, x):
    depth, prefix = len(model.blocks), model.num_prefix_tokens
    with torch.enable_grad():
        out = ear.run(x.clone().requires_grad_(True))
        maps = [ear.kept[f"{i}.map"] for i in range(depth)]
        pooled = [ear.kept["pool.map"]] if getattr(model, "attn_pool", None) is not None else []
        grads = torch.autograd.grad(out[CLASS], maps + pooled, retain_graph=True)
    h = sum((a * g.clamp(min=0)).mean((0, 1)) for a, g in zip(maps, grads)).detach() / depth
    n = h.shape[0]
    found = {"grad_sam.rows": h.sum(1)[prefix:] / n, "grad_sam.columns": h.sum(0)[prefix:] / n}
    found["grad_sam.readout"] = (readout(model, ear, n) @ h)[prefix:]
    # The walk as its author describes it: own gradients, own row sums.
    r = readout(model, ear, n)
    if pooled:  # a step without a residual path
        row = (pooled[0] * grads[-1])[0].mean(0)[0].clamp(min=0).detach()
        r = row / row.sum()
    for a, g in reversed(list(zip(maps, grads))):
        fused = (a * g)[0].mean(0).clamp(min=0).detach()
        flat = fused.reshape(-1)
        # The order of single precision, in which entries are compared there.
        flat[torch.argsort(flat.float(), stable=True)[:int(flat.numel() * 0.9)]] = 0
        m = fused + torch.eye(n, dtype=torch.float64)
        r = r @ (m / m.sum(1, keepdim=True))
    found["gradient_rollout"] = r[prefix:]
    return found


def vit_explain(model, x):
    """Its own code; attn_drop of every block is heard."""
    sys.modules.setdefault("cv2", types.ModuleType("cv2"))
    spec = importlib.util.spec_from_file_location("vit_grad_rollout", VIT_EXPLAIN / "vit_grad_rollout.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.DEVICE = "cpu"
    out = {}
    for b in model.blocks:
        b.attn.fused_attn = False
    for ratio in (0.0, 0.5, 0.9):
        rollout = module.VITAttentionGradRollout(model, discard_ratio=ratio)
        with torch.enable_grad():
            mask = rollout(x.clone().requires_grad_(True), CLASS)
        out[f"vit_explain.{ratio}"] = torch.from_numpy(np.ascontiguousarray(mask)).flatten()
        for m in model.modules():
            m._forward_hooks.clear()
            m._backward_hooks.clear()
            m._is_full_backward_hook = None
    return out


def cdam_function():
    """get_CDAM of the notebook, and nothing else of it."""
    for cell in json.loads((CDAM / "CDAM.ipynb").read_text())["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "code" and "def get_CDAM" in source:
            node = next(n for n in ast.parse(source).body if isinstance(n, ast.FunctionDef) and n.name == "get_CDAM")
            space = {"torch": torch, "np": np}
            exec(compile(ast.Module([node], []), "CDAM.ipynb", "exec"), space)
            return space["get_CDAM"]
    sys.exit("CDAM.ipynb has no get_CDAM")


def cdam(model, x, other):
    get, norm1 = cdam_function(), model.blocks[-1].norm1
    activation, grad = {}, {}
    hooks = [norm1.register_forward_hook(lambda m, i, o: activation.__setitem__("last_att_in", o[0].detach())),
             norm1.register_full_backward_hook(lambda m, i, o: grad.__setitem__("last_att_in", o))]
    out, prefix = {}, model.num_prefix_tokens

    def keep(name, score):
        # Its code takes one prefix token for granted and drops that.
        out[name] = get(score, activation, grad, return_raw=True)[prefix - 1:].to(torch.float64)

    def features(y):
        return model.forward_head(model.forward_features(y), pre_logits=True)

    with torch.enable_grad():
        keep("cdam", answer(model, x.clone().requires_grad_(True))[CLASS])
        if not hasattr(model, "head_dist"):
            concept = features(other).detach().squeeze()
            keep("cdam.similarity", torch.dot(features(x.clone().requires_grad_(True)).squeeze(), concept))
    for hook in hooks:
        hook.remove()
    return out


def case(name):
    model, x, other = load(name)
    prefix, out = model.num_prefix_tokens, {}
    # Its code wants one prefix token and a square grid.
    if prefix == 1 and model.global_pool == "token" and x.shape[-1] == x.shape[-2]:
        out |= vit_explain(model, x)
    model.double()
    x, other = x.double(), other.double()
    pooled = getattr(model, "attn_pool", None) is not None
    if prefix > 0:
        out |= cdam(model, x, other)
    ear = Listener(model)
    logits = ear.run(x)
    depth = len(model.blocks)
    tokens = [ear.kept[f"{i}.block"][0] for i in range(depth)]
    out["norms"] = torch.stack([t[prefix:].norm(dim=-1) for t in tokens])
    out["pca"] = pca(tokens[-1][prefix:]).T
    if not pooled:
        out |= direct(model, ear, logits[CLASS])
    out |= ablation(model, ear, x, logits[CLASS])
    out |= patching(model, ear, x, other, logits[CLASS])
    out |= gradients(model, ear, x)
    out["lens"] = torch.stack([tail(model, t[prefix:])[:, CLASS] for t in tokens])
    for key, value in out.items():
        assert value.isfinite().all() and value.abs().max() > 1e-9, (name, key)
    save_file({k: t.detach().float().contiguous() for k, t in out.items()}, str(OUT / f"{name}.safetensors"))
    print(name, (OUT / f"{name}.safetensors").stat().st_size // 1024, "KiB", sorted(out))


def main():
    OUT.mkdir(exist_ok=True)
    torch.set_grad_enabled(False)
    for name in sys.argv[3:] or BUILD:
        case(name)


if __name__ == "__main__":
    main()
