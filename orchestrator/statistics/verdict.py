"""The word of each arm, in the order of the rules.

Pure functions: what comes in is per-seed errors and states, what goes out is a verdict.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from orchestrator.statistics.alpha_spending import Boundary, ShareOfLevel
from orchestrator.statistics.limits import FEWEST_SEEDS
from orchestrator.statistics.paired import (
    HolmEntry,
    PairedTest,
    holm,
    paired_test,
    sign_flip_floor,
    sign_flip_p,
    t_interval,
)
from orchestrator.statistics.signs import Between, median, median_interval, sign_test_p

REPRODUCES, DOES_NOT = "reproduces", "does not reproduce"
LOOKED_AT_ONCE = ShareOfLevel(1.0)
DIRECTIONS = ("supports", "contradicts", "higher", "lower")
TOO_FEW = f"no verdict: fewer than {FEWEST_SEEDS} seeds"


@dataclass(frozen=True)
class ArmEvidence:
    """What is known of one arm against the baseline.

    Attributes:
        name: The arm.
        differences: Arm minus baseline in percentage points (or the log of their ratio), of the seeds that finished in
            both, in order of seed.
        planned: Seeds looked at.
        diverged: Seeds that diverged in the arm.
        failed: Seeds that failed in the arm.
        baseline_diverged: Seeds that diverged in the baseline.
        baseline_failed: Seeds that failed in the baseline.
        without_ratio: Seeds that finished in both, of which there is no ratio: a value is not above 0.
        same_trials: Whether the arm's configuration is the baseline's.
        claimed_points: The paper's number (arm minus baseline), whose sign decides between supports and contradicts.
        ratios: Log-ratios of times to a threshold, of the same seeds; where given, the sign test judges them.
        other: What the arm is compared with, as it is called where its trials were lost.
        is_published: Whether the differences are the arm minus a published value, rather than minus other trials: then
            the interval is held against the margin, and nothing else counts.
    """

    name: str
    differences: tuple[float, ...]
    planned: int
    diverged: int = 0
    failed: int = 0
    baseline_diverged: int = 0
    baseline_failed: int = 0
    without_ratio: int = 0
    same_trials: bool = False
    claimed_points: float | None = None
    ratios: tuple[Between, ...] | None = None
    other: str = "baseline"
    is_published: bool = False


@dataclass(frozen=True)
class Verdict:
    """The verdict on one arm.

    Attributes:
        word: `same trials`, `diverged on k of n`, `failed on k of n`, `baseline diverged on k of n` (or failed),
            `no ratio on k of n`, `identical in n seeds`, `the same difference in n seeds`, `equivalent`, `supports`,
            `contradicts`, `higher`, `lower`, `inconclusive`, or `no verdict: ...`; against a published value
            `reproduces` or `does not reproduce`.
        in_family: Whether the arm counts in the Holm family.
        test: The paired test; None for the same trials.
        family_level: The arm's level in the family, over all looks.
        level: Its level at this look, and of the interval.
        equal_level: The same of an equal share in the family, which no other arm's verdict has raised; at most `level`.
        interval: At that level; None without a test.
        adjusted_p: Holm's, in the study's family and over all looks; None without a test.
        sign_flip_p: Exact sign-flip p; None without a test.
        sign_flip_floor: The smallest it could be.
        differs_from_zero: For `equivalent`: whether the difference is nevertheless significant.
    """

    word: str
    in_family: bool = False
    test: PairedTest | None = None
    family_level: float | None = None
    level: float | None = None
    equal_level: float | None = None
    interval: tuple[float, float] | None = None
    adjusted_p: float | None = None
    sign_flip_p: float | None = None
    sign_flip_floor: float | None = None
    differs_from_zero: bool = False

    def differs(self, alpha: float) -> bool:
        """Says whether the difference from zero is significant in a family of level alpha."""
        return self.adjusted_p is not None and self.adjusted_p <= alpha


@dataclass(frozen=True)
class Asked:
    """What is judged on one data set, as a part of one family.

    Attributes:
        arms: The evidence.
        margin: Equivalence margin, as in `judge`.
        boundary: What this look may use of a level.
    """

    arms: Sequence[ArmEvidence]
    margin: float
    boundary: Boundary = LOOKED_AT_ONCE


def judge(
    arms: Sequence[ArmEvidence],
    margin: float,
    alpha: float,
    boundary: Boundary = LOOKED_AT_ONCE,
    rejected: int = 0,
    closed: int = 0,
) -> dict[str, Verdict]:
    """Judges all arms of a study as one Holm family.

    Arms that are the baseline's own trials, or that diverged or failed, leave the family. An arm whose differences are
    all equal has no t; it stays in the family and makes the others' levels no easier.

    Args:
        arms: The evidence.
        margin: Equivalence margin in percentage points, or the log of a ratio.
        alpha: Family-wise level over all looks.
        boundary: What this look may use of a level.
        rejected: Further arms of the family that were found to differ from zero at an earlier look.
        closed: Further arms of the family that are no longer tested and were not found to differ.

    Returns:
        A verdict per arm's name.
    """
    return judge_together([Asked(arms, margin, boundary)], alpha, rejected, closed)[0]


def judge_together(
    parts: Sequence[Asked], alpha: float, rejected: int = 0, closed: int = 0
) -> list[dict[str, Verdict]]:
    """Judges what was asked on several data sets as one Holm family.

    Args:
        parts: Of each data set; names need only be unique in each.
        alpha: Family-wise level over all of them and all looks.
        rejected: See `judge`.
        closed: See `judge`.

    Returns:
        For each part a verdict per arm's name.
    """
    tests = [{arm.name: _test(arm) for arm in part.arms} for part in parts]
    # 丢了种子的 arm 剩下的是有偏的选择，不进家族
    family = [
        (place, arm)
        for place, part in enumerate(parts)
        for arm in part.arms
        if not arm.same_trials and _lost(arm) is None and len(arm.differences) >= FEWEST_SEEDS
    ]
    p_values = [_overall_p(tests[place][arm.name], parts[place].boundary) for place, arm in family]
    entries: list[dict[str, HolmEntry]] = [{} for _ in parts]
    for (place, arm), entry in zip(family, holm(p_values, alpha, rejected, closed), strict=True):
        entries[place][arm.name] = entry
    share = alpha / max(1, len(family) + rejected + closed)

    def verdict(arm: ArmEvidence, part: Asked, place: int) -> Verdict:
        judged = _verdict(arm, tests[place][arm.name], entries[place], part.margin, alpha, part.boundary)
        return _with_equal_level(judged, share, part.boundary)

    return [{arm.name: verdict(arm, part, place) for arm in part.arms} for place, part in enumerate(parts)]


def _with_equal_level(verdict: Verdict, share: float, boundary: Boundary) -> Verdict:
    if verdict.test is None or verdict.level is None or verdict.family_level == share:
        return replace(verdict, equal_level=verdict.level)
    return replace(verdict, equal_level=min(verdict.level, boundary.nominal_level(share, verdict.test.n)))


def withhold(verdicts: Mapping[str, Verdict], reason: str) -> dict[str, Verdict]:
    """Returns verdicts whose tested arms get no word, for a reason that concerns the whole study."""
    return {
        name: Verdict(f"no verdict: {reason}", test=verdict.test) if verdict.in_family else verdict
        for name, verdict in verdicts.items()
    }


def _overall_p(test: PairedTest, boundary: Boundary) -> float:
    # 差全相等时没有 t，按 p = 1 占一个名额
    return 1.0 if test.p is None else boundary.overall_p(test.p, test.n)


def _test(arm: ArmEvidence) -> PairedTest:
    """Student's paired t, or for times to a threshold the exact sign test with the median in the mean's place."""
    if not arm.ratios:
        return paired_test(arm.differences)
    middle, n = median(arm.ratios), len(arm.ratios)
    equal = all(ratio.is_known and ratio.low == 0.0 for ratio in arm.ratios)
    return PairedTest(n, middle.nearest_to_equal, math.nan, None if equal else sign_test_p(arm.ratios))


def _lost(arm: ArmEvidence) -> str | None:
    """Which trials did not finish, so that the remaining pairs are a biased choice; None where all finished."""
    for word, count in (
        ("diverged", arm.diverged),
        ("failed", arm.failed),
        (f"{arm.other} diverged", arm.baseline_diverged),
        (f"{arm.other} failed", arm.baseline_failed),
        ("no ratio", arm.without_ratio),
    ):
        if count:
            return f"{word} on {count} of {arm.planned}"
    return None


def _verdict(
    arm: ArmEvidence,
    test: PairedTest,
    entries: Mapping[str, HolmEntry],
    margin: float,
    alpha: float,
    boundary: Boundary,
) -> Verdict:
    # 词的次序：先问能不能比，再问是否等效，最后才问方向
    if arm.same_trials:
        return Verdict("same trials")
    lost = _lost(arm)
    if lost is not None:
        return Verdict(lost, test=test)
    if test.n < FEWEST_SEEDS:
        return Verdict(TOO_FEW, test=test)
    if test.p is None:
        return Verdict(_identical(test), in_family=True, test=test)
    entry = entries[arm.name]
    level = boundary.nominal_level(entry.level, test.n)
    interval = t_interval(test, level) if arm.ratios is None else median_interval(arm.ratios, level)
    significant = entry.adjusted_p <= alpha
    # 等效先于方向：显著而小到没有用处的差，仍叫等效
    if arm.is_published:
        word = _against_published(interval, margin)
    elif -margin < interval[0] and interval[1] < margin:
        word = "equivalent"
    elif significant:
        word = _direction(test.mean, arm.claimed_points)
    else:
        word = "inconclusive"
    return Verdict(
        word=word,
        in_family=True,
        test=test,
        family_level=entry.level,
        level=level,
        interval=interval,
        adjusted_p=entry.adjusted_p,
        sign_flip_p=sign_flip_p(arm.differences) if arm.ratios is None else None,
        sign_flip_floor=sign_flip_floor(test.n),
        differs_from_zero=word == "equivalent" and significant,
    )


def _against_published(interval: tuple[float, float], margin: float) -> str:
    """Whether an interval of the difference to a published value lies inside the margin, outside it, or across."""
    if -margin < interval[0] and interval[1] < margin:
        return REPRODUCES
    return DOES_NOT if interval[1] < -margin or margin < interval[0] else "inconclusive"


def _identical(test: PairedTest) -> str:
    return f"identical in {test.n} seeds" if test.mean == 0.0 else f"the same difference in {test.n} seeds"


def _direction(mean: float, claimed: float | None) -> str:
    if claimed is None or claimed == 0.0:
        return "higher" if mean > 0 else "lower"
    return "supports" if (mean > 0) == (claimed > 0) else "contradicts"


def agrees(word: str, limits: tuple[float, float], margin: float) -> bool:
    """Says whether limits for new images too would give the same word: inside the margin, outside it, or without zero.

    Args:
        word: From a `Verdict` on these images; one that no difference was found for holds nowhere else.
        limits: Of the same difference.
        margin: Equivalence margin, on the same scale.
    """
    if word == "equivalent":
        return -margin < limits[0] and limits[1] < margin
    if word in (REPRODUCES, DOES_NOT):
        return _against_published(limits, margin) == word
    return word in DIRECTIONS and not _has_zero(limits)


def _has_zero(limits: tuple[float, float]) -> bool:
    return limits[0] <= 0.0 <= limits[1]


def sentence(
    word: str, differs_from_zero: bool = False, split: str = "test", beyond: tuple[float, float] | None = None
) -> str:
    """Says a word as a sentence about the set it was judged on, and about new images where it holds there too.

    Args:
        word: From a `Verdict`.
        differs_from_zero: From the same.
        split: `test`, `validation` or `training`.
        beyond: The limits for new images too, where they agree with the word; see `agrees`.
    """
    where = f"on this {split} set" if beyond is None else f"on and beyond this {split} set"
    sentences = {
        "supports": f"supports the claim's direction, {where}",
        "contradicts": f"contradicts the claim's direction, {where}",
        "higher": f"higher, {where} (no claim to compare with)",
        "lower": f"lower, {where} (no claim to compare with)",
        REPRODUCES: f"reproduces the published value within the margin, {where}",
        DOES_NOT: f"does not reproduce the published value, {where}",
        "equivalent": f"equivalent: no effect of practical size here, {where}",
        "inconclusive": f"inconclusive: these seeds cannot tell, {where}",
        "same trials": "the same trials as the baseline",
    }
    text = sentences.get(word, f"{word}, {where}" if word.startswith(("identical", "the same diff")) else word)
    if not differs_from_zero:
        return text
    # 等效可以推到新图，“不为零”却未必
    on_these_alone = f" on this {split} set" if beyond is not None and _has_zero(beyond) else ""
    return f"{text}; different from zero{on_these_alone} all the same"
