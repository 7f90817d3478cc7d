"""The study survives: real SIGKILLs of driver, worker, Tune actor and raylet, then the same command again."""

from __future__ import annotations

import http.client
import json
import re
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import polars as pl
import psutil
import pytest
from safetensors.numpy import load_file

from tests.lab import PATIENCE, Lab, names, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

# 每个 trial 约 2 秒：够长，杀得到一半
EPOCHS = 5
STUDY = ("--study", "lrn", "--seeds", "2", "--epochs", str(EPOCHS), "--no-dashboard")
# 一个槽位的 Ray 少用三分之一的 CPU
ONE_SLOT = ("--slots", "1")
ERRORS = ["key", "seed", "state", "epochs"] + [
    f"{split}_{name}"
    for split in ("train", "validation", "test")
    for name in ("loss", "top1_error", "top5_error", "top1_errors", "top5_errors", "count")
]


@pytest.fixture(scope="module")
def undisturbed(module_lab: Lab) -> Lab:
    """The same study, trained by the same core without any of Ray."""
    code, output, errors = module_lab.without_ray(*STUDY)
    assert code == 0, output + errors
    return module_lab


def error_table(lab: Lab) -> pl.DataFrame:
    return pl.read_parquet(lab.results / "tables" / "trials.parquet").select(ERRORS).sort("key")


def assert_same_table(lab: Lab, undisturbed: Lab) -> None:
    """Key, state, every error column and weight, bit for bit; each trial's epochs are there once, in order."""
    assert error_table(lab).equals(error_table(undisturbed))
    for folder in sorted((lab.results / "trials").iterdir()):
        lines = [json.loads(line) for line in (folder / "epochs.jsonl").read_text().splitlines()]
        assert [line["epoch"] for line in lines] == list(range(1, EPOCHS + 1)), folder.name
        reference = undisturbed.results / "trials" / folder.name / "epochs.jsonl"
        for line, other in zip(lines, map(json.loads, reference.read_text().splitlines()), strict=True):
            assert line["train"] == other["train"]
            assert line["validation"] == other["validation"]
        assert_same_weights(folder, undisturbed.results / "trials" / folder.name)


def assert_same_weights(folder: Path, other: Path) -> None:
    first, second = (
        load_file(trial / json.loads((trial / "result.json").read_text())["weights"]) for trial in (folder, other)
    )
    assert first.keys() == second.keys()
    assert all((first[name] == second[name]).all() for name in first)


def start_and_wait(lab: Lab, *arguments: str, finished: int, running: bool = True) -> subprocess.Popen[str]:
    """Starts the study and waits until some trials have ended and one is in the middle of its epochs."""
    started = time.time()
    process = lab.start(*STUDY, *arguments, "--results", str(lab.results))

    def in_the_middle() -> bool:
        assert process.poll() is None, process.communicate()
        if len(lab.finished()) < finished:
            return False
        return not running or any(
            (folder / "epochs.jsonl").is_file()
            and (folder / "epochs.jsonl").stat().st_mtime > started
            and not (folder / "result.json").is_file()
            and len((folder / "epochs.jsonl").read_text().splitlines()) >= 2
            for folder in lab.results.glob("trials/*")
        )

    wait_until(in_the_middle, PATIENCE, f"{finished} finished trials and one in the middle")
    return process


def stamps(lab: Lab) -> dict[str, int]:
    return {key: (lab.results / "trials" / key / "result.json").stat().st_mtime_ns for key in lab.finished()}


def attempts(lab: Lab, key: str) -> int:
    return len((lab.results / "trials" / key / "attempts.jsonl").read_text().splitlines())


def kill(lab: Lab, matches: Callable[[str], bool]) -> None:
    """SIGKILLs the processes whose title matches."""
    matching = [process for process in lab.processes() if matches(_title(process))]
    assert matching, names(lab.processes())
    for process in matching:
        process.send_signal(signal.SIGKILL)


def _title(process: psutil.Process) -> str:
    try:
        return f"{process.name()} {' '.join(process.cmdline())}"
    except psutil.Error:
        return ""


def assert_gone(lab: Lab, seconds: float) -> None:
    wait_until(lambda: not lab.processes(), seconds, f"all processes gone: {names(lab.processes())}")


