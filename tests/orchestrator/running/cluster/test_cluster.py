"""Several nodes with logical GPUs: real scheduling and reservations, no CUDA (`--device cpu`)."""

from __future__ import annotations

import json
import subprocess
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from tests.lab import PATIENCE, Lab, wait_until
from tests.logical_cluster import nodes

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

# 一份报告之后等门开：四个槽位都在半途，与机器快慢无关，也不费 CPU
GATED = """
import time
from pathlib import Path
from pydantic import BaseModel, ConfigDict
from orchestrator import Core, Metric

class Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    place: float = 1.0

def train(config, run):
    yield {"error": config.place + run.seed}
    while not (Path.home() / "open").exists():
        run.beat()
        time.sleep(0.1)
    yield {"error": config.place}

core = Core(name="gated", version=1, config=Config, train=train, metrics={"error": Metric()}, chosen_by="error",
            judged_by="error", gpus=2)
"""
STUDY = """
core: gated.py
name: gated
question: Where do the slots stand?
source: this file
baseline: baseline
arms:
  - {name: baseline, title: first}
  - {name: second, title: second, set: {place: 2.0}}
  - {name: third, title: third, set: {place: 3.0}}
recipes:
  default: {margin: 0.1, smallest_effect: 0.2}
"""


def witnessed(lab: Lab) -> dict[int, str]:
    """CUDA_VISIBLE_DEVICES in /proc/PID/environ of the child of each train worker, by the worker's process."""
    pids = {}
    for child in lab.processes("gpu-witness"):
        with suppress(psutil.Error, OSError):
            parent = child.parent()
            if parent is None or "RayTrainWorker" not in " ".join(parent.cmdline()):
                continue
            environ = Path(f"/proc/{child.pid}/environ").read_bytes().decode().split("\0")
            values = [line.partition("=")[2] for line in environ if line.startswith("CUDA_VISIBLE_DEVICES=")]
            pids[parent.pid] = values[0]
    return pids


def in_the_middle(lab: Lab, process: subprocess.Popen[str]) -> list[Path]:
    """The folders of the trials that have an epoch and no result yet."""
    assert process.poll() is None, process.communicate()
    trials = [path.parent for path in lab.results.glob("trials/*/epochs.jsonl") if path.stat().st_size]
    return [trial for trial in trials if not (trial / "result.json").exists()]


def ablate(lab: Lab, address: str, study: str, *arguments: str) -> subprocess.Popen[str]:
    return lab.start(
        *("--study", study, "--address", address, "--device", "cpu", "--results", str(lab.results), *arguments),
        RAY_AUTH_MODE="token",
        # 没有人看的 Train 页不必由一个 actor 来更新
        RAY_TRAIN_ENABLE_STATE_TRACKING="0",
    )


def attempts(lab: Lab) -> list[int]:
    return sorted(json.loads(path.read_text())["attempts"] for path in lab.results.glob("trials/*/result.json"))


def test_workers_of_a_slot_stand_on_two_nodes_and_slots_follow_a_node_that_joins_and_outlive_one_that_goes(
    lab: Lab,
) -> None:
    others = replace(lab, results=lab.results.with_name("others"))
    (lab.home / "gated.py").write_text(GATED)
    (lab.home / "gated.yaml").write_text(STUDY)
    with nodes(lab, "[3, 1, 2]") as cluster:
        its_workers_stand_on_two_nodes(others, cluster.address)
        process = ablate(lab, cluster.address, "gated.yaml", "--core", "gated.py", "--seeds", "2")
        wait_until(lambda: len(in_the_middle(lab, process)) == 2, PATIENCE, "two slots: none on the node of one GPU")
        cluster.tell("add", 4)
        wait_until(lambda: len(in_the_middle(lab, process)) == 4, PATIENCE, "two further slots on the node that joined")
        wait_until(lambda: len(witnessed(lab)) == 4, 10, "the witnesses of four train workers")
        by_node: dict[int, list[str]] = {}
        for worker, devices in witnessed(lab).items():
            by_node.setdefault(psutil.Process(worker).ppid(), []).append(devices)
        cluster.tell("remove", 2)
        wait_until(lambda: len(witnessed(lab)) == 3, PATIENCE, "the worker of the lost node is gone")
        (lab.home / "open").touch()
        output, errors = process.communicate(timeout=900)
    assert process.returncode == 0, output + errors
    assert "raylet" not in output + errors
    assert "joined; 2 further slots" in output
    assert "left; 1 slot stood on it, the trials go on elsewhere" in output
    assert attempts(lab) == [1] * 5 + [2], "the trial of the lost node was tried again, and no other"
    # 进程外看到的：两个槽位在同一个节点上各占一对，互不重叠
    assert sorted(map(sorted, by_node.values())) == [["0,1"], ["0,1"], ["0,1", "2,3"]]
    places = {place(path) for path in lab.results.glob("trials/*/result.json")}
    # worker 自己记录的与之一致；被拿走的节点上一个 trial 也没做完
    assert sorted(devices for _, devices in places) == ["0,1", "0,1", "2,3"]
    assert len({node for node, _ in places}) == 2


def its_workers_stand_on_two_nodes(lab: Lab, address: str) -> None:
    process = ablate(lab, address, "lrn", "--workers", "2", "--seeds", "1", "--epochs", "1")
    wait_until(lambda: process.poll() is not None or len(witnessed(lab)) == 2, PATIENCE, "two train workers")
    seen = witnessed(lab)
    raylets = {psutil.Process(worker).ppid() for worker in seen}
    output, errors = process.communicate(timeout=400)
    assert process.returncode == 0, output + errors
    # 没有节点容得下两对 GPU：两个 worker 只能分处两处
    assert sorted(seen.values()) == ["0,1", "0,1"]
    assert len(raylets) == 2
    results = [json.loads(path.read_text()) for path in lab.results.glob("trials/*/result.json")]
    assert [result["environment"]["workers"] for result in results] == [2, 2, 2]
    assert {result["state"] for result in results} == {"finished"}


def place(path: Path) -> tuple[str, str]:
    seen = json.loads(path.read_text())["environment"]
    return seen["node"], seen["reserved_gpus"]
