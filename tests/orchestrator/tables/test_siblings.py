"""Copies, swaps and records that disagree about the data change no number, and are named once."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from orchestrator import best
from orchestrator.judging.judge import answer
from orchestrator.records.layout import table_folder, trial_folder
from orchestrator.tables.tables import load_tables, load_trials, rows_from_records, update_tables
from search_spaces.study import load_study
from tests.made_plans import make_plan, make_plan_file
from tests.made_records import errors, make_config, put


def edit(results: Path, key: str, **changes: Any) -> None:
    path = trial_folder(results, key) / "result.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize("is_written", [False, True])
def test_a_copied_record_is_no_further_seed_and_a_swapped_one_stands_under_no_arm(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, is_written: bool
) -> None:
    keys = [put(tmp_path, make_config(seed), 10 + seed) for seed in range(4)]
    if is_written:
        update_tables(tmp_path)
    trials = tmp_path / "trials"
    for name in (f"{keys[0]}.bak", "0123456789abcdef0123"):
        shutil.copytree(trials / keys[0], trials / name)
    results = [trials / key / "result.json" for key in keys[2:]]
    contents = [path.read_text() for path in results]
    for path, content in zip(results, reversed(contents), strict=True):
        path.write_text(content)
    tables = load_tables(tmp_path)
    assert sorted(tables.trials["key"]) == sorted(keys[:2])
    assert set(tables.epochs["key"]) == set(keys[:2])
    for name in (f"{keys[0]}.bak", "0123456789abcdef0123", keys[2], keys[3]):
        assert any(name in message for message in caplog.messages)


def test_the_tables_of_a_version_that_took_a_copy_are_made_again(tmp_path: Path) -> None:
    keys = [put(tmp_path, make_config(seed)) for seed in range(2)]
    update_tables(tmp_path)
    path = table_folder(tmp_path) / "trials.parquet"
    table = pl.read_parquet(path)
    pl.concat([table, table.head(1)]).write_parquet(path)
    assert load_trials(tmp_path).trials["key"].to_list() == sorted(keys)


IMAGES: list[tuple[dict[str, Any], str]] = [
    (
        {"test": json.loads(errors(1, 3).model_dump_json())},
        "3 test images, where most trials on the same data have 359",
    ),
    ({"test": None}, "no test images, where most trials on the same data have 359"),
    ({"validation": json.loads(errors(1, 36).model_dump_json())}, "36 validation images, where most .* have 360"),
    ({"train": json.loads(errors(1, 36).model_dump_json())}, "36 train images, where most .* have 1078"),
]


@pytest.mark.parametrize(("changes", "reason"), IMAGES)
def test_a_record_of_other_numbers_of_images_is_left_out_and_named_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, changes: Any, reason: str
) -> None:
    keys = [put(tmp_path, make_config(seed), 10 + seed) for seed in range(3)]
    edit(tmp_path, keys[1], **changes)
    expected = sorted([keys[0], keys[2]])
    assert rows_from_records(tmp_path, keys).trials["key"].to_list() == expected
    caplog.clear()
    assert best.main(["--results", str(tmp_path), "--rebuild"]) == 0
    (line,) = caplog.messages
    assert re.search(reason, line)
    assert keys[1] in line
    before = {path.name: path.stat().st_mtime_ns for path in table_folder(tmp_path).iterdir()}
    assert update_tables(tmp_path).trials["key"].to_list() == expected
    assert {path.name: path.stat().st_mtime_ns for path in table_folder(tmp_path).iterdir()} == before


@pytest.mark.parametrize("arm", ["baseline", "no_lrn"])
def test_a_record_without_test_images_does_not_move_the_answer_to_validation(tmp_path: Path, arm: str) -> None:
    plan = make_plan(load_study("lrn"), 3, epochs=2)
    for trial in plan.trials:
        put(tmp_path, trial.config, 20, test_wrong=None if (trial.arm, trial.seed) == (arm, 2) else 30)
    rows = [{"arm": one.arm, "seed": one.seed, "key": one.key, "phase": "arm", "views": 1} for one in plan.trials]
    content = {"dataset": "digits", "alpha": 0.05, "planned_seeds": 3, "looks": [], "trials": rows}
    trials, members, epochs = load_tables(tmp_path)
    result = answer(plan.study, plan.recipe, make_plan_file(content), trials, members.clear(), epochs)
    assert (result.judged_split, result.images, result.seeds) == ("test", 359, 2)
    assert result.missing == (f"{arm} seed 2",)
    assert result.arms[0].mean == pytest.approx(100 * 30 / 359)


def test_other_data_have_other_numbers_and_of_two_that_disagree_none_is_right(tmp_path: Path) -> None:
    other = put(tmp_path, make_config(0, data={"digest": "1" * 64}))
    edit(tmp_path, other, test=json.loads(errors(1, 3).model_dump_json()))
    fewer = put(tmp_path, make_config(0, data={"train_images": 500}))
    edit(tmp_path, fewer, train=json.loads(errors(1, 500).model_dump_json()))
    assert sorted(load_trials(tmp_path).trials["key"]) == sorted([other, fewer])
    third = put(tmp_path, make_config(1, data={"digest": "1" * 64}))
    assert load_trials(tmp_path).trials["key"].to_list() == [fewer]
    put(tmp_path, make_config(2, data={"digest": "1" * 64}))
    assert other not in load_trials(tmp_path).trials["key"]
    assert third in load_trials(tmp_path).trials["key"]
