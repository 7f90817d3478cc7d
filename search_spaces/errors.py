"""The one exception of this room, and how a mistake in a study file is told to pydantic."""

from __future__ import annotations

from typing import Any, LiteralString

from pydantic_core import InitErrorDetails, PydanticCustomError


class StudyError(Exception):
    """A wrong study, edit or name, in one line a user can act on; with file:line:column where there is one.

    Attributes:
        location: Keys and indices of the mistake within a study file, where they are known and not yet said.
    """

    def __init__(self, message: str, location: tuple[str | int, ...] = ()) -> None:
        """Says what is wrong, and where."""
        super().__init__(message)
        self.location = location


def mistake(
    kind: LiteralString | PydanticCustomError, place: tuple[str | int, ...], given: Any, **context: Any
) -> InitErrorDetails:
    """Returns a mistake at its place in a study file, as pydantic would report its own."""
    return InitErrorDetails(type=kind, loc=place, input=given, ctx=context)


def reason(text: str) -> PydanticCustomError:
    """Returns what is wrong in words, as the kind of a mistake."""
    return PydanticCustomError("value_error", text)
