"""Samples of any tokenizer, or strings, read by a judge in its own tokens."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from transformers import PreTrainedTokenizerBase

from sdtt.data.encoding import encode_texts
from sdtt.evaluation.diversity import Ids
from sdtt.evaluation.judge import Judgement, judge_perplexity, scores_behind_bos
from sdtt.evaluation.records import Sample
from sdtt.models.vocabulary import vocabulary_size

Eos = Literal["scored", "cut"]
"""What is made of an end of a text inside a sample."""


@dataclass(frozen=True)
class Reading:
    """Samples as a judge reads them.

    Attributes:
        ids: In the judge's vocabulary.
        texts: What they say, special tokens left out.
        first_characters: Of each text, the characters of its first token: a judge that does not
            score this does not score them.
        retokenised: Whether the texts were encoded anew for the judge.
        eos: "scored", "cut" or "absent": see `Judgement`.
    """

    ids: Sequence[Ids]
    texts: Sequence[str]
    first_characters: Sequence[int]
    retokenised: bool
    eos: Literal["scored", "cut", "absent"]

    def characters(self, *, behind_first: bool) -> list[int]:
        """The characters of each text, or of what lies behind its first token."""
        if not behind_first:
            return [len(text) for text in self.texts]
        pairs = zip(self.texts, self.first_characters, strict=True)
        return [len(text) - first for text, first in pairs]


def share_ids(own: PreTrainedTokenizerBase, judges: PreTrainedTokenizerBase) -> bool:
    """Whether each id but MASK stands for the same token under both tokenizers."""
    known = judges.get_vocab()
    return all(
        known.get(token) == index
        for token, index in own.get_vocab().items()
        if index != own.mask_token_id
    )


def retokeniser(
    own: PreTrainedTokenizerBase, judges: PreTrainedTokenizerBase
) -> Callable[[list[list[int]]], list[list[int]]] | None:
    """What turns ids of one tokenizer into a judge's; None where they are the same."""
    if share_ids(own, judges):
        return None

    def retokenise(rows: list[list[int]]) -> list[list[int]]:
        reading = read_samples_as(judges, [Sample(ids=row) for row in rows], own=own)
        return [list(ids) for ids in reading.ids]

    return retokenise


def cut_behind_eos(ids: Ids, eos_token_id: int) -> Ids:
    """A text up to and with its first EOS; one in front of everything begins it and ends nothing.

    (GPT-2's EOS is its BOS.)
    """
    end = next((i for i, token in enumerate(ids) if i and token == eos_token_id), len(ids))
    return ids[: end + 1]


def read_samples_as(
    judges: PreTrainedTokenizerBase,
    samples: Sequence[Sample],
    *,
    own: PreTrainedTokenizerBase | None = None,
    eos: Eos = "scored",
) -> Reading:
    """Samples in the tokens of a judge.

    Ids of a tokenizer that agrees with the judge's are taken as they are. Others are decoded,
    piece by piece between the ends of texts, encoded anew, and joined by the judge's own EOS. Where
    ids or their tokenizer are not known, the string is encoded, which holds no special token.

    Args:
        judges: The judge's tokenizer.
        samples: All with ids, or all with text.
        own: The tokenizer of their ids; None if it is not known.
        eos: "scored" keeps an end of a text inside a sample, "cut" ends the sample with it.

    Raises:
        ValueError: If there is none; one has neither text nor ids that can be read, is an empty
            string, has an unknown id or holds MASK; or a tokenizer lacks an EOS that is asked for.
    """
    if not samples:
        raise ValueError("there are no samples to judge")
    if own is None or any(sample.ids is None for sample in samples):
        return _of_texts(judges, samples, own)
    if eos == "cut" and own.eos_token_id is None:
        raise ValueError("eos='cut' needs a tokenizer with an EOS, this has none: use eos='scored'")
    found = [sample.ids or [] for sample in samples]
    _check_ids(own, found)
    if eos == "cut":
        found = [cut_behind_eos(ids, own.eos_token_id) for ids in found]
    texts = _decoded(own, found)
    if share_ids(own, judges):
        return Reading(found, texts, _of_first(judges, found), False, eos)
    encoded = _retokenised(own, judges, found)
    return Reading(encoded, texts, _of_first(judges, encoded), True, eos)


