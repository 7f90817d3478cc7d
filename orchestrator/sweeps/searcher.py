"""Optuna behind Ray Tune: arms as enqueued categorical points, searches as sampled ones.

The studies live in memory and are told again from the records at each start, so an interrupted run continues the same
sequence of points.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Collection, Sequence
from typing import Any, Protocol

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from ray.tune.search import Searcher

from orchestrator.sweeps.objectives import OBJECTIVE, objective_values
from orchestrator.sweeps.sampled_points import TOLD, SampledPoints, tell
from orchestrator.sweeps.samplers import quiet_optuna
from orchestrator.sweeps.search import Ask, Ended, Search, SearchHistory
from search_spaces.trial import PlannedTrial

logger = logging.getLogger(__name__)


class Runner(Protocol):
    """What a searcher asks of those who run its trials, in Tune's thread."""

    @property
    def closed(self) -> bool:
        """Whether no further trial is begun."""

    @property
    def skipped(self) -> Collection[str]:
        """Arms of which no further trial is begun."""

    def may_start(self, trials: Sequence[PlannedTrial]) -> bool | None:
        """Says whether the budget lets trials start together; None where that is to be asked again later."""

    def launch(self, trial: PlannedTrial, ask: Ask | None) -> dict[str, Any]:
        """Opens the record of a trial, or of the point of an ask, and returns the Tune function's configuration."""

    def join(self, trial: PlannedTrial, ask: Ask | None) -> None:
        """Writes down that a trial on record belongs to the study."""

    def lock(self, key: str) -> bool:
        """Takes a point for this driver, who frees it at its end; False while another driver trains it."""

    def unlock(self, key: str) -> None:
        """Frees a point that is not launched."""

    def stop(self, key: str) -> None:
        """Asks the worker that trains a point to stop, because a scheduler decided so."""


class PhaseSearcher(Searcher):  # type: ignore[misc]  # ray is untyped here
    """A searcher over one phase of a study, which Tune cannot save: the records are the truth, none is restored."""

    def __init__(self, runner: Runner) -> None:
        """Minimises the objective, in Tune's eyes.

        Args:
            runner: Who runs the trials.
        """
        super().__init__(metric=OBJECTIVE, mode="min")
        quiet_optuna()
        self._runner = runner
        self._refused = False

    @property
    def closed(self) -> bool:
        """Whether no further trial is begun: the user has stopped the study, or the budget has refused one."""
        return self._refused or self._runner.closed

    def __getstate__(self) -> dict[str, Any]:
        """Returns nothing."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Saves nothing."""

    def restore(self, checkpoint_path: str) -> None:
        """Restores nothing."""

    def _wait_or_close(self, may: bool | None) -> Any:
        """What is suggested where the budget does not say yes: nothing for now, or nothing any more."""
        if may is None:
            return None
        # 拒绝过一次就不再问：否则会跳过中间的种子
        self._refused = True
        return Searcher.FINISHED


