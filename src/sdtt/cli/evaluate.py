"""`sdtt evaluate`: judge perplexity with entropy beside it, and the matched-entropy control."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase
from transformers.utils import logging

from sdtt.cli.console import note, progress
from sdtt.cli.options import command
from sdtt.data.packing import load_blocks
from sdtt.evaluation.nelbo import validation_nelbo
from sdtt.evaluation.suite import Record, Sampling, measure, measure_control, measure_model
from sdtt.models.checkpoints import load_model, load_tokenizer_of


@dataclass(frozen=True)
class EvaluateSettings:
    """What is measured, by whom."""

    judge: str = field(metadata={"help": "causal language model: a folder or a hub name"})
    output: Path = field(metadata={"help": "file of JSON lines, one a measurement"})
    model: Path | None = field(default=None, metadata={"help": "folder of the model to measure"})
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


def evaluate(settings: EvaluateSettings, sampling: Sampling) -> None:
    """Measure a model at several numbers of steps, or a file of samples.

    Perplexity under the judge always stands beside the entropy of the samples. With --teacher each
    row is followed by its control: the teacher at the same steps, cooled to the same entropy.
    """
    if settings.output.exists() and not settings.overwrite:
        raise ValueError(
            f"{settings.output} is there already; give --overwrite or another --output"
        )
    logging.disable_progress_bar()
    judge = load_model(settings.judge, causal=True)
    tokenizer = load_tokenizer_of(settings.judge)
    rows = (
        _of_file(settings.samples, judge, tokenizer, sampling)
        if settings.samples is not None
        else _of_model(settings, judge, tokenizer, sampling)
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
    model, tokenizer = load_model(settings.model), load_tokenizer_of(settings.model)
    teacher = None if settings.teacher is None else load_model(settings.teacher)
    retokenise = _retokeniser(tokenizer, judge_tokenizer, judge)
    if settings.data is not None:
        blocks = load_blocks(settings.data, tokenizer, how.length or model.config.model_length)
        bound = validation_nelbo(model, blocks.validation, device=model.device, seed=how.seed)
        yield {"kind": "nelbo", "model": str(settings.model), "data": settings.data, **vars(bound)}
    with progress(len(settings.steps), "evaluate", "rows") as advance:
        for steps in settings.steps:
            record, _ = measure_model(model, steps, judge, how, retokenise=retokenise)
            yield {"kind": "model", "model": str(settings.model), **record}
            if teacher is not None:
                entropy = record["entropy"]
                control = measure_control(
                    teacher, steps, entropy, judge, how, retokenise=retokenise
                )
                yield {"kind": "control", "model": str(settings.teacher), **control}
            advance(1)


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
        if "text" in entry:
            texts.append(_encode(tokenizer, entry["text"]))
        else:
            texts.append(entry["ids"])
    record = measure(texts, judge, batch_size=how.batch_size)
    yield {"kind": "samples", "samples": str(path), **record}


def _encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
    return ids


def _retokeniser(
    own: PreTrainedTokenizerBase, judges: PreTrainedTokenizerBase, judge: Any
) -> Callable[[list[list[int]]], list[list[int]]] | None:
    """None where model and judge share their ids; else decode, and encode for the judge."""
    if own.get_vocab() == judges.get_vocab():
        return None
    note("the judge has another tokenizer: samples are retokenised for it")
    longest = getattr(judge.config, "max_position_embeddings", None)

    def retokenise(texts: list[list[int]]) -> list[list[int]]:
        strings = own.batch_decode(texts, skip_special_tokens=True)
        return [_encode(judges, text)[:longest] for text in strings]

    return retokenise


def _line(row: Record) -> str:
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
    example=(
        "sdtt evaluate --model runs/student/students/4 --steps 4,8,16 --teacher runs/teacher "
        "--judge runs/judge --output runs/student.jsonl"
    ),
)
