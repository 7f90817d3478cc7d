"""Records without a driver: made by hand, or by really training a small network on the digits."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alexnet_core.configuration.correct_images import CorrectImages
from alexnet_core.configuration.metrics import EpochReport, SplitMetrics
from alexnet_core.configuration.network_spec import Activation, FullyConnected, NetworkSpec, Pooling, ResponseNorm
from alexnet_core.configuration.network_spec import Convolution as Conv
from alexnet_core.configuration.train_config import DataSpec, TrainConfig, TrainingSpec
from alexnet_core.data.loading import summarise_data
from orchestrator.records import trial_record
from orchestrator.records.checked_record import MEASURED
from orchestrator.records.evaluations import keep_correct_images, leave_correct_images
from orchestrator.records.trial_record import TrialResult, TrialState
from search_spaces.core_config import TrialConfig
from search_spaces.trial import trial_key

LAYERS = (
    Conv(name="conv1", maps=4, kernel=3, padding=1, weight_std=0.1),
    Activation(name="relu1"),
    ResponseNorm(name="lrn1", alpha=1e-3),
    Pooling(name="pool1"),
    FullyConnected(name="fc6", units=16, weight_std=0.1),
    Activation(name="relu6"),
    FullyConnected(name="fc8", on_last_device=True, weight_std=0.1),
)


@cache
def digits_digest() -> str:
    return summarise_data("digits").digest


def make_config(
    seed: int = 0, *, without: str = "", data: dict[str, Any] | None = None, **training: Any
) -> TrainConfig:
    """A tiny network on the digits; `without` removes a layer."""
    layers = tuple(layer for layer in LAYERS if layer.name != without)
    values = {"name": "digits", "source": "digits", "image_size": 16, "digest": digits_digest(), **(data or {})}
    return TrainConfig(
        network=NetworkSpec(name="tiny", input_size=16, classes=10, layers=layers),
        training=TrainingSpec(**{"epochs": 2, "batch_size": 64, "flips": False, **training}),
        data=DataSpec(**values),
        seed=seed,
    )


def errors(wrong: int, count: int = 360) -> SplitMetrics:
    return SplitMetrics(loss_sum=wrong * 2.5, top1_errors=wrong, top5_errors=wrong // 3, count=count)


def make_report(epoch: int, wrong: int) -> EpochReport:
    return EpochReport(
        epoch=epoch,
        learning_rate=0.01,
        train=errors(2 * wrong, 1078),
        validation=errors(wrong),
        seconds=0.5,
        images_per_second=2200.0,
    )


def put(
    results: Path,
    config: TrialConfig,
    wrong: int | None = 20,
    *,
    state: TrialState = TrialState.FINISHED,
    test_wrong: int | None = 30,
    **fields: Any,
) -> str:
    """Puts a hand-made trial on record; `wrong` of 360 validation images are errors."""
    assert isinstance(config, TrainConfig)
    folder = trial_record.open_record(results, config)
    trial_record.next_attempt(folder)
    planned = config.training.epochs
    length = planned if state is TrialState.FINISHED else planned - 1
    history = [make_report(epoch, min(360, (wrong or 0) + planned - epoch)) for epoch in range(1, length + 1)]
    values: dict[str, Any] = {
        "key": trial_key(config),
        "state": state,
        "seed": config.seed,
        "epochs": len(history),
        "train": history[-1].train if history else None,
        "validation": None if wrong is None or not history else errors(wrong),
        "test": None if test_wrong is None or length < planned else errors(test_wrong, 359),
        "seconds": 1.0,
        "images_per_second": 2200.0,
        "attempts": 1,
        "started_at": "2026-01-01T00:00:00+00:00",
        "finished_at": "2026-01-01T00:00:01+00:00",
        "environment": {"device": "cpu", "torch": "2", "threads": 1},
    }
    if fields.get("weights") is not None:
        # 有权重的记录必有它们的 SHA-256
        weights = folder / fields["weights"]
        values["weights_sha256"] = hashlib.sha256(weights.read_bytes() if weights.exists() else b"").hexdigest()
    result = TrialResult(**{**values, **fields})
    # 最后一轮就是结果里的数
    last = {name: value for name in MEASURED if (value := getattr(result, name)) is not None}
    trial_record.rewrite_epochs(folder, [*history[:-1], *(one.model_copy(update=last) for one in history[-1:])])
    trial_record.write_result(folder, result)
    return trial_key(config)


def images_of(result: TrialResult) -> list[CorrectImages]:
    """Images, some of them wrong, as many as the result counts."""
    sets = []
    for split, metrics in (("validation", result.validation), ("test", result.test)):
        assert metrics is not None
        correct = np.ones(metrics.count, dtype=bool)
        correct[np.random.default_rng(3).choice(metrics.count, metrics.top1_errors, replace=False)] = False
        sets.append(CorrectImages(split, 1, correct))  # type: ignore[arg-type]
    return sets


def put_seen(results: Path, config: TrainConfig, right: np.ndarray, **fields: Any) -> str:
    """Puts a hand-made trial on record that got these test images right, bool (359,)."""
    key = put(results, config, test_wrong=int((~right).sum()), **fields)
    folder = results / "trials" / key
    result = trial_record.read_result(folder)
    assert result is not None
    leave_correct_images(folder, [images_of(result)[0], CorrectImages("test", 1, right)])
    trial_record.write_result(folder, keep_correct_images(folder, result))
    trial_record.tidy(folder)
    return key


def put_trained(results: Path, config: TrainConfig) -> str:
    """Trains, and puts the trial on record as a worker would; returns its key."""
    import torch

    from alexnet_core import train
    from alexnet_core.training.checkpoint import latest_checkpoint
    from alexnet_core.training.checkpointing import Checkpointing

    torch.set_num_threads(1)
    folder = trial_record.open_record(results, config)
    history = list(
        train(
            config,
            checkpointing=Checkpointing(folder / "checkpoint"),
            on_correct=partial(leave_correct_images, folder),
        )
    )
    weights = latest_checkpoint(folder / "checkpoint")
    assert weights is not None
    trial_record.rewrite_epochs(folder, history)
    result = TrialResult(
        key=trial_key(config),
        state=TrialState.FINISHED,
        seed=config.seed,
        epochs=len(history),
        train=history[-1].train,
        validation=history[-1].validation,
        test=history[-1].test,
        seconds=sum(report.seconds for report in history),
        attempts=trial_record.next_attempt(folder),
        started_at="2026-01-01T00:00:00+00:00",
        finished_at="2026-01-01T00:00:01+00:00",
        weights=str(weights.relative_to(folder)),
        weights_sha256=hashlib.sha256(weights.read_bytes()).hexdigest(),
        environment={"device": "cpu"},
    )
    trial_record.write_result(folder, keep_correct_images(folder, result))
    trial_record.tidy(folder)
    return result.key


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Makes a folder unwritable: by modes, or for root, whom they do not bind, by a read-only mount."""
    if os.getuid() != 0:
        subprocess.run(["chmod", "-R", "a-w", str(folder)], check=True)
        try:
            yield
        finally:
            subprocess.run(["chmod", "-R", "u+w", str(folder)], check=True)
        return
    try:
        mounted = subprocess.run(["mount", "--bind", str(folder), str(folder)], capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if mounted.returncode != 0:
        pytest.skip("root may not mount here, and modes do not bind root")
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", str(folder)], check=True)
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@contextmanager
def tiny_disk(folder: Path, size: str) -> Iterator[Path]:
    """Mounts a disk of `size` (such as 64k) that fills up at once; skips the test where that is not allowed."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)]
    try:
        made = subprocess.run(mount, capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if made.returncode != 0:
        pytest.skip("a small disk cannot be mounted here (not root)")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
