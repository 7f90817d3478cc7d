"""The one exception of this room, and the one check that all commands share."""

from pathlib import Path


class LabError(Exception):
    """What went wrong in one line, and the exit code of the command it ends.

    Attributes:
        exit_code: 2 wrong use or configuration, 3 environment, 4 nothing on record.
    """

    def __init__(self, message: str, *, exit_code: int) -> None:
        """Keeps the line and the code."""
        super().__init__(message)
        self.exit_code = exit_code


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
