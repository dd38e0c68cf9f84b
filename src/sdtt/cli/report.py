"""`sdtt report`: tables and figures of evaluations, from their records; no model is read."""

from dataclasses import dataclass, field
from pathlib import Path

from sdtt.cli.options import command
from sdtt.report.evaluation import TITLE, write_report


@dataclass(frozen=True)
class ReportSettings:
    """What is reported, and where to."""

    runs: tuple[Path, ...] = field(
        metadata={"help": "folders of evaluations, with their records", "positional": True}
    )
    output: Path | None = field(
        default=None, metadata={"help": "folder of the report; the first of the runs by default"}
    )
    teacher: str | None = field(
        default=None,
        metadata={
            "help": "label of the model that students are compared with; by default the one"
            " diffusion model that was not taught"
        },
    )
    title: str = field(default=TITLE, metadata={"help": "heading of the report"})
    overwrite: bool = field(
        default=False, metadata={"help": "replace a report that is there", "flag_only": True}
    )

    def __post_init__(self) -> None:
        """Refuses what cannot be."""
        if not self.runs:
            raise ValueError("RUNS is empty: name a folder of an evaluation, or several")


def report(settings: ReportSettings) -> None:
    """Make tables and figures of evaluations: report.html, report.md, tables.csv and figures/.

    The page is one file that needs no network. What does not compare (other judges, precisions of
    draws, lengths, texts) stands in tables of its own.
    """
    output = settings.output or settings.runs[0]
    page = output / "report.html"
    if page.exists() and not settings.overwrite:
        raise ValueError(f"{page} is there already; give --overwrite or another --output")
    write_report(settings.runs, output, teacher=settings.teacher, title=settings.title)
    print(page)


COMMAND = command(report, example="sdtt report runs/paper --output runs/paper-report")
