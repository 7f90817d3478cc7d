"""What runs in a Ray Train worker: a loop that takes trial after trial from the broker and trains it.

The worker writes nothing but checkpoints, and what is written past Python; all else it posts. After an unforeseen
exception it reports and ends its process, so that the next trial starts clean.
"""

from __future__ import annotations

import faulthandler
import json
import os
import platform
import socket
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from orchestrator.records.layout import output_path
from orchestrator.running.slots.broker_clients import SlotClient
from orchestrator.running.slots.messages import End, Job, Joined
from orchestrator.running.workers.alexnet_trial import train_alexnet
from orchestrator.running.workers.descriptors import output_to
from orchestrator.running.workers.watchdog import DISK_ERRORS, Place, Watch

RENEW_AFTER_TRIALS = 200
RENEW_AT_MEMORY_RATIO = 1.5
TAKE_WAIT_SECONDS = 10.0


@dataclass(frozen=True)
class WorkerSettings:
    """What a slot's workers are told when they start.

    Attributes:
        slot: The slot's number.
        device: `auto` or `cpu`.
        gpus: GPUs reserved per worker.
        threads: CPU threads per worker.
    """

    slot: int
    device: str
    gpus: float
    threads: int


def slot_loop(config: dict[str, Any]) -> None:
    """Takes and trains trials until the broker is gone or the slot is due for renewal.

    Args:
        config: The fields of `WorkerSettings`; Ray Train takes nothing but a dictionary.
    """
    import torch

    settings = WorkerSettings(**config)
    torch.set_num_threads(settings.threads)
    place = _place(settings)
    place.broker.tell(_joined(place))
    trials, first_memory = 0, 0
    while True:
        job = _next_job(place)
        if job is None:
            continue
        is_poisoned = _run_and_report(place, job, first_in_process=trials == 0)
        trials += 1
        memory = _memory_bytes()
        first_memory = first_memory or memory
        # 内存缓慢上涨时换一个新进程，不等它用完
        renew = is_poisoned or trials >= RENEW_AFTER_TRIALS or memory > RENEW_AT_MEMORY_RATIO * first_memory
        if _agreed(place, renew):
            return


def _place(settings: WorkerSettings) -> Place:
    from ray.train import get_context

    context = get_context()
    return Place(
        slot=settings.slot,
        rank=context.get_world_rank(),
        workers=context.get_world_size(),
        devices=_devices(settings.device, settings.gpus),
        broker=SlotClient(settings.slot),
        gpus=settings.gpus,
    )


def _joined(place: Place) -> Joined:
    import ray

    return Joined(place.rank, ray.get_runtime_context().get_node_id())


def _devices(device: str, gpus: float) -> tuple[str, str]:
    """The two towers' devices; raises RuntimeError when GPUs are reserved but CUDA does not see them."""
    import torch

    if device == "cpu" or gpus == 0:
        return ("cpu", "cpu")
    seen = torch.cuda.device_count()
    if seen < gpus:
        raise RuntimeError(f"{gpus} GPUs are reserved on {socket.gethostname()}, but CUDA sees {seen} there")
    return ("cuda:0", "cuda:1" if gpus >= 2 else "cuda:0")


def _next_job(place: Place) -> Job | None:
    import torch.distributed

    job = place.broker.take(TAKE_WAIT_SECONDS) if place.rank == 0 else None
    if place.workers > 1:
        # 只有 0 号同代理说话，其余的听它的
        shared = [job]
        torch.distributed.broadcast_object_list(shared, src=0)
        job = shared[0]
    return job


def _agreed(place: Place, renew: bool) -> bool:
    import torch.distributed

    if place.workers == 1:
        return renew
    shared = [renew]
    torch.distributed.broadcast_object_list(shared, src=0)
    return bool(shared[0])


def _run_and_report(place: Place, job: Job, first_in_process: bool) -> bool:
    """Trains one trial and reports its end; returns whether this process should take no other."""
    from alexnet_core.training.peak_memory import peak_mb, start_measuring

    watch = Watch(place, job)
    memory = start_measuring(place.devices, first_in_process)
    try:
        with output_to(output_path(Path(job.folder), job.attempt)):
            end = trial_end(place, job, watch)
    finally:
        faulthandler.cancel_dump_traceback_later()
    # 脚本的内存在它自己的进程里，这里量不到
    peak = None if _is_script(job) else peak_mb(memory)
    if peak is not None:
        end = replace(end, peak_memory_mb=peak[0], memory_kind=peak[1])
    watch.post(replace(end, environment={**_environment(place), **end.environment}))
    return watch.is_poisoned


def _is_script(job: Job) -> bool:
    return bool(job.code) and json.loads(job.code).get("script") is not None


def trial_end(place: Place, job: Job, watch: Watch) -> End:
    """Trains one trial and returns how it ended; what poisons a process is reported, and ends the process.

    Args:
        place: Where this worker stands.
        job: What the broker gave.
        watch: Takes the news and says when to stop.
    """
    from alexnet_core.errors import CoreError
    from alexnet_core.training.train import Diverged

    try:
        if job.code:
            from orchestrator.running.workers.core_trial import train_trial_of_core

            return train_trial_of_core(place, job, watch)
        return train_alexnet(place, job, watch)
    except Diverged as error:
        return End("diverged", str(error))
    except CoreError as error:
        return End("failed", str(error))
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            watch.report_and_end()
        # 盘满不是 trial 的错：停在最近的检查点，由驱动进程告诉用户
        return End("interrupted", f"a checkpoint cannot be written: {error}")
    except Exception:
        # 未知异常可能污染进程：先如实报告，再结束进程
        watch.report_and_end()


def _memory_bytes() -> int:
    import psutil

    return int(psutil.Process().memory_info().rss)


def _share(gpus: float) -> str | None:
    """The part of a GPU that a small slot reserves; None for whole ones."""
    return f"{gpus:g}" if 0 < gpus < 1 else None


def _environment(place: Place) -> dict[str, str | int | None]:
    """What the trial ran on; recorded, never part of its key."""
    import numpy
    import ray
    import torch

    from alexnet_core import NUMERICS

    cuda = place.devices[0].startswith("cuda")
    context = ray.get_runtime_context()
    return {
        "python": platform.python_version(),
        # TorchVersion 是 str 的子类：原样发出去，收到它的每个进程都会导入 torch
        "torch": str(torch.__version__),
        "numpy": numpy.__version__,
        "ray": ray.__version__,
        "numerics": NUMERICS,
        "host": socket.gethostname(),
        "processor": platform.machine(),
        "devices": ",".join(place.devices),
        "device_name": torch.cuda.get_device_name(0) if cuda else "cpu",
        "threads": torch.get_num_threads(),
        "workers": place.workers,
        "slot": place.slot,
        "node": context.get_node_id()[:12],
        # 一起加入的集群里，会话名跨驱动不变，作业号区分它们
        "session": f"{context.get_session_name()}/{context.get_job_id()}",
        "reserved_gpus": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "gpu_share": _share(place.gpus),
        "pid": os.getpid(),
        "worker_memory_mb": _memory_bytes() // 1_000_000,
    }