def loads_torch(process: psutil.Process) -> bool:
    with suppress(OSError):
        return "libtorch" in Path(f"/proc/{process.pid}/maps").read_text()
    return False


def its_raylet_dies_with_its_agent(lab: Lab, finished: int) -> None:
    process = start_and_wait(lab, *ONE_SLOT, finished=finished)
    # 一个 torch 的对象混进事件里，每个 actor 就要多花几秒和几百兆
    small = [*lab.processes("ray::Broker"), *lab.processes("ray::ImplicitFunc")]
    assert len(small) >= 2
    assert not any(map(loads_torch, small)), names(small)
    idle = ("dashboard/dashboard.py", "ray::SynchronizationActor", "ray::TrainStateActor", "log_monitor", "monitor.py")
    assert not [title for title in idle if lab.processes(title)], "nobody hears them"
    # Ray 的 raylet 没有它的代理就自己退出；另一个代理在下面
    kill(lab, lambda title: "ray::RuntimeEnvAgent" in title)
    killed_at = time.monotonic()
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 3, output + errors
    assert time.monotonic() - killed_at < 60
    assert_raylet_is_missed(errors)
    assert_gone(lab, 30)


def assert_raylet_is_missed(errors: str) -> None:
    # 谁先发现：守望线程，或者问代理而没有回答的主线程
    (line,) = (line for line in errors.splitlines() if line.startswith("error: "))
    assert line.startswith(("error: Ray's raylet died", "error: Ray stopped answering")), errors
    assert "Traceback" not in errors


def every_process_is_asked_to_stop(lab: Lab, finished: int) -> None:
    """As systemd and Slurm do: they signal every process of the control group, whatever its session."""
    process = start_and_wait(lab, *ONE_SLOT, finished=finished)
    for one in lab.processes():
        if "reaper" not in _title(one):
            one.send_signal(signal.SIGTERM)
    asked_at = time.monotonic()
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 130, output + errors
    assert time.monotonic() - asked_at < 20
    assert "Go on with the same command" in output
    assert "died" not in errors, "a raylet that ends by the same signal is a stop too"
    assert "Traceback" not in output + errors
    assert_gone(lab, 30)


def its_driver_is_killed(lab: Lab, finished: int) -> subprocess.Popen[str]:
    """Kills the driver and starts the same command at once; returns it when nothing of the first is left."""
    process = start_and_wait(lab, *ONE_SLOT, finished=finished)
    orphans = {other.pid for other in lab.processes()} - {process.pid}
    process.send_signal(signal.SIGKILL)
    killed_at = time.monotonic()
    # 不读到底：孤儿进程还握着管道
    with suppress(subprocess.TimeoutExpired):
        process.communicate(timeout=1)
    for pipe in (process.stdin, process.stdout, process.stderr):
        pipe.close()
    # 立刻再来一次：旧的 worker 可能还活着、还在写检查点
    again = lab.start(*STUDY, *ONE_SLOT, "--results", str(lab.results))
    while orphans & {other.pid for other in lab.processes()}:
        assert time.monotonic() - killed_at < 30, names(lab.processes())
        time.sleep(0.2)
    return again


def its_disk_is_torn(lab: Lab, undisturbed: Lab) -> None:
    """Leaves what a power failure may leave: half a checkpoint, a torn line, no result, and half a table."""
    key = sorted(lab.finished())[0]
    folder = lab.results / "trials" / key
    curve = (folder / "epochs.jsonl").read_bytes()
    (folder / "epochs.jsonl").write_bytes(curve + curve[:40])
    (folder / "checkpoint" / "0009-000003-00000000.safetensors").write_bytes(b"half a checkpoint")
    (folder / "result.json").unlink()
    (lab.results / "tables").mkdir(exist_ok=True)
    table = (undisturbed.results / "tables" / "trials.parquet").read_bytes()
    (lab.results / "tables" / "trials.parquet").write_bytes(table[:100])


