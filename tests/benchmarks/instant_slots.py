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

import orchestrator.running.cluster.lifecycle
import orchestrator.running.study_run
from alexnet_core.configuration.metrics import EpochReport, SplitMetrics
from orchestrator.running.slots.broker_clients import SlotClient
from orchestrator.running.slots.messages import End, Epoch, FirstStep, Joined, Started, TrialNews
from orchestrator.running.slots.slot import SlotPlan
from orchestrator.running.workers.alexnet_trial import epoch_news

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
        from ray.exceptions import RayError

        try:
            self._serve(slot)
        except RayError as error:
            # 线程若悄悄死去，研究会一直等下去
            self.failure = error

    def _serve(self, slot: int) -> None:
        import ray

        broker = SlotClient(slot)
        broker.tell(Joined(0, ray.get_runtime_context().get_node_id()))
        while not self._closing.is_set():
            job = broker.take(TAKE_WAIT_SECONDS)
            if job is not None:
                for news in _news(int(job.key[:6], 16)):
                    if isinstance(news, Epoch):
                        time.sleep(self._seconds)
                    broker.post(job, news)


def _news(number: int) -> list[TrialNews]:
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
    )
    return [Started(), FirstStep(), epoch_news(report), End("finished", environment={"device_name": "none"})]


if __name__ == "__main__":
    orchestrator.running.study_run.Slots = partial(InstantSlots, seconds=float(sys.argv.pop(1)))  # type: ignore[misc, assignment]
    # 这个进程就是给 Ray 用的
    orchestrator.running.cluster.lifecycle.check_process_is_ours = lambda: None
    from orchestrator.ablate import main

    sys.exit(main())
