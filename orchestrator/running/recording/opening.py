"""Opening the record of a trial, and what goes into it at the end; its membership is written before it is trained."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from alexnet_core.configuration.metrics import EpochReport, SplitMetrics
from orchestrator.cores.identity import accept
from orchestrator.planning.more_epochs import go_on
from orchestrator.planning.on_record import OnRecord
from orchestrator.planning.plan import Plan
from orchestrator.records import layout, trial_record
from orchestrator.records.evaluations import Evaluation, read_evaluation
from orchestrator.records.reports import CoreReport, Report
from orchestrator.records.trial_record import TrialResult, TrialState
from orchestrator.running.progress import POINTS
from orchestrator.running.recording.launched import Running, RunningTrials
from orchestrator.running.slots.messages import End, Evaluated, Submission
from orchestrator.sweeps.objectives import steady_rate
from orchestrator.sweeps.search import Ask
from orchestrator.tables.tables import done_trials, record_stamps
from search_spaces.core_config import CoreConfig, description_of
from search_spaces.trial import PlannedTrial

logger = logging.getLogger(__name__)


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


class RecordOpener:
    """Opens the records of trials: in Tune's thread while one runs, in the main thread between two phases.

    Attributes:
        plan: The plan; it grows by seeds between two phases.
        on_record: What was on record of it when it was planned, or grew.
        settings: Where to write.
        running: Where a launched trial is noted.
    """

    def __init__(self, plan: Plan, on_record: OnRecord, settings: RecordSettings, running: RunningTrials) -> None:
        """Reads the memberships that are written down already.

        Args:
            plan: The plan.
            on_record: What of it is on record.
            settings: Where to write.
            running: Where a launched trial is noted.
        """
        self.settings, self.running = settings, running
        self.grow(plan, on_record)
        # 第一个 trial 之前就留下代码的副本：之后再改，这个研究里也不变
        self._code = "" if plan.code is None else plan.code.keep(settings.results, description_of(plan.base).name)
        self._members: set[tuple[str, int, str, str]] = {
            (row["arm"], row["seed"], row["key"], row["phase"])
            for row in trial_record.read_members(settings.results, settings.folder.name)
        }

    def open(self, trial: PlannedTrial, ask: Ask | None, *, judged: bool = False) -> Submission:
        """Opens a trial's record and returns what is to be trained.

        Args:
            trial: The trial.
            ask: The point it is, where a sampler chose it.
            judged: Whether a scheduler may stop it.
        """
        moved = self._set_aside(trial.key)
        folder = trial_record.open_record(self.settings.results, trial.config)
        # 先写下它属于哪个研究：进程死在训练途中，下次也找得到它
        self.join(trial, ask)
        # 被杀的驱动没来得及收的，归到它那一次
        trial_record.log_output(folder)
        attempt = trial_record.next_attempt(folder, self.fingerprint)
        start = self.on_record.extensions.starts.get(trial.key)
        going_on = go_on(folder, start) if start is not None else ""
        for note in filter(None, (moved, going_on)):
            trial_record.append_log(folder, f"{now()} {note}\n")
        result = trial_record.read_result(folder)
        finished = result is not None and result.state is TrialState.FINISHED
        # 扫描的点都用同一个种子，所以按位置显示
        cell = (trial.arm, trial.seed) if ask is None else (POINTS, ask.position)
        self.running.add(Running(trial, cell, folder, attempt, now(), evaluated_only=finished))
        return Submission(
            key=trial.key,
            config=trial.config.model_dump_json(),
            folder=str(folder.resolve()),
            attempt=attempt,
            epochs=0 if isinstance(trial.config, CoreConfig) else trial.config.training.epochs,
            views=self.missing_views(trial.key),
            judged=judged,
            code=self._code,
        )

    def odd(self, key: str) -> str:
        """Returns why a trial's record counts as missing, since it does not fit the others; nothing where it fits."""
        results, odd = self.settings.results, self.on_record.odd
        if key in self.on_record.done or not (layout.trial_folder(results, key) / "result.json").is_file():
            return ""
        if key in odd and record_stamps(results, [key]).get(key) == self._odd_stamps.get(key):
            return odd[key]
        # 此刻再看一次：别的驱动可能刚写完一个合群的；与研究里别的记录放在一起，才看得出谁不合群
        stamps = record_stamps(results, odd)
        renewed = [other for other in stamps if stamps[other] != self._odd_stamps.get(other)]
        return done_trials(results, [*self.on_record.done, *renewed, key]).odd.get(key, "")

    def _set_aside(self, key: str) -> str:
        """Moves a record away that does not fit the others, before it is written anew; returns a line for the log."""
        reason = self.odd(key)
        if not reason:
            return ""
        place = trial_record.set_aside(self.settings.results, key)
        note = f"trial {key} is trained anew: its record ({reason}) lies in {place}"
        logger.warning("%s", note)
        return note

    @property
    def fingerprint(self) -> str:
        """Of the code that trains; empty for AlexNet and cores of the package."""
        return "" if self.plan.code is None else self.plan.code.fingerprint

    def note_code(self) -> None:
        """Notes that trials of this core's version are trained by this code, before the first result is written."""
        accept(self.settings.results, description_of(self.plan.base), [self.fingerprint])

    def grow(self, plan: Plan, on_record: OnRecord) -> None:
        """Takes a plan with further seeds, between two phases."""
        self.plan, self.on_record = plan, on_record
        # 记录不合群的，换了新的才重新看：一半对一半时，移走几个会让剩下的变成多数
        self._odd_stamps = record_stamps(self.settings.results, on_record.odd)

    def missing_views(self, key: str) -> int:
        """Returns in how many views a trial is still to be evaluated; 1 when nothing is missing."""
        views = self.plan.views.get(key, 1)
        folder = layout.trial_folder(self.settings.results, key)
        return views if views != 1 and read_evaluation(folder, views) is None else 1

    def join(self, trial: PlannedTrial, ask: Ask | None) -> None:
        """Writes down once that a trial belongs to the study, with its point where a sampler chose it."""
        member = (trial.arm, trial.seed, trial.key, trial.phase)
        if member in self._members:
            return
        self._members.add(member)
        row = {
            "study": self.settings.folder.name,
            "dataset": self.plan.dataset_of(trial.arm),
            "arm": trial.arm,
            "seed": trial.seed,
            "key": trial.key,
            "phase": trial.phase,
            "parameters": None if ask is None else dict(ask.parameters),
            "position": None if ask is None else ask.position,
        }
        if ask is not None:
            row |= {"base": ask.base, "told": ask.told, "sampler": ask.sampler}
        trial_record.append_members(self.settings.results, self.settings.folder.name, [row])


