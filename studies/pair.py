"""The shipped pair: its measurements, its table and its figure.

    python studies/pair.py measure --run runs/pair --data $SDTT_DATA/gutenberg
    python studies/pair.py draw

`measure` goes on where it stopped; `draw` needs the records only. A record does not say whose
weights it is of: models that were trained again want a folder of their own, `--output`.
"""

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from measuring import Cell, Study, held_out, inference_model, samples_of

from sdtt.data.corpus import documents
from sdtt.evaluation.readability import build_reference, load_reference, save_reference
from sdtt.models.checkpoints import load_model, load_tokenizer_of
from sdtt.report.pair import read_records, write_pair_report

ROOT = Path(__file__).resolve().parents[1]
SEEDS = 3
LADDER = (128, 64, 32, 16, 8, 4, 2)
TEMPERATURES = (0.9,)
"""Beside 1: between them the control is interpolated. No student is hotter than its teacher."""
FLOAT32_STEPS = (128, 8)

SHIPPED_STEPS = {"teacher": 64, "student": 4, "caching": 32}
SHIPPED_TEMPERATURE = 0.8
"""What `sdtt generate` takes for the shipped models where nothing is said."""


def students_of(run: Path) -> list[tuple[int, Path]]:
    """The steps and folders of the students, by round."""
    folders = [path for path in (run / "student").glob("students/*") if path.name.isdigit()]
    return sorted(((int(path.name), path) for path in folders), reverse=True)


def teacher_cells(temperature: float, seeds: int) -> Iterator[Cell]:
    """The teacher in both orders."""
    for order in ("dilated", "random"):
        for steps in reversed(LADDER):
            for seed in range(seeds):
                yield Cell("teacher", "teacher", order, steps, seed, temperature)


def student_cells(number: int, taught: int, seeds: int) -> Iterator[Cell]:
    """A student in both orders."""
    name = f"student of round {number}, {taught} steps"
    for order in ("dilated", "random"):
        for steps in reversed(LADDER):
            for seed in range(seeds):
                yield Cell(name, "student", order, steps, seed, student_steps=taught)


def caching_cells(seeds: int) -> Iterator[Cell]:
    """The model that keeps a cache, in both orders."""
    for order in ("dilated", "random"):
        for steps in reversed(LADDER):
            for seed in range(seeds):
                yield Cell("with a cache", "student", order, steps, seed)


def reference_of(run: Path, data: Path) -> Any:
    """The trigrams of the training text, computed once."""
    file = run / "trigrams.npy"
    if not file.is_file():
        train = [data / f"train-0{index}.jsonl.xz" for index in (0, 1)]
        save_reference(build_reference(map(str, documents(train, unwrap=True))), file)
    return load_reference(file)


def study_of(
    run: Path, data: Path, records: Path, samples: Callable[[Cell], int] = samples_of
) -> Study:
    """A study under the run's judge, with books of the validation split as real text."""
    judge = run / "judge"
    texts = held_out(str(data / "valid.jsonl.xz"), load_tokenizer_of(judge), 128)
    return Study(records, judge, reference_of(run, data), texts, samples)


def measure(options: argparse.Namespace) -> None:
    """All cells of the main table."""
    run = options.run
    caching = run / "caching"
    if not (caching / "config.json").is_file():
        raise SystemExit(f"{caching} holds no model: make {caching}/finished trains it")
    study = study_of(run, options.data, options.output / "records.jsonl")
    seeds = range(options.seeds)
    study.measure([Cell("real text", "text", seed=seed) for seed in seeds], lambda: None)

    def teacher() -> Any:
        return inference_model(run / "teacher")

    study.measure(teacher_cells(1.0, options.seeds), teacher)
    for number, (taught, folder) in enumerate(students_of(run), 1):
        cells = student_cells(number, taught, options.seeds)
        study.measure(cells, lambda folder=folder: inference_model(folder))
    study.measure(caching_cells(options.seeds), lambda: inference_model(caching))
    for temperature in TEMPERATURES:
        study.measure(teacher_cells(temperature, options.seeds), teacher)
    study.measure(
        [
            Cell("teacher", "teacher", "random", steps, seed, draws="float32")
            for steps in FLOAT32_STEPS
            for seed in seeds
        ],
        teacher,
    )
    study.measure(
        [
            Cell("autoregressive", "autoregressive", seed=seed, top_p=top_p)
            for top_p in (1.0, 0.95)
            for seed in seeds
        ],
        lambda: load_model(run / "start", causal=True),
    )


def measure_defaults(options: argparse.Namespace) -> None:
    """What the shipped models write at the settings that they ship with."""
    study = study_of(options.run, options.data, options.output / "defaults.jsonl")
    folders = dict(students_of(options.run))
    sources = {name: options.run / name for name in ("teacher", "caching")}
    sources["student"] = folders[SHIPPED_STEPS["student"]]
    for name, source in sources.items():
        steps = SHIPPED_STEPS[name]
        cells = [
            Cell(name, name, "dilated", steps, seed, SHIPPED_TEMPERATURE)
            for seed in range(options.seeds)
        ]
        study.measure(cells, lambda source=source: inference_model(source))


def draw(options: argparse.Namespace) -> None:
    """The table and the figure, from the records."""
    print(write_pair_report(read_records(options.output / "records.jsonl"), options.output))


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("measure", "draw"))
    parser.add_argument("--run", type=Path, default=ROOT / "runs" / "pair")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--output", type=Path, default=ROOT / "results" / "pair")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="of sampling")
    options = parser.parse_args()
    if options.what == "measure" and options.data is None:
        parser.error("measure needs --data, the folder of train-00.jsonl.xz and valid.jsonl.xz")
    if options.what == "measure":
        measure(options)
        measure_defaults(options)
    draw(options)


if __name__ == "__main__":
    main()
