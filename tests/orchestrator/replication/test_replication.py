"""One study on several data sets: one plan, one family, one page; and again from a session that really trains."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import optuna
import pytest
from scipy import stats

from orchestrator import LabError, ablate, report, run_study, status
from orchestrator.options import parsed_request
from orchestrator.planning.plan_file import write_plan
from orchestrator.records.layout import study_folder
from orchestrator.replication.answer import Replication, in_words
from orchestrator.replication.before import Before
from orchestrator.replication.conclude import _judged_in_order
from orchestrator.replication.page import page_files, read_replication, write_page
from orchestrator.running.agenda import plan_studies
from orchestrator.statistics.crossed_effects import crossed_effects, crossed_limits
from tests.lab import Lab
from tests.made_records import put, put_seen

STUDY = """name: mine
question: Does it matter?
source: nowhere
claim: {statement: Without it the error is higher., source: nowhere, direction: higher}
baseline: baseline
arms:
  - {name: baseline, title: as it is}
  - name: without
    title: without it
    set: {training.momentum: 0.5}
    claim: {statement: The error is higher., source: nowhere, direction: higher}
  - {name: other, title: another, set: {training.weight_decay: 0.0}}
recipes:
  digits: {margin: 0.3, smallest_effect: 1.0}
  few:
    data: {source: digits, image_size: 16, train_images: 600}
    network: alexnet-mini
    input_size: 16
    training: {epochs: 2, batch_size: 48, learning_rate: 0.008, flips: false}
    margin: 0.3
    smallest_effect: 1.0