def result_of(running: Running, end: End) -> TrialResult:
    """Returns the `result.json` of a trial that has ended."""
    return TrialResult(
        key=running.trial.key,
        state=TrialState(end.state),
        seed=running.trial.config.seed,
        epochs=len(running.history),
        seconds=sum(report.seconds for report in running.history),
        **_measured(running.history),
        sizes=dict(end.sizes),
        peak_memory_mb=end.peak_memory_mb,
        memory_kind=end.memory_kind,
        attempts=running.attempt,
        started_at=running.started_at,
        finished_at=now(),
        message=end.message,
        weights=end.weights,
        weights_sha256=end.weights_sha256,
        # 秒数是各次尝试之和，会话只是最后一次的：别处练过几轮要记下
        environment={**end.environment, **trial_record.source_version(), "epochs_before": running.epochs_before},
    )


def _measured(history: Sequence[Report]) -> dict[str, Any]:
    """What the last report says; of AlexNet the steady rate over all of them, too."""
    last = history[-1] if history else None
    if isinstance(last, CoreReport):
        return {"metrics": last.metrics}
    if last is None:
        return {}
    epochs = [report for report in history if isinstance(report, EpochReport)]
    return {
        "train": last.train,
        "validation": last.validation,
        "test": last.test,
        "train_final": last.train_final,
        "images_per_second": steady_rate([(report.train.count, report.images_per_second) for report in epochs]),
    }


def evaluation_of(running: Running, end: End, made: Evaluated) -> Evaluation:
    """Returns the record of an evaluation in many views, which says whether the network is the one on record."""
    retrained = running.evaluated_only and made.retrained
    result = trial_record.read_result(running.folder)
    # 检查点文件里有历史与秒数，哈希必然不同；损失逐位相等才说明是同一个网络
    last = running.history[-1] if running.history else None
    same = not retrained or (
        isinstance(last, EpochReport) and result is not None and last.validation == result.validation
    )
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
        correct=made.correct,
    )


def now() -> str:
    """Returns the time as ISO text (UTC)."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
