"""The death watch: a thread that says when Ray's processes on this machine have died.

Ray itself would leave the driver waiting for a minute, or end it with a traceback.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import psutil

_WATCHED = {"raylet": "Ray's raylet", "gcs_server": "Ray's control service (GCS)"}
_closed = threading.Event()


def watch_ray(on_death: Callable[[str], None], interval_seconds: float = 0.5) -> None:
    """Calls `on_death` with a process's name once Ray's raylet or GCS on this machine has died.

    Args:
        on_death: Called once, in the watching thread.
        interval_seconds: Between two looks.
    """
    children = [process for process in psutil.Process().children(recursive=True) if _name(process) in _WATCHED]
    # 加入现有集群时 raylet 不是我们的子进程
    watched = children or [process for process in psutil.process_iter() if _is_own_raylet(process)]
    names = {process.pid: _WATCHED[_name(process)] for process in watched}

    def watch() -> None:
        while not _closed.wait(interval_seconds):
            for process in watched:
                if not _alive(process) and not _closed.is_set():
                    on_death(names[process.pid])
                    return

    threading.Thread(target=watch, name="ray-watch", daemon=True).start()


def close() -> None:
    """Ends the watch: from now on Ray may die, because nothing needs it or because this process ends it."""
    _closed.set()


def _is_own_raylet(process: psutil.Process) -> bool:
    """Whether a process is the raylet of the node that this driver has joined; a machine may have several."""
    import ray

    here = ray.get_runtime_context().get_node_id()
    sockets = [node["RayletSocketName"] for node in ray.nodes() if node["NodeID"] == here]
    return _name(process) == "raylet" and _listens_on(_arguments(process), sockets)


def _listens_on(arguments: Sequence[str], sockets: Sequence[str]) -> bool:
    # 整个参数相等：另一个节点的套接字以这个的名字开头（raylet.2）
    return any(f"--raylet_socket_name={socket_name}" in arguments for socket_name in sockets)


def _alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _arguments(process: psutil.Process) -> list[str]:
    try:
        return list(process.cmdline())
    except psutil.Error:
        return []


def _name(process: psutil.Process) -> str:
    try:
        return process.name()
    except psutil.Error:
        return ""