not_asked: {cifar10: its images are not at hand}
"""
IMAGES = 359
# 每个数据集上各 arm 各种子错的图数
WRONG = {
    "digits": {
        "baseline": [6, 7, 5, 8, 6, 7, 6, 5],
        "without": [13, 15, 11, 17, 12, 15, 14, 11],
        "other": [9, 8, 9, 10, 8, 10, 7, 8],
    },
    "few": {
        "baseline": [20, 22, 19, 24, 21, 20, 23, 22],
        "without": [24, 23, 25, 24, 27, 22, 24, 26],
        "other": [16, 19, 14, 22, 15, 19, 18, 17],
    },
}
# 两个数据集合成一族，四个比较；第一次看用去水平的五分之四
FAMILY, SHARE = 4, 0.8


@pytest.fixture
def asked(tmp_path: Path) -> list[str]:
    """The study with all its trials on record; returns the options that ask it."""
    path, results = tmp_path / "mine.yaml", tmp_path / "results"
    path.write_text(STUDY)
    options = ["--study", str(path), "--dataset", "digits,few", "--seeds", "8", "--epochs", "2"]
    options += ["--results", str(results)]
    for plan in plan_studies(parsed_request(options)):
        for trial in plan.trials:
            wrong = WRONG[plan.dataset][trial.arm][trial.seed]
            if plan.dataset == "digits":
                put_seen(results, trial.config, right(trial.arm, trial.seed), wrong=wrong)
            else:
                put(results, trial.config, wrong, test_wrong=wrong)
    return options


def right(arm: str, seed: int) -> np.ndarray:
    """Which test images of the digits a trial got right, bool (images,): the wrong ones are among the first 40."""
    images = np.ones(IMAGES, dtype=bool)
    drawn = np.random.default_rng([seed, len(arm)]).permutation(40)[: WRONG["digits"][arm][seed]]
    images[drawn] = False
    return images


@pytest.mark.slow
def test_all_data_sets_are_one_family_and_a_page_without_core_data_or_records(
    asked: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ablate.main([*asked, "--json", "--optuna-view"]) == 0
    output = capsys.readouterr()
    document, said = json.loads(output.out), output.err
    # 每个数据集各有一份，印出来的调用原样就能用
    calls = re.findall(r"^for Optuna's own tools: (.*)", said, re.MULTILINE)
    assert [len(eval(call, {"optuna": optuna}).trials) for call in calls] == [24, 24]
    assert [answer["answer"]["dataset"] for answer in document["answers"]] == ["digits", "few"]
    assert re.search(r"^digits: 24 trials wanted, 24 on record", said, re.MULTILINE)
    assert re.search(r"^few: 24 trials wanted, 24 on record", said, re.MULTILINE)
    assert re.search(r"^together: 48 trials wanted, 48 on record, .* one family of all comparisons", said, re.MULTILINE)
    joint = document["replication"]
    assert joint["family"] == FAMILY
    points = {
        (dataset, arm): [100 * (one - other) / IMAGES for one, other in zip(of[arm], of["baseline"], strict=True)]
        for dataset, of in WRONG.items()
        for arm in ("without", "other")
    }
    tests = {name: stats.ttest_1samp(values, 0.0) for name, values in points.items()}
    highest = 0.0
    seen = {(on["dataset"], one["name"]): on for one in joint["comparisons"] for on in one["on"]}
    for rank, name in enumerate(sorted(tests, key=lambda one: tests[one].pvalue)):
        compared = seen[name]["compared"]
        highest = max(highest, min(1.0, max(FAMILY - rank, FAMILY / 2) * tests[name].pvalue / SHARE))
        assert compared["p"] == pytest.approx(tests[name].pvalue)
        assert compared["adjusted_p"] == pytest.approx(highest)
        level = 1.0 - compared["interval_level"] / 100.0
        assert list(compared["interval"]) == pytest.approx(list(tests[name].confidence_interval(1.0 - level)))
        assert (compared["word"] in ("supports", "higher", "lower")) == (highest <= 0.05)
    # 只有 digits 记下了哪些图；界限按合起来的水平，不窄于第一个区间
    assert {name for name, on in seen.items() if "beyond" in on["compared"]} == {
        ("digits", "without"),
        ("digits", "other"),
    }
    for arm in ("without", "other"):
        compared = seen["digits", arm]["compared"]
        level = 1.0 - compared["beyond_level"] / 100.0
        assert compared["beyond_level"] >= compared["interval_level"]
        wrong = np.array([right("baseline", seed) * 1.0 - right(arm, seed) for seed in range(8)])
        low, high = crossed_limits(crossed_effects(wrong), level)
        ends = [min(100 * low, compared["interval"][0]), max(100 * high, compared["interval"][1])]
        assert compared["beyond"] == pytest.approx(ends)
        alone = next(one for one in document["answers"][0]["answer"]["arms"] if one["name"] == arm)
        assert alone["beyond_level"] < compared["beyond_level"]
    without, other = joint["comparisons"]
    assert (without["sentence"], without["replicates"]) == ("on 2 of 2", 2)
    assert (other["sentence"], other["words"]) == ("higher on 1, lower on 1 of 2", {"higher": 1, "lower": 1})
    assert not [field for field in document["replication"] if "pool" in field], "no effect over data sets"
    # 页面只由答案做出：连记录都不在了也一样
    folder = tmp_path / "results" / "studies" / "mine+digits+few"
    assert document["page"] == str(folder / "report.html")
    (tmp_path / "results" / "trials").rename(tmp_path / "elsewhere")
    made = page_files(read_replication(folder))
    assert {name: (folder / name).read_bytes() for name in made} == made
    (tmp_path / "elsewhere").rename(tmp_path / "results" / "trials")
    text = (folder / "report.md").read_text()
    assert "| without | +2.02 points supports (and beyond) | +0.84 points supports | on 2 of 2 |" in text
    assert "No effect is pooled" in text
    low, high = seen["digits", "without"]["compared"]["beyond"]
    assert "| interval for new images |" in text
    assert f"{low:+.2f}, {high:+.2f}" in text
    assert "beyond_low" in (folder / "tables" / "replication.csv").read_text()
    assert low > 0.0
    assert "(And beyond): for new images as well" in text
    told = (folder / "answer.json").read_text().replace('"holds_beyond": true', '"holds_beyond": false')
    assert "and beyond" not in page_files(Replication.model_validate_json(told))["report.md"].decode().lower()
    # 同一份页面可以重做、核对，也看得到
    again = ["mine", "--dataset", "digits,few", "--results", str(tmp_path / "results")]
    before = (folder / "answer.json").read_bytes()
    assert report.main(again) == 0
    assert (folder / "answer.json").read_bytes() == before
    assert report.main([*again, "--check"]) == 0
    assert "mine+digits+few: every verdict is what the records say" in capsys.readouterr().out
    (folder / "answer.json").write_bytes(before.replace(b"on 2 of 2", b"on 1 of 2"))
    assert report.main([*again, "--check"]) == 1
    assert "without: replicates on 1 of 2 in the page, replicates on 2 of 2 from the records" in capsys.readouterr().out
    (folder / "answer.json").write_bytes(before)
    (folder / "report.md").write_text(text.replace("No effect is pooled", "The mean effect is +1.4"))
    assert report.main([*again, "--check"]) == 1
    assert "report.md is not what answer.json says" in capsys.readouterr().out
    (folder / "report.md").write_text(text)
    shown = ["mine+digits+few", "--results", str(tmp_path / "results")]
    assert status.main(shown) == 0
    assert "mine+digits+few on digits, few: 2 data sets" in capsys.readouterr().out
    # 次序不算数；status 给的名字，report 也认得
    other = ["mine", "--dataset", "few, digits", *again[3:]]
    for same in (other, shown):
        assert report.main([*same, "--check"]) == 0
        assert report.main(same) == 0
        assert (folder / "answer.json").read_bytes() == before
    (folder / "report.md").write_text("another")
    assert report.main(["--paper", "--check", *again[3:]]) == 1
    checked = capsys.readouterr().out
    assert "mine-few: every verdict is what the records say" in checked
    assert "mine+digits+few: differs from its records\n  report.md is not what answer.json says" in checked
    (folder / "report.md").write_text(text)
    assert report.main(["--paper", "--check", *again[3:]]) == 0
    assert report.main([*shown, "--dataset", "digits"]) == 2
    assert "mine+digits+few names its data sets itself; leave --dataset out" in capsys.readouterr().err
    # 从前的页面按问的次序写，也没有对新图的界限
    folders = [tmp_path / "results" / "studies" / name for name in ("mine-few", "mine")]
    older = _judged_in_order(report._parts(folders, tmp_path / "results"), tmp_path / "results", Before())
    write_page(folder, older.model_copy(update={"wording": 1}))
    assert "new images" not in (folder / "report.md").read_text()
    assert "mine on few and digits" in (folder / "report.md").read_text()
    assert report.main([*again, "--check"]) == 0
    # 两份报告都看过之后才合起来的，要说出来；先问过的不说，以后也不说
    assert "chosen afterwards" not in text
    folder.rename(folder.with_name("mine+digits+other"))
    assert report.main(again) == 0
    late = (folder / "report.md").read_text()
    assert "digits had been judged alone, few had been judged alone, mine+digits+other had been asked" in late
    assert "(chosen afterwards)" in late
    assert report.main(again) == 0
    assert report.main([*again, "--check"]) == 0
    assert (folder / "report.md").read_text() == late


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["mine", "--dataset", "digits,digits"], "--dataset names digits twice"),
        (["mine", "--dataset", "digits,"], "--dataset digits,: '' is neither a data set nor DATASET=DIR"),
        (["mine+digits+digits"], "--dataset names digits twice"),
        (["mine+"], "--dataset : '' is neither a data set nor DATASET=DIR"),
        (["mine-null", "--dataset", "digits,few"], "study mine-null asks about the randomness of one baseline"),
        (["mine-variance+digits+few"], "study mine-variance asks about the randomness of one baseline"),
        (["mine", "--dataset", "digits,few"], "study mine was asked on digits with --seeds auto"),
    ],
)
def test_what_is_not_judged_together_is_one_line_before_any_report_is_written(
    words: list[str], line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, results = tmp_path / "mine.yaml", tmp_path / "results"
    path.write_text(STUDY)
    for options in (["--null"], ["--variance"], ["--seeds", "auto", "--max-seeds", "9"]):
        for dataset in ("digits", "few"):
            given = [str(path), "--dataset", dataset, "--results", str(results), *options]
            (plan,) = plan_studies(parsed_request(given))
            write_plan(study_folder(results, plan.study.name, dataset, "digits"), plan, given)
    before = sorted(results.rglob("*"))
    assert report.main([*words, "--results", str(results)]) == 2
    output = capsys.readouterr()
    assert line in output.err
    assert (output.out, len(output.err.strip().splitlines())) == ("", 1)
    assert sorted(results.rglob("*")) == before


def test_what_replicates_is_counted_by_the_claim_or_by_the_direction() -> None:
    assert in_words(True, {"supports": 1, "inconclusive": 1}, 2) == (1, "on 1 of 2")
    assert in_words(True, {"contradicts": 2}, 2) == (0, "on 0 of 2")
    assert in_words(False, {"lower": 3}, 3) == (3, "lower on 3 of 3")
    assert in_words(False, {"higher": 1, "lower": 2}, 4) == (2, "higher on 1, lower on 2 of 4")
    assert in_words(False, {"equivalent": 2}, 2) == (0, "on 0 of 2")


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (["--dataset", "digits,cifar10"], "study mine is not asked on cifar10: its images are not at hand"),
        (["--dataset", "digits,imagenet"], "study mine has no recipe for data set 'imagenet'; it has: digits, few"),
        (
            ["--dataset", "cifar10,digits", "--study", "published"],
            "study published is a reproduction: what is",
        ),
        (["--dataset", "digits,cifar10", "--study", "lrn"], "cifar10: this data set lies in a folder: say where with"),
        (["--dataset", "digits,digits"], "--dataset names digits twice"),
        (["--dataset", "digits,"], "--dataset digits,: '' is neither a data set nor DATASET=DIR"),
        (["--dataset", "digits,few="], "'few=' is neither a data set nor DATASET=DIR"),
        (
            ["--dataset", "digits,few", "--seeds", "auto", "--max-seeds", "9"],
            "--seeds auto closes the arms of one data",
        ),
        (["--dataset", "digits,few", "--sweep", "4", "--confirm", "2"], "--sweep, --confirm and --show are for one"),
        (["--dataset", "digits,few", "--show"], "--sweep, --confirm and --show are for one data set"),
        (["--dataset", "digits,few", "--null"], "--study paper, --null and --variance are asked on one data set"),
        (["--dataset", "digits,few", "--study", "paper"], "--study paper, --null and --variance are asked on one data"),
    ],
)
def test_what_cannot_be_asked_on_several_is_one_line_before_anything(
    changes: list[str], line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.yaml").write_text(STUDY)
    study = [] if "--study" in changes else ["--study", str(tmp_path / "mine.yaml")]
    assert ablate.main([*study, *changes, "--results", str(tmp_path / "results")]) == 2
    output = capsys.readouterr()
    assert line in output.err
    assert (output.out, len(output.err.strip().splitlines())) == ("", 1)
    assert not (tmp_path / "results").exists()


def test_a_program_asks_one_data_set_at_a_time(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(STUDY)
    with pytest.raises(LabError, match="run_study asks on one data set"):
        run_study(tmp_path / "mine.yaml", dataset="digits,few", results=tmp_path / "results")


def test_each_data_set_has_its_own_folder_or_the_one_that_is_given_to_all(tmp_path: Path) -> None:
    request = parsed_request(["lrn", "--dataset", f"digits,cifar10={tmp_path}", "--data-root", str(tmp_path / "all")])
    assert [(one.dataset, one.data_root) for one in request.question.on_each] == [
        ("digits", None),
        ("cifar10", tmp_path),
    ]
    request = parsed_request(["lrn", "--dataset", "imagefolder,digits", "--data-root", str(tmp_path)])
    assert request.question.on_each[0].data_root == tmp_path
    assert request.question.on_each[1].data_root is None
    assert parsed_request(["lrn", "--dataset", f"cifar10={tmp_path}"]).question.data_root == tmp_path


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_one_session_trains_both_and_a_stopped_one_goes_on(lab: Lab, tmp_path: Path) -> None:
    (lab.home / "mine.yaml").write_text(STUDY)
    asked = ("--study", "mine.yaml", "--dataset", "digits,few", "--seeds", "2", "--epochs", "1", "--no-dashboard")
    code, output, errors = lab.ablate(*asked, "--slots", "1", "--max-gpu-hours", "1e-9")
    assert code == 0, output + errors
    # 先量一个种子，预算管的是两个数据集
    assert "stopped at the budget: 1 of 2 seeds are complete" in output
    first = {path: path.stat().st_mtime_ns for path in lab.results.glob("trials/*/result.json")}
    assert len(first) == 6
    code, output, errors = lab.ablate(*asked, "--slots", "1")
    assert code == 0, output + errors
    assert "together: 12 trials wanted, 6 on record, 6 to train" in output
    assert output.count("Ray dashboard") <= 1
    assert {path: path.stat().st_mtime_ns for path in first} == first
    lines = (lab.results / "studies" / "mine+digits+few" / "members.jsonl").read_text().splitlines()
    members = [json.loads(line) for line in lines]
    assert {(row["dataset"], row["arm"].split("-")[0]) for row in members} == {("digits", "digits"), ("few", "few")}
    for folder in ("mine", "mine-few", "mine+digits+few"):
        assert (lab.results / "studies" / folder / "report.html").is_file()
    assert "Replicates on how many of 2 data sets" in output
