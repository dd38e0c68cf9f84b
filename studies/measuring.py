"""Cells of a study: one model, sampler, number of steps, temperature and seed; one record each."""

import json
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import covariance, fmean
from typing import Any

import torch
from peers import draw_as_the_peers_do
from torch import Tensor

from sdtt.data.packing import load_blocks
from sdtt.evaluation.diversity import distinct, standard_error, unigram_entropy
from sdtt.evaluation.readability import readability
from sdtt.evaluation.scoring import token_nll
from sdtt.models.checkpoints import load_model, load_tokenizer_of
from sdtt.sampling.autoregressive import sample_autoregressive
from sdtt.sampling.canvas import canvas_of
from sdtt.sampling.generate import sample

SAMPLERS = {"random": "ancestral", "dilated": "dilated"}
"""The process as it is published, and the order that `sdtt generate` takes."""


@dataclass(frozen=True)
class Cell:
    """What is drawn: the settings that tell one record from another.

    Attributes:
        name: Of the model, such as "student of round 1, 16 steps".
        who: teacher, student, autoregressive or text.
        order: random or dilated; None where texts are not diffused.
        steps: Of the sampler; None likewise.
        seed: Of the samples; of real text, which part of it is taken.
        temperature: Of the law that is drawn from.
        top_p: Nucleus.
        draws: float64, our own; float32 is the sampler that the peers run.
        student_steps: The steps that a student was taught to sample in.
    """

    name: str
    who: str
    order: str | None = None
    steps: int | None = None
    seed: int = 0
    temperature: float = 1.0
    top_p: float = 1.0
    draws: str = "float64"
    student_steps: int | None = None


def samples_of(cell: Cell) -> int:
    """Most where a text takes few passes, which is where something is claimed."""
    steps = cell.steps or 1
    return 256 if steps <= 8 else 96 if steps <= 16 else 32


class Study:
    """Measures cells under one judge and appends their records to a file; what is there is kept.

    Args:
        records: JSON lines.
        judge: Folder of a causal language model.
        reference: The trigrams of the training text, as ``build_reference`` makes them.
        texts: Held-out blocks of real text.
        samples: How many each cell has.
    """

    def __init__(
        self,
        records: Path,
        judge: Any,
        reference: Any,
        texts: Tensor,
        samples: Callable[[Cell], int] = samples_of,
    ) -> None:
        self.records = records
        self.samples = samples
        # rounded as it ships, then computed with in float32
        self.judge = load_model(judge, causal=True, dtype=torch.bfloat16).float()
        self.tokenizer = load_tokenizer_of(judge)
        self.reference = reference
        self.texts = texts
        lines = records.read_text(encoding="utf-8").splitlines() if records.is_file() else []
        self.known = {_key(json.loads(line)) for line in lines}

    def measure(self, cells: Iterable[Cell], load: Callable[[], Any]) -> None:
        """Measures those cells of one model that are not known yet; only then is it loaded."""
        missing = [cell for cell in cells if _key(asdict(cell)) not in self.known]
        model = load() if missing else None
        for cell in missing:
            begun = time.perf_counter()
            ids = self._draw(cell, model)
            seconds = (time.perf_counter() - begun) / len(ids)
            record = asdict(cell) | self.scores(ids.tolist())
            record |= {"seconds_per_sample": seconds, "length": ids.shape[1]}
            self.records.parent.mkdir(parents=True, exist_ok=True)
            with self.records.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
            self.known.add(_key(record))
            print(_line(record), flush=True)

    def scores(self, texts: list[list[int]]) -> dict[str, Any]:
        """Perplexity under the judge, entropy, and the share of known trigrams."""
        losses = [float(nll.mean()) for nll in token_nll(self.judge, texts, prepend_bos=True)]
        entropies = [unigram_entropy(text) for text in texts]
        strings = self.tokenizer.batch_decode(texts, skip_special_tokens=True)
        known = readability(strings, self.reference)
        return {
            "num_samples": len(texts),
            "nll": fmean(losses),
            "nll_se": standard_error(losses),
            "perplexity": math.exp(fmean(losses)),
            "entropy": fmean(entropies),
            "entropy_se": standard_error(entropies),
            "covariance": covariance(losses, entropies) / len(texts),
            "distinct_2": distinct(texts, 2),
            "trigrams": known.trigrams,
            "trigrams_se": known.trigrams_se,
        }

    def _draw(self, cell: Cell, model: Any) -> Tensor:
        count, length = self.samples(cell), self.texts.shape[1]
        if cell.who == "text":
            return self.texts[cell.seed * count : (cell.seed + 1) * count]
        if cell.who == "autoregressive":
            return sample_autoregressive(
                model,
                num_samples=count,
                length=length,
                temperature=cell.temperature,
                top_p=cell.top_p,
                seed=cell.seed,
            )
        assert cell.order is not None
        assert cell.steps is not None
        canvas = canvas_of(model, length, count)
        if cell.draws == "float32":
            return draw_as_the_peers_do(model, canvas, cell.steps, cell.seed)
        return sample(
            model,
            canvas,
            sampler=SAMPLERS[cell.order],
            steps=cell.steps,
            temperature=cell.temperature,
            seed=cell.seed,
        )


def inference_model(source: Path | str) -> Any:
    """A masked model in bfloat16, folded and packed as `sdtt generate` runs it."""
    return load_model(source, dtype=torch.bfloat16).for_inference()


def held_out(data: str, tokenizer: Any, length: int) -> Tensor:
    """Blocks of held-out books: all of a file, in a fixed random order."""
    blocks = load_blocks(data, tokenizer, length, validation_fraction=0.0, unwrap=True).train
    order = torch.randperm(len(blocks), generator=torch.Generator().manual_seed(0))
    return torch.stack([blocks[int(index)] for index in order[:4096]])


def _key(record: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(record[name] for name in Cell.__dataclass_fields__)


def _line(record: dict[str, Any]) -> str:
    return (
        f"{record['name']:32s} {record['order']!s:8s} {record['steps']!s:>4s} steps "
        f"T {record['temperature']:.2f} p {record['top_p']:.2f} {record['draws']} "
        f"seed {record['seed']}  perplexity {record['perplexity']:7.1f}  "
        f"entropy {record['entropy']:.3f}  trigrams {record['trigrams']:.3f}  "
        f"{record['seconds_per_sample']:.3f} s"
    )
