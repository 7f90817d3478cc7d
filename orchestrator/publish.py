"""`python -m orchestrator.publish --to tensorboard|mlflow|wandb DIR`: shows the records in an experiment tracker.

A trial becomes a run, named by its key, with its hyperparameters, its epochs and how it ended. The records stay the
truth: a run that was published before is passed over, so the command may be repeated while a study goes on.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence

from alexnet_core.configuration.wording import counted
from alexnet_core.process.command_line import CommandParser, pathname
from orchestrator.command import add_results_option, check_has_results, command
from orchestrator.errors import ExitCode, LabError
from orchestrator.output.console import make_console
from orchestrator.output.fitting import print_text
from orchestrator.tables.tables import load_tables
from orchestrator.tables.trackers import TRACKERS, runs


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    parser = CommandParser(
        prog="python -m orchestrator.publish",
        description="Show the records in TensorBoard, MLflow or W&B (offline).",
        examples={
            "--to tensorboard runs": "every trial as a run, into ./runs",
            "--to mlflow mlruns --study lrn": "only those of one study",
            "--to wandb offline": "an offline run each, to be synchronised by hand",
        },
    )
    parser.add_argument("folder", type=pathname, metavar="DIR", help="where the tracker's files go")
    parser.add_argument("--to", choices=sorted(TRACKERS), required=True, help="the tracker")
    parser.add_argument("--study", help="only trials of this study")
    add_results_option(parser)
    return _publish(parser.parse_args(arguments))


def _publish(options: argparse.Namespace) -> int:
    check_has_results(options.results)
    ended = list(runs(load_tables(options.results), options.study))
    if not ended:
        what = f" of study {options.study}" if options.study else ""
        raise LabError(f"no trial{what} has ended in {options.results} yet", exit_code=ExitCode.NOTHING)
    write, hint = TRACKERS[options.to]
    try:
        fresh = write(ended, options.folder)
    except ImportError as error:
        raise LabError(
            f"--to {options.to} needs a package that is not installed ({error.name}); "
            f"run it with uv run --group {options.to}",
            exit_code=ExitCode.ENVIRONMENT,
        ) from error
    except OSError as error:
        raise LabError(
            f"{options.folder} cannot be written: {error.strerror or error}", exit_code=ExitCode.ENVIRONMENT
        ) from error
    print_text(
        make_console(),
        f"{counted(fresh, 'run')} published, {len(ended) - fresh} there already; open them: "
        f"{hint.format(folder=shlex.quote(str(options.folder)))}",
    )
    return ExitCode.DONE


if __name__ == "__main__":
    sys.exit(main())
