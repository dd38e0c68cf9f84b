"""The NELBO of a model on held-out text, and its bits per byte."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from sdtt.diffusion.denoiser import Denoiser
from sdtt.diffusion.elbo import bits_per_byte, nelbo_sum
from sdtt.diffusion.noise import SCHEDULES, stratified_times
from sdtt.diffusion.uniforms import permutation, uniforms
from sdtt.evaluation.errors import ratio_error
from sdtt.sampling.generate import evaluating

BATCH = 64


@dataclass(frozen=True)
class Nelbo:
    """The bound of a model on some texts.

    Attributes:
        nats_per_token: An upper bound of -log p.
        standard_error: Of its mean over batches, in nats.
        bits_per_byte: None where the bytes of the text are not known.
        tokens: How many tokens were scored.
    """

    nats_per_token: float
    standard_error: float
    bits_per_byte: float | None
    tokens: int


@torch.no_grad()
def validation_nelbo(
    denoiser: Denoiser,
    blocks: Any,
    *,
    seed: int = 0,
    max_blocks: int = 512,
    device: torch.device | str | None = None,
    steps: int | None = None,
) -> Nelbo:
    """One stratified draw of t for each text, over the first ``max_blocks`` texts.

    Args:
        denoiser: p(x_i | z); evaluation mode meanwhile.
        blocks: Texts of L ids, such as ``data.packing.Blocks``.
        seed: Of times and masks, so that models are compared under the same noise.
        max_blocks: How many texts at most.
        device: Where the denoiser is; its own ``device`` by default.
        steps: Of a denoiser whose law follows the order of revelation: in how many steps, of random
            tokens, what is visible was revealed; one by one if None, which is the bound of -log p
            of what it generates one by one. It means nothing to any other denoiser.

    Raises:
        ValueError: If there is no text, or steps is below 1.
    """
    if steps is not None and steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    place = device or getattr(denoiser, "device", "cpu")
    count = min(len(blocks), max_blocks)
    if count == 0:
        raise ValueError("there is no validation text: not one whole block")
    strata = permutation(seed, "nelbo/strata", 0, count)
    schedule = SCHEDULES["log_linear"]
    sums, sizes = [], []
    with evaluating(denoiser):
        for first in range(0, count, BATCH):
            names = range(first, min(first + BATCH, count))
            x = blocks[first : first + len(names)].to(place)
            # 1 - u lies in (0, 1]: at t = 0 the weight 1/t has no value
            own = 1 - uniforms(seed, "nelbo/time", names, 1).squeeze(1)
            t = stratified_times(own, strata[first : first + len(names)], count)
            u = uniforms(seed, "nelbo/mask", names, x.shape[1])
            sums.append(nelbo_sum(denoiser, x, t, u, schedule, steps).item())
            sizes.append(x.numel())
    mean = float(np.sum(sums) / np.sum(sizes))
    ratio = getattr(blocks, "bytes_per_token", None)
    return Nelbo(
        nats_per_token=mean,
        standard_error=ratio_error(sums, sizes),  # the last batch may be a small one
        bits_per_byte=None if ratio is None else bits_per_byte(mean, ratio),
        tokens=int(np.sum(sizes)),
    )
