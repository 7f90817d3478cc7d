"""Which images a trial got right: kept with its result, told from damage, and absent from older records."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from alexnet_core.configuration.correct_images import CorrectImages, packed
from orchestrator.errors import LabError
from orchestrator.records import trial_record
from orchestrator.records.evaluations import keep_correct_images, leave_correct_images, read_correct_images
from orchestrator.records.trial_record import TrialResult
from orchestrator.tables.tables import update_tables
from tests.made_records import images_of, make_config, put


@pytest.fixture
def record(tmp_path: Path) -> tuple[Path, TrialResult]:
    """A finished trial as older versions wrote it."""
    folder = tmp_path / "trials" / put(tmp_path, make_config(0), 20)
    result = trial_record.read_result(folder)
    assert result is not None
    return folder, result


def test_what_a_worker_left_becomes_part_of_the_record(record: tuple[Path, TrialResult]) -> None:
    folder, result = record
    old = (folder / "result.json").read_bytes()
    assert "correct_sha256" not in json.loads(old), "a result without it is written as ever"
    assert read_correct_images(folder, result) == ()
    assert keep_correct_images(folder, result) == result, "nothing was left"
    leave_correct_images(folder, images_of(result))
    kept = keep_correct_images(folder, result)
    trial_record.write_result(folder, kept)
    trial_record.tidy(folder, keep_weights="none")
    again = trial_record.read_result(folder)
    assert again == kept
    for one, expected in zip(read_correct_images(folder, kept), images_of(result), strict=True):
        assert (one.split, one.views, one.correct.tolist()) == (expected.split, 1, expected.correct.tolist())
    assert list((folder / "checkpoint").iterdir()) == []
    # 杀在收进记录之后、写结果之前：下一次照样收得到
    leave_correct_images(folder, images_of(result))
    assert keep_correct_images(folder, result) == kept


def test_images_of_another_count_or_torn_ones_are_not_kept(record: tuple[Path, TrialResult]) -> None:
    folder, result = record
    validation, test = images_of(result)
    flipped = test.correct.copy()
    flipped[0] = not flipped[0]
    for sets in (
        [validation],
        [test, validation],
        [validation, CorrectImages("test", 1, flipped)],
        [validation, CorrectImages("test", 10, test.correct)],
        [validation, CorrectImages("test", 1, test.correct[test.correct])],
    ):
        leave_correct_images(folder, sets)
        assert keep_correct_images(folder, result) == result
    path = folder / "checkpoint" / "correct.bin"
    path.write_bytes(packed(images_of(result))[:-1])
    (folder / "correct.bin").write_bytes(b"of an attempt before")
    assert keep_correct_images(folder, result) == result
    assert not (folder / "correct.bin").exists()


def test_damage_is_named_to_readers(record: tuple[Path, TrialResult]) -> None:
    folder, result = record
    leave_correct_images(folder, images_of(result))
    kept = keep_correct_images(folder, result)
    trial_record.write_result(folder, kept)
    path = folder / "correct.bin"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 128]))
    with pytest.raises(LabError, match="is not the file that was recorded: its SHA-256 differs"):
        read_correct_images(folder, kept)
    path.unlink()
    with pytest.raises(LabError, match=r"correct\.bin cannot be read: No such file or directory"):
        read_correct_images(folder, kept)
    path.write_bytes(content)
    other = kept.model_copy(update={"test": kept.validation})
    with pytest.raises(LabError, match=r"images wrong, result\.json counts others"):
        read_correct_images(folder, other)


def test_a_result_that_its_own_images_contradict_counts_nowhere(
    record: tuple[Path, TrialResult], caplog: pytest.LogCaptureFixture
) -> None:
    folder, result = record
    results = folder.parents[1]
    leave_correct_images(folder, images_of(result))
    kept = keep_correct_images(folder, result)
    trial_record.write_result(folder, kept)
    assert update_tables(results).trials["test_top1_errors"].to_list() == [30]
    assert kept.test is not None
    for changed in ({"top1_errors": 20}, {"count": 3590}):
        other = kept.model_copy(update={"test": kept.test.model_copy(update=changed)})
        trial_record.write_result(folder, other)
        assert update_tables(results).trials.is_empty()
        why = "correct.bin has 30 of 359 test images wrong, result.json counts others; move the folder away"
        assert f"left out of the tables: {folder}: {why}" in caplog.text
    # 少了那个文件，记录仍是记录
    (folder / "correct.bin").unlink()
    trial_record.write_result(folder, kept)
    assert update_tables(results).trials.height == 1


def test_seconds_that_nobody_measured_are_damage(record: tuple[Path, TrialResult]) -> None:
    folder, result = record
    trial_record.write_result(folder, result.model_copy(update={"seconds": 1e300}))
    with pytest.raises(LabError, match=r"result.json is damaged: seconds: must be at most 1e\+12, not 1e\+300"):
        trial_record.read_result(folder)
