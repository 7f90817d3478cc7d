"""Records of an older schema: upgraded by pure functions, and moved to where today's keys look for them.

A field that is renamed or restructured (not one that is added with its introduction default) gets an `Upgrade` here.
The version that a results folder has reached stands in `.schema` in it; the first release wrote none.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from alexnet_core.configuration.train_config import TrainConfig
from alexnet_core.process.files import reason_of
from orchestrator.errors import ExitCode, LabError
from orchestrator.records import files, trial_record
from orchestrator.records.trial_record import TrialResult
from search_spaces.trial import trial_key

Plain = Mapping[str, Any]


@dataclass(frozen=True)
class Upgrade:
    """One step of the schema, from plain JSON to plain JSON.

    Attributes:
        config: Of `config.json`.
        result: Of `result.json`, but for its key.
    """

    config: Callable[[Plain], Plain]
    result: Callable[[Plain], Plain]


# 第 n 个把第 n 版变成第 n+1 版；第一版发布以来还没有改过名的字段
UPGRADES: tuple[Upgrade, ...] = ()


def upgrade_results(results: Path, upgrades: Sequence[Upgrade] = UPGRADES) -> int:
    """Upgrades all records of a results folder, once; returns how many there were.

    The records as they were stay beside the new ones in `trials.v<version>` (hard links, so checkpoints take no
    room twice). Killed at any moment, it goes on from there the next time.

    Args:
        results: The results folder.
        upgrades: The steps from the first version on.

    Raises:
        LabError: A record cannot be read or upgraded (named), or nothing can be written.
    """
    marker, trials = results / ".schema", results / "trials"
    reached = _reached(marker)
    steps = upgrades[reached - 1 :]
    old = results / f"trials.v{reached}"
    if not steps:
        return 0
    try:
        # 每一步都是改名：在哪里被杀，下次就从哪里接着
        if trials.is_dir() and not old.is_dir():
            _make_all(trials, results / "trials.new", steps)
            trials.rename(old)
        if old.is_dir() and not trials.is_dir():
            (results / "trials.new").rename(trials)
    except OSError as error:
        raise LabError(f"{results} cannot be upgraded: {error.strerror}", exit_code=ExitCode.ENVIRONMENT) from error
    keys = {key: trial_key(upgraded_config(old / key, steps)) for key in _keys(old)}
    _rename_in_studies(results, keys)
    files.write_atomically(marker, f"{1 + len(upgrades)}\n".encode())
    return len(keys)


def check_schema(results: Path) -> None:
    """Refuses a results folder that does not say of which version its records are; changes nothing.

    Raises:
        LabError: `.schema` is damaged.
    """
    _reached(results / ".schema")


def note_schema(results: Path) -> None:
    """Notes in a new results folder that its records will be of this version."""
    if UPGRADES:
        files.write_atomically(results / ".schema", f"{1 + len(UPGRADES)}\n".encode())


def _reached(marker: Path) -> int:
    """The version that a results folder has reached."""
    try:
        text = marker.read_bytes().strip()
    except FileNotFoundError:
        return 1
    except OSError as error:
        raise LabError(f"{marker} cannot be read: {error.strerror}", exit_code=ExitCode.ENVIRONMENT) from error
    if not re.fullmatch(rb"[1-9][0-9]{0,5}", text):
        raise LabError(
            f"{marker} is damaged: it holds no version of the records, such as 1", exit_code=ExitCode.ENVIRONMENT
        )
    return int(text)


def _keys(trials: Path) -> list[str]:
    return sorted(entry.name for entry in trials.iterdir() if entry.is_dir()) if trials.is_dir() else []


def upgraded_config(folder: Path, steps: Sequence[Upgrade]) -> TrainConfig:
    """Returns today's configuration of an older record.

    Raises:
        LabError: It is damaged, or no such record.
    """
    plain: Plain = _read(folder / "config.json")
    try:
        for step in steps:
            plain = step.config(plain)
        return TrainConfig.model_validate(plain)
    except (ValidationError, LookupError, TypeError) as error:
        raise LabError(
            f"{folder} cannot be upgraded to this version's schema; move it away", exit_code=ExitCode.ENVIRONMENT
        ) from error


def _make_all(trials: Path, upgraded: Path, steps: Sequence[Upgrade]) -> None:
    """Makes the upgraded copy of every record in a new folder."""
    # 上次只做了一半的就重做
    shutil.rmtree(upgraded, ignore_errors=True)
    upgraded.mkdir()
    for name in _keys(trials):
        folder = trials / name
        config = upgraded_config(folder, steps)
        key = trial_key(config)
        copy = upgraded / key
        shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("checkpoint"))
        if (folder / "checkpoint").is_dir():
            shutil.copytree(folder / "checkpoint", copy / "checkpoint", copy_function=os.link)
        files.write_atomically(copy / "config.json", config.model_dump_json(indent=1).encode())
        if (folder / "result.json").is_file():
            result: Plain = _read(folder / "result.json")
            for step in steps:
                result = step.result(result)
            whole = TrialResult.model_validate({**result, "key": key})
            trial_record.write_result(copy, whole)


def _read(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise LabError(f"{path} cannot be read: {reason_of(error)}", exit_code=ExitCode.ENVIRONMENT) from error
    return content


def _rename_in_studies(results: Path, moved: Mapping[str, str]) -> None:
    """Writes the new keys into the studies' lists of members, their plans and their looks."""
    renamed = {key: new_key for key, new_key in moved.items() if key != new_key}
    names = ("members.jsonl", "plan.json", "looks.jsonl")
    for path in (path for name in names for path in results.glob(f"studies/*/{name}")):
        before = path.read_text()
        after = before
        for key, new_key in renamed.items():
            after = after.replace(f'"{key}"', f'"{new_key}"')
        if after != before:
            files.write_atomically(path, after.encode())
