"""What `status` shows: a study with the state of every trial, all studies of one page, or one trial."""

from __future__ import annotations

import json
import logging
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from alexnet_core.configuration.wording import counted
from orchestrator.errors import ExitCode, LabError
from orchestrator.planning.plan_file import STUDIES
from orchestrator.records import layout, trial_record
from orchestrator.records.checked_record import read_own_config, read_record
from orchestrator.records.files import TrialLocks
from orchestrator.records.layout import KEY, STUDY_FOLDER
from orchestrator.running.progress import cell_text
from orchestrator.running.steering import read_runs
from orchestrator.tables.rows import say_missing_curve
from orchestrator.tables.tables import ended_trials

logger = logging.getLogger(__name__)
EPOCHS_SHOWN, LOG_LINES_SHOWN = 5, 40
Ended = Mapping[str, tuple[str, float | None]]


def view(results: Path, name: str) -> Group:
    """Returns what is shown of a study, or of all that are asked together by `--study paper`.

    Raises:
        LabError: Its plan is damaged.
    """
    folder = results / "studies" / name
    return _paper_view(results, name) if (folder / STUDIES).is_file() else _study_view(results, name)


def _paper_view(results: Path, name: str) -> Group:
    folder = results / "studies" / name
    content = _read_json(folder / STUDIES, {"dataset", "studies"})
    studies = content["studies"]
    if not isinstance(studies, list) or not all(STUDY_FOLDER.fullmatch(str(study)) for study in studies):
        raise LabError(f"{folder / STUDIES} is damaged: it names no studies", exit_code=ExitCode.NOTHING)
    parts: list[RenderableType] = [
        Text(f"{name} on {content['dataset']}: {counted(len(studies), 'study', 'studies')}", style="bold")
    ]
    parts += _run_lines(folder)
    for study in studies:
        written = _read_plan(results / "studies" / study)
        ended = _outcomes(results, [row["key"] for row in written["trials"]])
        parts.append(_line(f"{study}: {_counts(written, study_states(results, written['trials'], ended))}"))
    if (folder / "report.html").is_file():
        parts.append(_line(f"report: {folder / 'report.html'}"))
    return Group(*parts)


def _read_plan(folder: Path) -> dict[str, Any]:
    plan = _read_json(folder / "plan.json", {"dataset", "arms", "trials"})
    if not _is_plan(plan):
        raise LabError(
            f"{folder / 'plan.json'} is damaged: a trial lacks arm, seed or key; run the study again",
            exit_code=ExitCode.NOTHING,
        )
    return plan


def _counts(plan: Mapping[str, Any], states: Mapping[str, str]) -> str:
    counts = Counter(states[row["key"]] for row in {row["key"]: row for row in plan["trials"]}.values())
    return ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))


def _study_view(results: Path, name: str) -> Group:
    folder = results / "studies" / name
    written = _read_plan(folder)
    further = {row["key"] for row in written["trials"] if row.get("phase") in ("tuning", "retuned")}
    written["trials"] = [row for row in written["trials"] if row.get("phase") not in ("tuning", "retuned")]
    ended = _outcomes(results, [row["key"] for row in written["trials"]])
    states = study_states(results, written["trials"], ended)
    parts: list[RenderableType] = [Text(f"{name} on {written['dataset']}: {_counts(written, states)}", style="bold")]
    parts += _run_lines(folder)
    parts.append(_study_table(results, written, states, ended))
    if further:
        parts.append(_line(f"re-tuning: {len(_outcomes(results, further))} of {counted(len(further), 'trial')} ended"))
    sweep = [row for row in trial_record.read_members(results, name) if row["phase"] == "sweep"]
    if sweep:
        points = _outcomes(results, [row["key"] for row in sweep])
        parts.append(_line(f"sweep: {len(points)} of {counted(len(sweep), 'asked point')} ended"))
    if (folder / "report.html").is_file():
        parts.append(_line(f"report: {folder / 'report.html'}"))
    return Group(*parts)


def _run_lines(folder: Path) -> list[Text]:
    """Who runs a study now, a line or two for each."""
    lines = []
    for running in read_runs(folder):
        lines.append(_line(f"running: process {running.pid} on {running.host} since {running.started_at}"))
        if running.dashboard:
            lines.append(_line(f"dashboard: {running.dashboard} (token: ray get-auth-token)"))
    return lines


def _is_plan(plan: Mapping[str, Any]) -> bool:
    """Whether arms and trials are what they must be; a key is also the name of a folder."""
    trials, arms = plan["trials"], plan["arms"]
    return (
        isinstance(trials, list)
        and isinstance(arms, list)
        and all(isinstance(arm, str) for arm in arms)
        and all(
            isinstance(row, dict)
            and isinstance(row.get("arm"), str)
            and isinstance(row.get("seed"), int)
            and isinstance(row.get("key"), str)
            and KEY.fullmatch(row["key"])
            for row in trials
        )
    )


def _line(text: str) -> Text:
    return Text(text, no_wrap=True, overflow="ignore")


