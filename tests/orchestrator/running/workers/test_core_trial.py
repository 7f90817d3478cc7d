"""A bad core in a slot: however it fails, that is one line, and nothing that it started is left."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from orchestrator.cores.identity import code_of
from orchestrator.cores.loading import core_name
from orchestrator.running.slots.messages import End, Job
from orchestrator.running.workers.core_trial import train_trial_of_core
from orchestrator.running.workers.watchdog import Place, Watch
from tests.lab import wait_until
from tests.made_core_records import walk_config

CORE = """
import os, sys, time
from pydantic import BaseModel
from orchestrator import Core, Metric
TOP

class Config(BaseModel, frozen=True, extra="forbid"):
    epochs: int = 3
    seed: int = 7
    stride: dict = {}

def train(config, run):
    for epoch in range(2):
        BODY
        yield REPORT

core = Core(name="walk", version=1, config=Config, train=train, gpus=0,
            metrics={"loss": Metric(), "test_loss": Metric()}, chosen_by="loss", judged_by="test_loss")
"""
REPORT = "{'loss': run.seed + 0.5, 'test_loss': 1}"
GARBAGE = (
    r"""print("\x1b[2J\x00\ud800 {'report': 1}", b"\xff", "x" * 10**6, sep="\r"); sys.stderr.write("\r\n" * 999)"""
)
FORKS = "os.posix_spawnp('sh', ['sh', '-c', 'sleep 600 & sleep 600'], os.environ); time.sleep(0.2)"


def trained(folder: Path, **text: str) -> End:
    """Trains a trial of a core as the second worker of a slot does, which has nobody to speak with."""
    source = CORE
    for word, instead in {"TOP": "", "BODY": "pass", "REPORT": REPORT, **text}.items():
        source = source.replace(word, instead)
    (folder / "walk.py").write_text(source)
    code = code_of(core_name("walk.py", folder)).keep(folder / "results", "walk")
    job = Job("a" * 20, walk_config(3).model_dump_json(), str(folder / "results" / "trials" / "a"), 1, code=code)
    place = Place(slot=0, rank=1, workers=2, devices=("cpu", "cpu"), broker=None)  # type: ignore[arg-type]
    return train_trial_of_core(place, job, Watch(place, job))


@pytest.mark.parametrize(
    ("text", "state", "message"),
    [
        ({}, "finished", ""),
        (
            {"TOP": "1 / 0"},
            "failed",
            "core walk cannot be imported: ZeroDivisionError: division by zero (walk.py, line 5)",
        ),
        (
            {"TOP": "import no_such_package"},
            "failed",
            "core walk cannot be imported: ModuleNotFoundError: No module named 'no_such_package' (walk.py, line 5)",
        ),
        (
            {"BODY": "import no_such"},
            "failed",
            "train raised ModuleNotFoundError: No module named 'no_such' (walk.py, ",
        ),
        ({"BODY": "return"}, "failed", "train has ended without a report"),
        ({"BODY": "sys.exit('enough')"}, "failed", "train raised SystemExit: enough (walk.py, line 14)"),
        ({"REPORT": "{'loss': float('nan'), 'test_loss': 1}"}, "diverged", "loss is nan in report 1"),
        (
            {"REPORT": "{'los': 1, 'test_loss': 'x'}"},
            "failed",
            "a report lacks the metric 'loss'; it has 'los'; metric ",
        ),
        ({"REPORT": "'a report'"}, "failed", "a report is a mapping of metric names to numbers, not 'a report'"),
        ({"BODY": GARBAGE}, "finished", ""),
        ({"BODY": FORKS}, "finished", ""),
        ({"BODY": f"{FORKS}; 1 / 0"}, "failed", "train raised ZeroDivisionError: division by zero (walk.py, line 14)"),
    ],
)
def test_a_bad_core_is_one_line_and_leaves_nothing(
    tmp_path: Path, text: dict[str, str], state: str, message: str
) -> None:
    before = set(psutil.Process().children(recursive=True))
    end = trained(tmp_path, **text)
    assert (end.state, end.message[: len(message)]) == (state, message), end
    assert "\n" not in end.message
    left = set(psutil.Process().children(recursive=True)) - before
    wait_until(lambda: all(map(is_gone, left)), 20, "what it has started is gone")


def is_gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
