"""What a study judges: the primary metric of each trial from its row of the trials table, and how two are compared.

Errors are in percent, and so are their differences; ratios are natural logarithms; times are whole epochs. A metric
answers for itself: whoever judges or shows an answer asks the `JudgedMetric`, never which one it is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median as middle_of
from typing import Any, Literal, Protocol

import polars as pl

from orchestrator.judging.scales import SCALES, ScaleName
from orchestrator.planning.plan import ALPHA
from orchestrator.statistics.paired import (
    PairedTest,
    binomial_error,
    correlation,
    paired_test,
    seeds_needed,
    t_interval,
)
from orchestrator.statistics.signs import Between, log_ratio, median
from orchestrator.tables.rows import METRICS_BY_NAME
from search_spaces.core_config import PERCENT, CoreDescription, MetricDescription, readable
from search_spaces.study import Recipe, Study

# 指标名里的词说出它量在哪里
SPLITS = {"test": "test", "validation": "validation", "val": "validation", "train": "training", "training": "training"}
ImageSplit = Literal["validation", "test"]
Row = Mapping[str, Any]
# 基线的一行和 arm 的一行，同一个种子
Pair = tuple[Row, Row]
# 训练图在评估方式下的错误：无 dropout、无增强，否则 dropout 本身就会抬高“训练误差”
TRAINING = "train_final"
GAP = "gap between validation and training error"


@dataclass(frozen=True)
class Spread:
    """One arm's seeds as shown; fields of an `ArmAnswer`.

    Attributes:
        mean: Mean in percent; None for times, or without seeds.
        sd: Standard deviation over seeds (n - 1), percentage points; None below two seeds.
        median: Median time in epochs; None where half of the seeds or more were not there in time.
        never: Seeds that were not there in time.
    """

    mean: float | None = None
    sd: float | None = None
    median: float | None = None
    never: tuple[str, ...] = ()


@dataclass(frozen=True)
class Comparison:
    """An arm beside the baseline as shown, before any verdict; fields of an `ArmAnswer`, which says what they are."""

    difference: float | None = None
    difference_is: Literal["known", "at least", "at most"] = "known"
    difference_sd: float | None = None
    top5_difference: float | None = None
    top5_interval: tuple[float, float] | None = None
    correlation: float | None = None


class JudgedMetric(Protocol):
    """A primary metric: read from a trial's row, compared by seed with the baseline's."""

    @property
    def label(self) -> str:
        """The metric as shown: "top-1 test error"."""

    @property
    def split(self) -> str:
        """Whose images are judged: `test`, `validation` or `training`."""

    @property
    def scale(self) -> ScaleName:
        """What differences are in."""

    @property
    def unit(self) -> str:
        """What values are shown in."""

    @property
    def counted(self) -> ImageSplit | None:
        """The split whose wrong images a difference counts, in points; None where it is of something else."""

    def known(self, row: Row) -> bool:
        """Says whether a trial has the metric: it finished, and the metric was measured when it ran."""

    def lacks_ratio(self, row: Row) -> bool:
        """Says whether a trial finished with a value of which there is no ratio, since it is not above 0."""

    def value(self, row: Row) -> float | None:
        """Returns the metric of a trial that has it; None for a time that was longer than its budget."""

    def images(self, row: Row) -> int:
        """Returns the number of images that it is measured on."""

    def sampling_error(self, mean: float | None, images: int) -> float | None:
        """Returns the standard error that the images themselves put on the baseline's mean, in points, if it has one.

        Args:
            mean: Of the baseline, in percent; None where it is not known.
            images: From `images`.
        """

    def spread(self, values: Mapping[str, float | None]) -> Spread:
        """Returns what is shown of one arm's values by seed."""

    def difference(self, base: Row, row: Row) -> float | None:
        """Returns arm against baseline on the metric's scale; None where one of them lacks the metric."""

    def bounds(self, pairs: Sequence[Pair]) -> tuple[Between, ...] | None:
        """Returns what is known of each pair's log-ratio where the sign test judges; None where Student's t does."""

    def compare(self, pairs: Sequence[Pair]) -> Comparison:
        """Returns what is shown of an arm beside the baseline, from pairs on the same seeds."""

    def seeds_needed(self, test: PairedTest, effect: float, level: float) -> tuple[int, int] | None:
        """Returns the range of seeds that find an effect with 80 % power; None where no test tells.

        Args:
            test: Of the seeds at hand.
            effect: The recipe's smallest effect, as in its file.
            level: That the arm faced.
        """


