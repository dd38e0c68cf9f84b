"""The one place where random numbers are made: uniforms that are a function of a name.

A uniform is named by (seed, purpose, index): for instance the mask of the 7th sequence of update
100, or the tokens of sample 12. So batch size, gradient accumulation, the number of processes and
a restart change nothing, and no generator's state is ever saved.
"""

from collections.abc import Iterable
from hashlib import blake2b

import numpy as np
import torch
from jaxtyping import Float64, Int64
from torch import Tensor


def _bits(seed: int, purpose: str, *index: int) -> np.random.Philox:
    """Philox4x64-10 (Salmon et al. 2011), keyed by the 128-bit hash of the name."""
    name = "/".join([str(seed), purpose, *map(str, index)])
    key = int.from_bytes(blake2b(name.encode(), digest_size=16).digest(), "little")
    return np.random.Philox(key=key)


def uniforms(
    seed: int, purpose: str, indices: Iterable[int | tuple[int, ...]], length: int
) -> Float64[Tensor, "B L"]:
    """Uniforms in [0, 1) with 53 random bits, one row of them for each index.

    Args:
        seed: The seed of the run.
        purpose: What they are for; different purposes are independent.
        indices: The name of each row, such as (update, index in the global batch).
        length: Numbers in a row.

    Returns:
        float64 on the CPU; row b depends on (seed, purpose, indices[b]) alone, and a longer row
        begins with the shorter one.
    """
    rows = [
        _bits(seed, purpose, *((index,) if isinstance(index, int) else index)).random_raw(length)
        for index in indices
    ]
    if not rows:
        return torch.empty(0, length, dtype=torch.float64)
    raw = np.stack(rows)
    # the upper 53 bits fill a double's mantissa: every multiple of 2^-53 in [0, 1) is as likely
    return torch.from_numpy((raw >> np.uint64(11)) * 2.0**-53)


def permutation(seed: int, purpose: str, index: int, size: int) -> Int64[Tensor, " N"]:
    """A random order of 0 .. size - 1, a function of its name alone."""
    raw = _bits(seed, purpose, index).random_raw(size)
    # 64-bit keys: a tie has chance size^2 / 2^65, and a stable sort settles it
    return torch.from_numpy(np.argsort(raw, kind="stable"))
