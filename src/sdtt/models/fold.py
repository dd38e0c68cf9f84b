"""Folds constant conditioning into norms, biases and linears."""

import copy
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from sdtt.models.blocks import Backbone, BlocksModel

Model = TypeVar("Model", bound=BlocksModel)


@torch.no_grad()
def fold(model: Model) -> Model:
    """The same law without adaLN: one model's weights times its constants.

    A modulated norm is LN(x) w (1 + scale) + shift, so scales go into the norm's weight; a shift,
    behind a linear map W, is the bias W shift; a gate multiplies the rows of the linear map before
    it. All in float64, rounded once, so that the folded model gives the law of the other to the
    rounding of its dtype. Queries, keys and values get a bias by it (``attention_bias``).

    Args:
        model: With ``conditioning="constant"``; another one is returned as it is.

    Returns:
        A new model, which shares the weights that folding does not change.
    """
    if model.config.conditioning == "none":
        return model
    config = copy.deepcopy(model.config)
    config.conditioning, config.cond_dim, config.attention_bias = "none", None, True
    with torch.device("meta"):  # every weight is put in below
        kind: Any = type(model)
        folded: Model = kind(config)
    state = _folded_state(model.backbone, model.config.n_blocks)
    folded.load_state_dict(state, strict=True, assign=True)
    folded.tie_weights()
    folded.train(model.training)
    folded.requires_grad_(any(p.requires_grad for p in model.parameters()))
    if hasattr(model, "generation_config"):
        folded.generation_config = copy.deepcopy(model.generation_config)
    return folded


def _folded_state(backbone: Backbone, n_blocks: int) -> dict[str, Tensor]:
    # copies, for they are written into below
    old = {name: p.to(torch.float64, copy=True) for name, p in backbone.named_parameters()}
    condition = backbone.sigma_map.double_precision()

    def modulation(prefix: str, parts: int) -> tuple[Tensor, ...]:
        linear = (old.pop(f"{prefix}.adaLN_modulation.{part}") for part in ("weight", "bias"))
        return nn.functional.linear(condition, *linear).chunk(parts)

    for index in range(n_blocks):
        block = f"blocks.{index}"
        shift1, scale1, gate1, shift2, scale2, gate2 = modulation(block, 6)
        qkv, up = old[f"{block}.attn_qkv.weight"], old[f"{block}.mlp.0.weight"]
        bias = qkv.new_zeros(len(qkv))
        old[f"{block}.attn_qkv.bias"] = old.get(f"{block}.attn_qkv.bias", bias) + qkv @ shift1
        old[f"{block}.mlp.0.bias"] += up @ shift2
        old[f"{block}.norm1.weight"] *= 1 + scale1
        old[f"{block}.norm2.weight"] *= 1 + scale2
        old[f"{block}.attn_out.weight"] *= gate1[:, None]
        old[f"{block}.mlp.2.weight"] *= gate2[:, None]
        old[f"{block}.mlp.2.bias"] *= gate2
    shift, scale = modulation("output_layer", 2)
    old["output_layer.linear.bias"] += backbone.output_layer.linear.weight.double() @ shift
    old["output_layer.norm_final.weight"] *= 1 + scale
    return _shared(old, backbone)


def _shared(state: dict[str, Tensor], backbone: Backbone) -> dict[str, Tensor]:
    """The state in the model's dtype; weights that did not change are the model's own."""
    own = dict(backbone.named_parameters(remove_duplicate=False))
    dtype = backbone.vocab_embed.embedding.dtype
    head = "output_layer.linear.weight"
    state.setdefault(head, own[head])  # where it is tied
    result = {}
    for name, weight in state.items():
        if name.startswith("sigma_map."):
            continue
        changed = name not in own or not torch.equal(weight, own[name].double())
        result[f"backbone.{name}"] = weight.to(dtype) if changed else own[name].detach()
    return result
