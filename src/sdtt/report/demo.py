"""The demo's report: a folder that says what was gained, by how much, and how to get it again."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from sdtt.report.figures import plot_ladder
from sdtt.report.files import write_aside
from sdtt.report.ladder import Metrics
from sdtt.report.tables import (
    ENTROPY_TOLERANCE,
    NOISE,
    gains_table,
    ladder_table,
    settings_table,
    verdict,
)

HOW_TO_READ = (
    "Perplexity is how much a text surprises the judge: lower reads better, but so does a text that"
    " repeats itself, so beside each perplexity stands the entropy of the tokens in one sample (in"
    " nats; higher is more varied), and only perplexities at the same entropy may be compared. The"
    " control of a student is the first teacher, sampled in as many steps at the temperature that"
    " gives it the student's entropy: a student that does not beat it has learned no more than to"
    " be colder."
)

HOW_IT_WAS_MEASURED = (
    "* **Judge perplexity**: the exponential of the mean, over the samples, of the mean negative"
    " log-likelihood of a token under the judge.\n"
    "* **Entropy**: -sum f log f over the token frequencies f within one sample, in nats, averaged"
    " over the samples.\n"
    "* **Steps**: passes of the model that a sample takes.\n"
    "* **Ratio**: the student's perplexity over its control's; the column before it is the standard"
    " error of their difference, where known, with what the chance in the matched entropies adds.\n"
    f"* **Better, worse**: said only where the entropies are within {ENTROPY_TOLERANCE:g} nats and"
    f" the perplexities differ by more than {NOISE:g} such standard errors."
)


def write_report(metrics: Metrics, samples: Mapping[str, Sequence[str]], folder: Path) -> Path:
    """Writes `report.md`, `ladder.png` and `metrics.json`, each aside and then renamed.

    Args:
        metrics: As `sdtt.report.ladder.read_ladder` takes them; "about" may say in a paragraph
            what was done, "dilated" hold metrics of the same form in the dilated order, and
            "settings" the "command".
        samples: Texts by the name of what made them, such as "teacher, 64 steps".
        folder: Where to write; made if there is none.

    Returns:
        The path of `report.md`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    numbers = json.dumps(metrics, indent=2, default=str) + "\n"
    report = "\n\n".join(_sections(metrics, samples, folder)) + "\n"
    write_aside(folder / "ladder.png", lambda path: plot_ladder(metrics, path))
    write_aside(folder / "metrics.json", lambda path: path.write_text(numbers, "utf-8"))
    write_aside(folder / "report.md", lambda path: path.write_text(report, "utf-8"))
    return folder / "report.md"


def _sections(
    metrics: Metrics, samples: Mapping[str, Sequence[str]], folder: Path
) -> Iterator[str]:
    yield "# Self-distillation through time: what the demo measured"
    yield verdict(metrics)
    if metrics.get("about"):
        yield metrics["about"]
    yield "![Judge perplexity and entropy over the sampling steps](ladder.png)"
    yield HOW_TO_READ
    yield "## The ladder"
    yield ladder_table(metrics)
    beside_controls = gains_table(metrics)
    if beside_controls:
        yield "### Each student beside its control"
        yield beside_controls
    if metrics.get("dilated"):
        yield "### In the dilated order"
        yield "The same models and settings, but positions that one step reveals lie far apart."
        yield ladder_table(metrics["dilated"])
    if samples:
        yield "## Samples"
        yield "Not chosen by hand."
    for name, texts in samples.items():
        yield f"### {name}"
        yield "\n\n---\n\n".join(_quoted(text) for text in texts)
    yield "## How it was measured"
    yield HOW_IT_WAS_MEASURED
    yield "## Settings"
    yield settings_table(metrics)
    yield "## To run it again"
    command = metrics.get("settings", {}).get("command", f"sdtt demo --output {folder}")
    yield f"    {command}\n\nThe numbers above, unrounded, are in [metrics.json](metrics.json)."


def _quoted(text: str) -> str:
    """A block quote that shows the text as it is: its line breaks kept, its markup not obeyed."""
    escaped = re.sub(r"([\\`*_{}\[\]<>#|~&$])", r"\\\1", text.strip()) or "(nothing)"
    return "> " + "  \n> ".join(escaped.splitlines())
