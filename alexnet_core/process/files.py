"""Files that are whole or not there: written under another name, flushed to the disk, then renamed."""

from __future__ import annotations

import glob
import os
import re
import secrets
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

# Linux 内核里的 PROC_PID_INIT_INO
FIRST_PID_NAMESPACE = 0xEFFFFFFC


def is_utf8(name: str) -> bool:
    """Whether a file's name is text that records and manifests can hold."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def shown(name: str) -> str:
    """Returns a file's name on one line: tabs, line breaks and bytes that are not UTF-8 escaped."""
    return name.replace("\t", "\\t").replace("\n", "\\n").encode("utf-8", "backslashreplace").decode()


def reason_of(error: Exception) -> str:
    """Returns what went wrong with a file in one line, without the number and the path that Python adds."""
    reason = error.strerror if isinstance(error, OSError) else None
    return reason or next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)


def home_folder() -> Path | None:
    """Returns the user's home folder; None where HOME is unset, empty, relative or `/` (cron, containers)."""
    home = Path(os.environ.get("HOME", ""))
    return home if home.is_absolute() and len(home.parts) > 1 else None


def check_current_folder() -> None:
    """Refuses to work in a folder that has been deleted: no relative path leads anywhere.

    Raises:
        FileNotFoundError: It has.
    """
    try:
        Path.cwd()
    except FileNotFoundError as error:
        reason = "it is not there any more; change to a folder that is"
        raise FileNotFoundError(error.errno, reason, "the current folder") from error


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`; on success it is flushed and takes the place of `path`.

    Two processes may do so at once: the last one wins, and readers see one whole file or the other.
    """
    for left in abandoned(path):
        left.unlink(missing_ok=True)
    temporary = temporary_path(path)
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        flush_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def temporary_path(path: Path) -> Path:
    """Returns a new hidden name beside `path` that says which process uses it: `.<name>.<random>.<pid>@<place>.tmp`."""
    return path.with_name(f".{path.name}.{secrets.token_hex(6)}.{os.getpid()}@{_place()}.tmp")


@contextmanager
def scratch_folder(name: str) -> Iterator[Path]:
    """Yields a new folder of the temporary folder, for its user alone, and removes it; those of killed processes, too.

    Args:
        name: What it is for, such as `check-core`: who asks for the same name removes what the killed left.
    """
    path = Path(tempfile.gettempdir()) / name
    for left in abandoned(path):
        # 共用的 /tmp 里也有别人的：删不掉就留着
        shutil.rmtree(left, ignore_errors=True)
    folder = temporary_path(path)
    folder.mkdir(mode=0o700)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def pid_namespace() -> int:
    """Returns the number of the namespace in which this process's number is valid; 0 where the system has none.

    Containers with one host name and one folder have the same process numbers, for other processes.
    """
    try:
        return Path("/proc/self/ns/pid").stat().st_ino
    except OSError:
        return 0


def _place() -> str:
    """Where this process's number means something: the host, and the namespace unless it is the host's first."""
    namespace = pid_namespace()
    return socket.gethostname() + (f"+{namespace}" if namespace not in (0, FIRST_PID_NAMESPACE) else "")


def abandoned(path: Path) -> list[Path]:
    """Returns the temporary names beside `path` whose process, on this machine, was killed before it was done."""
    pattern = re.compile(rf"\.[0-9a-f]+\.(\d+)@{re.escape(_place())}\.tmp$")
    left = []
    for other in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        owner = pattern.search(other.name)
        if owner is not None and not _lives(int(owner[1])):
            left.append(other)
    return left


def _lives(pid: int) -> bool:
    with suppress(PermissionError):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
    return True


def flush_folder(folder: Path) -> None:
    """Makes a rename in a folder last through a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
