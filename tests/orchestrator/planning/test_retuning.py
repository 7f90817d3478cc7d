"""Fair ablation: equal budgets on tuning seeds, the best by the study's own measure, and nothing trained twice."""

from __future__ import annotations

import json
import math
import os
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from alexnet_core.configuration.metrics import EpochReport, SplitMetrics
from alexnet_core.configuration.train_config import TrainConfig
from orchestrator.ablate import main
from orchestrator.planning.on_record import OnRecord
from orchestrator.planning.plan import Plan
from orchestrator.planning.plan_file import write_plan
from orchestrator.planning.retuning import (
    chosen_values,
    further_missing,
    retune_of,
    retuned_trials,
    tuning_outcomes,
    tuning_trials,
    tuning_values,
    with_retuning,
    without_best,
)
from orchestrator.planning.work_left import WorkLeft, retuning_left
from orchestrator.records import trial_record
from orchestrator.records.trial_record import TrialResult, TrialState
from orchestrator.reporting.check import check_report
from orchestrator.reporting.conclude import judged_material
from orchestrator.request import Store
from orchestrator.running.session import run_retuning
from orchestrator.running.slots.messages import End, Started, TrialNews
from orchestrator.running.workers.alexnet_trial import epoch_news
from orchestrator.sweeps.searcher import ArmSearcher
from orchestrator.tables.tables import done_states, update_tables
from search_spaces.study import Retune, load_study
from search_spaces.trial import PlannedTrial, unfold
from tests.lab import Lab
from tests.made_plans import make_plan
from tests.made_recording import make_recording

SEEDS = 6


def retuning_plan(
    name: str = "activation", trials: int | None = 4, parameter: str | None = None, epochs: int | None = None
) -> Plan:
    plan = make_plan(load_study(name), SEEDS, epochs=epochs)
    return replace(plan, retune=retune_of(plan.study, plan.base, parameter, trials))


def put(results: Path, trial: PlannedTrial, errors: list[int], state: TrialState = TrialState.FINISHED) -> None:
    """Puts a trial on record whose running training errors were so many percent, the last one to its end."""
    folder = trial_record.open_record(results, trial.config)
    if not (folder / "attempts.jsonl").is_file():
        trial_record.next_attempt(folder)
    finished = state is TrialState.FINISHED
    if finished:
        errors = [*errors, *[errors[-1]] * (trial.config.training.epochs - len(errors))]
    history = [
        EpochReport(
            epoch=epoch,
            learning_rate=0.1,
            train=SplitMetrics(loss_sum=1.0, top1_errors=10 * error, count=1000),
            validation=SplitMetrics(loss_sum=1.0, top1_errors=error, count=100),
            train_final=SplitMetrics(loss_sum=1.0, top1_errors=10 * error, count=1000),
            test=SplitMetrics(loss_sum=1.0, top1_errors=error, count=100),
            seconds=1.0,
            images_per_second=1.0,
        )
        for epoch, error in enumerate(errors, start=1)
    ]
    trial_record.rewrite_epochs(folder, history)
    last = history[-1]
    result = TrialResult(
        key=trial.key,
        state=state,
        seed=trial.config.seed,
        epochs=len(errors),
        train=last.train,
        validation=last.validation,
        test=last.test if finished else None,
        train_final=last.train_final if finished else None,
        seconds=1.0,
        attempts=1,
        started_at="2026-01-01T00:00:00+00:00",
        finished_at="2026-01-01T00:00:01+00:00",
    )
    trial_record.write_result(folder, result)


def ended_further(plan: Plan, results: Path) -> dict[str, TrialState]:
    return done_states(results, [trial.key for trial in plan.further])


def further_left(plan: Plan, ended: dict[str, TrialState]) -> int:
    return WorkLeft(retuning_left(plan, OnRecord(done=ended))).left()


def there(epoch: int, budget: int = 12) -> list[int]:
    """Training errors that come to the digits' threshold of 10 % in that epoch."""
    return [50] * (epoch - 1) + [10] * (budget - epoch + 1)


def rate(trial: PlannedTrial) -> float:
    return trial.config.training.learning_rate


