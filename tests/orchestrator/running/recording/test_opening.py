"""What becomes of a record that is no answer when its trial is opened again."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from orchestrator import ablate
from orchestrator.planning.on_record import read_on_record
from orchestrator.records.layout import LEFT_OUT, trial_folder
from search_spaces.study import load_study
from tests.made_plans import make_plan
from tests.made_recording import make_recording
from tests.made_records import errors, put


def test_a_record_that_does_not_fit_the_others_is_trained_anew_and_kept_beside(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    plan = make_plan(load_study("lrn"), 3, epochs=2)
    odd = plan.trials[1]
    for trial in plan.trials:
        put(tmp_path, trial.config, test=errors(1, 3) if trial is odd else errors(30, 359))
    folder, content = trial_folder(tmp_path, odd.key), (trial_folder(tmp_path, odd.key) / "result.json").read_bytes()
    assert ablate.main(["--seeds", "3", "--epochs", "2", "--dry-run", "--results", str(tmp_path)]) == 0
    reason = "3 test images, where most trials on the same data have 359"
    output = capsys.readouterr().out
    assert f"note: {odd.key}: {reason}: trained anew, what is on record moves to {LEFT_OUT}/" in output
    assert "9 trials wanted, 8 on record, 1 to train" in output
    assert not (tmp_path / LEFT_OUT).exists()
    assert caplog.messages == [], "it is said once"
    opener, tally, *_ = make_recording(plan, tmp_path)
    on_record = opener.on_record
    assert [trial.key for trial in on_record.missing(plan.trials)] == [odd.key]
    assert on_record.epochs_left(odd) == 2, "nothing of it is gone on with"
    tally.begin("arm", plan.trials)
    assert not tally.taken_from_record(odd)
    with caplog.at_level(logging.WARNING):
        submitted = [opener.open(trial, None) for trial in (odd, odd)]
    assert [one.attempt for one in submitted] == [1, 2], "what is opened again is the new one"
    (kept,) = (tmp_path / LEFT_OUT).iterdir()
    assert ((kept / "result.json").read_bytes(), (folder / "result.json").exists()) == (content, False)
    (said,) = caplog.messages
    assert said == f"trial {odd.key} is trained anew: its record ({reason}) lies in {kept}"
    assert said in (folder / "log.txt").read_text()
    # 别的驱动刚写完一个合群的：留着它
    put(tmp_path, odd.config)
    assert tally.taken_from_record(odd)
    opener.open(odd, None)
    assert (folder / "result.json").exists()


def test_records_that_tie_are_all_trained_anew_whatever_is_moved_first(tmp_path: Path) -> None:
    plan = make_plan(load_study("lrn"), 2, epochs=2)
    for place, trial in enumerate(plan.trials):
        put(tmp_path, trial.config, test=errors(1, 3) if place % 2 else errors(30, 359))
    opener, tally, *_ = make_recording(plan, tmp_path)
    assert (len(opener.on_record.odd), opener.on_record.done) == (6, {})
    for trained, trial in enumerate(plan.trials):
        assert [tally.taken_from_record(one) for one in plan.trials[trained:]] == [False] * (6 - trained)
        opener.open(trial, None)
        put(tmp_path, trial.config, test=errors(30, 359))
        # 练好的新记录不再搬走
        assert tally.taken_from_record(trial)
    assert len(list((tmp_path / LEFT_OUT).iterdir())) == 6
    assert read_on_record(tmp_path, plan.trials).odd == {}


def test_a_copy_under_another_key_is_named_before_anything_is_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    plan = make_plan(load_study("lrn"), 1, epochs=2)
    key = put(tmp_path, plan.trials[0].config)
    copy = trial_folder(tmp_path, key).rename(trial_folder(tmp_path, "0123456789abcdef0123"))
    assert put(tmp_path, plan.trials[0].config) == key
    assert ablate.main(["--seeds", "1", "--epochs", "2", "--dry-run", "--results", str(tmp_path)]) == 0
    assert "1 on record, 2 to train" in capsys.readouterr().out
    (said,) = caplog.messages
    assert (
        said
        == f"left out of the tables: {copy}: its result.json is that of another trial ({key}); move the folder away"
    )
