"""The examples in `docs/examples`: each core keeps its word, and each study is planned."""

from __future__ import annotations

import importlib.util
import math
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import pytest
import torch

from orchestrator import ablate
from orchestrator.cores.contract import Core
from orchestrator.cores.loading import core_name, load_core
from orchestrator.cores.training import Place, Report, StateFolder, train_core
from search_spaces.script import Script
from search_spaces.study import Study, load_study

ROOT = Path(__file__).parents[2]
STUDIES = sorted((ROOT / "docs" / "examples").glob("*/*.yaml"))
# 这个例子要另装一个包
NEEDED = {"lightning_trainer": "lightning"}
REPORTS = 2


@dataclass(frozen=True)
class Example:
    """A folder of `docs/examples`: its study file, what that asks, and how the command calls its core."""

    path: Path
    study: Study
    shown: str

    def core(self) -> Core:
        return load_core(core_name(self.path.name if isinstance(self.study.core, Script) else self.shown, self.folder))

    @property
    def folder(self) -> Path:
        return self.path.parent


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As in a slot on the CPU: on busy cores two threads wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=STUDIES, ids=lambda path: path.parent.name)
def example(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Example:
    path: Path = request.param
    package = NEEDED.get(path.parent.name)
    if package is not None and importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed: uv sync --group examples")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home" / ".config"))
    # 载入 core 会把它的文件夹放到最前
    monkeypatch.setattr(sys, "path", list(sys.path))
    study = load_study(str(path))
    assert study.core is not None
    return Example(path, study, study.core.name if isinstance(study.core, Script) else study.core)


def first_reports(core: Core, seed: int, folder: Path, count: int = REPORTS) -> list[Report]:
    """The first reports of a training that is then stopped; it goes on from what it has saved in a folder."""
    states = StateFolder(folder / "states", least_seconds=0.0)
    with closing(train_core(core, core.config(), Place(seed, folder=folder / "script"), states)) as training:
        return list(islice(training, count))


def numbers(reports: list[Report]) -> list[tuple[int, dict[str, float]]]:
    return [(report.number, report.metrics) for report in reports]


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
@pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")
def test_an_example_repeats_by_seed_and_goes_on_where_it_was_stopped(example: Example, tmp_path: Path) -> None:
    core = example.core()
    straight = first_reports(core, 0, tmp_path / "straight")
    assert [report.number for report in straight] == [1, 2]
    assert all(math.isfinite(value) for report in straight for value in report.metrics.values())
    other = first_reports(core, 1, tmp_path / "other")
    assert numbers(other) != numbers(straight)
    begun = first_reports(core, 0, tmp_path / "stopped", count=1)
    assert numbers(begun) == numbers(straight)[:1]
    gone_on = first_reports(core, 0, tmp_path / "stopped")
    # 不存状态的从头来过，数字照样一样
    expected = straight[1:] if (tmp_path / "stopped" / "states").is_dir() else straight
    assert numbers(gone_on)[: len(expected)] == numbers(expected)


def test_the_study_of_an_example_is_planned_with_enough_seeds(
    example: Example, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--study", str(example.path), "--core", example.shown, "--results", str(tmp_path / "r")]
    assert ablate.main([*command, "--sweep", "3", "--dry-run"]) == 0
    output, errors = capsys.readouterr()
    assert errors == ""
    assert "can reach a verdict" in output
    assert all(f"    {arm.name}: " in output for arm in example.study.arms)
    assert len(example.study.arms) >= 3
    assert not (tmp_path / "r" / "trials").exists()
