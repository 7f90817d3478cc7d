"""Signals and closed pipes in the core's commands: one line at most; programs that only import the core keep theirs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from alexnet_core.process.interruption import owns_process

PATH = os.pathsep.join(sys.path)


def start(*command: str, cwd: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": PATH},
    )


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_command_with_one_line(tmp_path: Path, number: signal.Signals) -> None:
    with start("alexnet_core", "sanity", "--device", "cpu", cwd=tmp_path) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "devices of the two towers: cpu, cpu\n"
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (130, "interrupted\n")


@pytest.mark.slow
def test_a_reader_that_goes_is_no_error(tmp_path: Path) -> None:
    with start("alexnet_core", "sanity", "--device", "cpu", cwd=tmp_path) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 141


@pytest.mark.parametrize("package", ["alexnet_core", "orchestrator", "search_spaces"])
def test_a_program_that_imports_us_keeps_its_signals(tmp_path: Path, package: str) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "__init__.py").write_text(f"import {package}\n")
    program = (
        "import signal\n"
        "print(signal.getsignal(signal.SIGINT) is signal.default_int_handler, signal.getsignal(signal.SIGTERM).name)\n"
    )
    (tmp_path / "theirs" / "__main__.py").write_text(program)
    # 后台启动的 shell 已让子进程忽略 SIGINT：与不导入的同一程序比
    alone = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    with start("theirs", cwd=tmp_path) as process:
        output, errors = process.communicate(timeout=60)
    assert (output, errors) == (alone.stdout, "")


@pytest.mark.parametrize(
    ("words", "ours"),
    [
        (["python", "-m", "orchestrator.ablate", "--study", "lrn"], True),
        (["python", "-X", "dev", "-W", "error", "-um", "alexnet_core", "train"], True),
        (["python", "program.py", "-m", "orchestrator"], False),
        (["python", "-c", "import orchestrator", "-m", "orchestrator"], False),
        (["python", "-m", "pytest", "-m", "orchestrator"], False),
        (["python", "-m"], False),
        (["python"], False),
    ],
)
def test_a_process_is_ours_where_the_interpreter_was_told_so(
    words: list[str], ours: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "orig_argv", words)
    assert owns_process() is ours


ENDING = """
import os, signal
from alexnet_core.process.interruption import watch_from_the_start

class Late:
    # 默认参数：收尾时模块里的名字已经没了
    def __del__(self, kill=os.kill, pid=os.getpid(), number=signal.{name}):
        kill(pid, number)

watch_from_the_start()
signal.late = Late()
raise SystemExit({code})
"""


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("code", [0, 5])
def test_a_signal_while_python_tears_itself_down_leaves_the_commands_own_code(name: str, code: int) -> None:
    program = ENDING.format(name=name, code=code)
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": PATH},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (code, "", "")
