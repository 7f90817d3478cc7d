"""The answer of a study: what its trials say about the claim, as data. `report.py` shows it.

Errors are percentages and differences percentage points from here on; tables keep [0, 1].
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Set
from itertools import takewhile
from statistics import median as middle_of
from typing import Any

import polars as pl

from orchestrator.boundaries import ShareOfLevel, looks_before, share_of_level
from orchestrator.costs import arm_costs
from orchestrator.evaluations import seen_in
from orchestrator.findings import Answer, ArmAnswer
from orchestrator.judged import Judged, Metric, TimeToThreshold, judged_metric, points_between, with_epochs_to
from orchestrator.remarks import remarks
from orchestrator.sign_test import Between, median
from orchestrator.statistics import binomial_error, correlation, paired_test, seeds_needed, t_interval
from orchestrator.swept import ranked, sweep_points
from orchestrator.verdict import FEWEST_SEEDS, ArmEvidence, Verdict, judge, sentence, withhold
from search_spaces.study import Arm, Recipe, Study

ALPHA = 0.05
SWEEP_POINTS_SHOWN = 10


Row = dict[str, Any]
# 一个 trial 的 key，和看测试图时用几个视图
Seen = tuple[str, int]
Cells = Mapping[str, Sequence[Row]]


def answer(
    study: Study,
    recipe: Recipe,
    plan: Mapping[str, Any],
    trials: pl.DataFrame,
    sweep_members: pl.DataFrame,
    epochs: pl.DataFrame,
) -> Answer:
    """Judges a study from its records.

    Args:
        study: The study.
        recipe: Its recipe on this data set.
        plan: Content of `plan.json`: the trials that are this study's arms, alpha, and the looks taken.
        trials: The trials table.
        sweep_members: Rows of the members table that belong to this study's sweep.
        epochs: The epochs table, which times to a threshold are read from.
    """
    wanted = {
        (row["arm"], row["seed"]): (row["key"], row.get("views", 1)) for row in plan["trials"] if row["phase"] == "arm"
    }
    shown = trials.filter(pl.col("key").is_in({key for key, _ in wanted.values()}))
    if recipe.threshold is not None:
        shown = with_epochs_to(recipe.threshold, shown, epochs)
    by_key = _seen(shown, set(wanted.values()))
    seeds, after_gap = _complete_seeds(wanted, by_key)
    cells = {arm.name: [by_key[wanted[arm.name, seed]] for seed in seeds] for arm in study.arms}
    finished = [row for rows in cells.values() for row in rows if row["state"] == "finished"]
    judged = judged_metric(study, recipe, finished)
    # 少于三个种子时给不出词，那次看没有花掉 alpha
    looks = looks_before([look for look in plan["looks"] if look >= FEWEST_SEEDS], len(seeds))
    looked_beyond = bool(looks) and looks[-1] > len(seeds)
    share = 1.0 if looked_beyond else share_of_level(looks, len(seeds), plan["alpha"] / max(1, len(study.arms) - 1))
    evidence = [
        _evidence(arm, cells[study.baseline], cells[arm.name], judged, _same_trials(wanted, arm.name, study.baseline))
        for arm in study.arms
        if arm.name != study.baseline
    ]
    verdicts = judge(evidence, _on_scale(recipe.margin, judged), plan["alpha"], ShareOfLevel(share))
    if looked_beyond:
        verdicts = withhold(verdicts, f"already looked at {looks[-1]} seeds")
    arms = [_arm(arm, study, cells, judged, seeds, verdicts, recipe) for arm in study.arms]
    arms.sort(key=lambda arm: not arm.is_baseline)
    measured = [row for row in finished if judged.known(row)]
    images = judged.images(measured[0]) if measured else 0
    plain = isinstance(judged, Judged) and judged.minus is None
    error = arms[0].mean if plain else None
    budgets = {row["epochs"] for row in measured}
    bare = Answer(
        study=study.name,
        dataset=plan["dataset"],
        question=study.question,
        claim=study.claim.statement,
        claim_source=study.claim.source,
        metric=judged.label,
        statistic=study.statistic,
        budget=budgets.pop() if len(budgets) == 1 else None,
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
        other_networks=_other_networks(cells, study),
        classes=int(finished[0]["network.classes"]) if finished and finished[0].get("network.classes") else None,
        arms=tuple(arms),
        sweep=tuple(ranked(sweep_points(sweep_members, trials))[:SWEEP_POINTS_SHOWN]),
        sweep_asked=sweep_members.height,
        chosen_afterwards=plan.get("chosen_afterwards", False),
    )
    return Answer(**{**dict(bare), "notes": remarks(bare)})


def _seen(trials: pl.DataFrame, wanted: Set[Seen]) -> dict[Seen, Row]:
    """The rows of those trials that have ended, seen in as many views as is wanted; others are not there."""
    by_key = {row["key"]: row for row in trials.iter_rows(named=True)}
    found = {(key, views): seen_in(by_key[key], views) for key, views in wanted if key in by_key}
    return {what: row for what, row in found.items() if row is not None}


def _complete_seeds(
    wanted: Mapping[tuple[str, int], Seen], by_key: Mapping[Seen, Row]
) -> tuple[list[int], tuple[int, ...]]:
    """Seeds 0, 1, ... whose arms have all ended, up to the first gap (never whichever finished first); the rest."""
    ended = {seed: True for _, seed in sorted(wanted, key=lambda cell: cell[1])}
    for (_, seed), key in wanted.items():
        ended[seed] &= key in by_key
    seeds = list(takewhile(lambda seed: ended[seed], ended))
    return seeds, tuple(seed for seed in ended if ended[seed] and seed not in seeds)


def _missing(wanted: Mapping[tuple[str, int], Seen], by_key: Mapping[Seen, Row]) -> tuple[str, ...]:
    return tuple(f"{arm} seed {seed}" for (arm, seed), key in sorted(wanted.items()) if key not in by_key)


def _same_trials(wanted: Mapping[tuple[str, int], Seen], arm: str, baseline: str) -> bool:
    return all(key == wanted.get((baseline, seed)) for (name, seed), key in wanted.items() if name == arm)


def _other_networks(cells: Cells, study: Study) -> int:
    """How many trials were trained again to be evaluated, and came out as another network."""
    return sum(row.get(f"same_network_{arm.views}_views") is False for arm in study.arms for row in cells[arm.name])


def _count(rows: Sequence[Row], *states: str) -> int:
    return sum(row["state"] in states for row in rows)


def _on_scale(size: float, judged: Metric) -> float:
    """A margin or effect of the recipe on the scale of the differences: points, or the log of a ratio."""
    return size if judged.scale == "points" else math.log(size)


def _evidence(arm: Arm, baseline: Sequence[Row], rows: Sequence[Row], judged: Metric, same_trials: bool) -> ArmEvidence:
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
        ratios=_ratios(baseline, rows, judged),
    )


def _ratios(baseline: Sequence[Row], rows: Sequence[Row], judged: Metric) -> tuple[Between, ...] | None:
    if not isinstance(judged, TimeToThreshold):
        return None
    found = [judged.ratio(base, row) for base, row in zip(baseline, rows, strict=True)]
    return tuple(ratio for ratio in found if ratio is not None)


def _claimed_sign(arm: Arm) -> float | None:
    """The claim's number, or plus or minus one where it only says higher or lower; the word goes by the sign."""
    if arm.claim is None:
        return None
    if arm.claim.direction is not None:
        return 1.0 if arm.claim.direction == "higher" else -1.0
    if arm.claim.ratio is not None:
        return math.log(arm.claim.ratio)
    return arm.claim.top1_points


