"""What the user sees while a study runs: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from rich.cells import cell_len
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from alexnet_core.configuration.wording import counted
from orchestrator.output.fitting import print_text
from search_spaces.core_config import ALEXNET, PERCENT, CoreDescription, number_in

logger = logging.getLogger(__name__)
_STYLES = {
    "finished": "green",
    "diverged": "magenta",
    "failed": "red",
    "stopped": "yellow",
    "running": "cyan",
    "interrupted": "yellow",
    "waiting": "dim",
}
_WIDEST = 10
# 扫描的点的行：列里是点的位置，不是种子
POINTS = "sweep"
Cell = tuple[str, int]


class Shown(NamedTuple):
    """What a cell says.

    Attributes:
        state: The trial's state.
        text: Its metric, or the state where it has none.
    """

    state: str
    text: str


def cell_name(arm: str, seed: int) -> str:
    """Returns what a cell is called in a line: the seed of an arm, or the point of a sweep."""
    return f"{arm} {'point' if arm == POINTS else 'seed'} {seed}"


def cell_text(state: str, objective: float | None, epoch: int | None = None, core: CoreDescription = ALEXNET) -> str:
    """Returns what a cell says of a trial, here and in `status`: the metric that chooses.

    Args:
        state: The trial's state.
        objective: See `TrialResult.objective`; None where no epoch has ended.
        epoch: The epoch, or report, it is of, while the trial has not ended.
        core: What is trained.
    """
    value = None if objective is None else core.chosen.scale * core.chosen.objective(objective)
    return value_text(state, value, epoch, core.chosen.unit)


def value_text(state: str, value: float | None, epoch: int | None = None, unit: str = PERCENT) -> str:
    """Returns what `cell_text` does of a metric in the unit in which it is shown."""
    if value is None and epoch is not None:
        # 没有留出图像：没有可选的数，只说到了哪一轮
        return f"{state} @{epoch}"
    if value is None or (epoch is None and state != "finished"):
        return state
    shown = f"{value:.1f}" if unit == PERCENT else number_in(value, unit)
    return f"{shown} {unit}".rstrip() + ("" if epoch is None else f" @{epoch}")


class Progress:
    """Arms by seeds with the metric that chooses so far, and how far the command is.

    A context manager. On a terminal it redraws a table; elsewhere it prints a line per ended trial.
    """

    def __init__(
        self,
        console: Console,
        title: str,
        dashboard: str | None,
        count: Callable[[], str],
        time_left: Callable[[], str],
        measure: str = "validation errors",
    ) -> None:
        """Prepares an empty table.

        Args:
            console: Where to print.
            title: Heading of the table.
            dashboard: Line that says where Ray's dashboard is, or None.
            count: Says how many trials of how many have ended.
            time_left: Says how long the rest takes; nothing where nothing is left.
            measure: What the cells show.
        """
        self._console, self._title, self._dashboard, self._measure = console, title, dashboard, measure
        self._count, self._time_left = count, time_left
        self._lock = threading.Lock()
        self._stage: str | None = ""
        self._cells: dict[Cell, Shown] = {}
        self._rows: dict[str, list[int]] = {}
        self._live = (
            Live(console=console, refresh_per_second=4, get_renderable=self._render) if console.is_terminal else None
        )

    def __enter__(self) -> Progress:
        """Starts drawing."""
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        """Stops drawing, leaving the last table."""
        if self._live is not None:
            self._live.stop()

    def expect(self, cells: Sequence[Cell], on_record: Mapping[Cell, Shown]) -> None:
        """Adds cells; those that are not on record wait."""
        with self._lock:
            for arm, seed in cells:
                row = self._rows.setdefault(arm, [])
                if seed not in row:
                    row.append(seed)
                self._cells[arm, seed] = on_record.get((arm, seed), Shown("waiting", "waiting"))

    def update(self, cell: Cell, shown: Shown) -> None:
        """Shows a trial's state and text."""
        with self._lock:
            arm, seed = cell
            row = self._rows.setdefault(arm, [])
            if seed not in row:
                row.append(seed)
            self._cells[cell] = shown

    def refresh(self) -> None:
        """Draws what is known now, where a table is drawn."""
        if self._live is not None:
            self._live.refresh()

    def say_end(self, cell: Cell, what: str) -> None:
        """Says in a line that a trial has ended, and how, where no table is drawn."""
        if self._live is None:
            left = self._time_left()
            self.say(f"[{self._count()}] {cell_name(*cell)}: {what}{left and ', '}{left}")

    def stage(self, what: str) -> None:
        """Says what happens before the first training step: in the caption, or in a line where no table is drawn."""
        if self._stage is None or what == self._stage:
            return
        self._stage = what
        if self._live is None:
            self.say(what)

    def say_first_step(self, seconds: float) -> None:
        """Says when the first training step was done; from then on trials speak for themselves."""
        self._stage = None
        self.say(f"first training step after {seconds:.1f} s")

    def say(self, line: str) -> None:
        """Prints one line above the table, and puts it into the driver's log."""
        logger.info(line)
        print_text(self._console, line)

    def _render(self) -> Group:
        with self._lock:
            rows, cells = {arm: list(row) for arm, row in self._rows.items()}, dict(self._cells)
        seeds = sorted({seed for row in rows.values() for seed in row})
        begun = [place for place, seed in enumerate(seeds) if any(_has_begun(cells, arm, seed) for arm in rows)]
        # 种子多时看正在走的那几列，而不是早已结束的
        end = min(max(begun, default=0) + 2, len(seeds))
        choices = [seeds[max(0, end - columns) :][:columns] for columns in range(_WIDEST, 0, -1)]
        # 一秒画四次，就在训练旁边：先算宽度，只搭一张表
        widths = {
            seed: _width([_heading(seed), *(cells[arm, seed].text for arm in rows if (arm, seed) in cells)])
            for seed in choices[0]
        }
        room = self._console.width - _width(["arm", *rows]) - 1
        shown = next((some for some in choices if sum(widths[seed] for seed in some) <= room), choices[-1])
        title = Text(self._title, style="bold")
        lines: list[Any] = [
            title,
            _table(rows, shown, cells),
            Text(self._caption(rows.keys(), len(seeds) - len(shown))),
        ]
        if self._dashboard:
            lines.append(Text(self._dashboard, style="dim"))
        return Group(*lines)

    def _caption(self, arms: Collection[str], hidden: int) -> str:
        left = self._time_left()
        caption = f"{self._stage}; " if self._stage else ""
        caption += f"{self._measure}; trials ended: {self._count()}{left and ', '}{left}"
        if POINTS in arms:
            caption += f"; in the row {POINTS}, points instead of seeds"
        return f"{caption}; {counted(hidden, 'more column')} not shown" if hidden > 0 else caption


def _has_begun(cells: Mapping[Cell, Shown], arm: str, seed: int) -> bool:
    return (arm, seed) in cells and cells[arm, seed].state != "waiting"


def _heading(seed: int) -> str:
    return f"seed {seed}"


def _width(texts: Iterable[str]) -> int:
    """Columns of the terminal that a column of the table takes: its longest text, a space on each side, a line."""
    return max(map(cell_len, texts)) + 3


def _table(rows: Mapping[str, Sequence[int]], seeds: Sequence[int], cells: Mapping[Cell, Shown]) -> Table:
    """The cells of some seeds."""
    table = Table(expand=False)
    table.add_column("arm")
    for seed in seeds:
        table.add_column(_heading(seed), justify="right")
    for arm, row in rows.items():
        texts = (_styled(cells[arm, seed]) if seed in row else Text("") for seed in seeds)
        table.add_row(Text(arm), *texts)
    return table


def _styled(shown: Shown) -> Text:
    return Text(shown.text, style=_STYLES.get(shown.state, ""))
