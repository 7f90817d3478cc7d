"""Training as a generator of epoch reports. Ray is a consumer of it, so is the command line, so is a test.

All draws are keyed (`draws.py`), so a checkpoint needs weights, velocities and a position, and no generator
state.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F

from alexnet_core.configuration.correct_images import CorrectImages
from alexnet_core.configuration.metrics import EpochReport, SplitMetrics
from alexnet_core.configuration.schedule import EpochRates, epoch_rates
from alexnet_core.configuration.train_config import TrainConfig
from alexnet_core.data.dataset import Dataset
from alexnet_core.data.loading import load_dataset
from alexnet_core.data.splits import evenly_spaced
from alexnet_core.model.alexnet import AlexNet
from alexnet_core.model.draws import permutation
from alexnet_core.training.augmentation import training_views
from alexnet_core.training.checkpoint import Position, run_digest
from alexnet_core.training.checkpointing import Checkpointing, CheckpointWriter
from alexnet_core.training.data_parallel import ALONE, Workers
from alexnet_core.training.evaluation import batch_sums, evaluate_rows
from alexnet_core.training.loader import Batch, ImageLoader
from alexnet_core.training.optimizer import set_rates
from alexnet_core.training.precision import autocast, set_matrix_precision
from alexnet_core.training.run import TrainingRun, check_numerics, prepare_run, resume_run, set_globals

CHECK_EVERY_BATCHES_ON_GPU = 50
FINAL_TRAINING_IMAGES = 10_000
# 一批要算这么久的（CPU 上的 224 像素），中途也问是否该停
SLOW_FORWARD_SECONDS = 1.0


class Diverged(Exception):
    """The loss became NaN or infinite.

    Attributes:
        epoch: Epochs finished before.
        batch: Batches finished before, in the epoch.
    """

    def __init__(self, epoch: int, batch: int) -> None:
        """Says where."""
        super().__init__(f"the loss became NaN or infinite in epoch {epoch + 1}, batch {batch + 1}")
        self.epoch, self.batch = epoch, batch

    def __reduce__(self) -> tuple[type[Diverged], tuple[int, int]]:
        """Lets it go from process to process."""
        return Diverged, (self.epoch, self.batch)


class _Stopped(Exception):
    """The caller asked for a stop in the middle of an evaluation or of a slow batch."""


def _never() -> bool:
    return False


def train(
    config: TrainConfig,
    devices: Sequence[str] = ("cpu", "cpu"),
    resume_from: str | Path | None = None,
    *,
    dataset: Dataset | None = None,
    checkpointing: Checkpointing | None = None,
    should_stop: Callable[[], bool] = _never,
    progress: Callable[[int, int], None] | None = None,
    workers: Workers = ALONE,
    on_correct: Callable[[Sequence[CorrectImages]], None] | None = None,
) -> Iterator[EpochReport]:
    """Trains a network and yields a report after each epoch.

    A run that is stopped or killed and resumed from any of its checkpoints ends with the same weights, bit
    for bit on the CPU. The caller sets the number of threads.

    Args:
        config: The run.
        devices: One per tower.
        resume_from: A checkpoint of the same run; epochs before it are not yielded again.
        dataset: The data, if it is loaded already.
        checkpointing: Where checkpoints go and how often; None writes none.
        should_stop: Asked before every batch, in evaluations too, and within a slow one, which is then trained anew
            after the resume; True writes a checkpoint and ends the generator. Called while a large checkpoint is
            written as well, where its answer waits.
        progress: Called after every batch with (images of the epoch trained, images of an epoch).
        workers: This process among the data-parallel ones, each of which trains its share of every batch.
        on_correct: Called once with the validation and test images that the trained network gets right, before its
            final checkpoint is written; of data-parallel workers all give one, or none does.

    Yields:
        EpochReport of each epoch finished now (on every rank the same).

    Raises:
        Diverged: The loss became NaN or infinite.
        CoreError: The configuration, the data or the checkpoint does not fit.
    """
    set_globals()
    set_matrix_precision(config.training.precision)
    check_numerics(config)
    dataset = dataset if dataset is not None else load_dataset(config.data)
    run = prepare_run(config, devices, dataset, workers)
    position = resume_run(run, Path(resume_from)) if resume_from is not None else Position(run=run_digest(config))
    writer = CheckpointWriter(run, checkpointing, heartbeat=should_stop)
    while position.epoch < config.training.epochs and not position.complete:
        position, stopped = _train_epoch(run, position, writer, should_stop, progress)
        if stopped:
            writer.save(position)
            return
        try:
            position = _finish_epoch(run, position, should_stop, on_correct)
        except _Stopped:
            # 训练部分已完成：续训时只需重新评估
            writer.save(position)
            return
        # 先存检查点再报告：记录永远不会走在检查点前面
        writer.save_after_epoch(position)
        yield position.history[-1]


def _train_epoch(
    run: TrainingRun,
    position: Position,
    writer: CheckpointWriter,
    should_stop: Callable[[], bool],
    progress: Callable[[int, int], None] | None,
) -> tuple[Position, bool]:
    """Trains the rest of an epoch; returns the position reached, and whether it was stopped there."""
    # 次序只由（种子，轮）决定：续训时从中间接着走，不必重放
    order = permutation(len(run.train), "order", run.config.seed_of("order"), position.epoch)
    rates = _rates(run, position)
    set_rates(run.optimizer, rates)
    sums = _EpochSums(run, position)
    steps = [_step(run, position.epoch, batch) for batch in range(position.batch, run.batches)]
    bounds = [(step.start + step.first, step.start + step.last) for step in steps]
    with closing(run.train.batches(order, bounds)) as batches:
        for step in steps:
            stop, save = run.workers.agree(should_stop(), writer.is_due_in_epoch(), device=run.model.devices[0])
            if stop:
                return sums.position_before(step.batch), True
            if save:
                writer.save(sums.position_before(step.batch))
            try:
                batch_loss = _train_batch(run, next(batches), step, rates, sums, should_stop)
            except _Stopped:
                # 权重还没有动：这一批续训时重来
                return sums.position_before(step.batch), True
            if progress is not None:
                progress(sums.count, len(run.train))
            # GPU 上读一个数要等所有排队的运算，所以隔一段才看
            if run.train.device.type == "cpu" or step.batch % CHECK_EVERY_BATCHES_ON_GPU == 0:
                _check_finite(run, batch_loss, position.epoch, step.batch)
    reached = sums.position_before(run.batches)
    if not math.isfinite(reached.loss_sum):
        raise Diverged(position.epoch, run.batches - 1)
    return reached, False


class _EpochSums:
    """The sums of an epoch so far: this worker's, on the last device, so that no batch waits for them.

    Attributes:
        count: Images trained in the epoch, by all workers.
    """

    def __init__(self, run: TrainingRun, position: Position) -> None:
        # 续训的部分和已是全体之和，只由 0 号带入，避免重复相加
        carried = [position.loss_sum, position.top1_errors, position.top5_errors]
        self._sums = torch.tensor(
            carried if run.workers.rank == 0 else [0.0] * 3, dtype=torch.float64, device=run.model.devices[-1]
        )
        self._run, self._begun_at, self._started = run, position, time.perf_counter()
        self.count = position.count

    def add(self, logits: torch.Tensor, labels: torch.Tensor, batch_size: int) -> None:
        """Adds this worker's share of a batch: logits (B, classes), labels int64 (B,), images of the whole batch."""
        self._sums += batch_sums(logits, labels)
        self.count += batch_size

    def position_before(self, batch: int) -> Position:
        """The position where this batch would be next; every worker must ask for it, since they add up."""
        loss, top1, top5 = self._run.workers.sum(self._sums).tolist()
        return self._begun_at.model_copy(
            update={
                "batch": batch,
                "loss_sum": loss,
                "top1_errors": round(top1),
                "top5_errors": round(top5),
                "count": self.count,
                "seconds": self._begun_at.seconds + time.perf_counter() - self._started,
            }
        )


