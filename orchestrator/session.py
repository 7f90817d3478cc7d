"""One Ray session: preflight, slots, and the phases of a study over them.

Ray and torch are loaded only here, when something must be trained.
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from rich.console import Console

from alexnet_core.datasets import prepare_data
from alexnet_core.schedule import can_be_extended
from orchestrator import cluster, preflight, records
from orchestrator.budget import Budget, Limits
from orchestrator.confirmation import confirmation_trials, write_confirmation
from orchestrator.display import POINTS
from orchestrator.ended import done_states
from orchestrator.errors import LabError
from orchestrator.estimate import Place, measured_epochs
from orchestrator.evaluations import evaluations_on_record
from orchestrator.logs import open_driver_log
from orchestrator.nodes import alive_nodes, probe, slots_on, workers_by_gpu
from orchestrator.notification import Notifier
from orchestrator.paper import PAPER, name_together
from orchestrator.plan import Plan, with_seeds, write_plan
from orchestrator.pruning import make_pruner
from orchestrator.records import TrialState, locked
from orchestrator.retuning import RETUNED, TUNING, further_missing, retuning_left, with_retuning
from orchestrator.sequential_phase import run_looks
from orchestrator.slot import SlotPlan
from orchestrator.sweep import Search, points_left
from orchestrator.sweep_phase import (
    curves_on_record,
    history_of,
    planned_confirmation,
    points_missing,
    reader,
    write_sweep_file,
)
from search_spaces.trial import PlannedTrial

if TYPE_CHECKING:
    from orchestrator.run import StudyRun

SAY_EVERY_SECONDS = 5.0


class Ran(NamedTuple):
    """What a Ray session leaves: the plan as it was run, every trial's state, and whether a budget refused any."""

    plan: Plan
    states: dict[str, TrialState]
    refused: bool


def run_missing(
    plan: Plan,
    plans: Sequence[Plan],
    folder: Path,
    search: Search | None,
    chosen_left: int,
    options: argparse.Namespace,
    console: Console,
    started: float,
    notifier: Notifier,
) -> Ran | None:
    """Starts Ray and runs what is missing; see `status --seeds` for a plan that grows meanwhile.

    Args:
        plan: Whose arms and sweep run.
        plans: The studies in it, whose re-tunings run after them.
        folder: Where the members are written down.
        search: What its sweep searches; None for no sweep.
        chosen_left: Points of the sweep, and trials that confirm them, still to train.
        options: The command's.
        console: Where to print.
        started: `time.monotonic()` at the command's start.
        notifier: Told when Ray dies.

    Returns:
        What it leaves, or None when the user stopped it.
    """
    cluster.check_dashboard_host(options.dashboard_host)
    further = sum(retuning_left(tuned) for tuned in plans)
    slot_plan, facts = _start_ray(plan, options, console, chosen_left + further)
    open_driver_log(folder)
    from orchestrator.recorder import RecordSettings
    from orchestrator.run import Interrupted, RunSettings, StudyRun
    from orchestrator.searcher import ArmSearcher

    if facts.dashboard is not None:
        token = "; its token: ray get-auth-token" if facts.token_required else ""
        console.print(f"Ray dashboard: {facts.dashboard}{token}", markup=False, soft_wrap=True)
    settings = RunSettings(
        record=RecordSettings(
            results=options.results,
            folder=folder,
            retry_failed=options.retry_failed,
            keep_weights=options.keep_weights,
            started=started,
        ),
        scratch=cluster.scratch_folder(options.results),
        slot_plan=slot_plan,
        facts=facts,
        worker_environment=cluster.WORKER_ENVIRONMENT,
        budget=Budget(
            Limits(options.max_gpu_hours, options.time_budget),
            measured_epochs(options.results, slot_plan.gpus_per_worker > 0),
            place_of(slot_plan.slots, options.workers, slot_plan.gpus_per_worker),
            started,
        ),
        may_grow=plan.study.name != PAPER and plan.max_seeds is None and not plan.null,
        notifier=notifier,
    )
    name = folder.name
    try:
        with StudyRun(plan, settings, console) as run:
            recorder = run.recorder
            recorder.begin(plan.trials)

            def train(trials: Sequence[PlannedTrial]) -> None:
                run.run_arms(trials, lambda fresh: ArmSearcher(name, fresh, recorder.launch))

            if plan.max_seeds is not None:
                run_looks(plan, options.results, lambda: recorder.states, train, lambda: run.steering.skipped)
                return Ran(plan, recorder.states, settings.budget.refusal is not None)
            train(plan.to_run)
            plan = _with_asked_seeds(run, plan, folder, options, train)
            if search is not None:
                _run_sweep(run, plan, folder, search, options)
                plan = _with_asked_seeds(run, plan, folder, options, train)
                _run_confirmation(run, plan, folder, search, options)
            before = None
            while before is not plan:
                # 后来要的种子也要按各 arm 的最佳值再训练
                before = plan = _with_asked_seeds(run, plan, folder, options, train)
                together = len(plans) > 1
                for tuned in (tuning for tuning in (plans if together else [plan]) if tuning.retune is not None):
                    run_retuning(run, tuned, name, options, together=together)
                plan = _with_asked_seeds(run, plan, folder, options, train)
            return Ran(plan, recorder.states, settings.budget.refusal is not None)
    except Interrupted:
        console.print(
            "interrupted; finished trials are on record and running ones keep their last checkpoint. "
            "Go on with the same command.",
            soft_wrap=True,
        )
        return None
    finally:
        if settings.budget.refusal is not None:
            notifier.stopped_at_budget()


