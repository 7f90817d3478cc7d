"""A split gathered from its memory map ahead of training gives what a split on the device gives, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from alexnet_core.configuration.train_config import TrainConfig
from alexnet_core.data.dataset import Dataset, Split
from alexnet_core.training import loader as loader_module
from alexnet_core.training.checkpoint import latest_checkpoint, read_tensors
from alexnet_core.training.checkpointing import Checkpointing
from alexnet_core.training.loader import ImageLoader
from alexnet_core.training.train import train


def mapped(split: Split, path: Path) -> Split:
    np.save(path, split.images)
    return Split(np.load(path, mmap_mode="c"), split.labels)


def pixels(batch: loader_module.Batch) -> torch.Tensor:
    return batch.images[batch.rows]


def test_batches_are_the_same_from_the_map_and_from_the_device(dataset: Dataset, tmp_path: Path) -> None:
    split = dataset.train
    resident = ImageLoader(split, dataset.mean_image, "cpu")
    gathered = ImageLoader(mapped(split, tmp_path / "a.npy"), dataset.mean_image, "cpu", resident_bytes=0)
    order = np.random.default_rng(0).permutation(len(split))
    bounds = [(0, 7), (7, 30), (30, 31), (31, 70)]
    for ours, theirs in zip(gathered.batches(order, bounds), resident.batches(order, bounds), strict=True):
        assert torch.equal(pixels(ours), pixels(theirs))
        assert torch.equal(ours.labels, theirs.labels)
        assert torch.equal(ours.indices, theirs.indices)
        assert np.array_equal(pixels(ours).numpy(), split.images[ours.indices.numpy()])


def test_a_split_of_chosen_rows_is_gathered_by_its_own_numbers(dataset: Dataset) -> None:
    rows = np.arange(3, 60, 4)
    split = Split(dataset.train.images, dataset.train.labels[rows], rows)
    batch = ImageLoader(split, dataset.mean_image, "cpu").take([2, 0, 9])
    assert np.array_equal(pixels(batch).numpy(), dataset.train.images[rows[[2, 0, 9]]])
    assert np.array_equal(batch.labels.numpy(), dataset.train.labels[rows[[2, 0, 9]]])
    chosen = Dataset(split, dataset.validation, None, dataset.class_names)
    copied = Split(dataset.train.images[rows], split.labels)
    np.testing.assert_array_equal(
        chosen.mean_image, Dataset(copied, dataset.validation, None, dataset.class_names).mean_image
    )


def test_training_from_the_map_ends_with_the_same_weights(
    dataset: Dataset, config_of: Callable[..., TrainConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of()
    reports = list(train(config, dataset=dataset, checkpointing=Checkpointing(tmp_path / "device")))
    monkeypatch.setattr(loader_module, "RESIDENT_BYTES", 0)
    again = list(train(config, dataset=dataset, checkpointing=Checkpointing(tmp_path / "map")))
    assert [report.validation for report in again] == [report.validation for report in reports]
    first, second = (
        read_tensors(path)[0] for path in map(latest_checkpoint, (tmp_path / "device", tmp_path / "map")) if path
    )
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_reader_left_early_ends_its_thread(dataset: Dataset) -> None:
    import threading

    gathered = ImageLoader(dataset.train, dataset.mean_image, "cpu", resident_bytes=0)
    batches = gathered.batches(np.arange(70), [(start, start + 10) for start in range(0, 70, 10)])
    next(batches)
    batches.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("gather")]
