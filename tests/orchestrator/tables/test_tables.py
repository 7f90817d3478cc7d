"""Tables are a view of the records: grown or made at once, they are the same."""

from __future__ import annotations

import json
import logging
import random
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from orchestrator.errors import LabError
from orchestrator.records import trial_record
from orchestrator.records.layout import table_folder
from orchestrator.records.trial_record import TrialState
from orchestrator.tables.rows import EPOCH_COLUMNS, MEMBER_COLUMNS, TRIAL_COLUMNS
from orchestrator.tables.tables import load_tables, load_trials, update_tables
from search_spaces.trial import PlannedTrial, configuration_key
from tests.made_records import make_config, make_report, put, read_only


def some_records(results: Path, seeds: int = 3) -> list[str]:
    keys = []
    for seed in range(seeds):
        for arm, without in (("baseline", ""), ("no_lrn", "lrn1"), ("no_pool", "pool1")):
            config = make_config(seed, without=without)
            keys.append(put(results, config, 10 + seed))
            trial = PlannedTrial(arm, seed, "arm", config, keys[-1])
            trial_record.join_members(results, "layers", "digits", [trial])
    return keys


def test_a_folder_that_is_not_there_is_no_empty_table(tmp_path: Path) -> None:
    with pytest.raises(NotADirectoryError, match="there is no results folder"):
        load_tables(tmp_path / "nowhere")


def test_rows_are_the_records_in_order_with_fixed_types(tmp_path: Path) -> None:
    keys = some_records(tmp_path)
    diverged = put(tmp_path, make_config(7), None, state=TrialState.DIVERGED, test_wrong=None, message="loss is nan")
    update_tables(tmp_path)
    trials, members, epochs = load_tables(tmp_path)
    assert trials["key"].to_list() == sorted([*keys, diverged])
    assert members["key"].sort().to_list() == sorted(keys)
    pairs = sorted([(key, epoch) for key in keys for epoch in (1, 2)] + [(diverged, 1)])
    assert epochs.select("key", "epoch").rows() == pairs
    for frame, columns in ((trials, TRIAL_COLUMNS), (members, MEMBER_COLUMNS), (epochs, EPOCH_COLUMNS)):
        assert {name: frame.schema[name] for name in columns} == columns
    row = trials.row(by_predicate=pl.col("key") == keys[0], named=True)
    assert row["configuration"] == configuration_key(make_config(5))
    assert (row["state"], row["seed"], row["data_name"]) == ("finished", 0, "digits")
    assert (row["validation_top1_errors"], row["validation_count"]) == (10, 360)
    assert row["validation_top1_error"] == 10 / 360
    assert row["test_top5_error"] == 10 / 359
    assert row["validation_loss"] == 10 * 2.5 / 360
    assert row["training.learning_rate"] == 0.01
    assert row["training.schedule.kind"] == "plateau"
    assert row["training.flips"] is False
    assert row["network.lrn1.alpha"] == 1e-3
    assert row["env_threads"] == "1"
    failed = trials.row(by_predicate=pl.col("key") == diverged, named=True)
    assert (failed["state"], failed["message"]) == ("diverged", "loss is nan")
    assert failed["validation_top1_error"] is None


def test_networks_of_different_layers_stand_in_one_table(tmp_path: Path) -> None:
    some_records(tmp_path, seeds=1)
    trials = load_tables(tmp_path).trials
    named = {row["configuration"]: row for row in trials.iter_rows(named=True)}
    without_lrn = named[configuration_key(make_config(without="lrn1"))]
    without_pool = named[configuration_key(make_config(without="pool1"))]
    assert without_lrn["network.lrn1.alpha"] is None
    assert without_lrn["network.pool1.size"] == 3.0
    assert without_pool["network.lrn1.alpha"] == 1e-3
    assert without_pool["network.pool1.size"] is None


@pytest.mark.slow
@pytest.mark.parametrize("order", range(4))
def test_tables_that_grew_equal_tables_made_at_once(tmp_path: Path, order: int) -> None:
    results = tmp_path / "results"
    configs = [
        *(make_config(seed, without=without) for seed in range(2) for without in ("", "lrn1", "fc6", "pool1")),
        make_config(0, schedule={"kind": "steps", "at": [0.5]}),
        make_config(0, data={"train_images": 500}),
    ]
    random.Random(order).shuffle(configs)
    for number, config in enumerate(configs):
        put(results, config, 10 + number)
        update_tables(results)
    grown = load_tables(results)
    update_tables(results, rebuild=True)
    made = load_tables(results)
    for one, other in zip(grown, made, strict=True):
        assert_frame_equal(one, other)
    for one, other in zip(load_trials(results), made[:2], strict=True):
        assert_frame_equal(one, other)


def test_nothing_new_writes_nothing(tmp_path: Path) -> None:
    some_records(tmp_path, seeds=1)
    update_tables(tmp_path)
    before = {path.name: path.stat().st_mtime_ns for path in table_folder(tmp_path).iterdir()}
    update_tables(tmp_path)
    assert {path.name: path.stat().st_mtime_ns for path in table_folder(tmp_path).iterdir()} == before


