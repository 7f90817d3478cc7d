"""`ablate --variance`: how far the baseline scatters with one source of randomness drawn anew at a time."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from scipy import stats

from alexnet_core.data.dataset import DataSummary
from orchestrator import merge, report, status
from orchestrator.ablate import main
from orchestrator.cores.classifiers.core import core as torchvision
from orchestrator.cores.contract import ContractError
from orchestrator.cores.identity import description_of_core
from orchestrator.cores.reports import checked_draws
from orchestrator.judging.answer import SourceSpread
from orchestrator.judging.notes import on_the_variance, remarks
from orchestrator.options import parsed_request
from orchestrator.planning.plan import Plan
from orchestrator.planning.plan_file import plan_on_record, write_plan
from orchestrator.planning.variants.baseline_alone import no_split, variance_plan
from orchestrator.reporting.check import check_report
from orchestrator.reporting.text_tables import variance_table
from orchestrator.running.agenda import plan_studies
from orchestrator.sweeps.confirmation import confirmation_trials
from orchestrator.tables.ranking import finished_trials, rank
from orchestrator.tables.tables import load_trials
from search_spaces.core_config import CoreConfig, CoreData
from search_spaces.study import Study, load_study
from search_spaces.yaml_file import parse_model
from tests.alexnet_core.data.pictures import tree
from tests.made_core_records import write_walk
from tests.made_designs import make_judged, make_study
from tests.made_plans import make_plan
from tests.made_records import put
from tests.orchestrator.judging.test_reproduction import study_of

SEEDS, TEST_IMAGES, MARGIN = 6, 359, 0.5
# 种子 0 是各行共有的同一个 trial
WRONG = {
    "seed": [5, 9, 3, 8, 6, 2],
    "initialisation": [5, 7, 4, 8, 6, 5],
    "order": [5, 6, 5, 4, 5, 6],
    "dropout": [5, 5, 5, 5, 5, 5],
    "split": [5, 3, 7, 4, 8, 2],
    "all_together": [5, 12, 2, 9, 1, 7],
}


def asked(results: Path, *more: str) -> list[str]:
    return ["lrn", "--variance", "--seeds", str(SEEDS), "--results", str(results), *more]


def planned(results: Path) -> Plan:
    return plan_studies(parsed_request(asked(results)))[0]


def put_all(results: Path) -> None:
    done = set()
    for trial in planned(results).trials:
        if trial.key not in done:
            put(results, trial.config, test_wrong=WRONG[trial.arm][trial.seed])  # type: ignore[arg-type]
            done.add(trial.key)


def seeds_for(margin: float, deviation: float) -> int:
    """The fewest seeds with 80 % power of a two-sided t test at 5 %, of differences with this deviation."""
    for seeds in range(2, 100_000):
        bound, shift = stats.t.ppf(0.975, seeds - 1), margin / deviation * math.sqrt(seeds)
        power = stats.nct.sf(bound, seeds - 1, shift) + stats.nct.cdf(-bound, seeds - 1, shift)
        if power >= 0.8:
            return seeds
    raise AssertionError


@pytest.mark.slow
def test_each_row_draws_its_source_alone_and_all_share_the_training_with_seed_0(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = planned(tmp_path)
    assert [arm.name for arm in plan.study.arms] == [*WRONG]
    by_cell = {(trial.arm, trial.seed): trial for trial in plan.trials}
    assert len({by_cell[arm, 0].key for arm in WRONG}) == 1
    assert len({trial.key for trial in plan.trials}) == 1 + 6 * (SEEDS - 1)
    plain = {trial.key for trial in make_plan(load_study("lrn"), SEEDS).trials if trial.arm == "baseline"}
    assert {by_cell["seed", seed].key for seed in range(SEEDS)} == plain
    config = by_cell["order", 4].config
    assert (config.seed, config.seeds.model_dump()) == (0, {"order": 4})
    split, every = by_cell["split", 4].config, by_cell["all_together", 4].config
    assert (split.seed, split.data.resplit, every.seed, every.data.resplit) == (0, 4, 4, 4)  # type: ignore[union-attr]
    # 研究的基线已在记录里：不再训练
    for trial in make_plan(load_study("lrn"), SEEDS).trials:
        if trial.arm == "baseline":
            put(tmp_path, trial.config)  # type: ignore[arg-type]
    assert main(asked(tmp_path, "--dry-run")) == 0
    output = capsys.readouterr().out
    assert output.startswith("31 trials wanted, 6 on record, 25 to train")
    assert "6 seeds tell each standard deviation to between 0.62 and 2.45 times itself" in output
    assert "\n    dropout: 6 trials, 1 on record, 5 to run\n" in output
    assert main([*asked(tmp_path)[:2], "--seeds", "1", "--results", str(tmp_path), "--dry-run"]) == 0
    assert "1 seed tells no standard deviation: it takes 3" in capsys.readouterr().out
    # 一个种子没有标准差：也不出错
    assert main([*asked(tmp_path)[:2], "--seeds", "1", "--results", str(tmp_path)]) == 0
    answer = json.loads((tmp_path / "studies" / "lrn-variance" / "answer.json").read_text())
    assert {(one["sd"], one["limits"]) for one in answer["variance"]} == {(None, None)}


@pytest.mark.slow
def test_the_answer_is_that_of_an_independent_calculation_and_its_report_shows_and_checks_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put_all(tmp_path)
    assert main(asked(tmp_path)) == 0
    output = capsys.readouterr().out
    folder = tmp_path / "studies" / "lrn-variance"
    written: dict[str, Any] = json.loads((folder / "answer.json").read_text())
    _check_numbers(written)
    assert "Which randomness moves the baseline of lrn?" in output
    assert re.search(
        r"as small as the margin, 0\.5 points, takes seeds: \d+-\d+ of the usual", output.replace("\n", " ")
    )
    page, text = (folder / "report.html").read_text(), (folder / "report.md").read_text()
    assert "Which randomness matters" in page
    assert "crops, flips and colour noise: none, since there are no flips" in text
    assert (folder / "figures" / "variance.svg").is_file()
    assert not (folder / "figures" / "differences.svg").exists()
    frame = pl.read_csv(folder / "tables" / "variance.csv")
    assert frame["name"].to_list() == [one["name"] for one in written["variance"]]
    assert frame["sd"].to_list() == [one["sd"] for one in written["variance"]]
    # 每条记录都在它的行与种子之下，虽然那些 trial 自己的种子是 0
    source = json.loads((folder / "provenance.json").read_text())["records"]
    assert sorted((one["arm"], one["seed"]) for one in source) == sorted((a, s) for a in WRONG for s in range(SEEDS))
    # plan.json 读回来就是那份计划；什么都没变，报告就不重写
    assert plan_on_record(folder)[0].trials == planned(tmp_path).trials
    assert main(asked(tmp_path)) == 0
    assert "(unchanged)" in capsys.readouterr().out
    assert check_report(folder, tmp_path).differences == []
    # 另一台机器的答案并进来：还是那些 trial
    elsewhere = tmp_path / "elsewhere"
    assert merge.main([str(tmp_path), "--results", str(elsewhere)]) == 0
    capsys.readouterr()
    assert main(asked(elsewhere, "--dry-run")) == 0
    assert capsys.readouterr().out.startswith("31 trials wanted, 31 on record, 0 to train")
    written["variance"][2]["sd"] = 0.1
    (folder / "answer.json").write_text(json.dumps(written, indent=1, sort_keys=True))
    assert any("variance" in line for line in check_report(folder, tmp_path).differences)
    assert status.main(["lrn-variance", "--results", str(tmp_path)]) == 0
    assert "order" in capsys.readouterr().out
    assert report.main(["--study", "lrn-variance", "--baseline", "order", "--results", str(tmp_path)]) == 2
    assert "there is nothing to compare in it" in capsys.readouterr().err
    assert report.main(["--paper", "--results", str(tmp_path)]) == 4
    tables = load_trials(tmp_path)
    assert tables.trials.filter(pl.col("drawn_apart") == "order").height == SEEDS - 1
    assert tables.trials["seeds.order"].drop_nulls().sort().to_list() == [1, 2, 3, 4, 5]
    # 一个种子只算一次：单抽一处的、连同划分一起抽的，都不是又一个种子
    finished = finished_trials(tables.trials, tables.members)
    assert rank(finished, tables.members)["seeds"].to_list() == [SEEDS]


def _check_numbers(answer: dict[str, Any]) -> None:
    rows = {one["name"]: one for one in answer["variance"]}
    assert [*rows] == ["seed", "initialisation", "order", "augmentation", "dropout", "split", "all_together"]
    for name, wrong in WRONG.items():
        errors = 100.0 * np.array(wrong) / TEST_IMAGES
        deviation = errors.std(ddof=1)
        assert rows[name]["n"] == SEEDS
        assert rows[name]["sd"] == pytest.approx(deviation, abs=1e-12)
        if deviation == 0.0:
            assert (rows[name].get("limits"), rows[name].get("seeds_needed")) == (None, None)
            continue
        limits = deviation * np.sqrt((SEEDS - 1) / stats.chi2.ppf([0.975, 0.025], SEEDS - 1))
        assert rows[name]["limits"] == pytest.approx(limits)
        assert rows[name]["seeds_needed"] == [seeds_for(MARGIN, math.sqrt(2.0) * limit) for limit in limits]
    blank = rows["augmentation"]
    assert (blank["n"], blank["sd"], blank["limits"], blank["seeds_needed"]) == (0, None, None, None)
    assert blank["absent"] == "there are no flips, no colour noise and no room for random crops"
    assert {arm["word"] for arm in answer["arms"]} == {"baseline", "not judged"}
    notes = " ".join(answer["notes"])
    assert "Of the single sources, split moves the top-1 test error most" in notes
    low, high = rows["all_together"]["seeds_needed"]
    assert f"{low}-{high} that draw the split anew too (vary: [split] in the recipe)" in notes
    assert "Blank: augmentation, since there are no flips" in notes


@pytest.mark.slow
def test_what_has_no_such_rows_says_so_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def line(*arguments: str) -> str:
        assert main([*arguments, "--dry-run", "--results", str(tmp_path / "r")]) == 2
        errors = capsys.readouterr().err
        assert len(errors.strip().splitlines()) == 1
        return errors

    write_walk(tmp_path)
    assert "core walk declares no sources of randomness" in line(
        str(tmp_path / "walking.yaml"), "--variance", "--core", str(tmp_path / "walk.py")
    )
    assert "have no standard deviation" in line("activation", "--variance")
    assert "--null and --variance are two questions" in line("lrn", "--variance", "--null")
    assert "--variance takes neither --sweep nor --retune" in line("lrn", "--variance", "--sweep", "3")
    assert "--null and --variance need whole arms" in line("lrn", "--variance", "--seeds", "auto", "--max-seeds", "9")
    assert "takes no --sweep, --show, --null, --variance or --retune" in line("paper", "--variance")
    assert main(["batch_norm", "--variance", "--dry-run", "--results", str(tmp_path / "r")]) == 0
    output = capsys.readouterr().out
    arms = re.findall(r"^    (\w+): \d+ trials", output, re.MULTILINE)
    # 默认的配方不增广：没有那一行
    assert arms == ["seed", "initialisation", "order", "split", "all_together"]


def test_a_split_that_nothing_draws_is_blank_and_cannot_be_varied(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tree(tmp_path / "images", ("train", "val"), count=4)
    data = ["--dataset", "imagefolder", "--data-root", str(root), "--results", str(tmp_path / "r"), "--dry-run"]
    assert main(["lrn", "--variance", *data]) == 0
    output = capsys.readouterr().out
    assert "split" not in output
    assert "augmentation: " in output
    mine = tmp_path / "mine.yaml"
    mine.write_text(
        "name: mine\nquestion: Does it?\nsource: me\nbaseline: a\n"
        "arms: [{name: a, title: a}, {name: b, title: b, set: {training.momentum: 0.5}}]\n"
        "recipes:\n  imagefolder: {margin: 0.5, smallest_effect: 1.0, vary: [split]}\n"
        "  digits: {margin: 0.5, smallest_effect: 1.0, vary: [split]}\n"
    )
    assert main([str(mine), *data]) == 2
    assert f"{mine}:7:52: recipes.imagefolder.vary: there is no split to draw anew" in capsys.readouterr().err
    given = mine.read_text()
    # plan.json 里的 arm 才有 varies，用户的文件里没有
    mine.write_text(given.replace("0.5}}]", "0.5}, varies: [nonsense]}]"))
    assert main([str(mine), *data]) == 2
    assert f"{mine}:5:80: arms: varies is what --variance gives an arm; leave it out" in capsys.readouterr().err
    mine.write_text(given)
    plan = plan_studies(parsed_request([str(mine), "--dataset", "digits", "--results", str(tmp_path / "r")]))[0]
    drawings = {(trial.seed, trial.config.data.resplit) for trial in plan.trials}  # type: ignore[union-attr]
    assert drawings == {(seed, seed) for seed in range(8)}
    # 复核扫描的点也是裁决：同一种子的点与基线用同一个划分
    points = {"seeds": 2, "points": [{"name": "point-1", "parameters": {"training.learning_rate": 0.01}}]}
    fresh = confirmation_trials(plan, points)
    assert [(trial.arm, trial.config.data.resplit) for trial in fresh] == [  # type: ignore[union-attr]
        (arm, seed) for seed in (2000, 2001) for arm in ("a", "point-1")
    ]
    write_plan(tmp_path / "r" / "studies" / "mine", plan, [])
    assert plan_on_record(tmp_path / "r" / "studies" / "mine")[0].trials == plan.trials


@pytest.mark.parametrize("published", [False, True])
def test_seeds_are_needed_of_one_arm_against_a_published_value_and_by_no_row_that_lost_one(
    tmp_path: Path, published: bool
) -> None:
    of_two = "name: mine\nquestion: q\nsource: s\nbaseline: a\narms: [{name: a, title: a}, {name: b, title: b}]\n"
    recipes = "recipes: {digits: {margin: 0.5, smallest_effect: 1.0}}\n"
    study = study_of(18.0) if published else parse_model(of_two + recipes, Study, "mine.yaml")
    plan = variance_plan(make_plan(study, SEEDS))
    write_plan(tmp_path, plan, [])
    assert plan_on_record(tmp_path)[0].study == plan.study
    wrong: dict[str, list[int | str]] = {arm.name: [180, 183, 186, 181, 179, 187] for arm in plan.study.arms}
    wrong["order"] = [*wrong["order"][1:], "diverged"]
    answer = make_judged(plan.study, wrong, base=plan.base.model_dump(mode="json"))
    rows = {one.name: one for one in answer.variance}
    assert (rows["seed"].limits is not None, rows["order"].limits is not None) == (True, True)
    times = 1.0 if published else math.sqrt(2.0)
    assert rows["seed"].seeds_needed == tuple(seeds_for(MARGIN, times * end) for end in rows["seed"].limits or ())
    assert (rows["order"].n, rows["order"].seeds_needed) == (SEEDS - 1, None)
    assert ["published" in note for note in answer.notes if note.startswith("Seeds needed")] == [published]
    (cells,) = (row for row in variance_table(answer).rows if row[0] == "order")
    assert (cells[2], cells[-1]) == (str(SEEDS - 1), "")


def test_no_headline_rests_on_rows_that_lost_seeds_and_a_shared_loss_is_counted_once() -> None:
    answer = make_judged(make_study(""), {"a": [20, 24, 18], "b": [29, 30, 28], "c": [21, 23, 19]})
    rows = [(name, sd, (0.5 * sd, 2.0 * sd)) for name, sd in (("seed", 0.9), ("order", 0.3), ("dropout", 0.6))]
    spreads = tuple(
        SourceSpread(name=name, title=name, n=3, sd=sd, limits=at, seeds_needed=(4, 9)) for name, sd, at in rows
    )

    def notes(lost: dict[str, list[int]]) -> str:
        arms = tuple(
            arm.model_copy(
                update={
                    "name": name,
                    "diverged": len(lost.get(name, [])),
                    "errors": {str(seed): 1.0 for seed in range(3) if seed not in lost.get(name, [])},
                }
            )
            for arm, (name, _, _) in zip(answer.arms, rows, strict=True)
        )
        told = tuple(one.model_copy(update={"seeds_needed": None}) if lost.get(one.name) else one for one in spreads)
        return " ".join(on_the_variance(answer.model_copy(update={"arms": arms, "variance": told})))

    whole = notes({})
    assert "Of the single sources, dropout moves" in whole
    assert "To find a difference as small as the margin, 0.5 points, takes seeds: 4-9 of the usual kind" in whole
    shared = notes({"seed": [0], "order": [0, 2], "dropout": [0]})
    assert "says too little: the one with seed 0, which all rows share, order 1. No source" in shared
    assert "Of the single sources" not in shared
    assert "takes seeds" not in shared
    alone = notes({"order": [0, 1]})
    assert "says too little: order 2. No source" in alone
    assert "Of the single sources" not in alone
    assert "takes seeds: 4-9 of the usual kind" in alone


def test_a_core_says_what_a_configuration_and_its_data_draw_none_of() -> None:
    core = description_of_core(torchvision)
    # 没有增广的配置，就没有那一行可练
    plain, distorted = torchvision.config(), torchvision.config(mixup=0.2)  # type: ignore[call-arg]
    assert checked_draws(torchvision, plain) == ("initialisation", "order", "split")
    assert checked_draws(torchvision, distorted) == torchvision.randomness
    for said, why in ((lambda _: ["weather"], "draws returns some of"), (lambda _: 1 / 0, "draws")):
        with pytest.raises(ContractError, match=why):
            checked_draws(replace(torchvision, draws=said), plain)
    config = CoreConfig(core=core, fields={"train_images": 6}, data=CoreData(name="images"), seed=0)
    fixed = DataSummary(digest="0" * 64, class_names=("a", "b"), train=9, validation=2, test=2, fixed_split=True)
    assert no_split(config, fixed) == no_split(config, None) == ""
    whole = config.model_copy(update={"fields": {"train_images": None}})
    assert "no validation images are drawn" in no_split(whole, fixed)
    assert no_split(whole, fixed.model_copy(update={"fixed_split": False})) == ""


def test_what_a_verdict_says_of_seeds_that_draw_their_split() -> None:
    study = make_study("")
    recipe = study.recipes["digits"].model_copy(update={"vary": ("split",)})
    varied = study.model_copy(update={"recipes": {"digits": recipe}})
    wrong = {"a": [20, 24, 18, 22], "b": [29, 30, 28, 33], "c": [21, 23, 19, 22]}
    answer, plain = make_judged(varied, wrong), make_judged(study, wrong)
    assert (answer.vary, "vary" in plain.model_dump()) == (("split",), False)
    said = "Each seed draws its own training and validation images, the same ones in all arms; the test images are "
    assert [note for note in answer.notes if note not in plain.notes] == [f"{said}the same for all."]
    fixed = DataSummary(digest="0" * 64, class_names=("a", "b"), train=9, validation=2, test=2, fixed_split=True)
    part = make_judged(varied, wrong, summary=fixed).notes
    assert any(note.startswith("Each seed draws which of the training images train, the same ones in") for note in part)
    # 没有测试集：验证图自成一处时大家共有，否则各种子是各自的
    for fixed_split, where in ((True, "the validation images are the same for all"), (False, "it is judged on those")):
        noted = answer.model_copy(update={"judged_split": "validation", "fixed_split": fixed_split})
        assert any(f"the same ones in all arms; {where}" in note for note in remarks(noted))
    # 配对、区间与词都不因此变样
    assert answer.arms == plain.arms
