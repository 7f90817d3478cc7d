"""What a core says, checked: its reports against what it declared, the content of its data, and its sizes."""

from __future__ import annotations

import difflib
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import redirect_stdout
from functools import partial
from numbers import Real
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from alexnet_core.data.dataset import DataSummary
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
    complaints = list(_wrong_names(report, metrics))
    values: dict[str, float] = {}
    for name in (name for name in metrics if name in report):
        try:
            values[name] = _number(name, report[name])
        except ContractError as error:
            complaints.append(str(error))
    if complaints:
        raise ContractError("; ".join(complaints))
    return values


def _wrong_names(report: Mapping[Any, Any], metrics: Mapping[str, Metric]) -> Iterator[str]:
    missing = [name for name in metrics if name not in report]
    strangers = [name for name in report if name not in metrics]
    for name in missing:
        near = difflib.get_close_matches(name, list(map(str, strangers)), n=1, cutoff=0.5)
        has = ", ".join(map(repr, report)) or "nothing"
        yield f"a report lacks the metric {name!r}; it has {repr(near[0]) if near else has}"
    if strangers and not missing:
        names, known = ", ".join(map(repr, strangers)), ", ".join(metrics)
        yield f"a report has {names}, which is no declared metric: {known}; declare it, too, or leave it out"


def checked_data(core: Core, config: BaseModel, root: Path | None) -> str | DataSummary:
    """Returns what a core says of the content of a configuration's data; an empty text where it says nothing.

    Args:
        core: The core.
        config: The configuration.
        root: Folder of the data, or None.

    Raises:
        ContractError: Its function `data` raises, or returns something else.
    """
    if core.data is None:
        return ""
    content = _answer("data", partial(core.data, config, root))
    if not isinstance(content, (str, DataSummary)) or not content:
        raise ContractError(f"data returns a text that stands for the content, not {content!r}")
    return content


def checked_draws(core: Core, config: BaseModel) -> tuple[str, ...]:
    """Returns the sources of randomness that a core draws with a configuration, in the order of its declaration.

    Args:
        core: The core.
        config: The configuration.

    Raises:
        ContractError: Its function `draws` raises, or says something else than sources that it declares.
    """
    if core.draws is None:
        return tuple(core.randomness)
    drawn = _answer("draws", partial(core.draws, config))
    if not isinstance(drawn, (tuple, list, set, frozenset)) or not all(one in core.randomness for one in drawn):
        raise ContractError(f"draws returns some of {', '.join(core.randomness) or 'nothing'}, not {_shown(drawn)}")
    return tuple(source for source in core.randomness if source in drawn)


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
    sizes = _answer("sizes", partial(core.sizes, config))
    if not isinstance(sizes, Mapping):
        raise ContractError(f"sizes returns a mapping of {' and '.join(SIZES)}, not {_shown(sizes)}")
    if strangers := [name for name in sizes if name not in SIZES]:
        raise ContractError(f"sizes says {strangers[0]!r}; it may say {' and '.join(SIZES)}")
    for name, value in sizes.items():
        if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= float(value) < math.inf:
            raise ContractError(f"sizes: {name} is a number from 0 on, not {_shown(value)}")
    return {name: float(sizes[name]) for name in SIZES if name in sizes}


def _answer(what: str, ask: Callable[[], Any]) -> Any:
    """What a function of a core returns; what it raises is one line, which names it unless it is one of ours."""
    try:
        # 标准输出是我们的答案（--json），不是 core 说话的地方
        with redirect_stdout(sys.stderr):
            return ask()
    except ContractError:
        raise
    except (Exception, SystemExit) as error:
        raise ContractError(f"{what} raised {mistake(error)}") from error


def _number(name: str, value: Any) -> float:
    """A metric's value as a float; a tensor or array of one element is its element."""
    if callable(getattr(value, "item", None)):
        try:
            value = value.item()
        except (ValueError, RuntimeError, TypeError):
            raise ContractError(f"metric {name!r} is one number, not {_shown(value)}") from None
    if isinstance(value, bool) or not isinstance(value, Real):
        raise ContractError(f"metric {name!r} is a number, not {_shown(value)}")
    try:
        return float(value)
    except OverflowError:
        # 整数可以比浮点数大：那就是发散
        return -math.inf if value < 0 else math.inf


def _shown(value: Any) -> str:
    text = repr(value).splitlines()[0] if repr(value) else type(value).__name__
    return text if len(text) <= 60 else f"{text[:57]}..."
