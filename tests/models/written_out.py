"""The published networks that are told a noise level, written out from their parameters."""

import math

import torch
from torch.nn import functional


def condition_of(p, sigma):
    """The adaLN input of one text."""
    angles = [sigma * math.exp(-math.log(10000) * k / 128) for k in range(128)]
    sinusoid = torch.tensor([math.cos(a) for a in angles] + [math.sin(a) for a in angles])
    inner = functional.silu(p["sigma_map.mlp.0.weight"] @ sinusoid + p["sigma_map.mlp.0.bias"])
    return functional.silu(p["sigma_map.mlp.2.weight"] @ inner + p["sigma_map.mlp.2.bias"])


def turned(x):
    """Rotary positions of (L, heads, width): pairs (j, j + width / 2)."""
    length, _, width = x.shape
    half, out = width // 2, x.clone()
    for position in range(length):
        for j in range(half):
            angle = position * 10000.0 ** (-j / half)
            a, b = x[position, :, j], x[position, :, j + half]
            out[position, :, j] = a * math.cos(angle) - b * math.sin(angle)
            out[position, :, j + half] = a * math.sin(angle) + b * math.cos(angle)
    return out


def norm(x, weight):
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight


def gelu(x):
    return x / 2 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def raw_output(p, z, sigma, heads=2):
    """The head's output (L, V) for one text z at one level, from parameters by published name."""
    c = condition_of(p, sigma)
    x = p["vocab_embed.embedding"][z]
    length, width = x.shape

    def modulations(name):
        return (p[f"{name}.weight"] @ c + p[f"{name}.bias"]).split(width)

    depth = 1 + max(int(name.split(".")[1]) for name in p if name.startswith("blocks."))
    for n in range(depth):
        b = f"blocks.{n}"
        shift1, scale1, gate1, shift2, scale2, gate2 = modulations(f"{b}.adaLN_modulation")
        h = norm(x, p[f"{b}.norm1.weight"]) * (1 + scale1) + shift1
        q, k, v = (
            part.view(length, heads, -1)
            for part in (h @ p[f"{b}.attn_qkv.weight"].T).split(width, -1)
        )
        scores = torch.einsum("qhd,khd->hqk", turned(q), turned(k)) / math.sqrt(width / heads)
        mixed = torch.einsum("hqk,khd->qhd", scores.softmax(-1), v).reshape(length, width)
        x = x + gate1 * (mixed @ p[f"{b}.attn_out.weight"].T)
        h = norm(x, p[f"{b}.norm2.weight"]) * (1 + scale2) + shift2
        h = gelu(h @ p[f"{b}.mlp.0.weight"].T + p[f"{b}.mlp.0.bias"])
        x = x + gate2 * (h @ p[f"{b}.mlp.2.weight"].T + p[f"{b}.mlp.2.bias"])
    shift, scale = modulations("output_layer.adaLN_modulation")
    x = norm(x, p["output_layer.norm_final.weight"]) * (1 + scale) + shift
    return x @ p["output_layer.linear.weight"].T + p["output_layer.linear.bias"]


def log_scores(p, z, sigma, *, scale_by_sigma=True, heads=2):
    """What the published score model gives for one text (L, V): log s, 0 at the token there."""
    out = raw_output(p, z, sigma, heads)
    if scale_by_sigma:
        out = out - math.log(math.exp(sigma) - 1) - math.log(out.shape[1] - 1)
    out = out.clone()
    for position, token in enumerate(z.tolist()):
        out[position, token] = 0
    return out


def published_parameters(model):
    """Of one of our models, by the names of a score model: without the prefix of the backbone."""
    return {name.removeprefix("backbone."): p.detach() for name, p in model.named_parameters()}
