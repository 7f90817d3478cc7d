"""A worker that hangs ends its process by itself, even where Python cannot run."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

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
