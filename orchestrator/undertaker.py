"""A small process that outlives a killed driver by seconds and ends what Ray leaves behind.

Ray's dashboard and runtime-environment agents were seen alive more than 40 s after a SIGKILL of the driver: they wait
for a control service that is dead. The driver writes their process numbers to this process's standard input; when
the pipe closes, the driver is gone.
"""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import suppress

import psutil

GRACE_SECONDS = 2.0


def start() -> subprocess.Popen[str]:
    """Starts the undertaker; it ends a little after this process, however this process ends."""
    return subprocess.Popen(
        [sys.executable, "-m", "orchestrator.undertaker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )


def entrust(undertaker: subprocess.Popen[str]) -> None:
    """Names all processes that this one has started so far, at any depth."""
    own = [process for process in psutil.Process().children(recursive=True) if process.pid != undertaker.pid]
    assert undertaker.stdin is not None
    for process in own:
        with suppress(psutil.Error):
            undertaker.stdin.write(f"{process.pid} {process.create_time()}\n")
    undertaker.stdin.flush()


def main() -> int:
    """Waits for the driver's end, gives Ray a moment, and kills what is left of the entrusted processes."""
    entrusted = [line.split() for line in sys.stdin]
    time.sleep(GRACE_SECONDS)
    for pid, created in entrusted:
        with suppress(psutil.Error):
            process = psutil.Process(int(pid))
            # 进程号会被重用，创建时间一致才是同一个进程
            if process.create_time() == float(created):
                process.kill()
    return 0


if __name__ == "__main__":
    sys.exit(main())