@dataclass(frozen=True)
class ErrorRate:
    """The top-1 error on a split after the final epoch.

    Attributes:
        label: As shown.
        split: As shown.
        column: The split's name in the trials table.
        scale: Whether arms are compared in points, or by the log of the ratio.
    """

    label: str
    split: str
    column: str
    scale: ScaleName = "points"
    unit: str = PERCENT

    @property
    def counted(self) -> ImageSplit | None:
        """Which training images were right is not on record, and a ratio is no sum over images."""
        splits: Mapping[str, ImageSplit] = {"validation": "validation", "test": "test"}
        return splits.get(self.column) if self.scale == "points" else None

    def known(self, row: Row) -> bool:
        """Says whether it finished, and the error was measured when it ran."""
        return bool(row["state"] == "finished" and row[f"{self.column}_count"])

    def lacks_ratio(self, row: Row) -> bool:
        """Half an error is added to none."""
        return False

    def value(self, row: Row) -> float:
        """Returns the error in percent."""
        return 100.0 * _share(row, self.column)

    def images(self, row: Row) -> int:
        """Returns the number of images whose errors are counted."""
        return int(row[f"{self.column}_count"])

    def sampling_error(self, mean: float | None, images: int) -> float | None:
        """Returns the binomial standard error."""
        return None if mean is None else 100.0 * binomial_error(mean / 100.0, images)

    def spread(self, values: Mapping[str, float | None]) -> Spread:
        """Returns mean and standard deviation."""
        return _mean_and_sd(values)

    def difference(self, base: Row, row: Row) -> float | None:
        """Returns arm minus baseline in points, or the log of their ratio."""
        if not (self.known(base) and self.known(row)):
            return None
        if self.scale == "log_ratio":
            return math.log(_smoothed(row, self.column) / _smoothed(base, self.column))
        return points_between(base, row, self.column, "top1_error")

    def bounds(self, pairs: Sequence[Pair]) -> None:
        """Student's t judges."""

    def compare(self, pairs: Sequence[Pair]) -> Comparison:
        """Returns the mean difference, the top-5 errors' on the same split, and the correlation achieved."""
        return _compare_means(self, pairs, self.column)

    def seeds_needed(self, test: PairedTest, effect: float, level: float) -> tuple[int, int]:
        """Returns what Student's t needs."""
        return seeds_needed(SCALES[self.scale].size(effect), test.sd, test.n, level)


@dataclass(frozen=True)
class GeneralisationGap:
    """Top-1 validation error minus that on training images, both after the final epoch; top-5 is validation alone."""

    label: str = GAP
    split: str = "validation"
    scale: ScaleName = "points"
    unit: str = PERCENT

    @property
    def counted(self) -> None:
        """It counts no images of one split."""

    def known(self, row: Row) -> bool:
        """Says whether it finished, and both errors were measured when it ran."""
        return bool(row["state"] == "finished" and row[f"{self.split}_count"] and row[f"{TRAINING}_count"])

    def lacks_ratio(self, row: Row) -> bool:
        """Gaps are compared by their difference."""
        return False

    def value(self, row: Row) -> float:
        """Returns the gap in percentage points."""
        return 100.0 * (_share(row, self.split) - _share(row, TRAINING))

    def images(self, row: Row) -> int:
        """Returns the number of validation images."""
        return int(row[f"{self.split}_count"])

    def sampling_error(self, mean: float | None, images: int) -> None:
        """A gap is no share of images, so that it has none."""

    def spread(self, values: Mapping[str, float | None]) -> Spread:
        """Returns mean and standard deviation."""
        return _mean_and_sd(values)

    def difference(self, base: Row, row: Row) -> float | None:
        """Returns arm minus baseline in points."""
        if not (self.known(base) and self.known(row)):
            return None
        of_training = points_between(base, row, TRAINING, "top1_error")
        return points_between(base, row, self.split, "top1_error") - of_training

    def bounds(self, pairs: Sequence[Pair]) -> None:
        """Student's t judges."""

    def compare(self, pairs: Sequence[Pair]) -> Comparison:
        """Returns the mean difference, the top-5 validation errors', and the correlation achieved."""
        return _compare_means(self, pairs, self.split)

    def seeds_needed(self, test: PairedTest, effect: float, level: float) -> tuple[int, int]:
        """Returns what Student's t needs."""
        return seeds_needed(effect, test.sd, test.n, level)


