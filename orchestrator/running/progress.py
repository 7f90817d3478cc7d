"""What the user sees while a study runs: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from orchestrator.planning.summary import readable_seconds

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


def cell_name(arm: str, seed: int) -> str:
    """Returns what a cell is called in a line: the seed of an arm, or the point of a sweep."""
    return f"{arm} {'point' if arm == POINTS else 'seed'} {seed}"


class Progress:
    """Arms by seeds with the running validation error, and the time left.

    A context manager. On a terminal it redraws a table; elsewhere it prints a line per ended trial.
    """

    def __init__(self, console: Console, title: str, dashboard: str | None) -> None:
        """Prepares an empty table.

        Args:
            console: Where to print.
            title: Heading of the table.
            dashboard: Line that says where Ray's dashboard is, or None.
        """
        self._console, self._title, self._dashboard = console, title, dashboard
        self._cells: dict[tuple[str, int], tuple[str, str]] = {}
        self._rows: dict[str, list[int]] = {}
        self._total = self._ended = 0
        self._started: float | None = None
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

    def expect(self, cells: Sequence[tuple[str, int]], done: Mapping[tuple[str, int], str]) -> None:
        """Adds rows of cells (arm, seed); those in `done` are already on record with that state."""
        for arm, seed in cells:
            self._rows.setdefault(arm, [])
            if seed not in self._rows[arm]:
                self._rows[arm].append(seed)
            state = done.get((arm, seed), "waiting")
            self._cells[arm, seed] = (state, "on record" if state != "waiting" else "")
            self._total += state == "waiting"

    def update(self, arm: str, seed: int, state: str, text: str) -> None:
        """Shows a trial's state and text (its running error, its epoch)."""
        if (arm, seed) not in self._cells:
            self.expect([(arm, seed)], {})
        self._cells[arm, seed] = (state, text)
        if state == "running" and self._started is None:
            # Ray 的启动不算在内，否则头几个估计会大好几倍
            self._started = time.monotonic()
        if state in ("finished", "diverged", "failed", "stopped"):
            self._ended += 1
            if self._live is None:
                what = f", validation error {text}" if text.endswith("%") else "" if text == state else f" {text}"
                self.say(f"[{self._ended}/{self._total}] {cell_name(arm, seed)}: {state}{what}{self._left()}")

    def say(self, line: str) -> None:
        """Prints one line above the table, and puts it into the driver's log."""
        logger.info(line)
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _left(self) -> str:
        left = self._total - self._ended
        if not self._ended or left <= 0 or self._started is None:
            return ""
        # 正在训练的平均算完成了一半
        halves = min(left, sum(state == "running" for state, _ in self._cells.values())) / 2
        seconds = (time.monotonic() - self._started) / (self._ended + halves) * (left - halves)
        return f", {readable_seconds(seconds)} left"

    def _render(self) -> Group:
        seeds = sorted({seed for row in self._rows.values() for seed in row})
        shown = seeds[:_WIDEST]
        table = Table(title=self._title, title_justify="left", expand=False)
        table.add_column("arm")
        for seed in shown:
            table.add_column(f"seed {seed}", justify="right")
        for arm, row in self._rows.items():
            table.add_row(arm, *(self._cell(arm, seed) if seed in row else Text("") for seed in shown))
        hidden = len(seeds) - len(shown)
        notes = f"validation errors; {self._ended} of {self._total} trials ended{self._left()}"
        if POINTS in self._rows:
            notes += f"; in the row {POINTS}, points instead of seeds"
        if hidden > 0:
            notes += f"; {hidden} more columns not shown"
        lines: list[Any] = [table, Text(notes)]
        if self._dashboard:
            lines.append(Text(self._dashboard, style="dim"))
        return Group(*lines)

    def _cell(self, arm: str, seed: int) -> Text:
        state, text = self._cells[arm, seed]
        return Text(text or state, style=_STYLES.get(state, ""))
