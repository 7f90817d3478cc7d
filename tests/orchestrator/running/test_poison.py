"""Processes that fail in a real run: one that is too slow to start, an illegal access, and memory that ran out."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import psutil
import pytest

from tests.lab import PATIENCE, Lab, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

# 让 Ray 的 worker 在某些 trial 里中毒：no_lrn 每次都非法访问；as_run 第一次把内存用尽
POISON = """
import importlib.abc, importlib.machinery, os, resource, sys

def poison(training):
    healthy = training._train_batch

    def train_batch(run, images, step, *rest):
        import torch
        layers = {layer.name: layer for layer in run.config.network.layers}
        once = os.path.join(os.environ["HOME"], "ran-out")
        if "lrn1" not in layers:
            os.write(2, b"the driver's own words\\n")
            raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
        if layers["lrn1"].divide_alpha_by_size and not os.path.exists(once):
            open(once, "w").close()
            resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
            torch.zeros(1 << 30)
        return healthy(run, images, step, *rest)

    training._train_batch = train_batch

class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != "alexnet_core.training.train":
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        execute = spec.loader.exec_module
        spec.loader.exec_module = lambda module: (execute(module), poison(module))
        return spec

sys.meta_path.insert(0, Finder())
"""


def test_a_slow_start_and_a_trial_that_always_dies_take_neither_a_slot_nor_the_study_with_them(lab: Lab) -> None:
    (lab.home / "poison").mkdir()
    (lab.home / "poison" / "sitecustomize.py").write_text(POISON)
    paths = [str(lab.home / "poison"), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    arguments = ("--seeds", "1", "--epochs", "2", "--slots", "1", "--no-dashboard", "--results", str(lab.results))
    process = lab.start("--study", "lrn", *arguments, PYTHONPATH=os.pathsep.join(paths))
    an_agent_is_stopped_while_ray_starts(lab)
    output, errors = process.communicate(timeout=900)
    assert process.returncode == 1, output + errors
    assert "Ray's agents were too slow to start" in errors
    assert "Traceback" not in output + errors
    results = {path.parent: json.loads(path.read_text()) for path in lab.results.glob("trials/*/result.json")}
    by_state = {result["state"]: folder for folder, result in results.items()}
    assert sorted(result["state"] for result in results.values()) == ["failed", "finished", "finished"]

    failed = by_state["failed"]
    assert results[failed]["attempts"] == 3
    assert "died 3 times in this trial, the last time with" in results[failed]["message"]
    assert "illegal memory access" in results[failed]["message"]
    assert (failed / "log.txt").read_text().count("illegal memory access was encountered") >= 3
    assert (failed / "log.txt").read_text().count("the driver's own words") == 3, "written past Python, then it died"
    assert f"log: {failed / 'log.txt'}" in output
    assert f"python -m alexnet_core train --config {failed / 'config.json'}" in output

    again = [folder for folder, result in results.items() if result["state"] == "finished" and result["attempts"] == 2]
    assert len(again) == 1
    assert "can't allocate memory" in (again[0] / "log.txt").read_text()
    assert_same_numbers_in_a_fresh_process(lab, again[0])

    code, output, errors = lab.run("--study", "lrn", *arguments)
    assert code == 1, output + errors
    assert "3 on record, 0 to train" in output


def an_agent_is_stopped_while_ray_starts(lab: Lab) -> None:
    def agents() -> list[psutil.Process]:
        return [one for one in lab.processes("dashboard/agent.py") if one.name() != "raylet"]

    # raylet 等它的代理只等十几秒，忙的机器上不够：那不是坏了
    wait_until(agents, PATIENCE, "an agent of the raylet")
    agents()[0].send_signal(signal.SIGSTOP)


def assert_same_numbers_in_a_fresh_process(lab: Lab, folder: Path) -> None:
    """The process that trained it in the end came after five poisoned ones."""
    out = lab.home / "again"
    code, output, errors = lab.run(
        "train", "--config", str(folder / "config.json"), "--out", str(out), module="alexnet_core"
    )
    assert code == 0, output + errors
    from alexnet_core.training.checkpoint import latest_checkpoint, read_history

    path = latest_checkpoint(out / "checkpoint")
    assert path is not None
    result = json.loads((folder / "result.json").read_text())
    last = read_history(path)[-1].model_dump(mode="json")
    assert all(last[split] == result[split] for split in ("train", "validation", "test"))
