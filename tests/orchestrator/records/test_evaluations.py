"""Arms that are the same trained trials seen in more views: what is planned, recorded and judged."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any, Literal

import polars as pl
import pytest
import torch
from rich.console import Console

from orchestrator.errors import LabError
from orchestrator.judging.answer import Answer
from orchestrator.judging.judge import answer
from orchestrator.planning.on_record import OnRecord, read_on_record
from orchestrator.planning.plan import Plan, with_seeds
from orchestrator.planning.plan_file import write_plan
from orchestrator.planning.summary import arm_line, arm_plans, plan_line
from orchestrator.planning.variants.together import combined_plan
from orchestrator.planning.work_left import WorkLeft
from orchestrator.records.evaluations import (
    Evaluation,
    read_evaluation,
    write_evaluation,
)
from orchestrator.records.layout import trial_folder
from orchestrator.records.trial_record import TrialState, join_members, read_result
from orchestrator.reporting.check import check_report
from orchestrator.reporting.conclude import conclude
from orchestrator.request import Question, Request, Store
from orchestrator.running.agenda import Agenda, PlannedStudy
from orchestrator.sweeps.planned_sweep import PlannedSweep
from orchestrator.tables.rows import MEMBER_COLUMNS
from orchestrator.tables.tables import load_tables, update_tables
from search_spaces.core_config import TrialConfig
from search_spaces.study import Study, load_study
from search_spaces.trial import unfold
from search_spaces.yaml_file import parse_model
from tests.lab import Lab
from tests.made_plans import make_plan
from tests.made_recording import make_recording
from tests.made_records import errors, put
from tests.without_ray import run_without_ray

VIEWS = """name: views
question: Do ten views help?
source: a test
claim: {statement: they do, source: a test}
baseline: ten
arms:
  - {name: ten, title: ten views, views: 10}
  - {name: one, title: one view, claim: {statement: worse, source: a test, direction: higher}}
recipes:
  digits:
    input_size: 14
    training: {epochs: 2, flips: true}
    margin: 0.3
    smallest_effect: 1.0
