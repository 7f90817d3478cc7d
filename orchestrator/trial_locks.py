"""Locks on trials, so that two commands over one results folder never train the same one."""

from __future__ import annotations

import fcntl
import os
import struct
from pathlib import Path
from types import TracebackType

from orchestrator.records import write_error


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
        """Locks a trial; False when another process has it."""
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _offset(key))
        except OSError:
            return False
        return True

    def unlock(self, key: str) -> None:
        """Frees a trial."""
        fcntl.lockf(self._file, fcntl.LOCK_UN, 1, _offset(key))

    def is_locked(self, key: str) -> bool:
        """Says whether another process runs this trial."""
        # 只询问、不上锁：否则别人正巧来锁时会以为有人在跑
        asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, _offset(key), 1, 0)
        answer = fcntl.fcntl(self._file, fcntl.F_GETLK, asked)
        return int(struct.unpack(_FLOCK, answer)[0]) != fcntl.F_UNLCK

    def close(self) -> None:
        """Frees all locks."""
        self._file.close()


# Linux 的 struct flock：type, whence, start, len, pid
_FLOCK = "hhqqi4x"


def _offset(key: str) -> int:
    # 15 位十六进制 = 60 位偏移：两个 key 相撞的机会可以忽略
    return int(key[:15], 16)