def _with_asked_seeds(
    run: StudyRun,
    plan: Plan,
    folder: Path,
    options: argparse.Namespace,
    train: Callable[[Sequence[PlannedTrial]], None],
) -> Plan:
    """Trains the further seeds that `status --seeds` has asked for by now; returns the plan with them."""
    while run.seeds_asked() > len(plan.seeds):
        plan = _grown(plan, run.steering.seeds, run.recorder.states, options)
        write_plan(folder, plan, sys.argv)
        run.grow(plan)
        train(plan.to_run)
    return plan


def _grown(plan: Plan, seeds: int, states: Mapping[str, TrialState], options: argparse.Namespace) -> Plan:
    """The plan with more seeds; what ended in this run, failed or not, is not run again."""
    grown = with_seeds(plan, seeds, plan.done)
    done = done_states(options.results, [trial.key for trial in grown.trials], options.retry_failed)
    evaluated = evaluations_on_record(options.results, grown.trials)
    return replace(grown, done={**done, **states}, evaluated=evaluated)


def run_retuning(run: StudyRun, plan: Plan, name: str, options: argparse.Namespace, *, together: bool = False) -> None:
    """Trains the tuning trials of every arm, and then the judged seeds with each arm's best value.

    Args:
        run: What runs them.
        plan: The study's.
        name: Of the folder in which the members are written down.
        options: Of the command.
        together: Whether several studies run, so that an arm is called by its study too.
    """
    from orchestrator.searcher import ArmSearcher

    recorder = run.recorder
    for phase in ("tuning", "retuned"):
        # 每个 arm 的最佳值要等调参都结束才知道
        plan = with_retuning(plan, options.results, options.retry_failed)
        recorder.states |= plan.done
        recorder.begin([_called(plan, trial, together) for trial in plan.further if trial.phase == phase])
        wanted = (_called(plan, trial, together) for trial in further_missing(plan))
        missing = [trial for trial in wanted if trial.key not in recorder.states]
        run.run_arms(missing, lambda trials: ArmSearcher(name, trials, recorder.launch))