@given(st.integers(2, 40), st.floats(1e-6, 1.0), st.floats(1.5, 1e6))
@example(8, 1e-6, 364952.0)
def test_values_begin_with_the_recipes_own_and_cover_the_range_evenly(trials: int, low: float, factor: float) -> None:
    retune = Retune(low=low, high=low * factor, trials=trials)
    values = tuning_values(0.003, retune)
    assert values[0] == 0.003
    assert len(values) == trials
    first, *others = (math.log(value / low) / math.log(factor) for value in values)
    # 三位有效数字的舍入
    room = 0.006 / math.log(factor)
    assert all(-room <= share <= 1 + room for share in others)
    # 序列里与菜谱自己的值相同的那个不重复试
    shares = sorted([*others, *([first] if 0 <= first <= 1 else [])])
    gaps = [b - a for a, b in zip([0.0, *shares], [*shares, 1.0], strict=True)]
    assert max(gaps) <= 2.0 ** -math.floor(math.log2(trials)) + 2 * room
    longer = tuning_values(0.003, Retune(low=low, high=low * factor, trials=trials + 1))
    assert longer[:-1] == values


def test_every_arm_has_the_same_values_on_the_same_tuning_seeds_that_no_verdict_uses() -> None:
    plan = retuning_plan()
    tried = defaultdict(list)
    for trial in tuning_trials(plan):
        assert trial.phase == "tuning"
        assert trial.seed == trial.config.seed
        tried[trial.arm].append((trial.seed, rate(trial)))
    assert tried["baseline-tuning"] == tried["tanh-tuning"]
    assert [seed for seed, _ in tried["tanh-tuning"]] == [1000, 1001, 1002, 1003]
    assert not {trial.key for trial in plan.trials} & {trial.key for trial in tuning_trials(plan)}
    functions = {trial.arm: trial.config.network.layer("relu1").function for trial in tuning_trials(plan)}  # type: ignore[union-attr]
    assert functions == {"baseline-tuning": "relu", "tanh-tuning": "tanh"}
    # 同一批 trial 的两个 arm，调完也还是同一批
    shared = replace(plan, trials=(*plan.trials, *(replace(trial, arm="again") for trial in plan.trials)))
    assert further_left(shared, {}) == further_left(plan, {}) == len(plan.trials)


def test_activation_chooses_the_fewest_epochs_and_a_diverged_value_never(tmp_path: Path) -> None:
    plan = retuning_plan(epochs=12)
    by_arm = defaultdict(list)
    for trial in tuning_trials(plan):
        by_arm[trial.arm].append(trial)
    for trial, epoch in zip(by_arm["baseline-tuning"], (5, 3, 9, 4), strict=True):
        put(tmp_path, trial, there(epoch))
    put(tmp_path, by_arm["tanh-tuning"][0], [60] * 12)
    put(tmp_path, by_arm["tanh-tuning"][1], [60] * 11 + [20])
    put(tmp_path, by_arm["tanh-tuning"][2], there(2)[:6], TrialState.DIVERGED)
    assert chosen_values(tuning_outcomes(plan, tmp_path)) == {}
    assert all(trial.phase == "tuning" for trial in with_retuning(plan, tmp_path).further)
    put(tmp_path, by_arm["tanh-tuning"][3], [60] * 11 + [30])
    outcomes = tuning_outcomes(plan, tmp_path)
    chosen = chosen_values(outcomes)
    # 谁也没到门槛时，取最后误差最低的
    assert chosen == {
        "baseline": rate(by_arm["baseline-tuning"][1]),
        "tanh": rate(by_arm["tanh-tuning"][1]),
    }
    remarks = {(outcome.arm, outcome.seed): outcome.said for outcome in outcomes}
    assert remarks["baseline", 1001] == "3 epochs"
    assert remarks["tanh", 1002] == "diverged"
    assert remarks["tanh", 1001] == "> 12 epochs, 20.0 % at the end"
    known = with_retuning(plan, tmp_path)
    for trial in known.further:
        if trial.phase == "retuned":
            assert rate(trial) == chosen[trial.arm.removesuffix("-retuned")]
    ended = ended_further(known, tmp_path)
    assert further_left(known, ended) == len(further_missing(known, ended)) == 2 * SEEDS


