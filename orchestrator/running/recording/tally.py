"""What has ended so far in a study: counted, shown, and published as Ray's metrics.

A Prometheus, or Ray's dashboard, can draw the metrics while the study runs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence

from alexnet_core.configuration.metrics import EpochReport
from orchestrator.planning.work_left import Training, trainings_of
from orchestrator.records import layout, trial_record
from orchestrator.records.reports import Report, objective_of
from orchestrator.records.trial_record import TrialResult, TrialState, repeat_command
from orchestrator.running.progress import POINTS, Cell, Progress, Shown, cell_text
from orchestrator.running.recording.launched import Running
from orchestrator.running.recording.opening import RecordOpener
from orchestrator.running.recording.remaining import Remaining
from orchestrator.running.slots.messages import EndState
from search_spaces.core_config import ALEXNET, TrialConfig, description_of, readable
from search_spaces.trial import Phase, PlannedTrial


class StudyGauges:
    """Gauges of one study; every value is set again whenever it changes."""

    def __init__(self, study: str, base: TrialConfig, *, names_arms: bool) -> None:
        """Makes the gauges.

        Args:
            study: Its name.
            base: What is trained.
            names_arms: Whether each arm has values of its own; else those of all arms are one.
        """
        from ray.util.metrics import Gauge

        tags = ("study", "arm")
        self._study, self._base, self._core = study, base, description_of(base)
        self._names_arms = names_arms
        self._trials = Gauge("ablation_trials", "Trials that ended, by state", tag_keys=(*tags, "state"))
        if self._core is ALEXNET:
            self._best = Gauge("ablation_best_validation_error", "Best top-1 validation error in [0, 1]", tag_keys=tags)
        else:
            self._best = Gauge("ablation_best_metric", "Best value of the metric that chooses", tag_keys=tags)
        self._rate = Gauge("ablation_images_per_second", "Training images per second of the last epoch", tag_keys=tags)
        self._counts: Counter[tuple[str, str]] = Counter()
        self._best_objectives: dict[str, float] = {}

    def _tags(self, arm: str, **more: str) -> dict[str, str]:
        return {"study": self._study, "arm": arm, **more}

    def _shown(self, arm: str) -> str:
        # 指标端口没有口令：同一台机器上谁都能读，名字要用户说了才写
        return arm if self._names_arms else ""

    def epoch(self, arm: str, report: Report) -> None:
        """Publishes the rate of an epoch; other cores than AlexNet report no images."""
        if isinstance(report, EpochReport):
            self._rate.set(report.images_per_second, tags=self._tags(self._shown(arm)))

    def count(self, arm: str, result: TrialResult) -> None:
        """Counts a trial that ended; only a finished one can be the best."""
        arm = self._shown(arm)
        self._counts[arm, result.state.value] += 1
        self._trials.set(self._counts[arm, result.state.value], tags=self._tags(arm, state=result.state.value))
        objective = result.objective(self._base)
        if result.state is TrialState.FINISHED and objective is not None:
            best = self._best_objectives[arm] = min(objective, self._best_objectives.get(arm, objective))
            self._best.set(self._core.chosen.objective(best), tags=self._tags(arm))


class Tally:
    """Counts and shows the trials of a run; lives in the driver's main thread.

    Attributes:
        states: How every trial ended that is on record, by key; Tune's thread may look at it.
    """

    def __init__(
        self, opener: RecordOpener, display: Progress, remaining: Remaining, *, names_arms: bool = False
    ) -> None:
        """Starts from what is on record.

        Args:
            opener: Who writes memberships down.
            display: What the user sees.
            remaining: Told of what has ended.
            names_arms: Whether the metrics name the arms.
        """
        self._opener, self._settings, self._display = opener, opener.settings, display
        self._remaining = remaining
        self._base, self._core = opener.plan.base, description_of(opener.plan.base)
        self._gauges = StudyGauges(opener.settings.folder.name, self._base, names_arms=names_arms)
        self._left_out: frozenset[str] = frozenset()
        # 几个 arm 共用一个 trial：它的消息要写进每一格
        self._cells: dict[str, list[Cell]] = {}
        self.states: dict[str, TrialState] = dict(opener.on_record.done)

    def begin(self, phase: Phase, trials: Sequence[PlannedTrial], instead_of: int | None = None) -> None:
        """Shows the trials of a phase, and counts and joins those that are on record.

        Args:
            phase: The phase.
            trials: Its trials.
            instead_of: How many of those that were not chosen yet they stand for; None for all of the phase.
        """
        on_record: dict[Cell, Shown] = {}
        cells = [(trial.arm, trial.seed) for trial in trials]
        for trial, cell in zip(trials, cells, strict=True):
            self._cells.setdefault(trial.key, []).append(cell)
            if trial.key not in self.states:
                continue
            self._opener.join(trial, None)
            result = trial_record.read_result(layout.trial_folder(self._settings.results, trial.key))
            if result is not None:
                self._gauges.count(trial.arm, result)
            if trial.views == 1 or self._opener.missing_views(trial.key) == 1:
                on_record[cell] = self._shown(result) if result is not None else _bare(self.states[trial.key])
        self._display.expect(cells, on_record)
        left = trainings_of(trials, self._opener.on_record.refreshed(self.states))
        self._remaining.expect(phase, left, {trial.key for trial in trials} - left.keys(), instead_of)

    def leave_out(self, arms: Collection[str]) -> None:
        """Hears which arms are skipped or stopped from now on; a trial that another arm wants too is trained.

        Args:
            arms: All of them by now.
        """
        self._left_out = frozenset(arms)
        wanted_by = {key: {arm for arm, _ in cells} for key, cells in self._cells.items()}
        self.leave_out_trials({key for key, names in wanted_by.items() if names <= self._left_out})

    def leave_out_trials(self, keys: Collection[str]) -> None:
        """Hears which trials this command does not train any more."""
        self._remaining.leave_out(keys)

    def show_points(self, ended: Mapping[int, str], positions: Sequence[int], left: Mapping[str, Training]) -> None:
        """Shows the points of a sweep, before it goes on and after.

        Args:
            ended: Keys of those on record, by position.
            positions: Of those that are still to be trained.
            left: What is left of those of them that are chosen, by key.
        """
        # 还没选的点不多于这些：空间也许先用完，别的驱动也许已训练了几个
        fresh = len(positions) - len(left)
        self._remaining.expect("sweep", left, ended.values(), max(0, self._remaining.unchosen("sweep") - fresh))
        on_record: dict[Cell, Shown] = {}
        for position, key in ended.items():
            result = trial_record.read_result(layout.trial_folder(self._settings.results, key))
            if result is not None:
                on_record[POINTS, position] = self._shown(result)
        self._display.expect([*on_record, *((POINTS, position) for position in positions)], on_record)

    def taken_from_record(self, trial: PlannedTrial) -> bool:
        """Takes a trial that has come on record since planning; says whether there was one."""
        result = trial_record.read_result(layout.trial_folder(self._settings.results, trial.key))
        if result is None or (result.state is TrialState.FAILED and self._settings.retry_failed):
            return False
        # 不合群的不算有：要重新训练
        if self._opener.odd(trial.key):
            return False
        finished = result.state is TrialState.FINISHED
        if finished and self._opener.missing_views(trial.key) != 1:
            return False
        self.states[trial.key] = result.state
        self._opener.join(trial, None)
        self._show_end(trial, (trial.arm, trial.seed), self._shown(result))
        return True

    def epoch(self, running: Running) -> None:
        """Shows the last epoch of a trial that runs."""
        report = running.history[-1]
        self._gauges.epoch(running.trial.arm, report)
        self._remaining.epoch(running.trial, report.seconds)
        self._show(running)

    def starts(self, running: Running) -> None:
        """Shows that a worker has begun a trial, and how far that had come."""
        self._remaining.starts(running.trial, len(running.history))
        self._show(running)

    def _show(self, running: Running) -> None:
        last = running.history[-1] if running.history else None
        text = "starting"
        if last is not None:
            text = cell_text("running", objective_of(last, self._core), last.epoch, self._core)
        self._update(running.trial.key, running.cell, Shown("running", text))

    def record_end(self, running: Running, result: TrialResult) -> None:
        """Counts and shows a trial whose record is written."""
        self.states[result.key] = result.state
        self._gauges.count(running.trial.arm, result)
        self._show_end(running.trial, running.cell, self._shown(result))
        if result.state in (TrialState.DIVERGED, TrialState.FAILED):
            self._display.say(_trouble_line(result, running))

    def record_interruption(self, running: Running) -> None:
        """Shows a trial that will go on the next time."""
        self._remaining.stops(running.trial)
        if running.trial.arm in self._left_out:
            self._remaining.leave_out({running.trial.key})
        self._update(running.trial.key, running.cell, _bare("interrupted"))

    def record_evaluation(self, running: Running, state: EndState, trouble: str | None) -> None:
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
        result = trial_record.read_result(running.folder)
        shown = self._shown(result) if trouble is None and result is not None else _bare(state)
        self._show_end(trial, running.cell, shown, "evaluated" if trouble is None else "not evaluated")

    def _show_end(self, trial: PlannedTrial, cell: Cell, shown: Shown, what: str = "") -> None:
        self._remaining.ends(trial)
        self._update(trial.key, cell, shown)
        value = f", {readable(self._core.chosen_by)} {shown.text}" if shown.text != shown.state else ""
        self._display.say_end(cell, what or f"{shown.state}{value}")

    def _shown(self, result: TrialResult) -> Shown:
        """What a cell says of a trial on record."""
        return Shown(result.state, cell_text(result.state, result.objective(self._base), core=self._core))

    def _update(self, key: str, cell: Cell, shown: Shown) -> None:
        for other in {*self._cells.get(key, ()), cell}:
            self._display.update(other, shown)


def _bare(state: str) -> Shown:
    return Shown(state, state)


def _trouble_line(result: TrialResult, running: Running) -> str:
    return (
        f"{result.key} ({running.trial.arm} seed {running.trial.seed}) {result.state}: {result.message}; "
        f"log: {running.folder / 'log.txt'}; repeat it with: {repeat_command(running.trial.config, running.folder)}"
    )
