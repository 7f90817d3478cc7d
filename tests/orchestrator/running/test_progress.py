"""What a user sees while trials run, where the output is no terminal, and where the terminal goes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from io import StringIO

import pytest
from rich.console import Console

from orchestrator.running.progress import Progress


def test_the_time_left_counts_from_the_first_training_and_running_trials_half(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: clock)
    output = StringIO()
    with Progress(Console(file=output, width=200), "title", None) as shown:
        shown.expect([("arm", seed) for seed in range(10)], {})
        clock += 30
        for seed in (0, 1):
            shown.update("arm", seed, "running", "")
        clock += 4
        shown.update("arm", 0, "finished", "1 %")
        shown.update("arm", 2, "running", "")
        clock += 1
        shown.update("arm", 1, "finished", "1 %")
    lines = output.getvalue().splitlines()
    # 4 秒里完成了 1 个和半个；剩 9 个，其中一个已过半
    assert lines[0].endswith(f"finished, validation error 1 %, {4 / 1.5 * 8.5:.0f} s left")
    assert lines[1].endswith(f"finished, validation error 1 %, {5 / 2.5 * 7.5:.0f} s left")


CLOSED_TERMINAL = """
import os, pty, time
from orchestrator.command import make_console
from orchestrator.running.progress import Progress
ours, theirs = pty.openpty()
os.dup2(theirs, 1)
os.close(theirs)
console = make_console(goes_on=True)
assert console.is_terminal
with Progress(console, "title", None) as shown:
    shown.expect([("arm", 0)], {})
    os.close(ours)
    time.sleep(0.6)
    shown.update("arm", 0, "finished", "1 %")
console.print("the answer")
"""


def test_a_study_whose_terminal_is_closed_goes_on_in_silence() -> None:
    done = subprocess.run(
        [sys.executable, "-c", CLOSED_TERMINAL],
        env={**os.environ, "TERM": "xterm", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    line = "warning: standard output: Input/output error; the study goes on\n"
    assert (done.returncode, done.stdout, done.stderr) == (0, "", line)
