"""How far a command is and how long the rest takes: over all phases, also of a study that was stopped before."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.planning.estimate import EpochSeconds, likenesses_of
from orchestrator.planning.work_left import PhaseLeft, Training, WorkLeft
from orchestrator.running.recording.remaining import UNKNOWN, Remaining
from search_spaces.core_config import TrialConfig
from search_spaces.trial import Phase, PlannedTrial, trial_key
from tests.made_records import make_config

EPOCHS = 10


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def trial(seed: int, phase: Phase = "arm", without: str = "") -> PlannedTrial:
    config = make_config(seed, without=without, epochs=EPOCHS)
    return PlannedTrial(arm="arm", seed=seed, phase=phase, config=config, key=trial_key(config))


def left(*trials: PlannedTrial, epochs: int = EPOCHS) -> dict[str, Training]:
    return {one.key: Training(one.config, epochs) for one in trials}


def measured(config: TrialConfig, seconds: float) -> EpochSeconds:
    known = EpochSeconds()
    known.add(likenesses_of(config), seconds)
    return known


def test_the_time_left_is_unknown_only_until_something_alike_was_measured() -> None:
    clock, trials = Clock(), [trial(seed) for seed in range(4)]
    remaining = Remaining(WorkLeft({"arm": PhaseLeft(known=left(*trials))}), EpochSeconds(), lambda: 2, clock)
    assert (remaining.count(), remaining.time_left()) == ("0/4", UNKNOWN)
    remaining.starts(trials[0], 0)
    assert remaining.time_left() == UNKNOWN
    clock.now += 6
    remaining.epoch(trials[0], 6.0)
    # 一个还剩 9 轮，三个各 10 轮，每轮 6 秒，两个槽：54 + 60 与 60 + 60
    assert remaining.time_left() == "2 min left"


def test_trials_on_record_count_from_the_start_and_a_stopped_one_costs_only_its_rest() -> None:
    clock, (begun, whole) = Clock(), (trial(1), trial(2))
    arms = PhaseLeft(frozenset({trial(0).key}), {**left(begun, epochs=4), **left(whole)})
    remaining = Remaining(WorkLeft({"arm": arms}), measured(begun.config, 2.0), lambda: 1, clock)
    assert (remaining.count(), remaining.time_left()) == ("1/3", "28 s left")
    remaining.starts(begun, EPOCHS - 4)
    clock.now += 1.5
    assert remaining.time_left() == "26 s left"
    clock.now += 0.5
    remaining.epoch(begun, 2.0)
    # 它又被停下：剩下的三轮还在
    remaining.stops(begun)
    assert (remaining.count(), remaining.time_left()) == ("1/3", "26 s left")


def test_what_is_measured_here_stands_before_what_is_on_record_and_time_beside_the_epochs_counts() -> None:
    clock, trials = Clock(), [trial(seed) for seed in range(3)]
    work = WorkLeft({"arm": PhaseLeft(known=left(*trials))})
    remaining = Remaining(work, measured(trials[0].config, 1.0), lambda: 1, clock)
    assert remaining.time_left() == "30 s left"
    remaining.starts(trials[0], 0)
    for _ in range(EPOCHS):
        clock.now += 3
        remaining.epoch(trials[0], 3.0)
    clock.now += 5
    remaining.ends(trials[0])
    assert (remaining.count(), remaining.time_left()) == ("1/3", "70 s left")


def test_later_phases_are_in_the_total_from_the_start_and_at_most_goes_once_they_are_known() -> None:
    clock, arm = Clock(), trial(0)
    whole = Training(arm.config, EPOCHS)
    tuning = [trial(seed, "tuning") for seed in (1000, 1001)]
    phases: dict[Phase, PhaseLeft] = {
        "arm": PhaseLeft(known=left(arm)),
        "sweep": PhaseLeft(unchosen=(whole,) * 2),
        "tuning": PhaseLeft(known=left(*tuning)),
        "retuned": PhaseLeft(unchosen=(whole,) * 3, exact=False),
    }
    remaining = Remaining(WorkLeft(phases), measured(arm.config, 1.0), lambda: 1, clock)
    assert (remaining.count(), remaining.time_left()) == ("0 of at most 8", "at most 80 s left")
    for one in (arm, trial(7, "sweep"), trial(8, "sweep"), *tuning):
        remaining.starts(one, 0)
        remaining.ends(one)
    assert remaining.count() == "5 of at most 8"
    # 三个里只有一个 arm 换了值；另两个的 trial 就是 arm 自己的，不再数一遍
    other = trial(3, "retuned", without="lrn1")
    remaining.expect("retuned", left(other), {arm.key}, 3)
    assert (remaining.count(), remaining.time_left()) == ("5/6", "10 s left")
    remaining.ends(other)
    assert (remaining.count(), remaining.time_left()) == ("6/6", "")


def test_what_is_never_trained_is_not_counted_as_ended() -> None:
    whole = Training(trial(0).config, EPOCHS)
    work: dict[Phase, PhaseLeft] = {
        "arm": PhaseLeft(known=left(trial(0), trial(1))),
        "sweep": PhaseLeft(unchosen=(whole,) * 4),
        "retuned": PhaseLeft(unchosen=(whole,) * 6, exact=False),
    }
    remaining = Remaining(WorkLeft(work), EpochSeconds(), lambda: 1)
    assert remaining.count() == "0 of at most 12"
    # 预算停在调参途中：没有一个 arm 有最佳值
    remaining.expect("retuned", {}, (), 6)
    assert remaining.count() == "0/6"
    # 一个点别的研究已经训练，空间里再没有别的点
    remaining.expect("sweep", {}, {trial(9).key})
    assert remaining.count() == "1/3"
    remaining.ends(trial(0))
    remaining.leave_out({trial(0).key, trial(1).key})
    assert (remaining.count(), remaining.time_left()) == ("2/2", "")


def test_a_trial_that_several_phases_want_counts_once_and_further_seeds_on_record_count() -> None:
    arms, point = PhaseLeft(known=left(trial(0))), trial(0, "sweep")
    remaining = Remaining(WorkLeft({"arm": arms}), EpochSeconds(), lambda: 1)
    remaining.ends(trial(0))
    remaining.expect("sweep", left(point), {point.key})
    assert remaining.count() == "1/1"
    remaining.expect("arm", left(trial(2)), {trial(1).key})
    assert remaining.count() == "2/3"


def test_each_study_of_a_session_says_only_what_its_own_retuning_needs() -> None:
    whole = Training(trial(0).config, EPOCHS)
    retuned = PhaseLeft(unchosen=(whole,) * 5, exact=False)
    remaining = Remaining(WorkLeft({"retuned": retuned}), EpochSeconds(), lambda: 1)
    remaining.expect("retuned", left(trial(0, "retuned")), (), 2)
    assert remaining.count() == "0 of at most 4"
    remaining.expect("retuned", left(trial(1, "retuned"), trial(2, "retuned")), (), 3)
    assert remaining.count() == "0/3"


def test_a_long_evaluation_makes_no_training_longer_and_prices_the_evaluations_to_come() -> None:
    clock, (first, second, trained) = Clock(), (trial(seed) for seed in range(3))
    known = {**left(first, second, epochs=0), **left(trained)}
    work = WorkLeft({"arm": PhaseLeft(known=known)})
    remaining = Remaining(work, measured(first.config, 1.0), lambda: 1, clock)
    remaining.starts(first, EPOCHS)
    clock.now += 60
    remaining.ends(first)
    assert (remaining.count(), remaining.time_left()) == ("1/3", "70 s left")


def test_an_evaluation_counts_as_a_trial_and_takes_no_time_and_further_seeds_raise_the_total() -> None:
    evaluated, clock = trial(0), Clock()
    arms = PhaseLeft(known=left(evaluated, epochs=0))
    remaining = Remaining(WorkLeft({"arm": arms}), measured(evaluated.config, 1.0), lambda: 1, clock)
    assert (remaining.count(), remaining.time_left()) == ("0/1", "0 s left")
    remaining.starts(evaluated, EPOCHS)
    remaining.ends(evaluated)
    remaining.expect("arm", left(trial(1), trial(2)))
    assert (remaining.count(), remaining.time_left()) == ("1/3", "20 s left")


@given(st.integers(0, 4), st.integers(0, 6), st.integers(0, 6), st.data())
def test_the_total_stays_whatever_ends_and_in_whatever_order(
    on_record: int, known: int, points: int, data: st.DataObject
) -> None:
    trials = [trial(seed) for seed in range(known)]
    sampled = [replace(trial(100 + number), phase="sweep") for number in range(points)]
    whole = Training(make_config(epochs=EPOCHS), EPOCHS)
    arms = PhaseLeft(frozenset(str(number) for number in range(on_record)), left(*trials))
    work = WorkLeft({"arm": arms, "sweep": PhaseLeft(unchosen=(whole,) * points)})
    remaining = Remaining(work, EpochSeconds(), lambda: 2)
    total = on_record + known + points
    for done, one in enumerate(data.draw(st.permutations([*trials, *sampled]))):
        assert remaining.count() == f"{on_record + done}/{total}"
        if data.draw(st.booleans()):
            remaining.starts(one, 0)
        assert remaining.count() == f"{on_record + done}/{total}"
        remaining.ends(one)
    assert (remaining.count(), remaining.time_left()) == (f"{total}/{total}", "")
