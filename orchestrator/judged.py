"""What a study judges: the primary metric of each trial, in percent, from its row of the trials table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from search_spaces.study import PrimaryMetric

Row = Mapping[str, Any]

# 训练图在评估方式下的错误：无 dropout、无增强，否则 dropout 本身就会抬高“训练误差”
TRAINING = "train_final"


@dataclass(frozen=True)
class Judged:
    """A primary metric on the sets that are at hand.

    Attributes:
        label: As shown: "top-1 test error".
        split: Whose images count for the binomial error: `test`, `validation` or `training`.
        plus: The split whose top-1 error it is.
        minus: The split whose top-1 error is subtracted from it; None for none.
    """

    label: str
    split: str
    plus: str
    minus: str | None = None

    def known(self, row: Row) -> bool:
        """Says whether a trial has the metric: it finished, and the error was measured when it ran."""
        splits = [self.plus] if self.minus is None else [self.plus, self.minus]
        return row["state"] == "finished" and all(row[f"{split}_count"] for split in splits)

    def value(self, row: Row) -> float:
        """Returns the metric in percent."""
        return 100.0 * (_share(row, self.plus) - (0.0 if self.minus is None else _share(row, self.minus)))

    def difference(self, base: Row, row: Row) -> float | None:
        """Returns arm minus baseline in percentage points, or None where one of them lacks it."""
        if not (self.known(base) and self.known(row)):
            return None
        points = points_between(base, row, self.plus, "top1_error")
        return points if self.minus is None else points - points_between(base, row, self.minus, "top1_error")

    def images(self, row: Row) -> int:
        """Returns the number of images whose errors are counted."""
        return int(row[f"{self.plus}_count"])


def _share(row: Row, split: str) -> float:
    return float(row[f"{split}_top1_errors"]) / float(row[f"{split}_count"])


def points_between(base: Row, row: Row, split: str, metric: str) -> float:
    """Returns the difference of an error on a split in percentage points."""
    # 相减用错误张数，整数之差没有舍入误差
    column = f"{split}_{metric}s"
    return 100.0 * float(row[column] - base[column]) / float(row[f"{split}_count"])


def judged_metric(metric: PrimaryMetric, finished: Sequence[Row]) -> Judged:
    """Returns how a study's primary metric is measured on these trials.

    Args:
        metric: The study's.
        finished: Its finished trials; where all have test images the error at the end is judged on those.
    """
    if metric == "training_error":
        return Judged("top-1 training error", "training", TRAINING)
    if metric == "generalisation_gap":
        return Judged("gap between validation and training error", "validation", "validation", TRAINING)
    split = "test" if all(row["test_top1_error"] is not None for row in finished) else "validation"
    return Judged(f"top-1 {split} error", split, split)
