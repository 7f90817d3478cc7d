"""What a sampler searches, and what it already knows: its points on record, those interrupted, and fitting arms."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

from pydantic import BaseModel

from orchestrator.choices import SamplerName, SecondObjective
from orchestrator.planning.plan import TUNING_SEED, Plan
from orchestrator.records import layout
from orchestrator.records.checked_record import ended_curve, read_record
from orchestrator.records.reports import objective_curve
from orchestrator.sweeps.objectives import objective_values
from search_spaces.core_config import CoreConfig, CoreDescription, TrialConfig, description_of
from search_spaces.edits import field_values
from search_spaces.errors import StudyError
from search_spaces.space import (
    CategoricalParameter,
    Sweep,
    contains,
    grid_points,
    grid_values,
    space_size,
    tried_values,
)
from search_spaces.trial import Phase, PlannedTrial, configuration_key, point_trial, wrong_field

# 给 Optuna 自己的工具看的视图
OPTUNA_VIEW = "optuna.db"
# 没有写 steps 的整数范围可以很长：试这么多个就够了
MOST_GRID_VALUES = 1000


@dataclass(frozen=True)
class Search:
    """A space that a sampler searches around a base configuration.

    Attributes:
        name: Of the Optuna study, such as `lrn/sweep`; the sampler's seeds follow from it.
        space: The parameters.
        base: The configuration whose fields the points change.
        points: How many points there are to be in all, those on record included.
        arm: Under which name its trials are members of the study.
        phase: In which phase.
        trial_seed: The seed of its trials.
        sampler: Who chooses the points.
        second: A second objective beside the metric that chooses.
        seed: Of the sampler.
    """

    name: str
    space: Sweep
    base: TrialConfig
    points: int
    arm: str = "sweep"
    phase: Phase = "sweep"
    trial_seed: int = TUNING_SEED
    sampler: SamplerName = "tpe"
    second: SecondObjective | None = None
    seed: int = 0

    def trial(self, parameters: Mapping[str, Any]) -> PlannedTrial:
        """Returns the validated trial of a point; raises StudyError."""
        what = f"point of {self.name}"
        return point_trial(self.base, parameters, self.trial_seed, arm=self.arm, phase=self.phase, what=what)

    @property
    def core(self) -> CoreDescription:
        """What is trained."""
        return description_of(self.base)

    @cached_property
    def base_key(self) -> str:
        """The key of its base's configuration, whatever the seed."""
        return configuration_key(self.base)

    def size(self) -> int:
        """Returns how many points it can have at most: a finite space has no more than its own."""
        if self.sampler == "grid":
            return min(self.points, len(grid_points(self.space)))
        whole = space_size(self.space)
        return self.points if whole is None else min(self.points, whole)


@dataclass(frozen=True)
class Ended:
    """How a point ended.

    Attributes:
        state: finished, stopped, diverged or failed.
        values: The objectives of a finished point, see `objective_values`.
        curve: (epoch, objective) of a stopped point, up to where it was stopped.
    """

    state: str
    values: tuple[float, ...] | None = None
    curve: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Ask:
    """A point that was asked.

    Attributes:
        position: Its number in the sequence of asks, from 0.
        parameters: Dotted field to value.
        told: Positions whose end the sampler learnt between the ask before and this one; None where an older version
            did not write it down.
        sampler: Who chose it.
        key: Of its trial.
        base: Key of the configuration that it changes.
    """

    position: int
    key: str
    base: str
    parameters: Mapping[str, Any]
    told: tuple[int, ...] | None
    sampler: str


@dataclass(frozen=True)
class SearchHistory:
    """A search's past.

    Attributes:
        arms: (parameters, end) of arms that lie in the space.
        asks: The points asked in earlier runs, by position.
        ended: How those that ended did, by position.
        elsewhere: Positions that points of the same base outside the space have taken, from 0 to below this.
    """

    arms: tuple[tuple[Mapping[str, Any], Ended], ...] = ()
    asks: tuple[Ask, ...] = ()
    ended: Mapping[int, Ended] = field(default_factory=dict)
    elsewhere: int = 0

    @property
    def unfinished(self) -> int:
        """How many points were asked and have not ended."""
        return len(self.asks) - len(self.ended)

    @property
    def next_position(self) -> int:
        """The first position behind all that are taken."""
        return max(self.elsewhere, *(ask.position + 1 for ask in self.asks), 0)


