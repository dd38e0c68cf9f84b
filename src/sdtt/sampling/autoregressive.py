"""Texts from an autoregressive model, a token a pass with a cache: the baseline."""

from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from sdtt.diffusion.categorical import draw, transform
from sdtt.diffusion.uniforms import uniforms
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

    Token i of sample b is the inverse distribution function of p(x_i | BOS, x_<i) at a float64
    uniform of (seed, b): rows do not depend on the batch. EOS does not stop a text: it separates
    documents, as in training.

    Args:
        model: A transformers causal language model with a BOS.
        num_samples: How many texts.
        length: Tokens of each.
        seed: Of all uniforms.
        temperature: The law is p^(1 / temperature), normalised; 0 takes the likeliest token.
        top_p: Nucleus in (0, 1].
        batch_size: Texts at a time.

    Raises:
        ValueError: If the model has no BOS, or a number is out of its range.
    """
    bos = model.config.bos_token_id
    if bos is None:
        raise ValueError(f"{type(model).__name__} has no bos_token_id to begin a text with")
    change = transform(temperature, top_p)
    parts = []
    with evaluating(model):
        for first in range(0, num_samples, batch_size):
            names = range(first, min(first + batch_size, num_samples))
            v = uniforms(seed, "autoregressive/token", names, length)
            last = torch.full((len(names), 1), bos, device=model.device)
            cache, tokens = None, []
            for i in range(length):
                out = model(input_ids=last, past_key_values=cache, use_cache=True)
                cache = out.past_key_values
                last = draw(change(out.logits[:, -1]), v[:, i])[:, None]
                tokens.append(last)
            parts.append(torch.cat(tokens, 1))
    return torch.cat(parts)
