"""The folders of a driver that end with it."""

from __future__ import annotations

import os
import shutil
import socket
from pathlib import Path

import psutil

_scratches: list[Path] = []


def scratch_name() -> str:
    """Returns the name of this driver's scratch folder."""
    return f"{socket.gethostname()}-{os.getpid()}"


def scratch_folder(results: Path) -> Path:
    """Makes this driver's scratch folder for Ray Train and Tune, and removes those of dead drivers on this host."""
    # Tune 与 Train 的存储路径必须是绝对的
    parent, host = results.resolve() / ".ray", socket.gethostname()
    for folder in parent.glob(f"{host}-*"):
        owner = folder.name.removeprefix(f"{host}-")
        if owner.isdecimal() and not psutil.pid_exists(int(owner)):
            shutil.rmtree(folder, ignore_errors=True)
    folder = parent / scratch_name()
    folder.mkdir(parents=True, exist_ok=True)
    _scratches.append(folder)
    return folder


def remove_scratch() -> None:
    """Removes the scratch folder; what is in it repeats the records."""
    for folder in _scratches:
        shutil.rmtree(folder, ignore_errors=True)
