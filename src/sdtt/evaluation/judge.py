"""Generative perplexity: how well a causal judge predicts some texts."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sdtt.evaluation.diversity import Ids, Lengths, lengths, standard_error
from sdtt.evaluation.errors import ratio_error
from sdtt.evaluation.scoring import BATCH, token_nll, window_of
from sdtt.models.causal import CausalLM


@dataclass(frozen=True)
class Judgement:
    """What a judge says of some texts.

    Attributes:
        perplexity: exp of the mean over texts of a text's mean token NLL [MDLM, sec. 5].
        perplexity_se: Its standard error, perplexity * nll_se.
        nll: That mean, in nats a token.
        nll_se: Its standard error over texts; a relative error of the perplexity.
        nll_by_text: The mean token NLL of each text, in nats.
        tokens: How many tokens were scored.
        length: Of the texts in the judge's tokens; a text counts alike however long it is.
        prepended_bos: Whether the first token was scored too, behind a BOS.
        window: Positions of a pass at most; None where the judge has no limit.
        stride: New tokens of a text's later windows; None likewise.
        bits_per_character: -log2 p of all tokens over all characters of what they say; None where
            the characters are not known. The one of these numbers that compares between judges of
            different tokenizers.
        bits_per_character_se: Its standard error over texts, that of a ratio of sums.
        retokenised: Whether the texts were encoded anew for the judge.
        eos: "scored": an end of a text inside a sample is scored as any token is; "cut": samples
            end with their first; "absent": only strings were known, which hold none.
    """

    perplexity: float
    perplexity_se: float
    nll: float
    nll_se: float
    nll_by_text: tuple[float, ...]
    tokens: int
    length: Lengths
    prepended_bos: bool
    window: int | None
    stride: int | None
    bits_per_character: float | None = None
    bits_per_character_se: float | None = None
    retokenised: bool = False
    eos: str = "scored"


def judge_perplexity(
    judge: Any,
    texts: Sequence[Ids],
    *,
    batch_size: int = BATCH,
    prepend_bos: bool | None = None,
    window: int | None = None,
    stride: int | None = None,
    characters: Sequence[int] | None = None,
    advance: Callable[[int], object] | None = None,
) -> Judgement:
    """Perplexity of texts under a judge; read it beside their entropy only.

    Our own ``CausalLM`` scores every token behind a BOS, as it was trained; any other causal model
    scores all but the first, as the papers do with GPT-2.

    Args:
        judge: A transformers causal language model.
        texts: Token ids in the judge's vocabulary; lengths may differ. ``judge_samples`` reads
            samples of another tokenizer, or of strings.
        batch_size: Texts a pass at most.
        prepend_bos: Whether to score the first token behind a BOS; by default as said above.
        window: Positions of a pass; the judge's own by default.
        stride: New tokens of a longer text's later windows; half the window by default.
        characters: Of the tokens that are scored, for each text: gives bits per character.
        advance: Told after each pass how many texts it ended, such as a progress bar.

    Raises:
        ValueError: If there is no text, one too short to score, an unknown id, a window or stride
            that cannot be, or a loss that is not finite.
    """
    front = scores_behind_bos(judge, prepend_bos)
    _check_texts(judge, texts, 1 if front else 2)
    window, stride = window_of(judge, window, stride)
    losses = token_nll(
        judge,
        texts,
        prepend_bos=front,
        batch_size=batch_size,
        window=window,
        stride=stride,
        advance=advance,
    )
    means = [float(values.mean()) for values in losses]
    nll, error = float(np.mean(means)), standard_error(means)
    bits = [float(values.sum()) / math.log(2) for values in losses]
    known = characters is not None and sum(characters) > 0
    return Judgement(
        perplexity=math.exp(nll),
        perplexity_se=math.exp(nll) * error,
        nll=nll,
        nll_se=error,
        nll_by_text=tuple(means),
        tokens=sum(len(values) for values in losses),
        length=lengths(texts),
        prepended_bos=front,
        window=window,
        stride=stride,
        bits_per_character=sum(bits) / sum(characters or ()) if known else None,
        bits_per_character_se=ratio_error(bits, characters or ()) if known else None,
    )


def scores_behind_bos(judge: Any, asked: bool | None = None) -> bool:
    """Whether a judge scores the first token too, behind a BOS: as asked, else ours alone does.

    Raises:
        ValueError: If it should but has no BOS.
    """
    front = isinstance(judge, CausalLM) if asked is None else asked
    if front and judge.config.bos_token_id is None:
        raise ValueError("the judge scores behind BOS: its config needs bos_token_id")
    return front


def _check_texts(judge: Any, texts: Sequence[Ids], fewest: int) -> None:
    if len(texts) == 0:
        raise ValueError("there are no samples to judge")
    size = judge.config.get_text_config().vocab_size
    for index, text in enumerate(texts):
        if len(text) < fewest:
            raise ValueError(f"sample {index} has {len(text)} tokens: too few to be judged")
        unknown = [token for token in text if not 0 <= token < size]
        if unknown:
            raise ValueError(
                f"sample {index} has the id {unknown[0]}, the judge's vocabulary only {size}; "
                "use a judge with the model's tokenizer"
            )
