"""What following the order of revelation costs in quality: models with a cache, and one without.

    python studies/caching.py measure --run runs/caching --data $SDTT_DATA/gutenberg
    python studies/caching.py gradients --run runs/caching --data $SDTT_DATA/gutenberg
    python studies/caching.py draw

All of them were trained from one teacher, by configs/recipes/pair_caching.yaml, the last one by
configs/recipes/caching_taught.yaml. The controls are bidirectional models on the masks of dilated
orders, at their entropies: that of as many updates, and for whole orders, whose updates are passes
of twice as many tokens, also that of twice as many updates. `measure` goes on where it stopped;
`draw` needs the records only. `gradients` says how much noise a gradient has by whole orders, and
by one masked text of each.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch
from measuring import Cell, held_out, inference_model
from pair import study_of

from sdtt.evaluation.nelbo import validation_nelbo
from sdtt.models.checkpoints import load_model, load_tokenizer_of
from sdtt.report.pair import pair_table
from sdtt.report.pair_records import read_pair, read_records
from sdtt.report.words import markdown
from sdtt.training.pretrain import MDLMTrainer, PretrainConfig

ROOT = Path(__file__).resolve().parents[1]

BIDIRECTIONAL = {
    "bidirectional, dilated masks": "bidirectional-dilated",
    "bidirectional, random masks": "bidirectional",
    "bidirectional, dilated masks, 1,800 updates": "bidirectional-long",
    "bidirectional, dilated masks, 1,800 updates, one shard": "bidirectional-long-one-shard",
}
FOLLOWERS = {
    "with a cache, whole orders": "order",
    "with a cache, whole orders, one shard": "order-one-shard",
    "with a cache, dilated orders": "dilated",
    "with a cache, random orders": "random",
    "with a cache, taught by the teacher": "taught",
}
"""Names in the table, and the folders of their runs from the teacher: 900 updates by the NELBO but
where the name says another number, 600 where the teacher says what it would; on train-00 and
train-01, or where the name says so on train-01 alone."""
CONTROLS = {
    "bidirectional, dilated masks": tuple(name for name in FOLLOWERS if "one shard" not in name),
    "bidirectional, dilated masks, 1,800 updates": ("with a cache, whole orders",),
    "bidirectional, dilated masks, 1,800 updates, one shard": (
        "with a cache, whole orders, one shard",
    ),
}
"""And whom they are compared with."""
SAMPLES = 256
STEPS = (4, 8, 16, 32, 64)
"""In dilated order, one seed each."""
COLDER = 0.9
"""The control is also drawn so: between this temperature and 1 lie the entropies of the others."""
NELBO_STEPS = (None, 32, 8, 1)
NELBO_SEEDS = 4
NELBO_TEXTS = 512
GRADIENTS = 32


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
    for name in CONTROLS:
        for temperature in (1.0, COLDER):
            study.measure(
                cells(name, "teacher", temperature),
                lambda name=name: inference_model(trained[name]),
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
    """NELBO, and how far it is from the controls', ± one standard error over seeds of the noise."""
    by: dict[tuple[str, int | None], dict[int, float]] = {}
    for record in records:
        by.setdefault((record["name"], record["steps"]), {})[record["seed"]] = record["nelbo"]
    rows = []
    for (name, steps), nelbo in by.items():
        gaps = ["" if name == each else gap(nelbo, by[each, None]) for each in CONTROLS]
        revealed = (
            ("one by one" if steps is None else f"{steps} steps") if name in FOLLOWERS else ""
        )
        rows.append([name, revealed, f"{fmean(nelbo.values()):.3f}", *gaps])
    head = ["model", "what is visible came in", "NELBO, nats a token"]
    return markdown([*head, *(f"gap to {each}" for each in CONTROLS)], rows)


def gap(nelbo: dict[int, float], control: dict[int, float]) -> str:
    """Mean difference over seeds, ± its standard error."""
    gaps = [nelbo[seed] - control[seed] for seed in nelbo]
    return f"{fmean(gaps):+.3f} ± {stdev(gaps) / len(gaps) ** 0.5:.3f}"


def measure_gradients(options: argparse.Namespace) -> None:
    """Variance and squared mean of the gradient of 32 texts, summed over all weights, in float32.

    Of one model, on the same texts in the same orders; the squared mean is that over all updates
    less what their variance adds to it.
    """
    texts = held_out(
        str(options.data / "valid.jsonl.xz"), load_tokenizer_of(options.pair / "judge"), 128
    )
    rows = []
    for whole in (False, True):
        model = load_model(options.run / "dilated", dtype=torch.float32).train()
        how = {"use_cpu": True, "report_to": "none", "attn_implementation": "eager"}
        args = PretrainConfig(
            str(options.run), whole_orders=whole, per_device_train_batch_size=32, **how
        )
        trainer = MDLMTrainer(model, args, texts)
        weights = [weight for weight in model.parameters() if weight.requires_grad]
        total, squares = torch.zeros(sum(weight.numel() for weight in weights)), 0.0
        for update in range(GRADIENTS):
            places, x = trainer.stream.texts_of(update)
            loss = trainer.loss_sum(model, x, places) / trainer.items(x, places)
            found = torch.cat([part.flatten() for part in torch.autograd.grad(loss, weights)])
            total += found
            squares += float(found.square().sum())
        mean = float((total / GRADIENTS).square().sum())
        variance = (squares - GRADIENTS * mean) / (GRADIENTS - 1)
        rows.append({"whole_orders": whole, "updates": GRADIENTS, "texts": 32})
        rows[-1] |= {"variance": variance, "squared_mean": mean - variance / GRADIENTS}
        print(rows[-1], flush=True)
    (options.output / "gradients.json").write_text(json.dumps(rows, indent=1) + "\n", "utf-8")


def draw(options: argparse.Namespace) -> None:
    """The tables, from the records."""
    lines = (options.output / "nelbo.jsonl").read_text(encoding="utf-8").splitlines()
    records = read_records(options.output / "records.jsonl")
    tables = [bounds_table([json.loads(line) for line in lines])]
    for control, compared in CONTROLS.items():
        own = [record for record in records if record["name"] in (control, *compared)]
        tables += [f"Beside {control}:", pair_table(read_pair(own))]
    text = "\n\n".join(tables)
    (options.output / "quality.md").write_text(text + "\n", encoding="utf-8")
    print(text)


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("measure", "gradients", "draw"))
    parser.add_argument("--run", type=Path, default=ROOT / "runs" / "caching")
    parser.add_argument("--pair", type=Path, default=ROOT / "runs" / "pair")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--output", type=Path, default=ROOT / "results" / "caching")
    options = parser.parse_args()
    if options.what != "draw" and options.data is None:
        parser.error(f"{options.what} needs --data, the folder of valid.jsonl.xz and the others")
    if options.what == "gradients":
        measure_gradients(options)
        return
    if options.what == "measure":
        measure(options)
    draw(options)


if __name__ == "__main__":
    main()
