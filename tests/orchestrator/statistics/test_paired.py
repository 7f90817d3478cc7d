"""The statistics against scipy.stats and brute force."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from orchestrator.statistics import paired as ours

NUMBERS = st.lists(st.floats(-5, 5).map(lambda x: round(x, 3)), min_size=3, max_size=12)


@given(NUMBERS)
def test_paired_t_is_scipys(differences: list[float]) -> None:
    test = ours.paired_test(differences)
    if len(set(differences)) == 1:
        assert test.p is None
        return
    reference = stats.ttest_1samp(differences, 0.0)
    assert test.p == pytest.approx(reference.pvalue, rel=1e-9, abs=1e-300)
    low, high = reference.confidence_interval(0.95)
    assert ours.t_interval(test, 0.05) == (pytest.approx(low, abs=1e-9), pytest.approx(high, abs=1e-9))


@given(st.lists(st.floats(1e-6, 1.0), min_size=1, max_size=8), st.sampled_from([0.05, 0.01]))
def test_holm_rejects_what_its_step_down_definition_truncated_at_half_the_family_rejects(
    p_values: list[float], alpha: float
) -> None:
    m = len(p_values)
    rejected = set()
    for rank, index in enumerate(sorted(range(m), key=lambda i: p_values[i])):
        if p_values[index] > alpha / max(m - rank, m / 2):
            break
        rejected.add(index)
    entries = ours.holm(p_values, alpha)
    for index, entry in enumerate(entries):
        tied = any(abs(p_values[index] - alpha / max(k, m / 2)) < 1e-12 for k in range(1, m + 1))
        if not tied:
            assert (entry.adjusted_p <= alpha) == (index in rejected)
            assert (p_values[index] <= entry.level) == (index in rejected)
        assert entry.adjusted_p >= p_values[index]


@given(st.lists(st.integers(-6, 6).map(float), min_size=2, max_size=9))
def test_sign_flip_p_is_the_share_of_all_sign_patterns(differences: list[float]) -> None:
    observed = abs(sum(differences))
    patterns = list(itertools.product((1, -1), repeat=len(differences)))
    hits = sum(
        abs(sum(s * d for s, d in zip(signs, differences, strict=True))) >= observed - 1e-9 for signs in patterns
    )
    assert ours.sign_flip_p(differences) == pytest.approx(hits / len(patterns))


def test_the_floor_of_sign_flips_and_what_it_asks_of_the_seeds() -> None:
    for n in range(3, 12):
        assert ours.sign_flip_p([1.0] * n) == ours.sign_flip_floor(n) == 2.0 ** (1 - n)
    assert [ours.seeds_to_reach_a_verdict(arms, 0.05) for arms in range(1, 13)] == [6, 7, 7, 8, 8, 8] + [9] * 6


def test_power_is_that_of_the_noncentral_t_and_of_simulation() -> None:
    for effect, sd, n, level in ((1.0, 1.0, 8, 0.05), (0.5, 0.7, 12, 0.025), (2.0, 1.0, 5, 0.05)):
        bound = stats.t.ppf(1 - level / 2, n - 1)
        shift = effect / sd * math.sqrt(n)
        reference = stats.nct.sf(bound, n - 1, shift) + stats.nct.cdf(-bound, n - 1, shift)
        assert ours.power(effect, sd, n, level) == pytest.approx(reference, abs=1e-6)
    draws = np.random.default_rng(0).normal(1.0, 1.0, (20000, 8))
    rejected = stats.ttest_1samp(draws, 0.0, axis=1).pvalue <= 0.05
    assert ours.power(1.0, 1.0, 8, 0.05) == pytest.approx(rejected.mean(), abs=0.015)


def test_seeds_needed_are_the_fewest_with_that_power_at_the_limits_of_the_deviation() -> None:
    low, high = ours.sd_limits(1.2, 8)
    assert low == pytest.approx(1.2 * math.sqrt(7 / stats.chi2.ppf(0.975, 7)))
    assert high == pytest.approx(1.2 * math.sqrt(7 / stats.chi2.ppf(0.025, 7)))
    bounds = ours.seeds_needed(1.0, 1.2, 8, 0.025)
    for sd, seeds in zip((low, high), bounds, strict=True):
        assert ours.power(1.0, sd, seeds, 0.025) >= 0.8
        assert seeds == 2 or ours.power(1.0, sd, seeds - 1, 0.025) < 0.8
    resolved = ours.detectable_effect(1.2, 8, 0.025)
    assert ours.power(resolved, 1.2, 8, 0.025) == pytest.approx(0.8, abs=1e-6)


def test_sign_flips_do_not_depend_on_rounding_and_stay_small_for_many_seeds() -> None:
    assert ours.sign_flip_p([0.1, 0.2, -0.3]) == 1.0
    counts = [3, -2, -1, 4, 1, 1]
    assert ours.sign_flip_p([count / 3.6 for count in counts]) == ours.sign_flip_p([float(count) for count in counts])
    values = np.random.default_rng(0).normal(0.4, 1.0, 30)
    assert ours.sign_flip_p(values.tolist()) == pytest.approx(stats.ttest_1samp(values, 0.0).pvalue, rel=0.3)
    assert ours.sign_flip_p([1.0] * 40) == ours.sign_flip_floor(40)


def test_no_number_of_seeds_is_searched_beyond_the_limit() -> None:
    assert ours.seeds_needed(0.01, 10.0, 8, 0.025) == (ours.MOST_SEEDS, ours.MOST_SEEDS)
    assert ours.seeds_needed(1.0, 1e-9, 8, 0.025)[0] == 2
