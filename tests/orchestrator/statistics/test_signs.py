"""The exact sign test of ratios that may be known by bounds alone, against counting and against scipy's binomial."""

from __future__ import annotations

import itertools
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from orchestrator.statistics.signs import Between, log_ratio, median, median_interval, sign_test_p

TIMES = st.one_of(st.none(), st.integers(1, 9))
PAIRS = st.lists(st.tuples(TIMES, TIMES), min_size=1, max_size=14)
LEVELS = st.sampled_from([0.05, 0.025, 0.01, 0.2])


def ratios(pairs: list[tuple[int | None, int | None]], budget: int = 9) -> list[Between]:
    return [log_ratio(base, arm, (budget, budget)) for base, arm in pairs]


def test_a_run_that_was_not_there_is_longer_than_its_budget() -> None:
    assert log_ratio(10, 20, (40, 40)) == Between(math.log(2), math.log(2))
    assert log_ratio(10, None, (40, 40)) == Between(math.log(41 / 10), math.inf)
    # 臂在最后一轮到达、基线没有到达：臂确实更快
    assert log_ratio(None, 40, (40, 40)).high < 0
    assert log_ratio(None, None, (40, 40)) == Between(-math.inf, math.inf)


def test_without_ties_it_is_the_textbook_sign_test() -> None:
    for longer in range(9):
        pairs: list[tuple[int | None, int | None]] = [(2, 4)] * longer + [(4, 2)] * (8 - longer)
        assert sign_test_p(ratios(pairs)) == pytest.approx(binomtest(longer, 8).pvalue)


@given(PAIRS, LEVELS)
def test_the_interval_leaves_one_out_exactly_when_the_p_is_below_the_level(
    pairs: list[tuple[int | None, int | None]], level: float
) -> None:
    tested = ratios(pairs)
    low, high = median_interval(tested, level)
    assert (low > 0 or high < 0) == (sign_test_p(tested) <= level)
    middle = median(tested)
    assert low <= middle.high
    assert middle.low <= high


@given(PAIRS)
def test_swapping_the_arms_keeps_the_p_and_mirrors_the_interval(
    pairs: list[tuple[int | None, int | None]],
) -> None:
    straight, swapped = ratios(pairs), ratios([(arm, base) for base, arm in pairs])
    assert sign_test_p(straight) == sign_test_p(swapped)
    low, high = median_interval(straight, 0.05)
    assert median_interval(swapped, 0.05) == pytest.approx((-high, -low))


def test_ties_never_make_the_test_err_more_than_its_level() -> None:
    """Exact, over all outcomes of eight seeds that are longer, equal or shorter with these chances."""
    for equal in (0.0, 0.2, 0.6):
        wrong = 0.0
        for outcome in itertools.product((-1, 0, 1), repeat=8):
            chance = math.prod(equal if sign == 0 else (1 - equal) / 2 for sign in outcome)
            wrong += chance * (sign_test_p([Between(float(sign), float(sign)) for sign in outcome]) <= 0.05)
        assert wrong <= 0.05


def test_the_interval_holds_the_true_median_even_where_some_runs_never_came_there() -> None:
    generator, budget, held, studies = random.Random(1), 30, 0, 2000
    for _ in range(studies):
        pairs: list[tuple[int | None, int | None]] = []
        for _ in range(10):
            base, arm = generator.randint(5, 15), round(3 * generator.randint(5, 15))
            pairs.append((base if base <= budget else None, arm if arm <= budget else None))
        low, high = median_interval(ratios(pairs, budget), 0.05)
        held += low <= math.log(3) <= high
    assert held / studies >= 0.95
