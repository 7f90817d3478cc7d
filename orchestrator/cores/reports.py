"""What a core says, checked: its reports against what it declared, and its sizes."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from numbers import Real
from typing import Any

from pydantic import BaseModel

from orchestrator.cores.contract import ContractError, Core, Metric
from orchestrator.cores.loading import mistake

SIZES = ("parameters", "multiply_adds")


def checked_report(report: Any, metrics: Mapping[str, Metric]) -> dict[str, float]:
    """Returns a report's metrics as plain numbers, in the declared order; they may be NaN or infinite.

    Args:
        report: What a training has yielded; numpy's numbers and one-element tensors count as numbers.
        metrics: The declared metrics.

    Raises:
        ContractError: It is no mapping, a metric is missing or of another name, or a value is no number.
    """
    if not isinstance(report, Mapping):
        raise ContractError(f"a report is a mapping of metric names to numbers, not {_shown(report)}")
    missing = [name for name in metrics if name not in report]
    strangers = [name for name in report if name not in metrics]
    if missing:
        near = difflib.get_close_matches(missing[0], list(map(str, strangers)), n=1, cutoff=0.5)
        instead = f"; it has {near[0]!r}" if near else f"; it has {', '.join(map(repr, report)) or 'nothing'}"
        raise ContractError(f"a report lacks the metric {missing[0]!r}{instead}")
    if strangers:
        known = ", ".join(metrics)
        raise ContractError(
            f"a report has {strangers[0]!r}, which is no declared metric: {known}; declare it, too, or leave it out"
        )
    return {name: _number(name, report[name]) for name in metrics}


def checked_sizes(core: Core, config: BaseModel) -> dict[str, float]:
    """Returns what a core says of a configuration: `parameters` and `multiply_adds`, both, either or neither.

    Args:
        core: The core.
        config: The configuration.

    Raises:
        ContractError: Its function `sizes` raises, says something else, or a size is no number from 0 on.
    """
    if core.sizes is None:
        return {}
    try:
        sizes = core.sizes(config)
    except (Exception, SystemExit) as error:
        raise ContractError(f"sizes raised {mistake(error)}") from error
    if not isinstance(sizes, Mapping):
        raise ContractError(f"sizes returns a mapping of {' and '.join(SIZES)}, not {_shown(sizes)}")
    if strangers := [name for name in sizes if name not in SIZES]:
        raise ContractError(f"sizes says {strangers[0]!r}; it may say {' and '.join(SIZES)}")
    for name, value in sizes.items():
        if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= float(value) < math.inf:
            raise ContractError(f"sizes: {name} is a number from 0 on, not {_shown(value)}")
    return {name: float(sizes[name]) for name in SIZES if name in sizes}


def _number(name: str, value: Any) -> float:
    """A metric's value as a float; a tensor or array of one element is its element."""
    if callable(getattr(value, "item", None)):
        try:
            value = value.item()
        except (ValueError, RuntimeError, TypeError):
            raise ContractError(f"metric {name!r} is one number, not {_shown(value)}") from None
    if isinstance(value, bool) or not isinstance(value, Real):
        raise ContractError(f"metric {name!r} is a number, not {_shown(value)}")
    return float(value)


def _shown(value: Any) -> str:
    text = repr(value).splitlines()[0] if repr(value) else type(value).__name__
    return text if len(text) <= 60 else f"{text[:57]}..."
