"""`python -m orchestrator.status [STUDY | KEY]`: a running or finished study, or one trial, from another shell.

It reads what is on disk, follows a study live, and leaves requests for the driver of one (`steering.py`).
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import re
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from contextlib import nullcontext
from io import StringIO
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from alexnet_core.process.command_line import CommandParser
from orchestrator.command import add_results_option, check_has_results, command, make_console, natural, printable
from orchestrator.errors import ExitCode, LabError
from orchestrator.planning.plan_file import STUDIES
from orchestrator.records import layout, trial_record
from orchestrator.records.files import TrialLocks
from orchestrator.records.layout import KEY
from orchestrator.running.steering import ask, read_runs
from orchestrator.tables.tables import ended_trials
from search_spaces.trial import KEY_LENGTH

logger = logging.getLogger(__name__)
EPOCHS_SHOWN, LOG_LINES_SHOWN = 5, 40
FOLLOW_SECONDS = 2.0
SHOWN = ("plan.json", STUDIES)
STUDY_NAME = r"[a-z0-9][a-z0-9_-]{0,96}"


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    return _status(_parser().parse_args(arguments), make_console())


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="python -m orchestrator.status",
        description="Show all studies, one study, or one trial; steer a study that runs.",
    )
    parser.add_argument("what", nargs="?", help="a study's name, or a trial's key (its beginning will do)")
    add_results_option(parser)
    steer = parser.add_argument_group("a running study").add_mutually_exclusive_group()
    steer.add_argument(
        "--follow",
        action="store_true",
        help="show it (without a name: the one that runs) live until it ends",
    )
    steer.add_argument(
        "--stop",
        nargs="?",
        const="",
        metavar="ARM",
        help="stop the study between two batches, or the trials of one arm",
    )
    steer.add_argument("--skip", metavar="ARM", help="begin no other trial of this arm; running ones go on")
    steer.add_argument("--seeds", type=natural, metavar="N", help="go on to so many seeds per arm")
    return parser


def _status(options: argparse.Namespace, console: Console) -> int:
    results, what = options.results, options.what
    check_has_results(results)
    studies = sorted({path.parent.name for name in SHOWN for path in results.glob(f"studies/*/{name}")})
    steers = options.stop is not None or options.skip is not None or options.seeds is not None
    if options.follow and what is None:
        what = _running_study(results)
    if steers or options.follow:
        if what is None or not re.fullmatch(STUDY_NAME, what) or not (results / "studies" / what).is_dir():
            known = ", ".join(studies) or "none"
            raise LabError(f"name the study to follow or steer; studies: {known}", exit_code=ExitCode.WRONG_USE)
        if options.follow:
            return _follow(results, what, console)
        console.print(_steer(results / "studies" / what, options), markup=False, soft_wrap=True)
    elif what is None:
        if not studies:
            console.print(f"no study in {results} yet", markup=False)
        for name in studies:
            _show_or_warn(results, name, console)
    elif what in studies:
        console.print(_view(results, what))
    else:
        _show_trial(results, _resolve(results, what, studies), console)
    return ExitCode.DONE


def _running_study(results: Path) -> str:
    """The one study that runs."""
    running = sorted(folder.name for folder in results.glob("studies/*") if read_runs(folder))
    if len(running) != 1:
        said = f"{len(running)} studies run ({', '.join(running)})" if running else "no study runs"
        raise LabError(f"{said}; name the study to follow", exit_code=ExitCode.WRONG_USE)
    return running[0]


def _show_or_warn(results: Path, name: str, console: Console) -> None:
    """Shows one of all studies; a damaged file of it does not hide the others."""
    try:
        console.print(_view(results, name))
    except LabError as error:
        logger.warning("study %s is left out: %s", name, printable(str(error)))


def _steer(folder: Path, options: argparse.Namespace) -> str:
    if options.seeds is not None:
        return ask(folder, "seeds", options.seeds)
    if options.skip is not None:
        return ask(folder, "skip_arm", options.skip)
    return ask(folder, "stop_arm", options.stop) if options.stop else ask(folder, "stop")


def _follow(results: Path, name: str, console: Console) -> int:
    """Shows a study anew every two seconds while somebody runs it; without a terminal, only when it has changed."""
    folder = results / "studies" / name
    shown = ""
    try:
        with Live(console=console, auto_refresh=False) if console.is_terminal else nullcontext() as live:
            while True:
                running = read_runs(folder)
                view = _view(results, name)
                text = _plain(view)
                if text != shown:
                    shown = text
                    if live is not None:
                        live.update(view, refresh=True)
                    else:
                        console.print(view)
                if not running:
                    return ExitCode.DONE
                time.sleep(FOLLOW_SECONDS)
    except KeyboardInterrupt:
        return ExitCode.DONE


def _plain(view: Group) -> str:
    console = Console(width=200, record=True, file=StringIO())
    console.print(view)
    return console.export_text()


def _resolve(results: Path, what: str, studies: Sequence[str]) -> str:
    matches = []
    if re.fullmatch(rf"[0-9a-f]{{1,{KEY_LENGTH}}}", what):
        matches = [key for key in trial_record.recorded_keys(results) if key.startswith(what)]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise LabError(f"{what} begins {len(matches)} trial keys; give more digits", exit_code=ExitCode.WRONG_USE)
    known = ", ".join(studies) or "none"
    raise LabError(
        f"{what!r} is neither a study nor a trial in {results}; studies: {known}", exit_code=ExitCode.WRONG_USE
    )


def study_states(
    results: Path, trials: Sequence[Mapping[str, Any]], ended: Mapping[str, tuple[str, float | None]]
) -> dict[str, str]:
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


def _view(results: Path, name: str) -> Group:
    """A study, or all that are asked together by `--study paper`."""
    folder = results / "studies" / name
    return _paper_view(results, name) if (folder / STUDIES).is_file() else _study_view(results, name)


def _paper_view(results: Path, name: str) -> Group:
    folder = results / "studies" / name
    content = _read_json(folder / STUDIES, {"dataset", "studies"})
    studies = content["studies"]
    if not isinstance(studies, list) or not all(re.fullmatch(STUDY_NAME, str(study)) for study in studies):
        raise LabError(f"{folder / STUDIES} is damaged: it names no studies", exit_code=ExitCode.WRONG_USE)
    parts: list[RenderableType] = [Text(f"{name} on {content['dataset']}: {len(studies)} studies", style="bold")]
    parts += _run_lines(folder)
    for study in studies:
        plan = _read_plan(results / "studies" / study)
        ended = ended_trials(results, [row["key"] for row in plan["trials"]])
        parts.append(_line(f"{study}: {_counts(plan, study_states(results, plan['trials'], ended))}"))
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
    plan = _read_plan(folder)
    further = {row["key"] for row in plan["trials"] if row.get("phase") in ("tuning", "retuned")}
    plan["trials"] = [row for row in plan["trials"] if row.get("phase") not in ("tuning", "retuned")]
    ended = ended_trials(results, [row["key"] for row in plan["trials"]])
    states = study_states(results, plan["trials"], ended)
    parts: list[RenderableType] = [Text(f"{name} on {plan['dataset']}: {_counts(plan, states)}", style="bold")]
    parts += _run_lines(folder)
    parts.append(_study_table(results, plan, states, ended))
    if further:
        parts.append(_line(f"re-tuning: {len(ended_trials(results, further))} of {len(further)} trials ended"))
    sweep = [row for row in trial_record.read_members(results, name) if row["phase"] == "sweep"]
    if sweep:
        points = ended_trials(results, [row["key"] for row in sweep])
        parts.append(_line(f"sweep: {len(points)} of {len(sweep)} asked points ended"))
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
    ended: Mapping[str, tuple[str, float | None]],
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
        table.caption = f"{len(seeds) - 10} more seeds not shown"
    return table


def _cell(
    results: Path, key: str | None, states: Mapping[str, str], ended: Mapping[str, tuple[str, float | None]]
) -> Text:
    if key is None:
        return Text("")
    state, error = ended.get(key, (states[key], None))
    if state == "finished" and error is not None:
        return Text(f"{100 * error:.1f} %")
    epochs = trial_record.read_epochs(layout.trial_folder(results, key)) if state in ("running", "interrupted") else []
    if not epochs:
        return Text(state)
    return Text(f"{100 * epochs[-1].validation.top1_error:.1f} % @{epochs[-1].epoch}")


def _read_json(path: Path, needed: Set[str]) -> dict[str, Any]:
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise LabError(f"{path} cannot be read: {error}", exit_code=ExitCode.WRONG_USE) from error
    if not isinstance(content, dict) or not needed <= content.keys():
        raise LabError(f"{path} is damaged: it lacks one of {', '.join(sorted(needed))}", exit_code=ExitCode.WRONG_USE)
    return content


def _show_trial(results: Path, key: str, console: Console) -> None:
    folder = layout.trial_folder(results, key)
    config, result = trial_record.read_config(folder), trial_record.read_result(folder)
    states = study_states(results, [{"key": key}], ended_trials(results, [key]))
    console.print(Text(f"trial {key}: {states[key]}", style="bold"))
    if result is not None and result.message:
        console.print(result.message, markup=False, soft_wrap=True)
    names = sorted(
        f"{row['study']}/{row['arm']} seed {row['seed']} ({row['phase']})"
        for row in trial_record.read_members(results)
        if row["key"] == key
    )
    if names:
        console.print(f"member of {', '.join(names)}", markup=False, soft_wrap=True)
    console.print(config.model_dump_json(indent=1), markup=False, soft_wrap=True)
    epochs = trial_record.read_epochs(folder)
    table = Table(title=f"last of {len(epochs)} epochs", title_justify="left")
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
    console.print(table)
    log = folder / "log.txt"
    if log.is_file():
        console.print(f"log ({log}):", markup=False, soft_wrap=True)
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
        console.print("\n".join(lines[-LOG_LINES_SHOWN:]), markup=False, soft_wrap=True)
    console.print("repeat it outside Ray, same numbers:", markup=False)
    console.print(f"python -m alexnet_core train --config {folder / 'config.json'}", markup=False, soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
