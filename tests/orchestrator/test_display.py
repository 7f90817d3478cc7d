"""What a user sees while trials run, where the output is no terminal."""

from __future__ import annotations

import time
from io import StringIO

import pytest
from rich.console import Console

from orchestrator.display import Progress


def test_the_time_left_counts_from_the_first_training_and_running_trials_half(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: clock)
    output = StringIO()
    with Progress(Console(file=output, width=200), "title", None) as shown:
        shown.expect([("arm", seed) for seed in range(10)], {})
        clock += 30
        for seed in (0, 1):
            shown.update("arm", seed, "running", "")
        clock += 4
        shown.update("arm", 0, "finished", "1 %")
        shown.update("arm", 2, "running", "")
        clock += 1
        shown.update("arm", 1, "finished", "1 %")
    lines = output.getvalue().splitlines()
    # 4 秒里完成了 1 个和半个；剩 9 个，其中一个已过半
    assert lines[0].endswith(f"finished, validation error 1 %, {4 / 1.5 * 8.5:.0f} s left")
    assert lines[1].endswith(f"finished, validation error 1 %, {5 / 2.5 * 7.5:.0f} s left")
