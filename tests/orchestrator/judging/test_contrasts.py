"""Contrasts: effects, interactions and steps are those of an independent calculation, and are judged as one family."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray
from scipy import stats

from orchestrator.judging.answer import NOT_JUDGED, Answer, Compared, ContrastAnswer
from orchestrator.judging.evidence import trained_otherwise
from orchestrator.judging.looks import run_looks, without_closed
from orchestrator.planning.plan import Plan
from orchestrator.planning.plan_file import add_look, check_rule, plan_on_record, write_plan
from orchestrator.records.looks_file import Question, question_of
from orchestrator.tables.tables import done_states, load_trials
from search_spaces.contrast import Contrast
from search_spaces.errors import StudyError
from search_spaces.study import Study
from search_spaces.trial import PlannedTrial
from tests.made_designs import FACTORS, IMAGES, judged_rows, make_judged, make_rows, make_study
from tests.made_plans import make_plan
from tests.made_records import put

SEEDS = 8
Errors = NDArray[np.int64]


def wrong_images(shape: Sequence[int], seed: int = 0) -> Errors:
    """Wrong test images of a thousand, the first axis the seeds, whose skill all cells share."""
    generator = np.random.default_rng(seed)
    skill = generator.normal(0.0, 4.0, (shape[0],) + (1,) * (len(shape) - 1))
    return (80.0 + skill + generator.normal(0.0, 3.0, shape)).round().astype(int)


def by_arm(study: Study, errors: Errors) -> dict[str, list[int]]:
    """The errors of a factorial's cells (seed, level of each factor) by arm."""
    assert study.factors is not None
    names = [list(levels) for levels in study.factors.values()]
    return {
        arm.name: errors[
            (slice(None), *(n.index(level) for n, level in zip(names, arm.levels.values(), strict=True)))
        ].tolist()
        for arm in study.arms
        if arm.levels
    }


def contrasts(answer: Answer) -> dict[str, ContrastAnswer]:
    return {contrast.name: contrast for contrast in answer.contrasts}


def holm(p: Sequence[float]) -> list[float]:
    """Holm's adjusted p, no multiplier below half of the family's size (as `docs/statistics.md` says)."""
    order, running, adjusted = np.argsort(p), 0.0, np.zeros(len(p))
    for rank, place in enumerate(order):
        running = min(1.0, max(running, max(len(p) - rank, len(p) / 2) * p[place]))
        adjusted[place] = running
    return adjusted.tolist()


def test_a_factorials_effects_are_those_of_the_arithmetic_of_cells() -> None:
    study, errors = make_study("factorial"), wrong_images((SEEDS, 2, 2, 2))
    errors[:, 1] += 20
    errors[:, 1, 1] -= 12
    result = make_judged(study, by_arm(study, errors))
    points = 100.0 * errors / IMAGES
    named = {"norm": 1, "dropout": 2, "momentum": 3}
    expected = {}
    for name, axis in named.items():
        low, high = np.take(points, 0, axis), np.take(points, 1, axis)
        expected[name] = high.mean((1, 2)) - low.mean((1, 2))
    for (one, axis), (other, second) in itertools.combinations(named.items(), 2):
        # 差之差：一个因子的效应在另一个因子两个水平下相差多少
        effect = np.take(points, 1, axis) - np.take(points, 0, axis)
        place = second - 1
        changed = np.take(effect, 1, place) - np.take(effect, 0, place)
        expected[f"{one}:{other}"] = changed.mean(1)
    judged = contrasts(result)
    assert [*judged] == [*expected]
    p = [float(stats.ttest_1samp(values, 0.0).pvalue) for values in expected.values()]
    for (name, values), one, adjusted in zip(expected.items(), p, holm(p), strict=True):
        contrast = judged[name]
        assert list(contrast.differences.values()) == pytest.approx(values.tolist(), abs=1e-9)
        assert contrast.difference == pytest.approx(values.mean())
        assert contrast.difference_sd == pytest.approx(values.std(ddof=1))
        assert contrast.p == pytest.approx(one)
        # 首次看只花五分之四的水平
        assert contrast.adjusted_p == pytest.approx(min(1.0, adjusted / 0.8))
        assert contrast.interval is not None
        assert contrast.interval_level is not None
        half = stats.sem(values) * stats.t.ppf(0.5 + contrast.interval_level / 200.0, SEEDS - 1)
        assert contrast.interval == pytest.approx((values.mean() - half, values.mean() + half))
    assert [judged[name].word for name in ("norm", "norm:dropout")] == ["higher", "lower"]
    assert {arm.word for arm in result.arms} == {"baseline", NOT_JUDGED}
    assert result.judged == result.contrasts
    assert any("Holm over 6 contrasts" in note for note in result.notes)


