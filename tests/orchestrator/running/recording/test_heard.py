"""What the recorder hears of a trial: when it counts as running, and what it does with news that nobody knows."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import LabError
from orchestrator.records.layout import trial_folder
from orchestrator.running.slots.messages import End, Retry, Started, Submission
from orchestrator.running.status.facts import study_states
from search_spaces.study import load_study
from tests.made_plans import make_plan
from tests.made_recording import make_recording
from tests.orchestrator.test_status import HOLDER, REPOSITORY


class Run:
    """The real opener and recorder of a study of which nothing is on record; no slot, and no Ray."""

    def __init__(self, results: Path) -> None:
        self.plan, self.results = make_plan(load_study("lrn"), 1, epochs=2), results
        self.recording = make_recording(self.plan, results, keep_weights="none")
        self.opener, self.recorder = self.recording.opener, self.recording.recorder

    def hear(self, submission: Submission, news: Any, attempt: int = 1, slot: int | None = 0) -> None:
        self.recording.hear(submission.key, news, attempt, slot)

    def state(self, submission: Submission) -> str:
        return study_states(self.results, [{"key": submission.key}], {})[submission.key]


@contextmanager
def held(results: Path, key: str) -> Iterator[None]:
    """Another process has locked the trial, as its driver does."""
    command = [sys.executable, "-c", HOLDER, str(results), key]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, cwd=REPOSITORY, text=True, **pipes) as holder:  # type: ignore[call-overload]
        assert holder.stdout.readline().strip() == "True"
        yield
        holder.kill()


def test_a_trial_counts_as_running_from_the_moment_a_slot_has_begun_it(tmp_path: Path) -> None:
    run = Run(tmp_path)
    submission = run.opener.open(run.plan.trials[0], None)
    with held(tmp_path, submission.key):
        assert run.state(submission) == "waiting", "opened and locked, but it still waits for a slot"
        run.hear(submission, Started())
        assert run.state(submission) == "running"
        run.hear(submission, Retry(), attempt=2, slot=None)
        assert run.state(submission) == "running", "the next worker is on its way"
        run.hear(submission, End("interrupted"), attempt=2)
        # 下一个命令打开了它，它又在门口等
        again = run.opener.open(run.plan.trials[0], None)
        assert run.state(again) == "interrupted"
        run.hear(again, Started(), attempt=3)
        assert run.state(again) == "running"
    assert run.state(again) == "interrupted"


def test_news_of_an_unknown_kind_are_one_clear_line_and_change_no_record(tmp_path: Path) -> None:
    run = Run(tmp_path)
    submission = run.opener.open(run.plan.trials[0], None)
    run.hear(submission, Started())
    folder = trial_folder(tmp_path, submission.key)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for news in ({"kind": "epoch", "number": 3}, None, "x" * 1000):
        with pytest.raises(LabError, match="a worker sent what this driver does not know: ") as caught:
            run.hear(submission, news)
        assert caught.value.exit_code == 3
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 450
        assert "finished trials are on record" in str(caught.value)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert run.recorder.running.get(submission.key) is not None, "it is still followed"
