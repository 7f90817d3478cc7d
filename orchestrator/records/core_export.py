"""Exporting a trial of another core than AlexNet: all that its record has, whole, and a card that says what it is."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alexnet_core.configuration.wording import counted
from alexnet_core.process.files import abandoned, temporary_path
from alexnet_core.trained.model_folder import SUMS, replace_folder
from orchestrator.errors import ExitCode, LabError
from orchestrator.records.checked_record import Record
from search_spaces.core_config import CoreConfig, flattened, readable

FILES = ("config.json", "result.json", "epochs.jsonl", "log.txt")
STATE, SCRIPT, CODE = "state.safetensors", "checkpoint", "code"


@dataclass(frozen=True)
class CodeSide:
    """What the code that trained a trial adds to its export.

    Attributes:
        kept: The copy of it, found to be what its fingerprint says; None where there is none.
        export: The core's own export, which writes what it likes beside the rest: takes the state's path and the
            folder; None leaves it out.
    """

    kept: Path | None = None
    export: Callable[[Path, Path], None] | None = None


def export_core(record_folder: Path, record: Record, folder: Path, ranking: Mapping[str, Any], code: CodeSide) -> None:
    """Writes the export of a trial: to a temporary folder, then renamed.

    Args:
        record_folder: The trial's.
        record: What is in it.
        folder: Where to.
        ranking: The winner's row of `ranking.rank`.
        code: What its code adds.

    Raises:
        LabError: The state was pruned or damaged, or the folder cannot be written.
    """
    config, result = record
    assert isinstance(config, CoreConfig)
    state = record_folder / result.weights if result.weights is not None else None
    if state is not None and _sha256(state) != result.weights_sha256:
        raise LabError(
            f"the last state of trial {result.key} is not kept, or not the one on record; to train it anew move "
            f"{record_folder} away and run its study again",
            exit_code=ExitCode.NOTHING,
        )
    temporary = temporary_path(folder)
    try:
        temporary.mkdir(parents=True)
        parts = _fill(temporary, record_folder, state, code.kept)
        (temporary / "README.md").write_text(_card(record, ranking, parts))
        if code.export is not None and state is not None:
            code.export(state, temporary)
        sums = {path: _sha256(path) for path in sorted(temporary.rglob("*")) if path.is_file()}
        lines = (f"{digest}  {path.relative_to(temporary).as_posix()}\n" for path, digest in sums.items())
        (temporary / SUMS).write_text("".join(lines))
        replace_folder(temporary, folder)
    except OSError as error:
        raise LabError(f"{folder} cannot be written: {error.strerror}", exit_code=ExitCode.ENVIRONMENT) from error
    finally:
        for left in (temporary, *abandoned(folder)):
            shutil.rmtree(left, ignore_errors=True)


def _fill(target: Path, record_folder: Path, state: Path | None, kept: Path | None) -> list[str]:
    """Copies what there is; returns what each part is, in words."""
    parts = []
    for name in FILES:
        if (record_folder / name).is_file():
            shutil.copyfile(record_folder / name, target / name)
    if state is not None:
        shutil.copyfile(state, target / STATE)
        parts.append(f"`{STATE}` is what the training saved last (`orchestrator.cores.states.read_state` reads it).")
    if kept is not None:
        # 权重没有代码就读不懂：连同训练它的那份代码一起交出去
        shutil.copytree(kept, target / CODE, ignore=shutil.ignore_patterns("__pycache__"))
        parts.append(f"`{CODE}/` is the code that trained it.")
    script = record_folder / "script" / SCRIPT
    if script.is_dir() and any(script.iterdir()):
        shutil.copytree(script, target / SCRIPT)
        parts.append(f"`{SCRIPT}/` is what the script has left in its own checkpoint folder.")
    return [*parts, "`config.json` and `result.json` are the record."]


def _sha256(path: Path) -> str | None:
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _card(record: Record, ranking: Mapping[str, Any], parts: Sequence[str]) -> str:
    config, result = record
    assert isinstance(config, CoreConfig)
    core = config.core
    lines = [f"| {readable(name)} | {core.metrics[name].text(value)} |" for name, value in result.metrics.items()]
    fields = [f"| {name} | {value} |" for name, value in flattened(config.fields).items()]
    mean = core.chosen.text(core.chosen.objective(float(ranking["objective"])))
    return "\n".join(
        [
            f"# {core.name}, version {core.version}: trial {result.key}",
            "",
            f"Chosen by {readable(core.chosen_by)} among the configurations on record: {mean} as the mean of "
            f"{counted(int(ranking['seeds']), 'seed')}, of which this is the median one (seed {config.seed}).",
            "",
            "| metric | after the last report |",
            "|---|---|",
            *lines,
            "",
            "| field | value |",
            "|---|---|",
            *fields,
            "",
            *parts,
            "",
        ]
    )
