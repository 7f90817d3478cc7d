"""When the learning rate drops: pure functions over the epochs so far."""

from __future__ import annotations

from collections.abc import Sequence

from alexnet_core.configuration import PlateauSchedule, StepSchedule, TrainingSpec


def learning_rate(training: TrainingSpec, validation_errors: Sequence[float]) -> float:
    """Returns the learning rate of the next epoch.

    Args:
        training: Initial learning rate, epochs and schedule.
        validation_errors: Top-1 validation error in [0, 1] of each finished epoch.
    """
    schedule = training.schedule
    if isinstance(schedule, StepSchedule):
        drops = step_drops(schedule, training.epochs, len(validation_errors))
    else:
        drops = plateau_drops(schedule, validation_errors)
    return training.learning_rate * schedule.factor**drops


def step_drops(schedule: StepSchedule, epochs: int, finished: int) -> int:
    """Counts the drops before the epoch that follows `finished` epochs."""
    return sum(1 for fraction in schedule.at if finished >= round(fraction * epochs))


def plateau_drops(schedule: PlateauSchedule, validation_errors: Sequence[float]) -> int:
    """Counts the drops so far: one after each `patience` epochs without a new best validation error.

    The count of idle epochs starts anew after a drop; the best error does not.
    """
    drops, idle, best = 0, 0, float("inf")
    for error in validation_errors:
        idle = 0 if error < best else idle + 1
        best = min(best, error)
        if idle >= schedule.patience and drops < schedule.drops:
            drops, idle = drops + 1, 0
    return drops
