"""`--seeds auto` on real records, without Ray: what is trained, what an interruption leaves, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.ablate import main
from orchestrator.errors import LabError
from orchestrator.judging.answer import Answer
from orchestrator.judging.looks import run_looks, without_closed
from orchestrator.judging.outlook import resolution_outlook
from orchestrator.planning.on_record import read_on_record
from orchestrator.planning.plan import Plan
from orchestrator.planning.plan_file import add_look, check_rule, plan_on_record, write_plan
from orchestrator.records.trial_record import TrialState
from orchestrator.reporting.conclude import judged_material
from orchestrator.tables.tables import done_states, update_tables
from search_spaces.study import load_study
from search_spaces.trial import PlannedTrial
from tests.made_plans import make_plan
from tests.made_records import put

SEEDS = 8
WRONG = {"baseline": [8, 9, 7, 10, 8, 9, 8, 7], "no_lrn": [23, 25, 23, 26, 24, 25, 24, 22]}
WRONG["as_run"] = [10, 6, 9, 7, 10, 6, 11, 7]


class Killed(Exception):
    """The driver dies."""


def sequential_plan(seeds: int = SEEDS, max_seeds: int | None = SEEDS) -> Plan:
    return make_plan(load_study("lrn"), seeds, epochs=2, max_seeds=max_seeds)


def ended(plan: Plan, results: Path) -> dict[str, TrialState]:
    return done_states(results, [trial.key for trial in plan.trials])


class Lab:
    """Trains by putting made records; may die after so many trials."""

    def __init__(self, results: Path, dies_after: int = 1000, **states: TrialState) -> None:
        self.results, self.left, self.states = results, dies_after, states
        self.phases: list[list[str]] = []

    def train(self, trials: Sequence[PlannedTrial]) -> None:
        self.phases.append([f"{trial.arm}-{trial.seed}" for trial in trials])
        for trial in trials:
            if self.left == 0:
                raise Killed
            self.left -= 1
            state = self.states.get(f"{trial.arm}_{trial.seed}", TrialState.FINISHED)
            put(self.results, trial.config, 20, state=state, test_wrong=WRONG[trial.arm][trial.seed])

    def run(self) -> Plan:
        plan = self.left_over()
        run_looks(plan, self.results, lambda: ended(plan, self.results), self.train)
        return sequential_plan()

    def left_over(self) -> Plan:
        plan = sequential_plan()
        return without_closed(plan, ended(plan, self.results), self.results)


def answered(plan: Plan, results: Path, skipped: Sequence[str] = ()) -> Answer:
    folder = results / "studies" / "lrn"
    content = write_plan(folder, plan, ["ablate"], skipped=skipped)
    return judged_material(plan, content, folder, results, update_tables(results)).answer


def test_seed_by_seed_until_every_arm_is_closed(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    plan = lab.run()
    result = answered(plan, tmp_path)
    _, no_lrn, as_run = result.arms
    assert lab.phases[0] == [f"{arm}-{seed}" for seed in range(4) for arm in ("baseline", "no_lrn", "as_run")]
    assert (no_lrn.word, no_lrn.closed) == ("supports", "decided")
    assert no_lrn.n < as_run.n == result.seeds
    assert lab.phases[1:] == [
        [f"{arm}-{seed}" for arm in ("baseline", "no_lrn", "as_run") if arm != "no_lrn" or seed < no_lrn.n]
        for seed in range(4, result.seeds)
    ]
    assert as_run.closed in ("futile", "maximum", "decided")
    assert result.missing == ()
    assert any(f"no_lrn at {no_lrn.n} (decided)" in note for note in result.notes)
    assert all(trial.key in ended(plan, tmp_path) for trial in lab.left_over().trials)


@pytest.mark.slow
def test_a_skipped_arm_holds_up_no_other_and_catches_up_later(tmp_path: Path) -> None:
    undisturbed = tmp_path / "undisturbed"
    whole = answered(Lab(undisturbed).run(), undisturbed)
    lab, results = Lab(tmp_path / "skipped"), tmp_path / "skipped"
    plan = sequential_plan()

    def skipped() -> set[str]:
        return {"no_lrn"} if lab.phases else set()

    def train(trials: Sequence[PlannedTrial]) -> None:
        lab.train([trial for trial in trials if trial.arm not in skipped()])

    run_looks(plan, results, lambda: ended(plan, results), train, skipped)
    assert {cell.split("-")[0] for phase in lab.phases[1:] for cell in phase} == {"baseline", "as_run"}
    assert len(lab.phases[1:]) == whole.seeds - 4, "the other arm is trained to its own end"
    assert answered(Lab(results).run(), results).arms == whole.arms


def test_the_answer_waits_for_a_skipped_arm_that_is_open_and_says_why(tmp_path: Path) -> None:
    plan = sequential_plan()
    Lab(tmp_path).train([trial for trial in plan.trials if trial.seed < (4 if trial.arm == "as_run" else 6)])
    result, plain = answered(plan, tmp_path, ["as_run", "no_lrn"]), answered(plan, tmp_path)
    assert [arm.looked_at for arm in result.arms[1:]] == [4, 4]
    assert [arm.word for arm in result.arms] == [arm.word for arm in plain.arms]
    # 已关闭的 arm 什么也不缺
    assert (result.skipped, plain.skipped) == (("as_run",), ())
    (said,) = set(result.notes) - set(plain.notes)
    assert said.startswith(
        "Skipped on request: as_run. The others went on, but a look at every seed waits for all arms"
    )


@pytest.mark.slow
@pytest.mark.parametrize("dies_after", [2, 12, 14])
def test_a_killed_study_trains_the_same_trials_and_gives_the_same_answer(tmp_path: Path, dies_after: int) -> None:
    undisturbed = tmp_path / "undisturbed"
    whole = answered(Lab(undisturbed).run(), undisturbed)
    killed = tmp_path / "killed"
    with pytest.raises(Killed):
        Lab(killed, dies_after).run()
    early = answered(sequential_plan(), killed)
    assert early.missing
    again = Lab(killed)
    assert answered(again.run(), killed) == whole
    assert sum(map(len, again.phases)) == len(list(undisturbed.glob("trials/*"))) - dies_after
    assert len(list(killed.glob("trials/*"))) == len(list(undisturbed.glob("trials/*")))


def test_a_diverged_seed_closes_its_arm_and_records_beyond_a_look_change_nothing(tmp_path: Path) -> None:
    lab = Lab(tmp_path, no_lrn_2=TrialState.DIVERGED)
    result = answered(lab.run(), tmp_path)
    assert (result.arms[1].word, result.arms[1].closed, result.arms[1].looked_at) == (
        "diverged on 1 of 4",
        "untested",
        4,
    )
    # 别的研究后来训练了更多种子
    plan = sequential_plan()
    for trial in read_on_record(tmp_path, plan.trials).missing(plan.trials):
        put(tmp_path, trial.config, 20, test_wrong=WRONG[trial.arm][trial.seed])
    assert answered(sequential_plan(), tmp_path).arms == result.arms


def test_the_plan_holds_the_maximum_and_another_rule_is_refused_after_a_look(tmp_path: Path) -> None:
    results, folder = tmp_path, tmp_path / "studies" / "lrn"
    content = write_plan(folder, sequential_plan(), ["ablate"])
    assert content.max_seeds == content.planned_seeds == SEEDS
    assert plan_on_record(folder)[0].max_seeds == SEEDS
    check_rule(folder, sequential_plan(10, 10))
    Lab(results).run()
    check_rule(folder, sequential_plan())
    for other in (sequential_plan(10, 10), sequential_plan(8, None)):
        with pytest.raises(LabError, match="ask for --seeds auto --max-seeds 8, or ask anew"):
            check_rule(folder, other)
    fixed = sequential_plan(5, None)
    content = write_plan(folder, fixed, ["ablate"])
    add_look(folder, content.with_looks([]), 5)
    with pytest.raises(LabError, match="ask for --seeds 5 or more"):
        check_rule(folder, sequential_plan())
    check_rule(folder, sequential_plan(10, None))


def test_an_arm_that_is_left_out_ends_the_looks_without_an_endless_loop(tmp_path: Path) -> None:
    plan = sequential_plan()
    requests: list[object] = []
    run_looks(plan, tmp_path, dict, requests.append)
    assert len(requests) == 1


def test_the_outlook_says_that_looks_are_taken_and_what_the_maximum_can_reach(tmp_path: Path) -> None:
    line = resolution_outlook(sequential_plan(), tmp_path)
    assert line == "at most, with a look at each from 4 seeds on; 8 seeds can reach a verdict"
    (tmp_path / "answer.json").write_text(json.dumps({"arms": [{"difference_sd": 0.6}]}))
    assert "can resolve 1.0 points" in resolution_outlook(sequential_plan(), tmp_path)
    few = replace(sequential_plan(5), max_seeds=5)
    assert "(--max-seeds 7)" in resolution_outlook(few, tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seeds", "auto"], "needs --max-seeds from 4 to 200"),
        (["--seeds", "auto", "--max-seeds", "3"], "needs --max-seeds from 4 to 200"),
        (["--max-seeds", "9"], "--max-seeds goes with --seeds auto"),
        (["--seeds", "auto", "--max-seeds", "9", "--study", "activation"], "sign test"),
        (["--seeds", "auto", "--max-seeds", "9", "--study", "crops", "--dataset", "cifar10"], "only evaluate"),
        (["--seeds", "auto", "--max-seeds", "9", "--sweep", "3"], "need whole arms"),
        (["--seeds", "auto", "--study", "paper"], "takes no --seeds auto"),
    ],
)
def test_what_does_not_go_together_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main([*arguments, "--results", str(tmp_path)]) == 2
    errors = capsys.readouterr().err
    assert message in errors
    assert len(errors.strip().splitlines()) == 1
