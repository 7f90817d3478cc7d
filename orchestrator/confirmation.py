"""Confirmation: a sweep's best points on fresh seeds beside the baseline, planned, and judged as one Holm family."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

import polars as pl
from pydantic import BaseModel, Field, JsonValue

from alexnet_core.configuration import TrainConfig
from orchestrator.boundaries import ShareOfLevel, looks_before, share_of_level
from orchestrator.evidence import on_scale
from orchestrator.findings import Confirmation, ConfirmedPoint
from orchestrator.judged import Metric, judged_metric, with_epochs_to
from orchestrator.objectives import pareto_front
from orchestrator.pairs import ConfirmationRecord, paired_evidence
from orchestrator.plan import ALPHA, Plan
from orchestrator.records import locked, write_atomically
from orchestrator.statistics import seeds_to_reach_a_verdict
from orchestrator.sweep import Search, SearchHistory
from orchestrator.verdict import FEWEST_SEEDS, Verdict, judge, sentence, withhold
from search_spaces.study import Recipe
from search_spaces.trial import PlannedTrial, configuration_key, point_trial

# 确认用的种子与 arm（0 起）、调参（1000 起）永不相交（statistics.md）
CONFIRMATION_SEED = 2000
FILE = "confirmation.json"
OTHERS = "others"

Row = Mapping[str, Any]


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


def fresh_seeds(asked: int | None, points: int, recipe: Recipe) -> int:
    """Returns how many fresh seeds each point gets: those asked for, or the recipe's if they can reach a verdict.

    Args:
        asked: `--confirm-seeds`.
        points: Points confirmed, one Holm family.
        recipe: Of the study.
    """
    # 符号检验自己下判断时，第一次看能用的水平要够它的最小 p
    level = ALPHA if recipe.threshold is None else share_of_level((), recipe.seeds, ALPHA) * ALPHA
    return asked or max(recipe.seeds, seeds_to_reach_a_verdict(points, level))


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
    wanted: list[tuple[str, TrainConfig, Mapping[str, Any]]] = [(plan.study.baseline, baseline, {})]
    wanted += [(point["name"], plan.base, point["parameters"]) for point in content["points"]]
    return tuple(
        point_trial(base, parameters, seed, arm=name, phase="confirmation", what="confirmation")
        for seed in range(CONFIRMATION_SEED, CONFIRMATION_SEED + content["seeds"])
        for name, base, parameters in wanted
    )


# ---- judging ----------------------------------------------------------------------------------------------


def confirm(plan: Plan, content: Mapping[str, Any], trials: pl.DataFrame, epochs: pl.DataFrame) -> Confirmation | None:
    """Judges the confirmed points on the fresh seeds; None where none were asked, or the plan is of another question.

    Args:
        plan: The study's plan.
        content: Its confirmation's, see `read_confirmation`.
        trials: The trials table.
        epochs: The epochs table, which times to a threshold are read from.
    """
    if not content or content["base"] != configuration_key(plan.base):
        return None
    wanted = {(trial.arm, trial.seed): trial.key for trial in confirmation_trials(plan, content)}
    by_key = _rows(plan, trials, epochs, {*wanted.values(), *(point["key"] for point in content["points"])})
    by_seed = sorted({seed for _, seed in wanted})
    names = [plan.study.baseline, *(point["name"] for point in content["points"])]
    seeds = list(takewhile(lambda seed: all(wanted[name, seed] in by_key for name in names), by_seed))
    cells = {name: [ConfirmationRecord(by_key[wanted[name, seed]]) for seed in seeds] for name in names}
    finished = [record.row for own in cells.values() for record in own if record.row["state"] == "finished"]
    judged = judged_metric(plan.study, plan.recipe, finished)
    verdicts = _verdicts(plan, content, cells, judged, wanted)
    swept_baseline = _swept_baseline(plan, trials)
    return Confirmation(
        metric=judged.label,
        seeds=tuple(seeds),
        missing=tuple(f"{name} seed {seed}" for (name, seed), key in sorted(wanted.items()) if key not in by_key),
        baseline_error=_mean_error(cells[plan.study.baseline]),
        swept_baseline_error=swept_baseline,
        points=tuple(
            _point(point, cells, verdicts[point["name"]], judged, by_key.get(point["key"]), swept_baseline, plan)
            for point in content["points"]
        ),
    )


def _rows(plan: Plan, trials: pl.DataFrame, epochs: pl.DataFrame, keys: set[str]) -> dict[str, Row]:
    shown = trials.filter(pl.col("key").is_in(keys))
    if plan.recipe.threshold is not None:
        shown = with_epochs_to(plan.recipe.threshold, shown, epochs)
    return {row["key"]: row for row in shown.iter_rows(named=True)}


def _verdicts(
    plan: Plan,
    content: Mapping[str, Any],
    cells: Mapping[str, Sequence[ConfirmationRecord]],
    judged: Metric,
    wanted: Mapping[tuple[str, int], str],
) -> dict[str, Verdict]:
    """The points as one family; a confirmation that is extended is judged like an extended study."""
    baseline = plan.study.baseline
    points = [name for name in cells if name != baseline]
    seeds = len(cells[baseline])
    first = CONFIRMATION_SEED
    found = [
        paired_evidence(
            name,
            cells[baseline],
            cells[name],
            judged,
            same_trials=wanted[name, first] == wanted[baseline, first],
        )
        for name in points
    ]
    looks = looks_before([look for look in content["looks"] if look >= FEWEST_SEEDS], seeds)
    beyond = bool(looks) and looks[-1] > seeds
    share = 1.0 if beyond or not points else share_of_level(looks, seeds, ALPHA / len(points))
    verdicts = judge(found, on_scale(plan.recipe.margin, judged), ALPHA, ShareOfLevel(share))
    return withhold(verdicts, f"already looked at {looks[-1]} seeds") if beyond else verdicts


def _swept_baseline(plan: Plan, trials: pl.DataFrame) -> float | None:
    keys = [trial.key for trial in plan.trials if trial.arm == plan.study.baseline]
    errors = trials.filter(pl.col("key").is_in(keys) & (pl.col("state") == "finished"))["validation_top1_error"]
    mean = errors.drop_nulls().mean()
    return 100.0 * mean if isinstance(mean, float) else None


def _mean_error(own: Sequence[ConfirmationRecord]) -> float | None:
    errors = [record.row["validation_top1_error"] for record in own if record.row["state"] == "finished"]
    return 100.0 * fmean(errors) if errors and None not in errors else None


def _point(
    point: Mapping[str, Any],
    cells: Mapping[str, Sequence[ConfirmationRecord]],
    verdict: Verdict,
    judged: Metric,
    swept: Row | None,
    swept_baseline: float | None,
    plan: Plan,
) -> ConfirmedPoint:
    own, baseline = cells[point["name"]], cells[plan.study.baseline]
    pairs = [(base.row, record.row) for base, record in zip(baseline, own, strict=True)]
    differences = {
        str(row["seed"]): difference for base, row in pairs if (difference := judged.difference(base, row)) is not None
    }
    error = None if swept is None else swept["validation_top1_error"]
    swept_error = None if error is None else 100.0 * error
    fresh, base_error = _mean_error(own), _mean_error(baseline)
    test = verdict.test
    return ConfirmedPoint(
        name=point["name"],
        parameters=point["parameters"],
        swept_error=swept_error,
        swept_lead=_minus(swept_baseline, swept_error),
        validation_error=fresh,
        lead=_minus(base_error, fresh),
        n=len(differences),
        difference=fmean(differences.values()) if differences else None,
        scale=judged.scale,
        interval=verdict.interval,
        interval_level=None if verdict.level is None else 100.0 * (1.0 - verdict.level),
        p=None if test is None else test.p,
        adjusted_p=verdict.adjusted_p,
        word=verdict.word,
        sentence=sentence(verdict.word, verdict.differs_from_zero, judged.split),
        differences=differences,
        diverged=sum(record.row["state"] == "diverged" for record in own),
        failed=sum(record.row["state"] in ("failed", "stopped") for record in own),
    )


def _minus(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one - other
