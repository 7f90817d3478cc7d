"""Which classes an arm changes, and which images seeds disagree on: against calculations cell by cell, and shown."""

from __future__ import annotations

import json
from dataclasses import replace
from io import StringIO
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image
from rich.console import Console
from scipy import stats

from alexnet_core.configuration.train_config import DataSpec
from alexnet_core.data.digits import read_digits
from alexnet_core.data.loading import load_dataset
from orchestrator import report
from orchestrator.asking.images import MOST_IMAGES, PICTURE, show_images
from orchestrator.errors import LabError
from orchestrator.judging.images.classes import class_changes
from orchestrator.judging.images.disputed import disputed_images
from orchestrator.judging.images.seen import SeenImages, SeenTrials
from orchestrator.planning.plan import Plan
from orchestrator.planning.plan_file import plan_on_record, write_plan
from orchestrator.records.trial_record import join_members
from orchestrator.reporting.check import check_report, with_classes
from orchestrator.reporting.conclude import conclude, judged_material
from orchestrator.reporting.files import write_report
from orchestrator.reporting.material import CLASS_COLUMNS, Material, details
from orchestrator.tables.tables import load_trials
from search_spaces.study import load_study
from tests.made_plans import make_plan
from tests.orchestrator.judging.test_contrasts import holm
from tests.orchestrator.judging.test_new_images import put_all, right_images

SEEDS = 6
ARMS = ("baseline", "no_lrn", "as_run")


@pytest.fixture(scope="module")
def plan() -> Plan:
    return make_plan(load_study("lrn"), SEEDS)


@pytest.fixture(scope="module")
def right() -> dict[str, np.ndarray]:
    return right_images(ARMS, SEEDS, {"no_lrn": 0.5})


@pytest.fixture
def concluded(tmp_path: Path, plan: Plan, right: dict[str, np.ndarray]) -> Material:
    put_all(tmp_path, plan, right)
    join_members(tmp_path, "lrn", plan.dataset, plan.trials)
    folder = tmp_path / "studies" / "lrn"
    return conclude(plan, tmp_path, folder, write_plan(folder, plan, ["ablate"]), Console(file=StringIO()))


def digit_labels(plan: Plan) -> np.ndarray:
    assert isinstance(plan.base.data, DataSpec)
    test = load_dataset(plan.base.data).test
    assert test is not None
    return test.labels


def test_the_classes_are_those_of_a_t_test_for_each_and_a_whole_family(
    tmp_path: Path, plan: Plan, right: dict[str, np.ndarray], concluded: Material
) -> None:
    labels, names = digit_labels(plan), [str(digit) for digit in range(10)]
    assert concluded.seen is not None
    changes = class_changes(concluded.answer, concluded.seen, labels, names)
    p: list[float] = []
    expected = {}
    for arm in ("no_lrn", "as_run"):
        for digit in range(10):
            wrong = {name: 100 * (~right[name][:, labels == digit]).mean(axis=1) for name in (arm, "baseline")}
            test = stats.ttest_rel(wrong[arm], wrong["baseline"])
            expected[arm, str(digit)] = (len(p), float(np.mean(wrong[arm] - wrong["baseline"])), test)
            p.append(float(test.pvalue))
    adjusted = holm(p)
    assert len(changes) == 20
    assert [change.p for change in changes] == sorted(change.p for change in changes)  # type: ignore[type-var]
    for change in changes:
        place, difference, test = expected[change.compared, change.label]
        assert (change.n, change.images) == (SEEDS, int((labels == int(change.label)).sum()))
        assert change.difference == pytest.approx(difference)
        assert change.adjusted_p == pytest.approx(adjusted[place])
        assert change.interval_level is not None
        interval = test.confidence_interval(change.interval_level / 100)
        assert change.interval == pytest.approx((interval.low, interval.high))
    folder = tmp_path / "studies" / "lrn"
    table = pl.read_parquet(folder / "tables" / "classes.parquet")
    assert table.schema == pl.Schema(CLASS_COLUMNS)
    assert table["adjusted_p"].to_list() == pytest.approx([change.adjusted_p for change in changes])
    text = (folder / "report.md").read_text()
    sure = sum(value <= 0.05 for value in adjusted)
    assert f"for each comparison, corrected over all 20 rows (Holm). {sure}" in text
    assert "<summary>Which classes change, exploratory</summary>" in text


