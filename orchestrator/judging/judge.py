"""The answer of a study: what its trials say about the claim, as data. `report.py` shows it.

Errors are percentages and differences percentage points from here on; tables keep [0, 1].
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from orchestrator.judging.answer import WORDING, Answer, ArmAnswer
from orchestrator.judging.arm_costs import arm_costs
from orchestrator.judging.evidence import count, differences_by_seed, gather_evidence, pairs_by_seed
from orchestrator.judging.looks import Look, take_look
from orchestrator.judging.notes import remarks
from orchestrator.judging.primary_metric import JudgedMetric, Row
from orchestrator.judging.sweep_findings import ranked, sweep_points
from orchestrator.planning.plan_file import PlanFile
from orchestrator.statistics.verdict import Verdict, sentence
from search_spaces.arm import Arm
from search_spaces.core_config import ALEXNET, description_of
from search_spaces.study import Recipe, Study

SWEEP_POINTS_SHOWN = 10
Cells = Mapping[str, Sequence[Row]]


def answer(
    study: Study,
    recipe: Recipe,
    plan_file: PlanFile,
    trials: pl.DataFrame,
    sweep_members: pl.DataFrame,
    epochs: pl.DataFrame,
) -> Answer:
    """Judges a study from its records.

    Args:
        study: The study.
        recipe: Its recipe on this data set.
        plan_file: The trials that are this study's arms, alpha, and the looks taken.
        trials: The trials table.
        sweep_members: Rows of the members table that belong to this study's sweep.
        epochs: The epochs table, which times to a threshold are read from.
    """
    planned = {(row.arm, row.seed): (row.key, row.views) for row in plan_file.trials if row.phase == "arm"}
    core = ALEXNET if study.core is None else description_of(plan_file.base)
    evidence = gather_evidence(study, recipe, core, planned, trials, epochs)
    # 先定这次看哪些种子、花多少水平，再给词；数字与词出自同一批种子
    look, judged = take_look(evidence, recipe, plan_file), evidence.judged
    cells = {name: evidence.rows(name, seeds) for name, seeds in look.seeds.items()}
    finished = [row for rows in cells.values() for row in rows if row["state"] == "finished"]
    arms = [_arm(arm, study, cells, judged, look, recipe) for arm in study.arms]
    arms.sort(key=lambda arm: not arm.is_baseline)
    measured = [row for row in finished if judged.known(row)]
    images = judged.images(measured[0]) if measured else 0
    lengths = {row["epochs"] for row in measured}
    bare = Answer(
        **_question(study, recipe, plan_file),
        wording=WORDING,
        metric=judged.label,
        budget=next(iter(lengths)) if len(lengths) == 1 else None,
        judged_split=judged.split,
        images=images,
        split_error=judged.sampling_error(arms[0].mean, images),
        level_share=look.share,
        seeds=look.seeds[study.baseline],
        missing=tuple(f"{arm} seed {seed}" for arm, seed in look.missing),
        seeds_after_gap=look.after_gap,
        looks=look.before,
        unmeasured=len(finished) - len(measured),
        without_ratio=tuple(
            f"{name} seed {row['seed']}" for name, rows in cells.items() for row in rows if judged.lacks_ratio(row)
        ),
        other_networks=_other_networks(cells, study),
        unlike=_unlike(cells, study),
        classes=int(finished[0]["network.classes"]) if finished and finished[0].get("network.classes") else None,
        arms=tuple(arms),
        sweep=tuple(ranked(sweep_points(sweep_members, trials, core), core)[:SWEEP_POINTS_SHOWN]),
        sweep_asked=sweep_members.height,
        # 判的是研究自己的指标，不一定是 core 声明的那个
        core=None if core is ALEXNET else core.model_copy(update={"judged_by": study.primary_metric}),
        reports=None if core is ALEXNET or not lengths else (min(lengths), max(lengths)),
    )
    # 注只读已定的答案，改不了词
    return Answer(**{**dict(bare), "notes": remarks(bare)})


def _question(study: Study, recipe: Recipe, plan_file: PlanFile) -> dict[str, Any]:
    """What was asked, which no trial changes."""
    return {
        "study": study.name,
        "dataset": plan_file.dataset,
        "question": study.question,
        "claim": "" if study.claim is None else study.claim.statement,
        "claim_source": "" if study.claim is None else study.claim.source,
        "statistic": study.statistic,
        "margin": recipe.margin,
        "smallest_effect": recipe.smallest_effect,
        "alpha": plan_file.alpha,
        "planned_seeds": plan_file.planned_seeds,
        "max_seeds": plan_file.max_seeds,
        "null": plan_file.null,
        "chosen_afterwards": plan_file.chosen_afterwards,
    }


def _unlike(cells: Cells, study: Study) -> tuple[str, ...]:
    """The trials that are compared with no baseline's, since other workers or devices trained that one."""
    base = cells[study.baseline]
    pairs = {name: pairs_by_seed(base[: len(rows)], rows) for name, rows in cells.items()}
    return tuple(f"{name} seed {seed}" for name in cells for seed in range(len(cells[name])) if seed not in pairs[name])


