"""Texts of L ids from data sets whose rows are mappings, as those of ``datasets``, or lists."""

from collections.abc import Mapping
from typing import Any, overload

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from sdtt.data.packing import SplitBlocks

COLUMN = "input_ids"


class IdRows(Dataset[Int64[Tensor, " L"]]):
    """The column ``input_ids`` of a data set, or its rows themselves; they must be equally long.

    Args:
        rows: With ``len`` and indexing; an item is a mapping, a list or an array.
    """

    def __init__(self, rows: Any) -> None:
        self._rows = rows
        self.length = len(_ids_of(rows[0]))

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> Int64[Tensor, " L"]: ...
    @overload
    def __getitem__(self, index: slice) -> Int64[Tensor, "n L"]: ...
    def __getitem__(self, index: int | slice) -> Int64[Tensor, "..."]:
        """The ids of a row, (L,), or those of a slice, (n, L).

        Raises:
            ValueError: If a row is of another length than the first.
        """
        if isinstance(index, slice):
            places = range(*index.indices(len(self)))
            none = torch.empty(0, self.length, dtype=torch.int64)
            return torch.cat([none, *(self[place][None] for place in places)])
        ids = torch.as_tensor(_ids_of(self._rows[index]), dtype=torch.int64)
        if len(ids) != self.length:
            raise ValueError(
                f"row {index} has {len(ids)} ids and row 0 has {self.length}: texts of a training "
                "are equally long; sdtt.load_blocks packs them so"
            )
        return ids


def _ids_of(row: Any) -> Any:
    return row[COLUMN] if isinstance(row, Mapping) else row


def as_texts(data: Any) -> Any:
    """What trainers read: the data itself, or of rows that are no tensors their ids.

    Raises:
        ValueError: If it can only be read from the front, is several data sets, or rows have no
            ids.
    """
    if isinstance(data, Mapping):
        raise ValueError(
            f"one data set is wanted, not several by name ({', '.join(map(str, data))}): give one"
        )
    if isinstance(data, SplitBlocks):
        raise ValueError("one data set is wanted, not both sides of a split: give its .train")
    if isinstance(data, IterableDataset) or not (
        hasattr(data, "__getitem__") and hasattr(data, "__len__")
    ):
        raise ValueError(
            f"a {type(data).__name__} can only be read from the front, and a run could not be "
            "resumed: give a data set with indices, or sdtt's own stream (sdtt pretrain --stream)"
        )
    if len(data) == 0 or not isinstance(data[0], Mapping | list | np.ndarray):
        return data
    if isinstance(data[0], Mapping) and COLUMN not in data[0]:
        raise ValueError(
            f"the rows of the data have {', '.join(map(str, data[0]))} and no {COLUMN}: sdtt."
            "load_blocks makes texts of L ids from text, or tokenize them into that column"
        )
    return IdRows(data)
