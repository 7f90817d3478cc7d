"""Two real processes with gloo, in double precision, against one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as distributed
import torch.multiprocessing as multiprocessing

from alexnet_core.checkpoint import checkpoints, latest_checkpoint, read_position, read_tensors
from alexnet_core.configuration import TrainConfig
from alexnet_core.datasets import Dataset, Split
from alexnet_core.metrics import EpochReport
from alexnet_core.training import train


def worker(
    rank: int,
    workers: int,
    folder: Path,
    config: TrainConfig,
    dataset: Dataset,
    stop_at: int | None,
    attempt: int,
) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous-{attempt}", rank=rank, world_size=workers
    )
    asked = 0

    def should_stop() -> bool:
        nonlocal asked
        asked += 1
        # only rank 0 knows that it is time
        return rank == 0 and stop_at is not None and asked > stop_at

    place = folder / "checkpoint"
    reports = train(
        config,
        ("cpu", "cpu"),
        latest_checkpoint(place),
        dataset=dataset,
        checkpoint_folder=place,
        should_stop=should_stop,
        attempt=attempt,
        rank=rank,
        workers=workers,
    )
    lines = "".join(report.model_dump_json() + "\n" for report in reports)
    (folder / f"reports-{attempt}-{rank}.jsonl").write_text(lines)
    distributed.barrier()
    distributed.destroy_process_group()


def run_two(
    folder: Path, config: TrainConfig, dataset: Dataset, stop_at: int | None = None, attempt: int = 1
) -> list[EpochReport]:
    folder.mkdir(exist_ok=True)
    multiprocessing.spawn(worker, (2, folder, config, dataset, stop_at, attempt), nprocs=2)
    texts = [(folder / f"reports-{attempt}-{rank}.jsonl").read_text() for rank in (0, 1)]
    reports = [[EpochReport.model_validate_json(line) for line in text.splitlines()] for text in texts]
    assert [r.validation for r in reports[0]] == [r.validation for r in reports[1]]
    return reports[0]


def final_weights(folder: Path) -> dict[str, np.ndarray]:
    path = latest_checkpoint(folder / "checkpoint")
    assert path is not None
    return {name: weight.numpy() for name, weight in read_tensors(path)[0].items()}


@pytest.fixture
def uneven(dataset: Dataset) -> Dataset:
    """65 images in batches of 16: the last batch holds one image, so that one worker has none."""
    return Dataset(
        Split(dataset.train.images[:65], dataset.train.labels[:65]),
        Split(dataset.validation.images[:29], dataset.validation.labels[:29]),
        dataset.test,
        dataset.class_names,
    )


@pytest.mark.slow
def test_two_workers_equal_one_and_stop_together(
    config_of: Callable[..., TrainConfig], uneven: Dataset, tmp_path: Path
) -> None:
    config = config_of(epochs=2)
    alone = list(train(config, ("cpu", "cpu"), dataset=uneven, checkpoint_folder=tmp_path / "one" / "checkpoint"))
    together = run_two(tmp_path / "two", config, uneven)
    one, two = final_weights(tmp_path / "one"), final_weights(tmp_path / "two")
    for name, weight in one.items():
        np.testing.assert_allclose(two[name], weight, rtol=1e-3, atol=2e-6, err_msg=name)
    for ours, theirs in zip(together, alone, strict=True):
        assert ours.train.count == theirs.train.count == 65
        assert ours.validation.count == theirs.validation.count == 29
        assert ours.train.loss_sum == pytest.approx(theirs.train.loss_sum, rel=1e-5)
        assert ours.validation.loss_sum == pytest.approx(theirs.validation.loss_sum, rel=1e-5)

    stopped = run_two(tmp_path / "stopped", config, uneven, stop_at=7)
    path = checkpoints(tmp_path / "stopped" / "checkpoint")[0]
    position = read_position(path)
    assert (len(stopped), position.epoch, position.complete) == (1, 1, False)
    resumed = run_two(tmp_path / "stopped", config, uneven, attempt=2)
    assert resumed[0].train.top1_errors == together[1].train.top1_errors
    assert resumed[0].train.loss_sum == pytest.approx(together[1].train.loss_sum, rel=1e-12)
    assert resumed[0].validation == together[1].validation
    after = final_weights(tmp_path / "stopped")
    assert all(np.array_equal(after[name], two[name]) for name in two)
