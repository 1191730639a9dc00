#!/usr/bin/env python3
"""Writes the parity cases of the vision transformers: logits and attention maps of timm, transformers and torchvision.

Needs torch, timm, transformers, torchvision, open_clip, safetensors. Weights are not stored, see spread.py.
"""
import json
import math
import pathlib
import sys
import tempfile

import timm
import torch
import transformers as hf
from safetensors import safe_open
from torch import nn
from torchvision.models.vision_transformer import VisionTransformer, interpolate_embeddings

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from spread import draw, entropy_share, fill, is_query_or_key, pixels, rule, specs_of, write_case  # noqa: E402

torch.set_grad_enabled(False)
SEED = 3


class Maps:
    """Collects [heads, queries, keys] of the first picture, softmax computed by the package itself."""

    def __init__(self):
        self.maps = []

    def hook_timm(self, model):
        for module in model.modules():
            if isinstance(module, nn.MultiheadAttention):
                continue
            if hasattr(module, "fused_attn") and hasattr(module, "attn_drop"):
                module.fused_attn = False
                module.attn_drop.register_forward_hook(lambda m, i, o: self.maps.append(i[0][0]))
            elif hasattr(module, "fused_attn"):  # the pooling head has no dropout to listen to
                def pooled(x, attn_mask=None, m=module):
                    b, n, c = x.shape
                    q = m.q(m.latent.expand(b, -1, -1)).reshape(b, m.latent_len, m.num_heads, m.head_dim).transpose(1, 2)
                    kv = m.kv(x).reshape(b, n, 2, m.num_heads, m.head_dim).permute(2, 0, 3, 1, 4)
                    k, v = kv.unbind(0)
                    p = ((m.q_norm(q) * m.scale) @ m.k_norm(k).transpose(-2, -1)).softmax(-1)
                    self.maps.append(p[0])
                    out = m.proj((p @ v).transpose(1, 2).reshape(b, m.latent_len, c))
                    return (out + m.mlp(m.norm(out)))[:, 0]
                module.forward = pooled

    def hook_multihead(self, model):
        for module in model.modules():
            if isinstance(module, nn.MultiheadAttention):
                original = module.forward

                def forward(*args, original=original, **kwargs):
                    kwargs.update(need_weights=True, average_attn_weights=False)
                    out, p = original(*args, **kwargs)
                    self.maps.append(p[0])
                    return out, p
                module.forward = forward

    def hook_hf(self, model):
        # Eager attention returns its weights from every attention module.
        for name, module in model.named_modules():
            if type(module).__name__.endswith("Attention") and not isinstance(module, nn.MultiheadAttention):
                module.register_forward_hook(lambda m, i, o: self.maps.append(o[1][0]) if isinstance(o, tuple) and o[1] is not None else None)


def settle(name, state, run, maps, seed=SEED):
    """Draws all weights; widens queries and keys layer by layer until attention is peaked. Returns specs and outputs."""
    specs = specs_of(state)
    for spec in list(specs):
        if spec.endswith(("head.weight", "classifier.weight", "head_dist.weight", "visual_projection.weight")):
            specs[spec] = (specs[spec][0] * 2, 0.0)
    for attempt in range(12):
        fill(state, specs, seed)
        maps.maps.clear()
        output = run()
        shares = [entropy_share(m) for m in maps.maps]
        if max(shares) < 0.78:
            break
        # A pooling head's map is the last one; blocks and pooler are widened apart, or the one makes the other a hard choice.
        pooler = [s for s in specs if s.startswith(("attn_pool.", "head.attention."))]
        blocks_peaked = max(shares[:-1] if pooler else shares) < 0.78
        for spec, (scale, offset) in specs.items():
            if blocks_peaked != (spec in pooler):
                continue
            if is_query_or_key(spec) and spec.endswith("weight") and "norm" not in spec:
                specs[spec] = (scale * 1.15, offset)
            if "q_norm.weight" in spec or "k_norm.weight" in spec:
                specs[spec] = (scale, offset * 1.15)
    spread = float((output[0].max() - output[0].min()))
    print(f"{name}: entropy {min(shares):.2f} to {max(shares):.2f} of log N, logits span {spread:.1f}, {len(shares)} maps")
    assert max(shares) < 0.8 and spread > 1, name
    outputs = {"logits": output}
    for i, m in enumerate(maps.maps):
        outputs[f"attention.{i}"] = m
    return specs, outputs


