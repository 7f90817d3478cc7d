"""The one exception of this room, and the one check that all commands share."""

from __future__ import annotations


class LabError(Exception):
    """What went wrong in one line, and the exit code of the command it ends.

    Attributes:
        exit_code: 2 wrong use or configuration, 3 environment, 4 nothing on record.
    """

    def __init__(self, message: str, *, exit_code: int) -> None:
        """Keeps the line and the code."""
        super().__init__(message)
        self.exit_code = exit_code
