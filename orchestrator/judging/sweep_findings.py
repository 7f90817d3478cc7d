"""What a sweep says as a whole, as data: its points, its Pareto front, how it was made."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from statistics import fmean
from typing import Any

import polars as pl

from orchestrator.choices import SecondObjective
from orchestrator.judging.answer import Confirmation, ConfirmedPoint, ParameterImportance, SweepFacts, SweepPoint
from orchestrator.judging.evidence import ConfirmationRecord, differences_by_seed, paired_evidence, pairs_by_seed
from orchestrator.judging.images.new_images import ComparedImages
from orchestrator.judging.images.seen import SeenImages
from orchestrator.judging.primary_metric import JudgedMetric, Row, judged_metric, with_metric_columns
from orchestrator.judging.scales import SCALES
from orchestrator.planning.plan import ALPHA, CONFIRMATION_SEED, Plan
from orchestrator.records.files import write_atomically
from orchestrator.statistics.alpha_spending import ShareOfLevel, looks_before, share_of_level
from orchestrator.statistics.limits import FEWEST_SEEDS
from orchestrator.statistics.verdict import Verdict, agrees, judge, sentence, withhold
from orchestrator.sweeps.confirmation import confirmation_trials
from orchestrator.sweeps.objectives import pareto_front
from search_spaces.core_config import CoreDescription, description_of
from search_spaces.space import Sweep
from search_spaces.trial import configuration_key


def sweep_points(
    members: pl.DataFrame, trials: pl.DataFrame, core: CoreDescription, second: SecondObjective | None = None
) -> tuple[SweepPoint, ...]:
    """Returns the ended points of a sweep in the order in which they were asked.

    Args:
        members: Rows of the members table that belong to the sweep.
        trials: The trials table.
        core: What is trained.
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
        finished = row["state"] == "finished" and row["objective"] is not None
        points.append(
            SweepPoint(
                parameters=json.loads(member["parameters"]),
                state=row["state"],
                validation_error=shown_objective(row["objective"], core) if finished else None,
                key=row["key"],
                position=member["position"],
                second=None if second is None or not finished else row.get(second),
            )
        )
    return tuple(points)


def shown_objective(objective: float, core: CoreDescription) -> float:
    """Returns the metric that chooses as it is shown, from what is minimised; AlexNet's in percent."""
    return core.chosen.scale * core.chosen.objective(objective)


def ranked(points: Sequence[SweepPoint], core: CoreDescription) -> list[SweepPoint]:
    """Returns points by the metric that chooses, the best first; those without one last.

    Args:
        points: Points of the sweep.
        core: What is trained.
    """

    def place(point: SweepPoint) -> tuple[bool, float, int]:
        error = point.validation_error
        return error is None, 0.0 if error is None else core.chosen.objective(error), point.position or 0

    return sorted(points, key=place)


def front_of(
    points: Sequence[SweepPoint], second: SecondObjective | None, core: CoreDescription
) -> tuple[SweepPoint, ...]:
    """Returns the points on the Pareto front, the best by the metric that chooses first; none without a second one.

    Args:
        points: Points of the sweep.
        second: The second objective.
        core: What is trained.
    """
    both = [
        (point, (core.chosen.objective(point.validation_error), point.second))
        for point in points
        if point.validation_error is not None and point.second is not None
    ]
    return () if second is None else tuple(both[place][0] for place in pareto_front([pair for _, pair in both], second))


