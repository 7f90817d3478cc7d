"""What a sweep already knows: its own points on record, those interrupted, and the arms that lie in its space."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from statistics import fmean
from typing import Any

from alexnet_core.configuration import TrainConfig
from orchestrator.plan import Plan
from search_spaces.study import Sweep
from search_spaces.trial import PlannedTrial, configuration_key, sweep_trial

# 调参种子与裁决种子永不相交（statistics.md）
TUNING_SEED = 1000

Lookup = Callable[[str], "tuple[str, float | None] | None"]


@dataclass(frozen=True)
class SweepHistory:
    """A sweep's past.

    Attributes:
        known: (parameters, state, validation error in [0, 1]) of ended points, in the order asked.
        unfinished: (position, parameters) of points that were asked and have not ended.
        asked: How many points were asked.
    """

    known: tuple[tuple[Mapping[str, Any], str, float | None], ...]
    unfinished: tuple[tuple[int, Mapping[str, Any]], ...]
    asked: int


def sweep_history(plan: Plan, members: Sequence[Mapping[str, Any]], lookup: Lookup) -> SweepHistory:
    """Reads a sweep's past from the memberships and the records.

    Points of an earlier base (another `--set`, other data, other epochs) are not of this sweep.
    """
    sweep = plan.study.sweep
    if sweep is None:
        return SweepHistory((), (), 0)
    known = list(_arm_points(plan, sweep, lookup))
    unfinished, asked = [], 0
    own = sorted((row for row in members if row["phase"] == "sweep"), key=lambda row: int(row["position"]))
    for row in own:
        if not _is_of_this_sweep(plan, row):
            continue
        asked = max(asked, int(row["position"]) + 1)
        ended = lookup(row["key"])
        if ended is None:
            unfinished.append((int(row["position"]), row["parameters"]))
        else:
            known.append((row["parameters"], *ended))
    return SweepHistory(tuple(known), tuple(unfinished), asked)


def _is_of_this_sweep(plan: Plan, row: Mapping[str, Any]) -> bool:
    sweep = plan.study.sweep
    if sweep is None or set(row["parameters"]) != set(sweep.parameters):
        return False
    return plan_point(plan, row["parameters"]).key == str(row["key"])


def plan_point(plan: Plan, parameters: Mapping[str, Any]) -> PlannedTrial:
    """Returns the validated trial of a point, on the tuning seed."""
    return sweep_trial(plan.study, plan.base, parameters, TUNING_SEED)


def _arm_points(plan: Plan, sweep: Sweep, lookup: Lookup) -> list[tuple[dict[str, Any], str, float | None]]:
    """The arms that lie in the sweep's space, each with its mean validation error over finished seeds."""
    points: list[tuple[dict[str, Any], str, float | None]] = []
    for arm in plan.study.arms:
        trials = [trial for trial in plan.trials if trial.arm == arm.name]
        parameters = point_of(sweep, trials[0].config) if trials else None
        if parameters is None:
            continue
        as_point = sweep_trial(plan.study, plan.base, parameters, trials[0].seed)
        if configuration_key(as_point.config) != configuration_key(trials[0].config):
            continue
        ended = [lookup(trial.key) for trial in trials]
        errors = [entry[1] for entry in ended if entry is not None and entry[0] == "finished"]
        measured = [error for error in errors if error is not None]
        if measured:
            points.append((parameters, "finished", fmean(measured)))
    return points


def point_of(sweep: Sweep, config: TrainConfig) -> dict[str, Any] | None:
    """Returns the sweep's parameters as they stand in `config`; None where they are absent, unequal or outside."""
    point: dict[str, Any] = {}
    for path, parameter in sweep.parameters.items():
        values = _values(path, config)
        if not values or any(value != values[0] for value in values):
            return None
        inside = (
            values[0] in parameter.choices
            if parameter.kind == "categorical"
            else parameter.low <= values[0] <= parameter.high
        )
        if not inside:
            return None
        point[path] = values[0]
    return point


def _values(path: str, config: TrainConfig) -> list[Any]:
    room, *rest = path.split(".")
    if room != "network" or len(rest) == 1:
        return [getattr(getattr(config, room), rest[0])]
    pattern, name = rest
    return [
        getattr(layer, name)
        for layer in config.network.layers
        if fnmatchcase(layer.name, pattern) and hasattr(layer, name)
    ]
