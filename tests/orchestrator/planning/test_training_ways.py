"""Trials that other workers or devices trained are named before anything is trained beside them."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.ablate import main
from orchestrator.tables.tables import update_tables
from search_spaces.study import load_study
from tests.made_plans import make_plan
from tests.made_records import put

PLAN = make_plan(load_study("lrn"), 3)


def lines(results: Path, capsys: pytest.CaptureFixture[str], *options: str) -> list[str]:
    capsys.readouterr()
    common = ["--study", "lrn", "--seeds", "3", "--gpus-per-worker", "0", "--dry-run", "--results", str(results)]
    assert main([*common, *options]) == 0
    return [line for line in capsys.readouterr().out.splitlines() if "pairs across" in line]


def test_the_plan_says_which_trials_will_not_be_paired_with_those_it_trains(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    two = {"workers": 2, "device_name": "cpu"}
    for trial in PLAN.trials[:4]:
        put(tmp_path, trial.config, environment=two)
    put(tmp_path, PLAN.trials[4].config, environment={"workers": 1, "device_name": "H100"})
    put(tmp_path, PLAN.trials[5].config, environment={"torch": "2"})
    expected = [
        "note: 4 trials on record were trained by 2 workers on the CPU, the rest would be by 1 worker on the CPU: "
        "pairs across the two are not compared",
        "note: 1 trial on record was trained by 1 worker on GPUs, the rest would be by 1 worker on the CPU: "
        "pairs across the two are not compared",
    ]
    # 一次是被打断的研究留下的，还没有写进表
    assert sorted(lines(tmp_path, capsys)) == sorted(expected)
    update_tables(tmp_path)
    assert sorted(lines(tmp_path, capsys)) == sorted(expected)
    assert len(lines(tmp_path, capsys, "--workers", "2", "--slots", "1")) == 1


def test_nothing_is_said_where_nothing_is_trained_or_nothing_is_known(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert lines(tmp_path, capsys) == []
    for trial in PLAN.trials:
        put(tmp_path, trial.config, environment={"workers": 2, "device_name": "cpu"})
    update_tables(tmp_path)
    assert lines(tmp_path, capsys) == []