def wanted(name):
    """Names on the command line choose cases; none choose all."""
    return len(sys.argv) < 2 or name in sys.argv[1:]


def timm_case(name, model, config, size, title, extra=None):
    if not wanted(name):
        return
    model.eval()
    maps = Maps()
    maps.hook_timm(model)
    state = {k: v for k, v in model.state_dict().items()} | (extra or {})
    x = pixels((2, 3, *size), SEED)
    specs, outputs = settle(name, state, lambda: model(x), maps)
    write_case(name, architecture="vit", state_names={k: k for k in state}, specs=specs, shapes={k: v.shape for k, v in state.items()},
               config=config, pixels_shape=x.shape, outputs=outputs, seed=SEED, title=title)


def hf_case(name, model, answer, size, title):
    """Under the names that save_pretrained writes, with the config.json it writes."""
    if not wanted(name):
        return
    model.eval()
    maps = Maps()
    maps.hook_hf(model)
    maps.hook_multihead(model)
    state = {k: v for k, v in model.state_dict().items() if v.is_floating_point()}
    x = pixels((2, 3, *size), SEED)
    # Which saved tensor is which of the module's: told by writing the module's own tensors with a mark in each.
    with tempfile.TemporaryDirectory() as folder:
        marks = {}
        for i, (k, v) in enumerate(state.items()):
            if v.numel():
                v.flatten()[0:1].copy_(torch.tensor([float(i + 1) * 7]))
                v.view(-1)[0] = float(i + 1) * 7
                marks[float(i + 1) * 7] = k
        model.save_pretrained(folder)
        config = json.loads((pathlib.Path(folder) / "config.json").read_text())
        saved = {}
        with safe_open(pathlib.Path(folder) / "model.safetensors", "pt") as f:
            for k in f.keys():
                t = f.get_tensor(k)
                # Older files keep some matrices together that newer modules keep apart: one after the other along the first axis.
                flat, at = t.flatten(), 0
                while at < flat.numel():
                    own = marks[float(flat[at])]
                    saved.setdefault(k, []).append(own)
                    at += state[own].numel()
    specs, outputs = settle(name, state, lambda: answer(model, x), maps)
    write_case(name, architecture="vit", state_names=saved, specs=specs, shapes={k: v.shape for k, v in state.items()},
               config=config, pixels_shape=x.shape, outputs=outputs, seed=SEED, title=title)


def timm_config(name, size, classes, pool="token", **more):
    return {"architecture": name, "num_classes": classes, "global_pool": pool, "pretrained_cfg": {"input_size": [3, *size]}, **more}


