"""Whether a round still gains: a divergence on held-out texts, and how long it has not fallen."""

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Plateau:
    """What the measurements of a round have shown so far.

    Attributes:
        lowest: The divergence that the others are measured against, in nats; None before the first.
        stale: Measurements since then, none of which was lower by more than the least fall.
    """

    lowest: float | None = None
    stale: int = 0

    def after(self, divergence: float, least_fall: float) -> "Plateau":
        """The same with one more measurement.

        Args:
            divergence: In nats a masked position. One that is no number has not fallen.
            least_fall: In nats; a smaller fall counts as none.
        """
        if self.lowest is None or divergence < self.lowest - least_fall:
            return Plateau(divergence)
        return Plateau(self.lowest, self.stale + 1)


def check_early_stop(
    interval: int, patience: int, least_fall: float, texts: int, longest: int
) -> None:
    """Refuses an early stop that cannot be.

    Args:
        interval: Updates between two measurements; 0: none.
        patience: Measurements without a fall that end a round.
        least_fall: In nats.
        texts: How many texts are measured.
        longest: Updates of the longest round.

    Raises:
        ValueError: If one lies outside its range, or no round is long enough to be measured.
    """
    if interval < 0:
        raise ValueError(f"early_stop_interval must be at least 0, got {interval}; 0: never")
    if patience < 1:
        raise ValueError(f"early_stop_patience must be at least 1, got {patience}")
    if not least_fall >= 0:
        raise ValueError(f"early_stop_min_delta must be at least 0 nats, got {least_fall}")
    if texts < 1:
        raise ValueError(f"early_stop_texts must be at least 1, got {texts}")
    if interval > longest:
        raise ValueError(
            f"early_stop_interval={interval} never comes: the longest round has {longest} updates"
        )


def shares(texts: int, batch: int, index: int, processes: int) -> Iterator[tuple[range, bool]]:
    """The batches of one of several processes, and whether it is the one that counts them.

    Every batch counts in one process. All processes take equally many, for sharded models wait for
    each other: where batches run out, the last one is taken again and does not count.

    Args:
        texts: How many there are.
        batch: In one pass.
        index: Which process this is.
        processes: How many there are.
    """
    batches = [range(first, min(first + batch, texts)) for first in range(0, texts, batch)]
    for first in range(0, len(batches), processes):
        own = first + index
        yield batches[min(own, len(batches) - 1)], own < len(batches)