def _arm(
    arm: Arm,
    study: Study,
    cells: Cells,
    judged: Metric,
    seeds: Sequence[int],
    verdicts: Mapping[str, Verdict],
    recipe: Recipe,
) -> ArmAnswer:
    rows = cells[arm.name]
    values = {str(seed): judged.value(row) for seed, row in zip(seeds, rows, strict=True) if judged.known(row)}
    errors = {seed: value for seed, value in values.items() if value is not None}
    seconds = [row["seconds"] for row in rows if row["state"] == "finished"]
    facts: dict[str, Any] = {
        "name": arm.name,
        "title": arm.title,
        "is_baseline": arm.name == study.baseline,
        "n": len(values),
        "scale": judged.scale,
        "errors": errors,
        **(_times(values) if isinstance(judged, TimeToThreshold) else _spread(list(errors.values()))),
        "diverged": _count(rows, "diverged"),
        "failed": _count(rows, "failed", "stopped"),
        "seconds": sum(seconds) / len(seconds) if seconds else None,
        "costs": arm_costs(cells[study.baseline], rows),
    }
    if arm.name == study.baseline:
        return ArmAnswer(**facts, sentence="what the others are compared with")
    pairs = list(zip(seeds, cells[study.baseline], rows, strict=True))
    paired = _paired(pairs, judged)
    seen = list(paired["differences"].values())
    return ArmAnswer(**facts, **_claimed(arm), **paired, **_judged(verdicts[arm.name], judged, recipe, seen))


