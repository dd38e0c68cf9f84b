"""The first held-back text of a corpus, encoded once and kept in memory."""

from collections.abc import Iterator
from typing import overload

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from sdtt.data.corpus import is_empty, unwrapped
from sdtt.data.encoding import encode_pieces, pieces_of
from sdtt.data.files import Document
from sdtt.data.lanes import weight
from sdtt.data.parts import Part
from sdtt.data.split import split_by_hash
from sdtt.data.stream_state import StreamSettings
from sdtt.models.vocabulary import vocabulary_size

LONGEST_SEARCH = 2**28
"""Characters that are read at most for validation."""


class HeldBlocks(Dataset[Int64[Tensor, " L"]]):
    """Blocks in memory, for validation.

    Attributes:
        length: L.
        tokens: In all blocks.
        bytes_per_token: As of `packing.Blocks`.
    """

    def __init__(self, blocks: Int64[Tensor, "N L"], bytes_per_token: float | None) -> None:
        self._blocks = blocks
        self.length = blocks.shape[1]
        self.tokens = blocks.numel()
        self.bytes_per_token = bytes_per_token

    def __len__(self) -> int:
        """Count the blocks."""
        return len(self._blocks)

    @overload
    def __getitem__(self, index: int) -> Int64[Tensor, " L"]: ...
    @overload
    def __getitem__(self, index: slice) -> Int64[Tensor, "n L"]: ...
    def __getitem__(self, index: int | slice) -> Int64[Tensor, "..."]:
        """A block, or the blocks of a slice."""
        return self._blocks[index].clone()


def read_ahead(parts: list[Part], *, unwrap: bool, characters: int) -> Iterator[Document]:
    """Yield documents in the order of the source, up to a number of characters (ids)."""
    for part in parts:
        for document in part.open(None).documents:
            if characters <= 0:
                return
            characters -= len(document)
            if not is_empty(document):
                yield unwrapped(document) if unwrap else document


def held_blocks(
    parts: list[Part], tokenizer: PreTrainedTokenizerBase, settings: StreamSettings, count: int
) -> HeldBlocks:
    """Encode the first `count` blocks of the documents that are held back, in the source's order.

    There are fewer where the first 2^28 characters hold no more.
    """
    wanted, length = count * settings.length, settings.length
    vocabulary = vocabulary_size(tokenizer)
    found: list[Int64[np.ndarray, " _"]] = []
    tokens = size = 0
    is_text = True
    if wanted:
        documents = read_ahead(parts, unwrap=settings.unwrap, characters=LONGEST_SEARCH)
        for one in split_by_hash(documents, settings.validation_fraction):
            if not one.validation:
                continue
            found += encode_pieces(list(pieces_of(one.document)), tokenizer, vocabulary)
            tokens = sum(map(len, found))
            size += weight(one.document)
            is_text &= isinstance(one.document, str)
            if tokens >= wanted:
                break
    ids = np.concatenate([np.empty(0, dtype=np.int64), *found])
    whole = min(len(ids) // length, count) * length
    ratio = size / tokens if is_text and tokens else None
    return HeldBlocks(torch.from_numpy(ids[:whole].reshape(-1, length)), ratio)
