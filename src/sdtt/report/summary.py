"""What the records say, in plain words, and no more than their errors let."""

import math
from collections.abc import Iterator, Sequence

from sdtt.report.blocks import Block, sampler_words
from sdtt.report.cells import Cell
from sdtt.report.matched import Beside, beside, is_student, rank, students_of
from sdtt.report.measures import measure_blocks
from sdtt.report.quality import perplexity_blocks
from sdtt.report.rendering import seconds
from sdtt.report.suite import Suite, is_plain
from sdtt.report.verdict import NOISE
from sdtt.report.words import digits, in_steps

SAID = {
    "better": "better than its control",
    "worse": "worse than it",
    "within the noise": "within the noise",
    "not matched": "without a control",
}


def summary(suite: Suite) -> list[str]:
    """Sentences for the top of the report.

    Each student beside its control, by sampler; LAMBADA of the last student beside the teacher's;
    the time of a sample beside the autoregressive model's. A difference is called one beyond three
    standard errors only, and a time where every run was faster than every run of the other.
    """
    sentences = [
        *_student_sentences(suite),
        *_lambada_sentences(suite),
        *_latency_sentences(suite),
    ]
    return sentences or [_nothing(suite)]


def _nothing(suite: Suite) -> str:
    models = len({cell.model for cell in suite.cells})
    who = "One model was" if models == 1 else f"{models} models were"
    return f"{who} measured; nothing here compares a student with its teacher."


def _student_sentences(suite: Suite) -> Iterator[str]:
    for block in perplexity_blocks(suite):
        students = [cell for cell in students_of(block.cells, suite.teacher) if is_plain(cell)]
        lines: dict[tuple[str, str], list[Beside]] = {}
        for cell in students:
            found = beside(block.cells, suite.teacher, cell)
            lines.setdefault((cell.model, sampler_words(cell)), []).append(found)
        for (model, sampler), found_of in lines.items():
            yield _student_sentence(block, f"{model}, {sampler}", found_of)


def _student_sentence(block: Block, name: str, found: Sequence[Beside]) -> str:
    at: dict[str, list[Cell]] = {}
    for one in found:
        at.setdefault(one.outcome, []).append(one.student)
    parts = [f"{words}{_at(at[outcome])}" for outcome, words in SAID.items() if outcome in at]
    if "better" not in at and set(at) != {"not matched"}:
        parts.insert(0, "nowhere better than its control at the same entropy")
    where = f" ({block.heading})" if block.heading else ""
    text = f"{name}{where}: {'; '.join(parts)}"
    wins = [one for one in found if one.outcome == "better"]
    if wins:
        most = min(wins, key=lambda one: one.ratio)
        text += (
            f". Its perplexity is {most.ratio:.3f} ± {most.ratio_se:.3f} times its control's"
            f"{_at([most.student])}"
        )
        text += ", the lowest ratio" if len(wins) > 1 else ""
    return f"{text}."


def _at(cells: Sequence[Cell]) -> str:
    """At which steps; nothing of a sampler that counts none."""
    steps = [cell.steps for cell in cells if cell.steps is not None]
    return f" at {in_steps(steps)}" if steps else ""


def _lambada_sentences(suite: Suite) -> Iterator[str]:
    for block in measure_blocks(suite, "lambada"):
        known = [c for c in block.cells if not math.isnan(c.number("accuracy"))]
        teacher = next((cell for cell in known if cell.model == suite.teacher), None)
        students = sorted(
            (c for c in known if is_student(c, suite.teacher)),
            key=lambda cell: rank(cell, suite.teacher),
        )
        if teacher is not None and students:
            yield _lambada_sentence(teacher, students[-1], block)


def _lambada_sentence(teacher: Cell, student: Cell, block: Block) -> str:
    difference = student.number("accuracy") - teacher.number("accuracy")
    error = math.hypot(student.number("accuracy_se"), teacher.number("accuracy_se"))
    # over the same examples, so the error of the difference is smaller than this
    said = "a difference within the noise"
    if abs(difference) > NOISE * error:
        said = "higher" if difference > 0 else "lower"
    where = f", {block.heading}" if block.heading else ""
    return (
        f"LAMBADA{where}: {student.model} gets {100 * student.number('accuracy'):.1f} % right,"
        f" {teacher.model} {100 * teacher.number('accuracy'):.1f} %: {said}."
    )


def _latency_sentences(suite: Suite) -> Iterator[str]:
    for block in measure_blocks(suite, "latency"):
        causal = [cell for cell in block.cells if cell.record.kind == "autoregressive"]
        for cell in causal:
            yield from _latency_sentence(cell, block)


def _latency_sentence(causal: Cell, block: Block) -> Iterator[str]:
    """From how many steps on the autoregressive model is the faster one, at its form and batch."""
    alike = [
        cell
        for cell in block.cells
        if cell.record.kind == "diffusion"
        and cell.steps is not None
        and all(
            cell.record.settings.get(name) == causal.record.settings.get(name)
            for name in ("form", "batch_size")
        )
    ]
    limit = causal.number("seconds_per_sample")
    faster = [cell for cell in alike if _is_faster(cell, causal)]
    if not alike or math.isnan(limit):
        return
    settings = causal.record.settings
    where = ", ".join(
        filter(None, [f"batch {settings.get('batch_size')}", settings.get("form"), block.heading])
    )
    start = f"Latency ({where}): {causal.model} takes {seconds(limit).text} s a sample"
    if not faster:
        yield f"{start}; no number of steps measured is faster in every run."
        return
    most = max(faster, key=lambda cell: (cell.steps or 0, cell.number("seconds_per_sample")))
    time = most.number("seconds_per_sample")
    steps = sorted({cell.steps or 0 for cell in faster if cell.model == most.model}, reverse=True)
    yield (
        f"{start}; {most.model} takes less at {in_steps(steps)}"
        f" ({seconds(time).text} s at {most.steps}, {digits(limit / time)} times as fast)."
    )


def _is_faster(cell: Cell, other: Cell) -> bool:
    """Whether its slowest run took less than the fastest of the other, of as many texts."""
    slowest, fastest = cell.number("seconds_most"), other.number("seconds_least")
    return slowest < fastest
