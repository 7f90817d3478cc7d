"""How a process that trains on a CPU uses memory and waits; a trial's worker gets the same from its environment."""

from __future__ import annotations

import ctypes
import os

# 不归还、不反复映射内存：每一步重新缺页要占 5 % 到 15 % 的时间（tests/benchmarks/core）
MMAP_THRESHOLD = 32 * 1024**2
TRIM_THRESHOLD = 1024**3
# OpenMP 的线程算完后空转太久，会占住响应归一化的线程要用的核
SPIN_COUNT = 10_000
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def settle_process() -> None:
    """Keeps freed memory, and lets idle threads sleep sooner. Call it before torch is loaded.

    Numbers of glibc's `mallopt` and of libgomp's `GOMP_SPINCOUNT`; elsewhere it does nothing. What the user set stays.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", str(SPIN_COUNT))
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallopt"):
        return
    for variable, number, value in (
        ("MALLOC_TRIM_THRESHOLD_", _M_TRIM_THRESHOLD, TRIM_THRESHOLD),
        ("MALLOC_MMAP_THRESHOLD_", _M_MMAP_THRESHOLD, MMAP_THRESHOLD),
    ):
        if variable not in os.environ:
            library.mallopt(number, value)
