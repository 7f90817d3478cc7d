"""Top-1 and top-5 error of a network on a split, over one view or ten."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F

from alexnet_core.configuration.metrics import SplitMetrics
from alexnet_core.configuration.train_config import Precision
from alexnet_core.data.dataset import Dataset, Split
from alexnet_core.model.alexnet import AlexNet
from alexnet_core.training.augmentation import centre_views, ten_views
from alexnet_core.training.data_parallel import ALONE, Workers
from alexnet_core.training.loader import Batch, ImageLoader
from alexnet_core.training.precision import autocast, set_matrix_precision

EVALUATION_BATCH = 256


class Evaluates(Protocol):
    """A model that knows its own preprocessing and arithmetic (`LoadedModel`)."""

    def evaluate(self, data: Dataset | Split, views: int = 1) -> SplitMetrics:
        """Evaluates itself."""
        ...


def evaluate(
    model: AlexNet | Evaluates,
    dataset: Dataset | Split | ImageLoader,
    views: int = 1,
    mean_image: np.ndarray | None = None,
    *,
    precision: Precision = "float32",
    mean_follows_crop: bool = True,
) -> SplitMetrics:
    """Evaluates a network.

    Args:
        model: The network, whose mode is restored afterwards; or what `load_model` returns, which knows its own mean
            image, crops and precision.
        dataset: A data set, of which the test images are taken, or the validation images where there are none;
            or one split.
        views: 1 for the centre crop; 10 averages the softmax over ten views (paper section 4.1).
        mean_image: float32 (H, W, C); needed with a split, and instead of a data set's own.
        precision: Arithmetic, see `TrainingSpec`.
        mean_follows_crop: See `TrainingSpec`.

    Returns:
        Summed loss and error counts; `top1_error` and `top5_error` are in [0, 1].

    Raises:
        ValueError: If `views` is neither 1 nor 10, there are no images, or a split comes without a mean image.
    """
    loader = dataset
    if not isinstance(model, AlexNet):
        if isinstance(loader, ImageLoader):
            raise ValueError("a loaded model makes its own loader: give it the data set or the split")
        return model.evaluate(loader, views)
    if not isinstance(loader, ImageLoader):
        if isinstance(loader, Dataset):
            mean_image = loader.mean_image if mean_image is None else mean_image
        if mean_image is None:
            raise ValueError("evaluating a split needs the mean image")
        loader = ImageLoader(split_to_test(loader), mean_image, model.devices[0], mean_follows_crop=mean_follows_crop)
    if not len(loader):
        raise ValueError("there are no images to evaluate")
    return evaluate_rows(model, loader, np.arange(len(loader)), views, precision=precision)


def split_to_test(data: Dataset | Split) -> Split:
    """Returns the test images of a data set, the validation images where there are none; a split as it is."""
    if isinstance(data, Split):
        return data
    return data.test if data.test is not None else data.validation


def predictions(
    model: AlexNet, loader: ImageLoader, views: int = 1, *, precision: Precision = "float32"
) -> Generator[tuple[Batch, torch.Tensor]]:
    """Yields every batch of a split with the logarithms of its class probabilities, which never underflow.

    Args:
        model: The network; its mode is restored afterwards.
        loader: The images.
        views: 1 for the centre crop, 10 for the mean over ten views.
        precision: Arithmetic, see `TrainingSpec`.

    Yields:
        (batch, float32 (B, classes) on the last device).
    """
    yield from _evaluated(model, loader, np.arange(len(loader)), views, _nothing, precision)


def _nothing() -> None:
    return None


def evaluate_rows(
    model: AlexNet,
    loader: ImageLoader,
    rows: np.ndarray,
    views: int = 1,
    before_batch: Callable[[], None] = _nothing,
    precision: Precision = "float32",
    workers: Workers = ALONE,
    correct: np.ndarray | None = None,
) -> SplitMetrics:
    """Evaluates some images of a split.

    Args:
        model: The network; its mode is restored afterwards.
        loader: The images.
        rows: int64 (M,), numbers of the images.
        views: 1 or 10.
        before_batch: Called before every batch, so that the caller shows life, or ends it by an exception (with one
            worker only: others would wait for it).
        precision: Arithmetic, see `TrainingSpec`.
        workers: This process among the data-parallel ones, each of which evaluates its share of the rows.
        correct: bool (M,), which is filled with whether the likeliest class of each row is its own; on every worker the
            same.

    Returns:
        The sums over all rows, on every worker the same.
    """
    sums = torch.zeros(3, dtype=torch.float64, device=model.devices[-1])
    first, last = workers.share(len(rows))
    right = torch.zeros(len(rows), dtype=torch.float64, device=sums.device)
    place = first
    for batch, log_probabilities in _evaluated(model, loader, rows[first:last], views, before_batch, precision):
        labels = batch.labels.to(sums.device)
        sums += batch_sums(log_probabilities, labels)
        if correct is not None:
            right[place : place + len(labels)] = _hits(log_probabilities, labels)[:, 0].double()
            place += len(labels)
    if correct is not None:
        # 各 worker 只填自己的一段，其余为零：相加就是全部
        correct[:] = workers.sum(right).cpu().numpy() > 0.5
    # 和可以相加，均值不能：份额不等时也是整体的数
    loss, top1, top5 = workers.sum(sums).tolist()
    return SplitMetrics.model_construct(
        loss_sum=loss, top1_errors=round(top1), top5_errors=round(top5), count=len(rows)
    )


def _evaluated(
    model: AlexNet,
    loader: ImageLoader,
    rows: np.ndarray,
    views: int,
    before_batch: Callable[[], None],
    precision: Precision,
) -> Iterator[tuple[Batch, torch.Tensor]]:
    """Yields batches of the images `rows` (M,) with their log-probabilities, float32 (B, classes).

    Raises:
        ValueError: `views` is neither 1 nor 10.
    """
    if views not in (1, 10):
        raise ValueError(f"views must be 1 or 10, not {views}")
    was_training = model.training
    set_matrix_precision(precision)
    starts = range(0, len(rows), EVALUATION_BATCH)
    bounds = [(start, min(start + EVALUATION_BATCH, len(rows))) for start in starts]
    model.eval()
    try:
        with closing(loader.batches(rows, bounds)) as batches:
            for batch in batches:
                before_batch()
                with torch.inference_mode(), autocast(precision, model.devices[0]):
                    log_probabilities = _log_probabilities(model, batch, views)
                yield batch, log_probabilities
    finally:
        model.train(was_training)


def _log_probabilities(model: AlexNet, batch: Batch, views: int) -> torch.Tensor:
    """Logarithms of a batch's class probabilities, (B, classes)."""
    crop = model.spec.input_size
    if views == 1:
        return F.log_softmax(model(centre_views(batch, crop)), dim=1)
    return mean_log_probabilities([model(view) for view in ten_views(batch, crop)])


