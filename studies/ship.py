"""Puts trained models where the package finds them: bfloat16, with model cards and a manifest.

python studies/ship.py --run runs/pair --machine "two cores of ..."
"""

import argparse
import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from pair import SHIPPED_STEPS, SHIPPED_TEMPERATURE

from sdtt.models.checkpoints import load_model, load_tokenizer_of
from sdtt.models.shipped import PAIR, write_manifest
from sdtt.sampling.generation import DiffusionGenerationConfig

ROOT = Path(__file__).resolve().parents[1]

CARD = Path(__file__).with_name("card.md").read_text(encoding="utf-8")

MEASURED = """Judge perplexity / entropy of a text in nats, beside the controls (docs/pair.md):

{table}
"""


@dataclass(frozen=True)
class Card:
    """What a model card says of one model in words."""

    title: str
    what: str
    use: str
    recipe: str
    command: str


CARDS = {
    "teacher": Card(
        "sdtt teacher",
        "A masked diffusion language model that started from the weights of a causal one.",
        '`sdtt generate --model teacher`; in Python `sdtt.shipped("teacher")`.',
        "pair_teacher",
        "sdtt pretrain --config configs/recipes/pair_teacher.yaml (`make pair`)",
    ),
    "student": Card(
        "sdtt student",
        "The teacher, distilled by self-distillation through time to write in {steps} steps.",
        '`sdtt generate`; in Python `sdtt.shipped("student")`.',
        "pair_student",
        "sdtt distill --config configs/recipes/pair_student.yaml (`make pair`)",
    ),
    "caching": Card(
        "sdtt caching model",
        "The teacher, whose attention was trained further to follow the order of revelation: a "
        "cache keeps what is computed of visible tokens, so that all steps together cost two "
        "passes (docs/caching.md).",
        "`sdtt generate --model caching`, in a checkout: it is not in the wheel.",
        "pair_caching",
        "sdtt pretrain --config configs/recipes/pair_caching.yaml (`make pair`)",
    ),
    "judge": Card(
        "sdtt judge",
        "A causal language model that scores what the pair writes; it made nothing of it.",
        "`sdtt evaluate --judge judge ...`, in a checkout: it is not in the wheel.",
        "pair_judge",
        "sdtt pretrain --config configs/recipes/pair_judge.yaml (`make pair`)",
    ),
}


def ship(options: argparse.Namespace) -> None:
    """Converts, writes cards, and last the manifest."""
    student = options.run / "student" / "students" / str(SHIPPED_STEPS["student"])
    for name in options.models or CARDS:
        card = CARDS[name]
        folder = options.run / name
        source = student if name == "student" else folder
        model = load_model(source, causal=name == "judge").to(torch.bfloat16)
        if name != "judge":
            model.generation_config = DiffusionGenerationConfig(
                sampler="dilated", steps=SHIPPED_STEPS[name], temperature=SHIPPED_TEMPERATURE
            ).merged(model.generation_config)
        model.save_pretrained(PAIR / name)
        load_tokenizer_of(source).save_pretrained(PAIR / name)
        text = CARD.format(**_facts(card, name, model, folder, options))
        (PAIR / name / "README.md").write_text(text, encoding="utf-8")
    print(write_manifest(PAIR))


def _facts(
    card: Card, name: str, model: Any, folder: Path, options: argparse.Namespace
) -> dict[str, Any]:
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    seconds = sum(json.loads(line).get("train_runtime", 0.0) for line in lines)
    file = ROOT / "configs" / "recipes" / f"{card.recipe}.yaml"
    recipe = yaml.safe_load(file.read_text(encoding="utf-8"))
    updates = max(json.loads(line).get("step", 0) for line in lines)
    table = (ROOT / "results" / "pair" / "table.md").read_text(encoding="utf-8")
    table = "\n".join(line for line in table.splitlines() if not line.startswith("!["))
    length = model.config.max_position_embeddings
    return {
        "task": "text-generation",
        "title": card.title,
        "what": card.what.format(steps=SHIPPED_STEPS["student"]),
        "use": card.use,
        "parameters": model.num_parameters(),
        "length": length,
        "vocabulary": model.config.vocab_size,
        "tokens": f"{updates * recipe['per_device_train_batch_size'] * length:,}",
        "command": card.command,
        "seed": recipe.get("seed", 0),
        "minutes": seconds / 60,
        "machine": options.machine,
        "commit": options.commit,
        "measured": "" if name == "judge" else MEASURED.format(table=table),
    }


def _commit() -> str:
    command = ["git", "rev-parse", "--short", "HEAD"]
    return subprocess.run(
        command, cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.strip()


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, default=ROOT / "runs" / "pair")
    parser.add_argument("--machine", required=True)
    parser.add_argument("--models", nargs="*", choices=CARDS, help="all of them by default")
    parser.add_argument("--commit", default=_commit(), help="whose recipes trained them")
    options = parser.parse_args()
    ship(options)


if __name__ == "__main__":
    main()