def test_a_factor_of_three_levels_has_an_effect_for_each_but_the_first() -> None:
    factors = FACTORS.replace("[0.9, 0.5]", "[0.9, 0.5, 0.0]").replace("  dropout:", "  drop:")
    study, errors = make_study("factorial", factors=factors), wrong_images((SEEDS, 2, 2, 3), 1)
    judged = contrasts(make_judged(study, by_arm(study, errors)))
    points = 100.0 * errors / IMAGES
    assert [*judged][:4] == ["norm", "drop", "momentum-0_5", "momentum-0"]
    assert len(judged) == 4 + 1 + 2 + 2
    changed = (points[:, 1, :, 2] - points[:, 0, :, 2]) - (points[:, 1, :, 0] - points[:, 0, :, 0])
    assert judged["norm:momentum-0"].difference == pytest.approx(changed.mean())
    assert judged["momentum-0_5"].difference == pytest.approx((points[..., 1] - points[..., 0]).mean())


def test_a_ladder_is_judged_step_by_step_and_as_a_family_of_its_own_against_the_top() -> None:
    study, errors = make_study("cumulative"), wrong_images((SEEDS, 4), 2)
    errors[:, 1:] += 15
    wrong = {arm.name: errors[:, place].tolist() for place, arm in enumerate(study.arms)}
    result = make_judged(study, wrong)
    points = 100.0 * errors / IMAGES
    steps, top = np.diff(points, axis=1), points[:, 1:] - points[:, :1]
    for judged, values in ((result.contrasts, steps), (result.arms[1:], top)):
        p = stats.ttest_1samp(values, 0.0, axis=0).pvalue.tolist()
        assert [one.difference for one in judged] == pytest.approx(values.mean(0).tolist())
        assert [one.adjusted_p for one in judged] == pytest.approx([min(1.0, q / 0.8) for q in holm(p)])
    assert {contrast.family for contrast in result.contrasts} == {"steps"}
    assert result.contrasts[0].word == "higher"
    assert any("Holm over 3 steps and apart from them over 3 arms" in note for note in result.notes)
    # 只看逐级：各 arm 不再另与顶端比
    alone = make_judged(make_study("cumulative", "compare: previous"), wrong)
    assert alone.contrasts == result.contrasts
    assert {arm.word for arm in alone.arms[1:]} == {NOT_JUDGED}
    # 反过来，只与基线比
    against = make_judged(make_study("cumulative", "compare: baseline"), wrong)
    assert against.contrasts == ()
    assert [arm.word for arm in against.arms] == [arm.word for arm in result.arms]


@pytest.mark.parametrize(
    ("compare", "pairs"),
    [
        ("previous", [("b", "a"), ("c", "b")]),
        ("all_pairs", [("b", "a"), ("c", "a"), ("c", "b")]),
        ("[[a, c], [b, c]]", [("a", "c"), ("b", "c")]),
    ],
)
def test_pairs_are_the_first_minus_the_second(compare: str, pairs: list[tuple[str, str]]) -> None:
    errors = dict(zip("abc", wrong_images((3, SEEDS), 3).tolist(), strict=True))
    result = make_judged(make_study("", f"compare: {compare}"), errors)
    assert [contrast.name for contrast in result.contrasts] == [f"{one}-vs-{other}" for one, other in pairs]
    for contrast, (one, other) in zip(result.contrasts, pairs, strict=True):
        test = stats.ttest_rel(errors[one], errors[other])
        assert contrast.difference == pytest.approx(np.subtract(errors[one], errors[other]).mean() / 10.0)
        assert contrast.p == pytest.approx(test.pvalue)


def test_comparing_with_the_baseline_is_the_case_that_has_always_been() -> None:
    errors = dict(zip("abc", wrong_images((3, SEEDS), 4).tolist(), strict=True))
    plain, said = (make_judged(make_study("", more), errors) for more in ("", "compare: baseline"))
    assert plain == said
    assert "contrasts" not in plain.model_dump(mode="json")
    pairs = make_judged(make_study("", "compare: [[b, a], [c, a]]"), errors)
    for arm, contrast in zip(plain.arms[1:], pairs.contrasts, strict=True):
        shared = Compared.model_fields.keys() - {"name", "title"}
        assert {name: getattr(arm, name) for name in shared} == {name: getattr(contrast, name) for name in shared}


