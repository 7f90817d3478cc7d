"""What a training has started is ended with it: in a check as in a slot."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil

# linux/prctl.h
PR_SET_CHILD_SUBREAPER = 36
MOST_GENERATIONS = 5


@contextmanager
def no_children_left() -> Iterator[list[str]]:
    """Ends what is started within and left behind, such as the workers of a loader, whatever its session.

    Yields:
        A list that has afterwards what the left ones are called, sorted.
    """
    names: list[str] = []
    before = {child.pid for child in _children()}
    # 父进程先死的孙子会过继给 init，从此找不到：这段时间里过继给我们
    _adopt(1)
    try:
        yield names
    finally:
        # 被结束的一瞬间还可能又生一个
        for _ in range(MOST_GENERATIONS):
            left = [child for child in _children() if child.pid not in before]
            if not left:
                break
            for child in left:
                with suppress(psutil.Error):
                    # 已经走了、只等收尸的不算留下
                    names += [child.name()] if child.status() != psutil.STATUS_ZOMBIE else []
                    child.kill()
            psutil.wait_procs(left, timeout=1.0)
        _adopt(0)
        names[:] = sorted(set(names))


def _adopt(is_on: int) -> None:
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, is_on, 0, 0, 0)


def _children() -> list[psutil.Process]:
    with suppress(psutil.Error):
        return list(psutil.Process(os.getpid()).children(recursive=True))
    return []
