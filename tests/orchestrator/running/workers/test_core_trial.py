"""A bad core in a slot: however it fails, that is one line, and nothing that it started is left."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest

from orchestrator.cores.identity import code_of
from orchestrator.cores.loading import core_name
from orchestrator.running.slots.messages import End, Job, Notice
from orchestrator.running.workers import core_trial
from orchestrator.running.workers.core_trial import train_trial_of_core
from orchestrator.running.workers.watchdog import Place, Watch
from search_spaces.core_config import CoreConfig, CoreData
from search_spaces.edits import seeded
from tests.lab import is_gone, wait_until
from tests.made_core_records import describe, walk_config

CORE = """
import os, sys, time
from pydantic import BaseModel
from orchestrator import Core, Metric
TOP

class Config(BaseModel, frozen=True):
    epochs: int = 3
    seed: int = 7
    stride: dict = {}

def train(config, run):
    for epoch in range(2):
        BODY
        yield REPORT
    END

core = Core(name="walk", version=1, config=Config, train=train, gpus=0,
            metrics={"loss": Metric(), "test_loss": Metric()}, chosen_by="loss", judged_by="test_loss")
"""
REPORT = "{'loss': run.seed + 0.5, 'test_loss': 1}"
GARBAGE = (
    r"""print("\x1b[2J\x00\ud800 {'report': 1}", b"\xff", "x" * 10**6, sep="\r"); sys.stderr.write("\r\n" * 999)"""
)
# 中间的一个先走：留下的那个不再是谁的孩子
ORPHANS_SECONDS = f"600.{os.getpid()}"
DOUBLE_FORKS = f"import subprocess; subprocess.run(['sh', '-c', 'setsid sleep {ORPHANS_SECONDS} &'])"
FORKS = "os.posix_spawnp('sh', ['sh', '-c', 'sleep 600 & sleep 600'], os.environ); time.sleep(0.2)"


def trained(folder: Path, gpus: float = 0.0, config: CoreConfig | None = None, **text: str) -> End:
    """Trains a trial of a core as the second worker of a slot does, which has nobody to speak with."""
    source = CORE
    for word, instead in {"TOP": "", "BODY": "pass", "REPORT": REPORT, "END": "", **text}.items():
        source = source.replace(word, instead)
    (folder / "walk.py").write_text(source)
    code = code_of(core_name("walk.py", folder)).keep(folder / "results", "walk")
    job = Job(
        "a" * 20, (config or walk_config(3)).model_dump_json(), str(folder / "results" / "trials" / "a"), 1, code=code
    )
    devices = ("cuda:0", "cuda:1" if gpus >= 2 else "cuda:0") if gpus else ("cpu", "cpu")
    place = Place(slot=0, rank=1, workers=2, devices=devices, broker=None, gpus=gpus)  # type: ignore[arg-type]
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
        ({"BODY": DOUBLE_FORKS}, "finished", ""),
        ({"BODY": "pass", "TOP": "", "END": "return 'no gain'"}, "finished", "ended early: no gain"),
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
    others = psutil.process_iter(["cmdline"])
    assert not [other for other in others if ORPHANS_SECONDS in (other.info["cmdline"] or ())]


@pytest.mark.parametrize(
    ("gpus", "devices"), [(0.0, "('cpu',)"), (0.25, "('cuda:0',)"), (1.0, "('cuda:0',)"), (2.0, "('cuda:0', 'cuda:1')")]
)
def test_a_training_is_told_its_devices_and_the_folder_of_its_data(tmp_path: Path, gpus: float, devices: str) -> None:
    data = CoreData(name="default", root=str(tmp_path / "images"))
    told = f"import pathlib; assert (run.devices, run.data_root) == ({devices}, pathlib.Path({data.root!r})), vars(run)"
    end = trained(tmp_path, gpus, walk_config(3, data=data), BODY=told)
    assert (end.state, end.message) == ("finished", "")
    assert end.environment["devices"] == devices.strip("(),'").replace("', '", ",")


def test_a_training_draws_a_single_source_by_the_seed_of_its_trial(tmp_path: Path) -> None:
    sources = ("order", "split")
    config = seeded(walk_config(core=describe(randomness=sources)), 9, ("order",))
    assert isinstance(config, CoreConfig)
    declared = {'judged_by="test_loss"': f'judged_by="test_loss", randomness={sources!r}'}
    drawn = "assert (run.seed, run.seed_of('order'), run.seed_of('split')) == (0, 9, 0), vars(run)"
    end = trained(tmp_path, config=config, BODY=drawn, **declared)
    assert (end.state, end.message) == ("finished", "")
    other = trained(tmp_path, config=config, BODY="run.seed_of('weather')", **declared)
    assert other.message.startswith("run.seed_of('weather'): declare it, Core(randomness=...) has order, split")


@pytest.mark.parametrize(
    ("body", "level"), [("pass", "from its beginning"), ("run.save({'epoch': epoch})", "from its last state")]
)
def test_a_trial_says_from_where_it_would_go_on(tmp_path: Path, body: str, level: str) -> None:
    assert trained(tmp_path, BODY=body).environment["resumes"] == level


def test_a_large_state_is_said_once_in_a_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core_trial, "LARGE_STATE", 100_000)
    monkeypatch.setattr(core_trial, "_told_large", set())
    posted: list[object] = []
    monkeypatch.setattr(Watch, "post", lambda self, news: posted.append(news))
    for name, bytes_of_it in (("small", 1000), ("large", 200_000), ("again", 200_000)):
        (tmp_path / name).mkdir()
        end = trained(tmp_path / name, BODY=f"run.save({{'much': 'x' * {bytes_of_it}}})")
        assert end.state == "finished"
        states = list((tmp_path / name / "results" / "trials" / "a" / "checkpoint").iterdir())
        assert 1 <= len(states) <= 2, "nothing is left of what was replaced"
        assert end.weights in {f"checkpoint/{path.name}" for path in states}
        notices = [news.text for news in posted if isinstance(news, Notice)]
        assert len(notices) == (name != "small")
    (notice,) = notices
    assert notice.startswith("core walk: a state is 0 MB, written with a report at most once a second; two are kept")
