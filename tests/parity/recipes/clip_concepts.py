#!/usr/bin/env python3
"""Writes tests/parity/data/clip_concepts: a CLIP image tower of random weights (transformers), a ViT-Prisma autoencoder for
its blocks.1.hook_resid_post, rows of eight classes, twelve pictures with labels, and what ViT-Prisma's figures are for them:
variance explained token by token, concepts a token, cross entropy of the answer as it is, with the reconstruction and with
zeros in the activation's place, without a scale of the logits (expected.safetensors).

Outputs only (Apache-2.0 and MIT licences). Needs torch, transformers, safetensors and what ViT-Prisma's autoencoder imports
(einops). Argument: a folder of ViT-Prisma (aa5ff6a); only its autoencoder's files are imported. The figures are written out
here as its evals.py and train_sae.py define them.
"""
import pathlib
import sys
import types

import torch
from safetensors.torch import save_file
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

if len(sys.argv) < 2:
    sys.exit("the folder of ViT-Prisma is wanted")
root = pathlib.Path(sys.argv[1]) / "src"
for name in ("vit_prisma", "vit_prisma.sae", "vit_prisma.prisma_tools", "vit_prisma.configs", "vit_prisma.sae.training"):
    module = types.ModuleType(name)
    module.__path__ = [str(root / name.replace(".", "/"))]
    sys.modules[name] = module
from vit_prisma.sae.config import VisionModelSAERunnerConfig  # noqa: E402
from vit_prisma.sae.sae import StandardSparseAutoencoder  # noqa: E402

out = pathlib.Path(__file__).parent.parent / "data/clip_concepts"
(out / "clip").mkdir(parents=True, exist_ok=True)
(out / "prisma").mkdir(exist_ok=True)
generator = torch.Generator().manual_seed(11)
WIDTH, FACTOR, CLASSES, PICTURES, BATCH = 24, 4, 8, 12, 4

config = CLIPVisionConfig(hidden_size=WIDTH, intermediate_size=48, projection_dim=16, num_hidden_layers=3,
                          num_attention_heads=3, image_size=32, patch_size=8, hidden_act="gelu")
clip = CLIPVisionModelWithProjection(config).eval()
with torch.no_grad():
    for name, p in sorted(clip.named_parameters()):
        base = 1.0 if name.endswith("norm.weight") or "layrnorm.weight" in name or "layernorm.weight" in name else 0.0
        if "norm" in name and name.endswith("weight"):
            base = 1.0
        p.copy_(base + torch.randn(p.shape, generator=generator) * (0.25 if p.dim() > 1 else 0.1))
clip.save_pretrained(out / "clip")

sae_config = VisionModelSAERunnerConfig(
    dataset_path="", dataset_train_path="", dataset_val_path="", checkpoint_path="", _device="cpu", d_in=WIDTH,
    expansion_factor=FACTOR, hook_point_layer=1, layer_subtype="hook_resid_post", model_name="clip",
    activation_fn_str="relu", normalize_activations="none", image_size=32, context_size=17)
sae = StandardSparseAutoencoder(sae_config)
with torch.no_grad():
    decoder = torch.randn(WIDTH * FACTOR, WIDTH, generator=generator)
    decoder /= decoder.norm(dim=1, keepdim=True)
    sae.W_dec.copy_(decoder)
    sae.W_enc.copy_(decoder.T * 0.35)
    sae.b_enc.fill_(-0.05)
    sae.b_dec.copy_(torch.randn(WIDTH, generator=generator) * 0.1)
torch.save({k: v for k, v in sae.state_dict().items()}, out / "prisma/weights.pt")
sae_config.save_config(str(out / "prisma/config.json"))

pixels = torch.randn(PICTURES, 3, 32, 32, generator=generator)
labels = torch.randint(CLASSES, (PICTURES,), generator=generator)
rows = torch.randn(CLASSES, 16, generator=generator)
save_file({"text": rows}, out / "classes.safetensors")

layer = clip.vision_model.encoder.layers[1]


def run(change=None):
    seen = []

    def hook(_, __, output):
        hidden = output[0] if isinstance(output, tuple) else output
        seen.append(hidden)
        if change is None:
            return None
        changed = change(hidden)
        return (changed,) + output[1:] if isinstance(output, tuple) else changed

    handle = layer.register_forward_hook(hook)
    with torch.no_grad():
        features = clip(pixel_values=pixels).image_embeds
    handle.remove()
    features = features / features.norm(dim=-1, keepdim=True)
    return seen[0], features @ (rows / rows.norm(dim=-1, keepdim=True)).T


def coded(hidden):
    _, active = sae.encode(hidden)
    return active, sae.decode(active)


def entropy(logits):
    return torch.nn.functional.cross_entropy(logits, labels)


with torch.no_grad():
    hidden, whole = run()
    active, again = coded(hidden)
    _, put = run(lambda x: coded(x)[1])
    _, none = run(torch.zeros_like)
    token_variance = []
    for begin in range(0, PICTURES, BATCH):
        x, y = (t[begin:begin + BATCH].flatten(0, 1).double() for t in (hidden, again))
        token_variance.append(1 - (y - x).square().sum(-1) / (x - x.mean(0)).square().sum(-1))
    flat, made = hidden.flatten(0, 1).double(), again.flatten(0, 1).double()
    expected = {
        "pixels": pixels, "labels": labels.float(), "features": whole,
        "active": (active > 0).float().sum(-1).mean(), "active_class": (active[:, 0] > 0).float().sum(-1).mean(),
        "active_patches": (active[:, 1:] > 0).float().sum(-1).mean(),
        "token_variance": torch.cat(token_variance).mean(),
        "explained_variance": 1 - (made - flat).square().sum() / (flat - flat.mean(0)).square().sum(),
        "loss": entropy(whole), "loss_substituted": entropy(put), "loss_zeroed": entropy(none),
        "loss_scaled": entropy(whole * 100), "loss_substituted_scaled": entropy(put * 100),
        "score": (entropy(none) - entropy(put)) / (entropy(none) - entropy(whole)),
    }
print({k: v.item() for k, v in expected.items() if v.numel() == 1})
save_file({k: v.float().contiguous() for k, v in expected.items()}, out / "expected.safetensors")
