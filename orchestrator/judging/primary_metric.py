"""What a study judges: the primary metric of each trial from its row of the trials table, and how two are compared.

Errors are in percent, and so are their differences; ratios are natural logarithms; times are whole epochs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import polars as pl

from orchestrator.statistics.signs import Between, log_ratio
from search_spaces.study import Recipe, Study

Row = Mapping[str, Any]
# 训练图在评估方式下的错误：无 dropout、无增强，否则 dropout 本身就会抬高“训练误差”
TRAINING = "train_final"
GAP = "gap between validation and training error"


@dataclass(frozen=True)
class Judged:
    """A primary metric on the sets that are at hand.

    Attributes:
        label: As shown: "top-1 test error".
        split: Whose images count for the binomial error: `test`, `validation` or `training`.
        plus: The split whose top-1 error it is.
        minus: The split whose top-1 error is subtracted from it; None for none.
        scale: How an arm is compared: in percentage points, or by the log of the ratio.
    """

    label: str
    split: str
    plus: str
    minus: str | None = None
    scale: Literal["points", "log_ratio"] = "points"

    def known(self, row: Row) -> bool:
        """Says whether a trial has the metric: it finished, and the error was measured when it ran."""
        splits = [self.plus] if self.minus is None else [self.plus, self.minus]
        return row["state"] == "finished" and all(row[f"{split}_count"] for split in splits)

    def value(self, row: Row) -> float:
        """Returns the metric in percent."""
        return 100.0 * (_share(row, self.plus) - (0.0 if self.minus is None else _share(row, self.minus)))

    def difference(self, base: Row, row: Row) -> float | None:
        """Returns arm minus baseline in points, or the log of their ratio; None where one of them lacks the metric."""
        if not (self.known(base) and self.known(row)):
            return None
        if self.scale == "log_ratio":
            return math.log(_smoothed(row, self.plus) / _smoothed(base, self.plus))
        points = points_between(base, row, self.plus, "top1_error")
        return points if self.minus is None else points - points_between(base, row, self.minus, "top1_error")

    def images(self, row: Row) -> int:
        """Returns the number of images whose errors are counted."""
        return int(row[f"{self.plus}_count"])


@dataclass(frozen=True)
class TimeToThreshold:
    """The first epoch whose running training error is at most a threshold.

    The running error counts every training image once an epoch, as it is trained on; without augmentation and dropout
    that is the training error of the paper's figure 1.

    Attributes:
        threshold: In percent.
        split: Whose images count: `training`.
        scale: Times are compared by the log of their ratio.
    """

    threshold: float
    split: str = "training"
    scale: Literal["points", "log_ratio"] = "log_ratio"

    @property
    def label(self) -> str:
        """The metric as shown."""
        return f"epochs to {self.threshold:g} % training error"

    def known(self, row: Row) -> bool:
        """Says whether the trial finished and all its epochs are on record."""
        return bool(row["state"] == "finished" and row["epochs_seen"] == row["epochs"])

    def value(self, row: Row) -> float | None:
        """Returns the epochs it took, or None where it was not there within its budget."""
        epochs = row["epochs_to_threshold"]
        return None if epochs is None else float(epochs)

    def ratio(self, base: Row, row: Row) -> Between | None:
        """Returns what is known of the log of arm over baseline; None where one of them lacks the metric."""
        if not (self.known(base) and self.known(row)):
            return None
        return log_ratio(base["epochs_to_threshold"], row["epochs_to_threshold"], (base["epochs"], row["epochs"]))

    def difference(self, base: Row, row: Row) -> float | None:
        """Returns the log of arm over baseline; of a ratio that is only bounded, the value nearest to equal times."""
        ratio = self.ratio(base, row)
        return None if ratio is None else ratio.nearest_to_equal

    def images(self, row: Row) -> int:
        """Returns the number of training images."""
        return int(row["train_count"])


Metric = Judged | TimeToThreshold


def _smoothed(row: Row, split: str) -> float:
    """The error rate with half an error more, so that no error at all has a logarithm."""
    return (float(row[f"{split}_top1_errors"]) + 0.5) / (float(row[f"{split}_count"]) + 1.0)


def with_epochs_to(threshold: float, trials: pl.DataFrame, epochs: pl.DataFrame) -> pl.DataFrame:
    """Returns the trials with `epochs_to_threshold` (null for never) and `epochs_seen`, how many are on record.

    Args:
        threshold: Running training error in percent.
        trials: The trials table.
        epochs: The epochs table, whose errors are in [0, 1].
    """
    # 12.5 % 这样的门槛在二进制里除不尽，比较时留一点余地
    there = 100.0 * pl.col("train_top1_error") <= threshold + 1e-9
    found = epochs.group_by("key").agg(
        pl.col("epoch").filter(there).min().alias("epochs_to_threshold"), pl.len().alias("epochs_seen")
    )
    return trials.join(found, on="key", how="left", maintain_order="left")


def _share(row: Row, split: str) -> float:
    return float(row[f"{split}_top1_errors"]) / float(row[f"{split}_count"])


def points_between(base: Row, row: Row, split: str, metric: str) -> float:
    """Returns the difference of an error on a split in percentage points."""
    column, count = f"{split}_{metric}s", f"{split}_count"
    if row[count] != base[count]:
        # arm 可以改训练图的张数：张数不同，只能减错误率
        return 100.0 * (float(row[column]) / float(row[count]) - float(base[column]) / float(base[count]))
    # 相减用错误张数，整数之差没有舍入误差
    return 100.0 * float(row[column] - base[column]) / float(row[count])


def judged_metric(study: Study, recipe: Recipe, finished: Sequence[Row]) -> Metric:
    """Returns how a study's primary metric is measured on these trials.

    Args:
        study: The study.
        recipe: Its recipe on this data set.
        finished: Its finished trials; where all have test images the error at the end is judged on those.
    """
    if recipe.threshold is not None:
        return TimeToThreshold(recipe.threshold)
    scale: Literal["points", "log_ratio"] = "log_ratio" if study.statistic == "log_ratio" else "points"
    if study.primary_metric == "training_error":
        return Judged("top-1 training error", "training", TRAINING, scale=scale)
    if study.primary_metric == "generalisation_gap":
        return Judged(GAP, "validation", "validation", TRAINING)
    split = "test" if all(row["test_top1_error"] is not None for row in finished) else "validation"
    return Judged(f"top-1 {split} error", split, split, scale=scale)
