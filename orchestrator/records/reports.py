"""What a training has reported, line by line: AlexNet's epochs, and the reports of another core by metric name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import Field

from alexnet_core.configuration.frozen import Frozen
from alexnet_core.configuration.metrics import Count, EpochReport
from search_spaces.core_config import CoreDescription, MetricValue


class CoreReport(Frozen):
    """One report of a core.

    Attributes:
        epoch: Its number, from 1; most cores report once per epoch.
        metrics: By name, as the core counts them (not scaled).
        seconds: Since the report before, or since the beginning.
    """

    epoch: Count
    metrics: dict[str, MetricValue] = Field(min_length=1)
    seconds: float = Field(ge=0)


Report = EpochReport | CoreReport


def parse_report(plain: Any) -> Report:
    """Validates a line of `epochs.jsonl`; raises pydantic's ValidationError."""
    of_core = isinstance(plain, Mapping) and "metrics" in plain
    return (CoreReport if of_core else EpochReport).model_validate(plain)


def objective_of(report: Report, core: CoreDescription) -> float | None:
    """Returns what is minimised: the metric that chooses, with its sign turned where higher is better.

    Args:
        report: Of a training; AlexNet's objective is the top-1 validation error in [0, 1]; None where no image is
            held out.
        core: What was trained.

    Raises:
        KeyError: The report lacks the metric.
    """
    if isinstance(report, EpochReport):
        return report.validation_error
    return core.chosen.objective(report.metrics[core.chosen_by])


def objective_curve(reports: Iterable[Report], core: CoreDescription) -> tuple[tuple[int, float], ...]:
    """Returns (epoch, objective) of those reports that have one, see `objective_of`."""
    curve = ((report.epoch, objective_of(report, core)) for report in reports)
    return tuple((epoch, objective) for epoch, objective in curve if objective is not None)
