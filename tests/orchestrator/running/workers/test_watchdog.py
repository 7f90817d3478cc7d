"""A worker that hangs ends its process by itself, even where Python cannot run; its last words are in the log."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from orchestrator.records.trial_record import log_output

ROOT = Path(__file__).parents[4]

# 只有 0 号 worker 同代理说话，1 号不需要 Ray；PyDLL 的 sleep 一直握着 GIL
WORKER = """
import ctypes, time
import ray
from orchestrator.running.workers import watchdog
watchdog.QUIET_LIMIT_SECONDS = 3.0
place = watchdog.Place(slot=0, rank=1, workers=2, devices=("cpu", "cpu"), broker=None)
watch = watchdog.Watch(place, watchdog.Job("a", "{}", "", 1))
for pause in PAUSES:
    time.sleep(pause)
    watch.should_stop()
    print("batch", flush=True)
watchdog.faulthandler.cancel_dump_traceback_later() if ENDS else ctypes.PyDLL(None).sleep(60)
print("end", flush=True)
"""


# 别的 core 的 trial：准备要 4 秒，比两种限度都长；然后报一次平安或出一次报告，卡死
CORE = """
import ctypes, os, subprocess, sys, time
from pathlib import Path
from orchestrator.running.workers import watchdog
from orchestrator.running.workers.descriptors import output_to
watchdog.QUIET_LIMIT_SECONDS = watchdog.QUIET_LIMIT_BETWEEN_REPORTS_SECONDS = 3.0
hang = ctypes.PyDLL(None).sleep
place = watchdog.Place(slot=0, rank=1, workers=2, devices=("cpu", "cpu"), broker=None)
watch = watchdog.Watch(place, watchdog.Job("a", "{}", "", 1, code="{}"))
with output_to(Path(sys.argv[1]) / "output-1.txt"):
    os.write(2, b"from C code\\n")
    subprocess.run(["sh", "-c", "echo from a child"], check=True)
    hang(4)
    SIGN_OF_LIFE
    print("alive", flush=True)
    hang(60)
"""


@pytest.mark.slow
@pytest.mark.parametrize("sign", ["watch.beat()", "watch.report()"])
def test_a_users_core_is_watched_from_its_first_sign_of_life_on_and_its_last_words_come_into_the_log(
    sign: str, tmp_path: Path
) -> None:
    program = CORE.replace("SIGN_OF_LIFE", sign)
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "")
    log_output(tmp_path)
    # 准备的 4 秒既没有结束它，也没有当作一批而放宽限度
    log = (tmp_path / "log.txt").read_text()
    assert log.startswith("from C code\nfrom a child\nalive\nTimeout (0:00:03)!\n")
    assert 'File "<string>", line' in log
    assert [path.name for path in tmp_path.iterdir()] == ["log.txt"]
    log_output(tmp_path)
    assert (tmp_path / "log.txt").read_text() == log, "once"


@pytest.mark.slow
def test_a_process_that_goes_on_has_its_own_output_again(tmp_path: Path) -> None:
    program = """
import os, sys
from pathlib import Path
from orchestrator.running.workers.descriptors import output_to
print("before")
with output_to(Path(sys.argv[1]) / "output-1.txt"):
    os.write(1, b"within\\n")
os.write(2, b"after\\n")
with output_to(Path(sys.argv[1]) / "missing" / "output-1.txt"):
    print("no room")
"""
    command = [sys.executable, "-c", program, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("before\nno room\n", "after\n")
    # 下一次的 worker 已经打开了它的文件
    (tmp_path / "output-10.txt").write_text("next")
    log_output(tmp_path, 10)
    assert (tmp_path / "log.txt").read_text() == "within\n"
    log_output(tmp_path)
    assert (tmp_path / "log.txt").read_text() == "within\nnext\n"


def worker(pauses: list[float], *, ends: bool) -> tuple[int, list[str], str, float]:
    program = WORKER.replace("PAUSES", repr(pauses)).replace("ENDS", str(ends))
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    return done.returncode, done.stdout.split(), done.stderr, time.monotonic() - start


@pytest.mark.slow
def test_a_process_that_hangs_in_c_code_ends_with_its_stack() -> None:
    code, output, errors, seconds = worker([0.1, 1.2], ends=False)
    assert code == 1
    assert output == ["batch", "batch"]
    assert "Timeout" in errors
    assert "line" in errors
    assert seconds < 45


@pytest.mark.slow
def test_batches_that_come_in_time_are_left_alone_and_slow_ones_widen_the_limit() -> None:
    # 第三个间隔超过 3 秒，但不到最慢一批（1 秒）的十倍
    code, output, _, _ = worker([1.0, 1.0, 4.5], ends=True)
    assert code == 0
    assert output == ["batch", "batch", "batch", "end"]