def _called(plan: Plan, trial: PlannedTrial, together: bool) -> PlannedTrial:
    """A trial of a re-tuning under the name by which `status` steers its arm."""
    suffix = TUNING if trial.phase == "tuning" else RETUNED
    own = trial.arm.removesuffix(suffix)
    return replace(trial, arm=f"{name_together(plan.study.name, own)}{suffix}") if together else trial


def likely_place(options: argparse.Namespace) -> Place:
    """Returns where trials would train on this machine, for the estimate; a cluster's slots are known once joined."""
    return place_of(options.slots or likely_slots(options), options.workers, _gpus_per_worker(options))


def place_of(slots: int, workers: int, gpus_per_worker: float) -> Place:
    """Returns slots of so many workers as what an estimate reckons with."""
    return Place(slots=slots, gpus=workers * gpus_per_worker, towers_apart=gpus_per_worker >= 2)


def _gpus_per_worker(options: argparse.Namespace) -> float:
    asked = _asked_gpus(options)
    return asked if asked is not None else min(preflight.visible_gpus(), 2)


def _run_sweep(run: StudyRun, plan: Plan, folder: Path, search: Search, options: argparse.Namespace) -> None:
    from orchestrator.searcher import SweepSearcher

    run.lock_search(search.name)
    history = history_of(plan, search, folder, options)
    left = points_left(search, history)
    if not left:
        return
    write_sweep_file(search, folder, options)
    curves = curves_on_record(history, options.results) if options.pruner != "none" else []
    searcher = SweepSearcher(
        search,
        history,
        launch=partial(run.launch_point, judged=options.pruner != "none"),
        join=run.recorder.join,
        read=reader(search, options),
        stop=run.stop_trial,
        lock=run.lock_point,
        unlock=run.unlock_point,
    )
    asked = [ask.position for ask in history.asks if ask.position not in history.ended]
    fresh = range(history.next_position, history.next_position + left - len(asked))
    run.display.expect([(POINTS, position) for position in (*asked, *fresh)], {})
    run.run_sweep(searcher, left, make_pruner(options.pruner, plan.base.training.epochs, curves))


def _run_confirmation(run: StudyRun, plan: Plan, folder: Path, search: Search, options: argparse.Namespace) -> None:
    """Trains the best points and the baseline on fresh seeds; what is confirmed is written down first."""
    from orchestrator.searcher import ArmSearcher

    # 预算停在扫描半途时，最好的点还没定
    if points_missing(plan, search, folder, options, run.recorder.states):
        return
    with locked(folder):
        content = planned_confirmation(plan, search, folder, options)
        trials = confirmation_trials(plan, content)
        if not trials:
            return
        write_confirmation(folder, content)
    run.recorder.states.update(done_states(options.results, [trial.key for trial in trials], options.retry_failed))
    run.recorder.begin(trials)
    # 与基线配置相同的点共用同一批 trial
    missing = {trial.key: trial for trial in reversed(trials) if trial.key not in run.recorder.states}
    wanted = [trial for trial in trials if missing.get(trial.key) is trial]
    run.run_arms(wanted, lambda own: ArmSearcher(f"{folder.name}/confirmation", own, run.recorder.launch))
    records.join_members(options.results, folder.name, plan.dataset, trials)


