"""What one command asks, planned: several studies in one session, or one study, which is the case n = 1 of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import NamedTuple

from alexnet_core.configuration.wording import counted
from alexnet_core.errors import CoreError
from orchestrator.choices import DEFAULT_DATASET, PAPER
from orchestrator.errors import ExitCode, LabError
from orchestrator.judging.looks import without_closed
from orchestrator.judging.outlook import resolution_outlook
from orchestrator.planning.estimate import EpochSeconds, Estimate, Place, Price, add_begun, estimate, measured_epochs
from orchestrator.planning.on_record import OnRecord, read_begun, read_on_record, together
from orchestrator.planning.plan import Plan
from orchestrator.planning.plan_file import check_rule, replaced_question
from orchestrator.planning.retuning import further_missing, with_retuning
from orchestrator.planning.summary import (
    arm_line,
    arm_plans,
    arm_remarks,
    cost_line,
    data_remarks,
    format_time,
    large_batches,
    left_out_retuning,
    plan_line,
    retuning_line,
    sweep_only_line,
)
from orchestrator.planning.training_ways import other_ways
from orchestrator.planning.unfolding import check_replicates, folder_hint, plan_study, recipe_on
from orchestrator.planning.variants.baseline_alone import name_asked, null_plan, variance_plan
from orchestrator.planning.variants.controls import controls_in
from orchestrator.planning.variants.together import combined_plan
from orchestrator.planning.work_left import PhaseLeft, WorkLeft, arms_left, retuning_left, work_together
from orchestrator.records.layout import joint_folder, study_folder
from orchestrator.records.trial_record import TrialState
from orchestrator.request import Request, Store
from orchestrator.running.placement import likely_place, time_and_memory
from orchestrator.sweeps.planned_sweep import PlannedSweep, search_of
from orchestrator.tables.siblings import trained_anew
from orchestrator.tables.tables import done_trials
from search_spaces.core_config import description_of
from search_spaces.errors import StudyError
from search_spaces.study import RecipeData, Study, load_study, study_names
from search_spaces.yaml_file import placed


class Ran(NamedTuple):
    """What a Ray session leaves.

    Attributes:
        plan: The plan as it was run.
        states: Every trial's state.
        refused: Whether a budget refused any.
        sweep: The sweep as it stands now; None where the session had none.
        skipped: Arms of which it was asked to begin no other trial, as `status` calls them.
    """

    plan: Plan
    states: dict[str, TrialState]
    refused: bool
    sweep: PlannedSweep | None = None
    skipped: frozenset[str] = frozenset()


@dataclass(frozen=True)
class PlannedStudy:
    """One study of a command.

    Attributes:
        plan: Its plan; with `--seeds auto` without what no look needs any more.
        complete: The plan with all of that, which is written down.
        on_record: What of its trials is on record, those of its re-tuning included.
        sweep: Its sweep, be it of no point.
    """

    plan: Plan
    complete: Plan
    on_record: OnRecord
    sweep: PlannedSweep

    @property
    def folder(self) -> Path:
        """Where the study is written down."""
        return self.sweep.folder

    @cached_property
    def work(self) -> WorkLeft:
        """What it has still to do."""
        if self.sweep.request.only:
            return WorkLeft({"arm": PhaseLeft(), **self.sweep.work_left})
        arms = arms_left(self.plan, self.on_record)
        return WorkLeft({"arm": arms, **self.sweep.work_left, **retuning_left(self.plan, self.on_record)})


@dataclass(frozen=True)
class Agenda:
    """All that one command asks, and one Ray session trains.

    Attributes:
        studies: The studies, at least one.
        plan: What is trained: the study's plan, or of all of them, where a trial that they share is trained once.
        on_record: What of that is on record.
        folder: Where the members of that are written down, and the report of all is.
        together: Whether several are asked together (`--study paper`, or one study on several data sets); then none
            of them sweeps.
        replicates: Whether they are one study on several data sets.
        not_asked: Why the other studies are not asked on this data set, by name.
    """

    studies: tuple[PlannedStudy, ...]
    plan: Plan
    on_record: OnRecord
    folder: Path
    together: bool = False
    replicates: bool = False
    not_asked: Mapping[str, str] = field(default_factory=dict)

    def label(self, plan: Plan) -> str:
        """Returns what one of the plans, and its arms, are called by beside the others; nothing where it is alone."""
        return "" if not self.together else plan.dataset if self.replicates else plan.study.name

    @cached_property
    def work(self) -> WorkLeft:
        """What it has still to do; a trial that studies share is trained once."""
        if not self.together:
            return self.studies[0].work
        return work_together([study.work for study in self.studies], arms_left(self.plan, self.on_record))

    def measured(self, results: Path, on_gpu: bool, *, begun: bool = True) -> EpochSeconds:
        """Returns what epochs took: of the trials on record, and of those that were stopped in the middle.

        Args:
            results: The results folder.
            on_gpu: Whether trials on GPUs count, or those on the CPU.
            begun: Whether those stopped in the middle count, of which no record says where they were trained.
        """
        measured = measured_epochs(results, on_gpu, self.on_record.done)
        if begun:
            add_begun(measured, self.work, self.on_record.begun)
        return measured


def plan_studies(request: Request) -> list[Plan]:
    """Returns the plans of the studies that are asked; no record is read.

    Raises:
        LabError: A study cannot be asked so, or none is asked on this data set.
        StudyError: A field, a value or an image does not fit.
    """
    question, store = request.question, request.store
    if question.also:
        # 有一个数据集问不了，就什么也不必清点
        study = load_study(question.study)
        check_replicates(study)
        for dataset in question.datasets:
            recipe_on(study, dataset)
        return [_plan_on(study, replace(request, question=one)) for one in question.on_each]
    if not question.is_paper:
        plan = _plan_of_one(load_study(question.study), request)
        return [null_plan(plan) if question.null else variance_plan(plan) if question.variance else plan]
    plans: list[Plan] = []
    for study in _all_studies():
        if question.dataset in study.recipes:
            # 同样的数据只清点、只算一次哈希
            data = study.recipes[question.dataset].common.data
            known = next((plan.summary for plan in plans if _same_images(plan.recipe.common.data, data)), None)
            plans.append(plan_study(study, question, request.sweep, store, known))
    if not plans:
        raise LabError(
            f"no study is asked on {question.dataset!r}{folder_hint(question.dataset)}", exit_code=ExitCode.WRONG_USE
        )
    return plans


def _same_images(data: RecipeData, other: RecipeData) -> bool:
    """Whether two recipes split the same images alike, before any subset."""
    return (data.source, data.holds_out) == (other.source, other.holds_out)


def _all_studies() -> list[Study]:
    # 论文的主张只关于 AlexNet；只发问的研究不是谁的主张
    studies = (load_study(name) for name in study_names())
    return [study for study in studies if study.core is None and study.claim is not None]


def _plan_on(study: Study, request: Request) -> Plan:
    """The plan on one of several data sets; what is wrong with its images names it."""
    try:
        return _plan_of_one(study, request)
    except CoreError as error:
        raise CoreError(f"{request.question.dataset}: {error}") from error
    except LabError as error:
        raise LabError(f"{request.question.dataset}: {error}", exit_code=error.exit_code) from error


def _plan_of_one(study: Study, request: Request) -> Plan:
    """The plan of one study; a mistake of its arms or its sweep is placed in its file, where it has one."""
    question, sweep, path = request.question, request.sweep, Path(request.question.study)
    if study.core is not None and request.placement.workers > 1:
        # 两个进程会各训一遍，又写同一个文件夹
        raise LabError(
            "--workers is for AlexNet: a trial of another core is one process; several GPUs for it are "
            "--gpus-per-worker",
            exit_code=ExitCode.WRONG_USE,
        )
    try:
        plan = plan_study(study, question, sweep, request.store)
    except StudyError as error:
        raise placed(StudyError(str(error), error.location), path) from error
    if study.sweep is not None and path.is_file():
        try:
            # 自己的文件里，扫描的字段也要现在就查，不等到真要扫描时
            search_of(replace(plan, sweep_points=1), study.name, sweep)
        except StudyError as error:
            where = () if sweep.over else error.location
            raise placed(StudyError(str(error), where), path) from error
    return plan


def folder_of(request: Request) -> Path:
    """Returns the folder of what a command asks: that of its study, or of all its studies together; none is planned.

    Args:
        request: What the command asks.
    """
    question, results = request.question, request.store.results
    study = PAPER if question.is_paper else load_study(question.study).name
    if question.also:
        return joint_folder(results, study, question.datasets)
    return study_folder(results, name_asked(study, question), question.dataset, DEFAULT_DATASET)


def make_agenda(plans: Sequence[Plan], request: Request) -> Agenda:
    """Returns what is to be run for plans: what is on record, each study's sweep, and one plan that trains it all.

    Args:
        plans: From `plan_studies`.
        request: What the command asks.

    Raises:
        LabError: A study was looked at by another rule.
        StudyError: The sampler cannot search the space.
    """
    studies = tuple(_planned_study(plan, request) for plan in plans)
    question = request.question
    if question.also:
        return Agenda(
            studies=studies,
            plan=combined_plan(plans, plans[0].recipe, by_dataset=True),
            on_record=together(study.on_record for study in studies),
            folder=folder_of(request),
            together=True,
            replicates=True,
        )
    if not question.is_paper:
        return Agenda(studies, studies[0].plan, studies[0].on_record, studies[0].folder)
    dataset = question.dataset
    return Agenda(
        studies=studies,
        plan=combined_plan(plans, plans[0].recipe),
        on_record=together(study.on_record for study in studies),
        folder=folder_of(request),
        together=True,
        not_asked={study.name: study.not_asked[dataset] for study in _all_studies() if dataset in study.not_asked},
    )


def _planned_study(plan: Plan, request: Request) -> PlannedStudy:
    store, sweep = request.store, request.sweep
    folder = study_folder(store.results, plan.study.name, plan.dataset, DEFAULT_DATASET)
    # 看过一次结果之后，判断的规则就不能再换
    check_rule(folder, plan)
    search = search_of(plan, folder.name, sweep)
    if search is not None:
        # 有限的空间装不下更多的点
        plan = replace(plan, sweep_points=search.size())
    # 调参的最佳值、关掉的 arm 都从记录里读出来
    plan = with_retuning(plan, store.results)
    on_record = _records_of(plan, store)
    closes = plan.max_seeds is not None and store.results.is_dir()
    now = without_closed(plan, on_record.done, store.results) if closes else plan
    return PlannedStudy(now, plan, on_record, PlannedSweep(now, search, folder, sweep, store))


def _records_of(plan: Plan, store: Store) -> OnRecord:
    """What is on record of a plan's trials, and of its re-tuning."""
    further = done_trials(store.results, [trial.key for trial in plan.further], store.retry_failed)
    on_record = read_on_record(store.results, plan.trials, store.retry_failed).refreshed(further.states)
    begun = read_begun(store.results, further_missing(plan, {*on_record.done, *further.odd}))
    return replace(on_record, begun={**on_record.begun, **begun}, odd={**on_record.odd, **further.odd})


