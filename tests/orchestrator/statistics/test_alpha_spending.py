"""The boundaries of looks against a simulation of their own, with scipy's t."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from orchestrator.statistics.alpha_spending import (
    FIRST_LOOK,
    Boundary,
    ShareOfLevel,
    WangTsiatis,
    looks_before,
    share_of_level,
)

STUDIES = 20_000


def p_at(looks: tuple[int, ...]) -> dict[int, np.ndarray]:
    """Two-sided p of t at each look, on paths without an effect."""
    draws = np.random.default_rng(5).normal(size=(STUDIES, max(looks)))
    return {n: stats.ttest_1samp(draws[:, :n], 0.0, axis=1).pvalue for n in looks}


def within(rate: float, level: float) -> bool:
    return rate <= level + 3 * math.sqrt(level * (1 - level) / STUDIES)


@pytest.mark.parametrize("max_seeds", [4, 12, 25])
def test_a_look_at_every_seed_keeps_the_level_and_uses_all_of_it(max_seeds: int) -> None:
    looks = tuple(range(FIRST_LOOK, max_seeds + 1))
    boundary, p_values = WangTsiatis(max_seeds), p_at(looks)
    for level in (0.05, 0.01):
        crossed = np.any([p_values[n] <= boundary.nominal_level(level, n) for n in looks], axis=0).mean()
        assert abs(crossed - level) < 3.5 * math.sqrt(level / STUDIES)


def test_the_boundary_has_wang_and_tsiatis_shape() -> None:
    levels = {n: WangTsiatis(16).nominal_level(0.05, n) / 2 for n in (4, 8, 16)}
    scores = {n: math.sqrt(stats.norm.isf(level) * stats.t.isf(level, n - 1)) for n, level in levels.items()}
    assert scores[4] == pytest.approx(scores[16] * 4**0.25, rel=1e-3)
    assert scores[8] == pytest.approx(scores[16] * 2**0.25, rel=1e-3)


@pytest.mark.parametrize("looks", [(5, 10, 15, 20), (3, 8), tuple(range(8, 14)), (8, 16, 64)])
@pytest.mark.parametrize("level", [0.05, 0.01])
def test_whoever_extends_until_the_first_word_stays_within_the_level(looks: tuple[int, ...], level: float) -> None:
    shares = [share_of_level(looks[:place], n, level) for place, n in enumerate(looks)]
    p_values = p_at(looks)
    assert shares[0] == 0.8
    for tested in {level, 0.05}:
        crossed = np.any([p_values[n] <= share * tested for n, share in zip(looks, shares, strict=True)], axis=0)
        assert within(float(crossed.mean()), tested)
        assert crossed.mean() > 0.75 * tested


@given(
    st.sampled_from([WangTsiatis(12), ShareOfLevel(0.8), ShareOfLevel(0.02)]),
    st.integers(4, 12),
    st.floats(1e-6, 0.9),
    st.sampled_from([0.05, 0.025, 0.005]),
)
def test_an_overall_p_and_the_level_of_a_look_say_the_same(
    boundary: Boundary, seeds: int, p: float, level: float
) -> None:
    nominal = boundary.nominal_level(level, seeds)
    if abs(p / nominal - 1) > 1e-9:
        assert (boundary.overall_p(p, seeds) <= level) == (p <= nominal)


def test_only_looks_that_went_beyond_the_earlier_ones_count() -> None:
    assert looks_before([5, 10, 8, 15], 15) == (5, 10)
    assert looks_before([5, 10, 15], 10) == (5,)
    assert looks_before([8], 5) == (8,)
    assert looks_before([], 5) == ()
