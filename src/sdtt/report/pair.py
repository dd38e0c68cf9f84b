"""The report of a pair: what students gained over their teacher, at matched entropy."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from sdtt.report.files import write_aside
from sdtt.report.pair_compare import Comparison, Control, best, compare
from sdtt.report.pair_figure import label_of, plot_pair
from sdtt.report.pair_records import Cell, Pair, Record, read_pair, read_records
from sdtt.report.verdict import NOISE
from sdtt.report.words import digits, in_steps, markdown

__all__ = ["pair_table", "read_records", "summary", "trigrams_table", "write_pair_report"]

HOW_TO_READ = (
    "Each cell is judge perplexity / unigram entropy of a sample (nats). A *control* is the teacher"
    " in the same order and as many steps, at the temperature T that gives it the student's"
    " entropy: ln perplexity on the line between the two neighbouring temperatures measured."
    " The *ratio* is the student's perplexity over its control's, ± one standard error, which"
    " counts what chance in the entropies adds; better or worse is said beyond"
    f" {NOISE:g} standard errors only. *Steps needed* is how many steps the control takes to reach"
    " the student's perplexity at the student's entropy."
)

Row = tuple[str, str, dict[int, str]]  # order, name, text by steps


def write_pair_report(records: Sequence[Record], folder: Path) -> Path:
    """Writes `table.md`, `pair.png` and `pair.svg`, each aside and then renamed.

    Args:
        records: As `read_records` returns them.
        folder: Where to write; made if there is none.

    Returns:
        The path of `table.md`.

    Raises:
        ValueError: If there is no teacher, samples differ in length, or a seed comes twice.
    """
    pair = read_pair(records)
    text = "\n\n".join(_sections(pair)) + "\n"
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("pair.png", "pair.svg"):
        write_aside(folder / name, lambda path: plot_pair(pair, path))
    write_aside(folder / "table.md", lambda path: path.write_text(text, "utf-8"))
    return folder / "table.md"


def _sections(pair: Pair) -> Iterator[str]:
    yield "\n".join(f"* {sentence}" for sentence in summary(pair))
    yield "![Judge perplexity and entropy over the sampling steps](pair.png)"
    yield HOW_TO_READ
    yield pair_table(pair)
    table = trigrams_table(pair)
    if table:
        yield "The share of word trigrams that occur in the reference text, in per cent:"
        yield table
    yield _seeds_sentence(pair)


def pair_table(pair: Pair) -> str:
    """Perplexity / entropy by order and model: steps descending across.

    Returns:
        A markdown table. Under each student stand its control, their ratio with what may be said,
        and the steps that the control needs; autoregressive and real text stand in the first
        column.
    """
    rows = _rows(pair, _text, _point_text, comparisons_too=True)
    return _table(pair, rows)


def trigrams_table(pair: Pair) -> str:
    """The share of known trigrams in per cent, ± one standard error, row by row as `pair_table`.

    Returns:
        A markdown table; empty text where nothing was measured. The control's is interpolated.
    """
    if all(math.isnan(cell.trigrams) for cell in pair.cells):
        return ""
    rows = _rows(
        pair,
        lambda cell: _per_cent(cell.trigrams, cell.trigrams_se),
        lambda control: _per_cent(control.trigrams, math.nan),
        comparisons_too=False,
    )
    return _table(pair, rows)


def _rows(
    pair: Pair,
    of_cell: Callable[[Cell], str],
    of_control: Callable[[Control], str],
    *,
    comparisons_too: bool,
) -> Iterator[Row]:
    for order in _orders(pair):
        for name, cells in _lines(pair, "teacher", order):
            yield order or "", name, {s: of_cell(cell) for s, cell in cells.items()}
        for name, cells in _lines(pair, "student", order):
            yield order or "", name, {s: of_cell(cell) for s, cell in cells.items()}
            beside = {s: compare(pair, cell, [order]) for s, cell in cells.items()}
            controls = {s: one.control for s, one in beside.items() if one.control is not None}
            if controls:
                texts = {s: of_control(control) for s, control in controls.items()}
                yield order or "", "its control", texts
            if comparisons_too:
                yield order or "", "ratio", {s: _ratio(one) for s, one in beside.items()}
                yield order or "", "steps needed", {s: _needed(one) for s, one in beside.items()}
    first = max(_steps(pair))
    for cell in [*pair.of("autoregressive"), *pair.of("text")]:
        passes = f", {cell.steps} passes" if cell.steps is not None else ""
        yield "", label_of(cell) + passes, {first: of_cell(cell)}


def _table(pair: Pair, rows: Iterator[Row]) -> str:
    steps = _steps(pair)
    head = ["model", "order", *(in_steps([s]) for s in steps)]
    return markdown(
        head, [[name, order, *(by.get(s, "") for s in steps)] for order, name, by in rows]
    )


def _orders(pair: Pair) -> list[str | None]:
    """Random before dilated."""
    orders = {
        cell.order for who in ("teacher", "student") for cell in pair.cells if cell.who == who
    }
    return sorted(orders, key=lambda order: order or "", reverse=True)


def _steps(pair: Pair) -> list[int]:
    sampled = [cell for cell in pair.cells if cell.who in ("teacher", "student")]
    return sorted({cell.steps for cell in sampled if cell.steps is not None}, reverse=True)


def _lines(pair: Pair, who: str, order: str | None) -> list[tuple[str, dict[int, Cell]]]:
    """Rows by name, plain draws first; the teacher's other temperatures only make controls."""
    cells = [c for c in pair.cells if c.who == who and c.order == order]
    if who == "teacher":
        cells = [cell for cell in cells if cell.temperature == 1]
    cells.sort(key=lambda c: (-(c.student_steps or 0), c.name, not c.plain, label_of(c)))
    lines: dict[str, dict[int, Cell]] = {}
    for cell in cells:
        lines.setdefault(label_of(cell), {})[cell.steps or 0] = cell
    return list(lines.items())


