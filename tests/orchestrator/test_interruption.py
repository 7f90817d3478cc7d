"""Ctrl-C and SIGTERM at any moment of a command: exit code 130, one line, no traceback, nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from search_spaces.study import load_study
from tests.lab import PATIENCE, Lab, interrupt, wait_until
from tests.made_plans import make_plan
from tests.made_records import put

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

BOTH = [signal.SIGINT, signal.SIGTERM]
STUDY = ("--study", "lrn", "--seeds", "1", "--epochs", "2", "--slots", "1", "--no-dashboard")


def listens(process: subprocess.Popen[str]) -> bool:
    """Whether our handler of SIGTERM is in place: Python itself has none."""
    fields = dict(line.split(":\t", 1) for line in Path(f"/proc/{process.pid}/status").read_text().splitlines())
    return bool(int(fields["SigCgt"], 16) >> (signal.SIGTERM - 1) & 1)


@pytest.mark.parametrize("which", BOTH)
@pytest.mark.parametrize("delay", [0.0, 0.1, 0.3])
def test_while_ablate_is_loaded_and_plans(lab: Lab, which: signal.Signals, delay: float) -> None:
    process = lab.start(*STUDY, "--set", "training.momentum=0.5", "--results", str(lab.results))
    wait_until(lambda: listens(process), 30, "a handler")
    time.sleep(delay)
    interrupt(process, which)
    assert not lab.finished()


@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        ("orchestrator.best", ()),
        ("orchestrator.report", ("--study", "lrn")),
        ("orchestrator.status", ()),
        ("orchestrator.merge", ("other",)),
        ("orchestrator.publish", ("--to", "tensorboard", "runs")),
    ],
)
def test_while_another_command_is_loaded(lab: Lab, module: str, arguments: tuple[str, ...]) -> None:
    process = lab.start(*arguments, "--results", str(lab.results), module=module)
    wait_until(lambda: listens(process), 30, "a handler")
    assert interrupt(process, signal.SIGTERM) == "interrupted"


def blocking_tree(root: Path) -> Path:
    """An image folder of which one file is never read to its end."""
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            (root / split / name).mkdir(parents=True)
            (root / split / name / "1.png").write_bytes(b"no picture")
    os.mkfifo(root / "train" / "cat" / "2.png")
    return root


@pytest.mark.parametrize("which", BOTH)
def test_while_data_is_read_that_does_not_end(lab: Lab, tmp_path: Path, which: signal.Signals) -> None:
    data = ("--dataset", "imagefolder", "--data-root", str(blocking_tree(tmp_path / "data")))
    for signals in (1, 2):
        process = lab.start(*data, "--results", str(lab.results))
        writer = opened_by_a_reader(tmp_path / "data" / "train" / "cat" / "2.png")
        started = time.monotonic()
        if signals == 2:
            process.send_signal(which)
            time.sleep(0.5)
        interrupt(process, which)
        assert time.monotonic() - started < (20 if signals == 1 else 5), "a second one ends it at once"
        os.close(writer)


def opened_by_a_reader(pipe: Path) -> int:
    """Waits until somebody reads the pipe; returns the writing end, which nothing is ever written to."""
    end = time.monotonic() + 30
    while True:
        try:
            return os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:
            assert time.monotonic() < end, "nobody reads"
            time.sleep(0.05)


def starting(title: str) -> Callable[[Lab], bool]:
    return lambda lab: bool(lab.processes(title))


@pytest.mark.parametrize(
    ("which", "reached"),
    [
        (signal.SIGINT, starting("gcs_server")),
        (signal.SIGINT, starting("raylet/raylet")),
        (signal.SIGTERM, starting("raylet/raylet")),
        (signal.SIGTERM, starting("ray::")),
    ],
)
def test_while_ray_starts(lab: Lab, which: signal.Signals, reached: Callable[[Lab], bool]) -> None:
    process = lab.start(*STUDY, "--results", str(lab.results))
    wait_until(lambda: reached(lab), PATIENCE, "Ray starting")
    interrupt(process, which)
    wait_until(lambda: not lab.processes(), 15, "all processes gone")
    assert not list((lab.results / ".ray").glob("*"))


CALLS = """
import sys
from orchestrator import run_study
try:
    run_study("lrn", seeds=1, epochs=1, results=sys.argv[1])
except KeyboardInterrupt:
    print("caught")
"""


def test_while_ray_starts_for_a_program_which_goes_on(lab: Lab) -> None:
    process = lab.start_program(CALLS, str(lab.results), PYTHONPATH=os.pathsep.join(sys.path))
    wait_until(lambda: lab.processes("gcs_server"), PATIENCE, "Ray starting")
    # 程序只听到 Ctrl-C，旁边的进程听到的是它转告的 SIGTERM
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert (process.returncode, output) == (0, "caught\n"), errors
    assert errors.count("interrupted") == 1
    assert "Traceback" not in errors
    wait_until(lambda: not lab.processes(), 15, "all processes gone")
    assert not list((lab.results / ".ray").glob("*"))


FORKS = """
import os, signal, subprocess, sys, time
from alexnet_core.process.interruption import stoppable

def command(arguments):
    if {ray_has_sigterm}:
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(1))
    os.register_at_fork(after_in_parent=lambda: os.kill(os.getpid(), signal.{which}))
    subprocess.run(["true"], preexec_fn=os.setsid)
    time.sleep(60)

raise SystemExit(stoppable(command)([]))
"""


@pytest.mark.parametrize(
    ("which", "ray_has_sigterm"), [(signal.SIGINT, False), *((signal.SIGTERM, has) for has in (False, True))]
)
def test_while_python_ignores_exceptions(lab: Lab, which: signal.Signals, ray_has_sigterm: bool) -> None:
    started = time.monotonic()
    program = FORKS.format(which=which.name, ray_has_sigterm=ray_has_sigterm)
    process = lab.start_program(program, PYTHONPATH=os.pathsep.join(sys.path))
    output, errors = process.communicate(timeout=60)
    assert (process.returncode, output, errors) == (130, "", "interrupted\n")
    assert time.monotonic() - started < 9, "by an exception, not for want of patience"


@pytest.mark.parametrize("which", BOTH)
def test_while_the_report_is_drawn(lab: Lab, which: signal.Signals) -> None:
    for trial in make_plan(load_study("lrn"), 3, epochs=2).trials:
        put(lab.results, trial.config, 20 + trial.seed)
    process = lab.start("--seeds", "3", "--epochs", "2", "--results", str(lab.results))
    wait_until((lab.results / "tables" / "trials.parquet").is_file, 60, "the tables")
    line = interrupt(process, which)
    assert "go on with the same command" in line
    assert lab.ablate("--seeds", "3", "--epochs", "2")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "code", "line"),
    [
        (("--seeds", "3", "--epochs", "2"), 0, "warning: standard output: No space left on device; the study goes on"),
        (("--seeds", "3", "--epochs", "2", "--dry-run"), 1, "error: standard output: No space left on device"),
        (("--list",), 1, "error: standard output: No space left on device"),
    ],
)
def test_output_that_cannot_be_written_is_one_line_and_no_end_of_a_study(
    lab: Lab, arguments: tuple[str, ...], code: int, line: str
) -> None:
    for trial in make_plan(load_study("lrn"), 3, epochs=2).trials:
        put(lab.results, trial.config, 20 + trial.seed)
    command = [sys.executable, "-m", "orchestrator.ablate", *arguments, "--results", str(lab.results)]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (code, line + "\n")
    assert (lab.results / "studies" / "lrn" / "report.html").is_file() == (code == 0)
