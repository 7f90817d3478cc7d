"""Schedulers of Ray Tune that stop a sweep's unpromising points; no arm is ever given to one.

The worker waits after each epoch for the scheduler's word, so a stopped point has trained exactly the epochs that the
scheduler saw.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.choices import PrunerName
from orchestrator.sweeps.objectives import OBJECTIVE

REDUCTION_FACTOR = 3
FEWEST_COMPARED = 3
Curve = Sequence[tuple[int, float]]


def pruner_arguments(pruner: PrunerName, epochs: int) -> dict[str, Any]:
    """Returns a pruner's arguments, each written out; what is recorded in `sweep.json`.

    ASHA (Li et al. 2020) compares at rungs: a ninth of the budget, three times that, and so on, and lets the best third
    pass. The median rule (Golovin et al. 2017) compares after every epoch from a ninth of the budget on.

    Args:
        pruner: Its name.
        epochs: Of a whole trial.
    """
    grace = max(1, epochs // REDUCTION_FACTOR**2)
    if pruner == "asha":
        return {
            "grace_period": grace,
            "max_t": epochs,
            "reduction_factor": REDUCTION_FACTOR,
            "brackets": 1,
            "stop_last_trials": True,
        }
    if pruner == "median":
        # 无限长的时间片：规则永不暂停，只停止；暂停的函数会从头训练
        return {
            "grace_period": grace,
            "min_samples_required": FEWEST_COMPARED,
            "min_time_slice": math.inf,
            "hard_stop": True,
        }
    return {}


def make_pruner(pruner: PrunerName, epochs: int, curves: Iterable[Curve]) -> Any:
    """Returns a scheduler for `TuneConfig`, or None.

    Args:
        pruner: Its name.
        epochs: Of a whole trial; of another core than AlexNet the reports of the longest on record.
        curves: (epoch, objective) of the points of earlier runs, in the order asked: with them a resumed sweep
            prunes as one that was not interrupted.
    """
    if pruner == "none":
        return None
    from ray.tune.schedulers import ASHAScheduler, MedianStoppingRule

    kind = ASHAScheduler if pruner == "asha" else MedianStoppingRule
    made = kind(time_attr="epoch", metric=OBJECTIVE, mode="min", **pruner_arguments(pruner, epochs))
    for place, curve in enumerate(curves):
        stand_in = _OnRecord(f"on-record-{place}")
        made.on_trial_add(None, stand_in)
        for epoch, error in curve:
            made.on_trial_result(None, stand_in, {"epoch": epoch, OBJECTIVE: error})
    return made


@dataclass(frozen=True)
class _OnRecord:
    """Stands for a point of an earlier run; the schedulers know a trial by its name alone."""

    trial_id: str
