"""The answer of a study: what its trials say about the claim, as data. `report.py` shows it.

Errors are percentages and differences percentage points from here on; tables keep [0, 1].
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any

import polars as pl

from orchestrator.boundaries import ShareOfLevel, looks_before, share_of_level
from orchestrator.costs import arm_costs
from orchestrator.findings import Answer, ArmAnswer, SweepPoint
from orchestrator.judged import Judged, judged_metric, points_between
from orchestrator.remarks import remarks
from orchestrator.statistics import binomial_error, correlation, paired_test, seeds_needed, t_interval
from orchestrator.verdict import FEWEST_SEEDS, ArmEvidence, Verdict, judge, sentence, withhold
from search_spaces.study import Arm, Recipe, Study

ALPHA = 0.05
SWEEP_POINTS_SHOWN = 10


Row = dict[str, Any]
Cells = Mapping[str, Sequence[Row]]


def answer(
    study: Study, recipe: Recipe, plan: Mapping[str, Any], trials: pl.DataFrame, sweep_members: pl.DataFrame
) -> Answer:
    """Judges a study from its records.

    Args:
        study: The study.
        recipe: Its recipe on this data set.
        plan: Content of `plan.json`: the trials that are this study's arms, alpha, and the looks taken.
        trials: The trials table.
        sweep_members: Rows of the members table that belong to this study's sweep.
    """
    wanted = {(row["arm"], row["seed"]): row["key"] for row in plan["trials"] if row["phase"] == "arm"}
    shown = trials.filter(pl.col("key").is_in([*wanted.values(), *sweep_members["key"]]))
    by_key = {row["key"]: row for row in shown.iter_rows(named=True)}
    seeds, after_gap = _complete_seeds(wanted, by_key)
    cells = {arm.name: [by_key[wanted[arm.name, seed]] for seed in seeds] for arm in study.arms}
    finished = [row for rows in cells.values() for row in rows if row["state"] == "finished"]
    judged = judged_metric(study.primary_metric, finished)
    # 少于三个种子时给不出词，那次看没有花掉 alpha
    looks = looks_before([look for look in plan["looks"] if look >= FEWEST_SEEDS], len(seeds))
    looked_beyond = bool(looks) and looks[-1] > len(seeds)
    share = 1.0 if looked_beyond else share_of_level(looks, len(seeds), plan["alpha"] / max(1, len(study.arms) - 1))
    evidence = [
        _evidence(arm, cells[study.baseline], cells[arm.name], judged, _same_trials(wanted, arm.name, study.baseline))
        for arm in study.arms
        if arm.name != study.baseline
    ]
    verdicts = judge(evidence, recipe.margin, plan["alpha"], ShareOfLevel(share))
    if looked_beyond:
        verdicts = withhold(verdicts, f"already looked at {looks[-1]} seeds")
    arms = [_arm(arm, study, cells, judged, seeds, verdicts, recipe) for arm in study.arms]
    arms.sort(key=lambda arm: not arm.is_baseline)
    measured = [row for row in finished if judged.known(row)]
    images = judged.images(measured[0]) if measured else 0
    error = arms[0].mean if judged.minus is None else None
    bare = Answer(
        study=study.name,
        dataset=plan["dataset"],
        question=study.question,
        claim=study.claim.statement,
        claim_source=study.claim.source,
        metric=judged.label,
        judged_split=judged.split,
        images=images,
        split_error=None if error is None else 100.0 * binomial_error(error / 100.0, images),
        margin=recipe.margin,
        smallest_effect=recipe.smallest_effect,
        alpha=plan["alpha"],
        level_share=share,
        seeds=len(seeds),
        planned_seeds=plan["planned_seeds"],
        missing=_missing(wanted, by_key),
        seeds_after_gap=after_gap,
        looks=looks,
        unmeasured=len(finished) - len(measured),
        classes=int(finished[0]["network.classes"]) if finished and finished[0].get("network.classes") else None,
        arms=tuple(arms),
        sweep=_sweep(sweep_members, by_key),
        sweep_asked=sweep_members.height,
        chosen_afterwards=plan.get("chosen_afterwards", False),
    )
    return Answer(**{**dict(bare), "notes": remarks(bare)})


def _complete_seeds(
    wanted: Mapping[tuple[str, int], str], by_key: Mapping[str, Row]
) -> tuple[list[int], tuple[int, ...]]:
    """Seeds 0, 1, ... whose arms have all ended, up to the first gap (never whichever finished first); the rest."""
    ended = {seed: True for _, seed in sorted(wanted, key=lambda cell: cell[1])}
    for (_, seed), key in wanted.items():
        ended[seed] &= key in by_key
    seeds = list(takewhile(lambda seed: ended[seed], ended))
    return seeds, tuple(seed for seed in ended if ended[seed] and seed not in seeds)


def _missing(wanted: Mapping[tuple[str, int], str], by_key: Mapping[str, Row]) -> tuple[str, ...]:
    return tuple(f"{arm} seed {seed}" for (arm, seed), key in sorted(wanted.items()) if key not in by_key)


def _same_trials(wanted: Mapping[tuple[str, int], str], arm: str, baseline: str) -> bool:
    return all(key == wanted.get((baseline, seed)) for (name, seed), key in wanted.items() if name == arm)


def _count(rows: Sequence[Row], *states: str) -> int:
    return sum(row["state"] in states for row in rows)


def _evidence(arm: Arm, baseline: Sequence[Row], rows: Sequence[Row], judged: Judged, same_trials: bool) -> ArmEvidence:
    differences = [
        difference
        for base, row in zip(baseline, rows, strict=True)
        if (difference := judged.difference(base, row)) is not None
    ]
    return ArmEvidence(
        name=arm.name,
        differences=tuple(differences),
        planned=len(rows),
        diverged=_count(rows, "diverged"),
        failed=_count(rows, "failed", "stopped"),
        baseline_diverged=_count(baseline, "diverged"),
        baseline_failed=_count(baseline, "failed", "stopped"),
        same_trials=same_trials,
        claimed_points=_claimed_sign(arm),
    )


def _claimed_sign(arm: Arm) -> float | None:
    """The claim's number, or plus or minus one where it only says higher or lower; the word goes by the sign."""
    if arm.claim is None:
        return None
    if arm.claim.direction is not None:
        return 1.0 if arm.claim.direction == "higher" else -1.0
    return arm.claim.top1_points


