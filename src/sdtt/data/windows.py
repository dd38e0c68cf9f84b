"""The documents of a corpus, epoch after epoch, in an order that is a function of the seed."""

import dataclasses
from typing import Any

from sdtt.data.corpus import is_empty, unwrapped
from sdtt.data.files import Document
from sdtt.data.parts import Opened, Part, Position
from sdtt.diffusion.uniforms import permutation

LARGEST = 2**26
"""Characters (ids) of a window: one of long documents ends before it has its number of them."""


@dataclasses.dataclass(frozen=True)
class ReadingPlace:
    """Where a window begins.

    Attributes:
        epoch: Readings of the whole corpus before it.
        turn: Parts that this epoch has done with.
        position: Where it begins in the part whose turn it is.
        window: Windows before it, over all epochs.
    """

    epoch: int = 0
    turn: int = 0
    position: Position = None
    window: int = 0


class Windows:
    """Reads a corpus without end; windows of neighbouring documents are shuffled.

    In each epoch the parts are read in a random order. The stream of their documents is cut into
    windows of `size` (fewer at the end of an epoch, or where they are long), each in a random
    order. Both orders are permutations by name (`diffusion.uniforms`), so that a window depends on
    its place, the seed and the corpus alone. Empty documents are left out.

    Args:
        parts: The corpus.
        seed: Of the order.
        size: Documents in a window; 1 leaves the documents of a part in their order.
        unwrap: Join hard-wrapped lines.
        start: Where to begin.
    """

    def __init__(
        self,
        parts: list[Part],
        *,
        seed: int,
        size: int,
        unwrap: bool = False,
        start: ReadingPlace | None = None,
    ) -> None:
        self._parts, self._seed, self._size, self._unwrap = parts, seed, size, unwrap
        self._start = start or ReadingPlace()
        self._epoch, self._turn = self._start.epoch, self._start.turn
        self._window = self._start.window
        self._order = self._order_of(self._epoch)
        self._opened: Opened | None = None

    @property
    def place(self) -> ReadingPlace:
        """Where the next window begins."""
        position: Any = None
        if self._opened is not None:
            position = self._opened.position()
        elif (self._epoch, self._turn) == (self._start.epoch, self._start.turn):
            position = self._start.position
        return ReadingPlace(self._epoch, self._turn, position, self._window)

    def read(self) -> list[Document]:
        """Read the next window; an empty one ends an epoch whose documents have run out."""
        found: list[Document] = []
        characters = 0
        while len(found) < self._size and characters < LARGEST:
            if self._turn == len(self._order):
                self._begin_epoch()
                break
            document = self._next()
            if document is None:
                self._turn, self._opened = self._turn + 1, None
            elif not is_empty(document):
                found.append(unwrapped(document) if self._unwrap else document)
                characters += len(document)
        order = permutation(self._seed, "stream window", self._window, len(found))
        self._window += 1
        return [found[index] for index in order.tolist()]

    def _next(self) -> Document | None:
        if self._opened is None:
            self._opened = self._parts[self._order[self._turn]].open(self.place.position)
        return next(self._opened.documents, None)

    def _begin_epoch(self) -> None:
        self._epoch, self._turn = self._epoch + 1, 0
        self._order = self._order_of(self._epoch)

    def _order_of(self, epoch: int) -> list[int]:
        order: list[int] = permutation(self._seed, "stream parts", epoch, len(self._parts)).tolist()
        return order
