"""The layouts in which checkpoints are published: how each is known, and what its config means.

A further layout is one more value in ``LAYOUTS``.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sdtt.models.attention import ROTARY_BASE
from sdtt.models.blocks import BlocksModel
from sdtt.models.config import BlocksConfig
from sdtt.models.formats.names import ROOT, ROTARY
from sdtt.models.formats.stored import Stored
from sdtt.models.mdlm import MDLMConfig, MDLMForMaskedLM
from sdtt.models.sedd import SEDDConfig, SEDDForMaskedLM

Config = Mapping[str, Any]
Weights = Mapping[str, Stored]
"""By plain name, under ``backbone.`` or not, as the layout has it."""

LENGTH = 1024
"""Tokens of a text where nothing says it: of all published checkpoints."""

EMBEDDING = "vocab_embed.embedding"
CONDITION = "sigma_map.mlp.0.weight"
_REFERENCE = re.compile(r"\$\{([\w.]+)\}")
_BLOCK = re.compile(r"^blocks\.(\d+)\.")


@dataclass(frozen=True)
class Layout:
    """One way to lay out a checkpoint.

    Attributes:
        name: By which it is called in the account.
        line: Who publishes it, in one line.
        recognise: Whether a config and plain names of weights are of this layout.
        settings: From the config and the weights, those without ``prefix``, to what
            ``config_type`` takes. A field that neither says is None, or left out.
        prefix: What the names of the network's weights begin with.
        config_type: The config that it becomes.
        model_type: The model that it becomes; its weights are those of the layout, with
            ``backbone.`` for the prefix.
    """

    name: str
    line: str
    recognise: Callable[[Config, Weights], bool]
    settings: Callable[[Config, Weights], dict[str, Any]]
    prefix: str = ROOT
    config_type: type[BlocksConfig] = MDLMConfig
    model_type: type[BlocksModel] = MDLMForMaskedLM

    def ours(self, name: str) -> str:
        """Our name of a weight: of plain names of the network those that ``BlocksModel`` has."""
        inside = name.startswith(self.prefix)
        return ROOT + name.removeprefix(self.prefix) if inside else name

    def network(self, weights: Weights) -> Weights:
        """The weights of the network, without the prefix."""
        cut = len(self.prefix)
        return {name[cut:]: w for name, w in weights.items() if name.startswith(self.prefix)}


def _is_mdlm(config: Config, _: Weights) -> bool:
    return config.get("model_type") == MDLMConfig.model_type


def _is_nested(config: Config, weights: Weights) -> bool:
    nested = isinstance(config.get("model"), Mapping)
    return nested and "model_type" not in config and ROOT + EMBEDDING in weights


def _is_bare(config: Config, weights: Weights) -> bool:
    says_nothing = "model" not in config and "model_type" not in config
    return says_nothing and ROOT + EMBEDDING in weights


def _of_mdlm(config: Config, network: Weights) -> dict[str, Any]:
    """The config itself; the shapes say what it leaves open, where a default might be wrong."""
    names = MDLMConfig.attribute_map
    said = {names.get(name, name) for name in config}
    return {n: value for n, value in of_shapes(network).items() if n not in said} | dict(config)


def of_shapes(network: Weights) -> dict[str, Any]:
    """What the shapes of the network's weights say.

    Args:
        network: By name, without a prefix.

    Returns:
        Settings by our names; None for what no shape says.
    """
    if EMBEDDING not in network or len(network[EMBEDDING].shape) != 2:
        return {}
    rows, width = network[EMBEDDING].shape
    numbers = [int(match[1]) for name in network if (match := _BLOCK.match(name))]
    rotary = next((w for name, w in network.items() if ROTARY.search(name)), None)
    condition = network.get(CONDITION)
    said: dict[str, Any] = {
        "vocab_size": rows,
        "hidden_dim": width,
        "n_blocks": 1 + max(numbers, default=0),
    }
    said["cond_dim"] = condition.shape[0] if condition and condition.shape else None
    half = rotary.shape[0] if rotary and rotary.shape else 0
    said["n_heads"] = width // (2 * half) if half else None
    return said


def of_nested(config: Config, network: Weights) -> dict[str, Any]:
    """The settings of a config with a section ``model``, as hydra writes it.

    The size of the vocabulary is that of the embedding: such a config does not say it.

    Raises:
        ValueError: If it is of a network that is no law of clean tokens behind MASK.
    """
    _refuse_other_laws(config)
    algorithm = config.get("algo")
    inner = algorithm if isinstance(algorithm, Mapping) else {}
    told_time = any(each.get("time_conditioning") is True for each in (config, inner))
    said = _of_section(config)
    return of_shapes(network) | said | {"time_conditioning": told_time}


def _of_section(config: Config) -> dict[str, Any]:
    """What the section ``model`` says of the network, by our names."""
    model = config.get("model") or {}
    names = {
        "hidden_size": "hidden_dim",
        "n_blocks": "n_blocks",
        "n_heads": "n_heads",
        "cond_dim": "cond_dim",
        "length": "model_length",
        "dropout": "dropout",
        "tie_word_embeddings": "tie_word_embeddings",
    }
    said = {ours: _resolved(model.get(name), config) for name, ours in names.items()}
    return {name: value for name, value in said.items() if value is not None}


def _resolved(value: Any, config: Config) -> Any:
    """What a reference of hydra, such as "${data.length}", stands for, if the config says it."""
    match = _REFERENCE.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        return value
    target: Any = config
    for part in match[1].split("."):
        target = target.get(part) if isinstance(target, Mapping) else None
    return value if target is None else target


def _is_sedd(config: Config, weights: Weights) -> bool:
    sections = all(isinstance(config.get(name), Mapping) for name in ("model", "graph"))
    return sections and "model_type" not in config and bool(of_shapes(weights))


def of_sedd(config: Config, network: Weights) -> dict[str, Any]:
    """The settings of a score model: sections model, graph and noise, and its tokens.

    Raises:
        ValueError: If its noise does not end in MASK, or its vocabulary is not tokens and MASK.
    """
    kind, noise = config["graph"].get("type"), config.get("noise")
    if kind != "absorb":
        raise ValueError(
            f"its config says graph.type={kind!r}: its noise is not MASK; 'absorb' is taken"
        )
    said = of_shapes(network) | _of_section(config)
    rows, tokens = said["vocab_size"], config.get("tokens")
    if tokens is not None and tokens + 1 != rows:
        raise ValueError(
            f"its config says {tokens} tokens, which with MASK are {tokens + 1} ids, and the "
            f"embedding has {rows} rows"
        )
    said |= {"mask_token_id": rows - 1, "conditioning": "time"}
    said["scale_by_sigma"] = config["model"].get("scale_by_sigma", True)
    noise = noise if isinstance(noise, Mapping) else {}
    said["noise"] = noise.get("type", "loglinear")
    ends = {name: noise.get(name) for name in ("sigma_min", "sigma_max")}
    # hydra writes 1e-4 as a string
    return said | {name: float(end) for name, end in ends.items() if end is not None}


def _refuse_other_laws(config: Config) -> None:
    """Refuses networks that are no denoisers of masked text, by what their configs say."""
    inner = config.get("algo") if isinstance(config.get("algo"), Mapping) else {}
    both = {**config, **inner} if inner else dict(config)
    others = {
        "parameterization": ("sedd", "score", "mean", "d3pm", "ar"),
        "name": ("duo", "duo_base", "ar", "sedd", "d3pm"),
        "diffusion": ("uniform",),
        "backbone": ("dimamba", "ar", "unet"),
    }
    for key, values in others.items():
        if both.get(key) in values:
            raise ValueError(
                f"its config says {key}={both[key]!r}: that is no law of clean tokens behind MASK "
                "from this transformer; parameterization 'subs' and backbone 'dit' are taken"
            )
    if both.get("causal_attention") is True:
        raise ValueError("its config says causal_attention=true: it is an autoregressive model")


def rotary_base_is_ours(frequencies: Any) -> bool:
    """Whether rotary frequencies of a file are 10000^(-2 j / width)."""
    count = frequencies.numel()
    due = [ROTARY_BASE ** (-j / count) for j in range(count)]
    rounding = 2**-7  # of bfloat16
    return all(
        abs(f - d) <= rounding * d for f, d in zip(frequencies.flatten().tolist(), due, strict=True)
    )


LAYOUTS = (
    Layout(
        name="mdlm",
        line="a transformers folder of MDLM (kuleshov-group/mdlm-owt), or of sdtt itself",
        recognise=_is_mdlm,
        settings=_of_mdlm,
    ),
    Layout(
        name="nested",
        line="a config with a section 'model': SDTT (jdeschena/sdtt), Lightning of mdlm and duo",
        recognise=_is_nested,
        settings=of_nested,
    ),
    Layout(
        name="sedd",
        line="a score model with sections 'model' and 'graph' (louaaron/sedd-small, -medium)",
        recognise=_is_sedd,
        settings=of_sedd,
        prefix="",
        config_type=SEDDConfig,
        model_type=SEDDForMaskedLM,
    ),
    Layout(
        name="saved sedd",
        line="a transformers folder of a score model, as sdtt saves it",
        recognise=lambda config, _: config.get("model_type") == SEDDConfig.model_type,
        settings=_of_mdlm,
        config_type=SEDDConfig,
        model_type=SEDDForMaskedLM,
    ),
    Layout(
        name="bare",
        line="weights of an MDLM without a config: the shapes say it",
        recognise=_is_bare,
        settings=of_nested,
    ),
)
"""Tried in this order."""


def recognise(config: Config, weights: Weights) -> Layout:
    """The layout of a checkpoint.

    Args:
        config: Of its folder or file; empty if there is none.
        weights: By plain name.

    Raises:
        ValueError: If it is of another architecture; the message says what was found.
    """
    for layout in LAYOUTS:
        if layout.recognise(config, weights):
            return layout
    kind = config.get("model_type")
    names = sorted(weights)[:2]
    found = f"model_type {kind!r}" if kind else f"a config with {', '.join(sorted(config)[:4])}"
    raise ValueError(
        f"this is a checkpoint of another architecture: it has {found if config else 'no config'} "
        f"and weights such as {' and '.join(names) or '(none)'}; known are "
        + "; ".join(f"{layout.name} ({layout.line})" for layout in LAYOUTS)
    )
