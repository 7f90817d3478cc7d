"""A kill, a torn write, a full disk at a file operation: then the same command ends as an undisturbed one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fault_injection import unavailable

ROOT = Path(__file__).parents[2]


def campaign(folder: Path, *arguments: str) -> dict[str, float]:
    """Runs `python -m tests.fault_study`: in a process of its own, since it forks."""
    reason = unavailable()
    if reason:
        pytest.skip(reason)
    command = [sys.executable, "-m", "tests.fault_study", str(folder), *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    counts: dict[str, float] = json.loads(done.stdout.splitlines()[0])
    return counts


@pytest.mark.slow
def test_a_study_survives_every_fault_and_trains_nothing_twice(tmp_path: Path) -> None:
    # 每一处都试要几分钟（CONTRIBUTING.md 写了命令），这里隔几处试一次
    counts = campaign(tmp_path, "--every", "37")
    assert counts["not survived"] == 0
    assert counts["kill"] >= 7
    assert counts["torn"] >= 1
    assert counts["full"] >= 4
    assert counts["slow"] == 1


@pytest.mark.slow
@pytest.mark.parametrize(("scenario", "every"), [("export", "7"), ("merge", "40"), ("upgrade", "40")])
def test_other_commands_survive_faults(tmp_path: Path, scenario: str, every: str) -> None:
    counts = campaign(tmp_path, "--scenario", scenario, "--every", every)
    assert counts["not survived"] == 0
    assert counts["kill"] >= 3
