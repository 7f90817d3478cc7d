"""The death watch: threads that say when Ray's processes on this machine have died, from their start on.

Ray itself would leave the driver waiting for a minute, and then end it with a code of its own or a traceback.
"""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial

import psutil

NAMES = {"raylet": "Ray's raylet", "gcs_server": "Ray's control service (GCS)"}
LOOK_EVERY_SECONDS = 0.5
ASK_EVERY_SECONDS = 5.0
# 一分钟连不上，Ray 的 C++ 线程就以退出码 1 结束驱动；在那之前说
UNANSWERED_SECONDS = 45.0
# 被请走的进程自己收尾，或者由信号结束
ASKED_TO_END = (0, -signal.SIGTERM)
# 一句谁死了、为什么；是不是有人请它走的
OnDeath = Callable[[str, bool], object]
_closed = threading.Event()
_died = threading.Event()


class DeathWatch:
    """Watches processes until it is closed, or the whole watch is (`close`)."""

    def __init__(self, on_death: OnDeath) -> None:
        """Watches nothing yet.

        Args:
            on_death: Called in a watching thread with who has died and why, and whether it was asked to end.
        """
        self._on_death = on_death
        self._over = threading.Event()

    def add(self, name: str, ended: Callable[[], int | None], last_words: Callable[[], str] = str) -> None:
        """Watches a process of Ray's.

        Args:
            name: Of its program, one of `NAMES`.
            ended: Returns its exit code once it has ended, and None before.
            last_words: Returns what it has logged at its end; not asked of one that was killed.
        """

        def watch() -> None:
            while not (self._over.is_set() or _closed.wait(LOOK_EVERY_SECONDS)):
                code = ended()
                if code is not None and not self._over.is_set() and not _closed.is_set():
                    _died.set()
                    words = "" if code == -signal.SIGKILL else last_words()
                    self._on_death(f"{NAMES[name]} died{words and f' ({words})'}", code in ASKED_TO_END)
                    return

        threading.Thread(target=watch, name=f"{name}-watch", daemon=True).start()

    def add_joined(self) -> None:
        """Watches the raylet of the node that this driver has joined, no child of ours, and the cluster's GCS."""
        import ray

        context = ray.get_runtime_context()
        host, _, port = context.gcs_address.rpartition(":")
        self.add("gcs_server", Unanswered(host.strip("[]"), int(port)))
        # 一台机器上可以有几个 raylet：只要这个驱动所在节点的
        sockets = [node["RayletSocketName"] for node in ray.nodes() if node["NodeID"] == context.get_node_id()]
        for process in psutil.process_iter():
            if _name(process) == "raylet" and _listens_on(_arguments(process), sockets):
                self.add("raylet", partial(_code_of, process))

    def close(self) -> None:
        """Ends this watch: its processes are ended on purpose."""
        self._over.set()


class Unanswered:
    """A process elsewhere counts as ended when its port has been closed for too long: it may be started again."""

    def __init__(self, host: str, port: int) -> None:
        """It answers now."""
        self._place = host, port
        self._answered = self._asked = time.monotonic()

    def __call__(self) -> int | None:
        """Asks now and then; returns 1 once it counts as ended, and None before."""
        now = time.monotonic()
        if now - self._asked > ASK_EVERY_SECONDS:
            self._asked = now
            with suppress(OSError):
                socket.create_connection(self._place, timeout=ASK_EVERY_SECONDS).close()
                self._answered = time.monotonic()
        return 1 if now - self._answered > UNANSWERED_SECONDS else None


def close() -> None:
    """Ends all watches: from now on Ray may die, because nothing needs it or because this process ends it."""
    _closed.set()


def is_closed() -> bool:
    """Says whether `close` was called."""
    return _closed.is_set()


def has_seen_death() -> bool:
    """Says whether a process of Ray's has died under the watch."""
    return _died.is_set()


def _listens_on(arguments: Sequence[str], sockets: Sequence[str]) -> bool:
    # 整个参数相等：另一个节点的套接字以这个的名字开头（raylet.2）
    return any(f"--raylet_socket_name={socket_name}" in arguments for socket_name in sockets)


def _code_of(process: psutil.Process) -> int | None:
    """None while a process lives; else 1, since the code of one that is no child is not known."""
    try:
        return None if process.is_running() and process.status() != psutil.STATUS_ZOMBIE else 1
    except psutil.NoSuchProcess:
        return 1


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
