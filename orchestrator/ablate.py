"""`python -m orchestrator.ablate --study lrn`: plans a study, trains what is missing, and answers.

Ray, torch and matplotlib are loaded only when something must be trained or drawn.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from rich.console import Console

from alexnet_core.process.files import abandoned
from orchestrator.choices import DEFAULT_DATASET, PAPER
from orchestrator.command import check_can_hold_results, framed, make_console, run_beside
from orchestrator.errors import ExitCode, LabError
from orchestrator.judging.looks import without_closed
from orchestrator.judging.outlook import resolution_outlook
from orchestrator.options import parser, request_of
from orchestrator.planning.estimate import configs_to_train, estimate, measured_epochs
from orchestrator.planning.plan import Plan, refreshed
from orchestrator.planning.plan_file import check_rule, write_plan, write_studies
from orchestrator.planning.retuning import retuning_configs, retuning_left, with_retuning
from orchestrator.planning.summary import (
    arm_lines,
    complete_seeds,
    cost_line,
    large_batches,
    missing_said,
    plan_line,
    readable_seconds,
    retuning_line,
    time_said,
)
from orchestrator.planning.unfolding import plan_study
from orchestrator.planning.variants import combined_plan, null_plan
from orchestrator.records import trial_record
from orchestrator.records.evaluations import evaluations_on_record
from orchestrator.records.layout import study_folder
from orchestrator.records.retention import keep_weights_of, tidy_ended
from orchestrator.records.trial_record import TrialState
from orchestrator.records.upgrades import upgrade_results
from orchestrator.reporting.claims import summary_table, write_claims
from orchestrator.reporting.conclude import conclude
from orchestrator.request import Request, Store
from orchestrator.running.cluster import lifecycle, preflight
from orchestrator.running.notification import Notifier
from orchestrator.running.placement import likely_place
from orchestrator.running.session import prepare_images, run_missing
from orchestrator.sweeps.planned_sweep import PlannedSweep, search_of
from orchestrator.sweeps.search import OPTUNA_VIEW
from orchestrator.tables.ranking import exported_if_best
from orchestrator.tables.tables import done_states, load_trials
from search_spaces.errors import StudyError
from search_spaces.study import load_study, study_names
from search_spaces.yaml_file import placed


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code. After Ray was used `python -m` ends here, with all that Ray started."""
    started, notifier = time.monotonic(), Notifier()
    again = "; finished trials are on record, go on with the same command"
    code = framed(partial(_main, arguments, started, notifier), notifier.send, again)
    if lifecycle.was_started():
        lifecycle.leave(code)
    return code


def _main(arguments: Sequence[str] | None, started: float, notifier: Notifier) -> int:
    options = parser().parse_args(arguments)
    if not _only_says(options):
        facts = {"study": options.study, "dataset": options.dataset, "results": str(options.results.resolve())}
        notifier.tell(options.notify, facts)
    console = make_console(goes_on=not _only_says(options))
    try:
        return _list(console) if options.list else _ablate(request_of(options), console, started, notifier)
    except lifecycle.CallersProcess:
        # 别人的进程里不起 Ray：它的信号、子进程和退出都归调用者
        notifier.tell(None, {})
        return run_beside("orchestrator.ablate", sys.argv[1:] if arguments is None else arguments)


def _only_says(options: argparse.Namespace) -> bool:
    return options.list or options.dry_run or options.show is not None


def _list(console: Console) -> int:
    for name in study_names():
        study = load_study(name)
        console.print(f"{name}: {study.question}", markup=False, soft_wrap=True)
        console.print(
            f"    {len(study.arms)} arms; data sets: {', '.join(study.recipes)}", markup=False, soft_wrap=True
        )
    return ExitCode.DONE


