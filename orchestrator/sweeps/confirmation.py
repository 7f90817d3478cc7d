"""Confirmation: a sweep's best points on fresh seeds beside the baseline, planned, and judged as one Holm family."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, JsonValue

from orchestrator.planning.plan import ALPHA, CONFIRMATION_SEED, Plan
from orchestrator.records.files import locked, write_atomically
from orchestrator.statistics.alpha_spending import share_of_level
from orchestrator.statistics.paired import seeds_to_reach_a_verdict
from orchestrator.sweeps.objectives import pareto_front
from orchestrator.sweeps.search import Search, SearchHistory
from search_spaces.core_config import OWN_SEED, TrialConfig
from search_spaces.study import Recipe
from search_spaces.trial import PlannedTrial, point_trial

FILE = "confirmation.json"
OTHERS = "others"


class PointRow(BaseModel):
    """A point of `confirmation.json`."""

    name: str
    position: int
    parameters: dict[str, JsonValue]
    key: str


class ConfirmationFile(BaseModel):
    """What readers of `confirmation.json` rely on."""

    base: str
    points: tuple[PointRow, ...]
    seeds: Annotated[int, Field(ge=1, le=1_000_000)]
    looks: tuple[Annotated[int, Field(ge=1)], ...]


def fresh_seeds(seeds: int | None, points: int, recipe: Recipe) -> int:
    """Returns how many fresh seeds each point gets: those asked for, or the recipe's if they can reach a verdict.

    Args:
        seeds: `--confirm-seeds`.
        points: Points confirmed, one Holm family.
        recipe: Of the study.
    """
    # 符号检验自己下判断时，第一次看能用的水平要够它的最小 p
    level = ALPHA if recipe.threshold is None else share_of_level((), recipe.seeds, ALPHA) * ALPHA
    return seeds or max(recipe.seeds, seeds_to_reach_a_verdict(points, level))


def confirmation_plan(
    search: Search, history: SearchHistory, count: int, seeds: int, before: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns what is confirmed: the best points by validation error; those chosen before stay in the family.

    Of a sweep with two objectives the points of its Pareto front come first.

    Args:
        search: The sweep.
        history: Its past.
        count: How many points.
        seeds: Fresh seeds per point.
        before: What `confirmation.json` holds; a confirmation of another base or space stays beside this one.
    """
    ended = [(ask, history.ended[ask.position]) for ask in history.asks if ask.position in history.ended]
    finished = [(ask, end.values) for ask, end in ended if end.values is not None]
    second = search.second
    front = set(pareto_front([(values[0], values[1]) for _, values in finished], second) if second else ())
    order = sorted(range(len(finished)), key=lambda place: (place not in front, finished[place][1][0], place))
    best = [finished[place][0] for place in order[:count]]
    chosen = [
        {"name": f"point-{ask.position}", "position": ask.position, "parameters": dict(ask.parameters), "key": ask.key}
        for ask in best
    ]
    question = {"base": search.base_key, "space": search.space.model_dump(mode="json")}
    # 绕到别的问题再回来，先前的点和看过的次数都还算数
    known = [{name: one[name] for name in one if name != OTHERS} for one in (before, *before.get(OTHERS, [])) if one]
    mine = [one for one in known if all(one.get(name) == value for name, value in question.items())]
    others = [one for one in known if one not in mine]
    earlier = list(mine[0]["points"]) if mine else []
    points_known = {point["key"] for point in earlier}
    return {
        **question,
        "points": [*earlier, *(point for point in chosen if point["key"] not in points_known)],
        "seeds": max(seeds, mine[0]["seeds"]) if mine else seeds,
        "looks": mine[0]["looks"] if mine else [],
        **({OTHERS: others} if others else {}),
    }


def read_confirmation(folder: Path) -> dict[str, Any]:
    """Returns a study's plan of a confirmation; an empty dict where there is none, or it is damaged."""
    try:
        content = json.loads((folder / FILE).read_bytes())
        ConfirmationFile.model_validate(content)
    except (OSError, ValueError, RecursionError):
        return {}
    return dict(content)


def write_confirmation(folder: Path, content: Mapping[str, Any]) -> None:
    """Writes a study's plan of a confirmation, before its first trial."""
    write_atomically(folder / FILE, json.dumps(content, indent=1, sort_keys=True).encode())


def note_look(folder: Path, seeds: int) -> None:
    """Writes down that the confirmation was judged at so many complete seeds."""
    with locked(folder):
        content = read_confirmation(folder)
        if seeds and seeds not in content["looks"]:
            write_confirmation(folder, {**content, "looks": [*content["looks"], seeds]})


def confirmation_trials(plan: Plan, content: Mapping[str, Any]) -> tuple[PlannedTrial, ...]:
    """Returns the trials of a confirmation, seed by seed, the baseline first.

    Args:
        plan: The study's plan.
        content: From `confirmation_plan`.
    """
    if not content:
        return ()
    baseline = next(trial.config for trial in plan.trials if trial.arm == plan.study.baseline)
    varies = (OWN_SEED, *plan.recipe.vary)
    settings: list[tuple[str, TrialConfig, Mapping[str, Any]]] = [(plan.study.baseline, baseline, {})]
    settings += [(point["name"], plan.base, point["parameters"]) for point in content["points"]]
    return tuple(
        point_trial(base, parameters, seed, arm=name, phase="confirmation", what="confirmation", varies=varies)
        for seed in range(CONFIRMATION_SEED, CONFIRMATION_SEED + content["seeds"])
        for name, base, parameters in settings
    )
