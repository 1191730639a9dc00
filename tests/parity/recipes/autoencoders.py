#!/usr/bin/env python3
"""Writes tests/parity/data/autoencoders: sparse autoencoders of random weights (16 wide, 64 latents) as SAELens, ViT-Prisma,
saev and OpenAI's sparse_autoencoder save them, what their classes make of 24 tokens, and their losses (expected.safetensors).

Outputs only (all four are under the MIT licence). Needs torch, safetensors and sae-lens 6.54.12, and, for what the others
import, einops, beartype, jaxtyping, orjson, tyro, line_profiler. Arguments: folders of ViT-Prisma (aa5ff6a), saev (3d73f1f)
and openai/sparse_autoencoder. Of these only the files of the classes are imported, not the packages. OpenAI's mse is a
Triton kernel for the mean of squares; torch's stands for it here, as for the products of its FastAutoencoder, whose
single process talks to itself. Its loss is the expression that train.py's main hands to the training loop.
"""
import ast
import pathlib
import sys
import types

import torch
from safetensors.torch import save_file
from torch import nn

if len(sys.argv) < 4:
    sys.exit("the folders of ViT-Prisma, saev and sparse_autoencoder are wanted")
prisma, saev, openai = (pathlib.Path(a) for a in sys.argv[1:4])
out = pathlib.Path(__file__).parent.parent / "data/autoencoders"


def packages(root, *names):
    for name in names:
        module = types.ModuleType(name)
        module.__path__ = [str(root / name.replace(".", "/"))]
        module.__version__ = "source"
        sys.modules[name] = module


packages(prisma / "src", "vit_prisma", "vit_prisma.sae", "vit_prisma.prisma_tools", "vit_prisma.configs",
         "vit_prisma.sae.training")
packages(saev / "src", "saev", "saev.nn")
packages(openai, "sparse_autoencoder")
import sae_lens  # noqa: E402
from sae_lens.saes import batchtopk_sae, gated_sae, jumprelu_sae, standard_sae, topk_sae  # noqa: E402
from sae_lens.saes.sae import SAEMetadata, TrainStepInput  # noqa: E402
from saev import helpers  # noqa: E402
from saev.nn import modeling, objectives  # noqa: E402
from sparse_autoencoder import loss as openai_loss  # noqa: E402
from sparse_autoencoder import model as openai_model  # noqa: E402
from vit_prisma.sae.config import VisionModelSAERunnerConfig  # noqa: E402
from vit_prisma.sae.sae import GatedSparseAutoencoder, StandardSparseAutoencoder  # noqa: E402

D, M, N = 16, 64, 24
generator = torch.Generator().manual_seed(7)
tokens = torch.randn(N, D, generator=generator) * 2 + 0.7
dead = torch.rand(M, generator=generator) < 0.3
expected = {"tokens": tokens, "dead": dead.float()}
helpers.current_git_commit = lambda: "unknown"


def fill(module):
    with torch.no_grad():
        for name, p in sorted(module.named_parameters()):
            wide = p.dim() == 2
            p.copy_(torch.randn(p.shape, generator=generator) * (0.4 if wide else 0.3))
            if "threshold" in name:
                p.copy_(torch.rand(p.shape, generator=generator) * 0.6 + 0.2)
    return module.eval()


def keep(name, active, decoded):
    expected[name + ".active"] = active.detach().contiguous()
    expected[name + ".decoded"] = decoded.detach().contiguous()


def number(name, value):
    expected[name] = value.detach().float().reshape(1).clone()


