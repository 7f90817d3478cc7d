"""Tables: the typed Polars view of all records, in `results/tables/`.

`trials.parquet` has one row per trial, `members.parquet` one per membership of a study, `epochs.parquet` one per epoch.
They grow by what is new; a damaged or missing file is made again from the records.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from alexnet_core.configuration import TrainConfig
from alexnet_core.metrics import EpochReport, SplitMetrics
from alexnet_core.specification import NetworkSpec, layer_shapes
from orchestrator import records
from orchestrator.errors import LabError
from orchestrator.evaluations import MANY_VIEWS, METRICS, evaluation_cells
from orchestrator.records import TrialResult
from search_spaces.trial import KEY_LENGTH, configuration_key

logger = logging.getLogger(__name__)

BATCH = 2000
SPLITS = ("train", "validation", "test", "train_final")

TRIAL_COLUMNS: dict[str, pl.DataType | type[pl.DataType]] = {
    "key": pl.String,
    "configuration": pl.String,
    "seed": pl.Int64,
    "data_name": pl.String,
    "data_digest": pl.String,
    "state": pl.String,
    "epochs": pl.Int64,
    **{
        f"{split}_{column}": kind
        for split in SPLITS
        for column, kind in (
            ("loss", pl.Float64),
            ("top1_error", pl.Float64),
            ("top5_error", pl.Float64),
            ("top1_errors", pl.Int64),
            ("top5_errors", pl.Int64),
            ("count", pl.Int64),
        )
    },
    **{
        f"{split}_{metric}_{views}_views": pl.Float64 if metric in ("loss", "top1_error", "top5_error") else pl.Int64
        for views in MANY_VIEWS
        for split in ("validation", "test")
        for metric in METRICS
    },
    **{f"same_network_{views}_views": pl.Boolean for views in MANY_VIEWS},
    "seconds": pl.Float64,
    "images_per_second": pl.Float64,
    "peak_memory_mb": pl.Float64,
    "memory_kind": pl.String,
    "env_device_name": pl.String,
    "data.train_images": pl.Float64,
    "network.name": pl.String,
    "network_key": pl.String,
    "parameters": pl.Int64,
    "multiply_adds": pl.Int64,
    "attempts": pl.Int64,
    "started_at": pl.String,
    "finished_at": pl.String,
    "message": pl.String,
    "weights": pl.String,
    "record_stamp": pl.String,
}
MEMBER_COLUMNS: dict[str, pl.DataType | type[pl.DataType]] = {
    "study": pl.String,
    "dataset": pl.String,
    "arm": pl.String,
    "seed": pl.Int64,
    "key": pl.String,
    "phase": pl.String,
    "parameters": pl.String,
    "position": pl.Int64,
}
EPOCH_COLUMNS: dict[str, pl.DataType | type[pl.DataType]] = {
    "key": pl.String,
    "epoch": pl.Int64,
    "learning_rate": pl.Float64,
    "train_loss": pl.Float64,
    "train_top1_error": pl.Float64,
    "train_top5_error": pl.Float64,
    "validation_loss": pl.Float64,
    "validation_top1_error": pl.Float64,
    "validation_top5_error": pl.Float64,
    "seconds": pl.Float64,
    "images_per_second": pl.Float64,
}


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
    stale: list[str]
    gone: list[str]
    changed: bool


def table_folder(results: Path) -> Path:
    """Returns where the tables lie."""
    return results / "tables"


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


def trials_from_records(results: Path, keys: Sequence[str]) -> pl.DataFrame:
    """Returns rows of the trials table as the records say, whatever the tables on disk say; without those not ended."""
    stamps = record_stamps(results, keys)
    return _in_order(_trial_rows(results, list(stamps), stamps), TRIAL_COLUMNS).sort("key")


def update_tables(results: Path, *, rebuild: bool = False) -> TrialTables:
    """Brings the tables up to date and writes them, under a lock for the moment of writing.

    Args:
        results: The results folder.
        rebuild: Read all records again instead of the new ones.

    Returns:
        (trials, members); the epochs are read only when some are new.
    """
    with _lock(results):
        scan = _scan(results, rebuild=rebuild, with_epochs=True)
        if scan.changed:
            # trials.parquet 里的时间戳说明哪些记录已读，所以最后写：中途被杀只会重读，不会漏掉 epoch
            for name, frame in (("epochs", _epochs(results, scan)), ("members", scan.members), ("trials", scan.trials)):
                buffer = BytesIO()
                frame.write_parquet(buffer)
                records.write_atomically(table_folder(results) / f"{name}.parquet", buffer.getvalue())
    return TrialTables(scan.trials, scan.members)


@contextmanager
def _lock(results: Path) -> Iterator[None]:
    folder = table_folder(results)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / ".lock").open("a")
    except OSError as error:
        raise LabError(f"{folder} cannot be written: {error.strerror}", exit_code=3) from error
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _scan(results: Path, *, rebuild: bool, with_epochs: bool) -> _Scan:
    members = _members(results)
    members_on_disk = None if rebuild else read_table(results, "members", MEMBER_COLUMNS)
    whole = not rebuild and (not with_epochs or _has_columns(results, "epochs", EPOCH_COLUMNS))
    trials = read_table(results, "trials", TRIAL_COLUMNS) if whole else None
    if trials is None:
        trials = pl.DataFrame(schema=TRIAL_COLUMNS)
    stamps = record_stamps(results, records.recorded_keys(results))
    known = dict(zip(trials["key"].to_list(), trials["record_stamp"].to_list(), strict=True))
    stale = [key for key, stamp in stamps.items() if known.get(key) != stamp]
    gone = [key for key in known if key not in stamps]
    changed = not whole or members_on_disk is None or not members.equals(members_on_disk)
    if stale or gone:
        fresh = _trial_rows(results, stale, stamps)
        # 损坏的记录每次都会重读；没有读出新行时不必重写表
        changed |= bool(fresh.height or gone or any(key in known for key in stale))
        trials = _in_order(_grown(trials, fresh, stale + gone, ("key",)), TRIAL_COLUMNS)
    return _Scan(trials, members, stale, gone, changed)


def _epochs(results: Path, scan: _Scan) -> pl.DataFrame:
    """The epochs as the records say now."""
    old = read_table(results, "epochs", EPOCH_COLUMNS) if len(scan.stale) < scan.trials.height else None
    if old is None:
        old = pl.DataFrame(schema=EPOCH_COLUMNS)
        return _grown(old, _epoch_rows(results, scan.trials["key"].to_list()), (), ("key", "epoch"))
    if not scan.stale and not scan.gone:
        return old
    return _grown(old, _epoch_rows(results, scan.stale), scan.stale + scan.gone, ("key", "epoch"))


def read_table(
    results: Path, name: str, columns: Mapping[str, pl.DataType | type[pl.DataType]], only: Sequence[str] | None = None
) -> pl.DataFrame | None:
    """Reads a table or some columns of it; a missing or damaged one is None, and will be made from the records."""
    if not _has_columns(results, name, columns):
        return None
    path = table_folder(results) / f"{name}.parquet"
    try:
        return pl.read_parquet(path, columns=None if only is None else list(only))
    except (pl.exceptions.PolarsError, OSError) as error:
        _say_damaged(path, error)
        return None


def _has_columns(results: Path, name: str, columns: Mapping[str, pl.DataType | type[pl.DataType]]) -> bool:
    """Whether a table is there, ends as a whole one does, and has these columns; looks at its last bytes alone."""
    path = table_folder(results) / f"{name}.parquet"
    if not path.is_file():
        return False
    try:
        schema = pl.read_parquet_schema(path)
    except (pl.exceptions.PolarsError, OSError) as error:
        _say_damaged(path, error)
        return False
    if any(schema.get(column) != kind for column, kind in columns.items()):
        _say_once(path, "has other columns than this version writes")
        return False
    return True


def _say_damaged(path: Path, error: Exception) -> None:
    _say_once(path, f"is damaged ({_first_line(error)})")


@cache
def _say_once(path: Path, what: str) -> None:
    # 一个命令会读同一张表好几次
    logger.warning("%s %s; it is made again from the records", path, what)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def record_stamps(results: Path, keys: Iterable[str]) -> dict[str, str]:
    """Time and size of every `result.json`, and when it was evaluated: a record that changed is read again."""
    folder = str(results / "trials")
    stamps = {}
    for key in keys:
        try:
            status = os.stat(f"{folder}/{key}/result.json")  # noqa: PTH116 - a Path costs five times as much
        except (FileNotFoundError, NotADirectoryError):
            continue
        stamps[key] = f"{status.st_mtime_ns}-{status.st_size}{_evaluated_at(f'{folder}/{key}')}"
    return stamps


def _evaluated_at(folder: str) -> str:
    try:
        return f"-{os.stat(f'{folder}/evaluations').st_mtime_ns}"  # noqa: PTH116 - as above
    except FileNotFoundError:
        return ""


def _grown(old: pl.DataFrame, fresh: pl.DataFrame, out: Sequence[str], order: Sequence[str]) -> pl.DataFrame:
    kept = old.filter(~pl.col("key").is_in(out))
    parts = [frame for frame in (kept, fresh) if frame.height] or [old.clear()]
    # Polars 2 的流式引擎不保证行序，所以总是排序
    return pl.concat(parts, how="diagonal_relaxed").sort(order)


def _in_order(frame: pl.DataFrame, columns: Mapping[str, pl.DataType | type[pl.DataType]]) -> pl.DataFrame:
    """The fixed columns first, then the others by name: a table that grew equals one made at once."""
    return frame.select(*columns, *sorted(set(frame.columns) - set(columns)))


def _trial_rows(results: Path, keys: Sequence[str], stamps: Mapping[str, str]) -> pl.DataFrame:
    # 一行约一百列：成批变成列，十万条记录才不会同时作为字典留在内存里
    frames = [_trial_batch(results, batch, stamps) for batch in _batches(keys)]
    return pl.concat(frames, how="diagonal_relaxed") if frames else pl.DataFrame(schema=TRIAL_COLUMNS)


def _trial_batch(results: Path, keys: Sequence[str], stamps: Mapping[str, str]) -> pl.DataFrame:
    rows = []
    for key in keys:
        folder = records.trial_folder(results, key)
        try:
            result, config = records.read_result(folder), records.read_config(folder)
            evaluated = evaluation_cells(folder)
        except LabError as error:
            logger.warning("left out of the tables: %s", error)
            continue
        if result is not None:
            rows.append({**_trial_row(result, config), **evaluated, "record_stamp": stamps[key]})
    return _frame(rows, TRIAL_COLUMNS)


def _batches(keys: Sequence[str]) -> Iterator[Sequence[str]]:
    return (keys[start : start + BATCH] for start in range(0, len(keys), BATCH))


def _frame(rows: list[dict[str, Any]], columns: Mapping[str, pl.DataType | type[pl.DataType]]) -> pl.DataFrame:
    """A frame with the fixed columns typed, and the others (hyperparameters, environment) by their values."""
    schema: dict[str, Any] = dict(columns)
    for row in rows:
        for name, value in row.items():
            if name not in columns and value is not None:
                schema[name] = _kind(value, schema.get(name))
    return pl.DataFrame(rows, schema=schema, strict=False) if rows else pl.DataFrame(schema=schema)


def _kind(value: Any, before: Any) -> Any:
    if isinstance(value, bool):
        return pl.Boolean if before in (None, pl.Boolean) else before
    if isinstance(value, (int, float)):
        return pl.Float64 if before in (None, pl.Boolean, pl.Float64) else before
    return pl.String


def _trial_row(result: TrialResult, config: TrainConfig) -> dict[str, Any]:
    row: dict[str, Any] = {
        "key": result.key,
        "configuration": configuration_key(config),
        "seed": result.seed,
        "data_name": config.data.name,
        "data_digest": config.data.digest,
        "state": result.state.value,
        "epochs": result.epochs,
        "seconds": result.seconds,
        "images_per_second": result.images_per_second,
        "peak_memory_mb": result.peak_memory_mb,
        "memory_kind": result.memory_kind,
        **_network_size(config.network),
        "network_key": network_key(config.network),
        "attempts": result.attempts,
        "started_at": result.started_at,
        "finished_at": result.finished_at,
        "message": result.message,
        "weights": result.weights,
    }
    for split in SPLITS:
        row |= _metric_cells(split, getattr(result, split))
    row |= {f"env_{name}": None if value is None else str(value) for name, value in result.environment.items()}
    return row | _hyperparameters(config)


@lru_cache(maxsize=256)
def network_key(network: NetworkSpec) -> str:
    """Returns what tells a network from others, whatever it is trained on: 20 hex digits."""
    return hashlib.sha256(network.model_dump_json().encode()).hexdigest()[:KEY_LENGTH]


@lru_cache(maxsize=256)
def _network_size(network: NetworkSpec) -> dict[str, int]:
    """Weights and biases, and multiply-adds of one forward pass of one image."""
    shapes = layer_shapes(network)
    return {
        "parameters": sum(shape.parameters for shape in shapes),
        "multiply_adds": sum(shape.multiply_adds for shape in shapes),
    }


def _metric_cells(split: str, metrics: SplitMetrics | None) -> dict[str, Any]:
    if metrics is None:
        return {}
    return {
        f"{split}_loss": metrics.loss,
        f"{split}_top1_error": metrics.top1_error,
        f"{split}_top5_error": metrics.top5_error,
        f"{split}_top1_errors": metrics.top1_errors,
        f"{split}_top5_errors": metrics.top5_errors,
        f"{split}_count": metrics.count,
    }


def _hyperparameters(config: TrainConfig) -> dict[str, Any]:
    """Every hyperparameter by its dotted name: `training.learning_rate`, `network.lrn1.alpha`."""
    plain = config.model_dump(mode="json", exclude={"seed": True, "data": {"root", "cache", "digest", "name"}})
    layers = plain["network"].pop("layers")
    cells: dict[str, Any] = {}
    _flatten("network", plain["network"], cells)
    for layer in layers:
        _flatten(f"network.{layer['name']}", {k: v for k, v in layer.items() if k != "name"}, cells)
    _flatten("training", plain["training"], cells)
    _flatten("data", plain["data"], cells)
    cells["numerics"] = plain["numerics"]
    return cells


def _flatten(prefix: str, content: Mapping[str, Any], cells: dict[str, Any]) -> None:
    for name, value in content.items():
        if isinstance(value, dict):
            _flatten(f"{prefix}.{name}", value, cells)
        else:
            cells[f"{prefix}.{name}"] = json.dumps(value) if isinstance(value, list) else value


def _epoch_rows(results: Path, keys: Sequence[str]) -> pl.DataFrame:
    frames = [
        _frame(
            [
                _epoch_row(key, report)
                for key in batch
                for report in records.read_epochs(records.trial_folder(results, key))
            ],
            EPOCH_COLUMNS,
        )
        for batch in _batches(keys)
    ]
    return pl.concat(frames) if frames else pl.DataFrame(schema=EPOCH_COLUMNS)


def _epoch_row(key: str, report: EpochReport) -> dict[str, Any]:
    return {
        "key": key,
        "epoch": report.epoch,
        "learning_rate": report.learning_rate,
        "train_loss": report.train.loss,
        "train_top1_error": report.train.top1_error,
        "train_top5_error": report.train.top5_error,
        "validation_loss": report.validation.loss,
        "validation_top1_error": report.validation.top1_error,
        "validation_top5_error": report.validation.top5_error,
        "seconds": report.seconds,
        "images_per_second": report.images_per_second,
    }


def _members(results: Path) -> pl.DataFrame:
    rows = []
    for row in records.read_members(results):
        cells = {column: row.get(column) for column in MEMBER_COLUMNS}
        if cells["parameters"] is not None:
            cells["parameters"] = json.dumps(cells["parameters"], sort_keys=True)
        rows.append(cells)
    frame = _frame(rows, MEMBER_COLUMNS)
    return frame.unique(subset=["study", "arm", "seed", "key", "phase"], keep="first").sort(
        "study", "phase", "arm", "seed", "key"
    )
