"""Which part of its level a test may use at one look, so that all its looks together stay within it.

Wang & Tsiatis 1987 where the maximum is planned; shares of the level where a study may be extended after looking. Both
are calibrated on simulated paths of Student's t (deterministic, once per process, about a second).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import takewhile
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import special

FIRST_LOOK = 4
MOST_PLANNED_SEEDS = 200
SHAPE = 0.25
RESERVE = 0.2
PATHS = 200_000
Values = NDArray[np.float64]


class Boundary(Protocol):
    """What a look allows."""

    def nominal_level(self, level: float, seeds: int) -> float:
        """Returns the level of the test at this look, when all looks together have `level`."""

    def overall_p(self, p: float, seeds: int) -> float:
        """Returns the smallest level of all looks together at which this look's `p` rejects."""


@dataclass(frozen=True)
class ShareOfLevel:
    """A look that may use a fixed share of whatever level its test has.

    Attributes:
        share: In (0, 1]; from `share_of_level`, or 1 for a test that is looked at once.
    """

    share: float = 1.0

    def nominal_level(self, level: float, seeds: int) -> float:
        """Returns the share of the level."""
        return self.share * level

    def overall_p(self, p: float, seeds: int) -> float:
        """Returns p over the share."""
        return min(1.0, p / self.share)


@dataclass(frozen=True)
class WangTsiatis:
    """The boundary of Wang & Tsiatis (1987) with shape 0.25: a look from `FIRST_LOOK` on at every seed up to a maximum.

    A look at n of N seeds rejects where the score of t exceeds c (n / N) ** -0.25, one constant c per level making all
    looks together keep it. The score is the geometric mean of |t| and of the normal score of its p. By t alone early
    looks take too much of the level, by the normal score alone they can hardly find an effect larger than planned: for
    a planned effect of one deviation and 90 % power 0.81 and 0.78 of the fixed design's seeds, but 0.52 and 0.58 where
    the effect is 1.5 times that (`tests/benchmarks/statistics.py`); their mean is close to the better of both.

    Attributes:
        max_seeds: N, at least `FIRST_LOOK`.
    """

    max_seeds: int

    def nominal_level(self, level: float, seeds: int) -> float:
        """Returns the level of the look at `seeds` of a test that has `level` over all looks."""
        largest = largest_scores(self.max_seeds)
        # 零假设的路径里至多有这么多条可以在任何一次看时越界
        allowed = max(0, int(level * (PATHS + 1)) - 1)
        t = np.interp(largest[PATHS - 1 - allowed] / self._weight(seeds), _mixed_scores(seeds - 1), _TABLE)
        return float(2.0 * special.stdtr(seeds - 1, -t))

    def overall_p(self, p: float, seeds: int) -> float:
        """Returns the share of null paths that come as far at any look as `p` does at this one (a repeated p)."""
        t = -special.stdtrit(seeds - 1, p / 2.0)
        score = np.interp(t, _TABLE, _mixed_scores(seeds - 1)) * self._weight(seeds)
        beyond = PATHS - int(np.searchsorted(largest_scores(self.max_seeds), score, side="left"))
        return (beyond + 1) / (PATHS + 1)

    def _weight(self, seeds: int) -> float:
        return math.pow(seeds / self.max_seeds, SHAPE)


@lru_cache(maxsize=16)
def largest_scores(max_seeds: int) -> Values:
    """Returns, sorted, the largest weighted score over all looks of each simulated null path, shape (PATHS,)."""
    largest = np.zeros(PATHS)
    for seeds, t in null_paths(range(FIRST_LOOK, max_seeds + 1)):
        scores = np.interp(t, _TABLE, _mixed_scores(seeds - 1))
        np.maximum(largest, scores * math.pow(seeds / max_seeds, SHAPE), out=largest)
    largest.sort()
    return largest