def test_a_lost_seed_takes_every_contrast_of_its_arm_out_of_the_family() -> None:
    study = make_study("factorial")
    cells = by_arm(study, wrong_images((SEEDS, 2, 2, 2)))
    wrong: dict[str, list[int | str]] = {name: [*row] for name, row in cells.items()}
    wrong["norm-without"][3] = "diverged"
    result = make_judged(study, wrong)
    assert {contrast.word for contrast in result.contrasts} == {"diverged on 1 of 8"}
    assert not any(contrast.in_family for contrast in result.contrasts)
    ladder = make_study("", "compare: previous")
    lost: dict[str, list[int | str]] = dict(zip("abc", wrong_images((3, SEEDS)).tolist(), strict=True))
    lost["b"][0] = "failed"
    words = [contrast.word for contrast in make_judged(ladder, lost).contrasts]
    assert words == ["failed on 1 of 8", "b failed on 1 of 8"]


def test_a_skipped_arm_makes_no_level_of_the_others_easier() -> None:
    study = make_study("")
    study = study.model_copy(update={"arms": (*study.arms, study.arms[-1].model_copy(update={"name": "d"}))})
    errors = wrong_images((SEEDS, 4), 5)
    errors[:, 1] += 20
    errors[:, 2] += 3
    wrong = dict(zip("abcd", errors.T.tolist(), strict=True))
    d = wrong.pop("d")
    result = make_judged(study, wrong, skipped=("d",))
    p = [float(stats.ttest_rel(wrong[arm], wrong["a"]).pvalue) for arm in "bc"]
    assert p[0] < 0.8 * 0.05 / 3 < p[1]
    # 三个的 Holm：最小的乘三，次小的乘二；首次看花五分之四
    b, c, skipped = result.arms[1:]
    assert (b.adjusted_p, c.adjusted_p) == pytest.approx((3 * p[0] / 0.8, 2 * p[1] / 0.8))
    assert (b.interval_level, c.interval_level) == pytest.approx((100 - 4 / 3, 98.0))
    assert skipped.word == "no verdict: skipped"
    # 被跳过的若练完而 p 最大，别的 arm 的词与数都一样
    trained = make_judged(study, {**wrong, "d": d})
    assert (trained.arms[3].p or 0.0) > p[1]
    assert trained.arms[1:3] == (b, c)
    assert any("Holm over 3 arms" in note for note in result.notes)
    # 一对 arm 里缺了一个，也是跳过，不是家族之外
    pairs = make_judged(make_study("", "compare: all_pairs"), {"a": wrong["a"], "b": wrong["b"]}, skipped=("c",))
    assert [one.word for one in pairs.contrasts][1:] == ["no verdict: skipped"] * 2
    assert any("Holm over 3 contrasts" in note for note in pairs.notes)
    assert not any("Outside the family" in note for note in pairs.notes)


def test_a_trial_trained_another_way_takes_its_seed_from_the_contrasts_it_is_in() -> None:
    study = make_study("factorial")
    rows = make_rows(by_arm(study, wrong_images((SEEDS, 2, 2, 2))))
    other = pl.col("key") == f"{study.baseline}-0"
    result = judged_rows(
        study, rows.with_columns(pl.when(other).then(pl.lit("2")).otherwise(pl.lit("1")).alias("env_workers"))
    )
    assert {contrast.n for contrast in result.contrasts} == {SEEDS - 1}
    (said,) = (note for note in result.notes if "which moves errors as another seed does" in note)
    assert said.startswith("6 comparisons could not be made on a seed, since not all")
    assert f": seed 0 ({', '.join(contrasts(result))}). Not trained" in said
    assert said.endswith(f"Not trained as most of their seed: seed 0 ({study.baseline}).")
    assert trained_otherwise({"a": {"env_workers": "1"}, "b": {"env_workers": "2"}, "c": {}}) == ["a", "b"]
    # 没有说怎么练的，与谁都配得上
    rows = rows.with_columns(pl.when(other).then(None).otherwise(pl.lit("1")).alias("env_workers"))
    assert judged_rows(study, rows).unlike == ()


def test_what_cannot_be_compared_is_refused_in_a_line() -> None:
    for compare, complaint in {
        "next": "parts.yaml:6:10: compare: must be baseline, previous, all_pairs",
        "[[a]]": "compare.0: must be two arms",
        "[[a, d], [b, c]]": "compare.0: 'd' is none of the arms: a, b, c",
        "[[a, a], [b, c]]": "compare.0: arm a cannot be compared with itself",
        "[[a, b]]": "compare: arm c is in no comparison",
        "[[a, b], [a, b], [c, b]]": "compare: a-vs-b is compared twice",
    }.items():
        with pytest.raises(StudyError) as caught:
            make_study("", f"compare: {compare}")
        assert complaint in str(caught.value)
        assert len(str(caught.value).splitlines()) == 1
    with pytest.raises(StudyError, match="means, which times that some runs never reach do not have"):
        make_study("factorial", "primary_metric: epochs_to_training_error\nstatistic: time_to_threshold")


