"""Makes tests/parity/data/kernels_gradients.safetensors: Chefer and LeGrad written out in plain PyTorch, every map formed.

Run with a Python that has torch, timm and safetensors, after capture_torchscript.py (whose model and picture it takes).
"""

import pathlib

import timm
import torch
from safetensors.torch import load_file, save_file
from torch import nn

DATA = pathlib.Path(__file__).resolve().parent.parent / "data"
TARGET, VERSUS = 4, 7


class Plain(nn.Module):
    """timm's attention with the map formed and kept."""

    def __init__(self, attn):
        super().__init__()
        self.attn = attn

    def forward(self, x, **_):
        b, n, c = x.shape
        a = self.attn
        q, k, v = a.qkv(x).reshape(b, n, 3, a.num_heads, c // a.num_heads).permute(2, 0, 3, 1, 4)
        self.map = ((q @ k.transpose(-2, -1)) * a.scale).softmax(-1)
        if self.map.requires_grad:
            self.map.retain_grad()
        return a.proj((self.map @ v).transpose(1, 2).reshape(b, n, c))


def chefer(model, pixels, score):
    model.zero_grad()
    score(model(pixels)[0]).backward()
    tokens = model.blocks[0].attn.map.shape[-1]
    r = torch.eye(tokens, dtype=pixels.dtype)
    for block in model.blocks:
        cam = (block.attn.map.grad[0] * block.attn.map[0]).clamp(min=0).mean(0)
        r = r + cam @ r
    return r[0, 1:].detach()


def legrad(model, pixels, score, start):
    tokens = []
    hooks = [b.register_forward_hook(lambda _m, _i, out: tokens.append(out)) for b in model.blocks]
    model(pixels)
    for hook in hooks:
        hook.remove()
    total = 0
    for layer in range(start, len(model.blocks)):
        logits = model.head(model.norm(tokens[layer].mean(1)))[0]
        grad = torch.autograd.grad(score(logits), model.blocks[layer].attn.map, retain_graph=True)[0][0]
        total = total + grad.clamp(min=0).mean(0).mean(0)
    return (total / (len(model.blocks) - start))[1:].detach()


def main():
    weights = load_file(str(DATA / "capture_timm_fused_native.safetensors"))
    pixels = load_file(str(DATA / "capture_timm_fused.safetensors"))["pixels"]
    width = weights["cls_token"].shape[-1]
    depth = 1 + max(int(k.split(".")[1]) for k in weights if k.startswith("blocks."))
    model = timm.models.vision_transformer.VisionTransformer(
        img_size=tuple(pixels.shape[-2:]), patch_size=weights["patch_embed.proj.weight"].shape[-1], embed_dim=width, depth=depth,
        num_heads=2, mlp_ratio=weights["blocks.0.mlp.fc1.weight"].shape[0] / width, num_classes=weights["head.weight"].shape[0])
    model.load_state_dict(weights)
    model.eval().double()
    for block in model.blocks:
        block.attn = Plain(block.attn)
    pixels = pixels.double()
    one, two = lambda y: y[TARGET], lambda y: y[TARGET] - y[VERSUS]
    out = {
        "chefer": chefer(model, pixels, one),
        "chefer_versus": chefer(model, pixels, two),
        "legrad_paper": legrad(model, pixels, one, 0),
        "legrad_package": legrad(model, pixels, one, depth - 2),
        "legrad_versus": legrad(model, pixels, two, 0),
    }
    for name, x in out.items():
        assert x.abs().max() > 1e-4, name
    save_file({k: v.float().contiguous() for k, v in out.items()}, str(DATA / "kernels_gradients.safetensors"))
    print({k: (float(v.min()), float(v.max())) for k, v in out.items()})


if __name__ == "__main__":
    main()
