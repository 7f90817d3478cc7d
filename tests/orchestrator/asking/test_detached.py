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
