"""What memory this machine, or the container around this process, gives, and the slots that it holds.

Files of the control groups: https://docs.kernel.org/admin-guide/cgroup-v2.html (memory.max) and
https://docs.kernel.org/admin-guide/cgroup-v1/memory.html (memory.limit_in_bytes).
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import psutil

from alexnet_core.configuration.wording import counted
from alexnet_core.process.control_groups import PROCESS, groups_around, number_in

# 在 digits 上实测的 PSS：一个槽位的进程（worker 0.59、控制器、Tune、同步各 0.12 GB），与驱动加 Ray 的守护进程和仪表板
SLOT_BYTES = 950_000_000
DRIVER_BYTES = 1_300_000_000
MORE_MEMORY = "give this machine or container more, or use fewer --slots"


def memory_bytes(process: Path = PROCESS) -> int:
    """Returns the bytes of memory this process and what it starts may fill: the machine's, or its groups' limit.

    Args:
        process: The process's folder in /proc.
    """
    limits = [
        limit
        for group in groups_around(process, "memory")
        for name in ("memory.max", "memory.limit_in_bytes")
        if (limit := number_in(group / name)) is not None
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
        group / name for group in groups_around(process, "memory") for name in ("memory.events", "memory.oom_control")
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