def _arm(
    arm: Arm,
    study: Study,
    cells: Cells,
    judged: Judged,
    seeds: Sequence[int],
    verdicts: Mapping[str, Verdict],
    recipe: Recipe,
) -> ArmAnswer:
    rows = cells[arm.name]
    errors = {str(seed): judged.value(row) for seed, row in zip(seeds, rows, strict=True) if judged.known(row)}
    spread = paired_test(list(errors.values()))
    seconds = [row["seconds"] for row in rows if row["state"] == "finished"]
    facts: dict[str, Any] = {
        "name": arm.name,
        "title": arm.title,
        "is_baseline": arm.name == study.baseline,
        "n": len(errors),
        "mean": spread.mean if errors else None,
        "sd": spread.sd if spread.n > 1 else None,
        "errors": errors,
        "diverged": _count(rows, "diverged"),
        "failed": _count(rows, "failed", "stopped"),
        "seconds": sum(seconds) / len(seconds) if seconds else None,
        "costs": arm_costs(cells[study.baseline], rows),
    }
    if arm.name == study.baseline:
        return ArmAnswer(**facts, sentence="what the others are compared with")
    pairs = list(zip(seeds, cells[study.baseline], rows, strict=True))
    facts |= _claimed(arm) | _judged(verdicts[arm.name], judged.split, recipe) | _paired(pairs, judged)
    return ArmAnswer(**facts)


def _claimed(arm: Arm) -> dict[str, Any]:
    if arm.claim is None:
        return {}
    return {"claimed_points": arm.claim.top1_points, "claimed_top5_points": arm.claim.top5_points}


def _judged(verdict: Verdict, split: str, recipe: Recipe) -> dict[str, Any]:
    """What the verdict knows; seeds are needed at the Holm level that the arm faced."""
    facts: dict[str, Any] = {
        "word": verdict.word,
        "sentence": sentence(verdict.word, verdict.differs_from_zero, split),
        "in_family": verdict.in_family,
    }
    test, level, family_level = verdict.test, verdict.level, verdict.family_level
    if test is not None and level is not None and family_level is not None:
        facts |= {
            "interval": verdict.interval,
            "interval_level": 100.0 * (1.0 - level),
            "p": test.p,
            "adjusted_p": verdict.adjusted_p,
            "sign_flip_p": verdict.sign_flip_p,
            "sign_flip_floor": verdict.sign_flip_floor,
            "seeds_needed": seeds_needed(recipe.smallest_effect, test.sd, test.n, family_level),
        }
    return facts


def _paired(pairs: Sequence[tuple[int, Row, Row]], judged: Judged) -> dict[str, Any]:
    """Differences by seed, those of the top-5 error, and the correlation that pairing achieved."""
    both = [(seed, base, row) for seed, base, row in pairs if judged.known(base) and judged.known(row)]
    differences = {
        str(seed): difference for seed, base, row in both if (difference := judged.difference(base, row)) is not None
    }
    test = paired_test(list(differences.values()))
    top5 = paired_test([points_between(base, row, judged.plus, "top5_error") for _, base, row in both])
    return {
        "differences": differences,
        "difference": test.mean if test.n else None,
        "difference_sd": test.sd if test.n > 1 else None,
        "top5_difference": top5.mean if top5.n else None,
        "top5_interval": t_interval(top5, ALPHA) if top5.n > 1 else None,
        "correlation": correlation(
            [judged.value(base) for _, base, _ in both], [judged.value(row) for *_, row in both]
        ),
    }


def _sweep(members: pl.DataFrame, by_key: Mapping[str, Row]) -> tuple[SweepPoint, ...]:
    points = []
    for member in members.iter_rows(named=True):
        row = by_key.get(member["key"])
        if row is None:
            continue
        error = row["validation_top1_error"] if row["state"] == "finished" else None
        points.append(
            SweepPoint(
                parameters=json.loads(member["parameters"]),
                state=row["state"],
                validation_error=None if error is None else 100.0 * error,
                key=row["key"],
            )
        )
    points.sort(key=lambda point: (point.validation_error is None, point.validation_error or 0.0, point.key))
    return tuple(points[:SWEEP_POINTS_SHOWN])
