"""What may be deleted from the checkpoint folders of ended trials and their scripts, and what is still needed there.

Records (configuration, epochs, result, log) always stay: a verdict can be given again without any weights, unless it
is about weights that are evaluated in other ways.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Set
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import ExitCode, LabError
from orchestrator.records import layout, trial_record
from orchestrator.records.checked_record import read_record
from orchestrator.records.files import TrialLocks
from orchestrator.records.trial_record import TrialResult, TrialState

LEFT_OVER = "left over beside the final weights"
UNNEEDED = "final weights that no verdict or export needs"
VERDICT = "final weights of judged trials"
EXPORT = "final weights that an export would take"
AGAIN = "checkpoints that failed or interrupted trials go on from"


@dataclass(frozen=True)
class StoredFile:
    """A file in a trial's checkpoint folder, or in that of its script.

    Attributes:
        key: The trial.
        path: Where it lies.
        size: Bytes.
        kind: What it is: one of the sentences above.
    """

    key: str
    path: Path
    size: int
    kind: str


def stored_files(results: Path, needed: Mapping[str, str]) -> list[StoredFile]:
    """Returns all files in the checkpoint folders, by trial and name.

    Args:
        results: The results folder.
        needed: What the final weights of a trial are needed for: `VERDICT` or `EXPORT` by key.

    Raises:
        LabError: A record is damaged, or not that of the trial its folder is named after (named).
    """
    stored = []
    for key in trial_record.recorded_keys(results):
        folder = layout.trial_folder(results, key)
        # 脚本自己的检查点也是权重
        found = (*(folder / "checkpoint").glob("*"), *(folder / "script").rglob("*"))
        files = sorted(path for path in found if path.is_file())
        if not files:
            continue
        # 不合身份的记录不算数，但它的权重也不能当作没人要
        record = read_record(folder)
        result = None if record is None else record.result
        goes_on = result is None or result.state is TrialState.FAILED
        final = set() if result is None else _final(folder, result, files)
        for path in files:
            kind = AGAIN if goes_on else needed.get(key, UNNEEDED) if path in final else LEFT_OVER
            stored.append(StoredFile(key, path, path.stat().st_size, kind))
    return stored


def _final(folder: Path, result: TrialResult, files: Iterable[Path]) -> Set[Path]:
    """The final weights among the files of an ended trial: the last state, and what its script has kept."""
    if result.weights is None:
        return set()
    of_script = (path for path in files if path.is_relative_to(folder / "script" / "checkpoint"))
    return {folder / result.weights, *of_script}


def to_delete(files: Iterable[StoredFile], *, force: bool) -> list[StoredFile]:
    """Returns those that may go: what nothing needs; with `force` also what a verdict or an export needs."""
    kinds = {LEFT_OVER, UNNEEDED, *((VERDICT, EXPORT) if force else ())}
    return [file for file in files if file.kind in kinds]


def delete(results: Path, files: Iterable[StoredFile]) -> list[StoredFile]:
    """Deletes files, but those of trials that another process trains right now.

    Args:
        results: The results folder.
        files: What is to go.

    Returns:
        What is gone.

    Raises:
        LabError: One cannot be deleted (named).
    """
    gone = []
    for file in files:
        with _not_in_training(results, file.key) as free:
            if free:
                _delete(file.path)
                gone.append(file)
    return gone


def _delete(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise LabError(f"{path} cannot be deleted: {error.strerror}", exit_code=ExitCode.ENVIRONMENT) from error


@contextmanager
def _not_in_training(results: Path, key: str) -> Iterator[bool]:
    """Holds a trial's lock; says whether it got it. A trial on record may be trained again for its evaluation."""
    with TrialLocks(results) as locks:
        yield locks.try_lock(key)


def tidy_ended(results: Path, states: Mapping[str, TrialState]) -> None:
    """Deletes what a driver left that was killed between a trial's result and its tidying.

    Args:
        results: The results folder.
        states: Of the trials that have ended; failed ones keep their checkpoints for another try.
    """
    for key, state in states.items():
        if state is TrialState.FAILED:
            continue
        folder = layout.trial_folder(results, key)
        try:
            files = sum(1 for _ in (folder / "checkpoint").iterdir())
        except OSError:
            continue
        # 只在有多余文件时才读 result.json：十万个 trial 也只是各列一次目录
        if files > (state is TrialState.FINISHED):
            with _not_in_training(results, key) as free:
                if free:
                    trial_record.tidy(folder)


def keep_weights_of(results: Path, kept: Set[str], among: Iterable[str]) -> None:
    """Deletes the final weights of finished trials.

    Args:
        results: The results folder.
        kept: Keys of the trials that keep theirs.
        among: Keys of the trials that are looked at.
    """
    for key in set(among) - kept:
        folder = layout.trial_folder(results, key)
        result = trial_record.read_result(folder)
        if result is not None and result.state is TrialState.FINISHED:
            with _not_in_training(results, key) as free:
                if free:
                    trial_record.tidy(folder, "none")
