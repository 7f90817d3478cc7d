"""How the processes of a Ray of our own are started: only those of use, apart from the driver, and awaited while alive.

Ray 2.60 has no option for any of it, so functions of its `services` and its `Node` are replaced while `ray.init` runs.
"""

from __future__ import annotations

import importlib.util
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from alexnet_core.configuration.wording import counted
from alexnet_core.process.control_groups import cpu_cores
from alexnet_core.process.files import is_utf8, shown
from orchestrator.errors import ExitCode, LabError
from orchestrator.running.cluster.death_watch import ASKED_TO_END, NAMES, DeathWatch
from orchestrator.running.slots.deaths import reason

PATIENCE_SECONDS = 600.0
SAY_AFTER_SECONDS = 30.0
LOOK_EVERY_SECONDS = 0.2
SLICE_MILLISECONDS = 200
# Ray 把命令拼成一行再拆开，这些字符它拆错
UNSPEAKABLE = {"'": "a single quote", '"': "a double quote", "\\": "a backslash", "\n": "a line break", "\t": "a tab"}


class TooSlow(LabError):
    """A raylet gave up on one of its agents after some seconds that are no option of Ray's; another start may do."""


def check_paths() -> None:
    """Refuses a Python, or a current folder, whose path Ray cannot start workers from: they would never come.

    Raises:
        LabError: With exit code 3.
    """
    package = importlib.util.find_spec("ray")
    paths = [sys.executable, package.origin if package is not None and package.origin else ""]
    faults = [(path, name) for path in paths for character, name in UNSPEAKABLE.items() if character in path]
    # 工作目录不经过 shell，只要是文字
    faults += [(path, "a byte that is not UTF-8") for path in (*paths, str(Path.cwd())) if not is_utf8(path)]
    for path, name in faults:
        raise LabError(
            f"Ray cannot start workers from {shown(path)}: {name} in its path; move the project, or its .venv, to a "
            "folder without one",
            exit_code=ExitCode.ENVIRONMENT,
        )


def interpreter_environment() -> dict[str, Any]:
    """Returns the runtime environment that starts workers where the path of Python needs quoting, as with a space."""
    quoted = shlex.quote(sys.executable)
    # Ray 的 setup_worker 把解释器的路径原样交给 bash
    return {} if quoted == sys.executable else {"runtime_env": {"py_executable": quoted}}


@contextmanager
def without_monitors(dashboard: bool, verbose: bool) -> Iterator[None]:
    """Within it Ray starts no process that nobody hears: each takes two seconds of CPU from the start, and 100 MB.

    Args:
        dashboard: Whether the dashboard runs, which shows what the autoscaler's monitor reports. Without it Ray would
            start its server all the same, for usage statistics, and wait for it.
        verbose: Whether Ray's logs are printed, which the log monitor collects.
    """
    from ray._private.node import Node

    before = Node.start_monitor, Node.start_api_server, Node.start_log_monitor

    def nothing(self: Any, **options: Any) -> None:
        """Starts nothing."""

    # 一台机器不会自己长出节点；日志也没有人要听
    if not dashboard:
        Node.start_monitor = Node.start_api_server = nothing
    if not verbose:
        Node.start_log_monitor = nothing
    try:
        yield
    finally:
        Node.start_monitor, Node.start_api_server, Node.start_log_monitor = before


@contextmanager
def apart_and_awaited(folder: Path, say: Callable[[str], None], watch: DeathWatch) -> Iterator[None]:
    """Within it Ray's processes get sessions of their own, and a raylet that is slow is told from one that has died.

    Args:
        folder: The session's private folder; temporary files of Ray's processes lie there too.
        say: Called with a line when the start takes long.
        watch: Watches them where the start itself would wait for them in vain, and after it.

    Raises:
        LabError: With exit code 3 when a process of Ray's ended, or none answers after ten minutes.
        KeyboardInterrupt: One of them was asked to end, as the whole of a control group is.
    """
    from ray._private import node, services

    before = services.ConsolePopen, services.get_node, node.wait_for_persisted_port
    start = _Start(folder, say, watch, before)
    services.ConsolePopen, services.get_node = start.open_apart, start.awaited_node
    node.wait_for_persisted_port = start.awaited_port
    try:
        yield
    except BaseException:
        watch.close()
        raise
    finally:
        services.ConsolePopen, services.get_node, node.wait_for_persisted_port = before


