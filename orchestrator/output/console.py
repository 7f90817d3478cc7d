"""The console of a command: text out of files cannot steer the terminal, and a study outlives its reader."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from functools import partial
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from alexnet_core.process.interruption import say, silence_output

PLAIN_WIDTH = 120
_UNPRINTABLE = dict.fromkeys((*range(9), *range(11, 32), *range(127, 160), *range(8234, 8239), *range(8294, 8298)), "�")


class _SafeConsole(Console):
    """A console on which text out of files (logs, names) cannot steer the terminal."""

    def on_broken_pipe(self) -> None:
        """Leaves the reader's end to the command, where rich would end the process."""
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Renders as rich does, its own codes untouched."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(printable(segment.text), segment.style)


class _UnheardConsole(_SafeConsole):
    """The console of a study, which does not end because its log's disk is full or `tee` has died."""

    def __exit__(self, *exception: Any) -> None:
        """Writes what was printed as rich does, until that fails."""
        try:
            super().__exit__(*exception)
        except OSError as error:
            if self.quiet:
                return
            self.quiet = True
            silence_output()
            say(f"warning: standard output: {error.strerror}; the study goes on")


def make_console(*, goes_on: bool = False, stderr: bool = False) -> Console:
    """Returns the console of a command; without a terminal its lines may be 120 columns wide.

    Args:
        goes_on: Whether the command goes on in silence when its output cannot be written any more.
        stderr: Whether it writes to the standard error.
    """
    # 笔记本里 rich 会显示在单元格中，不写标准错误
    in_cells = False if stderr else None
    make = partial(_UnheardConsole if goes_on else _SafeConsole, highlight=False, stderr=stderr, force_jupyter=in_cells)
    console = make()
    return console if console.is_terminal else make(width=PLAIN_WIDTH)


def printable(text: str) -> str:
    """Replaces control characters, but for tabs and new lines, and marks that reverse the direction of writing."""
    return text.translate(_UNPRINTABLE)
