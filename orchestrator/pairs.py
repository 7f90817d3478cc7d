"""Which trials may be evidence: those of arms and of a confirmation, told from those of a sweep by their type.

Choosing and judging never share data, so a trial that chose a point cannot be handed to what makes a verdict.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from orchestrator.judged import Metric, TimeToThreshold
from orchestrator.sign_test import Between
from orchestrator.verdict import ArmEvidence

Row = Mapping[str, Any]


@dataclass(frozen=True)
class ArmRecord:
    """A trial of an arm on one of the study's seeds; `row` is its row of the trials table."""

    row: Row


@dataclass(frozen=True)
class ConfirmationRecord:
    """A trial of a sweep's point, or of the baseline beside it, on a fresh seed."""

    row: Row


@dataclass(frozen=True)
class SweepRecord:
    """A trial whose error chose a point: no evidence of anything."""

    row: Row


Judgeable = TypeVar("Judgeable", ArmRecord, ConfirmationRecord)


def paired_evidence(
    name: str,
    baseline: Sequence[Judgeable],
    records: Sequence[Judgeable],
    judged: Metric,
    *,
    same_trials: bool = False,
    claimed_points: float | None = None,
) -> ArmEvidence:
    """Returns what trials say of an arm, or of a confirmed point, against the baseline on the same seeds.

    Args:
        name: The arm or point.
        baseline: The baseline's trials, by seed.
        records: Its own, on the same seeds.
        judged: The primary metric.
        same_trials: Whether its configuration is the baseline's.
        claimed_points: The paper's number or its sign.

    Raises:
        TypeError: Trials that chose, or arms' trials beside a confirmation's.
    """
    kinds = {type(record) for record in (*baseline, *records)}
    if kinds not in ({ArmRecord}, {ConfirmationRecord}, set()):
        found = ", ".join(sorted(kind.__name__ for kind in kinds))
        raise TypeError(f"only an arm's trials, or only a confirmation's, are evidence for {name}, not {found}")
    base, rows = [record.row for record in baseline], [record.row for record in records]
    pairs = list(zip(base, rows, strict=True))
    differences = [judged.difference(*pair) for pair in pairs]
    return ArmEvidence(
        name=name,
        differences=tuple(difference for difference in differences if difference is not None),
        planned=len(rows),
        diverged=count(rows, "diverged"),
        failed=count(rows, "failed", "stopped"),
        baseline_diverged=count(base, "diverged"),
        baseline_failed=count(base, "failed", "stopped"),
        same_trials=same_trials,
        claimed_points=claimed_points,
        ratios=_ratios(pairs, judged),
    )


def _ratios(pairs: Sequence[tuple[Row, Row]], judged: Metric) -> tuple[Between, ...] | None:
    if not isinstance(judged, TimeToThreshold):
        return None
    found = [judged.ratio(base, row) for base, row in pairs]
    return tuple(ratio for ratio in found if ratio is not None)


def count(rows: Sequence[Row], *states: str) -> int:
    """Returns how many trials ended in one of these states."""
    return sum(row["state"] in states for row in rows)
