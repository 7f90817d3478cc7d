"""What an arm costs beside the baseline: seconds, memory, parameters, multiply-adds. Shown, never judged.

Seconds and memory are compared by seed and as ratios, so that an interval of the mean log-ratio says "18 % faster".
Seconds are compared only where both trials were trained side by side from beginning to end: another session had
another load.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from datetime import datetime
from statistics import fmean
from typing import Any

from orchestrator.judging.answer import ArmAnswer, ArmCosts, Measured
from orchestrator.judging.primary_metric import Row
from orchestrator.planning.plan import ALPHA
from orchestrator.statistics.limits import FEWEST_SEEDS
from orchestrator.statistics.paired import paired_test, t_interval

# 最早的记录里，时刻只记到秒
ROUNDED_SECONDS = 1.0
# 只有在同样的地方跑的两个 trial 才能比快慢
PLACE = ("env_device_name", "env_threads", "env_workers", "env_torch")


def arm_costs(baseline: Sequence[Row], rows: Sequence[Row]) -> ArmCosts:
    """Compares an arm's trials with the baseline's.

    Args:
        baseline: Rows of the trials table, by seed.
        rows: The arm's, of the same seeds in the same order; for the baseline itself the same rows.
    """
    known = [row for row in rows if row.get("parameters") is not None]
    return ArmCosts(
        seconds_per_epoch=_measured(baseline, rows, _seconds_per_epoch, _place),
        memory_mb=_measured(baseline, rows, lambda row: row.get("peak_memory_mb"), _memory_place),
        memory_kind=next((row["memory_kind"] for row in rows if row.get("memory_kind")), None),
        parameters=known[0]["parameters"] if known else None,
        multiply_adds=known[0]["multiply_adds"] if known else None,
    )


def _seconds_per_epoch(row: Row) -> float | None:
    return row["seconds"] / row["epochs"] if row.get("epochs") and row["seconds"] else None


def _place(row: Row) -> tuple[Any, ...]:
    """What must be equal for speeds to be comparable; every CPU is called "cpu", so there the host too."""
    host = row.get("env_host") if row.get("env_device_name") == "cpu" else None
    return (_session(row), host, *(row.get(column) for column in PLACE))


def _session(row: Row) -> str:
    """The run of a driver in which a trial was trained; one of several attempts, or that says none, is in its own."""
    # 续训的秒数是几次尝试之和，会话却只是最后一次的
    if not _is_of_one_attempt(row):
        return str(row["key"])
    # 旧记录没有会话，但每次启动 Ray 节点编号都不同
    return str(row.get("env_session") or row.get("env_node") or row["key"])


def _is_of_one_attempt(row: Row) -> bool:
    """Whether all epochs of a trial were trained in the attempt that its session is of."""
    if row.get("env_epochs_before") is not None:
        return bool(row["env_epochs_before"] == "0")
    # 旧记录不说：又试过一次，或秒数比最后一次启动以来还长，就有别处练的
    return (row.get("attempts") or 1) == 1 and row["seconds"] <= _seconds_since_launch(row) + ROUNDED_SECONDS


def _seconds_since_launch(row: Row) -> float:
    """Wall seconds from a trial's last launch to its end; without bound where its record does not say."""
    launched, ended = row.get("started_at"), row.get("finished_at")
    if launched is None or ended is None:
        return math.inf
    try:
        return (datetime.fromisoformat(ended) - datetime.fromisoformat(launched)).total_seconds()
    except (ValueError, TypeError):
        return math.inf


def _memory_place(row: Row) -> tuple[Any, ...]:
    return row.get("memory_kind"), row.get("env_threads"), row.get("env_workers"), row.get("env_torch")


def _measured(
    baseline: Sequence[Row],
    rows: Sequence[Row],
    value: Callable[[Row], float | None],
    place: Callable[[Row], tuple[Any, ...]],
) -> Measured:
    """Compares what `value` gives of an arm's rows with the baseline's, over the pairs with the same `place`."""
    finished = [number for row in rows if row["state"] == "finished" and (number := value(row)) is not None]
    if not finished:
        return Measured()
    pairs, apart = [], 0
    for base, row in zip(baseline, rows, strict=True):
        both_finished = base["state"] == row["state"] == "finished" and base["key"] != row["key"]
        top, bottom = (value(row), value(base)) if both_finished else (None, None)
        if top and bottom and top > 0 and bottom > 0:
            if place(base) == place(row):
                pairs.append((top, bottom))
            else:
                apart += 1
    if not pairs:
        return Measured(mean=fmean(finished), apart=apart)
    test = paired_test([math.log(top / bottom) for top, bottom in pairs])
    # 两对的区间宽得没有意义，与判据一样从三对开始
    interval = t_interval(test, ALPHA) if test.n >= FEWEST_SEEDS else None
    return Measured(
        # 均值和比值出自同样的几对，放在一起才不矛盾
        mean=fmean(top for top, _ in pairs),
        baseline_mean=fmean(bottom for _, bottom in pairs),
        ratio=math.exp(test.mean),
        ratio_interval=(math.exp(interval[0]), math.exp(interval[1])) if interval is not None else None,
        pairs=test.n,
        apart=apart,
    )


def pace(arm: ArmAnswer, of: str = "epoch") -> str:
    """Says how much less or more time an epoch takes than the baseline's: `18 % faster (15 to 21 %)`, or nothing.

    Percentages are of the baseline's seconds per epoch; an interval that holds 1 gets neither word.
    """
    seconds = arm.costs.seconds_per_epoch
    if seconds.ratio is None or seconds.ratio_interval is None:
        return ""
    low, high = seconds.ratio_interval
    if high < 1.0:
        return f"{_percent(1 - seconds.ratio)} faster per {of} ({_bounds(1 - high, 1 - low)})"
    if low > 1.0:
        return f"{_percent(seconds.ratio - 1)} slower per {of} ({_bounds(low - 1, high - 1)})"
    return f"seconds per {of} {100 * (low - 1):+.0f} to {100 * (high - 1):+.0f} %"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _bounds(low: float, high: float) -> str:
    return f"{100 * low:.0f} to {100 * high:.0f} %"
