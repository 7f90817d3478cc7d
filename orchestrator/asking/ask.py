"""Asking a study: it is planned, what is missing is trained, and the answer is judged from the records.

Ray, torch and matplotlib are loaded only when something must be trained or drawn.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from rich.console import Console

from alexnet_core.configuration.wording import counted
from alexnet_core.process.files import abandoned
from orchestrator.asking.answers import AnswersDocument, StudyAnswer, study_answer
from orchestrator.asking.next_step import next_step
from orchestrator.asking.pictures import draw_pictures
from orchestrator.asking.plans import plans_document, trial_document
from orchestrator.command import check_can_hold_results
from orchestrator.errors import ExitCode
from orchestrator.judging.answer import Answer
from orchestrator.judging.images.seen import SeenImages
from orchestrator.output.document import Document
from orchestrator.output.fitting import fitting, print_text
from orchestrator.planning.estimate import Price
from orchestrator.planning.plan_file import PlanFile, latest_plan, write_plan, write_studies
from orchestrator.planning.summary import complete_seeds, readable_seconds, shown_trial
from orchestrator.records import trial_record
from orchestrator.records.retention import keep_weights_of, tidy_ended
from orchestrator.records.trial_record import TrialState
from orchestrator.records.upgrades import check_schema, upgrade_results
from orchestrator.replication.answer import Replication
from orchestrator.replication.before import before_asking
from orchestrator.replication.conclude import judge_parts, print_replication
from orchestrator.replication.judge import Part
from orchestrator.replication.page import write_page
from orchestrator.reporting.claims import summary_table, write_claims
from orchestrator.reporting.conclude import conclude
from orchestrator.reporting.files import PAGE
from orchestrator.request import Request, Store
from orchestrator.running.agenda import (
    Agenda,
    PlannedStudy,
    after_run,
    agenda_lines,
    make_agenda,
    plan_studies,
    price_of,
)
from orchestrator.running.budget import LeftOut
from orchestrator.running.cluster import lifecycle, preflight
from orchestrator.running.notification import Notifier
from orchestrator.running.session import prepare_images, run_missing
from orchestrator.sweeps.search import OPTUNA_VIEW
from orchestrator.tables.ranking import exported_if_best
from orchestrator.tables.tables import done_states, load_trials, say_left_out

CLOSED_TERMINAL = (
    "closing this terminal ends the study, and the same command goes on with it; with --detach (or in tmux) it stays, "
    "and python -m orchestrator.status --follow shows it"
)


def ask(request: Request, console: Console, started: float, notifier: Notifier) -> Document:
    """Asks one study, or all in one Ray session: each is planned, trained and answered as it would be alone.

    Args:
        request: What is asked.
        console: Where to print.
        started: `time.monotonic()` at the command's start.
        notifier: Told what comes of it.

    Returns:
        The answers; with `dry_run` the plans, with `show` a trial.

    Raises:
        lifecycle.CallersProcess: Something must be trained, and this process is a program's or a notebook's.
    """
    store = request.store
    check_can_hold_results(store.results)
    if request.dry_run or request.show is not None:
        # 只看不训的命令什么也不写
        check_schema(store.results)
    elif store.results.is_dir():
        upgrade_results(store.results)
    # 计划：先说清要哪些 trial、多久、能判断什么，再动手
    with _planning(console):
        plans = plan_studies(request)
    if request.show is not None:
        trial = shown_trial(plans[0], request.show)
        print(trial.config.model_dump_json(indent=2), flush=True)
        return trial_document(plans[0].study.name, trial)
    agenda = make_agenda(plans, request)
    trains = agenda.work.left() > 0
    if trains and not request.dry_run:
        lifecycle.check_process_is_ours()
    price = price_of(agenda, request)
    say_left_out(store.results, besides=agenda.on_record.odd)
    _say(console, agenda_lines(agenda, request, price))
    if request.dry_run:
        return plans_document(agenda, price)
    return _answered(agenda, request, console, started, notifier)


def _planning(console: Console) -> AbstractContextManager[object]:
    """Shows on a terminal that the command is alive."""
    # 导入用户的 core、给图片算哈希可能要十几秒
    waits = "planning: reading the study, its data and its code"
    # 笔记本的内核里有 FORCE_COLOR，却不是终端
    return console.status(waits) if console.is_terminal and console.file.isatty() else nullcontext()


def _answered(agenda: Agenda, request: Request, console: Console, started: float, notifier: Notifier) -> Document:
    """Trains what is missing, and answers."""
    store, trains = request.store, agenda.work.left() > 0
    # 问题在看到任何结果之前写下，之后不能再改
    preflight.check_results(store.results)
    contents = _write_plans(agenda, request)
    left_out: tuple[str, ...] = ()
    if trains and console.is_terminal:
        print_text(console, CLOSED_TERMINAL, style="dim")
    if trains:
        # 运行：只训练记录里没有的
        for plan in [study.plan for study in agenda.studies] if agenda.replicates else [agenda.plan]:
            prepare_images(plan, console)
        ran = run_missing(agenda, request, console, started, notifier)
        if ran is None:
            return Document(exit_code=ExitCode.INTERRUPTED)
        agenda = after_run(agenda, ran, store)
        contents = _complete_plans(agenda, request, contents, ran.skipped)
        lacks = _left_out(agenda, request) if ran.refused else None
        if lacks is not None and lacks.anything:
            left_out = tuple(lacks.lines())
            _say(console, left_out)
            if lacks.keeps_from_judging:
                failed = any(_has_failed(study, store) for study in agenda.studies)
                return AnswersDocument(answers=(), left_out=left_out, exit_code=_code(failed))
    # 记录：判断只读记录，所以先整理好
    _tidy_records(agenda, store)
    if request.sweep.only and (waits := _arms_wait(agenda.studies[0], contents[0])):
        _say(console, [waits])
        # 没有写报告，也就不说报告在哪里
        notifier.add(trials=_ended(agenda))
        _export(agenda, (), request, console, trains=trains)
        code = _code(_has_failed(agenda.studies[0], store))
        return AnswersDocument(answers=(), left_out=left_out, exit_code=code)
    # 回答：每个研究各自判断，与单独问时一样
    price, images = cache(partial(price_of, agenda, request)), SeenImages(store.results)
    answers = tuple(
        _answer(study, content, store, console, price, images, trains=trains, together=agenda.together)
        for study, content in zip(agenda.studies, contents, strict=True)
    )
    notifier.add(**_summary(agenda, answers))
    # 导出：报告之外，再写别的工具要读的
    replication = _replication(agenda, contents, answers, store, console) if agenda.replicates else None
    page = _export(agenda, [answer.answer for answer in answers], request, console, trains=trains)
    where = f"{'all data sets' if replication else 'all claims'}: {page}; " if page is not None else ""
    _say(console, [f"{where}done in {readable_seconds(time.monotonic() - started)}"])
    return AnswersDocument(
        answers=answers,
        page=None if page is None else page.resolve(),
        replication=replication,
        not_asked=dict(agenda.not_asked),
        left_out=left_out,
        exit_code=_code(any(answer.some_failed for answer in answers)),
    )


def _arms_wait(study: PlannedStudy, content: PlanFile) -> str:
    """Why nothing is judged after a sweep alone: every look at the arms costs level, and nobody asked for this one."""
    seeds = complete_seeds(study.plan, study.on_record)
    if not seeds or seeds in content.looks:
        return ""
    return (
        f"{counted(seeds, 'seed')} of the arms are on record and were not looked at: they are judged without "
        f"--sweep-only; the points are in: python -m orchestrator.best --results {study.sweep.store.results}"
    )


def _code(failed: bool) -> ExitCode:
    return ExitCode.SOME_FAILED if failed else ExitCode.DONE


def _write_plans(agenda: Agenda, request: Request) -> list[PlanFile]:
    """Writes down every study's plan; returns the contents."""
    if agenda.together:
        datasets = dict.fromkeys(study.plan.dataset for study in agenda.studies)
        names = [study.folder.name for study in agenda.studies]
        before = before_asking(agenda.folder, names).fields if agenda.replicates else None
        write_studies(agenda.folder, ", ".join(datasets), names, before)
    return [write_plan(study.folder, study.complete, request.command) for study in agenda.studies]


