"""The passes of a causal model over contexts and continuations: exact, by the chain rule."""

import inspect
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from sdtt.diffusion.denoiser import Head
from sdtt.evaluation.masked_passes import Scored
from sdtt.evaluation.pairs import Pair
from sdtt.evaluation.rows import Losses, joined, row_losses, scores_of
from sdtt.models.causal import CausalLM
from sdtt.sampling.canvas import ragged_canvas

MOST_TEXTS = 64
"""Texts a pass at most, where nothing else is said."""

PASS_NUMBERS = 2**26
"""Logits that a pass of another's causal model may make: 256 MiB in float32."""


def score_causal(
    model: Any, pairs: Sequence[Pair], *, greedy: bool, batch_size: int | None = None
) -> Iterator[tuple[int, Scored]]:
    """-sum log p(x_i | all before) of each continuation, and its index; longest texts first.

    Args:
        model: Our ``CausalLM``, which scores behind a BOS, or one of transformers.
        pairs: That fit it.
        greedy: Whether to say if every likeliest token is right, given those before it.
        batch_size: Texts a pass; by memory if None.
    """
    own = isinstance(model, CausalLM)
    lengths = [len(pair.context) + len(pair.continuation) for pair in pairs]
    order = sorted(range(len(pairs)), key=lengths.__getitem__, reverse=True)
    numbers = 0 if own else max(lengths, default=0) * model.config.vocab_size
    size = batch_size or max(1, min(MOST_TEXTS, PASS_NUMBERS // max(numbers, 1)))
    one_pass = _of_rows if own else _of_logits
    for first in range(0, len(order), size):
        batch = order[first : first + size]
        texts = [pairs[index] for index in batch]
        owner = torch.tensor([row for row, pair in enumerate(texts) for _ in pair.continuation])
        found = one_pass(model, texts).of_texts(owner, len(texts))
        for index, (nll, right) in zip(batch, found, strict=True):
            yield index, Scored(nll, 0.0, right if greedy else None, exact=True)


def _of_rows(model: CausalLM, pairs: Sequence[Pair]) -> Losses:
    """Of our own model, behind a BOS: only the rows that predict the continuations are scored."""
    bos = model.config.bos_token_id
    assert bos is not None, "checked where pairs enter"
    # place i holds token i - 1, which is the last that token i is predicted from
    canvas = ragged_canvas([(bos, *pair.context, *pair.continuation[:-1]) for pair in pairs], bos)
    width = canvas.ids.shape[1]
    rows = [
        row * width + len(pair.context) + offset
        for row, pair in enumerate(pairs)
        for offset in range(len(pair.continuation))
    ]
    targets = _targets(pairs)
    found: list[Losses] = []

    def objective(hidden: Tensor, head: Head) -> Tensor:
        scores = scores_of(head, model.excluded_ids)
        found.append(row_losses(hidden, targets, scores, head.weight.shape[0]))
        return hidden.new_zeros(())

    canvas = canvas.to(model.device)
    model(
        canvas.ids,
        attention_mask=canvas.attention_mask,
        rows=torch.tensor(rows, device=model.device),
        objective=objective,
    )
    return found[0]


def _of_logits(model: Any, pairs: Sequence[Pair]) -> Losses:
    """Of another's model: its logits, where it can of no more places than are asked for."""
    canvas = ragged_canvas([pair.context + pair.continuation[:-1] for pair in pairs], 0)
    canvas = canvas.to(model.device)
    width = canvas.ids.shape[1]
    real = canvas.attention_mask
    mask = torch.ones_like(canvas.ids) if real is None else real.long()
    # the token at place i is predicted at place i - 1
    earliest = min(len(pair.context) for pair in pairs) - 1
    can_skip = "logits_to_keep" in inspect.signature(model.forward).parameters
    keep = {"logits_to_keep": width - earliest} if can_skip else {}
    logits = model(input_ids=canvas.ids, attention_mask=mask, use_cache=False, **keep).logits
    skipped = width - logits.shape[1]
    parts = []
    targets = _targets(pairs).split([len(pair.continuation) for pair in pairs])
    for row, pair, own in zip(logits, pairs, targets, strict=True):
        start = len(pair.context) - 1 - skipped
        part = row[start : start + len(own)]
        parts.append(row_losses(part, own, lambda scores: scores, part.shape[-1]))
    return joined(parts)


def _targets(pairs: Sequence[Pair]) -> Int[Tensor, " N"]:
    return torch.tensor([token for pair in pairs for token in pair.continuation])
