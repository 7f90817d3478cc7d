"""`python -m orchestrator.best`: ranks the configurations on record, and exports the winner.

A configuration is judged by the mean over seeds of what chooses (AlexNet's validation error), within one core and data
set; what judges (its test error) is only shown.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import polars as pl
from rich.console import Console
from rich.table import Table
from rich.text import Text

from alexnet_core.configuration.wording import counted
from alexnet_core.process.command_line import CommandParser, pathname
from alexnet_core.trained.model_folder import SUMS
from orchestrator.command import (
    add_json_option,
    add_results_option,
    check_has_results,
    command_for_programs,
    natural,
)
from orchestrator.cores.contract import ContractError
from orchestrator.cores.identity import KeptCode, kept_code, load_kept
from orchestrator.cores.loading import mistake
from orchestrator.cores.sources import CODE
from orchestrator.cores.states import read_state
from orchestrator.errors import ExitCode, LabError
from orchestrator.output.channel import Output
from orchestrator.output.document import Measure
from orchestrator.output.fitting import fitting, print_text
from orchestrator.output.rankings import Exported, RankedConfiguration, RankingDocument, StorageDocument, StoredKind
from orchestrator.records import trial_record
from orchestrator.records.checked_record import read_record
from orchestrator.records.core_export import CodeSide
from orchestrator.records.export import export, export_ensemble
from orchestrator.records.layout import trial_folder
from orchestrator.records.retention import StoredFile, delete, stored_files, to_delete
from orchestrator.statistics.limits import FEWEST_SEEDS
from orchestrator.tables.ranking import COMPARABLE, best_seeds, finished_trials, median_trial, needed_weights, rank
from orchestrator.tables.tables import load_trials, update_tables
from search_spaces.core_config import (
    ALEXNET,
    CoreConfig,
    CoreDescription,
    TrialConfig,
    configuration_of,
    description_of,
    readable,
)

UNCONFIRMED_LAST = (
    "Not confirmed: a point of a sweep comes last, since the error that chose it flatters it; --confirm judges it anew."
)
OWN_SPLITS = (
    "Their seeds drew validation images of their own (vary: [split]): they answer together on test images, not on "
    "validation images, and the study ensemble, which needs both, refuses them."
)
FEW = f"Few seeds: below {FEWEST_SEEDS} the mean may be luck; more seeds of the study tell."
# 是它自己才算没给名字：用户也可能真的写了 .
DEFAULT_FOLDER = Path()
Cores = Mapping[tuple[str, int], CoreDescription]


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
        examples={
            "": "the ten best configurations of every data set",
            "--study lrn --export": "the winner of one study, into results/exports",
            "--export DIR --ensemble 5": "the winner's five best seeds, and the command that averages them",
            "--prune": "weights that nothing needs any more; --prune --yes deletes them",
        },
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
        "--ensemble",
        type=natural,
        metavar="N",
        help="with --export: instead the N seeds of lowest validation error of that one configuration, into DIR/1 ... "
        "DIR/N, to be averaged as the paper's table 2 does: the same network, other initialisations",
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
    parser.add_argument(
        "--core",
        metavar="NAME",
        help="with --export: let this core, the winner's, write its own export too, which runs its code",
    )
    parser.add_argument("--rebuild", action="store_true", help="make the tables again from all records")
    return parser


def _best(
    options: argparse.Namespace, trials: pl.DataFrame, members: pl.DataFrame, console: Console
) -> RankingDocument:
    """Shows the ranking, and exports the winner if asked to."""
    _check_ensemble(options)
    candidates = finished_trials(trials, members, dataset=options.dataset, study=options.study)
    ranking = rank(candidates, members)
    if not ranking.height:
        raise LabError(_nothing(trials, options), exit_code=ExitCode.NOTHING)
    cores = _cores(options.results, candidates)
    for table in ranking_tables(ranking, options.top, cores):
        console.print(fitting(table, console.width))
    shown = ranking.group_by(*COMPARABLE, maintain_order=True).head(options.top)
    if shown["chosen"].any():
        print_text(console, UNCONFIRMED_LAST)
    if (shown["seeds"] < FEWEST_SEEDS).any():
        print_text(console, FEW)
    exported, ensemble = None, tuple[Exported, ...]()
    if options.export is not None:
        _check_comparable(ranking)
        if options.ensemble is None:
            exported = _export(options, ranking, candidates, cores, console)
        else:
            ensemble = _export_ensemble(options, ranking, candidates, cores, console)
    configurations = ranked_configurations(shown, cores)
    return RankingDocument(configurations=configurations, exported=exported, ensemble=ensemble)


def _check_ensemble(options: argparse.Namespace) -> None:
    """Refuses --ensemble where it means nothing."""
    if options.ensemble is None:
        return
    if options.export is None or options.core is not None:
        raise LabError("--ensemble goes with --export, without --core", exit_code=ExitCode.WRONG_USE)
    if options.ensemble < 2:
        raise LabError("--ensemble 1: an ensemble has two networks or more", exit_code=ExitCode.WRONG_USE)


def ranked_configurations(ranking: pl.DataFrame, cores: Cores) -> tuple[RankedConfiguration, ...]:
    """Returns the rows of a ranking with their places; see `rank`.

    Args:
        ranking: From `rank`.
        cores: What each core declares.
    """
    places: Counter[tuple[Any, ...]] = Counter()
    rows = []
    for row in ranking.iter_rows(named=True):
        group, core = tuple(row[column] for column in COMPARABLE), cores[row["core"], row["core_version"]]
        places[group] += 1
        rows.append(
            RankedConfiguration(
                core=core.name,
                core_version=row["core_version"],
                dataset=row["data_name"],
                data_digest=row["data_digest"],
                rank=places[group],
                configuration=row["configuration"],
                arms=tuple(row["arms"].split(", ")) if row["arms"] else (),
                seeds=row["seeds"],
                few_seeds=row["seeds"] < FEWEST_SEEDS,
                confirmed=row["confirmed"],
                chosen=row["chosen"],
                chosen_by=_measure(core, core.chosen_by, core.chosen.objective(row["objective"]), row["objective_sd"]),
                judged_by=_measure(core, core.judged_by, row["judged"]),
            )
        )
    return tuple(rows)


def _measure(core: CoreDescription, name: str, mean: float | None, sd: float | None = None) -> Measure:
    """A metric's mean and standard deviation in the unit in which it is shown."""
    metric = core.metrics[name]
    shown = (None if value is None else metric.scale * value for value in (mean, sd))
    label = f"top-1 {readable(name)}" if core is ALEXNET else readable(name)
    return Measure(metric=label, unit=metric.unit, **dict(zip(("mean", "sd"), shown, strict=True)))


