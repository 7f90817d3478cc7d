"""What may be deleted from the checkpoint folders of ended trials, and what is still needed there.

Records (configuration, epochs, result, log) always stay: a verdict can be given again without any weights, unless it
is about weights that are evaluated in other ways.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from orchestrator import records
from orchestrator.errors import LabError
from orchestrator.records import TrialState

LEFT_OVER = "left over beside the final weights"
UNNEEDED = "final weights that no verdict or export needs"
VERDICT = "final weights of judged trials"
EXPORT = "final weights that an export would take"
AGAIN = "checkpoints that failed or interrupted trials go on from"


@dataclass(frozen=True)
class StoredFile:
    """A file in a trial's checkpoint folder.

    Attributes:
        path: Where it lies.
        size: Bytes.
        kind: What it is: one of the sentences above.
    """

    path: Path
    size: int
    kind: str


def stored_files(results: Path, needed: Mapping[str, str]) -> list[StoredFile]:
    """Returns all files in the checkpoint folders, by trial and name.

    Args:
        results: The results folder.
        needed: What the final weights of a trial are needed for: `VERDICT` or `EXPORT` by key.

    Raises:
        LabError: A record is damaged (named).
    """
    found = []
    for key in records.recorded_keys(results):
        folder = records.trial_folder(results, key)
        files = sorted(path for path in (folder / "checkpoint").glob("*") if path.is_file())
        if not files:
            continue
        result = records.read_result(folder)
        goes_on = result is None or result.state is TrialState.FAILED
        for path in files:
            kind = LEFT_OVER
            if goes_on:
                kind = AGAIN
            elif result is not None and result.weights is not None and path == folder / result.weights:
                kind = needed.get(key, UNNEEDED)
            found.append(StoredFile(path, path.stat().st_size, kind))
    return found


def to_delete(files: Iterable[StoredFile], *, force: bool) -> list[StoredFile]:
    """Returns those that may go: what nothing needs; with `force` also what a verdict or an export needs."""
    kinds = {LEFT_OVER, UNNEEDED, *((VERDICT, EXPORT) if force else ())}
    return [file for file in files if file.kind in kinds]


def delete(files: Iterable[StoredFile]) -> None:
    """Deletes files.

    Raises:
        LabError: One cannot be deleted (named).
    """
    for file in files:
        try:
            file.path.unlink(missing_ok=True)
        except OSError as error:
            raise LabError(f"{file.path} cannot be deleted: {error.strerror}", exit_code=3) from error
