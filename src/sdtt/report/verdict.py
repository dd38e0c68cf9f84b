"""What may be said of a student beside its control: the same rule in every report."""

import math
from abc import ABC, abstractmethod
from typing import Literal

NOISE = 3.0  # standard errors below which nothing is claimed

Outcome = Literal["better", "worse", "within the noise", "not matched"]


class Verdict(ABC):
    """A difference of ln perplexities at one entropy, and what follows from it."""

    @property
    @abstractmethod
    def difference(self) -> float:
        """The ln perplexity of the student less that of the control; nan without one."""

    @property
    @abstractmethod
    def error(self) -> float:
        """The standard error of the difference; nan where one is missing."""

    @property
    def ratio(self) -> float:
        """Perplexity of the student over that of the control: below 1 the student is better."""
        return math.exp(self.difference)

    @property
    def ratio_se(self) -> float:
        """The standard error of the ratio."""
        return self.ratio * self.error

    @property
    def outcome(self) -> Outcome:
        """What may be said: nothing without a control, nothing within the noise or of unknown."""
        if math.isnan(self.difference):
            return "not matched"
        if not abs(self.difference) > NOISE * self.error:
            return "within the noise"
        return "better" if self.difference < 0 else "worse"
