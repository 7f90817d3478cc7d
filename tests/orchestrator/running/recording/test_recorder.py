"""What the recorder writes of a trial, from what it hears of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.records import layout
from orchestrator.running.slots.messages import End, Notice, Retry, Started, TrialNews
from orchestrator.running.workers.alexnet_trial import epoch_news
from orchestrator.tables.tables import load_trials
from search_spaces.study import load_study
from tests.made_core_records import plan_walk, study_of
from tests.made_plans import make_plan
from tests.made_recording import make_recording
from tests.made_records import make_report


@pytest.mark.parametrize(
    ("beginnings", "before"),
    [([0], "0"), ([2], "2"), ([0, 0], "0"), ([0, 3], "3")],
    ids=["straight", "resumed", "died before its first epoch", "died after three"],
)
def test_a_result_says_how_many_epochs_earlier_attempts_have_trained(
    tmp_path: Path, beginnings: list[int], before: str
) -> None:
    plan = make_plan(load_study("lrn"), 1)
    recording = make_recording(plan, tmp_path)
    attempt = recording.opener.open(plan.trials[0], None).attempt
    epochs = plan.trials[0].config.training.epochs  # type: ignore[union-attr]
    history = [epoch_news(make_report(epoch, 5)) for epoch in range(1, epochs + 1)]
    news: list[TrialNews | Retry] = []
    for place, first in enumerate(beginnings):
        last = beginnings[place + 1] if place + 1 < len(beginnings) else epochs
        news += [*([Retry()] if place else []), Started(tuple(history[:first])), *history[first:last]]
    for one in (*news, End("finished", environment={"session": "this one"})):
        recording.hear(plan.trials[0].key, one, attempt)
    (row,) = load_trials(tmp_path).trials.iter_rows(named=True)
    assert (row["env_epochs_before"], row["epochs"], row["seconds"]) == (before, epochs, 0.5 * epochs)


def test_a_notice_is_said_once_in_a_study_and_a_core_does_not_read_the_data(tmp_path: Path) -> None:
    plan = plan_walk(study_of(), 2)
    recording = make_recording(plan, tmp_path)
    text = "core walk: a state is 104 MB"
    for trial in plan.trials[:2]:
        attempt = recording.opener.open(trial, None).attempt
        for news in (Started(), Notice(text), Notice(text)):
            recording.hear(trial.key, news, attempt)
    lines = recording.output.getvalue().splitlines()
    assert lines == ["importing core walk, which then prepares its training", f"note: {text}"]
    logs = [(layout.trial_folder(tmp_path, trial.key) / "log.txt").read_text() for trial in plan.trials[:2]]
    assert [log.count(text) for log in logs] == [1, 0]
