"""Cores, GPUs and memory bound the slots together, and the plan line says how much memory they fill."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from orchestrator.planning.estimate import Estimate
from orchestrator.request import Placement
from orchestrator.running import placement
from orchestrator.running.cluster import capacity
from orchestrator.running.placement import likely_place, likely_slots, place_of, time_and_memory
from tests.fake_groups import MOUNT_V2, process, write


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The group's folder of a container on a machine of 64 cores, 1 TB and no GPU."""
    group = tmp_path / "cgroup"
    group.mkdir()
    proc = process(tmp_path, MOUNT_V2.format(root="/", mount=group), "0::/\n")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)))
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=10**12))
    monkeypatch.setattr(placement, "cpu_cores", partial(placement.cpu_cores, proc))
    monkeypatch.setattr(capacity, "memory_bytes", partial(capacity.memory_bytes, proc))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    return group


# 驱动 1.3 GB，每个 worker 0.95 GB
@pytest.mark.parametrize(
    ("cores", "gigabytes", "workers", "slots"),
    [
        pytest.param(8, 25.0, 1, 8, id="cores"),
        pytest.param(8, 4.2, 1, 3, id="memory: 2.9 GB beside the driver"),
        pytest.param(2, 4.2, 1, 2, id="cores, though memory is little"),
        pytest.param(8, 25.0, 2, 4, id="cores of two workers each"),
        pytest.param(8, 4.2, 2, 1, id="memory of two workers each: 1.9 GB"),
        pytest.param(0.5, 0.5, 1, 1, id="neither"),
    ],
)
def test_slots_are_bounded_by_cores_and_by_memory(
    machine: Path, cores: float, gigabytes: float, workers: int, slots: int
) -> None:
    write(machine, cpu__max=f"{int(cores * 100_000)} 100000", memory__max=str(int(gigabytes * 1e9)))
    assert likely_slots(Placement(workers=workers), 2) == slots
    assert likely_place(Placement(workers=workers), 2) == place_of(slots, workers, 0)
    assert likely_place(Placement(slots=7, workers=workers), 2).slots == 7, "as asked"


def test_gpus_and_memory_bound_the_slots_of_a_machine_with_gpus(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement.preflight, "visible_gpus", lambda: 8)
    write(machine, cpu__max="100000 100000", memory__max="25000000000")
    assert likely_slots(Placement(), 2) == 4, "the cores are not counted"
    assert likely_slots(Placement(gpus_per_worker=0.5), 2) == 16
    write(machine, memory__max="4200000000")
    assert likely_slots(Placement(), 2) == 3


def test_the_plan_line_says_how_much_memory_the_trials_fill(machine: Path) -> None:
    write(machine, cpu__max="400000 100000", memory__max="8000000000")

    def said(trials: int, seconds: float = 7200.0, **asked: int | str) -> str:
        request = Placement(**asked)  # type: ignore[arg-type]
        place = likely_place(request, 2)
        cost = Estimate(trials, 10, 0, 3, 2 * seconds, seconds, one_tower=0, idle_seconds=0.0, place=place)
        return time_and_memory(cost, request)

    # 1.3 + 4 × 0.95；8 GB 容得下七个，核只有四个
    assert said(9) == "about 2.0 h (from your own records), memory about 5.1 of 8.0 GB"
    assert said(9, seconds=60.0).startswith("about 60 s (from your own records) plus Ray's start, memory about 5.1 of")
    assert said(2).endswith("memory about 3.2 of 8.0 GB"), "no more slots than trials"
    assert said(9, workers=2).endswith("memory about 5.1 of 8.0 GB")
    assert said(9, slots=8).endswith("memory about 8.9 of 8.0 GB"), "as asked, though it is too much"
    assert said(0) == "none"
    assert "memory" not in said(9, address="head:6379"), "its nodes are not known yet"
