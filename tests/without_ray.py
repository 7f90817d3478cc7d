"""The real commands with no process of Ray's: `python -m tests.without_ray` takes the arguments of `ablate`.

One process trains one trial after the other; plan, records, tables, answer and report are the product's.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import torch
from rich.console import Console

import orchestrator.ablate
import orchestrator.asking.ask
import orchestrator.running.cluster.lifecycle
from orchestrator.planning.estimate import EpochSeconds
from orchestrator.records.files import TrialLocks
from orchestrator.request import Request
from orchestrator.running.agenda import Agenda, Ran
from orchestrator.running.progress import Progress
from orchestrator.running.recording.launched import RunningTrials
from orchestrator.running.recording.opening import RecordOpener, RecordSettings
from orchestrator.running.recording.recorder import Recorder
from orchestrator.running.recording.remaining import Remaining
from orchestrator.running.recording.tally import Tally
from orchestrator.running.slots.messages import Job, TrialEvent, TrialNews
from orchestrator.running.slots.trial_queue import Trial
from orchestrator.running.workers.slot_loop import trial_end
from orchestrator.running.workers.watchdog import Place


class Listener:
    """Stands where a worker's watch stands: news go straight to the recorder, and nobody stops a trial."""

    stop_state: str | None = None
    is_poisoned = False

    def __init__(self, handle: Callable[[TrialEvent], None], job: Job) -> None:
        self._handle, self._job = handle, job

    def post(self, news: TrialNews) -> None:
        self._handle(TrialEvent(self._job.key, self._job.attempt, 0, news))

    def should_stop(self) -> bool:
        return False

    def is_stopped(self) -> bool:
        return False

    def beat(self) -> None:
        pass

    def report(self) -> None:
        pass

    def report_and_end(self) -> None:
        raise


def run_without_ray(agenda: Agenda, request: Request, console: Console, *_: object) -> Ran:
    """Takes the place of `session.run_missing`: the real recorder and the real worker, one after the other."""
    plan, store = agenda.plan, request.store
    settings = RecordSettings(
        results=store.results,
        folder=agenda.folder,
        retry_failed=store.retry_failed,
        keep_weights=store.keep_weights,
        started=time.monotonic(),
    )
    place = Place(slot=0, rank=0, workers=1, devices=("cpu", "cpu"), broker=None)
    with TrialLocks(store.results) as locks:
        remaining = Remaining(agenda.work, EpochSeconds(), lambda: 1)
        display = Progress(console, "", None, remaining.count, remaining.time_left)
        opener = RecordOpener(plan, agenda.on_record, settings, RunningTrials())
        tally = Tally(opener, display, remaining)
        recorder = Recorder(opener, tally, display)
        tally.begin("arm", plan.trials)
        for trial in agenda.on_record.to_run(plan.trials):
            assert locks.try_lock(trial.key)
            job = Trial(submission := opener.open(trial, None), submission.attempt).begin()
            listener = Listener(recorder.handle, job)
            listener.post(trial_end(place, job, listener))  # type: ignore[arg-type]
    return Ran(plan, tally.states, refused=False)


if __name__ == "__main__":
    torch.set_num_threads(1)
    orchestrator.asking.ask.run_missing = run_without_ray  # type: ignore[assignment]
    orchestrator.running.cluster.lifecycle.check_process_is_ours = lambda: None
    sys.exit(orchestrator.ablate.main(sys.argv[1:]))