def _study_table(
    results: Path,
    plan: Mapping[str, Any],
    states: Mapping[str, str],
    ended: Ended,
) -> Table:
    seeds = sorted({row["seed"] for row in plan["trials"]})
    table = Table()
    table.add_column("arm")
    for seed in seeds[:10]:
        table.add_column(f"seed {seed}", justify="right")
    cells = {(row["arm"], row["seed"]): row["key"] for row in plan["trials"]}
    for arm in plan["arms"]:
        row = [_cell(results, cells.get((arm, seed)), states, ended) for seed in seeds[:10]]
        table.add_row(Text(arm), *row)
    if len(seeds) > 10:
        table.caption = f"{counted(len(seeds) - 10, 'more seed')} not shown"
    return table


def _cell(results: Path, key: str | None, states: Mapping[str, str], ended: Ended) -> Text:
    if key is None:
        return Text("")
    state, error = ended.get(key, (states[key], None))
    epochs = trial_record.read_epochs(layout.trial_folder(results, key)) if state in ("running", "interrupted") else []
    if not epochs:
        return Text(cell_text(state, error))
    return Text(cell_text(state, epochs[-1].validation.top1_error, epochs[-1].epoch))


def _read_json(path: Path, needed: Set[str]) -> dict[str, Any]:
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise LabError(f"{path} cannot be read: {error}", exit_code=ExitCode.NOTHING) from error
    if not isinstance(content, dict) or not needed <= content.keys():
        raise LabError(f"{path} is damaged: it lacks one of {', '.join(sorted(needed))}", exit_code=ExitCode.NOTHING)
    return content


def _outcomes(results: Path, keys: Iterable[str]) -> Ended:
    """What has ended of these trials; what is damaged or lacks its curve is named as the tables name it."""
    ended = _readable(results, list(dict.fromkeys(keys)))
    for key, (_, error) in ended.items():
        # 有验证误差，就跑完过至少一个 epoch
        if error is not None:
            say_missing_curve(layout.trial_folder(results, key))
    return ended


def _readable(results: Path, distinct: Sequence[str]) -> Ended:
    """What has ended of these trials; a damaged record is shown as damaged."""
    try:
        return ended_trials(results, distinct)
    except LabError:
        outcomes: dict[str, tuple[str, float | None]] = {}
    # 一条坏记录不该挡住整个研究
    for key in sorted(distinct):
        try:
            outcomes |= ended_trials(results, [key])
        except LabError as error:
            logger.warning("left out of the tables: %s", error)
            outcomes[key] = ("damaged", None)
    return outcomes


def study_states(results: Path, trials: Sequence[Mapping[str, Any]], ended: Ended) -> dict[str, str]:
    """Returns the state of each trial of a plan: a final state, `running`, `interrupted` or `waiting`.

    Args:
        results: The results folder.
        trials: Rows of a plan, each with its `key`.
        ended: What has ended of them (`ended_trials`).
    """
    states = {key: state for key, (state, _) in ended.items()}
    locks = _open_locks(results)
    for key in {row["key"] for row in trials} - ended.keys():
        if not layout.trial_folder(results, key).is_dir():
            states[key] = "waiting"
        else:
            states[key] = "running" if locks is not None and locks.is_locked(key) else "interrupted"
    if locks is not None:
        locks.close()
    return states


def _open_locks(results: Path) -> TrialLocks | None:
    # 只读的结果目录也要能看
    return TrialLocks(results) if os.access(results / ".locks", os.W_OK) else None


def trial_view(results: Path, key: str) -> Group:
    """Returns what is shown of one trial: state, memberships, configuration, last epochs, log, and how to repeat it.

    Raises:
        LabError: Its configuration or its result is damaged, or another trial's.
    """
    folder = layout.trial_folder(results, key)
    record = read_record(folder)
    config, result = record or (read_own_config(folder), None)
    states = study_states(results, [{"key": key}], _outcomes(results, [key]))
    parts: list[RenderableType] = [Text(f"trial {key}: {states[key]}", style="bold")]
    if result is not None and result.message:
        parts.append(_line(result.message))
    names = sorted(
        f"{row['study']}/{row['arm']} seed {row['seed']} ({row['phase']})"
        for row in trial_record.read_members(results)
        if row["key"] == key
    )
    if names:
        parts.append(_line(f"member of {', '.join(names)}"))
    parts.append(_line(config.model_dump_json(indent=1)))
    epochs = trial_record.read_epochs(folder)
    table = Table(title=f"last of {counted(len(epochs), 'epoch')}", title_justify="left")
    for heading in ("epoch", "learning rate", "train loss", "train %", "validation %", "images/s"):
        table.add_column(heading, justify="right")
    for report in epochs[-EPOCHS_SHOWN:]:
        table.add_row(
            str(report.epoch),
            f"{report.learning_rate:g}",
            f"{report.train.loss:.4f}",
            f"{100 * report.train.top1_error:.2f}",
            f"{100 * report.validation.top1_error:.2f}",
            f"{report.images_per_second:.0f}",
        )
    parts.append(table)
    log = folder / "log.txt"
    if log.is_file():
        parts.append(_line(f"log ({log}):"))
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
        parts.append(_line("\n".join(lines[-LOG_LINES_SHOWN:])))
    parts.append(_line("repeat it outside Ray, same numbers:"))
    parts.append(_line(f"python -m alexnet_core train --config {folder / 'config.json'}"))
    return Group(*parts)
