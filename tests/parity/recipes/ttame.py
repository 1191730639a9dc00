#!/usr/bin/env python3
"""Writes tests/parity/data/ttame: the attention module and the loss of T-TAME's authors on the sheet's tiny sizes.

Their classes AttentionTAME and Arrangement run from a checkout of github.com/IDT-ITI/T-TAME (92499e7) whose folder is the
argument; only their outputs are kept (their code is for academic use). Weights and features are drawn here, by seed.

Needs torch, safetensors. softadapt and torchvision are imported by their files and not used.
"""
import pathlib
import sys
import types

import torch
from safetensors.torch import save_file

if len(sys.argv) < 2:
    sys.exit("the folder of T-TAME is wanted")
for name in ("softadapt", "torchvision", "torchvision.transforms"):
    sys.modules.setdefault(name, types.ModuleType(name))
sys.modules["softadapt"].LossWeightedSoftAdapt = object
sys.modules["torchvision"].transforms = sys.modules["torchvision.transforms"]
package = types.ModuleType("tame")
package.__path__ = [str(pathlib.Path(sys.argv[1]) / "src/tame")]
sys.modules["tame"] = package
attention = types.ModuleType("tame.attention")
attention.__path__ = [package.__path__[0] + "/attention"]
sys.modules["tame.attention"] = attention
from tame.attention.arrangement import Arrangement  # noqa: E402
from tame.attention.tame import AttentionTAME  # noqa: E402

OUT = pathlib.Path(__file__).parent.parent / "data/ttame"
OUT.mkdir(parents=True, exist_ok=True)
torch.manual_seed(0)
torch.set_num_threads(1)
kept = {}
for case, shapes in {"cnn": [(8, 12, 12), (16, 6, 6), (16, 3, 3)], "vit": [(24, 4, 4), (24, 4, 4), (24, 4, 4)]}.items():
    module = AttentionTAME([torch.Size((2, *s)) for s in shapes], 5)
    for bn in module.bns:
        torch.nn.init.uniform_(bn.weight, 0.5, 1.5)
        torch.nn.init.uniform_(bn.bias, -0.5, 0.5)
        bn.running_mean.uniform_(-0.2, 0.2)
        bn.running_var.uniform_(0.5, 1.5)
    features = [torch.randn(2, *s) for s in shapes]
    state = {k: v.clone() for k, v in module.state_dict().items()}
    # As Lightning writes it: the mechanism is the second of a sequence on transformers.
    prefix = "generic.attn_mech." + ("1." if case == "vit" else "")
    torch.save({"state_dict": {prefix + k: v for k, v in state.items()}, "epoch": 7, "optimizer_states": [{"state": {0: {"attn_mech.momentum_buffer": torch.ones(2)}}}],
                "hyper_parameters": {"model_name": case, "layers": ["a", "b", "c"], "attention_version": "TAME", "num_classes": 5}}, OUT / f"{case}.ckpt")
    for i, f in enumerate(features):
        kept[f"{case}.features.{i}"] = f
    module.eval()
    kept[f"{case}.eval"] = module(features)[1].detach()
    module.train()
    kept[f"{case}.train"] = module(features)[1].detach()

arrangement = types.SimpleNamespace(ce_coeff=1.5, area_loss_coeff=2, smoothness_loss_coeff=0.01, area_loss_power=0.3,
                                    loss_cross_entropy=torch.nn.CrossEntropyLoss())
arrangement.area_loss = lambda masks: Arrangement.area_loss(arrangement, masks)
for batch in (2, 4):
    masks, answer, labels = torch.rand(batch, batch, 6, 6), torch.randn(batch, 5), torch.arange(batch) % 5
    kept[f"loss{batch}.masks"], kept[f"loss{batch}.answer"], kept[f"loss{batch}.labels"] = masks, answer, labels
    kept[f"loss{batch}.terms"] = torch.stack(Arrangement.classic_loss(arrangement, answer, labels, masks))
one_cycle = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1e-3, momentum=0.9, nesterov=True)
schedule = torch.optim.lr_scheduler.OneCycleLR(one_cycle, max_lr=1e-3, total_steps=100)
rates = []
for _ in range(100):
    rates.append([schedule.get_last_lr()[0], one_cycle.param_groups[0]["momentum"]])
    one_cycle.step()
    if len(rates) < 100:
        schedule.step()
kept["one_cycle"] = torch.tensor(rates, dtype=torch.float64)
# Steps of SGD as torch takes them.
weight, bias = torch.nn.Parameter(torch.randn(3, 2)), torch.nn.Parameter(torch.randn(3))
kept["sgd.weight.0"], kept["sgd.bias.0"] = weight.detach().clone(), bias.detach().clone()
sgd = torch.optim.SGD([{"params": [weight], "weight_decay": 5e-4}, {"params": [bias], "weight_decay": 0}], lr=0.1, momentum=0.9, nesterov=True)
for step in range(1, 4):
    weight.grad, bias.grad = torch.randn(3, 2), torch.randn(3)
    kept[f"sgd.weight_grad.{step}"], kept[f"sgd.bias_grad.{step}"] = weight.grad.clone(), bias.grad.clone()
    sgd.step()
    kept[f"sgd.weight.{step}"], kept[f"sgd.bias.{step}"] = weight.detach().clone(), bias.detach().clone()
save_file({k: v.contiguous() for k, v in kept.items()}, OUT / "outputs.safetensors")
print({k: tuple(v.shape) for k, v in kept.items()})
