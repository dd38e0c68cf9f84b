"""Models in the forms of others: the layouts of the reference code, and with a modelling file."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers.utils import GENERATION_CONFIG_NAME

from sdtt.models.attention import ROTARY_BASE
from sdtt.models.blocks import SINUSOID_WIDTH
from sdtt.models.config import BlocksConfig
from sdtt.models.mdlm import MDLMConfig, MDLMForMaskedLM
from sdtt.models.remote import AUTO_MAP, MODELLING_FILE

LAYOUTS = ("mdlm", "sdtt")
"""The layouts of kuleshov-group/mdlm-owt and of the releases of SDTT."""

COND_DIM = 128
"""Width of the conditioning in published checkpoints."""

PUBLISHED_CODE = {
    "AutoConfig": "kuleshov-group/mdlm-owt--configuration_mdlm.MDLMConfig",
    "AutoModelForMaskedLM": "kuleshov-group/mdlm-owt--modeling_mdlm.MDLM",
}
"""Where the class of the layout "mdlm" lies; needs the remote code of that repository."""

TANH_GELU = ("gelu_pytorch_tanh", "gelu_new")
"""Names of the one non-linearity that the reference code has."""


@dataclass(frozen=True)
class Reference:
    """A model in a layout of the reference code.

    Attributes:
        config: Of config.json.
        weights: Of model.safetensors.
    """

    config: Mapping[str, Any]
    weights: Mapping[str, Tensor]


def export_reference(
    model: MDLMForMaskedLM,
    folder: Path,
    layout: str = "mdlm",
    dtype: torch.dtype | None = None,
) -> None:
    """Writes ``config.json`` and ``model.safetensors`` as the reference code reads them.

    Args:
        model: See ``as_reference``.
        folder: Made if it is not there; files of these names are replaced.
        layout: "mdlm" has the config's keys side by side, "sdtt" those of the shape in ``model``.
        dtype: Of the weights; the model's own by default.

    Raises:
        ValueError: If the reference code cannot express the model.
    """
    made = as_reference(model, layout, dtype)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(dict(made.weights), folder / "model.safetensors", metadata={"format": "pt"})
    text = json.dumps(dict(made.config), indent=2) + "\n"
    (folder / "config.json").write_text(text, encoding="utf-8")


@torch.no_grad()
def as_reference(
    model: MDLMForMaskedLM,
    layout: str = "mdlm",
    dtype: torch.dtype | None = None,
) -> Reference:
    """The same law in the reference's form, which is always conditioned and never tied.

    A model without conditioning gets modulations of weight 0, whose biases are shift 0, scale 0 and
    gate 1. A bias b of queries, keys and values, as folding leaves it, becomes the shift s with
    W s = b.

    Args:
        model: It is not changed.
        layout: Of the config.
        dtype: Of the weights; the model's own by default.

    Raises:
        ValueError: As ``check_reference``; or if an attention bias is no W s, or there is no such
            layout.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"unknown layout {layout!r}; there are {', '.join(LAYOUTS)}")
    config = model.config
    check_reference(config)
    weights = {f"backbone.{name}": w for name, w in model.backbone.state_dict().items()}
    if config.conditioning == "none":
        weights |= _without_effect(config)
    for block in (f"backbone.blocks.{index}" for index in range(config.n_blocks)):
        bias = weights.pop(f"{block}.attn_qkv.bias", None)
        if bias is not None:
            shift = _shift_for(weights[f"{block}.attn_qkv.weight"], bias, block)
            name = f"{block}.adaLN_modulation.bias"
            first_of_six = nn.functional.pad(shift, (0, 5 * len(shift)))
            weights[name] = weights[name].cpu().double() + first_of_six  # rounded once, below
    dtype = dtype or model.dtype
    # copies, so that tied weights are two; the reference keeps its frequencies beside the weights
    own = {name: w.detach().cpu().to(dtype, copy=True).contiguous() for name, w in weights.items()}
    own["backbone.rotary_emb.inv_freq"] = _frequencies(config.hidden_dim // config.n_heads)
    return Reference(_config(config, layout, dtype), own)


def check_reference(config: BlocksConfig) -> None:
    """Refuses a shape that the reference code does not have.

    Raises:
        ValueError: If MASK is not the last id, the MLP's non-linearity is another than tanh-GELU,
            it is told the time or attends in the order of revealing, or it is the shape of another
            kind of model.
    """
    if config.model_type != MDLMConfig.model_type:
        raise ValueError(
            f"a model of type {config.model_type!r} has no such layout: it is for "
            f"{MDLMConfig.model_type!r} ones"
        )
    _check_timeless(config, "the layout of the reference code, as it is written here,")
    if config.mask_token_id != config.vocab_size - 1:
        raise ValueError(
            f"the reference code takes the last id for MASK: this model's MASK is "
            f"{config.mask_token_id} of {config.vocab_size} ids; its own folder keeps it "
            "(save_pretrained)"
        )
    if config.hidden_act not in TANH_GELU:
        raise ValueError(
            f"the reference code has the tanh-GELU only: this model's hidden_act is "
            f"{config.hidden_act!r}; its own folder keeps it (save_pretrained)"
        )


def check_code(config: BlocksConfig) -> None:
    """Refuses a model that the modelling file would give another law.

    Raises:
        ValueError: If it is of another kind, told the time, or attends in the order of revealing.
    """
    if config.model_type != MDLMConfig.model_type:
        raise ValueError(
            f"{MODELLING_FILE.name} is for {MDLMConfig.model_type!r} models, not for those of type "
            f"{config.model_type!r}: leave the code out"
        )
    _check_timeless(config, MODELLING_FILE.name)


def _check_timeless(config: BlocksConfig, form: str) -> None:
    """Refuses what only our own class computes: any other would leave it out and say nothing."""
    for name, strange in {"conditioning": "time", "attention": "reveal_causal"}.items():
        if getattr(config, name) == strange:
            raise ValueError(
                f"{form} has no {name}={strange!r}, and without it another law would "
                "come out; the model's own folder keeps it (save_pretrained)"
            )


def _without_effect(config: MDLMConfig) -> dict[str, Tensor]:
    """Conditioning that changes nothing: shift 0, scale 0, gate 1, whatever the condition is."""
    width = config.hidden_dim
    zeros, ones = torch.zeros(2 * width), torch.ones(width)
    made = {
        "sigma_map.mlp.0.weight": torch.zeros(COND_DIM, SINUSOID_WIDTH),
        "sigma_map.mlp.0.bias": torch.zeros(COND_DIM),
        "sigma_map.mlp.2.weight": torch.zeros(COND_DIM, COND_DIM),
        "sigma_map.mlp.2.bias": torch.zeros(COND_DIM),
        "output_layer.adaLN_modulation.weight": torch.zeros(2 * width, COND_DIM),
        "output_layer.adaLN_modulation.bias": zeros,
    }
    for index in range(config.n_blocks):
        modulation = f"blocks.{index}.adaLN_modulation"
        made[f"{modulation}.weight"] = torch.zeros(6 * width, COND_DIM)
        made[f"{modulation}.bias"] = torch.cat([zeros, ones, zeros, ones])
    return {f"backbone.{name}": weight for name, weight in made.items()}


def _shift_for(
    weight: Float[Tensor, "K D"], bias: Float[Tensor, " K"], block: str
) -> Float[Tensor, " D"]:
    """The s with W s = b, in float64; a folded model's bias is of that form, to its rounding."""
    exact, due = weight.cpu().double(), bias.cpu().double()
    shift = torch.linalg.lstsq(exact, due[:, None]).solution.squeeze(1)
    error = float((exact @ shift - due).norm())
    if error > max(4 * torch.finfo(bias.dtype).eps, 1e-12) * float(due.norm()):
        raise ValueError(
            f"the reference code has no attention bias, and that of {block} is not what a shift of "
            "its norm makes; if the model was folded and then trained, export the unfolded one, "
            "else keep its own folder (save_pretrained)"
        )
    return shift


def _frequencies(head_width: int) -> Float[Tensor, " H"]:
    return ROTARY_BASE ** -(torch.arange(0, head_width, 2).float() / head_width)


def _config(config: MDLMConfig, layout: str, dtype: torch.dtype) -> dict[str, Any]:
    cond_dim = config.cond_dim or COND_DIM
    if layout == "sdtt":
        model = {
            "type": "ddit",
            "hidden_size": config.hidden_dim,
            "cond_dim": cond_dim,
            "length": config.model_length,
            "n_blocks": config.n_blocks,
            "n_heads": config.n_heads,
            "scale_by_sigma": True,
            "dropout": config.dropout,
            "tie_word_embeddings": False,
        }
        return {"model": model, "time_conditioning": False}
    names = ("bos_token_id", "eos_token_id", "pad_token_id")
    ids = {name: getattr(config, name) for name in names if getattr(config, name) is not None}
    return {
        "architectures": ["MDLM"],
        "auto_map": PUBLISHED_CODE,
        "model_type": config.model_type,
        "vocab_size": config.vocab_size,
        "mask_token_id": config.mask_token_id,  # which the reference does not read, and we do
        "model_length": config.model_length,
        "hidden_dim": config.hidden_dim,
        "cond_dim": cond_dim,
        "n_blocks": config.n_blocks,
        "n_heads": config.n_heads,
        "dropout": config.dropout,
        "time_conditioning": False,
        "return_dict": False,
        "torch_dtype": str(dtype).removeprefix("torch."),
        **ids,
    }


def save_with_code(model: MDLMForMaskedLM, folder: Path) -> None:
    """``save_pretrained``, and the modelling file: see ``add_code``."""
    check_code(model.config)
    _check_texts(getattr(model.generation_config, "num_return_sequences", None))
    model.save_pretrained(folder)
    add_code(folder)


def _check_texts(count: int | None) -> None:
    """Refuses a setting of a saved generation config with which transformers loads no model."""
    if (count or 1) > 1:
        raise ValueError(
            f"generation_config has num_return_sequences={count}, with which transformers alone "
            "does not load the model: set it to None, and give it to generate"
        )


def add_code(folder: Path) -> None:
    """Puts the modelling file into a saved model's folder, so that it loads without this package.

    Then ``AutoModelForMaskedLM.from_pretrained(folder, trust_remote_code=True)`` needs torch and
    transformers alone; where sdtt is imported, its own class is taken as before.

    Args:
        folder: Written by ``save_pretrained``.

    Raises:
        ValueError: If it holds no model of this kind, or one as ``check_code`` refuses it.
    """
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if config.get("model_type") != MDLMConfig.model_type:
        raise ValueError(
            f"{folder} is no folder of an {MDLMConfig.model_type!r} model: its model_type is "
            f"{config.get('model_type')!r}; write one with save_pretrained"
        )
    check_code(MDLMConfig.from_dict(config))
    saved = folder / GENERATION_CONFIG_NAME
    if saved.is_file():
        _check_texts(json.loads(saved.read_text(encoding="utf-8")).get("num_return_sequences"))
    shutil.copyfile(MODELLING_FILE, folder / MODELLING_FILE.name)
    text = json.dumps(config | {"auto_map": AUTO_MAP}, indent=2, sort_keys=True) + "\n"
    path.write_text(text, encoding="utf-8")
