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


def test_a_pruned_sweep_goes_on_where_it_stopped_with_the_epochs_of_its_rule_beside_arms_that_diverge(
    lab: Lab,
) -> None:
    common = ("--study", "lrn", "--seeds", "1", "--epochs", "4", "--slots", "1", "--no-dashboard")
    # 每个 arm 都发散；扫描的点各有自己的学习率
    wild = (*common, "--set", "training.learning_rate=100", "--results", str(lab.results))
    pruned = (*wild, "--sweep-over", RATE, "--sampler", "random", "--pruner", "asha")
    # 先只扫描：没有 arm
    code, output, errors = lab.run(*pruned, "--sweep", "2", "--sweep-only")
    assert code == 0, output + errors
    assert output.startswith("2 points wanted, 0 on record, 2 to train, no arm")
    first = [row for row in members(lab) if row["phase"] == "sweep"]
    assert [row["position"] for row in first] == [0, 1]
    assert len(lab.finished()) == 2

    output = interrupted_after_the_last_trial(lab, 11, *pruned, "--sweep", "8")
    assert "11 trials wanted, 2 on record, 9 to train" in output
    assert "NaN or infinite" in output
    assert "python -m alexnet_core train --config" in output
    lines = [line for line in output.splitlines() if line.startswith("[")]
    assert [line.split("]")[0] for line in lines] == [f"[{number}/11" for number in range(3, 12)]
    named = [line.split("] ")[1].split(":")[0] for line in lines]
    arms = [f"{arm} seed 0" for arm in ("baseline", "no_lrn", "as_run")]
    assert named == [*arms, *(f"sweep point {place}" for place in range(2, 8))]
    points = sorted((row for row in members(lab) if row["phase"] == "sweep"), key=lambda row: row["position"])
    assert points[:2] == first
    assert [row["position"] for row in points] == list(range(8))
    assert len({json.dumps(row["parameters"], sort_keys=True) for row in points}) == 8
    assert {row["seed"] for row in points} == {1000}
    assert len(lab.finished()) == 11
    what_diverged_is_kept_shown_never_best_and_not_run_again(lab, (*pruned, "--sweep", "8"))
    its_points_trained_as_long_as_asha_allows(lab, points)


def interrupted_after_the_last_trial(lab: Lab, trials: int, *command: str) -> str:
    """Runs a command and interrupts it when all trials are in its tables, and Ray is there too; returns its output."""
    process, tables = lab.start(*command), lab.results / "tables" / "trials.parquet"

    def has_tables() -> bool:
        assert process.poll() is None, process.communicate()
        ends = [path.stat().st_mtime_ns for path in lab.results.glob("trials/*/result.json")]
        return len(ends) == trials and tables.stat().st_mtime_ns > max(ends)

    wait_until(has_tables, PATIENCE, "the tables")
    line, output = interrupted(process, signal.SIGINT)
    assert "go on with the same command" in line
    wait_until(lambda: not lab.processes(), 15, "all processes gone")
    return output


def its_points_trained_as_long_as_asha_allows(lab: Lab, points: list[dict[str, Any]]) -> None:
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


def what_diverged_is_kept_shown_never_best_and_not_run_again(lab: Lab, command: tuple[str, ...]) -> None:
    arms = {row["key"] for row in members(lab) if row["phase"] == "arm"}
    table = pl.read_parquet(lab.results / "tables" / "trials.parquet").filter(pl.col("key").is_in(arms))
    assert table["state"].to_list() == ["diverged"] * 3
    code, output, errors = lab.run(*command)
    assert code == 0, output + errors
    assert "11 on record, 0 to train" in output
    assert "diverged on 1 of 1" in (lab.results / "studies" / "lrn" / "report.md").read_text()
    code, output, errors = lab.run("--results", str(lab.results), "--json", module="orchestrator.best")
    assert code == 0, output + errors
    ranked = {row["configuration"] for row in json.loads(output)["configurations"]}
    assert len(ranked) >= 1
    assert ranked.isdisjoint(table["configuration"])
    key = sorted(arms)[0]
    code, output, errors = lab.run(key[:8], "--results", str(lab.results), module="orchestrator.status")
    assert code == 0, output + errors
    assert f"trial {key}: diverged" in output
    assert "NaN or infinite" in output


def test_ablates_at_once_of_one_study_and_of_two_over_one_grid_train_each_key_once(lab: Lab) -> None:
    grid = "training.learning_rate={kind: float, low: 1e-4, high: 0.1, log: true, steps: 4}"
    common = ("--seeds", "1", "--epochs", "2", "--no-dashboard", "--slots", "1", "--sweep", "4", "--sampler", "grid")
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
