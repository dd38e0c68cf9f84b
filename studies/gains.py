"""What drives the gain of SDTT: a short run from the teacher for each setting, and its control.

    python studies/gains.py run --run runs/pair --data $SDTT_DATA/gutenberg [NAME ...]
    python studies/gains.py table

`run` trains and measures what is not there yet, all settings or those named; `table` needs the
records only, those of the pair among them: the control is the teacher of these.
"""

import argparse
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]

UPDATES = 120
BASE = {
    "rounds": 1,
    "steps_per_round": UPDATES,
    "start_steps": 32,
    "teacher_steps": 2,
    "per_device_train_batch_size": 32,
    "learning_rate": 3e-4,
    "lr_scheduler_type": "linear",
    "warmup_steps": 10,
    "ema_decay": 0,
    "unwrap": True,
    "bf16": True,
    "use_cpu": True,
    "attn_implementation": "eager",
    "logging_steps": 20,
    "save_strategy": "no",
}
FEW: dict[str, object] = {"noise_order": "dilated", "start_steps": 8}
"""Where divergences differ: at 32 steps the targets hardly do from the student's own law."""
SETTINGS: dict[str, dict[str, object]] = {
    "base": {},
    "dilated, 32 to 16": {"noise_order": "dilated"},
    "dilated, 8 to 4": FEW,
    "dilated, 4 to 2": {"noise_order": "dilated", "start_steps": 4},
    "8 to 4": {"start_steps": 8},
    "dropout 0.1": {"student_dropout": 0.1},
    "dropout 0.1, k = 1": {"student_dropout": 0.1, "teacher_steps": 1},
    "k = 1": {"teacher_steps": 1},
    "k = 4": {"teacher_steps": 4, "start_steps": 64},
    "k = 8": {"teacher_steps": 8, "start_steps": 128},
    "128 to 64": {"start_steps": 128},
    "dilated, 8 to 4, forward KL": FEW | {"divergence": "forward_kl"},
    "dilated, 8 to 4, Jensen-Shannon": FEW | {"divergence": "jsd"},
    "dilated, 8 to 4, total variation": FEW | {"divergence": "tvd"},
    "dilated, 8 to 4, MSE": FEW | {"divergence": "mse"},
    "rate 1e-4": {"learning_rate": 1e-4},
    "rate 1e-3": {"learning_rate": 1e-3},
    "constant rate": {"lr_scheduler_type": "constant_with_warmup"},
    f"{UPDATES // 2} updates": {"steps_per_round": UPDATES // 2},
    f"{UPDATES * 2} updates": {"steps_per_round": UPDATES * 2},
    "dilated, 4, k = 1": FEW | {"start_steps": 4, "teacher_steps": 1},
    "32 to 4, k = 8": {"start_steps": 32, "teacher_steps": 8},
    "dilated, 32 to 4, k = 8": {"noise_order": "dilated", "start_steps": 32, "teacher_steps": 8},
}
"""What differs from the base: a student of 16 steps from a teacher of 32, random order."""
SEEDS = 2
COLDER = 0.8
"""At this temperature the teacher is drawn here too: MSE makes students colder than 0.9."""
CELLS = tuple((order, steps) for order in ("dilated", "random") for steps in (2, 4, 8))


def folder_of(runs: Path, name: str) -> Path:
    """Where a setting is trained."""
    return runs / "".join(c if c.isalnum() else "-" for c in name)


def train(name: str, options: argparse.Namespace) -> Path:
    """Distills with a setting, unless it is done; the folder of its student."""
    output = folder_of(options.run / "gains", name)
    done = sorted((output / "students").glob("*/model.safetensors"))
    if not done:
        data = [str(options.data / f"train-0{index}.jsonl.xz") for index in (0, 1)]
        places = {"model": str(options.run / "teacher"), "data": ",".join(data)}
        config = output.with_suffix(".yaml")
        config.parent.mkdir(parents=True, exist_ok=True)
        config.write_text(yaml.safe_dump(BASE | SETTINGS[name] | places), encoding="utf-8")
        command = [sys.executable, "-m", "sdtt", "distill", "--config", str(config)]
        subprocess.run([*command, "--output", str(output), "--overwrite"], check=True)
        done = sorted((output / "students").glob("*/model.safetensors"))
    return done[0].parent


def run(options: argparse.Namespace) -> None:
    """Trains and measures the settings one after the other."""
    from measuring import Cell, inference_model
    from pair import study_of

    study = study_of(options.run, options.data, options.output / "gains.jsonl")
    for name in options.names or SETTINGS:
        folder = train(name, options)
        cells = [
            Cell(name, "student", order, steps, seed, student_steps=int(folder.name.split("-")[0]))
            for order, steps in CELLS
            for seed in range(SEEDS)
        ]
        study.measure(cells, lambda folder=folder: inference_model(folder))
    colder = [
        Cell("teacher", "teacher", order, steps, seed, COLDER)
        for order, steps in CELLS
        for seed in range(SEEDS)
    ]
    study.measure(colder, lambda: inference_model(options.run / "teacher"))


def table(options: argparse.Namespace) -> None:
    """Every setting beside its control, at each of the cells."""
    from sdtt.report.files import write_aside
    from sdtt.report.pair_compare import Comparison, comparisons
    from sdtt.report.pair_records import read_pair, read_records
    from sdtt.report.words import digits, markdown

    main_records = read_records(options.output / "records.jsonl")
    teacher = [record for record in main_records if record["who"] == "teacher"]
    pair = read_pair([*teacher, *read_records(options.output / "gains.jsonl")])
    found = {(c.student.name, c.student.order, c.student.steps): c for c in comparisons(pair)}
    plain = {(c.order, c.steps): c for c in pair.of("teacher") if c.plain}

    def cell(comparison: Comparison) -> str:
        student = comparison.student
        text = f"{digits(student.perplexity)} / {student.entropy:.2f}"
        if comparison.control is None:
            return f"{text}, not matched"
        return f"{text}, {comparison.ratio:.3f} ± {comparison.ratio_se:.3f}"

    rows = [
        [
            "the teacher",
            *(f"{digits(plain[at].perplexity)} / {plain[at].entropy:.2f}" for at in CELLS),
        ]
    ]
    rows += [[name, *(cell(found[name, *at]) for at in CELLS)] for name in _measured(found)]
    head = ["setting", *(f"{order}, {steps} steps" for order, steps in CELLS)]
    text = markdown(head, rows) + "\n"
    write_aside(options.output / "gains.md", lambda path: path.write_text(text, "utf-8"))
    print(text)


def _measured(found: Collection[tuple[str, str, int]]) -> list[str]:
    """The settings of which every cell is there, in the order of their list."""
    return [name for name in SETTINGS if all((name, *at) in found for at in CELLS)]


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("run", "table"))
    parser.add_argument("names", nargs="*", metavar="NAME", help="; ".join(SETTINGS))
    parser.add_argument("--run", type=Path, default=ROOT / "runs" / "pair")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--output", type=Path, default=ROOT / "results" / "pair")
    options = parser.parse_intermixed_args()
    unknown = [name for name in options.names if name not in SETTINGS]
    if unknown:
        parser.error(f"unknown setting {unknown[0]!r}; there are {'; '.join(SETTINGS)}")
    if options.what == "run" and options.data is None:
        parser.error("run needs --data, the folder of train-00.jsonl.xz and valid.jsonl.xz")
    {"run": run, "table": table}[options.what](options)


if __name__ == "__main__":
    main()
