"""What several of the core's commands need."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from alexnet_core.configuration.metrics import SplitMetrics
from alexnet_core.configuration.train_config import DataSpec


def data_at(data: DataSpec, root: Path | None) -> DataSpec:
    """Returns where the data lie now."""
    return data if root is None else data.model_copy(update={"root": str(root)})


def errors_text(metrics: SplitMetrics) -> str:
    """Returns the errors in percent, with their counts."""
    return (
        f"top-1 error {100 * metrics.top1_error:.2f} % ({metrics.top1_errors} of {metrics.count}), "
        f"top-5 error {100 * metrics.top5_error:.2f} % ({metrics.top5_errors} of {metrics.count})"
    )


def print_notes(remarks: Iterable[str]) -> None:
    """Prints what the user should know of the data, a line each."""
    for remark in remarks:
        print(f"note: {remark}", flush=True)


@contextmanager
def progress_of(what: str, seconds: float = 0.0) -> Iterator[Callable[[int, int], None]]:
    """Yields a callback that shows (done, in all): a bar on a terminal, a line now and then elsewhere.

    Args:
        what: Is done.
        seconds: Pass at least between two lines; they come every tenth of the whole at most.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, visible=False)
        shown, last = 0, time.monotonic()

        def update(done: int, total: int) -> None:
            nonlocal shown, last
            bar.update(task, completed=done, total=total, visible=True)
            # 小于上次的数：下一轮开始了
            shown = min(shown, done)
            is_due = done - shown >= total / 10 or done == total
            if not console.is_terminal and is_due and time.monotonic() - last >= seconds:
                shown, last = done, time.monotonic()
                print(f"{what}: {done} of {total}", file=sys.stderr, flush=True)

        yield update
