"""From a model to texts: batches, a seed for each sample, strings."""

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from sdtt.diffusion.denoiser import Denoiser, as_denoiser, follows_order
from sdtt.diffusion.uniforms import uniforms
from sdtt.sampling.canvas import check_canvas, check_ids, encoded_canvas
from sdtt.sampling.network import by_cache
from sdtt.sampling.reveal import Step, first_stop
from sdtt.sampling.settings import SampleSettings, settings_for
from sdtt.sampling.text_settings import text_settings_for

NUMBERS_A_TOKEN = 16
"""Activations of a pass, in widths D a token: the MLP's two of 4 D, queries, keys, values, rest."""

HOST_BYTES = 2**28
"""What the activations of a pass may take on a CPU: more texts a pass gain nothing there."""

CACHE_HOST_BYTES = 2**30
"""The same where a cache is kept: passes are small, so that more texts share the weights."""


@contextmanager
def evaluating(model: object) -> Iterator[None]:
    """The model in evaluation mode, so without dropout; afterwards each part is in its own again.

    A part may be in another mode than the whole: one that is frozen, or one that a wrapper holds.
    """
    modules = list(model.modules()) if isinstance(model, nn.Module) else []
    in_training = [module for module in modules if module.training]
    for module in in_training:
        module.training = False
    try:
        yield
    finally:
        for module in in_training:
            module.training = True


