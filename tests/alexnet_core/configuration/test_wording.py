"""What a user reads of a mistake: our words and not pydantic's, with what was given and what would be right."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field, JsonValue, ValidationError

from alexnet_core.configuration.frozen import Frozen, first_mistake
from alexnet_core.configuration.wording import counted, nearest


class Steps(Frozen):
    kind: Literal["steps"]
    factor: float = 0.1


class Plateau(Frozen):
    kind: Literal["plateau"]
    patience: int = 1


class State(StrEnum):
    FINISHED = "finished"
    FAILED = "failed"


class Everything(Frozen):
    """A field of each kind that studies, recipes, configurations and records have."""

    count: Annotated[int, Field(ge=1, le=100)] = 1
    share: Annotated[float, Field(gt=0, lt=1)] = 0.5
    flips: bool = True
    title: Annotated[str, Field(min_length=1, max_length=70)] = "a"
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,47}$")] = "a"
    path: Annotated[str, Field(pattern=r"^(network|training|data)(\.[A-Za-z0-9_*?]+){1,2}$")] = "data.cache"
    digest: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] = "0" * 64
    towers: Literal[1, 2] = 2
    state: State = State.FINISHED
    remove: Annotated[tuple[str, ...], Field(min_length=1, max_length=2)] = ("a",)
    schedules: tuple[Annotated[Steps | Plateau, Field(discriminator="kind")], ...] = ()
    recipes: dict[str, Steps] = {}
    best: Steps | None = None
    set: dict[str, JsonValue] = {}


def line(value: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        Everything.model_validate(value)
    return first_mistake(caught.value, Everything)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"count": "x"}, "count: must be a whole number, not 'x'"),
        ({"count": 1.5}, "count: must be a whole number, not 1.5"),
        ({"count": None}, "count: must be a whole number, but nothing is given"),
        ({"count": []}, "count: must be a whole number, not a list"),
        ({"count": "9" * 5000}, f"count: must be a smaller whole number, not '{'9' * 59}..."),
        ({"count": 0}, "count: must be at least 1, not 0"),
        ({"count": 101}, "count: must be at most 100, not 101"),
        ({"count": float("inf")}, "count: must be a finite number, not inf"),
        ({"share": float("nan")}, "share: must be a finite number, not nan"),
        ({"share": "many"}, "share: must be a number, not 'many'"),
        ({"share": {}}, "share: must be a number, not a mapping"),
        ({"share": 0}, "share: must be above 0, not 0"),
        ({"share": 1}, "share: must be below 1, not 1"),
        ({"flips": "often"}, "flips: must be true or false, not 'often'"),
        ({"flips": 1.5}, "flips: must be true or false, not 1.5"),
        ({"title": 7}, "title: must be text, not 7"),
        ({"title": True}, "title: must be text, not true"),
        ({"title": ""}, "title: must have at least 1 letter, not 0"),
        ({"title": "a" * 71}, "title: must have at most 70 letters, not 71"),
        ({"name": "Ä"}, "name: must be lower-case letters, digits, - and _, 48 at most, the first a letter or digit, "),
        ({"path": "lr"}, "path: must be a field, such as network.lrn*.alpha, training.epochs or data.train_images, "),
        ({"digest": "x"}, "digest: must be 64 hexadecimal digits, not 'x'"),
        ({"towers": 3}, "towers: must be 1 or 2, not 3"),
        ({"state": "done"}, "state: must be 'finished' or 'failed', not 'done'"),
        ({"remove": "conv4"}, "remove: must be a list, such as [a, b], not 'conv4'"),
        ({"remove": []}, "remove: must have at least 1 entry, not 0"),
        ({"remove": ["a", "b", "c"]}, "remove: must have at most 2 entries, not 3"),
        ({"schedules": [{"kind": "step"}]}, "schedules.0: kind must be one of 'steps', 'plateau', not 'step'"),
        ({"schedules": [{}]}, "schedules.0: kind is missing: it says what kind this is"),
        ({"schedules": [3]}, "schedules.0: must be a mapping of fields, not 3"),
        ({"recipes": [1]}, "recipes: must be a mapping, not a list"),
        ({"recipes": {"mine": 1}}, "recipes.mine: must be a mapping of fields, not 1"),
        ({"recipes": {"mine": {}}}, "recipes.mine.kind: this field is missing"),
        ({"set": {"a": {1, 2}}}, "set.a: must be a number, a word, a list or a mapping"),
        ([], "must be a mapping of fields, not a list"),
    ],
)
def test_a_mistake_of_every_kind_says_what_would_be_right_and_what_was_given(value: Any, expected: str) -> None:
    assert line(value).startswith(expected)
    for word in ("Input", "Extra", "inputs", "valid ", "unable", "instance", "Value error"):
        assert word not in line(value)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"cuont": 1}, "cuont: unknown field; did you mean count?"),
        ({"best": {"kind": "steps", "factr": 1}}, "best.factr: unknown field; did you mean factor?"),
        (
            {"recipes": {"a": {"kind": "steps", "factr": 1}}},
            "recipes.a.factr: unknown field; did you mean factor?",
        ),
        # 并集里只有这一种的字段算数：plateau 没有 factor
        (
            {"schedules": [{"kind": "plateau", "factor": 1}]},
            "schedules.0.plateau.factor: unknown field; it has: kind, patience",
        ),
        (
            {"schedules": [{"kind": "plateau", "patienc": 1}]},
            "schedules.0.plateau.patienc: unknown field; did you mean patience?",
        ),
    ],
)
def test_an_unknown_field_is_told_with_the_nearest_of_its_place(value: Any, expected: str) -> None:
    assert line(value) == expected


def test_one_is_counted_in_the_singular() -> None:
    assert [counted(number, "seed") for number in (0, 1, 2)] == ["0 seeds", "1 seed", "2 seeds"]
    assert [counted(number, "image is", "images are") for number in (1, 3)] == ["1 image is", "3 images are"]


def test_a_word_far_from_all_is_told_what_there_is() -> None:
    assert nearest("alpa", ["alpha", "beta"]) == "; did you mean alpha?"
    assert nearest("xyz", ["alpha", "beta"]) == "; it has: alpha, beta"
    assert nearest("xyz", []) == ""
