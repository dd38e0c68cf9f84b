"""The plan of a distillation: which round an update belongs to, and how large a teacher step is."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from math import prod
from operator import floordiv

SAMPLING_STEPS = "sdtt_sampling_steps"
"""The key of a student's config that says in how many steps it was taught to sample."""


@dataclass(frozen=True)
class Round:
    """One round: a student learns to do in one step what its teacher does in k.

    Attributes:
        index: From 0.
        teacher_sampling_steps: 1 / dt: the steps that a text takes the teacher.
        student_sampling_steps: Those that it takes the student.
    """

    index: int
    teacher_sampling_steps: int
    student_sampling_steps: int

    @property
    def dt(self) -> float:
        """The size of one teacher step."""
        return 1 / self.teacher_sampling_steps

    @property
    def teacher_steps(self) -> int:
        """k: the teacher steps that one student step replaces."""
        return self.teacher_sampling_steps // self.student_sampling_steps


@dataclass(frozen=True)
class RoundPlan:
    """All rounds of a run; dt grows by the factor k from each to the next [SDTT, Algorithm 2].

    A pure function of the update and of ``ended_at``: what else a run may decide (that a round
    ends early) is a new value of the plan, made by ``ended``.

    Attributes:
        rounds: How many.
        steps_per_round: Updates in each: one number, or one for each round.
        start_steps: 1 / dt of the first round.
        teacher_steps: k, the teacher steps that one student step replaces: one number, or one for
            each round.
        ended_at: Updates that were done when each of the rounds ended that have ended so far; the
            others take the updates that ``steps_per_round`` gives them.

    Raises:
        ValueError: If a round would pass below one sampling step, or split one, or if a list has
            not one number for each round.
    """

    rounds: int
    steps_per_round: int | Sequence[int]
    start_steps: int
    teacher_steps: int | Sequence[int]
    ended_at: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name in ("rounds", "steps_per_round", "start_steps", "teacher_steps"):
            value = getattr(self, name)
            if not isinstance(value, int):
                value = tuple(value)
                object.__setattr__(self, name, value)
                if len(value) != self.rounds:
                    raise ValueError(
                        f"{name} has {len(value)} numbers for {self.rounds} rounds; "
                        "give one number, or one for each round"
                    )
            if min(value if isinstance(value, tuple) else (value,)) < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        factor = prod(self.factors)
        if factor > self.start_steps:
            raise ValueError(
                f"{self.rounds} rounds of teacher_steps={self.teacher_steps} from "
                f"start_steps={self.start_steps} pass below one step; "
                f"use fewer rounds, or start_steps of at least {factor}"
            )
        if self.start_steps % factor:
            raise ValueError(
                f"start_steps={self.start_steps} cannot be divided {self.rounds} times by "
                f"teacher_steps={self.teacher_steps}; "
                f"use a multiple of {factor}, such as {self.start_steps // factor * factor}"
            )

    @classmethod
    def of_ladder(cls, ladder: Sequence[int], steps_per_round: int | Sequence[int]) -> "RoundPlan":
        """The plan that visits these sampling steps; k of a round is the ratio of neighbours.

        Args:
            ladder: Sampling steps of the first teacher, then of the student of each round, such as
                1024, 256, 64, 16.
            steps_per_round: Updates in each round: one number, or one for each.

        Raises:
            ValueError: If the ladder has no round, rises, repeats a number that it later leaves, or
                does not divide.
        """
        check_ladder(ladder)
        factors = [teacher // student for teacher, student in pairwise(ladder)]
        return cls(len(factors), steps_per_round, ladder[0], factors)

    @property
    def factors(self) -> tuple[int, ...]:
        """The k of each round."""
        return _for_each(self.teacher_steps, self.rounds)

    @property
    def ladder(self) -> tuple[int, ...]:
        """The sampling steps of the first teacher, then of the student of each round."""
        return tuple(accumulate(self.factors, floordiv, initial=self.start_steps))

    @property
    def lengths(self) -> tuple[int, ...]:
        """The updates that each round takes if it does not end early."""
        return _for_each(self.steps_per_round, self.rounds)

    @property
    def ends(self) -> tuple[int, ...]:
        """Updates that are done when each round ends."""
        done = self.ended_at[-1] if self.ended_at else 0
        coming = accumulate(self.lengths[len(self.ended_at) :], initial=done)
        return (*self.ended_at, *list(coming)[1:])

    @property
    def updates(self) -> int:
        """Updates of the whole run; at most, where a round may end early."""
        return self.ends[-1]

    @property
    def is_over(self) -> bool:
        """Whether the last round has ended, as far as ``ended_at`` says."""
        return len(self.ended_at) == self.rounds

    @property
    def folders(self) -> tuple[str, ...]:
        """The names of all students, in order."""
        return tuple(self._folder(index) for index in range(self.rounds))

    def at(self, step: int) -> Round:
        """The round that update ``step`` (from 0) belongs to."""
        index = min(bisect_right(self.ends, step), self.rounds - 1)
        return Round(index, *self.ladder[index : index + 2])

    def start_of(self, index: int) -> int:
        """The first update of a round."""
        return self.ends[index - 1] if index else 0

    def folder_of(self, step: int) -> str:
        """The name of the student that the round of update ``step`` leaves: its sampling steps.

        With k = 1 (self-distillation without time) these never change, so the round is named too.
        """
        return self._folder(self.at(step).index)

    def ends_at(self, step: int) -> bool:
        """Whether update ``step`` (from 0) is the last of its round."""
        return step + 1 in self.ends

    def ended(self, updates: int) -> "RoundPlan":
        """The plan in which the round at hand ended when so many updates were done."""
        return replace(self, ended_at=(*self.ended_at, updates))

    def _folder(self, index: int) -> str:
        teacher, student = self.ladder[index : index + 2]
        return f"{student}-round-{index + 1}" if teacher == student else f"{student}"


def _for_each(value: int | Sequence[int], rounds: int) -> tuple[int, ...]:
    return (value,) * rounds if isinstance(value, int) else tuple(value)


def check_ladder(ladder: Sequence[int]) -> None:
    """Refuses a list of sampling steps that no plan can visit.

    Raises:
        ValueError: If it has no round, rises, repeats a number that it later leaves, or does not
            divide.
    """
    written = ",".join(map(str, ladder))
    if len(ladder) < 2:
        raise ValueError(
            f"ladder={written} has no round; give the sampling steps of the first teacher and of "
            "each student, such as 1024,256,64,16"
        )
    if min(ladder) < 1:
        raise ValueError(f"ladder={written} passes below one step; end it at 1 at the latest")
    without_time = len(set(ladder)) == 1  # k = 1 in all rounds
    for teacher, student in pairwise(ladder):
        if student > teacher:
            raise ValueError(
                f"ladder={written} rises from {teacher} to {student}; a student takes fewer steps "
                "than its teacher"
            )
        if student == teacher and not without_time:
            raise ValueError(
                f"ladder={written} repeats {teacher}; leave one out (only a ladder of one number "
                "throughout, k = 1, may repeat it)"
            )
        if teacher % student:
            raise ValueError(
                f"ladder={written}: {student} does not divide {teacher}; a student's step replaces "
                f"a whole number of teacher steps, so use a divisor of {teacher}"
            )
