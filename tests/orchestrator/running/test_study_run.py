"""Sweeps, divergence and a bug in the middle, in real runs."""

from __future__ import annotations

import json
import signal
from typing import Any

import numpy as np
import polars as pl
import pytest

from orchestrator.records.files import TrialLocks
from tests.lab import PATIENCE, Lab, interrupted, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


def members(lab: Lab, study: str = "lrn") -> list[dict[str, Any]]:
    text = (lab.results / "studies" / study / "members.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


RATE = "training.learning_rate={kind: float, low: 1e-5, high: 0.1, log: true}"


def epochs_that_asha_allows(curves: list[list[float]], epochs: int) -> list[int]:
    """The published rule by hand, point after point: at epochs 1 and 3 the best third of those seen so far goes on."""
    seen: dict[int, list[float]] = {1: [], 3: []}
    trained = []
    for curve in curves:
        last = epochs
        for rung, errors in seen.items():
            stops = bool(errors) and -curve[rung - 1] < np.percentile([-error for error in errors], 100 * 2 / 3)
            errors.append(curve[rung - 1])
            if stops:
                last = rung
                break
        trained.append(last)
    return trained


def test_a_pruned_sweep_goes_on_where_it_stopped_and_trains_just_the_epochs_that_the_rule_allows(lab: Lab) -> None:
    common = ("--study", "lrn", "--seeds", "1", "--epochs", "4", "--no-dashboard", "--sweep-over", RATE)
    pruned = ("--sampler", "random", "--pruner", "asha", "--slots", "1")
    code, output, errors = lab.ablate(*common, *pruned, "--sweep", "2")
    assert code == 0, output + errors
    first = [row for row in members(lab) if row["phase"] == "sweep"]
    assert [row["position"] for row in first] == [0, 1]

    code, output, errors = lab.ablate(*common, *pruned, "--sweep", "8")
    assert code == 0, output + errors
    assert "11 trials wanted, 5 on record, 6 to train" in output
    lines = [line for line in output.splitlines() if line.startswith("[")]
    assert [line.split("]")[0] for line in lines] == [f"[{number}/11" for number in range(6, 12)]
    named = [line.split("] ")[1].split(":")[0] for line in lines]
    assert named == [f"sweep point {place}" for place in range(2, 8)]
    points = sorted((row for row in members(lab) if row["phase"] == "sweep"), key=lambda row: row["position"])
    assert points[:2] == first
    assert [row["position"] for row in points] == list(range(8))
    assert len({json.dumps(row["parameters"], sort_keys=True) for row in points}) == 8
    assert {row["seed"] for row in points} == {1000}
    assert len(lab.finished()) == 11

    results = [json.loads((lab.results / "trials" / row["key"] / "result.json").read_text()) for row in points]
    epochs = pl.read_parquet(lab.results / "tables" / "epochs.parquet")
    curves = [
        epochs.filter(pl.col("key") == row["key"]).sort("epoch")["validation_top1_error"].to_list() for row in points
    ]
    trained = [result["epochs"] for result in results]
    assert trained == [len(curve) for curve in curves] == epochs_that_asha_allows(curves, 4)
    assert sum(trained) < 8 * 4
    assert [result["state"] for result in results] == ["finished" if count == 4 else "stopped" for count in trained]
    assert json.loads((lab.results / "studies" / "lrn" / "sweep.json").read_text())["pruner_arguments"]["max_t"] == 4


def test_what_diverged_before_an_interruption_is_kept_shown_never_best_and_not_run_again(lab: Lab) -> None:
    common = ("--study", "lrn", "--seeds", "1", "--epochs", "2", "--slots", "1", "--no-dashboard")
    wild = (*common, "--set", "training.learning_rate=100", "--results", str(lab.results))
    process = lab.start(*wild)

    def has_tables() -> bool:
        assert process.poll() is None, process.communicate()
        return (lab.results / "tables" / "trials.parquet").is_file()

    # 最后一个 trial 之后，Ray 还开着
    wait_until(has_tables, PATIENCE, "the tables")
    line, output = interrupted(process, signal.SIGINT)
    assert "go on with the same command" in line
    wait_until(lambda: not lab.processes(), 15, "all processes gone")
    assert len(lab.finished()) == 3
    assert "NaN or infinite" in output
    assert "python -m alexnet_core train --config" in output
    table = pl.read_parquet(lab.results / "tables" / "trials.parquet")
    assert set(table["state"]) == {"diverged"}
    code, output, errors = lab.run(*wild)
    assert code == 0, output + errors
    assert "3 on record, 0 to train" in output
    assert "diverged on 1 of 1" in (lab.results / "studies" / "lrn" / "report.md").read_text()
    code, output, errors = lab.run("--results", str(lab.results), module="orchestrator.best")
    assert code == 4
    assert "no finished trial" in errors
    key = sorted(lab.finished())[0]
    code, output, errors = lab.run(key[:8], "--results", str(lab.results), module="orchestrator.status")
    assert code == 0, output + errors
    assert f"trial {key}: diverged" in output
    assert "NaN or infinite" in output


def test_ablates_at_once_of_one_study_and_of_two_over_one_grid_train_each_key_once(lab: Lab) -> None:
    grid = "training.learning_rate={kind: float, low: 1e-4, high: 0.1, log: true, steps: 4}"
    common = ("--seeds", "1", "--epochs", "6", "--no-dashboard", "--slots", "1", "--sweep", "4", "--sampler", "grid")
    where = ("--sweep-over", grid, "--results", str(lab.results))
    at_once = [lab.start("--study", study, *common, *where) for study in ("lrn", "lrn", "weight_decay")]

    def running_point() -> str | None:
        # 先到扫描的那个研究训练全部的点，另一个只是取用：两份名单都要看
        started = [path.parent.name for path in lab.results.glob("studies/*/members.jsonl")]
        keys = {row["key"] for study in started for row in members(lab, study) if row["phase"] == "sweep"}
        return min(keys - lab.finished(), default=None)

    points: list[str] = []
    wait_until(lambda: points.extend(filter(None, [running_point()])) or points, PATIENCE, "a point")
    seen = points[0]
    code, output, errors = lab.run(seen, "--results", str(lab.results), module="orchestrator.status")
    assert code == 0, output + errors
    assert f"trial {seen}: running" in output or f"trial {seen}: finished" in output
    for process in at_once:
        output, errors = process.communicate(timeout=600)
        assert process.returncode == 0, output + errors
    assert len({row["key"] for row in members(lab) if row["phase"] == "sweep"}) == 4
    attempts = [path.read_text().count("\n") for path in lab.results.glob("trials/*/attempts.jsonl")]
    assert attempts == [1] * len(lab.finished())
    with TrialLocks(lab.results) as locks:
        assert not any(locks.is_locked(key) for key in lab.finished())
