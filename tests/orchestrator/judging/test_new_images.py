"""The second interval of a difference: it holds for new images, and is that of an independent calculation."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray
from scipy import stats

from alexnet_core.configuration.correct_images import CorrectImages, as_text
from alexnet_core.configuration.train_config import TrainConfig
from orchestrator.judging.answer import Answer, Compared
from orchestrator.judging.images.seen import SeenImages
from orchestrator.judging.judge import answer
from orchestrator.judging.sweep_findings import confirm
from orchestrator.planning.plan import CONFIRMATION_SEED, Plan
from orchestrator.planning.plan_file import write_plan
from orchestrator.records.evaluations import Evaluation, keep_correct_images, leave_correct_images, write_evaluation
from orchestrator.records.layout import trial_folder
from orchestrator.records.trial_record import read_result, write_result
from orchestrator.reporting.terminal import arm_sentences
from orchestrator.reporting.text_tables import confirmation_table
from orchestrator.statistics.verdict import agrees, sentence
from orchestrator.sweeps.confirmation import confirmation_plan, confirmation_trials
from orchestrator.tables.rows import EPOCH_COLUMNS, MEMBER_COLUMNS
from orchestrator.tables.tables import update_tables
from search_spaces.contrast import Contrast
from search_spaces.study import Study, load_study
from search_spaces.trial import PlannedTrial, overridden, trial_key, unfold
from search_spaces.yaml_file import parse_model
from tests.made_designs import make_study
from tests.made_plans import make_plan
from tests.made_records import errors, put, put_seen
from tests.orchestrator.judging.test_reproduction import study_of
from tests.orchestrator.sweeps.test_confirmation import NO_EPOCHS, PLAN, SEARCH, swept

IMAGES, SEEDS = 359, 5
Right = NDArray[np.bool_]


def right_images(arms: Sequence[str], seeds: int, shift: Mapping[str, float], taste: float = 0.4) -> dict[str, Right]:
    """By arm bool (seeds, images): images with a difficulty, and with one of each arm's own."""
    generator = np.random.default_rng(len(arms) + seeds)
    difficulty = generator.normal(size=IMAGES)
    right = {}
    for arm in arms:
        of_arm = difficulty + taste * generator.normal(size=IMAGES) + shift.get(arm, 0.0)
        skill = 0.1 * generator.normal(size=(seeds, 1))
        right[arm] = of_arm + skill + 0.4 * generator.normal(size=(seeds, IMAGES)) < 1.2
    return right


def put_all(results: Path, plan: Plan, right: Mapping[str, Right]) -> None:
    for trial in plan.trials:
        put_seen(results, trial.config, right[trial.arm][trial.seed])  # type: ignore[arg-type]


def judged(results: Path, plan: Plan, *, looks_at_images: bool = True) -> Answer:
    content = write_plan(results / "studies" / plan.study.name, plan, ["test"])
    trials, nothing = update_tables(results).trials, pl.DataFrame(schema=MEMBER_COLUMNS)
    seen = SeenImages(results) if looks_at_images else None
    return answer(plan.study, plan.recipe, content, trials, nothing, pl.DataFrame(schema=EPOCH_COLUMNS), seen)


def expected(weights: Mapping[str, float], right: Mapping[str, Right], level: float) -> tuple[float, float]:
    """From the sums of squares of a two-way table written out cell by cell, in points."""
    table = sum(weight * (100.0 * ~right[arm]) for arm, weight in weights.items())
    seeds, images = np.shape(table)
    grand, rows, columns = table.mean(), table.mean(1, keepdims=True), table.mean(0, keepdims=True)  # type: ignore[union-attr]
    of_seeds = images * ((rows - grand) ** 2).sum() / (seeds - 1)
    of_images = seeds * ((columns - grand) ** 2).sum() / (images - 1)
    of_rest = ((table - rows - columns + grand) ** 2).sum() / ((seeds - 1) * (images - 1))
    total = max(of_seeds + of_images - of_rest, of_seeds, of_images)
    freedom = total**2 / (
        of_seeds**2 / (seeds - 1) + of_images**2 / (images - 1) + of_rest**2 / ((seeds - 1) * (images - 1))
    )
    half = stats.t.ppf(1 - level / 2, freedom) * np.sqrt(total / (seeds * images))
    narrow = stats.t.ppf(1 - level / 2, seeds - 1) * np.sqrt(of_seeds / (seeds * images))
    return grand - max(half, narrow), grand + max(half, narrow)


