"""The torchvision core: its sizes are torchvision's own, its norms, rates and mixtures are what they are called."""

from __future__ import annotations

import json
import math
import shutil
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from torch import nn

from alexnet_core.data.loading import summarise_data
from orchestrator import Run
from orchestrator.ablate import main
from orchestrator.cores.classifiers.configuration import ClassifierConfig
from orchestrator.cores.classifiers.core import core
from orchestrator.cores.classifiers.network import build, sizes
from orchestrator.cores.contract import ContractError
from orchestrator.cores.loading import core_name, load_core
from orchestrator.cores.reports import checked_sizes
from orchestrator.cores.training import Place, StateFolder, train_core
from orchestrator.planning.unfolding import plan_study
from orchestrator.request import Question, Store, SweepRequest
from search_spaces.study import load_study
from tests.alexnet_core.data.pictures import picture, tree


@pytest.mark.parametrize("model", ["resnet18", "mobilenet_v2", "squeezenet1_1", "vit_b_16"])
def test_parameters_and_multiply_adds_are_those_that_torchvision_publishes(model: str) -> None:
    from torchvision import models

    published = models.get_model_weights(model).IMAGENET1K_V1.meta  # type: ignore[attr-defined]
    counted = sizes(ClassifierConfig(model=model, resolution=224), 1000)
    assert counted["parameters"] == published["num_params"]
    # torchvision 的数连偏置与注意力也算，我们只数卷积与矩阵乘
    assert counted["multiply_adds"] == pytest.approx(published["_ops"] * 1e9, rel=0.03)


def test_another_norm_leaves_the_draws_of_all_other_weights() -> None:
    networks = {}
    for norm in ("batch", "group", "none"):
        torch.manual_seed(3)
        networks[norm] = build(ClassifierConfig(norm=norm), 10)  # type: ignore[arg-type]
    counts = {norm: [type(m) for m in network.modules()] for norm, network in networks.items()}
    norms = counts["batch"].count(nn.BatchNorm2d)
    assert norms > 10
    assert (counts["group"].count(nn.GroupNorm), counts["group"].count(nn.BatchNorm2d)) == (norms, 0)
    assert (counts["none"].count(nn.Identity), counts["none"].count(nn.BatchNorm2d)) == (norms, 0)
    for name, weight in networks["none"].named_parameters():
        for other in ("batch", "group"):
            assert torch.equal(weight, networks[other].get_parameter(name)), name
    # 每组至少四个通道
    groups = [m for m in networks["group"].modules() if isinstance(m, nn.GroupNorm)]
    assert all(m.num_channels % m.num_groups == 0 and m.num_channels // m.num_groups >= 4 for m in groups)


@pytest.mark.parametrize("model", ["googlenet", "inception_v3", "densenet121", "mnasnet0_5", "vit_b_32"])
def test_models_of_every_kind_give_one_row_of_logits_per_image(model: str) -> None:
    with torch.device("meta"):
        network = build(ClassifierConfig(model=model, resolution=96), 7).train()
        assert network(torch.empty(2, 3, 96, 96)).shape == (2, 7)


@pytest.mark.parametrize(
    ("model", "resolution", "right"),
    [("maxvit_t", 32, 224), ("alexnet", 32, 64), ("inception_v3", 64, 96), ("vit_b_16", 24, 32)],
)
def test_a_resolution_that_a_model_does_not_take_is_one_line_with_the_next_that_it_takes(
    model: str, resolution: int, right: int
) -> None:
    config = ClassifierConfig(model=model, resolution=resolution)
    with pytest.raises(ContractError) as caught:
        checked_sizes(core, config)
    line = f"torchvision's {model} takes no images of resolution {resolution}; {right} is the next it takes ("
    assert str(caught.value).startswith(line)
    assert "\n" not in str(caught.value)
    assert checked_sizes(core, config.model_copy(update={"resolution": right}))["parameters"] > 0


def test_a_wider_network_is_an_option_and_a_wrong_one_is_one_line() -> None:
    wide = ClassifierConfig(model="mobilenet_v2", options={"width_mult": 2.0})
    assert sizes(wide, 10)["parameters"] > 3 * sizes(ClassifierConfig(model="mobilenet_v2"), 10)["parameters"]
    with pytest.raises(ContractError, match=r"torchvision's resnet18 cannot be made with \{'width_mult': 2.0\}: "):
        build(ClassifierConfig(model="resnet18", options={"width_mult": 2.0}), 10)
    with pytest.raises(ValidationError, match="no classifier 'resnet81'; did you mean resnet18"):
        ClassifierConfig(model="resnet81")
    with pytest.raises(ValidationError, match="image_size is 32, but the digits have 16 pixels"):
        ClassifierConfig(image_size=32)


def test_the_rate_rises_over_the_warm_up_and_falls_as_torch_has_it() -> None:
    from orchestrator.cores.classifiers.training import rate_share

    config = ClassifierConfig(epochs=11, warmup_epochs=1)
    assert [rate_share(config, progress) for progress in (0.0, 0.25, 1.0)] == [0.0, 0.25, 1.0]
    weight = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=10)
    for epoch in range(11):
        assert rate_share(config, 1 + epoch) == pytest.approx(scheduler.get_last_lr()[0], abs=1e-12)
        optimizer.step()
        scheduler.step()
    steps = ClassifierConfig(epochs=9, warmup_epochs=0, schedule="step")
    shares = [round(rate_share(steps, epoch + 0.5), 6) for epoch in range(9)]
    assert shares == [1.0] * 3 + [0.1] * 3 + [0.01] * 3
    assert rate_share(ClassifierConfig(schedule="constant"), 5.0) == 1.0


