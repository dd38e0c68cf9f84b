"""`sdtt evaluate`: judge perplexity with entropy beside it, and the matched-entropy control."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging

from sdtt.cli.console import note, progress
from sdtt.cli.options import Given, command
from sdtt.data.packing import load_blocks
from sdtt.evaluation.nelbo import validation_nelbo
from sdtt.evaluation.suite import (
    Record,
    Sampling,
    measure,
    measure_control,
    measure_model,
    without_nan,
)
from sdtt.models.checkpoints import load_model, load_tokenizer_of, on_accelerator
from sdtt.sampling.settings import SampleSettings

Retokenise = Callable[[list[list[int]]], list[list[int]]]


@dataclass(frozen=True)
class EvaluateSettings:
    """What is measured, by whom."""

    judge: str = field(
        metadata={"help": "causal language model: a folder, a hub name, or judge: the shipped one"}
    )
    output: Path = field(metadata={"help": "file of JSON lines, one a measurement"})
    model: Path | None = field(
        default=None,
        metadata={"help": "folder of the model to measure; student, teacher: the shipped ones"},
    )
    steps: tuple[int, ...] = field(
        default=(), metadata={"help": "numbers of sampling steps, such as 4,8,16"}
    )
    teacher: Path | None = field(
        default=None,
        metadata={"help": "folder of the teacher: adds the control, cooled to the same entropy"},
    )
    samples: Path | None = field(
        default=None, metadata={"help": "JSON lines with text or ids, instead of --model"}
    )
    data: str | None = field(
        default=None, metadata={"help": "text for the model's NELBO on its held-out part"}
    )
    num_samples: int = field(default=256, metadata={"help": "samples of each measurement"})
    length: int | None = field(
        default=None, metadata={"help": "tokens of a sample; the model's length by default"}
    )
    text_column: str = field(
        default="text", metadata={"help": "of --data, as it was in pretraining"}
    )
    unwrap: bool = field(default=False, metadata={"help": "of --data, as it was in pretraining"})
    validation_fraction: float = field(
        default=0.05, metadata={"help": "of --data, as it was in pretraining: the same split"}
    )
    overwrite: bool = field(
        default=False, metadata={"help": "replace --output if it is there", "flag_only": True}
    )

    def __post_init__(self) -> None:
        """Refuses what cannot be."""
        if (self.model is None) == (self.samples is None):
            raise ValueError("give either --model with --steps, or --samples")
        if self.model is not None and not self.steps and self.data is None:
            raise ValueError("--model needs --steps, such as --steps 4,8,16, or --data")
        if self.samples is not None and (self.teacher or self.data or self.steps):
            raise ValueError("--samples takes no --teacher, --data or --steps: give --model")
        wrong = [steps for steps in self.steps if steps < 1]
        if wrong:
            raise ValueError(f"steps must be at least 1, got {wrong[0]}")


def evaluate(settings: EvaluateSettings, sampling: Given[SampleSettings]) -> None:
    """Measure a model at several numbers of steps, or a file of samples.

    Perplexity under the judge always stands beside the entropy of the samples. With --teacher each
    row is followed by its control: the teacher at the same steps, cooled to the same entropy. The
    order is dilated by default; published numbers are of `--sampler ancestral`. What a model's
    generation_config.json says is not followed here: a measurement is what its command says.
    """
    if settings.output.exists() and not settings.overwrite:
        raise ValueError(
            f"{settings.output} is there already; give --overwrite or another --output"
        )
    how = Sampling(settings.num_samples, settings.length, sampling.make())
    logging.disable_progress_bar()
    judge = load_model(settings.judge, causal=True)
    judge.to(torch.accelerator.current_accelerator() or "cpu")
    tokenizer = load_tokenizer_of(settings.judge)
    rows = (
        _of_file(settings.samples, judge, tokenizer, how)
        if settings.samples is not None
        else _of_model(settings, judge, tokenizer, how)
    )
    settings.output.parent.mkdir(parents=True, exist_ok=True)
    aside = settings.output.with_name(settings.output.name + ".part")
    with aside.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps({**row, "judge": settings.judge}) + "\n")
            file.flush()
            print(_line(row))
    aside.replace(settings.output)


def _of_model(
    settings: EvaluateSettings, judge: Any, judge_tokenizer: PreTrainedTokenizerBase, how: Sampling
) -> Iterator[Record]:
    assert settings.model is not None
    tokenizer = load_tokenizer_of(settings.model)
    model = on_accelerator(load_model(settings.model))
    how = replace(how, length=how.length or model.config.max_position_embeddings)
    teacher = None if settings.teacher is None else _teacher(settings.teacher, tokenizer)
    retokenise = retokeniser(tokenizer, judge_tokenizer, judge)
    if settings.data is not None:
        blocks = load_blocks(
            settings.data,
            tokenizer,
            model.config.max_position_embeddings,
            validation_fraction=settings.validation_fraction,
            text_column=settings.text_column,
            unwrap=settings.unwrap,
        )
        bound = validation_nelbo(
            model, blocks.validation, device=model.device, seed=how.settings.seed
        )
        record = without_nan({"data": settings.data, **vars(bound)})
        yield {"kind": "nelbo", "model": str(settings.model), **record}
    with progress(len(settings.steps), "evaluate", "rows") as advance:
        for steps in settings.steps:
            record, _ = measure_model(model, steps, judge, how, retokenise=retokenise)
            yield {"kind": "model", "model": str(settings.model), **record}
            if teacher is not None:
                yield _control(settings, teacher, record, judge, how, retokenise)
            advance(1)


def _teacher(source: Path, tokenizer: PreTrainedTokenizerBase) -> Any:
    if load_tokenizer_of(source).get_vocab() != tokenizer.get_vocab():
        raise ValueError(
            f"--teacher {source} has another vocabulary than --model: no control of it"
        )
    return on_accelerator(load_model(source))


def _control(
    settings: EvaluateSettings,
    teacher: Any,
    record: Record,
    judge: Any,
    how: Sampling,
    retokenise: Retokenise | None,
) -> Record:
    """The control of a row, or why there is none: an unmatched one must not cost the others."""
    who = {"kind": "control", "model": str(settings.teacher)}
    steps, entropy = record["steps"], record["entropy"]
    try:
        control = measure_control(teacher, steps, entropy, judge, how, retokenise=retokenise)
    except ValueError as error:
        return who | {"steps": steps, "matched_entropy": entropy, "error": str(error)}
    return who | control


def _of_file(
    path: Path, judge: Any, tokenizer: PreTrainedTokenizerBase, how: Sampling
) -> Iterator[Record]:
    texts = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            entry = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: not JSON ({error})") from error
        if not isinstance(entry, dict) or not {"ids", "text"} & entry.keys():
            raise ValueError(f"{path}, line {number}: needs a field 'text' or 'ids'")
        texts.append(_ids(entry, tokenizer, f"{path}, line {number}"))
    record = measure(texts, judge, batch_size=how.judge_batch)
    yield {"kind": "samples", "samples": str(path), **record}


def _ids(entry: dict[str, Any], tokenizer: PreTrainedTokenizerBase, where: str) -> list[int]:
    """Ids as they were drawn where they are given, since text has lost its special tokens."""
    ids, text = entry.get("ids"), entry.get("text")
    if isinstance(ids, list) and all(type(token) is int for token in ids):
        return ids
    if ids is None and isinstance(text, str):
        return _encode(tokenizer, text)
    raise ValueError(f"{where}: 'ids' must be a list of whole numbers, or 'text' a string")


def _encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
    return ids


def retokeniser(
    own: PreTrainedTokenizerBase, judges: PreTrainedTokenizerBase, judge: Any
) -> Retokenise | None:
    """None where the judge knows the model's ids, MASK aside; else decode, and encode for it."""
    shared = judges.get_vocab()
    if all(shared.get(w) == i for w, i in own.get_vocab().items() if i != own.mask_token_id):
        return None
    note("the judge has another tokenizer: samples are retokenised for it")
    longest = getattr(judge.config, "max_position_embeddings", None)

    def retokenise(texts: list[list[int]]) -> list[list[int]]:
        strings = own.batch_decode(texts, skip_special_tokens=True)
        return [_encode(judges, text)[:longest] for text in strings]

    return retokenise


def _line(row: Record) -> str:
    if "error" in row:
        return f"{row['kind']:8s} {row['steps']:5d} steps  {row['error']}"
    if row["kind"] == "nelbo":
        bits = row["bits_per_byte"]
        tail = "" if bits is None else f"  {bits:.3f} bits per byte"
        return f"nelbo    {row['nats_per_token']:.3f} nats per token{tail}"
    where = f"{row['steps']:5d} steps  T {row['temperature']:.3f}" if "steps" in row else ""
    return (
        f"{row['kind']:8s} {where}  perplexity {row['perplexity']:8.2f}  "
        f"entropy {row['entropy']:.3f}  distinct-2 {row['distinct_2']:.3f}"
    )


COMMAND = command(
    evaluate,
    withhold={"steps"},  # a ladder of them is measured
    example=(
        "sdtt evaluate --model runs/student/students/4 --steps 4,8,16 --teacher runs/teacher "
        "--judge runs/judge --output runs/student.jsonl"
    ),
)
