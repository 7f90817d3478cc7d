"""How often the verdicts err: a smaller version of `tests/benchmarks/statistics.py`, and a proof of its rules."""

from __future__ import annotations

import math

import numpy as np
import pytest

from orchestrator.statistics.alpha_spending import ShareOfLevel
from orchestrator.statistics.paired import detectable_effect, power
from orchestrator.statistics.sequential import ArmCourse, SequentialRule, follow
from orchestrator.statistics.verdict import ArmEvidence, judge
from tests.benchmarks import statistics as simulated

STUDIES = 2_000
SEEDS = 8
DESIGNS = ("fixed", "extended", "sequential")


def evidence(errors: np.ndarray, arm: int, seeds: int) -> ArmEvidence:
    differences = (errors[arm, :seeds] - errors[0, :seeds]).tolist()
    return ArmEvidence(str(arm), tuple(differences), seeds, claimed_points=1.0)


def followed(errors: np.ndarray, rule: SequentialRule) -> list[ArmCourse]:
    """The product's courses of one study: errors (arms + 1, seeds), the baseline first."""
    arms = [str(arm) for arm in range(1, len(errors))]
    return list(follow(arms, lambda name, seeds: evidence(errors, int(name), seeds), rule).values())


def words_of(courses: simulated.Courses, study: int) -> list[str]:
    named = {"supports": courses.supports, "contradicts": courses.contradicts, "equivalent": courses.equivalent}
    return [
        next((word for word, result in named.items() if result[study, arm]), "inconclusive")
        for arm in range(courses.open.shape[1])
    ]


SAMPLES = [("normal", (0.0, 0.0, 1.5), 0.6), ("binomial", (0.0, 0.9, 2.4), 1.2), ("t3", (-2.0, 0.0, 0.3), 1.5)]


@pytest.mark.parametrize(("kind", "effects", "margin"), SAMPLES)
def test_the_simulated_fixed_rule_gives_the_products_words(
    kind: str, effects: tuple[float, ...], margin: float
) -> None:
    errors = simulated.draw(kind, np.random.default_rng(11), (200, 4, SEEDS), np.array(effects))
    for share in (1.0, 0.8, 0.1):
        result = simulated.fixed(errors, margin, share)
        for study, row in enumerate(errors):
            arms = [evidence(row, arm, SEEDS) for arm in (1, 2, 3)]
            verdicts = judge(arms, margin, 0.05, ShareOfLevel(share)).values()
            words = ["inconclusive" if "in 8 seeds" in verdict.word else verdict.word for verdict in verdicts]
            assert words == words_of(result, study)


@pytest.mark.parametrize("stops_futile", [True, False])
@pytest.mark.parametrize(("kind", "effects", "margin"), SAMPLES)
def test_the_simulated_sequential_rule_gives_the_products_courses(
    kind: str, effects: tuple[float, ...], margin: float, stops_futile: bool
) -> None:
    errors = simulated.draw(kind, np.random.default_rng(12), (60, 4, 14), np.array(effects))
    rule = SequentialRule(14, 0.05, margin, 2 * margin, stops_futile)
    result = simulated.sequential(errors, rule)
    closings = set()
    for study, row in enumerate(errors):
        courses = followed(row, rule)
        closings |= {course.closed for course in courses}
        words = [course.verdict.word if course.closed == "decided" else "inconclusive" for course in courses]
        assert words == words_of(result, study)
        assert [course.seeds for course in courses] == result.seeds[study].tolist()
    assert closings == {"decided", "maximum", *(["futile"] if stops_futile else [])}


@pytest.mark.parametrize("kind", simulated.KINDS)
@pytest.mark.parametrize("arms", [1, 5])
@pytest.mark.parametrize("design", DESIGNS)
def test_false_words_without_an_effect_stay_within_five_percent(kind: str, arms: int, design: str) -> None:
    rate = simulated.false_words(kind, [0.0] * arms, design, 0.01, STUDIES).mean()
    assert rate <= simulated.tolerated(STUDIES)