def texts_a_pass(denoiser: Denoiser, length: int, device: torch.device) -> int:
    """How many texts of ``length`` tokens one pass takes, by the memory of its activations.

    Args:
        denoiser: Its head says its width.
        length: L.
        device: On an accelerator a quarter of its free memory is used.
    """
    weight = denoiser.head.weight
    kept = cache_bytes(denoiser, length)
    host = CACHE_HOST_BYTES if kept else HOST_BYTES
    budget = host if device.type == "cpu" else _free_bytes(device) // 4
    each = kept + length * weight.shape[1] * NUMBERS_A_TOKEN * weight.element_size()
    return max(1, budget // max(each, 1))


def cache_bytes(denoiser: Denoiser, length: int) -> int:
    """Memory of the keys and values of one text; 0 of a denoiser that keeps none."""
    if not follows_order(denoiser) or not hasattr(denoiser, "reveal_cache_bytes"):
        return 0
    return int(denoiser.reveal_cache_bytes(length))


def check_cache(denoiser: Denoiser, texts: int, length: int, device: torch.device) -> None:
    """Refuses a cache that cannot be held, before the first pass.

    Raises:
        ValueError: If it takes more memory than there is.
    """
    needed = texts * cache_bytes(denoiser, length)
    if needed == 0:
        return
    there = _host_bytes() if device.type == "cpu" else _free_bytes(device)
    if needed > there:
        raise ValueError(
            f"the cache of {texts} texts of {length} tokens takes {needed / 2**30:.1f} GiB, and "
            f"{there / 2**30:.1f} GiB are there: lower batch_size"
        )


def _host_bytes() -> int:
    """Memory of the machine."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not every system tells
        return sys.maxsize


def _free_bytes(device: torch.device) -> int:
    try:
        free, _ = torch.accelerator.get_memory_info(device)
        kept = torch.accelerator.memory_reserved(device)
        return free + kept - torch.accelerator.memory_allocated(device)  # torch lends it again
    except (RuntimeError, NotImplementedError):  # MPS does not tell
        return 4 * HOST_BYTES


@torch.no_grad()
def sample(
    denoiser: Denoiser,
    canvas: Int[Tensor, "B L"],
    *,
    attention_mask: Bool[Tensor, "B L"] | Int[Tensor, "B L"] | None = None,
    stop_ids: Sequence[int] = (),
    pad_id: int = 0,
    first_index: int = 0,
    on_step: Callable[[int, Step], None] | None = None,
    **settings: Any,
) -> Int[Tensor, "B L"]:
    """Fills the MASK positions of a canvas.

    Row b is a function of (seed, first_index + b) and its own canvas, not of the batch; a padded
    row is what its text gives alone. Both hold up to the rounding of the network, which a kernel
    may do differently for another shape: a draw within 1e-7 of the edge of a token may then differ.

    Args:
        denoiser: p(x_i | z); set to evaluation mode meanwhile.
        canvas: Token ids, MASK where a token is wanted; other positions stay as they are, but
            behind a stop.
        attention_mask: True or 1 where a token is real; padding lies on the right.
        stop_ids: A sampled token of these ends its text: nothing behind it is sampled any more, and
            what stands there is ``pad_id``.
        pad_id: What stands behind a stop.
        first_index: The sample index of row 0.
        on_step: Called with (first row of the batch, step) after each step.
        **settings: The fields of ``SampleSettings``: sampler, steps, temperature, seed, ...

    Returns:
        The canvas, filled.

    Raises:
        ValueError: If it is no denoiser, a setting is out of its range, an id is none of the
            model's, the mask has another shape than the canvas, or it cannot be compiled.
    """
    as_denoiser(denoiser)
    chosen = SampleSettings(**settings)
    run, transform = chosen.chosen(), chosen.transform()
    network = by_cache(denoiser, chosen.cache)
    if chosen.compile:
        compile_network(denoiser)
    check_canvas(denoiser, canvas, attention_mask)
    for name, ids in (("banned", chosen.banned), ("stop_ids", stop_ids)):
        check_ids(denoiser, ids, denoiser.head.weight.shape[0], what=f"{name} has")
    canvas = canvas.long()
    if attention_mask is not None:
        attention_mask = attention_mask.bool()
    filled = canvas.clone(memory_format=torch.contiguous_format)
    length = canvas.shape[1]
    if canvas.numel() == 0:
        return filled
    size = chosen.batch_size or texts_a_pass(network, length, canvas.device)
    check_cache(network, min(size, len(canvas)), length, canvas.device)
    with evaluating(denoiser):
        for first in range(0, len(canvas), size):
            z = canvas[first : first + size]
            real = None if attention_mask is None else attention_mask[first : first + size]
            names = range(first_index + first, first_index + first + len(z))
            u = uniforms(chosen.seed, "sample/reveal", names, length)
            v = uniforms(chosen.seed, "sample/token", names, length)
            part = filled[first : first + size].view(-1)
            for step in run(
                network, z, u=u, v=v,
                transform=transform, attention_mask=real, stop_ids=stop_ids,
            ):  # fmt: skip
                part[step.rows] = step.tokens
                if on_step is not None:
                    on_step(first, step)
    return _cut(filled, canvas == denoiser.mask_token_id, stop_ids, pad_id) if stop_ids else filled


def _cut(filled: Tensor, free: Tensor, stop_ids: Sequence[int], pad_id: int) -> Tensor:
    stop = first_stop(filled, free, stop_ids)
    behind = torch.arange(filled.shape[1], device=filled.device) > stop[:, None]
    return filled.masked_fill(behind, pad_id)


def compile_network(denoiser: Any) -> None:
    """Compiles what of a denoiser has a fixed shape; it stays compiled.

    Raises:
        ValueError: If it offers no ``compile_trunk``.
    """
    if not hasattr(denoiser, "compile_trunk"):
        raise ValueError(
            f"{type(denoiser).__name__} cannot be compiled: it has no compile_trunk, "
            "as MDLMForMaskedLM has; leave compile out"
        )
    denoiser.compile_trunk()


def generate(
    model: Any,
    tokenizer: Any,
    *,
    prompt: str | Sequence[str] = "",
    suffix: str = "",
    infill: str | None = None,
    num_samples: int | None = None,
    length: int | None = None,
    max_new_tokens: int | None = None,
    forced: Mapping[int, int] | None = None,
    stop_at_eos: bool | None = None,
    **settings: Any,
) -> list[str]:
    """Texts from a model and its tokenizer.

    Args:
        model: An ``MDLMForMaskedLM``, or any denoiser with a transformers config.
        tokenizer: The tokenizer it was trained with.
        prompt: Text that stands at the front; of a sequence of prompts each gets its own texts.
        suffix: Text that stands at the end: what lies between is filled in.
        infill: Instead of both: a text with ``[n]`` where n tokens are to be filled in.
        num_samples: How many texts for each prompt, one after the other; 1 by default.
        length: Tokens of a text; the model's own length by default.
        max_new_tokens: Instead of length: tokens to be filled in for each prompt.
        forced: Place to id: tokens that stand there from the beginning; negative places count from
            the end.
        stop_at_eos: Whether a sampled EOS ends its text, and with it a suffix behind it.
        **settings: The fields of ``SampleSettings``: sampler, steps, temperature, seed, ...; None
            takes a saved one back where None is the default.

    What all of these leave open is taken from ``model.generation_config``, as ``model.generate``
    does, where it is a ``DiffusionGenerationConfig``.

    Returns:
        One string a sample, prompt and suffix included, special tokens left out.

    Raises:
        ValueError: If a setting is out of its range or the prompt does not fit.
    """
    as_denoiser(model)
    asked = text_settings_for(
        model,
        num_samples=num_samples,
        length=length,
        max_new_tokens=max_new_tokens,
        infill=infill,
        forced=forced,
        stop_at_eos=stop_at_eos,
    )
    canvas = encoded_canvas(
        model,
        tokenizer,
        prompt=prompt,
        suffix=suffix,
        infill=infill,
        num_samples=asked.num_samples,
        length=asked.length,
        max_new_tokens=asked.max_new_tokens,
        forced=asked.forced,
    )
    tokens = sample(
        model,
        canvas.ids,
        attention_mask=canvas.attention_mask,
        stop_ids=asked.stop_ids,
        pad_id=asked.pad_id,
        **vars(settings_for(model, settings)),
    )
    return texts_of(tokenizer, tokens, canvas.attention_mask)


def texts_of(
    tokenizer: Any, tokens: Int[Tensor, "B L"], attention_mask: Bool[Tensor, "B L"] | None
) -> list[str]:
    """The strings of sampled texts, without padding and special tokens."""
    rows = tokens.tolist()
    if attention_mask is not None:
        sizes = attention_mask.sum(1).tolist()
        rows = [row[:size] for row, size in zip(rows, sizes, strict=True)]
    if not rows:  # batch_decode takes them for one empty text
        return []
    texts: list[str] = tokenizer.batch_decode(rows, skip_special_tokens=True)
    return texts
