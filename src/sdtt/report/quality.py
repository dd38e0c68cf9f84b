"""Tables of quality: perplexity with entropy and control, at matched entropy, over temperatures."""

import math
from collections.abc import Iterator

from sdtt.evaluation.records import Record
from sdtt.report.blocks import (
    Block,
    blocks,
    change_words,
    of_draw_and_settings,
    sampler_words,
    settings_words,
)
from sdtt.report.cells import Cell
from sdtt.report.matched import Beside, at_entropy, beside, curve_of, is_student, students_of
from sdtt.report.rendering import (
    Entry,
    Table,
    number,
    seconds,
    share,
    whole,
    without_empty,
    word,
)
from sdtt.report.suite import Suite, is_plain, notes, precisions, ranked, shown
from sdtt.report.verdict import NOISE
from sdtt.report.words import digits, in_steps

CONTROL = (
    "The control of a student is the teacher with the same sampler and steps, at the temperature"
    " that gives it the student's entropy, interpolated between the temperatures measured. The"
    " ratio is the student's perplexity over its control's, ± one standard error; better or worse"
    f" is said beyond {NOISE:g} standard errors only."
)

MATCHED_NOTE = (
    "For each number of steps, all at the entropy of one student: the one taught the fewest steps,"
    " drawn by the sampler that gives it the lowest perplexity. The others' ln perplexity is"
    " interpolated between the temperatures that were measured; the ratio is the student's"
    f" perplexity over theirs; better or worse is said beyond {NOISE:g} standard errors only."
)

MAIN = (
    *("model", "sampler", "steps", "drawn at", "perplexity", "entropy", "control"),
    *("ratio", "the student is", "bits a character", "trigrams %", "passes", "seconds a sample"),
)

MATCHED = (
    *("steps", "model", "sampler", "passes", "at entropy", "its T", "perplexity"),
    *("student's ratio to it", "the student is"),
)


def perplexity_blocks(suite: Suite) -> list[Block]:
    """Perplexities that compare: one judge, one way to count, one length and precision."""
    return blocks(suite.of("perplexity"), of_draw_and_settings)


def quality_tables(suite: Suite) -> Iterator[Table]:
    """Per block: the main table, that at matched entropy, and every draw that was measured."""
    for block in perplexity_blocks(suite):
        ending = f": {block.heading}" if block.heading else ""
        below = notes(suite, block.cells, block.context)
        saves = any(_saves_passes(suite, cell) for cell in block.cells)
        main = [_main_row(suite, block, c, saves) for c in ranked(suite, shown(block.cells))]
        said = [CONTROL] if students_of(block.cells, suite.teacher) else []
        said += _reference(suite) + _clocks(suite, block)
        title = f"Perplexity and entropy{ending}"
        yield without_empty(Table(title, MAIN, main, [*said, *below], texts=2))
        matched, absent = _matched(suite, block)
        if matched:
            title, said = f"At one entropy{ending}", [MATCHED_NOTE, *absent, *below]
            yield without_empty(Table(title, MATCHED, matched, said, texts=3))
        if len(main) < len(block.cells):
            every = [_main_row(suite, block, c, saves) for c in ranked(suite, block.cells)]
            title = f"Every temperature and top-p{ending}"
            yield without_empty(Table(title, MAIN, every, below, texts=2, folded=True))


def _saves_passes(suite: Suite, cell: Cell) -> bool:
    """Whether steps say not how many passes there are: some reveal nothing, or none are counted."""
    drawn = suite.at("samples", cell)
    passes = drawn.number("passes_per_sample") if drawn else math.nan
    return passes > 0 and passes != cell.steps and cell.record.kind == "diffusion"


def _main_row(suite: Suite, block: Block, cell: Cell, saves: bool) -> list[Entry]:
    trigrams = suite.at("readability", cell) if len(_references(suite)) == 1 else None
    drawn = suite.at("samples", cell) if cell.record.kind != "text" else None
    return [
        word(cell.model),
        word(sampler_words(cell)),
        whole(cell.steps),
        word(change_words(cell)),
        number(cell.number("perplexity"), cell.number("perplexity_se")),
        number(cell.number("entropy"), cell.number("entropy_se"), places=3),
        *_beside_entries(suite, block, cell),
        number(cell.number("bits_per_character"), places=3),
        share(trigrams.number("trigrams"), trigrams.number("trigrams_se")) if trigrams else _NONE,
        number(drawn.number("passes_per_sample"), places=1) if drawn and saves else _NONE,
        seconds(drawn.number("seconds_per_sample")) if drawn else _NONE,
    ]


_NONE = number(math.nan)


