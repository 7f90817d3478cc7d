"""`python -m orchestrator.publish --to tensorboard|mlflow|wandb DIR`: shows the records in an experiment tracker.

A trial becomes a run, named by its key, with its hyperparameters, its epochs and how it ended. The records stay the
truth: a run that was published before is passed over, so the command may be repeated while a study goes on.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from alexnet_core.process.command_line import CommandParser, pathname
from alexnet_core.process.interruption import stoppable
from orchestrator.command import make_console, print_error
from orchestrator.errors import LabError
from orchestrator.tables.tables import load_tables
from orchestrator.tables.trackers import TRACKERS, runs

EXIT_NOTHING = 4


@stoppable
def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    parser = CommandParser(
        prog="python -m orchestrator.publish", description="Show the records in TensorBoard, MLflow or W&B (offline)."
    )
    parser.add_argument("folder", type=pathname, metavar="DIR", help="where the tracker's files go")
    parser.add_argument("--to", choices=sorted(TRACKERS), required=True, help="the tracker")
    parser.add_argument("--study", help="only trials of this study")
    parser.add_argument("--results", type=pathname, default=Path("results"), help="results folder (default: ./results)")
    options = parser.parse_args(arguments)
    try:
        return _publish(options)
    except LabError as error:
        print_error(error)
        return error.exit_code


def _publish(options: argparse.Namespace) -> int:
    if not options.results.is_dir():
        raise LabError(f"results folder {options.results} does not exist; name it with --results", exit_code=2)
    found = list(runs(load_tables(options.results), options.study))
    if not found:
        what = f" of study {options.study}" if options.study else ""
        raise LabError(f"no trial{what} has ended in {options.results} yet", exit_code=EXIT_NOTHING)
    write, hint = TRACKERS[options.to]
    try:
        fresh = write(found, options.folder)
    except ImportError as error:
        raise LabError(
            f"--to {options.to} needs a package that is not installed ({error.name}); "
            f"run it with uv run --group {options.to}",
            exit_code=3,
        ) from error
    except OSError as error:
        raise LabError(f"{options.folder} cannot be written: {error.strerror or error}", exit_code=3) from error
    make_console().print(
        f"{fresh} runs published, {len(found) - fresh} were there; open them: {hint.format(folder=options.folder)}",
        markup=False,
        soft_wrap=True,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
