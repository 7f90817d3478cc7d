"""Running a plan's missing trials: warm slots, Tune's phases over them, and the recorder.

The driver is the only writer of records: broker events come to its main thread, which writes them, moves the
display and publishes the metrics. Ray Tune decides what runs next in a thread of its own.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from alexnet_core.metrics import EpochReport
from orchestrator import cluster, records
from orchestrator.display import Progress
from orchestrator.errors import LabError
from orchestrator.plan import Plan
from orchestrator.publisher import StudyMetrics
from orchestrator.records import TrialLocks, TrialResult, TrialState
from orchestrator.slot import SlotPlan, Slots
from search_spaces.trial import PlannedTrial

EVENT_WAIT_SECONDS = 0.5
STOP_SECONDS = 15.0
SHARED_POLL_SECONDS = 1.0
SLOT_PATIENCE_SECONDS = 60.0


@dataclass(frozen=True)
class RunSettings:
    """How a plan is run; none of it changes a number.

    Attributes:
        results: The results folder.
        folder: The study's folder in it.
        scratch: Scratch folder of Ray Train and Tune.
        slot_plan: Slots and what they reserve.
        facts: The Ray that was started or joined.
        retry_failed: Whether failed trials are trained again.
        keep_weights: `all`, `best` or `none` of the final weights.
        worker_environment: Environment variables of the workers, where Ray's processes do not inherit them.
        started: `time.monotonic()` at the command's start.
    """

    results: Path
    folder: Path
    scratch: Path
    slot_plan: SlotPlan
    facts: cluster.ClusterFacts
    retry_failed: bool
    keep_weights: str
    worker_environment: Mapping[str, str]
    started: float


@dataclass
class _Running:
    """What the recorder knows of a launched trial."""

    trial: PlannedTrial
    folder: Path
    attempt: int
    started_at: str
    history: list[EpochReport] = field(default_factory=list)


class Interrupted(Exception):
    """The user asked to stop (Ctrl-C or SIGTERM)."""


class StudyRun:
    """Lives while a study's trials run. Phases follow one another over the same warm slots."""

    def __init__(self, plan: Plan, settings: RunSettings, console: Console) -> None:
        """Starts the broker and the slots; the first trial waits for them."""
        self._plan, self._settings, self._console = plan, settings, console
        self._broker = cluster.start_broker()
        self._scratch = settings.scratch
        self._slots = Slots(
            settings.slot_plan, plan.study.name, self._scratch / "train", dict(settings.worker_environment)
        )
        self._locks = TrialLocks(settings.results)
        self._running: dict[str, _Running] = {}
        self._members: set[tuple[str, int, str, str]] = {
            (row["arm"], row["seed"], row["key"], row["phase"])
            for row in records.read_members(settings.results, settings.folder.name)
        }
        self._next_event = 0
        self._stop_asked = threading.Event()
        self._first_step: float | None = None
        self._ready_slots: set[int] = set()
        self._patience_ends = time.monotonic() + SLOT_PATIENCE_SECONDS
        self.states: dict[str, TrialState] = dict(plan.done)
        title = f"{settings.folder.name}: {plan.study.question}"
        self.display = Progress(console, title, _dashboard_line(settings.facts))
        self._metrics = StudyMetrics(settings.folder.name)
        cluster.watch_ray(self._ray_died)

    def __enter__(self) -> StudyRun:
        """Takes over Ctrl-C and SIGTERM, and says that the study runs."""
        # 工作线程不能接信号；主线程只记下请求，由记录循环去停
        for name in (signal.SIGINT, signal.SIGTERM):
            signal.signal(name, self._on_signal)
        facts = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "dashboard": self._settings.facts.dashboard,
            "started_at": _now(),
            "dataset": self._plan.dataset,
        }
        records.write_atomically(self._settings.folder / "run.json", json.dumps(facts).encode())
        self.display.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        """Stops the display and frees the locks; Ray goes with the process (`cluster.leave`)."""
        self.display.__exit__(*exception)
        self._slots.close()
        (self._settings.folder / "run.json").unlink(missing_ok=True)
        self._locks.close()

    def _on_signal(self, number: int, frame: object) -> None:
        if self._stop_asked.is_set():
            cluster.leave(130, self._scratch)
        self._stop_asked.set()

    def _ray_died(self, what: str) -> None:
        """Called from the watching thread: nothing of Ray can be trusted any more, and records are safe."""
        self.display.__exit__()
        print(
            f"error: {what} died; every finished trial is on record, run the same command again to go on",
            file=sys.stderr,
            flush=True,
        )
        cluster.leave(3, self._scratch)

    # ---- phases -------------------------------------------------------------------------------------------

    def run_arms(self, trials: Sequence[PlannedTrial], make_searcher: Callable[[Sequence[PlannedTrial]], Any]) -> None:
        """Runs arm trials; those another driver is running are waited for and taken from its records.

        Args:
            trials: Trials that are not on record.
            make_searcher: Makes the phase's searcher of the trials this driver runs.

        Raises:
            Interrupted: The user asked to stop.
        """
        waiting = list(trials)
        while waiting:
            mine = [trial for trial in waiting if self._locks.try_lock(trial.key)]
            # 拿到锁后再查一次：别的进程可能刚好写完
            fresh = [trial for trial in mine if not self._taken_from_record(trial)]
            if fresh:
                self._phase(make_searcher(fresh), len(fresh), len(fresh))
            for trial in mine:
                self._locks.unlock(trial.key)
            handled = {trial.key for trial in mine}
            waiting = [trial for trial in waiting if trial.key not in handled]
            if waiting and not mine:
                self._wait_for_others(waiting)

    def run_sweep(self, searcher: Any, points: int) -> None:
        """Runs the points of a sweep.

        Args:
            searcher: The sweep's searcher.
            points: Upper bound of the points it will suggest.

        Raises:
            Interrupted: The user asked to stop.
        """
        self._phase(searcher, points, self._settings.slot_plan.slots)

    def _wait_for_others(self, waiting: Sequence[PlannedTrial]) -> None:
        self.display.say(f"{len(waiting)} trials are being trained by another ablate; waiting for their records")
        while all(self._locks.is_locked(trial.key) for trial in waiting):
            if self._stop_asked.is_set():
                raise Interrupted
            self._handle_events()
            time.sleep(SHARED_POLL_SECONDS)

    def _taken_from_record(self, trial: PlannedTrial) -> bool:
        result = records.read_result(records.trial_folder(self._settings.results, trial.key))
        if result is None or (result.state is TrialState.FAILED and self._settings.retry_failed):
            return False
        self.states[trial.key] = result.state
        self._join(trial, None, None)
        self.display.update(trial.arm, trial.seed, result.state, _error_text(result.validation))
        return True

    def _phase(self, searcher: Any, samples: int, concurrent: int) -> None:
        """Runs one Tuner over the slots while this thread records."""
        tuned: Future[None] = Future()
        threading.Thread(
            target=self._tune, args=(tuned, searcher, samples, concurrent), name="tune", daemon=True
        ).start()
        stop_by = None
        while not tuned.done() or self._running:
            self._handle_events()
            if self._slots.failure is not None:
                raise LabError(f"a slot could not be kept: {_last_line(self._slots.failure)}", exit_code=3)
            if self._stop_asked.is_set() and stop_by is None:
                self.display.say("stopping between two batches; finished trials are on record")
                searcher.closed = True
                self._tell_broker_to_close()
                stop_by = time.monotonic() + STOP_SECONDS
            if stop_by is not None and (not self._running or time.monotonic() > stop_by):
                # Tune 自己收尾要好几秒；记录已安全，不必等它
                raise Interrupted
            if tuned.done() and tuned.exception() is not None:
                raise LabError(f"Ray Tune ended: {_last_line(tuned.exception())}", exit_code=3)

    def _tell_broker_to_close(self) -> None:
        import ray

        ray.get(self._broker.close.remote("interrupted"))

    def _tune(self, tuned: Future[None], searcher: Any, samples: int, concurrent: int) -> None:
        """The body of Tune's thread: its end or its exception goes into `tuned`."""
        try:
            self._fit(searcher, samples, concurrent)
        except BaseException as error:
            # 异常交给主线程去报告，不在这里吞掉
            tuned.set_exception(error)
        else:
            tuned.set_result(None)

    def _fit(self, searcher: Any, samples: int, concurrent: int) -> None:
        from ray import tune

        from orchestrator.slot import run_trial

        slots = self._settings.slot_plan.slots
        tune.Tuner(
            tune.with_resources(run_trial, {"CPU": 0.001}),
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                num_samples=samples,
                # 多放一个在门口等着，槽位就不会空转
                max_concurrent_trials=min(concurrent, slots + 1),
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                name=f"{self._settings.folder.name}-{type(searcher).__name__}",
                storage_path=str(self._scratch / "tune"),
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=10),
            ),
        ).fit()

    # ---- records ------------------------------------------------------------------------------------------

    def launch(self, trial: PlannedTrial, parameters: Mapping[str, Any] | None, position: int | None) -> dict[str, Any]:
        """Opens a trial's record and returns what the Tune function needs; called in Tune's thread."""
        folder = records.open_record(self._settings.results, trial.config)
        self._join(trial, parameters, position)
        attempt = records.next_attempt(folder)
        self._running[trial.key] = _Running(trial, folder, attempt, _now())
        return {
            "key": trial.key,
            "config": _job_json(trial),
            "folder": str(folder.resolve()),
            "attempt": attempt,
        }

    def begin(self, trials: Sequence[PlannedTrial]) -> None:
        """Shows the wanted trials, and counts and joins those that are on record."""
        done = {(trial.arm, trial.seed): self.states[trial.key].value for trial in trials if trial.key in self.states}
        self.display.expect([(trial.arm, trial.seed) for trial in trials], done)
        for trial in trials:
            if trial.key in self.states:
                self._join(trial, None, None)
                result = records.read_result(records.trial_folder(self._settings.results, trial.key))
                if result is not None:
                    self._metrics.ended(trial.arm, result)

    def lookup_point(
        self, trial: PlannedTrial, parameters: Mapping[str, Any], position: int
    ) -> tuple[str, float | None] | None:
        """Returns state and validation error of a sweep's point that is on record (and joins it), or None."""
        ended = records.ended(self._settings.results, trial.key)
        if ended is not None:
            self._join(trial, parameters, position)
        return ended

    def _join(self, trial: PlannedTrial, parameters: Mapping[str, Any] | None, position: int | None) -> None:
        member = (trial.arm, trial.seed, trial.key, trial.phase)
        if member in self._members:
            return
        self._members.add(member)
        row = {
            "study": self._settings.folder.name,
            "dataset": self._plan.dataset,
            "arm": trial.arm,
            "seed": trial.seed,
            "key": trial.key,
            "phase": trial.phase,
            "parameters": dict(parameters) if parameters is not None else None,
            "position": position,
        }
        records.append_members(self._settings.results, self._settings.folder.name, [row])

    def _handle_events(self) -> None:
        import ray
        from ray.exceptions import RayError

        try:
            self._next_event, events = ray.get(
                self._broker.events.remote(self._next_event, EVENT_WAIT_SECONDS), timeout=60.0
            )
        except RayError as error:
            raise LabError(
                f"Ray stopped answering ({type(error).__name__}); every finished trial is on record, "
                "run the same command again to go on",
                exit_code=3,
            ) from error
        for event in events:
            self._handle(event)
        self._name_unplaced_slots()

    def _name_unplaced_slots(self) -> None:
        if len(self._ready_slots) == self._settings.slot_plan.slots or time.monotonic() < self._patience_ends:
            return
        import ray

        self._patience_ends = time.monotonic() + 5 * SLOT_PATIENCE_SECONDS
        plan = self._settings.slot_plan
        unplaced = sorted(set(range(plan.slots)) - self._ready_slots)
        free = ray.available_resources()
        self.display.say(
            f"slots {', '.join(map(str, unplaced))} are not up yet: each of {plan.workers} workers needs "
            f"{plan.gpus_per_worker} GPUs and {plan.threads} CPUs; free now: {free.get('GPU', 0):g} GPUs, "
            f"{free.get('CPU', 0):g} CPUs"
        )

    def _handle(self, event: Mapping[str, Any]) -> None:
        kind = event["type"]
        if kind == "ready":
            self._ready_slots.add(event["slot"])
            return
        running = self._running.get(event.get("key", ""))
        if running is None:
            return
        if kind == "started":
            running.history = [EpochReport.model_validate(report) for report in event["history"]]
            records.rewrite_epochs(running.folder, running.history)
            self._log(running, event, f"started at epoch {len(running.history)}")
            self._show(running, "running")
        elif kind == "training":
            self._say_first_step()
        elif kind == "epoch":
            self._record_epoch(running, EpochReport.model_validate(event["report"]))
        elif kind == "log":
            records.append_log(running.folder, event["text"])
        elif kind == "retry":
            running.attempt = records.next_attempt(running.folder)
            self._log(running, event, "its worker died; it goes on from its last checkpoint")
        elif kind == "final":
            self._record_end(running, event)

    def _log(self, running: _Running, event: Mapping[str, Any], text: str) -> None:
        records.append_log(running.folder, f"{_now()} attempt {event['attempt']}, slot {event['slot']}: {text}\n")

    def _say_first_step(self) -> None:
        if self._first_step is None:
            self._first_step = time.monotonic() - self._settings.started
            self.display.say(f"first training step after {self._first_step:.1f} s")

    def _record_epoch(self, running: _Running, report: EpochReport) -> None:
        if running.history and report.epoch <= running.history[-1].epoch:
            return
        running.history.append(report)
        records.append_epoch(running.folder, report)
        self._metrics.epoch(running.trial.arm, report)
        self._show(running, "running")

    def _record_end(self, running: _Running, event: Mapping[str, Any]) -> None:
        state = event["state"]
        if event["message"]:
            self._log(running, event, event["message"])
        del self._running[running.trial.key]
        if state == "interrupted":
            self.display.update(running.trial.arm, running.trial.seed, state, "interrupted")
            return
        result = _result(running, event)
        records.write_result(running.folder, result)
        if result.state is not TrialState.FAILED:
            # 失败的 trial 留着检查点，--retry-failed 可以接着训练
            records.tidy(running.folder, self._settings.keep_weights)
        self.states[result.key] = result.state
        self._metrics.ended(running.trial.arm, result)
        text = _error_text(result.validation) if result.state is TrialState.FINISHED else state
        self.display.update(running.trial.arm, running.trial.seed, state, text)
        if result.state in (TrialState.DIVERGED, TrialState.FAILED):
            self.display.say(_trouble_line(result, running, self._settings.results))

    def _show(self, running: _Running, state: str) -> None:
        history = running.history
        text = f"{100 * history[-1].validation.top1_error:.1f} % @{history[-1].epoch}" if history else "starting"
        self.display.update(running.trial.arm, running.trial.seed, state, text)


