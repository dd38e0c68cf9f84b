"""Self-BLEU: how much the continuations of one prompt repeat each other."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from sdtt.evaluation.errors import ratio_error


@dataclass(frozen=True)
class SelfBleu:
    """How alike the texts of a group are.

    Attributes:
        self_bleu: Mean over all texts of the sentence BLEU against the others of their group, from
            0 (no word in common) to 100 (the same text) [Texygen, Zhu et al. 2018].
        self_bleu_se: Its standard error over groups; nan for one group.
        texts: All of them.
        groups: Groups of them.
        references: Texts that each is held against, at most.
        empty: Texts without a word, which make the others look less alike than they are.
        signature: sacrebleu's: tokenizer, smoothing and version.
    """

    self_bleu: float
    self_bleu_se: float
    texts: int
    groups: int
    references: int
    empty: int
    signature: str


def self_bleu(
    groups: Sequence[Sequence[str]],
    *,
    references: int | None = None,
    advance: Callable[[int], object] | None = None,
) -> SelfBleu:
    """The sentence BLEU of each text against the others of its group, averaged over all texts.

    BLEU-4 of sacrebleu with its own words (13a) and smoothing (exp); for texts of fewer than four
    words as many orders as they have; one without a word has none in common with another: 0.

    Args:
        groups: The continuations of each prompt; unconditional samples are one group.
        references: At most so many others, those that follow in the group (behind its last comes
            its first); all of them by default, which takes a time quadratic in the group.
        advance: Told 1 after each text, such as a progress bar.

    Raises:
        ModuleNotFoundError: If sacrebleu is not installed.
        ValueError: If there is no group, one has fewer than two texts, or ``references`` is below
            1.
    """
    if references is not None and references < 1:
        raise ValueError(f"references must be at least 1, got {references}")
    _check_groups(groups)
    bleu = _sentence_bleu()
    sums = []
    for group in groups:
        used = min(references or len(group), len(group) - 1)
        scores = []
        for index, text in enumerate(group):
            others = [group[(index + 1 + i) % len(group)] for i in range(used)]
            alike = bleu.sentence_score(text, others).score if text.strip() else 0.0
            scores.append(alike)
            if advance is not None:
                advance(1)
        sums.append(sum(scores))
    sizes = [len(group) for group in groups]
    largest = max(sizes) - 1
    return SelfBleu(
        self_bleu=sum(sums) / sum(sizes),
        self_bleu_se=ratio_error(sums, sizes),
        texts=sum(sizes),
        groups=len(groups),
        references=min(references or largest, largest),
        empty=sum(not text.strip() for group in groups for text in group),
        signature=str(bleu.get_signature()),
    )


def grouped(texts: Sequence[str], groups: Sequence[Hashable]) -> list[list[str]]:
    """Texts by their group, in order of first appearance; those of None are one group.

    Args:
        texts: Strings.
        groups: Of each text, such as `records.Sample.group`.
    """
    found: dict[Hashable, list[str]] = {}
    for text, group in zip(texts, groups, strict=True):
        found.setdefault(group, []).append(text)
    return list(found.values())


def _check_groups(groups: Sequence[Sequence[str]]) -> None:
    if not groups:
        raise ValueError("there are no samples to compare")
    for number, group in enumerate(groups):
        if len(group) < 2:
            raise ValueError(
                f"group {number} has {len(group)} texts: self-BLEU needs two or more of a prompt"
            )


def _sentence_bleu() -> Any:
    try:
        from sacrebleu.metrics.bleu import BLEU
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            'self-BLEU needs sacrebleu: pip install "sdtt[evaluation]"'
        ) from error
    return BLEU(effective_order=True)
