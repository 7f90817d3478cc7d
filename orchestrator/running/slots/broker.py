"""The broker: one small actor between the driver, Tune's functions and the slots.

Tune submits trials, slots take them, workers post news, the driver reads the events and writes the records.
It holds no file and no tensor; everything in it can be lost without losing a finished trial.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from orchestrator.running.slots.event_log import Bell, EventLog
from orchestrator.running.slots.messages import (
    End,
    EndState,
    Epoch,
    Event,
    Job,
    LastHeard,
    Retry,
    SlotEvent,
    SlotNews,
    Submission,
    TrialEvent,
    TrialNews,
)
from orchestrator.running.slots.trial_queue import Trial, TrialQueue

BROKER_NAME = "ablation-broker"
# 调度器的进程若死了，worker 不能永远等它的话；要短于看门狗的时限
WORD_WAIT_SECONDS = 20.0


class Broker:
    """Async actor class; `cluster.start_broker` makes it a named Ray actor, `broker_clients` speak with it.

    Every waiting method returns after at most `wait` seconds, so that no caller hangs on a quiet study.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Starts empty.

        Args:
            clock: Seconds of a clock that is never set back.
        """
        self._clock = clock
        self._heard_at: dict[int, float] = {}
        self._trials: dict[str, Trial] = {}
        self._queue = TrialQueue()
        self._closing: EndState | None = None
        self._bell = Bell()
        self._events = EventLog(self._bell)

    # ---- for Tune's function ------------------------------------------------------------------------------

    async def submit(self, submission: Submission) -> None:
        """Queues a trial; a second submission of a key re-attaches to the first."""
        key = submission.key
        if key in self._trials:
            return
        trial = self._trials[key] = Trial(submission, submission.attempt)
        if self._closing is not None:
            await self._finish(trial, End(self._closing))
            return
        self._queue.add(trial)
        await self._bell.ring()

    async def epochs(self, key: str, after: int, wait: float) -> tuple[list[Epoch], End | None]:
        """Returns the epochs of a trial past the first `after`, and its end if it has ended."""
        trial = self._trials[key]
        await self._bell.until(lambda: len(trial.epochs) > after or trial.end is not None, wait)
        return trial.epochs[after:], trial.end

    async def go_on(self, key: str, epoch: int) -> None:
        """Lets the worker of a judged trial train on after `epoch`."""
        self._trials[key].allowed = max(self._trials[key].allowed, epoch)
        await self._bell.ring()

    # ---- for the slots ------------------------------------------------------------------------------------

    async def take(self, slot: int, wait: float) -> Job | None:
        """Gives a slot its next trial, or the one in its hand when its group died; None means ask again."""
        self._heard_at[slot] = self._clock()
        held = self._queue.held_by(slot)
        # 手里还有没完的 trial，就是上一个进程死在其中：先把它给新的进程
        if held is not None and await self._tried_again(held):
            return held.begin()
        request = self._queue.request(slot)
        await self._bell.ring()
        # 被杀的 worker 的请求可能还等在这里：同一槽位只有最新的请求能拿走 trial，否则它会丢失
        await self._bell.until(lambda: bool(self._queue) or not self._queue.is_newest(slot, request), wait)
        if not self._queue or not self._queue.is_newest(slot, request):
            return None
        return self._queue.give(slot).begin()

    async def post(self, key: str, attempt: int, news: TrialNews) -> EndState | None:
        """Takes news of a trial from its worker; returns the state to stop with, or None to go on.

        Args:
            key: The trial.
            attempt: The attempt that speaks; news of an older one are dropped.
            news: What has happened.
        """
        trial = self._trials.get(key)
        if trial is None or trial.attempt != attempt or trial.end is not None:
            # 被替换的旧进程可能还活着，它的话不再算数
            return "interrupted"
        self._hear_from(trial)
        if isinstance(news, End):
            await self._finish(trial, news)
            return None
        trial.hear(news)
        await self._tell(trial, news)
        if trial.submission.judged and isinstance(news, Epoch):
            # 等调度器发话：被停下的点不多训练一个 epoch
            await self._bell.until(lambda: trial.allowed >= news.epoch or trial.stop is not None, WORD_WAIT_SECONDS)
        return trial.stop

    async def progress(self, key: str, attempt: int) -> EndState | None:
        """Answers a worker between two batches: the state to stop with, or None to go on."""
        trial = self._trials.get(key)
        if trial is None or trial.attempt != attempt:
            return "interrupted"
        self._hear_from(trial)
        return trial.stop

    async def slot_news(self, slot: int, news: SlotNews) -> None:
        """Takes what concerns a slot and no trial."""
        self._heard_at[slot] = self._clock()
        await self._events.add(SlotEvent(slot, news))

    # ---- for the driver -----------------------------------------------------------------------------------

    async def events(self, after: int, wait: float) -> tuple[int, list[Event]]:
        """Returns all events numbered `after` and later; see `EventLog.after`."""
        return await self._events.after(after, wait)

    async def last_heard(self) -> dict[int, LastHeard]:
        """Returns when each slot that has come up was last heard, and what it has to train."""
        moment = self._clock()
        held = {slot: self._queue.held_by(slot) for slot in self._heard_at}
        return {
            slot: LastHeard(moment - heard_at, trial.submission.key if (trial := held[slot]) is not None else None)
            for slot, heard_at in self._heard_at.items()
        }

    async def stop(self, key: str, state: EndState) -> None:
        """Ends a trial with `state`: at once where no slot has it, else between two batches."""
        trial = self._trials.get(key)
        if trial is None or trial.end is not None:
            return
        trial.stop = state
        if trial.slot is None:
            await self._finish(trial, End(state))
        await self._bell.ring()

    async def release(self, slot: int) -> None:
        """Gives the trial of a slot whose node has gone to the next slot that asks; that counts as an attempt."""
        # 死去的 worker 留下的请求不得再拿走 trial
        self._queue.request(slot)
        self._heard_at.pop(slot, None)
        held = self._queue.let_go(slot)
        if held is not None and await self._tried_again(held):
            self._queue.add_first(held)
        await self._bell.ring()

    async def close(self, state: EndState) -> None:
        """Ends everything with `state`: queued trials at once, running ones between two batches."""
        self._closing = state
        # 等待时可能有新的 trial 交来：它们由 submit 自己了结
        for key in list(self._trials):
            await self.stop(key, state)

    # ---- ends and attempts --------------------------------------------------------------------------------

    async def _tried_again(self, trial: Trial) -> bool:
        """Whether a trial whose worker died is tried again, as a new attempt; ends it where not."""
        if trial.end is not None:
            return False
        end = trial.end_after_death()
        if end is not None:
            await self._finish(trial, end)
            return False
        trial.attempt += 1
        await self._tell(trial, Retry())
        return True

    def _hear_from(self, trial: Trial) -> None:
        if trial.slot is not None:
            self._heard_at[trial.slot] = self._clock()

    async def _finish(self, trial: Trial, end: End) -> None:
        trial.end = end
        self._queue.forget(trial)
        await self._tell(trial, end)

    async def _tell(self, trial: Trial, news: TrialNews | Retry) -> None:
        await self._events.add(TrialEvent(trial.submission.key, trial.attempt, trial.slot, news))
