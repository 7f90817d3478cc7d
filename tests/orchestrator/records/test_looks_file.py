"""Looks at a study are never forgotten: not by a detour, not by an arm left out, not by two commands at once."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from orchestrator.ablate import main
from orchestrator.errors import LabError
from orchestrator.planning.plan import Plan
from orchestrator.planning.plan_file import add_look, check_rule, latest_plan, looks_on_record, read_plan, write_plan
from orchestrator.records.looks_file import FILE, RecordedLook, read_looks
from search_spaces.study import load_study
from search_spaces.trial import unfold
from tests.made_plans import make_plan
from tests.made_records import put


def plan_of(
    seeds: int, *, epochs: int = 2, arms: Sequence[str] = ("no_lrn", "as_run"), most: int | None = None
) -> Plan:
    study = load_study("lrn")
    study = study.model_copy(update={"arms": tuple(arm for arm in study.arms if arm.name in ("baseline", *arms))})
    return make_plan(study, seeds, epochs=epochs, max_seeds=most)


def looks_in(folder: Path) -> tuple[int, ...]:
    """The looks that `plan.json` tells of."""
    plan_file = read_plan(folder)
    assert plan_file is not None
    return plan_file.looks


def looked(folder: Path, plan: Plan, seeds: int) -> None:
    add_look(folder, write_plan(folder, plan, ["ablate"]), seeds)


@pytest.mark.slow
def test_the_command_remembers_its_looks_over_a_detour(tmp_path: Path) -> None:
    for trial in (*plan_of(5).trials, *plan_of(3, epochs=3).trials):
        put(tmp_path, trial.config, 20 + trial.seed, epochs=trial.config.training.epochs)
    for options in (["--seeds", "3", "--epochs", "2"], ["--seeds", "4", "--epochs", "2"]):
        assert main(["--results", str(tmp_path), *options]) == 0
    assert main(["--results", str(tmp_path), "--seeds", "3", "--epochs", "3"]) == 0
    folder = tmp_path / "studies" / "lrn"
    assert looks_in(folder) == (3,)
    assert main(["--results", str(tmp_path), "--seeds", "5", "--epochs", "2"]) == 0
    assert looks_in(folder) == (3, 4, 5)
    assert json.loads((folder / "answer.json").read_text())["looks"] == [3, 4]


def test_an_arm_left_out_does_not_give_its_level_back_and_a_new_one_has_its_own(tmp_path: Path) -> None:
    looked(tmp_path, plan_of(5), 5)
    assert looks_on_record(tmp_path, plan_of(8, arms=["no_lrn"])) == [5]
    looked(tmp_path, plan_of(8, arms=["no_lrn"]), 8)
    assert looks_on_record(tmp_path, plan_of(9)) == [5, 8]
    assert looks_on_record(tmp_path, plan_of(9, arms=["as_run"])) == [5]
    assert looks_on_record(tmp_path, plan_of(9, epochs=4)) == []


def test_looks_of_a_plan_that_is_older_than_their_file_still_count(tmp_path: Path) -> None:
    looked(tmp_path, plan_of(5), 5)
    (tmp_path / FILE).unlink()
    looked(tmp_path, plan_of(3, epochs=4), 3)
    assert looks_on_record(tmp_path, plan_of(8)) == [5]


def test_a_torn_line_costs_no_look_but_its_own(tmp_path: Path) -> None:
    looked(tmp_path, plan_of(5), 5)
    with (tmp_path / FILE).open("a") as file:
        file.write('{"question": ')
    looked(tmp_path, plan_of(6), 6)
    assert looks_on_record(tmp_path, plan_of(8)) == [5, 6]


def test_a_command_that_ends_late_loses_neither_the_looks_nor_the_plan_of_another(tmp_path: Path) -> None:
    paper = write_plan(tmp_path, plan_of(8), ["paper"])
    looked(tmp_path, plan_of(12), 12)
    add_look(tmp_path, paper, 8)
    now = read_plan(tmp_path)
    assert now is not None
    assert (now.looks, now.planned_seeds) == ((12, 8), 12)
    plan, content = latest_plan(tmp_path, plan_of(8), paper)
    assert (len(plan.seeds), content.looks) == (12, (12, 8))
    assert write_plan(tmp_path, plan_of(8), ["paper"], paper).planned_seeds == 8
    assert read_plan(tmp_path) == now


def test_looks_of_many_commands_at_once_are_all_kept(tmp_path: Path) -> None:
    content = write_plan(tmp_path, plan_of(20), ["ablate"])
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda seeds: add_look(tmp_path, content, seeds), range(1, 21)))
    assert sorted(looks_in(tmp_path)) == list(range(1, 21))
    assert sorted(look.seeds for look in read_looks(tmp_path) or ()) == list(range(1, 21))


def test_a_study_whose_arms_have_not_ended_is_no_look(tmp_path: Path) -> None:
    content = write_plan(tmp_path, plan_of(3), ["ablate"])
    add_look(tmp_path, content, 0)
    assert looks_in(tmp_path) == ()


@pytest.mark.parametrize("detour", [{}, {"epochs": 3}])
def test_the_rule_cannot_be_left_through_fewer_seeds_or_a_detour(tmp_path: Path, detour: dict[str, int]) -> None:
    folder = tmp_path / "studies" / "lrn"
    write_plan(folder, plan_of(8, most=8), ["ablate"])
    for trial in unfold(plan_of(1).study, plan_of(1).base, range(4)):
        put(tmp_path, trial.config)
    few = plan_of(3, **detour)
    if detour:
        check_rule(folder, few)
        write_plan(folder, few, ["ablate"])
    for seeds in (3, 8):
        with pytest.raises(LabError, match="ask for --seeds auto --max-seeds 8"):
            check_rule(folder, plan_of(seeds))
    check_rule(folder, plan_of(8, most=8))


def test_a_rule_that_was_planned_but_never_looked_by_may_change(tmp_path: Path) -> None:
    folder = tmp_path / "studies" / "lrn"
    write_plan(folder, plan_of(8, most=8), ["ablate"])
    check_rule(folder, plan_of(8))
    looked(folder, plan_of(8), 8)
    for trial in plan_of(4).trials:
        put(tmp_path, trial.config)
    check_rule(folder, plan_of(10))
    with pytest.raises(LabError, match="ask for --seeds 8 or more"):
        check_rule(folder, plan_of(10, most=10))


def test_the_file_holds_a_line_for_each_look(tmp_path: Path) -> None:
    looked(tmp_path, plan_of(5), 5)
    line = json.loads((tmp_path / FILE).read_text())
    assert line["seeds"] == 5
    assert RecordedLook.model_validate(line).question.baseline == (plan_of(5).trials[0].key, 1)


@pytest.mark.parametrize("hostile", [b"\xff\xfe\n[]\n", b'{"seeds": -1}\n', b"[" * 100_000, None])
def test_a_file_of_somebody_else_is_passed_over_or_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], hostile: bytes | None
) -> None:
    path = tmp_path / "studies" / "lrn" / FILE
    path.parent.mkdir(parents=True)
    path.mkdir() if hostile is None else path.write_bytes(hostile)
    code = main(["--dry-run", "--results", str(tmp_path)])
    errors = capsys.readouterr().err
    assert (code, errors.count("\n")) == ((3, 1) if hostile is None else (0, 0))
