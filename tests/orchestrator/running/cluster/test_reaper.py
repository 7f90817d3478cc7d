"""What a killed driver started goes with it, at any depth and whoever its parent is by then."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.lab import is_gone, wait_until

ROOT = Path(__file__).parents[4]

# 孙进程另立会话，父进程一死就归 init：像 Ray 的各个守护进程
DRIVER = """
import subprocess, sys, time
from pathlib import Path
from orchestrator.running.cluster import reaper
keeper = reaper.start([Path(name) for name in sys.argv[1:]])
child = "import subprocess; p = subprocess.Popen(['sleep', '60'], start_new_session=True); print(p.pid, flush=True)"
subprocess.run([sys.executable, "-c", child], check=True)
print(keeper.pid, flush=True)
time.sleep(60)
"""


@pytest.mark.slow
def test_what_a_killed_driver_started_goes_with_it(tmp_path: Path) -> None:
    folder, lock, other = tmp_path / "scratch", tmp_path / "scratch.lock", tmp_path / "other"
    (folder / "tune").mkdir(parents=True)
    for file in (folder / "tune" / "state", lock, other):
        file.touch()
    bystander = subprocess.Popen(["sleep", "60"])
    command = [sys.executable, "-c", DRIVER, str(folder), str(lock), str(tmp_path / "never made")]
    driver = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert driver.stdout is not None
        orphan, keeper = (psutil.Process(int(driver.stdout.readline())) for _ in range(2))
        assert not is_gone(orphan)
        driver.send_signal(signal.SIGKILL)
        driver.communicate()
        wait_until(lambda: is_gone(orphan), 15, "the orphan gone")
        wait_until(lambda: is_gone(keeper), 15, "the reaper gone")
        assert bystander.poll() is None
        assert list(tmp_path.iterdir()) == [other]
    finally:
        for process in (driver, bystander):
            process.kill()
            process.wait()


@pytest.mark.slow
def test_a_driver_that_is_gone_before_the_reaper_looks_costs_nobody_else_anything() -> None:
    """Its parent is then another process: as if that were init, whose descendants are the whole machine."""
    bystander = subprocess.Popen(["sleep", "60"])
    late = subprocess.Popen(["true"])
    late.wait()
    reaper = subprocess.Popen(
        [sys.executable, "-m", "orchestrator.running.cluster.reaper", "0" * 16, str(late.pid)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
    )
    try:
        # 管道一直开着：只凭父进程不是驱动，也要结束
        assert reaper.wait(timeout=30) == 0
        assert bystander.poll() is None
    finally:
        for process in (reaper, bystander):
            process.kill()
            process.wait()
        assert reaper.stdin is not None
        reaper.stdin.close()
