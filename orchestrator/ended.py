"""Which trials have ended, and how: from the tables where a record has not changed since, else from the record.

100,000 records then cost as many looks at a file's time and size, instead of as many files read and validated.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from orchestrator import records
from orchestrator.records import TrialState
from orchestrator.table_rows import TRIAL_COLUMNS
from orchestrator.tables import read_table, record_stamps

COLUMNS = ("key", "state", "validation_top1_error", "record_stamp")


def ended_trials(results: Path, keys: Iterable[str]) -> dict[str, tuple[str, float | None]]:
    """Returns (state, validation top-1 error in [0, 1]) of those trials that are on record.

    Args:
        results: The results folder.
        keys: The trials asked for.

    Raises:
        LabError: A record is damaged (named).
    """
    wanted = set(keys)
    found = _unchanged(results, wanted)
    for key in wanted - found.keys():
        ended = records.ended(results, key)
        if ended is not None:
            found[key] = ended
    return found


def done_states(results: Path, keys: Iterable[str], retry_failed: bool = False) -> dict[str, TrialState]:
    """Returns the state of those trials that are on record and not run again; see `records.done_keys`.

    Args:
        results: The results folder.
        keys: The trials asked for.
        retry_failed: Leave failed trials out.
    """
    wanted = set(keys)
    found = _unchanged(results, wanted)
    states = records.done_keys(results, wanted - found.keys(), retry_failed)
    for key, (state, _) in found.items():
        if not (retry_failed and state == TrialState.FAILED):
            states[key] = TrialState(state)
    return states


def _unchanged(results: Path, wanted: set[str]) -> dict[str, tuple[str, float | None]]:
    """What the trials table says of the wanted trials whose `result.json` it was made from."""
    table = read_table(results, "trials", TRIAL_COLUMNS, COLUMNS)
    if table is None:
        return {}
    rows = {row[0]: row[1:] for row in table.iter_rows() if row[0] in wanted}
    stamps = record_stamps(results, rows)
    return {key: (state, error) for key, (state, error, stamp) in rows.items() if stamps.get(key) == stamp}
