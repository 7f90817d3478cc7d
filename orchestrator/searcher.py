"""Optuna behind Ray Tune: arms as enqueued categorical points, sweeps as sampled ones.

Both studies live in memory and are told again from the records at each start, so an interrupted run continues the
same study. The sampler of ask i is seeded with (study, i), since a resumed sampler would repeat its first points.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import TrialState as OptunaState
from optuna.trial import create_trial
from ray.tune.search import Searcher

from orchestrator.slot import METRIC
from search_spaces.study import Sweep
from search_spaces.trial import PlannedTrial

logger = logging.getLogger(__name__)

Launch = Callable[[PlannedTrial, "Mapping[str, Any] | None", "int | None"], dict[str, Any]]

# 记录在案的采样器参数：Optuna 5 改过默认值，所以一个不漏地写出
SAMPLER_ARGUMENTS: dict[str, Any] = {
    "n_startup_trials": 10,
    "n_ei_candidates": 24,
    "multivariate": True,
    "group": False,
    "constant_liar": True,
}
_TOLD = {
    "finished": OptunaState.COMPLETE,
    "stopped": OptunaState.PRUNED,
    # 发散若报 FAIL，TPE 会不断走回悬崖；报 PRUNED 才会避开
    "diverged": OptunaState.PRUNED,
    "failed": OptunaState.FAIL,
}


class ArmSearcher(Searcher):  # type: ignore[misc]  # ray is untyped here
    """Hands the missing arm trials to Tune, in the order of the plan."""

    def __init__(self, study_name: str, trials: Sequence[PlannedTrial], launch: Launch) -> None:
        """Enqueues the trials.

        Args:
            study_name: Name of the study; the Optuna study is `<study>/arms`.
            trials: The trials to run.
            launch: Opens a trial's record and returns the Tune function's configuration.
        """
        super().__init__(metric=METRIC, mode="min")
        quiet_optuna()
        self.study = optuna.create_study(study_name=f"{study_name}/arms", direction="minimize")
        self._launch = launch
        self._asked: dict[str, optuna.trial.Trial] = {}
        self._by_point = {(trial.arm, trial.seed): trial for trial in trials}
        self._waiting = len(self._by_point)
        self._space: dict[str, BaseDistribution] = {
            "arm": CategoricalDistribution(sorted({trial.arm for trial in trials})),
            "seed": CategoricalDistribution(sorted({trial.seed for trial in trials})),
        }
        for arm, seed in self._by_point:
            self.study.enqueue_trial({"arm": arm, "seed": seed})
        self.closed = False

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune saves its searcher, and we never restore one (the records are the truth)."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Saves nothing, see `__getstate__`."""

    def restore(self, checkpoint_path: str) -> None:
        """Restores nothing, see `__getstate__`."""

    def suggest(self, trial_id: str) -> Any:
        """Returns the next enqueued trial's configuration, or FINISHED."""
        if self.closed or self._waiting == 0:
            return Searcher.FINISHED
        self._waiting -= 1
        asked = self.study.ask(self._space)
        self._asked[trial_id] = asked
        return self._launch(self._by_point[asked.params["arm"], asked.params["seed"]], None, None)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tells Optuna how the trial ended."""
        tell(self.study, self._asked.pop(trial_id, None), result)


class SweepSearcher(Searcher):  # type: ignore[misc]  # ray is untyped here
    """Samples points of a sweep and hands them to Tune."""

    def __init__(
        self,
        study_name: str,
        sweep: Sweep,
        points: int,
        launch: Launch,
        plan_point: Callable[[Mapping[str, Any]], PlannedTrial],
        lookup: Callable[[PlannedTrial, Mapping[str, Any], int], tuple[str, float | None] | None],
        known: Sequence[tuple[Mapping[str, Any], str, float | None]],
        unfinished: Sequence[tuple[int, Mapping[str, Any]]],
        asked_before: int,
    ) -> None:
        """Tells the study what is on record and enqueues what was interrupted.

        Args:
            study_name: Name of the study and data set; the Optuna study is `<study>/sweep`.
            sweep: Parameters of the sweep.
            points: How many points the sweep has in all, those on record included.
            launch: Opens a trial's record and returns the Tune function's configuration.
            plan_point: Makes a validated trial of a point.
            lookup: Returns (state, validation error) of a point whose trial is on record already, or None.
            known: (parameters, state, validation error in [0, 1]) of each ended point, in the order asked.
            unfinished: (position, parameters) of points that were asked and have not ended.
            asked_before: How many points were asked in earlier runs.
        """
        super().__init__(metric=METRIC, mode="min")
        quiet_optuna()
        self.study = optuna.create_study(study_name=f"{study_name}/sweep", direction="minimize")
        self._name, self._points = study_name, points
        self._launch, self._plan_point, self._lookup = launch, plan_point, lookup
        self._space = distributions(sweep)
        self._position = asked_before
        self._unfinished = list(unfinished)
        self._asked: dict[str, optuna.trial.Trial] = {}
        for parameters, state, value in known:
            self._tell_known(parameters, state, value)
        self.closed = False

    def _tell_known(self, parameters: Mapping[str, Any], state: str, value: float | None) -> None:
        told = _TOLD[state]
        self.study.add_trial(
            create_trial(
                state=told,
                value=value if told is OptunaState.COMPLETE else None,
                params=dict(parameters),
                distributions=self._space,
            )
        )

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune saves its searcher, and we never restore one (the records are the truth)."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Saves nothing, see `__getstate__`."""

    def restore(self, checkpoint_path: str) -> None:
        """Restores nothing, see `__getstate__`."""

    def suggest(self, trial_id: str) -> Any:
        """Returns the configuration of the next point, or FINISHED."""
        while not self.closed:
            if self._unfinished:
                position, parameters = self._unfinished.pop(0)
                self.study.enqueue_trial(dict(parameters))
            elif self._position < self._points:
                position = self._position
                self._position += 1
            else:
                break
            self.study.sampler = sampler(self._name, position)
            asked = self.study.ask(self._space)
            planned = self._plan_point(asked.params)
            on_record = self._lookup(planned, asked.params, position)
            if on_record is None:
                self._asked[trial_id] = asked
                return self._launch(planned, asked.params, position)
            # 同样的 trial 已在案：直接告诉 Optuna，不再训练
            tell(self.study, asked, {"state": on_record[0], METRIC: on_record[1]})
        return Searcher.FINISHED

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tells Optuna how the point ended."""
        tell(self.study, self._asked.pop(trial_id, None), result)


def sampler(study_name: str, position: int) -> optuna.samplers.BaseSampler:
    """Returns the sampler of the ask at `position`, seeded by (study, position)."""
    digest = hashlib.sha256(f"{study_name}\n{position}".encode()).digest()
    return optuna.samplers.TPESampler(seed=int.from_bytes(digest[:4], "big"), **SAMPLER_ARGUMENTS)


def distributions(sweep: Sweep) -> dict[str, BaseDistribution]:
    """Returns Optuna's distributions of a sweep's parameters."""
    made: dict[str, BaseDistribution] = {}
    for path, parameter in sweep.parameters.items():
        if parameter.kind == "float":
            made[path] = FloatDistribution(parameter.low, parameter.high, log=parameter.log)
        elif parameter.kind == "integer":
            made[path] = IntDistribution(parameter.low, parameter.high, log=parameter.log)
        else:
            made[path] = CategoricalDistribution(list(parameter.choices))
    return made


def tell(study: optuna.Study, asked: optuna.trial.Trial | None, result: Mapping[str, Any] | None) -> None:
    """Tells a study the end of a trial; an interrupted one stays untold, as it will go on."""
    state = (result or {}).get("state", "failed")
    if asked is None or state not in _TOLD:
        return
    told = _TOLD[state]
    if told is OptunaState.COMPLETE and result is not None:
        study.tell(asked, result[METRIC])
    else:
        study.tell(asked, state=told)


def quiet_optuna() -> None:
    """Leaves the terminal to the study's own table."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
