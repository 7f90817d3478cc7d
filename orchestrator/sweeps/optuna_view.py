"""The SQLite view of a study for Optuna's own tools: `optuna-dashboard sqlite:///...` and `optuna.load_study`.

A view, made again from the records each time: our sweeps never read it.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, create_trial
from optuna.trial import TrialState as OptunaState
from sqlalchemy.pool import StaticPool

from orchestrator.choices import SecondObjective
from orchestrator.planning.plan import Plan
from orchestrator.records import files, layout, trial_record
from orchestrator.records.checked_record import read_curve
from orchestrator.records.reports import objective_curve
from orchestrator.sweeps.objectives import directions, objective_names
from orchestrator.sweeps.sampled_points import TOLD
from orchestrator.sweeps.samplers import distributions, quiet_optuna
from orchestrator.sweeps.search import OPTUNA_VIEW, Ended, Search, SearchHistory, read_ended
from search_spaces.core_config import CoreDescription, description_of


def write_view(folder: Path, results: Path, plan: Plan, search: Search | None, history: SearchHistory) -> Path:
    """Writes `optuna.db` with the studies `<study>/arms` and, where there is one, `<study>/sweep`; returns its path.

    Args:
        folder: The study's folder.
        results: The results folder.
        plan: The plan.
        search: Its sweep.
        history: The sweep's past.
    """
    quiet_optuna()
    # 先在内存里建好再一次写出：逐个 trial 提交到磁盘要 50 毫秒，也不会留下写了一半的文件
    storage = RDBStorage(
        "sqlite://", engine_kwargs={"poolclass": StaticPool, "connect_args": {"check_same_thread": False}}
    )
    _add_arms(storage, folder.name, results, plan)
    if search is not None:
        _add_sweep(storage, results, search, history)
    path = folder / OPTUNA_VIEW
    connection = storage.engine.raw_connection()
    content: bytes = connection.driver_connection.serialize()  # type: ignore[union-attr]
    connection.close()
    storage.engine.dispose()
    files.write_atomically(path, content)
    return path


def load_calls(path: Path, search: Search | None) -> list[str]:
    """Returns the calls of Optuna that load what `write_view` has written.

    Args:
        path: Of the storage.
        search: The sweep.
    """
    names = [f"{path.parent.name}/arms", *([search.name] if search is not None else [])]
    return [f'optuna.load_study(study_name="{name}", storage="sqlite:///{path.resolve()}")' for name in names]


def _add_arms(storage: RDBStorage, name: str, results: Path, plan: Plan) -> None:
    core = description_of(plan.base)
    study = optuna.create_study(storage=storage, study_name=f"{name}/arms", direction=_natural(core, None)[0])
    study.set_user_attr("objectives", list(objective_names(core, None)))
    space: dict[str, BaseDistribution] = {
        "arm": CategoricalDistribution([arm.name for arm in plan.study.arms]),
        "seed": CategoricalDistribution(list(plan.seeds)),
    }
    for trial in plan.trials:
        end = read_ended(results, trial.key)
        if end is not None:
            about = {"key": trial.key}
            point = {"arm": trial.arm, "seed": trial.seed}
            study.add_trial(_trial(results, core, trial.key, end, point, space, about))


def _add_sweep(storage: RDBStorage, results: Path, search: Search, history: SearchHistory) -> None:
    core = search.core
    study = optuna.create_study(storage=storage, study_name=search.name, directions=_natural(core, search.second))
    study.set_user_attr("objectives", list(objective_names(core, search.second)))
    space, objectives = distributions(search.space), len(study.directions)
    for parameters, end in history.arms:
        study.add_trial(_trial(results, core, None, end, parameters, space, {"arm": "mean over its seeds"}, objectives))
    for ask in history.asks:
        if ask.position in history.ended:
            about = {"key": ask.key, "position": ask.position, "sampler": ask.sampler}
            end = history.ended[ask.position]
            study.add_trial(_trial(results, core, ask.key, end, ask.parameters, space, about, objectives))


def _natural(core: CoreDescription, second: SecondObjective | None) -> list[Literal["minimize", "maximize"]]:
    """The directions in which people read the objectives: an accuracy is shown as it is, and gets higher."""
    first, *others = directions(second)
    return ["maximize" if core.chosen.better == "higher" else first, *others]


def _trial(
    results: Path,
    core: CoreDescription,
    key: str | None,
    end: Ended,
    parameters: Mapping[str, Any],
    space: Mapping[str, BaseDistribution],
    about: Mapping[str, Any],
    objectives: int = 1,
) -> FrozenTrial:
    state = TOLD[end.state]
    values = None
    if state is OptunaState.COMPLETE and end.values is not None:
        # 采样器看的是变了号的；给人看的还原
        values = [core.chosen.objective(end.values[0]), *end.values[1:]]
    folder = layout.trial_folder(results, key) if key is not None else None
    curve = read_curve(folder) if folder is not None and objectives == 1 else []
    made = create_trial(
        state=state,
        values=values,
        params=dict(parameters),
        distributions=dict(space),
        user_attrs={**about, "state": end.state},
        intermediate_values={
            epoch: core.chosen.objective(objective) for epoch, objective in objective_curve(curve, core)
        },
    )
    result = trial_record.read_result(folder) if folder is not None else None
    if result is not None:
        # 时间写得奇怪的记录，就留着 Optuna 自己填的时间
        with suppress(ValueError):
            times = [datetime.fromisoformat(text) for text in (result.started_at, result.finished_at)]
            made.datetime_start, made.datetime_complete = (time.replace(tzinfo=None) for time in times)
    return made