def everything():
    v = timm.create_model
    timm_case("timm_vit_tiny", v("vit_tiny_patch16_224", img_size=64, num_classes=50), timm_config("vit_tiny_patch16_224", (64, 64), 50), (64, 64),
              "timm vit_tiny_patch16, depth 12")
    timm_case("timm_vit_tiny_resized", v("vit_tiny_patch16_224", img_size=64, num_classes=50, depth=3, dynamic_img_size=True),
              timm_config("vit_tiny_patch16_224", (64, 64), 50), (96, 48), "timm vit_tiny_patch16 fed another, non-square size: positions resized")
    timm_case("timm_vit_rectangle", v("vit_tiny_patch16_224", img_size=(64, 96), patch_size=(16, 8), num_classes=50, depth=3, global_pool="avg", fc_norm=True),
              timm_config("vit_tiny_patch16_224", (64, 96), 50, "avg"), (64, 96), "timm, non-square input and patch, mean pooling with fc_norm")
    timm_case("timm_vit_qk_norm", v("vit_tiny_patch16_224", img_size=64, num_classes=50, depth=3, qk_norm=True, init_values=1e-2, reg_tokens=2),
              timm_config("vit_tiny_patch16_224", (64, 64), 50), (64, 64), "timm, q/k norm, layer scale, registers with positions")
    timm_case("timm_deit_tiny_distilled", v("deit_tiny_distilled_patch16_224", img_size=64, num_classes=50, depth=6),
              timm_config("deit_tiny_distilled_patch16_224", (64, 64), 50), (64, 64), "timm deit_tiny_distilled: two heads averaged")
    timm_case("timm_dinov2_small", v("vit_small_patch14_dinov2", img_size=56, num_classes=50, depth=6),
              timm_config("vit_small_patch14_dinov2", (56, 56), 50), (56, 56), "timm vit_small_patch14_dinov2")
    timm_case("timm_dinov2_small_reg4", v("vit_small_patch14_reg4_dinov2", img_size=56, num_classes=50, depth=6),
              timm_config("vit_small_patch14_reg4_dinov2", (56, 56), 50), (56, 56), "timm vit_small_patch14_reg4_dinov2: registers without positions")
    timm_case("timm_dinov2_swiglu", v("vit_giant_patch14_dinov2", img_size=56, num_classes=50, depth=2, embed_dim=96, num_heads=4),
              timm_config("vit_giant_patch14_dinov2", (56, 56), 50, model_args={"num_heads": 4}), (56, 56), "timm DINOv2 giant's SwiGLU, narrowed")
    timm_case("timm_clip_quickgelu", v("vit_base_patch32_clip_quickgelu_224", img_size=128, num_classes=64, depth=3, embed_dim=192, num_heads=3),
              timm_config("vit_base_patch32_clip_quickgelu_224", (128, 128), 64, model_args={"num_heads": 3}), (128, 128),
              "timm CLIP tower with quick GELU, narrowed")
    timm_case("timm_siglip", v("vit_base_patch16_siglip_224", img_size=64, num_classes=0, depth=3, embed_dim=192, num_heads=3),
              timm_config("vit_base_patch16_siglip_224", (64, 64), 0, "map", model_args={"num_heads": 3}), (64, 64), "timm SigLIP tower, narrowed")
    timm_case("timm_siglip2", v("vit_base_patch32_siglip_256", img_size=128, num_classes=0, depth=2, embed_dim=192, num_heads=3),
              timm_config("vit_base_patch32_siglip_256", (128, 128), 0, "map", model_args={"num_heads": 3}), (128, 128),
              "timm SigLIP 2 tower with the tanh GELU, narrowed")
    timm_case("timm_dinov3", v("vit_small_patch16_dinov3", img_size=64, num_classes=0, depth=3, global_pool="token"),
              timm_config("vit_small_patch16_dinov3", (64, 64), 0), (64, 96), "timm DINOv3 small: rotary positions, another size")
    timm_case("timm_dinov3_qkvb_swiglu", v("vit_huge_plus_patch16_dinov3_qkvb", img_size=64, num_classes=0, depth=2, embed_dim=160, num_heads=5),
              timm_config("vit_huge_plus_patch16_dinov3_qkvb", (64, 64), 0, "avg", model_args={"num_heads": 5}), (64, 64),
              "timm DINOv3 with q and v biases and SwiGLU, mean pooling, narrowed")

    eager = {"attn_implementation": "eager"}
    hf_case("hf_vit_base", hf.ViTForImageClassification(hf.ViTConfig(image_size=64, num_labels=50, num_hidden_layers=4, **eager)),
            lambda m, x: m(x).logits, (64, 64), "transformers ViT-B/16, depth 4")
    hf_case("hf_vit_resized", hf.ViTForImageClassification(hf.ViTConfig(image_size=64, num_labels=50, num_hidden_layers=2, hidden_size=192, num_attention_heads=3,
                                                                        intermediate_size=768, **eager)),
            lambda m, x: m(x, interpolate_pos_encoding=True).logits, (96, 64), "transformers ViT, positions interpolated")
    hf_case("hf_deit_distilled", hf.DeiTForImageClassificationWithTeacher(hf.DeiTConfig(image_size=64, num_labels=50, num_hidden_layers=4, hidden_size=192,
                                                                                        num_attention_heads=3, intermediate_size=768, **eager)),
            lambda m, x: m(x).logits, (64, 64), "transformers DeiT distilled")
    hf_case("hf_dinov2_small", hf.Dinov2ForImageClassification(hf.Dinov2Config(image_size=56, patch_size=14, num_labels=50, hidden_size=384, num_attention_heads=6,
                                                                              num_hidden_layers=4, **eager)),
            lambda m, x: m(x).logits, (56, 84), "transformers DINOv2 small, another size, head on class token and mean")
    hf_case("hf_dinov2_registers", hf.Dinov2WithRegistersForImageClassification(
        hf.Dinov2WithRegistersConfig(image_size=56, patch_size=14, num_labels=50, hidden_size=384, num_attention_heads=6, num_hidden_layers=4, **eager)),
            lambda m, x: m(x).logits, (56, 56), "transformers DINOv2 small with registers")
    hf_case("hf_dinov2_swiglu", hf.Dinov2Model(hf.Dinov2Config(image_size=56, patch_size=14, hidden_size=96, num_attention_heads=3, num_hidden_layers=2,
                                                              use_swiglu_ffn=True, **eager)),
            lambda m, x: m(x).pooler_output, (56, 56), "transformers DINOv2 SwiGLU without a head")
    hf_case("hf_clip_b32", hf.CLIPVisionModelWithProjection(hf.CLIPVisionConfig(image_size=128, patch_size=32, num_hidden_layers=4, projection_dim=64, **eager)),
            lambda m, x: m(x).image_embeds, (128, 128), "transformers CLIP B/32 image tower, depth 4")
    hf_case("hf_siglip_b16", hf.SiglipVisionModel(hf.SiglipVisionConfig(image_size=64, patch_size=16, num_hidden_layers=4, **eager)),
            lambda m, x: m(x).pooler_output, (64, 64), "transformers SigLIP B/16 image tower, depth 4")
    hf_case("hf_dinov3", hf.DINOv3ViTModel(hf.DINOv3ViTConfig(image_size=64, hidden_size=384, num_attention_heads=6, intermediate_size=1536, num_hidden_layers=3,
                                                              num_register_tokens=4, **eager)),
            lambda m, x: m(x).pooler_output, (64, 80), "transformers DINOv3 small")

    dinov2_original()
    torchvision_cases()
    openclip()


