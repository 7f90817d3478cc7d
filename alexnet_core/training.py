"""Training as a generator of epoch reports. Ray is a consumer of it, so is the command line, so is a test.

All draws are keyed (`draws.py`), so a checkpoint needs weights, velocities and a position, and no generator
state.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as distributed
import torch.nn.functional as F
from torch import nn

from alexnet_core.alexnet import AlexNet, initialise
from alexnet_core.augmentation import DeviceImages, colour_axes, on_device, training_views
from alexnet_core.checkpoint import Position, read_position, read_tensors, write_checkpoint
from alexnet_core.configuration import NUMERICS, TrainConfig
from alexnet_core.datasets import Dataset, load_dataset
from alexnet_core.draws import permutation
from alexnet_core.errors import CoreError
from alexnet_core.evaluation import batch_sums, evaluate_rows
from alexnet_core.metrics import EpochReport, SplitMetrics
from alexnet_core.optimizer import MomentumSGD, weights_and_biases
from alexnet_core.schedule import learning_rate

CHECK_EVERY_BATCHES_ON_GPU = 50


class Diverged(Exception):
    """The loss became NaN or infinite.

    Attributes:
        epoch: Epochs finished before.
    """

    def __init__(self, epoch: int, batch: int) -> None:
        """Says where."""
        super().__init__(f"the loss became NaN or infinite in epoch {epoch + 1}, batch {batch + 1}")
        self.epoch = epoch


class _Stopped(Exception):
    """The caller asked for a stop in the middle of an evaluation."""


def _never() -> bool:
    return False


def train(
    config: TrainConfig,
    devices: Sequence[str] = ("cpu", "cpu"),
    resume_from: Path | None = None,
    *,
    dataset: Dataset | None = None,
    checkpoint_folder: Path | None = None,
    attempt: int = 1,
    checkpoint_seconds: float = 1.0,
    batch_checkpoint_seconds: float = 600.0,
    should_stop: Callable[[], bool] = _never,
    rank: int = 0,
    workers: int = 1,
) -> Iterator[EpochReport]:
    """Trains a network and yields a report after each epoch.

    A run that is stopped or killed and resumed from any of its checkpoints ends with the same weights, bit
    for bit on the CPU. The caller sets the number of threads.

    Args:
        config: The run.
        devices: One per tower.
        resume_from: A checkpoint of the same run; epochs before it are not yielded again.
        dataset: The data, if it is loaded already.
        checkpoint_folder: Where checkpoints go; None writes none.
        attempt: Number of the attempt, part of the checkpoints' names.
        checkpoint_seconds: A checkpoint follows an epoch when so many seconds have passed since the last.
        batch_checkpoint_seconds: The same within an epoch.
        should_stop: Asked before every batch, in evaluations too; True writes a checkpoint and ends the
            generator.
        rank: This data-parallel worker's rank; the caller initialises torch.distributed if `workers` > 1.
        workers: Number of data-parallel workers; each takes its share of every batch.

    Yields:
        EpochReport of each epoch finished now (on every rank the same).

    Raises:
        Diverged: The loss became NaN or infinite.
        CoreError: The configuration, the data or the checkpoint does not fit.
    """
    _set_globals()
    _check(config)
    dataset = dataset if dataset is not None else load_dataset(config.data)
    run = _prepare(config, devices, dataset, rank, workers)
    position = _resume(run, resume_from) if resume_from is not None else Position()
    saver = _Saver(run, checkpoint_folder if rank == 0 else None, attempt)
    while position.epoch < config.training.epochs and not position.complete:
        position, stopped = _train_epoch(run, position, saver, should_stop, batch_checkpoint_seconds)
        if stopped:
            saver.save(position)
            return
        try:
            position = _finish_epoch(run, position, should_stop)
        except _Stopped:
            # 训练部分已完成：续训时只需重新评估
            saver.save(position)
            return
        if position.complete or saver.seconds_since_last() >= checkpoint_seconds:
            # 先存检查点再报告：记录永远不会走在检查点前面
            saver.save(position)
        yield position.history[-1]


def _set_globals() -> None:
    """Sets every global the numbers depend on, since a warm process has trained other things before."""
    torch.set_default_dtype(torch.float32)
    torch.set_grad_enabled(True)
    if torch.are_deterministic_algorithms_enabled():
        # 该函数首次调用会导入 inductor，耗时近四秒，所以只在需要时才调用
        torch.use_deterministic_algorithms(False)
    torch.set_flush_denormal(False)
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False


def _check(config: TrainConfig) -> None:
    if config.numerics != NUMERICS:
        raise CoreError(
            f"the configuration is of numerics {config.numerics}, this version computes {NUMERICS}; "
            "its numbers would differ, so set numerics to this version's to train anew"
        )
    if config.network.input_size > config.data.image_size:
        raise CoreError(
            f"network.input_size {config.network.input_size} is larger than data.image_size {config.data.image_size}"
        )


@dataclass(frozen=True)
class _Run:
    """What stays the same over a training."""

    config: TrainConfig
    model: AlexNet
    parallel: nn.Module
    optimizer: MomentumSGD
    train: DeviceImages
    validation: DeviceImages
    test: DeviceImages | None
    colour: torch.Tensor | None
    rank: int
    workers: int

    @property
    def batches(self) -> int:
        return -(-len(self.train.labels) // self.config.training.batch_size)


def _prepare(config: TrainConfig, devices: Sequence[str], dataset: Dataset, rank: int, workers: int) -> _Run:
    if len(dataset.class_names) != config.network.classes:
        raise CoreError(f"the network has {config.network.classes} classes, the data has {len(dataset.class_names)}")
    model = AlexNet(config.network, devices)
    initialise(model, config.seed)
    model.train()
    training = config.training
    groups = weights_and_biases(
        model.named_parameters(),
        training.weight_decay,
        training.bias_learning_rate_factor,
        training.decays_biases,
    )
    parallel: nn.Module = model
    if workers > 1:
        parallel = nn.parallel.DistributedDataParallel(model, broadcast_buffers=False)
    mean, device = dataset.mean_image, model.devices[0]
    colour = None
    if training.colour_noise > 0:
        colour = torch.from_numpy(colour_axes(dataset.train.images)).to(device)
    return _Run(
        config=config,
        model=model,
        parallel=parallel,
        optimizer=MomentumSGD(groups, training.momentum),
        train=on_device(dataset.train, mean, device),
        validation=on_device(dataset.validation, mean, device),
        test=on_device(dataset.test, mean, device) if dataset.test is not None else None,
        colour=colour,
        rank=rank,
        workers=workers,
    )


def _resume(run: _Run, path: Path) -> Position:
    position = read_position(path)
    weights, velocities = read_tensors(path)
    own = dict(run.model.named_parameters())
    if set(weights) != set(own) or any(weights[name].shape != own[name].shape for name in own):
        raise CoreError(f"checkpoint {path} is of another network than {run.config.network.name} as configured")
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(weights[name])
    if not position.complete:
        run.optimizer.load_velocities(velocities)
    return position


class _Saver:
    """Writes checkpoints and remembers when it last did."""

    def __init__(self, run: _Run, folder: Path | None, attempt: int) -> None:
        self._run, self._folder, self._attempt = run, folder, attempt
        self._last = time.monotonic()

    def seconds_since_last(self) -> float:
        return time.monotonic() - self._last

    def save(self, position: Position) -> None:
        self._last = time.monotonic()
        if self._folder is not None:
            weights = dict(self._run.model.named_parameters())
            velocities = None if position.complete else self._run.optimizer.velocities()
            write_checkpoint(self._folder, self._attempt, position, weights, velocities)


def _train_epoch(
    run: _Run,
    position: Position,
    saver: _Saver,
    should_stop: Callable[[], bool],
    batch_checkpoint_seconds: float,
) -> tuple[Position, bool]:
    """Trains the rest of an epoch; returns the position reached, and whether it was stopped there."""
    config, device = run.config, run.train.images.device
    order = torch.from_numpy(permutation(len(run.train.labels), "order", config.seed, position.epoch)).to(device)
    rate = learning_rate(config.training, [report.validation.top1_error for report in position.history])
    # 续训的部分和已是全体之和，只由 0 号带入，避免重复相加
    carried = [position.loss_sum, position.top1_errors, position.top5_errors] if run.rank == 0 else [0.0] * 3
    sums = torch.tensor(carried, dtype=torch.float64, device=run.model.devices[-1])
    count, started = position.count, time.perf_counter()

    def here(batch: int) -> Position:
        loss, top1, top5 = _reduced(run, sums).tolist()
        return position.model_copy(
            update={
                "batch": batch,
                "loss_sum": loss,
                "top1_errors": round(top1) if top1 == top1 else 0,
                "top5_errors": round(top5) if top5 == top5 else 0,
                "count": count,
                "seconds": position.seconds + time.perf_counter() - started,
            }
        )

    for batch in range(position.batch, run.batches):
        stop, save = _agreed(run, should_stop(), saver.seconds_since_last() >= batch_checkpoint_seconds)
        if stop:
            return here(batch), True
        if save:
            saver.save(here(batch))
        size, batch_loss = _train_batch(run, position.epoch, batch, order, rate, sums)
        count += size
        if device.type == "cpu" or batch % CHECK_EVERY_BATCHES_ON_GPU == 0:
            _check_finite(run, batch_loss, position.epoch, batch)
    reached = here(run.batches)
    if not math.isfinite(reached.loss_sum):
        raise Diverged(position.epoch, run.batches - 1)
    return reached, False


def _train_batch(
    run: _Run, epoch: int, batch: int, order: torch.Tensor, rate: float, sums: torch.Tensor
) -> tuple[int, torch.Tensor]:
    """One update; adds this worker's metrics to `sums`. Returns the whole batch's size and the loss."""
    start = batch * run.config.training.batch_size
    size = min(run.config.training.batch_size, len(order) - start)
    first, last = (size * run.rank) // run.workers, (size * (run.rank + 1)) // run.workers
    positions = torch.arange(start + first, start + last, device=order.device)
    indices = order[positions]
    views = training_views(run.train, run.config, epoch, indices, positions, run.colour)
    step = epoch * run.batches + batch
    logits = run.parallel(views, (run.config.seed, step, first))
    labels = run.train.labels[indices].to(logits.device)
    loss_sum = F.cross_entropy(logits, labels, reduction="sum")
    run.model.zero_grad(set_to_none=True)
    # DDP 对各 worker 的梯度取平均，乘回人数才是整批的均值
    (loss_sum * (run.workers / size)).backward()  # type: ignore[no-untyped-call]
    run.optimizer.step(rate)
    sums += batch_sums(logits.detach(), labels)
    return size, loss_sum.detach()


def _check_finite(run: _Run, loss: torch.Tensor, epoch: int, batch: int) -> None:
    if run.workers > 1:
        loss = loss.clone()
        distributed.all_reduce(loss)
    if not torch.isfinite(loss):
        raise Diverged(epoch, batch)


def _agreed(run: _Run, stop: bool, save: bool) -> tuple[bool, bool]:
    """What rank 0 says, on every rank, so that all leave an epoch at the same batch."""
    if run.workers == 1:
        return stop, save
    flags = torch.tensor([int(stop), int(save)], device=run.model.devices[0])
    distributed.broadcast(flags, src=0)
    stop, save = (bool(flag) for flag in flags.tolist())
    return stop, save


def _reduced(run: _Run, sums: torch.Tensor) -> torch.Tensor:
    """Sums over all workers."""
    if run.workers == 1:
        return sums
    total = sums.clone()
    distributed.all_reduce(total)
    return total


def _finish_epoch(run: _Run, position: Position, should_stop: Callable[[], bool]) -> Position:
    """Evaluates, and turns the sums of a whole epoch into a report."""
    started = time.perf_counter()
    last = position.epoch + 1 == run.config.training.epochs
    validation = _evaluate(run, run.validation, should_stop)
    test = _evaluate(run, run.test, should_stop) if last and run.test is not None else None
    for metrics in (validation, test):
        if metrics is not None and not math.isfinite(metrics.loss_sum):
            raise Diverged(position.epoch, run.batches - 1)
    report = EpochReport(
        epoch=position.epoch + 1,
        learning_rate=learning_rate(run.config.training, [report.validation.top1_error for report in position.history]),
        train=SplitMetrics(
            loss_sum=position.loss_sum,
            top1_errors=position.top1_errors,
            top5_errors=position.top5_errors,
            count=position.count,
        ),
        validation=validation,
        test=test,
        seconds=position.seconds + time.perf_counter() - started,
        images_per_second=position.count / max(position.seconds, 1e-9),
    )
    return Position(epoch=position.epoch + 1, complete=last, history=(*position.history, report))


def _evaluate(run: _Run, data: DeviceImages, should_stop: Callable[[], bool]) -> SplitMetrics:
    def before_batch() -> None:
        # 多个 worker 的批数可能不同，只有单个 worker 可以中途离开；但都要报告进展
        if should_stop() and run.workers == 1:
            raise _Stopped

    count = len(data.labels)
    first, last = (count * run.rank) // run.workers, (count * (run.rank + 1)) // run.workers
    share = evaluate_rows(run.model, data, first, last, before_batch=before_batch)
    if run.workers == 1:
        return share
    own = torch.tensor(
        [share.loss_sum, share.top1_errors, share.top5_errors],
        dtype=torch.float64,
        device=run.model.devices[-1],
    )
    loss, top1, top5 = _reduced(run, own).tolist()
    return SplitMetrics.model_construct(loss_sum=loss, top1_errors=round(top1), top5_errors=round(top5), count=count)