def _other_networks(cells: Cells, study: Study) -> int:
    """How many trials were trained again to be evaluated, and came out as another network."""
    return sum(row.get(f"same_network_{arm.views}_views") is False for arm in study.arms for row in cells[arm.name])


def _arm(
    arm: Arm,
    study: Study,
    cells: Cells,
    judged: JudgedMetric,
    look: Look,
    recipe: Recipe,
) -> ArmAnswer:
    rows = cells[arm.name]
    # 每个 arm 只与基线的同一批种子配对
    baseline = cells[study.baseline][: len(rows)]
    values = {str(seed): judged.value(row) for seed, row in enumerate(rows) if judged.known(row)}
    errors = {seed: value for seed, value in values.items() if value is not None}
    seconds = [row["seconds"] for row in rows if row["state"] == "finished"]
    facts: dict[str, Any] = {
        "name": arm.name,
        "title": arm.title,
        "is_baseline": arm.name == study.baseline,
        "n": len(values),
        "scale": judged.scale,
        "unit": judged.unit,
        "errors": errors,
        **vars(judged.spread(values)),
        "diverged": count(rows, "diverged"),
        "failed": count(rows, "failed", "stopped"),
        "seconds": sum(seconds) / len(seconds) if seconds else None,
        "costs": arm_costs(baseline, rows),
    }
    if arm.name == study.baseline:
        return ArmAnswer(**facts, sentence="what the others are compared with")
    if look.courses is not None:
        course = look.courses[arm.name]
        facts |= {"closed": course.closed, "looked_at": course.seeds}
    pairs = pairs_by_seed(baseline, rows)
    differences = differences_by_seed(pairs, judged)
    facts |= {"differences": differences, **vars(judged.compare(list(pairs.values()))), **_claimed(arm)}
    return ArmAnswer(**facts, **_judged(look.verdicts[arm.name], judged, recipe, list(differences.values())))


def _claimed(arm: Arm) -> dict[str, Any]:
    if arm.claim is None:
        return {}
    return {
        "claimed_points": arm.claim.difference,
        "claimed_top5_points": arm.claim.top5_points,
        "claimed_ratio": arm.claim.ratio,
    }


def _judged(verdict: Verdict, judged: JudgedMetric, recipe: Recipe, seen: Sequence[float]) -> dict[str, Any]:
    """What the verdict knows, beside the differences seen; seeds are needed at the Holm level that the arm faced."""
    facts: dict[str, Any] = {
        "word": verdict.word,
        "sentence": sentence(verdict.word, verdict.differs_from_zero, judged.split),
        "in_family": verdict.in_family,
    }
    test, level, family_level = verdict.test, verdict.level, verdict.family_level
    if test is not None and level is not None and family_level is not None and verdict.interval is not None:
        facts |= {
            **_ends(verdict.interval, seen),
            "interval_level": 100.0 * (1.0 - level),
            "p": test.p,
            "adjusted_p": verdict.adjusted_p,
            "sign_flip_p": verdict.sign_flip_p,
            "sign_flip_floor": verdict.sign_flip_floor,
        }
        facts["seeds_needed"] = judged.seeds_needed(test, recipe.smallest_effect, family_level)
    return facts


def _ends(interval: tuple[float, float], seen: Sequence[float]) -> dict[str, Any]:
    """The interval in finite numbers: an unbounded end is marked, and its number is the last difference seen."""
    low, high = interval
    known = [value for value in (low, high, *seen) if math.isfinite(value)]
    ends = (max(low, min(known)), min(high, max(known)))
    return {"interval": ends, "interval_open": (math.isinf(low), math.isinf(high))}
