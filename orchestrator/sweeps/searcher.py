"""Optuna behind Ray Tune: arms as enqueued categorical points, searches as sampled ones.

The studies live in memory and are told again from the records at each start, so an interrupted run continues the same
sequence of points.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import TrialState as OptunaState
from optuna.trial import create_trial
from ray.tune.search import Searcher

from orchestrator.sweeps.objectives import VALIDATION_ERROR, directions, objective_values
from orchestrator.sweeps.samplers import REPLAYED, distributions, grid_order, make_sampler, quiet_optuna
from orchestrator.sweeps.search import Ask, Ended, Search, SearchHistory
from search_spaces.trial import PlannedTrial

logger = logging.getLogger(__name__)
Launch = Callable[[PlannedTrial, Ask | None], dict[str, Any]]
MayStart = Callable[[Sequence[PlannedTrial]], "bool | None"]
Join = Callable[[PlannedTrial, Ask | None], None]
# 已知的点抽到这么多次，就当空间已被取尽
MOST_REDRAWS = 64
REDRAWS_BY_SAMPLER = 8
TOLD = {
    "finished": OptunaState.COMPLETE,
    "stopped": OptunaState.PRUNED,
    # 发散若报 FAIL，TPE 会不断走回悬崖；报 PRUNED 才会避开
    "diverged": OptunaState.PRUNED,
    "failed": OptunaState.FAIL,
}


class UnsavedSearcher(Searcher):  # type: ignore[misc]  # ray is untyped here
    """A searcher that Tune cannot save: the records are the truth, and none is ever restored."""

    closed = False
    # 预算由运行者装上；没有预算时什么都可以开始
    may_start: MayStart = staticmethod(lambda trials: True)

    def __init__(self) -> None:
        """Minimises the validation error, in Tune's eyes."""
        super().__init__(metric=VALIDATION_ERROR, mode="min")
        quiet_optuna()

    def __getstate__(self) -> dict[str, Any]:
        """Returns nothing."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Saves nothing."""

    def restore(self, checkpoint_path: str) -> None:
        """Restores nothing."""

    def _close(self) -> Any:
        self.closed = True
        return Searcher.FINISHED


