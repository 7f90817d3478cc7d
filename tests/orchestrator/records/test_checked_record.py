"""A record counts as the trial that its folder, its configuration and its result name alike, or not at all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from alexnet_core.configuration.train_config import StepSchedule
from orchestrator.errors import LabError
from orchestrator.records.checked_record import ended_curve, read_curve, read_own_config, read_record
from orchestrator.records.layout import trial_folder
from orchestrator.records.trial_record import TrialState, read_result, recorded_keys
from orchestrator.sweeps.search import read_ended
from orchestrator.tables.tables import done_states, load_tables
from tests.made_core_records import put_walk, walk_config
from tests.made_records import make_config, put

GOLDEN = Path(__file__).parents[2] / "golden" / "first-release"


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def swap(one: Path, other: Path) -> None:
    moved = one.rename(one.with_suffix(".moved"))
    other.rename(one)
    moved.rename(other)


def test_every_record_of_the_first_release_is_what_its_name_says() -> None:
    keys = recorded_keys(GOLDEN)
    records = {key: read_record(trial_folder(GOLDEN, key)) for key in keys}
    assert len(keys) == 6
    assert all(record is not None and record.result.key == key for key, record in records.items())
    for key, record in records.items():
        assert record is not None
        assert ended_curve(trial_folder(GOLDEN, key), record.result).misfit == ""


LINES = Callable[[list[bytes]], list[bytes]]


@pytest.mark.parametrize(
    ("damage", "misfit"),
    [
        (lambda lines: lines, ""),
        (lambda lines: [*lines, lines[-1], lines[0][:40]], ""),
        (lambda lines: [], "has 0 {whats}, its result.json 3"),
        (lambda lines: lines[:2], "has 2 {whats}, its result.json 3"),
        (lambda lines: [lines[0], lines[1][:-9], lines[2]], "has 2 {whats}, its result.json 3"),
        (lambda lines: [*lines, renumbered(lines[2], 4)], "has 4 {whats}, its result.json 3"),
        (lambda lines: [lines[0], lines[1], renumbered(lines[2], 4)], "lacks {what} 3"),
        (lambda lines: [*lines[:2], renumbered(lines[0], 3)], "is not that of its result.json: the last {what} has"),
    ],
    ids=["whole", "torn and repeated", "emptied", "cut", "a torn line within", "overlong", "gappy", "another's"],
)
@pytest.mark.parametrize("what", ["epoch", "report"])
def test_a_curve_is_that_of_its_result_or_none(tmp_path: Path, what: str, damage: LINES, misfit: str) -> None:
    if what == "epoch":
        key = put(tmp_path, make_config(0, epochs=3))
    else:
        key = put_walk(tmp_path, walk_config(0), [{"loss": 1 / n, "test_loss": 2 / n} for n in (1, 2, 3)])
    path = trial_folder(tmp_path, key) / "epochs.jsonl"
    path.write_bytes(b"".join(line + b"\n" for line in damage(path.read_bytes().splitlines())))
    record = read_record(path.parent)
    assert record is not None
    curve = ended_curve(path.parent, record.result)
    assert curve.misfit.startswith(misfit.format(what=what, whats=f"{what}s"))
    assert bool(curve.misfit) == bool(misfit)
    assert [report.epoch for report in read_curve(path.parent)] == ([] if misfit else [1, 2, 3])
    loaded = load_tables(tmp_path)
    assert (loaded.trials["curve"].to_list(), loaded.epochs.height) == ([curve.misfit or None], 0 if misfit else 3)


def renumbered(line: bytes, number: int) -> bytes:
    return json.dumps({**json.loads(line), "epoch": number}).encode()


def test_a_copy_under_another_key_is_named_by_every_reader(tmp_path: Path) -> None:
    key, copy = put(tmp_path, make_config(0)), "0123456789abcdef0123"
    shutil.copytree(tmp_path / "trials" / key, tmp_path / "trials" / copy)
    folder = trial_folder(tmp_path, copy)
    for read in (
        lambda: read_record(folder),
        lambda: read_result(folder),
        lambda: done_states(tmp_path, [copy]),
        lambda: read_ended(tmp_path, copy),
    ):
        with pytest.raises(LabError, match=rf"result.json is that of another trial \({key}\); move the folder away"):
            read()
    edit(folder / "result.json", key=copy)
    with pytest.raises(LabError, match=f"its configuration is that of trial {key}; move the folder away"):
        read_record(folder)
    (folder / "result.json").unlink()
    with pytest.raises(LabError, match=f"its configuration is that of trial {key}"):
        read_own_config(folder)


def test_a_folder_of_another_name_is_no_trial_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    key = put(tmp_path, make_config(0))
    for name in (f"{key}.bak", "copy"):
        shutil.copytree(tmp_path / "trials" / key, tmp_path / "trials" / name)
    assert recorded_keys(tmp_path) == [key]
    assert caplog.messages == [
        f"left out: {key}.bak, copy in {tmp_path / 'trials'}, not named by trials' keys; move them away"
    ]


@pytest.mark.parametrize("name", ["result.json", "config.json"])
def test_two_records_whose_files_were_swapped_are_both_named(tmp_path: Path, name: str) -> None:
    folders = [trial_folder(tmp_path, put(tmp_path, config)) for config in (make_config(0), make_config(1))]
    swap(*(folder / name for folder in folders))
    for folder in folders:
        with pytest.raises(LabError, match="is that of"):
            read_record(folder)


IMPOSSIBLE: list[tuple[dict[str, Any], str]] = [
    ({"epochs": 300}, "has 300 epochs, its configuration 2"),
    ({"epochs": 1}, "has 1 epoch, its configuration 2"),
    ({"seed": 8}, "its result.json is that of another trial"),
    ({"state": "diverged"}, r"says diverged after its last epoch \(2\)"),
    ({"state": "diverged", "epochs": 1}, "has a test error after 1 of 2 epochs"),
    ({"state": "diverged", "epochs": 0, "test": None}, "has errors after no epoch"),
    ({"validation": None}, "says finished, and has no validation error"),
    ({"weights": "checkpoint/0001-000002-00000000.safetensors"}, "names weights without their SHA-256"),
    ({"seconds": float("inf")}, "is damaged: seconds"),
    ({"test": {"loss_sum": float("nan"), "top1_errors": 3, "top5_errors": 1, "count": 9}}, "is damaged: test.loss_sum"),
    ({"test": {"loss_sum": 1.0, "top1_errors": 3, "top5_errors": 4, "count": 9}}, "4 top-5 errors in test, more than"),
    ({"test": {"loss_sum": 1.0, "top1_errors": 10, "top5_errors": 4, "count": 9}}, "9 images cannot have 10"),
]


@pytest.mark.parametrize(("changes", "reason"), IMPOSSIBLE)
def test_what_no_training_of_the_configuration_gives_is_named(
    tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    folder = trial_folder(tmp_path, put(tmp_path, make_config(0)))
    edit(folder / "result.json", **changes)
    with pytest.raises(LabError, match=reason):
        read_record(folder)


def test_a_trial_that_holds_nothing_out_has_a_test_error_and_no_validation_error(tmp_path: Path) -> None:
    config = make_config(0, data={"holds_out": False}, schedule=StepSchedule())
    folder = trial_folder(tmp_path, put(tmp_path, config, None))
    record = read_record(folder)
    assert record is not None
    assert record.outcome == ("finished", None)
    test = record.result.test
    assert test is not None
    edit(folder / "result.json", validation=test.model_dump())
    with pytest.raises(LabError, match="has a validation error, and its configuration holds no image out"):
        read_record(folder)
    edit(folder / "result.json", validation=None, test=None)
    with pytest.raises(LabError, match="has no test error, though its configuration holds no image out"):
        read_record(folder)


@pytest.mark.parametrize("state", list(TrialState))
def test_a_trial_that_ended_early_has_the_numbers_of_its_epochs(tmp_path: Path, state: TrialState) -> None:
    folder = trial_folder(tmp_path, put(tmp_path, make_config(0, epochs=3), state=state))
    record = read_record(folder)
    assert record is not None
    assert record.result.epochs == (3 if state is TrialState.FINISHED else 2)
    assert record.result.validation is not None
