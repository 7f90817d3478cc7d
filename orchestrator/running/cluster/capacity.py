"""What this machine, or the container around this process, gives: CPU cores, memory, and the slots they hold.

Linux limits a container with control groups. Both versions are read, from the process's own group up to the root: the
narrowest limit counts. Files: https://docs.kernel.org/admin-guide/cgroup-v2.html (cpu.max, memory.max) and
https://docs.kernel.org/admin-guide/cgroup-v1/memory.html (memory.limit_in_bytes), cpu.cfs_quota_us of version 1.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

import psutil

from alexnet_core.configuration.wording import counted

PROCESS = Path("/proc/self")
# 在 digits 上实测的 PSS：一个槽位的进程（worker 0.59、控制器、Tune、同步各 0.12 GB），与驱动加 Ray 的守护进程和仪表板
SLOT_BYTES = 950_000_000
DRIVER_BYTES = 1_300_000_000
MORE_MEMORY = "give this machine or container more, or use fewer --slots"


def cpu_cores(process: Path = PROCESS) -> int:
    """Returns the whole CPU cores this process may use: its affinity (which is the cpuset), and its groups' quota.

    Args:
        process: The process's folder in /proc.
    """
    quotas = [_quota(group) for group in _groups(process, "cpu")]
    return max(1, int(min([float(len(os.sched_getaffinity(0))), *(quota for quota in quotas if quota is not None)])))


def memory_bytes(process: Path = PROCESS) -> int:
    """Returns the bytes of memory this process and what it starts may fill: the machine's, or its groups' limit."""
    limits = [
        limit
        for group in _groups(process, "memory")
        for name in ("memory.max", "memory.limit_in_bytes")
        if (limit := _number(group / name)) is not None
    ]
    return min([psutil.virtual_memory().total, *limits])


def slots_in(memory: int, workers: int) -> int:
    """Returns how many slots so many bytes hold beside the driver, at least one.

    Args:
        memory: Bytes.
        workers: Data-parallel workers per slot.
    """
    return max(1, (memory - DRIVER_BYTES) // (SLOT_BYTES * workers))


def memory_need(slots: int, workers: int) -> int:
    """Returns the bytes that slots of so many workers fill, with the driver."""
    return DRIVER_BYTES + slots * workers * SLOT_BYTES


def memory_kills(process: Path = PROCESS) -> int:
    """Returns how many processes the kernel has killed for lack of memory, in this container or on this machine.

    Files: memory.events of version 2, memory.oom_control of version 1, and proc_vmstat(5).
    """
    counters = [
        group / name for group in _groups(process, "memory") for name in ("memory.events", "memory.oom_control")
    ]
    for file in (*counters, Path("/proc/vmstat")):
        with suppress(OSError, ValueError, KeyError):
            return int(dict(line.split() for line in file.read_text().splitlines())["oom_kill"])
    return 0


def lack_of_memory(kills_before: int) -> str:
    """Says that the kernel has killed processes for lack of memory since it had killed so many; nothing where not."""
    kills = memory_kills() - kills_before
    if kills <= 0:
        return ""
    killed = counted(kills, "process", "processes")
    return f"; the kernel killed {killed} here, since {memory_bytes() / 1e9:.1f} GB of memory were full: {MORE_MEMORY}"


def _quota(group: Path) -> float | None:
    """The cores that a group may fill; None where it has no limit."""
    with suppress(OSError, ValueError):
        # v2：「配额 周期」，没有限制时是 max
        quota, period = (group / "cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    quota_v1, period_v1 = _number(group / "cpu.cfs_quota_us"), _number(group / "cpu.cfs_period_us")
    return quota_v1 / period_v1 if quota_v1 and quota_v1 > 0 and period_v1 else None


def _number(path: Path) -> int | None:
    """The number in a file; None where there is none, or the word `max`."""
    with suppress(OSError, ValueError):
        return int(path.read_text())
    return None


def _groups(process: Path, controller: str) -> Iterator[Path]:
    """The folders of the groups around a process that may limit what a controller governs, the innermost first."""
    with suppress(OSError):
        paths = _paths(process / "cgroup", controller)
        for mount, root, version in _mounts(process / "mountinfo", controller):
            inside = PurePosixPath(paths.get(version, "/"))
            # 没有 cgroup 命名空间的容器：路径从宿主机算起，挂进来的却只是自己那一截
            below = inside.relative_to(root) if inside.is_relative_to(root) else PurePosixPath()
            folder = mount / below
            yield from (one for one in (folder, *folder.parents) if one.is_relative_to(mount) and one.is_dir())


def _paths(file: Path, controller: str) -> dict[int, str]:
    """A process's group of a controller, by version: lines `4:memory:/path` of version 1, `0::/path` of version 2."""
    paths = {}
    for line in file.read_text().splitlines():
        number, controllers, path = line.split(":", 2)
        if number == "0" and not controllers:
            paths[2] = path
        elif controller in controllers.split(","):
            paths[1] = path
    return paths


def _mounts(file: Path, controller: str) -> Iterator[tuple[Path, str, int]]:
    """(Folder, the group it shows, version) of what is mounted for a controller; see proc_pid_mountinfo(5)."""
    for line in file.read_text().splitlines():
        before, _, after = line.partition(" - ")
        root, mount = before.split()[3:5]
        kind, _, options = (*after.split(), "", "")[:3]
        if kind == "cgroup2":
            yield Path(mount), root, 2
        elif kind == "cgroup" and controller in options.split(","):
            yield Path(mount), root, 1
