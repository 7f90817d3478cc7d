"""What a core's metrics say is worked out here again: differences in the shown unit, ratios, times, and the remarks."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from io import StringIO
from pathlib import Path

import polars as pl
import pytest
from rich.console import Console
from scipy import stats

from orchestrator.judging import numbers
from orchestrator.judging.answer import Answer
from orchestrator.planning.plan import Plan
from orchestrator.planning.plan_file import plan_on_record, write_plan
from orchestrator.records.trial_record import join_members
from orchestrator.reporting.conclude import judged_material
from orchestrator.running.status.facts import trial_status
from orchestrator.running.status.views import trial_view
from orchestrator.tables.tables import load_trials, update_tables
from search_spaces.core_config import CoreConfig, CoreDescription, MetricDescription
from search_spaces.study import Study
from tests.made_core_records import describe, plan_walk, put_study, put_walk, study_of, walk_config

BASELINE = [5.0, 5.3, 4.9, 5.1, 5.2, 4.8, 5.0, 5.4]
LONG = [4.4, 4.9, 4.2, 4.6, 4.7, 4.3, 4.3, 4.9]
SPRINGY = [5.1, 5.2, 5.0, 5.0, 5.3, 4.7, 5.1, 5.3]
VALUES = {"baseline": BASELINE, "long": LONG, "springy": SPRINGY}
Curve = Sequence[Mapping[str, float]]


def answer_of(results: Path, name: str = "walking") -> Answer:
    folder = results / "studies" / name
    plan, plan_file = plan_on_record(folder)
    return judged_material(plan, plan_file, folder, results, load_trials(results)).answer


def judged(
    tmp_path: Path,
    values: Mapping[str, Sequence[float]] = VALUES,
    core: CoreDescription | None = None,
    *changes: tuple[str, str],
) -> Answer:
    plan = plan_walk(study_of(*changes), 8, core)
    put_study(tmp_path, plan, values)
    return answer_of(tmp_path)


def put_curves(
    results: Path, plan: Plan, curve: Mapping[tuple[str, int], Curve], messages: Mapping[tuple[str, int], str] = {}
) -> Answer:
    """A study on record whose trials have these reports, and say this at their end."""
    for trial in plan.trials:
        assert isinstance(trial.config, CoreConfig)
        place = trial.arm, trial.seed
        put_walk(results, trial.config, curve[place], message=messages.get(place, ""))
    write_plan(results / "studies" / plan.study.name, plan, ["ablate.py"])
    join_members(results, plan.study.name, plan.dataset, plan.trials)
    update_tables(results)
    return answer_of(results, plan.study.name)


@pytest.mark.parametrize("scale", [1.0, 100.0, 0.001])
def test_a_difference_is_arm_minus_baseline_in_the_shown_unit(tmp_path: Path, scale: float) -> None:
    answer = judged(tmp_path, VALUES, describe(unit="m", scale=scale))
    long = next(arm for arm in answer.arms if arm.name == "long")
    differences = [scale * (a - b) for a, b in zip(LONG, BASELINE, strict=True)]
    assert [long.differences[str(seed)] for seed in range(8)] == pytest.approx(differences)
    assert long.difference == pytest.approx(statistics.fmean(differences))
    assert long.difference_sd == pytest.approx(statistics.stdev(differences))
    assert long.mean == pytest.approx(scale * statistics.fmean(LONG))
    assert long.sd == pytest.approx(scale * statistics.stdev(LONG))
    assert (long.scale, long.unit, answer.metric) == ("points", "m", "test loss")
    # 配对的 t，与 SciPy 的一样；区间在它自己的水平上
    test = stats.ttest_rel([scale * value for value in LONG], [scale * value for value in BASELINE])
    assert long.p == pytest.approx(test.pvalue)
    assert long.interval_level is not None
    ends = test.confidence_interval(long.interval_level / 100)
    assert long.interval == pytest.approx((ends.low, ends.high))
    assert long.correlation == pytest.approx(stats.pearsonr(LONG, BASELINE).statistic)
    margin = {1.0: "equivalent", 100.0: "supports", 0.001: "equivalent"}
    assert (long.word == "equivalent") == (margin[scale] == "equivalent" and max(map(abs, long.interval)) < 0.05)


@pytest.mark.parametrize(
    ("better", "claim", "word"),
    [
        ("lower", "points: -0.6", "supports"),
        ("lower", "points: 0.6", "contradicts"),
        ("higher", "direction: lower", "supports"),
        ("higher", "direction: higher", "contradicts"),
    ],
)
def test_the_word_is_about_the_claim_and_never_about_what_is_better(
    tmp_path: Path, better: str, claim: str, word: str
) -> None:
    answer = judged(tmp_path, VALUES, describe(better=better), ("points: -0.6", claim))
    assert {arm.name: arm.word for arm in answer.arms}["long"] == word


def test_without_a_claim_the_word_is_the_direction(tmp_path: Path) -> None:
    claim = "    claim: {statement: It lowers the loss., source: my notes, points: -0.6}\n"
    assert {arm.name: arm.word for arm in judged(tmp_path, VALUES, None, (claim, "")).arms}["long"] == "lower"


RATIO = (
    ("baseline: baseline", "baseline: baseline\nstatistic: log_ratio"),
    ("margin: 0.05, smallest_effect: 0.1", "margin: 1.05, smallest_effect: 1.1"),
)


def test_a_log_ratio_of_perplexities_is_a_difference_of_their_logarithms(tmp_path: Path) -> None:
    core = describe(unit="", scale=2.0)
    answer = judged(tmp_path, VALUES, core, *RATIO)
    long = next(arm for arm in answer.arms if arm.name == "long")
    logs = [math.log(a) - math.log(b) for a, b in zip(LONG, BASELINE, strict=True)]
    assert [long.differences[str(seed)] for seed in range(8)] == pytest.approx(logs)
    test = stats.ttest_1samp(logs, 0.0)
    assert (long.difference, long.p) == pytest.approx((statistics.fmean(logs), test.pvalue))
    assert (long.scale, long.mean) == ("log_ratio", pytest.approx(2.0 * statistics.fmean(LONG)))
    assert long.word == "supports"
    assert any("Equivalent means a ratio between 0.952 and 1.05" in note for note in answer.notes)
    assert answer.without_ratio == ()


def test_the_largest_numbers_that_a_record_may_have_are_judged(tmp_path: Path) -> None:
    huge = {"baseline": [1e-99] * 8, "long": [1e99 * (1 + seed) for seed in range(8)], "springy": [-1e98] * 8}
    plan = plan_walk(study_of(*RATIO), 8)
    put_study(tmp_path, plan, huge, reports=1)
    arms = {arm.name: arm for arm in answer_of(tmp_path).arms}
    logs = [198 * math.log(10) + math.log(1 + seed) for seed in range(8)]
    assert arms["long"].difference == pytest.approx(statistics.fmean(logs))
    assert arms["springy"].word == "no ratio on 8 of 8"
    with pytest.raises(ValueError, match="less than or equal to"):
        put_walk(tmp_path, walk_config(9), [{"loss": 1.0, "test_loss": 2e100}])


@pytest.mark.parametrize("arm", ["long", "baseline"])
def test_where_there_is_no_ratio_the_user_is_told_and_no_word_is_given(tmp_path: Path, arm: str) -> None:
    """Leaving out the seeds with a value of 0 would choose among seeds by how well they did."""
    values = {name: list(values) for name, values in VALUES.items()}
    values[arm][2], values[arm][5] = 0.0, -0.25
    answer = judged(tmp_path, values, None, *RATIO)
    words = {one.name: one.word for one in answer.arms}
    if arm == "long":
        assert words == {"baseline": "baseline", "long": "no ratio on 2 of 8", "springy": words["springy"]}
        assert words["springy"] in ("equivalent", "inconclusive")
    else:
        assert words == {"baseline": "baseline", "long": "no ratio on 2 of 8", "springy": "no ratio on 2 of 8"}
    assert answer.without_ratio == (f"{arm} seed 2", f"{arm} seed 5")
    (note,) = [note for note in answer.notes if "no ratio" in note and note.startswith("There")]
    assert note == (
        f"There is no ratio of a test loss that is not above 0: seed 2 ({arm}); seed 5 ({arm}). The seeds without them "
        "would be a biased choice, so that the arms concerned get no word; ask for the statistic difference."
    )
    assert answer.unmeasured == 0, "they were measured"
    assert not any("move their folders" in note for note in answer.notes)
    # 均值仍是所有种子的
    shown = next(one for one in answer.arms if one.name == arm)
    assert (shown.n, shown.mean) == (8, pytest.approx(statistics.fmean(values[arm])))


def test_differences_that_are_equal_up_to_rounding_are_the_same_difference_and_not_significant(tmp_path: Path) -> None:
    """Accuracies of a small test set: at each seed the arm has one example more right, whatever subtraction says."""
    right = [41, 44, 47, 43, 45, 42, 48, 46]
    values = {
        "baseline": [count / 60 for count in right],
        "long": [(count + 1) / 60 for count in right],
        "springy": [1 - (60 - count) / 60 for count in right],
    }
    assert len({a - b for a, b in zip(values["long"], values["baseline"], strict=True)}) > 1
    assert values["springy"] != values["baseline"]
    arms = {arm.name: arm for arm in judged(tmp_path, values, describe(unit="%", scale=100.0, better="higher")).arms}
    assert (arms["long"].word, arms["long"].p) == ("the same difference in 8 seeds", None)
    assert numbers.difference(arms["long"]) == "+1.67"
    assert numbers.difference(arms["springy"]) == "+0.00"


def test_differences_are_of_any_sign(tmp_path: Path) -> None:
    values = {name: [value - 5.0 for value in values] for name, values in VALUES.items()}
    long = next(arm for arm in judged(tmp_path, values).arms if arm.name == "long")
    assert long.word == "supports"
    assert long.difference == pytest.approx(statistics.fmean(LONG) - statistics.fmean(BASELINE))


TIME = (
    ("baseline: baseline", "baseline: baseline\nprimary_metric: loss\nstatistic: time_to_threshold"),
    ("margin: 0.05, smallest_effect: 0.1", "margin: 1.2, smallest_effect: 1.5, threshold: 12.5"),
)


@pytest.mark.parametrize("better", ["lower", "higher"])
def test_a_time_is_the_first_report_whose_shown_value_is_there(tmp_path: Path, better: str) -> None:
    """Shown is the value times 100; never there within its reports counts as longer than they are."""
    sign = 1.0 if better == "lower" else -1.0
    metric = MetricDescription(unit="%", better=better, scale=100.0)
    core = describe(metrics={"loss": metric, "test_loss": metric})
    first = {
        "baseline": [4, 4, 5, 4, 6, 4, 5, 4],
        "long": [2, 2, 3, 2, 3, 2, 2, 2],
        "springy": [9, 4, 9, 5, 9, 9, 9, 9],
    }
    curves = {}
    for arm, times in first.items():
        for seed, time in enumerate(times):
            # 到达的那一份报告恰好等于门槛，之后又退回去；九等于从未到达
            values = [0.125 if report == time else 0.125 + sign * 0.01 for report in range(1, 9)]
            curves[arm, seed] = [{"loss": value, "test_loss": value} for value in values]
    answer = put_curves(tmp_path, plan_walk(study_of(*TIME), 8, core), curves)
    arms = {arm.name: arm for arm in answer.arms}
    assert answer.metric == "reports to loss 12.5 %"
    assert (arms["baseline"].median, arms["baseline"].never) == (4.0, ())
    assert (arms["long"].median, arms["long"].difference) == (2.0, pytest.approx(math.log(0.5)))
    assert (arms["springy"].median, len(arms["springy"].never)) == (None, 6)
    assert arms["springy"].difference_is == "at least"
    # 符号检验：八个种子全在一边
    assert arms["long"].p == pytest.approx(2 / 2**8)
    assert arms["long"].word == "supports"
    assert answer.notes[0] == (
        "Judged on reports to loss 12.5 %: the first report that is there. A run that was not there by its 8 reports "
        "counts as longer: baseline 8 of 8 there, long 8 of 8 there, springy 2 of 8 there."
    )
    assert "epoch" not in " ".join(answer.notes)


def test_a_run_that_ended_early_and_never_came_there_is_longer_than_it_was(tmp_path: Path) -> None:
    curves: dict[tuple[str, int], Curve] = {}
    for seed in range(8):
        there = [{"loss": 20.0, "test_loss": 1.0}, {"loss": 12.0, "test_loss": 1.0}, {"loss": 11.0, "test_loss": 1.0}]
        curves["baseline", seed] = there
        curves["long", seed] = there[:2]
        curves["springy", seed] = there[:1]
    answer = put_curves(tmp_path, plan_walk(study_of(*TIME), 8), curves)
    arms = {arm.name: arm for arm in answer.arms}
    assert arms["long"].differences == dict.fromkeys(map(str, range(8)), 0.0)
    assert (arms["springy"].median, len(arms["springy"].never)) == (None, 8)
    # 一份报告就停了的，只知道不止一份；基线要两份：谁久谁不久，说不出
    assert arms["springy"].word not in ("higher", "lower", "supports", "contradicts", "equivalent")
    assert answer.budget is None
    assert "A run that was not there by its end counts as longer" in answer.notes[0]
    # 各 arm 一直是自己的那么多份：那是它的配置，不是早停
    assert answer.reports == (1, 3)
    assert (answer.uneven, [note for note in answer.notes if "ended" in note]) == ({}, [])


def test_a_metric_that_chooses_and_judges_is_said_loudly(tmp_path: Path) -> None:
    loud = [note for note in judged(tmp_path, VALUES, describe(judged_by="loss")).notes if note.startswith("THE SAME")]
    assert loud == [
        "THE SAME METRIC CHOOSES AND JUDGES: whatever was chosen by the loss (points, tuned values, a stopping time of "
        "the training's own) is flattered by it here; judge by data that nothing was chosen on."
    ]


def test_a_study_that_judges_by_what_chooses_is_as_loud_whatever_the_core_declares(tmp_path: Path) -> None:
    chosen = ("baseline: baseline", "baseline: baseline\nprimary_metric: loss")
    answer = judged(tmp_path, VALUES, None, chosen)
    assert (answer.metric, answer.chosen_by) == ("loss", "loss")
    assert any(note.startswith("THE SAME METRIC CHOOSES AND JUDGES") for note in answer.notes)


def test_metrics_of_their_own_are_not(tmp_path: Path) -> None:
    assert not any("CHOOSES AND JUDGES" in note for note in judged(tmp_path).notes)
    other = judged(
        tmp_path / "other",
        VALUES,
        describe(judged_by="loss"),
        ("baseline: baseline", "baseline: baseline\nprimary_metric: test_loss"),
    )
    assert not any("CHOOSES AND JUDGES" in note for note in other.notes)


def test_what_cannot_be_repeated_says_so_and_so_do_trainings_of_other_lengths(tmp_path: Path) -> None:
    plan = plan_walk(study_of(), 8, describe(deterministic=False))
    curves = {
        (arm, seed): [{"loss": value, "test_loss": value}] * (2 + seed % 3)
        for arm, values in VALUES.items()
        for seed, value in enumerate(values)
    }
    answer = put_curves(tmp_path, plan, curves)
    assert answer.reports == (2, 4)
    assert answer.notes[0] == "Judged on the test loss of the last report of core walk, version 1."
    assert answer.notes[1].startswith("Core walk declares that the same seed may give other numbers: a trial cannot be")
    assert answer.notes[2] == (
        "Seeds of one arm ended by themselves after different numbers of reports, and count as finished: baseline 2 to "
        "4, long 2 to 4, springy 2 to 4."
    )
    even = judged(tmp_path / "even")
    assert not any("ended by themselves" in note or "may give other numbers" in note for note in even.notes)


def test_trainings_that_say_they_ended_early_are_marked_in_record_table_answer_and_status(tmp_path: Path) -> None:
    plan = plan_walk(study_of(), 8)
    places = [(trial.arm, trial.seed) for trial in plan.trials]
    # 每个都一样早：从份数看不出来，只有训练自己知道
    curves = {(arm, seed): [dict.fromkeys(("loss", "test_loss"), VALUES[arm][seed])] * 2 for arm, seed in places}
    early = {place: "ended early: no gain in 2 reports" for place in places if place[0] != "long" or place[1] < 3}
    answer = put_curves(tmp_path, plan, curves, early)
    assert (answer.reports, answer.uneven) == ((2, 2), {})
    assert answer.ended_early == {"baseline": 8, "long": 3, "springy": 8}
    assert answer.notes[1] == (
        "Trainings that say they ended early, and count as finished: baseline 8 of 8, long 3 of 8, springy 8 of 8."
    )
    rows = load_trials(tmp_path).trials
    assert rows.filter(pl.col("message").str.starts_with("ended early"))["state"].to_list() == ["finished"] * 19
    output = StringIO()
    first = next(trial.key for trial in plan.trials if trial.arm == "baseline")
    Console(file=output, width=100).print(trial_view(trial_status(tmp_path, first), 100))
    said = f"trial {first}: finished after 2 reports\nended early: no gain in 2 reports\n"
    assert output.getvalue().startswith(said)


def test_a_study_is_read_back_as_it_was_asked(tmp_path: Path) -> None:
    """What is on record needs neither the study's file nor its core's code."""
    study: Study = study_of(("seeds: 8", "set: {epochs: 5}, edits: {springy: {seed: 3}}, seeds: 8"))
    plan = plan_walk(study, 8)
    put_study(tmp_path, plan, VALUES, reports=5)
    again, _ = plan_on_record(tmp_path / "studies" / "walking")
    assert [trial.key for trial in again.trials] == [trial.key for trial in plan.trials]
    assert again.study == plan.study