def _export(
    options: argparse.Namespace, ranking: pl.DataFrame, candidates: pl.DataFrame, cores: Cores, console: Console
) -> Exported:
    """Exports the winner."""
    winner = ranking.row(0, named=True)
    key, core = median_trial(candidates, winner["configuration"]), cores[winner["core"], winner["core_version"]]
    folder = _default_folder(options.results, winner) if options.export is DEFAULT_FOLDER else options.export
    code = _code_of(options, key, core, console)
    export(options.results, key, folder, force=options.force, ranking=winner, code=code)
    line = f"exported {key} (seed of median {readable(core.chosen_by)}) to {folder}"
    print_text(console, line)
    place = shlex.quote(str(folder))
    whole = f"(cd {place} && sha256sum -c {SUMS})"
    line = f"check it: {f'python -m alexnet_core eval --model {place}' if core is ALEXNET else whole}"
    print_text(console, line)
    return Exported(key=key, folder=folder.resolve())


def _export_ensemble(
    options: argparse.Namespace, ranking: pl.DataFrame, candidates: pl.DataFrame, cores: Cores, console: Console
) -> tuple[Exported, ...]:
    """Exports the winner's seeds of lowest validation error, and prints how they are averaged."""
    winner, count = ranking.row(0, named=True), options.ensemble
    if cores[winner["core"], winner["core_version"]] is not ALEXNET:
        raise LabError(
            f"--ensemble is of AlexNets; the winner's core is {winner['core']}: export it without",
            exit_code=ExitCode.WRONG_USE,
        )
    if winner["seeds"] < count:
        raise LabError(
            f"--ensemble {count}: the winner {winner['configuration'][:8]} has {counted(winner['seeds'], 'seed')}; "
            "train more of its study with --seeds",
            exit_code=ExitCode.NOTHING,
        )
    keys = best_seeds(candidates, winner["configuration"], count)
    one = _default_folder(options.results, winner)
    folder = one.with_name(f"{one.name}-ensemble") if options.export is DEFAULT_FOLDER else options.export
    places = export_ensemble(options.results, keys, folder, force=options.force, ranking=winner)
    line = f"exported {', '.join(keys)} (seeds of lowest validation error) to {folder}"
    print_text(console, line)
    models = " ".join(f"--model {shlex.quote(str(place))}" for place in places)
    print_text(console, f"average them: python -m alexnet_core eval {models}")
    if candidates.filter(pl.col("key").is_in(keys))["data.resplit"].n_unique() > 1:
        print_text(console, OWN_SPLITS)
    return tuple(Exported(key=key, folder=place.resolve()) for key, place in zip(keys, places, strict=True))