def after_run(agenda: Agenda, ran: Ran, store: Store) -> Agenda:
    """Returns the agenda as its run has left it: with further seeds, each arm's best value, and closed arms.

    Args:
        agenda: Before the run.
        ran: What the run has left.
        store: Where the records are.
    """

    def updated(study: PlannedStudy, plan: Plan, sweep: PlannedSweep) -> PlannedStudy:
        if plan.max_seeds is None:
            plan = with_retuning(plan, store.results)
        # 本次已结束的不论成败都算有了，即使有 --retry-failed
        on_record = _records_of(plan, store).refreshed(ran.states)
        if plan.max_seeds is not None:
            plan = without_closed(plan, on_record.done, store.results)
        return replace(study, plan=plan, on_record=on_record, sweep=sweep)

    if agenda.together:
        # 合问的研究都不扫描，各自的扫描（和文件夹）不变
        studies = tuple(updated(study, study.plan, study.sweep) for study in agenda.studies)
        on_record = together(study.on_record for study in studies)
        return replace(agenda, studies=studies, plan=ran.plan, on_record=on_record)
    study = agenda.studies[0]
    study = updated(study, ran.plan, ran.sweep or study.sweep)
    return replace(agenda, studies=(study,), plan=study.plan, on_record=study.on_record)