def test_other_studies_choose_by_validation_error_and_an_arm_that_keeps_its_value_keeps_its_trials(
    tmp_path: Path,
) -> None:
    plan = retuning_plan("pooling", 3, "learning_rate")
    assert plan.retune is not None
    assert plan.retune.low == pytest.approx(plan.base.training.learning_rate / 10)
    for trial in tuning_trials(plan):
        best = trial.seed == (1000 if trial.arm == "baseline-tuning" else 1002)
        put(tmp_path, trial, [9, 3 if best else 4])
    known = with_retuning(plan, tmp_path)
    keys = {trial.key for trial in plan.trials}
    retuned = [trial for trial in known.further if trial.phase == "retuned"]
    assert all((trial.key in keys) == (trial.arm == "baseline-retuned") for trial in retuned)
    assert len(further_missing(known, ended_further(known, tmp_path))) == SEEDS * (len(plan.study.arms) - 1)


@pytest.mark.slow
@pytest.mark.parametrize("lost", ["tanh", "baseline"])
def test_an_arm_of_which_no_tuning_trial_finished_leaves_the_fixed_verdict(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, lost: str
) -> None:
    plan = retuning_plan(trials=2)
    for trial in plan.trials:
        put(tmp_path, trial, there(3 if trial.arm == "baseline" else 12))
    for trial in tuning_trials(plan):
        state = TrialState.DIVERGED if trial.arm.startswith(lost) else TrialState.FINISHED
        put(tmp_path, trial, there(4), state)
    known = with_retuning(plan, tmp_path)
    assert further_left(known, ended_further(known, tmp_path)) == 0
    command = ["--study", "activation", "--tuning-trials", "2", "--seeds", str(SEEDS), "--results", str(tmp_path)]
    assert main(command) == 0
    output = capsys.readouterr().out
    assert "then 0 trials with each arm's best; of some arm no tuning trial finished; 0 to train" in output
    remark = f"No tuning trial of {lost} finished (2 diverged), so that it has no best learning_rate: "
    assert remark in output
    folder = tmp_path / "studies" / "activation"
    answer = json.loads((folder / "answer.json").read_text())
    assert [arm["word"] for arm in answer["arms"]] == ["baseline", "supports"]
    assert answer["retuned"] is None
    report = (folder / "report.md").read_text()
    assert remark.replace("_", "\\_") in report
    assert "there is no verdict with each arm's best" in report
    assert check_report(folder, tmp_path).differences == []


def test_contrasts_are_not_retuned_where_one_of_their_arms_has_no_best_value(tmp_path: Path) -> None:
    study = load_study("lrn").model_copy(update={"compare": "previous"})
    plan = make_plan(study, SEEDS)
    plan = replace(plan, retune=retune_of(study, plan.base, "learning_rate", 2))
    for trial in tuning_trials(plan):
        put(tmp_path, trial, [9, 3], TrialState.DIVERGED if "as_run" in trial.arm else TrialState.FINISHED)
    # 答案不会用到的，也不去训练
    assert with_retuning(plan, tmp_path).further == tuning_trials(plan)
    (remark,) = without_best(plan, tuning_outcomes(plan, tmp_path))
    assert remark == (
        "No tuning trial of as_run finished (2 diverged), so that it has no best learning_rate: nothing is compared "
        "re-tuned, since the contrasts need every arm; --tuning-trials 0 leaves the re-tuning out."
    )


def test_the_other_arms_are_compared_retuned_where_one_has_no_best_value(tmp_path: Path) -> None:
    plan = retuning_plan("lrn", 2, "learning_rate")
    for trial in tuning_trials(plan):
        put(tmp_path, trial, [9, 3], TrialState.DIVERGED if "as_run" in trial.arm else TrialState.FINISHED)
    known = with_retuning(plan, tmp_path)
    retuned = [trial for trial in known.further if trial.phase == "retuned"]
    assert {trial.arm for trial in retuned} == {"baseline-retuned", "no_lrn-retuned"}
    for trial in (*plan.trials, *retuned):
        put(tmp_path, trial, [9, 3 + trial.seed % 2])
    folder = tmp_path / "studies" / "lrn"
    content = write_plan(folder, with_retuning(plan, tmp_path), ["ablate"])
    answer = judged_material(plan, content, folder, tmp_path, update_tables(tmp_path)).answer
    assert answer.retuned is not None
    assert [arm.name for arm in answer.retuned.arms] == ["baseline", "no_lrn"]
    assert "its re-tuned comparison is missing" in answer.notes[-1]


