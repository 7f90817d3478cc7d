"""Whole files and locks: atomic writes, appended lines, and one writer at a time."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from alexnet_core.process.files import replaced, temporary_path
from orchestrator.errors import ExitCode, LabError

# POSIX：别的进程有这把锁时，是这两个之一
TAKEN = (errno.EAGAIN, errno.EACCES)
_MAKE_ROOM = "make room and run the same command again"
_WRITE_ELSEWHERE = "copy the folder to where you may write, or choose another with --results"
_WAYS_OUT = {
    errno.ENOSPC: _MAKE_ROOM,
    errno.EDQUOT: _MAKE_ROOM,
    errno.EROFS: _WRITE_ELSEWHERE,
    errno.EACCES: _WRITE_ELSEWHERE,
    errno.EPERM: _WRITE_ELSEWHERE,
}
# Linux 的 struct flock：type, whence, start, len, pid
_FLOCK = "hhqqi4x"


class TrialLocks:
    """Locks on trials that this process runs, freed by its death.

    One file for all, a byte per key: POSIX record locks cost one descriptor for any number of trials, and are not
    inherited by child processes (which would keep a killed driver's locks alive).
    """

    def __init__(self, results: Path) -> None:
        """Opens the lock file, and keeps it open: closing any descriptor of it would free all locks.

        Raises:
            LabError: With exit code 3 when the file cannot be made.
        """
        path = results / ".locks"
        try:
            results.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a+b")
        except OSError as error:
            raise write_error(path, error) from error

    def __enter__(self) -> TrialLocks:
        """Returns itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Frees all locks."""
        self.close()

    def try_lock(self, key: str) -> bool:
        """Locks a trial; False when another process has it.

        Raises:
            LabError: With exit code 3 when the file system has no locks.
        """
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _offset(key))
        except OSError as error:
            # 只有这两个是「别人有」；其余（ENOLCK、ENOSYS）是没有锁，等下去永远没有头
            if error.errno in TAKEN:
                return False
            raise lock_error(Path(self._file.name), error) from error
        return True

    def unlock(self, key: str) -> None:
        """Frees a trial."""
        fcntl.lockf(self._file, fcntl.LOCK_UN, 1, _offset(key))

    def is_locked(self, key: str) -> bool:
        """Says whether another process runs this trial; raises as `try_lock` does."""
        # 只询问、不上锁：否则别人正巧来锁时会以为有人在跑
        query = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, _offset(key), 1, 0)
        try:
            answer = fcntl.fcntl(self._file, fcntl.F_GETLK, query)
        except OSError as error:
            raise lock_error(Path(self._file.name), error) from error
        return int(struct.unpack(_FLOCK, answer)[0]) != fcntl.F_UNLCK

    def close(self) -> None:
        """Frees all locks."""
        self._file.close()


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a file so that a reader sees the old content or the new, also after a crash.

    Raises:
        LabError: With exit code 3 when the disk is full or the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replaced(path) as temporary:
            temporary.write_bytes(content)
    except OSError as error:
        raise write_error(path, error) from error


def append_text(path: Path, text: str) -> None:
    """Appends text to a file, whose folder is made; raises LabError where it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            file.write(text.encode())
    except OSError as error:
        raise write_error(path, error) from error


def append_line(path: Path, content: Mapping[str, Any]) -> None:
    """Appends a JSON line; after a torn last line it starts a new one first."""
    try:
        with path.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(end - 1, 0))
            torn = file.read(1) not in (b"", b"\n")
    except FileNotFoundError:
        torn = False
    except OSError as error:
        raise read_error(path, error) from error
    append_text(path, ("\n" if torn else "") + json.dumps(content, sort_keys=True) + "\n")


def write_error(path: Path, error: OSError) -> LabError:
    """Returns what to say of a file that cannot be written, and of the way out."""
    way_out = _WAYS_OUT.get(error.errno or 0, "mend that and run the same command again")
    return LabError(
        f"{path} cannot be written: {error.strerror or error}; finished trials are on record, {way_out}",
        exit_code=ExitCode.ENVIRONMENT,
    )


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lets one command at a time read and write what a folder holds; freed by a process's death."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / ".lock").open("a")
    except OSError as error:
        raise write_error(folder, error) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            raise lock_error(folder, error) from error
        yield


def check_locks(folder: Path) -> None:
    """Proves that files of a folder can be locked in both ways that records need: whole, and a byte of many.

    Raises:
        LabError: With exit code 3 when the file system has no locks.
    """
    probe = temporary_path(folder / "lock")
    try:
        with probe.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.flock(file, fcntl.LOCK_UN)
            # 与 trial 的锁一样：远在文件末尾之外的一个字节
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _offset("f" * 15))
            fcntl.lockf(file, fcntl.LOCK_UN, 1, _offset("f" * 15))
    except OSError as error:
        raise lock_error(folder, error) from error
    finally:
        probe.unlink(missing_ok=True)


def lock_error(path: Path, error: OSError) -> LabError:
    """Returns what to say of a file system that has no locks, where two commands could write the same record."""
    return LabError(
        f"{path} cannot be locked: {error.strerror or error}; records need a file system with locks (a local disk, or "
        "one mounted with them): choose another with --results",
        exit_code=ExitCode.ENVIRONMENT,
    )


def read_error(path: Path, error: OSError) -> LabError:
    """Returns what to say of a file that cannot be read."""
    return LabError(f"{path} cannot be read: {error.strerror or error}", exit_code=ExitCode.ENVIRONMENT)


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """Reads JSON lines; torn ones (a crash in the middle of a write) are passed over."""
    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise read_error(path, error) from error
    lines = []
    for line in content.split(b"\n"):
        try:
            row = json.loads(line) if line.strip() else None
        except (ValueError, RecursionError):
            # 别人的行也可能嵌套太深，或是几千位的数
            continue
        if isinstance(row, dict):
            lines.append(row)
    return lines


def _offset(key: str) -> int:
    # 15 位十六进制 = 60 位偏移：两个 key 相撞的机会可以忽略
    return int(key[:15], 16)
