"""Control groups as a process sees them, of either version, in folders of a test."""

from __future__ import annotations

from pathlib import Path

MOUNT_V2 = "30 23 0:26 {root} {mount} rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
MOUNT_V1 = "31 23 0:27 {root} {mount} rw,nosuid - cgroup cgroup rw,{controller}\n"


def process(folder: Path, mounts: str, groups: str) -> Path:
    """What /proc says of a process."""
    made = folder / "proc"
    made.mkdir()
    (made / "mountinfo").write_text(mounts)
    (made / "cgroup").write_text(groups)
    return made


def write(folder: Path, **files: str) -> None:
    """Writes a group's files; two underscores in a name are a dot."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text + "\n")
