"""A finished training's network, read from its final checkpoint and evaluated again, over one view or ten."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from alexnet_core.configuration.correct_images import CorrectImages
from alexnet_core.configuration.metrics import SplitMetrics
from alexnet_core.configuration.train_config import TrainConfig
from alexnet_core.data.dataset import Dataset
from alexnet_core.data.loading import load_dataset
from alexnet_core.errors import CoreError
from alexnet_core.model.alexnet import AlexNet
from alexnet_core.training.checkpoint import read_position, read_tensors
from alexnet_core.training.data_parallel import ALONE, Workers
from alexnet_core.training.evaluation import evaluate_rows
from alexnet_core.training.loader import ImageLoader


def load_trained(config: TrainConfig, checkpoint: Path, devices: Sequence[str] = ("cpu", "cpu")) -> AlexNet:
    """Builds the network of a finished training.

    Args:
        config: The run that trained it.
        checkpoint: Its final checkpoint.
        devices: One per tower.

    Raises:
        CoreError: The checkpoint is missing, torn, not final, or of another network.
    """
    if not read_position(checkpoint).complete:
        raise CoreError(f"checkpoint {checkpoint} is not the end of a training")
    weights, _ = read_tensors(checkpoint)
    model = AlexNet(config.network, devices)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise CoreError(f"checkpoint {checkpoint} is of another network than {config.network.name}") from error
    return model.eval()


def evaluate_trained(
    config: TrainConfig,
    model: AlexNet,
    views: int,
    *,
    dataset: Dataset | None = None,
    before_batch: Callable[[], None] = lambda: None,
    workers: Workers = ALONE,
) -> tuple[SplitMetrics, CorrectImages]:
    """Evaluates a trained network on the test images, or the validation images where there are none.

    Args:
        config: The run that trained it.
        model: From `load_trained`.
        views: 1 for the centre crop; 10 averages the softmax over ten views (paper section 4.1).
        dataset: The data, if it is loaded already.
        before_batch: Called before every batch; with one worker it may end the evaluation by an exception.
        workers: This process among the data-parallel ones, each of which evaluates its share of the images.

    Returns:
        The sums over all workers, and which images it got right, of which split.
    """
    dataset = dataset if dataset is not None else load_dataset(config.data)
    # 没有测试集才用验证集，并在名字里说出来
    split = dataset.validation if dataset.test is None else dataset.test
    correct = np.zeros(len(split), dtype=np.bool_)
    seen = CorrectImages("validation" if dataset.test is None else "test", views, correct)
    follows = config.training.mean_follows_crop
    loader = ImageLoader(split, dataset.mean_image, model.devices[0], mean_follows_crop=follows)
    rows, precision = np.arange(len(loader)), config.training.precision
    return evaluate_rows(model, loader, rows, views, before_batch, precision, workers, correct), seen
