"""What decides the texts of a stream, and where one stands."""

import dataclasses
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import safetensors
import safetensors.numpy

from sdtt.data.lanes import LaneState, Start
from sdtt.data.windows import ReadingPlace


@dataclasses.dataclass(frozen=True)
class StreamSettings:
    """What decides the texts of a stream, beside the corpus and the tokenizer.

    Attributes:
        length: L, tokens of a block.
        lanes: S: place p of a run is block p // S of lane p % S.
        seed: Of the order.
        buffer: Documents that are shuffled at a time.
        validation_fraction: Share of the documents held back, in [0, 1).
        text_column: The column of the text.
        unwrap: Join hard-wrapped lines.
    """

    length: int
    lanes: int
    seed: int = 0
    buffer: int = 10_000
    validation_fraction: float = 0.05
    text_column: str = "text"
    unwrap: bool = False

    def __post_init__(self) -> None:
        """Refuses what cannot be."""
        for name in ("length", "lanes", "buffer"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"{name} of a stream must be at least 1, got {getattr(self, name)}"
                )
        if not 0 <= self.validation_fraction < 1:
            raise ValueError(
                "validation_fraction must be at least 0 and below 1, "
                f"got {self.validation_fraction}"
            )


@dataclasses.dataclass(frozen=True)
class StreamState:
    """Where a stream stands, for some of its lanes.

    Attributes:
        law: What must be the same in a stream that goes on from here, in words.
        start: From where documents have to be read and dealt again.
        lanes: How far each lane has come.
    """

    law: Mapping[str, str]
    start: Start
    lanes: Mapping[int, LaneState]

    def save(self, path: Path) -> None:
        """Write a safetensors file: the ids, and the rest as JSON in its metadata."""
        order = sorted(self.lanes)
        states = [self.lanes[lane] for lane in order]
        record = {
            "law": dict(self.law),
            "start": dataclasses.asdict(self.start),
            "lanes": [
                [n, s.blocks, s.document, s.pieces] for n, s in zip(order, states, strict=True)
            ],
        }
        tensors = {str(lane): state.rest for lane, state in zip(order, states, strict=True)}
        safetensors.numpy.save_file(tensors, path, {"stream": json.dumps(record)})

    @classmethod
    def load(cls, path: Path) -> "StreamState":
        """Read what `save` wrote."""
        with safetensors.safe_open(path, "numpy") as file:
            record = json.loads(file.metadata()["stream"])
            lanes = {
                lane: LaneState(blocks, document, pieces, file.get_tensor(str(lane)))
                for lane, blocks, document, pieces in record["lanes"]
            }
        start = record["start"]
        place = ReadingPlace(**start["place"])
        return cls(record["law"], Start(place, start["document"], tuple(start["loads"])), lanes)

    @classmethod
    def merge(cls, states: Iterable["StreamState"]) -> "StreamState":
        """Put the lanes of several processes together: of each the state that has come farthest."""
        found = list(states)
        lanes: dict[int, LaneState] = {}
        for state in found:
            for lane, one in state.lanes.items():
                if lane not in lanes or lanes[lane].blocks < one.blocks:
                    lanes[lane] = one
        return cls(found[0].law, min((s.start for s in found), key=lambda s: s.document), lanes)
