"""The bound of a model on blocks of any text: nats a token, perplexity, bits per byte."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from sdtt.diffusion.elbo import bits_per_byte
from sdtt.evaluation.diversity import standard_error
from sdtt.evaluation.likelihood import Advance, pair_likelihoods
from sdtt.evaluation.mask_sets import Noise
from sdtt.evaluation.pairs import Pair, room_of

BLOCKS_A_LOOK = 256
"""Blocks whose ids are in memory at once."""


@dataclass(frozen=True)
class Bound:
    """What a model says of some blocks of text.

    Attributes:
        nats_per_token: -log p of a token, in the mean over blocks; of a diffusion model its bound.
        nats_per_token_se: Its standard error over blocks, in nats: of text and noise together.
        noise_se: The part of it by the masks that were drawn; 0 where it is exact, nan with one
            draw a block.
        perplexity: exp of ``nats_per_token``.
        perplexity_se: Its standard error, to first order.
        bits_per_byte: None where the bytes of the text are not known.
        bits_per_byte_se: Its standard error.
        exact: Whether no mask was drawn.
        blocks: How many were scored.
        tokens: That were scored.
    """

    nats_per_token: float
    nats_per_token_se: float
    noise_se: float
    perplexity: float
    perplexity_se: float
    bits_per_byte: float | None
    bits_per_byte_se: float | None
    exact: bool
    blocks: int
    tokens: int


def text_bound(
    model: Any,
    blocks: Any,
    *,
    noise_samples: int = 4,
    max_blocks: int | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    advance: Advance | None = None,
) -> Bound:
    """-log p of blocks of text in nats a token: a bound for a denoiser, exact for a causal model.

    Every block stands alone, so that models compare: a denoiser and our ``CausalLM`` (behind a BOS)
    score all L tokens of it, another causal model all but the first. A denoiser's bound is the
    NELBO [MDLM, eq. 10], its integral over t by stratified ("antithetic") draws within each block
    (see ``mask_sets.drawn_sets``); one whose law follows the order of revelation takes all that is
    visible for one step, while ``validation_nelbo`` reveals one by one.

    Args:
        model: As for ``pair_likelihoods``.
        blocks: Texts of L ids, such as ``data.packing.Blocks``, whose ``bytes_per_token`` counts.
        noise_samples: Draws a block for a denoiser; 1, or an even number.
        max_blocks: At most so many, evenly spread over the text; all if None.
        seed: Of the draws, which are those of the block wherever it stands.
        batch_size: Texts a pass; by memory if None.
        advance: Told how many blocks more are done.

    Raises:
        ValueError: If there is no block, or one has a loss that is not finite.
    """
    count = len(blocks) if max_blocks is None else min(len(blocks), max_blocks)
    if count < 1:
        raise ValueError("there is no text to bound: not one whole block, or max_blocks is below 1")
    chosen = [index * len(blocks) // count for index in range(count)]
    given = room_of(model).context
    noise = Noise(samples=noise_samples, seed=seed)
    likelihoods = []
    for first in range(0, count, BLOCKS_A_LOOK):
        texts = [blocks[index].tolist() for index in chosen[first : first + BLOCKS_A_LOOK]]
        likelihoods += pair_likelihoods(
            model,
            [Pair(tuple(text[:given]), tuple(text[given:])) for text in texts],
            noise=noise,
            greedy=False,
            batch_size=batch_size,
            advance=advance,
        )
    means = [each.nll / each.tokens for each in likelihoods]
    mean, error = float(np.mean(means)), standard_error(means)
    squares = [(each.noise_se / each.tokens) ** 2 for each in likelihoods]
    ratio = getattr(blocks, "bytes_per_token", None)
    return Bound(
        nats_per_token=mean,
        nats_per_token_se=error,
        noise_se=math.sqrt(sum(squares)) / count,
        perplexity=math.exp(mean),
        perplexity_se=math.exp(mean) * error,
        bits_per_byte=None if ratio is None else bits_per_byte(mean, ratio),
        bits_per_byte_se=None if ratio is None else bits_per_byte(error, ratio),
        exact=all(each.exact for each in likelihoods),
        blocks=count,
        tokens=sum(each.tokens for each in likelihoods),
    )
