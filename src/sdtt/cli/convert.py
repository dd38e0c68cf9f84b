"""`sdtt convert`: a published checkpoint as a plain transformers folder, or a model as theirs."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging

from sdtt.cli.console import note
from sdtt.cli.options import command
from sdtt.data.tokenizer import read_tokenizer, with_mask
from sdtt.models.export import check_code, check_reference, export_reference, save_with_code
from sdtt.models.formats.checkpoint import Checkpoint
from sdtt.models.formats.convert import (
    check_destination,
    check_foldable,
    check_tokenizer,
    convert_checkpoint,
    save_plain,
)
from sdtt.models.formats.files import has_tokenizer
from sdtt.models.formats.lines import account_lines
from sdtt.models.formats.source import read_source

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class ConvertSettings:
    """What is converted, and how."""

    source: str = field(
        metadata={
            "help": "a folder (MDLM, SDTT, SEDD), a Lightning .ckpt, a name on the hub or of "
            "'sdtt published'",
            "positional": True,
        }
    )
    dest: Path | None = field(
        default=None, metadata={"help": "the folder that is written", "positional": True}
    )
    revision: str | None = field(
        default=None, metadata={"help": "of a name on the hub: a branch, tag or commit"}
    )
    dtype: Literal["float32", "bfloat16"] | None = field(
        default=None, metadata={"help": "of the weights; the file's by default"}
    )
    fold: bool = field(
        default=False,
        metadata={
            "help": "multiply the constant conditioning into norms, biases and linears",
            "flag_only": True,
        },
    )
    weights: Literal["ema", "raw"] | None = field(
        default=None,
        metadata={"help": "of a Lightning file; the moving average by default, if it has one"},
    )
    tokenizer: str | None = field(
        default=None,
        metadata={"help": "folder or hub name of a tokenizer; the source's by default"},
    )
    n_heads: int | None = field(
        default=None, metadata={"help": "attention heads, where the files do not say it"}
    )
    mask_token_id: int | None = field(
        default=None, metadata={"help": "id of MASK, where it is not what the files say"}
    )
    to: Literal["transformers", "mdlm", "sdtt"] = field(
        default="transformers",
        metadata={"help": "the layout that is written; mdlm and sdtt are the reference code's"},
    )
    with_code: bool = field(
        default=False,
        metadata={
            "help": "put modeling_mdlm.py beside it, which loads and samples it without sdtt",
            "flag_only": True,
        },
    )
    overwrite: bool = field(
        default=False, metadata={"help": "replace a model that is at DEST", "flag_only": True}
    )
    dry_run: bool = field(
        default=False,
        metadata={"help": "show the account of every key and write nothing", "flag_only": True},
    )

    def __post_init__(self) -> None:
        """Refuses what cannot be."""
        if self.dest is None and not self.dry_run:
            raise ValueError("DEST is required: the folder to write (or --dry-run, for none)")
        if self.with_code and self.to != "transformers":
            raise ValueError(
                f"--with-code does not go with --to {self.to}: that layout is read by code of its"
                " own; leave one of them out"
            )


def convert(settings: ConvertSettings) -> None:
    """Turn a published checkpoint into a plain transformers folder: sdtt convert SOURCE DEST.

    Takes MDLM and SDTT folders and hub names, and Lightning checkpoints, of which no code is run.
    Every key is taken, folded or reported as left over; a missing, misshapen or strange one is an
    error. DEST appears once all of it is written.
    """
    logging.disable_progress_bar()
    checkpoint = read_source(
        settings.source,
        revision=settings.revision,
        weights=settings.weights,
        n_heads=settings.n_heads,
        mask_token_id=settings.mask_token_id,
    )
    dtype = None if settings.dtype is None else DTYPES[settings.dtype]
    tokenizer = _tokenizer(settings, checkpoint)
    if settings.to != "transformers":
        check_reference(checkpoint.config)
    if settings.with_code:
        check_code(checkpoint.config)
    if settings.fold:
        check_foldable(checkpoint)
    if settings.dest is not None:
        check_destination(checkpoint, settings.dest, overwrite=settings.overwrite)
    print("\n".join(account_lines(checkpoint, folded=settings.fold, dtype=dtype)))
    if tokenizer is None:
        note(
            "no tokenizer comes with it: --tokenizer gpt2 puts one beside the model (published "
            "MDLM and SDTT checkpoints read GPT-2's ids)"
        )
    if settings.dry_run or settings.dest is None:
        print("written     nothing: --dry-run")
        return
    convert_checkpoint(
        checkpoint,
        settings.dest,
        dtype=dtype,
        folded=settings.fold,
        tokenizer=tokenizer,
        overwrite=settings.overwrite,
        save=_form(settings),
    )
    print(f"written     {settings.dest}")


def _form(settings: ConvertSettings) -> Callable[[Any, Path], None]:
    """What writes the model."""
    if settings.to == "transformers":
        return save_with_code if settings.with_code else save_plain
    return partial(export_reference, layout=settings.to)


def _tokenizer(settings: ConvertSettings, checkpoint: Checkpoint) -> PreTrainedTokenizerBase | None:
    """The tokenizer that goes beside the model, known to be of its ids."""
    own = checkpoint.folder
    place = settings.tokenizer or (str(own) if own is not None and has_tokenizer(own) else None)
    if place is None:
        return None
    tokenizer, mask = read_tokenizer(place), settings.mask_token_id
    if mask is not None and mask in tokenizer.get_vocab().values():
        tokenizer.mask_token = tokenizer.convert_ids_to_tokens(mask)
    else:  # the new one, whose id may have been given
        tokenizer = with_mask(tokenizer)
    check_tokenizer(checkpoint, tokenizer)
    return tokenizer


COMMAND = command(convert, example="sdtt convert jdeschena/sdtt models/sdtt --tokenizer gpt2")