def _result(running: _Running, event: Mapping[str, Any]) -> TrialResult:
    last = running.history[-1] if running.history else None
    environment = {**event.get("environment", {}), **records.source_version()}
    return TrialResult(
        key=running.trial.key,
        state=TrialState(event["state"]),
        seed=running.trial.seed,
        epochs=len(running.history),
        train=last.train if last else None,
        validation=last.validation if last else None,
        test=last.test if last else None,
        seconds=sum(report.seconds for report in running.history),
        images_per_second=_steady_rate(running.history),
        attempts=running.attempt,
        started_at=running.started_at,
        finished_at=_now(),
        message=event["message"],
        weights=event.get("weights"),
        weights_sha256=event.get("weights_sha256"),
        environment=environment,
    )


def _steady_rate(history: Sequence[EpochReport]) -> float | None:
    """Images per second over the epochs after the first, which warms up."""
    steady = list(history[1:] or history)
    seconds = sum(report.train.count / report.images_per_second for report in steady)
    return sum(report.train.count for report in steady) / seconds if seconds > 0 else None


def _job_json(trial: PlannedTrial) -> str:
    return trial.config.model_dump_json()


def _error_text(validation: Any) -> str:
    return f"{100 * validation.top1_error:.1f} %" if validation is not None else ""


def _trouble_line(result: TrialResult, running: _Running, results: Path) -> str:
    return (
        f"{result.key} ({running.trial.arm} seed {running.trial.seed}) {result.state}: {result.message}; "
        f"log: {running.folder / 'log.txt'}; repeat it with: "
        f"python -m alexnet_core train --config {running.folder / 'config.json'}"
    )


def _dashboard_line(facts: cluster.ClusterFacts) -> str | None:
    if facts.dashboard is None:
        return None
    token = " (token: ray get-auth-token)" if facts.token_required else ""
    return f"Ray dashboard: {facts.dashboard}{token}"


def _last_line(error: BaseException | None) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1] if lines else type(error).__name__


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
