"""Ray for a study: what must hold before it starts, its start here or the cluster that is there, and its death."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from rich.console import Console

from alexnet_core.configuration.schedule import can_be_extended
from alexnet_core.configuration.wording import counted
from alexnet_core.process.interruption import say
from orchestrator.errors import ExitCode, LabError
from orchestrator.output.fitting import print_text
from orchestrator.planning.plan import Plan
from orchestrator.request import Placement
from orchestrator.running.cluster import access, capacity, death_watch, environment, folders, lifecycle, preflight
from orchestrator.running.cluster.nodes import alive_nodes, probe, slots_on, workers_by_gpu
from orchestrator.running.notification import Notifier
from orchestrator.running.placement import likely_slots
from orchestrator.running.progress import Progress
from orchestrator.running.slots.slot import SlotPlan
from search_spaces.core_config import CoreConfig, description_of

if TYPE_CHECKING:
    from orchestrator.running.main_loop import StopSignals


STOP_NOTICE_SECONDS = 2.0
STOPPED = (
    "interrupted; finished trials are on record and running ones keep their last checkpoint. "
    "Go on with the same command."
)


class RayDeath:
    """What is said when Ray dies, and the end of this process with it: nothing of Ray can be trusted any more."""

    def __init__(self, notifier: Notifier, console: Console) -> None:
        """Begins with Ray's start.

        Args:
            notifier: Told of the end.
            console: Where to print.
        """
        self._notifier, self._console = notifier, console
        self._kills_before = capacity.memory_kills()
        self._once = threading.Lock()
        self._display: Progress | None = None
        self._signals: StopSignals | None = None

    def take_over(self, display: Progress, signals: StopSignals) -> None:
        """From now on a study shows its progress, and notes the signals.

        Args:
            display: Closed first.
            signals: Asked whether the user wants to stop.
        """
        self._display, self._signals = display, signals

    def __call__(self, death: str, asked: bool) -> None:
        """Ends the process; called in a watching thread.

        Args:
            death: Who has died, and why.
            asked: Whether it was asked to end.
        """
        # 停下的信号也会发到 Ray 的进程（systemd、Slurm 发给整个 cgroup）：那是停下，不是故障
        if self._signals is None:
            stops = asked
            time.sleep(STOP_NOTICE_SECONDS if asked else 0)
        else:
            stops = self._signals.comes_within(STOP_NOTICE_SECONDS)
        # 主线程可能已经在收尾；两个进程一起死，只说一次
        if death_watch.is_closed() or not self._once.acquire(blocking=False):
            return
        if self._display is not None:
            self._display.__exit__()
        if stops:
            print_text(self._console, STOPPED)
            self._leave(ExitCode.INTERRUPTED)
        lack = capacity.lack_of_memory(self._kills_before)
        say(f"error: {death}; every finished trial is on record, run the same command again to go on{lack}")
        self._leave(ExitCode.ENVIRONMENT, death)

    def _leave(self, code: ExitCode, trouble: str | None = None) -> NoReturn:
        try:
            self._notifier.send(code, trouble)
        finally:
            # 输出写不出去，也不能留下一个没有 Ray 的进程
            lifecycle.leave_dead_ray(code)


def start_ray(
    plan: Plan, placement: Placement, results: Path, console: Console, trials: int, death: RayDeath
) -> tuple[SlotPlan, lifecycle.ClusterFacts]:
    """Checks what can be checked without Ray, then starts it or joins it.

    Args:
        plan: Whose trials run.
        placement: Where they are to train.
        results: The results folder.
        console: Where to print.
        trials: How many are to be run at most.
        death: Called when Ray dies, from now on.

    Raises:
        LabError: With exit code 2 or 3, for what is missing.
    """
    core, joins = description_of(plan.base), placement.address is not None
    if placement.workers > 1 and isinstance(plan.base, CoreConfig):
        raise LabError(
            f"--workers {placement.workers}: core {core.name} trains in one process; leave it out, or ask for more "
            "--slots",
            exit_code=ExitCode.WRONG_USE,
        )
    print_text(console, "joining Ray" if joins else "checking this machine and starting Ray")
    job = {"study": plan.study.name, "data set": plan.dataset, "results": str(results.resolve())}
    # 开关要在载入 Ray 之前设好
    environment.prepare_environment(placement.verbose, dashboard=joins or placement.dashboard, joins=joins)
    if placement.address is not None:
        access.check_address(placement.address)
        _check_disk(plan, results, trials, min(placement.slots or 1, trials))
        imports = _import_meanwhile(placement.workers)
        try:
            facts = lifecycle.join(placement.address, job, death, placement.verbose)
            imports.join()
            return _slots_of_cluster(plan, placement, results, trials), facts
        except LabError:
            # 还没有人往里写；训练开始之后，别的节点也许还在写，就要留给下一个命令
            folders.remove_folders()
            raise
    slot_plan = _slots_here(placement, trials, core.gpus)
    _check_disk(plan, results, trials, slot_plan.slots)
    access.check_loopback()
    _warn_of_memory(placement, slot_plan.slots, console)
    trouble = preflight.shared_memory_trouble(lifecycle.OBJECT_STORE_BYTES)
    if trouble is not None:
        print_text(console, f"warning: /dev/shm {trouble}; Ray's object store goes to the disk, nothing else changes")
    imports = _import_meanwhile(placement.workers)
    facts = lifecycle.start(
        slot_plan.slots * placement.workers + 1,
        preflight.visible_gpus(),
        job,
        on_death=death,
        dashboard=placement.dashboard,
        dashboard_host=placement.dashboard_host,
        shared_memory=trouble is None,
        verbose=placement.verbose,
    )
    imports.join()
    return slot_plan, facts


def _check_disk(plan: Plan, results: Path, trials: int, slots: int) -> None:
    if isinstance(plan.base, CoreConfig):
        # 别的 core 存多大的状态，要练过才知道
        preflight.check_disk(results, preflight.RESERVE_BYTES)
        return
    final_copies = 2 if can_be_extended(plan.base.training) else 1
    preflight.check_disk(results, preflight.disk_need_bytes(plan.base.network, trials, slots, final_copies))


def _warn_of_memory(placement: Placement, slots: int, console: Console) -> None:
    need, memory = capacity.memory_need(slots, placement.workers), capacity.memory_bytes()
    # 一个槽位也放不下时仍然试：估计是按小网络量的
    if need > memory:
        print_text(
            console,
            f"warning: {counted(slots, 'slot fills', 'slots fill')} about {need / 1e9:.1f} GB, this machine or "
            "container gives "
            f"{memory / 1e9:.1f} GB; {'fewer --slots need less' if slots > 1 else 'with less the kernel may kill it'}",
        )


def _slots_here(placement: Placement, trials: int, core_gpus: int) -> SlotPlan:
    """The slots of this machine; raises LabError where it has too few GPUs for those that are asked for."""
    gpus = preflight.visible_gpus()
    per_worker = preflight.choose_gpus_per_worker(placement.gpus_per_worker, gpus, "this machine", core_gpus)
    slots = placement.slots or likely_slots(placement, core_gpus)
    if per_worker and slots * placement.workers > workers_by_gpu(gpus, per_worker):
        need = slots * placement.workers * per_worker
        raise LabError(
            f"{counted(slots, 'slot')} of {counted(placement.workers, 'worker')} with {per_worker:g} GPUs each: "
            f"{need:g} GPUs, "
            f"this machine has {gpus}; use fewer --slots or --workers",
            exit_code=ExitCode.ENVIRONMENT,
        )
    return SlotPlan(min(slots, trials), placement.workers, per_worker, placement.device, follows=False)


def _slots_of_cluster(plan: Plan, placement: Placement, results: Path, trials: int) -> SlotPlan:
    """The slots of a joined cluster; with `--slots` those that do not fit yet wait for nodes."""
    nodes, core_gpus = alive_nodes().values(), description_of(plan.base).gpus
    requested = placement.gpus_per_worker
    largest = max((int(node.resources.get("GPU", 0)) for node in nodes), default=0)
    if requested is not None and placement.slots is not None:
        per_worker = requested
    else:
        per_worker = preflight.choose_gpus_per_worker(requested, largest, "no node of the cluster", core_gpus)
    for root in plan.data_roots:
        probe(results, root, nodes)
    slots = min(trials, placement.slots or slots_on(nodes, per_worker, placement.workers, 1))
    if slots == 0:
        raise LabError(
            f"the cluster at {placement.address} cannot hold one slot of {counted(placement.workers, 'worker')} with "
            f"{per_worker:g} GPUs and 1 CPU each",
            exit_code=ExitCode.ENVIRONMENT,
        )
    # 没有写明槽位数时，节点来了就多开几个
    follows = placement.slots is None
    return SlotPlan(slots, placement.workers, per_worker, placement.device, follows=follows, joined=True)


def _import_meanwhile(workers: int) -> threading.Thread:
    """Imports what takes seconds beside Ray's start; the caller joins the thread before it imports more of Ray."""
    # 同一批模块不能由两个线程同时导入，所以 ray 本身先在这里载入
    import ray  # noqa: F401

    imports = threading.Thread(target=_import_side_by_side, args=(workers,), name="imports", daemon=True)
    imports.start()
    return imports


def _import_side_by_side(workers: int) -> None:
    import ray.train
    import ray.tune

    if workers > 1:
        import ray.train.torch  # noqa: F401
