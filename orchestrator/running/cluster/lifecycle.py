"""Starting or joining Ray: environment, authentication token, dashboard, slots per node, and the death watch.

Ray is imported inside the functions: everything that can be said without it is said before.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import psutil

from alexnet_core.process.memory import MMAP_THRESHOLD, TRIM_THRESHOLD
from orchestrator.errors import LabError
from orchestrator.running.cluster import reaper
from orchestrator.running.cluster.driver_log import quiet_ray
from orchestrator.running.slots.broker import BROKER_NAME, Broker

logger = logging.getLogger(__name__)
# 单线程，不归还内存：每一步重新缺页要占 5 % 到 15 % 的时间（tests/benchmarks/core）
WORKER_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MALLOC_MMAP_THRESHOLD_": str(MMAP_THRESHOLD),
    "MALLOC_TRIM_THRESHOLD_": str(TRIM_THRESHOLD),
}
_RAY_ENVIRONMENT = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    # 我们自己按时间存检查点，节点走了就是一次失败的尝试；这个守望进程每槽位要一秒半和一百多兆
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    # 默认按核数限制同时启动的进程，两核机器会为此报警并拖慢
    "RAY_worker_maximum_startup_concurrency": "8",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",
}
_leaving = threading.Event()
_keepers: list[subprocess.Popen[bytes]] = []
ADDRESS_SECONDS = 10.0
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


def prepare_environment(verbose: bool = False, dashboard: bool = True, joins: bool = False) -> None:
    """Sets Ray's switches for this process and its children, before Ray is loaded; what the user has set stays.

    Args:
        verbose: Whether Ray may print on the terminal.
        dashboard: Whether somebody may look at Ray's Train page, which an actor of its own keeps up to date.
        joins: Whether a cluster is joined, which must be there already.
    """
    for name, value in _RAY_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("RAY_TRAIN_ENABLE_STATE_TRACKING", "1" if dashboard else "0")
    if joins:
        # 集群应已在运行：Ray 的二十次重试要一刻钟
        os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", "2")
    if not verbose:
        # raylet 的报告不经 logging，直接打印；尝试失败与重来由我们自己说
        os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".*")


def ensure_private_token() -> None:
    """Creates Ray's token file readable by its owner alone, before Ray would create it for everybody to read.

    An existing file that others may read loses those permissions.
    """
    if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH"):
        return
    path = Path.home() / ".ray" / "auth_token"
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        # 先以 0600 独占创建，不留下任何人可读的一瞬
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            path.chmod(0o600)
        return
    with os.fdopen(descriptor, "w") as file:
        file.write(secrets.token_hex(32))


def check_dashboard_host(host: str) -> None:
    """Refuses a dashboard that other machines can reach while token authentication is off.

    Raises:
        LabError: With exit code 2.
    """
    if host in ("127.0.0.1", "localhost", "::1"):
        return
    if os.environ.get("RAY_AUTH_MODE", "token").lower() != "token":
        raise LabError(
            f"--dashboard-host {host} is reachable from other machines while RAY_AUTH_MODE="
            f"{os.environ['RAY_AUTH_MODE']} switches Ray's token off; unset it or use 127.0.0.1",
            exit_code=2,
        )


def check_address(address: str) -> None:
    """Refuses an address at which nothing answers: Ray itself would go on trying for a quarter of an hour.

    Args:
        address: HOST:PORT of a Ray cluster, or `auto` for the one that runs on this machine.

    Raises:
        LabError: With exit code 2 where it is no address, 3 where nothing answers.
    """
    if address == "auto":
        address = _started_here()
        if not address:
            # 没有记下任何集群：Ray 自己会立刻这样说
            return
    host, _, port = address.rpartition(":")
    if not re.fullmatch(r"[\w.-]+|\[[0-9a-fA-F:.]+\]", host) or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise LabError(f"--address {address}: use HOST:PORT, or auto for the cluster of this machine", exit_code=2)
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=ADDRESS_SECONDS).close()
    except OSError as error:
        raise LabError(
            f"no Ray cluster answers at {address}: {error.strerror or error}; start one there with ray start --head, "
            "or leave --address out",
            exit_code=3,
        ) from error


def _started_here() -> str:
    """What `auto` stands for: RAY_ADDRESS, or the cluster that `ray start` noted last; empty where there is none."""
    note = Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()) / "ray" / "ray_current_cluster"
    with suppress(OSError, UnicodeDecodeError):
        return os.environ.get("RAY_ADDRESS") or note.read_text().strip()
    return ""


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
    own = {
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
            context = start_once(address=address) if address is not None else _start_patiently(start_once, own)
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


def _start_patiently(start_once: Callable[..., Any], own: dict[str, Any]) -> Any:
    """Starts a Ray of our own, and once more where it was too slow: its 30 seconds are no option of Ray's."""
    import ray

    try:
        return start_once(**own)
    except Exception as error:
        if "timed out during startup" not in str(error):
            raise
        logger.warning("Ray took more than 30 s to start; trying once more")
        ray.shutdown()
        return start_once(**own)


def start_broker() -> Any:
    """Starts the broker actor of this driver and returns its handle."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    # 代理跟着驱动进程的节点：别的节点走了，研究还在
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor = ray.remote(num_cpus=0, max_restarts=0, max_concurrency=1000)(Broker)
    return actor.options(name=BROKER_NAME, scheduling_strategy=here).remote()


def watch_ray(on_death: Callable[[str], None], interval_seconds: float = 0.5) -> None:
    """Calls `on_death` with a process's name once Ray's raylet or GCS on this machine has died.

    Ray itself would leave the driver waiting for a minute or end it with a traceback.
    """
    own = [process for process in psutil.Process().children(recursive=True) if _name(process) in _WATCHED]
    # 加入现有集群时 raylet 不是我们的子进程
    watched = own or [process for process in psutil.process_iter() if _is_own_raylet(process)]
    names = {process.pid: _WATCHED[_name(process)] for process in watched}

    def watch() -> None:
        while not _leaving.wait(interval_seconds):
            for process in watched:
                if not _alive(process) and not _leaving.is_set():
                    on_death(names[process.pid])
                    return

    threading.Thread(target=watch, name="ray-watch", daemon=True).start()


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


_WATCHED = {"raylet": "Ray's raylet", "gcs_server": "Ray's control service (GCS)"}


def _command(process: psutil.Process) -> str:
    return " ".join(_arguments(process))


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


def is_up() -> bool:
    """Says whether this process has started or joined a Ray."""
    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())


def was_started() -> bool:
    """Says whether this process has begun to start or join a Ray, however far it got."""
    return bool(_keepers)


def leave(code: int, scratch: Path | None = None) -> NoReturn:
    """Ends this process and every Ray process it started; all that matters is on disk by now.

    `ray.shutdown()` would race with the threads that slots and Tune still run, and then end the process with a code of
    its own. A joined cluster cleans up after a driver that has gone.

    Args:
        code: The exit code.
        scratch: Scratch folder of Ray Train and Tune; what is in it repeats the records.
    """
    # 自己动手结束 Ray 时，守望线程不该报警
    _leaving.set()
    for output in (sys.stdout, sys.stderr):
        with suppress(OSError):
            output.flush()
    kill_children()
    if scratch is not None:
        shutil.rmtree(scratch, ignore_errors=True)
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
    return folder
