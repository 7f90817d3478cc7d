"""The looks that a study's plan asks for, and what one of `--seeds auto` trains before its next."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import polars as pl

from orchestrator.judging.answer import SKIPPED
from orchestrator.judging.evidence import Evidence, gather_evidence
from orchestrator.judging.scales import SCALES
from orchestrator.planning.plan import ALPHA, Plan
from orchestrator.planning.plan_file import PlanFile
from orchestrator.statistics.alpha_spending import (
    ShareOfLevel,
    looks_before,
    share_of_level,
)
from orchestrator.statistics.limits import FEWEST_SEEDS
from orchestrator.statistics.sequential import ArmCourse, SequentialRule, follow, next_seeds
from orchestrator.statistics.verdict import Verdict, judge, withhold
from orchestrator.tables.rows import EPOCH_COLUMNS
from orchestrator.tables.tables import load_trials, update_tables
from search_spaces.contrast import largest_family
from search_spaces.core_config import description_of
from search_spaces.study import Recipe
from search_spaces.trial import PlannedTrial


@dataclass(frozen=True)
class Look:
    """What is judged, and how.

    Attributes:
        seeds: Seeds that enter, by arm, the baseline included; they start at 0.
        verdicts: By contrast; that of an arm against the baseline is called as the arm.
        before: Looks taken before this one that could give a word, of a study that was extended.
        share: Of the level, what this look may use.
        courses: By contrast, of a study of `--seeds auto`; empty for others.
        missing: Planned trials that this or the next look lacks.
        after_gap: Complete seeds that do not enter, because an earlier one is incomplete.
        skipped: Arms that the run was asked to skip, and that still lack trials: they have no verdict, or
            hold back the next look of a study of `--seeds auto`.
    """

    seeds: Mapping[str, int]
    verdicts: Mapping[str, Verdict]
    before: tuple[int, ...] = ()
    share: float = 1.0
    courses: Mapping[str, ArmCourse] | None = None
    missing: tuple[tuple[str, int], ...] = ()
    after_gap: tuple[int, ...] = ()
    skipped: tuple[str, ...] = ()


class FixedLook(NamedTuple):
    """How many seeds of a study of fixed seeds are judged, and what of a level that may use.

    Attributes:
        skipped: Arms that were skipped, and still lack trials.
        seeds: Complete seeds of the others.
        after_gap: Complete seeds that do not enter.
        before: Looks taken before that could give a word.
        share: Of the level.
        refusal: Why no word is given at all; empty where words are.
    """

    skipped: tuple[str, ...]
    seeds: int
    after_gap: tuple[int, ...]
    before: tuple[int, ...]
    share: float
    refusal: str


def fixed_look(evidence: Evidence, plan_file: PlanFile, comparisons: int) -> FixedLook:
    """Returns what a look at all complete seeds may use.

    Args:
        evidence: The study's records.
        plan_file: Alpha, and the looks taken.
        comparisons: How many are corrected together.
    """
    # 缺的后来补齐了（合并、别的研究），就不再是跳过的
    skipped = evidence.incomplete(plan_file.skipped)
    seeds, after_gap = evidence.complete_seeds(skipped)
    # 少于三个种子时给不出词，那次看没有花掉 alpha
    before = looks_before([look for look in plan_file.looks if look >= FEWEST_SEEDS], seeds)
    looked_beyond = bool(before) and before[-1] > seeds
    share = 1.0 if looked_beyond else share_of_level(before, seeds, plan_file.alpha / max(1, comparisons))
    refusal = f"already looked at {before[-1]} seeds" if looked_beyond else ""
    return FixedLook(skipped, seeds, after_gap, before, share, refusal)


def take_look(evidence: Evidence, recipe: Recipe, plan_file: PlanFile) -> Look:
    """Judges what has ended by the rule of the plan: all seeds at once, or every look of `--seeds auto`.

    Args:
        evidence: The study's records.
        recipe: Margin and smallest effect.
        plan_file: Its rule, alpha, and the looks taken.
    """
    if plan_file.max_seeds is not None:
        return _sequential_look(evidence, recipe, plan_file.max_seeds, plan_file)
    look = fixed_look(evidence, plan_file, largest_family(list(evidence.contrasts.values())))
    skipped, seeds, share = look.skipped, look.seeds, look.share
    margin = SCALES[evidence.judged.scale].size(recipe.margin)
    verdicts: dict[str, Verdict] = {}
    # 各 arm 一起裁决：Holm 的家族是整个研究；阶梯的各级另成一族
    for family in evidence.families:
        kept = [name for name in family if not evidence.needs(name, skipped)]
        judged = [evidence.of(name, seeds) for name in kept]
        # 跳过的仍占名额：别的不因此变得容易
        verdicts |= judge(judged, margin, plan_file.alpha, ShareOfLevel(share), closed=len(family) - len(kept))
        verdicts |= {name: Verdict(SKIPPED) for name in family if name not in kept}
    if look.refusal:
        verdicts = withhold(verdicts, look.refusal)
    missing = tuple(cell for cell, what in sorted(evidence.planned.items()) if what not in evidence.ended)
    by_arm = _for_all(evidence, seeds) | {arm: len(evidence.rows(arm, seeds)) for arm in skipped}
    return Look(by_arm, verdicts, look.before, share, None, missing, look.after_gap, skipped)


def follow_records(
    evidence: Evidence, recipe: Recipe, max_seeds: int, alpha: float, skipped: Collection[str] = ()
) -> dict[str, ArmCourse]:
    """Returns how far each contrast of a study of `--seeds auto` has come; no look waits for an arm in `skipped`."""
    scale = SCALES[evidence.judged.scale]
    rule = SequentialRule(
        max_seeds=max_seeds,
        alpha=alpha,
        margin=scale.size(recipe.margin),
        smallest_effect=scale.size(recipe.smallest_effect),
    )
    waits_not = [name for name in evidence.contrasts if evidence.needs(name, skipped)]
    courses: dict[str, ArmCourse] = {}
    for family in evidence.families:
        courses |= follow(family, evidence.at, rule, waits_not)
    return courses


def next_trials(
    plan: Plan, trials: pl.DataFrame, ended: Collection[str], skipped: Collection[str] = ()
) -> list[PlannedTrial]:
    """Returns what a study of `--seeds auto` trains before its next look.

    Args:
        plan: The plan, up to the maximum.
        trials: The trials table.
        ended: Keys of trials that have ended and are not run again.
        skipped: Arms of which nothing is trained now. The others are trained as if such an arm stayed undecided, which
            makes none of their levels easier; they are judged when it has caught up.
    """
    evidence, courses = _courses(plan, trials, ended, skipped)
    by_cell = {(trial.arm, trial.seed): trial for trial in plan.trials}
    going_on = {name: course for name, course in courses.items() if not evidence.needs(name, skipped)}
    cells = next_seeds(evidence.planned, going_on, _arms_of(evidence), evidence.ended)
    return [by_cell[cell] for cell in cells]


def still_wanted(plan: Plan, trials: pl.DataFrame, ended: Collection[str]) -> list[PlannedTrial]:
    """Returns a plan's trials without those of closed arms that no look needs; the rest is what may be wanted at most.

    Args:
        plan: The plan, up to the maximum.
        trials: The trials table.
        ended: Keys of trials that have ended and are not run again.
    """
    evidence, courses = _courses(plan, trials, ended)
    seeds = {name: len(plan.seeds) if course.closed is None else course.seeds for name, course in courses.items()}
    most = _most_by_arm(evidence, seeds)
    return [trial for trial in plan.trials if trial.seed < most[trial.arm]]


def _arms_of(evidence: Evidence) -> dict[str, tuple[str, ...]]:
    return {name: evidence.arms(name) for name in evidence.contrasts}


def _most_by_arm(evidence: Evidence, seeds: Mapping[str, int]) -> dict[str, int]:
    """How many seeds each arm has in the comparison that needs most of them.

    Args:
        evidence: The study's records.
        seeds: Of each contrast.
    """
    most: dict[str, int] = {}
    for name, number in seeds.items():
        for arm in evidence.arms(name):
            most[arm] = max(most.get(arm, 0), number)
    return most


def _courses(
    plan: Plan, trials: pl.DataFrame, ended: Collection[str], skipped: Collection[str] = ()
) -> tuple[Evidence, dict[str, ArmCourse]]:
    planned = {(trial.arm, trial.seed): (trial.key, trial.views) for trial in plan.trials}
    ended_rows = trials.filter(pl.col("key").is_in(list(ended)))
    # 逐种子的研究不判到达阈值的时间，用不到最大的那张 epoch 表
    evidence = gather_evidence(
        plan.study, plan.recipe, description_of(plan.base), planned, ended_rows, pl.DataFrame(schema=EPOCH_COLUMNS)
    )
    return evidence, follow_records(evidence, plan.recipe, len(plan.seeds), ALPHA, skipped)


def _sequential_look(evidence: Evidence, recipe: Recipe, max_seeds: int, plan_file: PlanFile) -> Look:
    courses = follow_records(evidence, recipe, max_seeds, plan_file.alpha)
    looked = max((course.seeds for course in courses.values()), default=0)
    if looked == 0:
        complete, _ = evidence.complete_seeds()
        seeds = _for_all(evidence, complete)
    else:
        seeds = _most_by_arm(evidence, {name: course.seeds for name, course in courses.items()})
        # 基线排在最后，报告里的次序才与从前一样
        seeds[evidence.study.baseline] = seeds.pop(evidence.study.baseline)
    missing = next_seeds(evidence.planned, courses, _arms_of(evidence), evidence.ended)
    verdicts = {name: course.verdict for name, course in courses.items()}
    # 逐种子看时也等跳过的 arm：它缺席时给的词，补齐后再看就不作数了
    skipped = tuple(arm for arm in plan_file.skipped if any(arm == lacking for lacking, _ in missing))
    return Look(seeds, verdicts, courses=courses, missing=tuple(missing), skipped=skipped)


def _for_all(evidence: Evidence, seeds: int) -> dict[str, int]:
    return {arm.name: seeds for arm in evidence.study.arms}


def without_closed(plan: Plan, ended: Collection[str], results: Path) -> Plan:
    """Returns the plan without the trials of closed arms that no look needs any more.

    Args:
        plan: The plan, with all seeds up to the maximum.
        ended: Keys of trials that have ended and are not run again.
        results: The results folder.
    """
    return replace(plan, trials=tuple(still_wanted(plan, load_trials(results).trials, ended)))


def run_looks(
    plan: Plan,
    results: Path,
    ended: Callable[[], Collection[str]],
    train: Callable[[Sequence[PlannedTrial]], None],
    skipped: Callable[[], Collection[str]] = frozenset,
) -> None:
    """Trains what each look needs, until every arm is closed or nothing more is trained (a budget).

    Args:
        plan: The plan.
        results: The results folder.
        ended: Returns the keys of the trials that have ended by now.
        train: Trains trials; what they say is on record when it returns.
        skipped: Returns the arms of which nothing more is to be trained now; the others go on without them.
    """
    # 每次看只训练它还缺的；结论关掉的 arm 不再要种子
    before: list[PlannedTrial] = []
    while upcoming := next_trials(plan, update_tables(results).trials, ended(), skipped()):
        if upcoming == before:
            return
        train(upcoming)
        before = upcoming
