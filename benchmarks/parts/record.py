"""What numbers belong to, and how they are written."""

import platform
import sys
from pathlib import Path
from typing import Any

import torch
import transformers

import sdtt
from parts.floors import bandwidth
from sdtt.evaluation.timing import device_name


def machine(device: torch.device) -> dict[str, Any]:
    """What the numbers belong to."""
    return {
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "bandwidth_gb_s": bandwidth(device) / 1e9,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "sdtt": sdtt.__version__,
        "python": platform.python_version(),
        "command": " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
    }


def table(rows: list[dict[str, Any]], columns: dict[str, str]) -> str:
    """Markdown: heading -> key of a row."""
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for row in rows:
        cells = [row.get(key, "") for key in columns.values()]
        text = [f"{cell:.3g}" if isinstance(cell, float) else str(cell) for cell in cells]
        lines.append("| " + " | ".join(text) + " |")
    return "\n".join(lines)


def numbers(text: str) -> list[int]:
    """Numbers joined by commas; none for an empty text."""
    return [int(part) for part in text.split(",") if part]


def names(text: str) -> list[str]:
    """Names joined by commas."""
    return [part for part in text.split(",") if part]
