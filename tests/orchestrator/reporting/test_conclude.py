"""From records to the answer: which points are a sweep's own, and what an earlier answer tells the next plan."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from functools import partial
from io import StringIO
from pathlib import Path

import polars as pl
import pytest
from rich.console import Console

from orchestrator.errors import LabError
from orchestrator.judging.outlook import resolution_outlook
from orchestrator.planning.plan import TUNING_SEED, Plan, with_seeds
from orchestrator.planning.plan_file import add_look, plan_on_record, write_plan
from orchestrator.records import trial_record
from orchestrator.reporting.check import check_report
from orchestrator.reporting.conclude import _own_points, conclude
from orchestrator.sweeps.confirmation import confirmation_plan, confirmation_trials, write_confirmation
from orchestrator.sweeps.search import Ask, Ended, Search, SearchHistory, arms_in_space, read_ended
from orchestrator.tables.rows import MEMBER_COLUMNS
from search_spaces.study import load_study
from search_spaces.trial import trial_key, unfold
from tests.made_plans import make_plan
from tests.made_records import put

PARAMETERS = {
    "network.lrn*.k": 1.5,
    "network.lrn*.size": 3,
    "network.lrn*.alpha": 1e-3,
    "network.lrn*.beta": 0.5,
}


def lrn_plan(epochs: int) -> Plan:
    return make_plan(load_study("lrn"), 8, epochs=epochs, sweep_points=1)


def test_points_of_another_base_are_not_ranked_among_a_sweeps_own(tmp_path: Path) -> None:
    plans = {epochs: lrn_plan(epochs) for epochs in (1, 11)}
    rows = [
        {
            "study": "lrn",
            "dataset": "digits",
            "arm": "sweep",
            "seed": TUNING_SEED,
            "key": Search("lrn/sweep", plan.study.sweep, plan.base, 1).trial(PARAMETERS).key,
            "phase": "sweep",
            "parameters": json.dumps(PARAMETERS),
            "position": 0,
        }
        for plan in plans.values()
    ]
    members = pl.DataFrame(rows, schema=MEMBER_COLUMNS)
    trial_record.append_members(tmp_path, "lrn", [{**row, "parameters": PARAMETERS} for row in rows])
    for place, plan in enumerate(plans.values()):
        assert _own_points(plan, members, tmp_path, "lrn")["key"].to_list() == [rows[place]["key"]]
    assert _own_points(plans[1], members, tmp_path, "another").is_empty()


@pytest.mark.slow
def test_a_confirmed_study_passes_its_check_also_as_a_copy_and_an_edited_confirmation_fails_it(tmp_path: Path) -> None:
    results, plan = tmp_path / "results", replace(lrn_plan(11), sweep_points=2)
    assert plan.study.sweep is not None
    search = Search("lrn/sweep", plan.study.sweep, plan.base, 2)
    for place, trial in enumerate(plan.trials):
        put(results, trial.config, 30 + place % 7)
    trial_record.join_members(results, "lrn", "digits", plan.trials)
    asks, ended = [], {}
    for position, k in enumerate((1.0, 1.5)):
        parameters = {**PARAMETERS, "network.lrn*.k": k}
        point = search.trial(parameters)
        put(results, point.config, 20 + position)
        row = {"phase": "sweep", "arm": "sweep", "key": point.key, "seed": point.seed, "position": position}
        row |= {"study": "lrn", "dataset": "digits", "parameters": parameters, "base": search.base_key}
        trial_record.append_members(results, "lrn", [row])
        asks.append(Ask(position, point.key, search.base_key, parameters, (), "random"))
        ended[position] = Ended("finished", ((20 + position) / 360,))
    folder = results / "studies" / "lrn"
    confirmation = confirmation_plan(search, SearchHistory((), tuple(asks), ended), 1, 4, {})
    content = write_plan(folder, plan, ["ablate"])
    write_confirmation(folder, confirmation)
    for place, trial in enumerate(confirmation_trials(plan, confirmation)):
        put(results, trial.config, 25 + place % 5)
        trial_record.join_members(results, "lrn", "digits", [trial])
    answer = conclude(plan, results, folder, content, Console(file=StringIO())).answer
    assert answer.confirmation is not None
    assert answer.confirmation.seeds == (2000, 2001, 2002, 2003)
    assert check_report(folder, results).differences == []
    copy = shutil.copytree(results, tmp_path / "copy", copy_function=shutil.copyfile)
    assert check_report(copy / "studies" / "lrn", copy).differences == []
    fresh = confirmation_trials(plan, confirmation)[1]
    result = copy / "trials" / fresh.key / "result.json"
    result.write_text(result.read_text().replace('"top1_errors": ', '"top1_errors": 1', 1))
    named = check_report(copy / "studies" / "lrn", copy).differences
    assert f"record {fresh.key} ({fresh.arm} seed 2000): result.json was changed after the report" in named


@pytest.mark.slow
def test_edited_epochs_and_memberships_fail_the_check(tmp_path: Path) -> None:
    plan = lrn_plan(2)
    for place, trial in enumerate(plan.trials):
        put(tmp_path, trial.config, 30 + place % 7)
    trial_record.join_members(tmp_path, "lrn", "digits", plan.trials)
    folder = tmp_path / "studies" / "lrn"
    conclude(plan, tmp_path, folder, write_plan(folder, plan, ["ablate"]), Console(file=StringIO()))
    assert check_report(folder, tmp_path).differences == []
    epochs = tmp_path / "trials" / plan.trials[0].key / "epochs.jsonl"
    whole = epochs.read_text()
    epochs.write_text(whole.replace('"learning_rate": 0', '"learning_rate": 1', 1))
    assert epochs.read_text() != whole
    (line,) = check_report(folder, tmp_path).differences[:1]
    assert line == f"epochs.parquet, {plan.trials[0].key} epoch 1: the records differ from the table"
    epochs.write_text(whole)
    table = tmp_path / "tables" / "members.parquet"
    members = pl.read_parquet(table)
    members.filter(pl.col("arm") != "no_lrn").write_parquet(table)
    named = check_report(folder, tmp_path).differences
    assert "members.parquet, no_lrn, 8 seeds: the records differ from the table" in named


def test_an_arm_that_is_the_baseline_again_is_told_to_a_sweep_once(tmp_path: Path) -> None:
    plan = lrn_plan(2)
    twin = plan.study.arm("baseline").model_copy(update={"name": "twin"})
    plan = replace(plan, study=plan.study.model_copy(update={"arms": (*plan.study.arms, twin)}))
    plan = replace(plan, trials=unfold(plan.study, plan.base, plan.seeds))
    for trial in plan.trials:
        put(tmp_path, trial.config, 30)
    assert plan.study.sweep is not None
    search = Search("lrn/sweep", plan.study.sweep, plan.base, 2)
    told = [json.dumps(parameters) for parameters, _ in arms_in_space(plan, search, partial(read_ended, tmp_path))]
    assert len(told) == len(set(told)) >= 1


def test_the_outlook_takes_the_spread_from_an_earlier_answer_and_does_without_a_damaged_one(tmp_path: Path) -> None:
    plan = lrn_plan(11)
    assert resolution_outlook(plan, tmp_path) == "8 seeds can reach a verdict"
    (tmp_path / "answer.json").write_text("{")
    assert resolution_outlook(plan, tmp_path) == "8 seeds can reach a verdict"
    (tmp_path / "answer.json").write_text(json.dumps({"arms": [{"difference_sd": None}, {"difference_sd": 0.6}]}))
    assert "can resolve 0.8 points" in resolution_outlook(plan, tmp_path)


def test_an_arm_of_the_baselines_own_trials_asks_for_no_further_seed(tmp_path: Path) -> None:
    plan = with_seeds(lrn_plan(11), 6)
    assert "their exact test of 2 arms needs 7 (--seeds 7)" in resolution_outlook(plan, tmp_path)
    baseline = {trial.seed: trial.config for trial in plan.trials if trial.arm == "baseline"}
    same = [replace(one, config=baseline[one.seed]) if one.arm == "as_run" else one for one in plan.trials]
    same = [replace(one, key=trial_key(one.config)) for one in same]
    # 与基线是同样的 trial，就不在一起校正的那一族里
    assert resolution_outlook(replace(plan, trials=tuple(same)), tmp_path) == "6 seeds can reach a verdict"


def test_a_plan_on_record_is_read_back_without_the_studys_file(tmp_path: Path) -> None:
    plan = lrn_plan(11)
    content = write_plan(tmp_path, plan, ["ablate"])
    assert plan_on_record(tmp_path) == (plan, content)
    (tmp_path / "plan.json").write_text(json.dumps({**content.content, "asked": {"name": "lrn"}}))
    with pytest.raises(LabError, match="earlier version or damaged"):
        plan_on_record(tmp_path)


def test_the_outlook_of_times_to_a_threshold_counts_the_share_of_each_look(tmp_path: Path) -> None:
    study = load_study("activation")
    tanh = study.arms[1]
    more = (tanh.model_copy(update={"name": f"tanh{n}", "set": {"training.momentum": n / 9}}) for n in (1, 2))
    arms = (*study.arms, *more)
    plan = make_plan(study.model_copy(update={"arms": arms}), 7)
    outlook = resolution_outlook(plan, tmp_path)
    assert outlook == "7 seeds cannot reach a verdict: the sign test of 3 arms needs 8 (--seeds 8)"
    assert resolution_outlook(make_plan(plan.study, 8), tmp_path) == "8 seeds can reach a verdict"
    add_look(tmp_path, write_plan(tmp_path, plan, ["ablate"]), 7)
    assert "needs 10 (--seeds 10)" in resolution_outlook(make_plan(plan.study, 8), tmp_path)