@lru_cache(maxsize=256)
def share_of_level(looks_before: tuple[int, ...], seeds: int, level: float) -> float:
    """Returns which share of its level a test may use at `seeds`, after words could have been given at other looks.

    All looks up to n seeds together use the share 1 - RESERVE n_1 / n of the level, n_1 being the first look: four
    fifths at the first, the rest as a study grows, however often it is looked at. So also someone who stops at the
    first word stays within the level. The share holds for larger levels too, where it is on the strict side (looks
    depend more on one another there).

    Args:
        looks_before: Seeds at the looks taken before, increasing, all below `seeds`.
        seeds: Seeds at this look.
        level: The smallest level that a test of the study may have, such as 0.05 over its arms.
    """
    if not looks_before:
        return 1.0 - RESERVE
    alive, rejected, nominal = np.ones(PATHS, dtype=bool), 0, 0.0
    for n, t in null_paths((*looks_before, seeds)):
        scores = np.interp(t, _TABLE, _normal_scores(n - 1))
        # 每次看只花此前没花完的水平；已经越界的路径不再参加
        allowed = int(level * (1.0 - RESERVE * looks_before[0] / n) * PATHS) - rejected
        candidates = scores[alive]
        place = len(candidates) - 1 - allowed
        bound = np.partition(candidates, place)[place]
        nominal = 2.0 * float(special.ndtr(-bound))
        beyond = alive & (scores > bound)
        rejected += int(beyond.sum())
        alive &= ~beyond
    return min(1.0, nominal / level)


def looks_before(looks: Sequence[int], seeds: int) -> tuple[int, ...]:
    """Returns the looks that were taken before the one at `seeds`, as far as each went beyond those before it.

    The last of them is above `seeds` where more had been looked at already: such a look back has no level left.

    Args:
        looks: Seeds at each look that could give a word, in the order in which they were taken.
        seeds: Seeds at this look.
    """
    before: list[int] = []
    for look in takewhile(lambda look: look != seeds, looks):
        if not before or look > before[-1]:
            before.append(look)
    return tuple(before)


def seeds_for_a_word(looks: Sequence[int], arms: int, alpha: float) -> int:
    """Returns the fewest seeds, beyond those looked at, at which equal signs are significant at what the look may use.

    Args:
        looks: Seeds at the looks taken so far, increasing; such as could give a word.
        arms: Arms compared with the baseline.
        alpha: Family-wise level.
    """
    level = alpha / max(1, arms)
    seeds = max(looks, default=1) + 1
    while 2.0 ** (1 - seeds) > level or 2.0 ** (1 - seeds) > level * share_of_level(tuple(looks), seeds, level):
        seeds += 1
    return seeds


def null_paths(looks: Sequence[int]) -> Iterator[tuple[int, Values]]:
    """Yields, look by look, Student's |t| on simulated paths without an effect.

    Args:
        looks: Seeds at each look, increasing, the first at least 2.

    Yields:
        Seeds and |t|, shape (PATHS,).
    """
    generator = np.random.default_rng(0)
    total, squares, before = np.zeros(PATHS), np.zeros(PATHS), 0
    for seeds in looks:
        added = seeds - before
        # 一段差的和与段内平方和各抽一次，不必逐个抽
        step = generator.standard_normal(PATHS) * math.sqrt(added)
        total += step
        squares += step**2 / added
        if added > 1:
            squares += generator.chisquare(added - 1, PATHS)
        variance = (squares - total**2 / seeds) / (seeds - 1)
        yield seeds, np.abs(total) / np.sqrt(seeds * variance)
        before = seeds


# 精确的 t 分布要算好几秒，细表插值只要几毫秒
_TABLE: Values = np.concatenate([[0.0], np.geomspace(1e-3, 1e5, 2000)])


@lru_cache(maxsize=512)
def _normal_scores(freedom: int) -> Values:
    """Two-sided normal scores of the table's |t|, shape of the table (2001,)."""
    scores: Values = -special.ndtri(special.stdtr(freedom, -_TABLE))
    return scores


@lru_cache(maxsize=512)
def _mixed_scores(freedom: int) -> Values:
    """The geometric mean of the table's |t| and of its normal score, shape (2001,)."""
    scores: Values = np.sqrt(_TABLE * _normal_scores(freedom))
    return scores