class ArmSearcher(UnsavedSearcher):
    """Hands the missing trials of arms to Tune, in the order of the plan."""

    def __init__(self, study_name: str, trials: Sequence[PlannedTrial], launch: Launch) -> None:
        """Enqueues the trials.

        Args:
            study_name: Name of the study; the Optuna study is `<study>/arms`.
            trials: The trials to run.
            launch: Opens a trial's record and returns the Tune function's configuration.
        """
        super().__init__()
        self.study = optuna.create_study(study_name=f"{study_name}/arms", direction="minimize")
        self._launch = launch
        self._asked: dict[str, optuna.trial.Trial] = {}
        self._by_point = {(trial.arm, trial.seed): trial for trial in trials}
        self._order = deque(self._by_point.values())
        self._opened: set[int] = set()
        self._space: dict[str, BaseDistribution] = {
            "arm": CategoricalDistribution(sorted({trial.arm for trial in trials})),
            "seed": CategoricalDistribution(sorted({trial.seed for trial in trials})),
        }
        for arm, seed in self._by_point:
            self.study.enqueue_trial({"arm": arm, "seed": seed})
        self.skipped: set[str] = set()

    def suggest(self, trial_id: str) -> Any:
        """Returns the next enqueued trial's configuration, None while the budget waits for a measure, or FINISHED."""
        while self._order and not self.closed:
            seed = self._order[0].seed
            if seed not in self._opened:
                may = self.may_start([t for t in self._order if t.seed == seed and t.arm not in self.skipped])
                if not may:
                    return None if may is None else self._close()
                # 一个种子的各 arm 要么都开始，要么都不开始
                self._opened.add(seed)
            self._order.popleft()
            asked = self.study.ask(self._space)
            if asked.params["arm"] not in self.skipped:
                self._asked[trial_id] = asked
                return self._launch(self._by_point[asked.params["arm"], asked.params["seed"]], None)
        return Searcher.FINISHED

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tells Optuna how the trial ended; an interrupted one stays untold, as it will go on."""
        asked = self._asked.pop(trial_id, None)
        state = (result or {}).get("state", "failed")
        if asked is not None and state in TOLD:
            values = (result[VALIDATION_ERROR],) if result is not None and state == "finished" else None
            tell(self.study, asked, Ended(state, values))


class SweepSearcher(UnsavedSearcher):
    """Samples the points of a search and hands them to Tune."""

    def __init__(
        self,
        search: Search,
        history: SearchHistory,
        *,
        launch: Launch,
        join: Join,
        read: Callable[[str], Ended | None],
        stop: Callable[[str], None],
        lock: Callable[[str], bool],
        unlock: Callable[[str], None],
    ) -> None:
        """Tells the study what is on record, in the order in which it was told before.

        Args:
            search: What is searched, and how.
            history: Its past.
            launch: Opens a point's record and returns the Tune function's configuration.
            join: Writes down that a point on record belongs to the study.
            read: Returns how the trial of a key ended, if it is on record.
            stop: Asks the worker that trains a key to stop, because a scheduler decided so.
            lock: Takes the trial of a key for this driver, who frees it at its end; False while another one trains it.
            unlock: Frees a trial that is not launched.
        """
        super().__init__()
        self.search = search
        self.study = optuna.create_study(study_name=search.name, directions=directions(search.second))
        self._launch, self._join, self._read, self._stop = launch, join, read, stop
        self._lock, self._unlock = lock, unlock
        self._space = distributions(search.space)
        self._grid = deque(grid_order(search)) if search.sampler == "grid" else None
        self._left = max(0, search.size() - len(history.asks))
        self._position = history.next_position
        self._known: set[str] = set()
        self._open: dict[int, optuna.trial.Trial] = {}
        self._told: list[int] = []
        self._running: dict[str, tuple[int, PlannedTrial, list[tuple[int, float]]]] = {}
        self._elsewhere: list[Ask] = []
        for parameters, end in history.arms:
            self._add(parameters, end)
        self._replay(history)

    # ---- what is known ------------------------------------------------------------------------------------

    def _add(self, parameters: Mapping[str, Any], end: Ended) -> None:
        state = TOLD[end.state]
        self.study.add_trial(
            create_trial(
                state=state,
                values=list(end.values) if state is OptunaState.COMPLETE and end.values is not None else None,
                params=dict(parameters),
                distributions=self._space,
            )
        )

    def _replay(self, history: SearchHistory) -> None:
        """Asks and tells the points of earlier runs again, in the order of then."""
        for ask in history.asks:
            earlier = sorted(self._open) if ask.told is None else ask.told
            self._tell_again(earlier, history)
            self._open[ask.position] = self._ask_again(ask)
            self._known.add(ask.key)
        self._told = []
        self._tell_again(sorted(self._open), history)
        self._unfinished = [ask for ask in history.asks if ask.position not in history.ended]

    def _tell_again(self, positions: Sequence[int], history: SearchHistory) -> None:
        for position in positions:
            if position in self._open and position in history.ended:
                self._tell(position, history.ended[position])

    def _ask_again(self, ask: Ask) -> optuna.trial.Trial:
        if ask.sampler == self.search.sampler and ask.sampler in REPLAYED:
            asked = self._draw(ask.position)
            if asked is not None and asked.params == ask.parameters:
                return asked
            # 历史变了（例如 arm 的均值），就以记录为准
            if asked is not None:
                self.study.tell(asked, state=OptunaState.FAIL)
        return self._enqueued(ask.parameters)

    def _enqueued(self, parameters: Mapping[str, Any]) -> optuna.trial.Trial:
        self.study.enqueue_trial(dict(parameters))
        return self.study.ask(self._space)

    def _tell(self, position: int, end: Ended) -> None:
        tell(self.study, self._open.pop(position), end)
        self._told.append(position)

    # ---- what comes next ----------------------------------------------------------------------------------

    def _draw(self, position: int) -> optuna.trial.Trial | None:
        """Asks for a point that is not known yet; None when the space holds no other."""
        if self._grid is not None:
            while self._grid:
                point = self._grid.popleft()
                if self.search.trial(point).key not in self._known:
                    return self._enqueued(point)
            return None
        for attempt in range(MOST_REDRAWS):
            by_random = attempt >= REDRAWS_BY_SAMPLER
            self.study.sampler = make_sampler(self.search, position, attempt, by_random=by_random)
            asked = self.study.ask(self._space)
            if self.search.trial(asked.params).key not in self._known:
                return asked
            self.study.tell(asked, state=OptunaState.FAIL)
        return None

    def suggest(self, trial_id: str) -> Any:
        """Returns the next point's configuration, None while the budget or another driver is awaited, or FINISHED."""
        self._unfinished, self._elsewhere = [*self._elsewhere, *self._unfinished], []
        while not self.closed:
            if self._unfinished or self._left:
                may = self.may_start([self.search.trial({})])
                if not may:
                    return None if may is None else self._close()
            ask = self._next()
            if ask is None:
                return None if self._elsewhere else Searcher.FINISHED
            planned = self.search.trial(ask.parameters)
            end = self._read(planned.key)
            if end is None:
                if not self._lock(planned.key):
                    self._elsewhere.append(ask)
                    continue
                # 拿到锁后再查一次：别的进程可能刚好写完
                end = self._read(planned.key)
                if end is None:
                    self._running[trial_id] = (ask.position, planned, [])
                    return self._launch(planned, ask)
                self._unlock(planned.key)
            # 同样的 trial 已在案：直接告诉 Optuna，不再训练
            self._join(planned, ask)
            self._tell(ask.position, end)
        return Searcher.FINISHED

    def _next(self) -> Ask | None:
        if self._unfinished:
            return self._unfinished.pop(0)
        if not self._left:
            return None
        position = self._position
        asked = self._draw(position)
        if asked is None:
            self._left = 0
            return None
        self._left -= 1
        self._position += 1
        self._open[position] = asked
        key = self.search.trial(asked.params).key
        self._known.add(key)
        ask = Ask(position, key, self.search.base_key, asked.params, tuple(self._told), self.search.sampler)
        self._told = []
        return ask

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Keeps the curve of a running point, which Optuna is told where a scheduler stops it."""
        if trial_id in self._running and result.get("state") == "running":
            self._running[trial_id][2].append((int(result["epoch"]), float(result[VALIDATION_ERROR])))

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tells Optuna how the point ended; an interrupted one stays untold, as it will go on."""
        if trial_id not in self._running:
            return
        position, planned, curve = self._running.pop(trial_id)
        state = (result or {}).get("state", "failed")
        if state == "running":
            # Tune 停的只是它自己的函数：worker 要由 broker 去停
            self._stop(planned.key)
            state = "stopped"
        if state not in TOLD:
            return
        values = None
        if state == "finished" and result is not None:
            rate = result.get("images_per_second")
            values = objective_values(self.search.second, planned.config, result[VALIDATION_ERROR], rate)
        self._tell(position, Ended(state, values, tuple(curve) if state == "stopped" else ()))


def tell(study: optuna.Study, asked: optuna.trial.Trial, end: Ended) -> None:
    """Tells a study the end of a trial, that of a stopped one with its curve."""
    state = TOLD[end.state]
    if state is OptunaState.COMPLETE and end.values is not None:
        study.tell(asked, list(end.values))
        return
    # 多目标的 Optuna 不收中间值
    for epoch, error in end.curve if len(study.directions) == 1 else ():
        asked.report(error, epoch)
    study.tell(asked, state=state)
