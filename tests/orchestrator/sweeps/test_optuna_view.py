"""The exported storage opens in Optuna's own tools, and says what the records say."""

from __future__ import annotations

import importlib.util
import json
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest

from orchestrator.planning.plan import Plan
from orchestrator.records.trial_record import TrialState
from orchestrator.sweeps.optuna_view import load_calls, write_view
from orchestrator.sweeps.search import Search, SearchHistory, arms_in_space, read_ended, search_history
from search_spaces.trial import PlannedTrial
from tests.made_core_records import describe, plan_walk, put_walk, study_of
from tests.made_records import put
from tests.orchestrator.sweeps.test_confirmation import DECAY, PLAN, SEARCH


def recorded(results: Path) -> tuple[Plan, Search, SearchHistory]:
    """Two seeds of three arms, and four points of which one was stopped, one diverged and one is not done."""
    for place, planned in enumerate(PLAN.trials):
        put(results, planned.config, 20 + place)
    members = []
    states = (TrialState.FINISHED, TrialState.STOPPED, TrialState.DIVERGED, None)
    for position, state in enumerate(states):
        parameters = {DECAY: 10.0 ** (-2 - position)}
        trial: PlannedTrial = SEARCH.trial(parameters)
        row = {"phase": "sweep", "arm": "sweep", "key": trial.key, "position": position, "parameters": parameters}
        members.append({**row, "told": [], "sampler": "tpe", "base": SEARCH.base_key})
        if state is not None:
            put(results, trial.config, 30 + position, state=state)

    def read(key: str) -> object:
        return read_ended(results, key)

    arms = arms_in_space(PLAN, SEARCH, read)  # type: ignore[arg-type]
    return PLAN, SEARCH, search_history(SEARCH, members, read, arms)  # type: ignore[arg-type]


@pytest.mark.slow
def test_the_view_says_of_every_trial_what_its_record_says(tmp_path: Path) -> None:
    folder = tmp_path / "studies" / "lrn"
    path = write_view(folder, tmp_path, *recorded(tmp_path))
    # 印出来的调用，原样就能用
    arms, sweep = (eval(call, {"optuna": optuna}) for call in load_calls(path, SEARCH))
    assert [(t.params["arm"], t.params["seed"]) for t in arms.trials] == [(t.arm, t.seed) for t in PLAN.trials]
    assert [trial.value for trial in arms.trials] == [(20 + place) / 360 for place in range(6)]
    last = PLAN.base.training.epochs
    assert arms.trials[0].intermediate_values == {epoch: (20 + last - epoch) / 360 for epoch in range(1, last + 1)}
    assert [trial.state.name for trial in sweep.trials] == ["COMPLETE", "COMPLETE", "PRUNED", "PRUNED"]
    # 基线就在空间里：它的两个种子取平均，作为第一个点
    assert sweep.trials[0].params == {DECAY: PLAN.base.training.weight_decay}
    assert sweep.trials[0].value == pytest.approx((20 + 23) / 2 / 360)
    assert [trial.user_attrs.get("position") for trial in sweep.trials] == [None, 0, 1, 2]
    before = path.stat().st_size
    assert write_view(folder, tmp_path, *recorded(tmp_path)).stat().st_size == before
    assert [file.name for file in folder.iterdir()] == ["optuna.db"]


LENGTH = "stride.length"


@pytest.mark.slow
@pytest.mark.parametrize(("better", "second"), [("higher", "multiply_adds"), ("lower", None)])
def test_objectives_are_shown_as_people_read_them(tmp_path: Path, better: str, second: Any) -> None:
    """A sampler minimises; who opens the view sees the metric itself, and the best trial at the better end."""
    plan = plan_walk(study_of(), 2, describe(unit="%", better=better))
    assert plan.study.sweep is not None
    search = Search("walking/sweep", plan.study.sweep, plan.base, 3, second=second)
    values = {trial.key: (trial.config, 0.5 + place / 10) for place, trial in enumerate(plan.trials)}
    members = []
    for position, value in enumerate([0.25, 0.75, 0.5]):
        parameters = {LENGTH: 0.2 + position / 10}
        trial = search.trial(parameters)
        values[trial.key] = trial.config, value
        row = {"phase": "sweep", "arm": "sweep", "key": trial.key, "position": position, "parameters": parameters}
        members.append({**row, "told": [], "sampler": "tpe", "base": search.base_key})
    for config, value in values.values():
        curve = [{"loss": value / 2, "test_loss": 9.0}, {"loss": value, "test_loss": 9.0}]
        put_walk(tmp_path, config, curve, sizes={"multiply_adds": 100 * value})  # type: ignore[arg-type]

    def read(key: str) -> object:
        return read_ended(tmp_path, key, second)

    history = search_history(search, members, read, arms_in_space(plan, search, read))  # type: ignore[arg-type]
    path = write_view(tmp_path / "studies" / "walking", tmp_path, plan, search, history)
    arms = optuna.load_study(study_name="walking/arms", storage=f"sqlite:///{path}")
    way = "MAXIMIZE" if better == "higher" else "MINIMIZE"
    assert [one.name for one in arms.directions] == [way]
    assert [trial.value for trial in arms.trials] == [0.5 + place / 10 for place in range(6)]
    assert arms.trials[0].intermediate_values == {1: 0.25, 2: 0.5}
    assert arms.best_value == (1.0 if better == "higher" else 0.5)
    sweep = optuna.load_study(study_name="walking/sweep", storage=f"sqlite:///{path}")
    assert [one.name for one in sweep.directions] == [way, *(["MINIMIZE"] if second else [])]
    # 先是落在空间里的两个 arm，各取两个种子的平均
    shown = [(0.5 + 0.8) / 2, (0.6 + 0.9) / 2, 0.25, 0.75, 0.5]
    columns = [shown, *([[100 * value for value in shown]] if second else [])]
    assert np.allclose([trial.values for trial in sweep.trials], np.transpose(columns), rtol=1e-12)
    assert [trial.user_attrs.get("position") for trial in sweep.trials] == [None, None, 0, 1, 2]


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("optuna_dashboard") is None, reason="optuna-dashboard is not installed")
def test_the_view_opens_in_optuna_dashboard(tmp_path: Path) -> None:
    path = write_view(tmp_path / "studies" / "lrn", tmp_path, *recorded(tmp_path))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = "from optuna_dashboard._cli import main; main()"
    server = subprocess.Popen(
        [sys.executable, "-c", program, f"sqlite:///{path}", "--host", "127.0.0.1", "--port", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        end = time.monotonic() + 30
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/studies", timeout=5) as answer:
                    shown = json.load(answer)
                break
            except OSError:
                assert server.poll() is None, server.stderr and server.stderr.read()
                assert time.monotonic() < end
                time.sleep(0.1)
    finally:
        server.terminate()
        server.wait(10)
        if server.stderr is not None:
            server.stderr.close()
    assert {study["study_name"] for study in shown["study_summaries"]} == {"lrn/arms", "lrn/sweep"}
