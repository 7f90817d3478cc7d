from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from alexnet_core.configuration.correct_images import CorrectImages
from alexnet_core.configuration.metrics import EpochReport
from alexnet_core.configuration.named_networks import network
from alexnet_core.configuration.train_config import (
    DataSpec,
    PlateauSchedule,
    RateChange,
    ReplaySchedule,
    StepSchedule,
    TrainConfig,
    TrainingSpec,
)
from alexnet_core.data.dataset import Dataset, Split
from alexnet_core.data.loading import summarise_data
from alexnet_core.errors import CoreError
from alexnet_core.model.alexnet import AlexNet, initialise
from alexnet_core.model.draws import draw_key
from alexnet_core.training import train as train_module
from alexnet_core.training.checkpoint import (
    checkpoints,
    is_final,
    latest_checkpoint,
    read_history,
    read_position,
    read_tensors,
)
from alexnet_core.training.checkpointing import Checkpointing
from alexnet_core.training.evaluation import evaluate
from alexnet_core.training.train import Diverged, train

ConfigOf = Callable[..., TrainConfig]
CPU = ("cpu", "cpu")


def numbers(reports: list[EpochReport]) -> list[dict[str, Any]]:
    """All but the times."""
    return [report.model_dump(exclude={"seconds", "images_per_second"}) for report in reports]


def run(config: TrainConfig, dataset: Dataset, folder: Path | None = None, **how: Any) -> list[EpochReport]:
    """Trains with a checkpoint after every epoch; `how` are fields of `Checkpointing`, or arguments of `train`."""
    fields = {name: how.pop(name) for name in [*how] if name in Checkpointing.__dataclass_fields__}
    checkpointing = Checkpointing(folder, **{"seconds": 0.0, "keep_last": 1000, **fields}) if folder else None
    return list(train(config, CPU, dataset=dataset, checkpointing=checkpointing, **how))


def final_weights(folder: Path) -> dict[str, np.ndarray]:
    path = latest_checkpoint(folder)
    assert path is not None
    assert is_final(path)
    weights, _ = read_tensors(path)
    return {name: weight.numpy() for name, weight in weights.items()}


def assert_same_weights(first: Path, second: Path) -> None:
    ours, theirs = final_weights(first), final_weights(second)
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)


class StopBefore:
    """Asks to stop before the n-th question, counted from 0."""

    def __init__(self, question: int) -> None:
        self.question, self.asked = question, 0

    def __call__(self) -> bool:
        self.asked += 1
        return self.asked > self.question


REPLAY = ReplaySchedule(
    changes=(
        RateChange(epoch=2, learning_rate=0.001, colour_noise=0.0),
        RateChange(epoch=2, layers=("conv1",), learning_rate=0.0),
    )
)
AS_RUN = {"images_per_crop": 4, "divides_by_colour_noise": True, "mean_follows_crop": False, "schedule": REPLAY}


@pytest.fixture(params=["plateau", "replay"])
def config(config_of: ConfigOf, request: pytest.FixtureRequest) -> TrainConfig:
    # 验证误差的历史也要随检查点续上，所以用 plateau；replay 则在第二轮冻结 conv1、关掉颜色噪声
    if request.param == "plateau":
        return config_of(schedule=PlateauSchedule(patience=1))
    return config_of(**AS_RUN)


@pytest.fixture(scope="module")
def undisturbed_runs() -> dict[str, tuple[list[EpochReport], Path]]:
    """Undisturbed runs by their configuration, which the tests only read."""
    return {}