class ArmSearcher(PhaseSearcher):
    """Hands the missing trials of arms to Tune, in the order of the plan."""

    def __init__(self, study_name: str, trials: Sequence[PlannedTrial], runner: Runner) -> None:
        """Enqueues the trials.

        Args:
            study_name: Name of the study; the Optuna study is `<study>/arms`.
            trials: The trials to run.
            runner: Who runs them.
        """
        super().__init__(runner)
        self.study = optuna.create_study(study_name=f"{study_name}/arms", direction="minimize")
        self._running: dict[str, optuna.trial.Trial] = {}
        self._by_point = {(trial.arm, trial.seed): trial for trial in trials}
        self._order = deque(self._by_point.values())
        self._opened: set[int] = set()
        self._space: dict[str, BaseDistribution] = {
            "arm": CategoricalDistribution(sorted({trial.arm for trial in trials})),
            "seed": CategoricalDistribution(sorted({trial.seed for trial in trials})),
        }
        for arm, seed in self._by_point:
            self.study.enqueue_trial({"arm": arm, "seed": seed})

    def suggest(self, trial_id: str) -> Any:
        """Returns the next enqueued trial's configuration, None while the budget waits for a measure, or FINISHED."""
        while self._order and not self.closed:
            seed = self._order[0].seed
            if seed not in self._opened:
                skipped = self._runner.skipped
                may = self._runner.may_start([t for t in self._order if t.seed == seed and t.arm not in skipped])
                if not may:
                    return self._wait_or_close(may)
                # 一个种子的各 arm 要么都开始，要么都不开始
                self._opened.add(seed)
            self._order.popleft()
            trial = self.study.ask(self._space)
            if trial.params["arm"] not in self._runner.skipped:
                self._running[trial_id] = trial
                return self._runner.launch(self._by_point[trial.params["arm"], trial.params["seed"]], None)
        return Searcher.FINISHED

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tells Optuna how the trial ended; an interrupted one stays untold, as it will go on."""
        trial = self._running.pop(trial_id, None)
        state = (result or {}).get("state", "failed")
        if trial is not None and state in TOLD:
            values = (result[OBJECTIVE],) if result is not None and state == "finished" else None
            tell(self.study, trial, Ended(state, values))


class SweepSearcher(PhaseSearcher):
    """Samples the points of a search and hands them to Tune."""

    def __init__(
        self, search: Search, history: SearchHistory, runner: Runner, read: Callable[[str], Ended | None]
    ) -> None:
        """Tells the study what is on record, in the order in which it was told before.

        Args:
            search: What is searched, and how.
            history: Its past.
            runner: Who runs its points.
            read: Returns how the trial of a key ended, if it is on record.
        """
        super().__init__(runner)
        self.search, self._read = search, read
        self._points = SampledPoints(search, history)
        self._running: dict[str, tuple[int, PlannedTrial, list[tuple[int, float]]]] = {}
        self._elsewhere: list[Ask] = []
        self._unfinished = list(self._points.unfinished)

    @property
    def study(self) -> optuna.Study:
        """The Optuna study, as far as it has been told."""
        return self._points.study

    def suggest(self, trial_id: str) -> Any:
        """Returns the next point's configuration, None while the budget or another driver is awaited, or FINISHED."""
        self._unfinished, self._elsewhere = [*self._elsewhere, *self._unfinished], []
        while not self.closed:
            if self._unfinished or self._points.left:
                may = self._runner.may_start([self.search.trial({})])
                if not may:
                    return self._wait_or_close(may)
            ask = self._unfinished.pop(0) if self._unfinished else self._points.next()
            if ask is None:
                return None if self._elsewhere else Searcher.FINISHED
            planned = self.search.trial(ask.parameters)
            end = self._read(planned.key)
            if end is None:
                if not self._runner.lock(planned.key):
                    self._elsewhere.append(ask)
                    continue
                # 拿到锁后再查一次：别的进程可能刚好写完
                end = self._read(planned.key)
                if end is None:
                    self._running[trial_id] = (ask.position, planned, [])
                    return self._runner.launch(planned, ask)
                self._runner.unlock(planned.key)
            # 同样的 trial 已在案：直接告诉 Optuna，不再训练
            self._runner.join(planned, ask)
            self._points.tell(ask.position, end)
        return Searcher.FINISHED

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Keeps the curve of a running point, which Optuna is told where a scheduler stops it."""
        if trial_id in self._running and result.get("state") == "running":
            self._running[trial_id][2].append((int(result["epoch"]), float(result[OBJECTIVE])))

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tells Optuna how the point ended; an interrupted one stays untold, as it will go on."""
        if trial_id not in self._running:
            return
        position, planned, curve = self._running.pop(trial_id)
        state = (result or {}).get("state", "failed")
        if state == "running":
            # Tune 停的只是它自己的函数：worker 要由 broker 去停
            self._runner.stop(planned.key)
            state = "stopped"
        if state not in TOLD:
            return
        values = None
        if state == "finished" and result is not None:
            rate = result.get("images_per_second")
            adds = result.get("multiply_adds")
            values = objective_values(self.search.second, planned.config, result[OBJECTIVE], rate, adds)
            if values is None:
                logger.warning("%s has no %s: the sampler takes it as failed", planned.key, self.search.second)
                state = "failed"
        self._points.tell(position, Ended(state, values, tuple(curve) if state == "stopped" else ()))
