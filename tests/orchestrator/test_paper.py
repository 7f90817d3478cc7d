"""All studies at once: every shared trial is trained once, and every study gets its own answer."""

from __future__ import annotations

import re
from pathlib import Path

import polars as pl
import pytest

from orchestrator.ablate import main
from orchestrator.running.agenda import _same_images
from orchestrator.tables.tables import load_trials
from search_spaces.study import load_study, study_names
from tests.lab import Lab

STUDIES = {name: load_study(name) for name in study_names()}
CLAIMS = [name for name, study in STUDIES.items() if study.core is None and study.claim is not None]
ASKED = [name for name in CLAIMS if "digits" in STUDIES[name].recipes]


def numbers(line: str) -> list[int]:
    return [int(number) for number in re.findall(r"(\d+) (?:trials wanted|on record|to train)", line)]


def test_the_plan_shares_trials_and_names_what_is_not_asked(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["--study", "paper", "--dry-run", "--seeds", "2", "--results", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    counts = {line.split(":")[0]: numbers(line)[0] for line in lines if "trials wanted" in line}
    assert set(counts) == {*ASKED, "together"}
    # 每个研究 2 个种子；共同的基线只算一次，activation 另有自己的网络
    sharing = [name for name in ASKED if name != "activation"]
    assert counts["together"] == sum(counts[name] for name in ASKED) - 2 * (len(sharing) - 1)
    assert any(line.startswith("colour: not asked on digits: ") for line in lines)
    assert not list(tmp_path.iterdir())


def test_images_are_counted_again_only_where_others_are_held_out() -> None:
    data = STUDIES["lrn"].recipes["digits"].common.data
    assert _same_images(data, STUDIES["depth"].recipes["digits"].common.data)
    assert _same_images(data, data.model_copy(update={"train_images": 100}))
    assert not _same_images(data, data.model_copy(update={"holds_out": False}))
    assert not _same_images(data, STUDIES["lrn"].recipes["cifar10"].common.data)


def test_paper_takes_no_sweep(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["--study", "paper", "--sweep", "3", "--results", str(tmp_path)]) == 2
    assert "--study paper takes no --sweep, --show, --null, --variance or --retune" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_every_claim_is_asked_in_one_session_and_again_from_the_records(lab: Lab) -> None:
    short = ("--seeds", "2", "--epochs", "1", "--tuning-trials", "0")
    arguments = ("--study", "paper", *short, "--slots", "1", "--no-dashboard")
    code, output, errors = lab.ablate(*arguments)
    assert code == 0, output + errors
    trials = list(lab.results.glob("trials/*/result.json"))
    (together,) = [line for line in output.splitlines() if line.startswith("together:")]
    assert numbers(together) == [len(trials), 0, len(trials)]
    for name in ASKED:
        report = (lab.results / "studies" / name / "report.md").read_text()
        # 每个研究的答案写在自己的文件夹里
        assert report.splitlines()[0] == f"# {name} on digits".replace("_", "\\_")
        for arm in load_study(name).arms:
            assert arm.name.replace("_", "\\_") in report
    page = (lab.results / "studies" / "paper" / "report.md").read_text()
    claims, without_study = page.split("## Numbers of the paper without a study")
    assert claims.count("\n| ") == 1 + sum(len(load_study(name).arms) - 1 for name in ASKED)
    assert "37.5 and 17.0 %" in without_study
    assert "- colour is not asked here: " in page
    stamps = {path: path.stat().st_mtime_ns for path in trials}
    code, output, errors = lab.ablate(*arguments, "--keep-weights", "best")
    assert code == 0, output + errors
    finished = load_trials(lab.results).trials.filter(pl.col("state") == "finished")
    assert len(list(lab.results.glob("trials/*/checkpoint/*"))) == finished["configuration"].n_unique()
    assert "0 to train" in output
    code, output, errors = lab.run("paper", "--results", str(lab.results), module="orchestrator.status")
    assert (code, errors) == (0, "")
    assert output.startswith(f"paper on digits: {len(ASKED)} studies\n")
    assert f"\nlrn: {2 * len(load_study('lrn').arms)} finished\n" in output
    assert {path: path.stat().st_mtime_ns for path in lab.results.glob("trials/*/result.json")} == stamps
