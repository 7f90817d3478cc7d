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

import optuna
import pytest

from orchestrator.planning.plan import Plan
from orchestrator.records.trial_record import TrialState
from orchestrator.sweeps.optuna_view import write_view
from orchestrator.sweeps.search import Search, SearchHistory, arms_in_space, read_ended, search_history
from search_spaces.trial import PlannedTrial
from tests.made_records import put
from tests.orchestrator.sweeps.test_confirmation import DECAY, PLAN, SEARCH


def recorded(results: Path) -> tuple[Plan, Search, SearchHistory]:
    """Two seeds of three arms, and four points of which one was stopped, one diverged and one is not done."""
    for place, trial in enumerate(PLAN.trials):
        put(results, trial.config, 20 + place)
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
    arms = optuna.load_study(study_name="lrn/arms", storage=f"sqlite:///{path}")
    assert [(t.params["arm"], t.params["seed"]) for t in arms.trials] == [(t.arm, t.seed) for t in PLAN.trials]
    assert [trial.value for trial in arms.trials] == [(20 + place) / 360 for place in range(6)]
    last = PLAN.base.training.epochs
    assert arms.trials[0].intermediate_values == {epoch: (20 + last - epoch) / 360 for epoch in range(1, last + 1)}
    sweep = optuna.load_study(study_name="lrn/sweep", storage=f"sqlite:///{path}")
    assert [trial.state.name for trial in sweep.trials] == ["COMPLETE", "COMPLETE", "PRUNED", "PRUNED"]
    # 基线就在空间里：它的两个种子取平均，作为第一个点
    assert sweep.trials[0].params == {DECAY: PLAN.base.training.weight_decay}
    assert sweep.trials[0].value == pytest.approx((20 + 23) / 2 / 360)
    assert [trial.user_attrs.get("position") for trial in sweep.trials] == [None, 0, 1, 2]
    before = path.stat().st_size
    assert write_view(folder, tmp_path, *recorded(tmp_path)).stat().st_size == before
    assert [file.name for file in folder.iterdir()] == ["optuna.db"]


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