def _beside_entries(suite: Suite, block: Block, cell: Cell) -> list[Entry]:
    if not is_student(cell, suite.teacher):
        return [_NONE, _NONE, word("")]
    found = beside(block.cells, suite.teacher, cell)
    if found.control is None:
        return [_NONE, _NONE, word(found.outcome)]
    perplexity = math.exp(found.control.nll)
    return [
        Entry(f"{digits(perplexity)} (T {found.control.temperature:.3f})", perplexity),
        number(found.ratio, found.ratio_se, places=3),
        word(found.outcome),
    ]


def _references(suite: Suite) -> list[str]:
    return list(dict.fromkeys(str(c.record.settings) for c in suite.of("readability")))


def _reference(suite: Suite) -> list[str]:
    if len(_references(suite)) != 1:
        return []
    reference = suite.of("readability")[0].record.settings.get("reference", "a reference")
    return [f"Trigrams: the share of a text's word trigrams that occur in {reference}."]


def _clocks(suite: Suite, block: Block) -> list[str]:
    drawn = [suite.at("samples", cell) for cell in block.cells]
    machines = {_machine(record) for cell in drawn if cell is not None for record in cell.records}
    if len(machines) > 1:
        return ["Seconds a sample come of several machines or versions, so they do not compare."]
    if len(precisions(suite, block.cells)) > 1:
        return ["Seconds a sample are of networks in several types, so they do not compare."]
    return []


def machine_of(cell: Cell) -> str:
    """Where a time was taken: times of two machines do not compare."""
    return " and ".join(dict.fromkeys(_machine(record) for record in cell.records))


def _machine(record: Record) -> str:
    known = sorted(record.environment.items())
    return settings_words({name: value for name, value in known if name != "command"})


def _matched(suite: Suite, block: Block) -> tuple[list[list[Entry]], list[str]]:
    """The rows at one entropy for each number of steps, and who does not reach it."""
    students = [c for c in students_of(block.cells, suite.teacher) if is_plain(c)]
    rows: list[list[Entry]] = []
    absent: dict[str, list[int]] = {}
    for steps in sorted({c.steps for c in students if c.steps is not None}, reverse=True):
        at = [cell for cell in students if cell.steps == steps]
        fewest = min(cell.record.taught_steps or 0 for cell in at)
        last = min((c for c in at if c.record.taught_steps == fewest), key=_nll)
        rows.append(_matched_row(suite, last, last, Beside(last, None)))
        for cell in _rivals(suite, block, last):
            curve = curve_of(block.cells, cell.model, cell)
            found = Beside(last, at_entropy(curve, last.number("entropy")))
            if found.control is None:
                name = ", ".join(filter(None, [cell.model, sampler_words(cell)]))
                absent.setdefault(name, []).append(steps)
            else:
                rows.append(_matched_row(suite, last, cell, found))
    said = "; ".join(f"{name} at {in_steps(dict.fromkeys(at))}" for name, at in absent.items())
    return rows, [f"Not measured at temperatures around that entropy: {said}."] if said else []


def _nll(cell: Cell) -> float:
    return cell.number("nll")


def _rivals(suite: Suite, block: Block, student: Cell) -> list[Cell]:
    """One cell a curve: all denoisers in as many steps or in a number of their own, and causal."""
    found: dict[str, Cell] = {_curve_name(student): student}
    for cell in ranked(suite, block.cells):
        kind = cell.record.kind
        as_many = kind == "diffusion" and cell.steps in (student.steps, None)
        if as_many or kind == "autoregressive":
            found.setdefault(_curve_name(cell), cell)
    return list(found.values())[1:]


def _curve_name(cell: Cell) -> str:
    return f"{cell.model} {sampler_words(cell)} {cell.top_p}"


def _matched_row(suite: Suite, student: Cell, cell: Cell, found: Beside) -> list[Entry]:
    """A rival at the student's entropy, or the student itself as it was measured."""
    drawn = suite.at("samples", cell)
    top_p = f"top-p {cell.top_p:g}" if cell.top_p != 1 else ""
    who = [
        whole(student.steps),
        word(cell.model),
        word(", ".join(filter(None, [sampler_words(cell), top_p]))),
        number(drawn.number("passes_per_sample"), places=1) if drawn else _NONE,
    ]
    if found.control is None:  # the student's own row
        measured = number(student.number("perplexity"), student.number("perplexity_se"))
        own = student.number("entropy"), student.temperature
        return [*who, *(number(value, places=3) for value in own), measured, _NONE, word("")]
    perplexity = math.exp(found.control.nll)
    return [
        *who,
        number(found.control.entropy, places=3),
        number(found.control.temperature, places=3),
        number(perplexity, perplexity * found.control.nll_se),
        number(found.ratio, found.ratio_se, places=3),
        word(found.outcome),
    ]
