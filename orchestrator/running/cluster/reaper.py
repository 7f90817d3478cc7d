"""A small process that outlives a driver by seconds and ends what Ray leaves behind.

Ray's dashboard and runtime-environment agents were seen alive more than 40 s after a SIGKILL of the driver: they wait
for a control service that is dead; a driver killed while Ray starts leaves even more. All that a driver starts inherits
a mark in its environment. When the pipe from the driver closes, the driver is gone, however it went.
"""

from __future__ import annotations

import os
import secrets
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

MARK = "ABLATION_DRIVER"
GRACE_SECONDS = 2.0
POLL_SECONDS = 1.0
MOST_SEARCHES = 10


def start(folders: Sequence[Path] = ()) -> subprocess.Popen[bytes]:
    """Marks what this process starts from now on, and starts the reaper; the caller keeps what is returned.

    Args:
        folders: Deleted, with their locks, after the driver's end, when nothing of it writes there any more.
    """
    mark = secrets.token_hex(8)
    os.environ[MARK] = mark
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "orchestrator.running.cluster.reaper", mark, str(os.getpid())),
            *map(str, folders),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def marked(mark: str) -> list[psutil.Process]:
    """Returns the living processes with this mark, but for this one; those of other users cannot be looked at."""
    processes = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.status() == psutil.STATUS_ZOMBIE or process.pid == os.getpid():
                continue
            # 改过标题的进程会弄乱环境区的开头，psutil 的解析到空串就停，所以直接找字节
            if f"{MARK}={mark}".encode() in Path(f"/proc/{process.pid}/environ").read_bytes():
                processes.append(process)
    return processes


def main() -> int:
    """Waits for the driver's end, gives Ray a moment, kills what is left with its mark, and deletes its folders."""
    seen: set[psutil.Process] = set()
    with suppress(psutil.NoSuchProcess):
        # 进程号由驱动自己告知：它若已死，父进程就是 init，其子孙是整台机器
        driver = psutil.Process(int(sys.argv[2]))
        # 管道可能被别的进程继承而迟迟不关，所以也看父进程还是不是驱动
        while os.getppid() == driver.pid and not select.select([sys.stdin], [], [], POLL_SECONDS)[0]:
            # Ray 的代理改标题时会抹掉自己环境区的一段，记号可能不在了，所以也记住驱动的子孙
            seen |= set(driver.children(recursive=True))
    this = psutil.Process()
    time.sleep(GRACE_SECONDS)
    # 将死的进程还可能生出新的，所以找到没有为止
    for _ in range(MOST_SEARCHES):
        left = [*marked(sys.argv[1]), *(process for process in seen if process != this and process.is_running())]
        if not left:
            break
        for process in left:
            with suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(left, timeout=1.0)
    delete(map(Path, sys.argv[3:]))
    return 0


def delete(paths: Iterable[Path]) -> None:
    """Deletes folders with what is in them, and files; what is not there is none of it."""
    for path in paths:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main())
