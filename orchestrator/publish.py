"""`python -m orchestrator.publish --to tensorboard|mlflow|wandb DIR`: shows the records in an experiment tracker.

A trial becomes a run, named by its key, with its hyperparameters, its epochs and how it ended. The records stay the
truth: a run that was published before is passed over, so the command may be repeated while a study goes on.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import polars as pl

from alexnet_core.command_line import CommandParser, pathname
from alexnet_core.interruption import stoppable
from orchestrator.display import make_console, print_error
from orchestrator.errors import LabError
from orchestrator.tables import Tables, load_tables
from orchestrator.trackers import TRACKERS, Run

EXIT_NOTHING = 4
PARAMETERS = ("network.", "training.", "data.")
OUTCOMES = (
    "validation_top1_error",
    "validation_top5_error",
    "test_top1_error",
    "test_top5_error",
    "seconds",
    "images_per_second",
)


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


def runs(tables: Tables, study: str | None) -> Iterator[Run]:
    """Yields the ended trials as runs, in the order of their keys.

    Args:
        tables: The tables.
        study: Only trials of this study.
    """
    members = tables.members if study is None else tables.members.filter(pl.col("study") == study)
    names: dict[str, list[str]] = {}
    for row in members.iter_rows(named=True):
        names.setdefault(row["key"], []).append(f"{row['study']}/{row['arm']}")
    trials = tables.trials if study is None else tables.trials.filter(pl.col("key").is_in(list(names)))
    epochs = tables.epochs.partition_by("key", as_dict=True)
    for row in trials.iter_rows(named=True):
        own = epochs.get((row["key"],))
        yield Run(
            key=row["key"],
            configuration=row["configuration"],
            arms=tuple(sorted(set(names.get(row["key"], ())))),
            seed=row["seed"],
            state=row["state"],
            parameters={
                name: value for name, value in row.items() if name.startswith(PARAMETERS) and value is not None
            },
            epochs=() if own is None else tuple(_scalars(epoch) for epoch in own.iter_rows(named=True)),
            outcome={name: float(row[name]) for name in OUTCOMES if row[name] is not None},
        )


def _scalars(epoch: dict[str, float]) -> tuple[int, dict[str, float]]:
    """(number, scalars) of an epoch: `train_loss` becomes `train/loss`."""
    names = [name for name in epoch if name not in ("key", "epoch")]
    scalars = {
        name.replace("_", "/", 1) if name.startswith(("train_", "validation_")) else name: name for name in names
    }
    return int(epoch["epoch"]), {shown: float(epoch[name]) for shown, name in scalars.items()}


if __name__ == "__main__":
    sys.exit(main())