def check_limits(one: Compared, weights: Mapping[str, float], right: Mapping[str, Right], level: float) -> None:
    assert one.interval is not None
    assert one.beyond is not None
    low, high = expected(weights, right, level)
    assert one.beyond_level == pytest.approx(100 * (1 - level))
    assert one.beyond == pytest.approx((min(low, one.interval[0]), max(high, one.interval[1])), rel=1e-9)
    assert one.beyond[0] <= one.interval[0] <= one.interval[1] <= one.beyond[1]


def test_arms_get_the_limits_of_an_independent_calculation_at_an_equal_share_of_the_level(tmp_path: Path) -> None:
    plan = make_plan(load_study("lrn"), SEEDS)
    right = right_images(["baseline", "no_lrn", "as_run"], SEEDS, {"no_lrn": 0.9, "as_run": 0.4})
    put_all(tmp_path, plan, right)
    result = judged(tmp_path, plan)
    # 一次看用 0.8 份水平，两个 arm 平分；先拒绝的那个把水平让给了第二个，第二个区间不受让
    level = result.level_share * 0.05 / 2
    for arm in result.arms[1:]:
        check_limits(arm, {arm.name: 1.0, "baseline": -1.0}, right, level)
    no_lrn, as_run = result.arms[1:]
    assert (no_lrn.word, no_lrn.holds_beyond) == ("supports", True)
    assert no_lrn.sentence == "supports the claim's direction, on and beyond this test set"
    assert as_run.beyond_level is not None
    assert as_run.interval_level is not None
    assert as_run.beyond_level > as_run.interval_level
    assert any("the sentence says 'and beyond'" in note for note in result.notes)
    said = list(arm_sentences(result))
    assert "(for new images +" in said[0]
    assert said[0].endswith("not by chance on and beyond this test set, and as claimed.")
    # 词与第一个区间丝毫不动
    plain = judged(tmp_path, plan, looks_at_images=False)
    for before, now in zip(plain.arms, result.arms, strict=True):
        for name in ("word", "interval", "interval_level", "p", "adjusted_p", "differences", "seeds_needed"):
            assert getattr(before, name) == getattr(now, name)
    assert plain.model_dump_json().count("beyond") == 0


def test_a_difference_of_these_images_alone_keeps_its_word_and_says_no_more(tmp_path: Path) -> None:
    plan = make_plan(load_study("lrn"), SEEDS)
    right = right_images(["baseline", "no_lrn", "as_run"], SEEDS, {})
    # 每个种子都错在同样的图上：种子之间没有起伏，十二张对五张的图之间却有
    right["baseline"][:, 12:17], right["baseline"][:, :12] = False, True
    right["no_lrn"] = right["baseline"].copy()
    right["no_lrn"][:, :12], right["no_lrn"][:, 12:17] = False, True
    right["no_lrn"][0, 0] = True
    put_all(tmp_path, plan, right)
    no_lrn = judged(tmp_path, plan).arms[1]
    assert (no_lrn.word, no_lrn.sentence) == ("supports", "supports the claim's direction, on this test set")
    assert no_lrn.beyond is not None
    assert (no_lrn.holds_beyond, no_lrn.beyond[0] > 0) == (False, False)


def test_contrasts_get_them_too(tmp_path: Path) -> None:
    study = make_study("factorial", factors="\n  training.momentum: [0.9, 0.5]\n  training.weight_decay: [0.0, 0.01]\n")
    plan = make_plan(study, SEEDS)
    names = [arm.name for arm in study.arms]
    right = right_images(names, SEEDS, dict(zip(names, (0.0, 0.2, 0.6, 0.1), strict=True)))
    put_all(tmp_path, plan, right)
    result = judged(tmp_path, plan)
    known: dict[str, Contrast] = {contrast.name: contrast for contrast in study.contrasts}
    assert {contrast.kind for contrast in result.contrasts} == {"main", "interaction"}
    for one in result.contrasts:
        check_limits(one, known[one.name].weights, right, result.level_share * 0.05 / 3)


