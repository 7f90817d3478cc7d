"""Several nodes with logical GPUs: real scheduling and reservations, no CUDA (`--device cpu`)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from tests.lab import Lab, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

NODES = """
import json, os, sys, time
for name, value in {"RAY_AUTH_MODE": "token", "RAY_worker_maximum_startup_concurrency": "8"}.items():
    os.environ[name] = value
from orchestrator.cluster import ensure_private_token, prepare_environment
prepare_environment()
ensure_private_token()
from ray.cluster_utils import Cluster
gpus = json.loads(sys.argv[1])
head = {"num_cpus": 4, "num_gpus": gpus[0], "include_dashboard": False}
cluster = Cluster(initialize_head=True, head_node_args=head)
for count in gpus[1:]:
    cluster.add_node(num_cpus=4, num_gpus=count)
print(cluster.address, flush=True)
sys.stdin.read()
cluster.shutdown()
"""


# Ray 在 worker 启动之后才设 CUDA_VISIBLE_DEVICES，它自己的 /proc/PID/environ 里没有；子进程的里面有
WITNESS = """
import os, subprocess, threading, time
def witness():
    while not os.environ.get("CUDA_VISIBLE_DEVICES"):
        time.sleep(0.1)
    wait = "while [ $PPID -eq $1 ] && kill -0 $1; do sleep 0.2; done"
    subprocess.Popen(["sh", "-c", wait, "gpu-witness", str(os.getpid())], stderr=subprocess.DEVNULL)
if "default_worker.py" in open("/proc/self/cmdline").read():
    threading.Thread(target=witness, daemon=True).start()
"""


@contextmanager
def nodes(lab: Lab, gpus: str) -> Iterator[str]:
    """A cluster of logical nodes in a process of its own, whose workers have a witness each; gives its address."""
    (lab.home / "witness").mkdir()
    (lab.home / "witness" / "sitecustomize.py").write_text(WITNESS)
    process = lab.start_program(NODES, gpus, PYTHONPATH=str(lab.home / "witness"))
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, process.communicate()
        yield line.strip()
    finally:
        process.communicate("", timeout=60)


def witnessed(lab: Lab) -> dict[int, str]:
    """CUDA_VISIBLE_DEVICES in /proc/PID/environ of the child of each train worker, by the worker's process."""
    found = {}
    for child in lab.processes("gpu-witness"):
        with suppress(psutil.Error, OSError):
            parent = child.parent()
            if parent is None or "RayTrainWorker" not in " ".join(parent.cmdline()):
                continue
            environ = Path(f"/proc/{child.pid}/environ").read_bytes().decode().split("\0")
            values = [line.partition("=")[2] for line in environ if line.startswith("CUDA_VISIBLE_DEVICES=")]
            found[parent.pid] = values[0]
    return found


def reservations(lab: Lab) -> dict[int, tuple[str, str]]:
    """(node, reserved GPUs) of each slot, as its worker saw them; a slot keeps them over its trials."""
    found: dict[int, tuple[str, str]] = {}
    for path in lab.results.glob("trials/*/result.json"):
        seen = json.loads(path.read_text())["environment"]
        reserved = (seen["node"], seen["reserved_gpus"])
        assert found.setdefault(seen["slot"], reserved) == reserved
    return found


@pytest.mark.parametrize(
    ("gpus", "pairs"),
    [("[2, 2]", [("0,1",), ("0,1",)]), ("[3, 3]", [("0,1", "0,2", "1,2")] * 2), ("[4]", [("0,1",), ("2,3",)])],
    ids=["2+2", "3+3", "4"],
)
def test_two_slots_run_at_once_each_on_two_gpus_of_its_own(lab: Lab, gpus: str, pairs: list[tuple[str, ...]]) -> None:
    with nodes(lab, gpus) as address:
        process = lab.start(
            *("--study", "lrn", "--seeds", "2", "--epochs", "8", "--address", address, "--device", "cpu"),
            *("--results", str(lab.results)),
            RAY_AUTH_MODE="token",
        )

        def two_in_the_middle() -> bool:
            assert process.poll() is None, process.communicate()
            trials = [path.parent for path in lab.results.glob("trials/*/epochs.jsonl")]
            return sum(not (trial / "result.json").exists() for trial in trials) >= 2

        wait_until(two_in_the_middle, 150, "two slots training at once")
        wait_until(lambda: len(witnessed(lab)) == 2, 10, "the witnesses of two train workers")
        seen = witnessed(lab)
        output, errors = process.communicate(timeout=200)
    assert process.returncode == 0, output + errors
    reserved = reservations(lab)
    assert len(reserved) == 2
    # 进程外看到的，与 worker 自己记录的一致
    assert sorted(seen.values()) == sorted(devices for _, devices in reserved.values())
    assert all(len(devices.split(",")) == 2 for devices in seen.values())
    nodes_used = {node for node, _ in reserved.values()}
    assert len(nodes_used) == (1 if gpus == "[4]" else 2)
    for (_, devices), allowed in zip(sorted(reserved.values(), key=lambda pair: pair[1]), pairs, strict=True):
        assert devices in allowed
    # 同一节点上的两个槽位不得共用 GPU
    claimed = [(node, device) for node, devices in reserved.values() for device in devices.split(",")]
    assert len(set(claimed)) == 4
