"""`sdtt generate`: text from a model."""

import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging

from sdtt.cli.console import is_first_process, progress
from sdtt.cli.options import Given, command
from sdtt.cli.watch import frames, replay
from sdtt.models.causal import CausalLM
from sdtt.models.checkpoints import (
    check_folder,
    load_config,
    load_model,
    load_tokenizer_of,
    on_accelerator,
    place_of,
)
from sdtt.models.mdlm import MDLMForMaskedLM
from sdtt.models.pack import pack
from sdtt.models.placement import accelerator
from sdtt.models.precision import in_multiplied_dtype
from sdtt.sampling.autoregressive import sample_autoregressive
from sdtt.sampling.canvas import Canvas, encode, encoded_canvas
from sdtt.sampling.generate import sample, texts_of
from sdtt.sampling.reveal import Step
from sdtt.sampling.settings import SampleSettings, settings_for
from sdtt.sampling.text_settings import TextSettings, text_settings_for


@dataclass(frozen=True)
class GenerateSettings:
    """What is written, and how it is shown."""

    model: Path = field(
        default=Path("student"),
        metadata={
            "help": "folder or hub name of the model, or a shipped one: student, teacher; in a "
            "checkout caching"
        },
    )
    num_samples: int | None = field(
        default=None, metadata={"help": "how many texts for each prompt; 1 by default"}
    )
    prompt: str = field(default="", metadata={"help": "text that stands at the front"})
    prompts: Path | None = field(
        default=None, metadata={"help": "file with one prompt a line, instead of --prompt"}
    )
    suffix: str = field(
        default="", metadata={"help": "text that stands at the end: the middle is filled in"}
    )
    infill: str | None = field(
        default=None, metadata={"help": 'the whole text, [n] for n free tokens: "Once [8] after."'}
    )
    force: tuple[str, ...] | None = field(
        default=None,
        metadata={"help": "tokens at places, such as 0=17 or -1=0; '' takes saved ones back"},
    )
    length: int | None = field(
        default=None, metadata={"help": "tokens of a text; the model's length by default"}
    )
    max_new_tokens: int | None = field(
        default=None, metadata={"help": "instead of --length: tokens filled in for each prompt"}
    )
    stop_at_eos: bool | None = field(
        default=None, metadata={"help": "a sampled end-of-text token ends its text"}
    )
    autoregressive: bool = field(
        default=False, metadata={"help": "the model is a causal one: the baseline, token by token"}
    )
    optimize: bool = field(
        default=True,
        metadata={"help": "fold conditioning, and pack weights for a CPU: the same law, sooner"},
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = field(
        default="auto", metadata={"help": "of the weights; that of the file by default"}
    )
    watch: bool = field(
        default=False, metadata={"help": "replay in the terminal how each text was revealed"}
    )
    watch_seconds: float = field(default=0.1, metadata={"help": "seconds that a step is shown"})
    json: bool = field(
        default=False, metadata={"help": "one JSON object a line: text, ids and all settings"}
    )

    def __post_init__(self) -> None:
        """Refuses what cannot be."""
        if self.num_samples is not None and self.num_samples < 0:
            raise ValueError(f"num_samples must be at least 0, got {self.num_samples}")
        if self.watch_seconds < 0:
            raise ValueError(f"watch_seconds must be at least 0, got {self.watch_seconds}")
        if self.prompt and self.prompts is not None:
            raise ValueError("give --prompt or --prompts, not both")
        if self.watch and self.json:
            raise ValueError("--watch draws and --json prints records: give one")
        _forced(self.force or ())
        if self.autoregressive:
            names = ("suffix", "infill", "prompts", "force", "max_new_tokens", "watch")
            given = [n for n in names if getattr(self, n) != getattr(type(self), n)]
            if given:
                flag = given[0].replace("_", "-")
                raise ValueError(
                    f"--autoregressive writes from the left, one prompt: it takes no --{flag}"
                )
            if self.length is not None and self.length < 1:
                raise ValueError(f"length must be at least 1, got {self.length}")


def _forced(pairs: tuple[str, ...]) -> dict[int, int]:
    """Place to id."""
    try:
        given = [pair.split("=") for pair in pairs if pair]
        found = [(int(place), int(token)) for place, token in given]
    except ValueError as error:
        raise ValueError(f"--force takes PLACE=ID, such as 0=17 or -1=0, got {pairs}") from error
    places = [place for place, _ in found]
    twice = [place for place in places if places.count(place) > 1]
    if twice:
        raise ValueError(f"--force names place {twice[0]} twice: one token stands there")
    return dict(found)


def generate(settings: GenerateSettings, given: Given[SampleSettings]) -> None:
    """Write text with a model: from nothing, behind prompts, or between fixed parts.

    The model is by default the student that comes with the package. Its generation_config.json
    says how it is sampled where the flags do not.
    Under `accelerate launch -m sdtt generate ...` the samples are split over the processes.
    """
    logging.disable_progress_bar()
    PartialState()  # gives each process its own accelerator
    place = check_folder(place_of(settings.model))
    load_config(place)  # a damaged one is no fault of the tokenizer, which reads it too
    tokenizer = load_tokenizer_of(place)
    dtype = settings.dtype if settings.dtype == "auto" else getattr(torch, settings.dtype)
    model = load_model(place, causal=settings.autoregressive, dtype=dtype)
    if settings.autoregressive:
        _write_autoregressively(settings, given, model, tokenizer)
        return
    sampling = settings_for(model, given.values)
    forced = None if settings.force is None else _forced(settings.force)
    asked = text_settings_for(
        model,
        num_samples=settings.num_samples,
        length=settings.length,
        max_new_tokens=settings.max_new_tokens,
        infill=settings.infill,
        forced=forced,
        stop_at_eos=settings.stop_at_eos,
    )
    model = on_accelerator(model)
    if settings.optimize:
        fast = isinstance(model, MDLMForMaskedLM)
        model = model.for_inference() if fast else in_multiplied_dtype(model)
    prompts = _prompts(settings)
    canvas = encoded_canvas(
        model,
        tokenizer,
        prompt=prompts,
        suffix=settings.suffix,
        infill=settings.infill,
        num_samples=asked.num_samples,
        length=asked.length,
        max_new_tokens=asked.max_new_tokens,
        forced=asked.forced,
    )
    drawn = _sample(asked, sampling, model, canvas)
    if not is_first_process():
        return
    of_text = {name: getattr(asked, name) for name in ("length", "max_new_tokens")}
    of_text["stop_at_eos"] = bool(asked.stop_ids)
    of_text["force"] = [f"{place}={token}" for place, token in asked.forced.items()]
    common = _common(settings, sampling.record() | of_text, model)
    for index, (ids, steps) in enumerate(drawn):
        length = len(ids)
        if settings.watch:
            before = canvas.ids[index, :length].tolist()
            shown = frames(f"sample {index + 1}", before, steps, model.mask_token_id)
            replay(shown, tokenizer, seconds=settings.watch_seconds)
        (text,) = texts_of(tokenizer, torch.tensor([ids]), None)
        own: dict[str, Any] = {"passes": len(steps)}
        if not isinstance(prompts, str):
            own["prompt"] = prompts[index // asked.num_samples]
        _show(settings, index, text, ids, len(drawn), common | own)


def _prompts(settings: GenerateSettings) -> str | list[str]:
    if settings.prompts is None:
        return settings.prompt
    try:
        text = settings.prompts.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{settings.prompts} is no UTF-8 text at its byte {error.start}: save it as UTF-8"
        ) from error
    text = text.removeprefix("\ufeff")  # how some editors begin a file
    lines = text.removesuffix("\n").split("\n") if text else []
    if not lines:
        raise ValueError(f"{settings.prompts} holds no prompt: one a line is wanted")
    return lines


def _sample(
    asked: TextSettings, sampling: SampleSettings, model: Any, canvas: Canvas
) -> list[tuple[list[int], list[dict[int, int]]]]:
    """Ids of each sample without padding, and what each of its steps revealed."""
    state = PartialState()
    share = -(-len(canvas.ids) // state.num_processes)
    begin = state.process_index * share
    own = canvas.rows(slice(begin, begin + share))
    free = int((own.ids == model.mask_token_id).sum())
    taken: list[tuple[int, Step]] = []
    with progress(free, "generate") as advance:

        def on_step(first: int, step: Step) -> None:
            advance(len(step.rows))
            taken.append((first, step))

        filled = sample(
            model,
            own.ids,
            attention_mask=own.attention_mask,
            stop_ids=asked.stop_ids,
            pad_id=asked.pad_id,
            first_index=begin,
            on_step=on_step,
            **vars(sampling),
        )
    steps: dict[int, list[dict[int, int]]] = defaultdict(list)
    for first, step in taken:
        for row, revealed in _by_text(step, own.ids.shape[1]):
            steps[first + row].append(revealed)
    rows = filled.tolist()
    if own.attention_mask is not None:
        sizes = own.attention_mask.sum(1).tolist()
        rows = [row[:size] for row, size in zip(rows, sizes, strict=True)]
    part = [(row, steps[index]) for index, row in enumerate(rows)]
    return gather_object(part) if state.num_processes > 1 else part


def _by_text(step: Step, length: int) -> Iterator[tuple[int, dict[int, int]]]:
    """Place to token for each text that took part."""
    places: dict[int, dict[int, int]] = {text: {} for text in step.texts.tolist()}
    for row, token in zip(step.rows.tolist(), step.tokens.tolist(), strict=True):
        places[row // length][row % length] = token
    yield from places.items()


def _write_autoregressively(
    settings: GenerateSettings,
    given: Given[SampleSettings],
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    if PartialState().num_processes > 1:
        raise ValueError("--autoregressive runs in one process: leave out accelerate launch")
    sampling = given.make()
    taken = ("seed", "temperature", "top_p", "top_k", "repetition_penalty", "batch_size", "compile")
    own = {name: getattr(sampling, name) for name in taken}
    strange = sorted(given.values.keys() - own.keys())
    if strange:
        raise ValueError(f"--autoregressive has no {strange[0]}; it takes {', '.join(taken)}")
    own["batch_size"] = own["batch_size"] or 64
    length = settings.length or getattr(model.config, "max_position_embeddings", None)
    if length is None:
        raise ValueError(f"{settings.model} does not say how long its texts are: give --length")
    model = model.to(accelerator() or "cpu")
    if settings.optimize:
        model = in_multiplied_dtype(model)
        model = pack(model) if isinstance(model, CausalLM) else model
    # a causal model's generation_config.json is of another way to generate
    asked = text_settings_for(
        model, num_samples=settings.num_samples, stop_at_eos=settings.stop_at_eos
    )
    ids: Int[Tensor, "B L"] = sample_autoregressive(
        model,
        num_samples=asked.num_samples,
        length=length,
        prompt=encode(tokenizer, settings.prompt),
        stop_ids=asked.stop_ids,
        pad_id=asked.pad_id,
        **own,
    )
    how = own | {"sampler": "autoregressive", "draw_dtype": "float64"}
    how |= {"length": settings.length, "stop_at_eos": bool(asked.stop_ids)}
    common = _common(settings, how, model)
    rows = ids.tolist()
    for index, (text, row) in enumerate(zip(texts_of(tokenizer, ids, None), rows, strict=True)):
        _show(settings, index, text, row, len(rows), common)


def _common(settings: GenerateSettings, how: dict[str, Any], model: Any) -> dict[str, Any]:
    """Every setting of a record."""
    names = ("prompt", "suffix", "infill", "max_new_tokens", "optimize")
    common = {name: getattr(settings, name) for name in names}
    common |= {"force": [], "model": str(settings.model)} | how
    return common | {"dtype": str(model.dtype).removeprefix("torch."), "torch": torch.__version__}


def _show(
    settings: GenerateSettings,
    index: int,
    text: str,
    ids: list[int],
    count: int,
    common: dict[str, Any],
) -> None:
    if settings.json:
        print(json.dumps({"index": index, "text": text, "ids": ids, **common}))
    else:
        title = f"--- sample {index + 1}\n" if count > 1 else ""
        print(title + text)


COMMAND = command(
    generate,
    example='sdtt generate --num-samples 4 --prompt "Once upon a time"',
    unsaid="that of the model's generation_config.json",
)
