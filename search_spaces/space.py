"""The space of a sweep: parameters with their scales, the values of a grid over it, and what lies in it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from alexnet_core.configuration.frozen import Frozen
from search_spaces.errors import StudyError

FieldPath = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z0-9_*?]+){0,5}$")]
# AlexNet 的字段在网络、训练、数据三处；别的 core 的字段由它自己定
ALEXNET_FIELD = r"^(network|training|data)(\.[A-Za-z0-9_*?]+){1,2}$"
ALEXNET_TRAINING_FIELD = r"^training\.[a-z_]+$"
# 再大的网格没有人会跑完，而枚举它要占内存
LARGEST_GRID = 100_000
MOST_TRIED = 100
# 无理数：落不到整数上，只收整数的字段就会在这里露出来
BETWEEN = (math.sqrt(5) - 1) / 2


class FloatParameter(Frozen):
    """A number from a range, drawn on a linear or logarithmic scale.

    Attributes:
        low: Smallest value.
        high: Largest value.
        log: Whether the scale is logarithmic.
        steps: How many values a grid takes, equally spaced on the scale, both ends included; other samplers draw from
            the whole range.
    """

    kind: Literal["float"]
    low: float
    high: float
    log: bool = False
    steps: int | None = Field(default=None, ge=2, le=1000)

    @model_validator(mode="after")
    def _check(self) -> Self:
        _check_range(self.low, self.high, self.log)
        return self


class IntegerParameter(Frozen):
    """A whole number from a range; a grid takes each, or `steps` of them equally spaced on the scale."""

    kind: Literal["integer"]
    low: int
    high: int
    log: bool = False
    steps: int | None = Field(default=None, ge=2, le=1000)

    @model_validator(mode="after")
    def _check(self) -> Self:
        _check_range(self.low, self.high, self.log)
        return self


class CategoricalParameter(Frozen):
    """One of some values."""

    kind: Literal["categorical"]
    choices: tuple[str | bool | int | float, ...] = Field(min_length=1)


Parameter = Annotated[FloatParameter | IntegerParameter | CategoricalParameter, Field(discriminator="kind")]


def _check_range(low: float, high: float, log: bool) -> None:
    if low >= high:
        raise ValueError(f"low {low} must be below high {high}")
    if log and low <= 0:
        raise ValueError(f"a logarithmic scale needs low above 0, not {low}")


class Sweep(Frozen):
    """The part of a study in which Optuna chooses the points."""

    parameters: dict[FieldPath, Parameter] = Field(min_length=1)


def space_size(space: Sweep) -> int | None:
    """Returns how many different points a space has; None where a parameter is a float."""
    size = 1
    for parameter in space.parameters.values():
        if isinstance(parameter, FloatParameter):
            return None
        if isinstance(parameter, IntegerParameter):
            size *= parameter.high - parameter.low + 1
        else:
            size *= len(set(parameter.choices))
    return size


def contains(space: Sweep, point: Mapping[str, Any]) -> bool:
    """Says whether a point has the parameters of a space, each inside its range; what is no number is in none."""
    if set(point) != set(space.parameters):
        return False
    return all(_lies_in(parameter, point[path]) for path, parameter in space.parameters.items())


def _lies_in(parameter: Parameter, value: Any) -> bool:
    if isinstance(parameter, CategoricalParameter):
        return value in parameter.choices
    # 记录可能来自别人：值可以是任何 JSON
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    whole = isinstance(value, int) or value.is_integer()
    return parameter.low <= value <= parameter.high and (whole or isinstance(parameter, FloatParameter))


def grid_points(space: Sweep) -> list[dict[str, Any]]:
    """Returns all points of the grid over a space, in lexical order.

    Raises:
        StudyError: A float has no `steps`, or the grid has more than 100,000 points.
    """
    values = {path: grid_values(path, parameter) for path, parameter in sorted(space.parameters.items())}
    size = math.prod(len(choices) for choices in values.values())
    if size > LARGEST_GRID:
        raise StudyError(f"the grid has {size:,} points, more than {LARGEST_GRID:,}; give its parameters fewer steps")
    return [dict(zip(values, point, strict=True)) for point in itertools.product(*values.values())]


def grid_values(path: str, parameter: Parameter) -> list[Any]:
    """Returns the values that a grid takes of one parameter.

    Raises:
        StudyError: It is a float without `steps`.
    """
    if isinstance(parameter, CategoricalParameter):
        return list(dict.fromkeys(parameter.choices))
    if isinstance(parameter, IntegerParameter):
        if parameter.steps is None:
            return list(range(parameter.low, parameter.high + 1))
        return list(dict.fromkeys(round(value) for value in _spaced(parameter, parameter.steps)))
    if parameter.steps is None:
        raise StudyError(
            f"a grid needs a finite space, and {path} is any number from {parameter.low:g} to {parameter.high:g}: "
            "give it steps in the study file (steps: 5), or choose another --sampler"
        )
    return _spaced(parameter, parameter.steps)


def tried_values(parameter: Parameter) -> list[Any]:
    """Returns the values of a parameter that show whether its range holds valid ones alone, its ends among them.

    All choices; all whole numbers where they are few, else the ends with their neighbours; of a float the ends and a
    broken number between.
    """
    if isinstance(parameter, CategoricalParameter):
        return list(parameter.choices)
    low, high = parameter.low, parameter.high
    if isinstance(parameter, FloatParameter):
        return [low, low + (high - low) * BETWEEN, high]
    if parameter.high - parameter.low <= MOST_TRIED:
        return list(range(parameter.low, parameter.high + 1))
    return [low, low + 1, high - 1, high]


def _spaced(parameter: FloatParameter | IntegerParameter, steps: int) -> list[float]:
    low, high = float(parameter.low), float(parameter.high)
    if parameter.log:
        inner = [low * (high / low) ** (step / (steps - 1)) for step in range(1, steps - 1)]
    else:
        inner = [low + (high - low) * step / (steps - 1) for step in range(1, steps - 1)]
    # 两端取原值，不受乘方舍入影响
    return [low, *inner, high]
