"""Scoring texts under a judge: what is not the judge's own forward.

    python benchmarks/judging.py                     # GPT-2 small's shape, 4 x 256 tokens

Weights are random: time does not depend on them. The forward alone and the scoring of the same
texts take turns in one process; medians are reported.
"""

import argparse
import json
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from parts.networks import DTYPES
from parts.record import machine, names, table
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from sdtt.evaluation.scoring import token_nll
from sdtt.evaluation.timing import interleaved

COLUMNS = {
    "dtype": "dtype",
    "forward, s": "forward",
    "scoring, s": "scoring",
    "scoring / forward": "ratio",
}


@torch.no_grad()
def forward(judge: GPT2LMHeadModel, ids: Tensor) -> Tensor:
    """The judge's own work: all logits that scoring needs."""
    return judge(input_ids=ids[:, :-1], use_cache=False).logits


def calls_of(
    options: argparse.Namespace, dtype: str, device: torch.device
) -> dict[str, Callable[[], Any]]:
    """Both calls on the same judge and texts."""
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=options.vocabulary,
        n_embd=options.width,
        n_layer=options.layers,
        n_head=options.width // 64,
        n_positions=options.length,
    )
    judge = GPT2LMHeadModel(config).eval().to(device, DTYPES[dtype])
    ids = torch.randint(options.vocabulary, (options.batch, options.length), device=device)
    options_of_scoring = {"prepend_bos": False, "batch_size": options.batch}
    return {
        "forward": partial(forward, judge, ids),
        "scoring": partial(token_nll, judge, ids.tolist(), **options_of_scoring),
    }


def measure(options: argparse.Namespace, dtype: str, device: torch.device) -> dict[str, Any]:
    """One row."""
    timings = interleaved(calls_of(options, dtype, device), options.runs, device)
    taken = {name: timing.median for name, timing in timings.items()}
    row: dict[str, Any] = {"dtype": dtype, **taken, "ratio": taken["scoring"] / taken["forward"]}
    return row


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dtypes", type=names, default=["float32", "bfloat16"])
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--vocabulary", type=int, default=50257)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    device = torch.device(options.device)
    rows = [measure(options, dtype, device) for dtype in options.dtypes]
    print(table(rows, COLUMNS))
    print(json.dumps(machine(device)))


if __name__ == "__main__":
    main()
