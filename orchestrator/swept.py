"""What a sweep says as a whole, as data: its points, its Pareto front, how it was made."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from orchestrator.findings import ParameterImportance, SweepFacts, SweepPoint
from orchestrator.objectives import SecondObjective, pareto_front
from orchestrator.records import write_atomically
from search_spaces.space import Sweep


def sweep_points(
    members: pl.DataFrame, trials: pl.DataFrame, second: SecondObjective | None = None
) -> tuple[SweepPoint, ...]:
    """Returns the ended points of a sweep in the order in which they were asked.

    Args:
        members: Rows of the members table that belong to the sweep.
        trials: The trials table.
        second: The second objective.
    """
    by_key = {
        row["key"]: row for row in trials.filter(pl.col("key").is_in(members["key"].to_list())).iter_rows(named=True)
    }
    points = []
    for member in members.sort("position").iter_rows(named=True):
        row = by_key.get(member["key"])
        if row is None:
            continue
        finished = row["state"] == "finished" and row["validation_top1_error"] is not None
        points.append(
            SweepPoint(
                parameters=json.loads(member["parameters"]),
                state=row["state"],
                validation_error=100.0 * row["validation_top1_error"] if finished else None,
                key=row["key"],
                position=member["position"],
                second=None if second is None or not finished else row.get(second),
            )
        )
    return tuple(points)


def ranked(points: Sequence[SweepPoint]) -> list[SweepPoint]:
    """Returns points by rising validation error; those without one last."""
    return sorted(
        points, key=lambda point: (point.validation_error is None, point.validation_error or 0.0, point.position or 0)
    )


def front_of(points: Sequence[SweepPoint], second: SecondObjective | None) -> tuple[SweepPoint, ...]:
    """Returns the points on the Pareto front, by rising error; none without a second objective.

    Args:
        points: Points of the sweep.
        second: The second objective.
    """
    both = [
        (point, (point.validation_error, point.second))
        for point in points
        if point.validation_error is not None and point.second is not None
    ]
    return () if second is None else tuple(both[place][0] for place in pareto_front([pair for _, pair in both], second))


def sweep_facts(
    points: Sequence[SweepPoint], epochs: int, made: Mapping[str, Any], importance: Sequence[ParameterImportance]
) -> SweepFacts:
    """Returns what is said of a sweep as a whole.

    Args:
        points: Its ended points.
        epochs: Epochs trained, all points together.
        made: Content of `sweep.json`.
        importance: Of its parameters.
    """
    second = made.get("second_objective")
    return SweepFacts(
        sampler=made.get("sampler", "tpe"),
        pruner=made.get("pruner", "none"),
        second_objective=second,
        states=dict(sorted(Counter(point.state for point in points).items())),
        epochs=epochs,
        importance=tuple(importance),
        importance_points=min(100, sum(point.validation_error is not None for point in points)),
        front=front_of(points, second),
    )


def remembered_importance(
    folder: Path, space: Sweep, points: Sequence[SweepPoint], *, keep: bool = True
) -> tuple[ParameterImportance, ...]:
    """Returns the parameters' importance; what was computed for the same points is read, since it takes seconds.

    Args:
        folder: The study's folder.
        space: The sweep's parameters.
        points: Its ended points.
        keep: Write what was computed; a report that only looks writes nothing.
    """
    finished = [(point.parameters, point.validation_error) for point in points if point.validation_error is not None]
    seen = json.dumps([space.model_dump(mode="json"), finished], sort_keys=True)
    digest = hashlib.sha256(seen.encode()).hexdigest()
    path = folder / "importance.json"
    try:
        before = json.loads(path.read_text())
        if before["points"] == digest:
            return tuple(ParameterImportance.model_validate(entry) for entry in before["importance"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        pass
    # Optuna 与 scikit-learn 只在有扫描时加载
    from orchestrator.importance import importance

    found = importance(space, finished)
    if found and keep:
        content = {"points": digest, "importance": [entry.model_dump(mode="json") for entry in found]}
        write_atomically(path, json.dumps(content, indent=1, sort_keys=True).encode())
    return found