@pytest.mark.slow
def test_a_report_with_classes_is_checked_with_the_data_and_without(tmp_path: Path, concluded: Material) -> None:
    folder = tmp_path / "studies" / "lrn"
    checked = check_report(folder, tmp_path)
    assert checked.differences == []
    assert not any("classes" in line for line in checked.by_sums_alone)
    sums = (folder / "SHA256SUMS").rename(tmp_path / "sums")
    gone = "SHA256SUMS is gone, so that an edit of the report's files cannot be told"
    assert check_report(folder, tmp_path).differences == [gone], "no text was edited"
    sums.rename(folder / "SHA256SUMS")
    path = folder / "tables" / "classes.csv"
    path.write_text(path.read_text().replace("no_lrn", "as_run", 1))
    assert check_report(folder, tmp_path).differences == ["tables/classes.csv is not what the records say"]
    # 数据不在的机器上没有这张表
    elsewhere = DataSpec(name="cats", source="imagefolder", image_size=16, digest="0" * 64, root=str(tmp_path / "cats"))
    without = details(replace(concluded, images=elsewhere), tmp_path, folder)
    assert without.classes is None
    told = with_classes(without, folder, is_told=True)
    assert told.classes is not None
    assert told.classes.equals(pl.read_parquet(folder / "tables" / "classes.parquet"))
    assert with_classes(told, folder, is_told=False).classes is None, "a report without the table is whole, too"
    (folder / "tables" / "classes.parquet").write_bytes(b"torn")
    assert with_classes(without, folder, is_told=True).classes is None


@pytest.mark.slow
def test_a_report_of_before_opens_and_is_checked_as_it_was(tmp_path: Path, concluded: Material) -> None:
    folder = tmp_path / "studies" / "lrn"
    plan, plan_file = plan_on_record(folder)
    # 从前的版本不读哪些图对了：词与数字照旧，没有第二个区间
    before = judged_material(plan, plan_file, folder, tmp_path, load_trials(tmp_path))
    before = replace(before, answer=before.answer.model_copy(update={"wording": 4}))
    write_report(folder, before, lambda: replace(details(before, tmp_path, folder), classes=None), always=True)
    assert b"beyond" not in (folder / "answer.json").read_bytes()
    assert "interval for new images" not in (folder / "report.md").read_text()
    checked = check_report(folder, tmp_path)
    assert checked.differences == []
    assert any(line.startswith("an earlier version worded it") for line in checked.by_sums_alone)
    words = [(arm.word, arm.interval) for arm in before.answer.arms]
    assert words == [(arm.word, arm.interval) for arm in concluded.answer.arms]


def test_the_images_are_those_on_which_most_arms_seeds_disagree(
    tmp_path: Path, plan: Plan, right: dict[str, np.ndarray], concluded: Material, capsys: pytest.CaptureFixture[str]
) -> None:
    def rank(image: int) -> tuple[int, float, int]:
        shares = [float(of_arm[:, image].mean()) for of_arm in right.values()]
        return -sum(0 < share < 1 for share in shares), abs(round(float(np.mean(shares)) - 0.5, 9)), image

    assert concluded.seen is not None
    found = disputed_images(concluded.seen, {arm: range(SEEDS) for arm in ARMS}, 30)
    among = [image for image in range(359) if rank(image)[0] < 0]
    assert found.among == len(among)
    assert found.images.tolist() == sorted(among, key=rank)[:30]
    for arm in ARMS:
        assert found.right[arm] == pytest.approx(right[arm][:, found.images].mean(axis=0))
    assert report.main(["lrn", "--images", "--results", str(tmp_path), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["study"], document["split"], document["unknown"]) == ("lrn", "test", [])
    assert document["seeds"] == dict.fromkeys(ARMS, SEEDS)
    assert [image["number"] for image in document["images"]] == found.images[:MOST_IMAGES].tolist()
    first, labels = document["images"][0], digit_labels(plan)
    assert first["label"] == str(labels[first["number"]])
    # 名字是数据文件里的编号：那一行的标签就是它的类
    assert read_digits()[1][int(first["name"].removeprefix("digit "))] == labels[first["number"]]
    with Image.open(tmp_path / "studies" / "lrn" / PICTURE) as drawn:
        pixels = np.asarray(drawn.convert("L"))
    assert drawn.size[0] > 800
    assert (pixels < 32).mean() > 0.1, "the digits are white on black"
    assert report.main(["lrn", "--images", "--results", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert f"{first['name']} " in shown
    assert f"{round(SEEDS * first['right']['no_lrn'])}/{SEEDS}" in shown


def test_where_images_cannot_be_shown_one_line_says_why(
    tmp_path: Path, plan: Plan, concluded: Material, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "studies" / "lrn"
    elsewhere = DataSpec(name="cats", source="imagefolder", image_size=16, digest="0" * 64, root=str(tmp_path / "cats"))
    with pytest.raises(LabError, match=r"the images of digits are not here decoded \(they were in \S+/cats\)"):
        show_images(replace(concluded, images=elsewhere), folder, Console(file=StringIO()))
    with pytest.raises(LabError, match=r"lrn judges the top-1 test error: --images is of"):
        show_images(replace(concluded, seen=None), folder, Console(file=StringIO()))
    older = SeenTrials(SeenImages(tmp_path / "nothing"), concluded.seen.trials, "test")  # type: ignore[union-attr]
    with pytest.raises(LabError, match="the records of lrn do not say which images were right"):
        show_images(replace(concluded, seen=older), folder, Console(file=StringIO()))
    assert report.main(["lrn", "--images", "--check", "--results", str(tmp_path)]) == 2
    assert "--images is of one study's images; leave --check" in capsys.readouterr().err
