"""What following the order of revelation costs in quality: models with a cache, and one without.

    python studies/caching.py measure --run runs/caching --data $SDTT_DATA/gutenberg
    python studies/caching.py draw

All of them were trained from one teacher, by configs/recipes/pair_caching.yaml, the last one by
configs/recipes/caching_taught.yaml. The control of all is the bidirectional model that had 900
updates on the masks of dilated orders, at their entropies. `measure` goes on where it stopped;
`draw` needs the records only.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from measuring import Cell, held_out, inference_model
from pair import study_of

from sdtt.evaluation.nelbo import validation_nelbo
from sdtt.models.checkpoints import load_model, load_tokenizer_of
from sdtt.report.pair import pair_table
from sdtt.report.pair_records import read_pair, read_records
from sdtt.report.words import markdown

ROOT = Path(__file__).resolve().parents[1]

BIDIRECTIONAL = {
    "bidirectional, dilated masks": "bidirectional-dilated",
    "bidirectional, random masks": "bidirectional",
}
FOLLOWERS = {
    "with a cache, dilated orders": "dilated",
    "with a cache, random orders": "random",
    "with a cache, taught by the teacher": "taught",
}
"""Names in the table, and the folders of their runs from the teacher: 900 updates by the NELBO, 600
where the teacher says what it would."""
CONTROL = next(iter(BIDIRECTIONAL))
SAMPLES = 256
STEPS = (4, 8, 16, 32, 64)
"""In dilated order, one seed each."""
COLDER = 0.9
"""The control is also drawn so: between this temperature and 1 lie the entropies of the others."""
NELBO_STEPS = (None, 32, 8, 1)
NELBO_SEEDS = 4
NELBO_TEXTS = 512


def cells(name: str, who: str, temperature: float = 1.0) -> Iterator[Cell]:
    """All cells of one model."""
    for steps in STEPS:
        yield Cell(name, who, "dilated", steps, temperature=temperature)


def measure(options: argparse.Namespace) -> None:
    """Bounds first, then samples."""
    trained = {"the teacher": options.pair / "teacher"}
    trained |= {n: options.run / folder for n, folder in (BIDIRECTIONAL | FOLLOWERS).items()}
    texts = held_out(
        str(options.data / "valid.jsonl.xz"), load_tokenizer_of(options.pair / "judge"), 128
    )
    measure_bounds(options.output / "nelbo.jsonl", trained, texts)
    study = study_of(
        *(options.pair, options.data, options.output / "records.jsonl"),
        samples=lambda _: SAMPLES,
    )
    for temperature in (1.0, COLDER):
        study.measure(
            cells(CONTROL, "teacher", temperature), lambda: inference_model(trained[CONTROL])
        )
    for name in FOLLOWERS:
        study.measure(cells(name, "student"), lambda name=name: inference_model(trained[name]))


def measure_bounds(file: Path, trained: dict[str, Path], texts: Any) -> None:
    """The NELBO of each model that is not known yet, on the same texts under the same noise."""
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    known = {json.loads(line)["name"] for line in lines}
    for name, folder in trained.items():
        if name in known:
            continue
        model = load_model(folder)
        rows = []
        for steps in NELBO_STEPS if model.follows_order else NELBO_STEPS[:1]:
            for seed in range(NELBO_SEEDS):
                found = validation_nelbo(
                    model, texts, seed=seed, max_blocks=NELBO_TEXTS, steps=steps
                )
                rows.append({"name": name, "steps": steps, "seed": seed, "texts": NELBO_TEXTS})
                rows[-1] |= {"nelbo": found.nats_per_token, "nelbo_se": found.standard_error}
                print(rows[-1], flush=True)
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a", encoding="utf-8") as out:
            out.writelines(json.dumps(row) + "\n" for row in rows)


def bounds_table(records: list[dict[str, Any]]) -> str:
    """NELBO, and how far it is from the control's, ± one standard error over seeds of the noise."""
    by: dict[tuple[str, int | None], dict[int, float]] = {}
    for record in records:
        by.setdefault((record["name"], record["steps"]), {})[record["seed"]] = record["nelbo"]
    control = by[CONTROL, None]
    rows = []
    for (name, steps), nelbo in by.items():
        gaps = [nelbo[seed] - control[seed] for seed in nelbo]
        error = stdev(gaps) / len(gaps) ** 0.5
        follows = name in FOLLOWERS
        revealed = ("one by one" if steps is None else f"{steps} steps") if follows else ""
        gap = "" if name == CONTROL else f"{fmean(gaps):+.3f} ± {error:.3f}"
        rows.append([name, revealed, f"{fmean(nelbo.values()):.3f}", gap])
    return markdown(["model", "what is visible came in", "NELBO, nats a token", "gap"], rows)


def draw(options: argparse.Namespace) -> None:
    """The tables, from the records."""
    lines = (options.output / "nelbo.jsonl").read_text(encoding="utf-8").splitlines()
    pair = read_pair(read_records(options.output / "records.jsonl"))
    text = "\n\n".join([bounds_table([json.loads(line) for line in lines]), pair_table(pair)])
    (options.output / "quality.md").write_text(text + "\n", encoding="utf-8")
    print(text)


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("measure", "draw"))
    parser.add_argument("--run", type=Path, default=ROOT / "runs" / "caching")
    parser.add_argument("--pair", type=Path, default=ROOT / "runs" / "pair")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--output", type=Path, default=ROOT / "results" / "caching")
    options = parser.parse_args()
    if options.what == "measure" and options.data is None:
        parser.error("measure needs --data, the folder of train-00.jsonl.xz and valid.jsonl.xz")
    if options.what == "measure":
        measure(options)
    draw(options)


if __name__ == "__main__":
    main()
