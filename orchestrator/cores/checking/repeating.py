"""A trial on record, trained again outside Ray: whether a core, be it edited since, still gives its numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from alexnet_core.configuration.wording import counted
from orchestrator.cores.checking.checks import Finding, Rehearsal, rehearse_seed
from orchestrator.cores.identity import KeptCode
from orchestrator.cores.loading import CoreName
from search_spaces.core_config import CoreConfig


@dataclass(frozen=True)
class Recorded:
    """A trial on record.

    Attributes:
        config: Its configuration.
        reports: Its metrics by name, report by report.
    """

    config: CoreConfig
    reports: Sequence[dict[str, float]]


def repeated(recorded: Recorded, name: CoreName, code: KeptCode | None, reports: int) -> Iterator[Finding]:
    """Trains the first reports of a trial on record again, and compares them to the last bit.

    Args:
        recorded: The trial.
        name: The core, as it is now.
        code: What it is loaded by instead, where it is the kept code of the trial.
        reports: How many reports are trained at most.

    Yields:
        A line per report that is the same, or the first that differs; a fault is the last.
    """
    config, count = recorded.config, min(reports, len(recorded.reports))
    root = None if config.data.root is None else Path(config.data.root)
    rehearsed = rehearse_seed(Rehearsal(name, dict(config.fields), count, root, code, config.seeds), config.seed)
    for number, (before, (_, now)) in enumerate(zip(recorded.reports, rehearsed.reports, strict=False), start=1):
        differing = [metric for metric in before if before[metric] != now.get(metric)]
        if differing:
            metric = differing[0]
            yield Finding("fault", f"report {number}: {metric} is {now.get(metric)!r}, on record {before[metric]!r}")
            return
        values = ", ".join(f"{metric} {config.core.metrics[metric].text(now[metric])}" for metric in before)
        yield Finding("ok", f"report {number} is the one on record: {values}")
    if rehearsed.mistake:
        yield Finding("fault", rehearsed.mistake)
    elif len(rehearsed.reports) < count:
        yield Finding("fault", f"it ended after {counted(len(rehearsed.reports), 'report')} of {count}")