def _ablate(request: Request, console: Console, started: float, notifier: Notifier) -> int:
    store, sweep = request.store, request.sweep
    check_can_hold_results(store.results)
    if store.results.is_dir():
        upgrade_results(store.results)
    if request.question.is_paper:
        return _ablate_paper(request, console, started, notifier)
    plan = _own_plan(request)
    if request.question.null:
        plan = null_plan(plan, store.results, store.retry_failed)
    study = plan.study
    if request.show is not None:
        return _show(plan, request.show)
    folder = study_folder(store.results, study.name, plan.dataset, DEFAULT_DATASET)
    check_rule(folder, plan)
    whole = plan
    if plan.max_seeds is not None and store.results.is_dir():
        plan = without_closed(plan, store.results)
    search = search_of(plan, folder.name, sweep)
    if search is not None:
        # 有限的空间装不下更多的点
        plan = replace(plan, sweep_points=search.size())
    swept = PlannedSweep(plan, search, folder, sweep, store)
    sweep_left, confirm_left = swept.points_left, swept.confirmation_left
    trains = bool(plan.to_run or sweep_left or confirm_left or retuning_left(plan))
    if trains and not request.dry_run:
        lifecycle.check_process_is_ours()
    place = likely_place(request.placement)
    measured = measured_epochs(store.results, place.gpus > 0)
    cost = estimate(configs_to_train(plan, sweep_left + confirm_left), measured, place)
    _say(console, plan_line(plan, time_said(cost), resolution_outlook(plan, folder), sweep_left))
    if plan.retune is not None:
        tuning_cost = estimate(retuning_configs(plan), measured, place)
        _say(console, f"{retuning_line(plan)}, time {time_said(tuning_cost)}")
    _say(console, *large_batches(plan))
    if sweep.confirm:
        most = "at most " if sweep_left and confirm_left else ""
        _say(console, f"confirmation on fresh seeds: {most}{confirm_left} trials to train")
    if request.dry_run:
        whole_cost = estimate(
            [*configs_to_train(plan, sweep_left + confirm_left), *retuning_configs(plan)], measured, place
        )
        _say(console, *arm_lines(plan, {}), cost_line(whole_cost))
        return ExitCode.DONE
    preflight.check_results(store.results)
    content = write_plan(folder, whole if plan.max_seeds is not None else plan, sys.argv)
    states = dict(plan.done)
    if trains:
        prepare_images(plan, console)
        ended = run_missing(plan, [plan], folder, swept, sweep_left + confirm_left, request, console, started, notifier)
        if ended is None:
            return ExitCode.INTERRUPTED
        plan, states, refused, swept = ended.plan, ended.states, ended.refused, ended.sweep or swept
        if plan.max_seeds is None:
            plan = with_retuning(plan, store.results, store.retry_failed)
            content = write_plan(folder, plan, sys.argv, content)
        else:
            plan = without_closed(refreshed(plan, states), store.results)
        chosen = swept.left_out(states) if refused else (0, 0)
        if refused and _stopped_by_budget(plan, states, request, console, retuning_left(plan), *chosen):
            return ExitCode.SOME_FAILED if _failed(plan, states, swept.states()) else ExitCode.DONE
    else:
        trial_record.join_members(store.results, folder.name, plan.dataset, (*plan.trials, *plan.further))
    tidy_ended(store.results, states)
    _keep_best(plan, states, store)
    judged = conclude(plan, store.results, folder, content, console)
    notifier.add(
        trials=Counter(states[key].value for key in {trial.key for trial in plan.trials} & states.keys()),
        verdicts={arm.name: arm.word for arm in judged.arms if not arm.is_baseline},
        report=str((folder / "report.html").resolve()),
    )
    if trains or request.optuna_view or abandoned(folder / OPTUNA_VIEW):
        _say(console, f"for Optuna's own tools: {_write_optuna_view(swept)}")
    console.print(f"done in {readable_seconds(time.monotonic() - started)}", highlight=False)
    return _exit_code(plan, states, store.results, swept.states())


def _keep_best(plan: Plan, states: Mapping[str, TrialState], store: Store) -> None:
    """Deletes, where that is asked, the final weights that no export would take and no evaluation still needs."""
    if store.keep_weights != "best":
        return
    kept = exported_if_best(*load_trials(store.results))
    now = replace(refreshed(plan, states), evaluated=evaluations_on_record(store.results, plan.trials))
    kept |= {trial.key for trial in now.to_evaluate}
    keep_weights_of(store.results, kept, {trial.key for trial in plan.trials})


def _write_optuna_view(swept: PlannedSweep) -> Path:
    # Optuna 要一秒多：没有训练过就只在被要求时加载
    from orchestrator.sweeps.optuna_view import write_view

    return write_view(swept.folder, swept.store.results, swept.plan, swept.search, swept.history)


