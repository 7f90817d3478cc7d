"""Merging takes what is finished and whole, keeps the own record, follows no link, and goes on after a kill."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest

from orchestrator import ablate
from orchestrator.merge import _taken, main
from orchestrator.planning.plan_file import plan_on_record
from orchestrator.records import trial_record
from orchestrator.records.evaluations import Evaluation, read_evaluation, write_evaluation
from orchestrator.records.files import TrialLocks
from orchestrator.records.looks_file import FILE, read_looks
from orchestrator.records.trial_record import TrialState
from orchestrator.records.untrusted import check_trial
from orchestrator.tables.tables import load_tables, load_trials
from search_spaces.study import load_study
from search_spaces.trial import Phase, PlannedTrial, trial_key
from tests.made_plans import make_plan
from tests.made_records import errors, make_config, make_report, put, put_trained

Damage = Callable[[Path], object]


def merge(capsys: pytest.CaptureFixture[str], other: Path, results: Path, *arguments: str) -> tuple[int, str]:
    capsys.readouterr()
    code = main([str(other), "--results", str(results), *arguments])
    output, error = capsys.readouterr()
    assert "Traceback" not in output + error
    return code, output + error


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def join(results: Path, seed: int, arm: str = "baseline") -> None:
    config = make_config(seed)
    trial = PlannedTrial(arm, seed, "arm", config, trial_key(config))
    trial_record.join_members(results, "lrn", "digits", [trial])


def test_finished_trials_come_with_weights_and_memberships_and_a_second_merge_takes_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    local = put(here, make_config(0), 20)
    put(there, make_config(0), 20, seconds=99.0, finished_at="2027-01-01T00:00:00+00:00")
    trained = put_trained(there, make_config(1))
    diverged = put(there, make_config(2), None, state=TrialState.DIVERGED)
    for seed in range(4):
        join(there, seed)
    folder = trial_record.open_record(there, make_config(3))
    trial_record.append_epoch(folder, make_report(1, 9))
    before = files(here / "trials" / local)
    line = merge(capsys, there, here, "--dry-run")
    assert line == (
        0,
        "2 trials would be taken (1 diverged, 1 finished), 1 on record here already, 1 not ended there, "
        "0 failed or stopped there, 0 left out\n",
    )
    assert files(here) == {f"trials/{local}/{name}": content for name, content in before.items()}, "a dry run writes"
    code, output = merge(capsys, there, here)
    assert (code, output.startswith("2 trials taken (1 diverged, 1 finished), 1 on record here already")) == (0, True)
    assert files(here / "trials" / local) == before
    assert files(here / "trials" / trained) == files(there / "trials" / trained)
    trials, members, epochs = load_tables(here)
    assert sorted(trials["key"]) == sorted([local, trained, diverged])
    assert sorted(members["key"]) == sorted([local, trained, diverged]), "no membership of a trial that is not here"
    assert epochs.height == 5, "the diverged trial ended in its second epoch"
    whole = files(here)
    assert merge(capsys, there, here)[1].startswith("0 trials taken, 3 on record here already")
    assert files(here) == whole


def evaluation(key: str, views: int = 10) -> Evaluation:
    return Evaluation(
        key=key,
        views=views,
        split="test",
        metrics=errors(9, 359),
        weights_sha256="0" * 64,
        retrained=False,
        same_network=True,
        seconds=1.0,
        evaluated_at="2026-01-01T00:00:00+00:00",
    )


def test_evaluations_in_more_views_come_along_and_one_of_another_trial_does_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    good, bad = put(there, make_config(0)), put(there, make_config(1))
    write_evaluation(there / "trials" / good, evaluation(good))
    write_evaluation(there / "trials" / bad, evaluation(good))
    other = put(there, make_config(2))
    few = evaluation(other).model_copy(update={"metrics": errors(2, 3)})
    write_evaluation(there / "trials" / other, few)
    code, output = merge(capsys, there, here)
    assert f"refused {other}: " in output
    assert "it is of 3 test images, its result.json of 359 test images" in " ".join(output.split())
    assert (code, f"refused {bad}:" in output, "its evaluation in 10 views is of another trial" in output) == (
        1,
        True,
        True,
    )
    assert read_evaluation(here / "trials" / good, 10) == evaluation(good)
    assert not (here / "trials" / bad).exists()
    assert not (here / "trials" / other).exists()


def test_an_evaluation_of_a_trial_that_is_on_record_here_comes_along_and_its_record_stays(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    key = put(there, make_config(0), 20)
    put(here, make_config(0), 20, seconds=5.0)
    write_evaluation(there / "trials" / key, evaluation(key))
    before = files(here / "trials" / key)
    line = "0 trials taken, 1 on record here already (1 evaluation of them taken)"
    assert merge(capsys, there, here)[1].startswith(line)
    assert read_evaluation(here / "trials" / key, 10) == evaluation(key)
    after = files(here / "trials" / key)
    assert {name: after[name] for name in before} == before
    assert load_trials(here).trials["test_top1_errors_10_views"].to_list() == [9]
    assert merge(capsys, there, here)[1].startswith("0 trials taken, 1 on record here already, 0 not ended")


def test_what_failed_there_is_no_answer_here_and_a_stopped_trial_is_one_only_in_a_sweep(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    local = put(here, make_config(0), 20)
    put(there, make_config(0), None, state=TrialState.FAILED, message="CUDA error")
    put(there, make_config(1), None, state=TrialState.FAILED, message="CUDA error")
    put(there, make_config(2), state=TrialState.STOPPED)
    point = put(there, make_config(3), state=TrialState.STOPPED)
    join(there, 3, "sweep")
    row = trial_record.read_members(there, "lrn")[0]
    point_row = {**row, "phase": "sweep", "parameters": {"training.learning_rate": 0.1}, "position": 0}
    trial_record.append_members(there, "lrn", [point_row])
    code, output = merge(capsys, there, here)
    assert (code, output) == (
        0,
        "1 trial taken (1 stopped), 0 on record here already, 0 not ended there, "
        "3 failed or stopped there, 0 left out\n",
    )
    assert trial_record.recorded_keys(here) == sorted([local, point])


def test_memberships_of_every_phase_come_along(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    join(there, 0)
    row = {**trial_record.read_members(there, "lrn")[0], "key": put(there, make_config(0, learning_rate=0.1))}
    points = {"parameters": {"training.learning_rate": 0.1}, "position": 3}
    rows = [{**row, "phase": phase, "arm": f"a-{phase}", **points} for phase in get_args(Phase)]
    trial_record.append_members(there, "lrn", rows)
    assert merge(capsys, there, here)[0] == 0
    assert [entry for entry in trial_record.read_members(here, "lrn") if entry["arm"] != "baseline"] == rows


def test_a_record_that_differs_is_named_and_the_own_one_stays(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = put(tmp_path / "here", make_config(0), 20)
    put(tmp_path / "there", make_config(0), 21)
    before = files(tmp_path / "here" / "trials")
    code, output = merge(capsys, tmp_path / "there", tmp_path / "here")
    assert code == 1
    assert f"conflict {key}: the records differ in train, validation (validation 20 wrong here, 21 there)" in output
    assert files(tmp_path / "here" / "trials") == before


def test_a_trial_that_ends_here_while_a_merge_sorts_out_keeps_its_own_record(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    key = put(there, make_config(0), 20)
    trial = check_trial(there / "trials" / key)
    assert trial is not None
    put(here, make_config(0), 11)
    before, troubles = files(here / "trials" / key), list[str]()
    assert not _taken(here, trial, troubles)
    assert files(here / "trials" / key) == before
    assert troubles == [f"left out {key}: it has come on record here meanwhile; the own record stays"]


def test_an_interrupted_trial_here_is_ended_by_the_other_machines_and_a_running_one_is_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    key = put_trained(there, make_config(0))
    folder = trial_record.open_record(here, make_config(0))
    (folder / "checkpoint").mkdir()
    (folder / "checkpoint" / "0001-000001-00000000.safetensors").write_bytes(b"half")
    child = os.fork()
    if child == 0:  # 另一个进程拿着锁
        locks = TrialLocks(here)
        locks.try_lock(key)
        (tmp_path / "locked").touch()
        while not (tmp_path / "done").exists():
            time.sleep(0.01)
        os._exit(0)
    while not (tmp_path / "locked").exists():
        time.sleep(0.01)
    code, output = merge(capsys, there, here)
    assert (code, f"left out {key}: it is being trained here right now" in output) == (1, True)
    assert trial_record.read_result(folder) is None
    (tmp_path / "done").touch()
    os.waitpid(child, 0)
    assert merge(capsys, there, here)[0] == 0
    assert files(folder) == files(there / "trials" / key)


def test_a_merge_cut_off_before_any_result_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    key = put_trained(there, make_config(0))
    whole = files(there / "trials" / key)
    for written in range(len(whole)):
        shutil.rmtree(here, ignore_errors=True)
        for name in sorted(whole, key=lambda name: name == "result.json")[:written]:
            (here / "trials" / key / name).parent.mkdir(parents=True, exist_ok=True)
            (here / "trials" / key / name).write_bytes(whole[name])
        assert load_trials(here).trials.height == 0
        assert merge(capsys, there, here)[1].startswith("1 trial taken")
        assert files(here / "trials" / key) == whole


def edit_result(**changes: object) -> Damage:
    def damage(folder: Path) -> None:
        path = folder / "result.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return damage


def edit_config(folder: Path) -> None:
    path = folder / "config.json"
    path.write_text(path.read_text().replace('"momentum": 0.9', '"momentum": 0.8'))


def linked(name: str) -> Damage:
    def damage(folder: Path) -> None:
        path = folder / name
        moved = path.rename(folder.parents[1] / f"elsewhere-{path.name}")
        path.symlink_to(moved)

    return damage


def piped(folder: Path) -> None:
    (folder / "log.txt").unlink(missing_ok=True)
    os.mkfifo(folder / "log.txt")


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (edit_config, "its configuration is that of trial"),
        (edit_result(key="0" * 20), "its result.json is that of another trial"),
        (edit_result(seed=8), "its result.json is that of another trial"),
        (edit_result(state="perfect"), "damaged"),
        (edit_result(weights="../../../secret"), "its weights have a strange name"),
        (edit_result(weights="checkpoint/../config.json"), "its weights have a strange name"),
        (edit_result(weights_sha256="0" * 64), "the SHA-256 of its weights is not the recorded one"),
        (lambda folder: (folder / "correct.bin").unlink(), "its correct.bin is missing"),
        (edit_result(correct_sha256="0" * 64), "correct.bin is not the file that was recorded"),
        (linked("correct.bin"), "correct.bin is a symbolic link"),
        (lambda folder: (folder / "result.json").write_bytes(b"\xff\0{"), "damaged"),
        (lambda folder: (folder / "config.json").unlink(), "missing"),
        (linked("config.json"), "config.json is a symbolic link"),
        (linked("result.json"), "result.json is a symbolic link"),
        (linked("epochs.jsonl"), "epochs.jsonl is a symbolic link"),
        (linked("checkpoint"), "it is a symbolic link"),
        (piped, "log.txt is no plain file"),
        (lambda folder: folder.rename(folder.with_name("a" * 19)), "its name is no trial's key"),
        (lambda folder: folder.rename(folder.with_name("ａ" * 20)), "its name is no trial's key"),
        (lambda folder: folder.rename(folder.with_name(f"{'0' * 20}\n")), "its name is no trial's key"),
        (lambda folder: None, ""),
    ],
)
def test_what_is_not_as_it_must_be_is_refused_by_name_and_nothing_of_it_is_taken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: Damage, reason: str, trained_record: Path
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    key = trained_record.name
    shutil.copytree(trained_record, there / "trials" / key)
    if reason:
        damage(there / "trials" / key)
    else:
        (there / "trials" / key).rename(there / "elsewhere")
        (there / "trials" / key).symlink_to(there / "elsewhere")
        reason = "it is a symbolic link"
    code, output = merge(capsys, there, here)
    assert code == 1
    assert reason in output
    assert output.count("refused") == 1
    assert not (here / "trials").exists()


def test_records_that_disagree_with_the_others_about_their_data_or_configuration_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    for seed in range(2):
        put(here, make_config(seed))
    fewer, longer, without, good = (put(there, make_config(seed)) for seed in range(2, 6))
    edit_result(test=json.loads(errors(1, 3).model_dump_json()))(there / "trials" / fewer)
    edit_result(epochs=300)(there / "trials" / longer)
    edit_result(test=None)(there / "trials" / without)
    code, output = merge(capsys, there, here)
    assert (code, "1 trial taken (1 finished)" in output, "3 left out (named above)" in output) == (1, True, True)
    assert f"refused {fewer}: 3 test images, where most trials on the same data have 359" in output
    assert f"refused {longer}: its result.json has 300 epochs, its configuration 2" in output
    assert f"refused {without}: no test images, where most trials on the same data have 359" in output
    assert load_trials(here).trials["key"].to_list() == sorted([*trial_record.recorded_keys(here)])
    assert good in trial_record.recorded_keys(here)


@pytest.fixture(scope="module")
def trained_record(tmp_path_factory: pytest.TempPathFactory) -> Path:
    results = tmp_path_factory.mktemp("trained")
    return results / "trials" / put_trained(results, make_config(0))


def test_a_strange_membership_or_study_folder_is_passed_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    key = put(there, make_config(0), 20)
    join(there, 0)
    good = trial_record.read_members(there, "lrn")[0]
    strange = [
        {"arm": "../../x"},
        {"arm": None},
        {"study": "other"},
        {"phase": "sweep"},
        {"seed": "0"},
        {"seed": -1},
        {"seed": 2**70},
        {"key": "../" + key},
        {"parameters": {"os.system": 1}},
        {"position": True},
        {"seed": 7, "parameters": {"training.weight_decay": "x"}},
        {"seed": 7, "parameters": {"training.weight_decay": True}},
        {"seed": 7, "parameters": {"training.weight_decay": 0.25}},
        {"seed": 7, "parameters": {"training.weight_decay": 10**400}},
        {"seed": 7, "parameters": {"data.root": "/etc"}},
    ]
    for change in strange:
        trial_record.append_members(there, "lrn", [{**good, **change}])
    trial_record.append_members(there, "LRN'; --", [{**good, "study": "LRN'; --"}])
    (there / "studies" / "linked").symlink_to(there / "studies" / "lrn")
    assert merge(capsys, there, here)[0] == 0
    assert [path.name for path in (here / "studies").iterdir()] == ["lrn"]
    assert trial_record.read_members(here) == [good]


@pytest.mark.slow
def test_looks_of_the_other_machine_come_along_with_the_trials_that_they_saw(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    plan = make_plan(load_study("lrn"), 8, epochs=2)
    for results, seeds in ((here, 6), (there, 8)):
        for trial in (trial for trial in plan.trials if trial.seed < seeds):
            put(results, trial.config, 20 + trial.seed + 9 * (trial.arm != "baseline") + trial.seed % 3, epochs=2)
        assert ablate.main(["--results", str(results), "--seeds", str(seeds), "--epochs", "2"]) == 0
    folder, local = here / "studies" / "lrn", read_looks(here / "studies" / "lrn")
    assert local is not None
    elsewhere = there / "studies" / "lrn" / FILE
    unknown = {**local[0].model_dump(mode="json"), "question": {"baseline": ["0" * 16, 1], "arms": []}}
    with elsewhere.open("a") as file:
        file.write("".join(f"{line}\n" for line in ("{}", "[]", "nothing", json.dumps(unknown))))
    (there / "studies" / "linked").symlink_to(there / "studies" / "lrn")
    assert merge(capsys, there, here, "--dry-run")[0] == 0
    assert read_looks(folder) == local
    for _ in range(2):
        assert merge(capsys, there, here)[0] == 0
        assert [look.seeds for look in read_looks(folder) or ()] == [6, 8]
        assert plan_on_record(folder)[1].looks == (6, 8)
        assert [path.name for path in (here / "studies").iterdir()] == ["lrn"]
    # 那边已看过八个种子：这里的七个不能再给出词
    assert ablate.main(["--results", str(here), "--seeds", "7", "--epochs", "2"]) == 0
    assert "already looked at 8 seeds" in (folder / "report.md").read_text()


def test_what_is_no_results_folder_or_the_own_one_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(tmp_path, make_config(0))
    assert merge(capsys, tmp_path / "nowhere", tmp_path)[0] == 4
    code, output = merge(capsys, tmp_path, tmp_path)
    assert (code, "is the results folder itself" in output) == (2, True)
