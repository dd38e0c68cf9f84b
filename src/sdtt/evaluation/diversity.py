"""How varied texts are: unigram entropy and distinct n-grams."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Ids = Sequence[int]


@dataclass(frozen=True)
class Diversity:
    """How varied some texts are.

    Attributes:
        entropy: Mean over texts of the entropy of a text's own token frequencies, in nats.
        entropy_se: Its standard error over texts.
        pooled_entropy: Entropy of the token frequencies of all texts together, in nats.
        distinct_1: Different tokens over tokens, all texts together.
        distinct_2: Different bigrams over bigrams.
        distinct_3: Different trigrams over trigrams.
    """

    entropy: float
    entropy_se: float
    pooled_entropy: float
    distinct_1: float
    distinct_2: float
    distinct_3: float


def unigram_entropy(ids: Ids) -> float:
    """-sum f log f over the token frequencies f of one text, in nats."""
    counts = np.array(list(Counter(ids).values()), dtype=float)
    frequencies = counts / counts.sum()
    return float(-(frequencies * np.log(frequencies)).sum()) + 0.0  # no minus zero


def distinct(texts: Sequence[Ids], n: int) -> float:
    """Different n-grams over n-grams, all texts together; nan where no text has n tokens."""
    grams = [tuple(text[i : i + n]) for text in texts for i in range(len(text) - n + 1)]
    return len(set(grams)) / len(grams) if grams else float("nan")


def standard_error(values: Sequence[float]) -> float:
    """The standard error of their mean; nan for fewer than two values."""
    if len(values) < 2:
        return float("nan")
    return float(np.std(values, ddof=1) / np.sqrt(len(values)))


def diversity(texts: Sequence[Ids]) -> Diversity:
    """How varied texts are.

    Args:
        texts: Token ids of each text.

    Raises:
        ValueError: If there is no text, or one without a token.
    """
    if len(texts) == 0:
        raise ValueError("there are no samples to measure")
    empty = [index for index, text in enumerate(texts) if len(text) == 0]
    if empty:
        raise ValueError(f"sample {empty[0]} is empty")
    entropies = [unigram_entropy(text) for text in texts]
    return Diversity(
        entropy=float(np.mean(entropies)),
        entropy_se=standard_error(entropies),
        pooled_entropy=unigram_entropy([token for text in texts for token in text]),
        distinct_1=distinct(texts, 1),
        distinct_2=distinct(texts, 2),
        distinct_3=distinct(texts, 3),
    )