def _spread(errors: Sequence[float]) -> dict[str, Any]:
    spread = paired_test(errors)
    return {"mean": spread.mean if spread.n else None, "sd": spread.sd if spread.n > 1 else None}


def _times(values: Mapping[str, float | None]) -> dict[str, Any]:
    """The median time, a run that was not there in time being longer than any other; and those runs."""
    middle = middle_of([math.inf if value is None else value for value in values.values()] or [math.inf])
    never = tuple(seed for seed, value in values.items() if value is None)
    return {"median": middle if math.isfinite(middle) else None, "never": never}


def _claimed(arm: Arm) -> dict[str, Any]:
    if arm.claim is None:
        return {}
    return {
        "claimed_points": arm.claim.top1_points,
        "claimed_top5_points": arm.claim.top5_points,
        "claimed_ratio": arm.claim.ratio,
    }


def _judged(verdict: Verdict, judged: Metric, recipe: Recipe, seen: Sequence[float]) -> dict[str, Any]:
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
        if not isinstance(judged, TimeToThreshold):
            effect = _on_scale(recipe.smallest_effect, judged)
            facts["seeds_needed"] = seeds_needed(effect, test.sd, test.n, family_level)
    return facts


def _ends(interval: tuple[float, float], seen: Sequence[float]) -> dict[str, Any]:
    """The interval in finite numbers: an unbounded end is marked, and its number is the last difference seen."""
    low, high = interval
    known = [value for value in (low, high, *seen) if math.isfinite(value)]
    ends = (max(low, min(known)), min(high, max(known)))
    return {"interval": ends, "interval_open": (math.isinf(low), math.isinf(high))}


def _paired(pairs: Sequence[tuple[int, Row, Row]], judged: Metric) -> dict[str, Any]:
    """Differences by seed, those of the top-5 error, and the correlation that pairing achieved."""
    both = [(seed, base, row) for seed, base, row in pairs if judged.known(base) and judged.known(row)]
    differences = {
        str(seed): difference for seed, base, row in both if (difference := judged.difference(base, row)) is not None
    }
    if isinstance(judged, TimeToThreshold):
        ratios = [ratio for _, base, row in both if (ratio := judged.ratio(base, row)) is not None]
        return {"differences": differences, **_median_ratio(ratios)}
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


def _median_ratio(ratios: Sequence[Between]) -> dict[str, Any]:
    """The median log-ratio, or the bound that is known of it."""
    if not ratios:
        return {"difference": None}
    middle = median(ratios)
    if middle.is_known:
        return {"difference": middle.low}
    if math.isfinite(middle.low):
        return {"difference": middle.low, "difference_is": "at least"}
    if math.isfinite(middle.high):
        return {"difference": middle.high, "difference_is": "at most"}
    return {"difference": None}
