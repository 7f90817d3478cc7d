"""Real commands in real processes, each with a home and a results folder of its own, and nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

MARKER = "ABLATION_TEST_MARKER"
# 慢的机器上 Ray 要一分半才起来；等不到才算错，等多久不算
PATIENCE = 400.0


@dataclass
class Lab:
    """A home folder, a results folder, and the processes started in them."""

    home: Path
    results: Path
    marker: str = field(default_factory=lambda: uuid.uuid4().hex)
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    def start(self, *arguments: str, module: str = "orchestrator.ablate", **variables: str) -> subprocess.Popen[str]:
        """Starts a command of ours; its output is read with communicate()."""
        return self._start(["-m", module, *arguments], variables)

    def start_program(self, program: str, *arguments: str, **variables: str) -> subprocess.Popen[str]:
        """Starts a Python program given as text; it may read its standard input."""
        return self._start(["-c", program, *arguments], variables)

    def _start(self, arguments: list[str], variables: dict[str, str]) -> subprocess.Popen[str]:
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "TUNE_"))},
            "HOME": str(self.home),
            MARKER: self.marker,
            "COLUMNS": "140",
            **variables,
        }
        process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=self.home,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.started.append(process)
        return process

    def run(
        self, *arguments: str, module: str = "orchestrator.ablate", timeout: float = 400, **variables: str
    ) -> tuple[int, str, str]:
        """Runs a command to its end; returns exit code, output and errors."""
        process = self.start(*arguments, module=module, **variables)
        output, errors = process.communicate(timeout=timeout)
        return process.returncode, output, errors

    def ablate(self, *arguments: str, timeout: float = 400) -> tuple[int, str, str]:
        return self.run(*arguments, "--results", str(self.results), timeout=timeout)

    def without_ray(self, *arguments: str) -> tuple[int, str, str]:
        """Runs `ablate` with no process of Ray's: one process trains one trial after the other."""
        where = ("--results", str(self.results))
        return self.run(*arguments, *where, module="tests.without_ray", PYTHONPATH=os.pathsep.join(sys.path))

    def processes(self, title: str = "") -> list[psutil.Process]:
        """The living processes that this lab started, at any depth, whose title has `title` in it."""
        living = []
        for process in psutil.process_iter():
            try:
                if process.status() == psutil.STATUS_ZOMBIE:
                    continue
                # Ray 的代理进程改了标题，环境也随之抹去，只剩工作目录认得出
                if f"{MARKER}={self.marker}" not in _environ(process) and process.cwd() != str(self.home):
                    continue
                if title in " ".join(process.cmdline()) or title in process.name():
                    living.append(process)
            except (psutil.Error, OSError):
                continue
        return living

    def finished(self) -> set[str]:
        return {path.parent.name for path in self.results.glob("trials/*/result.json")}


def _environ(process: psutil.Process) -> str:
    return Path(f"/proc/{process.pid}/environ").read_bytes().decode(errors="replace")


def wait_until(holds: Callable[[], object], seconds: float, what: str) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        time.sleep(0.05)


def is_gone(process: psutil.Process) -> bool:
    """Whether a process has ended; its parent may not have asked yet how."""
    with suppress(psutil.NoSuchProcess):
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    return True


def interrupt(process: subprocess.Popen[str], which: signal.Signals) -> str:
    """Sends the signal; returns the one line that says so."""
    return interrupted(process, which)[0]


def interrupted(process: subprocess.Popen[str], which: signal.Signals) -> tuple[str, str]:
    """Sends the signal; returns the one line that says so, and the whole output."""
    process.send_signal(which)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 130, output + errors
    assert "Traceback" not in output + errors
    lines = [line for line in (*errors.splitlines(), *output.splitlines()) if "interrupted" in line]
    assert len(lines) == 1, output + errors
    return lines[0], output


def names(processes: Sequence[psutil.Process]) -> list[str]:
    shown = []
    for process in processes:
        try:
            shown.append(f"{process.pid} {' '.join(process.cmdline())[:80]}")
        except psutil.Error:
            continue
    return shown


def left_behind(lab: Lab, seconds: float = 30.0) -> list[str]:
    """Kills what is left of a lab's commands after some seconds, and names it; a reaper takes a few."""
    end = time.monotonic() + seconds
    while lab.processes() and time.monotonic() < end:
        time.sleep(0.2)
    return clear(lab)


def clear(lab: Lab) -> list[str]:
    left = lab.processes()
    shown = names(left)
    for process in left:
        try:
            process.send_signal(signal.SIGKILL)
        except psutil.Error:
            continue
    # 失败的测试没等它的进程，不能连累下一个测试
    for started in lab.started:
        started.kill()
        started.wait(timeout=10)
        for pipe in (started.stdin, started.stdout, started.stderr):
            with suppress(OSError):
                if pipe is not None:
                    pipe.close()
    return shown
