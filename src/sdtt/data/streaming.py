"""Blocks of L token ids from a corpus that is read, encoded and shuffled while training goes on."""

import dataclasses
from collections.abc import Iterable, Mapping

import torch
from jaxtyping import Int64
from torch import Tensor
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from sdtt.data.corpus import Source
from sdtt.data.encoding import check_tokenizer, encode_pieces, tokenizer_digest
from sdtt.data.held import HeldBlocks, held_blocks
from sdtt.data.lanes import FRESH, Dealer, Lane, Start
from sdtt.data.parts import Part, parts_digest, parts_of
from sdtt.data.stream_state import StreamSettings, StreamState
from sdtt.data.windows import ReadingPlace, Windows
from sdtt.models.vocabulary import vocabulary_size

LAYOUT = 2
"""To be raised when the same settings give other texts: no stream goes on by another rule."""

CHARACTERS_OF_A_TOKEN = 4
"""A guess at what a missing token takes; a wrong one costs another round of encoding."""


class StreamedBlocks(Dataset[Int64[Tensor, " L"]]):
    """All texts of a run, made as they are asked for: text p is block p // S of lane p % S.

    Documents are read and shuffled by `windows.Windows`, dealt to S lanes by `lanes.Dealer`, and
    each lane packs its own into blocks of L as `load_blocks` does: bos (if it is not eos), tokens,
    eos; no padding. So text p is a function of the corpus, the tokenizer and the settings alone,
    whoever asks for it. Places of a lane must be asked for in rising order; those left out are
    encoded and dropped.

    Every process reads all documents, and encodes those of the lanes that it serves.

    Args:
        parts: The corpus.
        tokenizer: With mask, bos and eos.
        settings: The rest.
    """

    def __init__(
        self, parts: list[Part], tokenizer: PreTrainedTokenizerBase, settings: StreamSettings
    ) -> None:
        check_tokenizer(tokenizer)
        self.settings = settings
        self.length = settings.length
        self.law = {
            "the data (names and sizes of its files)": parts_digest(parts),
            "the tokenizer": tokenizer_digest(tokenizer),
            "the layout of streams": str(LAYOUT),
        } | {name: str(value) for name, value in dataclasses.asdict(settings).items()}
        self._parts, self._tokenizer = parts, tokenizer
        self._vocabulary = vocabulary_size(tokenizer)
        self._served = frozenset(range(settings.lanes))
        self.rewind()

    def serve(self, lanes: Iterable[int]) -> None:
        """Keep to some of the lanes from here on: those that this process will ask for."""
        state = self.state()
        self._served = frozenset(lanes)
        self.load_state(state)

    def rewind(self) -> None:
        """Go back to the first text."""
        start = Start(ReadingPlace(), 0, (0,) * self.settings.lanes)
        self.load_state(StreamState(self.law, start, dict.fromkeys(self._served, FRESH)))

    def state(self) -> StreamState:
        """Where the stream stands. It may go on meanwhile: a state does not change."""
        following = self._dealer.next_document
        lanes = {number: lane.state(following) for number, lane in self._lanes.items()}
        oldest = min((one.document for one in lanes.values()), default=following)
        return StreamState(self.law, self._dealer.start_before(oldest), lanes)

    def load_state(self, state: StreamState) -> None:
        """Go on from a state, with the lanes that this process serves.

        Raises:
            ValueError: It is that of another stream (saying what differs), or lacks a lane.
        """
        for name, value in self.law.items():
            if state.law.get(name) != value:
                raise ValueError(
                    f"the stream cannot go on: {name} was {state.law.get(name)} when its state was "
                    f"saved and is {value} now; give what the run began with"
                )
        lost = sorted(self._served - state.lanes.keys())
        if lost:
            raise ValueError(
                f"the saved state of the stream lacks lane {lost[0]} (and {len(lost) - 1} more): "
                "the files of all processes must lie in one folder"
            )
        self._lanes = {n: Lane(self.length, state.lanes[n]) for n in sorted(self._served)}
        windows = Windows(
            self._parts,
            seed=self.settings.seed,
            size=self.settings.buffer,
            unwrap=self.settings.unwrap,
            start=state.start.place,
        )
        self._dealer = Dealer(windows, state.start, self.settings.validation_fraction)

    def __getitem__(self, place: int) -> Int64[Tensor, " L"]:
        """The text at one place; see `__getitems__`."""
        return self.__getitems__([place])[0]

    def __getitems__(self, places: list[int]) -> list[Int64[Tensor, " L"]]:
        """The texts at some places, encoded together.

        Raises:
            ValueError: A place was handed out before, or lies on a lane that is not served; or the
                corpus is damaged, or too small.
        """
        asked = [(place % self.settings.lanes, place // self.settings.lanes) for place in places]
        last = self._check(asked)
        while True:
            missing = {lane: self._lanes[lane].missing(block) for lane, block in last.items()}
            lacking = {lane: count for lane, count in missing.items() if count > 0}
            if not lacking:
                break
            self._encode(lacking)
        return [torch.from_numpy(self._lanes[n].hand_out(block).copy()) for n, block in asked]

    def _check(self, asked: list[tuple[int, int]]) -> dict[int, int]:
        """The last block asked of each lane, all of them in order."""
        last: dict[int, int] = {}
        for lane, block in asked:
            if lane not in self._lanes:
                raise ValueError(f"lane {lane} of the stream is not one that this process serves")
            following = last[lane] + 1 if lane in last else self._lanes[lane].blocks
            if block < following:
                raise ValueError(
                    f"text {block * self.settings.lanes + lane} of the stream was handed out "
                    "before: a stream is read forward; rewind() it, or load a state"
                )
            last[lane] = block
        return last

    def _encode(self, lacking: Mapping[int, int]) -> None:
        """Encode what waits on some lanes, about as much as they lack; deal where nothing waits."""
        owners, pieces = [], []
        for number, count in lacking.items():
            lane = self._lanes[number]
            while lane.is_empty:
                dealt, target, document = self._dealer.deal()
                if target in self._lanes:
                    self._lanes[target].offer(dealt, document)
            for piece in lane.pieces(CHARACTERS_OF_A_TOKEN * count):
                owners.append(lane)
                pieces.append(piece)
        encoded = encode_pieces(pieces, self._tokenizer, self._vocabulary)
        for lane, ids in zip(owners, encoded, strict=True):
            lane.append(ids)


@dataclasses.dataclass(frozen=True)
class StreamedSplit:
    """Blocks to train on, and the first of those held back."""

    train: StreamedBlocks
    validation: HeldBlocks


def stream_blocks(
    source: Source,
    tokenizer: PreTrainedTokenizerBase,
    settings: StreamSettings,
    *,
    validation_blocks: int = 256,
) -> StreamedSplit:
    """Open a corpus as a stream: nothing is encoded ahead but some text for validation.

    Documents are held back by the rule of `load_blocks` (their hash); of these the first
    `validation_blocks` blocks are encoded, in the order of the source, or fewer if 2^28 characters
    hold no more. The tail of a small corpus is *not* split off.

    Args:
        source: See `corpus.documents`.
        tokenizer: With mask, bos and eos.
        settings: Length, lanes, seed and the like.
        validation_blocks: How many blocks to hold at most.

    Raises:
        FileNotFoundError: The source finds nothing.
        ValueError: It cannot be read, or the tokenizer lacks a mask or ends.
    """
    check_tokenizer(tokenizer)
    parts = parts_of(source, text_column=settings.text_column, eos=tokenizer.eos_token_id)
    wanted = validation_blocks if settings.validation_fraction > 0 else 0
    return StreamedSplit(
        StreamedBlocks(parts, tokenizer, settings), held_blocks(parts, tokenizer, settings, wanted)
    )
