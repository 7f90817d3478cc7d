"""Records of another machine: what of them can be trusted. Nothing in them is run, and no link in them is followed."""

from __future__ import annotations

import hashlib
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from orchestrator.errors import ExitCode, LabError
from orchestrator.records import looks_file, trial_record
from orchestrator.records.checked_record import config_misfit, result_misfit
from orchestrator.records.evaluations import MANY_VIEWS, Evaluation, read_correct_images, read_own_evaluation
from orchestrator.records.files import read_error
from orchestrator.records.layout import ARM, CORRECT, KEY, NAME, STUDY_FOLDER, evaluation_path
from orchestrator.records.looks_file import RecordedLook
from orchestrator.records.trial_record import TrialResult
from search_spaces.core_config import CoreConfig, CoreDescription, DataOfTrial
from search_spaces.edits import edited, field_values
from search_spaces.errors import StudyError
from search_spaces.trial import Phase, trial_key

FIELD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z0-9_*?]+){0,5}")
WEIGHTS = re.compile(r"checkpoint/[0-9]+-[0-9]+(-[0-9]+)?\.safetensors")
# 记录里的文本文件都很小；大得多的不是我们写的
LARGEST_TEXT = 64 * 1024**2
TEXTS = ("config.json", "attempts.jsonl", "epochs.jsonl", "log.txt")


class Refused(Exception):
    """A record that is not taken; the message says why, in a few words."""


@dataclass(frozen=True)
class ForeignTrial:
    """A finished trial of another results folder that passed every check.

    Attributes:
        key: Its key, computed from its configuration.
        folder: Its folder there.
        data: What it was trained on.
        core: What another core than AlexNet declares; None for AlexNet.
        result: Its result.
        weights: Its final weights, if they were kept.
        evaluations: Of them in more views than one.
        correct: Which images it got right, if that is on record.
    """

    key: str
    folder: Path
    data: DataOfTrial
    core: CoreDescription | None
    result: TrialResult
    weights: Path | None
    evaluations: tuple[Evaluation, ...]
    correct: Path | None

    @property
    def size(self) -> int:
        """Bytes that taking it needs."""
        files = [self.folder / name for name in (*TEXTS, "result.json")]
        kept = [path for path in [*files, self.weights, self.correct] if path is not None and path.exists()]
        return sum(path.lstat().st_size for path in kept)


def foreign_folders(other: Path) -> Iterator[Path]:
    """Yields the entries of another results folder's `trials/`, sorted.

    Raises:
        LabError: It is no results folder.
    """
    if not (other / "trials").is_dir():
        raise LabError(f"{other} is no results folder: it has no trials/", exit_code=ExitCode.WRONG_USE)
    yield from sorted((other / "trials").iterdir())


def check_trial(folder: Path) -> ForeignTrial | None:
    """Checks a record of another machine; None where the trial has not ended there.

    Raises:
        Refused: Its name, its files, its configuration, its result or its weights are not what they must be.
    """
    try:
        return _checked(folder)
    except OSError as error:
        # 一条读不了的记录不该挡住其余的
        raise Refused(str(read_error(Path(error.filename or folder), error))) from error


def _checked(folder: Path) -> ForeignTrial | None:
    # 别人的记录：先看名字与文件，再读内容，最后才信
    if not KEY.fullmatch(folder.name):
        raise Refused("its name is no trial's key")
    _check_folder(folder)
    if not _is_there(folder / "result.json"):
        return None
    for name in (*TEXTS, "result.json"):
        if not _is_there(folder / name):
            continue
        if (folder / name).lstat().st_size > LARGEST_TEXT:
            raise Refused(f"{name} is larger than {LARGEST_TEXT // 1024**2} MB")
        # 拷到一半才发现读不了就晚了
        (folder / name).open("rb").close()
    try:
        config, result = trial_record.read_config(folder), trial_record.read_result(folder)
    except LabError as error:
        # 拒绝的那一行已经写着它的名字
        raise Refused(str(error).removeprefix(f"{folder}: ")) from error
    if result is None:
        return None
    key = folder.name
    reason = config_misfit(key, config) or result_misfit(key, config, result)
    if reason:
        raise Refused(reason)
    weights = _checked_weights(folder, result)
    core = config.core if isinstance(config, CoreConfig) else None
    correct = _checked_correct(folder, result)
    return ForeignTrial(key, folder, config.data, core, result, weights, _checked_evaluations(folder, result), correct)


def _check_folder(folder: Path) -> None:
    mode = folder.lstat().st_mode
    if stat.S_ISLNK(mode):
        raise Refused("it is a symbolic link")
    if not stat.S_ISDIR(mode):
        raise Refused("it is no folder")


