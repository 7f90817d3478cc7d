"""The one exception of this room: what a user can mend, in one line."""

from __future__ import annotations


class CoreError(Exception):
    """Bad data, a bad file or a wrong use; the message says what is wrong, where, and what would be right."""