def price_of(agenda: Agenda, request: Request) -> Price:
    """Returns what prices trainings: epochs that were measured, and where trials would train on this machine.

    Args:
        agenda: What is asked.
        request: Where and how.
    """
    place = likely_place(request.placement, description_of(agenda.plan.base).gpus)
    return partial(estimate, measured=agenda.measured(request.store.results, _is_on_gpu(place, request)), place=place)


def _is_on_gpu(place: Place, request: Request) -> bool:
    # 预演保留了 GPU，却在 CPU 上训练
    return place.gpus > 0 and request.placement.device != "cpu"


def agenda_lines(agenda: Agenda, request: Request, price: Price) -> Iterator[str]:
    """Says what would be trained, how long it takes and what it can decide; with `--dry-run` of each arm, too.

    Args:
        agenda: What is asked.
        request: Where and how.
        price: From `price_of`.
    """
    takes = partial(time_and_memory, placement=request.placement)
    # 数据对所有研究都一样，只说一次；先说，再看计划
    yield from dict.fromkeys(remark for study in agenda.studies for remark in data_remarks(study.plan))
    yield from trained_anew(agenda.on_record.odd)
    if agenda.work.left():
        place = likely_place(request.placement, description_of(agenda.plan.base).gpus)
        confirming = (trial.key for study in agenda.studies for trial in study.sweep.confirmation_trials)
        keys = [*agenda.on_record.done, *confirming]
        yield from other_ways(request.store.results, keys, request.placement.workers, _is_on_gpu(place, request))
    for study in agenda.studies:
        if note := replaced_question(study.folder, study.plan):
            yield note
        prefix = f"{agenda.label(study.plan)}: " if agenda.together else ""
        yield from (f"{prefix}{line}" for line in _study_lines(study, request, price, takes))
        if request.dry_run:
            plan, others = study.plan, {agenda.label(o.plan): o.plan for o in agenda.studies if o is not study}
            if not study.sweep.request.only:
                yield from (arm_line(arm) for arm in arm_plans(plan, study.on_record, others))
            yield f"{'    ' if agenda.together else ''}{cost_line(price(study.work.of()))}"
    for name, reason in agenda.not_asked.items():
        yield f"{name}: not asked on {request.question.dataset}: {reason}"
    if agenda.together:
        yield from _lines_together(agenda, request.dry_run, price, takes)