def sweep_facts(
    points: Sequence[SweepPoint],
    epochs: int,
    made: Mapping[str, Any],
    importance: Sequence[ParameterImportance],
    core: CoreDescription,
) -> SweepFacts:
    """Returns what is said of a sweep as a whole.

    Args:
        points: Its ended points.
        epochs: Epochs trained, all points together.
        made: Content of `sweep.json`.
        importance: Of its parameters.
        core: What is trained.
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
        front=front_of(points, second, core),
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
    inputs = json.dumps([space.model_dump(mode="json"), finished], sort_keys=True)
    digest = hashlib.sha256(inputs.encode()).hexdigest()
    path = folder / "importance.json"
    try:
        before = json.loads(path.read_text())
        if before["points"] == digest:
            return tuple(ParameterImportance.model_validate(entry) for entry in before["importance"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        pass
    # Optuna 与 scikit-learn 只在有扫描时加载
    from orchestrator.judging.parameter_importance import importance

    shares = importance(space, finished)
    if shares and keep:
        content = {"points": digest, "importance": [entry.model_dump(mode="json") for entry in shares]}
        write_atomically(path, json.dumps(content, indent=1, sort_keys=True).encode())
    return shares


def confirm(
    plan: Plan,
    content: Mapping[str, Any],
    trials: pl.DataFrame,
    epochs: pl.DataFrame,
    images: SeenImages | None = None,
) -> Confirmation | None:
    """Judges the confirmed points on the fresh seeds; None where none were asked, or the plan is of another question.

    Args:
        plan: The study's plan.
        content: Its confirmation's, see `read_confirmation`.
        trials: The trials table.
        epochs: The epochs table, which times to a threshold are read from.
        images: Which images the trials got right; None to say nothing of new images.
    """
    if not content or content["base"] != configuration_key(plan.base):
        return None
    planned = {(trial.arm, trial.seed): trial.key for trial in confirmation_trials(plan, content)}
    by_key = _rows(plan, trials, epochs, {*planned.values(), *(point["key"] for point in content["points"])})
    by_seed = sorted({seed for _, seed in planned})
    names = [plan.study.baseline, *(point["name"] for point in content["points"])]
    # 从头起连续齐全的种子才算，各点与基线同样多
    seeds = list(takewhile(lambda seed: all(planned[name, seed] in by_key for name in names), by_seed))
    cells = {name: [ConfirmationRecord(by_key[planned[name, seed]]) for seed in seeds] for name in names}
    finished = [record.row for records in cells.values() for record in records if record.row["state"] == "finished"]
    judged = judged_metric(plan.study, plan.recipe, finished, description_of(plan.base))
    verdicts = _verdicts(plan, content, cells, judged, planned)
    swept_baseline = _swept_baseline(plan, trials)
    points = [
        _point(point, cells, verdicts[point["name"]], judged, by_key.get(point["key"]), swept_baseline, plan)
        for point in content["points"]
    ]
    return Confirmation(
        metric=judged.label,
        seeds=tuple(seeds),
        missing=tuple(f"{name} seed {seed}" for (name, seed), key in sorted(planned.items()) if key not in by_key),
        unlike=_unlike(cells, plan.study.baseline, seeds),
        baseline_error=_mean_error(cells[plan.study.baseline], description_of(plan.base)),
        swept_baseline_error=swept_baseline,
        points=tuple(
            point if images is None else _with_new_images(point, verdicts[point.name], cells, judged, images, plan)
            for point in points
        ),
    )


def _rows(plan: Plan, trials: pl.DataFrame, epochs: pl.DataFrame, keys: set[str]) -> dict[str, Row]:
    confirming = trials.filter(pl.col("key").is_in(keys))
    shown = with_metric_columns(plan.study, plan.recipe, description_of(plan.base), confirming, epochs)
    return {row["key"]: row for row in shown.iter_rows(named=True)}


def _verdicts(
    plan: Plan,
    content: Mapping[str, Any],
    cells: Mapping[str, Sequence[ConfirmationRecord]],
    judged: JudgedMetric,
    planned: Mapping[tuple[str, int], str],
) -> dict[str, Verdict]:
    """The points as one family; a confirmation that is extended is judged like an extended study."""
    baseline = plan.study.baseline
    points = [name for name in cells if name != baseline]
    seeds = len(cells[baseline])
    first = CONFIRMATION_SEED
    evidence = [
        paired_evidence(
            name,
            cells[baseline],
            cells[name],
            judged,
            same_trials=planned[name, first] == planned[baseline, first],
        )
        for name in points
    ]
    # 加种子再看，是同一个问题的又一次看：水平只花一次
    looks = looks_before([look for look in content["looks"] if look >= FEWEST_SEEDS], seeds)
    beyond = bool(looks) and looks[-1] > seeds
    share = 1.0 if beyond or not points else share_of_level(looks, seeds, ALPHA / len(points))
    verdicts = judge(evidence, SCALES[judged.scale].size(plan.recipe.margin), ALPHA, ShareOfLevel(share))
    return withhold(verdicts, f"already looked at {looks[-1]} seeds") if beyond else verdicts


def _unlike(cells: Mapping[str, Sequence[ConfirmationRecord]], baseline: str, seeds: Sequence[int]) -> tuple[str, ...]:
    """The trials that are compared with no baseline's, since other workers or devices trained that one."""
    rows = {name: [record.row for record in records] for name, records in cells.items()}
    pairs = {name: pairs_by_seed(rows[baseline], points) for name, points in rows.items()}
    return tuple(f"{name} seed {seed}" for name in rows for place, seed in enumerate(seeds) if place not in pairs[name])