def test_mixup_mixes_images_and_targets_in_one_proportion() -> None:
    from orchestrator.cores.classifiers.training import _mixed

    torch.manual_seed(0), np.random.seed(0)
    # 图像就是它的类别：混合之后仍要一致
    targets = torch.eye(6)
    images = torch.arange(6.0).view(6, 1, 1, 1).expand(6, 3, 2, 2)
    mixed, mixed_targets = _mixed(images, targets, 0.4)
    assert torch.allclose(mixed_targets.sum(1), torch.ones(6))
    assert torch.allclose(mixed[:, 0, 0, 0], mixed_targets @ torch.arange(6.0))
    assert not torch.equal(mixed, images)
    assert _mixed(images, targets, 0.0)[0] is images


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_smoothed_labels_are_the_targets_of_the_loss_and_of_the_step(smoothing: float) -> None:
    from orchestrator.cores.classifiers import training

    count, classes, side, rate = 6, 4, 8, 0.1
    draws = np.random.default_rng(0)
    pixels = draws.integers(0, 256, (count, 3, side, side), dtype=np.uint8)
    labels = np.array([0, 1, 2, 3, 1, 2])
    images = training._Images(torch.from_numpy(pixels), torch.from_numpy(labels))
    mean, deviation = torch.full((3, 1, 1), 0.4), torch.full((3, 1, 1), 0.3)
    data = training._Data(images, images, images, classes, mean, deviation, ())
    config = ClassifierConfig(label_smoothing=smoothing, batch_size=count, warmup_epochs=0, schedule="constant")
    layer = nn.Linear(3 * side * side, classes)
    network = nn.Sequential(nn.Flatten(), layer)
    weight, bias = (part.detach().numpy().astype(np.float64) for part in layer.parameters())
    optimizer = torch.optim.SGD(network.parameters(), rate)
    loss = training._train_epoch(config.model_copy(update={"learning_rate": rate}), Run(), network, optimizer, data, 0)

    # Szegedy 等（2016）第 7 节的式子：目标是 (1 - ε) 乘独热，加上 ε / 类别数
    inputs = ((pixels / 255 - 0.4) / 0.3).reshape(count, -1)
    logits = inputs @ weight.T + bias
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    targets = (1 - smoothing) * np.eye(classes)[labels] + smoothing / classes
    assert loss == pytest.approx(-(targets * np.log(shares)).sum(1).mean(), rel=1e-5)
    step = rate * (shares - targets).T @ inputs / count
    assert layer.weight.detach().numpy() == pytest.approx(weight - step, abs=1e-5)


