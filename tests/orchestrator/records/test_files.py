"""Locks: taken is one thing, a file system that has none another, which is one line before anything trains."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.records.files import TrialLocks, append_line, check_locks, read_json_lines
from tests.no_locks import unavailable

ROOT = Path(__file__).parents[3]
KEY = "0123456789abcdef0123"
needs_seccomp = pytest.mark.skipif(bool(unavailable()), reason=unavailable())


def without_locks(program: str, flock: int = errno.ENOSYS, record: int = errno.ENOLCK) -> tuple[int, str]:
    """Runs a program where locks fail; returns its exit code and what it says."""
    begin = f"from tests.no_locks import forbid_locks; forbid_locks({flock}, {record}); import sys\n"
    done = subprocess.run(
        [sys.executable, "-c", begin + program], capture_output=True, text=True, cwd=ROOT, check=False, timeout=120
    )
    return done.returncode, done.stdout + done.stderr


def test_a_trial_is_locked_by_one_process_at_a_time(tmp_path: Path) -> None:
    program = (
        "from pathlib import Path; from orchestrator.records.files import TrialLocks; "
        f"locks = TrialLocks(Path({str(tmp_path)!r})); print(locks.try_lock({KEY!r}), locks.is_locked({KEY!r}))"
    )
    with TrialLocks(tmp_path) as locks:
        assert locks.try_lock(KEY)
        assert without_locks(program, 0, 0) == (0, "False True\n")
    assert without_locks(program, 0, 0) == (0, "True False\n")


@needs_seccomp
@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EIO])
def test_a_lock_that_fails_is_not_one_that_another_has(tmp_path: Path, code: int) -> None:
    program = (
        "from pathlib import Path; from orchestrator.records.files import TrialLocks, LabError\n"
        f"try: print(TrialLocks(Path({str(tmp_path)!r})).try_lock({KEY!r}))\n"
        "except LabError as error: print(error); sys.exit(error.exit_code)\n"
    )
    assert without_locks(program, 0, code)[0] == 3
    assert without_locks(program, 0, errno.EAGAIN) == (0, "False\n")


@pytest.mark.slow
@needs_seccomp
@pytest.mark.parametrize(("flock", "record"), [(errno.ENOSYS, 0), (0, errno.ENOLCK)])
def test_a_study_on_a_file_system_without_either_kind_of_lock_is_one_line(
    tmp_path: Path, flock: int, record: int
) -> None:
    arguments = ["--study", "lrn", "--seeds", "1", "--epochs", "1", "--results", str(tmp_path)]
    program = f"from orchestrator.ablate import main; sys.exit(main({arguments!r}))"
    code, output = without_locks(program, flock, record)
    assert code == 3, output
    lines = [line for line in output.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    reason = os.strerror(flock or record)
    assert lines[0].startswith(f"error: {tmp_path} cannot be locked: {reason}; ")
    assert "--results" in lines[0]
    assert "Traceback" not in output
    assert "another ablate" not in output


def test_trying_locks_leaves_nothing(tmp_path: Path) -> None:
    check_locks(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_line_after_a_torn_one_starts_afresh(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    for before, lines in ((None, 1), (b"", 1), (b'{"a": 0}\n', 2), (b'{"a": 0}\n{"b', 2)):
        if before is not None:
            path.write_bytes(before)
        append_line(path, {"a": 1})
        rows = read_json_lines(path)
        assert len(rows) == lines
        assert rows[-1] == {"a": 1}
