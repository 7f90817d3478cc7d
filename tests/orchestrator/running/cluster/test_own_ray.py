"""A Ray of one's own: on the loopback interface, in a folder for its owner alone, apart from the driver's group."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from orchestrator.errors import LabError
from orchestrator.running.cluster import folders
from orchestrator.running.cluster.access import ensure_private_token
from orchestrator.running.cluster.ray_processes import check_interpreter, interpreter_environment
from tests.lab import Lab, names, wait_until
from tests.made_records import read_only

RAY_STARTS = [pytest.mark.slow, pytest.mark.timeout(1200)]


def listening(lab: Lab) -> set[str]:
    """The addresses on which this lab's processes listen."""
    return {
        connection.laddr.ip
        for process in lab.processes()
        for connection in process.net_connections(kind="tcp")
        if connection.status == psutil.CONN_LISTEN
    }


def in_the_middle(lab: Lab) -> bool:
    return any(path.stat().st_size for path in lab.results.glob("trials/*/epochs.jsonl"))


class TestARunningStudy:
    pytestmark = RAY_STARTS

    def test_it_listens_on_loopback_in_a_private_folder_and_a_stop_of_its_group_is_a_stop(self, lab: Lab) -> None:
        told, temporary = lab.home / "told.json", lab.home / ("long-" * 12)
        temporary.mkdir()
        process = lab.start(
            *("--study", "lrn", "--seeds", "1", "--epochs", "30", "--slots", "1", "--results", str(lab.results)),
            *("--notify", f"cat > {told}"),
            HOME="",
            TMPDIR=str(temporary),
        )
        wait_until(lambda: process.poll() is not None or in_the_middle(lab), 400, "an epoch")
        assert process.poll() is None, process.communicate()
        addresses = {address.removeprefix("::ffff:") for address in listening(lab)}
        assert addresses == {"127.0.0.1"}
        raylet = lab.processes("raylet/raylet")[0]
        option = next(word for word in raylet.cmdline() if word.startswith("--temp_dir="))
        folder = Path(option.partition("=")[2]).parent
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert folder.parent == Path("/tmp"), "the temporary folder's path is too long for sockets"
        assert stat.S_IMODE((folder / "auth_token").stat().st_mode) == 0o600
        assert not list(lab.home.glob("*/auth_token"))
        assert os.getpgid(raylet.pid) != os.getpgid(process.pid)
        # coreutils 的 timeout、Slurm 都这样：信号给整个进程组
        os.killpg(process.pid, signal.SIGTERM)
        output, errors = process.communicate(timeout=60)
        assert process.returncode == 130, output + errors
        assert f"its token: cat {folder}/auth_token" in output
        assert json.loads(told.read_text())["exit_code"] == 130
        assert "raylet" not in output + errors
        assert "Traceback" not in output + errors
        wait_until(lambda: not lab.processes(), 30, f"all processes gone: {names(lab.processes())}")
        assert not folder.exists()
        assert not list((lab.results / ".ray").iterdir())

    def test_a_raylet_that_dies_of_the_same_signal_is_a_stop_too(self, lab: Lab) -> None:
        """As systemd and Slurm do: they signal every process of the control group, whatever its session."""
        process = lab.start(
            *("--study", "lrn", "--seeds", "1", "--epochs", "30", "--slots", "1", "--no-dashboard"),
            *("--results", str(lab.results)),
        )
        wait_until(lambda: process.poll() is not None or in_the_middle(lab), 400, "an epoch")
        for one in lab.processes():
            if "reaper" not in " ".join(one.cmdline()):
                one.send_signal(signal.SIGTERM)
        output, errors = process.communicate(timeout=60)
        assert process.returncode == 130, output + errors
        assert "died" not in errors
        assert "Traceback" not in output + errors

    def test_it_needs_no_network_and_bears_a_space_in_its_path(self, lab: Lab) -> None:
        """In a network namespace of its own, whose only interface goes away in the middle."""
        if shutil.which("ip") is None or subprocess.run(["unshare", "-n", "true"], check=False).returncode:
            pytest.skip("a network namespace cannot be made here (not root)")
        project = lab.home / "my proj é%20 (a)&b;c$d"
        project.mkdir()
        (project / ".venv").symlink_to(Path(sys.executable).parents[1])
        results = project / "results"
        program = (
            "import os, subprocess, sys\n"
            "for line in ('link set lo up', 'link add v0 type veth peer name v1', 'addr add 10.9.9.1/24 dev v0', "
            "'link set v0 up', 'route add default via 10.9.9.254'):\n"
            "    subprocess.run(['ip', *line.split()], check=True)\n"
            "study = subprocess.Popen(sys.argv[1:])\n"
            "sys.stdin.readline()\n"
            "subprocess.run(['ip', 'link', 'del', 'v0'], check=True)\n"
            "sys.exit(study.wait())\n"
        )
        python = str(project / ".venv" / "bin" / "python")
        study = ("-m", "orchestrator.ablate", "--study", "lrn", "--seeds", "1", "--epochs", "8", "--slots", "1")
        wrapped = (
            f"import os, sys; os.execvp('unshare', ['unshare', '-n', sys.executable, '-c', {program!r}, *sys.argv[1:]])"
        )
        process = lab.start_program(wrapped, python, *study, "--no-dashboard", "--results", str(results))
        lab.results = results
        wait_until(lambda: process.poll() is not None or in_the_middle(lab), 400, "an epoch")
        assert process.poll() is None, process.communicate()
        output, errors = process.communicate("the network goes\n", timeout=500)
        assert process.returncode == 0, output + errors
        assert len(lab.finished()) == 3


