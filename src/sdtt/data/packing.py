"""Blocks of L token ids from a corpus, for training and for validation."""

import dataclasses
import hashlib
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import overload

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from sdtt.data.corpus import Source, content_digest, documents
from sdtt.data.detokenise import rule_digest
from sdtt.data.encoding import check_tokenizer, tokenizer_digest
from sdtt.data.files import Document
from sdtt.data.split import Assigned, split_by_hash, split_tail
from sdtt.data.streams import Stream, Streams, cached_streams

LAYOUT = 2
"""Part of every key: to be raised when documents are encoded or split by another rule."""


class Blocks(Dataset[Int64[Tensor, " L"]]):
    """Row i of a stream of token ids cut into rows of L: ids[i L : (i + 1) L].

    The ids stay on disk, memory-mapped; a pickled copy (of a worker process) opens the file anew.

    Attributes:
        length: L, the tokens of a block.
        tokens: The tokens in all blocks, len(blocks) * L.
        bytes_per_token: UTF-8 bytes of the text over the tokens that encode it (bos and eos count
            as tokens), over the whole stream, so that
            bits per byte = nats per token / (bytes_per_token * ln 2).
            None for a corpus of token ids, which do not say how long their text was.
        digest: Of the ids (sha256, hexadecimal): another text has another.
    """

    def __init__(self, stream: Stream, length: int) -> None:
        """Open a stream; what does not fill a last block is left out."""
        count = stream.tokens // length
        shape = (count, length)
        self._stream = stream
        # an empty file cannot be mapped
        self._blocks: np.ndarray = (
            np.memmap(stream.path, dtype=stream.dtype, mode="r", shape=shape)
            if count
            else np.empty(shape, dtype=stream.dtype)
        )
        self.length = length
        self.tokens = count * length
        self.digest = stream.sha256
        known = stream.text_bytes is not None and stream.tokens > 0
        self.bytes_per_token = (stream.text_bytes or 0) / stream.tokens if known else None

    def __len__(self) -> int:
        """Count the blocks."""
        return len(self._blocks)

    @overload
    def __getitem__(self, index: int) -> Int64[Tensor, " L"]: ...
    @overload
    def __getitem__(self, index: slice) -> Int64[Tensor, "n L"]: ...
    def __getitem__(self, index: int | slice) -> Int64[Tensor, "..."]:
        """Copy block i, shape (L,), or the blocks of a slice, shape (n, L).

        Raises:
            IndexError: There is no such block.
        """
        return torch.from_numpy(self._blocks[index].astype(np.int64))

    def __reduce__(self) -> tuple[type["Blocks"], tuple[Stream, int]]:
        """Pickle the name of the file, not its content."""
        return Blocks, (self._stream, self.length)


@dataclasses.dataclass(frozen=True)
class SplitBlocks:
    """Blocks to train on, and blocks held back."""

    train: Blocks
    validation: Blocks


