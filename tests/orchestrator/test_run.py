"""Sweeps, data-parallel workers, divergence and a bug in the middle, in real runs."""

from __future__ import annotations

import json
from typing import Any

import polars as pl
import pytest

from tests.lab import Lab

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def members(lab: Lab) -> list[dict[str, Any]]:
    text = (lab.results / "studies" / "lrn" / "members.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def test_a_sweep_goes_on_where_it_stopped_and_never_asks_a_point_twice(lab: Lab) -> None:
    common = ("--study", "lrn", "--seeds", "1", "--epochs", "1", "--no-dashboard")
    code, output, errors = lab.ablate(*common, "--sweep", "2", "--workers", "2", "--slots", "1")
    assert code == 0, output + errors
    first = [row for row in members(lab) if row["phase"] == "sweep"]
    assert [row["position"] for row in first] == [0, 1]
    environments = [json.loads((lab.results / "trials" / key / "result.json").read_text()) for key in lab.finished()]
    assert {row["environment"]["workers"] for row in environments} == {2}

    code, output, errors = lab.ablate(*common, "--sweep", "4")
    assert code == 0, output + errors
    assert "7 trials wanted, 5 on record, 2 to train" in output
    points = [row for row in members(lab) if row["phase"] == "sweep"]
    assert points[:2] == first
    assert sorted(row["position"] for row in points) == [0, 1, 2, 3]
    assert len({json.dumps(row["parameters"], sort_keys=True) for row in points}) == 4
    assert {row["seed"] for row in points} == {1000}
    assert len(lab.finished()) == 7
    report = (lab.results / "studies" / "lrn" / "report.md").read_text()
    assert "Best of 4 points by validation error" in report

    code, output, errors = lab.ablate(*common, "--sweep", "4")
    assert code == 0, output + errors
    assert "7 trials wanted, 7 on record, 0 to train" in output


def test_a_diverged_trial_is_kept_shown_never_best_and_not_run_again(lab: Lab) -> None:
    common = ("--study", "lrn", "--seeds", "1", "--epochs", "2", "--no-dashboard")
    wild = ("--set", "training.learning_rate=100")
    code, output, errors = lab.ablate(*common, *wild)
    assert code == 0, output + errors
    assert "NaN or infinite" in output
    assert "python -m alexnet_core train --config" in output
    table = pl.read_parquet(lab.results / "tables" / "trials.parquet")
    assert set(table["state"]) == {"diverged"}
    code, output, errors = lab.ablate(*common, *wild)
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
