"""Deaths of slots: heard in Ray Train's controller, told to the driver, and counted there.

A worker group that dies is started again. One that dies again and again for a reason of its own (a broken GPU, a
library that is missing) would go on for ever.
"""

from __future__ import annotations

from collections import deque
from textwrap import shorten
from typing import Any

from orchestrator.running.slots.broker_clients import SlotClient
from orchestrator.running.slots.messages import Died

DEATHS = 5
WITHIN_SECONDS = 300.0
LONGEST_MESSAGE = 160
OUT_OF_MEMORY = ("running low on memory", "address the out of memory issue")


class DeathCount:
    """The recent deaths of every slot."""

    def __init__(self) -> None:
        """Starts without any."""
        self._moments: dict[int, deque[float]] = {}

    def too_many(self, slot: int, moment: float) -> bool:
        """Counts a death; says whether the slot has died five times within five minutes.

        Args:
            slot: The slot.
            moment: When it died, in seconds of a clock that is never set back.
        """
        moments = self._moments.setdefault(slot, deque(maxlen=DEATHS))
        moments.append(moment)
        return len(moments) == DEATHS and moment - moments[0] <= WITHIN_SECONDS


def death_notice(slot: int) -> Any:
    """Returns the Ray Train callback that tells the broker when a slot's worker group died."""
    from ray.train import UserCallback

    class DeathNotice(UserCallback):  # type: ignore[misc]  # ray is untyped here
        """Lives in the controller of one slot."""

        def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
            """Tells the broker why the first worker died."""
            _, error = min(worker_exceptions.items())
            SlotClient(slot).tell(Died(reason(error)))

    return DeathNotice()


def reason(error: BaseException | None) -> str:
    """Returns in one line what something of Ray's died of."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    # Ray 的内存说明有十几行，最后一行只是网址
    if any(sign in line for sign in OUT_OF_MEMORY for line in lines):
        return "Ray killed it because its node ran out of memory: use fewer --slots, or free memory there"
    return shorten(lines[-1], LONGEST_MESSAGE, placeholder=" ...") if lines else type(error).__name__
