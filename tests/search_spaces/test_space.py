"""What lies in the space of a sweep; a point may come from somebody else's records and hold any JSON."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given

from search_spaces.space import Sweep, contains
from tests.hostile import VALUES

SPACE = Sweep.model_validate(
    {
        "parameters": {
            "training.learning_rate": {"kind": "float", "low": 0.001, "high": 1.0, "log": True},
            "training.batch_size": {"kind": "integer", "low": 1, "high": 64},
            "network.relu1.function": {"kind": "categorical", "choices": ["relu", "tanh"]},
        }
    }
)
INSIDE: dict[str, Any] = {
    "training.learning_rate": 1,
    "training.batch_size": 8.0,
    "network.relu1.function": "tanh",
}


def test_a_point_inside_is_contained_whole_numbers_as_floats_too() -> None:
    assert contains(SPACE, INSIDE)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("training.learning_rate", "x"),
        ("training.learning_rate", True),
        ("training.learning_rate", None),
        ("training.learning_rate", float("nan")),
        ("training.learning_rate", 10**400),
        ("training.batch_size", 8.5),
        ("training.batch_size", [8]),
        ("network.relu1.function", {}),
        ("network.relu1.function", 1),
    ],
)
def test_a_value_of_another_type_or_outside_is_not_contained(field: str, value: object) -> None:
    assert not contains(SPACE, {**INSIDE, field: value})


@given(VALUES)
def test_no_value_raises(value: object) -> None:
    for field in INSIDE:
        assert contains(SPACE, {**INSIDE, field: value}) in (True, False)
