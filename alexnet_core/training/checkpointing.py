"""When a training writes checkpoints, and which of them it keeps."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from alexnet_core.configuration.schedule import can_be_extended
from alexnet_core.training.checkpoint import Position, mark_best, prune_checkpoints, write_checkpoint
from alexnet_core.training.run import TrainingRun


@dataclass(frozen=True)
class Checkpointing:
    """Where checkpoints go, how often they are written, and which stay.

    Attributes:
        folder: The trial's `checkpoint/` folder; data-parallel workers share it, and rank 0 alone writes there.
        attempt: Number of the attempt, part of the checkpoints' names.
        seconds: A checkpoint follows an epoch when so many seconds have passed since the last.
        batch_seconds: The same within an epoch.
        keep_last: How many checkpoints are kept, the newest.
        keep_best: Whether the epoch of least validation error is kept too, as `best.safetensors`, where there is such
            an error.
    """

    folder: Path
    attempt: int = 1
    seconds: float = 1.0
    batch_seconds: float = 600.0
    keep_last: int = 2
    keep_best: bool = False


class CheckpointWriter:
    """Writes the checkpoints of one training and remembers when it last did."""

    def __init__(self, run: TrainingRun, checkpointing: Checkpointing | None, heartbeat: Callable[[], object]) -> None:
        """Counts from now.

        Args:
            run: What is trained.
            checkpointing: Where, how often, which; None writes nothing.
            heartbeat: Called while a large checkpoint is written.
        """
        self._run, self._checkpointing, self._heartbeat = run, checkpointing, heartbeat
        self._last = time.monotonic()

    def is_due_in_epoch(self) -> bool:
        """Says whether a long epoch has come to a checkpoint between two batches."""
        return self._checkpointing is not None and self._seconds_since_last() >= self._checkpointing.batch_seconds

    def save(self, position: Position, *, is_best: bool = False) -> None:
        """Writes a checkpoint of this position and deletes those it replaces."""
        self._last = time.monotonic()
        how = self._checkpointing
        if how is None or self._run.workers.rank != 0:
            return
        weights = dict(self._run.model.named_parameters())
        # 更长的训练若会这样开头，就把速度也留下，以后可以接着训练
        needs_velocities = not position.complete or can_be_extended(self._run.config.training)
        velocities = self._run.optimizer.velocities() if needs_velocities else None
        path = write_checkpoint(how.folder, how.attempt, position, weights, velocities, self._heartbeat)
        if is_best:
            mark_best(path)
        prune_checkpoints(how.folder, how.attempt, how.keep_last)

    def save_after_epoch(self, position: Position) -> None:
        """Writes a checkpoint if one is due, if the training has ended, or if this epoch is the best to be kept."""
        how = self._checkpointing
        if how is None:
            return
        is_best = how.keep_best and _is_best_so_far(position)
        if position.complete or is_best or self._seconds_since_last() >= how.seconds:
            self.save(position, is_best=is_best)

    def _seconds_since_last(self) -> float:
        return time.monotonic() - self._last


def _is_best_so_far(position: Position) -> bool:
    """Whether the last epoch has the lowest top-1 validation error yet."""
    *before, last = [report.validation_error for report in position.history]
    return last is not None and all(error is None or last < error for error in before)
