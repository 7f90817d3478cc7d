"""A search asks no point twice and tells none twice, and an interrupted one goes on as if it had not been."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ray.tune.search import Searcher

from orchestrator.choices import SamplerName, SecondObjective
from orchestrator.sweeps.objectives import OBJECTIVE, objective_values
from orchestrator.sweeps.search import Ask, Ended, Search, SearchHistory, read_ended, search_history
from orchestrator.sweeps.searcher import SweepSearcher
from search_spaces.space import FloatParameter, Sweep, grid_points
from search_spaces.trial import PlannedTrial
from tests.made_core_records import put_walk, walk_config
from tests.made_records import make_config

RATE, DECAY, SIZE = "training.learning_rate", "training.weight_decay", "network.lrn1.size"
FLOATS = Sweep.model_validate(
    {
        "parameters": {
            RATE: {"kind": "float", "low": 1e-4, "high": 1e-1, "log": True, "steps": 4},
            DECAY: {"kind": "float", "low": 0.0, "high": 0.1, "steps": 3},
            SIZE: {"kind": "integer", "low": 1, "high": 9, "steps": 3},
        }
    }
)
NARROW_RATE = FloatParameter(kind="float", low=1e-3, high=1e-2, log=True)
FINITE = Sweep.model_validate(
    {"parameters": {SIZE: {"kind": "integer", "low": 1, "high": 3}, RATE: {"kind": "categorical", "choices": [0.1, 1]}}}
)
SINGLE: tuple[SamplerName, ...] = ("tpe", "cmaes", "gp", "random", "qmc", "grid")


def error_of(parameters: Mapping[str, Any]) -> float:
    """A smooth bowl with its bottom inside the space."""
    rate, decay, size = (parameters[path] for path in (RATE, DECAY, SIZE))
    return 0.1 + 0.05 * (math.log10(rate) + 2) ** 2 + 10 * (decay - 0.03) ** 2 + 0.004 * (size - 5) ** 2


@dataclass
class Laboratory:
    """Records and memberships as a driver leaves them, and a study that is run on them again and again."""

    search: Search
    arms: Sequence[tuple[Mapping[str, Any], Ended]] = ()
    states: Mapping[int, str] = field(default_factory=dict)
    members: list[dict[str, Any]] = field(default_factory=list)
    records: dict[str, Ended] = field(default_factory=dict)
    launched: list[str] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)
    mine: set[str] = field(default_factory=set)
    elsewhere: set[str] = field(default_factory=set)

    closed: bool = False
    skipped: Sequence[str] = ()

    def may_start(self, trials: Sequence[PlannedTrial]) -> bool:
        return True

    def stop(self, key: str) -> None:
        self.stopped.append(key)

    def unlock(self, key: str) -> None:
        self.mine.discard(key)

    def lock(self, key: str) -> bool:
        self.mine |= {key} - self.elsewhere
        return key in self.mine

    def join(self, trial: PlannedTrial, ask: Ask | None) -> None:
        assert ask is not None
        if all(row["key"] != ask.key for row in self.members):
            row = {"phase": trial.phase, "arm": trial.arm, "seed": trial.seed, "key": trial.key, **vars(ask)}
            self.members.append(row)

    def launch(self, trial: PlannedTrial, ask: Ask | None) -> dict[str, Any]:
        self.join(trial, ask)
        self.launched.append(trial.key)
        return {"key": trial.key, "parameters": dict(ask.parameters) if ask else {}, "position": ask and ask.position}

    def history(self) -> SearchHistory:
        return search_history(self.search, self.members, self.records.get, self.arms)

    def searcher(self) -> SweepSearcher:
        return SweepSearcher(self.search, self.history(), self, self.records.get)

    def run(self, ends: int | None = None, slots: int = 1) -> optuna.Study:
        """Trains point after point on `slots` slots; dies after so many ends, with the running points unfinished."""
        searcher = self.searcher()
        running: list[tuple[str, dict[str, Any]]] = []
        left = math.inf if ends is None else ends
        questions = 0
        while True:
            while len(running) < slots:
                job = searcher.suggest(f"tune-{questions}")
                if job == Searcher.FINISHED:
                    break
                running.append((f"tune-{questions}", job))
                questions += 1
            if not running or left == 0:
                return searcher.study
            left -= 1
            name, job = running.pop(len(running) // 2)
            state = self.states.get(job["position"], "finished")
            error = error_of({RATE: 0.01, DECAY: 0.0, SIZE: 5, **job["parameters"]})
            result = {OBJECTIVE: error, "epoch": 2, "state": state, "images_per_second": 100 * error}
            searcher.on_trial_complete(name, result)
            config = self.search.trial(job["parameters"]).config
            values = objective_values(self.search.second, config, error, 100 * error)
            self.records[job["key"]] = Ended(state, values if state == "finished" else None)

    @property
    def sequence(self) -> list[Mapping[str, Any]]:
        return [row["parameters"] for row in sorted(self.members, key=lambda row: int(row["position"]))]


def search(sampler: SamplerName, points: int, space: Sweep = FLOATS, seed: int = 0) -> Search:
    return Search("study/sweep", space, make_config(), points, sampler=sampler, seed=seed)


@pytest.mark.parametrize(
    ("sampler", "slots"), [(name, slots) for name in SINGLE for slots in (1, 3) if (name, slots) != ("gp", 3)]
)
def test_three_interruptions_change_neither_the_sequence_nor_what_was_told(sampler: SamplerName, slots: int) -> None:
    # 高斯过程每问一次要一秒：开头的随机点之后只看一个
    count = 11 if sampler == "gp" else 24
    straight = search(sampler, count)
    states = {3: "diverged", 5: "stopped", 8: "failed", 11: "diverged"}
    arms = [({RATE: 0.01, DECAY: 0.0005, SIZE: 5}, Ended("finished", (0.12,)))]
    whole = Laboratory(straight, arms, states)
    told = whole.run(slots=slots)
    parts = Laboratory(straight, arms, states)
    for ends in (3, 5, 0, 2):
        parts.run(ends, slots)
    again = parts.run(slots=slots)
    assert len({str(point) for point in parts.sequence}) == count
    assert [row["position"] for row in parts.members] == list(range(count))
    finished = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)
    if slots == 1:
        assert parts.sequence == whole.sequence
        assert [(t.params, t.state, t.values) for t in again.get_trials(states=finished)] == [
            (t.params, t.state, t.values) for t in told.get_trials(states=finished)
        ]
    points = [str(sorted(trial.params.items())) for trial in again.get_trials(states=finished)]
    failed = 1
    assert len(points) == len(set(points)) == len(arms) + count - failed


@pytest.mark.slow
@given(
    ends=st.lists(st.integers(0, 6), max_size=4),
    slots=st.integers(1, 3),
    sampler=st.sampled_from(("tpe", "cmaes", "random", "qmc")),
    states=st.dictionaries(st.integers(0, 9), st.sampled_from(("diverged", "failed", "stopped")), max_size=4),
)
@settings(max_examples=25, deadline=None)
def test_whenever_it_dies_each_point_is_asked_once_and_told_once(
    ends: list[int], slots: int, sampler: SamplerName, states: dict[int, str]
) -> None:
    laboratory = Laboratory(search(sampler, 10), states=states)
    for count in ends:
        laboratory.run(count, slots)
    study = laboratory.run(slots=slots)
    assert sorted(row["position"] for row in laboratory.members) == list(range(10))
    assert len({row["key"] for row in laboratory.members}) == 10
    told = [trial for trial in study.trials if trial.state.is_finished() and trial.state.name != "FAIL"]
    failed = sum(state == "failed" for state in states.values())
    assert sorted(str(sorted(trial.params.items())) for trial in told) == sorted(
        str(sorted(row["parameters"].items()))
        for row in laboratory.members
        if laboratory.records[row["key"]].state != "failed"
    )
    assert len(told) == 10 - failed
    assert not study.get_trials(states=(optuna.trial.TrialState.RUNNING,))


def test_one_seed_gives_one_sequence_and_another_seed_another() -> None:
    sequences = []
    for seed in (0, 0, 1):
        laboratory = Laboratory(search("tpe", 12, seed=seed))
        laboratory.run()
        sequences.append(laboratory.sequence)
    assert sequences[0] == sequences[1]
    assert sequences[0] != sequences[2]


def test_a_larger_number_of_points_extends_the_sequence() -> None:
    short = Laboratory(search("tpe", 8))
    short.run()
    before = list(short.sequence)
    short.search = replace(short.search, points=14)
    short.run()
    whole = Laboratory(search("tpe", 14))
    whole.run()
    assert short.sequence[:8] == before
    assert short.sequence == whole.sequence


@pytest.mark.parametrize("sampler", ["tpe", "gp", "random", "qmc", "grid"])
def test_a_finite_space_is_searched_to_its_end_and_no_further(sampler: SamplerName) -> None:
    laboratory = Laboratory(search(sampler, 50, FINITE))
    laboratory.run(2)
    laboratory.run()
    assert len(laboratory.members) == len({row["key"] for row in laboratory.members}) == 6


def test_a_narrower_space_in_between_forgets_no_point_and_takes_no_position_twice() -> None:
    narrow = FLOATS.model_copy(update={"parameters": {**FLOATS.parameters, RATE: NARROW_RATE}})
    laboratory = Laboratory(search("tpe", 8))
    laboratory.run()
    laboratory.search = search("tpe", 8, narrow)
    inside = len(laboratory.history().asks)
    laboratory.run()
    assert 0 < inside < 8
    points = 8 + 8 - inside
    assert len(laboratory.members) == len({row["position"] for row in laboratory.members}) == points
    laboratory.search = search("tpe", points + 2)
    assert (len(laboratory.history().asks), laboratory.history().unfinished) == (points, 0)
    study = laboratory.run()
    told = [trial.params for trial in study.get_trials(states=(optuna.trial.TrialState.COMPLETE,))]
    assert len(told) == len({str(sorted(point.items())) for point in told}) == points + 2


def test_points_of_two_machines_that_counted_alike_are_all_known_and_told_once() -> None:
    here, there = Laboratory(search("tpe", 4)), Laboratory(search("tpe", 4, seed=1))
    for laboratory in (here, there):
        laboratory.run()
    # 合并只带来成员行里人人都有的几列
    bare = [{name: value for name, value in row.items() if name not in ("told", "base")} for row in there.members]
    here.members += bare
    here.records |= there.records
    before = {ask.key: ask.position for ask in here.history().asks}
    assert sorted(before.values()) == list(range(8))
    assert [before[row["key"]] for row in here.members[:4]] == [0, 1, 2, 3]
    here.search = search("tpe", 10)
    study = here.run()
    assert [row["position"] for row in here.members[8:]] == [8, 9]
    after = {ask.key: ask.position for ask in here.history().asks}
    assert {key: after[key] for key in before} == before
    told = study.get_trials(states=(optuna.trial.TrialState.COMPLETE,))
    assert len(told) == len({str(sorted(trial.params.items())) for trial in told}) == 10


def test_a_grid_is_each_combination_of_its_steps_once() -> None:
    laboratory = Laboratory(search("grid", 1000))
    laboratory.run(5)
    laboratory.run()
    expected = [
        {RATE: pytest.approx(rate), DECAY: pytest.approx(decay), SIZE: size}
        for decay in (0.0, 0.05, 0.1)
        for rate in (1e-4, 1e-3, 1e-2, 1e-1)
        for size in (1, 5, 9)
    ]
    assert len(laboratory.sequence) == 36
    assert all(point in laboratory.sequence for point in expected)
    assert laboratory.sequence != grid_points(FLOATS)


@pytest.mark.parametrize("sampler", ["nsga2", "tpe"])
@pytest.mark.parametrize("second", ["multiply_adds", "images_per_second"])
def test_two_objectives_go_on_as_uninterrupted_and_are_told_their_own_ways(
    sampler: SamplerName, second: SecondObjective
) -> None:
    straight = replace(search(sampler, 45 if sampler == "nsga2" else 20), second=second)
    whole = Laboratory(straight)
    study = whole.run()
    parts = Laboratory(straight)
    for ends in (9, 0, 13):
        parts.run(ends)
    parts.run()
    assert parts.sequence == whole.sequence
    assert [way.name for way in study.directions] == [
        "MINIMIZE",
        "MAXIMIZE" if second == "images_per_second" else "MINIMIZE",
    ]
    assert all(trial.values[0] == error_of(trial.params) for trial in study.trials if trial.values)
    if second == "multiply_adds":
        assert len({trial.values[1] for trial in study.trials if trial.values}) == 1


def test_a_second_objective_that_was_not_measured_is_none_and_no_zero(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    values = [objective_values("multiply_adds", walk_config(0), 0.1, None, adds) for adds in (None, 0.0, 7.0)]
    assert values == [None, (0.1, 0.0), (0.1, 7.0)]
    assert objective_values("images_per_second", make_config(), 0.1, None) is None
    curve = [{"loss": 0.1, "test_loss": 0.2}]
    for seed, sizes in enumerate(({"parameters": 3.0}, {"multiply_adds": 7.0})):
        key = put_walk(tmp_path, walk_config(seed), curve, sizes=sizes)
        ends = [read_ended(tmp_path, key, second) for second in (None, "multiply_adds")]  # type: ignore[arg-type]
        assert ends == [Ended("finished", (0.1,)), (Ended("failed"), Ended("finished", (0.1, 7.0)))[seed]]
    laboratory = Laboratory(replace(search("random", 1), second="images_per_second"))
    searcher = laboratory.searcher()
    job = searcher.suggest("one")
    searcher.on_trial_complete("one", {OBJECTIVE: 0.1, "state": "finished", "images_per_second": None})
    assert [trial.state.name for trial in searcher.study.trials] == ["FAIL"]
    assert caplog.messages == [f"{job['key']} has no images_per_second: the sampler takes it as failed"]


@pytest.mark.parametrize("sampler", ["tpe", "nsga2"])
def test_a_sweep_with_stopped_points_goes_on_with_a_second_objective(sampler: SamplerName) -> None:
    laboratory = Laboratory(search("random", 6), states={1: "stopped", 4: "stopped"})
    laboratory.run()
    for key, end in laboratory.records.items():
        curve = ((1, 0.5), (2, 0.4)) if end.state == "stopped" else ()
        laboratory.records[key] = replace(end, values=end.values and (*end.values, 5.0), curve=curve)
    laboratory.search = replace(laboratory.search, sampler=sampler, second="multiply_adds", points=9)
    study = laboratory.run()
    assert len(laboratory.members) == len(laboratory.launched) == 9
    assert [trial.state.name for trial in study.trials].count("PRUNED") >= 2


def test_tpe_leaves_a_cliff_that_diverges() -> None:
    laboratory = Laboratory(search("tpe", 40))
    searcher = laboratory.searcher()
    diverged = 0
    for number in range(40):
        job = searcher.suggest(str(number))
        state = "diverged" if job["parameters"][RATE] > 0.01 else "finished"
        diverged += state == "diverged"
        searcher.on_trial_complete(str(number), {OBJECTIVE: 0.5 - job["parameters"][RATE], "state": state, "epoch": 1})
    assert diverged <= 16


def test_a_point_that_tune_stops_is_stopped_in_its_worker_and_told_with_its_curve() -> None:
    laboratory = Laboratory(search("tpe", 3))
    searcher = laboratory.searcher()
    job = searcher.suggest("a")
    for epoch, error in ((1, 0.9), (2, 0.8)):
        last = {OBJECTIVE: error, "epoch": epoch, "state": "running"}
        searcher.on_trial_result("a", last)
    searcher.on_trial_complete("a", last)
    assert laboratory.stopped == [job["key"]]
    trial = searcher.study.trials[0]
    assert trial.state.name == "PRUNED"
    assert trial.intermediate_values == {1: 0.9, 2: 0.8}


def test_a_point_on_record_is_told_and_not_trained() -> None:
    first = Laboratory(search("random", 5))
    first.run()
    second = Laboratory(search("random", 5), records=dict(first.records))
    study = second.run()
    assert second.launched == []
    assert len(second.members) == 5
    assert [trial.value for trial in study.trials] == [error_of(point) for point in first.sequence]


def test_a_point_that_another_driver_trains_is_waited_for_and_never_trained_twice() -> None:
    first = Laboratory(search("grid", 6, FINITE))
    first.run()
    done, dropped = (row["key"] for row in first.members[:2])
    laboratory = Laboratory(search("grid", 6, FINITE), elsewhere={done, dropped})
    searcher = laboratory.searcher()
    for number in range(4):
        searcher.on_trial_complete(str(number), finished(laboratory, searcher.suggest(str(number))))
    assert searcher.suggest("4") is None, "two points are left, and both are trained elsewhere"
    assert not {done, dropped} & set(laboratory.launched)
    laboratory.records[done] = first.records[done]
    laboratory.elsewhere.discard(dropped)
    job = searcher.suggest("4")
    assert job["key"] == dropped, "its driver has died"
    searcher.on_trial_complete("4", finished(laboratory, job))
    assert searcher.suggest("5") == Searcher.FINISHED
    assert sorted(laboratory.launched) == sorted(row["key"] for row in first.members if row["key"] != done)
    assert {row["key"] for row in laboratory.members} == {row["key"] for row in first.members}
    assert len(searcher.study.get_trials(states=(optuna.trial.TrialState.COMPLETE,))) == 6


def test_a_point_whose_record_comes_with_its_lock_is_taken_and_its_lock_is_freed() -> None:
    first = Laboratory(search("grid", 1, FINITE))
    first.run()
    laboratory = Laboratory(search("grid", 1, FINITE))
    take = laboratory.lock

    def ends_meanwhile(key: str) -> bool:
        laboratory.records |= first.records
        return take(key)

    laboratory.lock = ends_meanwhile  # type: ignore[method-assign]
    assert laboratory.searcher().suggest("0") == Searcher.FINISHED
    assert (laboratory.launched, laboratory.mine) == ([], set())


def finished(laboratory: Laboratory, job: dict[str, Any]) -> dict[str, Any]:
    """The result of a job, after its record."""
    error = error_of({RATE: 0.01, DECAY: 0.0, SIZE: 5, **job["parameters"]})
    laboratory.records[job["key"]] = Ended("finished", (error,))
    return {OBJECTIVE: error, "epoch": 2, "state": "finished"}