def test_a_look_belongs_to_the_contrasts_it_made() -> None:
    rows = [(arm, 0, (arm * 20, 1)) for arm in "abc"]
    pair, other = (Contrast(name, name, {name[0]: 1.0, name[1]: -1.0}, "pair") for name in ("ba", "cb"))

    def asked(*compared: Contrast) -> Question:
        return question_of("a", rows, compared)

    assert question_of("a", rows) == asked(*(replace(one, name=one.name[0], kind="arm") for one in (pair, other)))
    assert asked(pair).shares(asked(pair, other))
    assert not asked(pair).shares(asked(other))
    # 写成 arm 与基线比，还是一对 arm，都是同一个比较
    assert asked(pair).shares(question_of("a", rows))
    assert not asked(other).shares(question_of("a", rows))
    # 反过来的一对是同一个检验：花掉的水平不还
    reversed_pairs = [
        replace(one, weights={arm: -weight for arm, weight in one.weights.items()}) for one in (pair, other)
    ]
    assert all(asked(one).shares(asked(back)) for one, back in zip((pair, other), reversed_pairs, strict=True))
    assert asked(reversed_pairs[0]).shares(question_of("a", rows))
    assert not asked(reversed_pairs[0]).shares(asked(other))
    assert "contrasts" not in question_of("a", rows).model_dump()
    again = Question.model_validate_json(asked(pair, other).model_dump_json())
    assert again == asked(pair, other)


class Lab:
    """Trains by putting made records."""

    def __init__(self, results: Path, wrong: dict[str, list[int]]) -> None:
        self.results, self.wrong = results, wrong
        self.trained: list[tuple[str, int]] = []

    def train(self, trials: Sequence[PlannedTrial]) -> None:
        for trial in trials:
            self.trained.append((trial.arm, trial.seed))
            put(self.results, trial.config, 20, test_wrong=self.wrong[trial.arm][trial.seed])

    def run(self, plan: Plan) -> None:
        run_looks(plan, self.results, lambda: done_states(self.results, [t.key for t in plan.trials]), self.train)


def test_seeds_auto_closes_contrasts_and_trains_the_arms_of_the_open_ones_alone(tmp_path: Path) -> None:
    study = make_study("", "compare: [[b, a], [c, b]]")
    plan = make_plan(study, SEEDS, epochs=2, max_seeds=SEEDS)
    a = np.array([8, 9, 7, 10, 8, 9, 8, 7])
    # b 与 a 相差极大，c 与 b 难分：先关掉的只有前一个
    b = a + np.array([60, 62, 61, 60, 61, 62, 60, 61])
    c = b + np.array([9, -2, 6, 3, 12, 3, 8, 4])
    wrong = {"a": a.tolist(), "b": b.tolist(), "c": c.tolist()}
    lab = Lab(tmp_path, wrong)
    lab.run(plan)
    seeds = {arm: 1 + max(seed for name, seed in lab.trained if name == arm) for arm in "abc"}
    assert seeds["a"] == 4
    assert seeds["b"] == seeds["c"] > 4
    left = without_closed(plan, done_states(tmp_path, [t.key for t in plan.trials]), tmp_path)
    assert {(trial.arm, trial.seed) for trial in left.trials} == set(lab.trained)
    assert load_trials(tmp_path).trials.height == len(lab.trained)


def test_a_plan_of_contrasts_is_read_back_and_its_looks_are_kept(tmp_path: Path) -> None:
    folder = tmp_path / "studies" / "parts"
    plan = make_plan(make_study("factorial"), 4, epochs=2)
    written = write_plan(folder, plan, ["ablate"])
    assert len(written.question.contrasts) == 6
    assert written.question.arms == ()
    add_look(folder, written, 4)
    again, plan_file = plan_on_record(folder)
    assert again.study == plan.study
    assert again.trials == plan.trials
    assert plan_file.looks == (4,)
    check_rule(folder, plan)
    # 换一种比较问同样的 arm，是另一个问题
    other = make_plan(make_study("factorial", "compare: baseline"), 4, epochs=2)
    assert write_plan(folder, other, ["ablate"]).looks == ()
