"""What a sweep says as a whole: importance against a known function, the Pareto front against its definition."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.judging.answer import SweepPoint
from orchestrator.judging.parameter_importance import importance
from orchestrator.judging.sweep_findings import front_of, remembered_importance
from search_spaces.core_config import ALEXNET
from search_spaces.space import Sweep

SPACE = Sweep.model_validate(
    {
        "parameters": {
            name: {"kind": "float", "low": 0.0, "high": 1.0} for name in ("training.a", "training.b", "training.c")
        }
    }
)


def drawn(count: int) -> list[tuple[dict[str, float], float]]:
    """Variance shares by hand: b adds a ninth of what a does (a third of its slope), c nothing."""
    generator = random.Random(1)
    points = [{path: generator.random() for path in SPACE.parameters} for _ in range(count)]
    return [(point, 9 * point["training.a"] + 3 * point["training.b"]) for point in points]


@pytest.mark.slow
def test_importance_finds_the_shares_of_a_known_sum_and_shows_their_spread() -> None:
    shares = importance(SPACE, drawn(40))
    assert [entry.parameter for entry in shares] == ["training.a", "training.b", "training.c"]
    assert 0.84 < shares[0].mean < 0.98
    assert 0.02 < shares[1].mean < 0.16
    assert shares[2].mean < 0.02
    assert all(0 < entry.sd < 0.05 and len(entry.by_seed) == 5 for entry in shares[:2])
    assert importance(SPACE, drawn(9)) == ()


def test_importance_is_computed_once_for_the_same_points(tmp_path: Path) -> None:
    points = [
        SweepPoint(parameters=point, state="finished", validation_error=error, key=str(place))
        for place, (point, error) in enumerate(drawn(12))
    ]
    first = remembered_importance(tmp_path, SPACE, points)
    written = (tmp_path / "importance.json").stat().st_mtime_ns
    assert remembered_importance(tmp_path, SPACE, points) == first
    assert (tmp_path / "importance.json").stat().st_mtime_ns == written
    assert remembered_importance(tmp_path, SPACE, points[:11]) != first
    (tmp_path / "importance.json").write_text("{")
    assert remembered_importance(tmp_path, SPACE, points) == first


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=12), st.booleans())
def test_the_front_is_what_nobody_dominates(pairs: list[tuple[int, int]], faster_is_better: bool) -> None:
    points = [
        SweepPoint(parameters={}, state="finished", validation_error=error, second=second, key=str(place))
        for place, (error, second) in enumerate(pairs)
    ]
    lost = SweepPoint(parameters={}, state="diverged", validation_error=None, key="lost")
    front = front_of([*points, lost], "images_per_second" if faster_is_better else "multiply_adds", ALEXNET)
    signed = [(error, -second if faster_is_better else second) for error, second in pairs]
    undominated = {
        one for one in signed if not any(other[0] <= one[0] and other[1] <= one[1] and other != one for other in signed)
    }
    shown = [(point.validation_error, -point.second if faster_is_better else point.second) for point in front]
    assert len(shown) == len(set(shown))
    assert set(shown) == undominated
    assert shown == sorted(shown)
    assert front_of(points, None, ALEXNET) == ()
