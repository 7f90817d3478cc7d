"""Metrics as (sum, count): unequal batches and several workers merge exactly; means are taken once."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from alexnet_core.configuration.frozen import Frozen
from alexnet_core.configuration.wording import counted

# 记录会进 64 位整数的表；2^53 以内在 JSON 里也不失真
Count = Annotated[int, Field(ge=0, le=2**53)]


class SplitMetrics(Frozen):
    """Sums over the images of one split.

    Attributes:
        loss_sum: Sum of the softmax cross-entropy in nats.
        top1_errors: Images whose class is not the highest logit.
        top5_errors: Images whose class is not among the five highest logits.
        count: Number of images.
    """

    loss_sum: float = 0.0
    top1_errors: Count = 0
    top5_errors: Count = 0
    count: Count = 0

    @property
    def loss(self) -> float:
        """Mean loss in nats."""
        return self.loss_sum / self.count

    @property
    def top1_error(self) -> float:
        """Top-1 error in [0, 1]."""
        return self.top1_errors / self.count

    @property
    def top5_error(self) -> float:
        """Top-5 error in [0, 1]."""
        return self.top5_errors / self.count


def _of_images(metrics: SplitMetrics) -> SplitMetrics:
    if metrics.count < max(1, metrics.top1_errors, metrics.top5_errors):
        images = counted(metrics.count, "image")
        raise ValueError(f"{images} cannot have {metrics.top1_errors} or {metrics.top5_errors} errors")
    return metrics


# 至少一张图，且错误不多于图：这样的错误率才有定义
SplitErrors = Annotated[SplitMetrics, AfterValidator(_of_images)]


class EpochReport(Frozen):
    """One finished epoch.

    Attributes:
        epoch: Number of epochs finished, from 1.
        learning_rate: Learning rate of the weights during the epoch.
        train: Running metrics during the epoch (augmented images, dropout on).
        validation: After the epoch; None where no image is held out (`DataSpec.holds_out`).
        test: After the last epoch, where the data has a test set; else None.
        train_final: After the last epoch, of at most 10,000 training images spread evenly over the set, seen as in
            evaluation: centre crop, no dropout, no noise.
        seconds: Wall seconds of the epoch, evaluation included.
        images_per_second: Training images per second, evaluation excluded.
    """

    epoch: Count
    learning_rate: float
    train: SplitErrors
    validation: SplitErrors | None
    test: SplitErrors | None = None
    train_final: SplitErrors | None = None
    seconds: float
    images_per_second: float

    @property
    def validation_error(self) -> float | None:
        """Top-1 validation error in [0, 1]; None where no image is held out."""
        return None if self.validation is None else self.validation.top1_error
