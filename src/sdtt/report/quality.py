"""Tables of quality: perplexity with entropy and control, at matched entropy, over temperatures."""

import math
from collections.abc import Iterator, Sequence

from sdtt.report.blocks import (
    Block,
    blocks,
    change_words,
    of_draw_and_settings,
    sampler_words,
    settings_words,
)
from sdtt.report.cells import Cell
from sdtt.report.matched import Beside, at_entropy, beside, curve_of, is_student, rank, students_of
from sdtt.report.pair_compare import NOISE
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
from sdtt.report.suite import Suite, is_plain, notes, shown
from sdtt.report.words import digits

CONTROL = (
    "The control of a student is the teacher with the same sampler and steps, at the temperature"
    " that gives it the student's entropy, interpolated between the temperatures measured. The"
    " ratio is the student's perplexity over its control's, ± one standard error; better or worse"
    f" is said beyond {NOISE:g} standard errors only."
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
        below = notes(block.cells, block.context)
        main = [_main_row(suite, block, cell) for cell in _sorted(suite, shown(block.cells))]
        said = [CONTROL] if students_of(block.cells, suite.teacher) else []
        said += _reference(suite) + _clocks(suite, block)
        title = f"Perplexity and entropy{ending}"
        yield without_empty(Table(title, MAIN, main, [*said, *below], texts=2))
        matched = list(_matched_rows(suite, block))
        if matched:
            title = f"At one entropy{ending}"
            yield without_empty(Table(title, MATCHED, matched, [_MATCHED_NOTE, *below], texts=3))
        if len(main) < len(block.cells):
            every = [_main_row(suite, block, cell) for cell in _sorted(suite, block.cells)]
            title = f"Every temperature and top-p{ending}"
            yield without_empty(Table(title, MAIN, every, below, texts=2, folded=True))


def _sorted(suite: Suite, cells: Sequence[Cell]) -> list[Cell]:
    return sorted(cells, key=lambda cell: rank(cell, suite.teacher))


def _main_row(suite: Suite, block: Block, cell: Cell) -> list[Entry]:
    trigrams = suite.at("readability", cell) if len(_references(suite)) == 1 else None
    drawn = suite.at("samples", cell) if cell.record.kind != "text" else None
    return [
        word(cell.model),
        word(sampler_words(cell, precision=_precisions(block) > 1)),
        whole(cell.steps),
        word(change_words(cell)),
        number(cell.number("perplexity"), cell.number("perplexity_se")),
        number(cell.number("entropy"), cell.number("entropy_se"), places=3),
        *_beside_entries(suite, block, cell),
        number(cell.number("bits_per_character"), places=3),
        share(trigrams.number("trigrams"), trigrams.number("trigrams_se")) if trigrams else _NONE,
        number(drawn.number("passes_per_sample"), places=1) if drawn else _NONE,
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


def _precisions(block: Block) -> int:
    kinds = {str(c.draw.get("dtype")) for c in block.cells if c.record.kind != "text"}
    return len(kinds)


def _references(suite: Suite) -> list[str]:
    return list(dict.fromkeys(str(c.record.settings) for c in suite.of("readability")))


def _reference(suite: Suite) -> list[str]:
    if len(_references(suite)) != 1:
        return []
    reference = suite.of("readability")[0].record.settings.get("reference", "a reference")
    return [f"Trigrams: the share of a text's word trigrams that occur in {reference}."]


def _clocks(suite: Suite, block: Block) -> list[str]:
    drawn = [suite.at("samples", cell) for cell in block.cells]
    machines = {machine_of(cell) for cell in drawn if cell is not None}
    if len(machines) < 2:
        return []
    return ["Seconds a sample come of several machines or versions, so they do not compare."]


def machine_of(cell: Cell) -> str:
    """Where a time was taken: times of two machines do not compare."""
    known = {k: v for k, v in sorted(cell.record.environment.items()) if k != "command"}
    return settings_words(known)


_MATCHED_NOTE = (
    "For each number of steps, all at the entropy of the student that was taught the fewest steps:"
    " ln perplexity is interpolated between the temperatures that were measured. A row with – does"
    " not reach that entropy, or was measured at one temperature only."
)


def _matched_rows(suite: Suite, block: Block) -> Iterator[list[Entry]]:
    """For each number of steps, everything at the entropy of the last student's plain draws."""
    students = [c for c in students_of(block.cells, suite.teacher) if is_plain(c)]
    for steps in sorted({c.steps for c in students if c.steps is not None}, reverse=True):
        at = [cell for cell in students if cell.steps == steps]
        last = min(at, key=lambda cell: (cell.record.taught_steps or 0, cell.model))
        yield _matched_row(suite, last, last, Beside(last, None))
        for cell in _rivals(suite, block, last):
            curve = curve_of(block.cells, cell.model, cell)
            found = Beside(last, at_entropy(curve, last.number("entropy")))
            yield _matched_row(suite, last, cell, found)


def _rivals(suite: Suite, block: Block, student: Cell) -> list[Cell]:
    """One cell a curve: all denoisers in as many steps or in a number of their own, and causal."""
    found: dict[str, Cell] = {}
    for cell in _sorted(suite, block.cells):
        kind = cell.record.kind
        rival = kind == "autoregressive" or (
            kind == "diffusion" and cell.steps in (student.steps, None)
        )
        if rival and cell.place != student.place:
            key = f"{cell.model} {sampler_words(cell, precision=True)} {cell.top_p}"
            found.setdefault(key, cell)
    own = f"{student.model} {sampler_words(student, precision=True)} {student.top_p}"
    return [cell for key, cell in found.items() if key != own]


def _matched_row(suite: Suite, student: Cell, cell: Cell, found: Beside) -> list[Entry]:
    """A rival at the student's entropy; the student's own row holds what was measured."""
    drawn = suite.at("samples", cell)
    top_p = f", top-p {cell.top_p:g}" if cell.top_p != 1 else ""
    who = [
        whole(student.steps),
        word(cell.model),
        word(sampler_words(cell) + top_p),
        number(drawn.number("passes_per_sample"), places=1) if drawn else _NONE,
    ]
    control = found.control
    if cell is student:
        at = student.number("entropy"), student.temperature
        value = number(student.number("perplexity"), student.number("perplexity_se"))
        return [*who, *(number(each, places=3) for each in at), value, _NONE, word("")]
    if control is None:
        return [*who, _NONE, _NONE, _NONE, _NONE, word("")]
    perplexity = math.exp(control.nll)
    return [
        *who,
        number(control.entropy, places=3),
        number(control.temperature, places=3),
        number(perplexity, perplexity * control.nll_se),
        number(found.ratio, found.ratio_se, places=3),
        word(found.outcome),
    ]
