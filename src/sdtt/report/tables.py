"""Tables and sentences from the demo's metrics."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from sdtt.report.ladder import Cell, Ladder, Metrics, read_ladder
from sdtt.report.words import digits, in_steps, markdown

ENTROPY_TOLERANCE = 0.02  # nats; perplexities further apart in entropy than this are not compared
NOISE = 3.0  # standard errors below which nothing is claimed: 5 % in all at 8 comparisons need 2.7
PER_NAT = 7.0  # d ln perplexity / d entropy of cooling: 144 -> 95 from 3.84 to 3.78 nats, 5M model

Outcome = Literal["better", "worse", "within the noise", "not matched"]


@dataclass(frozen=True)
class Gain:
    """A student beside its control: the teacher in as many steps, cooled to the same entropy.

    Attributes:
        round: The student's round.
        steps: Sampling steps of both.
        student_perplexity: Judge perplexity of the student's samples.
        control_perplexity: Judge perplexity of the control's samples.
        ratio: student / control; below 1 the student is better.
        entropy_difference: Entropy of the student less that of the control, in nats.
        standard_error: Of the difference in perplexity, with what the chance in both entropies adds
            through the control's temperature; None where none was given.
    """

    round: int
    steps: int
    student_perplexity: float
    control_perplexity: float
    ratio: float
    entropy_difference: float
    standard_error: float | None

    @property
    def control_at_its_entropy(self) -> float:
        """The control's perplexity, its difference in entropy taken out at the usual rate."""
        return self.control_perplexity * math.exp(PER_NAT * self.entropy_difference)

    @property
    def outcome(self) -> Outcome:
        """What may be said: nothing where entropies differ, nothing within the noise."""
        if not abs(self.entropy_difference) <= ENTROPY_TOLERANCE + 1e-9:  # NaN does not match
            return "not matched"
        difference = self.student_perplexity - self.control_at_its_entropy
        if abs(difference) <= NOISE * (self.standard_error or 0.0):
            return "within the noise"
        return "better" if difference < 0 else "worse"


def gains(metrics: Metrics) -> list[Gain]:
    """Every student beside its control, by round, then by steps descending.

    Args:
        metrics: As `read_ladder` takes them.

    Returns:
        One record for each cell that has a control.
    """
    ladder = read_ladder(metrics)
    return [
        _gain(number, steps, ladder.students[number][steps], control)
        for number, controls in ladder.controls.items()
        for steps, control in controls.items()
    ]


def _gain(number: int, steps: int, student: Cell, control: Cell) -> Gain:
    errors = [se for se in (student.perplexity_se, control.perplexity_se) if se is not None]
    if errors:
        scale = PER_NAT * control.perplexity
        errors += [scale * se for se in (student.entropy_se, control.entropy_se) if se is not None]
    return Gain(
        round=number,
        steps=steps,
        student_perplexity=student.perplexity,
        control_perplexity=control.perplexity,
        ratio=student.perplexity / control.perplexity,
        entropy_difference=student.entropy - control.entropy,
        standard_error=math.hypot(*errors) if errors else None,
    )


def ladder_table(metrics: Metrics) -> str:
    """Judge perplexity / entropy in nats: models down the rows, steps descending across.

    Args:
        metrics: As `read_ladder` takes them.

    Returns:
        A markdown table. Under each student stands its control with its temperature; autoregressive
        and real text have no steps and stand in the first column.
    """
    ladder = read_ladder(metrics)

    def row(name: str, cells: Mapping[int, Cell]) -> list[str]:
        return [name, *(_text(cells[s]) if s in cells else "" for s in ladder.steps)]

    rows = [row("teacher", ladder.teacher)]
    for number, cells in ladder.students.items():
        rows.append(row(f"student, round {number}", cells))
        if ladder.controls[number]:
            rows.append(row("its control", ladder.controls[number]))
    levels = {
        f"autoregressive, {ladder.length} passes": ladder.autoregressive,
        "real text": ladder.data,
    }
    blank = [""] * (len(ladder.steps) - 1)
    rows += [[name, _text(cell), *blank] for name, cell in levels.items() if cell]
    return markdown(["perplexity / entropy", *(in_steps([s]) for s in ladder.steps)], rows)


def gains_table(metrics: Metrics) -> str:
    """Each student beside its control, with what may be said of the two.

    Args:
        metrics: As `read_ladder` takes them.

    Returns:
        A markdown table, one row a comparison; empty text where there is no control.
    """
    rows = [
        [
            f"{gain.round}",
            f"{gain.steps}",
            digits(gain.student_perplexity),
            digits(gain.control_perplexity),
            "" if gain.standard_error is None else f"±{digits(gain.standard_error)}",
            f"{gain.ratio:.3f}",
            f"{gain.entropy_difference:+.3f}",
            gain.outcome,
        ]
        for gain in gains(metrics)
    ]
    head = ["round", "steps", "student", "control", "±", "ratio", "entropy", "the student is"]
    return markdown(head, rows) if rows else ""


def verdict(metrics: Metrics) -> str:
    """What the numbers say, in plain words: one paragraph.

    Whether the last student beats its control at L/4 steps or fewer, at which, and by what factor;
    where, at any number of steps, it does not; then how the teacher's perplexity depends on its
    steps. To beat a control is to have a lower perplexity by more than three standard errors of the
    difference, where errors are given, at an entropy within 0.02 nats.

    Args:
        metrics: As `read_ladder` takes them.

    Returns:
        A paragraph without markup.
    """
    ladder = read_ladder(metrics)
    return " ".join([*_students_sentences(ladder, gains(metrics)), *_teacher_sentences(ladder)])


