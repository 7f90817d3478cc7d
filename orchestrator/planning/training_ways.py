"""How trials on record were trained, where that is outside their keys: a pair across two ways is not compared."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import polars as pl

from alexnet_core.configuration.wording import counted
from orchestrator.records.checked_record import read_record
from orchestrator.records.layout import trial_folder
from orchestrator.tables.rows import TRIAL_COLUMNS
from orchestrator.tables.tables import read_table

WORKERS = "env_workers"


def other_ways(results: Path, keys: Sequence[str], workers: int, on_gpu: bool) -> Iterator[str]:
    """Says which trials on record were trained otherwise than a command is going to train the rest.

    Args:
        results: The results folder.
        keys: Of the trials that are wanted; those that are not on record are passed over.
        workers: Data-parallel workers of each slot.
        on_gpu: Whether the slots reserve GPUs.
    """
    # 工人数和设备不在 key 里，却像换种子一样改变误差
    ways = (
        _trained(results, keys)
        .filter(pl.col(WORKERS).is_not_null())
        .select(
            pl.col(WORKERS).cast(pl.Int64, strict=False).alias("workers"),
            (pl.col("env_device_name") != "cpu").alias("gpu"),
        )
    )
    now = way_in_words(workers, on_gpu)
    for (count, gpu), rows in ways.drop_nulls().group_by("workers", "gpu", maintain_order=True):
        if (count, gpu) != (workers, on_gpu):
            trained = counted(rows.height, "trial on record was", "trials on record were")
            before = way_in_words(int(str(count)), bool(gpu))
            yield (
                f"note: {trained} trained by {before}, the rest would be by {now}: pairs across the two "
                "are not compared"
            )


def _trained(results: Path, keys: Sequence[str]) -> pl.DataFrame:
    """Key, device and workers of trials on record: of the table, and of records newer than it."""
    names = ("key", "env_device_name", WORKERS)
    table = read_table(results, "trials", {**TRIAL_COLUMNS, WORKERS: pl.String}, names)
    schema = pl.Schema(dict.fromkeys(names, pl.String))
    known = pl.DataFrame(schema=schema) if table is None else table.filter(pl.col("key").is_in(list(keys)))
    # 被打断的研究还没有写表：只读表里没有的那些记录
    listed = read_table(results, "trials", TRIAL_COLUMNS, ("key",)) if table is None else table
    rows = []
    for key in set(keys).difference([] if listed is None else listed["key"]):
        record = read_record(trial_folder(results, key))
        if record is not None:
            environment = record.result.environment
            rows.append((key, *(_text(environment.get(name.removeprefix("env_"))) for name in names[1:])))
    return pl.concat([known, pl.DataFrame(rows, schema=schema, orient="row")]).sort("key")


def _text(value: str | int | None) -> str | None:
    return None if value is None else str(value)


def way_in_words(workers: int, on_gpu: bool) -> str:
    """Returns a way of training in words: `2 workers on the CPU`."""
    return f"{counted(workers, 'worker')} on {'GPUs' if on_gpu else 'the CPU'}"
