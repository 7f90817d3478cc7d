"""`python -m tests.benchmarks.instant_slots SECONDS ...`: the real `ablate` over slots that only sleep.

Broker, Tune, searcher, recorder, tables and answer are the product's; each trial posts one made epoch and ends after
so many seconds, so that what a trial takes beyond them is what the orchestrator takes.
"""

from __future__ import annotations

import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import orchestrator.running.study_run
from alexnet_core.configuration.metrics import EpochReport, SplitMetrics
from orchestrator.running.slots.slot import SlotPlan

TAKE_WAIT_SECONDS = 10.0


class InstantSlots:
    """Stands where `Slots` stands: a thread per slot takes trial after trial from the broker."""

    failure: BaseException | None = None

    def __init__(
        self, plan: SlotPlan, study: str, storage: Path, worker_environment: dict[str, str], *, seconds: float
    ) -> None:
        """Starts the threads; each trial takes so many seconds."""
        self._seconds = seconds
        self._closing = threading.Event()
        self.count = 0
        self.grow(plan.slots)

    def grow(self, count: int) -> None:
        """Starts further slots, up to `count`."""
        for slot in range(self.count, count):
            threading.Thread(target=self._keep, args=(slot,), daemon=True).start()
        self.count = max(self.count, count)

    def close(self) -> None:
        """Ends them."""
        self._closing.set()

    def _keep(self, slot: int) -> None:
        import ray

        from orchestrator.running.slots.broker import BROKER_NAME

        broker = ray.get_actor(BROKER_NAME)
        node = ray.get_runtime_context().get_node_id()
        ray.get(broker.slot_event.remote(slot, {"type": "ready", "rank": 0, "node": node}))
        while not self._closing.is_set():
            job = ray.get(broker.take.remote(slot, TAKE_WAIT_SECONDS))
            if job is not None:
                for event in _events(int(job["key"][:6], 16)):
                    if event["type"] == "epoch":
                        time.sleep(self._seconds)
                    ray.get(broker.post.remote(job["key"], job["attempt"], event))


def _events(number: int) -> list[dict[str, Any]]:
    """What a worker posts of a trial of one epoch."""
    wrong = SplitMetrics(loss_sum=1.0, top1_errors=number % 40, top5_errors=0, count=360)
    report = EpochReport(
        epoch=1,
        learning_rate=0.01,
        train=wrong,
        validation=wrong,
        test=wrong,
        train_final=wrong,
        seconds=1e-3,
        images_per_second=1000.0,
    ).model_dump(mode="json")
    return [
        {"type": "started", "history": []},
        {"type": "training"},
        {"type": "epoch", "report": report},
        {"type": "final", "state": "finished", "environment": {"device_name": "none"}},
    ]


if __name__ == "__main__":
    orchestrator.running.study_run.Slots = partial(InstantSlots, seconds=float(sys.argv.pop(1)))  # type: ignore[misc, assignment]
    from orchestrator.ablate import main

    sys.exit(main())
