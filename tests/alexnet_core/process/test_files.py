"""A temporary file is abandoned when its process has died, as far as that process can be seen from here."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from alexnet_core.process.files import abandoned, pid_namespace, replaced, temporary_path

PROGRAM = (
    "import sys; from pathlib import Path; from alexnet_core.process.files import temporary_path; "
    "path = temporary_path(Path(sys.argv[1])); path.write_text('half'); print(path)"
)


def left_by(*before: str, target: Path) -> Path:
    """The temporary file of a process that has ended, started with the words `before`."""
    command = [*before, sys.executable, "-c", PROGRAM, str(target)]
    return Path(subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip())


def test_what_a_dead_process_left_is_abandoned_and_what_a_living_one_writes_is_not(tmp_path: Path) -> None:
    target = tmp_path / "file"
    left, mine = left_by(target=target), temporary_path(target)
    mine.write_text("half")
    assert abandoned(target) == [left]
    with replaced(target) as temporary:
        temporary.write_text("whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["file", mine.name])


def test_a_process_of_another_pid_namespace_is_never_called_dead(tmp_path: Path) -> None:
    apart = ("unshare", "-p", "-f")
    if shutil.which("unshare") is None or subprocess.run([*apart, "true"], check=False).returncode:
        pytest.skip("a PID namespace cannot be made here")
    left = left_by(*apart, target=tmp_path / "file")
    assert left.exists()
    assert abandoned(tmp_path / "file") == []
    assert pid_namespace() == Path("/proc/self/ns/pid").stat().st_ino