def _rates(run: TrainingRun, position: Position) -> EpochRates:
    return epoch_rates(run.config.training, [report.validation_error for report in position.history])


@dataclass(frozen=True)
class _Step:
    """One update.

    Attributes:
        epoch: From 0.
        batch: From 0, in the epoch.
        start: Where its batch begins in the epoch's order.
        size: Images of the whole batch.
        first: First image of the batch that this worker trains.
        last: One past the last.
    """

    epoch: int
    batch: int
    start: int
    size: int
    first: int
    last: int


def _step(run: TrainingRun, epoch: int, batch: int) -> _Step:
    start = batch * run.config.training.batch_size
    size = min(run.config.training.batch_size, len(run.train) - start)
    return _Step(epoch, batch, start, size, *run.workers.share(size))


def _train_batch(
    run: TrainingRun,
    images: Batch,
    step: _Step,
    rates: EpochRates,
    sums: _EpochSums,
    should_stop: Callable[[], bool],
) -> torch.Tensor:
    """One update; adds this worker's metrics to `sums` and returns its summed loss, a tensor of shape ()."""
    begun = time.perf_counter()
    precision, device = run.config.training.precision, run.train.device
    positions = torch.arange(step.start + step.first, step.start + step.last, device=device)
    views = training_views(images, run.config, step.epoch, positions, run.colour_axes, rates.colour_noise)
    with autocast(precision, device):
        draws = run.config.seed_of("dropout"), step.epoch * run.batches + step.batch, step.first
        logits = run.parallel(views, draws)
    labels = images.labels.to(logits.device)
    loss_sum = F.cross_entropy(logits, labels, reduction="sum")
    run.model.zero_grad(set_to_none=True)
    # 多个 worker 须一起停，所以只有单个 worker 可以在一批中途离开
    alone = run.workers.count == 1 and device.type == "cpu"
    is_slow = alone and time.perf_counter() - begun > SLOW_FORWARD_SECONDS
    with _asking(run.model, should_stop) if is_slow else nullcontext():
        # DDP 对各 worker 的梯度取平均，乘回人数才是整批的均值
        (loss_sum * (run.workers.count / step.size)).backward()  # type: ignore[no-untyped-call]
    run.optimizer.step()
    sums.add(logits.detach(), labels, step.size)
    return loss_sum.detach()


