"""Two towers on one GPU, side by side: each gives its work to a stream of its own.

Towers on two GPUs overlap by themselves, and the CPU has no streams; there everything here does nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache

import torch


class Lanes:
    """The stream of each tower in one pass through the network: the caller's own for tower 0, another for tower 1."""

    def __init__(self, devices: Sequence[torch.device], *, overlap: bool) -> None:
        """Chooses the streams.

        Args:
            devices: One per tower.
            overlap: False keeps both towers on the caller's stream.
        """
        same = len(devices) == 2 and devices[0] == devices[1] and devices[0].type == "cuda"
        self._side = _side_stream(devices[0]) if same and overlap else None
        self._main = torch.cuda.current_stream(devices[0]) if self._side is not None else None

    def of(self, tower: int) -> AbstractContextManager[object]:
        """Returns a context in which work goes to the stream of a tower."""
        return torch.cuda.stream(self._side) if self._side is not None and tower == 1 else nullcontext()

    def meet(self, tensors: Sequence[torch.Tensor]) -> None:
        """Lets each stream wait for what the other was given so far; the tensors, of any shape, may be read on both."""
        if self._side is None or self._main is None:
            return
        self._main.wait_stream(self._side)
        self._side.wait_stream(self._main)
        for tensor in tensors:
            # 分配器只知道张量出生的流，别的流还在读时不能收回
            tensor.record_stream(self._main)
            tensor.record_stream(self._side)


@lru_cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
