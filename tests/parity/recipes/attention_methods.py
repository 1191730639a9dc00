#!/usr/bin/env python3
"""Writes tests/parity/data/attention_methods: what the published methods give on small timm models drawn from a seed.

Rollout is vit-explain's own code, run from a checkout of github.com/jacobgil/vit-explain (1d68f22) whose folder is the
first argument. Chefer is the notebook's two rules (hila-chefer/Transformer-MM-Explainability, ViT); LeGrad is the loop of
legrad/wrapper.py (WalBouss/LeGrad, 8c2ca90) with a class's logit as the score; distance and entropy are written out. These
form every map in plain PyTorch, in double precision.

Needs torch, timm, transformers, torchvision, safetensors, numpy; cv2 is imported by vit-explain and not used.
"""
import importlib.util
import pathlib
import sys
import types

import timm
import torch
from safetensors.torch import save_file

sys.path.insert(0, str(pathlib.Path(__file__).parent))
FOLDER = sys.argv.pop(1) if len(sys.argv) > 1 else sys.exit("the folder of vit-explain is wanted")
import spread  # noqa: E402
import vits  # noqa: E402

spread.DATA = spread.DATA / "attention_methods"
CLASS, VERSUS = 4, 7


def vit_explain():
    sys.modules.setdefault("cv2", types.ModuleType("cv2"))
    spec = importlib.util.spec_from_file_location("vit_rollout", pathlib.Path(FOLDER) / "vit_rollout.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def keep_maps(model):
    """Attention of every block, and of the pooling head, with its map formed and kept as module.map."""
    def block(x, m, **_):
        b, n, c = x.shape
        q, k, v = m.qkv(x).reshape(b, n, 3, m.num_heads, c // m.num_heads).permute(2, 0, 3, 1, 4)
        m.map = ((m.q_norm(q) * m.scale) @ m.k_norm(k).transpose(-2, -1)).softmax(-1)
        return m.proj(m.norm((m.map @ v).transpose(1, 2).reshape(b, n, c)))

    def pooler(x, m, **_):
        b, n, c = x.shape
        q = m.q(m.latent.expand(b, -1, -1)).reshape(b, m.latent_len, m.num_heads, m.head_dim).transpose(1, 2)
        k, v = m.kv(x).reshape(b, n, 2, m.num_heads, m.head_dim).permute(2, 0, 3, 1, 4)
        m.map = ((m.q_norm(q) * m.scale) @ m.k_norm(k).transpose(-2, -1)).softmax(-1)
        out = m.proj((m.map @ v).transpose(1, 2).reshape(b, m.latent_len, c))
        return (out + m.mlp(m.norm(out)))[:, 0]

    for b in model.blocks:
        b.attn.forward = lambda x, m=b.attn, **k: block(x, m, **k)
    if getattr(model, "attn_pool", None) is not None:
        model.attn_pool.forward = lambda x, m=model.attn_pool, **k: pooler(x, m, **k)


def answer(model, x):
    """DeiT's distilled models give two answers while training only."""
    out = model(x)
    return (out[0] + out[1]) / 2 if isinstance(out, tuple) else out


def chefer(model, x, score):
    out = answer(model, x)[0]
    maps = [b.attn.map for b in model.blocks]
    pooler = getattr(model, "attn_pool", None)
    grads = torch.autograd.grad(score(out), maps + ([pooler.map] if pooler is not None else []))
    tokens = maps[0].shape[-1]
    r = torch.eye(tokens, dtype=x.dtype)
    for a, g in zip(maps, grads):
        r = r + (g[0] * a[0]).clamp(min=0).mean(0) @ r
    prefix = model.num_prefix_tokens
    if pooler is not None:
        start = (grads[-1][0] * pooler.map[0]).clamp(min=0).mean(0)[0]
    else:
        start = torch.zeros(tokens, dtype=x.dtype)
        if model.global_pool == "token":
            heads = 2 if hasattr(model, "head_dist") else 1
            start[:heads] = 1 / heads
        else:
            start[prefix:] = 1 / (tokens - prefix)
    return (start @ r)[prefix:].detach()


def end(model, tokens):
    """The published tail: mean of all tokens, final norm, head; with a pooling head, that."""
    if getattr(model, "attn_pool", None) is not None:
        z = model.attn_pool(model.norm(tokens))
    else:
        z = model.norm(tokens.mean(1))
    z = model.fc_norm(z)
    if hasattr(model, "head_dist"):
        return (model.head(z) + model.head_dist(z)) / 2
    return model.head(z)


def legrad(model, x, score, first):
    tokens = []
    hooks = [b.register_forward_hook(lambda _m, _i, out: tokens.append(out)) for b in model.blocks]
    answer(model, x)
    for hook in hooks:
        hook.remove()
    maps = [b.attn.map for b in model.blocks]
    total = 0
    for layer in range(first, len(tokens)):
        s = score(end(model, tokens[layer])[0])
        of = model.attn_pool.map if getattr(model, "attn_pool", None) is not None else maps[layer]
        grad = torch.autograd.grad(s, of, retain_graph=True)[0][0]
        total = total + grad.clamp(min=0).mean(0).mean(0)
    return (total / (len(tokens) - first))[model.num_prefix_tokens:].detach()


def statistics(model, x):
    answer(model, x)
    prefix = model.num_prefix_tokens
    rows, cols = model.patch_embed.grid_size
    high, wide = (a / b for a, b in zip(x.shape[-2:], (rows, cols)))
    y, z = torch.meshgrid(torch.arange(rows) * high, torch.arange(cols) * wide, indexing="ij")
    place = torch.stack([y.flatten(), z.flatten()], -1).to(x.dtype)
    apart = torch.cdist(place, place)
    distance, entropy, per_query = [], [], []
    for b in model.blocks:
        p = b.attn.map[0].detach()
        patches = p[:, prefix:, prefix:]
        d = (patches / patches.sum(-1, keepdim=True) * apart).sum(-1)
        h = -(p * p.log()).sum(-1)[:, prefix:]
        distance.append(d.mean(1))
        entropy.append(h.mean(1))
        per_query.append((d.mean(0), h.mean(0)))
    return {"distance": torch.stack(distance), "entropy": torch.stack(entropy),
            "distance_map": torch.stack([d for d, _ in per_query]).mean(0), "entropy_map": per_query[-1][1]}


def rollouts(model, x):
    """What vit-explain gives; it hears the attn_drop of every block."""
    published = vit_explain()
    for b in model.blocks:
        b.attn.fused_attn = False
    out = {}
    for fusion in ("mean", "max", "min"):
        for ratio in (0.0, 0.5, 0.9):
            listener = published.VITAttentionRollout(model, head_fusion=fusion, discard_ratio=ratio)
            out[f"vit_explain.{fusion}.{ratio}"] = torch.from_numpy(listener(x)).contiguous()
            for module in model.modules():
                module._forward_hooks.clear()
    return out


def case(name, build, config, size, title):
    if not vits.wanted(name):
        return
    model = build().eval()
    with torch.no_grad():
        vits.timm_case(name, model, config, size, title)  # draws the weights and writes what a parity case has
    for module in model.modules():
        module._forward_hooks.clear()
    x = spread.pixels((2, 3, *size), vits.SEED)[:1]
    out = {}
    # Its code wants one prefix token and a square grid.
    if model.num_prefix_tokens == 1 and model.global_pool == "token" and size[0] == size[1]:
        out.update(rollouts(model, x))
    pooled = getattr(model, "attn_pool", None) is not None
    keep_maps(model)
    model.double()
    x = x.double()
    one, two = lambda y: y[CLASS], lambda y: y[CLASS] - y[VERSUS]
    with torch.enable_grad():
        out |= {"chefer": chefer(model, x, one), "chefer.versus": chefer(model, x, two),
                "legrad.paper": legrad(model, x, one, 0), "legrad.versus": legrad(model, x, two, 0),
                "legrad.package": legrad(model, x, one, len(model.blocks) - 2)}
        out |= statistics(model, x)
    for key, value in out.items():
        assert value.abs().max() > 1e-6 and value.isfinite().all(), (name, key)
    save_file({k: v.float().contiguous() for k, v in out.items()}, str(spread.DATA / f"{name}.safetensors"))
    print(name, "pooling head" if pooled else "", sorted(out))


def main():
    spread.DATA.mkdir(exist_ok=True)
    v, c = timm.create_model, vits.timm_config
    case("class_token", lambda: v("vit_tiny_patch16_224", img_size=112, num_classes=10, depth=4), c("vit_tiny_patch16_224", (112, 112), 10),
         (112, 112), "timm vit_tiny, 7 x 7 patches")
    case("distilled", lambda: v("deit_tiny_distilled_patch16_224", img_size=80, num_classes=10, depth=3),
         c("deit_tiny_distilled_patch16_224", (80, 80), 10), (80, 80), "timm deit_tiny_distilled")
    case("mean_pooling", lambda: v("vit_tiny_patch16_224", img_size=(64, 96), patch_size=(16, 8), num_classes=10, depth=3, global_pool="avg",
                                   fc_norm=True),
         c("vit_tiny_patch16_224", (64, 96), 10, "avg", model_args={"patch_size": [16, 8]}), (64, 96), "timm, mean of the patches, a norm behind it")
    case("registers", lambda: v("vit_tiny_patch16_224", img_size=64, num_classes=10, depth=3, qk_norm=True, init_values=1e-2, reg_tokens=2),
         c("vit_tiny_patch16_224", (64, 64), 10), (64, 64), "timm, two registers, layer scale")
    case("clip", lambda: v("vit_base_patch32_clip_quickgelu_224", img_size=128, num_classes=10, depth=3, embed_dim=192, num_heads=3),
         c("vit_base_patch32_clip_quickgelu_224", (128, 128), 10, model_args={"num_heads": 3}), (128, 128), "timm's CLIP tower with a classifier")
    case("pooling_head", lambda: v("vit_base_patch16_siglip_224", img_size=80, num_classes=10, depth=3, embed_dim=192, num_heads=3),
         c("vit_base_patch16_siglip_224", (80, 80), 10, "map", model_args={"num_heads": 3}), (80, 80), "timm's SigLIP tower with a classifier")


if __name__ == "__main__":
    main()
