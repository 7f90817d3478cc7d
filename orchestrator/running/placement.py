"""How many slots fit, on which devices, and how Ray is started for them."""

from __future__ import annotations

import argparse
import threading
from typing import TYPE_CHECKING

from rich.console import Console

from alexnet_core.configuration.schedule import can_be_extended
from orchestrator.errors import LabError
from orchestrator.planning.estimate import Place
from orchestrator.planning.plan import Plan
from orchestrator.running.cluster import access, environment, lifecycle, preflight
from orchestrator.running.cluster.nodes import alive_nodes, probe, slots_on, workers_by_gpu
from orchestrator.running.slots.slot import SlotPlan

if TYPE_CHECKING:
    pass


def likely_place(options: argparse.Namespace) -> Place:
    """Returns where trials would train on this machine, for the estimate; a cluster's slots are known once joined."""
    return place_of(options.slots or likely_slots(options), options.workers, _gpus_per_worker(options))


def place_of(slots: int, workers: int, gpus_per_worker: float) -> Place:
    """Returns slots of so many workers as what an estimate reckons with."""
    return Place(slots=slots, gpus=workers * gpus_per_worker, towers_apart=gpus_per_worker >= 2)


def _gpus_per_worker(options: argparse.Namespace) -> float:
    asked = _asked_gpus(options)
    return asked if asked is not None else min(preflight.visible_gpus(), 2)


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


def start_ray(
    plan: Plan, options: argparse.Namespace, console: Console, sweep_left: int
) -> tuple[SlotPlan, lifecycle.ClusterFacts]:
    """Preflight, then Ray: GPUs, slots, disk, shared memory."""
    joins = options.address is not None
    environment.prepare_environment(options.verbose, dashboard=joins or not options.no_dashboard, joins=joins)
    if joins:
        access.check_address(options.address)
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
    roomy = preflight.shared_memory_is_enough(lifecycle.OBJECT_STORE_BYTES)
    if not roomy and options.address is None:
        console.print("warning: /dev/shm is small, Ray's object store goes to the temporary folder", highlight=False)
    import ray  # noqa: F401

    # 这些导入要好几秒，与 Ray 的启动并行；同一批模块不能由两个线程同时导入，所以之后要等它
    imports = threading.Thread(target=_import_side_by_side, args=(options.workers,), name="imports", daemon=True)
    imports.start()
    cpus = slots * options.workers + 1
    facts = lifecycle.start(
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