def test_a_study_whose_raylet_dies_that_is_stopped_torn_and_killed_loses_nothing(lab: Lab, undisturbed: Lab) -> None:
    its_raylet_dies_with_its_agent(lab, finished=1)
    # 只给驱动的信号在 test_interruption.py 的每个时刻都试过，给整个进程组的在 test_own_ray.py
    every_process_is_asked_to_stop(lab, len(lab.finished()) + 1)
    its_disk_is_torn(lab, undisturbed)
    before = stamps(lab)
    again = its_driver_is_killed(lab, len(before) + 1)
    output, errors = again.communicate(timeout=400)
    assert again.returncode == 0, output + errors
    assert {key: stamp for key, stamp in stamps(lab).items() if key in before} == before, "none is trained twice"
    assert int(output.split(" on record")[0].split()[-1]) > len(before)
    assert_same_table(lab, undisturbed)
    results = [json.loads(path.read_text()) for path in lab.results.glob("trials/*/result.json")]
    begun_before = {result["attempts"] > 1: 0 for result in results}
    for result in results:
        begun_before[result["attempts"] > 1] += result["environment"]["epochs_before"]
    assert begun_before[False] == 0
    assert begun_before[True] > 0, "its seconds are of several sessions"
    assert_gone(lab, 30)


def test_killed_workers_controllers_and_tune_actors_are_taken_in_stride(lab: Lab, undisturbed: Lab) -> None:
    process = start_and_wait(lab, finished=1)
    kill(lab, lambda title: "ray::ImplicitFunc" in title)
    wait_until(lambda: len(lab.finished()) >= 2, PATIENCE, "a trial finished after the Tune actor's death")
    kill(lab, lambda title: "ray::RayTrainWorker" in title)
    wait_until(lambda: len(lab.finished()) >= 3, PATIENCE, "a trial finished after the workers' death")
    # 资源组若不放掉，两个槽位就再也排不下
    kill(lab, lambda title: "ray::TrainController" in title)
    output, errors = process.communicate(timeout=400)
    assert process.returncode == 0, output + errors
    assert "raylet" not in output + errors
    assert "Traceback" not in output + errors
    assert_same_table(lab, undisturbed)
    logs = "".join(path.read_text() for path in lab.results.glob("trials/*/log.txt"))
    assert "its worker died; it goes on from its last checkpoint" in logs
    assert_gone(lab, 30)


# 同一个命令，只是等不了那么久
IMPATIENT = """
import sys
from orchestrator.ablate import main
from orchestrator.running.cluster import lifecycle, ray_processes
from orchestrator.running.slots import silence
ray_processes.SAY_AFTER_SECONDS = 1.0
silence.SILENT_SECONDS, silence.LOOK_EVERY_SECONDS, silence.KNOWN_RATIO = 4.0, 0.5, 0.0
if "--json" in sys.argv:
    ray_processes.PATIENCE_SECONDS = 8.0
lifecycle.check_process_is_ours = lambda: None
sys.exit(main())
"""


def listening(lab: Lab) -> set[tuple[str, int]]:
    """Where this lab's processes listen."""
    places = set()
    for process in lab.processes():
        with suppress(psutil.Error):
            for socket in process.net_connections(kind="tcp"):
                if socket.status == psutil.CONN_LISTEN:
                    places.add((socket.laddr.ip.removeprefix("::ffff:"), socket.laddr.port))
    return places


