"""LAMBADA: the last word of a passage, which only the whole passage gives away."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from sdtt.data.corpus import documents
from sdtt.diffusion.denoiser import Denoiser
from sdtt.evaluation.diversity import standard_error
from sdtt.evaluation.likelihood import Advance, pair_likelihoods
from sdtt.evaluation.mask_sets import Noise
from sdtt.evaluation.pairs import Pair, encode_pair
from sdtt.evaluation.texts import TEXTS, Text, TextSource, local_copy

Form = Literal["openai", "original"]
"""Plain text, which the papers report, or as first published: lower case, words apart."""

Method = Literal["exact", "monte_carlo", "autoregressive"]

FORMS: Mapping[Form, Text] = {
    "openai": TEXTS["lambada"],
    "original": Text("lambada/lambada_test_plain_text.txt.xz", "cimec/lambada"),
}

WORDS = Noise(samples=64, exact_tokens=10)
"""A last word has few tokens: up to 10 of them by all sets of masks, 1,023 at most."""


@dataclass(frozen=True)
class Lambada:
    """What a model makes of last words.

    Attributes:
        accuracy: Share of passages whose last word is right as a whole: of a diffusion model all
            its tokens in one pass with the word masked, of a causal one given the tokens before.
        accuracy_se: Its standard error over passages.
        perplexity: exp of ``nll``: a word's, not a token's.
        perplexity_se: Its standard error, to first order.
        nll: Mean over passages of -log p(last word | passage), in nats; of a diffusion model the
            bound.
        nll_se: Its standard error over passages, of text and noise together.
        noise_se: The part of it by the masks that were drawn; 0 where all are exact.
        examples: How many passages.
        estimated: Of these, whose bound is by Monte Carlo.
        cut: Of these, whose context did not fit and was cut on the left.
        tokens: Of the last words, that were scored.
    """

    accuracy: float
    accuracy_se: float
    perplexity: float
    perplexity_se: float
    nll: float
    nll_se: float
    noise_se: float
    examples: int
    estimated: int
    cut: int
    tokens: int


def passages(
    form: str = "openai", *, data_root: Path | str | None = None, limit: int | None = None
) -> list[str]:
    """The passages of LAMBADA's test set, 5,153 in both forms.

    Args:
        form: Of ``FORMS``. The original form is scored as it is: in lower case, with spaces before
            punctuation.
        data_root: A folder with ``lambada/`` in it (see ``FORMS``); from the hub where it has none.
        limit: Only the first so many.

    Raises:
        ValueError: If there is no such form, or no passage.
    """
    if form not in get_args(Form):
        raise ValueError(f"there is no form {form!r} of LAMBADA; there are {', '.join(FORMS)}")
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1 passage, got {limit}")
    text = FORMS[form]  # type: ignore[index]
    source = TextSource(form, text, local_copy(text, data_root))
    return read_passages(source.file(), limit=limit)


def read_passages(path: Path, *, limit: int | None = None) -> list[str]:
    """Passages of a file: .jsonl with a passage in "text", or .txt with one a line."""
    kept = [document for document in documents(path) if isinstance(document, str)]
    if ".txt" in path.suffixes:
        kept = [line for document in kept for line in document.splitlines() if line.strip()]
    return kept[:limit]


def last_word(tokenizer: Any, passage: str) -> Pair:
    """A passage before its last word, and the word, as ids.

    The white space before a word belongs to it: " signs". Where a tokenizer makes tokens over that
    border, see ``pairs.encode_pair``.

    Raises:
        ValueError: If the passage has fewer than two words.
    """
    words = passage.split()
    if len(words) < 2:
        raise ValueError(f"a passage needs two words, got {passage!r}")
    return encode_pair(tokenizer, passage.rstrip().removesuffix(words[-1]), words[-1])


def method_of(model: Any, noise: Noise = WORDS) -> Method:
    """How the likelihoods of words are computed, as a record says it.

    "exact" is by all sets of masks for words of up to ``noise.exact_tokens`` tokens, and by Monte
    Carlo for longer ones, which a result counts as ``estimated``.
    """
    if not isinstance(model, Denoiser):
        return "autoregressive"
    return "monte_carlo" if noise.exact_tokens == 0 else "exact"


def lambada(
    model: Any,
    tokenizer: Any,
    texts: Sequence[str],
    *,
    noise: Noise = WORDS,
    batch_size: int | None = None,
    advance: Advance | None = None,
) -> Lambada:
    """Accuracy and perplexity of the last words of passages [SDTT, sec. 5.1].

    perplexity = exp(mean over passages of -log p(last word | what stands before it)), a word's, as
    the evaluation harness has it. Accuracy is of greedy decoding without a list of allowed words.

    Args:
        model: As for ``pair_likelihoods``.
        tokenizer: The model's.
        texts: Passages.
        noise: Of a diffusion model: when all sets of masks are taken, and how many are drawn else.
        batch_size: Texts a pass; by memory if None.
        advance: Told how many passages more are done.

    Raises:
        ValueError: If there is no passage, one has fewer than two words or a last word that is
            longer than the model, or a loss is not finite.
    """
    if not texts:
        raise ValueError("there are no passages to score")
    pairs = [last_word(tokenizer, text) for text in texts]
    found = pair_likelihoods(model, pairs, noise=noise, batch_size=batch_size, advance=advance)
    losses, right = [each.nll for each in found], [float(bool(each.greedy)) for each in found]
    nll, nll_se = float(np.mean(losses)), standard_error(losses)
    return Lambada(
        accuracy=float(np.mean(right)),
        accuracy_se=standard_error(right),
        perplexity=math.exp(nll),
        perplexity_se=math.exp(nll) * nll_se,
        nll=nll,
        nll_se=nll_se,
        noise_se=math.sqrt(sum(each.noise_se**2 for each in found)) / len(found),
        examples=len(found),
        estimated=sum(not each.exact for each in found),
        cut=sum(each.cut > 0 for each in found),
        tokens=sum(each.tokens for each in found),
    )
