"""Several trained networks that answer together: their softmaxes are averaged (paper table 2)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing

import torch

from alexnet_core.configuration.metrics import SplitMetrics
from alexnet_core.configuration.train_config import FIELDS_OUTSIDE_THE_KEY
from alexnet_core.data.dataset import Split
from alexnet_core.errors import CoreError
from alexnet_core.trained.loaded_model import LoadedModel
from alexnet_core.training.evaluation import batch_sums, mean_log_probabilities
from alexnet_core.training.loader import Batch
from alexnet_core.training.precision import set_matrix_precision


def check_ensemble(models: Mapping[str, LoadedModel]) -> None:
    """Checks that models can answer together on images that none was trained on: of the same classes and the same data.

    Args:
        models: By the name under which they were given.

    Raises:
        CoreError: Names the first model that differs, and in what.
    """
    (first, model), *others = models.items()
    data = _fields_of_data(model)
    for name, other in others:
        if other.labels != model.labels:
            raise CoreError(f"{first} and {name} know other classes, or in another order: one ensemble has one list")
        for field, value in _fields_of_data(other).items():
            if value != data[field]:
                raise CoreError(
                    f"{first} and {name} were trained on other data: data.{field} is {data[field]} and {value}"
                )


def check_held_out(models: Mapping[str, LoadedModel]) -> None:
    """Checks that models hold the same images out for validation, so that none was trained on those of another.

    Args:
        models: From the same data, see `check_ensemble`.

    Raises:
        CoreError: Names the first model that drew others.
    """
    (first, model), *others = models.items()
    for name, other in others:
        if other.config.data.resplit != model.config.data.resplit:
            raise CoreError(
                f"{first} and {name} drew validation images of their own (vary: [split]), so that each was trained on "
                "some of the other's; they answer together on test images, or on others with --dataset"
            )


def _fields_of_data(model: LoadedModel) -> dict[str, object]:
    """What decides which images a model may be trained on; not where they lie, nor what they are called."""
    # 重抽只在训练图与验证图之间换，测试图不动
    outside = {field.removeprefix("data.") for field in FIELDS_OUTSIDE_THE_KEY}
    return model.config.data.model_dump(exclude={"name", "resplit", *outside})


def evaluate_ensemble(
    models: Sequence[LoadedModel],
    split: Split,
    views: int = 1,
    progress: Callable[[int, int], None] | None = None,
    each: Callable[[Batch, torch.Tensor], None] | None = None,
) -> SplitMetrics:
    """Evaluates models as one on a split.

    Args:
        models: See `ensemble_predictions`.
        split: Its labels are the models' numbers.
        views: 1 for the centre crop, 10 for the mean over ten views of each model.
        progress: Called with (images evaluated, images in all) while there are more.
        each: Called with every batch and its log-probabilities, as `ensemble_predictions` yields them.
    """
    sums = torch.zeros(3, dtype=torch.float64, device=models[0].network.devices[-1])
    done = 0
    for batch, log_probabilities in ensemble_predictions(models, split, views):
        sums += batch_sums(log_probabilities, batch.labels.to(sums.device))
        if each is not None:
            each(batch, log_probabilities)
        done += len(batch.labels)
        if progress is not None and done < len(split):
            progress(done, len(split))
    loss, top1, top5 = sums.tolist()
    return SplitMetrics.model_construct(
        loss_sum=loss, top1_errors=round(top1), top5_errors=round(top5), count=len(split)
    )


def ensemble_predictions(
    models: Sequence[LoadedModel], split: Split, views: int = 1
) -> Iterator[tuple[Batch, torch.Tensor]]:
    """Yields every batch of a split with the logarithms of the models' mean class probabilities.

    Args:
        models: One or more, see `check_ensemble`; of one the numbers are its own, bit by bit.
        split: Its labels are the models' numbers.
        views: 1 for the centre crop, 10 for the mean over ten views of each model.

    Yields:
        (the first model's batch, float32 (B, classes) on its last device).
    """
    with ExitStack() as stack:
        runs = [stack.enter_context(closing(model.predictions(split, views))) for model in models]
        for batch, first in runs[0]:
            parts = [first]
            for model, run in zip(models[1:], runs[1:], strict=True):
                # 精度是 torch 的全局量：轮到谁就是谁的
                set_matrix_precision(model.config.training.precision)
                parts.append(next(run)[1].to(first.device))
            yield batch, parts[0] if len(parts) == 1 else mean_log_probabilities(parts)
            set_matrix_precision(models[0].config.training.precision)
