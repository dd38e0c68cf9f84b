"""The report of evaluations: a page, a markdown file, the numbers and the figures."""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sdtt.report.best_of import best_of_tables
from sdtt.report.blocks import plain
from sdtt.report.cells import SIZES, TIMED, Cell, read_cells, read_runs
from sdtt.report.curves import drawings
from sdtt.report.drawing import Drawing, as_csv
from sdtt.report.files import write_aside
from sdtt.report.matched import beside, students_of, teacher_of
from sdtt.report.measures import measure_tables
from sdtt.report.page import Section, render_page
from sdtt.report.plotting import draw
from sdtt.report.quality import machine_of, perplexity_blocks, quality_tables
from sdtt.report.rendering import as_markdown, in_markdown
from sdtt.report.replay import samples_of
from sdtt.report.suite import Suite, environment_words
from sdtt.report.summary import summary
from sdtt.report.tasks import tasks_tables

TITLE = "Evaluation of masked diffusion language models"

HOW_TO_READ = (
    "Perplexity is how much a text surprises the judge: lower reads better, but so does a text that"
    " repeats itself, so beside it stands the entropy of the tokens of one text (nats, higher is"
    " more varied). A student is compared with its control: the teacher at the same entropy."
)

QUALITY = "perplexity_steps", "frontier", "perplexity_seconds"
"""Figures of the first section; others stand with the other metrics."""

WHO = "metric", "model", "kind", "taught_steps", "source", "machine", "seeds"


def write_report(
    folders: Sequence[Path],
    output: Path,
    *,
    teacher: str | None = None,
    title: str = TITLE,
) -> Path:
    """Writes `report.html`, `report.md`, `tables.csv` and `figures/`, each aside, then renamed.

    Args:
        folders: Of evaluations, with their records and samples.
        output: Where to write; made if there is none.
        teacher: The label of the model that students are compared with; by default the one
            diffusion model that was not taught.
        title: Of the report.

    Returns:
        The path of `report.html`.

    Raises:
        ValueError: If a folder holds no records of this version, or it is not clear which model
            is the teacher.
    """
    cells = read_cells(read_runs(folders))
    if not cells:
        raise ValueError(f"{', '.join(map(str, folders))}: there is no record to report")
    suite = Suite(cells, teacher_of(cells, teacher))
    others = [*measure_tables(suite), *tasks_tables(suite), *best_of_tables(suite)]
    said, about = summary(suite), _about(suite, folders)
    samples = samples_of(suite)
    figures = _write_figures(list(drawings(suite)), output / "figures")
    sections = [
        Section("Quality", [f for f in figures if _is_quality(f[0])], [*quality_tables(suite)]),
        Section("Other measures", [f for f in figures if not _is_quality(f[0])], others),
    ]
    sections = [section for section in sections if section.figures or section.tables]
    markdown = "\n\n".join(_markdown(title, said, sections, about)) + "\n"
    page = render_page(title, said, HOW_TO_READ, sections, samples, about)
    for name, text in [
        ("tables.csv", _numbers(suite)),
        ("report.md", markdown),
        ("report.html", page),
    ]:
        _write(output / name, text)
    return output / "report.html"


def _write(path: Path, text: str) -> None:
    write_aside(path, lambda aside: aside.write_text(text, "utf-8", newline="\n"))


def _is_quality(drawing: Drawing) -> bool:
    return drawing.name.startswith(QUALITY)


def _write_figures(found: Sequence[Drawing], folder: Path) -> list[tuple[Drawing, str]]:
    """NAME.svg, NAME.png and NAME.csv; the SVG's text is returned."""
    folder.mkdir(parents=True, exist_ok=True)
    figures = []
    for drawing in found:
        paths = [folder / f"{drawing.name}.{ending}" for ending in ("svg", "png")]
        asides = [path.with_name(f".{path.stem}.partial{path.suffix}") for path in paths]
        draw(drawing, asides)
        for aside, path in zip(asides, paths, strict=True):
            aside.replace(path)
        _write(folder / f"{drawing.name}.csv", as_csv(drawing))
        figures.append((drawing, paths[0].read_text("utf-8")))
    return figures


