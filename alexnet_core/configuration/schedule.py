"""When the learning rates drop: pure functions over the epochs so far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from alexnet_core.configuration.train_config import PlateauSchedule, ReplaySchedule, StepSchedule, TrainingSpec


@dataclass(frozen=True)
class EpochRates:
    """What an epoch is trained with.

    Attributes:
        weights: Learning rate of the weights.
        biases: Learning rate of the biases.
        colour_noise: Standard deviation of the colour noise's a_i; 0 for none.
        layers: Learning rates (weights, biases) of layers that have their own; 0 freezes.
    """

    weights: float
    biases: float
    colour_noise: float
    layers: dict[str, tuple[float, float]] = field(default_factory=dict)

    def of(self, layer: str, *, is_bias: bool) -> float:
        """Returns the learning rate of a layer's weights or biases."""
        return self.layers.get(layer, (self.weights, self.biases))[int(is_bias)]


def epoch_rates(training: TrainingSpec, validation_errors: Sequence[float | None]) -> EpochRates:
    """Returns the rates of the next epoch.

    Args:
        training: Initial learning rate, epochs, schedule and colour noise.
        validation_errors: Top-1 validation error in [0, 1] of each finished epoch; None where no image is held out,
            which no plateau allows.
    """
    schedule, factor = training.schedule, training.bias_learning_rate_factor
    if isinstance(schedule, ReplaySchedule):
        return _replayed(training, schedule, len(validation_errors))
    if isinstance(schedule, StepSchedule):
        drops = step_drops(schedule, training.epochs, len(validation_errors))
    else:
        drops = plateau_drops(schedule, [error for error in validation_errors if error is not None])
    rate = training.learning_rate * schedule.factor**drops
    return EpochRates(weights=rate, biases=rate * factor, colour_noise=training.colour_noise)


def adds_colour_noise(training: TrainingSpec) -> bool:
    """Says whether any epoch has colour noise."""
    changes = training.schedule.changes if isinstance(training.schedule, ReplaySchedule) else ()
    return training.colour_noise > 0 or any(change.colour_noise for change in changes)


def can_be_extended(training: TrainingSpec) -> bool:
    """Says whether a longer run of such a training begins as this one: its rates know nothing of its length."""
    return not (isinstance(training.schedule, StepSchedule) and training.schedule.at)


def same_rates(shorter: TrainingSpec, longer: TrainingSpec, validation_errors: Sequence[float | None]) -> bool:
    """Says whether two trainings have the same rates in all the epochs of the shorter one.

    Args:
        shorter: The one that has ended.
        longer: The same but for its epochs.
        validation_errors: Of each epoch of the shorter one, see `epoch_rates`.
    """
    before = [validation_errors[:epoch] for epoch in range(len(validation_errors))]
    return all(epoch_rates(shorter, errors) == epoch_rates(longer, errors) for errors in before)


def _replayed(training: TrainingSpec, schedule: ReplaySchedule, finished: int) -> EpochRates:
    factor, noise, weights = training.bias_learning_rate_factor, training.colour_noise, training.learning_rate
    unfollowing_biases = weights * factor
    layer_weights: dict[str, float] = {}
    for change in schedule.changes:
        if change.epoch > finished + 1:
            break
        if change.colour_noise is not None:
            noise = change.colour_noise
        if change.bias_learning_rate is not None:
            unfollowing_biases = change.bias_learning_rate
        if change.learning_rate is not None and change.layers:
            layer_weights |= dict.fromkeys(change.layers, change.learning_rate)
        elif change.learning_rate is not None:
            weights = change.learning_rate

    def biases(rate: float) -> float:
        # 层被冻结时偏置也冻结（layer-params-145.cfg 的 conv1：epsB=0）
        return rate * factor if schedule.biases_follow or rate == 0 else unfollowing_biases

    layers = {layer: (rate, biases(rate)) for layer, rate in layer_weights.items()}
    return EpochRates(weights=weights, biases=biases(weights), colour_noise=noise, layers=layers)


def step_drops(schedule: StepSchedule, epochs: int, finished: int) -> int:
    """Counts the drops before the epoch that follows `finished` epochs; the first epoch has the initial rate."""
    return sum(1 for fraction in schedule.at if finished >= max(1, round(fraction * epochs)))


def plateau_drops(schedule: PlateauSchedule, validation_errors: Sequence[float]) -> int:
    """Counts the drops so far: one after each `patience` epochs without a new best validation error.

    The count of idle epochs starts anew after a drop; the best error does not.
    """
    drops, idle, best = 0, 0, float("inf")
    # 由历史重算而不存状态：续训的日程自然与未中断的相同
    for error in validation_errors:
        idle = 0 if error < best else idle + 1
        best = min(best, error)
        if idle >= schedule.patience and drops < schedule.drops:
            drops, idle = drops + 1, 0
    return drops
