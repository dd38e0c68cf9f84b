"""Folds constant conditioning into norms, biases and linears."""

import copy
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from sdtt.models.blocks import Backbone, BlocksModel
from sdtt.models.placement import is_plain

Model = TypeVar("Model", bound=BlocksModel)


@torch.no_grad()
def fold(model: Model) -> Model:
    """The same law without adaLN: one model's weights times its constants.

    A modulated norm is LN(x) w (1 + scale) + shift, so scales go into the norm's weight; a shift,
    behind a linear map W, is the bias W shift; a gate multiplies the rows of the linear map before
    it. All in float64, rounded once, so that the folded model gives the law of the other to the
    rounding of its dtype. Queries, keys and values get a bias by it (``attention_bias``).

    Args:
        model: With ``conditioning="constant"``; another one is returned as it is: without
            conditioning there is nothing to fold, with ``"time"`` nothing that is constant.

    Returns:
        A new model, which shares the weights that folding does not change.

    Raises:
        ValueError: If weights are not plain tensors (``is_plain``).
    """
    if model.config.conditioning != "constant":
        return model
    if not is_plain(model):
        raise ValueError(
            "a quantised, offloaded or adapted model cannot be folded: fold the plain one before"
        )
    config = copy.deepcopy(model.config)
    config.conditioning, config.cond_dim, config.attention_bias = "none", None, True
    with torch.device("meta"):  # every weight is put in below
        kind: Any = type(model)
        folded: Model = kind(config)
    state = _folded_state(model.backbone, model.config.n_blocks)
    folded.load_state_dict(state, strict=True, assign=True)
    folded.tie_weights()
    folded.excluded_ids = model.excluded_ids
    folded.train(model.training)
    folded.requires_grad_(any(p.requires_grad for p in model.parameters()))
    if hasattr(model, "generation_config"):
        folded.generation_config = copy.deepcopy(model.generation_config)
    return folded


def _folded_state(backbone: Backbone, n_blocks: int) -> dict[str, Tensor]:
    """The weights of the folded model: those that change one at a time, in float64 on the CPU."""
    own = dict(backbone.named_parameters(remove_duplicate=False))
    gone = ("sigma_map.", "adaLN_modulation.")
    state = {name: w.detach() for name, w in own.items() if not any(part in name for part in gone)}
    like = backbone.vocab_embed.embedding
    condition = backbone.sigma_map.double_precision()

    def exact(name: str) -> Tensor:
        return own[name].detach().cpu().double()

    def modulation(prefix: str, parts: int) -> tuple[Tensor, ...]:
        weight, bias = (exact(f"{prefix}.adaLN_modulation.{part}") for part in ("weight", "bias"))
        return nn.functional.linear(condition, weight, bias).chunk(parts)

    def put(name: str, weight: Tensor) -> None:
        state[name] = weight.to(like.device, like.dtype)

    for index in range(n_blocks):
        block = f"blocks.{index}"
        shift1, scale1, gate1, shift2, scale2, gate2 = modulation(block, 6)
        bias = f"{block}.attn_qkv.bias"
        put(bias, exact(f"{block}.attn_qkv.weight") @ shift1 + (exact(bias) if bias in own else 0))
        put(f"{block}.norm1.weight", exact(f"{block}.norm1.weight") * (1 + scale1))
        put(f"{block}.attn_out.weight", exact(f"{block}.attn_out.weight") * gate1[:, None])
        up, down = f"{block}.mlp.0", f"{block}.mlp.2"
        put(f"{up}.bias", exact(f"{up}.bias") + exact(f"{up}.weight") @ shift2)
        put(f"{block}.norm2.weight", exact(f"{block}.norm2.weight") * (1 + scale2))
        put(f"{down}.weight", exact(f"{down}.weight") * gate2[:, None])
        put(f"{down}.bias", exact(f"{down}.bias") * gate2)
    shift, scale = modulation("output_layer", 2)
    head = "output_layer.linear"
    put(f"{head}.bias", exact(f"{head}.bias") + exact(f"{head}.weight") @ shift)
    put("output_layer.norm_final.weight", exact("output_layer.norm_final.weight") * (1 + scale))
    return {f"backbone.{name}": weight for name, weight in state.items()}
