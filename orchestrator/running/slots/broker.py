"""The broker: one small actor between the driver, Tune's functions and the slots.

Tune submits trials, slots take them, workers post events, the driver reads the events and writes the records.
It holds no file and no tensor; everything in it can be lost without losing a finished trial.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

BROKER_NAME = "ablation-broker"
ATTEMPTS_PER_TRIAL = 3
# 调度器的进程若死了，worker 不能永远等它的话；要短于看门狗的时限
WORD_WAIT_SECONDS = 20.0
FINAL_STATES = ("finished", "stopped", "diverged", "failed", "interrupted")
Event = dict[str, Any]


@dataclass
class Job:
    """A trial on its way: what the worker needs, and what has been heard of it.

    With `views` above 1 the trained network is then evaluated in so many views; a trial that is trained already is
    evaluated only.
    """

    key: str
    config: str
    folder: str
    attempt: int
    judged: bool = False
    allowed: int = 0
    views: int = 1
    attempts_used: int = 0
    slot: int | None = None
    stop: str | None = None
    last_words: str = ""
    reports: list[Event] = field(default_factory=list)
    final: Event | None = None


class Broker:
    """Async actor class; `cluster.start_broker` makes it a named Ray actor.

    Every waiting method returns after at most `wait` seconds, so that no caller hangs on a quiet study.
    """

    def __init__(self) -> None:
        """Starts empty."""
        self._jobs: dict[str, Job] = {}
        self._queue: deque[str] = deque()
        self._events: deque[Event] = deque()
        self._next_event = 0
        self._running: dict[int, str] = {}
        self._asks: dict[int, int] = {}
        self._closing: str | None = None
        self._changed = asyncio.Condition()

    async def submit(
        self, key: str, config: str, folder: str, attempt: int, judged: bool = False, views: int = 1
    ) -> None:
        """Queues a trial; a second submission of a key re-attaches to the first.

        Args:
            key: The trial.
            config: What the worker trains, as JSON.
            folder: The trial's folder.
            attempt: Number of the attempt.
            judged: Whether a scheduler judges each epoch, so that the worker waits for `go_on` or `stop`.
            views: In how many views the trained network is then evaluated.
        """
        if key in self._jobs:
            return
        job = Job(key=key, config=config, folder=folder, attempt=attempt, judged=judged, views=views)
        self._jobs[key] = job
        if self._closing is not None:
            await self._finish(job, {"state": "interrupted"})
            return
        self._queue.append(key)
        await self._wake()

    async def take(self, slot: int, wait: float) -> Event | None:
        """Gives a slot its next trial, or the one in its hand when its group died; None means ask again."""
        held = self._running.get(slot)
        if held is not None and self._jobs[held].final is None:
            job = self._jobs[held]
            retried = await self._retry(job, slot)
            if retried is not None:
                return retried
        self._running.pop(slot, None)
        self._asks[slot] = mine = self._asks.get(slot, 0) + 1
        await self._wake()
        # 被杀的 worker 的请求可能还等在这里：同一槽位只有最新的请求能拿走 trial，否则它会丢失
        await self._until(lambda: bool(self._queue) or self._asks[slot] != mine, wait)
        if self._asks[slot] != mine or not self._queue:
            return None
        job = self._jobs[self._queue.popleft()]
        job.slot = slot
        job.attempts_used += 1
        self._running[slot] = job.key
        return self._assignment(job)

    async def _may_retry(self, job: Job) -> bool:
        """Whether a trial whose worker died is tried again; ends it where not."""
        if job.stop is not None:
            await self._finish(job, {"state": job.stop})
            return False
        if job.attempts_used >= ATTEMPTS_PER_TRIAL:
            last = f", the last time with {job.last_words}" if job.last_words else ""
            message = f"the worker died {job.attempts_used} times in this trial{last}"
            await self._finish(job, {"state": "failed", "message": message})
            return False
        return True

    async def _retry(self, job: Job, slot: int) -> Event | None:
        if not await self._may_retry(job):
            return None
        job.attempt += 1
        job.attempts_used += 1
        await self._publish({"type": "retry", "key": job.key, "slot": slot, "attempt": job.attempt})
        return self._assignment(job)

    @staticmethod
    def _assignment(job: Job) -> Event:
        return {
            "key": job.key,
            "config": job.config,
            "folder": job.folder,
            "attempt": job.attempt,
            "views": job.views,
        }

    async def post(self, key: str, attempt: int, event: Event) -> str | None:
        """Takes an event from a worker; returns the state to stop with, or None to go on.

        Args:
            key: The trial.
            attempt: The attempt that speaks; an event of an older one is dropped.
            event: `{"type": "started" | "epoch" | "log" | "final", ...}`.
        """
        job = self._jobs.get(key)
        if job is None or job.attempt != attempt or job.final is not None:
            # 被替换的旧进程可能还活着，它的话不再算数
            return "interrupted"
        if event["type"] == "final":
            await self._finish(job, event)
            return None
        if event["type"] == "started" and not job.reports:
            # 从检查点继续：调度器和采样器也要知道以前的 epoch
            job.reports = [{"type": "epoch", "report": report} for report in event["history"]]
        if event["type"] == "epoch":
            job.reports.append(event)
        elif event["type"] == "log":
            job.last_words = event["text"].strip().splitlines()[-1]
        await self._publish({**event, "key": key, "attempt": attempt, "slot": job.slot})
        if job.judged and event["type"] == "epoch":
            epoch = event["report"]["epoch"]
            await self._until(lambda: job.allowed >= epoch or job.stop is not None, WORD_WAIT_SECONDS)
        return job.stop

    async def go_on(self, key: str, epoch: int) -> None:
        """Lets the worker of a judged trial train on after `epoch`."""
        self._jobs[key].allowed = max(self._jobs[key].allowed, epoch)
        await self._wake()

    async def stop(self, key: str, state: str) -> None:
        """Ends a trial with `state`: at once where no slot has it, else between two batches."""
        job = self._jobs.get(key)
        if job is None or job.final is not None:
            return
        job.stop = state
        if job.slot is None:
            self._queue.remove(key)
            await self._finish(job, {"state": state})
        await self._wake()

    async def release(self, slot: int) -> None:
        """Gives the trial of a slot whose node has gone to the next slot that asks; that counts as an attempt."""
        # 死去的 worker 留下的请求不得再拿走 trial
        self._asks[slot] = self._asks.get(slot, 0) + 1
        held = self._running.pop(slot, None)
        job = self._jobs[held] if held is not None else None
        if job is not None and job.final is None and await self._may_retry(job):
            job.slot = None
            job.attempt += 1
            await self._publish({"type": "retry", "key": job.key, "slot": slot, "attempt": job.attempt})
            self._queue.appendleft(job.key)
        await self._wake()

    async def slot_event(self, slot: int, event: Event) -> None:
        """Takes an event that concerns a slot and no trial (ready, renewed)."""
        await self._publish({**event, "slot": slot})

    async def progress(self, key: str, attempt: int) -> str | None:
        """Answers a worker between two batches: the state to stop with, or None to go on."""
        job = self._jobs.get(key)
        if job is None or job.attempt != attempt:
            return "interrupted"
        return job.stop

    async def reports(self, key: str, after: int, wait: float) -> tuple[list[Event], Event | None]:
        """Returns the epochs of a trial past the first `after`, and its final event if it has ended."""
        job = self._jobs[key]
        await self._until(lambda: len(job.reports) > after or job.final is not None, wait)
        return job.reports[after:], job.final

    async def events(self, after: int, wait: float) -> tuple[int, list[Event]]:
        """Returns all events numbered `after` and later; the driver alone reads them, so older ones go."""
        first = self._next_event - len(self._events)
        while self._events and first < after:
            self._events.popleft()
            first += 1
        await self._until(lambda: self._next_event > after, wait)
        return self._next_event, list(self._events)

    async def close(self, state: str) -> None:
        """Ends everything with `state`: queued trials at once, running ones between two batches."""
        self._closing = state
        self._queue.clear()
        for job in self._jobs.values():
            if job.final is None:
                job.stop = state
                if job.slot is None:
                    await self._finish(job, {"state": state})
        # 正等着调度器发话的 worker 也要知道
        await self._wake()

    async def _finish(self, job: Job, event: Event) -> None:
        job.final = {"type": "final", "message": "", **event}
        if job.slot is not None and self._running.get(job.slot) == job.key:
            del self._running[job.slot]
        used = {"key": job.key, "attempt": job.attempt, "attempts_used": job.attempts_used, "slot": job.slot}
        await self._publish({**job.final, **used})

    async def _publish(self, event: Event) -> None:
        self._events.append(event)
        self._next_event += 1
        await self._wake()

    async def _wake(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def _until(self, holds: Callable[[], bool], wait: float) -> bool:
        async with self._changed:
            try:
                await asyncio.wait_for(self._changed.wait_for(holds), timeout=wait)
            except TimeoutError:
                return False
        return True
