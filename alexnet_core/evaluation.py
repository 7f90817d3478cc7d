"""Top-1 and top-5 error of a network on a split, over one view or ten."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F

from alexnet_core.alexnet import AlexNet
from alexnet_core.augmentation import DeviceImages, centre_views, on_device, ten_views
from alexnet_core.datasets import Split
from alexnet_core.metrics import SplitMetrics

EVALUATION_BATCH = 256


def evaluate(
    model: AlexNet, split: Split | DeviceImages, mean_image: np.ndarray | None = None, views: int = 1
) -> SplitMetrics:
    """Evaluates a network.

    Args:
        model: The network; its mode is restored afterwards.
        split: The images, as arrays or already on the first device.
        mean_image: float32 (H, W, C); needed with arrays.
        views: 1 for the centre crop; 10 averages the softmax over ten views (paper section 4.1).

    Returns:
        Summed loss and error counts.

    Raises:
        ValueError: If `views` is neither 1 nor 10.
    """
    if views not in (1, 10):
        raise ValueError(f"views must be 1 or 10, not {views}")
    data = split
    if isinstance(data, Split):
        if mean_image is None:
            raise ValueError("evaluating arrays needs the mean image")
        data = on_device(data, mean_image, model.devices[0])
    return evaluate_rows(model, data, 0, len(data.labels), views)


def _nothing() -> None:
    return None


def evaluate_rows(
    model: AlexNet,
    data: DeviceImages,
    first: int,
    last: int,
    views: int = 1,
    before_batch: Callable[[], None] = _nothing,
) -> SplitMetrics:
    """Evaluates the images `first` to `last` (excluded); data-parallel workers take a share each.

    Args:
        model: The network; its mode is restored afterwards.
        data: The images, on the first device.
        first: First image.
        last: One past the last.
        views: 1 or 10.
        before_batch: Called before every batch, so that the caller shows life, or ends it by an exception.
    """
    was_training = model.training
    model.eval()
    sums = torch.zeros(3, dtype=torch.float64, device=model.devices[-1])
    try:
        with torch.inference_mode():
            for start in range(first, last, EVALUATION_BATCH):
                before_batch()
                indices = torch.arange(start, min(start + EVALUATION_BATCH, last), device=data.images.device)
                probabilities = _log_probabilities(model, data, indices, views)
                sums += batch_sums(probabilities, data.labels[indices].to(probabilities.device))
    finally:
        model.train(was_training)
    loss, top1, top5 = sums.tolist()
    return SplitMetrics.model_construct(
        loss_sum=loss, top1_errors=round(top1), top5_errors=round(top5), count=last - first
    )


def _log_probabilities(model: AlexNet, data: DeviceImages, indices: torch.Tensor, views: int) -> torch.Tensor:
    crop = model.spec.input_size
    if views == 1:
        return F.log_softmax(model(centre_views(data, indices, crop)), dim=1)
    softmaxes = [F.softmax(model(view), dim=1) for view in ten_views(data, indices, crop)]
    return torch.stack(softmaxes).mean(dim=0).log()


def batch_sums(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Returns float64 (3,): summed cross-entropy, top-1 errors, top-5 errors of a batch.

    Args:
        logits: (B, classes); log-probabilities serve as well.
        labels: int64 (B,).
    """
    loss = F.cross_entropy(logits, labels, reduction="sum")
    best = logits.topk(min(5, logits.shape[1]), dim=1).indices
    hits = best == labels[:, None]
    wrong1 = (~hits[:, 0]).sum()
    wrong5 = (~hits.any(dim=1)).sum()
    return torch.stack([loss.double(), wrong1.double(), wrong5.double()])
