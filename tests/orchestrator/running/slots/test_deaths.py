"""Deaths of slots are counted by slot, over five minutes."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.running.slots.broker import Broker
from orchestrator.running.slots.deaths import DeathCount, reason
from orchestrator.running.slots.messages import Log, Submission
from orchestrator.running.slots.trial_queue import ATTEMPTS_PER_TRIAL


def test_the_fifth_death_within_five_minutes_is_one_too_many() -> None:
    count = DeathCount()
    assert [count.too_many(0, moment) for moment in (10.0, 11.0, 12.0, 13.0, 310.0)] == [False] * 4 + [True]
    count = DeathCount()
    assert [count.too_many(0, moment) for moment in (10.0, 11.0, 12.0, 13.0, 310.1)] == [False] * 5
    count = DeathCount()
    assert not any(count.too_many(slot, 1.0) for slot in range(5) for _ in range(4)), "each slot for itself"


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 400)), max_size=40))
def test_the_count_agrees_with_counting_all_deaths_again(gaps: list[tuple[int, int]]) -> None:
    count, moment, seen = DeathCount(), 0, []
    for slot, gap in gaps:
        moment += gap
        seen.append((slot, moment))
        recent = [when for which, when in seen if which == slot and when >= moment - 300]
        assert count.too_many(slot, moment) == (len(recent) >= 5)


def test_a_trial_whose_worker_always_dies_fails_with_its_last_words_and_frees_the_slot() -> None:
    async def story() -> None:
        broker = Broker()
        await broker.submit(Submission("poisoned", "{}", "folder", 4, 2))
        await broker.submit(Submission("healthy", "{}", "folder", 1, 2))
        for attempt in range(4, 4 + ATTEMPTS_PER_TRIAL):
            job = await broker.take(0, 1.0)
            assert job is not None
            assert (job.key, job.attempt) == ("poisoned", attempt)
            await broker.post("poisoned", attempt, Log("Traceback\n  ...\nRuntimeError: no memory\n"))
        job = await broker.take(0, 1.0)
        assert job is not None
        assert job.key == "healthy"
        _, end = await broker.epochs("poisoned", 0, 1.0)
        assert end is not None
        assert end.state == "failed"
        assert end.message == "the worker died 3 times in this trial, the last time with RuntimeError: no memory"
        assert await broker.progress("poisoned", 6) is None

    asyncio.run(story())


def test_what_ray_says_of_a_full_memory_is_one_line_that_helps() -> None:
    rays = (
        "Task was killed due to the node running low on memory.\nMemory on the node was 22.3GB / 23.4GB (0.95).\n"
        "Refer to the documentation on how to address the out of memory issue: https://docs.ray.io/. Consider more."
    )
    assert reason(RuntimeError(rays)).startswith("Ray killed it because its node ran out of memory: use fewer --slots")
    assert reason(RuntimeError("first\n\nlast of them\n")) == "last of them"
    assert reason(ValueError()) == "ValueError"
