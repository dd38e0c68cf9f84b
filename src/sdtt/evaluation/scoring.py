"""-log p of each token of texts under a causal model, with one batch of logits at most."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from sdtt.evaluation.batches import Window, batches_of, padded, windows_of
from sdtt.evaluation.diversity import Ids
from sdtt.sampling.generate import evaluating

LOGITS_BYTES = 2**30
"""What the logits of a pass may take: ten texts of 1,024 tokens over 50,257 in bfloat16."""

TILE_ELEMENTS = {"cpu": 2**19}
"""Logits that a softmax takes at once: 2 MiB in float32 stay in a CPU's cache."""

ACCELERATOR_TILE_ELEMENTS = 2**26

BATCH = 64
"""Texts a pass, where nothing else is said."""


@torch.no_grad()
def token_nll(
    judge: Any,
    texts: Sequence[Ids],
    *,
    prepend_bos: bool,
    batch_size: int = BATCH,
    window: int | None = None,
    stride: int | None = None,
    advance: Callable[[int], object] | None = None,
) -> list[Float64[np.ndarray, " L"]]:
    """-log p of each token of each text under a causal model, in nats.

    A text longer than the window is read in several (see `batches.windows_of`); a BOS then stands
    in front of each of them. Texts of like length share a pass. What is not the judge's own
    forward works on tiles of its logits and keeps no second copy of them.

    Args:
        judge: A transformers causal language model; evaluation mode meanwhile.
        texts: Token ids in the judge's vocabulary.
        prepend_bos: Score the first token too, behind a BOS; else it is only context.
        batch_size: Texts a pass at most; fewer where their logits would take more than
            ``LOGITS_BYTES``.
        window: Positions of a pass; the judge's own by default.
        stride: New tokens of a later window; half the window by default.
        advance: Told after each pass how many texts it ended, such as a progress bar.

    Returns:
        One array a text, of its scored tokens.

    Raises:
        ValueError: If window or stride cannot be, or a loss is not finite.
    """
    window, stride = window_of(judge, window, stride)
    skipped = 0 if prepend_bos else 1
    windows = [
        each
        for index, text in enumerate(texts)
        for each in windows_of(
            index, len(text), window=window, stride=stride, behind_bos=prepend_bos
        )
    ]
    result = [np.empty(max(len(text) - skipped, 0)) for text in texts]
    with evaluating(judge):
        for batch in batches_of(windows, partial(_most, judge, batch_size)):
            found = _of_batch(judge, texts, batch, prepend_bos=prepend_bos)
            _check_finite(batch, found)
            for each, losses in zip(batch, found, strict=True):
                result[each.text][each.scored - skipped : each.end - skipped] = losses
            if advance is not None:
                advance(sum(each.end == len(texts[each.text]) for each in batch))
    return result


def window_of(judge: Any, window: int | None, stride: int | None) -> tuple[int | None, int | None]:
    """Window and stride as they will be: those given, else the judge's context and half of it.

    Raises:
        ValueError: If the judge takes no window of that size, or the stride leaves tokens out.
    """
    longest = getattr(judge.config.get_text_config(), "max_position_embeddings", None)
    if window is None:
        window = longest
    elif window < 1 or (longest is not None and window > longest):
        limit = "" if longest is None else f" and at most {longest}, the judge's context"
        raise ValueError(f"window must be at least 1{limit}, got {window}")
    if window is None:
        if stride is not None:
            raise ValueError("the judge has no limit of length: a stride needs a window")
        return None, None
    if stride is None:
        stride = max(1, window // 2)
    if not 1 <= stride <= window:
        raise ValueError(f"stride must be at least 1 and at most the window {window}, got {stride}")
    return window, stride


def _most(judge: Any, batch_size: int, width: int) -> int:
    """Windows of a width that one pass takes."""
    each = width * judge.config.get_text_config().vocab_size * judge.dtype.itemsize
    return max(1, min(batch_size, LOGITS_BYTES // each))


def _of_batch(
    judge: Any, texts: Sequence[Ids], batch: Sequence[Window], *, prepend_bos: bool
) -> list[Float64[np.ndarray, " _"]]:
    """-log p of each token that a window scores."""
    front = [judge.config.bos_token_id] if prepend_bos else []
    rows = [[*front, *texts[each.text][each.first : each.end]] for each in batch]
    ids, mask = padded(rows, judge.device)
    shown = None if mask is None else mask[:, :-1]
    logits = judge(input_ids=ids[:, :-1], attention_mask=shown, use_cache=False).logits
    losses = _losses(logits.flatten(0, 1), ids[:, 1:].flatten()).view(len(rows), -1).numpy()
    ends = [len(row) - 1 for row in rows]  # behind it lies padding
    return [
        values[end - each.fresh : end]
        for each, values, end in zip(batch, losses, ends, strict=True)
    ]


def _losses(logits: Float[Tensor, "N V"], targets: Int[Tensor, " N"]) -> Float64[Tensor, " N"]:
    """The cross-entropies in float32, a tile of rows at a time: no other copy of the logits."""
    elements = TILE_ELEMENTS.get(logits.device.type, ACCELERATOR_TILE_ELEMENTS)
    size = max(1, elements // logits.shape[1])
    tiles = zip(logits.split(size), targets.split(size), strict=True)
    losses = [
        torch.nn.functional.cross_entropy(tile.float(), own, reduction="none")
        for tile, own in tiles
    ]
    return torch.cat(losses).cpu().double()


def _check_finite(batch: Sequence[Window], losses: Sequence[Float64[np.ndarray, " _"]]) -> None:
    """Names the first sample of a batch that has no finite loss, and its token."""
    for each, values in sorted(zip(batch, losses, strict=True), key=lambda pair: pair[0].text):
        wrong = np.flatnonzero(~np.isfinite(values))
        if len(wrong):
            raise ValueError(
                f"the judge gives sample {each.text} a loss of {values[wrong[0]]} at its token "
                f"{each.scored + wrong[0]}"
            )
