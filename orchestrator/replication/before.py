"""What was known when data sets were first asked together: a family chosen by its words keeps no level."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from orchestrator.planning.plan_file import STUDIES
from orchestrator.records.looks_file import FILE


class Before(NamedTuple):
    """What was on record before data sets were first asked together.

    Attributes:
        judged: Folders of those that had been judged by themselves.
        asked: Folders of the same study's other joint questions.
    """

    judged: tuple[str, ...] = ()
    asked: tuple[str, ...] = ()

    @property
    def fields(self) -> Mapping[str, Sequence[str]]:
        """What `studies.json` says of it; nothing where there is nothing to say."""
        return {name: value for name, value in self._asdict().items() if value}


def before_asking(folder: Path, studies: Sequence[str]) -> Before:
    """Returns what was known when data sets were first asked together, or is known now where they never were.

    Args:
        folder: Of the joint page.
        studies: The folders of the study on each data set, beside it.
    """
    try:
        written = json.loads((folder / STUDIES).read_bytes())
    except FileNotFoundError:
        judged = tuple(name for name in studies if (folder.with_name(name) / FILE).is_file())
        pages = folder.parent.glob(f"{folder.name.partition('+')[0]}+*/{STUDIES}")
        return Before(judged, tuple(sorted(page.parent.name for page in pages)))
    except (OSError, ValueError):
        return Before()
    values = [written.get(name) for name in Before._fields] if isinstance(written, dict) else []
    return Before(*(tuple(map(str, value)) if isinstance(value, list) else () for value in values))
