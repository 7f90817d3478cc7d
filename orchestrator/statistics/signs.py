"""The exact sign test of paired ratios, and the interval of their median: for times that some runs never reached.

Ratios are natural logarithms of arm over baseline. A time that was not reached is known only to be longer than the
run's budget, so a ratio is known only to lie between two bounds; nothing here needs more than those.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special


@dataclass(frozen=True)
class Between:
    """What is known of a log-ratio.

    Attributes:
        low: It is at least this; -inf where the baseline was not there in time.
        high: It is at most this; +inf where the arm was not there in time.
    """

    low: float
    high: float

    @property
    def is_known(self) -> bool:
        """Whether both runs were there in time."""
        return self.low == self.high

    @property
    def nearest_to_equal(self) -> float:
        """The value nearest to zero (equal times) that is possible: the ratio itself where it is known."""
        return min(max(0.0, self.low), self.high)


def log_ratio(baseline: int | None, arm: int | None, budgets: tuple[int, int]) -> Between:
    """Returns what two times say of the ratio of arm over baseline.

    Args:
        baseline: The baseline's time in whole epochs; None for not within its budget.
        arm: The arm's.
        budgets: Epochs that baseline and arm had. A run that was not there in time needs at least one epoch more.
    """
    base_low, base_high = (budgets[0] + 1, math.inf) if baseline is None else (baseline, baseline)
    arm_low, arm_high = (budgets[1] + 1, math.inf) if arm is None else (arm, arm)
    low = -math.inf if baseline is None else math.log(arm_low / base_high)
    high = math.inf if arm is None else math.log(arm_high / base_low)
    return Between(low, high)


def sign_test_p(ratios: Sequence[Between]) -> float:
    """Returns the two-sided exact p of a median ratio of one.

    A tie (equal times, or neither there in time) counts on neither side and stays in n, so that the p is below a
    level exactly when `median_interval` at that level leaves one out. That is valid whatever makes the ties, and
    stricter than leaving them out of n.

    Args:
        ratios: Natural logarithms of arm over baseline, one per seed, n of them.
    """
    n = len(ratios)
    # 打平的不算任何一边，却留在 n 里：这样 p 与区间从不矛盾
    longer, shorter = sum(ratio.low > 0 for ratio in ratios), sum(ratio.high < 0 for ratio in ratios)
    return min(1.0, 2.0 * _at_most(n - max(longer, shorter), n))


def median_interval(ratios: Sequence[Between], level: float) -> tuple[float, float]:
    """Returns the order-statistic interval of the median log-ratio, with confidence of at least 1 - level.

    Args:
        ratios: Natural logarithms, one per seed, n of them.
        level: Of the test, such as 0.05.

    Returns:
        Its ends; -inf and +inf where the seeds are too few or too many runs were not there in time.
    """
    n = len(ratios)
    rank = 0
    # 次序统计量：两端各去掉的名次，落在外面的机会合起来不超过水平
    while rank < n // 2 and 2.0 * _at_most(rank, n) <= level:
        rank += 1
    if rank == 0:
        return -math.inf, math.inf
    return sorted(r.low for r in ratios)[rank - 1], sorted(r.high for r in ratios)[n - rank]


def median(ratios: Sequence[Between]) -> Between:
    """Returns what is known of the median log-ratio.

    Args:
        ratios: Natural logarithms, one per seed, at least one.
    """
    low = float(np.median([ratio.low for ratio in ratios]))
    high = float(np.median([ratio.high for ratio in ratios]))
    return Between(low, high)


def _at_most(successes: int, n: int) -> float:
    """The chance of so many successes or fewer among n fair coins."""
    return float(special.bdtr(successes, n, 0.5)) if n else 1.0
