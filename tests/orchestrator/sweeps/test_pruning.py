"""A pruner stops what its rule stops, also when the points it compares with are of an earlier run."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ray.tune.schedulers import TrialScheduler

from orchestrator.choices import PrunerName
from orchestrator.sweeps.objectives import OBJECTIVE
from orchestrator.sweeps.pruning import make_pruner, pruner_arguments

EPOCHS = 9


@dataclass(frozen=True)
class OneOfTunes:
    trial_id: str


def pruned_at(pruner: object, curves: list[list[float]], first: int = 0) -> list[int]:
    """The epochs that each curve trains, one after another on one slot."""
    trained = []
    for place, curve in enumerate(curves):
        trial = OneOfTunes(f"trial-{first + place}")
        pruner.on_trial_add(None, trial)  # type: ignore[attr-defined]
        for epoch, error in enumerate(curve, start=1):
            result = {"epoch": epoch, OBJECTIVE: error}
            action = pruner.on_trial_result(None, trial, result)  # type: ignore[attr-defined]
            if action == TrialScheduler.STOP:
                break
        trained.append(epoch)
    return trained


def by_the_rule(curves: list[list[float]]) -> list[int]:
    """ASHA by hand: at epochs 1 and 3 a point goes on if it is among the best third of those that came there."""
    rungs: dict[int, list[float]] = {1: [], 3: []}
    trained = []
    for curve in curves:
        last = EPOCHS
        for rung, seen in rungs.items():
            error = curve[rung - 1]
            stops = bool(seen) and -error < np.percentile([-other for other in seen], 100 * (1 - 1 / 3))
            seen.append(error)
            if stops:
                last = rung
                break
        trained.append(last)
    return trained


curves_of_points = st.lists(
    st.lists(st.floats(0.0, 1.0, width=32), min_size=EPOCHS, max_size=EPOCHS), min_size=1, max_size=10
)


@pytest.mark.slow
@given(curves_of_points)
@settings(deadline=None)
def test_asha_lets_the_best_third_pass_at_a_ninth_and_a_third_of_the_budget(curves: list[list[float]]) -> None:
    assert pruned_at(make_pruner("asha", EPOCHS, []), curves) == by_the_rule(curves)


@pytest.mark.parametrize("name", ["asha", "median"])
@given(curves=curves_of_points, cut=st.integers(0, 10))
@settings(deadline=None, max_examples=40)
def test_a_resumed_pruner_goes_on_as_an_uninterrupted_one(
    name: PrunerName, curves: list[list[float]], cut: int
) -> None:
    whole = pruned_at(make_pruner(name, EPOCHS, []), curves)
    first = pruned_at(make_pruner(name, EPOCHS, []), curves[:cut])
    on_record = [
        [(epoch, error) for epoch, error in enumerate(curve[:trained], start=1)]
        for curve, trained in zip(curves, first, strict=False)
    ]
    assert [*first, *pruned_at(make_pruner(name, EPOCHS, on_record), curves[cut:], cut)] == whole


def test_every_argument_of_a_pruner_is_recorded_and_fits_any_budget() -> None:
    assert pruner_arguments("asha", 90)["grace_period"] == 10
    for epochs in range(1, 30):
        make_pruner("asha", epochs, [])
        make_pruner("median", epochs, [])
    assert make_pruner("none", 9, []) is None
