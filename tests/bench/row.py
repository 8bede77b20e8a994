"""One line of the bench's table: what was measured, beside what, and the budget that it is held to."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Row:
    """A measurement; figures of one row come from the same run, taken in turns."""

    subject: str
    name: str
    measured: float
    unit: str
    samples: int
    """How often it was measured; `measured` is their median, or what the name says it is of them."""
    baseline: float | None = None
    """What `against` took in the same run, in the same unit."""
    against: str = ""
    budget: float | None = None
    """None: told without being held to anything."""
    bounds: Literal["ratio", "measured"] = "measured"
    """What the budget is of."""
    at_least: bool = False
    """The budget is a floor."""
    aim: float | None = None
    case: str = ""
    """Where a subject measures the same of several cases: the one that this is of."""

    @property
    def title(self) -> str:
        """Its name, and its case if it has one."""
        return f"{self.name}, {self.case}" if self.case else self.name

    @property
    def ratio(self) -> float | None:
        """How many times the baseline it is."""
        return self.measured / self.baseline if self.baseline else None

    @property
    def value(self) -> float:
        """What the budget is of; raises ValueError for a ratio over nothing."""
        if self.bounds == "measured":
            return self.measured
        if self.ratio is None:
            raise ValueError(f"{self.title}: there is nothing to compare with")
        return self.ratio

    @property
    def used(self) -> float | None:
        """The share of its budget that it takes up, more than 1 when it is missed; None without a budget."""
        if self.budget is None:
            return None
        if self.at_least:
            return self.budget / self.value if self.value else float("inf")
        return self.value / self.budget

    @property
    def held(self) -> bool | None:
        """Whether the budget is kept; None without one."""
        if self.budget is None:
            return None
        return self.value >= self.budget if self.at_least else self.value <= self.budget