def test_older_records_a_damaged_one_and_other_images_have_none_and_it_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plan = make_plan(load_study("lrn"), 4)
    right = right_images(["baseline", "no_lrn", "as_run"], 4, {"no_lrn": 0.9})
    of_another_split = overridden(plan.study, plan.base, {"data.split_seed": 1})
    elsewhere = {trial.seed: trial for trial in unfold(plan.study, of_another_split, range(4)) if trial.arm == "as_run"}
    trials = (elsewhere[one.seed] if one.arm == "as_run" and one.seed > 1 else one for one in plan.trials)
    plan = replace(plan, trials=tuple(trials))
    put_all(tmp_path, plan, right)
    result = judged(tmp_path, plan)
    assert [arm.beyond is None for arm in result.arms] == [True, False, True]
    assert "different images: as_run." in "\n".join(result.notes)
    baseline = [trial.key for trial in plan.trials if trial.arm == "baseline"]
    (tmp_path / "trials" / baseline[0] / "correct.bin").unlink()
    path = tmp_path / "trials" / baseline[1] / "result.json"
    older = {name: value for name, value in json.loads(path.read_text()).items() if name != "correct_sha256"}
    path.write_text(json.dumps(older))
    result = judged(tmp_path, plan)
    assert all(arm.beyond is None for arm in result.arms)
    assert all("beyond" not in arm.sentence for arm in result.arms)
    assert (result.unseen, result.damaged_images) == (2, (baseline[0],))
    (note,) = (note for note in result.notes if "older ones do not" in note)
    assert note.endswith(f"2 trials; 1 such record is damaged ({baseline[0]}).")
    assert "correct.bin cannot be read" in caplog.text


@pytest.mark.parametrize("fixed_split", [True, False])
def test_seeds_that_draw_their_split_share_validation_images_that_lie_apart(tmp_path: Path, fixed_split: bool) -> None:
    plan = make_plan(load_study("lrn"), 4)
    right = right_images(["baseline", "no_lrn", "as_run"], 4, {"no_lrn": 0.9})
    assert plan.summary is not None
    summary = plan.summary.model_copy(update={"fixed_split": fixed_split, "test": 0})
    trials = [of_folder(trial, resplit=trial.seed) for trial in plan.trials]
    recipe = plan.recipe.model_copy(update={"vary": ("split",)})
    plan = replace(plan, summary=summary, recipe=recipe, trials=tuple(trials))
    for trial in plan.trials:
        on_validation = right[trial.arm][trial.seed]
        key = put(tmp_path, trial.config, validation=errors(int((~on_validation).sum()), IMAGES), test_wrong=None)  # type: ignore[arg-type]
        folder = trial_folder(tmp_path, key)
        leave_correct_images(folder, [CorrectImages("validation", 1, on_validation)])
        write_result(folder, keep_correct_images(folder, read_result(folder)))  # type: ignore[arg-type]
    result = judged(tmp_path, plan)
    notes = " ".join(result.notes)
    assert [arm.beyond is not None for arm in result.arms] == [False, fixed_split, fixed_split]
    assert result.same_images == (result.split_error is not None) == fixed_split
    assert ("judged on different images: no_lrn, as_run." in notes) == (not fixed_split)
    where = "the validation images are the same for all." if fixed_split else "it is judged on those validation images."
    assert f"the same ones in all arms; {where}" in notes


def of_folder(trial: PlannedTrial, **data: Any) -> PlannedTrial:
    """The trial on images of a folder, of which no test set is there."""
    assert isinstance(trial.config, TrainConfig)
    spec = trial.config.data.model_copy(update={"source": "imagefolder", "root": "photographs", **data})
    config = trial.config.model_copy(update={"data": spec})
    return replace(trial, config=config, key=trial_key(config))


def test_an_arm_is_held_against_a_published_value_on_new_images_too(tmp_path: Path) -> None:
    plan = make_plan(study_of(0.5), SEEDS)
    right = right_images(["a", "b"], SEEDS, {})
    put_all(tmp_path, plan, right)
    result = judged(tmp_path, plan)
    (one,) = result.contrasts
    level = result.level_share * 0.05
    low, high = expected({"a": 1.0}, right, level)
    assert one.beyond == pytest.approx((low - 0.5, high - 0.5))
    assert (one.word, one.holds_beyond) == ("does not reproduce", True)
    assert one.sentence == "does not reproduce the published value, on and beyond this test set"


