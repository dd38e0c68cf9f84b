"""A checkpoint as a plain transformers folder, whole or not at all."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from sdtt.models.fold import fold
from sdtt.models.formats.checkpoint import Checkpoint
from sdtt.models.vocabulary import vocabulary_size

OURS = (
    *("config.json", "generation_config.json", "*.safetensors", "*.safetensors.index.json"),
    *("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt"),
    *("chat_template.*", "README.md", "modeling_mdlm.py"),
)
"""What a model folder may hold for it to be replaced."""


def save_plain(model: Any, folder: Path) -> None:
    """The model as transformers has it, without code."""
    model.save_pretrained(folder)


def convert_checkpoint(
    checkpoint: Checkpoint,
    destination: Path,
    *,
    dtype: torch.dtype | None = None,
    folded: bool = False,
    tokenizer: PreTrainedTokenizerBase | None = None,
    overwrite: bool = False,
    save: Callable[[Any, Path], None] = save_plain,
) -> None:
    """Writes a checkpoint as a folder, by default one that ``AutoModelForMaskedLM`` loads.

    Args:
        checkpoint: Any.
        destination: The folder; it appears under this name once all of it is written.
        dtype: Of the weights; that of the file by default.
        folded: Multiply the constant conditioning into norms, biases and linears.
        tokenizer: Put beside the model.
        overwrite: Replace a model folder that is there.
        save: Writes the model into a folder: ``save_plain``, or one of ``models.export``.

    Raises:
        ValueError: If something is there already that may not be replaced, the tokenizer is not of
            the model, or ``save`` cannot express it.
    """
    recover(destination)
    check_destination(checkpoint, destination, overwrite=overwrite)
    if folded:
        check_foldable(checkpoint)
    if tokenizer is not None:
        check_tokenizer(checkpoint, tokenizer)
    model: Any = checkpoint.model()
    if folded:
        model = fold(model)  # in the precision of the file, and rounded after that
    if dtype is not None:
        model = model.to(dtype)
    with replacing(destination) as aside:
        save(model, aside)
        if tokenizer is not None:
            tokenizer.save_pretrained(aside)


def check_destination(checkpoint: Checkpoint, destination: Path, *, overwrite: bool) -> None:
    """Refuses a destination that is there, or, where it may be replaced, holds other things.

    Raises:
        ValueError: If it is refused.
    """
    if not destination.exists():
        return
    if not overwrite:
        raise ValueError(f"{destination} is there already; give --overwrite or another DEST")
    if not destination.is_dir():
        raise ValueError(f"{destination} is a file; give another DEST")
    source = checkpoint.folder
    if source is not None and destination.resolve() in (
        source.resolve(),
        *source.resolve().parents,
    ):
        raise ValueError(f"{destination} is the source, or holds it; give another DEST")
    known = {path for pattern in OURS for path in destination.glob(pattern)}
    strange = sorted(path.name for path in destination.iterdir() if path not in known)
    if strange:
        raise ValueError(
            f"{destination} holds more than a model, such as {strange[0]}: it is not replaced; "
            "give another DEST"
        )


def check_foldable(checkpoint: Checkpoint) -> None:
    """Refuses to fold what has nothing to fold.

    Raises:
        ValueError: If it has no conditioning, or one that is not constant.
    """
    if checkpoint.config.conditioning == "time":
        raise ValueError(
            f"{checkpoint.source} is told the time, so nothing of its conditioning is constant and "
            "can be folded: leave out --fold"
        )
    if checkpoint.config.conditioning == "none":
        raise ValueError(f"{checkpoint.source} has no conditioning to fold: leave out --fold")


def check_tokenizer(checkpoint: Checkpoint, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuses a tokenizer that has other ids than the model.

    Raises:
        ValueError: If it has more of them, or another MASK.
    """
    size, mask = checkpoint.config.vocab_size, checkpoint.config.mask_token_id
    count, own = vocabulary_size(tokenizer), tokenizer.mask_token_id
    if own == size == count - 1:
        raise ValueError(
            f"the model has {size} ids and the tokenizer as many without MASK: it is of a model "
            "without MASK, or not of this one; a masked diffusion model has one id more (if one of "
            "its tokens serves as MASK, --mask-token-id names it)"
        )
    if count > size:
        raise ValueError(
            f"the tokenizer has {count} ids and the model {size}: it is not of this model; name "
            "another by --tokenizer"
        )
    if own != mask:
        raise ValueError(
            f"MASK is {own} for the tokenizer and {mask} for the model; --mask-token-id names the "
            "right one for the model"
        )


@contextmanager
def replacing(destination: Path) -> Iterator[Path]:
    """A folder to write into, which takes the name of the destination at the end.

    If anything fails it goes away, and what was there stays.

    Args:
        destination: The folder; one that is there is replaced.

    Yields:
        The folder to write into, beside it.
    """
    recover(destination)
    destination, aside, before = _places(destination)
    for left in (aside, before):
        shutil.rmtree(left, ignore_errors=True)
    try:
        aside.mkdir(parents=True)
        yield aside
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    if destination.exists():
        destination.rename(before)
    aside.rename(destination)
    shutil.rmtree(before, ignore_errors=True)


def recover(destination: Path) -> None:
    """Gives a folder its name back, where a kill came between the two renames of ``replacing``.

    Args:
        destination: The folder that was being replaced.
    """
    destination, _, before = _places(destination)
    if before.exists() and not destination.exists():
        before.rename(destination)


def _places(destination: Path) -> tuple[Path, Path, Path]:
    """The folder, where it is written, and where the one that it replaces waits until then."""
    destination = destination.resolve()  # of a link what it points to; "." has no name
    aside = destination.with_name(f".{destination.name}.partial")
    before = destination.with_name(f".{destination.name}.before")
    return destination, aside, before