class _Start:
    """Takes the place of three functions of Ray's while it starts."""

    def __init__(
        self, folder: Path, say: Callable[[str], None], watch: DeathWatch, replaced: tuple[Callable[..., Any], ...]
    ) -> None:
        self._folder, self._say, self._watch = folder, say, watch
        self._popen, self._get_node, self._wait_for_port = replaced
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._is_registered = False

    def open_apart(self, command: Any, *, env: dict[str, str], **options: Any) -> Any:
        """Starts a process in a session of its own."""
        # TMPDIR 太长时，仪表板的套接字也放不下
        environment = {**env, "TMPDIR": str(self._folder)}
        # 另立会话：发给驱动进程组的 SIGTERM（timeout、Slurm）不会先杀了 raylet
        process = self._popen(command, env=environment, start_new_session=True, **options)
        name = Path(str(process.args[0])).name if isinstance(process.args, list) else ""
        self._processes[name] = process
        if name == "gcs_server":
            # 它一死，Ray 的 C++ 线程就等满一分钟，然后以退出码 1 结束整个进程
            self._watch_over(name)
        return process

    def awaited_port(self, *arguments: Any, timeout_ms: int, **options: Any) -> Any:
        """Waits for the control service's port, and no longer than that lives."""
        ends = time.monotonic() + timeout_ms / 1000
        while True:
            try:
                # Ray 等的时候握着 GIL：不切成小段，守望线程和信号都要等它
                return self._wait_for_port(*arguments, timeout_ms=min(timeout_ms, SLICE_MILLISECONDS), **options)
            except RuntimeError:
                self._check_alive()
                if time.monotonic() > ends:
                    raise

    def awaited_node(self, *arguments: Any) -> Any:
        """Waits for the raylet to register, as long as it lives."""
        begun, announced = time.monotonic(), False
        while True:
            try:
                return self._registered(self._get_node(*arguments))
            except RuntimeError as error:
                self._check_alive()
                waited = time.monotonic() - begun
                if waited > PATIENCE_SECONDS:
                    raise LabError(
                        f"its raylet lives but has not answered for {waited:.0f} s", exit_code=ExitCode.ENVIRONMENT
                    ) from error
            if waited > SAY_AFTER_SECONDS and not announced:
                announced = True
                self._say(
                    f"Ray is slow to start here: load {os.getloadavg()[0]:.0f} on "
                    f"{counted(cpu_cores(), 'core')}; waiting"
                )
            time.sleep(LOOK_EVERY_SECONDS)

    def _registered(self, node: Any) -> Any:
        # 登记之前死的，由 awaited_node 说明原因，也许重来
        if not self._is_registered and "raylet" in self._processes:
            self._is_registered = True
            self._watch_over("raylet")
        return node

    def _watch_over(self, name: str) -> None:
        self._watch.add(name, self._processes[name].poll, partial(_last_words, self._folder, name))

    def _check_alive(self) -> None:
        for name in NAMES.keys() & self._processes.keys():
            code = self._processes[name].poll()
            if code is None:
                continue
            words = _last_words(self._folder, name)
            if "Timed out waiting" in words:
                raise TooSlow(f"its {name} ended with {code}: {words}", exit_code=ExitCode.ENVIRONMENT)
            if code in ASKED_TO_END:
                # 停下的信号也会发到 Ray 的进程：那是停下，不是故障
                raise KeyboardInterrupt
            raise LabError(f"its {name} ended with {code}: {words}", exit_code=ExitCode.ENVIRONMENT)


def _last_words(folder: Path, name: str) -> str:
    """What a process of Ray's logged when it died: the check that failed, or else its last error."""
    lines = [
        line for path in sorted(folder.rglob(f"{name}.*")) for line in path.read_text(errors="replace").splitlines()
    ]
    fatal = [line for line in lines if "Check failed" in line or " C " in line]
    errors = fatal[-1:] or [line for line in lines if " E " in line or "rror" in line][-1:]
    if not errors:
        return "it logged no reason"
    # 「这多半是 Ray 的毛病」之后才是原因
    return reason(RuntimeError(errors[0].rpartition("Check failed:")[2].strip()))
