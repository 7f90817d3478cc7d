"""The course of `--seeds auto`: looks, closing arms, handed-on levels, and what is trained next."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.statistics.alpha_spending import FIRST_LOOK
from orchestrator.statistics.paired import paired_test
from orchestrator.statistics.sequential import ArmCourse, SequentialRule, chance_of_a_word, follow, next_seeds
from orchestrator.statistics.verdict import ArmEvidence

RULE = SequentialRule(max_seeds=10, alpha=0.05, margin=0.5, smallest_effect=1.0)
ARMS = ("same", "large", "none")
PAIRS = {arm: (arm, "baseline") for arm in ARMS}


WANTED = {(arm, seed): f"{arm}-{seed}" for seed in range(10) for arm in ("baseline", *ARMS)}


class Records:
    """A study's records: differences by arm and seed, and which trials have ended."""

    def __init__(self, differences: dict[str, list[float]], states: dict[str, str] | None = None) -> None:
        self.differences, self.states = differences, states or {}
        self.ended: set[str] = set()

    def at(self, arm: str, seeds: int) -> ArmEvidence | None:
        keys = [f"{name}-{seed}" for seed in range(seeds) for name in (arm, "baseline")]
        if not self.ended.issuperset(keys):
            return None
        diverged = sum(self.states.get(f"{arm}-{seed}") == "diverged" for seed in range(seeds))
        return ArmEvidence(arm, tuple(self.differences[arm][: seeds - diverged]), seeds, diverged, claimed_points=1.0)

    def follow(self) -> dict[str, ArmCourse]:
        return follow(list(self.differences), self.at, RULE)

    def run(self) -> dict[str, ArmCourse]:
        """Trains what is asked until nothing is."""
        while requested := next_seeds(WANTED, self.follow(), PAIRS, self.ended):
            self.ended |= {WANTED[cell] for cell in requested}
        return self.follow()


def records(seed: int, spread: float = 0.8, **more: dict[str, str]) -> Records:
    noise = np.random.default_rng(seed).normal(0.0, spread, (3, 10))
    shifted = noise + np.array([[0.0], [2.5], [0.7]])
    return Records(dict(zip(ARMS, shifted.tolist(), strict=True)), **more)


@given(st.integers(0, 10_000), st.sets(st.sampled_from(list(WANTED.values()))), st.floats(0.05, 2.0))
@settings(deadline=None, max_examples=25)
def test_an_interrupted_study_goes_on_and_ends_as_an_undisturbed_one(
    seed: int, on_record: set[str], spread: float
) -> None:
    undisturbed, repeated = records(seed, spread), records(seed, spread)
    courses = undisturbed.run()
    repeated.ended |= on_record
    early = repeated.follow()
    assert repeated.run() == courses
    # 已关闭的 arm 再多记录也不改口
    assert all(courses[name] == course for name, course in early.items() if course.closed)
    for name, course in courses.items():
        assert course.closed
        trained = {key for key in undisturbed.ended if key.startswith(f"{name}-")}
        assert trained == {f"{name}-{number}" for number in range(course.seeds)}
    longest = max(course.seeds for course in courses.values())
    assert {key for key in undisturbed.ended if key.startswith("baseline")} == {f"baseline-{n}" for n in range(longest)}


def test_the_first_look_needs_four_seeds_of_every_arm_and_the_next_only_the_open_ones() -> None:
    study = records(1)
    first = next_seeds(WANTED, study.follow(), PAIRS, study.ended)
    assert {seed for _, seed in first} == set(range(FIRST_LOOK))
    assert {arm for arm, _ in first} == {"baseline", *ARMS}
    assert all("first look is at 4 seeds" in course.verdict.word for course in study.follow().values())
    courses = {"same": ArmCourse(6, closed="decided"), "large": ArmCourse(5, closed="futile"), "none": ArmCourse(6)}
    study.ended = {f"{arm}-{seed}" for arm in ("baseline", *ARMS) for seed in range(6)} | {"baseline-6"}
    requested = next_seeds(WANTED, courses, PAIRS, study.ended)
    assert requested == [("none", 6)]


def test_a_rejected_arm_hands_on_its_level_and_one_closed_without_a_word_keeps_it() -> None:
    wave = [0.9 * (-1.0) ** number for number in range(10)]
    handed = Records({"large": [5.0 + 0.1 * x for x in wave], "open": [0.7 + x for x in wave]})
    kept = Records({"large": [0.01 * x for x in wave], "open": [0.7 + x for x in wave]})
    levels = {}
    for name, study in (("handed", handed), ("kept", kept)):
        study.ended = {f"{arm}-{seed}" for arm in ("baseline", "large", "open") for seed in range(7)}
        courses = study.follow()
        assert courses["large"].closed == "decided"
        assert courses["open"].closed is None
        levels[name] = courses["open"].verdict.family_level
    assert kept.follow()["large"].verdict.word == "equivalent"
    assert levels == {"handed": 0.05, "kept": 0.025}


def test_an_arm_that_diverges_is_closed_and_leaves_the_family() -> None:
    study = records(3, states={"same-4": "diverged"})
    courses = study.run()
    assert (courses["same"].closed, courses["same"].seeds) == ("untested", 5)
    assert courses["same"].verdict.word == "diverged on 1 of 5"
    alone = records(3)
    del alone.differences["same"]
    assert courses["none"].verdict.level == alone.run()["none"].verdict.level


@given(st.integers(0, 10_000), st.floats(0.05, 2.0))
@settings(deadline=None, max_examples=25)
def test_word_and_interval_never_disagree_at_any_look(seed: int, spread: float) -> None:
    study = records(seed, spread)
    for course in study.run().values():
        low, high = course.verdict.interval or (math.nan, math.nan)
        inside, beyond = -RULE.margin < low <= high < RULE.margin, low > 0 or high < 0
        assert (course.verdict.word == "equivalent") == inside
        assert (course.verdict.word in ("supports", "contradicts")) == (beyond and not inside)
        assert course.verdict.differs(0.05) == beyond


def test_futility_closes_what_cannot_reach_a_word_any_more_and_nothing_else() -> None:
    hopeless = paired_test([3.0, -3.1, 2.8, -2.9, 3.2, -3.0])
    assert chance_of_a_word(hopeless, 0.05, RULE) < 0.05
    promising = paired_test([1.0, 0.4, 1.4, 0.2, 0.9, 0.6])
    assert chance_of_a_word(promising, 0.05, RULE) > 0.5
    nearly_equivalent = paired_test([0.2, -0.2, 0.25, -0.2, 0.2, -0.15])
    assert chance_of_a_word(nearly_equivalent, 0.05, RULE) > 0.5
    one = SequentialRule(10, 0.05, 0.5, 1.0)
    mirrored = paired_test([-1.0, -0.4, -1.4, -0.2, -0.9, -0.6])
    assert chance_of_a_word(mirrored, 0.05, one) == chance_of_a_word(promising, 0.05, one)
