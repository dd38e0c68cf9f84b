"""Weights that lie in files: their names and shapes at once, their numbers when they are read."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from sdtt.models.formats.files import INDEX, WEIGHTS, weight_map, weights_files

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""Names of safetensors."""


@dataclass(frozen=True)
class Stored:
    """One tensor of a file.

    Attributes:
        shape: Its sizes.
        dtype: Of its numbers.
        read: Gives the tensor: of a safetensors file memory-mapped, not copied.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[], Tensor]

    @property
    def bytes(self) -> int:
        """Its size in the file."""
        return prod(self.shape) * self.dtype.itemsize


def in_memory(tensors: Mapping[str, Tensor]) -> dict[str, Stored]:
    """Tensors that were read already."""
    return {
        name: Stored(tuple(tensor.shape), tensor.dtype, partial(_same, tensor))
        for name, tensor in tensors.items()
    }


def _same(tensor: Tensor) -> Tensor:
    return tensor


def in_folder(folder: Path) -> dict[str, Stored]:
    """The weights of a model folder: of one file, or of the shards that its index names.

    Raises:
        ValueError: If there are none, a shard is missing or outside the folder, or a file is
            damaged.
    """
    shards = {file.name: in_safetensors(file) for file in weights_files(folder)}
    if WEIGHTS not in shards and (folder / INDEX).is_file():
        where = weight_map(folder)
        absent = sorted(key for key, name in where.items() if key not in shards[name])
        if absent:
            raise ValueError(
                f"{folder}: {len(absent)} weights are not in the shard that {INDEX} names, such as "
                f"{absent[0]} in {where[absent[0]]}"
            )
    return {key: stored for shard in shards.values() for key, stored in shard.items()}


def in_safetensors(file: Path) -> dict[str, Stored]:
    """The weights of one safetensors file, by its header.

    Raises:
        ValueError: If it is damaged, or has numbers of a kind that is not known.
    """
    try:
        handle: Any = safe_open(file, framework="pt")
    except SafetensorError as error:
        raise ValueError(
            f"the weights file {file} is damaged or not whole ({error}); download it again"
        ) from error
    found = {}
    for name in handle.keys():  # noqa: SIM118 - it has no other way to list them
        part = handle.get_slice(name)
        kind = part.get_dtype()
        if kind not in DTYPES:
            raise ValueError(f"{file}: {name} has numbers of type {kind}, which is not known")
        read = partial(handle.get_tensor, name)
        found[name] = Stored(tuple(part.get_shape()), DTYPES[kind], read)
    return found
