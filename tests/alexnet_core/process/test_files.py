"""A temporary file is abandoned when its process has died, as far as that process can be seen from here."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from alexnet_core.process.files import abandoned, pid_namespace, replaced, scratch_folder, temporary_path

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


def test_a_scratch_folder_goes_with_its_process_or_with_the_next_of_its_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    left = left_by(target=tmp_path / "check")
    left.unlink()
    (left / "states").mkdir(parents=True)
    link = left_by(target=tmp_path / "check")
    link.unlink()
    (tmp_path / "mine").mkdir()
    link.symlink_to(tmp_path / "mine")
    with scratch_folder("check") as mine, scratch_folder("check") as other:
        assert not left.exists()
        assert mine.stat().st_mode & 0o777 == 0o700
        assert mine != other
        (mine / "file").write_text("")
    # 链接指到别处去，不跟着走
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["mine", link.name])


def test_a_process_of_another_pid_namespace_is_never_called_dead(tmp_path: Path) -> None:
    apart = ("unshare", "-p", "-f")
    if shutil.which("unshare") is None or subprocess.run([*apart, "true"], check=False).returncode:
        pytest.skip("a PID namespace cannot be made here")
    left = left_by(*apart, target=tmp_path / "file")
    assert left.exists()
    assert abandoned(tmp_path / "file") == []
    assert pid_namespace() == Path("/proc/self/ns/pid").stat().st_ino
