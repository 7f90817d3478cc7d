"""Ray's death ends a command with one line and the right code, whoever notices it and whatever came first."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
STOPPED = "interrupted; finished trials are on record and running ones keep their last checkpoint. Go on with the same"
DIED = "error: Ray's raylet died (it ran out of files); every finished trial is on record, run the same command again"
TAKES = "signals.take(); death.take_over(show, signals); "
DIES = "threading.Thread(target=death, args=(words, False)).start(); "
IS_ENDED = "threading.Thread(target=death, args=(words, True)).start(); "
STOPS = "os.kill(os.getpid(), signal.SIGTERM); "
# 名称：（先后发生什么，退出码）
PLOTS = {
    "after a stop": (TAKES + STOPS + DIES, 130),
    # 记录循环还没来得及看，raylet 已因同一个信号而死
    "just before a stop": (TAKES + DIES + "time.sleep(0.5); " + STOPS, 130),
    "without a stop": (TAKES + DIES, 3),
    "while it starts": (DIES, 3),
    "while it starts, asked to end": (IS_ENDED, 130),
    "with its control service": (TAKES + STOPS + DIES + DIES, 130),
    "when the command ends anyhow": ("death_watch.close(); " + DIES, 0),
}
# 载入一次，每个故事一个子进程：守望线程的话说完，进程就结束；没有结束的，打印 lives
PROGRAM = """
import os, signal, sys, threading, time
from rich.console import Console
from orchestrator.running import ray_start
from orchestrator.running.cluster import death_watch
from orchestrator.running.main_loop import StopSignals
from orchestrator.running.notification import Notifier
from orchestrator.running.progress import Progress

def tell(plot, folder):
    for descriptor in (1, 2):
        os.dup2(os.open(f"{folder}/{descriptor}", os.O_WRONLY | os.O_CREAT), descriptor)
    notifier, console = Notifier(), Console(width=200)
    notifier.tell("cat", {})
    death, signals = ray_start.RayDeath(notifier, console), StopSignals()
    show = Progress(console, "", None, str, str)
    words = "Ray's raylet died (it ran out of files)"
    exec(plot)
    time.sleep(4)
    print("lives", flush=True)

children = {}
for plot, folder in zip(sys.argv[1::2], sys.argv[2::2]):
    children[folder] = os.fork()
    if not children[folder]:
        tell(plot, folder)
        os._exit(0)
for folder, child in children.items():
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.slow
def test_ray_dies_before_a_stop_after_it_and_without_one(tmp_path: Path) -> None:
    folders = [tmp_path / str(number) for number in range(len(PLOTS))]
    for folder in folders:
        folder.mkdir()
    words = [word for (plot, _), folder in zip(PLOTS.values(), folders, strict=True) for word in (plot, str(folder))]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *words], cwd=ROOT, capture_output=True, text=True, timeout=200, check=True
    )
    assert list(map(int, done.stdout.split())) == [code for _, code in PLOTS.values()]
    for (name, (_, code)), folder in zip(PLOTS.items(), folders, strict=True):
        output, errors = ((folder / descriptor).read_text() for descriptor in ("1", "2"))
        assert output.count(STOPPED) == (code == 130), name
        assert errors.count(DIED) == (code == 3), name
        assert "Traceback" not in errors, name
        assert output.count('"exit_code": ') == (code != 0), f"{name}: who is to be told is told once"
        assert ("lives" in output) == (code == 0), name