def judge_samples(
    judge: Any,
    judges: PreTrainedTokenizerBase,
    samples: Sequence[Sample],
    *,
    own: PreTrainedTokenizerBase | None = None,
    eos: Eos = "scored",
    prepend_bos: bool | None = None,
    **options: Any,
) -> Judgement:
    """Perplexity and bits per character of samples under a judge, whatever their tokenizer.

    An EOS counts as a token that is scored, and as no character.

    Args:
        judge: A transformers causal language model.
        judges: Its tokenizer.
        samples: As `read_samples_as` takes them.
        own: The tokenizer of their ids; None if it is not known.
        eos: Likewise.
        prepend_bos: As `judge_perplexity` takes it.
        **options: ``batch_size``, ``window``, ``stride`` and ``advance`` of `judge_perplexity`.

    Raises:
        ValueError: Where `read_samples_as` or `judge_perplexity` does.
    """
    reading = read_samples_as(judges, samples, own=own, eos=eos)
    front = scores_behind_bos(judge, prepend_bos)
    judgement = judge_perplexity(
        judge,
        reading.ids,
        prepend_bos=front,
        characters=reading.characters(behind_first=not front),
        **options,
    )
    return replace(judgement, retokenised=reading.retokenised, eos=reading.eos)


def _check_ids(own: PreTrainedTokenizerBase, samples: Sequence[Ids]) -> None:
    size = vocabulary_size(own)
    for index, ids in enumerate(samples):
        unknown = [token for token in ids if not 0 <= token < size]
        if unknown:
            raise ValueError(
                f"sample {index} has the id {unknown[0]}, its tokenizer only {size}; give the "
                "tokenizer of the model that drew it"
            )
        if own.mask_token_id is not None and own.mask_token_id in ids:
            raise ValueError(
                f"sample {index} holds MASK, so it is not finished: draw it to the end, or leave "
                "it out"
            )


def _of_texts(
    judges: PreTrainedTokenizerBase,
    samples: Sequence[Sample],
    own: PreTrainedTokenizerBase | None,
) -> Reading:
    texts: list[str] = []
    for index, sample in enumerate(samples):
        if sample.text is None:
            why = "some samples have only text" if own else "their tokenizer is not known"
            raise ValueError(
                f"sample {index} has ids only, and {why}: it cannot be read anew by the judge; "
                "give it a text, or all samples ids and their tokenizer"
            )
        if not sample.text:
            raise ValueError(f"sample {index} is empty")
        texts.append(sample.text)
    ids = encode_texts(judges, texts)
    return Reading(ids, texts, _of_first(judges, ids), True, "absent")


def _retokenised(
    own: PreTrainedTokenizerBase, judges: PreTrainedTokenizerBase, samples: Sequence[Ids]
) -> list[list[int]]:
    """Each piece between two ends of texts by itself, as the judge learned to read documents."""
    pieces: list[Ids] = []
    owners: list[tuple[int, bool]] = []  # the sample of a piece, and whether an EOS follows
    for index, ids in enumerate(samples):
        ends = [i for i, token in enumerate(ids) if token == own.eos_token_id]
        if ends and judges.eos_token_id is None:
            raise ValueError(
                f"sample {index} holds an end of a text, but the judge's tokenizer has no EOS; "
                "give the samples as text"
            )
        for first, last in zip([0, *(i + 1 for i in ends)], [*ends, len(ids)], strict=True):
            pieces.append(ids[first:last])
            owners.append((index, last < len(ids)))
    result: list[list[int]] = [[] for _ in samples]
    encoded = encode_texts(judges, _decoded(own, pieces))
    for (index, ended), piece in zip(owners, encoded, strict=True):
        result[index] += [*piece, judges.eos_token_id] if ended else piece
    return result


def _decoded(tokenizer: PreTrainedTokenizerBase, texts: Sequence[Ids]) -> list[str]:
    strings: list[str] = tokenizer.batch_decode(
        [list(ids) for ids in texts], skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    return strings


def _of_first(tokenizer: PreTrainedTokenizerBase, texts: Sequence[Ids]) -> list[int]:
    return [len(text) for text in _decoded(tokenizer, [ids[:1] for ids in texts])]
