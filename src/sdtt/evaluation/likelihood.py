"""How likely a model finds continuations of given contexts: a bound for diffusion, exact for AR."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from sdtt.diffusion.denoiser import Denoiser
from sdtt.evaluation.causal_passes import score_causal
from sdtt.evaluation.mask_sets import Noise
from sdtt.evaluation.masked_passes import score_masked
from sdtt.evaluation.pairs import Pair, cut_left, room_of
from sdtt.models.causal import CausalLM
from sdtt.sampling.generate import evaluating

PLAIN = Noise()
"""The noise where nothing else is said."""

Advance = Callable[[int], object]
"""Told how many pairs more are done; a progress bar."""


@dataclass(frozen=True)
class Likelihood:
    """What a model says of one continuation.

    Attributes:
        nll: -log p(continuation | context) in nats; of a diffusion model its upper bound, the NELBO
            of the continuation with the context visible in every pass.
        noise_se: The standard error of ``nll`` by the masks that were drawn, in nats; 0 where it is
            exact, nan for a single draw.
        greedy: Whether the likeliest token is right at every position: of a diffusion model in one
            pass with the whole continuation masked, of a causal one given the tokens before. None
            where that was not asked for.
        tokens: Of the continuation.
        exact: Whether ``nll`` has no noise: of a causal model, or by every set of masks.
        cut: Tokens of the context that did not fit and were cut off on the left.
    """

    nll: float
    noise_se: float
    greedy: bool | None
    tokens: int
    exact: bool
    cut: int


@torch.no_grad()
def pair_likelihoods(
    model: Any,
    pairs: Sequence[Pair],
    *,
    noise: Noise = PLAIN,
    greedy: bool = True,
    batch_size: int | None = None,
    advance: Advance | None = None,
) -> list[Likelihood]:
    """-log p of continuations, or a bound of it; a pair gets the same in any batch and order.

    A denoiser: NELBO = sum over sets M of masked positions of the continuation of
    B(|M|, K - |M| + 1) * sum over i in M of -log p(x_i | all else), over all sets, or by Monte
    Carlo over some (see ``Noise``). It is -log p(continuation | context) of an exact denoiser. A
    denoiser that is told a time is told the share of the whole text that is masked.

    A causal model: -sum log p(x_i | all before), our ``CausalLM`` behind a BOS.

    Scores are computed in float32 at least and summed in float64; of a denoiser and of our
    ``CausalLM`` only the rows that are asked for get any. Contexts that do not fit are cut on the
    left.

    Args:
        model: A ``Denoiser``, our ``CausalLM``, or a causal language model of transformers;
            evaluation mode meanwhile.
        pairs: In the ids of the model.
        noise: Of a denoiser: how many sets, and when all of them.
        greedy: Whether to say if every likeliest token is right; with drawn sets that is a pass
            more for each pair.
        batch_size: Texts a pass; by memory if None.
        advance: Told how many pairs more are done.

    Returns:
        One a pair, in their order.

    Raises:
        ValueError: If a pair does not fit, holds an id that no text has, or gets a loss that is not
            finite.
    """
    fitting = _fitting(model, pairs)
    found: dict[int, Likelihood] = {}
    with evaluating(model):
        scored = (
            score_masked(model, fitting, noise=noise, greedy=greedy, batch_size=batch_size)
            if isinstance(model, Denoiser)
            else score_causal(model, fitting, greedy=greedy, batch_size=batch_size)
        )
        for index, one in scored:
            if not math.isfinite(one.nll):
                raise ValueError(f"the model gives pair {index} a loss of {one.nll}")
            found[index] = Likelihood(
                one.nll,
                one.noise_se,
                one.greedy,
                tokens=len(pairs[index].continuation),
                exact=one.exact,
                cut=len(pairs[index].context) - len(fitting[index].context),
            )
            if advance is not None:
                advance(1)
    return [found[index] for index in range(len(pairs))]


def _fitting(model: Any, pairs: Sequence[Pair]) -> list[Pair]:
    if isinstance(model, CausalLM) and model.config.bos_token_id is None:
        raise ValueError("a CausalLM scores behind BOS: its config needs bos_token_id")
    room = room_of(model)
    excluded = frozenset(getattr(model, "excluded_ids", ()))
    config = getattr(model, "config", None)
    size = model.head.weight.shape[0] if config is None else config.vocab_size
    fitting = []
    for index, pair in enumerate(pairs):
        strange = [
            i for i in pair.context + pair.continuation if not 0 <= i < size or i in excluded
        ]
        if strange:
            raise ValueError(
                f"pair {index} has the id {strange[0]}, which is no token of the model's "
                f"{size} or is MASK; encode it with the model's own tokenizer"
            )
        try:
            fitting.append(cut_left(pair, room))
        except ValueError as error:
            raise ValueError(f"pair {index}: {error}") from error
    return fitting
