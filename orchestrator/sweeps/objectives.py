"""What a sweep minimises: the validation error, and with `--multi` a second number beside it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from alexnet_core.configuration.network_spec import layer_shapes
from alexnet_core.configuration.train_config import TrainConfig
from orchestrator.choices import SecondObjective

VALIDATION_ERROR = "validation_error"


def objective_names(second: SecondObjective | None) -> tuple[str, ...]:
    """Returns the names of a sweep's objectives, the validation error (in [0, 1]) first."""
    return (VALIDATION_ERROR,) if second is None else (VALIDATION_ERROR, second)


def directions(second: SecondObjective | None) -> list[Literal["minimize", "maximize"]]:
    """Returns in Optuna's words which way each objective gets better."""
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
    second: SecondObjective | None, config: TrainConfig, validation_error: float, images_per_second: float | None
) -> tuple[float, ...]:
    """Returns the objectives of a finished trial.

    Args:
        second: The second objective; None for the error alone.
        config: The trial's configuration; multiply-adds are those of one image's forward pass.
        validation_error: In [0, 1].
        images_per_second: The steady rate of its slot; 0 where none was measured.
    """
    if second is None:
        return (validation_error,)
    if second == "multiply_adds":
        return (validation_error, float(sum(shape.multiply_adds for shape in layer_shapes(config.network))))
    return (validation_error, images_per_second or 0.0)


def steady_rate(epochs: Sequence[tuple[int, float]]) -> float | None:
    """Returns images per second over the epochs after the first, which warms up.

    Args:
        epochs: Training images and images per second of each epoch, in order.
    """
    steady = epochs[1:] or epochs
    seconds = sum(images / rate for images, rate in steady if rate > 0)
    return sum(images for images, _ in steady) / seconds if seconds > 0 else None