def _text(cell: Cell) -> str:
    return f"{digits(cell.perplexity)} / {cell.entropy:.2f}"


def _point_text(control: Control) -> str:
    return f"{digits(math.exp(control.point.nll))} (T {control.point.temperature:.2f})"


def _ratio(one: Comparison) -> str:
    if one.control is None:
        return one.outcome
    error = f" ± {one.ratio_se:.3f}" if math.isfinite(one.ratio_se) else ""
    return f"{one.ratio:.3f}{error}, {one.outcome}"


def _needed(one: Comparison) -> str:
    if one.needed is None or one.control is None:
        return ""
    return f"{one.needed.bound} {one.needed.steps:.3g}".strip()


def _per_cent(share: float, error: float) -> str:
    if math.isnan(share):
        return ""
    return f"{100 * share:.1f}" + (f" ± {100 * error:.1f}" if math.isfinite(error) else "")


def summary(pair: Pair) -> list[str]:
    """What the records say, in plain words, and no more.

    Returns:
        One sentence or a few about each: where students beat their control in their own order; the
        best student against the best control at L/8 steps or fewer; the steps saved there; how the
        teacher falls from L/8 to L random steps.
    """
    return [
        *_own_order_sentences(pair),
        *_best_sentences(pair),
        *_teacher_sentences(pair),
    ]


def _own_order_sentences(pair: Pair) -> Iterator[str]:
    if not pair.of("student"):
        yield "No student was measured."
    for order in _orders(pair):
        for name, cells in _lines(pair, "student", order):
            beside = [compare(pair, cells[s], [order]) for s in sorted(cells, reverse=True)]
            yield _own_order_sentence(f"{name}, {order} order", beside)


def _own_order_sentence(name: str, beside: Sequence[Comparison]) -> str:
    said = {
        "better": "better than its control at",
        "worse": "worse at",
        "within the noise": "within the noise at",
        "not matched": "without a control at",
    }
    at: dict[str, list[int]] = {}
    for one in beside:
        at.setdefault(one.outcome, []).append(one.student.steps or 0)
    parts = [f"{words} {in_steps(at[outcome])}" for outcome, words in said.items() if outcome in at]
    if "better" not in at:
        parts.insert(0, "nowhere better than its control")
    return f"{name[0].upper()}{name[1:]}: {'; '.join(parts)}."


def _best_sentences(pair: Pair) -> Iterator[str]:
    if not pair.of("student"):
        return
    limit = pair.length // 8
    found = [best(pair, steps) for steps in _steps(pair) if 8 * steps <= pair.length]
    matched = [one for one in found if one is not None]
    if not matched:
        yield f"No student was measured beside a control at {in_steps([limit])} or fewer."
    for one in matched:
        yield _best_sentence(one)


def _best_sentence(one: Comparison) -> str:
    student, control = one.student, one.control
    assert control is not None
    apart = f"a ratio of {one.ratio:.3f}"
    if math.isfinite(one.ratio_se):
        apart += f" ± {one.ratio_se:.3f}"
    text = (
        f"At {in_steps([student.steps or 0])}, the best student in its best order ({student.name},"
        f" {student.order}) has perplexity {digits(student.perplexity)}, the best control in its"
        f" best order ({control.order}, T {control.point.temperature:.2f})"
        f" {digits(math.exp(control.point.nll))} at the same entropy"
        f" ({student.entropy:.2f} nats): {apart}, {one.outcome}"
    )
    if one.outcome != "better" or one.saved is None or one.needed is None:
        return text + "."
    bound = f"{one.needed.bound} " if one.needed.bound else ""
    return text + (
        f". That control needs {bound}{one.needed.steps:.3g} steps to get there: {bound}"
        f"{one.saved:.1f} times as many."
    )


def _teacher_sentences(pair: Pair) -> Iterator[str]:
    teacher: Mapping[int, Cell] = {
        cell.steps or 0: cell
        for cell in pair.of("teacher")
        if cell.plain and cell.order == "random"
    }
    few, many = teacher.get(pair.length // 8), teacher.get(pair.length)
    if few is None or many is None:
        return
    start = f"{digits(few.perplexity)} at {in_steps([few.steps or 0])}"
    end = f"{digits(many.perplexity)} at {many.steps}"
    entropies = f"its entropy goes from {few.entropy:.2f} to {many.entropy:.2f} nats"
    fall, error = few.nll - many.nll, math.hypot(few.nll_se, many.nll_se)
    if fall > NOISE * error:
        factor = f"{math.exp(fall):.2f} times lower"
        yield (
            f"The teacher's perplexity in random order falls from {start} to {end}, {factor};"
            f" {entropies}."
        )
    else:
        yield (
            f"No fall of the teacher's perplexity in random order is seen beyond the noise:"
            f" {start}, {end}; {entropies}."
        )


def _seeds_sentence(pair: Pair) -> str:
    several = [cell for cell in pair.cells if cell.seeds > 1]
    if not several:
        return "One seed a cell."
    worst = max(several, key=lambda cell: cell.spread)
    place = [label_of(worst), f"{worst.order} order" if worst.order else ""]
    place += [in_steps([worst.steps])] if worst.steps is not None else []
    return (
        f"Cells of several seeds ({max(cell.seeds for cell in several)} at most) are their mean;"
        f" ln perplexity differs most between seeds at {', '.join(filter(None, place))}: standard"
        f" deviation {worst.spread:.3f}."
    )
