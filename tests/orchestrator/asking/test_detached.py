"""What is seen of a detached command until its study runs or it has ended; test_core_survival.py goes the whole way."""

from __future__ import annotations

import subprocess
import sys
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from orchestrator.ablate import main
from orchestrator.asking import detached
from orchestrator.asking.detached import ask_detached
from orchestrator.options import parsed_request
from orchestrator.running.agenda import folder_of, make_agenda, plan_studies

TWO_DATA_SETS = """name: mine
question: Does it matter?
source: nowhere
baseline: baseline
arms:
  - {name: baseline, title: as it is}
  - {name: without, title: without it, set: {training.momentum: 0.5}}
recipes:
  digits: {margin: 0.3, smallest_effect: 1.0}
  few:
    data: {source: digits, image_size: 16, train_images: 600}
    network: alexnet-mini
    input_size: 16
    training: {epochs: 2, batch_size: 48, learning_rate: 0.008, flips: false}
    margin: 0.3
    smallest_effect: 1.0
"""
# 一行分两次写完；最后半行没有换行
SAYS = "import sys, time; w = sys.stdout.write; w('half '); sys.stdout.flush(); time.sleep(0.6); w('a line\\nno end'); "


def test_lines_are_passed_on_whole_with_the_exit_code(tmp_path: Path) -> None:
    folder, output = tmp_path, StringIO()
    with (folder / "log").open("wb") as log, (folder / "log").open() as said:
        child = subprocess.Popen([sys.executable, "-c", SAYS + "sys.exit(4)"], stdout=log)
        assert detached._code_until_it_runs(child, folder, said, Console(file=output)) == 4
    assert output.getvalue() == "half a line\nno end\n"


@pytest.mark.slow
def test_what_cannot_be_planned_ends_at_once_with_its_own_code_and_line(tmp_path: Path) -> None:
    output = StringIO()
    words = ["lrn", "--det", "--set", "network.lrn9.alpha=1", f"--results={tmp_path}"]
    document = ask_detached(parsed_request(words), Console(file=output, width=500))
    assert document.exit_code == 2
    assert output.getvalue().startswith("error: ")
    assert "lrn9" in output.getvalue()
    assert (tmp_path / "studies" / "lrn" / "detached.log").read_text() == output.getvalue()


@pytest.mark.parametrize(
    "words",
    [
        ["lrn"],
        ["lrn", "--null"],
        ["lrn", "--variance"],
        ["lrn", "--seeds=auto", "--max-seeds=9"],
        ["lrn", "--sweep=3", "--sweep-only"],
        ["activation", "--retune=training.learning_rate"],
        ["towers", "--matched"],
        ["interactions", "--variance"],
        ["mine.yaml", "--dataset=few"],
        ["mine.yaml", "--dataset=few", "--null"],
        ["mine.yaml", "--dataset=few,digits"],
        ["paper"],
    ],
    ids=" ".join,
)
def test_a_command_is_looked_for_where_its_run_says_that_it_runs(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.yaml").write_text(TWO_DATA_SETS)
    monkeypatch.chdir(tmp_path)
    request = parsed_request([*words, f"--results={tmp_path / 'results'}"])
    assert folder_of(request) == make_agenda(plan_studies(request), request).folder


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--json"], "--detach ends before there is an answer, --json is the answer"),
        (["--results", __file__], f"results folder {__file__}: {__file__} is a file; choose another"),
    ],
)
def test_what_goes_with_no_detaching_is_one_line(
    words: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["lrn", "--detach", *words]) == (2 if "--json" in words else 3)
    assert f"error: {line}" in capsys.readouterr().err
