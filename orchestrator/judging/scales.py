"""How arms are compared: the scale of their differences, how numbers on it are written, and which test judges them.

An answer on disk names its statistic and its scale; all that depends on these names is said here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from search_spaces.core_config import PERCENT, number_in, significant
from search_spaces.study import Statistic as StatisticName

ScaleName = Literal["points", "log_ratio"]


class Scale(Protocol):
    """A scale on which arms are compared with the baseline."""

    @property
    def unit(self) -> str:
        """What a difference is in, as shown."""

    def size(self, shown: float) -> float:
        """Returns a recipe's margin or effect on this scale."""

    def difference(self, value: float | None) -> str:
        """Returns a difference as written, nothing for None."""

    def difference_in_words(self, value: float) -> str:
        """Returns a difference with its unit."""

    def half_width(self, value: float) -> str:
        """Returns half of an interval's width in words."""

    def margin(self, shown: float) -> str:
        """Returns a recipe's margin in words."""

    def effect(self, shown: float) -> str:
        """Returns a recipe's smallest effect in words."""


def unit_in_words(unit: str) -> str:
    """Returns a metric's unit in words: `percent` for %."""
    return "percent" if unit == PERCENT else unit


@dataclass(frozen=True)
class Points:
    """Percentage points: arm minus baseline."""

    unit: str = "points"

    def size(self, shown: float) -> float:
        """Returns the size itself: recipes are in points too."""
        return shown

    def difference(self, value: float | None) -> str:
        """Returns `+1.23`."""
        return "" if value is None else f"{value:+.2f}"

    def difference_in_words(self, value: float) -> str:
        """Returns `+1.23 points`."""
        return f"{value:+.2f} points"

    def half_width(self, value: float) -> str:
        """Returns `1.23 points`."""
        return f"{value:.2f} points"

    def margin(self, shown: float) -> str:
        """Returns `inside ±0.5 points`."""
        return f"inside ±{self.effect(shown)}"

    def effect(self, shown: float) -> str:
        """Returns `0.5 points`, `1 point`."""
        return f"{shown:g} {'point' if shown == 1 else 'points'}"


@dataclass(frozen=True)
class Units:
    """Arm minus baseline of a metric that is not shown in percent, in its own unit."""

    unit: str

    def size(self, shown: float) -> float:
        """Returns the size itself: recipes are in the shown unit too."""
        return shown

    def difference(self, value: float | None) -> str:
        """Returns `+0.123`."""
        return "" if value is None else f"{'+' * (value >= 0)}{significant(value, 3)}"

    def difference_in_words(self, value: float) -> str:
        """Returns `+0.123 nats`."""
        return f"{self.difference(value)} {self.unit}".rstrip()

    def half_width(self, value: float) -> str:
        """Returns `0.123 nats`."""
        return f"{significant(value, 3)} {self.unit}".rstrip()

    def margin(self, shown: float) -> str:
        """Returns `inside ±0.1 nats`."""
        return f"inside ±{shown:g} {self.unit}".rstrip()

    def effect(self, shown: float) -> str:
        """Returns `0.1 nats`."""
        return f"{shown:g} {self.unit}".rstrip()


@dataclass(frozen=True)
class LogRatio:
    """The natural logarithm of arm over baseline, written as the ratio."""

    unit: str = "ratio"

    def size(self, shown: float) -> float:
        """Returns the logarithm of a recipe's ratio above 1."""
        return math.log(shown)

    def difference(self, value: float | None) -> str:
        """Returns `×2.40`."""
        return "" if value is None else f"×{math.exp(value):.2f}"

    def difference_in_words(self, value: float) -> str:
        """Returns `×2.40`: a ratio has no unit."""
        return f"×{math.exp(value):.2f}"

    def half_width(self, value: float) -> str:
        """Returns `a factor of 1.20`."""
        return f"a factor of {math.exp(value):.2f}"

    def margin(self, shown: float) -> str:
        """Returns `a ratio between 0.909 and 1.1`."""
        return f"a ratio between {1 / shown:.3g} and {shown:g}"

    def effect(self, shown: float) -> str:
        """Returns `a ratio of 1.2`."""
        return f"a ratio of {shown:g}"


SCALES: Mapping[ScaleName, Scale] = {"points": Points(), "log_ratio": LogRatio()}


def scale_of(name: ScaleName, unit: str = PERCENT) -> Scale:
    """Returns how differences are written.

    Args:
        name: `points` for arm minus baseline.
        unit: In which the metric is shown; differences of percentages are points.
    """
    return Units(unit) if name == "points" and unit != PERCENT else SCALES[name]


@dataclass(frozen=True)
class Statistic:
    """How a study compares arms, see `Study.statistic`.

    Attributes:
        scale: Of the differences.
        test: Which test judges them, in words.
        by_signs: Whether that is the exact sign test of whole epochs, with the median in the mean's place; else it is
            Student's paired t of percentages.
    """

    scale: ScaleName
    test: str
    by_signs: bool = False

    @property
    def middle(self) -> str:
        """What stands for an arm's seeds."""
        return "median" if self.by_signs else "mean"

    def value(self, value: float, unit: str = PERCENT) -> str:
        """Returns the metric of one seed as written: epochs, a percentage with two digits, or a plain number."""
        return f"{value:g}" if self.by_signs else number_in(value, unit)


STATISTICS: Mapping[StatisticName, Statistic] = {
    "difference": Statistic("points", "paired t by seed"),
    "log_ratio": Statistic("log_ratio", "paired t of the log-ratios by seed"),
    "time_to_threshold": Statistic(
        "log_ratio",
        "exact sign test by seed, ties on neither side; order-statistic interval of the median",
        by_signs=True,
    ),
}
