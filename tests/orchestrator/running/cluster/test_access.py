"""Where Ray is reached: a dashboard's interface and the loopback interface are looked at before it starts."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.errors import LabError
from orchestrator.running.cluster.access import check_dashboard_host, check_loopback
from orchestrator.running.cluster.lifecycle import _start_trouble

ROOT = Path(__file__).parents[4]


@pytest.mark.parametrize(
    ("host", "mode"),
    [("127.0.0.1", "token"), ("127.0.0.1", "disabled"), ("localhost", "disabled"), ("0.0.0.0", "token")],
)
def test_an_interface_of_this_machine_may_have_the_dashboard(
    host: str, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", mode)
    check_dashboard_host(host)


# 192.0.2.0/24 与 .invalid 是留给文档和测试的，哪里都没有
@pytest.mark.parametrize("host", ["192.0.2.1", "nowhere.invalid"])
def test_another_machines_interface_is_refused_before_ray_waits_for_it(host: str) -> None:
    with pytest.raises(LabError, match=f"--dashboard-host {host} is no interface of this machine: ") as caught:
        check_dashboard_host(host)
    assert caught.value.exit_code == 2


@pytest.mark.slow
def test_a_loopback_interface_that_is_down_is_one_line() -> None:
    check_loopback()
    apart = ["unshare", "-n"]
    if shutil.which("unshare") is None or subprocess.run([*apart, "true"], check=False).returncode:
        pytest.skip("network namespaces cannot be made here")
    program = "from orchestrator.running.cluster.access import check_loopback; check_loopback()"
    command = [*apart, sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    line = done.stderr.splitlines()[-1]
    assert "127.0.0.1 does not answer on this machine: Network is unreachable; " in line
    assert line.endswith("bring it up: ip link set lo up")


def test_a_start_that_failed_is_told_by_the_line_that_says_why() -> None:
    assert _start_trouble(RuntimeError("\nno room\nat all")) == "no room"
    assert _start_trouble(RuntimeError("")) == "RuntimeError"
    quoted = "The last 20 lines of /tmp/dashboard.log (it contains the error):\nTraceback\nOSError: no port\n"
    assert _start_trouble(Exception(quoted)) == "OSError: no port; --no-dashboard starts without it"
