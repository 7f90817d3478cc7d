"""How much memory a training takes in a warm process that has trained other things before.

On GPUs: the peak of torch's allocator, reset before the trial. On the CPU: how far the process's resident memory rose
during the trial above where it stood before, after free memory was given back to the system; the first trial of a
process is not measured there, since most of its rise is libraries that load lazily.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

STATUS = Path("/proc/self/status")
CLEAR_REFS = Path("/proc/self/clear_refs")
# 内核文档 proc(5)：写 5 把 VmHWM 复位为当前 RSS
RESET_PEAK = "5"
ON_GPU, ON_CPU = "allocated on the GPUs", "resident above the start of the trial"


@dataclass(frozen=True)
class MemoryStart:
    """Where the memory stood before a trial.

    Attributes:
        devices: The CUDA devices that are measured; none on the CPU.
        resident_mb: Resident memory of the process in MB (10^6 bytes); None where it is not measured.
    """

    devices: tuple[str, ...]
    resident_mb: float | None


def start_measuring(devices: Sequence[str], first_in_process: bool) -> MemoryStart:
    """Resets the peaks.

    Args:
        devices: The towers' devices.
        first_in_process: Whether the process has trained nothing yet.
    """
    on_gpu = tuple(sorted({device for device in devices if device.startswith("cuda")}))
    if on_gpu:
        import torch

        for device in on_gpu:
            torch.cuda.reset_peak_memory_stats(device)
        return MemoryStart(on_gpu, None)
    if first_in_process:
        return MemoryStart((), None)
    try:
        # 分配器留着的空闲页会让小网络显得和前一个大网络一样大
        ctypes.CDLL(None).malloc_trim(0)
        CLEAR_REFS.write_text(RESET_PEAK)
        return MemoryStart((), _status_mb("VmRSS"))
    except (OSError, AttributeError, KeyError):
        # 没有 glibc 或 /proc 的系统：宁可不记，也不记不实的数
        return MemoryStart((), None)


def peak_mb(start: MemoryStart) -> tuple[float, str] | None:
    """Returns the trial's peak in MB (10^6 bytes) and of what it is, or None where it was not measured.

    Args:
        start: From `start_measuring` before the trial.
    """
    if start.devices:
        import torch

        return sum(torch.cuda.max_memory_allocated(device) for device in start.devices) / 1e6, ON_GPU
    if start.resident_mb is None:
        return None
    return max(0.0, _status_mb("VmHWM") - start.resident_mb), ON_CPU


def _status_mb(field: str) -> float:
    """A field of the process's status, which the kernel counts in units of 1,024 bytes."""
    fields = dict(line.split(":", 1) for line in STATUS.read_text().splitlines())
    return int(fields[field].split()[0]) * 1024 / 1e6