def _code_of(options: argparse.Namespace, key: str, core: CoreDescription, console: Console) -> CodeSide:
    """The code that trained a trial; its own export only where the user allows it to be run."""
    record = read_record(trial_folder(options.results, key))
    assert record is not None
    fingerprint = str(record.result.environment.get("code") or "")
    code = kept_code(options.results, fingerprint, core.name)
    kept = None if code is None else code.folder
    if options.core is not None:
        return CodeSide(kept, _export_of_core(options, record.config, code, core))
    if code is None and fingerprint:
        # 改过的副本不是训练它的那份：宁可不交，也不冒名
        print_text(
            console, f"without the code that trained it: that is not kept in {options.results / CODE}, or was edited"
        )
    return CodeSide(kept)


def _export_of_core(
    options: argparse.Namespace, config: TrialConfig, code: KeptCode | None, core: CoreDescription
) -> Callable[[Path, Path], None]:
    """The core's own export, from the kept copy of its code."""
    if not (options.core == core.name or (code is not None and code.is_named(options.core, core.name))):
        raise LabError(f"--core {options.core}: the winner's core is {core.name}", exit_code=ExitCode.WRONG_USE)
    if not isinstance(config, CoreConfig) or code is None:
        raise LabError(
            f"--core {core.name}: its code is not kept in {options.results / CODE}, or was edited",
            exit_code=ExitCode.NOTHING,
        )
    try:
        loaded = load_kept(code)
        if loaded.export is None:
            raise LabError(f"--core {core.name}: it offers no export; leave --core out", exit_code=ExitCode.WRONG_USE)
        fields = configuration_of(loaded.config, config.fields)
    except ContractError as error:
        raise LabError(str(error), exit_code=ExitCode.NOTHING) from error
    write = loaded.export

    def by_the_core(state: Path, folder: Path) -> None:
        try:
            write(fields, read_state(state)["state"], folder)
        except (Exception, SystemExit) as error:
            raise LabError(f"core {core.name}: export raised {mistake(error)}", exit_code=ExitCode.NOTHING) from error

    return by_the_core


def _check_comparable(ranking: pl.DataFrame) -> None:
    """Refuses to choose among what is not compared: other data, another core or another version of one."""
    groups = ranking.select(COMPARABLE).unique().sort(COMPARABLE).rows(named=True)
    datasets = {(group["data_name"], group["data_digest"]) for group in groups}
    if len(datasets) > 1:
        names = ", ".join(f"{name} or {digest[:8]}" if digest else name for name, digest in sorted(datasets))
        raise LabError(
            f"errors on different data are not compared: choose one with --dataset ({names})",
            exit_code=ExitCode.WRONG_USE,
        )
    if len(groups) > 1:
        names = ", ".join(f"{group['core']} version {group['core_version']}" for group in groups)
        raise LabError(
            f"different cores are not compared: choose a study with --study ({names})", exit_code=ExitCode.WRONG_USE
        )