def test_what_cannot_be_tuned_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for study, field, words in (
        ("lrn", "flips", "no number above 0"),
        ("lrn", "colour", "no number above 0"),
        ("weight_decay", "weight_decay", "arm no_decay sets training.weight_decay itself"),
    ):
        code = main(["--study", study, "--retune", field, "--dry-run", "--results", str(tmp_path / "r")])
        assert code == 2
        assert words in capsys.readouterr().err


@pytest.mark.slow
def test_both_verdicts_come_from_the_records_alone_and_a_second_run_trains_nothing(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Fixed recipe: tanh is four times slower. With its own best value: not slower at all."""
    plan, command = retuning_plan(), ["--study", "activation", "--tuning-trials", "4", "--seeds", str(SEEDS)]
    results = ["--results", str(tmp_path)]
    main([*command, *results, "--dry-run"])
    output = capsys.readouterr().out
    assert output.startswith(f"{2 * SEEDS} trials wanted, 0 on record")
    assert f"2 arms x 4 tuning trials on seeds from 1000, then {2 * SEEDS} trials" in output
    assert f"{8 + 2 * SEEDS} to train at most" in output
    for trial in plan.trials:
        put(tmp_path, trial, there(3 if trial.arm == "baseline" else 12))
    for trial in tuning_trials(plan):
        put(tmp_path, trial, there(2 if trial.seed == 1002 else 4))
    known = with_retuning(plan, tmp_path)
    main([*command, *results, "--dry-run"])
    assert f"{2 * SEEDS} to train, time" in capsys.readouterr().out
    for trial in known.further:
        if trial.phase == "retuned":
            put(tmp_path, trial, there(3))
    assert main([*command, *results]) == 0
    output = capsys.readouterr().out
    assert "0 to train" in output
    folder = tmp_path / "studies" / "activation"
    answer = json.loads((folder / "answer.json").read_text())
    assert [arm["word"] for arm in answer["arms"]] == ["baseline", "supports"]
    assert [arm["word"] for arm in answer["retuned"]["arms"]] == ["baseline", f"identical in {SEEDS} seeds"]
    assert sum(trial["chosen"] for trial in answer["tuning"]) == 2
    assert {trial["seed"] for trial in answer["tuning"] if trial["chosen"]} == {1002}
    report = (folder / "report.md").read_text()
    assert "## Re-tuned" in report
    assert "×4.00" in report
    phases = {row["phase"] for row in trial_record.read_members(tmp_path, "activation")}
    assert phases == {"arm", "tuning", "retuned"}
    retuned = pl.read_parquet(folder / "tables" / "retuned.parquet")
    assert retuned["word"].to_list() == ["baseline", f"identical in {SEEDS} seeds"]
    assert pl.read_parquet(folder / "tables" / "tuning.parquet").filter(pl.col("chosen")).height == 2
    assert check_report(folder, tmp_path).differences == []
    # 再来一次：什么都不训练，判据不变，也没有多看一次
    looks = json.loads((folder / "plan.json").read_text())["looks"]
    assert main([*command, *results]) == 0
    assert "unchanged" in capsys.readouterr().out
    assert json.loads((folder / "plan.json").read_text())["looks"] == looks
    assert main([*command[:3], "0", *command[4:], *results]) == 0
    assert json.loads((folder / "answer.json").read_text())["retuned"] is None


@pytest.mark.slow
def test_the_baseline_against_itself_has_its_own_seeds_and_says_the_noise_floor(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    plan = retuning_plan("pooling", 0)
    wrong = [3, 5, 4, 6, 3, 5, 4, 4, 6, 5, 3, 5]
    baseline = [trial for trial in unfold(plan.study, plan.base, range(2 * SEEDS)) if trial.arm == "baseline"]
    for trial, errors in zip(baseline[:-1], wrong, strict=False):
        put(tmp_path, trial, [errors])
    command = ["--study", "pooling", "--seeds", str(SEEDS), "--null", "--results", str(tmp_path)]
    main([*command, "--dry-run"])
    assert capsys.readouterr().out.startswith(f"{2 * SEEDS} trials wanted, {2 * SEEDS - 1} on record, 1 to train")
    put(tmp_path, baseline[-1], [wrong[-1]])
    assert main(command) == 0
    output = capsys.readouterr().out
    assert "Noise floor" in output
    answer = json.loads((tmp_path / "studies" / "pooling-null" / "answer.json").read_text())
    first, other = answer["arms"]
    assert list(first["errors"].values()) == wrong[:SEEDS]
    assert list(other["errors"].values()) == wrong[SEEDS:]
    assert other["word"] in ("inconclusive", "equivalent")
    assert not (tmp_path / "studies" / "pooling").exists()
    assert check_report(tmp_path / "studies" / "pooling-null", tmp_path).differences == []


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--null", "--seeds", "600"], "takes seeds up to 1199, and those from 1000 on are for tuning; ask for 500"),
        (["--null", "--seeds", "501"], "ask for 500 at most"),
        (["--study", "activation", "--tuning-trials", "1500"], "--tuning-trials 1500: ask for 2 to 500 of each arm"),
        (["--study", "activation", "--tuning-trials", "501"], "ask for 2 to 500 of each arm, or 0"),
        (["--retune", "learning_rate", "--tuning-trials", "1"], "ask for 2 to 500 of each arm, or 0"),
    ],
)
def test_seeds_that_tune_and_seeds_that_judge_never_overlap(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, arguments: list[str], complaint: str
) -> None:
    assert main([*arguments, "--dry-run", "--results", str(tmp_path)]) == 2
    errors = capsys.readouterr().err
    assert complaint in errors
    assert len(errors.strip().splitlines()) == 1


@pytest.mark.parametrize("trials", [2, 3, 8, 500])
def test_no_value_is_tuned_twice(trials: int) -> None:
    # 自己的值正在范围中央，也是序列的第一项
    values = tuning_values(0.008, Retune(parameter="training.learning_rate", low=0.0008, high=0.08, trials=trials))
    assert values[0] == 0.008
    assert len({float(f"{value:.3g}") for value in values}) == len(values) == trials


CALLS_MAIN = """
import sys
from orchestrator.ablate import main
codes = [main(sys.argv[1:]), main(["--seeds", "none"]), main(sys.argv[1:])]
print("goes on", codes, "ray" in sys.modules)
"""


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_one_command_tunes_every_arm_trains_its_best_and_shows_both_verdicts_and_its_program_goes_on(lab: Lab) -> None:
    study = ("--study", "activation", "--epochs", "1", "--seeds", "2", "--tuning-trials", "2")
    command = (*study, "--slots", "1", "--no-dashboard", "--results", str(lab.results))
    process = lab.start_program(CALLS_MAIN, *command, PYTHONPATH=os.pathsep.join(sys.path))
    output, errors = process.communicate(timeout=400)
    assert process.returncode == 0, output + errors
    assert "goes on [0, 2, 0] False" in output, output + errors
    assert output.count("trials wanted") == 2, "once where it trained, once from the records"
    assert "activation, re-tuned" in output
    folder = lab.results / "studies" / "activation"
    answer = json.loads((folder / "answer.json").read_text())
    assert answer["seeds"] == answer["retuned"]["seeds"] == 2
    chosen = {trial["arm"]: trial for trial in answer["tuning"] if trial["chosen"]}
    assert set(chosen) == {"baseline", "tanh"}
    assert {trial["seed"] for trial in answer["tuning"]} == {1000, 1001}
    members = trial_record.read_members(lab.results, "activation")
    for row in members:
        trained = json.loads((lab.results / "trials" / row["key"] / "config.json").read_text())
        assert trained["seed"] == row["seed"]
        if row["phase"] == "retuned":
            assert trained["training"]["learning_rate"] == chosen[row["arm"].removesuffix("-retuned")]["value"]
    assert sorted(row["phase"] for row in members) == ["arm"] * 4 + ["retuned"] * 4 + ["tuning"] * 4
    assert "0 to train" in output
    assert "unchanged" in output
    assert lab.finished() == {row["key"] for row in members}
    attempts = [path.read_text().count("\n") for path in lab.results.glob("trials/*/attempts.jsonl")]
    assert attempts == [1] * len(lab.finished())


class Slots:
    """Trains nothing: takes each trial from the real searcher and tells the real recorder how it ended.

    Tanh is at the threshold in 4 epochs at a rate of 0.003 and more, ReLU below that; both in 11 elsewhere.
    """

    def __init__(self, plan: Plan, results: Path) -> None:
        self.recording = make_recording(plan, results, keep_weights="none")
        self.opener, self.tally = self.recording.opener, self.recording.tally
        self.trained: list[str] = []

    def _say(self, job: dict[str, Any], news: TrialNews) -> None:
        self.recording.hear(job["key"], news, job["attempt"])

    closed = False
    skipped = ()

    def may_start(self, trials: Sequence[PlannedTrial]) -> bool:
        return True

    def launch(self, trial: PlannedTrial, ask: None) -> dict[str, Any]:
        return asdict(self.opener.open(trial, ask))

    def run_arms(self, name: str, trials: Sequence[PlannedTrial]) -> None:
        if not trials:
            return
        searcher, number = ArmSearcher(name, trials, self), 0  # type: ignore[arg-type]
        while (job := searcher.suggest(str(number))) != searcher.FINISHED:
            config = TrainConfig.model_validate_json(job["config"])
            tanh = config.network.layer("relu1").function == "tanh"  # type: ignore[union-attr]
            fast = (config.training.learning_rate >= 0.003) == tanh
            self._say(job, Started())
            for epoch, error in enumerate(there(4 if fast else 11, config.training.epochs), start=1):
                # 与 put 的记录同样多的图：不一样的会被认出来、不算数
                many = SplitMetrics(loss_sum=1.0, top1_errors=10 * error, count=1000)
                few = SplitMetrics(loss_sum=1.0, top1_errors=error, count=100)
                splits = {"train": many, "validation": few, "test": few, "train_final": many}
                report = EpochReport(epoch=epoch, learning_rate=0.1, seconds=1.0, images_per_second=1.0, **splits)
                self._say(job, epoch_news(report))
            self._say(job, End("finished"))
            self.trained.append(job["key"])
            searcher.on_trial_complete(str(number), {"state": "finished", "objective": 0.1})
            number += 1


def test_both_phases_train_what_is_missing_once_and_an_interrupted_run_goes_on(tmp_path: Path) -> None:
    plan = retuning_plan()
    store = Store(tmp_path)
    for trial in tuning_trials(plan)[:3]:
        put(tmp_path, trial, there(9))
    slots = Slots(plan, tmp_path)
    run_retuning(slots, plan, "activation", store, {})  # type: ignore[arg-type]
    known = with_retuning(plan, tmp_path)
    assert further_missing(known, ended_further(known, tmp_path)) == ()
    assert len(slots.trained) == len(set(slots.trained)) == len({trial.key for trial in known.further}) - 3
    chosen = chosen_values(tuning_outcomes(plan, tmp_path))
    assert chosen["tanh"] >= 0.003 > chosen["baseline"]
    members = trial_record.read_members(tmp_path, "activation")
    assert {(row["arm"], row["seed"], row["key"]) for row in members} == {
        (trial.arm, trial.seed, trial.key) for trial in known.further
    }
    again = Slots(known, tmp_path)
    run_retuning(again, known, "activation", store, {})  # type: ignore[arg-type]
    assert again.trained == []
    assert trial_record.read_members(tmp_path, "activation") == members


def test_the_seeds_of_a_re_tuning_draw_what_the_arms_seeds_draw() -> None:
    plan = retuning_plan("lrn", trials=3, parameter="learning_rate")
    recipe = plan.recipe.model_copy(update={"vary": ("split",)})
    study = plan.study.model_copy(update={"recipes": {plan.dataset: recipe}})
    plan = replace(plan, study=study, recipe=recipe, trials=unfold(study, plan.base, plan.seeds))
    rate = plan.base.training.learning_rate  # type: ignore[union-attr]
    again = retuned_trials(plan, {arm.name: rate for arm in study.arms})
    for trial in (*tuning_trials(plan), *again):
        assert trial.config.data.resplit == trial.seed  # type: ignore[union-attr]
    # 最佳值就是配方自己的值时，没有要重训的
    assert [trial.key for trial in again] == [trial.key for trial in plan.trials]