def dinov2_original():
    """DINOv2's own way to another size (facebookresearch/dinov2, interpolate_pos_encoding): bicubic by a scale factor with 0.1 cells added."""
    if not wanted("dinov2_original_resized"):
        return

    def resample(posemb, new_size, old_size=None, num_prefix_tokens=1, interpolation="bicubic", antialias=True, verbose=False):
        prefix, grid = posemb[:, :num_prefix_tokens], posemb[:, num_prefix_tokens:]
        side = int(math.sqrt(grid.shape[1]))
        grid = grid.reshape(1, side, side, -1).permute(0, 3, 1, 2)
        factors = tuple((n + 0.1) / side for n in new_size)
        grid = nn.functional.interpolate(grid, mode="bicubic", antialias=False, scale_factor=factors)
        assert grid.shape[-2:] == tuple(new_size)
        return torch.cat([prefix, grid.permute(0, 2, 3, 1).flatten(1, 2)], 1)
    module = sys.modules["timm.models.vision_transformer"]
    before, module.resample_abs_pos_embed = module.resample_abs_pos_embed, resample
    timm_case("dinov2_original_resized", timm.create_model("vit_small_patch14_dinov2", img_size=56, num_classes=0, depth=3, dynamic_img_size=True), {}, (84, 70),
              "DINOv2's own file without configuration, another size", extra={"mask_token": torch.zeros(1, 384)})
    module.resample_abs_pos_embed = before