def mean_log_probabilities(logits: Sequence[torch.Tensor]) -> torch.Tensor:
    """Returns the logarithms of the mean of several class probabilities of the same images, float (B, classes).

    Args:
        logits: Each (B, classes), on one device; log-probabilities serve as well.
    """
    # 平均的是概率，不是 logits，也不是各自的判断（论文 4.1 节）
    mean = torch.stack([F.softmax(view, dim=1) for view in logits]).mean(dim=0)
    if bool((mean > 0).all()):
        return mean.log()
    # 概率下溢成零时名次只剩平局，损失成了无穷：这时在对数里平均
    logarithms = torch.stack([F.log_softmax(view, dim=1) for view in logits])
    return torch.where(mean > 0, mean.log(), logarithms.logsumexp(dim=0) - math.log(len(logits)))


def batch_sums(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Returns float64 (3,): summed cross-entropy, top-1 errors, top-5 errors of a batch.

    Args:
        logits: (B, classes); log-probabilities serve as well.
        labels: int64 (B,).
    """
    loss = F.cross_entropy(logits, labels, reduction="sum")
    hits = _hits(logits, labels)
    wrong1 = (~hits[:, 0]).sum()
    wrong5 = (~hits.any(dim=1)).sum()
    return torch.stack([loss.double(), wrong1.double(), wrong5.double()])


def _hits(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Whether each of the likeliest classes, at most five, is an image's own: bool (B, 5)."""
    return logits.topk(min(5, logits.shape[1]), dim=1).indices == labels[:, None]
