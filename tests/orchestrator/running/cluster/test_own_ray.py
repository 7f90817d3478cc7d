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
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from orchestrator.errors import LabError
from orchestrator.running.cluster import folders
from orchestrator.running.cluster.access import ensure_private_token
from orchestrator.running.cluster.lifecycle import why_no_more
from orchestrator.running.cluster.ray_processes import check_paths, interpreter_environment
from tests.lab import PATIENCE, Lab, names, wait_until
from tests.made_records import read_only

# /proc/net/tcp 的状态
LISTENS = "0A"


def listening(lab: Lab) -> set[str]:
    """The addresses on which this lab's processes listen, each in its own network namespace."""
    addresses = set()
    for process in lab.processes():
        with suppress(OSError):
            sockets = {str(link.readlink()) for link in Path(f"/proc/{process.pid}/fd").iterdir()}
            for table in ("tcp", "tcp6"):
                rows = Path(f"/proc/{process.pid}/net/{table}").read_text().splitlines()[1:]
                for _, local, _, state, *_, inode in (row.split()[:10] for row in rows):
                    if state == LISTENS and f"socket:[{inode}]" in sockets:
                        addresses.add(readable(local.partition(":")[0]))
    return addresses


def readable(address: str) -> str:
    """An address of /proc/net/tcp or tcp6: words of the machine's byte order, in hexadecimal."""
    words = [bytes.fromhex(address[start : start + 8]) for start in range(0, len(address), 8)]
    packed = b"".join(word[:: 1 if sys.byteorder == "big" else -1] for word in words)
    family = socket.AF_INET if len(packed) == 4 else socket.AF_INET6
    return socket.inet_ntop(family, packed).removeprefix("::ffff:")


def in_the_middle(lab: Lab) -> bool:
    return any(path.stat().st_size for path in lab.results.glob("trials/*/epochs.jsonl"))


@pytest.mark.parametrize(
    ("attempt", "seconds", "load", "why"),
    [
        (5, 700.0, 57.0, ""),
        (6, 180.0, 57.0, ""),
        (
            30,
            601.0,
            57.0,
            "this machine is too busy to start Ray (load 57 on 2 cores, 30 starts); run the same command later",
        ),
        (5, 100.0, 0.3, ""),
        (6, 120.0, 0.3, "Ray does not start here, 6 times, and not because the machine is busy (load 0 on 2 cores)"),
        (6, 120.0, 2.0, "Ray does not start here, 6 times, and not because the machine is busy (load 2 on 2 cores)"),
    ],
)
def test_a_slow_machine_is_told_from_one_on_which_ray_does_not_start(
    attempt: int, seconds: float, load: float, why: str
) -> None:
    assert why_no_more(attempt, seconds, load, 2) == why


# 在网络与挂载命名空间里启动研究：共享内存写不了；读到一行输入，网卡就没了。信号给整个组时，由研究自己来说怎么结束
LOSES_ITS_NETWORK = """
import os, signal, subprocess, sys
for line in ('link set lo up', 'link add v0 type veth peer name v1', 'addr add 10.9.9.1/24 dev v0', 'link set v0 up',
             'route add default via 10.9.9.254'):
    subprocess.run(['ip', *line.split()], check=True)
subprocess.run(['mount', '-t', 'tmpfs', '-o', 'ro,size=1g', 'none', '/dev/shm'], check=True)
signal.signal(signal.SIGTERM, lambda *_: None)
study = subprocess.Popen(sys.argv[1:])
sys.stdin.readline()
subprocess.run(['ip', 'link', 'del', 'v0'], check=True)
sys.exit(study.wait())
"""
APART = "import os, sys; os.execvp('unshare', ['unshare', '-n', '-m', sys.executable, '-c', *sys.argv[1:]])"


def can_be_apart() -> bool:
    """Whether a network and its mounts can be made for one process (root)."""
    if any(shutil.which(program) is None for program in ("ip", "unshare", "nsenter", "mount")):
        return False
    return subprocess.run(["unshare", "-n", "-m", "true"], check=False, capture_output=True).returncode == 0


# 每个端口都问一遍；gRPC 的不说 HTTP 1
ASKS_FOR_METRICS = """
import http.client, urllib.error, urllib.request
for line in open('/proc/net/tcp').read().splitlines()[1:]:
    _, local, _, state, *_ = line.split()
    if state == '0A':
        try:
            port = int(local.partition(':')[2], 16)
            print(urllib.request.urlopen(f'http://127.0.0.1:{port}/metrics', timeout=10).read().decode())
        except (OSError, http.client.HTTPException):
            pass
"""


def metrics(process: subprocess.Popen[str]) -> str:
    """All that is served at `/metrics` in a process's own network namespace to who has no token."""
    command = ("nsenter", "--net", "--target", str(process.pid), sys.executable, "-c", ASKS_FOR_METRICS)
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=PATIENCE).stdout