def _study_lines(
    study: PlannedStudy, request: Request, price: Price, takes: Callable[[Estimate], str]
) -> Iterator[str]:
    plan, on_record, work = study.plan, study.on_record, study.work
    time_and_room = takes(price(work.of("arm", "sweep", "confirmation")))
    if study.sweep.request.only:
        yield sweep_only_line(plan, work, time_and_room)
    else:
        yield plan_line(plan, on_record, work, time_and_room, resolution_outlook(plan, study.folder))
    controls = controls_in(plan.study) if request.question.matched else []
    yield from (f"control of equal size, {arm.name}: {arm.title}" for arm in controls)
    if plan.retune is not None and not study.sweep.request.only:
        tuning = work.of("tuning", "retuned")
        yield f"{retuning_line(plan, on_record, len(tuning))}, time {format_time(price(tuning))}"
    yield from (*left_out_retuning(plan), *large_batches(plan), *arm_remarks(plan))
    if request.sweep.confirm:
        confirming = work.phases.get("confirmation", PhaseLeft())
        most = "" if confirming.exact or not confirming.left else "at most "
        yield f"confirmation on fresh seeds: {most}{counted(confirming.left, 'trial')} to train"


def _lines_together(agenda: Agenda, dry_run: bool, price: Price, takes: Callable[[Estimate], str]) -> Iterator[str]:
    tuning, cost = agenda.work.left("tuning", "retuned"), price(agenda.work.of())
    more = f", and {tuning} of re-tunings at most" if tuning else ""
    shared = f"shared trials once{more}"
    together = shared if not agenda.replicates else f"judged as one family of all comparisons{more}"
    yield f"together: {plan_line(agenda.plan, agenda.on_record, agenda.work, takes(cost), together)}"
    if dry_run:
        yield f"    {cost_line(cost)}"