def torchvision_cases():
    for name, size, title in (("torchvision_vit_b_16", 64, "torchvision vit_b_16, 12 heads, depth 4"),
                              ("torchvision_vit_resized", 96, "torchvision vit at another size by its interpolate_embeddings")):
        if not wanted(name):
            continue
        options = dict(patch_size=16, num_layers=4, num_heads=12, hidden_dim=768, mlp_dim=3072, num_classes=50)
        if size != 64:
            options = dict(patch_size=16, num_layers=2, num_heads=3, hidden_dim=192, mlp_dim=768, num_classes=50)
        small = VisionTransformer(image_size=64, **options).eval()
        model = VisionTransformer(image_size=size, **options).eval()
        maps = Maps()
        maps.hook_multihead(model)
        state = dict(small.state_dict())
        x = pixels((2, 3, size, size), SEED)

        def run():
            model.load_state_dict(interpolate_embeddings(size, 16, {k: v.clone() for k, v in state.items()}))
            return model(x)
        specs, outputs = settle(name, state, run, maps)
        write_case(name, architecture="vit", state_names={k: k for k in state}, specs=specs, shapes={k: v.shape for k, v in state.items()},
                   config={"num_heads": options["num_heads"]}, pixels_shape=x.shape, outputs=outputs, seed=SEED, title=title)


def openclip():
    """OpenCLIP's image towers, built by the package itself."""
    from open_clip.model import CLIPVisionCfg, _build_vision_tower

    def case(name, title, size, quick_gelu=False, **vision):
        if not wanted(name):
            return
        vision = dict(image_size=size, **vision) if "timm_model_name" in vision else dict(layers=3, width=192, patch_size=16, image_size=size, **vision)
        model = nn.Module()
        model.visual = _build_vision_tower(48, CLIPVisionCfg(**vision), quick_gelu).eval()
        maps = Maps()
        maps.hook_multihead(model)
        maps.hook_timm(model)
        state = dict(model.state_dict())
        height, width = (size, size) if isinstance(size, int) else size
        x = pixels((2, 3, height, width), SEED)
        specs, outputs = settle(name, state, lambda: model.visual(x), maps)
        config = {"model_cfg": {"embed_dim": 48, "vision_cfg": vision, **({"quick_gelu": True} if quick_gelu else {})}}
        write_case(name, architecture="vit", state_names={k: k for k in state}, specs=specs, shapes={k: v.shape for k, v in state.items()},
                   config=config, pixels_shape=x.shape, outputs=outputs, seed=SEED, title=title)

    case("openclip_visual", "OpenCLIP, quick GELU (OpenAI's weights)", 64, quick_gelu=True)
    case("openclip_gelu", "OpenCLIP, GELU, an MLP that is not 4 wide", 64, mlp_ratio=3.5)
    case("openclip_mean", "OpenCLIP, layer scale, mean pooling, no norm before the blocks", 64, ls_init_value=1.0, pool_type="avg", no_ln_pre=True)
    case("openclip_clipa", "OpenCLIP, norm after mean pooling (CLIPA), tanh GELU, another epsilon", 64, pool_type="avg", final_ln_after_pool=True, no_ln_pre=True,
         norm_kwargs={"eps": 1e-2}, act_kwargs={"approximate": "tanh"})
    original, timm.create_model = timm.create_model, lambda name, **more: original(name, **{"img_size": 64, **more}, depth=3, embed_dim=192, num_heads=3)
    case("openclip_timm_siglip", "OpenCLIP around timm's SigLIP tower, narrowed", 64, timm_model_name="vit_base_patch16_siglip_224", timm_pool="map", timm_proj="none")
    timm.create_model = original
    case("openclip_rectangle", "OpenCLIP, a picture that is not square, two heads", (48, 80), head_width=96)


if __name__ == "__main__":
    everything()
