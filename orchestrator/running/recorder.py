"""The recorder: turns what workers report into records, the display and the metrics.

The driver is the only writer of records, and this is where it writes them.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from textwrap import shorten
from typing import Any

from alexnet_core.configuration.metrics import EpochReport, SplitMetrics
from alexnet_core.configuration.train_config import TrainConfig
from orchestrator.errors import LabError
from orchestrator.planning.more_epochs import go_on
from orchestrator.planning.plan import Plan
from orchestrator.records import layout, trial_record
from orchestrator.records.evaluations import Evaluation, read_evaluation, write_evaluation
from orchestrator.records.trial_record import TrialResult, TrialState
from orchestrator.running.progress import POINTS, Progress
from orchestrator.running.slots.messages import (
    End,
    Epoch,
    Evaluated,
    FirstStep,
    Log,
    Retry,
    Started,
    Submission,
    TrialEvent,
)
from orchestrator.sweeps.objectives import steady_rate
from orchestrator.sweeps.search import Ask
from search_spaces.trial import PlannedTrial


class StudyMetrics:
    """Gauges of one study; every value is set again whenever it changes."""

    def __init__(self, study: str) -> None:
        """Makes the gauges."""
        from ray.util.metrics import Gauge

        tags = ("study", "arm")
        self._study = study
        self._trials = Gauge("ablation_trials", "Trials that ended, by state", tag_keys=(*tags, "state"))
        self._best = Gauge("ablation_best_validation_error", "Best top-1 validation error in [0, 1]", tag_keys=tags)
        self._rate = Gauge("ablation_images_per_second", "Training images per second of the last epoch", tag_keys=tags)
        self._counts: Counter[tuple[str, str]] = Counter()
        self._best_errors: dict[str, float] = {}

    def _tags(self, arm: str, **more: str) -> dict[str, str]:
        return {"study": self._study, "arm": arm, **more}

    def epoch(self, arm: str, report: EpochReport) -> None:
        """Publishes the rate of an epoch."""
        self._rate.set(report.images_per_second, tags=self._tags(arm))

    def ended(self, arm: str, result: TrialResult) -> None:
        """Counts a trial that ended; only a finished one can be the best."""
        self._counts[arm, result.state.value] += 1
        self._trials.set(self._counts[arm, result.state.value], tags=self._tags(arm, state=result.state.value))
        if result.state is TrialState.FINISHED and result.validation is not None:
            error = result.validation.top1_error
            self._best_errors[arm] = min(error, self._best_errors.get(arm, error))
            self._best.set(self._best_errors[arm], tags=self._tags(arm))


@dataclass(frozen=True)
class RecordSettings:
    """Where records go and what is kept.

    Attributes:
        results: The results folder.
        folder: The study's folder in it.
        retry_failed: Whether failed trials are trained again.
        keep_weights: `all`, `best` or `none` of the final weights.
        started: `time.monotonic()` at the command's start.
    """

    results: Path
    folder: Path
    retry_failed: bool
    keep_weights: str
    started: float


@dataclass
class Running:
    """What the recorder knows of a launched trial; one that is evaluated only is on record already and stays so."""

    trial: PlannedTrial
    cell: tuple[str, int]
    folder: Path
    attempt: int
    started_at: str
    evaluated_only: bool = False
    started: bool = False
    history: list[EpochReport] = field(default_factory=list)


class Recorder:
    """Opens the records of launched trials and writes what is heard of them."""

    def __init__(
        self,
        plan: Plan,
        settings: RecordSettings,
        display: Progress,
        spend: Callable[[TrainConfig, float], None] = lambda config, seconds: None,
    ) -> None:
        """Reads the memberships that are written down already.

        Args:
            plan: The plan.
            settings: Where to write.
            display: What the user sees.
            spend: Told of every epoch that a slot has trained, with its seconds.
        """
        self._plan, self._settings, self._display, self._spend = plan, settings, display, spend
        self._metrics = StudyMetrics(settings.folder.name)
        self._members: set[tuple[str, int, str, str]] = {
            (row["arm"], row["seed"], row["key"], row["phase"])
            for row in trial_record.read_members(settings.results, settings.folder.name)
        }
        self._first_step: float | None = None
        self.running: dict[str, Running] = {}
        self.states: dict[str, TrialState] = dict(plan.done)

    def grow(self, plan: Plan) -> None:
        """Takes a plan with further seeds: in how many views theirs are evaluated is in no other."""
        self._plan = plan

    def launch(self, trial: PlannedTrial, ask: Ask | None, *, judged: bool = False) -> Submission:
        """Opens a trial's record and returns what is to be trained; called in Tune's thread.

        Args:
            trial: The trial.
            ask: The point it is, where a sampler chose it.
            judged: Whether a scheduler may stop it.
        """
        folder = trial_record.open_record(self._settings.results, trial.config)
        self.join(trial, ask)
        attempt = trial_record.next_attempt(folder)
        start = self._plan.extensions.starts.get(trial.key)
        if start is not None and (note := go_on(folder, start)):
            trial_record.append_log(folder, f"{now()} {note}\n")
        result = trial_record.read_result(folder)
        finished = result is not None and result.state is TrialState.FINISHED
        # 扫描的点都用同一个种子，所以按位置显示
        cell = (trial.arm, trial.seed) if ask is None else (POINTS, ask.position)
        self.running[trial.key] = Running(trial, cell, folder, attempt, now(), evaluated_only=finished)
        return Submission(
            key=trial.key,
            config=trial.config.model_dump_json(),
            folder=str(folder.resolve()),
            attempt=attempt,
            epochs=trial.config.training.epochs,
            views=self._missing_views(trial.key, folder),
            judged=judged,
        )

    def _folder(self, trial: PlannedTrial) -> Path:
        return layout.trial_folder(self._settings.results, trial.key)

    def _missing_views(self, key: str, folder: Path) -> int:
        """In how many views the trial is still to be evaluated; 1 when nothing is missing."""
        views = self._plan.views.get(key, 1)
        return views if views != 1 and read_evaluation(folder, views) is None else 1

    def begin(self, trials: Sequence[PlannedTrial]) -> None:
        """Shows the wanted trials, and counts and joins those that are on record."""
        done: dict[tuple[str, int], str] = {}
        waiting: dict[str, tuple[str, int]] = {}
        for trial in trials:
            on_record = trial.key in self.states
            if on_record and self._missing_views(trial.key, self._folder(trial)) == 1:
                done[trial.arm, trial.seed] = self.states[trial.key].value
            else:
                # 与别的 arm 是同一个 trial 的不单独等，否则它的格子永远停在 waiting
                waiting.setdefault(trial.key, (trial.arm, trial.seed))
        shown = {*done, *waiting.values()}
        self._display.expect([cell for trial in trials if (cell := (trial.arm, trial.seed)) in shown], done)
        for trial in trials:
            if trial.key in self.states:
                self.join(trial, None)
                result = trial_record.read_result(layout.trial_folder(self._settings.results, trial.key))
                if result is not None:
                    self._metrics.ended(trial.arm, result)

    def join(self, trial: PlannedTrial, ask: Ask | None) -> None:
        """Writes down once that a trial belongs to the study, with its point where a sampler chose it."""
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
            "parameters": None if ask is None else dict(ask.parameters),
            "position": None if ask is None else ask.position,
        }
        if ask is not None:
            row |= {"base": ask.base, "told": ask.told, "sampler": ask.sampler}
        trial_record.append_members(self._settings.results, self._settings.folder.name, [row])

    def taken_from_record(self, trial: PlannedTrial) -> bool:
        """Takes a trial that has come on record since planning; says whether there was one."""
        result = trial_record.read_result(layout.trial_folder(self._settings.results, trial.key))
        if result is None or (result.state is TrialState.FAILED and self._settings.retry_failed):
            return False
        finished = result.state is TrialState.FINISHED
        if finished and self._missing_views(trial.key, self._folder(trial)) != 1:
            return False
        self.states[trial.key] = result.state
        self.join(trial, None)
        self._display.update(trial.arm, trial.seed, result.state, _error_text(result.validation))
        return True

    def handle(self, event: TrialEvent) -> None:
        """Writes down what is heard of a trial."""
        running = self.running.get(event.key)
        if running is None:
            return
        match event.news:
            case Started(history):
                running.started = True
                running.history = [EpochReport.model_validate_json(epoch.report) for epoch in history]
                if not running.evaluated_only:
                    trial_record.rewrite_epochs(running.folder, running.history)
                self._log(running, event, f"started at epoch {len(running.history)}")
                self._show(running, "running")
            case FirstStep():
                self._say_first_step()
            case Epoch(report=report):
                self._record_epoch(running, EpochReport.model_validate_json(report))
            case Log(text):
                trial_record.append_log(running.folder, text)
            case Retry():
                running.attempt = trial_record.next_attempt(running.folder)
                self._log(running, event, "its worker died; it goes on from its last checkpoint")
            case End() as end:
                if end.message:
                    self._log(running, event, end.message)
                self._record_end(running, end)
            case unknown:
                raise unknown_event(unknown)

    def _log(self, running: Running, event: TrialEvent, text: str) -> None:
        trial_record.append_log(running.folder, f"{now()} attempt {event.attempt}, slot {event.slot}: {text}\n")

    def _say_first_step(self) -> None:
        if self._first_step is None:
            self._first_step = time.monotonic() - self._settings.started
            self._display.say(f"first training step after {self._first_step:.1f} s")

    def _record_epoch(self, running: Running, report: EpochReport) -> None:
        if running.history and report.epoch <= running.history[-1].epoch:
            return
        running.history.append(report)
        self._spend(running.trial.config, report.seconds)
        if not running.evaluated_only:
            trial_record.append_epoch(running.folder, report)
        self._metrics.epoch(running.trial.arm, report)
        self._show(running, "running")

    def _record_end(self, running: Running, end: End) -> None:
        del self.running[running.trial.key]
        if end.state == "interrupted":
            self._display.update(*running.cell, end.state, "interrupted")
            if end.message:
                raise LabError(f"{end.message}; finished trials are on record, make room and go on", exit_code=3)
            return
        if running.evaluated_only:
            self._record_evaluation(running, end)
            return
        result = _result(running, end)
        trial_record.write_result(running.folder, result)
        if end.evaluation is not None:
            write_evaluation(running.folder, _evaluation(running, end, end.evaluation))
        if result.state is not TrialState.FAILED:
            # 失败的 trial 留着检查点，--retry-failed 可以接着训练
            trial_record.tidy(running.folder, self._settings.keep_weights)
        self.states[result.key] = result.state
        self._metrics.ended(running.trial.arm, result)
        text = _error_text(result.validation) if result.state is TrialState.FINISHED else end.state
        self._display.update(*running.cell, end.state, text)
        if result.state in (TrialState.DIVERGED, TrialState.FAILED):
            self._display.say(_trouble_line(result, running))

    def _record_evaluation(self, running: Running, end: End) -> None:
        """Writes the evaluation of a trial on record; whatever happened, its own record stays as it is."""
        trial = running.trial
        if end.evaluation is not None:
            write_evaluation(running.folder, _evaluation(running, end, end.evaluation))
        else:
            self._display.say(
                f"{trial.key} ({trial.arm} seed {trial.seed}) could not be evaluated: {end.message or end.state}; "
                f"log: {running.folder / 'log.txt'}"
            )
        # 只为评估而重训出的权重不留下
        trial_record.tidy(running.folder)
        self._display.update(trial.arm, trial.seed, end.state, "evaluated" if end.evaluation else end.state)

    def _show(self, running: Running, state: str) -> None:
        history = running.history
        text = f"{100 * history[-1].validation.top1_error:.1f} % @{history[-1].epoch}" if history else "starting"
        self._display.update(*running.cell, state, text)


def _result(running: Running, end: End) -> TrialResult:
    last = running.history[-1] if running.history else None
    return TrialResult(
        key=running.trial.key,
        state=TrialState(end.state),
        seed=running.trial.config.seed,
        epochs=len(running.history),
        train=last.train if last else None,
        validation=last.validation if last else None,
        test=last.test if last else None,
        train_final=last.train_final if last else None,
        seconds=sum(report.seconds for report in running.history),
        images_per_second=steady_rate([(report.train.count, report.images_per_second) for report in running.history]),
        peak_memory_mb=end.peak_memory_mb,
        memory_kind=end.memory_kind,
        attempts=running.attempt,
        started_at=running.started_at,
        finished_at=now(),
        message=end.message,
        weights=end.weights,
        weights_sha256=end.weights_sha256,
        environment={**end.environment, **trial_record.source_version()},
    )


def _evaluation(running: Running, end: End, made: Evaluated) -> Evaluation:
    retrained = running.evaluated_only and made.retrained
    result = trial_record.read_result(running.folder)
    # 检查点文件里有历史与秒数，哈希必然不同；损失逐位相等才说明是同一个网络
    same = not retrained or (result is not None and running.history[-1].validation == result.validation)
    return Evaluation(
        key=running.trial.key,
        weights_sha256=end.weights_sha256,
        evaluated_at=now(),
        environment={**end.environment, **trial_record.source_version()},
        same_network=same,
        views=made.views,
        split=made.split,
        metrics=SplitMetrics.model_validate_json(made.metrics),
        seconds=made.seconds,
        retrained=retrained,
    )


def unknown_event(event: object) -> LabError:
    """Returns what is said of an event that this version does not know: a worker of another one has sent it."""
    return LabError(
        f"a worker sent what this driver does not know: {shorten(repr(event), 200, placeholder=' ...')}; "
        "all nodes must run the same version of this project; finished trials are on record",
        exit_code=3,
    )


def _error_text(validation: Any) -> str:
    return f"{100 * validation.top1_error:.1f} %" if validation is not None else ""


def _trouble_line(result: TrialResult, running: Running) -> str:
    return (
        f"{result.key} ({running.trial.arm} seed {running.trial.seed}) {result.state}: {result.message}; "
        f"log: {running.folder / 'log.txt'}; repeat it with: "
        f"python -m alexnet_core train --config {running.folder / 'config.json'}"
    )


def now() -> str:
    """Returns the time as ISO text (UTC)."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