"""
WEIGHTS_SHA256 = hashlib.sha256(b"weights").hexdigest()
WRONG = {0: (30, 24), 1: (31, 26), 2: (28, 21), 3: (33, 27)}


def views_plan(seeds: int = 4, text: str = VIEWS) -> Plan:
    return make_plan(parse_model(text, Study, "views.yaml"), seeds)


def put_evaluated(results: Path, config: TrialConfig, one: int, ten: int | None, **fields: Any) -> Path:
    """A finished trial with its weights, wrong on so many of 359 test images in one view and in ten."""
    weights = {"weights": "checkpoint/final.safetensors", "weights_sha256": WEIGHTS_SHA256}
    folder = trial_folder(results, put(results, config, test_wrong=one, **weights))
    (folder / "checkpoint").mkdir()
    (folder / "checkpoint" / "final.safetensors").write_bytes(b"weights")
    if ten is not None:
        values = {
            "weights_sha256": WEIGHTS_SHA256,
            "retrained": False,
            "same_network": True,
            "metrics": errors(ten, 359),
            **fields,
        }
        evaluation = Evaluation(
            key=folder.name, views=10, split="test", seconds=0.1, evaluated_at="2026-01-01T00:00:00+00:00", **values
        )
        write_evaluation(folder, evaluation)
    return folder


def put_all(results: Path) -> None:
    for trial in views_plan().trials[::2]:
        put_evaluated(results, trial.config, *WRONG[trial.seed])


def judge(results: Path, plan: Plan) -> Answer:
    content = write_plan(results / "studies" / "views", plan, ["test"])
    tables = load_tables(results)
    return answer(plan.study, plan.recipe, content, tables.trials, pl.DataFrame(schema=MEMBER_COLUMNS), tables.epochs)


def test_both_arms_are_the_same_trials_and_the_difference_is_between_their_views(tmp_path: Path) -> None:
    put_all(tmp_path)
    plan = views_plan()
    answer = judge(tmp_path, plan)
    ten, one = answer.arms
    assert ten.errors == pytest.approx({str(seed): 100 * ten / 359 for seed, (_, ten) in WRONG.items()})
    assert one.errors == pytest.approx({str(seed): 100 * one / 359 for seed, (one, _) in WRONG.items()})
    assert one.differences == pytest.approx({str(seed): 100 * (o - t) / 359 for seed, (o, t) in WRONG.items()})
    assert one.word == "supports"
    assert one.costs.seconds_per_epoch.pairs == 0
    assert answer.missing == ()


@pytest.mark.slow
def test_a_report_rests_on_the_evaluations_too_and_an_edited_one_fails_the_check(tmp_path: Path) -> None:
    put_all(tmp_path)
    plan, folder = views_plan(), tmp_path / "studies" / "views"
    join_members(tmp_path, "views", plan.dataset, plan.trials)
    content = write_plan(folder, plan, ["ablate"])
    conclude(plan, tmp_path, folder, content, Console(file=StringIO()))
    assert check_report(folder, tmp_path).differences == []
    path = tmp_path / "trials" / plan.trials[0].key / "evaluations" / "10.json"
    path.write_text(path.read_text().replace('"top1_errors": 24', '"top1_errors": 23'))
    differences = check_report(folder, tmp_path).differences
    assert f"record {plan.trials[0].key} (ten seed 0): its evaluation was changed after the report" in differences
    assert any("one" in line for line in differences)


def test_an_arm_that_is_not_evaluated_yet_is_missing_and_a_diverged_one_is_diverged(tmp_path: Path) -> None:
    plan = views_plan(3)
    configs = [trial.config for trial in plan.trials[::2]]
    put_evaluated(tmp_path, configs[0], 30, 24)
    put(tmp_path, configs[1], None, state=TrialState.DIVERGED, test_wrong=None)
    put_evaluated(tmp_path, configs[2], 30, None)
    plan = views_plan(3)
    answer = judge(tmp_path, plan)
    assert answer.missing == ("ten seed 2",)
    assert answer.arms[1].word == "diverged on 1 of 2"
    to_evaluate = read_on_record(tmp_path, plan.trials).to_evaluate(plan.trials)
    assert [trial.seed for trial in to_evaluate] == [2]


def test_only_what_lacks_its_views_is_evaluated_and_lost_weights_are_said(tmp_path: Path) -> None:
    plan = views_plan()
    fresh = read_on_record(tmp_path, plan.trials)
    assert [(trial.arm, trial.seed) for trial in fresh.to_run(plan.trials)] == [("ten", seed) for seed in range(4)]
    line = plan_line(plan, fresh, WorkLeft(), "unknown", "")
    assert line.startswith("4 trials wanted, 0 on record, 4 to train, time unknown")
    assert arm_line(arm_plans(plan, fresh, {})[0]) == (
        "    ten: 4 trials, 0 on record, 4 to run, evaluated in 10 views; the same trials as one"
    )
    put_all(tmp_path)
    assert read_on_record(tmp_path, plan.trials).to_run(plan.trials) == ()
    folders = [trial_folder(tmp_path, trial.key) for trial in plan.trials[::2]]
    for folder in folders[:2]:
        (folder / "evaluations" / "10.json").unlink()
    (folders[1] / "checkpoint" / "final.safetensors").unlink()
    later = read_on_record(tmp_path, plan.trials)
    assert [trial.seed for trial in later.to_evaluate(plan.trials)] == [0, 1]
    line = plan_line(plan, later, WorkLeft(), "none", "")
    assert "4 on record, 0 to train, 2 to evaluate in more views (1 of them trained again for it: " in line


def test_the_table_reads_a_record_again_once_it_is_evaluated(tmp_path: Path) -> None:
    config = views_plan(1).trials[0].config
    folder = put_evaluated(tmp_path, config, 30, None)
    assert update_tables(tmp_path).trials["test_top1_errors_10_views"].to_list() == [None]
    result = (folder / "result.json").read_bytes()
    put_evaluated_later = Evaluation(
        key=folder.name,
        views=10,
        split="test",
        metrics=errors(24, 359),
        weights_sha256="2" * 64,
        retrained=True,
        same_network=False,
        seconds=0.1,
        evaluated_at="2026-01-01T00:00:00+00:00",
    )
    write_evaluation(folder, put_evaluated_later)
    trials = update_tables(tmp_path).trials
    assert trials["test_top1_errors_10_views"].to_list() == [24]
    assert trials["test_top1_errors"].to_list() == [30]
    assert trials["same_network_10_views"].to_list() == [False]
    assert (folder / "result.json").read_bytes() == result


def test_a_damaged_evaluation_is_named(tmp_path: Path) -> None:
    config = views_plan(1).trials[0].config
    path = put_evaluated(tmp_path, config, 30, 24) / "evaluations" / "10.json"
    path.write_text("{}")
    with pytest.raises(LabError, match=r"evaluations/10.json is damaged.*move it away to evaluate"):
        read_on_record(tmp_path, views_plan(1).trials)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"metrics": errors(2, 3)}, "it is of 3 test images, its result.json of 359 test images"),
        ({"split": "validation"}, "it is of 359 validation images, its result.json of 359 test images"),
        (
            {"metrics": errors(24, 359).model_copy(update={"top5_errors": 25})},
            "it has 25 top-5 errors, more than the 24 of top-1",
        ),
    ],
)
def test_an_evaluation_of_other_images_than_the_trials_own_counts_nowhere(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, changed: dict[str, Any], reason: str
) -> None:
    folder = put_evaluated(tmp_path, views_plan(1).trials[0].config, 30, 24)
    evaluation = read_evaluation(folder, 10)
    assert evaluation is not None
    write_evaluation(folder, evaluation.model_copy(update=changed))
    assert update_tables(tmp_path).trials.is_empty()
    assert f"left out of the tables: {folder}/evaluations/10.json: {reason}; move it away to evaluate" in caplog.text


def test_studies_that_share_a_trial_run_it_once_with_the_views_that_one_of_them_wants(tmp_path: Path) -> None:
    plan = views_plan(2)
    other_study = plan.study.model_copy(
        update={"name": "other", "arms": tuple(arm.model_copy(update={"views": 1}) for arm in plan.study.arms)}
    )
    other = replace(plan, study=other_study, trials=unfold(other_study, plan.base, range(2)))
    whole = combined_plan([other, plan], plan.recipe)
    to_run = read_on_record(tmp_path, whole.trials).to_run(whole.trials)
    assert len(to_run) == whole.unique_keys == 2
    assert set(whole.views.values()) == {10}
    assert set(whole.views) == {trial.key for trial in to_run}


def test_ten_views_of_another_metric_are_refused() -> None:
    text = VIEWS.replace("baseline: ten\n", "baseline: ten\nprimary_metric: training_error\n")
    with pytest.raises(Exception, match="views of 10 are evaluated for top1_error"):
        parse_model(text, Study, "views.yaml")
    with pytest.raises(Exception, match="views"):
        parse_model(VIEWS.replace("views: 10", "views: 5"), Study, "views.yaml")


def test_the_crops_study_shares_its_trials_with_the_other_studies_baselines() -> None:
    crops, towers = load_study("crops"), load_study("towers")
    assert crops.arm("one_view").claim.top1_points == 1.5  # type: ignore[union-attr]
    assert "digits" in crops.not_asked
    for dataset in ("cifar10", "imagefolder", "imagenet"):
        one, other = crops.recipes[dataset], towers.recipes[dataset]
        assert (one.data, one.network, one.input_size) == (other.data, other.network, other.input_size)
        assert one.training == other.training
        # 网络看到的比准备好的图小，十个视图才不相同
        assert one.input_size < one.data.image_size


PLAN_TO_RUN = views_plan(2, text=VIEWS.replace("epochs: 2", "epochs: 1"))


def run(results: Path, keep_weights: Literal["all", "none"] = "all") -> OnRecord:
    """Runs what is missing with the real recorder and the real worker; returns what was on record before."""
    plan, before = PLAN_TO_RUN, read_on_record(results, PLAN_TO_RUN.trials)
    torch.set_num_threads(1)
    request = Request(Question("views"), Store(results, keep_weights=keep_weights))
    sweep = PlannedSweep(plan, None, results / "studies" / "views", request.sweep, request.store)
    agenda = Agenda((PlannedStudy(plan, plan, before, sweep),), plan, before, sweep.folder)
    run_without_ray(agenda, request, Console(file=StringIO()))
    return before


def read_all(results: Path, pattern: str) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in results.glob(pattern)}


@pytest.mark.slow
def test_evaluations_are_made_with_the_training_or_later_and_never_twice(tmp_path: Path) -> None:
    run(tmp_path)
    folders = [trial_folder(tmp_path, trial.key) for trial in PLAN_TO_RUN.trials[::2]]
    made = [read_evaluation(folder, 10) for folder in folders]
    results = [read_result(folder) for folder in folders]
    assert [e and e.weights_sha256 for e in made] == [r and r.weights_sha256 for r in results]
    assert [e and e.metrics.count for e in made] == [359, 359]
    evaluations = read_all(tmp_path, "trials/*/evaluations/*")
    assert run(tmp_path).to_run(PLAN_TO_RUN.trials) == ()

    record = read_all(tmp_path, "trials/*/[cer]*.json*")
    for path in evaluations:
        path.unlink()
    for weights in (folders[1] / "checkpoint").iterdir():
        weights.unlink()
    assert run(tmp_path).lost_weights == {folders[1].name}
    again = [read_evaluation(folder, 10) for folder in folders]
    assert [e and e.metrics for e in again] == [e and e.metrics for e in made]
    assert [e and (e.retrained, e.same_network) for e in again] == [(False, True), (True, True)]
    assert read_all(tmp_path, "trials/*/[cer]*.json*") == record
    # 为评估而重训的权重不留下；原来留着的仍在
    assert [len(list((folder / "checkpoint").iterdir())) for folder in folders] == [1, 0]
    assert run(tmp_path).to_run(PLAN_TO_RUN.trials) == ()


@pytest.mark.slow
def test_weights_that_are_not_kept_are_evaluated_before_they_go(tmp_path: Path) -> None:
    run(tmp_path, "none")
    assert not list(tmp_path.glob("trials/*/checkpoint/*"))
    assert len(list(tmp_path.glob("trials/*/evaluations/10.json"))) == 2
    assert run(tmp_path, "none").to_run(PLAN_TO_RUN.trials) == ()


@pytest.mark.slow
def test_a_driver_killed_between_result_and_evaluation_evaluates_next_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        """The driver is gone."""

    def killed(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("orchestrator.running.recording.recorder.write_evaluation", killed)
        with pytest.raises(Killed):
            run(tmp_path, "none")
    (result,) = tmp_path.glob("trials/*/result.json")
    before = result.read_bytes()
    left_by_the_killed = run(tmp_path, "none")
    assert [trial.seed for trial in left_by_the_killed.to_evaluate(PLAN_TO_RUN.trials)] == [0]
    assert left_by_the_killed.lost_weights == frozenset()
    assert result.read_bytes() == before
    assert len(list(tmp_path.glob("trials/*/evaluations/10.json"))) == 2


def test_seeds_that_a_running_study_gains_are_evaluated_as_its_arms_ask(tmp_path: Path) -> None:
    plan = views_plan(1)
    opener = make_recording(plan, tmp_path).opener
    grown = with_seeds(plan, 2)
    opener.grow(grown, OnRecord())
    views = {trial.seed: opener.open(trial, None).views for trial in grown.trials}
    assert views == {0: 10, 1: 10}


ASKS_TWICE = """
import json, logging, signal, sys
from orchestrator import LabError, run_study

