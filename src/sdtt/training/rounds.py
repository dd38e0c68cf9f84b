"""The plan of a distillation: which round an update belongs to, and how large a teacher step is."""

from dataclasses import dataclass


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


@dataclass(frozen=True)
class RoundPlan:
    """All rounds of a run; dt grows by the factor k from each to the next [SDTT, Algorithm 2].

    Attributes:
        rounds: How many.
        steps_per_round: Updates in each.
        start_steps: 1 / dt of the first round.
        teacher_steps: k, the teacher steps that one student step replaces.

    Raises:
        ValueError: If a round would pass below one sampling step, or split one.
    """

    rounds: int
    steps_per_round: int
    start_steps: int
    teacher_steps: int

    def __post_init__(self) -> None:
        for name in ("rounds", "steps_per_round", "start_steps", "teacher_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        factor = self.teacher_steps**self.rounds
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

    @property
    def updates(self) -> int:
        """Updates of the whole run."""
        return self.rounds * self.steps_per_round

    def at(self, step: int) -> Round:
        """The round that update ``step`` (from 0) belongs to."""
        index = min(step // self.steps_per_round, self.rounds - 1)
        teacher = self.start_steps // self.teacher_steps**index
        return Round(index, teacher, teacher // self.teacher_steps)

    def folder_of(self, step: int) -> str:
        """The name of the student that the round of update ``step`` leaves: its sampling steps.

        With k = 1 (self-distillation without time) these never change, so the round is named too.
        """
        now = self.at(step)
        suffix = f"-round-{now.index + 1}" if self.teacher_steps == 1 else ""
        return f"{now.student_sampling_steps}{suffix}"

    def ends_at(self, step: int) -> bool:
        """Whether update ``step`` (from 0) is the last of its round."""
        return (step + 1) % self.steps_per_round == 0
