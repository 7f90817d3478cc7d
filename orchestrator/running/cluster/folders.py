"""The folders of a driver that end with it: Ray's session, for its owner alone, and the scratch of Train and Tune."""

from __future__ import annotations

import atexit
import fcntl
import os
import secrets
import shutil
import socket
import stat
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import IO

from alexnet_core.process.files import is_utf8, shown
from orchestrator.errors import ExitCode, LabError
from orchestrator.records.files import TAKEN, lock_error
from orchestrator.running.cluster import reaper

# Linux 的套接字地址最长 107 字节；Ray 在会话文件夹里这样起名
LONGEST_SOCKET = 107
_SOCKET_NAME = "/r/session_YYYY-MM-DD_HH-MM-SS_ffffff_4194304/sockets/plasma_store"
_PREFIX = "ray-"
LONGEST_TEMPORARY = LONGEST_SOCKET - len(_SOCKET_NAME) - len(f"/{_PREFIX}12345678")
# 本进程建的文件夹，和一直握着的锁：锁随进程而去，别人由此知道它还在不在
_made: list[Path] = []
_locks: list[IO[str]] = []


def ray_folder() -> Path:
    """Makes the folder of a Ray of this driver's own, which nobody else may enter.

    It lies in RAY_TMPDIR, or else in the temporary folder, or in `/tmp` where that one's path is too long for Ray's
    sockets. Those of dead drivers of this user on this host, which lie beside it, are removed.

    Raises:
        LabError: With exit code 3 where none of them will do.
    """
    chosen = os.environ.get("RAY_TMPDIR")
    parents = [Path(chosen)] if chosen else [Path(os.environ.get("TMPDIR") or "/tmp"), Path("/tmp")]
    reasons = []
    for parent in dict.fromkeys(parent.absolute() for parent in parents):
        if not is_utf8(str(parent)):
            reasons.append(f"the path of {shown(str(parent))} is not UTF-8")
            continue
        if len(os.fsencode(parent)) > LONGEST_TEMPORARY:
            reasons.append(f"the path of {parent} is too long for Ray's sockets")
            continue
        try:
            # 0700：Ray 把它的文件夹设成谁都能写，所以要套在一个别人进不来的里面
            folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
        except OSError as error:
            reasons.append(f"{parent} cannot be written: {error.strerror}")
            continue
        _add_made(folder)
        _remove_orphans(parent)
        _keep(folder)
        return folder
    raise LabError(
        f"Ray has no folder for its sockets: {'; '.join(reasons)}; set RAY_TMPDIR to a folder that can be written and "
        f"whose path has at most {LONGEST_TEMPORARY} bytes",
        exit_code=ExitCode.ENVIRONMENT,
    )


def _remove_orphans(parent: Path) -> None:
    """Removes the folders of drivers that were killed together with their reaper."""
    for lock in parent.glob(f"{_PREFIX}*/{_lock_name()}"):
        # 别人的文件夹不碰，也不跟着链接走到别处
        with suppress(OSError, LabError):
            status = lock.parent.lstat()
            if status.st_uid != os.getuid() or not stat.S_ISDIR(status.st_mode):
                continue
            with lock.open("a") as file:
                if _is_free(lock, file):
                    shutil.rmtree(lock.parent, ignore_errors=True)


def _keep(folder: Path) -> None:
    """Locks a folder of this driver's for as long as it lives; without locks it only is never taken for an orphan."""
    lock, new = folder / _lock_name(), folder / f"{_lock_name()}.new"
    with suppress(LabError, OSError):
        _lock(new, lock)


def _lock_name() -> str:
    # 共享的文件夹里，别的主机的锁可能看不见
    return f"{socket.gethostname()}.lock"


def _lock(new: Path, lock: Path) -> None:
    """Makes a lock that nobody sees before it is taken, and holds it until this process ends."""
    file = new.open("a")
    _is_free(new, file)
    # 先上锁再改名：别人扫到它时，锁已经在了
    new.rename(lock)
    _locks.append(file)


def scratch_folder(results: Path) -> Path:
    """Makes this driver's scratch folder for Ray Train and Tune, and removes those of dead drivers on this host.

    Who lives is told by a lock and not by a process's number, which containers with one host name have twice.

    Raises:
        LabError: With exit code 3 when the file system has no locks.
    """
    # Tune 与 Train 的存储路径必须是绝对的
    parent, host = results.resolve() / ".ray", socket.gethostname()
    parent.mkdir(parents=True, exist_ok=True)
    for lock in parent.glob(f"{host}-*.lock"):
        with lock.open("a") as file:
            if _is_free(lock, file):
                shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
                lock.unlink(missing_ok=True)
    folder = parent / f"{host}-{os.getpid()}-{secrets.token_hex(4)}"
    lock, new = (folder.with_name(f"{folder.name}{suffix}") for suffix in (".lock", ".lock.new"))
    _lock(new, lock)
    folder.mkdir()
    _add_made(folder, lock)
    return folder


def _add_made(*paths: Path) -> None:
    if not _made:
        # 起 Ray 之前就退出的命令不经过 leave
        atexit.register(remove_folders)
    _made.extend(paths)


def _is_free(path: Path, file: IO[str]) -> bool:
    """Locks a file unless another process has it; says whether it did."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in TAKEN:
            return False
        raise lock_error(path, error) from error
    return True


def made_folders() -> tuple[Path, ...]:
    """Returns the folders of this process, and the locks beside them."""
    return tuple(_made)


def remove_folders() -> None:
    """Deletes the folders of this process: what is in them repeats the records, or is Ray's logs."""
    reaper.delete(_made)
    for lock in _locks:
        lock.close()
    _made.clear()
    _locks.clear()
