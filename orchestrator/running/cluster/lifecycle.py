"""Starting or joining Ray, its broker, and the end of everything that was started.

Ray is imported inside the functions: everything that can be said without it is said before.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, NoReturn

import psutil

from alexnet_core.process.interruption import owns_process
from orchestrator.errors import LabError
from orchestrator.running.cluster import death_watch, folders, reaper
from orchestrator.running.cluster.access import ensure_private_token
from orchestrator.running.cluster.driver_log import quiet_ray
from orchestrator.running.slots.broker import BROKER_NAME, Broker

logger = logging.getLogger(__name__)
_keepers: list[subprocess.Popen[bytes]] = []
OBJECT_STORE_BYTES = 128 * 1024**2


@dataclass(frozen=True)
class ClusterFacts:
    """What the driver joined.

    Attributes:
        dashboard: Address of the dashboard, or None.
        token_required: Whether the dashboard asks for Ray's token.
    """

    dashboard: str | None
    token_required: bool


def start(
    address: str | None,
    cpus: int,
    gpus: int,
    dashboard: bool,
    dashboard_host: str,
    shared_memory: bool,
    verbose: bool = False,
) -> ClusterFacts:
    """Starts a local Ray or joins the cluster at `address`.

    Args:
        address: Of a Ray cluster, or None for a Ray of this driver's own.
        cpus: CPUs that a local Ray declares.
        gpus: GPUs that a local Ray declares.
        dashboard: Whether a local Ray serves its dashboard.
        dashboard_host: Interface of the dashboard.
        shared_memory: Whether /dev/shm is large enough for the object store.
        verbose: Whether Ray's messages and the workers' output go to the terminal.

    Raises:
        LabError: With exit code 3 when Ray does not start or does not answer.
    """
    import ray

    ensure_private_token()
    # 管道一直开着，直到本进程结束
    _keepers.append(reaper.start())
    level = logging.INFO if verbose else logging.ERROR
    local_options = {
        "address": "local",
        "num_cpus": cpus,
        "num_gpus": gpus,
        "include_dashboard": dashboard,
        "dashboard_host": dashboard_host,
        "object_store_memory": OBJECT_STORE_BYTES,
        **({} if shared_memory else {"_plasma_directory": tempfile.gettempdir()}),
    }
    start_once = partial(ray.init, log_to_driver=verbose, logging_level=level)
    try:
        with _own_sigterm():
            context = (
                start_once(address=address) if address is not None else _start_patiently(start_once, local_options)
            )
    except Exception as error:
        # 起得太慢时 Ray 抛的就是裸的 Exception
        where = f"the Ray cluster at {address} does not answer" if address else "Ray does not start here"
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise LabError(f"{where}: {reason}", exit_code=3) from error
    quiet_ray(verbose)
    url = context.dashboard_url
    return ClusterFacts(
        dashboard=f"http://{url}" if url and (dashboard or address) else None,
        token_required=os.environ.get("RAY_AUTH_MODE", "").lower() == "token",
    )


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """Ray takes SIGTERM for itself when it starts, to end the process with a code of its own; here it is taken back."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    except SystemExit as error:
        raise KeyboardInterrupt from error
    finally:
        signal.signal(signal.SIGTERM, before)


def _start_patiently(start_once: Callable[..., Any], local_options: dict[str, Any]) -> Any:
    """Starts a Ray of our own, and once more where it was too slow: its 30 seconds are no option of Ray's."""
    import ray

    try:
        return start_once(**local_options)
    except Exception as error:
        if "timed out during startup" not in str(error):
            raise
        logger.warning("Ray took more than 30 s to start; trying once more")
        ray.shutdown()
        return start_once(**local_options)


def start_broker() -> Any:
    """Starts the broker actor of this driver and returns its handle."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    # 代理跟着驱动进程的节点：别的节点走了，研究还在
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor = ray.remote(num_cpus=0, max_restarts=0, max_concurrency=1000)(Broker)
    return actor.options(name=BROKER_NAME, scheduling_strategy=here).remote()


class CallersProcess(Exception):
    """The command was called as a function; its Ray needs a process of its own, which `leave` may end."""


def check_process_is_ours() -> None:
    """Refuses to start Ray in the process of a program or a notebook.

    Raises:
        CallersProcess: It is one.
    """
    if not owns_process():
        raise CallersProcess


def was_started() -> bool:
    """Says whether this process has begun to start or join a Ray, however far it got."""
    return bool(_keepers)


def leave(code: int) -> NoReturn:
    """Ends this process and every Ray process it started; all that matters is on disk by now.

    `ray.shutdown()` would race with the threads that slots and Tune still run, and then end the process with a code of
    its own. A joined cluster cleans up after a driver that has gone.

    Args:
        code: The exit code.
    """
    # 自己动手结束 Ray 时，守望线程不该报警
    death_watch.close()
    for output in (sys.stdout, sys.stderr):
        with suppress(OSError):
            output.flush()
    kill_children()
    folders.remove_scratch()
    os._exit(code)


def kill_children() -> None:
    """Kills every process this driver started, at any depth."""
    for _ in range(3):
        # 代管进程要活到最后：raylet 死后，它的孩子已不在我们名下
        children = [
            process
            for process in psutil.Process().children(recursive=True)
            if "orchestrator.running.cluster.reaper" not in _command(process)
        ]
        for process in children:
            with suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(children, timeout=1.0)


def _command(process: psutil.Process) -> str:
    with suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""
