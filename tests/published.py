"""Checkpoints as others publish them, of random weights, and their network written out plainly.

Nothing here uses the package: names, shapes and arithmetic are those of the published layout.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch.nn.functional import silu


@dataclass(frozen=True)
class Shape:
    """Of a network; MASK is the last id."""

    ids: int = 11
    width: int = 16
    blocks: int = 2
    heads: int = 2
    condition: int = 6
    length: int = 12


SMALL = Shape(ids=50258, width=768, blocks=12, heads=12, condition=128, length=1024)
"""The published size: 169M."""


def random_weights(shape=Shape(), seed=0, scale=None):
    """Every weight of the network, modulations and biases too, in the published order."""
    d, c = shape.width, shape.condition
    sizes = {"vocab_embed.embedding": (shape.ids, d)}
    sizes |= {"sigma_map.mlp.0.weight": (c, 256), "sigma_map.mlp.0.bias": (c,)}
    sizes |= {"sigma_map.mlp.2.weight": (c, c), "sigma_map.mlp.2.bias": (c,)}
    sizes["rotary_emb.inv_freq"] = (d // shape.heads // 2,)
    for n in range(shape.blocks):
        block = {"norm1.weight": (d,), "attn_qkv.weight": (3 * d, d), "attn_out.weight": (d, d)}
        block |= {"norm2.weight": (d,), "mlp.0.weight": (4 * d, d), "mlp.0.bias": (4 * d,)}
        block |= {"mlp.2.weight": (d, 4 * d), "mlp.2.bias": (d,)}
        block |= {"adaLN_modulation.weight": (6 * d, c), "adaLN_modulation.bias": (6 * d,)}
        sizes |= {f"blocks.{n}.{name}": size for name, size in block.items()}
    sizes |= {"output_layer.norm_final.weight": (d,)}
    sizes |= {
        "output_layer.linear.weight": (shape.ids, d),
        "output_layer.linear.bias": (shape.ids,),
    }
    sizes |= {"output_layer.adaLN_modulation.weight": (2 * d, c)}
    sizes |= {"output_layer.adaLN_modulation.bias": (2 * d,)}
    generator = torch.Generator().manual_seed(seed)
    scale = scale or 1.2 / math.sqrt(d)
    weights = {}
    for name, size in sizes.items():
        mean = float("norm" in name)
        weights[name] = torch.empty(size).normal_(mean, scale, generator=generator)
    half = d // shape.heads // 2
    weights["rotary_emb.inv_freq"] = 10000.0 ** -(torch.arange(half) / half)
    return weights


def texts(shape=Shape(), count=3, length=10, seed=5):
    """Ids, about half of them MASK."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(shape.ids - 1, (count, length), generator=generator)
    masked = torch.rand(count, length, generator=generator) < 0.5
    return torch.where(masked, shape.ids - 1, ids)


