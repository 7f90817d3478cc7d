"""What is wrong with a configuration or a record, in one line without an empty place."""

from __future__ import annotations

import pytest
from pydantic import ValidationError, model_validator

from alexnet_core.configuration.frozen import Frozen, first_mistake


class Inner(Frozen):
    epochs: int


class Outer(Frozen):
    training: Inner

    @model_validator(mode="after")
    def _check(self) -> Outer:
        if self.training.epochs > 9:
            raise ValueError("epochs: too many for the schedule")
        return self


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('{"training": {"epochs": "x"}}', "training.epochs: must be a whole number, not 'x'"),
        ('{"training": {"epochs": 10}}', "epochs: too many for the schedule"),
        ("{", "Invalid JSON: EOF while parsing an object at line 1 column 1"),
        ("[]", "must be a mapping of fields, not a list"),
    ],
)
def test_a_mistake_is_said_with_its_place_where_it_has_one(text: str, line: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Outer.model_validate_json(text)
    assert first_mistake(caught.value).startswith(line)
