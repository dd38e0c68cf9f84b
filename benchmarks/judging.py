"""Scoring texts under a judge: what is not the judge's own forward, in time and memory.

    python benchmarks/judging.py                     # GPT-2 small's shape, 4 x 256 tokens

Weights are random: time does not depend on them. The forward alone and the scoring of the same
texts take turns in one process; medians are reported. The peak is that of a pass beyond weights.
"""

import argparse
import json
from functools import partial
from typing import Any

import torch
from parts.memory import Peak
from parts.networks import DTYPES
from parts.record import machine, names, table
from parts.timing import interleaved
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from sdtt.evaluation.scoring import token_nll

COLUMNS = {
    "dtype": "dtype",
    "forward, s": "forward",
    "scoring, s": "scoring",
    "scoring / forward": "ratio",
    "logits, MB": "logits_mb",
    "peak of the forward, MB": "forward_mb",
    "peak of scoring, MB": "scoring_mb",
}


@torch.no_grad()
def forward(judge: GPT2LMHeadModel, ids: Tensor) -> Tensor:
    """The judge's own work: all logits that scoring needs."""
    return judge(input_ids=ids[:, :-1], use_cache=False).logits


def megabytes(call: Any) -> float | None:
    """The peak of a call, where the system tells it."""
    try:
        peak = Peak()
    except OSError:
        return None
    call()
    return peak.bytes() / 1e6


def measure(options: argparse.Namespace, dtype: str, device: torch.device) -> dict[str, Any]:
    """One row: both calls on the same judge and texts."""
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
    texts = ids.tolist()
    calls = {
        "forward": partial(forward, judge, ids),
        "scoring": partial(token_nll, judge, texts, prepend_bos=False, batch_size=options.batch),
    }
    taken = interleaved(calls, options.runs, device)
    rows = options.batch * (options.length - 1)
    row: dict[str, Any] = {"dtype": dtype, **taken, "ratio": taken["scoring"] / taken["forward"]}
    row["logits_mb"] = rows * options.vocabulary * judge.dtype.itemsize / 1e6
    if device.type == "cpu":
        row |= {f"{name}_mb": megabytes(call) for name, call in calls.items()}
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
