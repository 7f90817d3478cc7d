"""`python -m orchestrator.ablate --study lrn`: plans a study, trains what is missing, and answers.

Ray, torch and matplotlib are loaded only when something must be trained or drawn.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

from rich.console import Console

from alexnet_core.process.files import abandoned
from orchestrator.command import check_can_hold_results, framed, make_console, run_beside
from orchestrator.errors import ExitCode
from orchestrator.judging.answer import Answer
from orchestrator.options import parser, request_of
from orchestrator.planning.plan_file import PlanFile, write_plan, write_studies
from orchestrator.planning.summary import readable_seconds, shown_config
from orchestrator.records import trial_record
from orchestrator.records.retention import keep_weights_of, tidy_ended
from orchestrator.records.trial_record import TrialState
from orchestrator.records.upgrades import check_schema, upgrade_results
from orchestrator.reporting.claims import summary_table, write_claims
from orchestrator.reporting.conclude import conclude
from orchestrator.request import Request, Store
from orchestrator.running.agenda import Agenda, after_run, agenda_lines, make_agenda, plan_studies
from orchestrator.running.budget import LeftOut
from orchestrator.running.cluster import lifecycle, preflight
from orchestrator.running.notification import Notifier
from orchestrator.running.session import prepare_images, run_missing
from orchestrator.sweeps.search import OPTUNA_VIEW
from orchestrator.tables.ranking import exported_if_best
from orchestrator.tables.tables import done_states, load_trials
from search_spaces.study import load_study, study_names


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
        return _list(console) if options.list else ask(request_of(options), console, started, notifier)
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


def ask(request: Request, console: Console, started: float, notifier: Notifier) -> int:
    """Asks one study, or all in one Ray session: each is planned, trained and answered as it would be alone.

    Args:
        request: What is asked.
        console: Where to print.
        started: `time.monotonic()` at the command's start.
        notifier: Told what comes of it.

    Returns:
        The exit code.
    """
    store = request.store
    check_can_hold_results(store.results)
    if request.dry_run or request.show is not None:
        # 只看不训的命令什么也不写
        check_schema(store.results)
    elif store.results.is_dir():
        upgrade_results(store.results)
    # 计划：先说清要哪些 trial、多久、能判断什么，再动手
    plans = plan_studies(request)
    if request.show is not None:
        print(shown_config(plans[0], request.show), flush=True)
        return ExitCode.DONE
    agenda = make_agenda(plans, request)
    trains = agenda.work.left() > 0
    if trains and not request.dry_run:
        lifecycle.check_process_is_ours()
    _say(console, agenda_lines(agenda, request))
    if request.dry_run:
        return ExitCode.DONE
    # 问题在看到任何结果之前写下，之后不能再改
    preflight.check_results(store.results)
    contents = _write_plans(agenda)
    if trains:
        # 运行：只训练记录里没有的
        prepare_images(agenda.plan, console)
        ran = run_missing(agenda, request, console, started, notifier)
        if ran is None:
            return ExitCode.INTERRUPTED
        agenda = after_run(agenda, ran, store)
        contents = _complete_plans(agenda, contents)
        if ran.refused and _is_cut_short(agenda, request, console):
            return ExitCode.SOME_FAILED if _has_failed(agenda, request) else ExitCode.DONE
    # 记录：判断只读记录，所以先整理好
    _tidy_records(agenda, store)
    # 回答：每个研究各自判断，与单独问时一样
    answers = [
        conclude(study.plan, store.results, study.folder, content, console)
        for study, content in zip(agenda.studies, contents, strict=True)
    ]
    notifier.add(**_summary(agenda, answers))
    # 导出：报告之外，再写别的工具要读的
    _export(agenda, answers, request, console, trains=trains)
    took = readable_seconds(time.monotonic() - started)
    where = f"all claims: {agenda.folder / 'report.html'}; " if agenda.together else ""
    _say(console, [f"{where}done in {took}"])
    return _exit_code(agenda, request)


def _write_plans(agenda: Agenda) -> list[PlanFile]:
    """Writes down every study's plan; returns the contents."""
    if agenda.together:
        write_studies(agenda.folder, agenda.plan.dataset, [study.folder.name for study in agenda.studies])
    return [write_plan(study.folder, study.complete, sys.argv) for study in agenda.studies]