@dataclass(frozen=True)
class TimeToThreshold:
    """The first epoch whose running training error is at most a threshold.

    The running error counts every training image once an epoch, as it is trained on; without augmentation and dropout
    that is the training error of the paper's figure 1. Of another core it is the first report whose metric is there.

    Attributes:
        label: The metric as shown.
        split: Whose images count: `training`.
        scale: Times are compared by the log of their ratio.
        unit: A time has none that is shown.
    """

    label: str
    split: str = "training"
    scale: ScaleName = "log_ratio"
    unit: str = PERCENT

    @property
    def counted(self) -> None:
        """It counts no images of one split."""

    def known(self, row: Row) -> bool:
        """Says whether the trial finished and all its epochs are on record."""
        return bool(row["state"] == "finished" and row["epochs_seen"] == row["epochs"])

    def lacks_ratio(self, row: Row) -> bool:
        """A time is at least one epoch."""
        return False

    def value(self, row: Row) -> float | None:
        """Returns the epochs it took, or None where it was not there within its budget."""
        epochs = row["epochs_to_threshold"]
        return None if epochs is None else float(epochs)

    def images(self, row: Row) -> int:
        """Returns the number of training images; 0 where the core does not say."""
        return int(row["train_count"] or 0)

    def sampling_error(self, mean: float | None, images: int) -> None:
        """A time is no share of images, so that it has none."""

    def spread(self, values: Mapping[str, float | None]) -> Spread:
        """Returns the median, a run that was not there in time being longer than any other; and those runs."""
        middle = middle_of([math.inf if value is None else value for value in values.values()] or [math.inf])
        never = tuple(seed for seed, value in values.items() if value is None)
        return Spread(median=middle if math.isfinite(middle) else None, never=never)

    def difference(self, base: Row, row: Row) -> float | None:
        """Returns the log of arm over baseline; of a ratio that is only bounded, the value nearest to equal times."""
        ratio = self._ratio(base, row)
        return None if ratio is None else ratio.nearest_to_equal

    def bounds(self, pairs: Sequence[Pair]) -> tuple[Between, ...]:
        """Returns what is known of the log-ratios of the pairs that have the metric."""
        ratios = [self._ratio(base, row) for base, row in pairs]
        return tuple(ratio for ratio in ratios if ratio is not None)

    def compare(self, pairs: Sequence[Pair]) -> Comparison:
        """Returns the median log-ratio, or the bound that is known of it."""
        ratios = self.bounds(pairs)
        middle = median(ratios) if ratios else Between(-math.inf, math.inf)
        if middle.is_known:
            return Comparison(difference=middle.low)
        if math.isfinite(middle.low):
            return Comparison(difference=middle.low, difference_is="at least")
        if math.isfinite(middle.high):
            return Comparison(difference=middle.high, difference_is="at most")
        return Comparison()

    def seeds_needed(self, test: PairedTest, effect: float, level: float) -> None:
        """The sign test has no standard deviation to tell from."""

    def _ratio(self, base: Row, row: Row) -> Between | None:
        """What is known of the log of arm over baseline; None where one of them lacks the metric."""
        if not (self.known(base) and self.known(row)):
            return None
        return log_ratio(base["epochs_to_threshold"], row["epochs_to_threshold"], (base["epochs"], row["epochs"]))


