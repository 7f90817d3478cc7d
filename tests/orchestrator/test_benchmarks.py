"""Benchmarks of real studies run, in small."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.lab import Lab

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_slots_that_only_sleep_end_their_trials_and_the_benchmark_says_what_each_cost(lab: Lab) -> None:
    arguments = ("--parts", "scheduler", "--sleepers", "6")
    code, output, errors = lab.run(*arguments, module="tests.benchmarks.orchestration", PYTHONPATH=str(ROOT))
    assert code == 0, output + errors
    assert "6 trials of 0.5 s asleep in 2 slots: a slot waits" in output
    assert "per trial" in output
