from __future__ import annotations

import pytest

from alexnet_core.configuration.schedule import epoch_rates
from alexnet_core.configuration.train_config import (
    PlateauSchedule,
    RateChange,
    ReplaySchedule,
    StepSchedule,
    TrainingSpec,
)


def rates(training: TrainingSpec, errors: list[float]) -> list[float]:
    return [epoch_rates(training, errors[:epoch]).weights for epoch in range(len(errors) + 1)]


def test_steps_drop_before_the_epoch_their_fraction_names() -> None:
    training = TrainingSpec(epochs=10, learning_rate=1.0, schedule=StepSchedule(at=(0.6, 0.8), factor=0.1))
    assert rates(training, [0.5] * 9) == pytest.approx([1.0] * 6 + [0.1] * 2 + [0.01] * 2)


def test_plateau_drops_after_idle_epochs_and_counts_anew() -> None:
    schedule = PlateauSchedule(patience=2, factor=0.1, drops=2)
    training = TrainingSpec(epochs=20, learning_rate=1.0, schedule=schedule)
    errors = [0.5, 0.4, 0.4, 0.4, 0.4, 0.3, 0.35, 0.3, 0.3, 0.3]
    expected = [1.0, 1.0, 1.0, 1.0, 0.1, 0.1, 0.1, 0.1, 0.01, 0.01, 0.01]
    assert rates(training, errors) == pytest.approx(expected)


def test_an_improving_network_keeps_its_rate() -> None:
    training = TrainingSpec(epochs=20, learning_rate=0.01, schedule=PlateauSchedule(patience=1))
    assert set(rates(training, [0.9 - 0.01 * epoch for epoch in range(15)])) == {0.01}


def test_the_first_epoch_has_the_initial_rate_however_few_there_are() -> None:
    schedule = StepSchedule(at=(0.1, 0.4), factor=0.1)
    assert rates(TrainingSpec(epochs=1, learning_rate=1.0, schedule=schedule), [])[0] == 1.0
    assert rates(TrainingSpec(epochs=4, learning_rate=1.0, schedule=schedule), [0.5] * 3) == pytest.approx(
        [1.0, 0.1, 0.01, 0.01]
    )
    with pytest.raises(ValueError, match="must ascend"):
        StepSchedule(at=(0.9, 0.1))


def test_biases_have_a_rate_of_their_own_only_where_they_do_not_follow() -> None:
    change = RateChange(epoch=2, bias_learning_rate=0.002)
    training = TrainingSpec(
        epochs=3,
        bias_learning_rate_factor=2.0,
        schedule=ReplaySchedule(changes=(change,), biases_follow=False),
    )
    assert [epoch_rates(training, [0.5] * epoch).biases for epoch in range(3)] == [0.02, 0.002, 0.002]
    with pytest.raises(ValueError, match="needs biases_follow: false"):
        ReplaySchedule(changes=(change,))
    with pytest.raises(ValueError, match="a change without layers"):
        RateChange(epoch=2, layers=("conv1",), bias_learning_rate=0.002)