@dataclass(frozen=True)
class DeclaredMetric:
    """A metric that a core declares, after its last report.

    Attributes:
        name: As the core calls it.
        metric: What it declares of it.
        scale: Whether arms are compared by their difference, or by the log of their ratio.
    """

    name: str
    metric: MetricDescription
    scale: ScaleName = "points"

    @property
    def label(self) -> str:
        """The metric as shown."""
        return readable(self.name)

    @property
    def split(self) -> str:
        """What it is measured on, as far as its name says."""
        words = self.label.split()
        return next((split for word, split in SPLITS.items() if word in words), "evaluation")

    @property
    def unit(self) -> str:
        """What values are shown in."""
        return self.metric.unit

    @property
    def counted(self) -> None:
        """A core does not say which examples were right."""

    def known(self, row: Row) -> bool:
        """Says whether it finished and reported the metric."""
        return row["state"] == "finished" and row.get(f"{METRICS_BY_NAME}{self.name}") is not None

    def lacks_ratio(self, row: Row) -> bool:
        """Says whether arms are compared by ratios, and this value is not above 0."""
        return self.scale == "log_ratio" and self.known(row) and self._raw(row) <= 0.0

    def value(self, row: Row) -> float:
        """Returns the metric as shown."""
        return self.metric.scale * self._raw(row)

    def images(self, row: Row) -> int:
        """A core does not say on how many examples it measures."""
        return 0

    def sampling_error(self, mean: float | None, images: int) -> None:
        """Not known without the number of examples."""

    def spread(self, values: Mapping[str, float | None]) -> Spread:
        """Returns mean and standard deviation."""
        return _mean_and_sd(values)

    def difference(self, base: Row, row: Row) -> float | None:
        """Returns arm minus baseline in the shown unit, or the log of their ratio."""
        if not (self.known(base) and self.known(row)) or self.lacks_ratio(base) or self.lacks_ratio(row):
            return None
        if self.scale == "log_ratio":
            return math.log(self._raw(row)) - math.log(self._raw(base))
        # 先减后乘：相等的两个数差得恰好是零
        return self.metric.scale * (self._raw(row) - self._raw(base))

    def bounds(self, pairs: Sequence[Pair]) -> None:
        """Student's t judges."""

    def compare(self, pairs: Sequence[Pair]) -> Comparison:
        """Returns the mean difference, and the correlation achieved."""
        return _compare_means(self, pairs, None)

    def seeds_needed(self, test: PairedTest, effect: float, level: float) -> tuple[int, int]:
        """Returns what Student's t needs."""
        return seeds_needed(SCALES[self.scale].size(effect), test.sd, test.n, level)

    def _raw(self, row: Row) -> float:
        return float(row[f"{METRICS_BY_NAME}{self.name}"])


def judged_metric(study: Study, recipe: Recipe, finished: Sequence[Row], core: CoreDescription) -> JudgedMetric:
    """Returns how a study's primary metric is measured on these trials.

    Args:
        study: The study.
        recipe: Its recipe on this data set.
        finished: Its finished trials; where all have test images the error at the end is judged on those.
        core: What is trained.
    """
    if study.core is not None:
        return _declared_metric(study, recipe, core)
    if recipe.threshold is not None:
        return TimeToThreshold(f"epochs to {recipe.threshold:g} % training error")
    scale = _scale(study)
    if study.primary_metric == "training_error":
        return ErrorRate("top-1 training error", "training", TRAINING, scale)
    if study.primary_metric == "generalisation_gap":
        return GeneralisationGap()
    split = "test" if all(row["test_top1_error"] is not None for row in finished) else "validation"
    return ErrorRate(f"top-1 {split} error", split, split, scale)


def _scale(study: Study) -> ScaleName:
    return "log_ratio" if study.statistic == "log_ratio" else "points"


