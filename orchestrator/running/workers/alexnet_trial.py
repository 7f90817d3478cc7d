"""A trial of the built-in AlexNet in a slot: trained from its last checkpoint on, then evaluated."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.records.evaluations import leave_correct_images
from orchestrator.records.reports import objective_of
from orchestrator.running.slots.messages import End, Epoch, Evaluated, Job, Started
from orchestrator.running.workers.watchdog import Place, Watch
from search_spaces.core_config import ALEXNET

if TYPE_CHECKING:
    from alexnet_core.configuration.correct_images import CorrectImages
    from alexnet_core.configuration.metrics import EpochReport
    from alexnet_core.configuration.train_config import TrainConfig


def train_alexnet(place: Place, job: Job, watch: Watch) -> End:
    """Trains a trial of AlexNet from its last checkpoint on, and evaluates it in many views where that is asked for.

    Args:
        place: Where this worker stands.
        job: What the broker gave.
        watch: Takes the news and says when to stop.
    """
    from alexnet_core.configuration.train_config import TrainConfig
    from alexnet_core.training.checkpoint import is_final, latest_checkpoint, read_history
    from alexnet_core.training.checkpointing import Checkpointing
    from alexnet_core.training.data_parallel import Workers
    from alexnet_core.training.train import train

    config = TrainConfig.model_validate_json(job.config)
    checkpoints = Path(job.folder) / "checkpoint"
    # 从最近的完整检查点接着训练；已训练完的只补评估
    resume_from = latest_checkpoint(checkpoints)
    history = list(read_history(resume_from)) if resume_from is not None else []
    watch.post(Started(tuple(epoch_news(report) for report in history)))
    trains = resume_from is None or not is_final(resume_from)
    if trains:
        reports = train(
            config,
            place.devices,
            resume_from,
            checkpointing=Checkpointing(checkpoints, job.attempt),
            should_stop=watch.should_stop,
            workers=Workers(place.rank, place.workers),
            on_correct=partial(_leave, Path(job.folder), place.rank),
        )
        for report in reports:
            history.append(report)
            watch.post(epoch_news(report))
    if not history or history[-1].epoch < config.training.epochs:
        return End(watch.stop_state or "interrupted")
    weights = _final_weights(checkpoints, place)
    end = End("finished")
    if job.views != 1:
        evaluation = _evaluate(place, job, config, weights, watch)
        if evaluation is None:
            return End(watch.stop_state or "interrupted")
        end = replace(end, evaluation=replace(evaluation, retrained=trains))
    if place.rank != 0:
        return end
    # 记录里写下权重的摘要：导出与再次评估都要对它
    return replace(end, weights=f"checkpoint/{weights.name}", weights_sha256=sha256(weights))


def _leave(folder: Path, rank: int, sets: Sequence[CorrectImages]) -> None:
    """Leaves for the driver which images were right; one worker does, all of which know."""
    if rank == 0:
        leave_correct_images(folder, sets)


def epoch_news(report: EpochReport) -> Epoch:
    """Returns what is told of an epoch; the whole report travels as JSON."""
    return Epoch(
        epoch=report.epoch,
        objective=objective_of(report, ALEXNET),
        report=report.model_dump_json(),
        images=report.train.count,
        images_per_second=report.images_per_second,
    )


def _final_weights(checkpoints: Path, place: Place) -> Path:
    """The final checkpoint, which rank 0 has written; the others wait for it."""
    import torch.distributed

    from alexnet_core.training.checkpoint import latest_checkpoint

    if place.workers > 1:
        torch.distributed.barrier()
    path = latest_checkpoint(checkpoints)
    if path is None:
        raise RuntimeError(f"the final checkpoint is missing from {checkpoints}")
    return path


def _evaluate(place: Place, job: Job, config: TrainConfig, weights: Path, watch: Watch) -> Evaluated | None:
    """Evaluates the trained network in many views; None when it was stopped."""
    from alexnet_core.configuration.correct_images import as_text
    from alexnet_core.trained.final_network import evaluate_trained, load_trained
    from alexnet_core.training.data_parallel import Workers

    def before_batch() -> None:
        if watch.should_stop() and place.workers == 1:
            raise _Stopped

    started = time.perf_counter()
    try:
        metrics, seen = evaluate_trained(
            config,
            load_trained(config, weights, place.devices),
            job.views,
            before_batch=before_batch,
            workers=Workers(place.rank, place.workers),
        )
    except _Stopped:
        return None
    seconds = time.perf_counter() - started
    right = as_text(seen.correct)
    return Evaluated(job.views, seen.split, metrics.model_dump_json(), seconds, right, retrained=False)


class _Stopped(Exception):
    """The broker asked to stop in the middle of an evaluation."""


def sha256(path: Path) -> str:
    """Returns the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
