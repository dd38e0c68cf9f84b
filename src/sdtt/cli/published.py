"""`sdtt published`: the models of others that load by a name; downloads nothing."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from sdtt.cli.options import command
from sdtt.models.published import RELEASES, Release, published

HEADS = ("name", "repository", "revision", "size", "trained", "divergence", "round", "steps")

FOOTER = """
size: parameters. trained: updates before any distillation. round: rounds of 10,000 updates.
steps: sampling steps that a student was distilled for, 1024 / 2^round.
kld: reverse KL, the paper's choice: best on LAMBADA and MAUVE. mse: lower Gen PPL, worse LAMBADA.
tvd: worst; as released, it is an L1 distance of log-probabilities. -: none, or not said.

use: sdtt.load_published("sdtt-kld-round7"), or
     sdtt convert sdtt-kld-round7 models/kld7 --tokenizer gpt2   (they read GPT-2's ids)
The names are those of the release. None of these files could be downloaded where sdtt was written:
loading is tested on checkpoints of the same layout, not on these."""


@dataclass(frozen=True)
class PublishedSettings:
    """Which are listed."""

    names: tuple[str, ...] = field(
        default=(), metadata={"help": "only these, with published figures", "positional": True}
    )


def list_published(settings: PublishedSettings) -> None:
    """List the published models that load by a name, and what is known of each.

    Every verb takes such a name as a model. Nothing is downloaded until one is used.
    """
    chosen = [published(name) for name in settings.names] or list(RELEASES.values())
    print("\n".join(_table([_cells(release) for release in chosen])))
    figures = [f"{each.name}: {each.figures}" for each in chosen if each.figures]
    if figures:
        print("\npublished figures, of OpenWebText with draws in float64 (2505.18883):")
        print("\n".join(figures))
    print(FOOTER)


def _cells(release: Release) -> tuple[str, ...]:
    def said(value: object) -> str:
        return "-" if value is None else str(value)

    return (
        *(release.name, release.repository, said(release.revision), release.size, release.trained),
        *(said(release.divergence), said(release.round), said(release.steps)),
    )


def _table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    lines = [HEADS, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADS))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]


COMMAND = command(list_published, example="sdtt published sdtt-kld-round7")