def start(lab: Lab, command: Sequence[str], *, apart: bool, **variables: str) -> subprocess.Popen[str]:
    """With `apart` the only network interface goes away after a line of input, and shared memory is read-only."""
    if not apart:
        return lab.start_program("import os, sys; os.execv(sys.argv[1], sys.argv[1:])", *command, **variables)
    return lab.start_program(APART, LOSES_ITS_NETWORK, *command, **variables)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_it_listens_on_loopback_in_a_private_folder_needs_no_network_and_stops_with_its_group(lab: Lab) -> None:
    told, temporary, project = lab.home / "told.json", lab.home / ("long-" * 12), lab.home / "my proj é%20 (a)&b;c$d"
    temporary.mkdir()
    project.mkdir()
    (project / ".venv").symlink_to(Path(sys.executable).parents[1])
    lab.results = project / "results"
    study = ("-m", "orchestrator.ablate", "--study", "lrn", "--seeds", "4", "--epochs", "5", "--slots", "1")
    command = (str(project / ".venv" / "bin" / "python"), *study, "--results", str(lab.results))
    apart = can_be_apart()
    process = start(lab, (*command, "--notify", f"cat > {told}"), apart=apart, HOME="", TMPDIR=str(temporary))
    wait_until(lambda: process.poll() is not None or in_the_middle(lab), PATIENCE, "an epoch")
    assert process.poll() is None, process.communicate()
    assert listening(lab) == {"127.0.0.1"}
    raylet = lab.processes("raylet/raylet")[0]
    words = raylet.cmdline()
    option = next(word for word in words if word.startswith("--temp_dir="))
    folder = Path(option.partition("=")[2]).parent
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert folder.parent == Path("/tmp"), "the temporary folder's path is too long for sockets"
    assert stat.S_IMODE((folder / "auth_token").stat().st_mode) == 0o600
    assert not list(lab.home.glob("*/auth_token"))
    assert os.getpgid(raylet.pid) != os.getpgid(process.pid)

    assert process.stdin is not None
    process.stdin.write("the network goes\n")
    process.stdin.flush()
    # 正在跑的也许只差一轮：再下一个是没有网络时才开始的
    enough = len(lab.finished()) + 2
    wait_until(lambda: process.poll() is not None or len(lab.finished()) >= enough, PATIENCE, "two further trials")
    assert process.poll() is None, process.communicate()
    if apart:
        wait_until(lambda: "ray_ablation_trials{" in metrics(process), PATIENCE, "metrics of the trials")
        named = [arm for arm in ("baseline", "no_lrn", "as_run") if arm in metrics(process)]
        assert named == [], "arms are named with --dashboard only"
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
    if not apart:
        pytest.skip(
            "all of it holds, but a network that goes away and read-only shared memory were not tried (not root)"
        )
    assert f"--plasma_directory={folder}" in words
    assert "warning: /dev/shm cannot be written (Read-only file system); Ray's object store goes to the disk" in output


@pytest.mark.parametrize("character", ["'", '"', "\\", "\n", "\t", "\udcff"])
def test_a_path_that_ray_cannot_start_workers_from_is_named_before_it_starts(
    monkeypatch: pytest.MonkeyPatch, character: str
) -> None:
    check_paths()
    monkeypatch.setattr(sys, "executable", f"/home/a{character}b/.venv/bin/python")
    with pytest.raises(LabError, match=r"Ray cannot start workers from .* in its path; move the project") as caught:
        check_paths()
    assert caught.value.exit_code == 3
    assert "\n" not in str(caught.value)
    str(caught.value).encode()


def test_a_current_folder_whose_name_is_no_text_is_named_before_ray_starts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = tmp_path / "a'b"
    folder.mkdir()
    monkeypatch.chdir(folder)
    check_paths()
    folder = tmp_path / os.fsdecode(b"no\xfftext")
    folder.mkdir()
    monkeypatch.chdir(folder)
    with pytest.raises(LabError, match=r"no\\udcfftext: a byte that is not UTF-8 in its path; move the project"):
        check_paths()


def test_a_temporary_folder_whose_name_is_no_text_is_passed_over(
    monkeypatch: pytest.MonkeyPatch, no_folders_left: None
) -> None:
    parent = Path(tempfile.mkdtemp(prefix=os.fsdecode(b"no\xfftext"), dir="/tmp"))
    try:
        monkeypatch.delenv("RAY_TMPDIR", raising=False)
        monkeypatch.setenv("TMPDIR", str(parent))
        assert folders.ray_folder().parent == Path("/tmp")
        monkeypatch.setenv("RAY_TMPDIR", str(parent))
        with pytest.raises(LabError, match=r"no\\udcfftext\S* is not UTF-8; set RAY_TMPDIR"):
            folders.ray_folder()
    finally:
        parent.rmdir()


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
    unshare = ["unshare", "-p", "-f", "--kill-child"]
    can = shutil.which("unshare") is not None and not subprocess.run([*unshare, "true"], check=False).returncode
    apart = unshare if can else []
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
    # 它自己的，随它的进程去了
    assert not list((tmp_path / ".ray").iterdir())
    assert not third.exists()
    if not can:
        pytest.skip("all of it holds, but a driver in another PID namespace was not tried (not root)")


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
