"""Rows of the tables, made of records: a trial with its hyperparameters, an epoch, a membership of a study."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from alexnet_core.configuration.metrics import EpochReport, SplitMetrics
from alexnet_core.configuration.network_spec import NetworkSpec, layer_shapes
from alexnet_core.configuration.train_config import TrainConfig
from orchestrator.errors import LabError
from orchestrator.records import layout, trial_record
from orchestrator.records.checked_record import ended_curve, read_curve, read_record
from orchestrator.records.evaluations import MANY_VIEWS, METRICS, check_counts, evaluation_cells
from orchestrator.records.reports import Report
from orchestrator.records.trial_record import TrialResult
from search_spaces.core_config import ALEXNET, CoreConfig, TrialConfig, flattened
from search_spaces.edits import drawn_apart
from search_spaces.trial import KEY_LENGTH, configuration_key

logger = logging.getLogger(__name__)
BATCH = 2000
# 别的 core 的指标按名成列
METRICS_BY_NAME = "metrics."
FIELDS_BY_NAME = "config."
SPLITS = ("train", "validation", "test", "train_final")
TRIAL_COLUMNS: dict[str, pl.DataType | type[pl.DataType]] = {
    "key": pl.String,
    "configuration": pl.String,
    "seed": pl.Int64,
    "drawn_apart": pl.String,
    "core": pl.String,
    "core_version": pl.Int64,
    "data_name": pl.String,
    "data_digest": pl.String,
    "state": pl.String,
    "epochs": pl.Int64,
    "objective": pl.Float64,
    "judged": pl.Float64,
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
    "env_code": pl.String,
    # 只有不留验证集的写着它
    "data.holds_out": pl.Boolean,
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
    "curve": pl.String,
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


class Rows(NamedTuple):
    """Rows of trials that can be read, see `TRIAL_COLUMNS` and `EPOCH_COLUMNS`.

    Attributes:
        trials: One each, with hyperparameters and environment; `curve` says why its epochs are left out, if they are.
        epochs: One for each epoch whose trial has its own curve.
    """

    trials: pl.DataFrame
    epochs: pl.DataFrame


def rows_of(results: Path, keys: Sequence[str], stamps: Mapping[str, str]) -> Rows:
    """Reads records and their curves.

    Args:
        results: The results folder.
        keys: Keys of trials.
        stamps: The stamp of each key's record, see `record_stamps` of `tables`.
    """
    # 一行约一百列：成批变成列，十万条记录才不会同时作为字典留在内存里
    batches = [_batch(results, batch, stamps) for batch in _batches(keys)]
    if not batches:
        return Rows(pl.DataFrame(schema=TRIAL_COLUMNS), pl.DataFrame(schema=EPOCH_COLUMNS))
    return Rows(joined([rows.trials for rows in batches]), joined([rows.epochs for rows in batches]))


def _batch(results: Path, keys: Sequence[str], stamps: Mapping[str, str]) -> Rows:
    trials, epochs = [], []
    for key in keys:
        folder = layout.trial_folder(results, key)
        try:
            record = read_record(folder)
            if record is not None:
                check_counts(folder, record.result)
            evaluated = {} if record is None else evaluation_cells(folder, record.result)
        except LabError as error:
            logger.warning("left out of the tables: %s", error)
            continue
        if record is not None:
            curve = ended_curve(folder, record.result)
            cells = {**_trial_row(record.result, record.config), "curve": curve.misfit or None}
            trials.append({**cells, **evaluated, "record_stamp": stamps[key]})
            epochs += [_epoch_row(key, report) for report in curve.reports]
    return Rows(_frame(trials, TRIAL_COLUMNS), _frame(epochs, EPOCH_COLUMNS))


def say_without_curve(results: Path, misfits: Mapping[str, str]) -> None:
    """Warns of trials on record whose epochs are not theirs: what is judged by a curve lacks them.

    Args:
        results: The results folder.
        misfits: Why, by key.
    """
    for key, misfit in misfits.items():
        path = layout.trial_folder(results, key) / "epochs.jsonl"
        logger.warning("%s %s: the trial has no curve", path, misfit)


def _batches(keys: Sequence[str]) -> Iterator[Sequence[str]]:
    return (keys[start : start + BATCH] for start in range(0, len(keys), BATCH))


def _frame(rows: list[dict[str, Any]], columns: Mapping[str, pl.DataType | type[pl.DataType]]) -> pl.DataFrame:
    """A frame with the fixed columns typed, and the others (hyperparameters, environment) by their values."""
    schema: dict[str, Any] = dict(columns)
    mixed = set()
    for row in rows:
        for name, value in row.items():
            if name not in columns and value is not None:
                kind = _kind(value)
                if schema.setdefault(name, kind) != kind:
                    mixed.add(name)
    # 同名的字段在两个 core 里可以是两种：那一列就是文本，先来后到都一样
    schema |= dict.fromkeys(mixed, pl.String)
    for row in rows if mixed else ():
        row.update({name: as_text(row[name]) for name in mixed & row.keys()})
    return pl.DataFrame(rows, schema=schema, strict=False) if rows else pl.DataFrame(schema=schema)


def _kind(value: Any) -> Any:
    if isinstance(value, bool):
        return pl.Boolean
    return pl.Float64 if isinstance(value, (int, float)) else pl.String


def as_text(value: Any) -> str | None:
    """Returns a value of a table as it stands in a column that has values of several kinds: `true`, `3.0`, `deep`."""
    if isinstance(value, (int, float)):
        return str(pl.Series([value if isinstance(value, bool) else float(value)]).cast(pl.String)[0])
    return value if value is None else str(value)


def joined(frames: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """Returns all rows of frames; a column of which they have values of different kinds becomes text."""
    kinds: dict[str, set[pl.DataType]] = {}
    for frame in frames:
        for name, kind in frame.schema.items():
            if kind != pl.Null:
                kinds.setdefault(name, set()).add(kind)
    mixed = [name for name, known in kinds.items() if len(known) > 1]
    texts = [
        frame.with_columns(pl.col(name).cast(pl.String) for name in mixed if name in frame.columns) for frame in frames
    ]
    return pl.concat(texts, how="diagonal_relaxed")


def _trial_row(result: TrialResult, config: TrialConfig) -> dict[str, Any]:
    row: dict[str, Any] = {
        "key": result.key,
        "configuration": configuration_key(config),
        "seed": result.seed,
        "drawn_apart": ", ".join(drawn_apart(config)) or None,
        **{f"seeds.{source}": seed for source, seed in _source_seeds(config).items()},
        "data_name": config.data.name,
        "data_digest": config.data.digest,
        "state": result.state.value,
        "epochs": result.epochs,
        "objective": result.objective(config),
        "seconds": result.seconds,
        "images_per_second": result.images_per_second,
        "peak_memory_mb": result.peak_memory_mb,
        "memory_kind": result.memory_kind,
        "attempts": result.attempts,
        "started_at": result.started_at,
        "finished_at": result.finished_at,
        "message": result.message,
        "weights": result.weights,
        **(_core_cells if isinstance(config, CoreConfig) else _alexnet_cells)(result, config),
    }
    row |= {f"env_{name}": None if value is None else str(value) for name, value in result.environment.items()}
    return row


def _source_seeds(config: TrialConfig) -> dict[str, int]:
    """Seeds of sources of randomness that have another one than usual."""
    return config.seeds if isinstance(config, CoreConfig) else config.seeds.model_dump()


def _alexnet_cells(result: TrialResult, config: TrialConfig) -> dict[str, Any]:
    assert isinstance(config, TrainConfig)
    cells: dict[str, Any] = {
        "core": ALEXNET.name,
        "core_version": config.numerics,
        "judged": None if result.test is None else result.test.top1_error,
        **_network_size(config.network),
        "network_key": network_key(config.network),
    }
    for split in SPLITS:
        cells |= _metric_cells(split, getattr(result, split))
    return cells | _hyperparameters(config)


def _core_cells(result: TrialResult, config: TrialConfig) -> dict[str, Any]:
    """Fields as `config.<field>`, metrics as `metrics.<name>`, as the core counts them."""
    assert isinstance(config, CoreConfig)
    return {
        "core": config.core.name,
        "core_version": config.core.version,
        "judged": result.metrics.get(config.core.judged_by),
        "network.name": config.core.name,
        "network_key": configuration_key(config),
        "parameters": _whole(result.sizes.get("parameters")),
        "multiply_adds": _whole(result.sizes.get("multiply_adds")),
        **{f"{METRICS_BY_NAME}{name}": value for name, value in result.metrics.items()},
        **{
            f"{FIELDS_BY_NAME}{name}": json.dumps(value) if isinstance(value, (list, dict)) else value
            for name, value in flattened(config.fields).items()
        },
    }


def _whole(value: float | None) -> int | None:
    return None if value is None else round(value)


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
    plain = config.model_dump(
        mode="json", exclude={"seed": True, "seeds": True, "data": {"root", "cache", "digest", "name"}}
    )
    layers = plain["network"].pop("layers")
    cells: dict[str, Any] = {}
    _flatten("network", plain["network"], cells)
    for layer in layers:
        _flatten(f"network.{layer['name']}", {k: v for k, v in layer.items() if k != "name"}, cells)
    _flatten("training", plain["training"], cells)
    _flatten("data", {**plain["data"], "resplit": config.data.resplit}, cells)
    cells["numerics"] = plain["numerics"]
    return cells


def _flatten(prefix: str, content: Mapping[str, Any], cells: dict[str, Any]) -> None:
    for name, value in content.items():
        if isinstance(value, dict):
            _flatten(f"{prefix}.{name}", value, cells)
        else:
            cells[f"{prefix}.{name}"] = json.dumps(value) if isinstance(value, list) else value


def epoch_rows(results: Path, keys: Sequence[str]) -> pl.DataFrame:
    """Returns a row of `EPOCH_COLUMNS` for each epoch of the trials; of another core `metrics.<name>` beside them.

    A curve that is not that of the trial's result is left out.
    """
    frames = [
        _frame(
            [_epoch_row(key, report) for key in batch for report in read_curve(layout.trial_folder(results, key))],
            EPOCH_COLUMNS,
        )
        for batch in _batches(keys)
    ]
    return joined(frames) if frames else pl.DataFrame(schema=EPOCH_COLUMNS)


def _epoch_row(key: str, report: Report) -> dict[str, Any]:
    if not isinstance(report, EpochReport):
        metrics = {f"{METRICS_BY_NAME}{name}": value for name, value in report.metrics.items()}
        return {"key": key, "epoch": report.epoch, "seconds": report.seconds, **metrics}
    return {
        "key": key,
        "epoch": report.epoch,
        "learning_rate": report.learning_rate,
        "train_loss": report.train.loss,
        "train_top1_error": report.train.top1_error,
        "train_top5_error": report.train.top5_error,
        "validation_loss": None if report.validation is None else report.validation.loss,
        "validation_top1_error": report.validation_error,
        "validation_top5_error": None if report.validation is None else report.validation.top5_error,
        "seconds": report.seconds,
        "images_per_second": report.images_per_second,
    }


def member_rows(results: Path) -> pl.DataFrame:
    """Returns a row of `MEMBER_COLUMNS` for each membership of a study, in the order of study, phase, arm and seed."""
    rows = []
    for row in trial_record.read_members(results):
        cells = {column: row.get(column) for column in MEMBER_COLUMNS}
        if cells["parameters"] is not None:
            cells["parameters"] = json.dumps(cells["parameters"], sort_keys=True)
        rows.append(cells)
    frame = _frame(rows, MEMBER_COLUMNS)
    return frame.unique(subset=["study", "arm", "seed", "key", "phase"], keep="first").sort(
        "study", "phase", "arm", "seed", "key"
    )
