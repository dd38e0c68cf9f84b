"""MAUVE: how far generated texts are from texts of people, as laws over clusters of features."""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from sdtt.evaluation.diversity import standard_error

SEEDS = (0, 1, 2, 3, 4)
"""Of k-means; five of them, as in the paper."""

SCALE = 5.0
"""c of the divergence curve, as in the paper."""


@dataclass(frozen=True)
class Mauve:
    """How near generated texts come to those of people.

    Attributes:
        mauve: Mean over seeds of MAUVE, in (0, 1]; 1 for equal histograms. For disjoint ones it is
            not 0 but 1 / binomial(2c, c): 0.004 at c = 5.
        mauve_se: The standard error of that mean over seeds: of k-means only, not of the texts.
        by_seed: MAUVE of each seed.
        seeds: Of k-means.
        scale: c.
        buckets: Clusters of the k-means.
        references: Texts of people.
        texts: Texts that were generated.
    """

    mauve: float
    mauve_se: float
    by_seed: tuple[float, ...]
    seeds: tuple[int, ...]
    scale: float
    buckets: int
    references: int
    texts: int


def mauve(
    people: Float[np.ndarray, "N D"],
    generated: Float[np.ndarray, "M E"],
    *,
    seeds: Sequence[int] = SEEDS,
    scale: float = SCALE,
    buckets: int | None = None,
    advance: Callable[[int], object] | None = None,
) -> Mauve:
    """MAUVE of generated texts against those of people, by the package mauve-text.

    Features are quantised by k-means into histograms P and Q; with R_w = w P + (1 - w) Q the curve
    (exp(-c KL(Q || R_w)), exp(-c KL(P || R_w))) over w bounds an area, which is MAUVE
    [Pillutla et al. 2021, sec. 2]. SDTT's: 1,024 prompts of 50 tokens, 50 generated ones, 5
    continuations each, features of GPT-2-large. It depends on the number of texts, so compare equal
    numbers of them only.

    Args:
        people: Features of texts of people, such as `features.last_hidden` gives.
        generated: Features of generated texts, by the same model; as long as those of people, with
            their prompts.
        seeds: Of k-means, one value of MAUVE each.
        scale: c.
        buckets: Clusters; a tenth of the fewer texts by default, and at least 2, as the package
            has it.
        advance: Told 1 after each seed, such as a progress bar.

    Raises:
        ModuleNotFoundError: If mauve-text is not installed.
        ValueError: If there are fewer texts than buckets, no seeds, features of different widths or
            not finite, or ``scale`` is not positive.
    """
    fewest = min(len(people), len(generated))
    _check(people, generated, seeds, scale, buckets)
    compute = _compute_mauve()
    count = buckets or max(2, round(fewest / 10))
    values = []
    for seed in seeds:
        with _silent_stderr():
            found = compute(
                p_features=people,
                q_features=generated,
                num_buckets=count,
                mauve_scaling_factor=scale,
                seed=seed,
                verbose=False,
            )
        values.append(float(found.mauve))
        if advance is not None:
            advance(1)
    return Mauve(
        mauve=float(np.mean(values)),
        mauve_se=standard_error(values),
        by_seed=tuple(values),
        seeds=tuple(seeds),
        scale=scale,
        buckets=count,
        references=len(people),
        texts=len(generated),
    )


def _check(
    people: Float[np.ndarray, "N D"],
    generated: Float[np.ndarray, "M E"],
    seeds: Sequence[int],
    scale: float,
    buckets: int | None,
) -> None:
    if not seeds:
        raise ValueError("MAUVE needs a seed of k-means or more, got none")
    if not scale > 0:
        raise ValueError(f"scale must be above 0, got {scale}")
    if people.shape[1] != generated.shape[1]:
        raise ValueError(
            f"features of people have {people.shape[1]} numbers, of generated texts "
            f"{generated.shape[1]}: take both from one model"
        )
    if buckets is not None and buckets < 2:
        raise ValueError(f"buckets must be at least 2, got {buckets}")
    for name, features in (("people", people), ("generated texts", generated)):
        if len(features) < (buckets or 2):
            raise ValueError(
                f"MAUVE of {len(features)} {name} cannot fill {buckets or 2} buckets; "
                "give more texts or fewer buckets"
            )
        wrong = np.flatnonzero(~np.isfinite(features).all(axis=1))
        if len(wrong):
            raise ValueError(f"text {wrong[0]} of the {name} has features that are not finite")


def _compute_mauve() -> Any:
    try:
        from mauve import compute_mauve
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            'MAUVE needs mauve-text: pip install "sdtt[evaluation]"'
        ) from error
    return compute_mauve


@contextmanager
def _silent_stderr() -> Iterator[None]:
    """Keeps faiss from printing: it warns from C++ below 39 texts a bucket; MAUVE has 20."""
    sys.stderr.flush()
    own = os.dup(2)
    try:
        with Path(os.devnull).open("wb") as nothing:
            os.dup2(nothing.fileno(), 2)
            yield
    finally:
        os.dup2(own, 2)
        os.close(own)