def serves_metrics(port: int) -> bool:
    """Whether a port answers everybody's question for `/metrics`; one of gRPC does not speak HTTP 1."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("GET", "/metrics")
        return connection.getresponse().status == 200
    except (http.client.HTTPException, ConnectionError):
        return False
    finally:
        connection.close()


def no_metrics_are_served_and_all_ports_are_on_loopback(lab: Lab) -> None:
    """What SECURITY.md says of `--no-dashboard`."""
    places = listening(lab)
    assert {address for address, _ in places} == {"127.0.0.1"}
    assert [port for _, port in sorted(places) if serves_metrics(port)] == []
    said = (Path(__file__).parents[3] / "SECURITY.md").read_text()
    assert "they listen on loopback only" in said
    assert "With `--no-dashboard` no port serves any" in said


def a_stopped_worker_is_named_as_silent(lab: Lab) -> None:
    log = lab.results / "studies" / "lrn" / "driver.log"
    (worker,) = lab.processes("ray::RayTrainWorker")
    worker.send_signal(signal.SIGSTOP)
    trial = r"slot 0 has not been heard since \d\d:\d\d:\d\d \(\d+ s\), in trial \w+ seed 0; the study goes on"
    wait_until(lambda: re.search(trial, log.read_text()), 60, "the silent slot is named")
    worker.send_signal(signal.SIGCONT)
    wait_until(lambda: "slot 0 is heard again" in log.read_text(), 60, "it is heard again")


def test_a_slot_that_is_renewed_at_once_and_falls_silent_is_heard_again_and_a_dead_agent_ends_the_study(
    lab: Lab,
) -> None:
    long = ("--study", "lrn", "--seeds", "1", "--epochs", "300", "--no-dashboard", *ONE_SLOT)
    process = lab.start_program(IMPATIENT, *long, "--results", str(lab.results))
    wait_until(lambda: lab.processes("ray::TrainController"), PATIENCE, "a controller")
    kill(lab, lambda title: "ray::TrainController" in title)
    wait_until(lambda: list(lab.results.glob("trials/*/epochs.jsonl")), PATIENCE, "an epoch in the renewed slot")
    assert process.poll() is None
    no_metrics_are_served_and_all_ports_are_on_loopback(lab)
    a_stopped_worker_is_named_as_silent(lab)
    # Ray 的 raylet 没有它的代理就自己退出
    # 代理进程起得晚，名字也是起来之后才改的
    wait_until(lambda: lab.processes("ray::DashboardAgent"), PATIENCE, "an agent of the raylet")
    kill(lab, lambda title: "ray::DashboardAgent" in title)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 3, output + errors
    assert_raylet_is_missed(errors)
    assert_gone(lab, 30)


@pytest.mark.parametrize(
    ("title", "number", "said"),
    [
        # 正好起完才被杀的，由守望线程来说
        pytest.param("raylet/raylet", signal.SIGKILL, ("raylet ended with -9", "Ray's raylet died"), id="raylet"),
        # Ray 自己要等满一分钟，然后以退出码 1 结束
        pytest.param(
            *("gcs_server", signal.SIGKILL, ("gcs_server ended with -9", "Ray's control service (GCS) died")), id="GCS"
        ),
        pytest.param("gcs_server", signal.SIGTERM, ("o on with the same command",), id="GCS asked to stop"),
        pytest.param("raylet/raylet", signal.SIGSTOP, ("its raylet lives but has not answered for",), id="slow"),
    ],
)
def test_what_befalls_ray_while_it_starts_is_said_at_once(
    lab: Lab, title: str, number: signal.Signals, said: tuple[str, ...]
) -> None:
    study = ("--study", "lrn", "--seeds", "1", "--epochs", "1", "--no-dashboard", *ONE_SLOT, "--json")
    where = ("--results", str(lab.results))
    slow = number is signal.SIGSTOP
    process = lab.start_program(IMPATIENT, *study, *where) if slow else lab.start(*study, *where)
    wait_until(lambda: process.poll() is not None or lab.processes(title), PATIENCE, title)
    lab.processes(title)[0].send_signal(number)
    output, errors = process.communicate(timeout=60)
    code = 130 if number is signal.SIGTERM else 3
    assert process.returncode == code, output + errors
    assert any(words in errors for words in said), errors
    assert ("Ray is slow to start here: load " in errors) == slow
    assert "Traceback" not in output + errors
    document = json.loads(output)
    assert document["exit_code"] == code
    assert (document["error"] == "interrupted") == (code == 130)
    assert_gone(lab, 30)
    assert not list((lab.results / ".ray").iterdir()), "its scratch folder goes with it"


def test_the_answer_from_records_loads_no_ray_no_torch_no_matplotlib(undisturbed: Lab) -> None:
    report = undisturbed.results / "studies" / "lrn" / "report.md"
    before = report.stat().st_mtime_ns
    program = (
        "import sys; from orchestrator.ablate import main; "
        f"code = main({[*STUDY, '--results', str(undisturbed.results)]!r}); "
        "print('loaded:', [name for name in ('ray', 'torch', 'matplotlib') if name in sys.modules]); "
        "sys.exit(code)"
    )
    process = undisturbed.start_program(program)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, output + errors
    assert "0 to train" in output
    assert "loaded: []" in output
    assert report.stat().st_mtime_ns == before
    # 没有要训练的，就没有什么留在后台：答案、退出码都传回来
    code, detached, errors = undisturbed.run(*STUDY, "--detach", "--results", str(undisturbed.results))
    assert (code, errors) == (0, "")
    assert detached == (report.parent / "detached.log").read_text()
    assert "0 to train" in detached
    assert "report: " in detached
    assert "it goes on as process" not in detached
