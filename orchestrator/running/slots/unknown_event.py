"""What is said of a message that this version does not know, wherever it is heard."""

from __future__ import annotations

from textwrap import shorten

from orchestrator.errors import ExitCode, LabError


def unknown_event(event: object) -> LabError:
    """Returns what is said of an event that this version does not know: a worker of another one has sent it."""
    return LabError(
        f"a worker sent what this driver does not know: {shorten(repr(event), 200, placeholder=' ...')}; "
        "all nodes must run the same version of this project; finished trials are on record",
        exit_code=ExitCode.ENVIRONMENT,
    )
