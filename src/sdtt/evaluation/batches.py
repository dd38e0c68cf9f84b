"""Texts of unequal lengths for a causal model: windows of long ones, batches, padding."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor


@dataclass(frozen=True)
class Window:
    """A stretch of a text that a causal model reads in one pass.

    Attributes:
        text: The number of the text.
        first: The first token that is read.
        scored: The first token that is scored; those before are context only.
        end: One behind the last, which is scored too.
    """

    text: int
    first: int
    scored: int
    end: int

    @property
    def width(self) -> int:
        """Tokens that are read."""
        return self.end - self.first

    @property
    def fresh(self) -> int:
        """Tokens that are scored, the last of those that are read."""
        return self.end - self.scored


def windows_of(
    text: int, length: int, *, window: int | None, stride: int | None, behind_bos: bool
) -> Iterator[Window]:
    """The windows that score each token of a text exactly once.

    The first scores all it can; each later one begins so that it ends ``stride`` tokens further, or
    at the end of the text. So a token of a later window has at least ``window - stride`` tokens of
    context.

    Args:
        text: The number of the text.
        length: Its tokens.
        window: Positions of a pass; None where there is no limit.
        stride: New tokens of a later window, at most ``window``.
        behind_bos: Whether a BOS stands in front of each window, and takes one of its positions;
            then the first token is scored too.
    """
    # the last token of a window is predicted and takes no position
    reach = length if window is None else window + (not behind_bos)
    end, begin = min(length, reach), 0 if behind_bos else 1
    if end <= begin:
        return
    yield Window(text, 0, begin, end)
    while end < length:
        assert stride is not None
        following = min(end + stride, length)
        yield Window(text, following - reach, end, following)
        end = following


def batches_of(windows: Sequence[Window], most: Callable[[int], int]) -> Iterator[list[Window]]:
    """Batches of windows of like width, the widest first: what does not fit is known at once.

    Args:
        windows: All of them.
        most: From the width of the widest of a batch to how many windows it may have.
    """
    ordered = sorted(windows, key=lambda window: window.width, reverse=True)
    first = 0
    while first < len(ordered):
        last = first + most(ordered[first].width)
        yield ordered[first:last]
        first = last


def padded(
    rows: Sequence[Sequence[int]], device: torch.device
) -> tuple[Int[Tensor, "B L"], Int[Tensor, "B L"] | None]:
    """Rows of ids as one tensor, padded on the right, and the mask of what is no padding.

    Returns:
        The ids, and 1 where a token is real; None where all are.
    """
    width = max(len(row) for row in rows)
    # padding behind a text reaches no earlier position of a causal model
    ids = [[*row, *[row[-1]] * (width - len(row))] for row in rows]
    mask = None
    if any(len(row) < width for row in rows):
        real = [[1] * len(row) + [0] * (width - len(row)) for row in rows]
        mask = torch.tensor(real, device=device)
    return torch.tensor(ids, device=device), mask
