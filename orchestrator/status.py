"""`python -m orchestrator.status [STUDY | KEY]`: a running or finished study, or one trial, from another shell.

It reads what is on disk, follows a study live, and leaves requests for the driver of one (`steering.py`).
"""

from __future__ import annotations

import argparse
import errno
import logging
import os
import re
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from io import StringIO
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from alexnet_core.process.command_line import CommandParser
from orchestrator.command import (
    add_json_option,
    add_results_option,
    check_has_results,
    command_for_programs,
    natural,
)
from orchestrator.errors import ExitCode, LabError
from orchestrator.output.channel import Output
from orchestrator.output.console import printable
from orchestrator.output.document import Document
from orchestrator.output.fitting import print_text
from orchestrator.planning.plan_file import STUDIES
from orchestrator.records import trial_record
from orchestrator.records.layout import STUDY_FOLDER
from orchestrator.running.status.facts import StatusDocument, StudyStatus, study_status, trial_status
from orchestrator.running.status.views import study_view, trial_view
from orchestrator.running.steering import ask, read_runs
from orchestrator.tables.tables import say_left_out
from search_spaces.trial import KEY_LENGTH

logger = logging.getLogger(__name__)
FOLLOW_SECONDS = 2.0
SHOWN = ("plan.json", STUDIES)


@command_for_programs
def main(arguments: Sequence[str] | None, output: Output) -> int:
    """Runs the command; returns its exit code."""
    options = _parser().parse_args(arguments)
    if output.as_json and options.follow:
        raise LabError(
            "--follow shows a study again and again, --json is one document: leave one of them out",
            exit_code=ExitCode.WRONG_USE,
        )
    # 程序换个目录读文档，其中的路径也要找得到
    results = options.results.resolve() if output.as_json else options.results
    return output.answer(_status(results, options, output.console()))


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="python -m orchestrator.status",
        description="Show all studies, one study, or one trial; steer a study that runs.",
        examples={
            "": "all studies of the results folder",
            "--follow": "the study that runs, live until it ends",
            "lrn --stop": "stop it; ablate lrn goes on from there",
            "3f2a": "the trial whose key begins so",
        },
    )
    parser.add_argument("what", nargs="?", help="a study's name, or a trial's key (its beginning will do)")
    add_results_option(parser)
    add_json_option(parser)
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


def _status(results: Path, options: argparse.Namespace, console: Console) -> Document:
    what = options.what
    check_has_results(results)
    studies = sorted({path.parent.name for name in SHOWN for path in results.glob(f"studies/*/{name}")})
    steers = options.stop is not None or options.skip is not None or options.seeds is not None
    if options.follow and what is None:
        what = _running_study(results)
    if steers or options.follow:
        if what is None or not STUDY_FOLDER.fullmatch(what) or not (results / "studies" / what).is_dir():
            known = ", ".join(studies) or "none"
            raise LabError(f"name the study to follow or steer; studies: {known}", exit_code=ExitCode.WRONG_USE)
        if options.follow:
            _follow(results, what, console)
            return Document()
        asked = _steer(results / "studies" / what, options)
        print_text(console, asked)
        return StatusDocument(requests=tuple(asked.splitlines()))
    # 不算数的副本与坏记录，不论哪个研究要它，都在这里点名
    say_left_out(results)
    if what is None:
        return _all_studies(results, studies, console)
    if what in studies:
        status = study_status(results, what)
        _show(console, study_view(status, console.width))
        return StatusDocument(studies=(status,))
    document = trial_status(results, _resolve(results, what, studies))
    _show(console, trial_view(document, console.width))
    return document


def _running_study(results: Path) -> str:
    """The one study that runs."""
    running = sorted(folder.name for folder in results.glob("studies/*") if read_runs(folder))
    if len(running) != 1:
        which = f"{len(running)} studies run ({', '.join(running)})" if running else "no study runs"
        raise LabError(f"{which}; name the study to follow", exit_code=ExitCode.WRONG_USE)
    return running[0]


def _all_studies(results: Path, names: Sequence[str], console: Console) -> StatusDocument:
    """Shows all studies; a damaged file of one, or a folder that may not be read, does not hide the others."""
    shown: list[StudyStatus] = []
    left_out = {
        folder.name: f"{folder} cannot be read: {os.strerror(errno.EACCES)}"
        for folder in sorted((results / "studies").glob("*"))
        if folder.is_dir() and not os.access(folder, os.R_OK | os.X_OK)
    }
    for name, reason in left_out.items():
        logger.warning("study %s is left out: %s", name, printable(reason))
    if not names and not left_out:
        print_text(console, f"no study in {results} yet")
    for name in names:
        try:
            shown.append(study_status(results, name))
            _show(console, study_view(shown[-1], console.width))
        except LabError as error:
            left_out[name] = str(error)
            logger.warning("study %s is left out: %s", name, printable(str(error)))
    return StatusDocument(studies=tuple(shown), left_out=left_out)


def _steer(folder: Path, options: argparse.Namespace) -> str:
    if options.seeds is not None:
        return ask(folder, "seeds", options.seeds)
    if options.skip is not None:
        return ask(folder, "skip_arm", options.skip)
    return ask(folder, "stop_arm", options.stop) if options.stop else ask(folder, "stop")


def _follow(results: Path, name: str, console: Console) -> None:
    """Shows a study anew every two seconds while somebody runs it; without a terminal, only when it has changed."""
    folder = results / "studies" / name
    shown = ""
    try:
        with Live(console=console, auto_refresh=False) if console.is_terminal else nullcontext() as live:
            while True:
                running = read_runs(folder)
                shown_now = study_view(study_status(results, name), console.width)
                text = _plain(shown_now)
                if text != shown:
                    shown = text
                    if live is not None:
                        live.update(shown_now, refresh=True)
                    else:
                        _show(console, shown_now)
                if not running:
                    return
                time.sleep(FOLLOW_SECONDS)
    except KeyboardInterrupt:
        return


def _show(console: Console, view: Group) -> None:
    for part in view.renderables:
        if isinstance(part, Text):
            print_text(console, part.plain, str(part.style))
        else:
            console.print(part)


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


if __name__ == "__main__":
    sys.exit(main())
