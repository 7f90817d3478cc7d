"""The points of a sweep as Optuna chooses them: what is on record is asked and told again, then it goes on.

The study lives in memory and is told from the records at each start, so an interrupted run continues the same sequence.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.trial import TrialState as OptunaState
from optuna.trial import create_trial

from orchestrator.sweeps.objectives import directions
from orchestrator.sweeps.samplers import REPLAYED, distributions, grid_order, make_sampler
from orchestrator.sweeps.search import Ask, Ended, Search, SearchHistory

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


class SampledPoints:
    """The Optuna study of a search, and the positions of its points.

    Attributes:
        study: The study.
        unfinished: Points of earlier runs that have not ended.
        left: How many further points there are to be.
    """

    def __init__(self, search: Search, history: SearchHistory) -> None:
        """Tells the study what is on record, in the order in which it was told before.

        Args:
            search: What is searched, and how.
            history: Its past.
        """
        self._search = search
        self.study = optuna.create_study(study_name=search.name, directions=directions(search.second))
        self._space = distributions(search.space)
        self._grid = deque(grid_order(search)) if search.sampler == "grid" else None
        self.left = max(0, search.size() - len(history.asks))
        self._position = history.next_position
        self._known: set[str] = set()
        self._open: dict[int, optuna.trial.Trial] = {}
        self._told: list[int] = []
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
        self.unfinished = [ask for ask in history.asks if ask.position not in history.ended]

    def _tell_again(self, positions: Sequence[int], history: SearchHistory) -> None:
        for position in positions:
            if position in self._open and position in history.ended:
                self.tell(position, history.ended[position])

    def _ask_again(self, ask: Ask) -> optuna.trial.Trial:
        if ask.sampler == self._search.sampler and ask.sampler in REPLAYED:
            trial = self._draw(ask.position)
            if trial is not None and trial.params == ask.parameters:
                return trial
            # 历史变了（例如 arm 的均值），就以记录为准
            if trial is not None:
                self.study.tell(trial, state=OptunaState.FAIL)
        return self._enqueued(ask.parameters)

    def _enqueued(self, parameters: Mapping[str, Any]) -> optuna.trial.Trial:
        self.study.enqueue_trial(dict(parameters))
        return self.study.ask(self._space)

    def tell(self, position: int, end: Ended) -> None:
        """Tells Optuna how the point at a position ended."""
        tell(self.study, self._open.pop(position), end)
        self._told.append(position)

    # ---- what comes next ----------------------------------------------------------------------------------

    def _draw(self, position: int) -> optuna.trial.Trial | None:
        """Asks for a point that is not known yet; None when the space holds no other."""
        if self._grid is not None:
            while self._grid:
                point = self._grid.popleft()
                if self._search.trial(point).key not in self._known:
                    return self._enqueued(point)
            return None
        for attempt in range(MOST_REDRAWS):
            by_random = attempt >= REDRAWS_BY_SAMPLER
            self.study.sampler = make_sampler(self._search, position, attempt, by_random=by_random)
            trial = self.study.ask(self._space)
            if self._search.trial(trial.params).key not in self._known:
                return trial
            self.study.tell(trial, state=OptunaState.FAIL)
        return None

    def next(self) -> Ask | None:
        """Asks for one more point; None when there are enough, or the space holds no other."""
        if not self.left:
            return None
        position = self._position
        trial = self._draw(position)
        if trial is None:
            self.left = 0
            return None
        self.left -= 1
        self._position += 1
        self._open[position] = trial
        key = self._search.trial(trial.params).key
        self._known.add(key)
        ask = Ask(position, key, self._search.base_key, trial.params, tuple(self._told), self._search.sampler)
        self._told = []
        return ask


def tell(study: optuna.Study, trial: optuna.trial.Trial, end: Ended) -> None:
    """Tells a study the end of a trial, that of a stopped one with its curve."""
    state = TOLD[end.state]
    if state is OptunaState.COMPLETE and end.values is not None:
        study.tell(trial, list(end.values))
        return
    # 多目标的 Optuna 不收中间值
    for epoch, error in end.curve if len(study.directions) == 1 else ():
        trial.report(error, epoch)
    study.tell(trial, state=state)