def test_a_result_that_changed_is_read_again_and_one_that_went_is_gone(tmp_path: Path) -> None:
    keys = some_records(tmp_path, seeds=1)
    update_tables(tmp_path)
    put(tmp_path, make_config(0), 33)
    (tmp_path / "trials" / keys[1] / "result.json").unlink()
    update_tables(tmp_path)
    trials, _, epochs = load_tables(tmp_path)
    assert trials.filter(pl.col("key") == keys[0])["validation_top1_errors"].to_list() == [33]
    assert epochs.filter(pl.col("key") == keys[0])["validation_top1_error"].to_list() == [34 / 360, 33 / 360]
    assert keys[1] not in trials["key"].to_list()
    assert keys[1] not in epochs["key"].to_list()


@pytest.mark.parametrize("name", ["trials", "members", "epochs"])
@pytest.mark.parametrize("damage", ["truncated", "empty", "text", "flipped", "columns"])
def test_a_damaged_table_is_said_in_one_line_and_made_again(
    tmp_path: Path, name: str, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    some_records(tmp_path, seeds=1)
    update_tables(tmp_path)
    whole = load_tables(tmp_path)
    path = table_folder(tmp_path) / f"{name}.parquet"
    content = path.read_bytes()
    if damage == "columns":
        pl.DataFrame({"key": ["a"], "record_stamp": [1]}).write_parquet(path)
    else:
        damaged = {
            "truncated": content[: len(content) // 2],
            "empty": b"",
            "text": b"not a table\n" * 9,
            "flipped": content[:-40] + bytes(byte ^ 255 for byte in content[-40:]),
        }
        path.write_bytes(damaged[damage])
    with caplog.at_level(logging.WARNING):
        update_tables(tmp_path)
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 1
    assert str(path) in messages[0]
    assert "made again from the records" in messages[0]
    assert "\n" not in messages[0]
    caplog.clear()
    for one, other in zip(load_tables(tmp_path), whole, strict=True):
        assert_frame_equal(one, other)
    assert not caplog.records


def test_an_update_that_was_cut_off_between_two_tables_loses_no_epoch(tmp_path: Path) -> None:
    put(tmp_path, make_config(0))
    update_tables(tmp_path)
    old = {path.name: path.read_bytes() for path in table_folder(tmp_path).glob("*.parquet")}
    put(tmp_path, make_config(1))
    update_tables(tmp_path)
    whole = load_tables(tmp_path)
    stamps = {path.name: path.stat().st_mtime_ns for path in table_folder(tmp_path).glob("*.parquet")}
    written = sorted(stamps, key=lambda name: stamps[name])
    for name in written[1:]:  # only the first of them was written
        (table_folder(tmp_path) / name).write_bytes(old[name])
    for one, other in zip(load_tables(tmp_path), whole, strict=True):
        assert_frame_equal(one, other)


def test_a_damaged_record_is_left_out_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    keys = some_records(tmp_path, seeds=1)
    path = tmp_path / "trials" / keys[0] / "result.json"
    path.write_text("{")
    with caplog.at_level(logging.WARNING):
        trials = load_tables(tmp_path).trials
    assert sorted(trials["key"]) == sorted(keys[1:])
    assert [str(path) in record.getMessage() for record in caplog.records] == [True]


def test_no_record_gives_empty_tables_of_the_right_columns(tmp_path: Path) -> None:
    trials, members, epochs = load_tables(tmp_path)
    assert (trials.height, members.height, epochs.height) == (0, 0, 0)
    assert dict(trials.schema) == dict(pl.DataFrame(schema=TRIAL_COLUMNS).schema)
    assert list(tmp_path.iterdir()) == [], "reading writes nothing"
    assert update_tables(tmp_path).trials.height == 0


def test_a_trial_that_has_not_ended_is_in_no_table(tmp_path: Path) -> None:
    folder = trial_record.open_record(tmp_path, make_config())
    trial_record.append_epoch(folder, make_report(1, 9))
    tables = load_tables(tmp_path)
    assert tables.trials.height == tables.epochs.height == 0


def test_a_membership_read_twice_is_one_row_with_its_parameters_as_json(tmp_path: Path) -> None:
    row = {"study": "s", "dataset": "digits", "arm": "sweep", "seed": 0, "key": "k", "phase": "sweep"}
    parameters = {"b": 2, "a": 0.5}
    for position in (3, 4):
        trial_record.append_members(tmp_path, "s", [{**row, "parameters": parameters, "position": position}])
    members = load_tables(tmp_path).members
    assert members["parameters"].to_list() == [json.dumps(parameters, sort_keys=True)]
    assert members["position"].to_list() == [3]


def test_a_read_only_results_folder_can_be_read(tmp_path: Path) -> None:
    keys = some_records(tmp_path, seeds=2)
    with read_only(tmp_path):
        assert load_tables(tmp_path).trials.height == len(keys)
        with pytest.raises(LabError, match=r"tables cannot be written: (Read-only|Permission)") as caught:
            update_tables(tmp_path)
    assert caught.value.exit_code == 3
    update_tables(tmp_path)
    with read_only(tmp_path):
        assert load_tables(tmp_path).epochs.height == 2 * len(keys)
