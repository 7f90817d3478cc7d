"""What a user sees while trials run, where the output is no terminal, and where the terminal goes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from io import StringIO

import pytest
from rich.console import Console

from orchestrator.output.fitting import print_text
from orchestrator.running.progress import POINTS, Progress, Shown, cell_text


def test_a_terminal_shows_errors_of_trials_on_record_and_says_of_which_set_they_are() -> None:
    output = StringIO()
    console = Console(file=output, force_terminal=True, width=100)
    shown = Progress(console, "title", None, lambda: "4/9", lambda: "9 s left")
    with shown:
        shown.expect([("arm", 0), ("arm", 1), (POINTS, 0)], {("arm", 0): Shown("finished", "12.5 %")})
        shown.update(("arm", 1), Shown("running", "50.0 % @2"))
    lines = output.getvalue().splitlines()[-7:]
    assert "12.5 %" in "".join(lines)
    assert "50.0 % @2" in "".join(lines)
    assert "waiting" in "".join(lines)
    caption = "validation errors; trials ended: 4/9, 9 s left; in the row sweep, points instead of seeds"
    assert caption in output.getvalue()


def test_without_a_terminal_a_line_says_how_a_trial_ended_and_how_far_the_command_is() -> None:
    output, left = StringIO(), "3 min left"
    with Progress(Console(file=output, width=200), "title", None, lambda: "4/9", lambda: left) as shown:
        shown.say_end(("arm", 3), "finished, validation error 12.5 %")
        left = ""
        shown.say_end((POINTS, 5), "diverged")
    assert output.getvalue().splitlines() == [
        "[4/9] arm seed 3: finished, validation error 12.5 %, 3 min left",
        "[4/9] sweep point 5: diverged",
    ]


@pytest.mark.parametrize("terminal", [False, True])
def test_a_command_to_be_copied_is_broken_by_the_terminal_alone(terminal: bool) -> None:
    output = StringIO()
    command = "python -m alexnet_core train --config '/a folder/config.json'"
    call = 'optuna.load_study(study_name="lrn/arms", storage="sqlite:////a folder/optuna.db")'
    console = Console(file=output, force_terminal=terminal, color_system=None, width=30)
    print_text(console, f"a trial of many words has failed; repeat it with: {command}\nfor Optuna's own tools: {call}")
    print_text(console, command)
    lines = output.getvalue().splitlines()
    if terminal:
        assert [line for line in lines if line in (command, call)] == [command, call, command]
        assert [len(line) > 30 for line in lines] == [False] * (len(lines) - 4) + [True, False, True, True]
    else:
        assert lines == [
            f"a trial of many words has failed; repeat it with: {command}",
            f"for Optuna's own tools: {call}",
            command,
        ]


def test_until_the_first_step_the_screen_says_what_is_happening() -> None:
    stages = ["starting 2 slots", "slot 1 of 2 is up", "reading the data"]
    for terminal in (False, True):
        output = StringIO()
        console = Console(file=output, force_terminal=terminal, color_system=None, width=100)
        with Progress(console, "title", None, lambda: "0/1", lambda: "time left unknown") as shown:
            shown.expect([("arm", 0)], {})
            for stage in stages:
                shown.stage(stage)
                shown.stage(stage)
                shown.refresh()
            shown.say_first_step(12.34)
            # 之后再起来的槽位不是开始
            shown.stage("slot 2 of 2 is up")
        text = output.getvalue()
        places = [text.find(line) for line in (*stages, "first training step after 12.3 s")]
        assert places == sorted(places)
        assert places[0] >= 0
        assert "slot 2 of 2" not in text
        if not terminal:
            assert text.splitlines() == [*stages, "first training step after 12.3 s"]


@pytest.mark.parametrize("width", [*range(36, 60), 60, 79, 80, 120, 200])
def test_a_wide_study_shows_the_columns_that_fit_and_those_that_run(width: int) -> None:
    output = StringIO()
    console = Console(file=output, force_terminal=True, color_system=None, width=width)
    with Progress(console, "a title that is long enough to need two lines", None, lambda: "9/40", lambda: "") as shown:
        cells = [(arm, seed) for seed in range(20) for arm in ("baseline", "no_lrn")]
        shown.expect(cells, {cell: Shown("finished", "12.5 %") for cell in cells if cell[1] < 15})
        shown.update(("baseline", 15), Shown("running", "50.0 % @12"))
        shown.refresh()
    table = re.sub(r"\x1b\[[?\d;]*\w|\r", "", output.getvalue())
    assert "…" not in table
    assert "50.0 % @12" in table
    widest = max(len(line) for line in table.splitlines() if line.startswith("│"))
    assert widest <= width
    # 再多一列就放不下了
    columns = table.splitlines()[-2 - 2].count("│") - 2
    assert columns == 10 or widest + len(" seed 13 │") > width


def test_a_cell_says_the_same_live_and_in_status() -> None:
    assert cell_text("finished", 0.125) == "12.5 %"
    assert cell_text("running", 0.125, 3) == cell_text("interrupted", 0.125, 3) == "12.5 % @3"
    assert cell_text("diverged", 0.9) == "diverged"
    assert cell_text("waiting", None) == "waiting"


CLOSED_TERMINAL = """
import os, pty, time
from orchestrator.output.console import make_console
from orchestrator.running.progress import Progress, Shown
ours, theirs = pty.openpty()
os.dup2(theirs, 1)
os.close(theirs)
console = make_console(goes_on=True)
assert console.is_terminal
with Progress(console, "title", None, lambda: "0/1", lambda: "") as shown:
    shown.expect([("arm", 0)], {})
    os.close(ours)
    time.sleep(0.6)
    shown.update(("arm", 0), Shown("finished", "1 %"))
console.print("the answer")
"""


@pytest.mark.slow
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
