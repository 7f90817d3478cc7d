"""The one exception of this room."""


class StudyError(Exception):
    """A study, an edit or a name that is wrong; one line a user can act on, with file:line:column where there is one."""
