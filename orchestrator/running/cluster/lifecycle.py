"""Starting or joining Ray, its broker, and the end of everything that was started.

Ray is imported inside the functions: everything that can be said without it is said before.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import psutil

from alexnet_core.configuration.wording import counted
from alexnet_core.process.control_groups import cpu_cores
from alexnet_core.process.interruption import owns_process, say
from orchestrator.errors import ExitCode, LabError
from orchestrator.running.cluster import death_watch, folders, ray_processes, reaper
from orchestrator.running.cluster.access import ensure_private_token
from orchestrator.running.cluster.driver_log import quiet_ray
from orchestrator.running.slots.broker import BROKER_NAME, Broker

_keepers: list[subprocess.Popen[bytes]] = []
OBJECT_STORE_BYTES = 128 * 1024**2
# 空闲的机器上试这么多次；忙的机器上，时间没用完就还试
START_ATTEMPTS = 6
BUSY_SECONDS = 600.0


@dataclass(frozen=True)
class ClusterFacts:
    """What the driver joined.

    Attributes:
        dashboard: Address of the dashboard, or None.
        show_token: The command that shows the token it asks for, or None where it asks for none.
        session: The private folder of a Ray of this driver's own, deleted with it.
    """

    dashboard: str | None
    show_token: str | None
    session: Path | None = None


def start(
    cpus: int,
    gpus: int,
    job: dict[str, str],
    *,
    on_death: death_watch.OnDeath,
    dashboard: bool,
    dashboard_host: str,
    shared_memory: bool,
    verbose: bool = False,
) -> ClusterFacts:
    """Starts a Ray of this driver's own, on the loopback interface and in a folder for its owner alone.

    Args:
        cpus: CPUs that it declares.
        gpus: GPUs that it declares.
        job: What the dashboard's page of jobs says of this driver.
        on_death: Called when its raylet or its control service has died; see `DeathWatch`.
        dashboard: Whether it serves its dashboard.
        dashboard_host: Interface of the dashboard.
        shared_memory: Whether /dev/shm will hold the object store.
        verbose: Whether Ray's messages go to the terminal; what is printed during a trial is in the trial's log.

    Raises:
        LabError: With exit code 3 when Ray does not start.
    """
    ray_processes.check_paths()
    folder = folders.ray_folder()
    show_token = ensure_private_token(folder)
    options = {
        "address": "local",
        "job_config": _job_config(job),
        "num_cpus": cpus,
        "num_gpus": gpus,
        "include_dashboard": dashboard,
        "dashboard_host": dashboard_host,
        "object_store_memory": OBJECT_STORE_BYTES,
        "_temp_dir": str(folder / "r"),
        **({} if shared_memory else {"_plasma_directory": str(folder)}),
        **ray_processes.interpreter_environment(),
    }
    # 管道一直开着，直到本进程结束
    _keepers.append(reaper.start(folders.made_folders()))
    url = _start_again_where_slow(folder, verbose, options, on_death)
    return ClusterFacts(
        f"http://{url}" if url and dashboard else None, show_token if _asks_for_token() else None, session=folder
    )


def join(address: str, job: dict[str, str], on_death: death_watch.OnDeath, verbose: bool = False) -> ClusterFacts:
    """Joins the cluster at `address`.

    Args:
        address: Of its control service, or `auto`.
        job: What the dashboard's page of jobs says of this driver.
        on_death: Called when the raylet of this node, or the cluster's control service, has died; see `DeathWatch`.
        verbose: Whether Ray's messages go to the terminal; what is printed during a trial is in the trial's log.

    Raises:
        LabError: With exit code 3 when it does not answer.
    """
    show_token = ensure_private_token()
    _keepers.append(reaper.start())
    url = _init(
        f"the Ray cluster at {address} does not answer", verbose, {"address": address, "job_config": _job_config(job)}
    )
    death_watch.DeathWatch(on_death).add_joined()
    return ClusterFacts(f"http://{url}" if url else None, show_token if _asks_for_token() else None)


def _job_config(job: dict[str, str]) -> Any:
    from ray.job_config import JobConfig

    return JobConfig(metadata=job)


def _start_again_where_slow(
    folder: Path, verbose: bool, options: dict[str, Any], on_death: death_watch.OnDeath
) -> str | None:
    """Starts Ray, several times where its agents are too slow for its raylet; returns the dashboard's address."""
    import ray

    begun, attempt = time.monotonic(), 0
    while True:
        attempt += 1
        try:
            with (
                ray_processes.apart_and_awaited(folder, say, death_watch.DeathWatch(on_death)),
                ray_processes.without_monitors(options["include_dashboard"], verbose),
            ):
                return _init("Ray does not start here", verbose, options)
        except ray_processes.TooSlow as error:
            load, cores = os.getloadavg()[0], cpu_cores()
            if trouble := why_no_more(attempt, time.monotonic() - begun, load, cores):
                raise LabError(f"{trouble}: {error}", exit_code=ExitCode.ENVIRONMENT) from error
            say(f"Ray's agents were too slow to start (load {load:.0f} on {counted(cores, 'core')}); trying again")
            ray.shutdown()
            kill_children()


