"""From a model to texts: canvases, batches, seeds for each sample, strings."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from sdtt.diffusion.categorical import transform
from sdtt.diffusion.denoiser import Denoiser
from sdtt.diffusion.noise import SCHEDULES
from sdtt.diffusion.uniforms import uniforms
from sdtt.sampling.ancestral import Step, ancestral


@contextmanager
def evaluating(model: object) -> Iterator[None]:
    """The model in evaluation mode, so without dropout; its mode comes back afterwards."""
    was_training = isinstance(model, nn.Module) and model.training
    if was_training:
        model.eval()  # type: ignore[attr-defined]
    try:
        yield
    finally:
        if was_training:
            model.train()  # type: ignore[attr-defined]


@torch.no_grad()
def sample(
    denoiser: Denoiser,
    canvas: Int[Tensor, "B L"],
    *,
    steps: int,
    seed: int = 0,
    first_index: int = 0,
    temperature: float = 1.0,
    top_p: float = 1.0,
    schedule: str = "log_linear",
    batch_size: int = 64,
    on_step: Callable[[int, Step], None] | None = None,
) -> Int[Tensor, "B L"]:
    """Fills the MASK positions of a canvas by the ancestral sampler.

    Row b is a function of (seed, first_index + b) and its own canvas, not of the batch.

    Args:
        denoiser: p(x_i | z); set to evaluation mode meanwhile.
        canvas: Token ids, MASK where a token is wanted; other positions stay as they are.
        steps: How many steps of the time grid; each costs at most one pass of the network.
        seed: Of all uniforms.
        first_index: The sample index of row 0.
        temperature: The law is p^(1 / temperature), normalised; 0 takes the likeliest token.
        top_p: Nucleus in (0, 1]; 1 keeps every token.
        schedule: A name of ``SCHEDULES``.
        batch_size: Texts a pass.
        on_step: Called with (first row of the batch, step) after each step.

    Returns:
        The canvas, filled.

    Raises:
        ValueError: If steps, temperature, top_p or the schedule is out of its range.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    if schedule not in SCHEDULES:
        raise ValueError(f"unknown schedule {schedule!r}; there are {', '.join(SCHEDULES)}")
    change = transform(temperature, top_p)
    filled = canvas.clone(memory_format=torch.contiguous_format)
    length = canvas.shape[1]
    with evaluating(denoiser):
        for first in range(0, len(canvas), batch_size):
            z = canvas[first : first + batch_size]
            names = range(first_index + first, first_index + first + len(z))
            u = uniforms(seed, "sample/reveal", names, length)
            v = uniforms(seed, "sample/token", names, length)
            part = filled[first : first + batch_size].view(-1)
            for step in ancestral(
                denoiser, z, u, v, steps=steps, transform=change, schedule=SCHEDULES[schedule]
            ):
                part[step.rows] = step.tokens
                if on_step is not None:
                    on_step(first, step)
    return filled


def canvas_of(
    denoiser: Denoiser,
    length: int,
    num_samples: int = 1,
    *,
    prompt: list[int] | None = None,
    suffix: list[int] | None = None,
    vocab_size: int | None = None,
) -> Int[Tensor, "B L"]:
    """Texts of ``length`` ids: the prompt, then MASK, then the suffix.

    Args:
        denoiser: Says which id is MASK.
        length: L.
        num_samples: How many equal rows.
        prompt: Ids that stand at the front.
        suffix: Ids that stand at the end.
        vocab_size: If given, ids must lie below it.

    Raises:
        ValueError: If prompt and suffix do not fit, or hold an id that no text has.
    """
    front, back = prompt or [], suffix or []
    if length < 1:
        raise ValueError(f"length must be at least 1, got {length}")
    if len(front) + len(back) > length:
        raise ValueError(
            f"the prompt has {len(front) + len(back)} tokens, more than the text's {length}; "
            "shorten it or raise length"
        )
    unknown = [
        i
        for i in front + back
        if i < 0 or i in denoiser.excluded_ids or (vocab_size is not None and i >= vocab_size)
    ]
    if unknown:
        raise ValueError(
            f"the prompt has the unknown id {unknown[0]}; ids lie in [0, {vocab_size}) and are not "
            f"MASK ({denoiser.mask_token_id}); encode it with the model's own tokenizer"
        )
    middle = [denoiser.mask_token_id] * (length - len(front) - len(back))
    return torch.tensor([front + middle + back]).repeat(num_samples, 1)


def encoded_canvas(
    model: Any,
    tokenizer: Any,
    *,
    num_samples: int = 1,
    prompt: str = "",
    suffix: str = "",
    length: int | None = None,
) -> Int[Tensor, "B L"]:
    """``canvas_of`` from strings: what looks like a special token in them is plain text.

    Args:
        model: A denoiser with a transformers config.
        tokenizer: The tokenizer it was trained with.
        num_samples: How many equal rows.
        prompt: Text at the front.
        suffix: Text at the end.
        length: Tokens of a text; the model's own length by default.

    Raises:
        ValueError: If length is beyond the model's, or the prompt does not fit.
    """
    limit = model.config.max_position_embeddings
    if length is not None and length > limit:
        raise ValueError(f"length {length} is more than the model's {limit}")
    front, back = (
        tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
        for text in (prompt, suffix)
    )
    size = model.config.vocab_size
    canvas = canvas_of(
        model,
        limit if length is None else length,
        num_samples,
        prompt=front,
        suffix=back,
        vocab_size=size,
    )
    return canvas.to(model.device)


def generate(
    model: Any,
    tokenizer: Any,
    *,
    steps: int,
    num_samples: int = 1,
    prompt: str = "",
    suffix: str = "",
    length: int | None = None,
    **settings: Any,
) -> list[str]:
    """Texts from a model and its tokenizer.

    Args:
        model: An ``MDLMForMaskedLM``, or any denoiser with a transformers config.
        tokenizer: The tokenizer it was trained with.
        steps: Steps of the sampler.
        num_samples: How many texts.
        prompt: Text that stands at the front of each.
        suffix: Text that stands at the end of each: what lies between is filled in.
        length: Tokens of a text; the model's own length by default.
        **settings: seed, temperature, top_p, schedule, batch_size, as ``sample`` takes them.

    Returns:
        One string a sample, prompt and suffix included, special tokens left out.

    Raises:
        ValueError: If a setting is out of its range or the prompt does not fit.
    """
    canvas = encoded_canvas(
        model, tokenizer, num_samples=num_samples, prompt=prompt, suffix=suffix, length=length
    )
    tokens = sample(model, canvas, steps=steps, **settings)
    texts: list[str] = tokenizer.batch_decode(tokens.tolist(), skip_special_tokens=True)
    return texts
