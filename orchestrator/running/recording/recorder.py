"""The recorder: turns what workers report into records, the display and the metrics.

The driver is the only writer of records, and this is where it writes them.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable

from orchestrator.errors import ExitCode, LabError
from orchestrator.records import trial_record
from orchestrator.records.evaluations import keep_correct_images, write_evaluation
from orchestrator.records.reports import Report, parse_report
from orchestrator.records.trial_record import TrialResult, TrialState
from orchestrator.running.progress import Progress
from orchestrator.running.recording.launched import Running
from orchestrator.running.recording.opening import RecordOpener, evaluation_of, now, result_of
from orchestrator.running.recording.tally import Tally
from orchestrator.running.slots.messages import End, Epoch, FirstStep, Log, Notice, Retry, Started, TrialEvent
from orchestrator.running.slots.unknown_event import unknown_event
from search_spaces.core_config import CoreConfig, TrialConfig

FAILURES_ALIKE = 2


class Recorder:
    """Writes what is heard of launched trials; lives in the driver's main thread.

    Attributes:
        running: The trials that are launched and have not ended.
    """

    def __init__(
        self,
        opener: RecordOpener,
        tally: Tally,
        display: Progress,
        spend: Callable[[TrialConfig, float], None] = lambda config, seconds: None,
        took: Callable[[TrialConfig, float], None] = lambda config, seconds: None,
    ) -> None:
        """Starts with nothing heard.

        Args:
            opener: Who opens the records; its trials are followed here.
            tally: Told of what has been written.
            display: What the user sees.
            spend: Told of every epoch that a slot has trained, with its seconds.
            took: Told of every trial that was trained to its end, with the seconds of all its epochs.
        """
        self.running, self._settings = opener.running, opener.settings
        self._tally, self._display, self._spend, self._took = tally, display, spend, took
        self._first_step: float | None = None
        self._has_noticed = False
        # 只有还没有哪个 trial 成功时才数
        self._failures: list[str] | None = [] if opener.plan.code is not None else None
        self._opener = opener

    def handle(self, event: TrialEvent) -> None:
        """Writes down what is heard of a trial."""
        running = self.running.get(event.key)
        if running is None:
            return
        match event.news:
            case Started(history):
                running.started = True
                self._display.stage(_first_stage(running.trial.config))
                running.history = [parse_report(json.loads(epoch.report)) for epoch in history]
                running.epochs_before = len(history)
                if not running.evaluated_only:
                    trial_record.rewrite_epochs(running.folder, running.history)
                self._log(running, event, _beginning(running))
                self._tally.starts(running)
            case FirstStep():
                self._say_first_step()
            case Epoch(report=report):
                self._record_epoch(running, parse_report(json.loads(report)))
            case Log(text):
                trial_record.append_log(running.folder, text)
            case Notice(text):
                self._notice(running, event, text)
            case Retry():
                trial_record.log_output(running.folder, event.attempt)
                running.attempt = trial_record.next_attempt(running.folder, self._opener.fingerprint)
                self._log(running, event, "its worker died; it goes on from its last checkpoint")
            case End() as end:
                trial_record.log_output(running.folder)
                if end.message:
                    self._log(running, event, end.message)
                self._record_end(running, end)
            case unknown:
                raise unknown_event(unknown)

    def _log(self, running: Running, event: TrialEvent, text: str) -> None:
        trial_record.log_attempt(running.folder, now(), event.attempt, event.slot, text)

    def _notice(self, running: Running, event: TrialEvent, text: str) -> None:
        # 每个 trial 都一样：一个研究说一次就够
        if not self._has_noticed:
            self._has_noticed = True
            self._log(running, event, text)
            self._display.say(f"note: {text}")

    def _say_first_step(self) -> None:
        if self._first_step is None:
            self._first_step = time.monotonic() - self._settings.started
            self._display.say_first_step(self._first_step)

    def _record_epoch(self, running: Running, report: Report) -> None:
        # worker 死后从检查点接着来，同一个 epoch 只算一次
        if running.history and report.epoch <= running.history[-1].epoch:
            return
        running.history.append(report)
        self._spend(running.trial.config, report.seconds)
        if not running.evaluated_only:
            trial_record.append_epoch(running.folder, report)
        self._tally.epoch(running)

    def _record_end(self, running: Running, end: End) -> None:
        self.running.remove(running.trial.key)
        if end.state == "interrupted":
            self._tally.record_interruption(running)
            if end.message:
                raise LabError(
                    f"{end.message}; finished trials are on record, make room and go on", exit_code=ExitCode.ENVIRONMENT
                )
        elif running.evaluated_only:
            self._record_evaluation(running, end)
        else:
            self._record_result(running, end)

    def _record_result(self, running: Running, end: End) -> None:
        result = result_of(running, end)
        if result.state is TrialState.FINISHED:
            result = keep_correct_images(running.folder, result)
            self._took(running.trial.config, result.seconds)
        if result.state is not TrialState.FAILED:
            # 先记下代码的指纹，再有结果：之后换了代码，看得出来
            self._opener.note_code()
        # 先有记录，再让人看见：此后死在哪里都不会重新训练
        trial_record.write_result(running.folder, result)
        if end.evaluation is not None:
            write_evaluation(running.folder, evaluation_of(running, end, end.evaluation))
        if result.state is not TrialState.FAILED:
            # 失败的 trial 留着检查点，--retry-failed 可以接着训练
            trial_record.tidy(running.folder, self._settings.keep_weights)
        self._tally.record_end(running, result)
        self._stop_where_all_fail(result)

    def _stop_where_all_fail(self, result: TrialResult) -> None:
        """Ends a run whose first trials all fail alike: the others would too."""
        if self._failures is None:
            return
        if result.state is not TrialState.FAILED:
            self._failures = None
            return
        self._failures.append(result.message)
        if len(self._failures) == FAILURES_ALIKE and len(set(self._failures)) == 1:
            raise LabError(
                f"the first {FAILURES_ALIKE} trials failed alike ({result.message}): mend that, then go on with the "
                "same command and --retry-failed",
                exit_code=ExitCode.SOME_FAILED,
            )

    def _record_evaluation(self, running: Running, end: End) -> None:
        """Writes the evaluation of a trial on record; whatever happened, its own record stays as it is."""
        trouble = None
        if end.evaluation is not None:
            write_evaluation(running.folder, evaluation_of(running, end, end.evaluation))
        else:
            trouble = end.message or end.state
        # 只为评估而重训出的权重不留下
        trial_record.tidy(running.folder)
        self._tally.record_evaluation(running, end.state, trouble)


def _first_stage(config: TrialConfig) -> str:
    """What a worker does first, which may take a while."""
    if isinstance(config, CoreConfig):
        return f"importing core {config.core.name}, which then prepares its training"
    return "reading the data"


def _beginning(running: Running) -> str:
    """Says where an attempt begins; another core than AlexNet reports, but not always epochs."""
    if isinstance(running.trial.config, CoreConfig):
        return f"goes on after report {len(running.history)}" if running.history else "started"
    return f"started at epoch {len(running.history)}"
