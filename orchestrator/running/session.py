"""One Ray session: preflight, slots, and the phases of a study over them.

Ray and torch are loaded only here, when something must be trained.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from rich.console import Console

from alexnet_core.configuration.train_config import DataSpec
from alexnet_core.data.loading import prepare_data
from orchestrator.errors import LabError
from orchestrator.judging.looks import run_looks, without_closed
from orchestrator.output.fitting import print_text
from orchestrator.planning.on_record import OnRecord, read_on_record
from orchestrator.planning.plan import RETUNED, TUNING, Plan, with_seeds
from orchestrator.planning.plan_file import write_plan
from orchestrator.planning.retuning import further_missing, with_retuning
from orchestrator.planning.work_left import retuning_left
from orchestrator.records import trial_record
from orchestrator.records.files import locked
from orchestrator.request import Request, Store
from orchestrator.running.agenda import Agenda, Ran
from orchestrator.running.budget import Budget
from orchestrator.running.cluster import access, capacity, death_watch, environment, folders
from orchestrator.running.cluster.driver_log import open_driver_log
from orchestrator.running.notification import Notifier
from orchestrator.running.placement import place_of
from orchestrator.running.ray_start import STOPPED, RayDeath, start_ray
from orchestrator.running.steering import status_command
from orchestrator.sweeps.confirmation import write_confirmation
from orchestrator.sweeps.planned_sweep import PlannedSweep
from orchestrator.sweeps.pruning import make_pruner
from orchestrator.sweeps.search import Search
from orchestrator.tables.tables import done_states
from search_spaces.trial import Phase, PlannedTrial

if TYPE_CHECKING:
    from orchestrator.running.cluster.lifecycle import ClusterFacts
    from orchestrator.running.slots.slot import SlotPlan
    from orchestrator.running.study_run import RunSettings, StudyRun


SAY_EVERY_SECONDS = 5.0
DASHBOARD_PAGES = (
    "there Actors shows the processes of each slot with CPU, memory and logs, Jobs this command, Cluster the machine; "
    "the trials are in"
)


class StartedRay(NamedTuple):
    """What a run has of Ray.

    Attributes:
        slot_plan: Slots and what they reserve.
        facts: The Ray that was started or joined.
        scratch: Scratch folder of Ray Train and Tune.
        death: Called when Ray dies.
    """

    slot_plan: SlotPlan
    facts: ClusterFacts
    scratch: Path
    death: RayDeath


def run_missing(agenda: Agenda, request: Request, console: Console, started: float, notifier: Notifier) -> Ran | None:
    """Starts Ray and runs what is missing; see `status --seeds` for a plan that grows meanwhile.

    Args:
        agenda: Whose arms, sweep, confirmation and re-tunings run.
        request: Where they run, and what they may spend.
        console: Where to print.
        started: `time.monotonic()` at the command's start.
        notifier: Told when Ray dies.

    Returns:
        What it leaves, or None when the user stopped it.
    """
    access.check_dashboard_host(request.placement.dashboard_host)
    kills_before = capacity.memory_kills()
    try:
        return _run_in_ray(agenda, request, console, started, notifier)
    except KeyboardInterrupt:
        # 已经在停下：从这里起 Ray 的死活与结局无关
        death_watch.close()
        raise
    except LabError as error:
        # 内核杀了谁只有控制组知道：Ray 只看到进程不见了
        lack = capacity.lack_of_memory(kills_before)
        if not lack:
            raise
        raise LabError(f"{error}{lack}", exit_code=error.exit_code) from error


def _run_in_ray(agenda: Agenda, request: Request, console: Console, started: float, notifier: Notifier) -> Ran | None:
    results, death = request.store.results, RayDeath(notifier, console)
    # 先于 Ray：代管进程也要删它
    scratch = folders.scratch_folder(results)
    slot_plan, facts = start_ray(agenda.plan, request.placement, results, console, agenda.work.left(), death)
    open_driver_log(agenda.folder, facts.session)
    from orchestrator.running.main_loop import Interrupted
    from orchestrator.running.study_run import StudyRun

    if facts.dashboard is not None:
        token = f"; its token: {facts.show_token}" if facts.show_token else ""
        print_text(console, f"Ray dashboard: {facts.dashboard}{token}")
        print_text(console, f"{DASHBOARD_PAGES}: {status_command(agenda.folder)}")
    settings = _settings(agenda, request, StartedRay(slot_plan, facts, scratch, death), started)
    try:
        with StudyRun(agenda.plan, agenda.on_record, settings, console) as run:
            plan, sweep = _run_phases(run, agenda, request)
            skipped = frozenset(run.steering.skipped)
            return Ran(plan, run.tally.states, settings.budget.refusal is not None, sweep, skipped)
    except Interrupted:
        print_text(console, STOPPED)
        return None
    finally:
        if settings.budget.refusal is not None:
            notifier.stopped_at_budget()


def _settings(
    agenda: Agenda,
    request: Request,
    ray: StartedRay,
    started: float,
) -> RunSettings:
    from orchestrator.running.recording.opening import RecordSettings
    from orchestrator.running.study_run import RunSettings

    store = request.store
    slot_plan = ray.slot_plan
    measured = partial(agenda.measured, store.results, slot_plan.gpus_per_worker > 0 and slot_plan.device != "cpu")
    return RunSettings(
        record=RecordSettings(
            results=store.results,
            folder=agenda.folder,
            retry_failed=store.retry_failed,
            keep_weights=store.keep_weights,
            started=started,
        ),
        scratch=ray.scratch,
        slot_plan=slot_plan,
        facts=ray.facts,
        worker_environment=environment.WORKER_ENVIRONMENT,
        work=agenda.work,
        measured=measured(),
        budget=Budget(
            request.limits,
            # 预算只信记录：停在半路的不知道在哪种设备上量的
            measured(begun=False),
            place_of(slot_plan.slots, request.placement.workers, slot_plan.gpus_per_worker),
            started,
        ),
        names_arms=request.placement.names_arms,
        may_grow=not (agenda.together or agenda.plan.max_seeds or agenda.plan.null or request.sweep.only),
        death=ray.death,
    )


def _run_phases(run: StudyRun, agenda: Agenda, request: Request) -> tuple[Plan, PlannedSweep]:
    """Trains arms, sweep, confirmation and re-tunings over the same warm slots.

    Args:
        run: What runs them.
        agenda: What is asked.
        request: As it was asked, and where the records are.

    Returns:
        The plan as it has grown, and the sweep as it stands now.
    """
    plan, folder, sweep, tally = agenda.plan, agenda.folder, agenda.studies[0].sweep, run.tally
    store = request.store
    if request.sweep.only:
        assert sweep.search is not None
        sweep = _run_sweep(run, sweep, sweep.search)
        _run_confirmation(run, sweep)
        return plan, sweep
    tally.begin("arm", plan.trials)
    train = partial(run.run_arms, folder.name)

    def skipped() -> Collection[str]:
        return run.steering.skipped

    if plan.max_seeds is not None:
        # 逐个种子看，只训练下一次看还缺的
        run_looks(plan, store.results, lambda: tally.states, partial(_train_of, run, plan, train), skipped)
        return plan, sweep
    train(agenda.on_record.to_run(plan.trials))
    plan = _with_asked_seeds(run, plan, folder, request, train)
    if sweep.search is not None:
        # arm 在前：落在扫描空间里的 arm 也是采样器已知的点
        sweep = _run_sweep(run, sweep.refreshed(plan), sweep.search)
        plan = _with_asked_seeds(run, plan, folder, request, train)
        _run_confirmation(run, sweep)
    before = None
    while before is not plan:
        # 后来要的种子也要按各 arm 的最佳值再训练
        before = plan = _with_asked_seeds(run, plan, folder, request, train)
        plans = [study.plan for study in agenda.studies] if agenda.together else [plan]
        for tuned in (tuned for tuned in plans if tuned.retune is not None):
            run_retuning(run, tuned, folder.name, store, names=agenda.plan.names_of(agenda.label(tuned)))
        plan = _with_asked_seeds(run, plan, folder, request, train)
    return plan, sweep


def _train_of(
    run: StudyRun, plan: Plan, train: Callable[[Sequence[PlannedTrial]], None], trials: Sequence[PlannedTrial]
) -> None:
    """Trains what the next look needs; what no look needs any more is not waited for."""
    needed = {trial.key for trial in without_closed(plan, run.tally.states, run.opener.settings.results).trials}
    run.tally.leave_out_trials({trial.key for trial in plan.trials} - needed)
    train(trials)


def _with_asked_seeds(
    run: StudyRun,
    plan: Plan,
    folder: Path,
    request: Request,
    train: Callable[[Sequence[PlannedTrial]], None],
) -> Plan:
    """Trains the further seeds that `status --seeds` has asked for by now; returns the plan with them."""
    store = request.store
    while run.seeds_asked() > len(plan.seeds):
        plan = with_seeds(plan, run.steering.seeds)
        # 本次已结束的不论成败都不再跑，即使有 --retry-failed
        on_record = read_on_record(store.results, plan.trials, store.retry_failed).refreshed(run.tally.states)
        write_plan(folder, plan, request.command)
        run.grow(plan, on_record)
        train(on_record.to_run(plan.trials))
    return plan


def run_retuning(run: StudyRun, plan: Plan, name: str, store: Store, names: Mapping[str, str]) -> None:
    """Trains the tuning trials of every arm, and then the judged seeds with each arm's best value.

    Args:
        run: What runs them.
        plan: The study's.
        name: Of the folder in which the members are written down.
        store: Where their records are.
        names: How its arms are called where several studies or data sets run; none for one.
    """
    tally = run.tally
    unchosen = len(retuning_left(plan, OnRecord(done=tally.states))["retuned"].unchosen)
    phases: tuple[tuple[Phase, int], ...] = (("tuning", 0), ("retuned", unchosen))
    for phase, instead_of in phases:
        # 每个 arm 的最佳值要等调参都结束才知道
        plan = with_retuning(plan, store.results)
        tally.states.update(done_states(store.results, [trial.key for trial in plan.further], store.retry_failed))
        trials = [_under_arm_name(trial, names) for trial in plan.further if trial.phase == phase]
        tally.begin(phase, trials, instead_of)
        missing = [trial for trial in further_missing(plan, tally.states) if trial.phase == phase]
        run.run_arms(name, [_under_arm_name(trial, names) for trial in missing])


def _under_arm_name(trial: PlannedTrial, names: Mapping[str, str]) -> PlannedTrial:
    """A trial of a re-tuning under the name by which `status` steers its arm."""
    suffix = TUNING if trial.phase == "tuning" else RETUNED
    arm = trial.arm.removesuffix(suffix)
    return replace(trial, arm=f"{names.get(arm, arm)}{suffix}")


def _run_sweep(run: StudyRun, sweep: PlannedSweep, search: Search) -> PlannedSweep:
    """Trains the points that are left; returns the sweep as it stands then."""
    from orchestrator.sweeps.searcher import SweepSearcher

    # 别的驱动可能刚做完同一个扫描：拿到锁之后才读它知道什么
    run.lock_search(search.name)
    history, left, pruner = sweep.history, sweep.points_left, sweep.request.pruner
    if not left:
        return sweep
    sweep.write_file(search)
    scheduler = make_pruner(pruner, sweep.reports, sweep.curves()) if pruner != "none" else None
    # 问过而没做完的点先做，位置不变
    open_positions = [ask.position for ask in history.asks if ask.position not in history.ended]
    fresh = range(history.next_position, history.next_position + left - len(open_positions))
    run.tally.show_points(sweep.ended_keys, (*open_positions, *fresh), sweep.work_left["sweep"].known)
    make_searcher = partial(SweepSearcher, search, history, read=sweep.read)
    run.run_sweep(make_searcher, left, scheduler)
    sweep = sweep.refreshed(sweep.plan)
    # 有的点早已在案，或由别的驱动训练：它们也要显示出来
    run.tally.show_points(sweep.ended_keys, (), {})
    return sweep


def _run_confirmation(run: StudyRun, sweep: PlannedSweep) -> None:
    """Trains the best points and the baseline on fresh seeds; what is confirmed is written down first."""
    # 预算停在扫描半途时，最好的点还没定
    if sweep.points_missing(run.tally.states):
        return
    folder, store = sweep.folder, sweep.store
    with locked(folder):
        trials = sweep.confirmation_trials
        if not trials:
            return
        write_confirmation(folder, sweep.confirmation)
    run.tally.states.update(done_states(store.results, [trial.key for trial in trials], store.retry_failed))
    run.tally.begin("confirmation", trials)
    # 与基线配置相同的点共用同一批 trial
    missing = {trial.key: trial for trial in reversed(trials) if trial.key not in run.tally.states}
    first = [trial for trial in trials if missing.get(trial.key) is trial]
    run.run_arms(f"{folder.name}/confirmation", first)
    trial_record.join_members(store.results, folder.name, sweep.plan.dataset, trials)


def prepare_images(plan: Plan, console: Console) -> None:
    """Decodes the images once, before Ray starts, so that a bad one is named at once and no slot has to."""
    data = plan.base.data
    if not isinstance(data, DataSpec):
        # 别的 core 自己读数据
        return
    last = time.monotonic()

    def say(done: int, images: int) -> None:
        nonlocal last
        if time.monotonic() - last > SAY_EVERY_SECONDS or done == images:
            last = time.monotonic()
            print_text(console, f"decoding images, once: {done} of {images}")

    for remark in prepare_data(data, say):
        print_text(console, f"note: {remark}")
