"""A checkpoint of any known layout: its config, its weights, and the model that they make."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from transformers.activations import ACT2FN

from sdtt.models.blocks import BlocksModel
from sdtt.models.config import BlocksConfig
from sdtt.models.formats.account import Account, account_of
from sdtt.models.formats.files import read_json
from sdtt.models.formats.layouts import LENGTH, Config, Layout, Weights, of_shapes, recognise
from sdtt.models.formats.names import by_plain_name
from sdtt.models.formats.stored import Stored, in_folder
from sdtt.models.mdlm import MDLMConfig

WITHOUT_MASK = {
    50257: "GPT-2's without MASK",
    30522: "BERT's, whose MASK is not the last id but 103",
    28996: "cased BERT's, whose MASK is not the last id but 103",
}
"""Sizes of vocabularies in which the last id is a token, not MASK."""

OPEN = ("n_heads", "cond_dim", "model_length", "mask_token_id")
SIZES = ("vocab_size", "hidden_dim", "n_blocks", *OPEN)
"""Settings that are whole numbers; those that are ``OPEN`` may be None."""


@dataclass(frozen=True)
class Checkpoint:
    """What is known of a checkpoint before a number of it is read.

    Attributes:
        source: As it was named.
        layout: Of which it is.
        config: Of the model that it becomes.
        account: Of its keys.
        notes: What was assumed, one line each.
        folder: Where its other files lie (tokenizer, generation config), if it is a folder.
    """

    source: str
    layout: Layout
    config: BlocksConfig
    account: Account
    notes: tuple[str, ...] = ()
    folder: Path | None = None

    @property
    def dtype(self) -> torch.dtype:
        """Of its weights; where they differ, one that holds them all."""
        return reduce(torch.promote_types, (w.dtype for w in self.account.taken.values()))

    def model(self, dtype: torch.dtype | None = None) -> Any:
        """The model, in evaluation mode; weights that need no cast stay memory-mapped.

        Args:
            dtype: Of its weights; that of the file by default.
        """
        model: Any = self.outline()
        wanted = dtype or self.dtype
        state = {name: stored.read().to(wanted) for name, stored in self.account.taken.items()}
        model.load_state_dict(state, strict=False, assign=True)  # every key is accounted for
        model.tie_weights()
        model.config.dtype = wanted
        model.config._name_or_path = self.source
        if self.folder is not None:
            model.adjust_generation_fn(None, None, None, self.folder)
        return model.eval()

    def outline(self) -> Any:
        """The model without weights, on the meta device."""
        return _outline(self.layout, self.config)


def read_folder(
    folder: Path, *, n_heads: int | None = None, mask_token_id: int | None = None
) -> Checkpoint:
    """The checkpoint of a folder with a config and safetensors.

    Args:
        folder: Local.
        n_heads: Attention heads, where the files do not say it.
        mask_token_id: The id of MASK, where it is not what the files say.

    Raises:
        ValueError: If a file is missing or damaged, it is of another architecture, or a key is
            missing, misshapen or strange.
    """
    file = folder / "config.json"
    config = read_json(file) if file.is_file() else {}
    stored = in_folder(folder)
    try:
        found = read(str(folder), config, stored, n_heads=n_heads, mask_token_id=mask_token_id)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from error
    return replace(found, folder=folder)


def read(
    source: str,
    config: Config,
    stored: Mapping[str, Stored],
    *,
    n_heads: int | None = None,
    mask_token_id: int | None = None,
) -> Checkpoint:
    """The checkpoint that a config and weights are; see ``read_folder``.

    Args:
        source: How it is called.
        config: As it is published; empty if there is none.
        stored: Weights under the names of the file.
        n_heads: Attention heads, where the config does not say it.
        mask_token_id: The id of MASK, where it is not what the config says.

    Raises:
        ValueError: As ``read_folder``.
    """
    weights: Weights = {own: stored[name] for own, name in by_plain_name(stored).items()}
    layout = recognise(config, weights)
    network = layout.network(weights)
    said = layout.settings(config, network)
    _check_kinds(said)
    settings, notes = _complete(said, n_heads, mask_token_id)
    _check_heads(settings, of_shapes(network).get("n_heads"))
    own = layout.config_type.from_dict(settings)
    outline = _outline(layout, own)
    shapes = {n: tuple(p.shape) for n, p in outline.named_parameters(remove_duplicate=False)}
    tied = frozenset(shapes) - {name for name, _ in outline.named_parameters()}
    return Checkpoint(source, layout, own, account_of(layout, shapes, weights, tied), notes)


def _complete(
    settings: dict[str, Any], n_heads: int | None, mask_token_id: int | None
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The settings with what is given by hand, and what was assumed.

    Raises:
        ValueError: If heads or MASK are not known.
    """
    notes = []
    settings = {name: value for name, value in settings.items() if name != "model_type"}
    if settings.get("n_heads", settings.get("num_attention_heads")) is None:
        if n_heads is None:
            width = settings.get("hidden_dim")
            raise ValueError(
                f"nothing says how many attention heads it has, and a width of {width} does not "
                "either: give --n-heads (published checkpoints: 12 of 768, 16 of 1024 and 1536)"
            )
        settings["n_heads"] = n_heads
    elif n_heads is not None:
        _check_heads(settings, n_heads)
    if settings.get("model_length", settings.get("max_position_embeddings")) is None:
        settings["model_length"] = LENGTH
        notes.append(f"nothing says the length of its texts: {LENGTH} is taken")
    size = settings.get("vocab_size")
    if mask_token_id is not None:
        settings["mask_token_id"] = mask_token_id
    elif settings.get("mask_token_id") is None and size is not None:
        if size in WITHOUT_MASK:
            raise ValueError(
                f"where is MASK? {size} ids are a vocabulary of their own, {WITHOUT_MASK[size]}: "
                "name its id by --mask-token-id; a model without MASK is no masked diffusion model"
            )
        notes.append(f"nothing names MASK: the last id, {size - 1}, is taken")
    return settings, tuple(notes)


def _check_kinds(settings: Config) -> None:
    """Refuses what is no shape of a network: the config is damaged, or refers to another file.

    Raises:
        ValueError: If a size is no whole number, or the dropout or the non-linearity are none.
    """
    names = MDLMConfig.attribute_map
    for said, value in settings.items():
        name = names.get(said, said)
        if name in SIZES and not (name in OPEN and value is None):
            if type(value) is not int:
                raise ValueError(f"its config says {said}={value!r}, which is no whole number")
        elif name == "dropout" and type(value) not in (int, float):
            raise ValueError(f"its config says {said}={value!r}, which is no number")
        elif name == "hidden_act" and str(value) not in ACT2FN:
            raise ValueError(f"its config says {said}={value!r}, which transformers does not have")


def _check_heads(settings: Config, found: int | None) -> None:
    said = settings.get("n_heads", settings.get("num_attention_heads"))
    if found is not None and said != found:
        raise ValueError(
            f"its config says {said} attention heads, but {found} are given or follow from its "
            "rotary frequencies"
        )


def _outline(layout: Layout, config: BlocksConfig) -> BlocksModel:
    kind: Any = layout.model_type
    with torch.device("meta"):
        model: BlocksModel = kind(config)
    return model