@pytest.fixture
def undisturbed(
    config: TrainConfig,
    dataset: Dataset,
    undisturbed_runs: dict[str, tuple[list[EpochReport], Path]],
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[list[EpochReport], Path]:
    name = config.model_dump_json()
    if name not in undisturbed_runs:
        folder = tmp_path_factory.mktemp("undisturbed")
        undisturbed_runs[name] = (run(config, dataset, folder), folder)
    return undisturbed_runs[name]


@pytest.mark.slow
def test_the_mini_network_reads_digits_within_five_percent() -> None:
    config = TrainConfig(
        network=network("alexnet-mini").model_copy(update={"input_size": 16}),
        training=TrainingSpec(
            epochs=11, batch_size=48, learning_rate=0.008, flips=False, schedule=StepSchedule(at=(0.75,))
        ),
        data=DataSpec(name="digits", source="digits", image_size=16, digest=summarise_data("digits").digest),
        seed=0,
    )
    reports = list(train(config, CPU))
    assert reports[0].validation.top1_error > 0.5
    assert reports[-1].validation.top1_error <= 0.05
    assert reports[-1].test is not None
    assert reports[-1].test.top1_error <= 0.05


def test_only_the_last_epoch_is_tested(undisturbed: tuple[list[EpochReport], Path]) -> None:
    reports, _ = undisturbed
    assert [report.epoch for report in reports] == [1, 2, 3]
    assert [report.test is not None for report in reports] == [False, False, True]
    assert reports[-1].test is not None
    assert (reports[-1].train.count, reports[-1].validation.count, reports[-1].test.count) == (70, 30, 20)


def test_the_reported_error_is_that_of_the_final_weights(
    config: TrainConfig, dataset: Dataset, undisturbed: tuple[list[EpochReport], Path]
) -> None:
    reports, folder = undisturbed
    model = AlexNet(config.network)
    model.load_state_dict({name: torch.from_numpy(w) for name, w in final_weights(folder).items()})
    assert evaluate(model, dataset.validation, mean_image=dataset.mean_image) == reports[-1].validation
    assert dataset.test is not None
    assert evaluate(model, dataset.test, mean_image=dataset.mean_image) == reports[-1].test


@pytest.mark.parametrize("finished", [1, 2])
def test_a_run_resumed_after_any_epoch_is_bit_identical(
    config: TrainConfig,
    dataset: Dataset,
    tmp_path: Path,
    undisturbed: tuple[list[EpochReport], Path],
    finished: int,
) -> None:
    reports, folder = undisturbed
    paths = {(read_position(path).epoch, read_position(path).batch): path for path in checkpoints(folder)}
    path = paths[finished, 0]
    assert numbers(list(read_history(path))) == numbers(reports[:finished])
    resumed = run(config, dataset, tmp_path / "resumed", resume_from=path, attempt=2)
    assert numbers(resumed) == numbers(reports[finished:])
    assert_same_weights(folder, tmp_path / "resumed")


# 每轮 5 个批次加 1 次（末轮 2 次）评估：遍历所有停止位置
@pytest.mark.parametrize("question", range(19))
def test_a_run_stopped_before_any_batch_goes_on_bit_identically(
    config: TrainConfig,
    dataset: Dataset,
    tmp_path: Path,
    undisturbed: tuple[list[EpochReport], Path],
    question: int,
) -> None:
    reports, folder = undisturbed
    stopped = tmp_path / "stopped"
    before = run(config, dataset, stopped, should_stop=StopBefore(question))
    path = latest_checkpoint(stopped)
    assert path is not None
    assert not is_final(path)
    assert len(before) < 3
    after = run(config, dataset, stopped, resume_from=path, attempt=2)
    assert numbers(before + after) == numbers(reports)
    assert_same_weights(folder, stopped)


# 每批问 1 次，前向之后 1 次，每个参数的梯度之后各 1 次
@pytest.mark.parametrize("question", [1, 2, 5, 18, 19, 20, 60, 101])
def test_a_run_stopped_within_a_slow_batch_trains_it_anew_and_goes_on_bit_identically(
    config: TrainConfig,
    dataset: Dataset,
    tmp_path: Path,
    undisturbed: tuple[list[EpochReport], Path],
    monkeypatch: pytest.MonkeyPatch,
    question: int,
) -> None:
    reports, folder = undisturbed
    stopped = tmp_path / "stopped"
    with monkeypatch.context() as patch:
        patch.setattr(train_module, "SLOW_FORWARD_SECONDS", 0.0)
        stop = StopBefore(question)
        before = run(config, dataset, stopped, should_stop=stop)
    assert stop.asked in (question + 1, question + 2), "it left at once, and asked once more for its checkpoint"
    path = latest_checkpoint(stopped)
    assert path is not None
    after = run(config, dataset, stopped, resume_from=path, attempt=2)
    assert numbers(before + after) == numbers(reports)
    assert_same_weights(folder, stopped)


def test_checkpoints_within_an_epoch_change_nothing(
    config: TrainConfig, dataset: Dataset, tmp_path: Path, undisturbed: tuple[list[EpochReport], Path]
) -> None:
    reports, folder = undisturbed
    often = tmp_path / "often"
    assert numbers(run(config, dataset, often, batch_seconds=0)) == numbers(reports)
    assert len(checkpoints(often)) > 10
    assert_same_weights(folder, often)


def test_the_newest_checkpoint_is_that_of_the_newest_attempt(
    config: TrainConfig, dataset: Dataset, tmp_path: Path
) -> None:
    folder = tmp_path / "checkpoint"
    run(config, dataset, folder, should_stop=StopBefore(14))
    first = latest_checkpoint(folder)
    run(config, dataset, folder, should_stop=StopBefore(2), attempt=2)
    second = latest_checkpoint(folder)
    assert first is not None
    assert second is not None
    assert first.name.startswith("0001-000002-")
    assert second.name == "0002-000000-00000002.safetensors"


def test_resuming_a_finished_run_trains_nothing(
    config: TrainConfig, dataset: Dataset, undisturbed: tuple[list[EpochReport], Path]
) -> None:
    _, folder = undisturbed
    assert run(config, dataset, resume_from=latest_checkpoint(folder)) == []


def test_a_second_run_in_a_process_equals_a_first(
    config: TrainConfig,
    config_of: ConfigOf,
    dataset: Dataset,
    tmp_path: Path,
    undisturbed: tuple[list[EpochReport], Path],
) -> None:
    reports, folder = undisturbed
    run(config_of(seed=9, batch_size=7, learning_rate=0.01), dataset)
    torch.rand(5)
    torch.manual_seed(99)
    torch.set_grad_enabled(False)
    try:
        again = tmp_path / "again"
        assert numbers(run(config, dataset, again)) == numbers(reports)
    finally:
        torch.set_grad_enabled(True)
    assert_same_weights(folder, again)


def test_training_uses_no_random_numbers_of_torch(config_of: ConfigOf, dataset: Dataset) -> None:
    before = torch.get_rng_state()
    run(config_of(epochs=1), dataset)
    assert torch.equal(before, torch.get_rng_state())


def test_a_loss_that_is_not_finite_is_divergence(config_of: ConfigOf, dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(Diverged, match="NaN or infinite in epoch 1") as error:
        run(config_of(learning_rate=1000.0), dataset, tmp_path)
    assert error.value.epoch == 0
    assert latest_checkpoint(tmp_path) is None


def test_the_first_update_is_that_of_the_papers_rule(config_of: ConfigOf, dataset: Dataset, tmp_path: Path) -> None:
    config = config_of(epochs=1, batch_size=70, learning_rate=0.01, random_crops=False, flips=False, colour_noise=0.0)
    run(config, dataset, tmp_path, should_stop=StopBefore(1))
    path = latest_checkpoint(tmp_path)
    assert path is not None
    weights, velocities = read_tensors(path)
    model = AlexNet(config.network)
    initialise(model, 0)
    model.train()
    order = np.random.Generator(np.random.Philox(key=draw_key("order", 0, 0))).permutation(70)
    pixels = dataset.train.images[order].astype(np.float32) - dataset.mean_image
    views = torch.from_numpy(pixels[:, 1:11, 1:11].transpose(0, 3, 1, 2))
    loss = torch.nn.functional.cross_entropy(model(views, (0, 0, 0)), torch.from_numpy(dataset.train.labels[order]))
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        start = parameter.detach()
        velocity = -5e-4 * 0.01 * start - 0.01 * parameter.grad
        torch.testing.assert_close(velocities[name], velocity, rtol=1e-4, atol=1e-8)
        torch.testing.assert_close(weights[name], start + velocity, rtol=1e-5, atol=1e-7)


def test_wrong_classes_numerics_sizes_and_checkpoints_are_named(
    config_of: ConfigOf, dataset: Dataset, undisturbed: tuple[list[EpochReport], Path]
) -> None:
    config = config_of()
    fewer = Dataset(dataset.train, dataset.validation, None, dataset.class_names[:5])
    with pytest.raises(CoreError, match="6 classes, the data has 5"):
        run(config, fewer)
    with pytest.raises(CoreError, match="numerics 99"):
        run(config.model_copy(update={"numerics": 99}), dataset)
    small = {**config.model_dump(), "data": {**config.data.model_dump(), "image_size": 8}}
    with pytest.raises(ValidationError, match=r"input_size 10 is larger than data\.image_size 8"):
        TrainConfig.model_validate(small)
    spec = config.network.model_dump()
    spec["layers"] = [layer for layer in spec["layers"] if layer["name"] != "conv2"]
    other = config_of(spec=type(config.network).model_validate(spec))
    with pytest.raises(CoreError, match="another network"):
        run(other, dataset, resume_from=latest_checkpoint(undisturbed[1]))


def test_progress_counts_the_images_of_each_epoch(config_of: ConfigOf, dataset: Dataset) -> None:
    seen: list[tuple[int, int]] = []
    reports = list(train(config_of(), dataset=dataset, progress=lambda done, total: seen.append((done, total))))
    count = len(dataset.train)
    assert {total for _, total in seen} == {count}
    assert [done for done, _ in seen if done == count] == [count] * len(reports)
    assert seen[: len(seen) // len(reports)] == seen[-len(seen) // len(reports) :]


def test_a_data_set_without_test_images_has_no_test_metrics(config_of: ConfigOf, dataset: Dataset) -> None:
    without = Dataset(dataset.train, dataset.validation, None, dataset.class_names)
    told: list[CorrectImages] = []
    assert run(config_of(epochs=1), without, on_correct=told.extend)[-1].test is None
    assert [one.split for one in told] == ["validation"]


def test_where_nothing_is_held_out_there_is_no_validation_error_and_no_best_epoch(
    config_of: ConfigOf, dataset: Dataset, tmp_path: Path
) -> None:
    without = replace(dataset, validation=Split(dataset.train.images[:0], dataset.train.labels[:0]))
    told: list[CorrectImages] = []
    config = config_of(epochs=2, schedule=StepSchedule(at=(0.5,)))
    usual = run(config, dataset, on_correct=lambda _: None)
    reports = run(config, without, tmp_path, keep_best=True, on_correct=told.extend)
    assert [report.validation for report in reports] == [None, None]
    # 验证集只被看，不影响训练：其余的数一个不变
    for ours, theirs in zip(numbers(reports), numbers(usual), strict=True):
        assert {**ours, "validation": theirs["validation"]} == theirs
    assert [one.split for one in told] == ["test"]
    assert not (tmp_path / "best.safetensors").exists()
    again = run(config, without, resume_from=checkpoints(tmp_path)[1])
    assert numbers(again) == numbers(reports)[1:]
    plateau = config_of(schedule=PlateauSchedule())
    with pytest.raises(ValidationError, match="plateau waits for the validation error"):
        TrainConfig(**{**dict(plateau), "data": plateau.data.model_copy(update={"holds_out": False})})


def test_the_images_that_are_right_are_told_in_their_order_and_change_nothing(
    config: TrainConfig, dataset: Dataset, tmp_path: Path, undisturbed: tuple[list[EpochReport], Path]
) -> None:
    told: list[CorrectImages] = []

    def take(sets: Sequence[CorrectImages]) -> None:
        # 最后的检查点还没有写：断在这里，下次会再算一遍
        assert not any(is_final(path) for path in checkpoints(tmp_path / "told"))
        told.extend(sets)

    assert numbers(run(config, dataset, tmp_path / "told", on_correct=take)) == numbers(undisturbed[0])
    assert dataset.test is not None
    model = AlexNet(config.network).eval()
    model.load_state_dict({name: torch.from_numpy(w) for name, w in final_weights(tmp_path / "told").items()})
    for one, (name, split) in zip(told, [("validation", dataset.validation), ("test", dataset.test)], strict=True):
        centred = (split.images.astype(np.float32) - dataset.mean_image)[:, 1:11, 1:11].transpose(0, 3, 1, 2)
        logits = model(torch.from_numpy(np.ascontiguousarray(centred))).detach().numpy()
        assert (one.split, one.views) == (name, 1)
        assert one.correct.tolist() == (logits.argmax(axis=1) == split.labels).tolist()
        assert 0 < one.correct.sum() < len(split)


def test_read_only_images_are_accepted(config_of: ConfigOf, dataset: Dataset) -> None:
    frozen = dataset.train.images.copy()
    frozen.flags.writeable = False
    locked = Dataset(Split(frozen, dataset.train.labels), dataset.validation, None, dataset.class_names)
    assert len(run(config_of(epochs=1), locked)) == 1


def test_a_frozen_layer_keeps_its_weights_to_the_bit(config_of: ConfigOf, dataset: Dataset, tmp_path: Path) -> None:
    config = config_of(**AS_RUN)
    run(config, dataset, tmp_path)
    first, last = (read_tensors(path)[0] for path in (checkpoints(tmp_path)[-1], checkpoints(tmp_path)[0]))
    assert read_position(checkpoints(tmp_path)[-1]).epoch == 1
    assert all(torch.equal(first[name], last[name]) for name in first if name.startswith("conv1"))
    assert not torch.equal(first["conv2.0.weight"], last["conv2.0.weight"])
    rates = [report.learning_rate for report in read_position(checkpoints(tmp_path)[0]).history]
    assert rates == [0.002, 0.001, 0.001]


def test_bfloat16_learns_and_tf32_needs_a_gpu(config_of: ConfigOf, dataset: Dataset, tmp_path: Path) -> None:
    reports = run(config_of(precision="bfloat16", epochs=2), dataset, tmp_path)
    exact = run(config_of(epochs=2), dataset)
    assert numbers(reports) != numbers(exact)
    assert reports[-1].validation.loss == pytest.approx(exact[-1].validation.loss, rel=0.1)
    path = latest_checkpoint(tmp_path)
    assert path is not None
    assert {weight.dtype for weight in read_tensors(path)[0].values()} == {torch.float32}
    if not torch.cuda.is_available():
        with pytest.raises(CoreError, match="tf32 needs a GPU"):
            run(config_of(precision="tf32"), dataset)


def test_the_newest_checkpoints_and_the_best_are_kept(config_of: ConfigOf, dataset: Dataset, tmp_path: Path) -> None:
    config = config_of(epochs=6, learning_rate=0.004)
    reports = run(config, dataset, tmp_path, keep_last=2, keep_best=True)
    assert [read_position(path).epoch for path in checkpoints(tmp_path)] == [6, 5]
    best = read_position(tmp_path / "best.safetensors")
    errors = [report.validation.top1_error for report in reports]
    assert best.epoch == 1 + errors.index(min(errors))
    assert len(list(tmp_path.iterdir())) == 3
    whole = read_tensors(checkpoints(tmp_path)[0])[0]
    # 从第五轮续训：旧的尝试只留最新的
    again = run(config, dataset, tmp_path, keep_last=2, keep_best=True, resume_from=checkpoints(tmp_path)[1], attempt=2)
    assert [report.epoch for report in again] == [6]
    assert [path.name[:4] for path in checkpoints(tmp_path)] == ["0002", "0001"]
    assert all(torch.equal(whole[name], weight) for name, weight in read_tensors(checkpoints(tmp_path)[0])[0].items())


def test_a_checkpoint_of_another_run_is_refused(
    config_of: ConfigOf, dataset: Dataset, undisturbed: tuple[list[EpochReport], Path]
) -> None:
    _, folder = undisturbed
    path = checkpoints(folder)[1]
    for other in (config_of(seed=7), config_of(batch_size=35), config_of(learning_rate=0.003)):
        with pytest.raises(CoreError, match="is of another run"):
            run(other, dataset, resume_from=path)


def test_colour_noise_that_begins_later_is_added(config_of: ConfigOf, dataset: Dataset, tmp_path: Path) -> None:
    def losses(noise: float, *changes: RateChange) -> list[float]:
        config = config_of(epochs=2, colour_noise=noise, schedule=ReplaySchedule(changes=changes))
        return [report.train.loss_sum for report in run(config, dataset)]

    later = losses(0.0, RateChange(epoch=2, colour_noise=10.0))
    without = losses(0.0)
    assert later[0] == without[0]
    assert later[1] != without[1]


def test_the_rate_of_a_layer_without_weights_cannot_change(config_of: ConfigOf) -> None:
    change = RateChange(epoch=2, learning_rate=0.0, layers=("pool1",))
    with pytest.raises(ValidationError, match=r"pool1.* no such layer with weights"):
        config_of(schedule=ReplaySchedule(changes=(change,)))


def test_divergence_can_be_told_to_another_process() -> None:
    error = pickle.loads(pickle.dumps(Diverged(2, 5)))
    assert (error.epoch, error.batch, str(error)) == (2, 5, str(Diverged(2, 5)))