def _complete_plans(
    agenda: Agenda, request: Request, contents: Sequence[PlanFile], skipped: Collection[str]
) -> list[PlanFile]:
    """Writes down what a run has added to the plans; with `--seeds auto` the maximum was planned ahead."""
    complete = []
    for study, content in zip(agenda.studies, contents, strict=True):
        left_out, fixed = _skipped_arms(agenda, study, skipped), study.plan.max_seeds is None
        if fixed or left_out:
            plan = study.plan if fixed else study.complete
            content = write_plan(study.folder, plan, request.command, content, left_out)
        complete.append(content)
    return complete


def _skipped_arms(agenda: Agenda, study: PlannedStudy, skipped: Collection[str]) -> list[str]:
    """The arms of a study that a run was asked to skip, and that lack trials because of it."""
    missing = {trial.arm for trial in study.on_record.to_run(study.plan.trials)}
    names = agenda.plan.names_of(agenda.label(study.plan))
    return [arm for arm in sorted(missing) if names.get(arm, arm) in skipped]


def _left_out(agenda: Agenda, request: Request) -> LeftOut:
    """What a budget left out."""
    # 合问的研究都不扫描
    points, confirming = agenda.studies[0].sweep.left_out(agenda.on_record.done)
    return LeftOut(
        # 只扫描时，arm 谁也没要
        plan=replace(agenda.plan, trials=()) if request.sweep.only else agenda.plan,
        on_record=agenda.on_record,
        tuning=sum(study.work.left("tuning", "retuned") for study in agenda.studies),
        points=points,
        confirming=confirming,
        confirms=bool(request.sweep.confirm),
    )


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