def test_confirmed_points_of_a_sweep_get_them_too(tmp_path: Path) -> None:
    history, _ = swept([9, 8, 7])
    content = confirmation_plan(SEARCH, history, 2, SEEDS, {})
    points = [point["name"] for point in content["points"]]
    right = right_images(["baseline", *points], SEEDS, dict(zip(points, (0.9, 0.1), strict=True)))
    trials = confirmation_trials(PLAN, content)
    for trial in trials:
        put_seen(tmp_path, trial.config, right[trial.arm][trial.seed - CONFIRMATION_SEED])  # type: ignore[arg-type]
    confirmed = confirm(PLAN, content, update_tables(tmp_path).trials, NO_EPOCHS, SeenImages(tmp_path))
    assert confirmed is not None
    for point in confirmed.points:
        assert point.beyond_level is not None
        low, high = expected({point.name: 1.0, "baseline": -1.0}, right, 1 - point.beyond_level / 100)
        assert point.beyond == pytest.approx((low, high))
    first = confirmed.points[0]
    assert first.sentence.startswith("higher, on and beyond this test set")
    assert f", for new images ({low_and_high(first.beyond)})" in confirmation_table(confirmed).rows[0][6]
    plain = confirm(PLAN, content, update_tables(tmp_path).trials, NO_EPOCHS)
    assert plain is not None
    assert [point.beyond for point in plain.points] == [None, None]


def low_and_high(limits: tuple[float, float] | None) -> str:
    assert limits is not None
    return ", ".join(f"{end:+.2f}" for end in limits)


VIEWS = """name: views
question: Do ten views help?
source: a test
baseline: ten
arms:
  - {name: ten, title: ten views, views: 10}
  - {name: one, title: one view}
recipes:
  digits: {input_size: 14, margin: 0.3, smallest_effect: 1.0}
"""


def test_ten_views_are_compared_with_one_image_by_image(tmp_path: Path) -> None:
    plan = make_plan(parse_model(VIEWS, Study, "views.yaml"), 4)
    right = right_images(["ten", "one"], 4, {"one": 0.5})
    for trial in plan.trials:
        if trial.arm == "ten":
            continue
        key = put_seen(tmp_path, trial.config, right["one"][trial.seed])  # type: ignore[arg-type]
        ten = right["ten"][trial.seed]
        evaluation = Evaluation(
            key=key,
            views=10,
            split="test",
            metrics=errors(int((~ten).sum()), IMAGES),
            weights_sha256="0" * 64,
            retrained=False,
            same_network=True,
            seconds=0.1,
            evaluated_at="2026-01-01T00:00:00+00:00",
            correct=as_text(ten) if trial.seed != 3 else None,
        )
        write_evaluation(trial_folder(tmp_path, key), evaluation)
    assert judged(tmp_path, plan).unseen == 1
    write_evaluation(trial_folder(tmp_path, key), evaluation.model_copy(update={"correct": as_text(ten)}))
    result = judged(tmp_path, plan)
    check_limits(result.arms[1], {"one": 1.0, "ten": -1.0}, right, result.level_share * 0.05)
    with pytest.raises(ValueError, match=r"images wrong, metrics"):
        Evaluation(**{**dict(evaluation), "correct": as_text(~ten)})
    with pytest.raises(ValueError, match="its bits are not those of 359 images"):
        Evaluation(**{**dict(evaluation), "correct": as_text(ten[:300])})


def test_a_word_holds_beyond_only_where_its_wider_interval_says_the_same() -> None:
    assert agrees("equivalent", (-0.4, 0.4), 0.5)
    assert not agrees("equivalent", (-0.6, 0.4), 0.5)
    assert agrees("lower", (-2.0, -0.1), 0.5)
    assert not agrees("supports", (-0.1, 2.0), 0.5)
    assert not agrees("inconclusive", (-0.1, 2.0), 0.5)
    assert agrees("reproduces", (-0.4, 0.4), 0.5)
    assert not agrees("reproduces", (-0.6, 0.4), 0.5)
    assert agrees("does not reproduce", (0.6, 1.4), 0.5)
    assert not agrees("does not reproduce", (0.4, 1.4), 0.5)
    assert sentence("equivalent", True, "test", (-0.1, 0.4)).endswith(
        "on and beyond this test set; different from zero on this test set all the same"
    )
    assert sentence("equivalent", True, "test", (0.1, 0.4)).endswith("; different from zero all the same")
