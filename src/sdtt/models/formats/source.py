"""A checkpoint by whatever names it: a folder, a Lightning file, or a name on the hub."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

from torch import Tensor

from sdtt.models.formats.checkpoint import Checkpoint, read, read_folder
from sdtt.models.formats.hub import fetch
from sdtt.models.formats.lightning import LightningCheckpoint, read_lightning
from sdtt.models.formats.names import ROOT, plain, reason
from sdtt.models.formats.stored import in_memory
from sdtt.models.shipped import resolve

PICKLES = (".ckpt", ".pt", ".pth")
"""Endings of Lightning's files."""

Which = Literal["ema", "raw"]


def read_source(
    source: str | Path,
    *,
    revision: str | None = None,
    weights: Which | None = None,
    n_heads: int | None = None,
    mask_token_id: int | None = None,
) -> Checkpoint:
    """The checkpoint that a source names.

    Args:
        source: A folder, a Lightning file, the name of a shipped model, or one on the hub.
        revision: On the hub: a branch, tag or commit.
        weights: The moving average ("ema") or those that were trained ("raw"); by default the
            average, where a file has one.
        n_heads: Attention heads, where the files do not say it.
        mask_token_id: The id of MASK, where it is not what the files say.

    Raises:
        FileNotFoundError: If a shipped model lacks a file.
        ValueError: If there is no such checkpoint, or something is wrong with it; the message says
            what.
    """
    place = Path(resolve(source)).expanduser()
    by_hand = {"n_heads": n_heads, "mask_token_id": mask_token_id}
    if revision is not None and place.exists():
        raise ValueError(f"a revision ({revision!r}) goes with a name on the hub, not with {place}")
    if place.is_file():
        if place.suffix not in PICKLES:
            raise ValueError(
                f"{place} is a file that is not known: give the folder of a model, or a Lightning "
                f"checkpoint ({', '.join(PICKLES)})"
            )
        return _of_lightning(place, weights, **by_hand)
    if weights == "ema":
        raise ValueError(f"{source} has no moving average beside its weights: leave out --weights")
    if place.is_dir():
        return read_folder(place, **by_hand)
    if isinstance(source, Path) or str(source).count("/") != 1 or str(source)[0] in "./~":
        raise ValueError(f"there is no folder or file {source}")
    found = read_folder(fetch(str(source), revision), **by_hand)
    return replace(found, source=f"{source}@{revision}" if revision else str(source))


def _of_lightning(file: Path, which: Which | None, **by_hand: int | None) -> Checkpoint:
    found = read_lightning(file)
    tensors, note = _chosen(found, which, file)
    config = found.hyper_parameters.get("config")
    config = config if isinstance(config, Mapping) else found.hyper_parameters
    try:
        checkpoint = read(str(file), config, in_memory(tensors), **by_hand)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
    inert = sorted(set(found.placeholders))
    notes = [note]
    if inert:
        notes.append(
            f"{len(inert)} foreign classes in the file were made inert: {', '.join(inert)}"
        )
    return replace(checkpoint, notes=(*checkpoint.notes, *notes))


def _chosen(
    found: LightningCheckpoint, which: Which | None, file: Path
) -> tuple[Mapping[str, Tensor], str]:
    """The weights that are asked for, and a line on which ones they are."""
    if found.ema is None:
        if which == "ema":
            raise ValueError(f"{file} has no moving average (EMA): leave out --weights")
        return found.weights, "the trained weights: it has no moving average (EMA)"
    if which == "raw":
        return found.weights, "the trained weights; its moving average (EMA) is left over"
    return _averaged(found.weights, found.ema, file), (
        "the moving average (EMA); its trained weights are left over (--weights raw takes them)"
    )


def _averaged(
    weights: Mapping[str, Tensor], average: list[Tensor], file: Path
) -> Mapping[str, Tensor]:
    """The weights with the shadow list in place of the network's parameters, in their order.

    Raises:
        ValueError: If their number or a shape disagrees.
    """
    names = [n for n in weights if plain(n).startswith(ROOT) and reason(plain(n)) is None]
    noise = [n for n in weights if plain(n).startswith("noise.")]
    if len(average) not in (len(names), len(names) + len(noise)):
        raise ValueError(
            f"{file}: the moving average has {len(average)} tensors for {len(names)} parameters; "
            "--weights raw takes the trained weights"
        )
    average = average[: len(names)]  # those of the noise schedule come last
    for name, shadow in zip(names, average, strict=True):
        if shadow.shape != weights[name].shape:
            raise ValueError(
                f"{file}: the moving average of {name} is {list(shadow.shape)}, the parameter "
                f"{list(weights[name].shape)}; --weights raw takes the trained weights"
            )
    return {**weights, **dict(zip(names, average, strict=True))}