def _answer(
    study: PlannedStudy,
    content: PlanFile,
    store: Store,
    console: Console,
    price: Callable[[], Price],
    images: SeenImages,
    *,
    trains: bool,
    together: bool,
) -> StudyAnswer:
    """Judges a study, prints its answer and what to ask next, and writes its report."""
    if trains and (trouble := draw_pictures(study.plan, store.results, study.folder)):
        _say(console, [trouble])
    material = conclude(study.plan, store.results, study.folder, content, console, images)
    if step := next_step(material.answer, study.plan, price, together=together):
        _say(console, [step])
    unevaluated = bool(study.on_record.to_evaluate(study.plan.trials))
    failed = unevaluated or _has_failed(study, store)
    return study_answer(material, study.folder, some_failed=failed)


def _replication(
    agenda: Agenda, contents: Sequence[PlanFile], answers: Sequence[StudyAnswer], store: Store, console: Console
) -> Replication:
    """Judges all data sets as one family, prints the table and writes the joint page."""
    parts = [
        Part(*latest_plan(study.folder, study.plan, content), answer.answer, study.folder)
        for study, content, answer in zip(agenda.studies, contents, answers, strict=True)
    ]
    before = before_asking(agenda.folder, [study.folder.name for study in agenda.studies])
    replication = judge_parts(parts, store.results, before)
    print_replication(replication, console)
    write_page(agenda.folder, replication)
    return replication


def _has_failed(study: PlannedStudy, store: Store) -> bool:
    """Whether a trial failed: of the arms, of a re-tuning, or chosen by a sampler."""
    states = [study.on_record.done.get(trial.key) for trial in study.plan.trials]
    if further := {trial.key for trial in study.plan.further}:
        states += done_states(store.results, further).values()
    if study.sweep.search is not None:
        states += study.sweep.states().values()
    return TrialState.FAILED in states


def _summary(agenda: Agenda, answers: Sequence[StudyAnswer]) -> dict[str, Any]:
    """What `--notify` is told of the end."""
    verdicts = {f"{_called(agenda, answer)}{one.name}": one.word for answer in answers for one in answer.answer.judged}
    report = str((agenda.folder / PAGE).resolve())
    return {"trials": _ended(agenda), "verdicts": verdicts, "report": report}


def _called(agenda: Agenda, answer: StudyAnswer) -> str:
    label = answer.dataset if agenda.replicates else answer.study
    return f"{label}/" if agenda.together else ""


def _ended(agenda: Agenda) -> dict[str, int]:
    """How many trials of the arms have ended, by how."""
    states = agenda.on_record.done
    return Counter(states[key].value for key in {trial.key for trial in agenda.plan.trials} & states.keys())


def _export(
    agenda: Agenda, answers: Sequence[Answer], request: Request, console: Console, *, trains: bool
) -> Path | None:
    """Writes the page of all claims, and Optuna storages; returns the page of all that is asked together."""
    if agenda.together and not agenda.replicates:
        console.print(fitting(summary_table(answers), console.width))
        write_claims(agenda.folder, answers, {request.question.dataset: dict(agenda.not_asked)})
    # 合问时每个研究各有一份，不要就不写
    if request.optuna_view or (not agenda.together and (trains or abandoned(agenda.folder / OPTUNA_VIEW))):
        # Optuna 要一秒多：没有训练过就只在被要求时加载
        from orchestrator.sweeps.optuna_view import load_calls, write_view

        for sweep in (study.sweep for study in agenda.studies):
            path = write_view(sweep.folder, sweep.store.results, sweep.plan, sweep.search, sweep.history)
            _say(console, [f"for Optuna's own tools: {call}" for call in load_calls(path, sweep.search)])
    return agenda.folder / PAGE if agenda.together else None


def _say(console: Console, lines: Iterable[str]) -> None:
    for line in lines:
        print_text(console, line)