def _swept_baseline(plan: Plan, trials: pl.DataFrame) -> float | None:
    keys = [trial.key for trial in plan.trials if trial.arm == plan.study.baseline]
    values = trials.filter(pl.col("key").is_in(keys) & (pl.col("state") == "finished"))["objective"]
    mean = values.drop_nulls().mean()
    return shown_objective(mean, description_of(plan.base)) if isinstance(mean, float) else None


def _mean_error(records: Sequence[ConfirmationRecord], core: CoreDescription) -> float | None:
    values = [record.row["objective"] for record in records if record.row["state"] == "finished"]
    return shown_objective(fmean(values), core) if values and None not in values else None


def _point(
    point: Mapping[str, Any],
    cells: Mapping[str, Sequence[ConfirmationRecord]],
    verdict: Verdict,
    judged: JudgedMetric,
    swept: Row | None,
    swept_baseline: float | None,
    plan: Plan,
) -> ConfirmedPoint:
    records, baseline = cells[point["name"]], cells[plan.study.baseline]
    seeds = [record.row["seed"] for record in records]
    pairs = pairs_by_seed([record.row for record in baseline], [record.row for record in records])
    differences = differences_by_seed({seeds[place]: pair for place, pair in pairs.items()}, judged)
    core = description_of(plan.base)
    error = None if swept is None else swept["objective"]
    swept_error = None if error is None else shown_objective(error, core)
    fresh, base_error = _mean_error(records, core), _mean_error(baseline, core)
    test = verdict.test
    return ConfirmedPoint(
        name=point["name"],
        parameters=point["parameters"],
        swept_error=swept_error,
        swept_lead=_lead(swept_baseline, swept_error, core),
        validation_error=fresh,
        lead=_lead(base_error, fresh, core),
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
        diverged=sum(record.row["state"] == "diverged" for record in records),
        failed=sum(record.row["state"] in ("failed", "stopped") for record in records),
    )


def _with_new_images(
    point: ConfirmedPoint,
    verdict: Verdict,
    cells: Mapping[str, Sequence[ConfirmationRecord]],
    judged: JudgedMetric,
    images: SeenImages,
    plan: Plan,
) -> ConfirmedPoint:
    """The point with the limits of its difference for new images, where records say which images were right."""
    baseline = plan.study.baseline
    if judged.counted is None or verdict.interval is None or verdict.equal_level is None:
        return point
    pairs = zip(cells[point.name], cells[baseline], strict=True)
    rows = [{point.name: one.row, baseline: other.row} for one, other in pairs]
    rows = [of_seed for of_seed in rows if str(of_seed[point.name]["seed"]) in point.differences]
    weights, views = {point.name: 1.0, baseline: -1.0}, {point.name: 1, baseline: 1}
    fixed_split = plan.summary is not None and plan.summary.fixed_split
    compared = ComparedImages(weights, views, rows, judged.counted, fixed_split)
    if compared.unknown(images) or not compared.are_the_same:
        return point
    limits = compared.beyond(images, verdict.equal_level, verdict.interval)
    facts: dict[str, Any] = {"beyond": limits, "beyond_level": 100.0 * (1.0 - verdict.equal_level)}
    if agrees(point.word, limits, plan.recipe.margin):
        facts["sentence"] = sentence(point.word, verdict.differs_from_zero, judged.split, limits)
    return point.model_copy(update=facts)


def _lead(baseline: float | None, point: float | None, core: CoreDescription) -> float | None:
    """How much better a point is than the baseline by the metric that chooses, as it is shown."""
    return None if baseline is None or point is None else core.chosen.objective(baseline - point)