@contextmanager
def _asking(model: AlexNet, should_stop: Callable[[], bool]) -> Iterator[None]:
    """Asks now, and after each parameter's gradient in the backward pass; where told to stop, raises _Stopped."""

    def ask(_: torch.Tensor | None = None) -> None:
        if should_stop():
            raise _Stopped

    ask()
    hooks = [
        parameter.register_post_accumulate_grad_hook(ask)  # type: ignore[no-untyped-call]
        for parameter in model.parameters()
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _check_finite(run: TrainingRun, loss: torch.Tensor, epoch: int, batch: int) -> None:
    """Raises Diverged where the sum over workers of a batch's losses, each of shape (), is no number."""
    if not torch.isfinite(run.workers.sum(loss)):
        raise Diverged(epoch, batch)


def _finish_epoch(
    run: TrainingRun,
    position: Position,
    should_stop: Callable[[], bool],
    on_correct: Callable[[Sequence[CorrectImages]], None] | None,
) -> Position:
    """Evaluates, and turns the sums of a whole epoch into a report."""
    started = time.perf_counter()
    last = position.epoch + 1 == run.config.training.epochs
    seen = _unseen(run) if last and on_correct is not None else {}
    validation = _evaluate(run, run.validation, should_stop, correct=seen.get("validation"))
    # 测试集只在最后看一次：训练途中的选择用不到它
    test = _evaluate(run, run.test if last else None, should_stop, correct=seen.get("test"))
    train_final = _evaluate(run, run.train if last else None, should_stop, FINAL_TRAINING_IMAGES)
    for metrics in (validation, test, train_final):
        if metrics is not None and not math.isfinite(metrics.loss_sum):
            raise Diverged(position.epoch, run.batches - 1)
    if seen and on_correct is not None:
        on_correct([CorrectImages(split, 1, correct) for split, correct in seen.items()])
    report = EpochReport(
        epoch=position.epoch + 1,
        learning_rate=_rates(run, position).weights,
        train=SplitMetrics(
            loss_sum=position.loss_sum,
            top1_errors=position.top1_errors,
            top5_errors=position.top5_errors,
            count=position.count,
        ),
        validation=validation,
        test=test,
        train_final=train_final,
        seconds=position.seconds + time.perf_counter() - started,
        images_per_second=position.count / max(position.seconds, 1e-9),
    )
    return Position(
        epoch=position.epoch + 1, complete=last, history=(*position.history, report), run=run_digest(run.config)
    )


def _unseen(run: TrainingRun) -> dict[Literal["validation", "test"], np.ndarray]:
    """By split, what is to be filled with the images that the network gets right: bool (N,)."""
    empty: dict[Literal["validation", "test"], np.ndarray] = {}
    if run.validation is not None:
        empty["validation"] = np.zeros(len(run.validation), dtype=bool)
    if run.test is not None:
        empty["test"] = np.zeros(len(run.test), dtype=bool)
    return empty


def _evaluate(
    run: TrainingRun,
    loader: ImageLoader | None,
    should_stop: Callable[[], bool],
    most: int | None = None,
    correct: np.ndarray | None = None,
) -> SplitMetrics | None:
    """Evaluates a split, or at most so many of its images, spread evenly over it; None where there is no split."""
    if loader is None:
        return None

    def before_batch() -> None:
        # 多个 worker 的批数可能不同，只有单个 worker 可以中途离开；但都要报告进展
        if should_stop() and run.workers.count == 1:
            raise _Stopped

    rows = evenly_spaced(len(loader), len(loader) if most is None else most)
    precision = run.config.training.precision
    return evaluate_rows(
        run.model, loader, rows, before_batch=before_batch, precision=precision, workers=run.workers, correct=correct
    )
