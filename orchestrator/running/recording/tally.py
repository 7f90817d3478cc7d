"""What has ended so far in a study: counted, shown, and published as Ray's metrics.

A Prometheus, or Ray's dashboard, can draw the metrics while the study runs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from alexnet_core.configuration.metrics import EpochReport, SplitMetrics
from orchestrator.records import layout, trial_record
from orchestrator.records.trial_record import TrialResult, TrialState
from orchestrator.running.progress import Progress
from orchestrator.running.recording.launched import Running
from orchestrator.running.recording.opening import RecordOpener
from orchestrator.running.slots.messages import EndState
from search_spaces.trial import PlannedTrial


class StudyGauges:
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


class Tally:
    """Counts and shows the trials of a run; lives in the driver's main thread.

    Attributes:
        states: How every trial ended that is on record, by key; Tune's thread may look at it.
    """

    def __init__(self, opener: RecordOpener, display: Progress) -> None:
        """Starts from what is on record.

        Args:
            opener: Who writes memberships down.
            display: What the user sees.
        """
        self._opener, self._settings, self._display = opener, opener.settings, display
        self._gauges = StudyGauges(opener.settings.folder.name)
        self.states: dict[str, TrialState] = dict(opener.on_record.done)

    def begin(self, trials: Sequence[PlannedTrial]) -> None:
        """Shows the wanted trials, and counts and joins those that are on record."""
        done: dict[tuple[str, int], str] = {}
        waiting: dict[str, tuple[str, int]] = {}
        for trial in trials:
            on_record = trial.key in self.states
            if on_record and self._opener.missing_views(trial.key) == 1:
                done[trial.arm, trial.seed] = self.states[trial.key].value
            else:
                # 与别的 arm 是同一个 trial 的不单独等，否则它的格子永远停在 waiting
                waiting.setdefault(trial.key, (trial.arm, trial.seed))
        shown = {*done, *waiting.values()}
        self._display.expect([cell for trial in trials if (cell := (trial.arm, trial.seed)) in shown], done)
        for trial in trials:
            if trial.key in self.states:
                self._opener.join(trial, None)
                result = trial_record.read_result(layout.trial_folder(self._settings.results, trial.key))
                if result is not None:
                    self._gauges.ended(trial.arm, result)

    def taken_from_record(self, trial: PlannedTrial) -> bool:
        """Takes a trial that has come on record since planning; says whether there was one."""
        result = trial_record.read_result(layout.trial_folder(self._settings.results, trial.key))
        if result is None or (result.state is TrialState.FAILED and self._settings.retry_failed):
            return False
        finished = result.state is TrialState.FINISHED
        if finished and self._opener.missing_views(trial.key) != 1:
            return False
        self.states[trial.key] = result.state
        self._opener.join(trial, None)
        self._display.update(trial.arm, trial.seed, result.state, error_text(result.validation))
        return True

    def epoch(self, running: Running) -> None:
        """Shows the last epoch of a trial that runs."""
        report = running.history[-1]
        self._gauges.epoch(running.trial.arm, report)
        self.show(running)

    def show(self, running: Running) -> None:
        """Shows that a trial runs, and how far it is."""
        history = running.history
        text = f"{100 * history[-1].validation.top1_error:.1f} % @{history[-1].epoch}" if history else "starting"
        self._display.update(*running.cell, "running", text)

    def ended(self, running: Running, result: TrialResult) -> None:
        """Counts and shows a trial whose record is written."""
        self.states[result.key] = result.state
        self._gauges.ended(running.trial.arm, result)
        finished = result.state is TrialState.FINISHED
        self._display.update(
            *running.cell, result.state.value, error_text(result.validation) if finished else result.state
        )
        if result.state in (TrialState.DIVERGED, TrialState.FAILED):
            self._display.say(_trouble_line(result, running))

    def interrupted(self, running: Running) -> None:
        """Shows a trial that will go on the next time."""
        self._display.update(*running.cell, "interrupted", "interrupted")

    def evaluated(self, running: Running, state: EndState, trouble: str | None) -> None:
        """Shows a trial on record that was to be evaluated only.

        Args:
            running: The trial.
            state: How that ended.
            trouble: Why it could not be evaluated; None where it was.
        """
        trial = running.trial
        if trouble is not None:
            self._display.say(
                f"{trial.key} ({trial.arm} seed {trial.seed}) could not be evaluated: {trouble}; "
                f"log: {running.folder / 'log.txt'}"
            )
        self._display.update(trial.arm, trial.seed, state, "evaluated" if trouble is None else state)


def error_text(validation: SplitMetrics | None) -> str:
    """Returns a validation error in percent, as it is shown."""
    return f"{100 * validation.top1_error:.1f} %" if validation is not None else ""


def _trouble_line(result: TrialResult, running: Running) -> str:
    return (
        f"{result.key} ({running.trial.arm} seed {running.trial.seed}) {result.state}: {result.message}; "
        f"log: {running.folder / 'log.txt'}; repeat it with: "
        f"python -m alexnet_core train --config {running.folder / 'config.json'}"
    )
