"""Trials of the same data have the same numbers of images; a record that disagrees with the others is no answer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import polars as pl

from alexnet_core.configuration.train_config import DataSpec
from orchestrator.records.layout import LEFT_OUT
from orchestrator.records.trial_record import TrialResult, listed
from orchestrator.tables.rows import TRIAL_COLUMNS
from search_spaces.core_config import ALEXNET, DataOfTrial

# 同一份数据的验证集与测试集总是同样大；训练集还看用了多少张；不留验证集的自成一类
COUNTED = {
    "validation": ("data_digest", "data.holds_out"),
    "test": ("data_digest",),
    "train": ("data_digest", "data.holds_out", "data.train_images"),
}
COMPARED = (
    "key",
    "core",
    "state",
    "data_digest",
    "data.holds_out",
    "data.train_images",
    *(f"{split}_count" for split in COUNTED),
)


def strangers(trials: pl.DataFrame) -> dict[str, str]:
    """Returns why some trials do not fit the others of their data, by key.

    The most frequent number of images is the right one; where no number is more frequent than others, none is.

    Args:
        trials: With the columns `COMPARED`. A finished trial without images of a split disagrees with those that have
            some.
    """
    reasons: dict[str, str] = {}
    # 整张表有一百多列，先选列再筛选；别的 core 不数图像
    compared = trials.select(COMPARED).filter(pl.col("core") == ALEXNET.name)
    for split, same in COUNTED.items():
        count = f"{split}_count"
        measured = compared.filter((pl.col("state") == "finished") | pl.col(count).is_not_null())
        votes = measured.group_by(*same, count).len().with_columns(pl.len().over(same).alias("numbers"))
        # 几乎总是只有一种数：不必逐行比较
        if votes.filter(pl.col("numbers") > 1).height:
            reasons |= _outvoted(measured, split, same, votes)
    return reasons


def strangers_among(
    trials: Iterable[tuple[str, DataOfTrial, TrialResult]], table: pl.DataFrame | None
) -> dict[str, str]:
    """Returns why some trials that are no rows of a table yet do not fit, by key.

    Args:
        trials: Key, data and result of each; of other cores than AlexNet no images are known.
        table: The trials table that they would join; None where there is none.
    """
    rows = [
        {
            "key": key,
            "core": ALEXNET.name,
            "state": result.state.value,
            "data_digest": data.digest,
            "data.holds_out": None if data.holds_out else False,
            "data.train_images": data.train_images,
            **{f"{split}_count": None if (seen := getattr(result, split)) is None else seen.count for split in COUNTED},
        }
        for key, data, result in trials
        if isinstance(data, DataSpec)
    ]
    schema = {name: TRIAL_COLUMNS[name] for name in COMPARED}
    further = pl.DataFrame(rows, schema=schema)
    known = (
        further.clear()
        if table is None
        else table.select(COMPARED).filter(~pl.col("key").is_in(further["key"].to_list()))
    )
    odd, keys = strangers(pl.concat([known, further])), set(further["key"])
    return {key: reason for key, reason in odd.items() if key in keys}


def _outvoted(measured: pl.DataFrame, split: str, same: Iterable[str], votes: pl.DataFrame) -> dict[str, str]:
    count = f"{split}_count"
    most = votes.with_columns(
        (pl.col("len") == pl.col("len").max().over(same)).alias("is_most"), pl.col("len").max().over(same).alias("most")
    ).with_columns(pl.col("is_most").sum().over(same).alias("rivals"))
    usual = pl.col(count).filter(pl.col("is_most")).first().over(same).alias("usual")
    odd = most.with_columns(usual).filter(~pl.col("is_most") | (pl.col("rivals") > 1))
    rows = measured.join(odd, on=[*same, count], nulls_equal=True)
    return {row["key"]: _reason(split, row) for row in rows.iter_rows(named=True)}


def _reason(split: str, row: dict[str, int | None]) -> str:
    images = row[f"{split}_count"] or "no"
    if row["rivals"] == 1:
        return f"{images} {split} images, where most trials on the same data have {row['usual'] or 'none'}"
    return f"{images} {split} images, and as many trials on the same data have another number"


def left_out(reasons: Mapping[str, str]) -> list[str]:
    """Returns a line for each reason, with the trials that it is about, and what to do."""
    return [
        f"{listed(keys)}: {reason}; move {'it' if len(keys) == 1 else 'them'} away"
        for reason, keys in by_reason(reasons).items()
    ]


def trained_anew(reasons: Mapping[str, str]) -> list[str]:
    """Returns a line for each reason why some trials are trained anew, though they are on record."""
    return [
        f"note: {listed(keys)}: {reason}: trained anew, what is on record moves to {LEFT_OUT}/"
        for reason, keys in by_reason(reasons).items()
    ]


def by_reason(reasons: Mapping[str, str]) -> dict[str, list[str]]:
    """Returns the sorted keys of trials under each reason."""
    keys: dict[str, list[str]] = {}
    for key, reason in sorted(reasons.items(), key=lambda item: (item[1], item[0])):
        keys.setdefault(reason, []).append(key)
    return keys