# SAELens: what is read and what is trained.
where = SAEMetadata(model_name="vit", hook_name="blocks.1.hook_resid_post", sae_lens_version="6", sae_lens_training_version="6")
for name, kind, config in [
        ("saelens_standard", standard_sae.StandardSAE, standard_sae.StandardSAEConfig(D, M, normalize_activations="layer_norm")),
        ("saelens_topk", topk_sae.TopKSAE, topk_sae.TopKSAEConfig(D, M, k=6, rescale_acts_by_decoder_norm=True)),
        ("saelens_jumprelu", jumprelu_sae.JumpReLUSAE,
         jumprelu_sae.JumpReLUSAEConfig(D, M, normalize_activations="constant_norm_rescale", apply_b_dec_to_input=False)),
        ("saelens_gated", gated_sae.GatedSAE, gated_sae.GatedSAEConfig(D, M))]:
    config.metadata = where
    sae = fill(kind(config))
    sae.save_model(out / name)
    active = sae.encode(tokens)
    keep(name, active, sae.decode(active))


def training_step(kind, config, coefficients):
    sae = fill(kind(config))
    step = TrainStepInput(sae_in=tokens, coefficients=coefficients, dead_neuron_mask=dead, n_training_steps=0,
                          is_logging_step=False)
    return sae, sae.training_forward_pass(step)


def weights(name, module, rename=lambda n: n):
    for key, p in module.named_parameters():
        expected[f"{name}.{rename(key)}"] = p.detach().contiguous().clone()


sae, step = training_step(standard_sae.StandardTrainingSAE, standard_sae.StandardTrainingSAEConfig(D, M), {"l1": 0.3})
weights("train_standard", sae)
number("train_standard.mse", step.losses["mse_loss"])
number("train_standard.sparsity", step.losses["l1_loss"])
sae, step = training_step(gated_sae.GatedTrainingSAE, gated_sae.GatedTrainingSAEConfig(D, M), {"l1": 0.3})
weights("train_gated", sae)
number("train_gated.mse", step.losses["mse_loss"])
number("train_gated.sparsity", step.losses["l1_loss"])
number("train_gated.gate", step.losses["auxiliary_reconstruction_loss"])
for mode in ["step", "tanh"]:
    name = "train_" + mode
    sae, step = training_step(
        jumprelu_sae.JumpReLUTrainingSAE,
        jumprelu_sae.JumpReLUTrainingSAEConfig(D, M, jumprelu_sparsity_loss_mode=mode, jumprelu_bandwidth=0.5,
                                               pre_act_loss_coefficient=0.02), {"l0": 0.3})
    weights(name, sae)
    number(name + ".mse", step.losses["mse_loss"])
    number(name + ".sparsity", step.losses["l0_loss"] + step.losses["pre_act_loss"])
    step.loss.backward()
    expected[name + ".gradient.threshold"] = sae.threshold.grad.clone()
    expected[name + ".gradient.W_enc"] = sae.W_enc.grad.contiguous().clone()
    expected[name + ".gradient.W_dec"] = sae.W_dec.grad.contiguous().clone()

