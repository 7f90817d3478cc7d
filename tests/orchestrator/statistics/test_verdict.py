"""The words, in their order."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.statistics.verdict import ArmEvidence, Verdict, judge, sentence

NOISE = (0.1, -0.2, 0.05, 0.15, -0.1, 0.0, 0.1, -0.15)


def arm(shift: float, **facts: object) -> ArmEvidence:
    return ArmEvidence("x", tuple(shift + noise for noise in NOISE), 8, **facts)  # type: ignore[arg-type]


def verdict(evidence: ArmEvidence, margin: float = 0.5) -> Verdict:
    return judge([evidence], margin, 0.05)["x"]


def test_the_words_come_in_their_order() -> None:
    assert verdict(arm(5.0, same_trials=True, diverged=1)).word == "same trials"
    assert verdict(arm(5.0, diverged=2, failed=1)).word == "diverged on 2 of 8"
    assert verdict(arm(5.0, failed=1)).word == "failed on 1 of 8"
    assert verdict(arm(0.0, claimed_points=1.0)).word == "equivalent"
    assert verdict(arm(2.0, claimed_points=1.4)).word == "supports"
    assert verdict(arm(-2.0, claimed_points=1.4)).word == "contradicts"
    assert verdict(arm(2.0)).word == "higher"
    assert verdict(arm(-2.0)).word == "lower"
    assert verdict(arm(0.5, claimed_points=1.4)).word in ("supports", "inconclusive")
    assert verdict(ArmEvidence("x", (3.0, -2.0, 1.0, 0.5), 4)).word == "inconclusive"


def test_equivalent_comes_before_significance_and_says_so() -> None:
    result = verdict(arm(0.25, claimed_points=1.4))
    assert result.word == "equivalent"
    assert result.differs_from_zero
    assert "different from zero all the same" in sentence(result.word, result.differs_from_zero)


def test_without_enough_or_without_spread_there_is_no_test() -> None:
    assert verdict(ArmEvidence("x", (1.0, 2.0), 2)).word == "no verdict: fewer than 3 seeds"
    assert verdict(ArmEvidence("x", (0.0,) * 8, 8)).word == "identical in 8 seeds"
    constant = verdict(ArmEvidence("x", (1.0,) * 8, 8))
    assert constant.word == "the same difference in 8 seeds"
    assert constant.adjusted_p is None


def test_arms_that_cannot_be_tested_leave_the_family() -> None:
    alone = judge([arm(1.0)], 0.1, 0.05)["x"]
    family = [arm(1.0), ArmEvidence("y", NOISE, 8, same_trials=True), ArmEvidence("z", NOISE, 8, diverged=1)]
    verdicts = judge(family, 0.1, 0.05)
    assert verdicts["x"] == alone
    assert [verdict.in_family for verdict in verdicts.values()] == [True, False, False]


def test_an_arm_with_equal_differences_keeps_its_place_in_the_family() -> None:
    verdicts = judge([arm(1.0), ArmEvidence("y", (0.0,) * 8, 8)], 0.1, 0.05)
    assert verdicts["x"].level == 0.025
    assert verdicts["y"].in_family
    assert verdicts["y"].adjusted_p is None


def test_a_baseline_that_diverged_leaves_a_biased_choice_of_pairs_and_no_word() -> None:
    verdicts = judge([arm(5.0, baseline_diverged=1), ArmEvidence("y", NOISE, 8, baseline_failed=2)], 0.5, 0.05)
    assert verdicts["x"].word == "baseline diverged on 1 of 8"
    assert verdicts["y"].word == "baseline failed on 2 of 8"
    assert all(verdict.interval is None for verdict in verdicts.values())


@given(
    st.lists(st.lists(st.integers(-9, 9).map(float), min_size=8, max_size=8), min_size=1, max_size=5),
    st.floats(0.05, 5.0),
)
def test_word_and_interval_never_disagree(differences: list[list[float]], margin: float) -> None:
    arms = [ArmEvidence(str(place), tuple(values), 8, claimed_points=1.0) for place, values in enumerate(differences)]
    swapped = [ArmEvidence(one.name, tuple(-value for value in one.differences), 8, claimed_points=1.0) for one in arms]
    mirror = judge(swapped, margin, 0.05)
    for name, result in judge(arms, margin, 0.05).items():
        if result.interval is None or result.adjusted_p is None:
            continue
        low, high = result.interval
        if abs(result.adjusted_p - 0.05) > 1e-9:
            assert (low > 0 or high < 0) == (result.adjusted_p <= 0.05)
        if result.word == "equivalent":
            assert -margin < low <= high < margin
        # 交换基线与 arm，词也随之交换
        assert mirror[name].word == {"supports": "contradicts", "contradicts": "supports"}.get(result.word, result.word)


def test_every_sentence_about_a_tested_arm_speaks_of_this_test_set() -> None:
    for word in ("supports", "contradicts", "higher", "lower", "equivalent", "inconclusive"):
        assert "on this test set" in sentence(word)
        assert "on this validation set" in sentence(word, split="validation")
    assert sentence("equivalent") != sentence("inconclusive")
