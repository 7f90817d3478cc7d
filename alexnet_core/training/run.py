"""What stays the same over one training, and how it begins: anew or from a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from alexnet_core.configuration.schedule import adds_colour_noise
from alexnet_core.configuration.train_config import NUMERICS, TrainConfig
from alexnet_core.data.dataset import Dataset, Split
from alexnet_core.errors import CoreError
from alexnet_core.model.alexnet import AlexNet, initialise
from alexnet_core.training.augmentation import colour_axes
from alexnet_core.training.checkpoint import Position, read_position, read_tensors, run_digest
from alexnet_core.training.data_parallel import Workers
from alexnet_core.training.loader import ImageLoader
from alexnet_core.training.optimizer import MomentumSGD, parameter_groups
from alexnet_core.training.precision import check_precision


@dataclass(frozen=True)
class TrainingRun:
    """What stays the same over a training.

    Attributes:
        config: What is trained.
        model: The network, on its devices.
        parallel: The same as data-parallel workers call it, see `Workers.replicated`.
        optimizer: With the velocities of the model's parameters.
        train: Training images.
        validation: Validation images, where there are some.
        test: Test images, where there are some.
        colour_axes: float32 (C, C), see `augmentation.colour_axes`; None where no epoch has colour noise.
        workers: This process among the data-parallel ones.
    """

    config: TrainConfig
    model: AlexNet
    parallel: nn.Module
    optimizer: MomentumSGD
    train: ImageLoader
    validation: ImageLoader | None
    test: ImageLoader | None
    colour_axes: torch.Tensor | None
    workers: Workers

    @property
    def batches(self) -> int:
        """Number of updates in an epoch."""
        return -(-len(self.train) // self.config.training.batch_size)


def set_globals() -> None:
    """Sets every global the numbers depend on, since a warm process has trained other things before."""
    torch.set_default_dtype(torch.float32)
    torch.set_grad_enabled(True)
    if torch.are_deterministic_algorithms_enabled():
        # 该函数首次调用会导入 inductor，耗时近四秒，所以只在需要时才调用
        torch.use_deterministic_algorithms(False)
    torch.set_flush_denormal(False)
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False


def check_numerics(config: TrainConfig) -> None:
    """Raises CoreError where the configuration is of other numerics than this version computes."""
    if config.numerics != NUMERICS:
        raise CoreError(
            f"the configuration is of numerics {config.numerics}, this version computes {NUMERICS}; "
            "its numbers would differ, so set numerics to this version's to train anew"
        )


def prepare_run(config: TrainConfig, devices: Sequence[str], dataset: Dataset, workers: Workers) -> TrainingRun:
    """Builds network, optimizer and loaders, initialised by the configuration's seed.

    Raises:
        CoreError: The data has other classes than the network, or the devices lack the precision.
    """
    if len(dataset.class_names) != config.network.classes:
        raise CoreError(f"the network has {config.network.classes} classes, the data has {len(dataset.class_names)}")
    model = AlexNet(config.network, devices)
    check_precision(config.training.precision, model.devices[0])
    # 先按键初始化，再交给各 worker：起点在每个进程里都相同
    initialise(model, config.seed_of("initialisation"))
    model.train()

    def loader(split: Split) -> ImageLoader:
        follows = config.training.mean_follows_crop
        return ImageLoader(split, dataset.mean_image, model.devices[0], mean_follows_crop=follows)

    axes = None
    if adds_colour_noise(config.training):
        axes = torch.from_numpy(colour_axes(dataset.covariance)).to(model.devices[0])
    return TrainingRun(
        config=config,
        model=model,
        parallel=workers.replicated(model),
        optimizer=MomentumSGD(parameter_groups(model, config.training), momentum=config.training.momentum),
        train=loader(dataset.train),
        validation=loader(dataset.validation) if len(dataset.validation) else None,
        test=loader(dataset.test) if dataset.test is not None else None,
        colour_axes=axes,
        workers=workers,
    )


def check_same_run(config: TrainConfig, checkpoint: Path) -> Position:
    """Returns how far a checkpoint is; raises CoreError where it is of another run than `config`."""
    position = read_position(checkpoint)
    if position.run not in ("", run_digest(config)):
        raise CoreError(f"checkpoint {checkpoint} is of another run: its network, training, data or seed differ")
    return position


def resume_run(run: TrainingRun, path: Path) -> Position:
    """Loads weights and velocities of a checkpoint into a run; returns how far it is.

    Raises:
        CoreError: The checkpoint is of another network or run, or cannot be read.
    """
    weights, velocities = read_tensors(path)
    parameters = dict(run.model.named_parameters())
    if set(weights) != set(parameters) or any(weights[name].shape != parameters[name].shape for name in parameters):
        raise CoreError(f"checkpoint {path} is of another network than {run.config.network.name} as configured")
    # 位置里带着历史：记录从检查点重写，抽取按键重算，不需要随机数发生器的状态
    position = check_same_run(run.config, path)
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(weights[name])
    if not position.complete:
        run.optimizer.load_velocities(velocities)
    return position
