"""`python -m orchestrator.best`: ranks the configurations on record, and exports the winner.

A configuration is judged by its mean validation error over seeds, within one data set; its test error is only shown.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence, Set
from pathlib import Path

import polars as pl
from rich.console import Console
from rich.table import Table
from rich.text import Text

from alexnet_core.configuration.wording import counted
from alexnet_core.process.command_line import CommandParser, pathname
from orchestrator.command import (
    add_json_option,
    add_results_option,
    check_has_results,
    command_for_programs,
    natural,
)
from orchestrator.errors import ExitCode, LabError
from orchestrator.output.channel import Output
from orchestrator.output.document import Measure
from orchestrator.output.rankings import Exported, RankedConfiguration, RankingDocument, StorageDocument, StoredKind
from orchestrator.records.export import export
from orchestrator.records.retention import StoredFile, delete, stored_files, to_delete
from orchestrator.statistics.limits import FEWEST_SEEDS
from orchestrator.tables.ranking import finished_trials, median_trial, needed_weights, rank
from orchestrator.tables.tables import load_trials, update_tables

UNCONFIRMED_LAST = (
    "Not confirmed: a point of a sweep comes last, since the error that chose it flatters it; --confirm judges it anew."
)
FEW = f"Few seeds: below {FEWEST_SEEDS} the mean may be luck; more seeds of the study tell."
# 是它自己才算没给名字：用户也可能真的写了 .
DEFAULT_FOLDER = Path()


@command_for_programs
def main(arguments: Sequence[str] | None, output: Output) -> int:
    """Runs the command; returns its exit code."""
    options = _parser().parse_args(arguments)
    check_has_results(options.results)
    if options.rebuild:
        update_tables(options.results, rebuild=True)
    trials, members = load_trials(options.results)
    act = _prune if options.prune or options.yes else _best
    return output.answer(act(options, trials, members, output.console()))


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="python -m orchestrator.best",
        description="Rank the configurations on record by mean validation error over seeds, and export the winner.",
    )
    add_results_option(parser)
    add_json_option(parser)
    parser.add_argument("--dataset", help="only this data set (its name, or the beginning of its digest)")
    parser.add_argument("--study", help="only trials of this study")
    parser.add_argument("--top", type=natural, default=10, metavar="N", help="how many to show (default: 10)")
    parser.add_argument(
        "--export",
        nargs="?",
        type=pathname,
        const=DEFAULT_FOLDER,
        metavar="DIR",
        help="export the best configuration's seed of median error (default folder: results/exports/...)",
    )
    parser.add_argument(
        "--prune",
        action="store_true",
        help="show which weights and checkpoints of the whole results folder nothing needs any more, and stop",
    )
    parser.add_argument("--yes", action="store_true", help="with --prune: delete them")
    parser.add_argument(
        "--force",
        action="store_true",
        help="replace an existing export; with --prune: also weights that a verdict or an export needs",
    )
    parser.add_argument("--rebuild", action="store_true", help="make the tables again from all records")
    return parser


def _best(
    options: argparse.Namespace, trials: pl.DataFrame, members: pl.DataFrame, console: Console
) -> RankingDocument:
    """Shows the ranking, and exports the winner if asked to."""
    candidates = finished_trials(trials, members, dataset=options.dataset, study=options.study)
    ranking = rank(candidates, members)
    if not ranking.height:
        raise LabError(_nothing(trials, options), exit_code=ExitCode.NOTHING)
    for table in ranking_tables(ranking, options.top):
        console.print(table)
    shown = ranking.group_by("data_name", "data_digest", maintain_order=True).head(options.top)
    if shown["chosen"].any():
        console.print(UNCONFIRMED_LAST, highlight=False, soft_wrap=True)
    if (shown["seeds"] < FEWEST_SEEDS).any():
        console.print(FEW, highlight=False, soft_wrap=True)
    exported = None if options.export is None else _export(options, ranking, candidates, console)
    return RankingDocument(configurations=ranked_configurations(shown), exported=exported)


def ranked_configurations(ranking: pl.DataFrame) -> tuple[RankedConfiguration, ...]:
    """Returns the rows of a ranking with their places; see `rank`."""
    places: Counter[str] = Counter()
    rows = []
    for row in ranking.iter_rows(named=True):
        places[row["data_digest"]] += 1
        rows.append(
            RankedConfiguration(
                dataset=row["data_name"],
                data_digest=row["data_digest"],
                rank=places[row["data_digest"]],
                configuration=row["configuration"],
                arms=tuple(row["arms"].split(", ")) if row["arms"] else (),
                seeds=row["seeds"],
                few_seeds=row["seeds"] < FEWEST_SEEDS,
                confirmed=row["confirmed"],
                chosen=row["chosen"],
                chosen_by=_measure("top-1 validation error", row["validation_error"], row["validation_sd"]),
                judged_by=_measure("top-1 test error", row["test_error"]),
            )
        )
    return tuple(rows)


def _measure(metric: str, mean: float | None, sd: float | None = None) -> Measure:
    percent = (None if value is None else 100.0 * value for value in (mean, sd))
    return Measure(metric=metric, unit="%", **dict(zip(("mean", "sd"), percent, strict=True)))


def _export(options: argparse.Namespace, ranking: pl.DataFrame, candidates: pl.DataFrame, console: Console) -> Exported:
    """Exports the winner."""
    datasets = ranking.select("data_name", "data_digest").unique().sort("data_name", "data_digest").rows()
    if len(datasets) > 1:
        names = ", ".join(f"{name} or {digest[:8]}" for name, digest in datasets)
        raise LabError(
            f"errors on different data are not compared: choose one with --dataset ({names})",
            exit_code=ExitCode.WRONG_USE,
        )
    winner = ranking.row(0, named=True)
    key = median_trial(candidates, winner["configuration"])
    folder = _default_folder(options.results, winner) if options.export is DEFAULT_FOLDER else options.export
    export(options.results, key, folder, force=options.force, ranking=winner)
    line = f"exported {key} (seed of median validation error) to {folder}"
    console.print(line, markup=False, soft_wrap=True)
    line = f"check it: python -m alexnet_core eval --model {folder}"
    console.print(line, markup=False, highlight=False, soft_wrap=True)
    return Exported(key=key, folder=folder.resolve())


def _prune(
    options: argparse.Namespace, trials: pl.DataFrame, members: pl.DataFrame, console: Console
) -> StorageDocument:
    """Shows what is stored and what would go, and deletes it if asked to."""
    if not options.prune or options.export is not None or options.study or options.dataset:
        raise LabError(
            "--prune looks at the whole results folder, alone or with --yes and --force", exit_code=ExitCode.WRONG_USE
        )
    files = stored_files(options.results, needed_weights(trials, members))
    gone = to_delete(files, force=options.force)
    stored = _stored(files, {file.kind for file in gone})
    table = Table(title="weights and checkpoints", title_justify="left")
    for heading in ("what", "files", "MB", ""):
        table.add_column(heading, justify="right" if heading in ("files", "MB") else "left")
    for one in stored:
        table.add_row(one.kind, str(one.files), f"{one.bytes / 1e6:.1f}", "goes" if one.goes else "stays")
    console.print(table)
    if not options.yes:
        console.print(f"nothing is deleted yet; --prune --yes would free {_size(gone)}", highlight=False)
        return StorageDocument(stored=stored)
    freed = delete(options.results, gone)
    held = f"; {len(gone) - len(freed)} of trials that are being trained stay" if len(freed) < len(gone) else ""
    console.print(f"freed {_size(freed)}{held}", highlight=False)
    return StorageDocument(stored=stored, deleted_files=len(freed), freed_bytes=sum(file.size for file in freed))


def _stored(files: Sequence[StoredFile], going: Set[str]) -> tuple[StoredKind, ...]:
    kinds = {kind: [file.size for file in files if file.kind == kind] for kind in sorted({file.kind for file in files})}
    return tuple(
        StoredKind(kind=kind, files=len(sizes), bytes=sum(sizes), goes=kind in going) for kind, sizes in kinds.items()
    )


def _size(files: Sequence[StoredFile]) -> str:
    return f"{sum(file.size for file in files) / 1e6:.1f} MB in {counted(len(files), 'file')}"


def _nothing(trials: pl.DataFrame, options: argparse.Namespace) -> str:
    finished = trials.filter(pl.col("state") == "finished")
    if not finished.height:
        return f"no finished trial in {options.results} yet"
    known = ", ".join(sorted(finished["data_name"].unique()))
    return f"no finished trial matches; data sets with finished trials: {known}"


def ranking_tables(ranking: pl.DataFrame, top: int) -> list[Table]:
    """Returns a rich table per data set, errors in percent."""
    tables = []
    for (name, digest), rows in ranking.group_by("data_name", "data_digest", maintain_order=True):
        table = Table(title=f"{name} ({str(digest)[:8]})", title_justify="left")
        for heading in ("rank", "configuration", "as", "seeds", "confirmed", "validation %", "sd", "test %"):
            table.add_column(heading, justify="left" if heading in ("configuration", "as") else "right")
        for place, row in enumerate(rows.head(top).iter_rows(named=True), start=1):
            cells = [str(place), row["configuration"][:8], row["arms"] or "", _seeds(row["seeds"])]
            cells.append("yes" if row["confirmed"] else "no" if row["chosen"] else "")
            cells += [_percent(row[column]) for column in ("validation_error", "validation_sd", "test_error")]
            table.add_row(*(Text(cell) for cell in cells))
        tables.append(table)
    return tables


def _seeds(count: int) -> str:
    return f"{count} (few)" if count < FEWEST_SEEDS else str(count)


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.2f}"


def _default_folder(results: Path, winner: dict[str, object]) -> Path:
    return results / "exports" / f"{winner['data_name']}-{str(winner['configuration'])[:8]}"


if __name__ == "__main__":
    sys.exit(main())
