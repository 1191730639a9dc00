#!/usr/bin/env python3
"""Writes tests/parity/data/preprocess.*: what the packages make of pictures of odd sizes, and the logits that follow.

Needs what vits.py needs. Pictures are drawn from seeds on both sides; kept are the 8-bit pixels that the published
preprocessing ends with (told from its floats, asserted to be exact) and the logits of the models of vits.py.
`preprocess.py fast` instead prints how far transformers' torchvision processors are from its Pillow ones.
"""
import json
import sys

import numpy as np
import open_clip.transform
import torch
import transformers as hf
from PIL import Image
from safetensors.numpy import save_file
from timm.data.transforms_factory import transforms_imagenet_eval
from torchvision.transforms._presets import ImageClassification

import vits
from spread import DATA, draw

SEED = 5
PICTURES = {"tall": (97, 61), "wide": (40, 133), "small": (23, 29), "square": (64, 64)}
PIL = {"ViT": "ViTImageProcessorPil", "DeiT": "DeiTImageProcessorPil", "CLIP": "CLIPImageProcessorPil", "Siglip": "SiglipImageProcessorPil",
       "Bit": "BitImageProcessorPil", "ConvNext": "ConvNextImageProcessorPil"}


def picture(name):
    """Blocks of 9 pixels with noise on top: edges to overshoot at and detail to lose."""
    height, width = PICTURES[name]
    coarse = np.rint(draw(name + " coarse", ((height + 8) // 9, (width + 8) // 9, 3), 127.5, 127.5, SEED)).astype(np.int64)
    fine = np.rint(draw(name + " fine", (height, width, 3), 127.5, 127.5, SEED)).astype(np.int64)
    coarse = coarse.repeat(9, 0).repeat(9, 1)[:height, :width]
    return Image.fromarray(((3 * coarse + fine) // 4).astype(np.uint8))


def processor(kind, fast=False, **fields):
    name = PIL.get(kind, kind + "ImageProcessor")
    return getattr(hf, name[:-3] if fast and kind in PIL else name)(**fields)


def apply(made, image):
    return torch.as_tensor(np.array(made(image, return_tensors="np")["pixel_values"]))[0].float()


def levels(pixels, mean, std):
    """The 8-bit picture behind normalised floats."""
    mean, std = (torch.tensor(v, dtype=torch.float64).view(3, 1, 1) for v in (mean, std))
    raw = (pixels.double() * std + mean) * 255
    whole = raw.round()
    assert (raw - whole).abs().max() < 2e-3 and whole.min() >= 0 and whole.max() <= 255
    return whole.to(torch.uint8).permute(1, 2, 0).numpy()


def hf_files():
    """(title, processor, fields as constructed, preprocessor_config.json, config.json)"""
    new = lambda kind, **fields: (kind, fields, processor(kind, **fields).to_dict(), {})
    old = lambda kind, model, **fields: (kind, fields, fields, model)
    square, short = lambda n: {"height": n, "width": n}, lambda n: {"shortest_edge": n}
    half = dict(image_mean=[0.5, 0.5, 0.5], image_std=[0.5, 0.5, 0.5])
    yield "ViT", new("ViT", size=square(30))
    yield "ViT, not square", new("ViT", size={"height": 26, "width": 44}, resample=3)
    yield "ViT, a bare number and no filter, told by the model", old("ViT", {"model_type": "vit"}, size=30, **half)
    yield "DeiT", new("DeiT", size=square(41), crop_size=square(32))
    kind, fields, file, model = old("DeiT", {}, size=41, crop_size=32, do_center_crop=True, resample=3, **half)
    yield "DeiT, a bare number: a square all the same", (kind, fields, {**file, "feature_extractor_type": "DeiTFeatureExtractor"}, model)
    yield "CLIP", new("CLIP", size=short(33), crop_size=square(32))
    kind, fields, file, model = old("CLIP", {}, size=33, crop_size=32, do_center_crop=True, resample=3,
                                    image_mean=[0.48145466, 0.4578275, 0.40821073], image_std=[0.26862954, 0.26130258, 0.27577711])
    yield "CLIP, a bare number: the short side", (kind, fields, {**file, "feature_extractor_type": "CLIPFeatureExtractor"}, model)
    yield "CLIP, a crop larger than the picture, padded", new("CLIP", size=short(24), crop_size=square(33))
    yield "SigLIP", new("Siglip", size=square(35))
    yield "DINOv2 (Bit)", new("Bit", size=short(37), crop_size={"height": 28, "width": 33})
    yield "DINOv2, silent about all but the size, told by the model", old("Bit", {"model_type": "dinov2"}, size=short(37), crop_size=square(28))
    yield "ConvNext", new("ConvNext", size=short(30), crop_pct=0.875)
    kind, fields, file, model = old("ConvNext", {"model_type": "resnet"}, size=31, resample=3, **half)
    yield "ConvNext, a bare number: the short side, and its own crop_pct", (kind, fields, file, model)


def timm_files():
    base = dict(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])
    for size in ((32, 32), (28, 44)):
        for mode in ("center", "squash", "border"):
            for crop_pct in (0.9, 1.0):
                yield f"timm {mode} {size[0]} x {size[1]} at {crop_pct}", {"input_size": [3, *size], "crop_pct": crop_pct, "crop_mode": mode,
                                                                        "interpolation": "bilinear" if size[0] == 28 else "bicubic", **base}


def openclip_files():
    for size in (32, [28, 44]):
        for mode in ("shortest", "longest", "squash"):
            for kind in ("bicubic", "bilinear"):
                yield f"OpenCLIP {mode} {size} {kind}", size, {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4], "interpolation": kind, "resize_mode": mode, "fill_color": 7}


def hf_models():
    """The models of vits.py with the weights of their cases."""
    made = {}
    vits.hf_case = lambda name, model, answer, size, title: made.update({name: (model.eval(), answer)})
    for other in ("timm_case", "dinov2_original", "torchvision_cases", "openclip"):
        setattr(vits, other, lambda *args, **kwargs: None)
    vits.everything()
    for name, (model, _) in made.items():
        state = model.state_dict()
        for _, own, shape, scale, offset in json.loads((DATA / f"{name}.json").read_text())["tensors"]:
            state[own].copy_(torch.from_numpy(draw(own, shape, scale, offset, vits.SEED)))
    return made


LOGITS = {"hf_vit_base": ("ViT", dict(size={"height": 64, "width": 64})), "hf_deit_distilled": ("DeiT", dict(size={"height": 73, "width": 73}, crop_size={"height": 64, "width": 64})),
          "hf_clip_b32": ("CLIP", dict(size={"shortest_edge": 128}, crop_size={"height": 128, "width": 128})), "hf_siglip_b16": ("Siglip", dict(size={"height": 64, "width": 64})),
          "hf_dinov2_small": ("Bit", dict(size={"shortest_edge": 64}, crop_size={"height": 56, "width": 56}, image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225])),
          "hf_dinov3": ("DINOv3ViT", dict(size={"height": 64, "width": 64}))}


def main():
    torch.set_grad_enabled(False)
    images = {name: picture(name) for name in PICTURES}
    cases, tensors = [], {}

    def keep(title, run, mean, std, step=1, **how):
        for name, image in images.items():
            tensors[f"{len(cases)}.{name}"] = np.ascontiguousarray(levels(run(image), mean, std)[::step])
        cases.append({"title": title, "step": step, "mean": list(mean), "std": list(std), **how})

    for title, (kind, fields, file, model) in hf_files():
        made = processor(kind, **fields)
        keep(title, lambda i: apply(made, i), made.image_mean, made.image_std, preprocessor=file, config=model)
    for title, config in timm_files():
        run = transforms_imagenet_eval(img_size=tuple(config["input_size"][1:]), crop_pct=config["crop_pct"], crop_mode=config["crop_mode"],
                                       interpolation=config["interpolation"], mean=config["mean"], std=config["std"])
        keep(title, run, config["mean"], config["std"], config={"pretrained_cfg": config})
    for title, size, cfg in openclip_files():
        run = open_clip.transform.image_transform(size if isinstance(size, int) else tuple(size), False, cfg["mean"], cfg["std"], cfg["resize_mode"], cfg["interpolation"], cfg["fill_color"])
        keep(title, run, cfg["mean"], cfg["std"], config={"model_cfg": {"vision_cfg": {"image_size": size}}, "preprocess_cfg": cfg})
    # Full size, so only some rows: the preset is the model family's own and knows no smaller one.
    preset = ImageClassification(crop_size=224, resize_size=256)
    keep("torchvision, ImageClassification", preset, preset.mean, preset.std, step=32, preset="torchvision_resnet18")

    logits = []
    for name, (model, answer) in hf_models().items():
        if name not in LOGITS:
            continue
        kind, fields = LOGITS[name]
        made = processor(kind, **fields)
        for which in ("tall", "wide"):
            out = answer(model, apply(made, images[which])[None])
            tensors[f"{name}.{which}"] = out.float().numpy()
            print(f"{name} {which}: logits span {float(out.max() - out.min()):.1f}")
        logits.append({"model": name, "preprocessor": made.to_dict()})
    (DATA / "preprocess.json").write_text(json.dumps({"seed": SEED, "pictures": PICTURES, "cases": cases, "logits": logits}, indent=1) + "\n")
    save_file(tensors, DATA / "preprocess.safetensors")
    print(f"{len(cases)} cases, {sum(p.stat().st_size for p in DATA.glob('preprocess.*')) / 1024:.0f} KiB")


def fast():
    torch.set_grad_enabled(False)
    models = hf_models()
    for name, (kind, fields) in LOGITS.items():
        if kind not in PIL:
            continue
        model, answer = models[name]
        slow, quick = processor(kind, **fields), processor(kind, True, **fields)
        for which in PICTURES:
            a, b = (apply(p, picture(which)) for p in (slow, quick))
            std = torch.tensor(slow.image_std).view(3, 1, 1)
            steps = ((a - b) * std * 255).abs()
            la, lb = (answer(model, x[None]) for x in (a, b))
            print(f"{name} {which}: {float((steps > 0.5).float().mean()):.2%} of the values differ, by {float(steps.max()):.1f} levels at most; "
                  f"logits by {float((la - lb).abs().max()):.4f} of a span of {float(la.max() - la.min()):.1f}")


if __name__ == "__main__":
    command, sys.argv = sys.argv[1:], sys.argv[:1]
    fast() if command == ["fast"] else main()