def why_no_more(attempt: int, seconds: float, load: float, cores: int) -> str:
    """Returns why Ray is not started once more, after agents that were too slow; nothing where it is.

    A raylet gives up on its agents after some seconds, whether the machine is slow or something holds them: what else
    runs here tells which.

    Args:
        attempt: How many starts there have been.
        seconds: Since the first.
        load: Processes that run or wait for a core, over the last minute.
        cores: Cores of this machine or container.
    """
    is_busy = load > cores
    if attempt < START_ATTEMPTS or (is_busy and seconds < BUSY_SECONDS):
        return ""
    here = f"load {load:.0f} on {counted(cores, 'core')}"
    if is_busy:
        return f"this machine is too busy to start Ray ({here}, {attempt} starts); run the same command later"
    return f"Ray does not start here, {attempt} times, and not because the machine is busy ({here})"


def _init(trouble: str, verbose: bool, options: dict[str, Any]) -> str | None:
    """Calls `ray.init`; returns the dashboard's address."""
    import ray

    level = logging.INFO if verbose else logging.ERROR
    try:
        with _own_sigterm():
            url: str | None = ray.init(log_to_driver=verbose, logging_level=level, **options).dashboard_url
    except ray_processes.TooSlow:
        raise
    except Exception as error:
        # Ray 抛的常是裸的 Exception
        raise LabError(f"{trouble}: {_start_trouble(error)}", exit_code=ExitCode.ENVIRONMENT) from error
    quiet_ray(verbose)
    return url


def _start_trouble(error: Exception) -> str:
    """What Ray says of a start that failed: its first line, or the last one of the log that it quotes."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    reason = lines[-1] if lines[0].endswith(":") else lines[0]
    return reason + ("; --no-dashboard starts without it" if "dashboard" in str(error) else "")


def _asks_for_token() -> bool:
    return os.environ.get("RAY_AUTH_MODE", "").lower() == "token"


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
    if code == ExitCode.ENVIRONMENT or death_watch.has_seen_death():
        # 坏的可能正是 Ray
        leave_dead_ray(code)
    _flush_output()
    kill_children()
    folders.remove_folders()
    os._exit(code)


def leave_dead_ray(code: int) -> NoReturn:
    """Ends this process at once after its Ray has died; the reaper ends what is left of it.

    Ray's own threads end a driver whose raylet has gone with a code of theirs (1), as soon as they notice.

    Args:
        code: The exit code.
    """
    _flush_output()
    # 收尾要几秒，Ray 的线程会抢先退出；留给代管进程
    os._exit(code)


def _flush_output() -> None:
    for output in (sys.stdout, sys.stderr):
        with suppress(OSError):
            output.flush()


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
