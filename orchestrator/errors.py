"""The one exception of this room, and the exit codes of all commands."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """How a command ended. docs/commands.md lists them, and a test compares.

    Attributes:
        DONE: All is well.
        SOME_FAILED: Trials failed, a check found differences, a merge left records out, or the output was lost.
        WRONG_USE: Wrong use or configuration.
        ENVIRONMENT: GPUs, disk, permissions, damaged files, a dead Ray.
        NOTHING: Nothing is on record to show or to export.
        INTERRUPTED: By Ctrl-C or SIGTERM.
        READER_GONE: The reader of the output has gone (`| head`).
    """

    DONE = 0
    SOME_FAILED = 1
    WRONG_USE = 2
    ENVIRONMENT = 3
    NOTHING = 4
    INTERRUPTED = 130
    READER_GONE = 141


class LabError(Exception):
    """What went wrong in one line, and the exit code of the command it ends.

    Attributes:
        exit_code: Of the command.
    """

    def __init__(self, message: str, *, exit_code: ExitCode) -> None:
        """Keeps the line and the code."""
        super().__init__(message)
        self.exit_code = exit_code
