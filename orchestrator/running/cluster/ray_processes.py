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
from pathlib import Path
from typing import Any

from alexnet_core.configuration.wording import counted
from alexnet_core.process.control_groups import cpu_cores
from alexnet_core.process.files import is_utf8, shown
from orchestrator.errors import ExitCode, LabError
from orchestrator.running.slots.deaths import reason

PATIENCE_SECONDS = 600.0
SAY_AFTER_SECONDS = 30.0
LOOK_EVERY_SECONDS = 0.2
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
        dashboard: Whether the dashboard runs, which shows what the autoscaler's monitor reports.
        verbose: Whether Ray's logs are printed, which the log monitor collects.
    """
    from ray._private.node import Node

    before = Node.start_monitor, Node.start_log_monitor

    def nothing(self: Any) -> None:
        """Starts nothing."""

    # 一台机器不会自己长出节点；日志也没有人要听
    if not dashboard:
        Node.start_monitor = nothing
    if not verbose:
        Node.start_log_monitor = nothing
    try:
        yield
    finally:
        Node.start_monitor, Node.start_log_monitor = before


@contextmanager
def apart_and_awaited(folder: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Within it Ray's processes get sessions of their own, and a raylet that is slow is told from one that has died.

    Args:
        folder: The session's private folder; temporary files of Ray's processes lie there too.
        say: Called with a line when the start takes long.

    Raises:
        LabError: With exit code 3 when a process of Ray's ended, or none answers after ten minutes.
    """
    from ray._private import services

    popen, get_node = services.ConsolePopen, services.get_node
    started: list[subprocess.Popen[bytes]] = []

    def apart(*arguments: Any, env: dict[str, str], **options: Any) -> Any:
        # TMPDIR 太长时，仪表板的套接字也放不下
        environment = {**env, "TMPDIR": str(folder)}
        # 另立会话：发给驱动进程组的 SIGTERM（timeout、Slurm）不会先杀了 raylet
        process = popen(*arguments, env=environment, start_new_session=True, **options)
        started.append(process)
        return process

    def awaited(*arguments: Any) -> Any:
        begun, announced = time.monotonic(), False
        while True:
            try:
                return get_node(*arguments)
            except RuntimeError as error:
                _check_alive(started, folder)
                waited = time.monotonic() - begun
                if waited > PATIENCE_SECONDS:
                    raise LabError(
                        f"its raylet lives but has not answered for {waited:.0f} s", exit_code=ExitCode.ENVIRONMENT
                    ) from error
            if waited > SAY_AFTER_SECONDS and not announced:
                announced = True
                say(
                    f"Ray is slow to start here: load {os.getloadavg()[0]:.0f} on "
                    f"{counted(cpu_cores(), 'core')}; waiting"
                )
            time.sleep(LOOK_EVERY_SECONDS)

    services.ConsolePopen, services.get_node = apart, awaited
    try:
        yield
    finally:
        services.ConsolePopen, services.get_node = popen, get_node


def _check_alive(started: list[subprocess.Popen[bytes]], folder: Path) -> None:
    for process in started:
        code = process.poll()
        name = Path(str(process.args[0])).name if isinstance(process.args, list) else ""
        if code is not None and name in ("raylet", "gcs_server"):
            words = _last_words(folder, name)
            kind = TooSlow if "Timed out waiting" in words else LabError
            raise kind(f"its {name} ended with {code}: {words}", exit_code=ExitCode.ENVIRONMENT)


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