# ViT-Prisma: one file with its configuration pickled inside, and weights with config.json.
empty = dict(dataset_path="", dataset_train_path="", dataset_val_path="", checkpoint_path="", _device="cpu", d_in=D,
             expansion_factor=M // D, hook_point_layer=1, layer_subtype="hook_resid_post", model_name="vit")
config = VisionModelSAERunnerConfig(activation_fn_str="relu", normalize_activations="layer_norm", use_ghost_grads=True,
                                    l1_coefficient=0.3, **empty)
sae = fill(StandardSparseAutoencoder(config))
(out / "prisma_standard").mkdir(parents=True, exist_ok=True)
sae.save_model(str(out / "prisma_standard/weights.pt"))
_, active = sae.encode(tokens)
keep("prisma_standard", active, sae.decode(active))
sae.train()
_, _, _, mse, l1, ghost, _ = sae(tokens, dead)
number("prisma_standard.mse", mse)
number("prisma_standard.sparsity", l1)
number("prisma_standard.ghost", ghost)
config = VisionModelSAERunnerConfig(activation_fn_str="topk", activation_fn_kwargs={"k": 6}, cls_token_only=True,
                                    normalize_activations="none", **empty)
sae = fill(StandardSparseAutoencoder(config))
(out / "prisma_topk").mkdir(parents=True, exist_ok=True)
torch.save(sae.state_dict(), out / "prisma_topk/weights.pt")
config.save_config(str(out / "prisma_topk/config.json"))
_, active = sae.encode(tokens)
keep("prisma_topk", active, sae.decode(active))
config = VisionModelSAERunnerConfig(architecture="gated", activation_fn_str="relu", normalize_activations="layer_norm",
                                    l1_coefficient=0.3, **empty)
sae = fill(GatedSparseAutoencoder(config))
(out / "prisma_gated").mkdir(parents=True, exist_ok=True)
sae.save_model(str(out / "prisma_gated/weights.pt"))
_, active = sae.encode(tokens)
keep("prisma_gated", active, sae.decode(active))
_, _, _, mse, l1, _, gate = sae(tokens)
number("prisma_gated.mse", mse)
number("prisma_gated.sparsity", l1)
number("prisma_gated.gate", gate)

# saev.
for name, activation in [("saev_relu", modeling.Relu(sparsity=modeling.L1Sparsity(coeff=0.3))),
                         ("saev_topk", modeling.TopK(top_k=6)), ("saev_batch", modeling.BatchTopK(top_k=6))]:
    sae = fill(modeling.SparseAutoencoder(modeling.SparseAutoencoderConfig(d_model=D, d_sae=M, activation=activation)))
    if name == "saev_batch":
        sae.activation.threshold.fill_(0.75)
    modeling.dump(out / (name + ".pt"), sae)
    enc = sae.encode(tokens)
    keep(name, enc.f_x, sae.decode(enc.f_x)[:, -1])
    if name == "saev_relu":
        prefixes = torch.tensor([3, 10, 33, M])
        objectives.sample_prefixes = lambda *_: prefixes
        loss, _ = objectives.MatryoshkaObjective(objectives.Matryoshka(n_prefixes=4)).eval()(sae, tokens)
        number("saev_relu.mse", loss.mse)
        number("saev_relu.sparsity", loss.sparsity)
    if name == "saev_batch":
        sae.train()
        expected["saev_batch.training"] = sae.encode(tokens).f_x.detach()

# OpenAI.
for name, activation, normalize in [("openai_relu", nn.ReLU(), False), ("openai_topk", openai_model.TopK(6), True)]:
    sae = fill(openai_model.Autoencoder(M, D, activation=activation, normalize=normalize))
    torch.save(sae.state_dict(), out / (name + ".pt"))
    active, info = sae.encode(tokens)
    decoded = sae.decode(active, info)
    keep(name, active, decoded)
    number(name + ".mse", openai_loss.normalized_mean_squared_error(decoded, tokens))
    if name == "openai_relu":
        number(name + ".sparsity", 0.3 * openai_loss.normalized_L1_loss(active, tokens))
        # The auxiliary loss stands inside train.py and kernels.py.
        tree = ast.parse((openai / "sparse_autoencoder/kernels.py").read_text())
        space = {"torch": torch, "mse": nn.functional.mse_loss}
        exec(compile(ast.Module([f for f in tree.body if isinstance(f, ast.FunctionDef) and f.name == "normalized_mse"], []),
                     "kernels.py", "exec"), space)
        masked = sae.encode_pre_act(tokens) * dead
        top = masked.topk(8)
        said = torch.zeros_like(active).scatter(1, top.indices, top.values.relu()) @ sae.decoder.weight.T + sae.pre_bias
        number(name + ".aux", space["normalized_mse"](said, tokens - decoded.detach() + sae.pre_bias.detach()).nan_to_num(0))

# Losses of dead latents, thresholds of batch-top-k and OpenAI's own training.
few = torch.zeros(M, dtype=torch.bool)
few[[5, 17, 40]] = True
expected["few"] = few.float()


def gradients(name, **slopes):
    for key, slope in slopes.items():
        expected[f"{name}.gradient.{key}"] = slope.detach().contiguous().clone()


def unit_rows(module):
    with torch.no_grad():
        module.W_dec /= module.W_dec.norm(dim=1, keepdim=True)


# SAELens' trainers of both kinds; fewer dead latents than half the width make its loss smaller.
for name, kind, config, mask in [
        ("train_topk", topk_sae.TopKTrainingSAE, topk_sae.TopKTrainingSAEConfig(D, M, k=6), dead),
        ("train_topk_few", topk_sae.TopKTrainingSAE,
         topk_sae.TopKTrainingSAEConfig(D, M, k=6, rescale_acts_by_decoder_norm=False), few),
        ("train_batch", batchtopk_sae.BatchTopKTrainingSAE, batchtopk_sae.BatchTopKTrainingSAEConfig(D, M, k=6), dead)]:
    sae = fill(kind(config))
    weights(name, sae)
    step = sae.training_forward_pass(TrainStepInput(sae_in=tokens, coefficients={}, dead_neuron_mask=mask,
                                                    n_training_steps=0, is_logging_step=False))
    number(name + ".mse", step.losses["mse_loss"])
    number(name + ".aux", step.losses["auxiliary_reconstruction_loss"])
    step.loss.backward()
    gradients(name, W_enc=sae.W_enc.grad, W_dec=sae.W_dec.grad,
              b_enc=sae.b_enc.grad, b_dec=sae.b_dec.grad)
# Its threshold over three batches, the first from 0.
batches = [tokens, tokens.flip(1) * 0.5, tokens.roll(3, 1) * 1.7]
sae = batchtopk_sae.BatchTopKTrainingSAE(batchtopk_sae.BatchTopKTrainingSAEConfig(D, M, k=6))
fill(sae)
unit_rows(sae)
weights("threshold_saelens", sae)
found = []
for batch in batches:
    sae.training_forward_pass(TrainStepInput(sae_in=batch, coefficients={}, dead_neuron_mask=None, n_training_steps=0,
                                             is_logging_step=False))
    found.append(float(sae.topk_threshold))
expected["threshold_saelens.after"] = torch.tensor(found)
expected["batches"] = torch.stack(batches)

# saev's, with fewer places than dead latents, and with more.
for name, activation in [("aux_saev_topk", modeling.TopK(top_k=6)), ("aux_saev_batch", modeling.BatchTopK(top_k=6))]:
    sae = fill(modeling.SparseAutoencoder(modeling.SparseAutoencoderConfig(d_model=D, d_sae=M, activation=activation)))
    weights(name, sae)
    sae.train()
    objectives.sample_prefixes = lambda *_: torch.tensor([M])
    objective = objectives.MatryoshkaObjective(objectives.Matryoshka(n_prefixes=1)).train()
    loss, said = objective(sae, tokens)
    number(name + ".mse", loss.mse)
    for k_aux in [8, 512]:
        number(f"{name}.aux{k_aux}", modeling.AuxK(k_aux=k_aux).loss(sae=sae, x=tokens, out=said, dead_mask=dead))
    sae.zero_grad()
    (loss.mse + modeling.AuxK(k_aux=8).loss(sae=sae, x=tokens, out=said, dead_mask=dead)).backward()
    gradients(name, W_enc=sae.W_enc.grad, W_dec=sae.W_dec.grad,
              b_enc=sae.b_enc.grad, b_dec=sae.b_dec.grad)
sae = fill(modeling.SparseAutoencoder(
    modeling.SparseAutoencoderConfig(d_model=D, d_sae=M, activation=modeling.BatchTopK(top_k=6))))
unit_rows(sae)
weights("threshold_saev", sae)
sae.train()
found = []
for batch in batches:
    sae.encode(batch)
    found.append(float(sae.activation.threshold))
expected["threshold_saev.after"] = torch.tensor(found)


# OpenAI's trainer: its kernels by torch's products, its processes one that talks to itself.
class Decoder(torch.autograd.Function):
    @staticmethod
    def forward(context, indices, values, weight):
        context.save_for_backward(indices, values, weight)
        return (values.unsqueeze(1) @ weight.T[indices]).squeeze(1)

    @staticmethod
    def backward(context, gradient):
        indices, values, weight = context.saved_tensors
        return None, (gradient @ weight).gather(1, indices), by_index(indices, values, gradient, weight.shape[1]).T


def by_index(sparse_indices, sparse_values, dense, N):
    full = torch.zeros(dense.shape[0], N).scatter_add(1, sparse_indices, sparse_values)
    return full.T @ dense


kernels = types.ModuleType("sparse_autoencoder.kernels")
kernels.triton_sparse_transpose_dense_matmul = by_index
kernels.TritonDecoderAutograd = Decoder
kernels.mse = nn.functional.mse_loss
kernels.normalized_mse = space["normalized_mse"]
sys.modules["sparse_autoencoder.kernels"] = kernels
for name in ["triton", "triton.language", "wandb"]:
    sys.modules[name] = types.ModuleType(name)
sys.modules["triton"].language = sys.modules["triton.language"]
from sparse_autoencoder import train as openai_train  # noqa: E402


class Alone:
    def size(self):
        return 1

    def all_reduce(self, *_, **__):
        pass

    def all_gather(self, into, x, **_):
        into[0].copy_(x)


comms = openai_train.ShardingComms(n_replicas=1, n_op_shards=1, dp_rank=0, sh_rank=0, dp_comm=None, sh_comm=Alone(), _rank=0)
cfg = types.SimpleNamespace(auxk_coef=1 / 32)
ae = fill(openai_train.FastAutoencoder(M, D, k=3, auxk=8, dead_steps_threshold=10, comms=comms))
for key, p in [("W_enc", ae.encoder.weight.T), ("W_dec", ae.decoder.weight.T), ("b_enc", ae.latent_bias), ("b_dec", ae.pre_bias)]:
    expected["train_openai." + key] = p.detach().contiguous().clone()
ae.stats_last_nonzero += dead * 1000
stats_acts_sample = tokens.roll(5, 1) * 0.8
expected["train_openai.sample"] = stats_acts_sample
main = next(f for f in ast.parse((openai / "sparse_autoencoder/train.py").read_text()).body
            if isinstance(f, ast.FunctionDef) and f.name == "main")
scale = next(a.value for a in ast.walk(main) if isinstance(a, ast.Assign) and a.targets[0].id == "mse_scale")
loss_of = next(f for f in ast.walk(main) if isinstance(f, ast.Lambda))
mse_scale = eval(compile(ast.Expression(scale), "train.py", "eval")).item()
space = vars(openai_train) | {"mse_scale": mse_scale, "cfg": cfg}
terms = {}
logger = types.SimpleNamespace(logkv=lambda key, value: terms.setdefault(key, value))
read = tokens.clone()
recons, info = ae(read)
loss = eval(compile(ast.Expression(loss_of), "train.py", "eval"), space)(ae, read, recons, info, logger)
number("train_openai.mse", terms["train_recons"])
number("train_openai.aux", terms["train_maxk_recons"])
expected["train_openai.dead"] = (ae.stats_last_nonzero > 10).float()
loss.backward()
gradients("train_openai", W_enc=ae.encoder.weight.grad.T,
          W_dec=ae.decoder.weight.grad.T, b_enc=ae.latent_bias.grad, b_dec=ae.pre_bias.grad)

save_file({k: v.contiguous() for k, v in expected.items()}, out / "expected.safetensors")
print("sae_lens", sae_lens.__version__, "torch", torch.__version__, len(expected), "tensors")
