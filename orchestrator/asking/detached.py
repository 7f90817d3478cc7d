"""`--detach`: a study in a session of its own, which outlives the terminal that began it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TextIO

from rich.console import Console

from orchestrator.command import check_can_hold_results
from orchestrator.output.document import Document
from orchestrator.output.fitting import print_text
from orchestrator.request import Request
from orchestrator.running.agenda import folder_of
from orchestrator.running.steering import read_runs, status_command

OPTION = "--detach"
LOG = "detached.log"
LOOK_EVERY_SECONDS = 0.2
# 被信号结束的，与 shell 报的一样
SIGNALLED = 128


def ask_detached(request: Request, console: Console) -> Document:
    """Begins a command anew in a session of its own, and shows what it says until its study runs or it has ended.

    What it says goes to `detached.log` in the study's folder, after what is there.

    Args:
        request: What is asked; its command is begun.
        console: Where to print.

    Returns:
        Nothing but the exit code: the command's where it has ended.

    Raises:
        LabError: With exit code 3, where no results can be.
        OSError: Nothing can be written there.
    """
    check_can_hold_results(request.store.results)
    folder = folder_of(request)
    folder.mkdir(parents=True, exist_ok=True)
    # argparse 认得缩写，--det 也是它
    program, *words = (word for word in request.command if len(word) < 5 or not OPTION.startswith(word))
    log = folder / LOG
    # 子进程写，我们另开一个读：同一个描述符只有一个位置
    with log.open("ab") as output, log.open(encoding="utf-8", errors="replace") as said:
        said.seek(0, os.SEEK_END)
        # 自己的会话：终端关了，SIGHUP 到不了它
        child = subprocess.Popen(
            [sys.executable, "-m", program, *words],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        code = _code_until_it_runs(child, folder, said, console)
    if code is not None:
        return Document(exit_code=code)
    status = status_command(folder)
    print_text(console, f"it goes on as process {child.pid}, also without this terminal, and says the rest to {log}")
    print_text(console, f"watch it: {status} --follow")
    print_text(console, f"stop it: {status} --stop")
    return Document()


def _code_until_it_runs(child: subprocess.Popen[bytes], folder: Path, said: TextIO, console: Console) -> int | None:
    """Passes on what a command says; returns its exit code once it has ended, None once its study runs."""
    try:
        while (code := child.poll()) is None:
            _pass_on(said, console, ended=False)
            if any(run.is_here and run.pid == child.pid for run in read_runs(folder)):
                return None
            time.sleep(LOOK_EVERY_SECONDS)
    except KeyboardInterrupt:
        # 还没交接完：Ctrl-C 是对它说的
        child.terminate()
        code = child.wait()
    _pass_on(said, console, ended=True)
    return code if code >= 0 else SIGNALLED - code


def _pass_on(said: TextIO, console: Console, *, ended: bool) -> None:
    """Prints the lines that are new; half of one is left for the next time, unless nobody writes any more."""
    while True:
        place = said.tell()
        line = said.readline()
        if not line or not (ended or line.endswith("\n")):
            said.seek(place)
            return
        print_text(console, line.rstrip("\n"))
