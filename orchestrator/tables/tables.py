"""Tables: the typed Polars view of all records, in `results/tables/`.

`trials.parquet` has one row per trial, `members.parquet` one per membership of a study, `epochs.parquet` one per epoch.
They grow by what is new; a damaged or missing file is made again from the records.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import polars as pl

from orchestrator.errors import LabError
from orchestrator.records import checked_record, files, layout, trial_record
from orchestrator.records.checked_record import Record
from orchestrator.records.layout import table_folder
from orchestrator.records.trial_record import TrialState
from orchestrator.tables import siblings
from orchestrator.tables.rows import (
    EPOCH_COLUMNS,
    MEMBER_COLUMNS,
    METRICS_BY_NAME,
    TRIAL_COLUMNS,
    Rows,
    epoch_rows,
    joined,
    member_rows,
    rows_of,
    say_without_curve,
)
from orchestrator.tables.siblings import left_out, strangers

COLUMNS = ("key", "state", "objective", "curve", "record_stamp")
logger = logging.getLogger(__name__)


class Tables(NamedTuple):
    """The three frames; see the module. Errors are in [0, 1]."""

    trials: pl.DataFrame
    members: pl.DataFrame
    epochs: pl.DataFrame


class TrialTables(NamedTuple):
    """The frames without the epochs, which are many and which few need."""

    trials: pl.DataFrame
    members: pl.DataFrame


class _Scan(NamedTuple):
    """The trials and members as the records say now, and how they differ from what is on disk."""

    trials: pl.DataFrame
    members: pl.DataFrame
    fresh_epochs: pl.DataFrame
    stale: list[str]
    gone: list[str]
    changed: bool


def load_tables(results: Path | str = "results") -> Tables:
    """Returns the tables, brought up to date in memory; nothing is written.

    Args:
        results: The results folder.

    Raises:
        NotADirectoryError: There is no such folder.
    """
    results = Path(results)
    if not results.is_dir():
        raise NotADirectoryError(f"there is no results folder {results}")
    scan = _scan(results, rebuild=False, with_epochs=True)
    return Tables(scan.trials, scan.members, _epochs(results, scan))


def load_trials(results: Path) -> TrialTables:
    """Returns (trials, members), up to date, without reading the epochs."""
    scan = _scan(results, rebuild=False, with_epochs=False)
    return TrialTables(scan.trials, scan.members)


def rows_from_records(results: Path, keys: Sequence[str]) -> Rows:
    """Returns rows of the tables as the records say, whatever the tables on disk say; without trials not ended."""
    stamps = record_stamps(results, keys)
    rows = rows_of(results, list(stamps), stamps)
    trials = _in_order(_among_siblings(rows.trials), TRIAL_COLUMNS).sort("key")
    return Rows(trials, rows.epochs.filter(pl.col("key").is_in(trials["key"].to_list())))


def update_tables(results: Path, *, rebuild: bool = False) -> TrialTables:
    """Brings the tables up to date and writes them, under a lock for the moment of writing.

    Args:
        results: The results folder.
        rebuild: Read all records again instead of the new ones.

    Returns:
        (trials, members); the epochs are read only when some are new.
    """
    with files.locked(table_folder(results)):
        scan = _scan(results, rebuild=rebuild, with_epochs=True)
        if scan.changed:
            # trials.parquet 里的时间戳说明哪些记录已读，所以最后写：中途被杀只会重读，不会漏掉 epoch
            _write(results, "epochs", _epochs(results, scan))
            _write(results, "members", scan.members)
            _write(results, "trials", scan.trials)
    return TrialTables(scan.trials, scan.members)


def _write(results: Path, name: str, frame: pl.DataFrame) -> None:
    buffer = BytesIO()
    frame.write_parquet(buffer)
    files.write_atomically(table_folder(results) / f"{name}.parquet", buffer.getvalue())


def _scan(results: Path, *, rebuild: bool, with_epochs: bool) -> _Scan:
    members = member_rows(results)
    members_on_disk = None if rebuild else read_table(results, "members", MEMBER_COLUMNS)
    whole = not rebuild and (not with_epochs or _has_columns(results, "epochs", EPOCH_COLUMNS))
    trials = read_table(results, "trials", TRIAL_COLUMNS) if whole else None
    if trials is not None and trials["key"].is_duplicated().any():
        _say_once(table_folder(results) / "trials.parquet", "has a trial twice")
        trials, whole = None, False
    if trials is None:
        trials = pl.DataFrame(schema=TRIAL_COLUMNS)
    # 记录是事实，表只是视图：按时间戳认出新的、变了的、没了的
    stamps = record_stamps(results, trial_record.recorded_keys(results))
    known = dict(zip(trials["key"].to_list(), trials["record_stamp"].to_list(), strict=True))
    stale = [key for key, stamp in stamps.items() if known.get(key) != stamp]
    gone = [key for key in known if key not in stamps]
    changed = not whole or members_on_disk is None or not members.equals(members_on_disk)
    fresh = rows_of(results, stale, stamps)
    if stale or gone:
        height = trials.height
        trials = _grown(trials, fresh.trials, stale + gone, ("key",))
        trials = _in_order(_among_siblings(trials), TRIAL_COLUMNS)
        # 损坏的、不合群的记录每次都会重读；没有读出新行时不必重写表
        changed |= bool(gone) or any(key in known for key in stale) or trials.height != height
    say_without_curve(results, dict(trials.filter(pl.col("curve").is_not_null()).select("key", "curve").iter_rows()))
    return _Scan(trials, members, fresh.epochs, stale, gone, changed)


def _among_siblings(trials: pl.DataFrame) -> pl.DataFrame:
    """The trials but for those that disagree with others on the same data about its images, which are named."""
    odd = strangers(trials)
    for line in left_out(odd):
        logger.warning("left out of the tables: %s", line)
    return trials.filter(~pl.col("key").is_in(list(odd))) if odd else trials


def _epochs(results: Path, scan: _Scan) -> pl.DataFrame:
    """The epochs as the records say now."""
    old = read_table(results, "epochs", EPOCH_COLUMNS) if len(scan.stale) < scan.trials.height else None
    if old is not None and not scan.stale and not scan.gone:
        return old
    counted = set(scan.trials.filter(pl.col("curve").is_null())["key"])
    fresh = scan.fresh_epochs.filter(pl.col("key").is_in(list(counted)))
    if old is None:
        old = epoch_rows(results, sorted(counted.difference(scan.stale)))
    out = {*scan.stale, *scan.gone, *set(old["key"].unique()).difference(counted)}
    return _in_order(_grown(old, fresh, out, ("key", "epoch")), EPOCH_COLUMNS)


def read_table(
    results: Path, name: str, columns: Mapping[str, pl.DataType | type[pl.DataType]], only: Sequence[str] | None = None
) -> pl.DataFrame | None:
    """Reads a table or some columns of it; a missing or damaged one is None, and will be made from the records."""
    if not _has_columns(results, name, columns):
        return None
    path = table_folder(results) / f"{name}.parquet"
    try:
        return pl.read_parquet(path, glob=False, columns=None if only is None else list(only))
    except (pl.exceptions.PolarsError, OSError) as error:
        _say_damaged(path, error)
        return None


def metric_columns(results: Path) -> list[str]:
    """Returns the columns of the trials table that hold metrics of other cores; none where there is no table."""
    try:
        names = pl.read_parquet_schema(table_folder(results) / "trials.parquet")
    except (pl.exceptions.PolarsError, OSError):
        return []
    return [name for name in names if name.startswith(METRICS_BY_NAME)]


def _has_columns(results: Path, name: str, columns: Mapping[str, pl.DataType | type[pl.DataType]]) -> bool:
    """Whether a table is there, ends as a whole one does, and has these columns; looks at its last bytes alone."""
    path = table_folder(results) / f"{name}.parquet"
    try:
        if not path.is_file():
            return False
        schema = pl.scan_parquet(path, glob=False).collect_schema()
    except (pl.exceptions.PolarsError, OSError) as error:
        _say_damaged(path, error)
        return False
    if any(schema.get(column) != kind for column, kind in columns.items()):
        _say_once(path, "has other columns than this version writes")
        return False
    return True


def _say_damaged(path: Path, error: Exception) -> None:
    trouble = "cannot be read (Permission denied)" if isinstance(error, PermissionError) else None
    _say_once(path, trouble or f"is damaged ({_first_line(error)})")


@cache
def _say_once(path: Path, what: str) -> None:
    # 一个命令会读同一张表好几次
    logger.warning("%s %s; it is made again from the records", path, what)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def record_stamps(results: Path, keys: Iterable[str]) -> dict[str, str]:
    """Time and size of every `result.json` and its curve, and when it was evaluated: what changed is read again."""
    folder = str(results / "trials")
    stamps = {}
    for key in keys:
        try:
            status = os.stat(f"{folder}/{key}/result.json")  # noqa: PTH116 - a Path costs five times as much
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError:
            # 读不了的也要去读，由读的人点名，不挡住别的记录
            stamps[key] = "unreadable"
            continue
        # 曲线被删、被改的记录也要重读，否则会按旧表来判
        stamps[key] = (
            f"{status.st_mtime_ns}-{status.st_size}{_curve(f'{folder}/{key}')}{_evaluated_at(f'{folder}/{key}')}"
        )
    return stamps


def _curve(folder: str) -> str:
    try:
        status = os.stat(f"{folder}/epochs.jsonl")  # noqa: PTH116 - as above
    except OSError:
        return "-none"
    return f"-{status.st_mtime_ns}-{status.st_size}"


def _evaluated_at(folder: str) -> str:
    try:
        return f"-{os.stat(f'{folder}/evaluations').st_mtime_ns}"  # noqa: PTH116 - as above
    except FileNotFoundError:
        return ""


def _grown(old: pl.DataFrame, fresh: pl.DataFrame, out: Collection[str], order: Sequence[str]) -> pl.DataFrame:
    """The old rows but for those of the trials `out`, and the fresh ones, in order."""
    parts = [frame for frame in (old, fresh) if frame.height] or [old]
    whole = joined(parts)
    rows = whole.select(order).with_row_index("row")
    is_kept = (pl.col("row") >= whole.height - fresh.height) | ~pl.col("key").is_in(list(out))
    # Polars 2 的流式引擎不保证行序，所以总是排序；逐列取行，因为整表筛选再排序要再多两份拷贝
    places = rows.filter(is_kept).sort(order)["row"]
    return pl.DataFrame([column.gather(places) for column in whole.iter_columns()])


def _in_order(frame: pl.DataFrame, columns: Mapping[str, pl.DataType | type[pl.DataType]]) -> pl.DataFrame:
    """The fixed columns first, then the others by name: a table that grew equals one made at once."""
    return frame.select(*columns, *sorted(set(frame.columns) - set(columns)))


def ended_trials(results: Path, keys: Iterable[str]) -> dict[str, tuple[str, float | None]]:
    """Returns (state, objective) of those trials that are on record; see `TrialResult.objective`.

    What the tables leave out is named as they name it, and is `damaged` or `left out` without an error.

    Args:
        results: The results folder.
        keys: The trials asked for.
    """
    distinct = set(keys)
    unchanged = _unchanged(results, distinct)
    misfits = {key: row.curve for key, row in unchanged.items() if row.curve is not None}
    outcomes: dict[str, tuple[str, float | None]] = {key: row[:2] for key, row in unchanged.items()}
    return outcomes | _from_records(results, distinct - unchanged.keys(), misfits)


def _from_records(
    results: Path, keys: Collection[str], misfits: Mapping[str, str]
) -> dict[str, tuple[str, float | None]]:
    """What the records say of trials that no table tells of; names what the tables leave out, and curves that misfit.

    Args:
        results: The results folder.
        keys: The trials.
        misfits: Why curves of other trials do not fit, by key, to be named with theirs.
    """
    misfits, outcomes = dict(misfits), dict[str, tuple[str, float | None]]()
    records: dict[str, Record] = {}
    # 一条坏记录不该挡住整个研究
    for key in sorted(keys):
        folder = layout.trial_folder(results, key)
        try:
            record = checked_record.read_record(folder)
        except LabError as error:
            logger.warning("left out of the tables: %s", error)
            outcomes[key] = ("damaged", None)
            continue
        if record is not None:
            records[key] = record
            if misfit := checked_record.ended_curve(folder, record.result).misfit:
                misfits[key] = misfit
    odd = _odd(results, records)
    for line in left_out(odd):
        logger.warning("left out of the tables: %s", line)
    say_without_curve(results, {key: misfit for key, misfit in misfits.items() if key not in odd})
    outcomes |= {key: record.outcome for key, record in records.items()}
    return outcomes | dict.fromkeys(odd, ("left out", None))


def _odd(results: Path, records: Mapping[str, Record]) -> dict[str, str]:
    """Why some records that are no rows of the table yet do not fit the others on the same data, by key."""
    if not records:
        return {}
    table = read_table(results, "trials", TRIAL_COLUMNS, siblings.COMPARED)
    rows = [(key, record.config.data, record.result) for key, record in records.items()]
    return siblings.strangers_among(rows, table)


def say_left_out(results: Path, besides: Collection[str] = ()) -> None:
    """Names every record that the tables leave out, whichever study wants it: copies, damaged ones, odd ones.

    Args:
        results: The results folder.
        besides: Trials that are named elsewhere.
    """
    table = read_table(results, "trials", TRIAL_COLUMNS, ("key",))
    untabled = set(trial_record.recorded_keys(results)).difference([] if table is None else table["key"], besides)
    _from_records(results, untabled, {})


class Done(NamedTuple):
    """What of some trials is on record.

    Attributes:
        states: State of each trial that is on record and not run again.
        odd: Why some records do not fit the others on the same data, by key: these count as missing, as in the tables.
    """

    states: dict[str, TrialState]
    odd: dict[str, str]


def done_trials(results: Path, keys: Iterable[str], retry_failed: bool = False) -> Done:
    """Returns which trials are on record.

    Args:
        results: The results folder.
        keys: The trials asked for.
        retry_failed: Leave failed trials out.

    Raises:
        LabError: A record is damaged, or another trial's (named).
    """
    distinct = set(keys)
    states = {key: TrialState(outcome.state) for key, outcome in _unchanged(results, distinct).items()}
    records = checked_record.read_records(results, distinct - states.keys())
    odd = _odd(results, records)
    states |= {key: record.result.state for key, record in records.items() if key not in odd}
    return Done({k: state for k, state in states.items() if not (retry_failed and state is TrialState.FAILED)}, odd)


def done_states(results: Path, keys: Iterable[str], retry_failed: bool = False) -> dict[str, TrialState]:
    """Returns the state of those trials that are on record and not run again, see `done_trials`."""
    return done_trials(results, keys, retry_failed).states


class _Outcome(NamedTuple):
    """How a trial ended; see the columns of the trials table."""

    state: str
    objective: float | None
    curve: str | None


def _unchanged(results: Path, keys: set[str]) -> dict[str, _Outcome]:
    """What the trials table says of those trials whose `result.json` it was made from."""
    table = read_table(results, "trials", TRIAL_COLUMNS, COLUMNS)
    if table is None:
        return {}
    rows = {row[0]: row[1:] for row in table.iter_rows() if row[0] in keys}
    stamps = record_stamps(results, rows)
    return {key: _Outcome(*outcome) for key, (*outcome, stamp) in rows.items() if stamps.get(key) == stamp}
