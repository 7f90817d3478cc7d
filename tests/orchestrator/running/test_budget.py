"""Budgets: a run stops at a complete seed, decided before it starts from measured epochs."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import pytest

from alexnet_core.configuration.train_config import TrainConfig
from orchestrator.options import duration, hours
from orchestrator.planning.estimate import EpochSeconds, Place, likenesses_of
from orchestrator.request import Limits
from orchestrator.running.budget import Budget
from orchestrator.sweeps.search import Ask
from orchestrator.sweeps.searcher import ArmSearcher
from search_spaces.trial import PlannedTrial, trial_key
from tests.made_records import make_config

CPU = Place(slots=1, gpus=0, towers_apart=False)


class Clock:
    """Tells the time that a test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def make_budget(clock: Clock, place: Place = CPU, *, measured: bool = True, **limits: float) -> Budget:
    seconds = EpochSeconds()
    if measured:
        seconds.add(likenesses_of(make_config()), 10.0)
    return Budget(Limits(limits.get("gpu_hours"), limits.get("seconds")), seconds, place, 0.0, clock)


def pair(seed: int) -> list[TrainConfig]:
    """Two trials of two epochs: 40 s at 10 s an epoch."""
    return [make_config(seed), make_config(seed, momentum=0.8)]


def test_a_seed_starts_only_if_all_of_it_ends_within_the_time() -> None:
    clock = Clock()
    budget = make_budget(clock, seconds=100.0)
    assert budget.may_start(pair(0), {}) is True
    running = {"a": (make_config(0), 1), "b": (make_config(0, momentum=0.8), 0)}
    assert budget.may_start(pair(1), running) is True
    clock.now = 31.2
    assert budget.may_start(pair(1), running) is False
    assert budget.refusal == "the next seed would end after 1.69 min of 1.67 min"
    # 一旦拒绝就不再开始别的，否则会跳过中间的种子
    clock.now = 0.0
    assert budget.may_start([], {}) is False


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(1.0, "40 s of 1 s"), (0.5, "40 s of 0.5 s"), (59.0, "120 s of 59 s"), (90_000.0, "25.1 h of 25 h")],
)
def test_a_refusal_speaks_in_the_unit_of_its_limit(seconds: float, words: str) -> None:
    clock = Clock()
    budget = make_budget(clock, seconds=seconds)
    clock.now = {59.0: 80.0, 90_000.0: 90_400.0}.get(seconds, 0.0)
    assert budget.may_start(pair(0), {}) is False
    assert budget.refusal == f"the next seed would end after {words}"


def test_hours_count_what_was_trained_what_runs_and_what_would_start_times_the_gpus() -> None:
    clock = Clock()
    for place, limit in ((CPU, 0.0332), (Place(slots=1, gpus=2, towers_apart=True), 0.0664)):
        budget = make_budget(clock, place, gpu_hours=limit)
        for _ in range(4):
            budget.epoch(make_config(0), 10.0)
        assert budget.may_start(pair(1), {}) is True
        assert budget.may_start(pair(1), {"a": (make_config(0), 0), "b": (make_config(0), 1)}) is True
        assert budget.may_start(pair(1), {"a": (make_config(0), 0), "b": (make_config(0), 0)}) is False


def test_what_was_never_measured_runs_one_seed_first_and_then_knows() -> None:
    clock = Clock()
    budget = make_budget(clock, measured=False, seconds=100.0)
    assert budget.may_start(pair(0), {}) is True
    running = {"a": (make_config(0), 0)}
    assert budget.may_start(pair(1), running) is None
    budget.epoch(make_config(0), 30.0)
    assert budget.may_start(pair(1), running) is False


def test_without_limits_everything_may_start() -> None:
    budget = make_budget(Clock(), measured=False)
    assert budget.may_start(pair(0), {"a": (make_config(0), 0)}) is True


def planned(seeds: Sequence[int]) -> list[PlannedTrial]:
    return [
        PlannedTrial(arm, seed, "arm", config, trial_key(config))
        for seed in seeds
        for arm, config in zip(("a", "b"), pair(seed), strict=True)
    ]


class Runner:
    """Starts nothing, and lets seeds start as it is told to."""

    def __init__(self, answers: dict[int, bool | None]) -> None:
        self.answers, self.closed = answers, False
        self.skipped: set[str] = set()
        self.launched: list[tuple[str, int]] = []
        self.asked: list[list[int]] = []

    def may_start(self, trials: Sequence[PlannedTrial]) -> bool | None:
        self.asked.append([trial.seed for trial in trials])
        return self.answers[trials[0].seed]

    def launch(self, trial: PlannedTrial, ask: Ask | None) -> dict[str, Any]:
        self.launched.append((trial.arm, trial.seed))
        return {}

    def join(self, trial: PlannedTrial, ask: Ask | None) -> None:
        raise AssertionError

    lock = unlock = stop = join  # type: ignore[assignment]


def test_the_searcher_stops_between_seeds_and_waits_where_it_is_told_to() -> None:
    answers: dict[int, bool | None] = {0: True, 1: None, 2: False}
    runner = Runner(answers)
    searcher = ArmSearcher("test", planned([0, 1, 2]), runner)
    assert searcher.suggest("1") == searcher.suggest("2") == {}
    assert searcher.suggest("3") is None
    answers[1] = True
    searcher.suggest("4")
    searcher.suggest("5")
    assert searcher.suggest("6") == searcher.FINISHED
    assert runner.launched == [("a", 0), ("b", 0), ("a", 1), ("b", 1)]
    assert runner.asked == [[0, 0], [1, 1], [1, 1], [2, 2]]
    answers[2] = True
    assert searcher.suggest("7") == searcher.FINISHED, "what was refused once is not asked again"


def test_an_arm_that_is_skipped_is_passed_over_and_a_closed_runner_gets_nothing() -> None:
    runner = Runner({0: True, 1: True})
    searcher = ArmSearcher("test", planned([0, 1]), runner)
    runner.skipped.add("a")
    searcher.suggest("1")
    runner.closed = True
    assert searcher.suggest("2") == searcher.FINISHED
    assert runner.launched == [("b", 0)]


def test_durations_and_hours_are_parsed_or_refused() -> None:
    assert [duration(text) for text in ("90m", "2h", "1h30m", "45s", "1.5h")] == [5400, 7200, 5400, 45, 5400]
    for wrong in ("90", "m", "0s", "-1h", "1h 30", "inf"):
        with pytest.raises(argparse.ArgumentTypeError, match="must be a duration such as 90m"):
            duration(wrong)
    assert hours("0.5") == 0.5
    for wrong in ("0", "-1", "nan", "inf", "two"):
        with pytest.raises(argparse.ArgumentTypeError):
            hours(wrong)