def _own_plan(request: Request) -> Plan:
    """The plan of one study; a mistake of its arms is placed in its file, where it has one."""
    question, sweep = request.question, request.sweep
    study = load_study(question.study)
    try:
        plan = plan_study(study, question, sweep, request.store)
        if study.sweep is not None and Path(question.study).is_file():
            # 自己的文件里，扫描的字段也要现在就查，不等到真要扫描时
            search_of(replace(plan, sweep_points=1), study.name, sweep)
        return plan
    except StudyError as error:
        where = error.location or (() if sweep.over else ("sweep", "parameters"))
        raise placed(StudyError(str(error), where), Path(question.study)) from error


def _ablate_paper(request: Request, console: Console, started: float, notifier: Notifier) -> int:
    """Asks every study in one Ray session; each is planned, answered and reported as it would be alone."""
    store, dataset = request.store, request.question.dataset
    studies = [load_study(name) for name in study_names()]
    skipped = {study.name: study.not_asked[dataset] for study in studies if dataset in study.not_asked}
    plans: list[Plan] = []
    for study in studies:
        if dataset in study.recipes:
            # 同样的数据只清点、只算一次哈希
            source = study.recipes[dataset].data.source
            known = next((plan.summary for plan in plans if plan.recipe.data.source == source), None)
            plans.append(plan_study(study, request.question, request.sweep, store, known))
    if not plans:
        raise LabError(f"no study is asked on {dataset!r}", exit_code=2)
    folders = [study_folder(store.results, plan.study.name, plan.dataset, DEFAULT_DATASET) for plan in plans]
    for plan, folder in zip(plans, folders, strict=True):
        check_rule(folder, plan)
    whole = combined_plan(plans, plans[0].recipe)
    trains = bool(whole.to_run or any(retuning_left(plan) for plan in plans))
    if trains and not request.dry_run:
        lifecycle.check_process_is_ours()
    place = likely_place(request.placement)
    measured = measured_epochs(store.results, place.gpus > 0)
    for plan, folder in zip(plans, folders, strict=True):
        cost = estimate(configs_to_train(plan), measured, place)
        _say(console, f"{plan.study.name}: {plan_line(plan, time_said(cost), resolution_outlook(plan, folder), 0)}")
        if plan.retune is not None:
            tuning_cost = estimate(retuning_configs(plan), measured, place)
            _say(console, f"{plan.study.name}: {retuning_line(plan)}, time {time_said(tuning_cost)}")
        if request.dry_run:
            others = {other.study.name: other for other in plans if other is not plan}
            cost = estimate([*configs_to_train(plan), *retuning_configs(plan)], measured, place)
            _say(console, *arm_lines(plan, others), f"    {cost_line(cost)}")
    for name, reason in skipped.items():
        console.print(f"{name}: not asked on {dataset}: {reason}", markup=False, soft_wrap=True)
    tuning = [config for plan in plans for config in retuning_configs(plan)]
    cost = estimate([*configs_to_train(whole), *tuning], measured, place)
    more = f", and {len(tuning)} of re-tunings at most" if tuning else ""
    _say(console, f"together: {plan_line(whole, time_said(cost), f'shared trials once{more}', 0)}")
    if request.dry_run:
        _say(console, f"    {cost_line(cost)}")
        return ExitCode.DONE
    preflight.check_results(store.results)
    contents = [write_plan(folder, plan, sys.argv) for plan, folder in zip(plans, folders, strict=True)]
    paper_folder = study_folder(store.results, PAPER, whole.dataset, DEFAULT_DATASET)
    write_studies(paper_folder, whole.dataset, [folder.name for folder in folders])
    states = dict(whole.done)
    if trains:
        prepare_images(whole, console)
        ended = run_missing(whole, plans, paper_folder, None, 0, request, console, started, notifier)
        if ended is None:
            return ExitCode.INTERRUPTED
        states, refused = ended.states, ended.refused
        tuning_left = sum(retuning_left(with_retuning(p, store.results, store.retry_failed)) for p in plans)
        if refused and _stopped_by_budget(whole, states, request, console, tuning_left):
            return ExitCode.SOME_FAILED if _failed(whole, states, {}) else ExitCode.DONE
    tidy_ended(store.results, states)
    answers, tuned = [], dict[str, TrialState]()
    for planned, folder, written in zip(plans, folders, contents, strict=True):
        plan, content = planned, written
        if planned.retune is not None:
            plan = with_retuning(planned, store.results, store.retry_failed)
            content = write_plan(folder, plan, sys.argv, written)
            tuned |= done_states(store.results, [trial.key for trial in plan.further])
        trial_record.join_members(store.results, folder.name, plan.dataset, (*plan.trials, *plan.further))
        answers.append(conclude(refreshed(plan, states), store.results, folder, content, console))
    _keep_best(whole, states, store)
    notifier.add(
        trials=Counter(state.value for state in states.values()),
        verdicts={f"{one.study}/{arm.name}": arm.word for one in answers for arm in one.arms if not arm.is_baseline},
        report=str((paper_folder / "report.html").resolve()),
    )
    console.print(summary_table(answers))
    write_claims(paper_folder, answers, {dataset: skipped})
    took = readable_seconds(time.monotonic() - started)
    console.print(f"all claims: {paper_folder / 'report.html'}; done in {took}", highlight=False, soft_wrap=True)
    return _exit_code(whole, states, store.results, tuned)


