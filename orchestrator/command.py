"""What all commands share: consoles, one-line errors, and how numbers are parsed."""

from __future__ import annotations

import argparse
import errno
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from alexnet_core.process.interruption import say, silence_output
from orchestrator.errors import LabError

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


def make_console(*, goes_on: bool = False) -> Console:
    """Returns the console of a command; without a terminal its lines may be 120 columns wide.

    Args:
        goes_on: Whether the command goes on in silence when its output cannot be written any more.
    """
    make = _UnheardConsole if goes_on else _SafeConsole
    console = make(highlight=False)
    return console if console.is_terminal else make(highlight=False, width=PLAIN_WIDTH)


def printable(text: str) -> str:
    """Replaces control characters, but for tabs and new lines, and marks that reverse the direction of writing."""
    return text.translate(_UNPRINTABLE)


def print_error(error: object) -> None:
    """Prints the one line of an error, after what went to the standard output."""
    sys.stdout.flush()
    say(f"error: {printable(str(error))}")


def check_is_folder(results: Path) -> None:
    """Refuses a results folder that is a file, would lie in one, or cannot be looked at.

    Raises:
        LabError: With exit code 3.
    """
    try:
        there = next((path for path in (results, *results.resolve().parents) if path.exists()), None)
    except OSError as error:
        reason = f"results folder {results}: {error.strerror}; choose another with --results"
        raise LabError(reason, exit_code=3) from error
    if there is not None and not there.is_dir():
        raise LabError(f"results folder {results}: {there} is a file; choose another with --results", exit_code=3)


def natural(text: str) -> int:
    """Parses a whole number from 1 on."""
    return _whole(text, 1)


def natural_or_zero(text: str) -> int:
    """Parses a whole number from 0 to 1,000,000."""
    return _whole(text, 0)


def _whole(text: str, least: int) -> int:
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a whole number, not {text!r}") from None
    if not least <= value <= 1_000_000:
        raise argparse.ArgumentTypeError(f"must be from {least} to 1000000, not {value}")
    return value
