"""What stays the same over one training, and how it begins: anew or from a checkpoint."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from alexnet_core.configuration.schedule import adds_colour_noise, can_be_extended
from alexnet_core.configuration.train_config import NUMERICS, TrainConfig
from alexnet_core.data.dataset import Dataset, Split
from alexnet_core.errors import CoreError
from alexnet_core.model.alexnet import AlexNet, initialise
from alexnet_core.training.augmentation import colour_axes
from alexnet_core.training.checkpoint import (
    Position,
    mark_best,
    prune_checkpoints,
    read_position,
    read_tensors,
    run_digest,
    write_checkpoint,
)
from alexnet_core.training.loader import ImageLoader
from alexnet_core.training.optimizer import MomentumSGD, parameter_groups
from alexnet_core.training.precision import check_precision


@dataclass(frozen=True)
class Run:
    """What stays the same over a training."""

    config: TrainConfig
    model: AlexNet
    parallel: nn.Module
    optimizer: MomentumSGD
    train: ImageLoader
    validation: ImageLoader
    test: ImageLoader | None
    colour: torch.Tensor | None
    rank: int
    workers: int

    @property
    def batches(self) -> int:
        """Number of updates in an epoch."""
        return -(-len(self.train) // self.config.training.batch_size)

    def share(self, count: int) -> tuple[int, int]:
        """The part of `count` rows that falls to this worker: first, and one past the last."""
        return (count * self.rank) // self.workers, (count * (self.rank + 1)) // self.workers


class Saver:
    """Writes checkpoints and remembers when it last did."""

    def __init__(self, run: Run, folder: Path | None, attempt: int, keep: int, heartbeat: Callable[[], object]) -> None:
        self._run, self._folder, self._attempt, self._keep = run, folder, attempt, keep
        self._heartbeat = heartbeat
        self._last = time.monotonic()

    def seconds_since_last(self) -> float:
        """Seconds since the last checkpoint, or since the training began."""
        return time.monotonic() - self._last

    def save(self, position: Position, *, is_best: bool = False) -> None:
        """Writes a checkpoint of this position and deletes those it replaces."""
        self._last = time.monotonic()
        if self._folder is not None:
            weights = dict(self._run.model.named_parameters())
            # 更长的训练若会这样开头，就把速度也留下，以后可以接着训练
            needs_velocities = not position.complete or can_be_extended(self._run.config.training)
            velocities = self._run.optimizer.velocities() if needs_velocities else None
            path = write_checkpoint(self._folder, self._attempt, position, weights, velocities, self._heartbeat)
            if is_best:
                mark_best(path)
            prune_checkpoints(self._folder, self._attempt, self._keep)


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


def prepare_run(config: TrainConfig, devices: Sequence[str], dataset: Dataset, rank: int, workers: int) -> Run:
    """Builds network, optimizer and loaders, initialised by the configuration's seed."""
    if len(dataset.class_names) != config.network.classes:
        raise CoreError(f"the network has {config.network.classes} classes, the data has {len(dataset.class_names)}")
    model = AlexNet(config.network, devices)
    check_precision(config.training.precision, model.devices[0])
    initialise(model, config.seed)
    model.train()
    parallel: nn.Module = model
    if workers > 1:
        # 合并梯度的通信只等一个流
        model.overlaps_towers = False
        parallel = nn.parallel.DistributedDataParallel(model)

    def loader(split: Split) -> ImageLoader:
        follows = config.training.mean_follows_crop
        return ImageLoader(split, dataset.mean_image, model.devices[0], mean_follows_crop=follows)

    colour = None
    if adds_colour_noise(config.training):
        colour = torch.from_numpy(colour_axes(dataset.covariance)).to(model.devices[0])
    return Run(
        config=config,
        model=model,
        parallel=parallel,
        optimizer=MomentumSGD(parameter_groups(model, config.training), momentum=config.training.momentum),
        train=loader(dataset.train),
        validation=loader(dataset.validation),
        test=loader(dataset.test) if dataset.test is not None else None,
        colour=colour,
        rank=rank,
        workers=workers,
    )


def check_same_run(config: TrainConfig, checkpoint: Path) -> Position:
    """Returns how far a checkpoint is; raises CoreError where it is of another run than `config`."""
    position = read_position(checkpoint)
    if position.run not in ("", run_digest(config)):
        raise CoreError(f"checkpoint {checkpoint} is of another run: its network, training, data or seed differ")
    return position


def resume_run(run: Run, path: Path) -> Position:
    """Loads weights and velocities of a checkpoint into a run; returns how far it is."""
    weights, velocities = read_tensors(path)
    own = dict(run.model.named_parameters())
    if set(weights) != set(own) or any(weights[name].shape != own[name].shape for name in own):
        raise CoreError(f"checkpoint {path} is of another network than {run.config.network.name} as configured")
    position = check_same_run(run.config, path)
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(weights[name])
    if not position.complete:
        run.optimizer.load_velocities(velocities)
    return position


def is_best_so_far(position: Position) -> bool:
    """Whether the last epoch has the lowest top-1 validation error yet."""
    *before, last = [report.validation.top1_error for report in position.history]
    return not before or last < min(before)
