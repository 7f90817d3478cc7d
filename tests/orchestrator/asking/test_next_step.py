"""What is offered at the end: an option that leads to an answer, priced by what it would train; or nothing."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.asking.next_step import next_step
from orchestrator.judging.answer import Answer
from orchestrator.options import parsed_request
from orchestrator.planning.estimate import EpochSeconds, Estimate, Place, estimate, likenesses_of
from orchestrator.planning.plan import Plan
from orchestrator.planning.plan_file import check_rule, write_plan
from orchestrator.planning.work_left import Training
from orchestrator.running.agenda import make_agenda, plan_studies, price_of
from orchestrator.tables.tables import update_tables
from search_spaces.study import load_study
from search_spaces.trial import unfold
from tests.made_records import put
from tests.made_reports import make_answer

SECONDS = 2.0


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    results = tmp_path_factory.mktemp("results")
    return plan_studies(parsed_request(["lrn", "--seeds=8", f"--results={results}"]))[0]


def priced(answer: Answer, plan: Plan, *, together: bool = False) -> tuple[str, list[Training]]:
    """The line, and what was priced for it: two seconds an epoch, on one slot."""
    asked: list[Training] = []

    def price(trainings: Sequence[Training]) -> Estimate:
        asked.extend(trainings)
        measured = EpochSeconds()
        for training in trainings:
            measured.add(likenesses_of(training.config), SECONDS)
        return estimate(trainings, measured, Place(1, 0, False))

    return next_step(answer, plan, lambda: price, together=together), asked


def test_seeds_are_offered_for_undecided_arms_and_priced_by_what_they_would_train(plan: Plan) -> None:
    answer = make_answer(arms=4)
    (low, high) = next(arm.seeds_needed for arm in answer.arms if arm.word == "inconclusive") or (0, 0)
    line, asked = priced(answer, plan)
    found = re.search(r"No answer yet on (\S+): the same command with --seeds (\d+) would take about (\d+) min", line)
    assert found is not None, line
    assert found[1] == "inconclusive_3"
    seeds = int(found[2])
    assert seeds == (high if high <= 32 else max(low, 16))
    # 三个 arm，每个新种子各练一遍
    arms = {trial.arm for trial in plan.trials}
    assert len(asked) == (seeds - 8) * len(arms)
    epochs = sum(training.epochs for training in asked)
    assert epochs == len(asked) * plan.trials[0].config.training.epochs  # type: ignore[union-attr]
    assert int(found[3]) == round(epochs * SECONDS / 60)


def test_nothing_is_offered_where_all_is_decided_or_more_seeds_change_nothing(plan: Plan) -> None:
    assert priced(make_answer(arms=3), plan) == ("", [])
    undecided = make_answer(arms=4)
    for update in ({"null": True}, {"chosen_afterwards": True}, {"missing": ("no_lrn seed 7",)}):
        assert priced(undecided.model_copy(update=update), plan) == ("", [])
    assert priced(undecided, replace(plan, max_seeds=30)) == ("", [])
    enough = tuple(arm.model_copy(update={"seeds_needed": (3, 6)}) for arm in undecided.arms)
    line, asked = priced(undecided.model_copy(update={"arms": enough}), plan)
    assert not asked
    assert "what there may be is smaller" in line
    noisy = tuple(arm.model_copy(update={"seeds_needed": (1469, 9000)}) for arm in undecided.arms)
    line, asked = priced(undecided.model_copy(update={"arms": noisy}), plan)
    assert not asked, "an offer that nobody would take is not priced"
    assert "needs 1469 of them or more; a longer training scatters less" in line


def test_what_is_offered_after_too_few_seeds_is_taken_by_the_rule_of_the_study(plan: Plan, tmp_path: Path) -> None:
    line, asked = priced(make_answer(arms=4, seeds=2), plan)
    assert "--seeds auto --max-seeds 30 would take at most about" in line
    assert len(asked) == 28 * len({trial.arm for trial in plan.trials})
    few = plan_studies(parsed_request(["lrn", "--seeds=2", f"--results={tmp_path}"]))[0]
    write_plan(tmp_path / "studies" / "lrn", few, ("orchestrator.ablate",))
    further = plan_studies(parsed_request(["lrn", "--seeds=auto", "--max-seeds=30", f"--results={tmp_path}"]))[0]
    check_rule(tmp_path / "studies" / "lrn", further)


def test_a_trial_that_arms_share_is_priced_once_and_no_looks_are_offered(plan: Plan) -> None:
    crops = load_study("crops")
    shared = replace(plan, study=crops, trials=unfold(crops, plan.base, range(8)))
    assert shared.unique_keys * 2 == len(shared.trials)
    for done in (2, 8):
        line, asked = priced(make_answer(arms=4, seeds=done), shared)
        found = re.search(r"the same command with --seeds (\d+) would take", line)
        assert found is not None, line
        assert len(asked) == int(found[1]) - done


@pytest.mark.parametrize(
    ("words", "offer"),
    [
        ("lrn", "--seeds auto --max-seeds 30"),
        ("lrn --sweep 3", "--seeds 8"),
        ("lrn --retune learning_rate --tuning-trials 4", "--seeds 8"),
        ("paper", "--seeds 8"),
        ("activation --tuning-trials 0", "--seeds 8"),
    ],
)
def test_what_is_offered_is_taken_together_with_the_words_that_were_given(
    words: str, offer: str, tmp_path: Path
) -> None:
    given = [*words.split(), f"--results={tmp_path}"]
    plans = plan_studies(parsed_request([*given, "--seeds=2"]))
    plan = next(plan for plan in plans if plan.study.name in ("lrn", given[0]))
    line, _ = priced(make_answer(arms=4, seeds=2), plan, together=len(plans) > 1)
    found = re.search("the same command with (.+) would take", line)
    assert found is not None, line
    assert found[1] == offer
    plan_studies(parsed_request([*given, *found[1].split()]))


@pytest.mark.parametrize(
    ("device", "takes"), [("cpu", "would take at most about"), ("auto", "was not measured here yet")]
)
def test_a_rehearsal_on_the_cpu_is_priced_by_what_was_trained_there(device: str, takes: str, tmp_path: Path) -> None:
    words = ["lrn", "--seeds=2", "--gpus-per-worker=1", f"--device={device}", f"--results={tmp_path}"]
    request = parsed_request(words)
    plan = plan_studies(request)[0]
    for trial in plan.trials:
        put(tmp_path, trial.config, environment={"device_name": "cpu"})  # type: ignore[arg-type]
    update_tables(tmp_path)
    price = price_of(make_agenda([plan], request), request)
    line = next_step(make_answer(arms=4, seeds=2), plan, lambda: price)
    assert "the same command with --seeds auto --max-seeds 30 " in line
    assert takes in line