@pytest.mark.parametrize("character", ["'", '"', "\\", "\n", "\t"])
def test_a_path_that_ray_cannot_start_workers_from_is_named_before_it_starts(
    monkeypatch: pytest.MonkeyPatch, character: str
) -> None:
    check_interpreter()
    monkeypatch.setattr(sys, "executable", f"/home/a{character}b/.venv/bin/python")
    with pytest.raises(LabError, match=r"Ray cannot start workers from .* in its path; move the project") as caught:
        check_interpreter()
    assert caught.value.exit_code == 3
    assert "\n" not in str(caught.value)


def test_only_a_path_that_a_shell_would_split_needs_a_runtime_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/home/ab/.venv/bin/python")
    assert interpreter_environment() == {}
    monkeypatch.setattr(sys, "executable", "/home/a b/.venv/bin/python")
    assert interpreter_environment() == {"runtime_env": {"py_executable": "'/home/a b/.venv/bin/python'"}}


@pytest.fixture
def no_folders_left() -> Iterator[None]:
    yield
    folders.remove_folders()


@pytest.mark.usefixtures("no_folders_left")
def test_rays_folder_is_private_under_any_umask_and_short_enough_for_sockets(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    before = os.umask(0)
    try:
        monkeypatch.setenv("TMPDIR", str(tmp_path / ("long" * 20)))
        folder = folders.ray_folder()
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    finally:
        os.umask(before)
    longest = folder / "r" / "session_2026-11-29_19-44-26_657130_4194304" / "sockets" / "plasma_store"
    longest.parent.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(longest))
    folders.remove_folders()
    assert not folder.exists()


@pytest.mark.usefixtures("no_folders_left")
def test_the_longest_temporary_folder_still_holds_a_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    parent = Path("/tmp") / ("a" * (folders.LONGEST_TEMPORARY - len("/tmp/")))
    parent.mkdir()
    try:
        monkeypatch.setenv("RAY_TMPDIR", str(parent))
        path = folders.ray_folder() / "r" / "session_2026-11-29_19-44-26_657130_4194304" / "sockets" / "plasma_store"
        path.parent.mkdir(parents=True)
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(path))
        monkeypatch.setenv("RAY_TMPDIR", f"{parent}b")
        with pytest.raises(LabError, match="too long for Ray's sockets; set RAY_TMPDIR to a folder") as caught:
            folders.ray_folder()
        assert caught.value.exit_code == 3
    finally:
        shutil.rmtree(parent)


