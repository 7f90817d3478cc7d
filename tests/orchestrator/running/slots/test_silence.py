"""A slot that is heard no more is named once, with its trial, since when and what to do; slow batches are not."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta

from orchestrator.running.slots.broker import Broker
from orchestrator.running.slots.messages import End, FirstStep, Joined, LastHeard, Started, Submission
from orchestrator.running.slots.silence import LOOK_EVERY_SECONDS, SILENT_SECONDS, Silence

NOON = datetime(2026, 11, 29, 12, 0, 0)


class Story:
    """A silence watch with a clock that the test moves; it starts at noon."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.seconds = 0.0
        self.watch = Silence(self.lines.append, lambda: self.seconds, lambda: NOON + timedelta(seconds=self.seconds))

    def look(self, heard: dict[int, LastHeard], launched: dict[str, str] | None = None) -> list[str]:
        """Looks ten seconds later; returns what is said then."""
        self.seconds += LOOK_EVERY_SECONDS
        assert self.watch.is_due()
        before = len(self.lines)
        self.watch.look(heard, launched or {})
        assert not self.watch.is_due()
        return self.lines[before:]


def test_a_silent_slot_is_named_once_and_again_when_it_is_heard() -> None:
    story, launched = Story(), {"3f2a": "no_lrn seed 2"}
    assert story.look({0: LastHeard(SILENT_SECONDS, "3f2a"), 1: LastHeard(0.1, None)}, launched) == []
    (line,) = story.look({0: LastHeard(190.0, "3f2a"), 1: LastHeard(0.1, None)}, launched)
    # 12:00:20 − 190 s
    assert line.startswith("slot 0 has not been heard since 11:57:10 (190 s), in trial no_lrn seed 2; the study goes")
    assert "run the same command again" in line
    assert story.look({0: LastHeard(900.0, "3f2a")}, launched) == []
    assert story.look({0: LastHeard(0.2, "3f2a")}, launched) == ["slot 0 is heard again"]


def test_a_slot_that_was_only_slow_is_given_twice_as_long_the_next_time() -> None:
    story = Story()
    assert len(story.look({0: LastHeard(200.0, "a")})) == 1
    assert len(story.look({0: LastHeard(300.0, "a")})) == 0
    assert len(story.look({0: LastHeard(1.0, "a")})) == 1
    assert story.look({0: LastHeard(600.0, "a")}) == []
    assert len(story.look({0: LastHeard(601.0, "a")})) == 1


def test_a_slot_that_left_with_its_node_is_not_waited_for() -> None:
    story = Story()
    assert len(story.look({0: LastHeard(200.0, "a")}, {"a": "x seed 0"})) == 1
    assert story.look({}, {"a": "x seed 0"}) == []
    assert story.look({0: LastHeard(0.0, "a")}) == [], "a new slot under its number was never silent"


def test_trials_that_reach_no_slot_while_slots_wait_are_named_once() -> None:
    story, idle = Story(), {0: LastHeard(1.0, None), 1: LastHeard(9.0, None)}
    assert [line for _ in range(19) for line in story.look(idle, {"a": "x seed 0"})] == []
    (line,) = story.look(idle, {"a": "x seed 0"})
    # 第一次看见是 12:00:10，第二十次是 12:03:20
    assert line.startswith("no trial has reached a slot since 12:00:10 (190 s), though slots wait")
    assert "x seed 0" in line
    assert story.look(idle, {"a": "x seed 0"}) == []
    assert story.look({0: LastHeard(1.0, "a")}, {"a": "x seed 0"}) == [], "it has arrived"
    assert story.look(idle, {"a": "x seed 0"}) == [], "counted from anew"


def test_the_broker_hears_a_slot_that_asks_tells_or_asks_between_batches_but_not_a_replaced_worker() -> None:
    async def story() -> None:
        moment = 0.0
        broker = Broker(lambda: moment)
        assert await broker.last_heard() == {}
        await broker.slot_news(0, Joined(0, "node"))
        await broker.submit(Submission("a", "{}", "folder", 1, 2))
        moment = 5.0
        assert await broker.last_heard() == {0: LastHeard(5.0, None)}
        assert await broker.take(0, 1.0) is not None
        moment = 10.0
        await broker.post("a", 1, Started())
        moment = 11.0
        await broker.post("a", 1, FirstStep())
        moment = 15.0
        assert await broker.last_heard() == {0: LastHeard(4.0, "a")}
        await broker.progress("a", 1)
        assert await broker.last_heard() == {0: LastHeard(0.0, "a")}
        # 新的 worker 接手，旧的还活着
        assert await broker.take(0, 1.0) is not None
        moment = 30.0
        await broker.progress("a", 1)
        await broker.post("a", 1, FirstStep())
        assert await broker.last_heard() == {0: LastHeard(15.0, "a")}
        await broker.post("a", 2, End("finished"))
        assert await broker.last_heard() == {0: LastHeard(0.0, None)}
        await broker.release(0)
        assert await broker.last_heard() == {}, "its node has left"

    asyncio.run(story())
