"""Status shows what is on record and who runs, from another process, and changes nothing."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from orchestrator.planning.plan_file import write_studies
from orchestrator.records import files, layout, trial_record
from orchestrator.records.files import TrialLocks
from orchestrator.records.trial_record import TrialState
from orchestrator.running.status.facts import study_states
from orchestrator.running.steering import RunFacts, end_run, write_run
from orchestrator.status import main
from orchestrator.tables.tables import load_trials, update_tables
from search_spaces.trial import PlannedTrial, trial_key
from tests.made_records import errors, make_config, make_report, put, read_only

REPOSITORY = Path(__file__).parents[2]
HOLDER = """
import sys
from pathlib import Path
from orchestrator.records.files import TrialLocks
locks = TrialLocks(Path(sys.argv[1]))
print(locks.try_lock(sys.argv[2]), flush=True)
sys.stdin.read()
"""


def status(capsys: pytest.CaptureFixture[str], results: Path, *arguments: str) -> tuple[int, str, str]:
    capsys.readouterr()
    code = main([*arguments, "--results", str(results)])
    output, error = capsys.readouterr()
    assert "Traceback" not in output + error
    assert len(error.splitlines()) == (0 if code == 0 else 1)
    return code, output, error


def make_study(results: Path, name: str = "lrn") -> dict[str, str]:
    """A study of two arms and three seeds: 2 finished, 1 diverged, 2 interrupted, 1 waiting."""
    trials = [
        PlannedTrial(arm, seed, "arm", config, trial_key(config))
        for seed in range(3)
        for arm, without in (("baseline", ""), ("no_lrn", "lrn1"))
        for config in [make_config(seed, without=without)]
    ]
    put(results, trials[0].config, 36)
    put(results, trials[1].config, 72)
    put(results, trials[2].config, None, state=TrialState.DIVERGED, message="loss is nan in epoch 2")
    for trial in trials[3:5]:
        folder = trial_record.open_record(results, trial.config)
        attempt = trial_record.next_attempt(folder)
        trial_record.log_attempt(folder, "2026-11-30T09:00:00Z", attempt, 0, "started at epoch 0")
        trial_record.append_epoch(folder, make_report(1, 90))
    plan: dict[str, Any] = {
        "study": name,
        "dataset": "digits",
        "arms": ["baseline", "no_lrn"],
        "trials": [{"arm": trial.arm, "seed": trial.seed, "phase": trial.phase, "key": trial.key} for trial in trials],
    }
    trial_record.join_members(results, name, "digits", trials)
    files.write_atomically(results / "studies" / name / "plan.json", json.dumps(plan).encode())
    return {f"{trial.arm}-{trial.seed}": trial.key for trial in trials}


def test_a_study_is_shown_with_the_state_of_every_trial(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_study(tmp_path)
    code, output, _ = status(capsys, tmp_path, "lrn")
    assert code == 0
    assert "lrn on digits: 1 diverged, 2 finished, 2 interrupted, 1 waiting" in output
    rows = {
        line.split("│")[1].strip(): [cell.strip() for cell in line.split("│")[2:-1]]
        for line in output.splitlines()
        if line.startswith("│")
    }
    assert rows["baseline"] == ["10.0 %", "diverged", "25.0 % @1"]
    assert rows["no_lrn"] == ["20.0 %", "25.0 % @1", "waiting"]
    assert status(capsys, tmp_path)[1] == output, "without a name all studies are shown"


def test_a_trial_that_another_process_holds_is_running_until_it_dies(tmp_path: Path) -> None:
    keys = make_study(tmp_path)
    rows = [{"key": key} for key in keys.values()]
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path), keys["no_lrn-1"]],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline().strip() == "True"
    states = study_states(tmp_path, rows, {})
    assert states[keys["no_lrn-1"]] == "running"
    assert states[keys["baseline-2"]] == "interrupted"
    holder.kill()
    holder.communicate()
    assert study_states(tmp_path, rows, {})[keys["no_lrn-1"]] == "interrupted"
    with TrialLocks(tmp_path) as locks:
        assert locks.try_lock(keys["no_lrn-1"])


def test_the_running_process_and_its_dashboard_are_shown_while_it_lives(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_study(tmp_path)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    facts = {"host": socket.gethostname(), "dashboard": "http://127.0.0.1:8265", "started_at": "noon"}
    path = tmp_path / "studies" / "lrn" / "run.json"
    path.write_text(json.dumps({**facts, "pid": os.getpid()}))
    output = status(capsys, tmp_path, "lrn")[1]
    assert f"running: process {os.getpid()} on {socket.gethostname()} since noon" in output
    assert "dashboard: http://127.0.0.1:8265" in output
    path.write_text(json.dumps({**facts, "pid": gone.pid}))
    assert "running: process" not in status(capsys, tmp_path, "lrn")[1]
    path.write_text("{")
    assert "running: process" not in status(capsys, tmp_path, "lrn")[1]


def test_the_beginning_of_a_key_shows_the_trial(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys = make_study(tmp_path)
    key = keys["baseline-1"]
    trial_record.append_log(layout.trial_folder(tmp_path, key), "the log's last line")
    code, output, _ = status(capsys, tmp_path, key[:12])
    assert code == 0
    assert f"trial {key}: diverged" in output
    assert "loss is nan in epoch 2" in output
    assert "member of lrn/baseline seed 1 (arm)" in output
    assert "the baseline's own configuration" in output
    assert "last of 1 epoch" in output
    assert "the log's last line" in output
    assert f"python -m alexnet_core train --config {layout.trial_folder(tmp_path, key) / 'config.json'}" in output
    assert status(capsys, tmp_path, key)[1] == output


def test_a_trial_begins_with_what_is_not_as_in_the_baseline(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys = make_study(tmp_path)
    output = status(capsys, tmp_path, keys["no_lrn-0"])[1]
    assert "otherwise than the baseline" in output
    assert "\n    network.lrn1: left out\n" in output
    assert "learning_rate" not in output.split("last of")[0]
    fast = make_config(1, learning_rate=0.5)
    put(tmp_path, fast, 9)
    trial_record.join_members(tmp_path, "lrn", "digits", [PlannedTrial("fast", 1, "arm", fast, trial_key(fast))])
    before = make_config(1).training.learning_rate
    output = status(capsys, tmp_path, trial_key(fast))[1]
    assert f"\n    training.learning_rate: 0.5 (the baseline has {before:g})\n" in output


def test_what_is_unknown_or_ambiguous_is_refused_with_what_there_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_study(tmp_path)
    for name in ("pooling", "zz", "../lrn", "0" * 20, ""):
        code, _, error = status(capsys, tmp_path, name)
        assert code == 2
        assert f"error: {name!r} is neither a study nor a trial in {tmp_path}; studies: lrn" in error
    for name in ("a" * 19, "a" * 18):
        (tmp_path / "trials" / name.ljust(20, "b")).mkdir()
    code, _, error = status(capsys, tmp_path, "aaaaaaaa")
    assert (code, "begins 2 trial keys; give more digits" in error) == (2, True)
    assert status(capsys, tmp_path / "nowhere")[0] == 4


def test_a_damaged_result_is_named_and_the_rest_of_its_study_is_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    keys = make_study(tmp_path)
    path = layout.trial_folder(tmp_path, keys["baseline-0"]) / "result.json"
    result = json.loads(path.read_text())
    result["validation"]["loss_sum"] = float("nan")
    for content in ("{", json.dumps(result)):
        path.write_text(content)
        caplog.clear()
        code, output, _ = status(capsys, tmp_path, "lrn")
        assert code == 0
        assert "1 damaged, 1 diverged, 1 finished, 2 interrupted, 1 waiting" in output
        shown = [record.getMessage() for record in caplog.records]
        load_trials(tmp_path)
        named = [record.getMessage() for record in caplog.records if record.getMessage() not in shown]
        assert len(shown) == 1
        assert shown[0].startswith(f"left out of the tables: {path} is damaged: ")
        assert named == [], "best and report say the same of it"


def test_copies_and_records_of_other_numbers_of_images_are_named_as_the_tables_name_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    keys = make_study(tmp_path)
    put(tmp_path, make_config(7))
    update_tables(tmp_path)
    folder = layout.trial_folder(tmp_path, keys["no_lrn-0"])
    result = json.loads((folder / "result.json").read_text())
    result["test"] = json.loads(errors(1, 3).model_dump_json())
    (folder / "result.json").write_text(json.dumps(result))
    shutil.copytree(folder, folder.with_name(f"{folder.name}.bak"))
    copy = folder.with_name("0123456789abcdef0123")
    shutil.copytree(layout.trial_folder(tmp_path, keys["baseline-0"]), copy)
    caplog.clear()
    code, output, _ = status(capsys, tmp_path)
    assert code == 0
    assert "1 diverged, 1 finished, 2 interrupted, 1 left out, 1 waiting" in output
    shown = list(caplog.messages)
    assert len(shown) == 3
    assert f"{folder.name}.bak in {folder.parent}, not named by a trial's key; move it away" in shown[0]
    assert f"{copy}: its result.json is that of another trial ({keys['baseline-0']}); move the folder away" in shown[1]
    assert f"{folder.name}: 3 test images, where most trials on the same data have 359; move it away" in shown[2]
    caplog.clear()
    assert status(capsys, tmp_path, "lrn")[0] == 0
    assert caplog.messages == shown, "of one study, too"
    caplog.clear()
    load_trials(tmp_path)
    assert caplog.messages == shown, "best and report say the same of them"


def test_a_damaged_plan_is_named_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_study(tmp_path)
    plan = tmp_path / "studies" / "lrn" / "plan.json"
    for content in ("{", "[]", "{}", '{"trials": [{}]}'):
        plan.write_text(content)
        code, _, error = status(capsys, tmp_path, "lrn")
        assert code == 4
        assert str(plan) in error


def test_one_damaged_study_does_not_hide_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    make_study(tmp_path)
    damaged = tmp_path / "studies" / "pooling" / "plan.json"
    files.write_atomically(damaged, b"{")
    code, output, _ = status(capsys, tmp_path)
    assert (code, "lrn on digits: 1 diverged" in output) == (0, True)
    (warning,) = caplog.messages
    assert warning.startswith(f"study pooling is left out: {damaged} cannot be read")
    assert status(capsys, tmp_path, "pooling")[0] == 4


def test_the_document_has_every_trial_who_runs_what_is_damaged_and_what_was_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_study(tmp_path)
    folder, facts = tmp_path / "studies" / "lrn", run_facts(os.getpid())
    write_run(folder, facts.model_copy(update={"arms": ("baseline", "no_lrn"), "baseline": "baseline"}))
    write_studies(tmp_path / "studies" / "paper", "digits", ["lrn"])
    files.write_atomically(tmp_path / "studies" / "pooling" / "plan.json", b"{")
    document = json.loads(main_output(capsys, tmp_path, "--json"))
    lrn, paper = document["studies"]
    assert {
        (trial["arm"], trial["seed"]): (trial["state"], trial["value"], trial["epoch"]) for trial in lrn["trials"]
    } == {
        ("baseline", 0): ("finished", 10.0, None),
        ("no_lrn", 0): ("finished", 20.0, None),
        ("baseline", 1): ("diverged", None, None),
        ("no_lrn", 1): ("interrupted", 25.0, 1),
        ("baseline", 2): ("interrupted", 25.0, 1),
        ("no_lrn", 2): ("waiting", None, None),
    }
    assert lrn["states"] == {"diverged": 1, "finished": 2, "interrupted": 2, "waiting": 1}
    assert [(run["pid"], run["host"]) for run in lrn["running"]] == [(os.getpid(), socket.gethostname())]
    assert (paper["study"], paper["together"]) == ("paper", [lrn])
    assert list(document["left_out"]) == ["pooling"]
    asked = json.loads(main_output(capsys, tmp_path, "lrn", "--skip", "no_lrn", "--json"))
    assert asked["requests"] == [f"asked process {os.getpid()} on {socket.gethostname()}: {SKIPPED}"]


SKIPPED = "begin no other trial of arm no_lrn; the same command goes on with them later"


def main_output(capsys: pytest.CaptureFixture[str], results: Path, *arguments: str) -> str:
    capsys.readouterr()
    assert main([*arguments, "--results", str(results)]) == 0
    return capsys.readouterr().out


def test_all_claims_asked_together_are_shown_study_by_study(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_study(tmp_path)
    folder = tmp_path / "studies" / "paper"
    write_studies(folder, "digits", ["lrn"])
    write_run(folder, run_facts(os.getpid()))
    code, output, _ = status(capsys, tmp_path, "paper")
    assert code == 0
    assert output.splitlines()[0] == "paper on digits: 1 study"
    assert f"running: process {os.getpid()}" in output
    assert "lrn: 1 diverged, 2 finished, 2 interrupted, 1 waiting" in output
    assert output in status(capsys, tmp_path)[1]
    end_run(folder, run_facts(os.getpid()))
    assert status(capsys, tmp_path, "paper", "--follow")[0] == 0
    for content in ('{"dataset": "digits", "studies": ["../lrn"]}', '{"dataset": "digits", "studies": 1}', "{}", "["):
        (folder / "studies.json").write_text(content)
        code, _, error = status(capsys, tmp_path, "paper")
        assert (code, str(folder / "studies.json") in error) == (4, True)


def run_facts(pid: int) -> RunFacts:
    return RunFacts(pid=pid, host=socket.gethostname(), started_at="noon", dashboard=None)


@pytest.mark.slow
def test_follow_without_a_name_follows_the_one_study_that_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_study(tmp_path)
    code, _, error = status(capsys, tmp_path, "--follow")
    assert (code, "no study runs; name the study to follow" in error) == (2, True)
    driver = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    write_run(tmp_path / "studies" / "lrn", run_facts(driver.pid))
    follower = [sys.executable, "-m", "orchestrator.status", "--follow", "--results", str(tmp_path)]
    other = run_facts(os.getpid())
    write_run(tmp_path / "studies" / "pooling", other)
    code, _, error = status(capsys, tmp_path, "--follow")
    assert (code, "2 studies run (lrn, pooling); name the study to follow" in error) == (2, True)
    end_run(tmp_path / "studies" / "pooling", other)
    with subprocess.Popen(follower, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as following:
        assert following.stdout is not None
        assert following.stdout.readline().startswith("lrn on digits: 1 diverged")
        driver.communicate(b"\n")
        following.communicate(timeout=60)
    assert following.returncode == 0


def test_no_study_yet_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, output, _ = status(capsys, tmp_path)
    assert (code, output.strip()) == (0, f"no study in {tmp_path} yet")


def test_looking_changes_nothing_and_works_read_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys = make_study(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    with read_only(tmp_path):
        assert status(capsys, tmp_path, "lrn")[0] == 0
        assert status(capsys, tmp_path, keys["no_lrn-1"])[0] == 0
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
