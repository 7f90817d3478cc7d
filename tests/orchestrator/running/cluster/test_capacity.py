"""A container's memory, as its cores, comes from its control groups, of either version."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from orchestrator.running.cluster.capacity import lack_of_memory, memory_bytes, memory_kills, memory_need, slots_in
from tests.fake_groups import MOUNT_V1, MOUNT_V2, process, write

ROOT = Path(__file__).parents[4]
GIB = 1024**3


def test_the_narrowest_group_of_version_2_counts(tmp_path: Path) -> None:
    mount = tmp_path / "cgroup"
    write(mount / "pod", memory__max=str(2 * GIB))
    write(mount / "pod" / "inner", memory__max="max")
    proc = process(tmp_path, MOUNT_V2.format(root="/", mount=mount), "0::/pod/inner\n")
    assert memory_bytes(proc) == min(2 * GIB, psutil.virtual_memory().total)


def test_version_1_has_a_folder_per_controller_and_its_largest_number_is_no_limit(tmp_path: Path) -> None:
    memory = tmp_path / "memory"
    write(memory / "job", memory__limit_in_bytes=str(GIB))
    write(memory, memory__limit_in_bytes="9223372036854771712")
    mounts = MOUNT_V1.format(root="/", mount=memory, controller="memory")
    proc = process(tmp_path, mounts, "4:memory:/job\n1:cpu,cpuacct:/job\n0::/\n")
    assert memory_bytes(proc) == GIB
    (proc / "cgroup").write_text("4:memory:/\n1:cpu,cpuacct:/\n")
    assert memory_bytes(proc) == psutil.virtual_memory().total


@pytest.mark.parametrize("path", ["/docker/abc", "/docker/abc/below", "/elsewhere"])
def test_a_container_that_sees_only_its_part_of_the_tree_is_limited_by_it(tmp_path: Path, path: str) -> None:
    mount = tmp_path / "cgroup"
    write(mount, memory__max=str(GIB))
    proc = process(tmp_path, MOUNT_V2.format(root="/docker/abc", mount=mount), f"0::{path}\n")
    assert memory_bytes(proc) == GIB


def test_without_control_groups_the_machine_counts(tmp_path: Path) -> None:
    assert memory_bytes(tmp_path) == psutil.virtual_memory().total


def test_memory_bounds_the_slots() -> None:
    assert slots_in(GIB // 2, 1) == 1
    for slots, workers in ((1, 1), (7, 1), (3, 2)):
        assert slots_in(memory_need(slots, workers), workers) == slots
        assert slots_in(memory_need(slots, workers) - 1, workers) == max(1, slots - 1)


def test_kills_for_lack_of_memory_are_counted_where_the_process_is(tmp_path: Path) -> None:
    here, v1 = tmp_path / "cgroup", tmp_path / "memory"
    write(here / "pod", memory__events="low 0\noom 9\noom_kill 4\noom_group_kill 0")
    write(here, memory__events="oom_kill 7")
    write(v1 / "job", memory__oom_control="oom_kill_disable 0\nunder_oom 0\noom_kill 2")
    mounts = MOUNT_V2.format(root="/", mount=here) + MOUNT_V1.format(root="/", mount=v1, controller="memory")
    proc = process(tmp_path, mounts, "0::/pod\n")
    assert memory_kills(proc) == 4
    (proc / "cgroup").write_text("4:memory:/job\n")
    (proc / "mountinfo").write_text(MOUNT_V1.format(root="/", mount=v1, controller="memory"))
    assert memory_kills(proc) == 2
    (v1 / "job" / "memory.oom_control").write_text("oom_kill_disable 0\n")
    machine = dict(line.split() for line in Path("/proc/vmstat").read_text().splitlines())
    assert memory_kills(proc) == int(machine.get("oom_kill", 0))
    assert lack_of_memory(memory_kills()) == ""


@pytest.fixture
def limited() -> Iterator[list[Path]]:
    """Real groups of half a core and 3 GiB, of whichever version this machine has."""
    name, made = f"ablation-{os.getpid()}", []
    try:
        for parent, files in (
            ("cpu", {"cpu.cfs_quota_us": "50000"}),
            ("memory", {"memory.limit_in_bytes": str(3 * GIB)}),
            (".", {"cpu.max": "50000 100000", "memory.max": str(3 * GIB)}),
        ):
            folder = Path("/sys/fs/cgroup") / parent / name
            if not (folder.parent / "cgroup.procs").exists():
                continue
            with suppress(OSError):
                folder.mkdir()
                made.append(folder)
                for file, text in files.items():
                    (folder / file).write_text(text)
        if not made:
            pytest.skip("control groups cannot be made here")
        yield made
    finally:
        for folder in made:
            folder.rmdir()


def joins(groups: list[Path]) -> str:
    return "; ".join(f"open({str(folder / 'cgroup.procs')!r}, 'w').write('0')" for folder in groups)


def test_a_real_group_limits_a_real_process(limited: list[Path]) -> None:
    program = (
        f"{joins(limited)}; from alexnet_core.process.control_groups import cpu_cores; "
        "from orchestrator.running.cluster.capacity import memory_bytes; print(cpu_cores(), memory_bytes())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.split() == ["1", str(min(3 * GIB, psutil.virtual_memory().total))]


# 子进程自己先排在最前：内核要杀就杀它
FILLS_THE_MEMORY = """
from pathlib import Path
from orchestrator.running.cluster.capacity import lack_of_memory, memory_kills
before = memory_kills()
child = os.fork()
if child == 0:
    Path("/proc/self/oom_score_adj").write_text("1000")
    bytearray(400_000_000)
    os._exit(0)
os.waitpid(child, 0)
print(lack_of_memory(before))
"""


def test_a_process_that_the_kernel_killed_for_lack_of_memory_is_told(limited: list[Path]) -> None:
    for folder in limited:
        for name in ("memory.limit_in_bytes", "memory.max"):
            if (folder / name).exists():
                (folder / name).write_text("200000000")
    program = f"import os; {joins(limited)}{FILLS_THE_MEMORY}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.startswith("; the kernel killed 1 process here, since 0.2 GB of memory were full: give this")
