"""What the container around this process gives it: Linux limits it with control groups.

Both versions are read, from the process's own group up to the root: the narrowest limit counts. Files:
https://docs.kernel.org/admin-guide/cgroup-v2.html (cpu.max) and cpu.cfs_quota_us of version 1.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

PROCESS = Path("/proc/self")


def cpu_cores(process: Path | None = None) -> int:
    """Returns the whole CPU cores this process may use: its affinity (which is the cpuset), and its groups' quota.

    Args:
        process: The process's folder in /proc; None for this one's.
    """
    quotas = [_quota(group) for group in groups_around(process or PROCESS, "cpu")]
    return max(1, int(min([float(len(os.sched_getaffinity(0))), *(quota for quota in quotas if quota is not None)])))


def groups_around(process: Path, controller: str) -> Iterator[Path]:
    """Yields the folders of the groups around a process that may limit what a controller governs, the innermost first.

    Args:
        process: The process's folder in /proc.
        controller: `cpu` or `memory`.
    """
    with suppress(OSError):
        paths = _paths(process / "cgroup", controller)
        for mount, root, version in _mounts(process / "mountinfo", controller):
            inside = PurePosixPath(paths.get(version, "/"))
            # 没有 cgroup 命名空间的容器：路径从宿主机算起，挂进来的却只是自己那一截
            below = inside.relative_to(root) if inside.is_relative_to(root) else PurePosixPath()
            folder = mount / below
            yield from (one for one in (folder, *folder.parents) if one.is_relative_to(mount) and one.is_dir())


def number_in(path: Path) -> int | None:
    """Returns the number in a file; None where there is none, or the word `max`."""
    with suppress(OSError, ValueError):
        return int(path.read_text())
    return None


def _quota(group: Path) -> float | None:
    """The cores that a group may fill; None where it has no limit."""
    with suppress(OSError, ValueError):
        # v2：「配额 周期」，没有限制时是 max
        quota, period = (group / "cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    quota_v1, period_v1 = number_in(group / "cpu.cfs_quota_us"), number_in(group / "cpu.cfs_period_us")
    return quota_v1 / period_v1 if quota_v1 and quota_v1 > 0 and period_v1 else None


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
