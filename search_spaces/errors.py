"""The one exception of this room."""


class StudyError(Exception):
    """A wrong study, edit or name, in one line a user can act on; with file:line:column where there is one."""
