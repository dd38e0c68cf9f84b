"""Texts from an autoregressive model by transformers' own generation: the baseline."""

from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from sdtt.sampling.generate import evaluating


@torch.no_grad()
def sample_autoregressive(
    model: Any,
    *,
    num_samples: int,
    length: int,
    seed: int = 0,
    temperature: float = 1.0,
    top_p: float = 1.0,
    batch_size: int = 64,
) -> Int[Tensor, "B L"]:
    """Texts of exactly ``length`` tokens behind one BOS, which is not returned.

    Drawn by ``model.generate`` in float32 from torch's generator, seeded here and restored, so
    rows depend on ``batch_size``. EOS does not stop a text: it separates documents, as in training.

    Args:
        model: A transformers causal language model with a BOS.
        num_samples: How many texts.
        length: Tokens of each.
        seed: Of torch's generator.
        temperature: Above 0.
        top_p: Nucleus in (0, 1].
        batch_size: Texts at a time.

    Raises:
        ValueError: If the model has no BOS.
    """
    bos = model.config.bos_token_id
    if bos is None:
        raise ValueError(f"{type(model).__name__} has no bos_token_id to begin a text with")
    parts = []
    devices = [model.device] if model.device.type == "cuda" else []
    with evaluating(model), torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        for first in range(0, num_samples, batch_size):
            start = torch.full((min(batch_size, num_samples - first), 1), bos, device=model.device)
            texts = model.generate(
                start,
                attention_mask=torch.ones_like(start),
                max_new_tokens=length,
                do_sample=True,
                temperature=temperature,
                top_p=top_p,
                top_k=0,
                eos_token_id=-1,  # none: a text has its full length
                pad_token_id=bos,
            )
            parts.append(texts[:, 1:])
    return torch.cat(parts)
