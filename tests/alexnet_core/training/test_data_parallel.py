"""Two real processes with gloo, in double precision, against one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as distributed
import torch.multiprocessing as multiprocessing
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from alexnet_core.configuration.correct_images import packed, unpacked
from alexnet_core.configuration.metrics import EpochReport
from alexnet_core.configuration.network_spec import NetworkSpec
from alexnet_core.configuration.train_config import TrainConfig, TrainingSpec
from alexnet_core.data.dataset import Dataset, Split
from alexnet_core.model.alexnet import AlexNet, initialise
from alexnet_core.training.checkpoint import checkpoints, latest_checkpoint, read_position, read_tensors
from alexnet_core.training.checkpointing import Checkpointing
from alexnet_core.training.data_parallel import Workers
from alexnet_core.training.optimizer import MomentumSGD, parameter_groups
from alexnet_core.training.train import train


@given(rows=st.integers(0, 10_000), count=st.integers(1, 64))
def test_the_shares_of_all_workers_are_the_whole_and_differ_by_at_most_one_row(rows: int, count: int) -> None:
    shares = [Workers(rank, count).share(rows) for rank in range(count)]
    assert [number for first, last in shares for number in range(first, last)] == list(range(rows))
    sizes = [last - first for first, last in shares]
    assert max(sizes) - min(sizes) <= 1


def test_one_worker_alone_sends_nothing() -> None:
    alone = Workers()
    tensor = torch.tensor([1.0, 2.0])
    assert alone.share(7) == (0, 7)
    assert alone.sum(tensor) is tensor
    assert alone.agree(True, False, device=torch.device("cpu")) == (True, False)


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
    questions = 0

    def should_stop() -> bool:
        nonlocal questions
        questions += 1
        # only rank 0 knows that it is time
        return rank == 0 and stop_at is not None and questions > stop_at

    place = folder / "checkpoint"
    reports = train(
        config,
        ("cpu", "cpu"),
        latest_checkpoint(place),
        dataset=dataset,
        checkpointing=Checkpointing(place, attempt),
        should_stop=should_stop,
        workers=Workers(rank, workers),
        on_correct=lambda sets: (folder / f"correct-{rank}").write_bytes(packed(sets)) and None,
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
    if len(reports[0]) and stop_at is None:
        # 每个 worker 只看了一半，两个都知道全部
        known = [(folder / f"correct-{rank}").read_bytes() for rank in (0, 1)]
        assert known[0] == known[1]
        wrong = [int((~one.correct).sum()) for one in unpacked(known[0])]
        assert dataset.test is not None
        assert [len(one.correct) for one in unpacked(known[0])] == [len(dataset.validation), len(dataset.test)]
        last = reports[0][-1]
        assert last.test is not None
        assert wrong == [last.validation.top1_errors, last.test.top1_errors]
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
    checkpointing = Checkpointing(tmp_path / "one" / "checkpoint")
    alone = list(train(config, ("cpu", "cpu"), dataset=uneven, checkpointing=checkpointing))
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


def double_worker(rank: int, folder: Path, spec: NetworkSpec, images: torch.Tensor, labels: torch.Tensor) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    model = double_model(spec)
    parallel = torch.nn.parallel.DistributedDataParallel(model)
    rows = slice(64 * rank, 64 * (rank + 1))
    update(model, parallel, images[rows], labels[rows], workers=2)
    torch.save({name: p.detach() for name, p in model.named_parameters()}, folder / f"weights-{rank}.pt")
    distributed.barrier()
    distributed.destroy_process_group()


def double_model(spec: NetworkSpec) -> AlexNet:
    # 每个 worker 的两座塔在两个（逻辑）设备上
    model = AlexNet(spec, ("cpu:0", "cpu"))
    initialise(model, 0)
    return model.double().train()


def update(model: AlexNet, parallel: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor, workers: int) -> None:
    """One update as `training` makes it: the summed loss over the whole batch's size, times the workers."""
    optimizer = MomentumSGD(parameter_groups(model, TrainingSpec(epochs=1)))
    loss = F.cross_entropy(parallel(images, (0, 0, 0)), labels, reduction="sum")
    (loss * (workers / 128)).backward()
    optimizer.step()


@pytest.mark.slow
def test_one_update_of_two_workers_times_64_is_one_of_128_in_double_precision(
    small_spec: NetworkSpec, tmp_path: Path
) -> None:
    layers = tuple(layer for layer in small_spec.layers if not layer.name.startswith("dropout"))
    spec = small_spec.model_copy(update={"layers": layers})
    random = torch.Generator().manual_seed(0)
    images = 50 * torch.randn(128, 3, 10, 10, generator=random, dtype=torch.float64)
    labels = torch.arange(128) % 6
    multiprocessing.spawn(double_worker, (tmp_path, spec, images, labels), nprocs=2)
    alone = double_model(spec)
    update(alone, alone, images, labels, workers=1)
    for rank in (0, 1):
        weights = torch.load(tmp_path / f"weights-{rank}.pt")
        for name, parameter in alone.named_parameters():
            expected = parameter.detach()
            assert float((weights[name] - expected).abs().max()) <= 1e-9 * float(expected.abs().max()), name
