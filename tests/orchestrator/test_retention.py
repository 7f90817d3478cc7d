"""Pruning shows what it would free, and keeps what a verdict, an export or another try needs."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator import records
from orchestrator.best import main
from orchestrator.records import TrialState
from search_spaces.trial import PlannedTrial, trial_key
from tests.made_records import make_config, put


def add(results: Path, arm: str, seed: int, wrong: int, *, state: str = "finished", rate: float = 0.01) -> Path:
    """Puts a trial with final weights (1,000 bytes) and an older checkpoint (500 bytes) on record."""
    config = make_config(seed, learning_rate=rate)
    folder = records.open_record(results, config)
    (folder / "checkpoint").mkdir()
    (folder / "checkpoint" / "0001-000002-00000000.safetensors").write_bytes(bytes(1000))
    (folder / "checkpoint" / "0001-000001-00000000.safetensors").write_bytes(bytes(500))
    phase = "sweep" if arm == "sweep" else "arm"
    records.append_members(
        results, "lrn", [records.membership("lrn", "digits", PlannedTrial(arm, seed, phase, config, trial_key(config)))]
    )
    if state != "interrupted":
        weights = "checkpoint/0001-000002-00000000.safetensors" if state == "finished" else None
        put(results, config, wrong, state=TrialState(state), weights=weights)
    return folder / "checkpoint"


def prune(capsys: pytest.CaptureFixture[str], results: Path, *arguments: str) -> str:
    capsys.readouterr()
    assert main(["--results", str(results), "--prune", *arguments]) == 0
    return " ".join(capsys.readouterr().out.split())


def left(folder: Path) -> list[str]:
    return sorted(path.name[:11] for path in folder.iterdir())


FINAL, OLDER = "0001-000002", "0001-000001"


@pytest.fixture
def lab(tmp_path: Path) -> dict[str, Path]:
    return {
        "judged": add(tmp_path, "baseline", 0, 30),
        "best point": add(tmp_path, "sweep", 1000, 10, rate=0.02),
        "other point": add(tmp_path, "sweep", 1000, 40, rate=0.03),
        "diverged": add(tmp_path, "baseline", 1, 0, state="diverged"),
        "failed": add(tmp_path, "baseline", 2, 0, state="failed"),
        "interrupted": add(tmp_path, "baseline", 3, 0, state="interrupted"),
    }


def test_pruning_shows_first_and_deletes_what_nothing_needs(
    tmp_path: Path, lab: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    output = prune(capsys, tmp_path)
    # 500 字节的旧检查点四个（三个完成的、一个发散的），发散的没有最终权重，另有 1000 字节的一个点
    assert "nothing is deleted yet; --prune --yes would free 0.0 MB in 6 files" in output
    assert all(left(folder) == [OLDER, FINAL] for folder in lab.values())
    assert "freed 0.0 MB in 6 files" in prune(capsys, tmp_path, "--yes")
    assert {name: left(folder) for name, folder in lab.items()} == {
        "judged": [FINAL],
        "best point": [FINAL],
        "other point": [],
        "diverged": [],
        "failed": [OLDER, FINAL],
        "interrupted": [OLDER, FINAL],
    }
    assert "freed 0.0 MB in 0 files" in prune(capsys, tmp_path, "--yes")


def test_force_deletes_what_a_verdict_or_an_export_needs_but_no_record(
    tmp_path: Path, lab: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".safetensors")
    assert "freed 0.0 MB in 8 files" in prune(capsys, tmp_path, "--yes", "--force")
    assert [name for name, folder in lab.items() if left(folder)] == ["failed", "interrupted"]
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".safetensors") == before
    assert main(["--results", str(tmp_path), "--export", str(tmp_path / "out")]) == 4
    assert "were not kept" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [["--yes"], ["--prune", "--export"], ["--prune", "--study", "lrn"], ["--prune", "--dataset", "digits"]]
)
def test_what_does_not_go_with_pruning_is_refused(
    tmp_path: Path, lab: dict[str, Path], arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--results", str(tmp_path), *arguments]) == 2
    assert "--prune looks at the whole results folder" in capsys.readouterr().err
    assert all(left(folder) == [OLDER, FINAL] for folder in lab.values())
