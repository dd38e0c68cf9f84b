"""Lanes: a stream of documents dealt out to S packers of blocks, each of which stands alone."""

import dataclasses
import heapq
from collections import deque
from collections.abc import Iterable, Iterator

import numpy as np
from jaxtyping import Int64

from sdtt.data.encoding import Piece, pieces_of
from sdtt.data.files import Document
from sdtt.data.split import split_by_hash
from sdtt.data.windows import ReadingPlace, Windows

BYTES_OF_AN_ID = 4
"""What a token id weighs against UTF-8 bytes of text, roughly."""


@dataclasses.dataclass(frozen=True)
class LaneState:
    """How far a lane has come.

    Attributes:
        blocks: Handed out.
        document: The number of the first document that it has not wholly encoded; of the documents
            before it this lane wants none.
        pieces: Pieces of that document that are encoded.
        rest: Ids that are encoded and not handed out.
    """

    blocks: int
    document: int
    pieces: int
    rest: Int64[np.ndarray, " _"]


FRESH = LaneState(0, 0, 0, np.empty(0, dtype=np.int64))


class Lane:
    """Packs its documents into blocks of L ids, without padding.

    Args:
        length: L.
        state: How far it has come.
    """

    def __init__(self, length: int, state: LaneState = FRESH) -> None:
        self._length = length
        self.blocks = state.blocks
        self._first, self._encoded = state.document, state.pieces
        self._rest = state.rest
        self._waiting: deque[tuple[int, Piece]] = deque()

    def missing(self, block: int) -> int:
        """Count the ids that are still to be encoded before a block is whole."""
        return (block + 1 - self.blocks) * self._length - len(self._rest)

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits to be encoded."""
        return not self._waiting

    def offer(self, number: int, document: Document) -> None:
        """Queue a document that was dealt to this lane, unless it has had it."""
        if number < self._first:
            return
        begun = self._encoded if number == self._first else 0
        for piece in list(pieces_of(document))[begun:]:
            self._waiting.append((number, piece))

    def pieces(self, size: int) -> Iterator[Piece]:
        """Take what waits, of `size` characters (ids) or more, if there is so much."""
        while self._waiting and size > 0:
            number, piece = self._waiting.popleft()
            self._encoded = 0 if piece.last else self._encoded + 1 if number == self._first else 1
            self._first = number + 1 if piece.last else number
            size -= len(piece.content)
            yield piece

    def append(self, ids: Int64[np.ndarray, " _"]) -> None:
        """Add the ids of a piece that was taken."""
        self._rest = np.concatenate([self._rest, ids])

    def hand_out(self, block: int) -> Int64[np.ndarray, " L"]:
        """Give a block that is whole; those before it are dropped."""
        start = (block - self.blocks) * self._length
        result = self._rest[start : start + self._length]
        self._rest = self._rest[start + self._length :]
        self.blocks = block + 1
        return result

    def state(self, next_document: int) -> LaneState:
        """How far it has come; `next_document` is the number that will be dealt next."""
        if self._waiting:
            return LaneState(self.blocks, self._waiting[0][0], self._encoded, self._rest)
        if next_document > self._first:
            return LaneState(self.blocks, next_document, 0, self._rest)
        return LaneState(self.blocks, self._first, self._encoded, self._rest)  # not yet read again


@dataclasses.dataclass(frozen=True)
class Start:
    """From where documents are dealt.

    Attributes:
        place: Where a window begins.
        document: The number of its first document.
        loads: Bytes dealt to each lane before it.
    """

    place: ReadingPlace
    document: int
    loads: tuple[int, ...]


class Dealer:
    """Numbers the documents of training and deals each to the lane that has had the fewest bytes.

    A lane of documents d, d + S, d + 2 S, ... would be simpler. But lanes hand out equally many
    tokens, and so those with short documents would run ahead of the others by more and more of
    them, all of which have to be kept; a lane that got a book would keep everybody waiting. Bytes
    of UTF-8 are known without the tokenizer, and so to every process, and they are nearly in
    proportion to tokens.

    Args:
        windows: The documents.
        start: Where `windows` begins.
        fraction: Of the documents, that are held back for validation (see `split_by_hash`).
    """

    def __init__(self, windows: Windows, start: Start, fraction: float) -> None:
        self._windows, self._fraction = windows, fraction
        self._loads = [(load, lane) for lane, load in enumerate(start.loads)]
        heapq.heapify(self._loads)
        self._dealt: Iterator[Document] = iter(())
        self._starts = deque([start])
        self.next_document = start.document

    def deal(self) -> tuple[int, int, Document]:
        """Deal a document: its number, its lane, and itself.

        Raises:
            ValueError: The whole corpus has fewer documents than there are lanes.
        """
        document = next(self._dealt, None)
        while document is None:
            self._read_window()
            document = next(self._dealt, None)
        load, lane = self._loads[0]
        heapq.heapreplace(self._loads, (load + weight(document), lane))
        number = self.next_document
        self.next_document += 1
        return number, lane, document

    def start_before(self, document: int) -> Start:
        """The latest window that a document may be in; those before it are forgotten."""
        while len(self._starts) > 1 and self._starts[1].document <= document:
            self._starts.popleft()
        return self._starts[0]

    def _read_window(self) -> None:
        place = self._windows.place
        lanes = len(self._loads)
        if place.epoch > 0 and self.next_document < lanes:
            raise ValueError(
                f"the corpus has {self.next_document} documents to train on, fewer than the "
                f"{lanes} lanes of its stream: leave --stream out (nothing so small needs it), "
                "part long texts by lines of <|endoftext|>, or lower stream_lanes"
            )
        loads = tuple(load for load, _ in sorted(self._loads, key=lambda one: one[1]))
        self._starts.append(Start(place, self.next_document, loads))
        assigned = split_by_hash(self._windows.read(), self._fraction)
        self._dealt = iter([one.document for one in assigned if not one.validation])


def weight(document: Document) -> int:
    """The bytes of UTF-8 of a text; four for each id."""
    if not isinstance(document, str):
        return BYTES_OF_AN_ID * len(document)
    return len(document) if document.isascii() else len(document.encode())


def lanes_of_process(
    *, process: int, processes: int, micro_batch: int, lanes: int
) -> frozenset[int]:
    """The lanes that a process asks for: place p is on lane p % S, and micro-batches go in turn.

    Where S is a multiple of `processes` x `micro_batch` (as the texts of an update are), every
    lane belongs to one process.

    Args:
        process: Which one, from 0.
        processes: How many there are.
        micro_batch: Texts that a process takes at once.
        lanes: S.
    """
    stride = processes * micro_batch
    period = np.lcm(stride, lanes)
    firsts: Iterable[int] = range(process * micro_batch, int(period), stride)
    return frozenset((first + i) % lanes for first in firsts for i in range(micro_batch))
