"""What fits the width of a terminal: lines that break between words, and tables that become cards."""

from __future__ import annotations

import re
from collections.abc import Sequence
from io import StringIO

from rich.console import Console, Group, RenderableType
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

_ANY_WIDTH = 100_000
_BETWEEN = " · "
_COMMAND = re.compile(r"(?:^|(?<=: ))(?:python -m |optuna\.load_study\()")


def print_text(console: Console, text: str, style: str = "") -> None:
    """Prints a text; on a terminal its lines break between words, elsewhere they stay whole for other programs.

    On a terminal a command or a call at the end of a line gets a line of its own, which only the terminal breaks: it
    is copied whole.

    Args:
        console: Where to print.
        text: One line or several.
        style: Of rich.
    """
    if console.is_terminal:
        for line in text.split("\n"):
            command = _COMMAND.search(line)
            prose = line if command is None else line[: command.start()].rstrip()
            if prose or command is None:
                # 一个词比终端还宽（路径）就不切，复制下来仍能用
                console.print(Text(prose, style=style, overflow="ignore"), crop=False)
            if command is not None:
                console.print(Text(line[command.start() :], style=style), soft_wrap=True)
    else:
        console.print(text, style=style or None, markup=False, highlight=False, soft_wrap=True)


def fits(table: Table, width: int) -> bool:
    """Returns whether a table can be shown in a width without breaking a cell."""
    wide = Console(file=StringIO(), width=_ANY_WIDTH)
    return Measurement.get(wide, wide.options, table).maximum <= width


def fitting(table: Table, width: int) -> RenderableType:
    """Returns the table where its cells fit, and else a card for each of its rows.

    Args:
        table: Whose headings and cells are texts.
        width: Columns of the terminal.
    """
    if fits(table, width):
        return table
    headings = [str(column.header) for column in table.columns]
    rows = zip(*(map(str, column.cells) for column in table.columns), strict=True)
    title = [table.title] if table.title else []
    return Group(*title, *cards(headings, list(rows)), *([table.caption] if table.caption else []))


def cards(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[Text]:
    """Returns each row as a text: its first cell in bold, then what the others say below their headings.

    Args:
        headings: One per column.
        rows: Cells; empty ones are left out.
    """
    return [_card(headings, row) for row in rows]


def _card(headings: Sequence[str], row: Sequence[str]) -> Text:
    (first, *others), (_, *names) = row, headings
    said = [f"{_one_line(name)} {_one_line(cell)}".strip() for name, cell in zip(names, others, strict=True) if cell]
    return Text.assemble((first, "bold"), "\n", _BETWEEN.join(said))


def _one_line(text: str) -> str:
    return " ".join(text.split())
