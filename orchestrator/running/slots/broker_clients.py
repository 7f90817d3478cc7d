"""The three sides from which the broker is spoken to, each with what it may say and in which types.

A handle of Ray's may be used from every thread, and so may these.
"""

from __future__ import annotations

from typing import Any

from orchestrator.running.slots.broker import BROKER_NAME
from orchestrator.running.slots.messages import (
    End,
    EndState,
    Epoch,
    Event,
    Job,
    LastHeard,
    SlotNews,
    Submission,
    TrialNews,
)

# 忙机器上，代理的进程十秒还起不来
SLOT_NEWS_SECONDS = 120.0


class SlotClient:
    """What a slot says: its workers, its controller, and the driver's thread that keeps it."""

    def __init__(self, slot: int) -> None:
        """Finds the broker of this driver.

        Args:
            slot: Who speaks.
        """
        import ray

        self._slot, self._broker = slot, ray.get_actor(BROKER_NAME)

    def take(self, wait: float) -> Job | None:
        """Returns the next trial; None means ask again. Waits at most so many seconds."""
        import ray

        job: Job | None = ray.get(self._broker.take.remote(self._slot, wait))
        return job

    def post(self, job: Job, news: TrialNews) -> EndState | None:
        """Tells what has happened in a trial; returns the state to stop with, or None to go on."""
        import ray

        state: EndState | None = ray.get(self._broker.post.remote(job.key, job.attempt, news))
        return state

    def question(self, job: Job) -> Any:
        """Asks whether a trial is to stop, without waiting; returns Ray's reference to the answer of `progress`."""
        return self._broker.progress.remote(job.key, job.attempt)

    def tell(self, news: SlotNews) -> None:
        """Tells what has happened to the slot."""
        import ray

        ray.get(self._broker.slot_news.remote(self._slot, news), timeout=SLOT_NEWS_SECONDS)


class TuneClient:
    """What Tune's function says."""

    def __init__(self) -> None:
        """Finds the broker of this driver."""
        import ray

        self._broker = ray.get_actor(BROKER_NAME)

    def submit(self, submission: Submission) -> None:
        """Has a trial trained; one that is on its way already is followed."""
        import ray

        ray.get(self._broker.submit.remote(submission))

    def epochs(self, key: str, after: int, wait: float) -> tuple[list[Epoch], End | None]:
        """Returns the epochs past the first `after`, and the end if there is one; waits at most so many seconds."""
        import ray

        epochs, end = ray.get(self._broker.epochs.remote(key, after, wait))
        return epochs, end

    def go_on(self, key: str, epoch: int) -> None:
        """Lets the worker of a judged trial train on after an epoch."""
        import ray

        ray.get(self._broker.go_on.remote(key, epoch))


class DriverClient:
    """What the driver says."""

    def __init__(self, broker: Any) -> None:
        """Speaks to the broker that the driver has started.

        Args:
            broker: Its handle, from `cluster.start_broker`.
        """
        self._broker = broker

    def events(self, after: int, wait: float, timeout: float) -> tuple[int, list[Event]]:
        """Returns the number to ask for next, and the events from `after` on.

        Args:
            after: What was answered last.
            wait: Seconds that the broker waits where there is none yet.
            timeout: Seconds after which Ray is taken to be dead (a `RayError`).
        """
        import ray

        number, events = ray.get(self._broker.events.remote(after, wait), timeout=timeout)
        return number, events

    def last_heard(self, timeout: float) -> dict[int, LastHeard]:
        """Returns when each slot was last heard; after `timeout` seconds Ray is taken to be dead (a `RayError`)."""
        import ray

        heard: dict[int, LastHeard] = ray.get(self._broker.last_heard.remote(), timeout=timeout)
        return heard

    def submit(self, submission: Submission) -> None:
        """Has a trial trained; does not wait."""
        self._broker.submit.remote(submission)

    def stop(self, key: str, state: EndState) -> None:
        """Ends a trial with a state; does not wait."""
        self._broker.stop.remote(key, state)

    def release(self, slot: int) -> None:
        """Gives the trial of a slot that is gone to another; does not wait."""
        self._broker.release.remote(slot)

    def close(self, state: EndState, timeout: float) -> None:
        """Ends everything with a state; waits at most so many seconds."""
        import ray

        ray.get(self._broker.close.remote(state), timeout=timeout)
