"""Numbers and tables in words, as our reports write them."""

from collections.abc import Iterable, Sequence


def digits(x: float) -> str:
    """Three digits, or all before the point: 5.31, 39.4, 151, 12,345."""
    return f"{x:.2f}" if x < 9.995 else f"{x:.1f}" if x < 99.95 else f"{x:,.0f}"


def in_steps(steps: Iterable[int]) -> str:
    """Numbers of steps in words: '16, 8 and 4 steps'."""
    *most, last = [str(s) for s in steps]
    return f"{', '.join(most)} and {last} steps" if most else f"{last} step{'s' * (last != '1')}"


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]], right: bool = True) -> str:
    """A table, padded so that it reads well unrendered; all columns but the first to the right."""
    widths = [max(3, *(len(row[i]) for row in [head, *rows])) for i in range(len(head))]
    aligned = [str.rjust if right and i else str.ljust for i in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        padded = (pad(cell, width) for pad, cell, width in zip(aligned, cells, widths, strict=True))
        return "| " + " | ".join(padded) + " |"

    rule = ["-" * (w - 1) + ":" if right and i else "-" * w for i, w in enumerate(widths)]
    return "\n".join([line(head), line(rule), *(line(row) for row in rows)])