def _complete_plans(agenda: Agenda, contents: Sequence[PlanFile]) -> list[PlanFile]:
    """Writes down what a run has added to the plans; with `--seeds auto` the maximum was planned ahead."""
    return [
        write_plan(study.folder, study.plan, sys.argv, content) if study.plan.max_seeds is None else content
        for study, content in zip(agenda.studies, contents, strict=True)
    ]


def _is_cut_short(agenda: Agenda, request: Request, console: Console) -> bool:
    """Names what a budget left out, and says whether nothing is judged because of it."""
    # 合问的研究都不扫描
    points, confirming = agenda.studies[0].sweep.left_out(agenda.on_record.done)
    left_out = LeftOut(
        plan=agenda.plan,
        on_record=agenda.on_record,
        tuning=sum(study.work.left("tuning", "retuned") for study in agenda.studies),
        points=points,
        confirming=confirming,
        confirms=bool(request.sweep.confirm),
    )
    if left_out.anything:
        _say(console, left_out.lines())
    return left_out.keeps_from_judging


def _tidy_records(agenda: Agenda, store: Store) -> None:
    """Completes the memberships, and deletes the checkpoints and weights that nobody needs any more."""
    for study in agenda.studies:
        planned, done = (*study.plan.trials, *study.plan.further), study.on_record.done
        members = [trial for trial in planned if trial.key in done]
        trial_record.join_members(store.results, study.folder.name, study.plan.dataset, members)
    tidy_ended(store.results, agenda.on_record.done)
    if store.keep_weights == "best":
        kept = exported_if_best(*load_trials(store.results))
        kept |= {trial.key for trial in agenda.on_record.to_evaluate(agenda.plan.trials)}
        keep_weights_of(store.results, kept, {trial.key for trial in agenda.plan.trials})


def _summary(agenda: Agenda, answers: Sequence[Answer]) -> dict[str, Any]:
    """What `--notify` is told of the end."""
    states = agenda.on_record.done
    keys = {trial.key for trial in agenda.plan.trials} & states.keys()
    verdicts = {
        f"{answer.study}/{arm.name}" if agenda.together else arm.name: arm.word
        for answer in answers
        for arm in answer.arms
        if not arm.is_baseline
    }
    report = str((agenda.folder / "report.html").resolve())
    return {"trials": Counter(states[key].value for key in keys), "verdicts": verdicts, "report": report}


def _export(agenda: Agenda, answers: Sequence[Answer], request: Request, console: Console, *, trains: bool) -> None:
    """Writes the page of all claims, or the study as an Optuna storage."""
    if agenda.together:
        console.print(summary_table(answers))
        write_claims(agenda.folder, answers, {request.question.dataset: dict(agenda.not_asked)})
    elif trains or request.optuna_view or abandoned(agenda.folder / OPTUNA_VIEW):
        # Optuna 要一秒多：没有训练过就只在被要求时加载
        from orchestrator.sweeps.optuna_view import write_view

        sweep = agenda.studies[0].sweep
        path = write_view(sweep.folder, sweep.store.results, sweep.plan, sweep.search, sweep.history)
        _say(console, [f"for Optuna's own tools: {path}"])


def _has_failed(agenda: Agenda, request: Request) -> bool:
    """Whether a trial failed: of the arms, of a re-tuning, or chosen by a sampler."""
    states = [agenda.on_record.done.get(trial.key) for trial in agenda.plan.trials]
    if further := {trial.key for study in agenda.studies for trial in study.plan.further}:
        states += done_states(request.store.results, further).values()
    for study in agenda.studies:
        if study.sweep.search is not None:
            states += study.sweep.states().values()
    return TrialState.FAILED in states


def _exit_code(agenda: Agenda, request: Request) -> int:
    """Whether a trial failed, or a finished one could not be evaluated as an arm asks."""
    unevaluated = agenda.on_record.to_evaluate(agenda.plan.trials)
    return ExitCode.SOME_FAILED if unevaluated or _has_failed(agenda, request) else ExitCode.DONE


def _say(console: Console, lines: Iterable[str]) -> None:
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
