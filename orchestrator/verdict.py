"""The word of each arm, in the order of the rules.

Pure functions: what comes in is per-seed errors and states, what goes out is a verdict.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orchestrator.statistics import (
    HolmEntry,
    PairedTest,
    holm,
    paired_test,
    sign_flip_floor,
    sign_flip_p,
    t_interval,
)

FEWEST_SEEDS = 3


@dataclass(frozen=True)
class ArmEvidence:
    """What is known of one arm against the baseline.

    Attributes:
        name: The arm.
        differences: Arm minus baseline in percentage points, of the seeds that finished in both, in order of seed.
        planned: Seeds looked at.
        diverged: Seeds that diverged in the arm.
        failed: Seeds that failed in the arm.
        same_trials: Whether the arm's configuration is the baseline's.
        claimed_points: The paper's number (arm minus baseline), whose sign decides between supports and contradicts.
    """

    name: str
    differences: tuple[float, ...]
    planned: int
    diverged: int = 0
    failed: int = 0
    same_trials: bool = False
    claimed_points: float | None = None


@dataclass(frozen=True)
class Verdict:
    """The verdict on one arm.

    Attributes:
        word: `same trials`, `diverged on k of n`, `failed on k of n`, `identical in n seeds`, `equivalent`, `supports`,
            `contradicts`, `higher`, `lower`, `inconclusive`, or `no verdict: ...`.
        test: The paired test; None for the same trials.
        level: Level at which the arm was tested, and of the interval.
        interval: At that level; None without a test.
        adjusted_p: Holm's, in the study's family; None without a test.
        sign_flip_p: Exact sign-flip p; None without a test.
        sign_flip_floor: The smallest it could be.
        differs_from_zero: For `equivalent`: whether the difference is nevertheless significant.
    """

    word: str
    test: PairedTest | None = None
    level: float | None = None
    interval: tuple[float, float] | None = None
    adjusted_p: float | None = None
    sign_flip_p: float | None = None
    sign_flip_floor: float | None = None
    differs_from_zero: bool = False


def judge(arms: Sequence[ArmEvidence], margin: float, alpha: float) -> dict[str, Verdict]:
    """Judges all arms of a study as one Holm family.

    Arms that are the baseline's own trials, that diverged or failed, or whose differences are all equal are outside
    the family: nothing is tested there.

    Args:
        arms: The evidence.
        margin: Equivalence margin in percentage points.
        alpha: Family-wise level of this look.

    Returns:
        A verdict per arm's name.
    """
    tests = {arm.name: paired_test(arm.differences) for arm in arms}
    family = [
        arm
        for arm in arms
        if not arm.same_trials
        and not arm.diverged
        and not arm.failed
        and len(arm.differences) >= FEWEST_SEEDS
        and tests[arm.name].p is not None
    ]
    p_values = [p for arm in family if (p := tests[arm.name].p) is not None]
    entries = dict(zip((arm.name for arm in family), holm(p_values, alpha), strict=True))
    return {arm.name: _verdict(arm, tests[arm.name], entries, margin, alpha) for arm in arms}


def _verdict(
    arm: ArmEvidence, test: PairedTest, entries: Mapping[str, HolmEntry], margin: float, alpha: float
) -> Verdict:
    if arm.same_trials:
        return Verdict("same trials")
    for word, count in (("diverged", arm.diverged), ("failed", arm.failed)):
        if count:
            return Verdict(f"{word} on {count} of {arm.planned}", test=test)
    if test.n < FEWEST_SEEDS:
        return Verdict(f"no verdict: fewer than {FEWEST_SEEDS} seeds", test=test)
    if test.p is None:
        return Verdict(_identical(test), test=test)
    entry = entries[arm.name]
    interval = t_interval(test, entry.level)
    significant = entry.adjusted_p <= alpha
    if -margin < interval[0] and interval[1] < margin:
        word = "equivalent"
    elif significant:
        word = _direction(test.mean, arm.claimed_points)
    else:
        word = "inconclusive"
    return Verdict(
        word=word,
        test=test,
        level=entry.level,
        interval=interval,
        adjusted_p=entry.adjusted_p,
        sign_flip_p=sign_flip_p(arm.differences),
        sign_flip_floor=sign_flip_floor(test.n),
        differs_from_zero=word == "equivalent" and significant,
    )


def _identical(test: PairedTest) -> str:
    return f"identical in {test.n} seeds" if test.mean == 0.0 else f"the same difference in {test.n} seeds"


def _direction(mean: float, claimed: float | None) -> str:
    if claimed is None or claimed == 0.0:
        return "higher" if mean > 0 else "lower"
    return "supports" if (mean > 0) == (claimed > 0) else "contradicts"


def sentence(word: str, differs_from_zero: bool = False) -> str:
    """Says a word as a sentence about this test set."""
    sentences = {
        "supports": "supports the claim's direction, on this test set",
        "contradicts": "contradicts the claim's direction, on this test set",
        "higher": "a higher error, on this test set (no claim to compare with)",
        "lower": "a lower error, on this test set (no claim to compare with)",
        "equivalent": "equivalent: no effect of practical size here, on this test set",
        "inconclusive": "inconclusive: these seeds cannot tell, on this test set",
        "same trials": "the same trials as the baseline",
    }
    said = sentences.get(word, word)
    return f"{said}; different from zero all the same" if differs_from_zero else said
