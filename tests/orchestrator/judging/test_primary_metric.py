"""Primary metrics other than the error at the end: training error, and the gap between validation and training."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ttest_1samp

from orchestrator.judging.answer import Answer
from orchestrator.judging.judge import answer
from orchestrator.judging.outlook import verdict_outlook
from orchestrator.statistics.alpha_spending import ShareOfLevel, seeds_for_a_word, share_of_level
from orchestrator.statistics.signs import Between
from orchestrator.statistics.verdict import ArmEvidence, judge
from orchestrator.tables.rows import EPOCH_COLUMNS, MEMBER_COLUMNS, TRIAL_COLUMNS
from orchestrator.tables.tables import load_trials
from search_spaces.arm import Arm
from search_spaces.study import Study, load_study
from tests.made_plans import make_plan, make_plan_file
from tests.made_records import errors as made_errors
from tests.made_records import put
from tests.made_reports import markdown, write


def judged(study: str | Study, errors: dict[str, list[tuple[int, int | None]]]) -> Answer:
    """Judges a study whose trials made so many errors on 500 validation and on 2,000 training images."""
    study = load_study(study).on("cifar10") if isinstance(study, str) else study
    rows = []
    for arm, seeds in errors.items():
        for seed, (validation, training) in enumerate(seeds):
            cells: dict[str, Any] = {"key": f"{arm}-{seed}", "seed": seed, "state": "finished", "seconds": 1.0}
            for split, wrong, count in (
                ("validation", validation, 500),
                ("test", 50, 500),
                ("train_final", training, 2000),
            ):
                if wrong is not None:
                    cells |= {f"{split}_top1_errors": wrong, f"{split}_top1_error": wrong / count}
                    cells |= {f"{split}_top5_errors": 1, f"{split}_count": count}
            rows.append(cells)
    seeds = len(errors["baseline"])
    plan = {
        "dataset": "cifar10",
        "alpha": 0.05,
        "planned_seeds": seeds,
        "looks": [],
        "trials": [
            {"arm": arm.name, "seed": seed, "phase": "arm", "key": f"{arm.name}-{seed}"}
            for seed in range(seeds)
            for arm in study.arms
        ],
    }
    trials = pl.DataFrame(rows, schema=TRIAL_COLUMNS)
    return answer(
        study,
        study.recipes["cifar10"],
        make_plan_file(plan),
        trials,
        pl.DataFrame(schema=MEMBER_COLUMNS),
        pl.DataFrame(schema=EPOCH_COLUMNS),
    )


def test_the_gap_is_validation_minus_training_error_and_its_claim_has_only_a_direction() -> None:
    result = judged(
        "dropout",
        {
            "baseline": [(100 + seed, 300 + 4 * seed) for seed in range(8)],
            "no_dropout": [(125 + 2 * seed, 100 + 3 * seed) for seed in range(8)],
        },
    )
    baseline, without = result.arms
    assert result.metric == "gap between validation and training error"
    assert baseline.mean == pytest.approx(sum((100 + s) / 5 - (300 + 4 * s) / 20 for s in range(8)) / 8)
    assert list(without.differences.values()) == pytest.approx([(25 + s) / 5 - (-200 - s) / 20 for s in range(8)])
    assert without.word == "supports"
    assert without.claimed_points is None
    assert result.split_error is None
    text = markdown(result)
    assert "gap between validation and training error %" in text
    assert "top-5 difference on validation (95 %)" in text
    assert "centre crop, no dropout, no noise" in text
    assert "standard error" not in text


def test_the_training_error_is_that_of_training_images_seen_as_in_evaluation() -> None:
    lower = judged(
        "weight_decay",
        {
            "baseline": [(100, 300 + 4 * seed) for seed in range(8)],
            "no_decay": [(100, 200 + 5 * seed) for seed in range(8)],
        },
    )
    assert lower.arms[0].mean == pytest.approx(100 * 314 / 2000)
    assert lower.arms[1].word == "contradicts"
    assert lower.images == 2000
    assert "on this training set" in lower.arms[1].sentence


def test_trials_from_before_the_metric_was_measured_do_not_enter() -> None:
    result = judged(
        "weight_decay",
        {"baseline": [(100, None)] * 8, "no_decay": [(100, 200 + 5 * seed) for seed in range(8)]},
    )
    assert result.arms[0].n == 0
    assert result.arms[1].word == "no verdict: fewer than 3 seeds"
    assert "8 finished trials ran before the top-1 training error was measured" in markdown(result)


@pytest.mark.parametrize(("name", "sign"), [("weight_decay", 1), ("dropout", -1)])
def test_rates_are_subtracted_where_an_arm_has_other_training_images(tmp_path: Path, name: str, sign: int) -> None:
    study = load_study(name)
    few = Arm(name="few", title="500 training images", set={"data.train_images": 500})
    study = study.model_copy(update={"arms": (study.arms[0], few), "sweep": None})
    rows = []
    for trial in make_plan(study, 3).trials:
        wrong, images = (54, 1080) if trial.arm == "baseline" else (35 + trial.seed, 500)
        put(tmp_path, trial.config, 20, train_final=made_errors(wrong, images))
        rows.append({"arm": trial.arm, "seed": trial.seed, "key": trial.key, "phase": "arm"})
    plan = {"dataset": "digits", "alpha": 0.05, "planned_seeds": 3, "looks": [], "trials": rows}
    tables = load_trials(tmp_path)
    none = tables.members.clear(), pl.DataFrame(schema=EPOCH_COLUMNS)
    base, result = answer(study, study.recipes["digits"], make_plan_file(plan), tables.trials, *none).arms
    assert list(result.differences.values()) == pytest.approx([sign * points for points in (2.0, 2.2, 2.4)])
    assert result.difference == pytest.approx((result.mean or 0) - (base.mean or 0))
    if name == "weight_decay":
        assert result.top5_difference == pytest.approx(100 * ((11 + 12 + 12) / 1500 - 18 / 1080))


def timed(times: dict[str, list[int | None]], budget: int = 30) -> Answer:
    """Judges `activation` whose trials came to 25 % training error in that epoch; None is never."""
    study = load_study("activation").on("cifar10")
    rows, curves = [], []
    for arm, seeds in times.items():
        for seed, there in enumerate(seeds):
            cells: dict[str, Any] = {"key": f"{arm}-{seed}", "seed": seed, "state": "finished", "epochs": budget}
            rows.append({**cells, "train_count": 2000, "train_top1_errors": 1, "seconds": 1.0})
            for epoch in range(1, budget + 1):
                error = 0.25 if there is not None and epoch == there else (0.2505 if epoch < (there or 99) else 0.3)
                curves.append({"key": f"{arm}-{seed}", "epoch": epoch, "train_top1_error": error})
    count = len(times["baseline"])
    plan = {
        "dataset": "cifar10",
        "alpha": 0.05,
        "planned_seeds": count,
        "looks": [],
        "trials": [
            {"arm": arm, "seed": seed, "phase": "arm", "key": f"{arm}-{seed}"} for seed in range(count) for arm in times
        ],
    }
    trials, epochs = pl.DataFrame(rows, schema=TRIAL_COLUMNS), pl.DataFrame(curves, schema=EPOCH_COLUMNS)
    return answer(
        study, study.recipes["cifar10"], make_plan_file(plan), trials, pl.DataFrame(schema=MEMBER_COLUMNS), epochs
    )


def test_the_time_is_the_first_epoch_at_the_threshold_and_never_is_longer_than_the_budget() -> None:
    result = timed({"baseline": [5, 6, 4, 5, 6, 5, 4, 5], "tanh": [10, 18, 12, 10, None, 20, 8, None]})
    relu, tanh = result.arms
    assert list(relu.errors.values()) == [5, 6, 4, 5, 6, 5, 4, 5]
    assert (relu.median, relu.never, relu.n) == (5, (), 8)
    # 八个比值：2, 3, 3, 2, > 31/6, 4, 2, > 31/5；中位数在 3 与 3 之间
    assert math.exp(tanh.difference or 0) == pytest.approx(3.0)
    assert (tanh.difference_is, tanh.never, tanh.n) == ("known", ("4", "7"), 8)
    assert tanh.word == "supports"
    assert tanh.p == pytest.approx(2 / 2**8)
    assert tanh.interval_open == (False, True)
    assert math.exp(tanh.interval[0]) == pytest.approx(2.0)  # type: ignore[index]
    text = markdown(result)
    assert "| ×3.00 | ×2.00, ∞ | 96 % |" in text
    assert "| seed 4 | 6 | &gt; 30 |" in text
    assert "×6" in text
    assert "tanh 6 of 8 there" in text
    assert "seen as in evaluation" not in text


def test_a_median_that_is_only_bounded_says_at_least() -> None:
    result = timed({"baseline": [5] * 8, "tanh": [10] * 3 + [None] * 5})
    assert result.arms[1].difference_is == "at least"
    assert "at least ×6.20" in markdown(result)
    assert result.arms[1].median is None
    assert result.arms[1].word == "supports"
    assert "most never, 3 of 8" in markdown(result)


def test_half_of_the_runs_there_is_not_called_never() -> None:
    result = timed({"baseline": [5] * 8, "tanh": [10] * 4 + [None] * 4})
    assert result.arms[1].median is None
    assert "| half never, 4 of 8 |" in markdown(result)


def test_when_neither_arm_came_there_nothing_is_said() -> None:
    result = timed({"baseline": [None] * 8, "tanh": [None] * 8})
    assert result.arms[1].word == "inconclusive"
    assert result.arms[1].difference is None
    assert "never, 0 of 8" in markdown(result)


@pytest.mark.parametrize("looks", [(), (3,), (5,), (3, 4, 5)])
@pytest.mark.parametrize("arms", [1, 3, 6, 12])
def test_the_seeds_that_the_sign_test_is_said_to_need_are_the_first_that_reach_a_word(
    looks: tuple[int, ...], arms: int
) -> None:
    def word(seeds: int) -> str:
        ratios = tuple(Between(1.0 + seed, 1.0 + seed) for seed in range(seeds))
        differences = tuple(ratio.low for ratio in ratios)
        evidence = [ArmEvidence(str(n), differences, seeds, claimed_points=1.0, ratios=ratios) for n in range(arms)]
        share = share_of_level(looks, seeds, 0.05 / arms)
        return judge(evidence, math.log(1.25), 0.05, ShareOfLevel(share))["0"].word

    need = seeds_for_a_word(looks, arms, 0.05)
    assert (word(need - 1), word(need)) == ("inconclusive", "supports")
    if not looks:
        share = share_of_level((), need, 0.05 / arms)
        assert f"{need} seeds can reach" in verdict_outlook(need, arms, 1.5, None, 0.05, share)
        assert f"--seeds {need})" in verdict_outlook(need - 1, arms, 1.5, None, 0.05, share)


def test_the_remark_names_the_seeds_that_reach_a_word_after_this_look() -> None:
    result = timed({"baseline": [5] * 5, "tanh": [10, 11, 12, 10, 11]})
    assert any("only inconclusive is possible; from 8 seeds on, a word is" in note for note in result.notes)
    assert not any("is possible" in note for note in timed({"baseline": [5] * 6, "tanh": list(range(10, 16))}).notes)


def test_equal_times_are_equivalent_or_identical_never_supported() -> None:
    assert timed({"baseline": [5] * 8, "tanh": [5] * 8}).arms[1].word == "identical in 8 seeds"
    close = timed({"baseline": [10] * 8, "tanh": [10, 11, 9, 10, 11, 10, 9, 10]})
    assert close.arms[1].word == "equivalent"
    assert "a ratio between 0.8 and 1.25" in markdown(close)


def test_trials_without_their_epochs_on_record_do_not_enter() -> None:
    study = load_study("activation").on("cifar10")
    rows = [
        {"key": f"{a}-0", "seed": 0, "state": "finished", "epochs": 3, "seconds": 1.0} for a in ("baseline", "tanh")
    ]
    plan = {"dataset": "cifar10", "alpha": 0.05, "planned_seeds": 1, "looks": []}
    plan["trials"] = [{"arm": a, "seed": 0, "phase": "arm", "key": f"{a}-0"} for a in ("baseline", "tanh")]
    trials = pl.DataFrame(rows, schema=TRIAL_COLUMNS)
    none = pl.DataFrame(schema=MEMBER_COLUMNS), pl.DataFrame(schema=EPOCH_COLUMNS)
    result = answer(study, study.recipes["cifar10"], make_plan_file(plan), trials, *none)
    assert (result.unmeasured, result.arms[1].n) == (2, 0)


def test_the_log_ratio_of_errors_is_judged_by_t_and_shown_as_a_ratio() -> None:
    plain = load_study("weight_decay")
    recipe = plain.recipes["cifar10"].model_copy(update={"margin": 1.1, "smallest_effect": 1.2})
    study = plain.model_copy(update={"statistic": "log_ratio", "recipes": {"cifar10": recipe}}).on("cifar10")
    result = judged(
        study,
        {
            "baseline": [(100, 100 + seed) for seed in range(8)],
            "no_decay": [(100, 200 + 3 * seed) for seed in range(8)],
        },
    )
    logs = [math.log((200.5 + 3 * seed) / (100.5 + seed)) for seed in range(8)]
    assert list(result.arms[1].differences.values()) == pytest.approx(logs)
    assert result.arms[1].p == pytest.approx(ttest_1samp(logs, 0).pvalue)
    assert result.arms[1].word == "supports"
    assert f"×{math.exp(sum(logs) / 8):.2f}" in markdown(result)
    assert "a ratio between 0.909 and 1.1" in markdown(result)


@pytest.mark.slow
@settings(max_examples=40)
@given(st.lists(st.tuples(st.none() | st.integers(1, 30), st.none() | st.integers(1, 30)), min_size=8, max_size=8))
def test_swapping_baseline_and_arm_swaps_the_words(pairs: list[tuple[int | None, int | None]]) -> None:
    there = timed({"baseline": [base for base, _ in pairs], "tanh": [arm for _, arm in pairs]}).arms[1]
    back = timed({"baseline": [arm for _, arm in pairs], "tanh": [base for base, _ in pairs]}).arms[1]
    swapped = {"supports": "contradicts", "contradicts": "supports"}
    assert back.word == swapped.get(there.word, there.word)
    assert back.adjusted_p == there.adjusted_p
    # 词与区间从不矛盾：给出方向，当且仅当区间不含 1（且不在等效界内）
    if there.interval is not None and there.word != "equivalent":
        low, high = there.interval
        beyond = (low > 0 and not there.interval_open[0]) or (high < 0 and not there.interval_open[1])
        assert beyond == (there.word in swapped)


def test_the_report_draws_times_that_were_never_reached(tmp_path: Path) -> None:
    result = timed({"baseline": [5, 6, 4, 5, 6, 5, 4, None], "tanh": [10, 18, 12, 10, None, 20, 8, None]})
    assert result.arms[1].interval_open[1]
    written = {path.name for path in write(tmp_path, result)}
    assert {"differences.svg", "seeds.svg", "report.html"} <= written
    svg = next(path for path in tmp_path.rglob("differences.svg")).read_text()
    assert "∞" in svg
    tex = next(path for path in tmp_path.rglob("*verdicts.tex")).read_text()
    assert r"$\infty$" in tex
    assert "∞" not in tex