def _say(console: Console, *lines: str) -> None:
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _stopped_by_budget(
    plan: Plan,
    states: Mapping[str, TrialState],
    request: Request,
    console: Console,
    tuning: int,
    points: int = 0,
    confirming: int = 0,
) -> bool:
    """Names what a budget left out, and says whether nothing is judged, since every look costs level.

    Args:
        plan: The plan as it was run.
        states: Of the trials that have ended.
        request: What the command asks.
        console: Where to print.
        tuning: Trials of the re-tuning that are missing.
        points: Points of the sweep.
        confirming: Trials that confirm points of the sweep.
    """
    left = replace(refreshed(plan, states), evaluated=evaluations_on_record(request.store.results, plan.trials))
    counts = {"re-tuning": tuning, "confirmation": confirming}
    missing = [missing_said(left)] if left.missing else []
    missing += [f"{points} points of the sweep"] if points else []
    missing += [f"{count} trials of the {what}" for what, count in counts.items() if count]
    missing += ["the confirmation of its best"] if points and request.sweep.confirm else []
    if not missing:
        return False
    seeds = complete_seeds(left)
    _say(
        console,
        f"stopped at the budget: {seeds} of {len(plan.seeds)} seeds are complete; missing: {'; '.join(missing)}.",
    )
    if not left.missing and not confirming:
        return False
    shorter = left.missing and seeds and plan.max_seeds is None
    judge = f"judge what is complete with --seeds {seeds}, or " if shorter else ""
    _say(console, f"No verdict yet, since every look at a study costs level: {judge}go on with the same command.")
    return True


def _failed(plan: Plan, states: Mapping[str, TrialState], chosen: Mapping[str, TrialState]) -> bool:
    """Whether a trial failed: of the arms, of the re-tuning, or chosen by a sampler."""
    planned = (states.get(trial.key) for trial in (*plan.trials, *plan.further))
    return TrialState.FAILED in (*planned, *chosen.values())


def _exit_code(plan: Plan, states: Mapping[str, TrialState], results: Path, chosen: Mapping[str, TrialState]) -> int:
    """Whether a trial failed, or a finished one could not be evaluated as an arm asks."""
    now = replace(refreshed(plan, states), evaluated=evaluations_on_record(results, plan.trials))
    return ExitCode.SOME_FAILED if _failed(plan, states, chosen) or now.to_evaluate else ExitCode.DONE


def _show(plan: Plan, which: str) -> int:
    arm, _, seed = which.partition(":")
    wanted_arm, wanted_seed = arm or plan.study.baseline, seed or "0"
    for trial in plan.trials:
        if trial.arm == wanted_arm and str(trial.seed) == wanted_seed:
            print(trial.config.model_dump_json(indent=2), flush=True)
            return ExitCode.DONE
    arms = ", ".join(arm.name for arm in plan.study.arms)
    raise LabError(f"--show {which}: no such trial; arms: {arms}; seeds: 0 to {len(plan.seeds) - 1}", exit_code=2)


if __name__ == "__main__":
    sys.exit(main())
