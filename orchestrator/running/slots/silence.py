"""Silence: slots that are heard no more, and trials that reach no slot; a study says so and goes on.

A worker that trains asks the broker between two batches, one that waits asks for a trial every ten seconds, and one
whose batches stop ends its own process after `watchdog.QUIET_LIMIT_SECONDS`. What stays silent for longer is stopped
itself, hangs before its first batch, or is cut off from the broker by a raylet that is not ours.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta

from orchestrator.running.slots.messages import LastHeard

SILENT_SECONDS = 180.0
LOOK_EVERY_SECONDS = 10.0
# 一批就要几分钟的慢机器，只说第一次
KNOWN_RATIO = 2.0
REMEDY = "if it stays so, press Ctrl-C and run the same command again: finished trials are on record"


class Silence:
    """Says once of every silence who is silent, since when, and what to do; and once that it is over."""

    def __init__(
        self,
        say: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = datetime.now,
    ) -> None:
        """Starts with nobody silent.

        Args:
            say: Prints a line.
            clock: Seconds of a clock that is never set back.
            now: Tells the time of day that is shown.
        """
        self._say, self._clock, self._now = say, clock, now
        self._next_look = clock()
        self._longest: dict[int, float] = {}
        self._silent: dict[int, float] = {}
        self._unserved_since: float | None = None
        self._is_said = False

    def is_due(self) -> bool:
        """Says whether it is time to look again."""
        return self._clock() >= self._next_look

    def look(self, heard: Mapping[int, LastHeard], launched: Mapping[str, str]) -> None:
        """Compares what the broker has heard with what is waited for.

        Args:
            heard: When each slot that has come up was last heard.
            launched: What the trials are called that are launched and have not ended, by key.
        """
        self._next_look = self._clock() + LOOK_EVERY_SECONDS
        for slot, last in sorted(heard.items()):
            self._look_at(slot, last, launched)
        # 节点走了的槽位，代理已经忘了
        self._silent = {slot: seconds for slot, seconds in self._silent.items() if slot in heard}
        self._look_for_unserved(heard, launched)

    def _look_at(self, slot: int, last: LastHeard, launched: Mapping[str, str]) -> None:
        before = self._silent.get(slot)
        if last.seconds > max(SILENT_SECONDS, KNOWN_RATIO * self._longest.get(slot, 0.0)):
            self._silent[slot] = last.seconds
            if before is None:
                trial = f", in trial {launched.get(last.key, last.key)}" if last.key is not None else ""
                self._say(
                    f"slot {slot} has not been heard since {self._time_before(last.seconds)} "
                    f"({last.seconds:.0f} s){trial}; the study goes on without it. Should its worker "
                    f"(ray::RayTrainWorker) hang, kill that process and the slot is renewed; {REMEDY}"
                )
        elif before is not None:
            del self._silent[slot]
            self._longest[slot] = max(before, self._longest.get(slot, 0.0))
            self._say(f"slot {slot} is heard again")

    def _look_for_unserved(self, heard: Mapping[int, LastHeard], launched: Mapping[str, str]) -> None:
        """Trials that no slot has, while all slots wait for one: Tune's actor or its way to the broker is blocked."""
        if not launched or not heard or any(last.key is not None for last in heard.values()):
            self._unserved_since, self._is_said = None, False
            return
        if self._unserved_since is None:
            self._unserved_since = self._clock()
        seconds = self._clock() - self._unserved_since
        if seconds > SILENT_SECONDS and not self._is_said:
            self._is_said = True
            names = ", ".join(sorted(launched.values()))
            self._say(
                f"no trial has reached a slot since {self._time_before(seconds)} ({seconds:.0f} s), though slots wait "
                f"and these are on their way: {names}; {REMEDY}"
            )

    def _time_before(self, seconds: float) -> str:
        return f"{self._now() - timedelta(seconds=seconds):%H:%M:%S}"