def _cores(results: Path, finished: pl.DataFrame) -> Cores:
    """What each core declares, as the records say; nothing of it is imported."""
    first = finished.group_by("core", "core_version").agg(pl.col("key").first())
    return {
        (row["core"], row["core_version"]): description_of(trial_record.read_config(trial_folder(results, row["key"])))
        for row in first.iter_rows(named=True)
    }


def _prune(
    options: argparse.Namespace, trials: pl.DataFrame, members: pl.DataFrame, console: Console
) -> StorageDocument:
    """Shows what is stored and what would go, and deletes it if asked to."""
    if not options.prune or options.export is not None or options.ensemble or options.study or options.dataset:
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
    console.print(fitting(table, console.width))
    if not options.yes:
        print_text(console, f"nothing is deleted yet; --prune --yes would free {_size(gone)}")
        return StorageDocument(stored=stored)
    freed = delete(options.results, gone)
    held = f"; {len(gone) - len(freed)} of trials that are being trained stay" if len(freed) < len(gone) else ""
    print_text(console, f"freed {_size(freed)}{held}")
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
    # 没有留出图像的训练没有可排名的误差
    unranked = finished["objective"].null_count()
    left_out = f"; {counted(unranked, 'trial')} held no image out, and cannot be ranked by a validation error"
    return f"no finished trial matches; data sets with finished trials: {known}{left_out * bool(unranked)}"


def ranking_tables(ranking: pl.DataFrame, top: int, cores: Cores) -> list[Table]:
    """Returns a rich table per core and data set.

    Args:
        ranking: From `rank`.
        top: How many configurations of each are shown.
        cores: What each core declares, by name and version.
    """
    tables = []
    for (name, digest, core_name, version), rows in ranking.group_by(*COMPARABLE, maintain_order=True):
        core = cores[str(core_name), int(str(version))]
        on = f"{name} ({str(digest)[:8]})" if digest else str(name)
        of = "" if core is ALEXNET else f"{core.name} version {core.version} on "
        table = Table(title=f"{of}{on}", title_justify="left")
        for heading in ("rank", "configuration", "as", "seeds", "confirmed", *_metric_headings(core)):
            table.add_column(heading, justify="left" if heading in ("configuration", "as") else "right")
        for place, row in enumerate(rows.head(top).iter_rows(named=True), start=1):
            cells = [str(place), row["configuration"][:8], row["arms"] or "", _seeds(row["seeds"])]
            cells.append("yes" if row["confirmed"] else "no" if row["chosen"] else "")
            cells += _metric_cells(row, core)
            table.add_row(*(Text(cell) for cell in cells))
        tables.append(table)
    return tables


def _seeds(count: int) -> str:
    return f"{count} (few)" if count < FEWEST_SEEDS else str(count)


def _metric_headings(core: CoreDescription) -> tuple[str, ...]:
    if core is ALEXNET:
        return ("validation %", "sd", "test %")
    chosen, judged = core.chosen, core.metrics[core.judged_by]
    headings = (f"{readable(core.chosen_by)} {chosen.unit}".rstrip(), "sd")
    same = core.judged_by == core.chosen_by
    return headings if same else (*headings, f"{readable(core.judged_by)} {judged.unit}".rstrip())


def _metric_cells(row: Mapping[str, Any], core: CoreDescription) -> list[str]:
    """Mean and standard deviation of the metric that chooses, and the mean of the one that judges, as shown."""
    chosen, judged = core.chosen, core.metrics[core.judged_by]
    cells = [chosen.number(chosen.objective(row["objective"])), row["objective_sd"], row["judged"]]
    cells[1] = "" if cells[1] is None else chosen.number(cells[1])
    cells[2] = "" if cells[2] is None else judged.number(cells[2])
    return cells if core.judged_by != core.chosen_by else cells[:2]


def _default_folder(results: Path, winner: dict[str, object]) -> Path:
    return results / "exports" / f"{winner['data_name']}-{str(winner['configuration'])[:8]}"


if __name__ == "__main__":
    sys.exit(main())