def load_blocks(
    source: Source,
    tokenizer: PreTrainedTokenizerBase,
    length: int,
    *,
    validation_fraction: float = 0.05,
    text_column: str = "text",
    unwrap: bool = False,
    detokenise: str | None = None,
    cache_dir: str | Path | None = None,
) -> SplitBlocks:
    """Encode a corpus and cut it into blocks of `length` tokens, for training and validation.

    A document is its tokens and eos, with bos before if that is another id. Documents follow each
    other without padding; blocks are cut from the whole, the rest that fills none is dropped.
    Words in a text that look like special tokens are encoded as the letters that they are.
    Long texts are encoded in pieces of 2^18 characters, cut before the last white space of a
    paragraph break, where the tokens of byte-level BPE are those of the whole.

    **The split.** A document is for validation if its sha256, as a number in [0, 1), is below
    `validation_fraction`; so the same text never lies on both sides. Where that leaves less than a
    block on a side (one document; a small corpus), the tail of the text is for validation: the
    last `validation_fraction` of its characters, or what a block needs if that is more, from the
    end of a paragraph (else line, else word) close before. Both sides of a document so cut end
    with eos; a text that comes twice may then lie on both.

    **The cache.** Encoded once (once more where the tail is for validation), by the hash of the
    source's content, the tokenizer and the settings above; memory-mapped ids of 2 bytes, or 4 if
    the vocabulary is over 65,536.

    Args:
        source: See `corpus.documents`.
        tokenizer: With a mask token and eos, as `load_tokenizer` and `with_mask` give it.
        length: L, tokens of a block.
        validation_fraction: The share held back, in [0, 1); at 0 there is no validation.
        text_column: The column of the text in .jsonl and .parquet files and datasets.
        unwrap: Join hard-wrapped lines.
        detokenise: A rule that undoes a word tokenizer, as for `corpus.documents`.
        cache_dir: The folder of the cache; $SDTT_CACHE, or ~/.cache/sdtt, if None.

    Raises:
        FileNotFoundError: The source finds nothing.
        ValueError: A setting out of range, a source that cannot be read, an id that the tokenizer
            does not have, or less text than a block (two blocks, with validation).
        OSError: The cache cannot be written.
    """
    _check(tokenizer, length, validation_fraction)
    encoder = _Encoder(
        partial(documents, source, text_column=text_column, unwrap=unwrap, detokenise=detokenise),
        tokenizer,
        Path(cache_dir or os.environ.get("SDTT_CACHE") or "~/.cache/sdtt").expanduser(),
        f"{LAYOUT} {content_digest(source, text_column=text_column)} "
        f"{tokenizer_digest(tokenizer)} {text_column} {unwrap}"
        + (f" {rule_digest(detokenise)}" if detokenise else ""),
    )
    streams = encoder.streams(
        partial(split_by_hash, fraction=validation_fraction), f"hash {validation_fraction}"
    )
    if validation_fraction > 0 and _is_short(streams, length):
        streams = _tail_streams(encoder, streams, length, validation_fraction)
    elif streams.train.tokens < length:
        raise _too_short(streams.train.tokens, length, "one block", "a smaller length")
    return SplitBlocks(Blocks(streams.train, length), Blocks(streams.validation, length))


@dataclasses.dataclass(frozen=True)
class _Encoder:
    """A corpus and a tokenizer, ready to be written under one rule of splitting or another."""

    texts: Callable[[], Iterator[Document]]
    tokenizer: PreTrainedTokenizerBase
    folder: Path
    key: str

    def streams(
        self, split: Callable[[Iterator[Document]], Iterator[Assigned]], rule: str
    ) -> Streams:
        """Open or make the streams under `split`, whose name and settings are `rule`."""
        key = hashlib.sha256(f"{self.key} {rule}".encode()).hexdigest()[:32]
        return cached_streams(self.folder, key, self.tokenizer, lambda: split(self.texts()))


def _tail_streams(encoder: _Encoder, whole: Streams, length: int, fraction: float) -> Streams:
    """Split off the tail: `fraction` of the text, or more where a block needs it."""
    tokens = whole.train.tokens + whole.validation.tokens
    size = whole.train.size + whole.validation.size
    # the share of the text that a block takes, and a quarter: tokens are not spread evenly
    block = min(1.25 * length / tokens, 0.5)
    share = min(max(fraction, block), 1 - block)
    # a text of few blocks may not bear a cut at the end of a paragraph, nor a guess at the share
    for tail, slack in ((share, 0.25), (share, 0.0), (0.5, 0.0)):
        head = round((1 - tail) * size)
        window = int(slack * min(head, size - head))
        eos = encoder.tokenizer.eos_token_id
        split = partial(split_tail, head=head, window=window, eos=eos)
        streams = encoder.streams(split, f"tail {head} {window}")
        if not _is_short(streams, length):
            return streams
    raise _too_short(
        tokens,
        length,
        f"a block on each side of the split ({2 * length} tokens)",
        "a smaller length, or validation_fraction=0",
    )


def _is_short(streams: Streams, length: int) -> bool:
    return min(streams.train.tokens, streams.validation.tokens) < length


def _too_short(tokens: int, length: int, needed: str, way_out: str) -> ValueError:
    return ValueError(
        f"the corpus has {tokens} tokens, too few for {needed} of length {length}: "
        f"give more text, {way_out}"
    )


def _check(tokenizer: PreTrainedTokenizerBase, length: int, validation_fraction: float) -> None:
    if length < 1:
        raise ValueError(f"length must be at least 1 token, got {length}")
    if not 0 <= validation_fraction < 1:
        raise ValueError(
            f"validation_fraction must be at least 0 and below 1, got {validation_fraction}"
        )
    check_tokenizer(tokenizer)
