"""The table of the tasks of lm-evaluation-harness."""

import math
from collections.abc import Iterator
from functools import partial

from sdtt.report.blocks import Block, blocks, change_words, of_settings, sampler_words, titled
from sdtt.report.cells import Cell
from sdtt.report.rendering import Entry, Table, number, share, word
from sdtt.report.suite import Suite, notes, ranked


def tasks_blocks(suite: Suite) -> list[Block]:
    """Tasks side by side: the columns are their own, the settings one."""
    return blocks(suite.of("tasks"), partial(of_settings, rows=("task",)))


def tasks_tables(suite: Suite) -> Iterator[Table]:
    """A row a model, and each way its answers were sampled; a column a score that has an error."""
    for block in tasks_blocks(suite):
        scores = list(dict.fromkeys(pair for cell in block.cells for pair in _scores(cell)))
        rows = []
        is_answered = any(cell.draw for cell in block.cells)
        for model, how in dict.fromkeys(_row(c) for c in ranked(suite, block.cells)):
            of_task = {_task(cell): cell for cell in block.cells if _row(cell) == (model, how)}
            words = [word(model), *[word(how or "–")] * is_answered]
            rows.append([*words, *(_score(of_task.get(task), name) for task, name in scores)])
        head = ["model", *["answers"] * is_answered]
        head += [f"{task} {_score_words(name)}" for task, name in scores]
        said = ["By lm-evaluation-harness, ± one standard error; a denoiser is scored by its ELBO."]
        said += notes(suite, block.cells, block.context)
        yield Table(titled("Tasks", block), head, rows, said)


def _row(cell: Cell) -> tuple[str, str]:
    """Who answered, and how its answers were sampled: 'dilated, 64 steps, T 0'."""
    steps = [f"{cell.steps} steps"] if cell.steps is not None else []
    words = [sampler_words(cell), *steps, change_words(cell)] if cell.draw else []
    return cell.model, ", ".join(filter(None, words))


def _task(cell: Cell) -> str:
    return str(cell.record.settings.get("task", "task"))


def _scores(cell: Cell) -> list[tuple[str, str]]:
    return [(_task(cell), name) for name in cell.result if f"{name}_se" in cell.result]


def _is_share(name: str) -> bool:
    return name.startswith(("acc", "exact_match", "f1"))


def _score_words(name: str) -> str:
    return f"{name.replace('_', ' ')}{' %' * _is_share(name)}"


def _score(cell: Cell | None, name: str) -> Entry:
    if cell is None:
        return number(math.nan)
    measured = cell.number(name), cell.number(f"{name}_se")
    return share(*measured) if _is_share(name) else number(*measured)
