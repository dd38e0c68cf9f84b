"""The table of the tasks of lm-evaluation-harness."""

import math
from collections.abc import Iterator
from functools import partial

from sdtt.report.blocks import Block, blocks, of_settings, titled
from sdtt.report.cells import Cell
from sdtt.report.rendering import Entry, Table, number, share, word
from sdtt.report.suite import Suite, notes, ranked


def tasks_blocks(suite: Suite) -> list[Block]:
    """Tasks side by side: the columns are their own, the settings one."""
    return blocks(suite.of("tasks"), partial(of_settings, rows=("task",)))


def tasks_tables(suite: Suite) -> Iterator[Table]:
    """A row a model, a column a score that has an error."""
    for block in tasks_blocks(suite):
        scores = list(dict.fromkeys(pair for cell in block.cells for pair in _scores(cell)))
        rows = []
        for model in dict.fromkeys(c.model for c in ranked(suite, block.cells)):
            of_task = {_task(cell): cell for cell in block.cells if cell.model == model}
            rows.append([word(model), *(_score(of_task.get(task), name) for task, name in scores)])
        head = ["model", *(f"{task} {_score_words(name)}" for task, name in scores)]
        said = ["By lm-evaluation-harness, ± one standard error; a denoiser is scored by its ELBO."]
        said += notes(suite, block.cells, block.context)
        yield Table(titled("Tasks", block), head, rows, said)


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
