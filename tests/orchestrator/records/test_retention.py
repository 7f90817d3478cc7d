"""Pruning shows what it would free, and keeps what a verdict, an export or another try needs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from orchestrator.ablate import main as ablate
from orchestrator.best import main
from orchestrator.records import layout, trial_record
from orchestrator.records.retention import LEFT_OVER, UNNEEDED, keep_weights_of, tidy_ended
from orchestrator.records.trial_record import TrialState
from orchestrator.tables.ranking import exported_if_best, finished_trials, median_trial, rank
from orchestrator.tables.tables import load_trials
from search_spaces.study import load_study
from search_spaces.trial import PlannedTrial, trial_key
from tests.made_plans import make_plan
from tests.made_records import make_config, put

REPOSITORY = Path(__file__).parents[3]
HOLDER = """
import sys
from pathlib import Path
from orchestrator.records.files import TrialLocks
locks = TrialLocks(Path(sys.argv[1]))
print(locks.try_lock(sys.argv[2]), flush=True)
sys.stdin.read()
"""


def add(results: Path, arm: str, seed: int, wrong: int, *, state: str = "finished", rate: float = 0.01) -> Path:
    """Puts a trial with final weights (1,000 bytes) and an older checkpoint (500 bytes) on record."""
    config = make_config(seed, learning_rate=rate)
    folder = trial_record.open_record(results, config)
    (folder / "checkpoint").mkdir()
    (folder / "checkpoint" / "0001-000002-00000000.safetensors").write_bytes(bytes(1000))
    (folder / "checkpoint" / "0001-000001-00000000.safetensors").write_bytes(bytes(500))
    phase = "sweep" if arm == "sweep" else "arm"
    trial_record.append_members(
        results,
        "lrn",
        [trial_record.membership("lrn", "digits", PlannedTrial(arm, seed, phase, config, trial_key(config)))],
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
    assert main(["--results", str(tmp_path), "--prune", "--yes", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["deleted_files"], document["freed_bytes"]) == (6, 4000)
    goes = {kind["kind"]: (kind["files"], kind["bytes"]) for kind in document["stored"] if kind["goes"]}
    assert goes == {LEFT_OVER: (5, 3000), UNNEEDED: (1, 1000)}
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
    (tmp_path / ".locks").touch()
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


def test_what_a_driver_left_between_result_and_tidying_is_deleted_later(tmp_path: Path) -> None:
    states, left = {}, {}
    for seed, state in enumerate((TrialState.FINISHED, TrialState.DIVERGED, TrialState.FAILED)):
        config = make_config(seed)
        checkpoints = trial_record.open_record(tmp_path, config) / "checkpoint"
        checkpoints.mkdir()
        for name in ("final.safetensors", "older.safetensors"):
            (checkpoints / name).write_bytes(b"weights")
        weights = "checkpoint/final.safetensors" if state is TrialState.FINISHED else None
        states[put(tmp_path, config, state=state, weights=weights)] = state
        left[state] = checkpoints
    tidy_ended(tmp_path, {**states, "a" * 20: TrialState.FINISHED})
    names = {state: sorted(path.name for path in folder.iterdir()) for state, folder in left.items()}
    assert names == {
        TrialState.FINISHED: ["final.safetensors"],
        TrialState.DIVERGED: [],
        TrialState.FAILED: ["final.safetensors", "older.safetensors"],
    }


@pytest.fixture
def held(tmp_path: Path) -> Iterator[Callable[[str], None]]:
    """Another process that trains a trial."""
    holders = []

    def hold(key: str) -> None:
        holder = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(tmp_path), key],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert holder.stdout is not None
        assert holder.stdout.readline().strip() == "True"
        holders.append(holder)

    yield hold
    for holder in holders:
        holder.communicate("")


def test_what_another_process_trains_again_is_left_alone(
    tmp_path: Path, lab: dict[str, Path], held: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    judged = lab["judged"]
    held(judged.parent.name)
    assert "freed 0.0 MB in 5 files; 1 of trials that are being trained stay" in prune(capsys, tmp_path, "--yes")
    tidy_ended(tmp_path, {judged.parent.name: TrialState.FINISHED})
    keep_weights_of(tmp_path, set(), [judged.parent.name])
    assert left(judged) == [OLDER, FINAL]
    assert left(lab["other point"]) == []


def put_arms(results: Path, study: str, seeds: int, first_wrong: int = 30) -> dict[str, list[str]]:
    """Puts the arms of a study with final weights on record; the error falls with the seed. Returns keys by arm."""
    keys: dict[str, list[str]] = {}
    for trial in make_plan(load_study(study), seeds).trials:
        weights = "checkpoint/0001-000011-00000000.safetensors"
        wrong = first_wrong - trial.seed + (0 if trial.arm == "baseline" else 5)
        key = put(results, trial.config, wrong, weights=weights, weights_sha256="0" * 64, epochs=11)
        path = layout.trial_folder(results, key) / weights
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"weights")
        keys.setdefault(trial.arm, []).append(key)
        trial_record.join_members(results, study, "digits", [trial])
    return keys


@pytest.mark.slow
def test_keeping_the_best_weights_keeps_what_an_export_takes_of_all_seeds_on_record(tmp_path: Path) -> None:
    keys = put_arms(tmp_path, "lrn", 9)
    code = ablate(["--study", "lrn", "--seeds", "8", "--keep-weights", "best", "--results", str(tmp_path)])
    assert code == 0
    kept = {path.parents[1].name for path in tmp_path.glob("trials/*/checkpoint/*")}
    trials, members = load_trials(tmp_path)
    finished = finished_trials(trials, members)
    winner = rank(finished, members)["configuration"][0]
    assert median_trial(finished, winner) == keys["baseline"][4]
    # 第九个种子不在这次的计划里，不去碰它
    assert kept == {weights[place] for weights in keys.values() for place in (4, 8)}


def test_a_study_may_be_exported_by_its_own_seeds_too(tmp_path: Path) -> None:
    lrn, pooling = put_arms(tmp_path, "lrn", 3), put_arms(tmp_path, "pooling", 7)
    assert lrn["baseline"] == pooling["baseline"][:3]
    exported = exported_if_best(*load_trials(tmp_path))
    assert {lrn["baseline"][1], pooling["baseline"][3]} <= exported
    for study in (None, "lrn", "pooling"):
        trials, members = load_trials(tmp_path)
        finished = finished_trials(trials, members, study=study)
        assert all(median_trial(finished, name) in exported for name in finished["configuration"].unique())


@pytest.mark.parametrize("top", ["0", "-1", "x"])
def test_a_table_of_no_rows_is_refused(
    tmp_path: Path, lab: dict[str, Path], top: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--results", str(tmp_path), "--top", top]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: argument --top: must be")
