#!/usr/bin/env python3
"""Writes into tests/parity/data/ttame what ttame.py does not: the attention versions and 3D-TAME (`versions.safetensors`,
`*.ckpt`), a whole published-style run on a tiny ResNet (`published.ckpt`, `backbone.safetensors`, `published.safetensors`)
and torchvision's networks in training mode (`training.safetensors`).

The authors' classes run from a checkout of github.com/IDT-ITI/T-TAME (92499e7) whose folder is the argument; only their
outputs are kept (their code is for academic use). Needs torch, torchvision, safetensors. softadapt is imported by their
files and not used.
"""
import pathlib
import sys
import types

import torch
from safetensors.torch import save_file
from torch import nn
from torchvision.models import mobilenet_v2, resnet

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from spread import draw, fill, pixels, specs_of  # noqa: E402

if len(sys.argv) < 2:
    sys.exit("the folder of T-TAME is wanted")
sys.modules["softadapt"] = types.ModuleType("softadapt")
sys.modules["softadapt"].LossWeightedSoftAdapt = object
package = types.ModuleType("tame")
package.__path__ = [str(pathlib.Path(sys.argv[1]) / "src/tame")]
sys.modules["tame"] = package
from tame.attention.factory import AMBuilder  # noqa: E402
from tame.composite_models import Generic  # noqa: E402

OUT = pathlib.Path(__file__).parent.parent / "data/ttame"
torch.manual_seed(1)
torch.set_num_threads(1)


def varied(module):
    """Norms that are no identity and biases that are not zero."""
    with torch.no_grad():
        for name, p in module.named_parameters():
            if p.dim() == 1:
                p.uniform_(0.5, 1.5) if name.endswith("weight") else p.uniform_(-0.3, 0.3)
        for name, b in module.named_buffers():
            if name.endswith("running_mean"):
                b.uniform_(-0.2, 0.2)
            elif name.endswith("running_var"):
                b.uniform_(0.5, 1.5)


# The attention versions have 1000 classes and 14 x 14 patches written into them; the last convolution is replaced.
kept = {}
for version in ("TAttentionV1", "TAttentionV1_1", "TAttentionV1_2", "TAttentionV2", "TAttentionV2_1", "TAttentionV2_2", "TAttentionV3", "3D-TAME"):
    if version == "3D-TAME":
        shapes = [(2, 6, 4, 5, 3), (2, 8, 2, 3, 2)]
        module = AMBuilder.versions[version]([torch.Size(s) for s in shapes], 5)
    else:
        shapes = [(2, 17, 64), (2, 17, 64)] if version == "TAttentionV3" else [(2, 197, 12)] * 2
        module = AMBuilder.versions[version]([torch.Size(s) for s in shapes])
        module.cnn_fuser = nn.Conv2d(module.cnn_fuser.in_channels, 5, 1)
    varied(module)
    features = [torch.randn(*s) for s in shapes]
    key = version.lower().replace("-", "_")
    torch.save({"state_dict": {"generic.attn_mech." + k: v.clone() for k, v in module.state_dict().items()},
                "hyper_parameters": {"model_name": "vit_b_16", "layers": [f"encoder.layers.encoder_layer_{i}.ln_1" for i in (9, 11)], "attention_version": version}},
               OUT / f"{key}.ckpt")
    for i, f in enumerate(features):
        kept[f"{key}.features.{i}"] = f
    module.eval()
    kept[f"{key}.eval"] = module(features)[1].detach()
    module.train()
    kept[f"{key}.train"] = module(features)[1].detach()
save_file({k: v.contiguous() for k, v in kept.items()}, OUT / "versions.safetensors")


