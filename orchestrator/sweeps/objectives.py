"""What a sweep minimises: the metric that chooses, and with `--multi` a second number beside it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from alexnet_core.configuration.network_spec import layer_shapes
from orchestrator.choices import SecondObjective
from search_spaces.core_config import CoreConfig, CoreDescription, TrialConfig

# 报给 Tune 的名字；总是越小越好，越大越好的指标变了号
OBJECTIVE = "objective"


def objective_names(core: CoreDescription, second: SecondObjective | None) -> tuple[str, ...]:
    """Returns the names of a sweep's objectives, the metric that chooses first (AlexNet's in [0, 1])."""
    return (core.chosen_by,) if second is None else (core.chosen_by, second)


def directions(second: SecondObjective | None) -> list[Literal["minimize", "maximize"]]:
    """Returns in Optuna's words which way each objective gets better; the first is minimised, see `OBJECTIVE`."""
    if second is None:
        return ["minimize"]
    return ["minimize", "maximize" if second == "images_per_second" else "minimize"]


def pareto_front(values: Sequence[tuple[float, float]], second: SecondObjective) -> list[int]:
    """Returns the places of the values that no other is at least as good as in both and better in one.

    Args:
        values: (validation error, second objective).
        second: What the second is: fewer multiply-adds or more images per second are better.

    Returns:
        Places by rising error; of equal values the first.
    """
    sign = -1.0 if second == "images_per_second" else 1.0
    front, best = [], float("inf")
    for _, cost, place in sorted((error, sign * value, place) for place, (error, value) in enumerate(values)):
        if cost < best:
            front.append(place)
            best = cost
    return front


def objective_values(
    second: SecondObjective | None,
    config: TrialConfig,
    objective: float,
    images_per_second: float | None,
    multiply_adds: float | None = None,
) -> tuple[float, ...] | None:
    """Returns the objectives of a finished trial; None where the second was not measured, which is no number.

    Args:
        second: The second objective; None for the first alone.
        config: The trial's configuration; AlexNet's multiply-adds are those of one image's forward pass.
        objective: See `TrialResult.objective`.
        images_per_second: The steady rate of its slot; None where none was measured.
        multiply_adds: What another core says of it; None where it says nothing.
    """
    if second is None:
        return (objective,)
    if second == "images_per_second":
        cost = images_per_second
    elif isinstance(config, CoreConfig):
        cost = multiply_adds
    else:
        cost = float(sum(shape.multiply_adds for shape in layer_shapes(config.network)))
    # 没说的不是零：零次乘加谁也比不过
    return None if cost is None else (objective, cost)


def steady_rate(epochs: Sequence[tuple[int, float]]) -> float | None:
    """Returns images per second over the epochs after the first, which warms up.

    Args:
        epochs: Training images and images per second of each epoch, in order.
    """
    steady = epochs[1:] or epochs
    seconds = sum(images / rate for images, rate in steady if rate > 0)
    return sum(images for images, _ in steady) / seconds if seconds > 0 else None