def points_left(search: Search, history: SearchHistory) -> int:
    """Returns how many points are still to be trained."""
    return history.unfinished + max(0, search.size() - len(history.asks))


def search_history(
    search: Search,
    members: Iterable[Mapping[str, Any]],
    read: Callable[[str], Ended | None],
    arms: Sequence[tuple[Mapping[str, Any], Ended]] = (),
) -> SearchHistory:
    """Reads a search's past from the memberships and the records.

    Points of another base (another `--set`, other data, other epochs) or another space are not of this search.

    Args:
        search: The search.
        members: The study's memberships.
        read: Returns how the trial of a key ended; None while it has not.
        arms: Arms that lie in the space.
    """
    asks: dict[str, Ask] = {}
    ended: dict[int, Ended] = {}
    elsewhere = 0
    for position, row in _placed(row for row in members if _is_of_base(search, row)):
        if not contains(search.space, row["parameters"]):
            elsewhere = max(elsewhere, position + 1)
            continue
        told = row.get("told")
        known = None if told is None else tuple(int(number) for number in told)
        key, sampler = str(row["key"]), row.get("sampler", "tpe")
        asks[key] = Ask(position, key, search.base_key, row["parameters"], known, sampler)
        end = read(key)
        if end is not None:
            ended[position] = end
    in_order = tuple(sorted(asks.values(), key=lambda ask: ask.position))
    return SearchHistory(tuple(arms), in_order, ended, elsewhere)


