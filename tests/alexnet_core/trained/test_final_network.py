"""A finished network read from its checkpoint, and evaluated again."""

from __future__ import annotations

from pathlib import Path

import pytest

from alexnet_core.errors import CoreError
from alexnet_core.trained.final_network import evaluate_trained, load_trained
from alexnet_core.training.checkpoint import latest_checkpoint
from alexnet_core.training.checkpointing import Checkpointing
from alexnet_core.training.evaluation import evaluate
from alexnet_core.training.train import train
from tests.made_records import make_config


def test_the_checkpoint_of_a_finished_training_gives_the_errors_that_training_reported(tmp_path: Path) -> None:
    config = make_config(epochs=1)
    config = config.model_copy(update={"network": config.network.model_copy(update={"input_size": 14})})
    (report,) = train(config, checkpointing=Checkpointing(tmp_path))
    path = latest_checkpoint(tmp_path)
    assert path is not None
    model = load_trained(config, path)
    once, seen = evaluate_trained(config, model, 1)
    assert (seen.split, seen.views, once) == ("test", 1, report.test)
    assert int((~seen.correct).sum()) == once.top1_errors
    batches = []
    ten, seen = evaluate_trained(config, model, 10, before_batch=lambda: batches.append(1))
    assert (seen.views, len(seen.correct), int((~seen.correct).sum())) == (10, ten.count, ten.top1_errors)
    from alexnet_core.data.loading import load_dataset

    assert ten == evaluate(model, load_dataset(config.data), views=10)
    assert ten != once
    assert len(batches) == -(-ten.count // 256)


def test_a_checkpoint_in_the_middle_is_refused(tmp_path: Path) -> None:
    config = make_config(epochs=2)
    next(train(config, checkpointing=Checkpointing(tmp_path, seconds=0.0)))
    path = latest_checkpoint(tmp_path)
    assert path is not None
    with pytest.raises(CoreError, match="not the end of a training"):
        load_trained(config, path)
