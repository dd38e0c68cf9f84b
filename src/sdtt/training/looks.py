"""A look at the samples of a model while it trains: entropy, judge perplexity, a text to read."""

import json
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.utils import logging

from sdtt.evaluation.diversity import diversity
from sdtt.evaluation.suite import Record, Sampling, draw_samples, measure, without_nan
from sdtt.models.adapters import network_of
from sdtt.models.causal import CausalLM
from sdtt.models.checkpoints import load_model, load_tokenizer_of
from sdtt.sampling.autoregressive import sample_autoregressive
from sdtt.sampling.settings import SampleSettings
from sdtt.training.disk import write_failure
from sdtt.training.state import keep_records

if TYPE_CHECKING:
    from sdtt.training.trainer import StreamTrainer

logger = logging.get_logger(__name__)

SAMPLES = "samples.jsonl"

MOST_STEPS = 128
"""Sampling steps of a look where none are asked for, at most: a look at 1,024 steps costs more than
ten updates of the paper's."""

SHOWN = 2
"""Texts of a look that are written down."""

SHORT = ("perplexity", "entropy")
"""Figures of a look that go into the records of the run, in this order."""


def look_steps(own: int | None, length: int) -> tuple[int, ...]:
    """The sampling steps of a look: those of the student, a quarter of them and four times as many.

    Each at least 1 and at most ``MOST_STEPS`` and L; for a model that is no student, with as many
    steps as that allows.

    Args:
        own: The student's own steps, of the round at hand; None where there is no round.
        length: L.
    """
    most = min(length, MOST_STEPS)
    wanted = (most // 16, most // 4, most) if own is None else (own // 4, own, 4 * own)
    return tuple(sorted({min(max(steps, 1), most) for steps in wanted}))


class Looks(TrainerCallback):
    """Samples every ``sample_every`` updates, and at the end of each round.

    The samples are a function of the run's seed and their number, the same at every look, so that
    looks differ by the weights alone; training draws nothing less or more for it. Every process
    draws them, the first judges and writes: into ``samples.jsonl`` whole, and into the records
    of the run as ``sample_entropy_STEPS`` and ``sample_perplexity_STEPS``.

    Args:
        trainer: Whose model is looked at; its config says how.

    Raises:
        ValueError: If the judge cannot be loaded or has other tokens, a number of steps is more
            than the tokens of a text, or the weights are sharded (FSDP).
    """

    def __init__(self, trainer: "StreamTrainer") -> None:
        self.trainer = trainer
        self.args = trainer.args
        self.path = Path(self.args.output_dir or ".") / SAMPLES
        model: Any = trainer.model
        self.length: int = model.config.max_position_embeddings
        too_many = [steps for steps in self.args.sample_steps if steps > self.length]
        if too_many:
            raise ValueError(
                f"sample_steps={too_many[0]} is more than the {self.length} tokens of a text"
            )
        if trainer.sharding is not None:
            raise ValueError(
                f"sample_every={self.args.sample_every} cannot look at a model sharded over "
                "processes: set it to 0 and sample the saved students"
            )
        self.judge: Any = None
        if self.args.judge is not None and trainer.is_world_process_zero():
            self.judge = load_model(self.args.judge, causal=True).to(self.args.device)
            _check_tokens(self.args.judge, trainer.processing_class)

    def on_train_begin(
        self,
        args: TrainingArguments,  # noqa: ARG002
        state: TrainerState,
        control: TrainerControl,  # noqa: ARG002
        **_: Any,
    ) -> None:
        """A run taken up again first drops the looks that it will repeat."""
        if state.is_world_process_zero:
            keep_records(self.path, state.global_step)

    def on_step_end(
        self,
        args: TrainingArguments,  # noqa: ARG002
        state: TrainerState,
        control: TrainerControl,  # noqa: ARG002
        **_: Any,
    ) -> None:
        """Looks, if it is time."""
        step = state.global_step
        if step % self.args.sample_every and not self.trainer.ends_round(step):
            return
        self.trainer.guard.check_finite()  # nothing is drawn from what is not finite
        begun = time.perf_counter()
        short = self.look(step)
        if short:
            self.trainer.record(short | self.trainer.where(), time.perf_counter() - begun)

    def look(self, step: int) -> dict[str, float]:
        """Draws, judges and writes; what the records of the run say of it, in the first process."""
        short: dict[str, float] = {}
        records = list(self._records())
        if not self.trainer.is_world_process_zero():
            return short
        for record in records:
            for name in SHORT:
                if record.get(name) is not None:
                    short[f"sample_{name}_{record['sampling_steps']}"] = record[name]
        lines = "".join(json.dumps({"step": step, **record}) + "\n" for record in records)
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(lines)
        except OSError as error:  # a look must not end a run
            logger.warning(f"{self.path} takes no samples now: {write_failure(error) or error}")
        return short

    def _records(self) -> Iterator[Record]:
        model = network_of(self.trainer.accelerator.unwrap_model(self.trainer.model))
        if isinstance(model, CausalLM):
            yield self._record(model, self.length)
            return
        own = self.trainer.student_steps
        for steps in self.args.sample_steps or look_steps(own, self.length):
            yield self._record(model, steps)

    def _record(self, model: Any, steps: int) -> Record:
        count, seed = self.args.sample_count, self.args.seed
        begun = time.perf_counter()
        if isinstance(model, CausalLM):
            sampler = "autoregressive"
            drawn = sample_autoregressive(model, num_samples=count, length=steps, seed=seed)
        else:
            sampler = self.args.sample_sampler
            settings = SampleSettings(sampler=self.args.sample_sampler, seed=seed)
            drawn = draw_samples(model, steps, Sampling(count, self.length, settings))
        texts: list[list[int]] = drawn.tolist()
        record: Record = {"sampling_steps": steps, "sampler": sampler, "num_samples": count}
        record["seconds_sampling"] = time.perf_counter() - begun
        record |= without_nan(asdict(diversity(texts)))
        if self.judge is not None:
            try:
                record |= measure(texts, self.judge) | {"judge": self.args.judge}
            except ValueError as error:  # a look must not end a run
                record["error"] = str(error)
        tokenizer: Any = self.trainer.processing_class
        if tokenizer is not None:
            record["texts"] = tokenizer.batch_decode(texts[:SHOWN], skip_special_tokens=True)
        return record | {"ids": texts[:SHOWN]}


def _check_tokens(judge: str, tokenizer: Any) -> None:
    """Refuses a judge that reads other tokens than the model writes; MASK aside.

    Raises:
        ValueError: If it does.
    """
    if tokenizer is None:
        return
    known = load_tokenizer_of(judge).get_vocab()
    own = {word: i for word, i in tokenizer.get_vocab().items() if i != tokenizer.mask_token_id}
    if any(known.get(word) != i for word, i in own.items()):
        raise ValueError(
            f"the judge {judge} has another tokenizer than the model: give one of the same, or "
            "leave judge out and score saved students with sdtt evaluate"
        )
