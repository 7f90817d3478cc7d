"""Statistics of paired seeds: pure functions over arrays. Rules: Student's paired t, Holm 1979, exact sign flips.

Differences are arm minus baseline, in percentage points unless a function says otherwise. scipy.special alone is used:
importing scipy.stats takes two seconds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy import special

POWER = 0.8
LIMITS_LEVEL = 0.95
EXACT_SIGN_FLIPS = 20
RANDOM_SIGN_FLIPS = 200_000
FLIPS_AT_ONCE = 4_000
MOST_SEEDS = 10_000
# 差值里比这更小的份额，是浮点数相减留下的
ROUNDING = 1e-10


@dataclass(frozen=True)
class PairedTest:
    """Student's paired t over n differences.

    Attributes:
        n: Number of pairs.
        mean: Mean difference.
        sd: Standard deviation of the differences (n - 1).
        p: Two-sided p; None where all differences are equal up to rounding, or there are fewer than two.
    """

    n: int
    mean: float
    sd: float
    p: float | None


def paired_test(differences: Sequence[float]) -> PairedTest:
    """Tests whether the mean difference is zero.

    Args:
        differences: Arm minus baseline, one per seed, shape (n,), percentage points or log-ratios.
    """
    values = np.asarray(differences, dtype=np.float64)
    n = len(values)
    mean = float(values.mean()) if n else math.nan
    if n < 2:
        return PairedTest(n, mean, math.nan, None)
    sd = float(values.std(ddof=1))
    # 全相等的差没有 t：标准差为零，不能装作显著；只差在舍入的也是相等
    if float(np.ptp(values)) <= ROUNDING * float(np.abs(values).max()):
        return PairedTest(n, float(values[0]), 0.0, None)
    return PairedTest(n, mean, sd, float(2.0 * special.stdtr(n - 1, -abs(mean) / (sd / math.sqrt(n)))))


def t_interval(test: PairedTest, level: float) -> tuple[float, float]:
    """Returns the two-sided t interval of the mean difference at confidence 1 - level.

    Args:
        test: From `paired_test`, n at least 2.
        level: The test's level, such as 0.05 or 0.025.
    """
    half = -float(special.stdtrit(test.n - 1, level / 2.0)) * test.sd / math.sqrt(test.n)
    return test.mean - half, test.mean + half


@dataclass(frozen=True)
class HolmEntry:
    """One hypothesis of a family.

    Attributes:
        adjusted_p: Holm's adjusted p.
        level: The level at which this hypothesis was tested, where ranks stop growing at the first hypothesis that is
            not rejected, so that an interval at this level agrees with the adjusted p.
    """

    adjusted_p: float
    level: float


def holm(p_values: Sequence[float], alpha: float, rejected: int = 0, closed: int = 0) -> list[HolmEntry]:
    """Holm's step-down procedure (1979), truncated (Dmitrienko, Tamhane & Wiens 2008) at 2 alpha over the family.

    The hypothesis of rank r (from 0) is tested at alpha over max(m - r, m / 2), m being the family. Up to two
    hypotheses that is Holm's rule. Above, a level that may grow to alpha would call arms at the very margin equivalent
    in up to 7 % of studies: most of them differ from zero, so that all of them would be tested at nearly alpha, one
    half of it on each side. At no more than 2 alpha / m those halves add up to alpha at most.

    Args:
        p_values: Unadjusted p of each hypothesis, shape (m,).
        alpha: Family-wise level.
        rejected: Hypotheses of the family that were rejected at an earlier look, and hand on their level.
        closed: Hypotheses of the family that are no longer tested but were not rejected, and keep their level.

    Returns:
        One entry per hypothesis, m of them, in the order given.
    """
    m = len(p_values) + closed
    family = m + rejected
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    entries: list[HolmEntry | None] = [None] * len(p_values)
    running, stopped_at = 0.0, len(p_values)
    for rank, index in enumerate(order):
        # 从最小的 p 往下走；调整后的 p 不许比前一个小
        running = min(1.0, max(running, max(m - rank, family / 2) * p_values[index]))
        if running > alpha and stopped_at == len(p_values):
            stopped_at = rank
        # 第一个未被拒绝之后的假设都停在同一水平
        entries[index] = HolmEntry(running, alpha / max(m - min(rank, stopped_at), family / 2))
    return [entry for entry in entries if entry is not None]


def sign_flip_p(differences: Sequence[float]) -> float:
    """Returns the two-sided sign-flip p of the mean: exact up to 20 seeds, then from 200,000 keyed draws.

    Args:
        differences: Arm minus baseline, one per seed, shape (n,), percentage points or log-ratios.
    """
    values = np.asarray(differences, dtype=np.float64)
    n = len(values)
    # 舍入误差按各项之和计，不按可能相消的总和计
    observed = abs(values.sum()) - 1e-12 * np.abs(values).sum()
    if n <= EXACT_SIGN_FLIPS:
        # 零假设下每个差的正负等可能：2^n 种符号全算，p 才是精确的
        sums = np.zeros(1)
        for value in values:
            sums = np.concatenate([sums + value, sums - value])
        return float((np.abs(sums) >= observed).mean())
    sums = np.zeros(RANDOM_SIGN_FLIPS)
    for place, codes in enumerate(_signs(n)):
        # 每八个种子的 256 种带号和只算一次，之后查表：比逐个相乘快几十倍
        eight = values[8 * place : 8 * place + 8]
        sums += (_EIGHT_SIGNS[:, : len(eight)] @ eight)[codes]
    hits = int((np.abs(sums) >= observed).sum())
    # 观测到的那组符号也算一次，p 才不会为零
    return (hits + 1) / (RANDOM_SIGN_FLIPS + 1)


# 一个研究的各 arm 种子数相同，抽的是同一批符号：几十个 arm 时省下大半时间
@lru_cache(maxsize=1)
def _signs(n: int) -> npt.NDArray[np.uint8]:
    """The keyed draws for `n` seeds, shape (ceil(n / 8), draws): the signs of eight seeds as the bits of a byte."""
    generator = np.random.default_rng(n)
    parts = range(RANDOM_SIGN_FLIPS // FLIPS_AT_ONCE)
    drawn = [np.packbits(generator.integers(0, 2, size=(FLIPS_AT_ONCE, n), dtype=np.int8), axis=1) for _ in parts]
    return np.ascontiguousarray(np.concatenate(drawn).T)


# 一个字节的各位所代表的八个符号，形状 (256, 8)，取值 ±1
_EIGHT_SIGNS = 2.0 * np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1) - 1.0


def sign_flip_floor(seeds: int) -> float:
    """Returns the smallest p that `sign_flip_p` can reach: 2 ** (1 - seeds), or that of its draws above 20 seeds."""
    return min(1.0, 2.0 ** (1 - seeds)) if seeds <= EXACT_SIGN_FLIPS else 1.0 / (RANDOM_SIGN_FLIPS + 1)


def seeds_to_reach_a_verdict(arms: int, alpha: float) -> int:
    """Returns the fewest seeds whose exact sign-flip floor is at most alpha / arms (6 for 1 arm, 7 for 2-3, 8 for 4-6).

    Args:
        arms: Arms compared with the baseline.
        alpha: Family-wise level.
    """
    seeds = 1
    # 按精确的下限算：抽样的下限不再变小，水平极小时会没有尽头
    while 2.0 ** (1 - seeds) > alpha / max(arms, 1):
        seeds += 1
    return seeds


def power(effect: float, sd: float, seeds: int, level: float) -> float:
    """Returns the power of the two-sided paired t test.

    Args:
        effect: True mean difference.
        sd: Standard deviation of the differences.
        seeds: Number of pairs, at least 2.
        level: Of the test.
    """
    if sd == 0.0:
        return 1.0
    freedom, shift = seeds - 1, abs(effect) / sd * math.sqrt(seeds)
    bound = float(special.stdtrit(freedom, 1.0 - level / 2.0))
    upper = float(special.nctdtr(freedom, shift, bound))
    lower = float(special.nctdtr(freedom, shift, -bound))
    # 非中心 t 在尾部会下溢成 NaN，此时下尾概率就是零
    return 1.0 - upper + (0.0 if math.isnan(lower) else lower)


def seeds_for_power(effect: float, sd: float, level: float) -> int:
    """Returns the fewest seeds with 80 % power for `effect`, by bisection; at most 10,000."""
    # 功效随种子数只升不降：先倍增找到上界，再二分
    low, high = 2, 3
    while high < MOST_SEEDS and power(effect, sd, high, level) < POWER:
        low, high = high, min(MOST_SEEDS, high * 2)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if power(effect, sd, middle, level) >= POWER else (middle + 1, high)
    return max(2, high)


def sd_limits(sd: float, n: int) -> tuple[float, float]:
    """Returns the 95 % chi-square limits of a standard deviation estimated from n values, in its own unit."""
    # 正态样本的方差除以真值服从卡方（自由度 n - 1），所以两端不对称
    freedom, tail = n - 1, (1.0 - LIMITS_LEVEL) / 2.0
    return (
        sd * math.sqrt(freedom / float(special.chdtri(freedom, tail))),
        sd * math.sqrt(freedom / float(special.chdtri(freedom, 1.0 - tail))),
    )


def seeds_needed(effect: float, sd: float, n: int, level: float) -> tuple[int, int]:
    """Returns how many seeds find `effect` with 80 % power, as a range from the limits of the standard deviation.

    A bound of `MOST_SEEDS` means that many or more.

    Args:
        effect: The recipe's smallest effect.
        sd: Estimated from n differences.
        n: At least 2.
        level: The level the arm faces.
    """
    low, high = sd_limits(sd, n)
    return seeds_for_power(effect, low, level), seeds_for_power(effect, high, level)


def detectable_effect(sd: float, seeds: int, level: float) -> float:
    """Returns the smallest effect that `seeds` find with 80 % power, by bisection.

    Args:
        sd: Standard deviation of the differences.
        seeds: At least 2.
        level: Of the test.
    """
    low, high = 0.0, sd
    while power(high, sd, seeds, level) < POWER:
        low, high = high, 2.0 * high
    for _ in range(60):
        middle = (low + high) / 2.0
        low, high = (low, middle) if power(middle, sd, seeds, level) >= POWER else (middle, high)
    return high


def binomial_error(error: float, images: int) -> float:
    """Returns the standard error of an error rate measured on `images` images, both in [0, 1]."""
    return math.sqrt(error * (1.0 - error) / images)


def correlation(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Returns Pearson's correlation, or None where one side is constant or there are fewer than three pairs.

    Args:
        first: One side's values by seed, shape (n,), in any unit.
        second: The other side's, on the same seeds, shape (n,).
    """
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if len(a) < 3 or bool((a == a[0]).all()) or bool((b == b[0]).all()):
        return None
    return float(np.corrcoef(a, b)[0, 1])
