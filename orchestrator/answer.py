"""The answer of a study: what its trials say about the claim, as data. `report.py` shows it.

Errors are percentages and differences percentage points from here on; tables keep [0, 1].
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from alexnet_core.specification import Frozen
from orchestrator.statistics import (
    binomial_error,
    correlation,
    detectable_effect,
    paired_test,
    seeds_needed,
    seeds_to_reach_a_verdict,
    sign_flip_floor,
    t_interval,
)
from orchestrator.verdict import ArmEvidence, Verdict, judge, sentence
from search_spaces.study import Arm, Recipe, Study

ALPHA = 0.05
SWEEP_POINTS_SHOWN = 10
TOP5_SAYS_SOMETHING_ABOVE = 10
JUDGED_METRIC = "top1_error"


class ArmAnswer(Frozen):
    """One arm against the baseline.

    Attributes:
        name: The arm.
        title: What it is.
        is_baseline: Whether it is the baseline.
        n: Finished seeds that enter.
        mean: Mean top-1 error in percent.
        sd: Standard deviation over seeds, percentage points.
        errors: Top-1 error in percent by seed.
        differences: Arm minus baseline by seed, percentage points.
        difference: Mean difference.
        difference_sd: Standard deviation of the differences.
        interval: Of the mean difference, at `interval_level`.
        interval_level: Confidence in percent.
        adjusted_p: Holm's adjusted p of the paired t test.
        sign_flip_p: Exact sign-flip p.
        sign_flip_floor: The smallest it could be with so many seeds.
        claimed_points: The paper's number, arm minus baseline.
        top5_difference: Mean top-5 difference.
        top5_interval: Plain 95 % interval.
        claimed_top5_points: The paper's number.
        word: The verdict.
        sentence: The verdict as a sentence.
        seeds_needed: Seeds for 80 % power at the recipe's smallest effect, as a range.
        correlation: Correlation with the baseline that pairing by seed achieved.
        diverged: Seeds that diverged.
        failed: Seeds that failed.
        seconds: Mean training seconds per trial.
    """

    name: str
    title: str
    is_baseline: bool
    n: int
    mean: float | None = None
    sd: float | None = None
    errors: dict[str, float] = {}
    differences: dict[str, float] = {}
    difference: float | None = None
    difference_sd: float | None = None
    interval: tuple[float, float] | None = None
    interval_level: float | None = None
    adjusted_p: float | None = None
    sign_flip_p: float | None = None
    sign_flip_floor: float | None = None
    claimed_points: float | None = None
    top5_difference: float | None = None
    top5_interval: tuple[float, float] | None = None
    claimed_top5_points: float | None = None
    word: str = "baseline"
    sentence: str = ""
    seeds_needed: tuple[int, int] | None = None
    correlation: float | None = None
    diverged: int = 0
    failed: int = 0
    seconds: float | None = None


class SweepPoint(Frozen):
    """One point of the sweep; its validation error chose it, so it is no verdict."""

    parameters: dict[str, Any]
    state: str
    validation_error: float | None
    key: str


class Answer(Frozen):
    """What a study's trials say.

    Attributes:
        study: Its name.
        dataset: The data set.
        question: The question.
        claim: The paper's claim in words.
        claim_source: Where it says so.
        judged_split: `test`, or `validation` where the data has no test set.
        images: Images of that split.
        split_error: Binomial standard error of the baseline's error on that split, percentage points: shared by all
            seeds, and in no interval.
        margin: Equivalence margin, percentage points.
        smallest_effect: Percentage points.
        alpha: Level of this look.
        seeds: Complete seeds that were judged.
        planned_seeds: Seeds planned.
        missing: What is missing for the planned seeds, named.
        looks: Earlier looks at fewer seeds.
        arms: The baseline first.
        sweep: Best points of the sweep.
        sweep_asked: Points asked in all.
        notes: Remarks shown under the table.
    """

    study: str
    dataset: str
    question: str
    claim: str
    claim_source: str
    judged_split: str
    images: int
    split_error: float | None
    margin: float
    smallest_effect: float
    alpha: float
    seeds: int
    planned_seeds: int
    missing: tuple[str, ...]
    looks: tuple[int, ...]
    arms: tuple[ArmAnswer, ...]
    sweep: tuple[SweepPoint, ...] = ()
    sweep_asked: int = 0
    notes: tuple[str, ...] = ()


Row = dict[str, Any]


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
    by_key = {row["key"]: row for row in trials.iter_rows(named=True)}
    wanted = {(row["arm"], row["seed"]): row["key"] for row in plan["trials"]}
    seeds = _complete_seeds(wanted, by_key)
    cells = {arm.name: [by_key[wanted[arm.name, seed]] for seed in seeds] for arm in study.arms}
    split = _judged_split([row for rows in cells.values() for row in rows])
    earlier = tuple(look for look in plan["looks"] if look < len(seeds))
    # 先看过再加种子：每看一次都花掉一份 alpha，平分最简单也总成立
    alpha = plan["alpha"] / (len(earlier) + 1)
    baseline = cells[study.baseline]
    keys = {name: [wanted[name, seed] for seed in seeds] for name in cells}
    evidence = [
        _evidence(arm, baseline, cells[arm.name], split, keys[arm.name] == keys[study.baseline])
        for arm in study.arms
        if arm.name != study.baseline
    ]
    verdicts = judge(evidence, recipe.margin, alpha)
    arms = [_arm(arm, study, cells, split, seeds, verdicts, recipe, alpha) for arm in study.arms]
    arms.sort(key=lambda arm: not arm.is_baseline)
    images = baseline[0][f"{split}_count"] if baseline and baseline[0][f"{split}_count"] else 0
    spread = binomial_error(arms[0].mean / 100.0, images) * 100.0 if arms[0].mean is not None and images else None
    return Answer(
        study=study.name,
        dataset=plan["dataset"],
        question=study.question,
        claim=study.claim.statement,
        claim_source=study.claim.source,
        judged_split=split,
        images=images,
        split_error=spread,
        margin=recipe.margin,
        smallest_effect=recipe.smallest_effect,
        alpha=alpha,
        seeds=len(seeds),
        planned_seeds=plan["planned_seeds"],
        missing=_missing(wanted, by_key),
        looks=earlier,
        arms=tuple(arms),
        sweep=_sweep(sweep_members, by_key),
        sweep_asked=sweep_members.height,
        notes=tuple(_notes(split, images, spread, earlier, trials, wanted, recipe, seeds)),
    )


def _complete_seeds(wanted: Mapping[tuple[str, int], str], by_key: Mapping[str, Row]) -> list[int]:
    """Seeds 0, 1, ... of which every arm has ended, up to the first gap: never whichever finished first."""
    seeds = []
    for seed in sorted({seed for _, seed in wanted}):
        if any(key not in by_key for (_, own), key in wanted.items() if own == seed):
            break
        seeds.append(seed)
    return seeds


def _missing(wanted: Mapping[tuple[str, int], str], by_key: Mapping[str, Row]) -> tuple[str, ...]:
    return tuple(f"{arm} seed {seed}" for (arm, seed), key in sorted(wanted.items()) if key not in by_key)


def _judged_split(rows: Sequence[Row]) -> str:
    finished = [row for row in rows if row["state"] == "finished"]
    has_test = bool(finished) and all(row["test_top1_error"] is not None for row in finished)
    return "test" if has_test else "validation"


def _evidence(arm: Arm, baseline: Sequence[Row], rows: Sequence[Row], split: str, same_trials: bool) -> ArmEvidence:
    differences = [
        difference
        for base, row in zip(baseline, rows, strict=True)
        if (difference := _difference(base, row, split)) is not None
    ]
    return ArmEvidence(
        name=arm.name,
        differences=tuple(differences),
        planned=len(rows),
        diverged=sum(row["state"] == "diverged" for row in rows),
        failed=sum(row["state"] in ("failed", "stopped") for row in rows),
        same_trials=same_trials and bool(rows),
        claimed_points=arm.claim.top1_points if arm.claim is not None else None,
    )


def _difference(base: Row, row: Row, split: str, metric: str = JUDGED_METRIC) -> float | None:
    if base["state"] != "finished" or row["state"] != "finished":
        return None
    # 相减用错误张数，整数之差没有舍入误差
    column = f"{split}_{metric}s"
    return 100.0 * float(row[column] - base[column]) / float(row[f"{split}_count"])


def _arm(
    arm: Arm,
    study: Study,
    cells: Mapping[str, Sequence[Row]],
    split: str,
    seeds: Sequence[int],
    verdicts: Mapping[str, Verdict],
    recipe: Recipe,
    alpha: float,
) -> ArmAnswer:
    rows, baseline = cells[arm.name], cells[study.baseline]
    finished = {
        str(seed): 100.0 * row[f"{split}_{JUDGED_METRIC}"]
        for seed, row in zip(seeds, rows, strict=True)
        if row["state"] == "finished"
    }
    spread = paired_test(list(finished.values()))
    facts: dict[str, Any] = {
        "name": arm.name,
        "title": arm.title,
        "is_baseline": arm.name == study.baseline,
        "n": len(finished),
        "mean": spread.mean if finished else None,
        "sd": spread.sd if spread.n > 1 else None,
        "errors": finished,
        "diverged": sum(row["state"] == "diverged" for row in rows),
        "failed": sum(row["state"] in ("failed", "stopped") for row in rows),
        "seconds": _mean([row["seconds"] for row in rows if row["state"] == "finished"]),
    }
    if arm.name == study.baseline:
        return ArmAnswer(**facts, sentence="what the others are compared with")
    facts |= _compared(arm, baseline, rows, split, seeds, verdicts[arm.name])
    if verdicts[arm.name].word != "same trials" and facts["difference_sd"]:
        level = verdicts[arm.name].level or alpha / (len(study.arms) - 1)
        n = len(facts["differences"])
        facts["seeds_needed"] = seeds_needed(recipe.smallest_effect, facts["difference_sd"], n, level)
    return ArmAnswer(**facts)


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _compared(
    arm: Arm, baseline: Sequence[Row], rows: Sequence[Row], split: str, seeds: Sequence[int], verdict: Verdict
) -> dict[str, Any]:
    pairs = [(seed, base, row) for seed, base, row in zip(seeds, baseline, rows, strict=True)]
    differences = {
        str(seed): difference for seed, base, row in pairs if (difference := _difference(base, row, split)) is not None
    }
    top5 = paired_test([d for _, base, row in pairs if (d := _difference(base, row, split, "top5_error")) is not None])
    both = [(base, row) for _, base, row in pairs if base["state"] == row["state"] == "finished"]
    column = f"{split}_{JUDGED_METRIC}"
    test = verdict.test or paired_test(list(differences.values()))
    return {
        "differences": differences,
        "difference": test.mean if test.n else None,
        "difference_sd": test.sd if test.n > 1 else None,
        "interval": verdict.interval,
        "interval_level": 100.0 * (1.0 - verdict.level) if verdict.level is not None else None,
        "adjusted_p": verdict.adjusted_p,
        "sign_flip_p": verdict.sign_flip_p,
        "sign_flip_floor": verdict.sign_flip_floor,
        "claimed_points": arm.claim.top1_points if arm.claim is not None else None,
        "claimed_top5_points": arm.claim.top5_points if arm.claim is not None else None,
        "top5_difference": top5.mean if top5.n else None,
        "top5_interval": t_interval(top5, ALPHA) if top5.n > 1 else None,
        "word": verdict.word,
        "sentence": sentence(verdict.word, verdict.differs_from_zero),
        "correlation": correlation([base[column] for base, _ in both], [row[column] for _, row in both])
        if both
        else None,
    }


def _sweep(members: pl.DataFrame, by_key: Mapping[str, Row]) -> tuple[SweepPoint, ...]:
    points = []
    for member in members.sort("position").iter_rows(named=True):
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


def _notes(
    split: str,
    images: int,
    spread: float | None,
    earlier: Sequence[int],
    trials: pl.DataFrame,
    wanted: Mapping[tuple[str, int], str],
    recipe: Recipe,
    seeds: Sequence[int],
) -> list[str]:
    notes = []
    if spread is not None:
        notes.append(
            f"Judged on the final epoch's top-1 error of {images} {split} images; that set's own standard error is "
            f"{spread:.2f} points, shared by all seeds and in no interval above."
        )
    if split == "validation":
        notes.append("This data has no test set: the errors are validation errors, which the schedule may have seen.")
    notes.append(
        f"Equivalent means inside ±{recipe.margin:g} points; intervals are at the level at which each arm was tested "
        "(paired t by seed, Holm over the arms)."
    )
    classes = _classes(trials, wanted)
    if classes is not None and classes <= TOP5_SAYS_SOMETHING_ABOVE:
        notes.append(f"With {classes} classes the top-5 error says nothing here; it is shown without a word.")
    if earlier:
        notes.append(
            f"Extended after looking at {', '.join(map(str, earlier))} seeds: "
            "judged at alpha divided by the number of looks."
        )
    gaps = len({seed for _, seed in wanted}) - len(seeds)
    if gaps:
        notes.append(f"{gaps} of the planned seeds are not complete yet and do not enter.")
    return notes


def _classes(trials: pl.DataFrame, wanted: Mapping[tuple[str, int], str]) -> int | None:
    if "network.classes" not in trials.columns:
        return None
    own = trials.filter(pl.col("key").is_in(list(wanted.values())))
    return int(own["network.classes"][0]) if own.height else None


def verdict_outlook(
    seeds: int, arms: int, smallest_effect: float, standard_deviation: float | None, alpha: float = ALPHA
) -> str:
    """Says before anything runs whether this many seeds can reach a verdict, and what they resolve.

    Args:
        seeds: Planned seeds.
        arms: Arms compared with the baseline.
        smallest_effect: The recipe's, in percentage points.
        standard_deviation: Of the differences, from an earlier answer; None without one.
        alpha: Family-wise level.
    """
    need = seeds_to_reach_a_verdict(arms, alpha)
    if seeds < need:
        return (
            f"{seeds} seeds cannot reach a verdict: an exact sign-flip test of {arms} arms needs {need} "
            f"(its floor with {seeds} is {sign_flip_floor(seeds):.2g}); use --seeds {need}"
        )
    if not standard_deviation:
        return f"{seeds} seeds can reach a verdict"
    resolved = detectable_effect(standard_deviation, seeds, alpha / arms)
    enough = "" if resolved <= smallest_effect else f", more than the {smallest_effect:g} worth finding"
    return f"{seeds} seeds can reach a verdict and resolve {resolved:.1f} points{enough}"
