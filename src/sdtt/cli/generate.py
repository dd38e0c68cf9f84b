"""`sdtt generate`: text from a model."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from transformers.utils import logging

from sdtt.cli.console import progress
from sdtt.cli.options import command
from sdtt.diffusion.noise import SCHEDULES
from sdtt.models.checkpoints import load_model, load_tokenizer_of, on_accelerator
from sdtt.sampling.ancestral import Step
from sdtt.sampling.generate import encoded_canvas, sample


@dataclass(frozen=True)
class GenerateSettings:
    """What is written."""

    model: Path = field(metadata={"help": "folder of the model"})
    steps: int = field(default=64, metadata={"help": "steps of the sampler, each one pass at most"})
    num_samples: int = field(default=1, metadata={"help": "how many texts"})
    seed: int = field(default=0, metadata={"help": "sample i is a function of seed and i"})
    prompt: str = field(default="", metadata={"help": "text that stands at the front"})
    suffix: str = field(
        default="", metadata={"help": "text that stands at the end: the middle is filled in"}
    )
    temperature: float = field(default=1.0, metadata={"help": "the law is p^(1 / temperature)"})
    top_p: float = field(default=1.0, metadata={"help": "nucleus, in (0, 1]; 1 keeps all tokens"})
    length: int | None = field(
        default=None, metadata={"help": "tokens of a text; the model's length by default"}
    )
    schedule: str = field(
        default="log_linear", metadata={"help": f"time grid's alpha(t): {' or '.join(SCHEDULES)}"}
    )
    batch_size: int = field(default=64, metadata={"help": "texts a pass; changes no text"})
    dtype: Literal["auto", "float32", "bfloat16"] = field(
        default="auto", metadata={"help": "of the weights; that of the file by default"}
    )
    json: bool = field(
        default=False, metadata={"help": "one JSON object a line: text, ids and all settings"}
    )

    def __post_init__(self) -> None:
        """Refuses what cannot be."""
        if self.num_samples < 1:
            raise ValueError(f"num_samples must be at least 1, got {self.num_samples}")
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {self.batch_size}")


def generate(settings: GenerateSettings) -> None:
    """Write text with a model: from nothing, behind a prompt, or between prompt and suffix."""
    logging.disable_progress_bar()
    tokenizer = load_tokenizer_of(settings.model)
    dtype = settings.dtype if settings.dtype == "auto" else getattr(torch, settings.dtype)
    model = on_accelerator(load_model(settings.model, dtype=dtype))
    canvas = encoded_canvas(
        model,
        tokenizer,
        num_samples=settings.num_samples,
        prompt=settings.prompt,
        suffix=settings.suffix,
        length=settings.length,
    )
    free = int((canvas == model.mask_token_id).sum())
    with progress(free, "generate") as advance:

        def count(_: int, step: Step) -> None:
            advance(len(step.rows))

        ids = sample(
            model,
            canvas,
            steps=settings.steps,
            seed=settings.seed,
            temperature=settings.temperature,
            top_p=settings.top_p,
            schedule=settings.schedule,
            batch_size=settings.batch_size,
            on_step=count,
        )
    texts = tokenizer.batch_decode(ids.tolist(), skip_special_tokens=True)
    common = {
        name: getattr(settings, name)
        for name in (
            *("steps", "seed", "temperature", "top_p", "schedule", "prompt", "suffix"),
            *("length", "batch_size"),
        )
    }
    common |= {"model": str(settings.model), "sampler": "ancestral", "draw_dtype": "float64"}
    common |= {"dtype": str(model.dtype).removeprefix("torch."), "torch": torch.__version__}
    for index, (text, row) in enumerate(zip(texts, ids.tolist(), strict=True)):
        if settings.json:
            print(json.dumps({"index": index, "text": text, "ids": row, **common}))
        else:
            title = f"--- sample {index + 1}\n" if settings.num_samples > 1 else ""
            print(title + text)


COMMAND = command(
    generate,
    example='sdtt generate --model runs/teacher --steps 16 --num-samples 4 --prompt "Return the"',
)
