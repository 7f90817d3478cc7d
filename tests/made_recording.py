"""The real opener, tally and recorder of a plan, as the driver has them: no slot, no Ray, nothing on a terminal."""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from orchestrator.planning.estimate import EpochSeconds
from orchestrator.planning.on_record import read_on_record
from orchestrator.planning.plan import Plan
from orchestrator.planning.work_left import WorkLeft
from orchestrator.running.progress import Progress
from orchestrator.running.recording.launched import RunningTrials
from orchestrator.running.recording.opening import RecordOpener, RecordSettings
from orchestrator.running.recording.recorder import Recorder
from orchestrator.running.recording.remaining import Remaining
from orchestrator.running.recording.tally import Tally
from orchestrator.running.slots.messages import TrialEvent


class Recording(NamedTuple):
    """What opens the trials of a plan, counts them, and writes what is heard of them; and what the user would see."""

    opener: RecordOpener
    tally: Tally
    recorder: Recorder
    output: StringIO

    def hear(self, key: str, news: Any, attempt: int = 1, slot: int | None = 0) -> None:
        self.recorder.handle(TrialEvent(key, attempt, slot, news))


def make_recording(plan: Plan, results: Path, keep_weights: str = "all") -> Recording:
    """Goes on from what is on record in a results folder."""
    settings = RecordSettings(results, results / "studies" / plan.study.name, False, keep_weights, started=0.0)
    opener = RecordOpener(plan, read_on_record(results, plan.trials), settings, RunningTrials())
    remaining = Remaining(WorkLeft(), EpochSeconds(), lambda: 1)
    output = StringIO()
    display = Progress(Console(file=output, width=200), "test", None, remaining.count, remaining.time_left)
    tally = Tally(opener, display, remaining)
    return Recording(opener, tally, Recorder(opener, tally, display), output)
