"""A report on a core speaks of its metric in its unit: nowhere of percent, points, epochs, images or the paper."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import polars as pl
import pytest

from orchestrator import report, status
from orchestrator.planning.plan import Plan
from orchestrator.planning.plan_file import plan_on_record, write_plan
from orchestrator.planning.retuning import tuning_trials, with_retuning
from orchestrator.records import trial_record
from orchestrator.records.checked_record import read_record
from orchestrator.records.layout import trial_folder
from orchestrator.records.trial_record import join_members
from orchestrator.reporting.conclude import judged_material
from orchestrator.sweeps.confirmation import confirmation_plan, confirmation_trials, write_confirmation
from orchestrator.sweeps.search import Search, read_ended, search_history
from orchestrator.tables.tables import load_trials, update_tables
from search_spaces.core_config import CoreConfig, CoreDescription
from search_spaces.study import Retune
from search_spaces.trial import PlannedTrial
from tests.made_core_records import describe, plan_walk, put_study, put_walk, study_of

POINTS, SEEDS = 12, 8
# 每个 arm 的种子：long 明显更低，springy 看不出差别
VALUES = {
    "baseline": [5.0, 5.3, 4.9, 5.1, 5.2, 4.8, 5.0, 5.4],
    "long": [4.4, 4.9, 4.2, 4.6, 4.7, 4.3, 4.3, 4.9],
    "springy": [5.1, 5.2, 5.0, 5.0, 5.3, 4.7, 5.1, 5.3],
}
EDITS = (("set: {stride.length: 0.8}", "set: {seed: 9}"),)


def put_trial(results: Path, trial: PlannedTrial, value: float) -> None:
    assert isinstance(trial.config, CoreConfig)
    length = float(trial.config.fields["stride"]["length"])  # type: ignore[index, call-overload, arg-type]
    curve = [dict.fromkeys(trial.config.core.metrics, value * factor) for factor in (1.5, 1.2, 1.0)]
    put_walk(results, trial.config, curve, sizes={"parameters": 10.0, "multiply_adds": 1000.0 / length})


def put_whole_study(results: Path, core: CoreDescription, *changes: tuple[str, str]) -> Plan:
    """A study with all that one can have on record: arms, a sweep with two objectives, a confirmation, re-tuning."""
    plan = plan_walk(study_of(*EDITS, *changes), SEEDS, core)
    retune = Retune(parameter="stride.length", low=0.1, high=1.0, trials=4)
    plan = replace(plan, sweep_points=POINTS, retune=retune)
    put_study(results, plan, VALUES)
    _put_retuning(results, plan)
    plan = with_retuning(plan, results)
    join_members(results, "walking", "default", [*plan.trials, *plan.further])
    search = _put_sweep(results, plan)
    history = search_history(
        search, trial_record.read_members(results, "walking"), lambda key: read_ended(results, key, search.second)
    )
    confirmation = confirmation_plan(search, history, 2, SEEDS, {})
    write_confirmation(results / "studies" / "walking", confirmation)
    for place, trial in enumerate(confirmation_trials(plan, confirmation)):
        put_trial(results, trial, (5.0 if trial.arm == "baseline" else 4.5) + 0.1 * (place % 5))
        join_members(results, "walking", "default", [trial])
    write_plan(results / "studies" / "walking", plan, ["ablate.py", "--study", "walking.yaml"])
    update_tables(results)
    return plan


def _put_retuning(results: Path, plan: Plan) -> None:
    for place, trial in enumerate(tuning_trials(plan)):
        put_trial(results, trial, 4.0 + 0.1 * (place % 7))
    for trial in with_retuning(plan, results).further:
        # 最好的值就是配方自己的，那些 trial 已经有了
        if trial.phase == "retuned" and read_record(trial_folder(results, trial.key)) is None:
            put_trial(results, trial, VALUES[trial.arm.removesuffix("-retuned")][trial.seed] - 0.2)


def _put_sweep(results: Path, plan: Plan) -> Search:
    assert plan.study.sweep is not None
    search = Search("walking/sweep", plan.study.sweep, plan.base, POINTS, second="multiply_adds")
    for position in range(POINTS):
        parameters = {"stride.length": 0.16 + 0.07 * position}
        trial = search.trial(parameters)
        put_trial(results, trial, 6.0 - parameters["stride.length"] + 0.05 * (position % 3))
        row = {**trial_record.membership("walking", "default", trial), "position": position, "parameters": parameters}
        trial_record.append_members(
            results, "walking", [{**row, "base": search.base_key, "told": [], "sampler": "tpe"}]
        )
    content = {"sampler": "tpe", "pruner": "none", "second_objective": "multiply_adds"}
    (results / "studies" / "walking" / "sweep.json").write_text(json.dumps(content))
    return search


def texts(folder: Path) -> Iterator[tuple[str, str]]:
    """All that a reader of the report reads: pages, tables, and the letters and names of its figures."""
    page = (folder / "report.html").read_text()
    for label in re.findall(r'(?:alt|aria-label|title)="([^"]*)"', page):
        yield "a label of report.html", label
    body = re.sub(r"<svg.*?</svg>|<style.*?</style>|<head>.*?</head>", " ", page, flags=re.DOTALL)
    yield "report.html", re.sub(r"<[^>]*>", "\n", body)
    yield "report.md", (folder / "report.md").read_text()
    for path in sorted((folder / "tables").glob("*.tex")):
        yield path.name, path.read_text().replace("\\%", "%")
    for path in sorted((folder / "tables").glob("*.csv")):
        yield f"the heading of {path.name}", path.read_text().splitlines()[0]
    for path in sorted((folder / "figures").glob("*.svg")):
        letters = "\n".join(element.text or "" for element in ElementTree.parse(path).iter() if element.text)
        yield path.name, letters


# 统计的百分数和扫描的点不是指标的单位
ALLOWED = (
    r"[\d.]+ ?% (?:intervals|power|limits|are kept|slower|faster|of the level)",
    r"\(95 %\)|plain 95 %|(?:at )?[\d.]+ %(?=:| \||\n| &|$| \()",
    r"[-+]\d+ to [-+]\d+ %|\([\d.]+ % over \d+ arms\)",
    r"share, %",
    r"points? (?:of|by|were|that|minus|at)|(?:finished|best|the|these|sweep|\d+) points?|[Nn]o point|the point's",
    r"\(points, tuned values|points: seeds|point-\d+|^\|?\s*point(?: [|&]|$)|claimed_points|% needs \\usepackage",
)
FORBIDDEN = r"%|\bpoints?\b|percent|\bepochs?\b|\berrors?\b|\bpaper|\bimages?\b|AlexNet|top-[15]"


def complaints(folder: Path) -> list[str]:
    found = []
    for where, text in texts(folder):
        # 网页里的数与单位之间不换行
        for line in text.replace("\xa0", " ").splitlines():
            rest = line
            for allowed in ALLOWED:
                rest = re.sub(allowed, "", rest)
            if re.search(FORBIDDEN, rest):
                found.append(f"{where}: {line.strip()[:300]}")
    return found


@pytest.fixture(scope="module")
def in_nats(tmp_path_factory: pytest.TempPathFactory) -> Path:
    results = tmp_path_factory.mktemp("nats") / "results"
    put_whole_study(results, describe())
    assert report.main(["--study", "walking", "--results", str(results)]) == 0
    return results


@pytest.mark.slow
def test_a_report_in_nats_says_nats_and_no_other_unit(in_nats: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = in_nats / "studies" / "walking"
    assert complaints(folder) == []
    shown = dict(texts(folder))
    text = (folder / "report.md").read_text()
    for sentence in (
        "| arm | n | test loss nats, mean ± sd | difference, nats | interval |",
        "| long | 8 | 4.537 ± 0.28 | -0.550 | -0.6",
        "| claimed | verdict |",
        "Equivalent means inside ±0.05 nats",
        "at the smallest effect worth finding, 0.1 nats",
        "Best of 12 sweep points by loss: 5.",
        "<summary>test loss of every seed, nats</summary>",
        "![Differences to the baseline with intervals: long -0.550 nats (supports)",
        "![Seconds over the baseline's and mean test loss of each arm: baseline 1.00, 5.088 nats",
        "| trial | stride.length | loss nats | state |",
        "sweep: lead, nats",
        "Lead: the baseline's loss minus the point's.",
        "The sweep's loss chose these points, so it flatters them.",
        "Pareto front of loss and multiply adds",
        "Every arm tried the same values of stride.length with the same budget",
    ):
        assert sentence in text or sentence in shown["report.html"], sentence
    for row in (
        "| core | walk, version 1 |",
        f"| code of the core, as kept in code/ | {'c0de' * 5} |",
        "| resumes | from its last state |",
    ):
        assert row in text
    assert "difference, nats" in shown["verdicts.tex"]
    assert "test loss, arm minus baseline, nats" in shown["differences.svg"]
    assert "loss, nats" in shown["curves.svg"]
    assert "share of the loss's variance" in shown["importance.svg"]
    assert "seconds per report over the baseline's" in shown["costs.svg"]
    assert {"curves", "differences", "seeds", "costs", "slices", "importance", "front"} <= {
        path.stem for path in (folder / "figures").glob("*.svg")
    }


@pytest.mark.slow
@pytest.mark.parametrize("better", ["lower", "higher"])
def test_a_report_on_a_plain_number_has_no_unit_and_leaves_no_gap_where_it_would_be(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], better: str
) -> None:
    plan = put_whole_study(tmp_path, describe(unit="", better=better))
    assert report.main(["--study", "walking", "--results", str(tmp_path)]) == 0
    answered = capsys.readouterr().out
    folder = tmp_path / "studies" / "walking"
    assert complaints(folder) == []
    text = (folder / "report.md").read_text()
    assert "| arm | n | test loss, mean ± sd | difference | interval |" in text
    assert "differences are arm minus baseline\n" in (folder / "tables" / "verdicts.tex").read_text().replace("}", "\n")
    assert "Equivalent means inside ±0.05;" in text
    lead = "the baseline's loss minus the point's" if better == "lower" else "the point's loss minus the baseline's"
    assert f"Lead: {lead}." in text
    for where, content in [*texts(folder), ("the terminal", answered)]:
        lines = [line for line in content.splitlines() if re.search(r"\S ,|, \||\( |\S  \(| \.$|,$", line.strip())]
        if not where.endswith((".svg", "terminal")):
            assert lines == [], where
    # 最好的点：越高越好时是最高的
    answer = judged_material(*plan_on_record(folder), folder, tmp_path, load_trials(tmp_path)).answer
    shown = [point.validation_error for point in answer.sweep]
    assert shown == sorted(shown, reverse=better == "higher")  # type: ignore[type-var]
    assert plan.study.name in answered


@pytest.mark.slow
def test_times_are_in_reports(tmp_path: Path) -> None:
    threshold = (
        ("baseline: baseline", "baseline: baseline\nprimary_metric: loss\nstatistic: time_to_threshold"),
        ("margin: 0.05, smallest_effect: 0.1", "margin: 1.2, smallest_effect: 1.5, threshold: 5.5"),
    )
    put_whole_study(tmp_path, describe(), *threshold)
    assert report.main(["--study", "walking", "--results", str(tmp_path)]) == 0
    folder = tmp_path / "studies" / "walking"
    assert complaints(folder) == []
    text = (folder / "report.md").read_text()
    assert "| arm | n | reports to loss 5.5 nats, median, seeds that came there | ratio to the baseline |" in text
    assert "reports to loss 5.5 nats of every seed</summary>" in text


@pytest.mark.slow
def test_a_report_is_checked_to_the_last_number(
    in_nats: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = Path(shutil.copytree(in_nats, tmp_path / "results"))
    check = ["--study", "walking", "--check", "--results", str(results)]
    assert report.main(check) == 0, capsys.readouterr().out
    # 另一个 core 带着同名而不同类型的字段来了：这份报告没有变
    strange = CoreConfig(
        core=describe(name="tree"),
        fields={"epochs": "many", "seed": True},
        data=plan_walk(study_of(), 1).base.data,
        seed=0,
    )  # type: ignore[arg-type]
    put_walk(results, strange, [{"loss": 1.0, "test_loss": 1.0}])
    update_tables(results)
    assert load_trials(results).trials["config.epochs"].dtype == pl.String
    assert report.main(check) == 0, capsys.readouterr().out
    key = plan_on_record(results / "studies" / "walking")[0].trials[0].key
    path = results / "trials" / key / "result.json"
    path.write_text(path.read_text().replace('"test_loss": 5.0', '"test_loss": 4.9'))
    capsys.readouterr()
    assert report.main(check) == 1
    output = capsys.readouterr().out
    assert f"record {key} (baseline seed 0): result.json was changed after the report" in output
    assert f"trials.parquet, {key}, metrics.test_loss: 5.0, in the record 4.9" in output
    assert "verdict on long: " in output


@pytest.mark.slow
def test_the_terminal_and_the_page_of_all_claims_say_the_unit(
    in_nats: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = Path(shutil.copytree(in_nats, tmp_path / "results"))
    capsys.readouterr()
    assert report.main(["--study", "walking", "--results", str(results)]) == 0
    output = capsys.readouterr().out
    assert "test loss nats" in output
    assert "error" not in output
    assert status.main(["walking", "--results", str(results)]) == 0
    output = capsys.readouterr().out
    assert "5.000 nats" in output
    assert "shown: loss of core walk" in output
    assert report.main(["--paper", "--results", str(results)]) == 0
    output = capsys.readouterr().out
    assert "-0.550 nats" in output
    assert "points" not in output
    folder = results / "studies" / "paper"
    assert "ImageNet" not in (folder / "report.html").read_text()
    assert "-0.550 nats" in (folder / "report.md").read_text()
    (figure,) = (folder / "figures").glob("*.svg")
    letters = "\n".join(element.text or "" for element in ElementTree.parse(figure).iter())
    assert "difference to the study's baseline in nats of its own metric" in letters
    assert "percentage" not in letters
