"""How many slots fit, on which devices, and how Ray is started for them."""

from __future__ import annotations

import threading
from pathlib import Path

from rich.console import Console

from alexnet_core.configuration.schedule import can_be_extended
from orchestrator.errors import ExitCode, LabError
from orchestrator.planning.estimate import Place
from orchestrator.planning.plan import Plan
from orchestrator.request import Placement
from orchestrator.running.cluster import access, environment, lifecycle, preflight
from orchestrator.running.cluster.nodes import alive_nodes, probe, slots_on, workers_by_gpu
from orchestrator.running.slots.slot import SlotPlan


def likely_place(placement: Placement) -> Place:
    """Returns where trials would train on this machine, for the estimate; a cluster's slots are known once joined."""
    slots = placement.slots or likely_slots(placement)
    return place_of(slots, placement.workers, _gpus_per_worker(placement))


def place_of(slots: int, workers: int, gpus_per_worker: float) -> Place:
    """Returns slots of so many workers as what an estimate reckons with."""
    return Place(slots=slots, gpus=workers * gpus_per_worker, towers_apart=gpus_per_worker >= 2)


def _gpus_per_worker(placement: Placement) -> float:
    asked = placement.gpus_per_worker
    return asked if asked is not None else min(preflight.visible_gpus(), 2)


def likely_slots(placement: Placement) -> int:
    """Returns how many slots this machine holds."""
    gpus, per_worker = preflight.visible_gpus(), _gpus_per_worker(placement)
    places = workers_by_gpu(gpus, per_worker) if per_worker else preflight.cpu_cores()
    return max(1, places // placement.workers)


def start_ray(
    plan: Plan, placement: Placement, results: Path, console: Console, trials: int
) -> tuple[SlotPlan, lifecycle.ClusterFacts]:
    """Preflight, then Ray: GPUs, slots, disk, shared memory.

    Args:
        plan: Whose trials run.
        placement: Where they are asked to train.
        results: The results folder.
        console: Where to print.
        trials: How many are to be run at most.
    """
    joins = placement.address is not None
    environment.prepare_environment(placement.verbose, dashboard=joins or placement.dashboard, joins=joins)
    if placement.address is not None:
        access.check_address(placement.address)
    gpus = preflight.visible_gpus()
    if placement.address is None:
        per_worker = preflight.choose_gpus_per_worker(placement.gpus_per_worker, gpus, "this machine")
        slots = placement.slots or likely_slots(placement)
        _check_slots(slots, per_worker, gpus, placement.workers)
    else:
        per_worker, slots = 0.0, placement.slots or 1
    slots = min(slots, trials)
    final_copies = 2 if can_be_extended(plan.base.training) else 1
    need = preflight.disk_need_bytes(plan.base.network, trials, slots, final_copies)
    preflight.check_disk(results, need)
    roomy = preflight.shared_memory_is_enough(lifecycle.OBJECT_STORE_BYTES)
    if not roomy and placement.address is None:
        console.print("warning: /dev/shm is small, Ray's object store goes to the temporary folder", highlight=False)
    import ray  # noqa: F401

    # 这些导入要好几秒，与 Ray 的启动并行；同一批模块不能由两个线程同时导入，所以之后要等它
    imports = threading.Thread(target=_import_side_by_side, args=(placement.workers,), name="imports", daemon=True)
    imports.start()
    cpus = slots * placement.workers + 1
    facts = lifecycle.start(
        placement.address, cpus, gpus, placement.dashboard, placement.dashboard_host, roomy, placement.verbose
    )
    imports.join()
    if placement.address is not None:
        per_worker, slots = _cluster_slots(trials, plan.base.data.root, placement, results)
    # 没有写明槽位数时，节点来了就多开几个
    follows = placement.address is not None and placement.slots is None
    return SlotPlan(slots, placement.workers, per_worker, placement.device, follows=follows), facts


def _cluster_slots(trials: int, data: str | None, placement: Placement, results: Path) -> tuple[float, int]:
    """(GPUs per worker, slots) on a joined cluster; with `--slots` those that do not fit yet wait for nodes."""
    nodes = alive_nodes().values()
    asked = placement.gpus_per_worker
    largest = max((int(node.resources.get("GPU", 0)) for node in nodes), default=0)
    if asked is not None and placement.slots is not None:
        per_worker = asked
    else:
        per_worker = preflight.choose_gpus_per_worker(asked, largest, "no node of the cluster")
    probe(results, data, nodes)
    slots = min(trials, placement.slots or slots_on(nodes, per_worker, placement.workers, 1))
    if slots == 0:
        raise LabError(
            f"the cluster at {placement.address} cannot hold one slot of {placement.workers} workers with "
            f"{per_worker:g} GPUs and 1 CPU each",
            exit_code=ExitCode.ENVIRONMENT,
        )
    return per_worker, slots


def _check_slots(slots: int, per_worker: float, gpus: int, workers: int) -> None:
    if per_worker and slots * workers > workers_by_gpu(gpus, per_worker):
        need = slots * workers * per_worker
        raise LabError(
            f"{slots} slots of {workers} workers with {per_worker:g} GPUs each need {need:g} GPUs, "
            f"this machine has {gpus}; use fewer --slots or --workers",
            exit_code=ExitCode.ENVIRONMENT,
        )


def _import_side_by_side(workers: int) -> None:
    import ray.train
    import ray.tune

    if workers > 1:
        import ray.train.torch  # noqa: F401
