"""Seeds and images as crossed effects: against least squares, and by simulation of studies on new images."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import t as students_t

from orchestrator.statistics.crossed_effects import crossed_effects, crossed_limits
from orchestrator.statistics.paired import paired_test, t_interval
from tests.benchmarks.crossed_effects import WORLDS, coverage, tolerated

STUDIES = 300
TABLES = st.tuples(st.integers(2, 6), st.integers(2, 9)).flatmap(
    lambda shape: arrays(np.int8, shape, elements=st.integers(-1, 1))
)


def mean_squares(table: np.ndarray) -> tuple[float, float, float]:
    """Of seeds, images and the rest, from the residuals of least squares with and without each factor."""
    seeds, images = table.shape
    of_seed, of_image = np.indices(table.shape)
    seed, image = np.eye(seeds)[of_seed.ravel()], np.eye(images)[of_image.ravel()]
    one, values = np.ones((table.size, 1)), table.astype(np.float64).ravel()

    def unexplained(*columns: np.ndarray) -> float:
        design = np.hstack(columns)
        return float(((values - design @ np.linalg.pinv(design) @ values) ** 2).sum())

    rest = unexplained(one, seed, image)
    return (
        (unexplained(one, image) - rest) / (seeds - 1),
        (unexplained(one, seed) - rest) / (images - 1),
        rest / ((seeds - 1) * (images - 1)),
    )


@given(TABLES)
@settings(deadline=None)
def test_the_components_are_those_of_least_squares(table: np.ndarray) -> None:
    seeds, images = table.shape
    seed, image, rest = mean_squares(table)
    found = crossed_effects(table)
    about = lambda value: pytest.approx(value, rel=1e-9, abs=1e-12)  # noqa: E731
    assert found.mean == about(table.mean())
    assert found.residual_variance == about(rest)
    assert found.seed_variance == about(max(0.0, (seed - rest) / images))
    assert found.image_variance == about(max(0.0, (image - rest) / seeds))
    of_mean = max(seed + image - rest, seed, image) / (seeds * images)
    assert found.standard_error == about(math.sqrt(max(0.0, of_mean)))
    if of_mean > 1e-9:
        parts = seed**2 / (seeds - 1) + image**2 / (images - 1) + rest**2 / ((seeds - 1) * (images - 1))
        assert found.degrees_of_freedom == about((of_mean * seeds * images) ** 2 / parts)
    low, high = crossed_limits(found, 0.05)
    # 对新图也成立的区间，从不比只对这些图成立的窄
    alone = paired_test(table.mean(axis=1).tolist())
    if alone.p is not None:
        narrow = t_interval(alone, 0.05)
        assert low <= narrow[0] + 1e-12
        assert narrow[1] <= high + 1e-12
        quantile = students_t.ppf(0.975, found.degrees_of_freedom)
        assert high - found.mean == about(max(quantile * found.standard_error, narrow[1] - alone.mean))
    mirrored = crossed_limits(crossed_effects(-table), 0.05)
    assert mirrored == about((-high, -low))


def test_what_cannot_be_split_is_refused_and_equal_differences_have_no_width() -> None:
    for shape in ((1, 5), (5, 1), (5,)):
        with pytest.raises(ValueError, match="two seeds and two images at least"):
            crossed_effects(np.zeros(shape))
    with pytest.raises(ValueError, match="finite"):
        crossed_effects([[0.0, 1.0], [math.nan, 0.0]])
    assert crossed_limits(crossed_effects(np.ones((3, 4))), 0.05) == (1.0, 1.0)


@pytest.mark.slow
@pytest.mark.parametrize(("seeds", "images"), [(3, 200), (8, 200), (20, 360), (5, 2_000)])
@pytest.mark.parametrize("world", WORLDS)
def test_the_limits_hold_on_new_images(world: str, seeds: int, images: int) -> None:
    found = coverage(WORLDS[world], seeds, images, STUDIES)
    assert found.both >= tolerated(STUDIES)
    if world.startswith("quiet"):
        assert found.seeds_alone < 0.7, "the simulation shows why new images need limits of their own"
