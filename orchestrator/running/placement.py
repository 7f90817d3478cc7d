"""Where trials train on this machine: GPUs per worker, and how many slots its GPUs, cores and memory hold."""

from __future__ import annotations

from alexnet_core.process.control_groups import cpu_cores
from orchestrator.planning.estimate import Estimate, Place
from orchestrator.planning.summary import format_time, time_with_start
from orchestrator.request import Placement
from orchestrator.running.cluster import capacity, preflight
from orchestrator.running.cluster.nodes import workers_by_gpu


def likely_place(placement: Placement, gpus: int) -> Place:
    """Returns where trials would train on this machine, for the estimate; a cluster's slots are known once joined.

    Args:
        placement: Where they are to train.
        gpus: Those that the core wants per worker.
    """
    slots = placement.slots or likely_slots(placement, gpus)
    return place_of(slots, placement.workers, _gpus_per_worker(placement, gpus))


def place_of(slots: int, workers: int, gpus_per_worker: float) -> Place:
    """Returns slots of so many workers as what an estimate reckons with."""
    return Place(slots=slots, gpus=workers * gpus_per_worker, towers_apart=gpus_per_worker >= 2)


def _gpus_per_worker(placement: Placement, gpus: int) -> float:
    requested = placement.gpus_per_worker
    return requested if requested is not None else min(preflight.visible_gpus(), gpus)


def likely_slots(placement: Placement, gpus: int) -> int:
    """Returns how many slots this machine holds: by its GPUs or else its cores, and by its memory.

    Args:
        placement: Where trials are to train.
        gpus: Those that the core wants per worker.
    """
    present, per_worker = preflight.visible_gpus(), _gpus_per_worker(placement, gpus)
    workers = workers_by_gpu(present, per_worker) if per_worker else cpu_cores()
    by_memory = capacity.slots_in(capacity.memory_bytes(), placement.workers)
    return max(1, min(workers // placement.workers, by_memory))


def time_and_memory(cost: Estimate, placement: Placement) -> str:
    """Says how long trials take and how much memory of this machine they fill.

    Args:
        cost: What they are estimated to cost, and on how many slots.
        placement: Where they are to train; of a cluster no memory is said, since its nodes are not known yet.
    """
    if cost.trials == 0 or placement.address is not None:
        return format_time(cost)
    slots = min(cost.place.slots, cost.trials)
    need, memory = capacity.memory_need(slots, placement.workers), capacity.memory_bytes()
    return f"{time_with_start(cost)}, memory about {need / 1e9:.1f} of {memory / 1e9:.1f} GB"