def _is_there(path: Path) -> bool:
    """Whether a file exists; anything else than a plain file is refused."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return False
    if not stat.S_ISREG(mode):
        kind = "a symbolic link" if stat.S_ISLNK(mode) else "no plain file"
        raise Refused(f"{path.name} is {kind}")
    return True


def _checked_weights(folder: Path, result: TrialResult) -> Path | None:
    if result.weights is None:
        return None
    if not WEIGHTS.fullmatch(result.weights):
        raise Refused(f"its weights have a strange name: {result.weights!r}")
    path = folder / result.weights
    if not path.parent.is_symlink() and not path.parent.exists():
        return None
    _check_folder(path.parent)
    if not _is_there(path):
        return None
    with path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != result.weights_sha256:
            raise Refused("the SHA-256 of its weights is not the recorded one")
    return path


def _checked_correct(folder: Path, result: TrialResult) -> Path | None:
    if result.correct_sha256 is None:
        return None
    path = folder / CORRECT
    if not _is_there(path):
        raise Refused(f"its {CORRECT} is missing, which its result.json tells of")
    if path.lstat().st_size > LARGEST_TEXT:
        raise Refused(f"{CORRECT} is larger than {LARGEST_TEXT // 1024**2} MB")
    try:
        read_correct_images(folder, result)
    except LabError as error:
        raise Refused(str(error)) from error
    return path


def _checked_evaluations(folder: Path, result: TrialResult) -> tuple[Evaluation, ...]:
    parent = folder / "evaluations"
    if not parent.is_symlink() and not parent.exists():
        return ()
    _check_folder(parent)
    evaluations = []
    for views in MANY_VIEWS:
        if not _is_there(evaluation_path(folder, views)):
            continue
        try:
            evaluation = read_own_evaluation(folder, views, result)
        except LabError as error:
            raise Refused(str(error)) from error
        if evaluation is not None:
            evaluations.append(evaluation)
    return tuple(evaluations)


def foreign_members(other: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields (study's folder, membership) of another results folder; what is malformed is passed over."""
    for folder in _study_folders(other, "members.jsonl"):
        for row in trial_record.read_members(other, folder.name):
            member = _member(folder.name, row)
            if member is not None:
                yield folder.name, member


def foreign_looks(other: Path) -> Iterator[tuple[str, list[RecordedLook]]]:
    """Yields (study's folder, its looks) of another results folder; what is malformed is passed over."""
    for folder in _study_folders(other, looks_file.FILE):
        yield folder.name, looks_file.read_looks(folder) or []


def _study_folders(other: Path, holding: str) -> Iterator[Path]:
    """The studies of another results folder that have a plain file of that name, and no link on the way to it."""
    for folder in sorted((other / "studies").glob("*")):
        try:
            if STUDY_FOLDER.fullmatch(folder.name):
                _check_folder(folder)
                if _is_there(folder / holding):
                    yield folder
        except Refused:
            continue


def _member(study: str, row: Mapping[str, Any]) -> dict[str, Any] | None:
    """A membership with nothing in it but what a membership has; None where it has not."""
    parameters, position = row.get("parameters"), row.get("position")
    well_formed = (
        row.get("study") == study
        and all(isinstance(row.get(name), str) for name in ("dataset", "arm", "key"))
        and NAME.fullmatch(row["dataset"])
        and ARM.fullmatch(row["arm"])
        and KEY.fullmatch(row["key"])
        and row.get("phase") in get_args(Phase)
        and trial_record.is_count(row.get("seed"))
        and (position is None or trial_record.is_count(position))
        and (parameters is None or _are_parameters(parameters))
        and (row["phase"] != "sweep" or (position is not None and parameters is not None))
    )
    names = ("study", "dataset", "arm", "seed", "key", "phase", "parameters", "position")
    return {name: row.get(name) for name in names} if well_formed else None


def describes(row: Mapping[str, Any], folder: Path) -> bool:
    """Says whether the parameters of a membership, where it has some, are those of the trial that it names.

    Args:
        row: The membership.
        folder: Of the trial's record.
    """
    if row["parameters"] is None:
        return True
    try:
        config = trial_record.read_config(folder)
        if isinstance(config, CoreConfig):
            # 别人的 core 不导入：只看写着的值
            return all(field_values(config, path) == [value] for path, value in row["parameters"].items())
        described = trial_key(edited(config, row["parameters"], (), "a membership"))
    except (LabError, StudyError):
        return False
    return bool(described == row["key"])


def _are_parameters(value: Any) -> bool:
    return isinstance(value, dict) and all(
        FIELD.fullmatch(name) and isinstance(choice, (str, bool, int, float)) for name, choice in value.items()
    )