def _about(suite: Suite, folders: Sequence[Path]) -> list[str]:
    records = [record for cell in suite.cells for record in cell.records]
    teacher = f"The teacher is {suite.teacher}." if suite.teacher else "There is no teacher."
    sources = {r.model: r.source for r in records if r.source}
    count = f"{len(records)} record{'s' * (len(records) != 1)}"
    found = [f"Read: {count} of {', '.join(map(str, folders))}. {teacher}"]
    found += [f"{model}: {source}." for model, source in sources.items() if source != model]
    return [*found, *environment_words(records)]


def _markdown(
    title: str, said: Sequence[str], sections: Sequence[Section], about: Sequence[str]
) -> Iterator[str]:
    yield f"# {in_markdown(title)}"
    yield "\n".join(f"* {in_markdown(sentence)}" for sentence in said)
    yield HOW_TO_READ
    for section in sections:
        yield f"## {section.title}"
        for drawing, _ in section.figures:
            name, heading = drawing.name, in_markdown(drawing.title)
            yield f"### {heading}"
            yield f"![{heading}](figures/{name}.png)"
            yield f"{drawing.caption} Data: [{name}.csv](figures/{name}.csv)."
        for table in section.tables:
            yield as_markdown(table)
    yield "## How it was made"
    yield "  \n".join(in_markdown(sentence) for sentence in about)


# ---------------------------------------------------------------- numbers


def _numbers(suite: Suite) -> str:
    """Every value of the tables in long form: one row a value, with all its settings."""
    rows = [row for cell in suite.cells for row in _rows(cell)] + list(_control_rows(suite))
    settings = sorted({name for row in rows for name in row if "." in name})
    head = [*WHO, "name", "value", "standard_error", *settings]
    text = io.StringIO()
    writer = csv.DictWriter(text, head, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _rows(cell: Cell) -> Iterator[dict[str, Any]]:
    for name, value, error in _values(cell.result):
        yield {**_who(cell), "name": name, "value": value, "standard_error": error}


def _values(result: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    for name, value in result.items():
        if isinstance(value, list):
            yield from _listed(name, value)
        elif not name.endswith("_se") and value is not None:
            yield name, value, _blank(result.get(f"{name}_se"))


def _listed(name: str, values: Sequence[Any]) -> Iterator[tuple[str, Any, Any]]:
    """The values of seeds by their place, those of a curve by n."""
    for i, value in enumerate(values):
        if isinstance(value, dict):
            n = value.get("n", i)
            yield from ((f"{own}_of_{n}", v, se) for own, v, se in _values(value) if own != "n")
        else:
            yield f"{name}_{i}", value, ""


def _blank(value: Any) -> Any:
    return "" if value is None else value


def _who(cell: Cell) -> dict[str, Any]:
    record = cell.record
    seeds = [(r.draw or {}).get("seed", r.settings.get("seed")) for r in cell.records]
    draw = {name: value for name, value in (record.draw or {}).items() if name not in SIZES}
    return {
        "metric": record.metric,
        "model": record.model,
        "kind": record.kind,
        "taught_steps": _blank(record.taught_steps),
        "source": record.source,
        "machine": machine_of(cell) if record.metric in (*TIMED, "samples") else "",
        "seeds": " ".join(str(seed) for seed in seeds if seed is not None),
        **{f"draw.{name}": _cell_text(value) for name, value in draw.items() if value is not None},
        **{f"settings.{name}": _cell_text(value) for name, value in record.settings.items()},
    }


def _cell_text(value: Any) -> str:
    return " ".join(map(plain, value)) if isinstance(value, list) else plain(value)


def _control_rows(suite: Suite) -> Iterator[dict[str, Any]]:
    for block in perplexity_blocks(suite):
        for student in students_of(block.cells, suite.teacher):
            found = beside(block.cells, suite.teacher, student)
            if found.control is None:
                continue
            values = {
                "ratio": (found.ratio, found.ratio_se),
                "control_nll": (found.control.nll, found.control.nll_se),
                "control_temperature": (found.control.temperature, ""),
            }
            for name, (value, error) in values.items():
                row = {"name": name, "value": value, "standard_error": error}
                yield {**_who(student), "metric": "control", **row}
