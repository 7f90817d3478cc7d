"""What is checked before Ray starts: results, disk, shared memory, GPUs. Each fault is one line."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from alexnet_core.configuration.network_spec import NetworkSpec, layer_shapes
from alexnet_core.process.files import abandoned, temporary_path
from orchestrator.errors import ExitCode, LabError
from orchestrator.records.files import check_locks
from orchestrator.records.upgrades import note_schema

SHARED_MEMORY = Path("/dev/shm")
BYTES_PER_PARAMETER = 4
# 训练中的检查点含权重与速度；两份保留，一份正在写
CHECKPOINT_COPIES = 6
RESERVE_BYTES = 64 * 1024**2


def check_results(results: Path) -> None:
    """Creates the results folder, proves that it can be written and locked, and notes the schema of what will be in it.

    Raises:
        LabError: With exit code 3.
    """
    probe, is_new = temporary_path(results / "probe"), not results.is_dir()
    try:
        results.mkdir(parents=True, exist_ok=True)
        for left in abandoned(results / "probe"):
            left.unlink(missing_ok=True)
        try:
            probe.write_text("probe")
        finally:
            probe.unlink(missing_ok=True)
    except OSError as error:
        way_out = "choose another with --results" if is_new else "copy it to where you may write, or choose another"
        raise LabError(
            f"results folder {results} cannot be written: {error.strerror}; {way_out}",
            exit_code=ExitCode.ENVIRONMENT,
        ) from error
    check_locks(results)
    if is_new:
        note_schema(results)


def disk_need_bytes(network: NetworkSpec, trials: int, slots: int, final_copies: int = 1) -> int:
    """Returns the bytes that `trials` further trials need: what each keeps, and the checkpoints of those running.

    Args:
        network: The network.
        trials: How many.
        slots: How many run at once.
        final_copies: What a finished trial keeps, in weights: 2 where it keeps its velocities for more epochs.
    """
    weights = sum(shape.parameters for shape in layer_shapes(network)) * BYTES_PER_PARAMETER
    return trials * final_copies * weights + slots * CHECKPOINT_COPIES * weights + RESERVE_BYTES


def check_disk(results: Path, need_bytes: int) -> None:
    """Compares the need with the free disk.

    Raises:
        LabError: With exit code 3.
    """
    free = shutil.disk_usage(results).free
    if free < need_bytes:
        raise LabError(
            f"{results} has {_size(free)} free, this study needs about {_size(need_bytes)}; "
            "free some, or choose another disk with --results",
            exit_code=ExitCode.ENVIRONMENT,
        )


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def shared_memory_trouble(need_bytes: int, folder: Path = SHARED_MEMORY) -> str | None:
    """Says in a word why a folder of shared memory cannot hold Ray's object store; None where it can.

    Args:
        need_bytes: Bytes of the store.
        folder: Where shared memory is mounted.
    """
    try:
        if shutil.disk_usage(folder).free < need_bytes:
            return f"is too small (it takes {_size(need_bytes)})"
        # Ray 写不了它时要等一分多钟，再说成超时
        with tempfile.TemporaryFile(dir=folder):
            return None
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"cannot be written ({error.strerror})"


def visible_gpus() -> int:
    """Counts this machine's NVIDIA GPUs that CUDA_VISIBLE_DEVICES leaves visible, without loading CUDA."""
    present = sum(1 for path in Path("/dev").glob("nvidia*") if path.name.removeprefix("nvidia").isdecimal())
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return present
    return min(present, sum(1 for name in visible.split(",") if name.strip() not in ("", "-1")))


def choose_gpus_per_worker(gpus: float | None, present: int, where: str, core: int) -> float:
    """Returns the GPUs a worker reserves: as asked, or as many as the core wants and there are.

    Args:
        gpus: `--gpus-per-worker` or `--gpu-share`, or None.
        present: GPUs of the machine, or of the largest node.
        where: Named in the error.
        core: GPUs that the core wants.

    Raises:
        LabError: With exit code 3 when more are asked for than a machine has.
    """
    if gpus is None:
        return min(present, core)
    if gpus > present:
        option = "--gpus-per-worker" if gpus >= 1 else "--gpu-share"
        raise LabError(
            f"{option} {gpus:g}, but {where} has {present}; "
            f"use --gpus-per-worker {min(present, 2)} or leave the option out",
            exit_code=ExitCode.ENVIRONMENT,
        )
    return gpus
