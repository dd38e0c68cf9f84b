"""Texts from an autoregressive model, a token a pass with a static cache: the baseline."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor
from transformers import StaticCache

from sdtt.diffusion.categorical import Transform, draw, level_device
from sdtt.diffusion.uniforms import uniforms
from sdtt.sampling.generate import evaluating
from sdtt.sampling.settings import is_number

NextToken = Callable[[Int[Tensor, "B P"], StaticCache], Float[Tensor, "B V"]]


@dataclass(frozen=True)
class _Passes:
    """The pass over BOS and prompt, the pass over one token, and the cache between them."""

    of_prompt: NextToken
    of_token: NextToken
    cache: StaticCache
    on_token: Callable[[int], None] | None


@torch.no_grad()
def sample_autoregressive(
    model: Any,
    *,
    num_samples: int,
    length: int,
    prompt: Sequence[int] = (),
    prompts: Int[Tensor, "B P"] | None = None,
    seed: int = 0,
    temperature: float = 1.0,
    top_p: float = 1.0,
    top_k: int | None = None,
    repetition_penalty: float = 1.0,
    stop_ids: Sequence[int] = (),
    pad_id: int = 0,
    batch_size: int = 64,
    compile: bool = False,
    on_token: Callable[[int], None] | None = None,
) -> Int[Tensor, "B L"]:
    """Texts of exactly ``length`` tokens behind one BOS, which is not returned.

    Token i of sample b is the inverse distribution function of p(x_i | BOS, x_<i) at a float64
    uniform of (seed, b): rows do not depend on the batch. EOS does not stop a text unless it is
    asked to: it separates documents, as in training.

    Args:
        model: A transformers causal language model with a BOS.
        num_samples: How many texts.
        length: Tokens of each, the prompt included.
        prompt: Ids that each text begins with; MASK is none of them.
        prompts: Instead of it: for each text its own, all of one length.
        seed: Of all uniforms.
        temperature: The law is p^(1 / temperature), normalised; 0 takes the likeliest token.
        top_p: Nucleus in (0, 1].
        top_k: Only so many likeliest tokens.
        repetition_penalty: Power to which the probability of a token is raised that stands in the
            text already.
        stop_ids: A sampled token of these ends its text; once all texts of a batch have ended, no
            further pass is made.
        pad_id: What stands behind a stop.
        batch_size: Texts at a time.
        compile: Compile the pass of one token; on an accelerator as a CUDA graph.
        on_token: Called after each pass with the number of texts that got a token.

    Raises:
        ValueError: If the model has no BOS, the prompt does not fit or holds MASK, there is not one
            of ``prompts`` for each text, or a number is out of its range.
    """
    bos = model.config.bos_token_id
    if bos is None:
        raise ValueError(f"{type(model).__name__} has no bos_token_id to begin a text with")
    for name, value, least in (
        ("num_samples", num_samples, 0), ("length", length, 1), ("batch_size", batch_size, 1),
        ("seed", seed, None), ("top_k", 1 if top_k is None else top_k, None),
    ):  # fmt: skip
        if not is_number(value, Integral):
            raise ValueError(f"{name} must be a whole number, got {value!r}")
        if least is not None and value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")
    unknown = [token for token in stop_ids if not 0 <= token < model.config.vocab_size]
    if unknown:
        raise ValueError(
            f"stop_ids has the unknown id {unknown[0]}; ids lie in [0, {model.config.vocab_size})"
        )
    limit = getattr(model.config, "max_position_embeddings", None) or length
    if length > limit:
        raise ValueError(f"length {length} is more than the model's {limit}")
    fronts = _fronts(model, num_samples, length, prompt, prompts)
    transform = Transform(temperature, top_p, top_k, repetition_penalty)
    one_token = compiled_next_token(model) if compile else next_token(model)
    parts = [torch.empty(0, length, dtype=torch.long, device=model.device)]
    with evaluating(model):
        for first in range(0, num_samples, batch_size):
            names = range(first, min(first + batch_size, num_samples))
            v = uniforms(seed, "autoregressive/token", names, length)
            text = torch.full((len(names), 1 + length), pad_id, device=model.device)
            text[:, 0] = bos
            text[:, 1 : 1 + fronts.shape[1]] = fronts[names.start : names.stop]
            cache = StaticCache(config=model.config, max_cache_len=length)
            passes = _Passes(next_token(model), one_token, cache, on_token)
            _write(text, 1 + fronts.shape[1], v, transform, stop_ids, passes)
            parts.append(text[:, 1:])
    return torch.cat(parts)


def _fronts(
    model: Any,
    num_samples: int,
    length: int,
    prompt: Sequence[int],
    prompts: Int[Tensor, "B P"] | None,
) -> Int[Tensor, "B P"]:
    """The ids that each text begins with, checked."""
    if prompts is None:
        prompts = torch.tensor([list(prompt)], dtype=torch.long).repeat(num_samples, 1)
    elif prompts.dim() != 2:
        raise ValueError(
            f"prompts must be a batch of texts, (B, P), got the shape {tuple(prompts.shape)}"
        )
    elif len(prompts) != num_samples:
        raise ValueError(f"there are {len(prompts)} prompts for {num_samples} samples")
    known = set(prompts.unique().tolist())
    strange = sorted(token for token in known if not 0 <= token < model.config.vocab_size)
    if strange:
        raise ValueError(
            f"the prompt has the unknown id {strange[0]}; ids lie in [0, {model.config.vocab_size})"
        )
    if prompts.shape[1] > length:
        raise ValueError(f"the prompt has {prompts.shape[1]} tokens, more than the text's {length}")
    if getattr(model, "mask_token_id", None) in known:
        raise ValueError(
            "the prompt holds MASK: an autoregressive model cannot fill in places; "
            "use a diffusion model"
        )
    return prompts.to(model.device)


def next_token(model: Any) -> NextToken:
    """The pass of a causal model that gives the logits behind the last of some tokens."""

    def logits(ids: Tensor, cache: StaticCache) -> Tensor:
        out = model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        scores: Tensor = out.logits[:, -1]
        return scores

    return logits


def compiled_next_token(model: Any) -> NextToken:
    """The same for one token, compiled: a graph of kernels on an accelerator."""
    mode = None if model.device.type == "cpu" else "reduce-overhead"
    compiled: NextToken = torch.compile(next_token(model), dynamic=False, mode=mode)
    return compiled


def _write(
    text: Int[Tensor, "B L1"],
    start: int,
    v: Float64[Tensor, "B L"],
    transform: Transform,
    stop_ids: Sequence[int],
    passes: _Passes,
) -> None:
    """Writes the tokens from ``start`` on into ``text``, which the caller has just made."""
    stops = torch.tensor(list(stop_ids), device=text.device)
    ended = torch.zeros(len(text), dtype=torch.bool, device=text.device)
    levels = v.to(level_device(text.device))
    for place in range(start, text.shape[1]):
        if place == start:
            logits = passes.of_prompt(text[:, :place], passes.cache)
        else:
            logits = passes.of_token(text[:, place - 1 : place].clone(), passes.cache)
        # a temperature would lose more in 16 bits than the network has
        logits = logits.to(levels.device, torch.promote_types(logits.dtype, torch.float32))
        law = transform(logits, text[:, 1:place].to(levels.device))
        token = draw(law, levels[:, place - 1]).to(text.device)
        text[:, place] = torch.where(ended, text[:, place], token)
        if passes.on_token is not None:
            passes.on_token(len(text))
        if len(stops):
            ended |= torch.isin(token, stops)
            if bool(ended.all()):
                return
