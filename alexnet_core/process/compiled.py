"""Loops over arrays, compiled for the CPU by numba at their first call. Loads numba only then."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache


@lru_cache(maxsize=16)
def compiled(function: Callable[..., None]) -> Callable[..., None]:
    """Returns a function of arrays compiled, without the interpreter's lock; the machine code is kept on disk.

    Args:
        function: Written in the part of Python that numba compiles; it fills its arguments.
    """
    # numba 导入要半秒，只在第一次用到时才付
    import numba

    how = {"nogil": True, "error_model": "numpy", "fastmath": {"contract"}}
    try:
        made: Callable[..., None] = numba.njit(cache=True, **how)(function)
    except RuntimeError:
        # 没有可写的缓存目录：每个进程自己编译
        made = numba.njit(**how)(function)
    return made