@pytest.mark.parametrize("ratio", [1.25, 2.5, 10.0])
@pytest.mark.parametrize("arms", [1, 5])
@pytest.mark.parametrize("design", DESIGNS)
def test_equivalence_at_exactly_the_margin_stays_within_five_percent(ratio: float, arms: int, design: str) -> None:
    case = simulated.edges("normal", arms, ratio, both=True)
    assert case is not None
    assert simulated.false_words("normal", case[0], design, case[1], STUDIES).mean() <= simulated.tolerated(STUDIES)


@pytest.mark.parametrize("case", simulated.contrast_cases(), ids=lambda case: case.name)
@pytest.mark.parametrize("design", DESIGNS)
def test_false_words_among_contrasts_stay_within_five_percent(case: simulated.ContrastCase, design: str) -> None:
    # 数错的张数、厚尾、方差不等：只在什么都没有时都试
    for kind in simulated.KINDS if not any(case.effects) else ("normal",):
        rate = simulated.false_words(kind, case.effects, design, case.margin, STUDIES, case.weights).mean()
        assert rate <= simulated.tolerated(STUDIES), kind


def test_a_factorials_effects_are_found_as_often_as_those_of_arms() -> None:
    whole = next(case for case in simulated.contrast_cases() if case.name == "factorial, two main effects")
    errors = simulated.draw("normal", np.random.default_rng(8), (STUDIES, 8, SEEDS), np.array(whole.effects))
    found = simulated.fixed(errors, whole.margin, weights=whole.weights).rejected.mean(0)
    # 主效应的标准差是 sqrt(4 / 8)：先拒绝了最大的，第二个在 0.8 x 0.05 / 5 上检验
    assert found[0] > 0.99
    assert found[1] == pytest.approx(power(1.0, math.sqrt(0.5), SEEDS, 0.8 * 0.05 / 5), abs=0.035)
    assert (found[2:] < 0.05).all()


def test_the_tolerance_is_narrow_enough_to_find_the_uncorrected_rules() -> None:
    errors = simulated.draw("normal", np.random.default_rng(6), (STUDIES, 2, 20), np.zeros(1))
    wrong = np.zeros(STUDIES, dtype=bool)
    for seeds in simulated.EXTENDED_LOOKS:
        wrong |= simulated.fixed(errors[:, :, :seeds], 0.01, 1.0).rejected.any(1)
    assert wrong.mean() > 1.5 * simulated.tolerated(STUDIES)


def test_power_is_that_planned_and_grows_with_the_effect() -> None:
    effect = detectable_effect(math.sqrt(2.0), SEEDS, 0.05)
    powers = []
    for times in (0.0, 0.5, 1.0, 1.5, 2.0):
        errors = simulated.draw("normal", np.random.default_rng(7), (20_000, 2, SEEDS), np.array([times * effect]))
        powers.append(float(simulated.fixed(errors, 0.01, 1.0).supports.mean()))
    assert powers == sorted(powers)
    assert powers[2] == pytest.approx(0.8, abs=0.015)


@pytest.mark.parametrize(
    ("effect", "target", "maximum", "most", "most_of_a_larger"),
    [(0.8, 0.95, 28, 0.70, 0.55), (1.0, 0.90, 16, 0.80, 0.55)],
)
def test_looking_saves_seeds_at_equal_power(
    effect: float, target: float, maximum: int, most: float, most_of_a_larger: float
) -> None:
    fixed_seeds = simulated.fixed_seeds(effect, target)
    rule = SequentialRule(maximum, 0.05, 0.0, effect, stops_futile=False)
    planned, larger = (simulated.one_arm(times * effect, rule, STUDIES) for times in (1.0, 1.5))
    assert planned.supports.mean() >= target - 0.01
    assert planned.seeds.mean() <= most * fixed_seeds
    assert larger.seeds.mean() <= most_of_a_larger * fixed_seeds


def test_swapping_baseline_and_arm_swaps_the_words_of_whole_studies() -> None:
    errors = simulated.draw("normal", np.random.default_rng(3), (STUDIES, 2, 20), np.array([0.6]))
    for design in DESIGNS:
        pairs = zip(simulated.judged(design, errors, 0.5), simulated.judged(design, errors[:, ::-1], 0.5), strict=True)
        for result, swapped in pairs:
            assert (result.supports == swapped.contradicts).all()
            assert (result.equivalent == swapped.equivalent).all()
            assert result.supports.any()