@torch.no_grad()
def plain_scores(p, z, heads):
    """The published network, from its weights by name (no prefix): scores of all ids."""

    def linear(x, name):
        y = x @ p[f"{name}.weight"].T
        return y + p[f"{name}.bias"] if f"{name}.bias" in p else y

    def norm(x, name):
        centred = x - x.mean(-1, keepdim=True)
        return centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * p[name]

    def modulations(name, parts):
        if f"{name}.adaLN_modulation.weight" not in p:  # a folded network
            zero, one = torch.zeros(width), torch.ones(width)
            return [zero, zero, one] * 2 if parts == 6 else [zero, zero]
        return linear(condition, f"{name}.adaLN_modulation").split(width)

    def turned(x):  # batch, position, head, width: pairs (j, j + half) as complex numbers
        half = x.shape[-1] // 2
        angle = torch.arange(x.shape[1])[:, None] * 10000.0 ** -(torch.arange(half) / half)
        pairs = torch.complex(x[..., :half], x[..., half:]) * torch.exp(1j * angle)[:, None]
        return torch.cat([pairs.real, pairs.imag], -1)

    def gelu(x):
        return x / 2 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))

    x = p["vocab_embed.embedding"][z]
    batch, length, width = x.shape
    if "sigma_map.mlp.0.weight" in p:
        sigma, frequencies = 0.0, torch.exp(-math.log(10000) * torch.arange(128) / 128)
        sinusoid = torch.cat([torch.cos(sigma * frequencies), torch.sin(sigma * frequencies)])
        condition = silu(linear(silu(linear(sinusoid, "sigma_map.mlp.0")), "sigma_map.mlp.2"))
    blocks = 1 + max(int(name.split(".")[1]) for name in p if name.startswith("blocks."))
    for n in range(blocks):
        block = f"blocks.{n}"
        shift1, scale1, gate1, shift2, scale2, gate2 = modulations(block, 6)
        h = norm(x, f"{block}.norm1.weight") * (1 + scale1) + shift1
        query, key, value = linear(h, f"{block}.attn_qkv").split(width, -1)
        query, key, value = (a.view(batch, length, heads, -1) for a in (query, key, value))
        scores = torch.einsum("bqhd,bkhd->bhqk", turned(query), turned(key))
        law = (scores / math.sqrt(width // heads)).softmax(-1)
        mixed = torch.einsum("bhqk,bkhd->bqhd", law, value).reshape(x.shape)
        x = x + gate1 * linear(mixed, f"{block}.attn_out")
        h = norm(x, f"{block}.norm2.weight") * (1 + scale2) + shift2
        x = x + gate2 * linear(gelu(linear(h, f"{block}.mlp.0")), f"{block}.mlp.2")
    shift, scale = modulations("output_layer", 2)
    h = norm(x, "output_layer.norm_final.weight") * (1 + scale) + shift
    return linear(h, "output_layer.linear")


def plain_law(p, z, heads):
    """Log-probabilities of all ids but the last, MASK."""
    return plain_scores(p, z, heads)[..., :-1].log_softmax(-1)


# ---------------------------------------------------------------- files


def under(weights, prefix="backbone."):
    """The weights under a prefix."""
    return {prefix + name: weight for name, weight in weights.items()}


def mdlm_config(shape=Shape()):
    """As kuleshov-group/mdlm-owt has it."""
    return {
        "architectures": ["MDLM"],
        "auto_map": {
            "AutoConfig": "configuration_mdlm.MDLMConfig",
            "AutoModelForMaskedLM": "modeling_mdlm.MDLM",
        },
        "cond_dim": shape.condition,
        "dropout": 0.1,
        "hidden_dim": shape.width,
        "model_length": shape.length,
        "model_type": "mdlm",
        "n_blocks": shape.blocks,
        "n_heads": shape.heads,
        "return_dict": False,
        "time_conditioning": False,
        "torch_dtype": "float32",
        "vocab_size": shape.ids,
    }


def nested_config(shape=Shape()):
    """As jdeschena/sdtt has it, and Lightning's files of mdlm."""
    return {
        "mode": "train",
        "backbone": "dit",
        "time_conditioning": False,
        "T": 0,
        "parameterization": {"name": "multi-round-sdtt", "num_distill_steps": 2},
        "data": {"tokenizer_name_or_path": "gpt2", "wrap": True},
        "model": {
            "type": "ddit",
            "hidden_size": shape.width,
            "cond_dim": shape.condition,
            "length": shape.length,
            "n_blocks": shape.blocks,
            "n_heads": shape.heads,
            "scale_by_sigma": True,
            "dropout": 0.1,
        },
        "optim": {"lr": 6e-5},
    }


def write_folder(folder, config, weights, shards=1):
    """A config.json and safetensors, in one file or in shards with an index."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    if shards == 1:
        save_file(weights, folder / "model.safetensors")
        return folder
    where = {}
    for number in range(shards):
        file = f"model-{number + 1:05}-of-{shards:05}.safetensors"
        names = list(weights)[number::shards]
        save_file({name: weights[name] for name in names}, folder / file)
        where |= dict.fromkeys(names, file)
    index = {"metadata": {}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def write_lightning(file, weights, average=None, config=None, **more):
    """A file of Lightning's trainer: what it keeps beside the weights is there too.

    Args:
        file: Where to.
        weights: Under the names that they have in the module.
        average: The shadow list, in the order of the parameters.
        config: Of hydra, among the hyper-parameters.
        **more: Further hyper-parameters.
    """
    content = {
        "epoch": 1,
        "global_step": 7,
        "pytorch-lightning_version": "2.2.1",
        "state_dict": weights,
        "loops": {"fit_loop": {}},
        "optimizer_states": [{"state": {}, "param_groups": []}],
        "hyper_parameters": ({} if config is None else {"config": config}) | more,
    }
    if average is not None:
        content["ema"] = {"decay": 0.9999, "num_updates": 7, "shadow_params": average}
    torch.save(content, file)
    return Path(file)


def parameters(weights):
    """The weights that are parameters, as lists of moving averages have them."""
    return [weight for name, weight in weights.items() if "inv_freq" not in name]