def _declared_metric(study: Study, recipe: Recipe, core: CoreDescription) -> JudgedMetric:
    name, metric = study.primary_metric, core.metrics[study.primary_metric]
    plain = DeclaredMetric(name, metric, _scale(study))
    if recipe.threshold is None:
        return plain
    threshold = f"{recipe.threshold:g} {metric.unit}".rstrip()
    return TimeToThreshold(f"reports to {readable(name)} {threshold}", plain.split)


def reads_epochs(recipe: Recipe) -> bool:
    """Says whether a recipe's primary metric is read from the epochs, by far the largest table."""
    return recipe.threshold is not None


def with_metric_columns(
    study: Study, recipe: Recipe, core: CoreDescription, trials: pl.DataFrame, epochs: pl.DataFrame
) -> pl.DataFrame:
    """Returns the trials with the columns that a study's primary metric reads and the trials table lacks.

    For a threshold these are `epochs_to_threshold` (null for never) and `epochs_seen`, how many are on record.

    Args:
        study: The study.
        recipe: With the threshold of the running training error, in percent, or of the study's metric as it is shown.
        core: What is trained.
        trials: The trials table.
        epochs: The epochs table, whose errors are in [0, 1].
    """
    if recipe.threshold is None:
        return trials
    # 12.5 % 这样的门槛在二进制里除不尽，比较时留一点余地
    if study.core is None:
        there = 100.0 * pl.col("train_top1_error") <= recipe.threshold + 1e-9
    else:
        metric, column = core.metrics[study.primary_metric], f"{METRICS_BY_NAME}{study.primary_metric}"
        if column not in epochs.columns:
            epochs = epochs.with_columns(pl.lit(None, pl.Float64).alias(column))
        sign = 1.0 if metric.better == "lower" else -1.0
        there = sign * metric.scale * pl.col(column) <= sign * recipe.threshold + 1e-9
    times = epochs.group_by("key").agg(
        pl.col("epoch").filter(there).min().alias("epochs_to_threshold"), pl.len().alias("epochs_seen")
    )
    return trials.join(times, on="key", how="left", maintain_order="left")


def _mean_and_sd(values: Mapping[str, float | None]) -> Spread:
    spread = paired_test([value for value in values.values() if value is not None])
    return Spread(mean=spread.mean if spread.n else None, sd=spread.sd if spread.n > 1 else None)


def _compare_means(
    metric: ErrorRate | GeneralisationGap | DeclaredMetric, pairs: Sequence[Pair], top5_split: str | None
) -> Comparison:
    """Mean differences by seed, those of the top-5 error on a split, and the correlation that pairing achieved."""
    both = [(base, row) for base, row in pairs if metric.known(base) and metric.known(row)]
    differences = [metric.difference(base, row) for base, row in both]
    test = paired_test([difference for difference in differences if difference is not None])
    counts_top5 = both if top5_split is not None else []
    top5 = paired_test([points_between(base, row, str(top5_split), "top5_error") for base, row in counts_top5])
    return Comparison(
        difference=test.mean if test.n else None,
        difference_sd=test.sd if test.n > 1 else None,
        top5_difference=top5.mean if top5.n else None,
        top5_interval=t_interval(top5, ALPHA) if top5.n > 1 else None,
        correlation=correlation([metric.value(base) for base, _ in both], [metric.value(row) for _, row in both]),
    )


def points_between(base: Row, row: Row, split: str, metric: str) -> float:
    """Returns the difference of an error on a split in percentage points."""
    column, count = f"{split}_{metric}s", f"{split}_count"
    if row[count] != base[count]:
        # arm 可以改训练图的张数：张数不同，只能减错误率
        return 100.0 * (float(row[column]) / float(row[count]) - float(base[column]) / float(base[count]))
    # 相减用错误张数，整数之差没有舍入误差
    return 100.0 * float(row[column] - base[column]) / float(row[count])


def _share(row: Row, split: str) -> float:
    return float(row[f"{split}_top1_errors"]) / float(row[f"{split}_count"])


def _smoothed(row: Row, split: str) -> float:
    """The error rate with half an error more, so that no error at all has a logarithm."""
    return (float(row[f"{split}_top1_errors"]) + 0.5) / (float(row[f"{split}_count"]) + 1.0)
