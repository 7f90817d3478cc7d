"""Where Ray is reached and by whom: its token, the dashboard's interface, the address of a cluster."""

from __future__ import annotations

import os
import re
import secrets
import shlex
import socket
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

from alexnet_core.process.files import home_folder
from orchestrator.errors import ExitCode, LabError

ADDRESS_SECONDS = 10.0
SHOW_TOKEN = "ray get-auth-token"


def ensure_private_token(fallback: Path | None = None) -> str:
    """Sees to it that Ray has a token which only its owner can read, before Ray would make one for everybody to read.

    It lies in the home folder, where an existing file that others may read loses those permissions.

    Args:
        fallback: A private folder for the token where there is no home folder that can be written (cron, containers).

    Returns:
        The command that shows the token.
    """
    if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH"):
        return SHOW_TOKEN
    home = home_folder()
    if home is not None:
        try:
            _write_token(home / ".ray" / "auth_token")
        except OSError:
            # 家目录写不了：下面另找地方
            pass
        else:
            return SHOW_TOKEN
    if fallback is None:
        return SHOW_TOKEN
    path = fallback / "auth_token"
    _write_token(path)
    os.environ["RAY_AUTH_TOKEN_PATH"] = str(path)
    return f"cat {shlex.quote(str(path))}"


def _write_token(path: Path) -> None:
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
    """Refuses an interface that is not this machine's, or that others can reach while token authentication is off.

    Raises:
        LabError: With exit code 2.
    """
    if host in ("127.0.0.1", "localhost", "::1"):
        return
    if os.environ.get("RAY_AUTH_MODE", "token").lower() != "token":
        raise LabError(
            f"--dashboard-host {host} is reachable from other machines while RAY_AUTH_MODE="
            f"{os.environ['RAY_AUTH_MODE']} switches Ray's token off; unset it or use 127.0.0.1",
            exit_code=ExitCode.WRONG_USE,
        )
    try:
        family = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][0]
        # Ray 的仪表板绑不上时，驱动会一直等它
        with socket.socket(family) as server:
            server.bind((host, 0))
    except OSError as error:
        raise LabError(
            f"--dashboard-host {host} is no interface of this machine: {error.strerror or error}; leave it out for "
            "127.0.0.1, or use 0.0.0.0 for all of them",
            exit_code=ExitCode.WRONG_USE,
        ) from error


def check_loopback() -> None:
    """Refuses a machine whose loopback interface is down: a Ray of its own would be waited for for a minute.

    Raises:
        LabError: With exit code 3.
    """
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            socket.create_connection(server.getsockname(), timeout=ADDRESS_SECONDS).close()
    except OSError as error:
        raise LabError(
            f"127.0.0.1 does not answer on this machine: {error.strerror or error}; Ray needs the loopback interface "
            "also without a network, bring it up: ip link set lo up",
            exit_code=ExitCode.ENVIRONMENT,
        ) from error


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
        raise LabError(
            f"--address {address}: use HOST:PORT, or auto for the cluster of this machine", exit_code=ExitCode.WRONG_USE
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=ADDRESS_SECONDS).close()
    except OSError as error:
        raise LabError(
            f"no Ray cluster answers at {address}: {error.strerror or error}; start one there with ray start --head, "
            "or leave --address out",
            exit_code=ExitCode.ENVIRONMENT,
        ) from error


def _started_here() -> str:
    """What `auto` stands for: RAY_ADDRESS, or the cluster that `ray start` noted last; empty where there is none."""
    address_file = Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()) / "ray" / "ray_current_cluster"
    with suppress(OSError, UnicodeDecodeError):
        return os.environ.get("RAY_ADDRESS") or address_file.read_text().strip()
    return ""