def test_a_ray_folder_that_cannot_be_made_names_the_way_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(folders, "LONGEST_TEMPORARY", 500)
    folder = tmp_path / "closed"
    folder.mkdir()
    monkeypatch.setenv("RAY_TMPDIR", str(folder))
    with read_only(folder), pytest.raises(LabError, match=r"cannot be written: .*; set RAY_TMPDIR to a folder"):
        folders.ray_folder()


@pytest.mark.slow
def test_a_scratch_folder_lives_as_long_as_its_drivers_lock_whatever_its_number(tmp_path: Path) -> None:
    program = (
        "import os, sys; from pathlib import Path; from orchestrator.running.cluster import folders; "
        f"print(folders.scratch_folder(Path({str(tmp_path)!r})), flush=True); sys.stdin.read()"
    )
    # 另一个 PID 命名空间里的进程：这里看不到它的号码
    apart = ["unshare", "-p", "-f", "--kill-child"]
    if shutil.which("unshare") is None or subprocess.run([*apart, "true"], check=False).returncode:
        apart = []
    driver = subprocess.Popen(
        [*apart, sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert driver.stdout is not None
    living = Path(driver.stdout.readline().strip())
    assert living.is_dir()

    def sweep() -> Path:
        done = subprocess.run([sys.executable, "-c", program], input="", capture_output=True, text=True, check=True)
        return Path(done.stdout.strip())

    second = sweep()
    assert living.is_dir(), "its driver lives"
    driver.send_signal(signal.SIGKILL)
    driver.communicate()
    third = sweep()
    assert not living.exists()
    assert not second.exists()
    assert {path.name for path in (tmp_path / ".ray").iterdir()} == {third.name, f"{third.name}.lock"}


@pytest.mark.slow
def test_rays_folder_of_a_driver_that_was_killed_with_its_reaper_goes_at_the_next_start(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    parent = Path(tempfile.mkdtemp(prefix="t-", dir="/tmp"))
    monkeypatch.setenv("RAY_TMPDIR", str(parent))
    program = (
        "import sys; from orchestrator.running.cluster import folders; "
        "print(folders.ray_folder(), flush=True); sys.stdin.read()"
    )

    def driver() -> tuple[subprocess.Popen[str], Path]:
        process = subprocess.Popen(
            [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        return process, Path(process.stdout.readline().strip())

    try:
        (first, living), (second, dying) = driver(), driver()
        # 别的程序的、别的主机的、链接：都不是我们的
        others = [parent / "ray-theirs", parent / "ray-elsewhere"]
        for other in others:
            other.mkdir()
        (others[1] / "elsewhere.lock").touch()
        (tmp_path / f"{socket.gethostname()}.lock").touch()
        (parent / "ray-link").symlink_to(tmp_path)
        (dying / "r").mkdir()
        second.kill()
        second.communicate()
        third, latest = driver()
        assert {*parent.iterdir()} == {living, latest, *others, parent / "ray-link"}
        assert (tmp_path / f"{socket.gethostname()}.lock").exists()
        for process in (first, third):
            process.communicate("")
    finally:
        shutil.rmtree(parent)


@pytest.mark.parametrize("home", [None, "", "/", "relative", "missing"])
def test_without_a_home_that_can_be_written_the_token_lies_in_the_private_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, home: str | None
) -> None:
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "HOME"):
        monkeypatch.delenv(name, raising=False)
    file = tmp_path / "file"
    file.write_text("no folder")
    if home is not None:
        monkeypatch.setenv("HOME", str(file / "below") if home == "missing" else home)
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    assert ensure_private_token(private) == f"cat {private}/auth_token"
    assert stat.S_IMODE((private / "auth_token").stat().st_mode) == 0o600
    assert os.environ.pop("RAY_AUTH_TOKEN_PATH") == f"{private}/auth_token"
