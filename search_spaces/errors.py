"""The one exception of this room."""


class StudyError(Exception):
    """A wrong study, edit or name, in one line a user can act on; with file:line:column where there is one.

    Attributes:
        location: Keys and indices of the mistake within a study file, where they are known and not yet said.
    """

    def __init__(self, message: str, location: tuple[str | int, ...] = ()) -> None:
        """Says what is wrong, and where."""
        super().__init__(message)
        self.location = location