def state():
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    return handlers, list(logging.getLogger().handlers), sys.stdout, sys.stderr

before = state()
first = run_study(sys.argv[1], seeds=5, slots=1, results=sys.argv[2])
again = run_study(sys.argv[1], seeds=5, slots=1, results=sys.argv[2])
try:
    run_study("lrm", results=sys.argv[2])
except LabError as error:
    print(error, file=sys.stderr)
print(json.dumps({
    "unchanged": state() == before,
    "ray": "ray" in sys.modules,
    "seeds": first.answer.seeds,
    "rows": first.table.height,
    "same": first == again,
}))
"""


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_slots_evaluate_trials_on_record_measure_memory_and_stop_at_a_budget(lab: Lab) -> None:
    run(lab.results)
    first = sorted(lab.results.glob("trials/*/evaluations/10.json"))[0]
    before = read_evaluation(first.parents[1], 10)
    first.unlink()
    for path in lab.results.glob("trials/*/result.json"):
        record = json.loads(path.read_text())
        path.write_text(json.dumps(record | {"environment": record["environment"] | {"device_name": "H100"}}))
    study = lab.home / "views.yaml"
    study.write_text(VIEWS.replace("epochs: 2", "epochs: 1"))
    arguments = ("--study", str(study), "--seeds", "5", "--slots", "1", "--no-dashboard")
    heard = lab.home / "heard.json"
    told = ("--notify", f"tee {heard}")
    code, output, errors = lab.ablate(*arguments, "--max-gpu-hours", "1e-6", *told, "--json")
    assert code == 0, output + errors
    assert json.loads(heard.read_text())["outcome"] == "budget"
    assert heard.read_text() in errors, "whatever is no document is on the standard error"
    assert "5 trials wanted, 2 on record, 3 to train, 1 to evaluate in more views" in errors
    document = json.loads(output)
    assert document["answers"] == []
    # GPU 上的记录量不出这里的时间，所以先跑一个种子；量出来就知道下一个放不下
    first_line = "stopped at the budget: 3 of 5 seeds are complete; missing: all arms of seeds 3, 4."
    assert (document["left_out"][0], first_line in errors) == (first_line, True)
    assert not (lab.results / "studies" / "views" / "answer.json").exists()
    # 笔记本的内核里就有 FORCE_COLOR
    variables = {"PYTHONPATH": os.pathsep.join(sys.path), "FORCE_COLOR": "1"}
    process = lab.start_program(ASKS_TWICE, str(study), str(lab.results), **variables)
    output, errors = process.communicate(timeout=400)
    assert process.returncode == 0, output + errors
    assert "3 on record, 2 to train" in errors
    assert "\x1b[?25l" not in errors, "no table is drawn anew into a pipe"
    assert "5 on record, 0 to train" in errors
    assert json.loads(output) == {"unchanged": True, "ray": False, "seeds": 5, "rows": 2, "same": True}
    made = read_evaluation(first.parents[1], 10)
    assert before is not None
    assert made is not None
    assert (made.metrics, made.weights_sha256) == (before.metrics, before.weights_sha256)
    assert len(list(lab.results.glob("trials/*/evaluations/10.json"))) == 5
    trials = load_tables(lab.results).trials
    # 进程里的第一个 trial 不计；第二次运行的两个里总有一个是后来的
    assert 1 <= trials["peak_memory_mb"].count() <= 2
    assert set(trials["memory_kind"].drop_nulls()) == {"resident above the start of the trial"}
    content = json.loads((lab.results / "studies" / "views" / "answer.json").read_text())
    assert (content["seeds"], content["missing"]) == (5, [])
