"""What the broker has to tell the driver, numbered, and the bell that wakes whoever waits for news."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from orchestrator.running.slots.messages import Event


class Bell:
    """Wakes everyone who waits in the broker, whenever something has changed."""

    def __init__(self) -> None:
        """Starts silent."""
        self._changed = asyncio.Condition()

    async def ring(self) -> None:
        """Says that something has changed."""
        async with self._changed:
            self._changed.notify_all()

    async def until(self, holds: Callable[[], bool], seconds: float) -> bool:
        """Waits until something holds, at most so many seconds; returns whether it does."""
        async with self._changed:
            try:
                await asyncio.wait_for(self._changed.wait_for(holds), timeout=seconds)
            except TimeoutError:
                return False
        return True


class EventLog:
    """The events that the driver, who alone reads them, has not confirmed yet."""

    def __init__(self, bell: Bell) -> None:
        """Starts empty.

        Args:
            bell: Rung with every event.
        """
        self._bell = bell
        self._events: deque[Event] = deque()
        self._next = 0

    async def add(self, event: Event) -> None:
        """Adds an event under the next number."""
        self._events.append(event)
        self._next += 1
        await self._bell.ring()

    async def after(self, number: int, wait: float) -> tuple[int, list[Event]]:
        """Returns the number to ask for next, and all events from `number` on.

        Args:
            number: What was answered last; earlier events are confirmed by it and go.
            wait: Seconds to wait where there is none yet.
        """
        # 驱动进程确认过的才丢掉：答复若在路上丢了，它会再问一次
        first = self._next - len(self._events)
        while self._events and first < number:
            self._events.popleft()
            first += 1
        await self._bell.until(lambda: self._next > number, wait)
        return self._next, list(self._events)