def likely_slots(options: argparse.Namespace) -> int:
    """Returns how many slots this machine holds."""
    gpus, per_worker = preflight.visible_gpus(), _gpus_per_worker(options)
    places = workers_by_gpu(gpus, per_worker) if per_worker else preflight.cpu_cores()
    return max(1, places // int(options.workers))


def _asked_gpus(options: argparse.Namespace) -> float | None:
    if options.gpu_share is not None and options.gpu_share < 1 and options.workers > 1:
        raise LabError("--gpu-share is for slots of one worker; leave --workers out", exit_code=2)
    asked: float | None = options.gpu_share if options.gpu_share is not None else options.gpus_per_worker
    return asked


def prepare_images(plan: Plan, console: Console) -> None:
    """Decodes the images once, before Ray starts, so that a bad one is named at once and no slot has to."""
    data = plan.base.data
    last = time.monotonic()

    def say(done: int, images: int) -> None:
        nonlocal last
        if time.monotonic() - last > SAY_EVERY_SECONDS or done == images:
            last = time.monotonic()
            console.print(f"decoding images, once: {done} of {images}")

    prepare_data(data, say)


def _start_ray(
    plan: Plan, options: argparse.Namespace, console: Console, sweep_left: int
) -> tuple[SlotPlan, cluster.ClusterFacts]:
    """Preflight, then Ray: GPUs, slots, disk, shared memory."""
    joins = options.address is not None
    cluster.prepare_environment(options.verbose, dashboard=joins or not options.no_dashboard, joins=joins)
    if joins:
        cluster.check_address(options.address)
    gpus = preflight.visible_gpus()
    if options.address is None:
        per_worker = preflight.choose_gpus_per_worker(_asked_gpus(options), gpus, "this machine")
        slots = options.slots or likely_slots(options)
        _check_slots(slots, per_worker, gpus, options)
    else:
        per_worker, slots = 0.0, options.slots or 1
    trials = len(plan.to_run) + sweep_left
    slots = min(slots, trials)
    final_copies = 2 if can_be_extended(plan.base.training) else 1
    need = preflight.disk_need_bytes(plan.base.network, trials, slots, final_copies)
    preflight.check_disk(options.results, need)
    roomy = preflight.shared_memory_is_enough(cluster.OBJECT_STORE_BYTES)
    if not roomy and options.address is None:
        console.print("warning: /dev/shm is small, Ray's object store goes to the temporary folder", highlight=False)
    import ray  # noqa: F401

    # 这些导入要好几秒，与 Ray 的启动并行；同一批模块不能由两个线程同时导入，所以之后要等它
    imports = threading.Thread(target=_import_side_by_side, args=(options.workers,), name="imports", daemon=True)
    imports.start()
    cpus = slots * options.workers + 1
    facts = cluster.start(
        options.address, cpus, gpus, not options.no_dashboard, options.dashboard_host, roomy, options.verbose
    )
    imports.join()
    if options.address is not None:
        per_worker, slots = _cluster_slots(trials, plan.base.data.root, options)
    # 没有写明槽位数时，节点来了就多开几个
    follows = options.address is not None and options.slots is None
    return SlotPlan(slots, options.workers, per_worker, options.device, follows=follows), facts


def _cluster_slots(trials: int, data: str | None, options: argparse.Namespace) -> tuple[float, int]:
    """(GPUs per worker, slots) on a joined cluster; with `--slots` those that do not fit yet wait for nodes."""
    nodes = alive_nodes().values()
    asked = _asked_gpus(options)
    largest = max((int(node.resources.get("GPU", 0)) for node in nodes), default=0)
    if asked is not None and options.slots is not None:
        per_worker = asked
    else:
        per_worker = preflight.choose_gpus_per_worker(asked, largest, "no node of the cluster")
    probe(options.results, data, nodes)
    slots = min(trials, options.slots or slots_on(nodes, per_worker, options.workers, 1))
    if slots == 0:
        raise LabError(
            f"the cluster at {options.address} cannot hold one slot of {options.workers} workers with "
            f"{per_worker:g} GPUs and 1 CPU each",
            exit_code=3,
        )
    return per_worker, slots


def _check_slots(slots: int, per_worker: float, gpus: int, options: argparse.Namespace) -> None:
    if per_worker and slots * options.workers > workers_by_gpu(gpus, per_worker):
        need = slots * options.workers * per_worker
        raise LabError(
            f"{slots} slots of {options.workers} workers with {per_worker:g} GPUs each need {need:g} GPUs, "
            f"this machine has {gpus}; use fewer --slots or --workers",
            exit_code=3,
        )


def _import_side_by_side(workers: int) -> None:
    import ray.train
    import ray.tune

    if workers > 1:
        import ray.train.torch  # noqa: F401
