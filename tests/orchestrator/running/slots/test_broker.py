"""The broker alone: no trial is lost or given twice, whoever dies while it asks."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.running.slots.broker import Broker
from orchestrator.running.slots.messages import End, Epoch, Started, Submission


async def submit(broker: Broker, key: str) -> None:
    await broker.submit(Submission(key, "{}", "folder", 1, 2))


def test_the_request_of_a_dead_worker_takes_no_trial_from_the_living_one() -> None:
    async def story() -> None:
        broker = Broker()
        dead = asyncio.ensure_future(broker.take(0, 5.0))
        await asyncio.sleep(0)
        alive = asyncio.ensure_future(broker.take(0, 5.0))
        await asyncio.sleep(0.01)
        await submit(broker, "a")
        await submit(broker, "b")
        assert await dead is None
        first = await alive
        assert first is not None
        assert first.key == "a"
        await broker.post("a", 1, End("finished"))
        second = await broker.take(0, 5.0)
        assert second is not None
        assert second.key == "b"

    asyncio.run(story())


def test_a_trial_given_to_a_worker_that_died_goes_to_the_next_one_of_its_slot() -> None:
    async def story() -> None:
        broker = Broker()
        await submit(broker, "a")
        assert await broker.take(0, 1.0) is not None
        again = await broker.take(0, 1.0)
        assert again is not None
        assert (again.key, again.attempt) == ("a", 2)
        assert await broker.post("a", 1, epoch(1)) == "interrupted"
        await broker.post("a", 2, End("finished"))
        epochs, end = await broker.epochs("a", 0, 1.0)
        assert (epochs, end and end.state) == ([], "finished")

    asyncio.run(story())


def epoch(number: int) -> Epoch:
    return Epoch(number, 0.5, 100, 50.0, "{}")


def test_a_judged_trial_waits_after_each_epoch_until_the_scheduler_has_spoken() -> None:
    async def story() -> None:
        broker = Broker()
        await broker.submit(Submission("a", "{}", "folder", 1, 2, judged=True))
        await broker.take(0, 1.0)
        first = asyncio.ensure_future(broker.post("a", 1, epoch(1)))
        await asyncio.sleep(0.05)
        assert not first.done()
        await broker.go_on("a", 1)
        assert await asyncio.wait_for(first, 1.0) is None
        second = asyncio.ensure_future(broker.post("a", 1, epoch(2)))
        await asyncio.sleep(0.05)
        assert not second.done()
        await broker.stop("a", "stopped")
        assert await asyncio.wait_for(second, 1.0) == "stopped"
        await broker.post("a", 1, End("stopped"))
        epochs, end = await broker.epochs("a", 0, 1.0)
        assert ([one.epoch for one in epochs], end and end.state) == ([1, 2], "stopped")

    asyncio.run(story())


def test_an_interrupted_study_wakes_a_worker_that_waits_for_the_scheduler() -> None:
    async def story() -> None:
        broker = Broker()
        await broker.submit(Submission("a", "{}", "folder", 1, 2, judged=True))
        await broker.take(0, 1.0)
        waiting = asyncio.ensure_future(broker.post("a", 1, epoch(1)))
        await asyncio.sleep(0.05)
        await broker.close("interrupted")
        assert await asyncio.wait_for(waiting, 1.0) == "interrupted"

    asyncio.run(story())


def test_the_epochs_of_a_checkpoint_are_reported_once_before_new_ones() -> None:
    async def story() -> None:
        broker = Broker()
        await submit(broker, "a")
        await broker.take(0, 1.0)
        for _ in range(2):
            await broker.post("a", 1, Started((epoch(1), epoch(2))))
        await broker.post("a", 1, epoch(3))
        epochs, _ = await broker.epochs("a", 0, 1.0)
        assert [one.epoch for one in epochs] == [1, 2, 3]

    asyncio.run(story())


@pytest.mark.slow
@given(st.lists(st.sampled_from(["ask0", "ask1", "die0", "die1", "submit", "end0", "end1"]), max_size=40))
def test_every_trial_ends_once_whatever_dies(actions: list[str]) -> None:
    """Workers of two slots ask, die, and end trials in any order; afterwards living ones finish all the rest."""

    async def story() -> None:
        broker = Broker()
        asking: dict[int, asyncio.Future[object]] = {}
        submitted = 0
        for action in actions:
            slot = int(action[-1]) if action[-1].isdigit() else 0
            if action == "submit":
                await submit(broker, f"trial{submitted}")
                submitted += 1
            elif action.startswith("ask"):
                # 旧请求不取消：死去的 worker 的请求正是这样留在 actor 里
                asking[slot] = asyncio.ensure_future(broker.take(slot, 0.05))
            elif action.startswith("die"):
                asking.pop(slot, None)
            elif slot in asking and asking[slot].done() and asking[slot].result() is not None:
                job = asking.pop(slot).result()
                await broker.post(job.key, job.attempt, End("finished"))
            await asyncio.sleep(0)
        await asyncio.sleep(0.06)
        ended = set()
        for _ in range(4 * submitted + 4):
            for slot in (0, 1):
                job = await broker.take(slot, 0.001)
                if job is not None:
                    await broker.post(job.key, job.attempt, End("finished"))
        for number in range(submitted):
            _, end = await broker.epochs(f"trial{number}", 0, 0.001)
            assert end is not None, f"trial{number} was lost"
            ended.add(end.state)
        assert ended <= {"finished", "failed"}

    asyncio.run(story())