def _placed(rows: Iterable[Mapping[str, Any]]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Yields every point once, with its position: where an earlier one has that already, the first free one.

    Two machines, or an older version with another space, have counted from 0 again. What is free depends on earlier
    rows alone, so that later ones move no point.
    """
    taken: set[int] = set()
    keys: set[str] = set()
    free = 0
    for row in rows:
        if row["key"] in keys:
            continue
        keys.add(row["key"])
        position = int(row["position"])
        if position in taken:
            while free in taken:
                free += 1
            position = free
        taken.add(position)
        yield position, row


def _is_of_base(search: Search, row: Mapping[str, Any]) -> bool:
    """Says whether a membership is a point around this search's base, in whatever space as far as that can be told."""
    if row["phase"] != search.phase or row["arm"] != search.arm or row.get("position") is None:
        return False
    if row.get("base") is not None and row["parameters"]:
        return str(row["base"]) == search.base_key
    return is_point_of(search, row)


def is_point_of(search: Search, row: Mapping[str, Any]) -> bool:
    """Says whether a membership is a point of this search: its space, its base, its seed."""
    if row.get("position") is None or not contains(search.space, row["parameters"] or {}):
        return False
    if row.get("base") is not None:
        return str(row["base"]) == search.base_key
    try:
        return search.trial(row["parameters"]).key == str(row["key"])
    except StudyError:
        return False


def read_ended(
    results: Path, key: str, second: SecondObjective | None = None, *, retry_failed: bool = False
) -> Ended | None:
    """Returns how a trial on record ended; None while it has not, and for a failed one that is to be tried again.

    Args:
        results: The results folder.
        key: The trial.
        second: The second objective.
        retry_failed: Whether failed trials are trained again.
    """
    folder = layout.trial_folder(results, key)
    record = read_record(folder)
    if record is None:
        return None
    config, result = record
    if retry_failed and result.state == "failed":
        return None
    objective = result.objective(config)
    if result.state == "finished" and objective is not None:
        adds = result.sizes.get("multiply_adds")
        values = objective_values(second, config, objective, result.images_per_second, adds)
        return Ended("failed" if values is None else "finished", values)
    if result.state == "stopped":
        core, epochs = description_of(config), ended_curve(folder, result).reports
        return Ended("stopped", None, objective_curve(epochs, core))
    return Ended("failed" if result.state == "finished" else result.state.value)


class SweepFile(BaseModel):
    """What readers of `sweep.json` rely on."""

    sampler: str = "tpe"
    pruner: str = "none"
    second_objective: SecondObjective | None = None


def read_sweep_file(folder: Path) -> dict[str, Any]:
    """Returns how a study's sweep was last made (`sweep.json`); an empty dict where none was, or the file is damaged.

    Args:
        folder: The study's folder.
    """
    try:
        content = json.loads((folder / "sweep.json").read_bytes())
        SweepFile.model_validate(content)
    except (OSError, ValueError, RecursionError):
        return {}
    return dict(content)


def arms_in_space(
    plan: Plan, search: Search, read: Callable[[str], Ended | None]
) -> tuple[tuple[Mapping[str, Any], Ended], ...]:
    """Returns the arms that lie in a search's space, each with the mean objectives over its finished seeds."""
    points: list[tuple[Mapping[str, Any], Ended]] = []
    for arm in plan.study.arms:
        trials = [trial for trial in plan.trials if trial.arm == arm.name]
        parameters = point_of(search.space, trials[0].config) if trials else None
        if parameters is None:
            continue
        if configuration_key(search.trial(parameters).config) != configuration_key(trials[0].config):
            continue
        # 与别的 arm 是同一批 trial 的，不告诉两次
        if any(parameters == known for known, _ in points):
            continue
        ends = [end for trial in trials if (end := read(trial.key)) is not None]
        measured = [end.values for end in ends if end.values is not None]
        if measured:
            means = tuple(fmean(column) for column in zip(*measured, strict=True))
            points.append((parameters, Ended("finished", means)))
    return tuple(points)


def point_of(space: Sweep, config: TrialConfig) -> dict[str, Any] | None:
    """Returns a space's parameters as they stand in `config`; None where they are absent, unequal or outside."""
    point: dict[str, Any] = {}
    for path in space.parameters:
        values = field_values(config, path)
        if not values or any(value != values[0] for value in values):
            return None
        point[path] = values[0]
    return point if contains(space, point) else None


def check_search(search: Search) -> None:
    """Refuses a space some of whose values are no valid trials, and a sampler that cannot search it.

    Raises:
        StudyError: With what would be right.
    """
    kinds = search.space.parameters.items()
    if search.second is not None:
        _check_second(search.second, search.base)
    for point in _tried_points(search):
        try:
            search.trial(point)
        except StudyError as error:
            raise StudyError(str(error), ("sweep", "parameters", *wrong_field(search.base, point))) from error
    categories = [path for path, parameter in kinds if isinstance(parameter, CategoricalParameter)]
    if search.sampler == "grid":
        grid_points(search.space)
    if search.sampler == "cmaes" and search.second is not None:
        raise StudyError("--sampler cmaes has one objective; with --multi use nsga2, tpe, gp, random, qmc or grid")
    if search.sampler == "cmaes" and categories:
        raise StudyError(f"--sampler cmaes searches numbers, and {categories[0]} is categorical; use tpe or random")
    if search.sampler == "nsga2" and search.second is None:
        raise StudyError("--sampler nsga2 is for two objectives: give --multi, or use tpe")


def _check_second(second: SecondObjective, base: TrialConfig) -> None:
    if isinstance(base, CoreConfig) and second == "images_per_second":
        raise StudyError(f"--multi images_per_second: core {base.core.name} reports no images; use multiply_adds")
    if isinstance(base, CoreConfig) and not base.core.has_sizes:
        raise StudyError(f"--multi {second}: core {base.core.name} does not say it; give it the function sizes")


def _tried_points(search: Search) -> list[dict[str, Any]]:
    """Points in which each value that is worth a try comes once, the first of all parameters and the last together."""
    values = {path: tried_values(parameter) for path, parameter in search.space.parameters.items()}
    if search.sampler == "grid":
        for path, parameter in search.space.parameters.items():
            values[path] = [*grid_values(path, parameter)[:MOST_GRID_VALUES], values[path][-1]]
    most = max(len(grid) for grid in values.values())
    return [{path: grid[min(place, len(grid) - 1)] for path, grid in values.items()} for place in range(most)]
