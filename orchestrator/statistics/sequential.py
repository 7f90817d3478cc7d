"""A study of `--seeds auto`: a look at every seed from the fourth on, arms that close, and what to train next.

Boundaries of Wang & Tsiatis (1987) at the level of each arm; a rejected arm hands its level on (Maurer & Bretz 2013).
Everything follows from the records, so that an interrupted study goes on and ends as an undisturbed one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from scipy import special

from orchestrator.statistics.alpha_spending import FIRST_LOOK, WangTsiatis
from orchestrator.statistics.paired import PairedTest, sd_limits
from orchestrator.statistics.verdict import ArmEvidence, Verdict, judge

FUTILE_BELOW = 0.05
NOT_LOOKED_YET = Verdict(f"no verdict: the first look is at {FIRST_LOOK} seeds")
Closed = Literal["decided", "futile", "untested", "maximum"]
EvidenceAt = Callable[[str, int], ArmEvidence | None]


@dataclass(frozen=True)
class SequentialRule:
    """What `plan.json` holds before the first trial.

    Attributes:
        max_seeds: Seeds at which every arm closes.
        alpha: Family-wise level over all looks.
        margin: Equivalence margin, on the scale of the differences.
        smallest_effect: Effect worth finding, on the same scale.
        stops_futile: Whether arms that can hardly reach a word any more are closed.
    """

    max_seeds: int
    alpha: float
    margin: float
    smallest_effect: float
    stops_futile: bool = True


@dataclass(frozen=True)
class ArmCourse:
    """How far an arm has come.

    Attributes:
        seeds: Seeds at its last look; 0 before the first.
        verdict: Of that look.
        closed: Why it gets no further seeds: its word is `decided`; a word has become unlikely (`futile`); it cannot be
            tested (`untested`: diverged, failed, or the baseline's own trials); the `maximum` is reached. None while
            it is open.
    """

    seeds: int = 0
    verdict: Verdict = NOT_LOOKED_YET
    closed: Closed | None = None


def follow(
    arms: Sequence[str], evidence_at: EvidenceAt, rule: SequentialRule, skipped: Collection[str] = ()
) -> dict[str, ArmCourse]:
    """Takes all looks that the records allow, in their order.

    Args:
        arms: The arms compared with the baseline, or other contrasts of one family.
        evidence_at: Returns an arm's evidence of seeds 0 to n - 1, or None where one of them has not ended, in the arm
            or in the baseline.
        rule: The plan.
        skipped: Arms that no look waits for; one that is incomplete keeps its place in the family.

    Returns:
        A course per arm.
    """
    courses = {name: ArmCourse() for name in arms}
    for seeds in range(FIRST_LOOK, rule.max_seeds + 1):
        evidence = {name: evidence_at(name, seeds) for name in arms if courses[name].closed is None}
        complete = [arm for arm in evidence.values() if arm is not None]
        left_out = [name for name, arm in evidence.items() if arm is None]
        # 未关闭的 arm 都齐了才看：先完成的不许先挑
        if not complete or not set(left_out) <= set(skipped):
            break
        courses |= _look(complete, courses, rule, seeds, len(left_out))
    return courses


def next_seeds(
    keys: Mapping[tuple[str, int], Hashable],
    courses: Mapping[str, ArmCourse],
    arms: Mapping[str, Collection[str]],
    ended: Collection[Hashable],
) -> list[tuple[str, int]]:
    """Returns the (arm, seed) that the next look needs and that have not ended, each key once; none if none is open.

    Args:
        keys: Key of each (arm, seed) up to the maximum.
        courses: From `follow`.
        arms: The arms of each comparison: an arm and the baseline, or those of another contrast.
        ended: Keys of the trials that have ended.
    """
    still_open = {name for name, course in courses.items() if course.closed is None}
    if not still_open:
        return []
    look = max(FIRST_LOOK, 1 + max(courses[name].seeds for name in still_open))
    needed = {arm for name in still_open for arm in arms[name]}
    by_key: dict[Hashable, tuple[str, int]] = {}
    for (arm, seed), key in keys.items():
        if arm in needed and seed < look and key not in ended:
            by_key.setdefault(key, (arm, seed))
    return list(by_key.values())


def _look(
    evidence: Sequence[ArmEvidence],
    courses: Mapping[str, ArmCourse],
    rule: SequentialRule,
    seeds: int,
    left_out: int,
) -> dict[str, ArmCourse]:
    tested = [course.verdict for course in courses.values() if course.closed is not None and course.verdict.in_family]
    # 已经拒绝的 arm 把水平交给还开着的
    rejected = sum(verdict.differs(rule.alpha) for verdict in tested)
    boundary = WangTsiatis(rule.max_seeds)
    # 未拒绝而关闭的 arm 不交出它的水平，否则整族错误率会超过 alpha
    verdicts = judge(evidence, rule.margin, rule.alpha, boundary, rejected, len(tested) - rejected + left_out)
    return {name: ArmCourse(seeds, verdict, _closed(verdict, rule, seeds)) for name, verdict in verdicts.items()}


def _closed(verdict: Verdict, rule: SequentialRule, seeds: int) -> Closed | None:
    if not verdict.in_family:
        return "untested"
    if verdict.word == "equivalent" or verdict.differs(rule.alpha):
        return "decided"
    if seeds == rule.max_seeds:
        return "maximum"
    test, level = verdict.test, verdict.family_level
    if rule.stops_futile and test is not None and level is not None:
        return "futile" if chance_of_a_word(test, level, rule) < FUTILE_BELOW else None
    return None


def chance_of_a_word(test: PairedTest, level: float, rule: SequentialRule) -> float:
    """Returns how likely an arm still gets a word at the maximum, seen as favourably as its seeds allow.

    The conditional power (Lan, Simon & Halperin 1982) of the last look, from the lower 95 % limit of the standard
    deviation: of a difference, when the rest of the seeds show the larger of the mean seen and the smallest effect
    worth finding; of equivalence, when they show none. Closing at a small chance never makes a false word likelier
    (non-binding: no boundary is eased by it).

    Args:
        test: Of the seeds so far, at least 2, not all equal.
        level: The arm's level over all looks.
        rule: The plan.
    """
    n, last = test.n, rule.max_seeds
    # 取标准差的卡方下限：关得太早比关得太晚更可惜
    sd = sd_limits(test.sd, n)[0]
    noise = sd * math.sqrt(last - n)
    score = -float(special.stdtrit(last - 1, WangTsiatis(last).nominal_level(level, last) / 2.0))
    half = score * sd / math.sqrt(last)
    seen = abs(test.mean)
    # 以均值的符号为正方向；另一方向从头追赶，机会更小，但小效应时仍要看
    chances = [
        _above(last * half, sign * n * seen + (last - n) * max(sign * seen, rule.smallest_effect), noise)
        for sign in (1.0, -1.0)
    ]
    inside = last * (rule.margin - half)
    if inside > 0.0:
        chances.append(_above(-inside, n * seen, noise) - _above(inside, n * seen, noise))
    return max(chances)


def _above(bound: float, mean: float, noise: float) -> float:
    """The chance that a normal sum exceeds a bound."""
    return float(special.ndtr((mean - bound) / noise))