class Tiny(resnet.ResNet):
    """A ResNet under torchvision's names, a sixteenth as wide."""

    def __init__(self):
        super().__init__(resnet.BasicBlock, [1, 1, 1, 1])
        self.fc = nn.Linear(32, 5)

    def _make_layer(self, block, planes, blocks, stride=1, dilate=False):
        return super()._make_layer(block, planes // 16, blocks, stride, dilate)


# A run as published: two steps in training mode, then evaluation; what a step sees and what is left.
kept = {}
backbone = Tiny()
varied(backbone)
save_file({k: v.clone() for k, v in backbone.state_dict().items()}, OUT / "backbone.safetensors")
layers = ["layer2", "layer3", "layer4"]
generic = Generic("resnet50", backbone, layers, "TAME", train_method="raw_normalize", input_dim=torch.Size((2, 3, 224, 224)), num_classes=5)
varied(generic.attn_mech)
save_file({k: v.clone() for k, v in generic.attn_mech.state_dict().items() if v.is_floating_point()}, OUT / "published_module.safetensors")
generic.requires_grad_(False)
generic.attn_mech.requires_grad_()
generic.train()
x = torch.from_numpy(draw("published", (2, 3, 224, 224), 0.5, 0.5, 3))  # before normalisation; 224 is written into their masks
for step in (0, 1):
    generic.zero_grad()
    answer = generic(x)
    terms = generic.get_loss(answer, generic.labels, generic.get_a())
    terms[0].backward()
    kept[f"step{step}.labels"] = generic.labels
    kept[f"step{step}.answer"] = answer.detach()
    kept[f"step{step}.c"] = generic.c.detach()
    kept[f"step{step}.terms"] = torch.stack(terms).detach()
    kept[f"step{step}.gradient"] = generic.attn_mech.fuser.weight.grad.flatten(1).clone()
    kept[f"step{step}.gradient0"] = generic.attn_mech.convs[0].weight.grad.flatten(1).clone()
    for name, b in generic.body.named_buffers():
        if name in ("bn1.running_mean", "bn1.running_var", "layer2.0.downsample.1.running_var", "layer4.0.bn2.running_mean", "layer4.0.bn2.running_var"):
            kept[f"step{step}.{name}"] = b.clone()
generic.eval()
kept["eval.answer"] = generic(x).detach()
kept["eval.c"] = generic.c.detach()
state = {"generic." + k: v for k, v in generic.state_dict().items()}
assert any(k.startswith("generic.arrangement.body.") for k in state)
optimiser = torch.optim.SGD(generic.attn_mech.parameters(), lr=1e-3, momentum=0.9)
schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=1e-3, total_steps=100)
# Lightning's layout. The stored method is `new`, which the authors' own script overrides for their convolutional networks.
torch.save({"epoch": 7, "global_step": 2, "pytorch-lightning_version": "2.1.2", "state_dict": state, "loops": {"fit_loop": {"state_dict": {}}},
            "callbacks": {"ModelCheckpoint": {"monitor": None, "best_model_path": "", "best_k_models": {}}},
            "optimizer_states": [optimiser.state_dict()], "lr_schedulers": [schedule.state_dict()], "hparams_name": "kwargs",
            "hyper_parameters": {"model_name": "resnet50", "layers": layers, "epochs": 8, "input_dim": None, "attention_version": "TAME", "masking": "random",
                                 "normalized_data": True, "train_method": "new", "optimizer_type": "SGD", "use_sam": False, "momentum": 0.9,
                                 "weight_decay": 5e-4, "schedule_type": "new_classic", "lr": 1e-3, "img_size": 224, "percent_list": [0.0, 0.5, 0.85],
                                 "num_classes": 5, "eval_length": "long", "LeRF": False}}, OUT / "published.ckpt")
save_file({k: v.contiguous() for k, v in kept.items()}, OUT / "published.safetensors")

# Networks of cnns.py in training mode, two runs of one batch. Dropout is off: what it drops cannot be compared. In double: the
# statistics of two pictures' 2 x 2 maps magnify what float32 rounds.
kept = {}
with torch.no_grad():
    for name, model, features in (("torchvision_resnet18", resnet.resnet18(num_classes=50), lambda m: m.layer4),
                                  ("torchvision_mobilenet_v2", mobilenet_v2(num_classes=50, dropout=0.0), lambda m: m.features)):
        state = {k: v for k, v in model.state_dict().items() if v.is_floating_point()}
        specs = specs_of(state)
        for spec in specs:
            if spec.endswith(("bn3.weight", "bn2.weight")):
                specs[spec] = (0.15, 0.5)
        fill(state, specs, 5)
        model.double().train()
        maps = []
        features(model).register_forward_hook(lambda m, i, o: maps.append(o))
        logits = [model(pixels((2, 3, 64, 64), 5).double()) for _ in range(2)]
        kept[f"{name}.map"] = maps[1]
        if "resnet" in name:
            kept[f"{name}.logits"] = logits[1]
        for key, b in model.named_buffers():
            if b.dim() == 1 and b.numel() <= 64 or key.startswith(("layer4.1.bn2", "features.18")):
                kept[f"{name}.{key}"] = b.clone()
save_file({k: v.float().contiguous() for k, v in kept.items()}, OUT / "training.safetensors")
print(*sorted((p.name, p.stat().st_size) for p in OUT.iterdir()), sep="\n")