def test_each_image_is_distorted_for_itself_by_torchs_draws() -> None:
    from orchestrator.cores.classifiers.training import augmentation

    config = ClassifierConfig(crop="shift", flips=True, trivial_augment=True, erasing=0.5)
    image = torch.arange(3 * 32 * 32, dtype=torch.int64).remainder(251).to(torch.uint8).view(3, 32, 32)
    augment = augmentation(config)
    torch.manual_seed(1)
    first = [augment(image) for _ in range(4)]
    torch.manual_seed(1)
    again = [augment(image) for _ in range(4)]
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))
    assert all(one.shape == image.shape and one.dtype == torch.uint8 for one in first)
    assert not torch.equal(first[0], first[1])
    assert augmentation(ClassifierConfig())(image) is image


def test_image_folders_train_and_one_without_test_images_is_refused(tmp_path: Path) -> None:
    draws = np.random.default_rng(0)
    for split in ("train", "val"):
        for name in "ab":
            folder = tmp_path / "images" / split / name
            folder.mkdir(parents=True)
            for number in range(5):
                pixels = draws.integers(0, 255, (20, 20, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{split}{number}.png")
    config = ClassifierConfig(source="imagefolder", image_size=20, epochs=1, batch_size=4)
    with pytest.raises(ContractError, match="has no test images: a verdict on a classifier is about those in test/"):
        next(iter(core.train(config, Run(data_root=tmp_path / "images"))))
    (tmp_path / "images" / "val").rename(tmp_path / "images" / "test")
    (report,) = train_core(core, config, Place(0, data_root=tmp_path / "images"))
    assert all(math.isfinite(value) for value in report.metrics.values())
    assert report.metrics["test_error"] * 10 == pytest.approx(round(report.metrics["test_error"] * 10))
    # 同一进程里换了一张图：不能再用记着的旧图
    Image.new("RGB", (20, 20), "white").save(tmp_path / "images" / "train" / "a" / "train0.png")
    (other,) = train_core(core, config, Place(0, data_root=tmp_path / "images"))
    assert other.metrics["train_loss"] != report.metrics["train_loss"]


@pytest.mark.slow
def test_a_study_of_it_says_what_is_left_out_of_its_images_as_one_of_alexnet_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Planned, in the JSON document, and from `plan.json` in the report, which imports no core."""
    root = tree(tmp_path / "images", ("train", "valid", "test"), count=4)
    shutil.copy(root / "train" / "a" / "0.jpg", root / "valid" / "a" / "same.jpg")
    picture(root / "train" / "a" / "deep" / "0.jpg")
    picture(root / "train" / "loose.jpg").rename(root / "train" / "loose.jfif")
    notes = [
        "note: valid/ is taken as val/",
        "note: left out: 1 file in a folder within a class folder (train/a/deep/0.jpg); 1 file outside the class "
        "folders (train/loose.jfif)",
        "note: 1 validation image is a training image too (val/a/same.jpg = train/a/0.jpg): the validation error is "
        "not that of new images",
    ]
    results = tmp_path / "results"
    asked = ["--dataset", "imagefolder", "--data-root", str(root), "--results", str(results), "--dry-run"]
    for study in ("batch_norm", "lrn"):
        assert main(["--study", study, *asked]) == 0
        assert capsys.readouterr().out.splitlines()[:3] == notes
    assert main(["--study", "batch_norm", *asked, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["plans"][0]["notes"][:3] == notes
    question = Question(study="batch_norm", dataset="imagefolder", data_root=root)
    plan = plan_study(load_study("batch_norm"), question, SweepRequest(), Store(results))
    assert plan.summary == summarise_data("imagefolder", root)
    assert plan.base.data.digest == plan.summary.digest
    run = Run(data_root=root, log=(heard := list[str]()).append)
    next(iter(core.train(ClassifierConfig(source="imagefolder", image_size=20, epochs=1, batch_size=4), run)))
    assert heard == notes[:2]


@pytest.mark.slow
def test_it_reads_digits() -> None:
    # 随机猜会错九成
    *_, last = train_core(core, ClassifierConfig(epochs=4), Place(0))
    assert last.metrics["test_error"] < 0.15


@pytest.mark.slow
def test_stopped_and_gone_on_it_gives_the_numbers_of_a_straight_run_and_another_seed_others(tmp_path: Path) -> None:
    config = ClassifierConfig(
        epochs=3, train_images=64, batch_size=16, trivial_augment=True, mixup=0.2, optimizer="adamw", learning_rate=1e-3
    )
    straight = [report.metrics for report in train_core(core, config, Place(0))]
    with closing(train_core(core, config, Place(0), StateFolder(tmp_path, least_seconds=0.0))) as training:
        first = next(training)
    rest = list(train_core(core, config, Place(0), StateFolder(tmp_path, 2)))
    assert [first.metrics, *(report.metrics for report in rest)] == straight
    assert [report.metrics for report in train_core(core, config, Place(1))] != straight
    assert load_core(core_name("torchvision")) is core


def test_no_two_sources_that_are_drawn_apart_start_from_one_state() -> None:
    from orchestrator.cores.classifiers.training import _key

    run = Run(0, seeds=dict.fromkeys(core.randomness, 3), sources=core.randomness)
    draws: list[tuple[str, tuple[int, ...]]] = [("initialisation", ())]
    draws += [("order", (epoch,)) for epoch in range(3)]
    draws += [("augmentation", (epoch, batch)) for epoch in range(3) for batch in range(3)]
    keys = [_key(run, source, *place) for source, place in draws]
    assert all(key is not None for key in keys)
    states = {int(np.random.SeedSequence(key).generate_state(1)[0]) for key in keys}  # type: ignore[arg-type]
    assert len(states) == len(draws)
    # 与 trial 同一个种子的来源不另抽：记录里的数不动
    assert _key(Run(3, sources=core.randomness), "order", 0) is None


@pytest.mark.slow
def test_another_seed_of_one_source_moves_its_draws_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen on a training: the weights at its start, the orders, the distorted images, the images of each split."""
    from orchestrator.cores.classifiers import training

    config = ClassifierConfig(epochs=2, train_images=48, batch_size=16, trivial_augment=True, crop="shift", mixup=0.2)
    build, permuted, loaded = training.build, torch.randperm, training.load_dataset
    augmented = training._augmented
    drawn: dict[str, list[bytes]] = {}

    def built(*arguments: object) -> nn.Module:
        network = build(*arguments)  # type: ignore[arg-type]
        drawn["initialisation"] = [weight.detach().numpy().tobytes() for weight in network.parameters()]
        return network

    def ordered(count: int, *arguments: object, **options: object) -> torch.Tensor:
        order = permuted(count, *arguments, **options)  # type: ignore[arg-type]
        if count == 48:
            drawn["order"] = [order.numpy().tobytes()]
        return order

    def distorted(*arguments: object) -> tuple[torch.Tensor, torch.Tensor]:
        images, targets = augmented(*arguments)  # type: ignore[arg-type]
        drawn["augmentation"] = [images.numpy().tobytes(), targets.numpy().tobytes()]
        return images, targets

    def split(spec: object) -> object:
        dataset = loaded(spec)  # type: ignore[arg-type]
        drawn["split"] = [dataset.train.labels.tobytes(), np.asarray(dataset.train.images).tobytes()]
        drawn["test"] = [np.asarray(dataset.test.images).tobytes()]  # type: ignore[union-attr]
        return dataset

    for name, seen in (("build", built), ("_augmented", distorted), ("load_dataset", split)):
        monkeypatch.setattr(training, name, seen)
    monkeypatch.setattr(torch, "randperm", ordered)

    def trained(**seeds: int) -> dict[str, list[bytes]]:
        drawn.clear()
        training._data.cache_clear()
        list(train_core(core, config, Place(0, seeds=seeds)))
        return dict(drawn)

    plain = trained()
    assert plain == trained()
    # 另抽的先照常抽一遍再另抽，最后一次记下的就是所用的；换了次序或划分，一批里的图自然不同
    moved = {
        "initialisation": {"initialisation"},
        "augmentation": {"augmentation"},
        "order": {"order", "augmentation"},
        "split": {"split", "augmentation"},
    }
    for source, names in moved.items():
        other = trained(**{source: 5})
        assert {name for name in plain if other[name] != plain[name]} == names
    training._data.cache_clear()
