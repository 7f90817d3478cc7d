"""The thin function that Tune runs for a trial: it finds it at the broker and forwards its epochs.

Its process trains nothing and loads no torch.
"""

from __future__ import annotations

from typing import Any

from orchestrator.running.slots.broker_clients import TuneClient
from orchestrator.running.slots.messages import Epoch, Submission
from orchestrator.sweeps.objectives import OBJECTIVE, steady_rate

POLL_SECONDS = 1.0


def run_trial(config: dict[str, Any]) -> None:
    """The Tune trainable.

    Args:
        config: The fields of a `Submission`; Tune takes nothing but a dictionary.
    """
    from ray import tune

    submission, broker = Submission(**config), TuneClient()
    # 驱动已经提交过：重复提交同一个 key 只是接着听
    broker.submit(submission)
    seen, curve = 0, _Curve()
    held: dict[str, Any] | None = None
    while True:
        epochs, end = broker.epochs(submission.key, seen, POLL_SECONDS)
        seen += len(epochs)
        for epoch in epochs:
            if not curve.add(epoch) or end is not None:
                continue
            # 最后一个 epoch 随终态一起报告：那时已没有什么可停；不知道哪个是最后的，就扣住最新的一个
            if held is not None:
                tune.report(held)
            facts = {**curve.facts(), "state": "running"}
            may_be_last = epoch.epoch >= submission.epochs if submission.epochs else not submission.judged
            held = facts if may_be_last else None
            if held is None:
                tune.report(facts)
            if submission.judged:
                # 最后一个 epoch 也要放行，否则 worker 白等二十秒
                broker.go_on(submission.key, epoch.epoch)
        if end is not None:
            tune.report({**curve.facts(), **end.sizes, "state": end.state})
            return


class _Curve:
    """The epochs of a trial as reported; a repeated one (its worker died) counts once."""

    def __init__(self) -> None:
        self._objective, self._last = 1.0, 0
        self._rates: list[tuple[int, float]] = []

    def add(self, epoch: Epoch) -> bool:
        if epoch.epoch <= self._last:
            return False
        self._last = epoch.epoch
        if epoch.objective is not None:
            self._objective = epoch.objective
        self._rates.append((epoch.images, epoch.images_per_second))
        return True

    def facts(self) -> dict[str, Any]:
        return {
            OBJECTIVE: self._objective,
            "epoch": self._last,
            "images_per_second": steady_rate(self._rates),
        }