def settings_table(metrics: Metrics) -> str:
    """The settings of the run, nested names joined by dots.

    Args:
        metrics: A dictionary whose "settings" are nested dictionaries of plain values.

    Returns:
        A markdown table of names and values.
    """
    rows = [[name, value] for name, value in _flat(metrics.get("settings", {}))]
    return markdown(["setting", "value"], rows, right=False)


def _students_sentences(ladder: Ladder, measured: Sequence[Gain]) -> Iterator[str]:
    if not ladder.students:
        yield "No student was measured."
        return
    number, limit = max(ladder.students), f"{ladder.length // 4} steps or fewer"
    name = f"The last student (round {number})"
    few = [gain for gain in measured if 4 * gain.steps <= ladder.length]
    last = [gain for gain in few if gain.round == number]
    if not last:
        yield (
            f"{name} was not measured beside a control at {limit}, so nothing here says whether it"
            " learned more than a temperature."
        )
    wins = [gain for gain in last if gain.outcome == "better"]
    if wins:
        yield f"{name} beats its control at {in_steps(gain.steps for gain in wins)}."
        yield _best_sentence(ladder, min(wins, key=lambda gain: gain.ratio), len(wins) > 1)
    elif last:
        yield f"{name} does not beat its control at {limit}."
    yield from _other_sentences([gain for gain in measured if gain.round == number])
    if not wins:
        yield from _earlier_sentences([gain for gain in few if gain.round != number])


def _best_sentence(ladder: Ladder, gain: Gain, several: bool) -> str:
    temperature = ladder.controls[gain.round][gain.steps].temperature
    cooled = f" (T {temperature:.2f})" if temperature is not None else ""
    text = (
        f"{'Most at ' + in_steps([gain.steps]) + ': its' if several else 'Its'} judge perplexity is"
        f" {digits(gain.student_perplexity)} against {digits(gain.control_perplexity)} for the"
        f" teacher cooled to the same entropy{cooled}, {1 / gain.ratio:.2f} times lower, with"
        f" entropies {abs(gain.entropy_difference):.3f} nats apart"
    )
    if gain.standard_error is None:
        return text + "; no standard errors were given, so chance is not ruled out."
    difference = gain.control_at_its_entropy - gain.student_perplexity
    return (
        text
        + f"; at one entropy they differ by {difference / gain.standard_error:.1f} standard errors."
    )


def _other_sentences(last: Sequence[Gain]) -> Iterator[str]:
    """Where the last student does not win, and why."""
    reasons = {
        "within the noise": f"the two differ by less than {NOISE:g} standard errors: that is noise",
        "worse": "its control has the lower perplexity",
        "not matched": f"their entropies are more than {ENTROPY_TOLERANCE:g} nats apart, so the"
        " perplexities say nothing",
    }
    for outcome, reason in reasons.items():
        found = [gain for gain in last if gain.outcome == outcome]
        if found:
            yield f"At {in_steps(gain.steps for gain in found)} {reason}."


def _earlier_sentences(earlier: Sequence[Gain]) -> Iterator[str]:
    wins = [gain for gain in earlier if gain.outcome == "better"]
    if not wins:
        yield "No student beats its control there: nothing here shows more than a temperature."
        return
    gain = min(wins, key=lambda gain: gain.ratio)
    yield (
        f"An earlier one does: that of round {gain.round} at {in_steps([gain.steps])}, with"
        f" {digits(gain.student_perplexity)} against {digits(gain.control_perplexity)},"
        f" {1 / gain.ratio:.2f} times lower."
    )


def _teacher_sentences(ladder: Ladder) -> Iterator[str]:
    many, few = max(ladder.teacher), min(ladder.teacher)
    if many == few:
        return
    high, low = ladder.teacher[few], ladder.teacher[many]
    start = f"{digits(high.perplexity)} at {in_steps([few])}"
    end = f"{digits(low.perplexity)} at {many}"
    entropies = f"its entropy goes from {high.entropy:.2f} to {low.entropy:.2f} nats"
    errors = [cell.perplexity_se for cell in (high, low) if cell.perplexity_se is not None]
    if high.perplexity - low.perplexity > NOISE * math.hypot(*errors):
        factor = f"{high.perplexity / low.perplexity:.1f} times lower"
        yield f"The teacher's perplexity falls from {start} to {end}, {factor}; {entropies}."
    else:
        beyond = " beyond the noise" if low.perplexity < high.perplexity else ""
        yield (
            f"The teacher's perplexity does not fall with steps{beyond}: {start}, {end};"
            f" {entropies}."
        )


def _text(cell: Cell) -> str:
    temperature = f" (T {cell.temperature:.2f})" if cell.temperature is not None else ""
    return f"{digits(cell.perplexity)} / {cell.entropy:.2f}{temperature}"


def _flat(settings: Metrics, prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        elif isinstance(value, (list, tuple)):
            yield f"{prefix}{name}", ", ".join(_plain(item) for item in value)
        else:
            yield f"{prefix}{name}", _plain(value)


def _plain(value: object) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return " ".join(text.split()).replace("|", "\\|")
