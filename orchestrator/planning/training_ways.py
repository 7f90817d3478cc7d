"""How trials on record were trained, where that is outside their keys: a pair across two ways is not compared."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import polars as pl

from alexnet_core.configuration.wording import counted
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
    columns = {**TRIAL_COLUMNS, WORKERS: pl.String}
    trials = read_table(results, "trials", columns, ("key", "env_device_name", WORKERS))
    if trials is None:
        return
    # 工人数和设备不在 key 里，却像换种子一样改变误差
    ways = trials.filter(pl.col("key").is_in(list(keys)) & pl.col(WORKERS).is_not_null()).select(
        pl.col(WORKERS).cast(pl.Int64, strict=False).alias("workers"), (pl.col("env_device_name") != "cpu").alias("gpu")
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


def way_in_words(workers: int, on_gpu: bool) -> str:
    """Returns a way of training in words: `2 workers on the CPU`."""
    return f"{counted(workers, 'worker')} on {'GPUs' if on_gpu else 'the CPU'}"
