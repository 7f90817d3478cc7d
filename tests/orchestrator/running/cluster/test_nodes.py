"""Slots are counted per node, and a trial whose node has gone is given to another slot."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import LabError
from orchestrator.running.cluster.access import check_address
from orchestrator.running.cluster.nodes import Node, names_in, slots_on, unseen, workers_by_gpu
from orchestrator.running.slots.broker import Broker
from orchestrator.running.slots.messages import End, Submission
from orchestrator.running.slots.trial_queue import ATTEMPTS_PER_TRIAL


def cluster(*gpus: int, cpus: int = 16) -> list[Node]:
    return [Node(str(number), "10.0.0.1", {"CPU": cpus, "GPU": count}) for number, count in enumerate(gpus)]


@pytest.mark.parametrize(
    ("gpus", "per_worker", "workers", "slots"),
    [
        ((2, 2), 2, 1, 2),
        ((3, 3), 2, 1, 2),
        ((3, 1, 2), 2, 1, 2),
        ((3, 1, 2), 1, 1, 6),
        ((3, 1, 2), 2, 2, 1),
        ((4,), 2, 1, 2),
        ((1, 1), 2, 1, 0),
        ((3, 1, 2), 0.25, 1, 24),
        ((2,), 0.3, 1, 6),
        ((2,), 0.6, 1, 2),
        ((0, 0), 0, 1, 32),
        ((0, 0), 0, 4, 8),
    ],
)
def test_slots_are_the_whole_workers_of_each_node(
    gpus: tuple[int, ...], per_worker: float, workers: int, slots: int
) -> None:
    assert slots_on(cluster(*gpus), per_worker, workers, threads=1) == slots


def test_a_node_with_few_cpus_holds_no_more_workers_than_those() -> None:
    assert slots_on(cluster(8, 8, cpus=3), 1, 1, threads=1) == 6
    assert slots_on(cluster(8, 8, cpus=3), 1, 1, threads=2) == 2


@given(st.integers(1, 100), st.integers(1, 16))
def test_as_many_shares_as_a_gpu_has_fit_on_it(parts: int, gpus: int) -> None:
    assert workers_by_gpu(gpus, 1 / parts) == parts * gpus


def test_a_node_without_the_records_or_with_other_images_says_so(tmp_path: Path) -> None:
    data, probe = tmp_path / "data", tmp_path / "probe"
    for name in ("train/cat", "train/dog", "val/cat", "val/dog"):
        (data / name).mkdir(parents=True)
    probe.write_text("probe")
    seen = names_in(str(data))
    assert unseen(str(probe), "node", str(data), seen) == ""
    assert unseen(str(probe), "node", None, None) == ""
    assert unseen(str(tmp_path / "elsewhere" / "probe"), "node", str(data), seen) == "results"
    assert unseen(str(probe), "node", str(tmp_path / "elsewhere"), seen) == "data"
    (data / "train" / "dog").rmdir()
    assert unseen(str(probe), "node", str(data), seen) == "data"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "probe"]


async def queued(*keys: str) -> Broker:
    broker = Broker()
    for key in keys:
        await broker.submit(Submission(key, "{}", "", 1, 2))
    return broker


async def taken(broker: Broker, slot: int) -> tuple[str, int] | None:
    job = await broker.take(slot, 0.0)
    return None if job is None else (job.key, job.attempt)


def test_a_trial_of_a_slot_whose_node_has_gone_goes_first_to_another_and_the_dead_worker_is_not_heard() -> None:
    async def story() -> None:
        broker = await queued("a", "b", "c")
        assert [await taken(broker, slot) for slot in (0, 1)] == [("a", 1), ("b", 1)]
        await broker.release(0)
        assert await broker.post("a", 1, End("finished")) == "interrupted"
        assert await broker.post("b", 1, End("finished")) is None
        assert await taken(broker, 1) == ("a", 2)
        assert await taken(broker, 0) == ("c", 1), "the slot that came back elsewhere takes the next one"
        await broker.release(7)

    asyncio.run(story())


def test_a_request_of_a_worker_that_went_with_its_node_takes_no_trial() -> None:
    async def story() -> None:
        broker = await queued()
        dead = asyncio.create_task(broker.take(0, 5.0))
        await asyncio.sleep(0)
        await broker.release(0)
        await broker.submit(Submission("a", "{}", "", 1, 2))
        assert await dead is None
        assert await taken(broker, 1) == ("a", 1)

    asyncio.run(story())


def test_a_trial_that_loses_node_after_node_ends_as_failed() -> None:
    async def story() -> None:
        broker = await queued("a")
        for attempt in range(1, ATTEMPTS_PER_TRIAL + 1):
            assert await taken(broker, 0) == ("a", attempt)
            await broker.release(0)
        assert await taken(broker, 1) is None
        end = (await broker.epochs("a", 0, 0.0))[1]
        assert end is not None
        assert end.state == "failed"

    asyncio.run(story())


@pytest.mark.parametrize("address", ["localhost", "ray://127.0.0.1:10001", "a b:1", "127.0.0.1:99999", "local", ":1"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(LabError, match=r"use HOST:PORT, or auto") as caught:
        check_address(address)
    assert caught.value.exit_code == 2


def test_an_address_at_which_nothing_answers_is_said_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        check_address(address)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    check_address("auto")
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text(address)
    for given_address in (address, "auto"):
        with pytest.raises(LabError, match=f"no Ray cluster answers at {address}") as caught:
            check_address(given_address)
        assert caught.value.exit_code == 3
