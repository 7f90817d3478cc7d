"""One damaged record, one deleted curve, before all commands: said in the same words, with codes that mean the same."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator import ablate, best, merge, publish, report, status
from orchestrator.judging.answer import Answer
from orchestrator.planning.plan_file import write_plan
from orchestrator.records import trial_record
from orchestrator.records.layout import trial_folder
from orchestrator.tables.tables import update_tables
from search_spaces.study import load_study
from tests.made_plans import make_plan
from tests.made_records import put

WHATS_LEFT, THE_TRIAL_ITSELF, LEFT_OUT = 0, 3, 1


def make_results(results: Path, study: str) -> Path:
    """A study of three seeds on record; returns the folder of its first trial."""
    plan = make_plan(load_study(study), 3, epochs=2)
    for place, trial in enumerate(plan.trials):
        put(results, trial.config, 20 + place)
    write_plan(results / "studies" / study, plan, ["ablate.py"])
    trial_record.join_members(results, study, "digits", plan.trials)
    update_tables(results)
    return trial_folder(results, plan.trials[0].key)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Results of a sound study, and the key of a trial of it."""
    results = tmp_path_factory.mktemp("sound") / "results"
    key = make_results(results, "lrn").name
    assert report.main(["--study", "lrn", "--results", str(results)]) == 0
    return results, key


@pytest.mark.slow
@pytest.mark.parametrize(
    ("main", "arguments", "code"),
    [
        (best.main, ["--results", "RESULTS"], WHATS_LEFT),
        (report.main, ["--study", "lrn", "--results", "RESULTS"], WHATS_LEFT),
        (report.main, ["--check", "--study", "lrn", "--results", "RESULTS"], LEFT_OUT),
        (status.main, ["--results", "RESULTS"], WHATS_LEFT),
        (publish.main, ["--to", "tensorboard", "RUNS", "--results", "RESULTS"], WHATS_LEFT),
        (status.main, ["KEY", "--results", "RESULTS"], THE_TRIAL_ITSELF),
        (ablate.main, ["--seeds", "3", "--epochs", "2", "--dry-run", "--results", "RESULTS"], THE_TRIAL_ITSELF),
        (ablate.main, ["--seeds", "3", "--epochs", "2", "--results", "RESULTS"], THE_TRIAL_ITSELF),
        (merge.main, ["RESULTS", "--results", "OWN"], LEFT_OUT),
    ],
    ids=[
        "best",
        "report",
        "report --check",
        "status",
        "publish",
        "status of it",
        "ablate --dry-run",
        "ablate",
        "merge",
    ],
)
def test_a_damaged_result_is_named_with_one_word_by_every_command(
    tmp_path: Path,
    sound: tuple[Path, str],
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    main: Callable[[list[str]], int],
    arguments: list[str],
    code: int,
) -> None:
    results, key = tmp_path / "results", sound[1]
    shutil.copytree(sound[0], results)
    path = trial_folder(results, key) / "result.json"
    path.write_text("{")
    places = {"RESULTS": str(results), "OWN": str(tmp_path / "own"), "RUNS": str(tmp_path / "runs"), "KEY": key}
    assert main([places.get(argument, argument) for argument in arguments]) == code
    captured = capsys.readouterr()
    lines = [*captured.out.splitlines(), *captured.err.splitlines(), *caplog.messages]
    named = {line.partition(f"{path} ")[2] for line in lines if str(path) in line}
    assert len(named) == 1
    assert named.pop().startswith("is damaged: Invalid JSON: ")
    assert len(caplog.messages) <= 1, "a warning is said once"
    assert "Traceback" not in captured.err


@pytest.mark.slow
def test_a_deleted_curve_and_two_swapped_ones_are_said_in_the_same_words_by_all_and_enter_no_answer(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    make_results(tmp_path, "activation")
    plan = make_plan(load_study("activation"), 3, epochs=2)
    curves = {(trial.arm, trial.seed): trial_folder(tmp_path, trial.key) / "epochs.jsonl" for trial in plan.trials}
    where = ["--results", str(tmp_path)]
    curves["baseline", 0].unlink()
    one, other = curves["baseline", 1], curves["tanh", 1]
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)
    foreign = "is not that of its result.json: the last epoch has other numbers"
    misfits = {curves["baseline", 0]: "is missing", one: foreign, other: foreign}
    expected = {f"{path} {misfit}: the trial has no curve" for path, misfit in misfits.items()}
    # 写过表之后，没有变的记录也每次都说
    for main, arguments in [(best.main, []), (status.main, ["activation"]), (report.main, ["--study", "activation"])]:
        for _ in range(2):
            caplog.clear()
            assert main([*arguments, *where]) == 0
            warned = {entry.getMessage() for entry in caplog.records if entry.levelno == logging.WARNING}
            assert warned == expected
            update_tables(tmp_path)
    answer = Answer.model_validate_json((tmp_path / "studies" / "activation" / "answer.json").read_bytes())
    assert {arm.name: [*arm.errors, *arm.never] for arm in answer.arms} == {"baseline": ["2"], "tanh": ["0", "2"]}
    assert answer.unmeasured == 3
    (note,) = (note for note in answer.notes if "epochs.jsonl" in note)
    assert note.startswith("3 finished trials cannot enter: the curve on record (epochs.jsonl) is gone, not whole or")
    capsys.readouterr()
    assert report.main(["--study", "activation", "--check", *where]) == LEFT_OUT
    named = capsys.readouterr().out
    for path, misfit in misfits.items():
        assert f"record {path.parent.name}: its epochs.jsonl {misfit}" in named


@pytest.mark.parametrize("arguments", [["--dry-run"], ["--show", "baseline:0"]])
def test_looking_upgrades_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    from orchestrator.records import upgrades

    make_results(tmp_path, "lrn")
    step = upgrades.Upgrade(config=lambda plain: plain, result=lambda plain: plain)
    monkeypatch.setattr(upgrades.upgrade_results, "__defaults__", ((step,),))
    before = {path: (path.stat().st_mtime_ns, path.is_file() and path.read_bytes()) for path in tmp_path.rglob("*")}
    assert ablate.main(["--seeds", "3", "--epochs", "2", *arguments, "--results", str(tmp_path)]) == 0
    after = {path: (path.stat().st_mtime_ns, path.is_file() and path.read_bytes()) for path in tmp_path.rglob("*")}
    assert after == before
    upgrades.upgrade_results(tmp_path)
    assert (tmp_path / ".schema").read_text() == "2\n", "which a run would have done"
