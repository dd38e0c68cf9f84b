"""One vector a text: the last hidden state of its last token under a language model."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from sdtt.diffusion.denoiser import Head
from sdtt.evaluation.batches import Window, batches_of, padded
from sdtt.evaluation.diversity import Ids
from sdtt.evaluation.scoring import BATCH
from sdtt.models.causal import CausalLM
from sdtt.sampling.generate import evaluating


@torch.no_grad()
def last_hidden(
    model: Any,
    texts: Sequence[Ids],
    *,
    max_tokens: int | None = None,
    batch_size: int = BATCH,
    advance: Callable[[int], object] | None = None,
) -> Float32[np.ndarray, "N D"]:
    """The last layer's hidden state of each text's last token [Pillutla et al. 2021].

    That is behind the final norm, as transformers' ``last_hidden_state`` is. Our own ``CausalLM``
    reads a text behind a BOS, as it was trained. No logits are computed.

    Args:
        model: A transformers language model; evaluation mode meanwhile.
        texts: Token ids in the model's vocabulary; ``judge_samples.read_samples_as`` makes them.
        max_tokens: Only the first so many tokens of a text are read.
        batch_size: Texts a pass.
        advance: Told after each pass how many texts it took, such as a progress bar.

    Raises:
        ValueError: If there is no text, one is empty, too long, or has an unknown id; or a hidden
            state is not finite.
    """
    cut = [list(text[:max_tokens]) for text in texts]
    _check_texts(model, cut)
    bos: Any = model.config.bos_token_id
    front = [bos] if isinstance(model, CausalLM) else []
    windows = [Window(index, 0, 0, len(text)) for index, text in enumerate(cut)]
    found: list[Float32[np.ndarray, " D"] | None] = [None] * len(cut)
    with evaluating(model):
        for batch in batches_of(windows, lambda _: batch_size):
            rows = [[*front, *cut[each.text]] for each in batch]
            for each, state in zip(batch, _last_of(model, rows), strict=True):
                found[each.text] = state.float().cpu().numpy()
            if advance is not None:
                advance(len(batch))
    features = np.stack([state for state in found if state is not None])
    wrong = np.flatnonzero(~np.isfinite(features).all(axis=1))
    if len(wrong):
        raise ValueError(f"the model gives sample {wrong[0]} a hidden state that is not finite")
    return features


def _last_of(model: Any, rows: list[list[int]]) -> Float[Tensor, "B D"]:
    ids, mask = padded(rows, model.device)
    last = torch.tensor([len(row) - 1 for row in rows], device=model.device)
    places = torch.arange(len(rows), device=model.device)
    if isinstance(model, CausalLM):
        flat = places * ids.shape[1] + last
        found = model(input_ids=ids, attention_mask=mask, rows=flat, objective=_hidden).loss
        assert found is not None
        return found
    body = model.base_model
    states: Tensor = body(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
    return states[places, last]


def _hidden(rows: Tensor, head: Head) -> Tensor:
    """The rows themselves, in place of a loss of them."""
    del head
    return rows


def _check_texts(model: Any, texts: Sequence[Ids]) -> None:
    if len(texts) == 0:
        raise ValueError("there are no samples to measure")
    config = model.config.get_text_config()
    longest = getattr(config, "max_position_embeddings", None)
    if isinstance(model, CausalLM) and model.config.bos_token_id is None:
        raise ValueError("the model reads texts behind a BOS: its config needs bos_token_id")
    for index, text in enumerate(texts):
        if len(text) == 0:
            raise ValueError(f"sample {index} is empty")
        if longest is not None and len(text) > longest:
            raise ValueError(
                f"sample {index} has {len(text)} tokens, more than the {longest} of the model; "
                f"give max_tokens={longest} or less"
            )
        unknown = [token for token in text if not 0 <= token < config.vocab_size]
        if unknown:
            raise ValueError(
                f"sample {index} has the id {unknown[0]}, the model's vocabulary only "
                f"{config.vocab_size}; encode the texts with its tokenizer"
            )
