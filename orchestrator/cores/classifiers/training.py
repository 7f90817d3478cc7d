"""The training of a classifier: a plain loop of SGD or AdamW over augmented images, as torchvision's own reference."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torchvision.transforms import v2

from alexnet_core.configuration.train_config import DataSpec
from alexnet_core.data.dataset import Dataset, Split
from alexnet_core.data.loading import load_dataset, summarise_data
from orchestrator.cores.classifiers.configuration import ClassifierConfig
from orchestrator.cores.classifiers.network import build
from orchestrator.cores.contract import ContractError, Run
from orchestrator.cores.randomness import draw_apart

EVALUATION_BATCH = 256
SMALLEST_AREA = 0.35
APART = ("initialisation", "order", "augmentation")


@dataclass(frozen=True)
class _Images:
    """A split on the network's resolution.

    Attributes:
        pixels: uint8 (N, 3, resolution, resolution), 0..255.
        labels: int64 (N,).
    """

    pixels: torch.Tensor
    labels: torch.Tensor


@dataclass(frozen=True)
class _Data:
    """All splits, moments of the training pixels, each (3, 1, 1), as shares of 255, and what to know of the files."""

    train: _Images
    validation: _Images
    test: _Images
    classes: int
    mean: torch.Tensor
    deviation: torch.Tensor
    remarks: tuple[str, ...]


def train(config: ClassifierConfig, run: Run) -> Iterator[Mapping[str, float]]:
    """Trains a network and yields its errors in [0, 1] and mean losses in nats after every epoch.

    Args:
        config: What is trained.
        run: The seed, the device and where the images lie.

    Raises:
        ContractError: There are no test images, or the model cannot be made so.
    """
    device = torch.device(run.devices[0])
    data = _data(_spec(config, run), config.resolution)
    for remark in data.remarks:
        run.log(f"note: {remark}")
    network = draw_apart(lambda: build(config, data.classes), _key(run, "initialisation")).to(device)
    optimizer = _optimizer(config, network)
    finished = 0
    if (state := run.load()) is not None:
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        finished = state["epoch"]
    for epoch in range(finished, config.epochs):
        loss = _train_epoch(config, run, network, optimizer, data, epoch)
        validation, test = (_evaluate(network, images, data, run) for images in (data.validation, data.test))
        run.save({"network": network.state_dict(), "optimizer": optimizer.state_dict(), "epoch": epoch + 1})
        yield {
            "train_loss": loss,
            "validation_error": validation.error,
            "validation_loss": validation.loss,
            "test_error": test.error,
            "test_loss": test.loss,
        }


def _key(run: Run, source: str, *place: int) -> tuple[int, ...] | None:
    """What draws a source of randomness that has a seed of its own; None where it has the trial's."""
    seed = run.seed_of(source)
    # 来源的序号在前：否则补零之后，第 0 轮的次序与初值从同一个状态抽起
    return None if seed == run.seed else (APART.index(source) + 1, seed, *place)


def _spec(config: ClassifierConfig, run: Run) -> DataSpec:
    """The data as it lies there now: its digest is taken anew for every trial."""
    root = run.data_root
    return DataSpec(
        name="images",
        source=config.source,
        image_size=config.image_size,
        train_images=config.train_images,
        digest=summarise_data(config.source, root).digest,
        root=None if root is None else str(root),
        resplit=run.seed_of("split"),
    )


# 同一槽位的下一个 trial 多半用同样的图像；摘要变了就是别的图像
@lru_cache(maxsize=1)
def _data(spec: DataSpec, resolution: int) -> _Data:
    dataset: Dataset = load_dataset(spec)
    if dataset.test is None:
        raise ContractError(f"{spec.root} has no test images: a verdict on a classifier is about those in test/")
    training, validation, testing = (
        _on_resolution(split, resolution) for split in (dataset.train, dataset.validation, dataset.test)
    )
    mean, deviation = _moments(training.pixels)
    return _Data(training, validation, testing, len(dataset.class_names), mean, deviation, dataset.remarks)


def _moments(pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation by colour, as shares of 255, each (3, 1, 1)."""
    count = pixels.numel() / 3
    total, squares = torch.zeros(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    # 逐块累加：整套图像转成浮点要四倍内存
    for start in range(0, len(pixels), EVALUATION_BATCH):
        chunk = pixels[start : start + EVALUATION_BATCH].double()
        total += chunk.sum((0, 2, 3))
        squares += (chunk**2).sum((0, 2, 3))
    mean = total / count
    deviation = (squares / count - mean**2).clamp_min(1.0).sqrt()
    return (mean / 255.0).float().view(3, 1, 1), (deviation / 255.0).float().view(3, 1, 1)


def _on_resolution(split: Split, resolution: int) -> _Images:
    chunks = [torch.from_numpy(np.ascontiguousarray(chunk)).permute(0, 3, 1, 2) for chunk in split.chunks()]
    side = chunks[0].shape[-1]
    resized = [chunk if side == resolution else v2.functional.resize(chunk, [resolution] * 2) for chunk in chunks]
    return _Images(torch.cat(resized).contiguous(), torch.from_numpy(np.array(split.labels, dtype=np.int64)))


def _optimizer(config: ClassifierConfig, network: nn.Module) -> torch.optim.Optimizer:
    if config.optimizer == "adamw":
        return torch.optim.AdamW(network.parameters(), config.learning_rate, weight_decay=config.weight_decay)
    return torch.optim.SGD(
        network.parameters(),
        config.learning_rate,
        momentum=config.momentum,
        nesterov=config.momentum > 0,
        weight_decay=config.weight_decay,
    )


def rate_share(config: ClassifierConfig, progress: float) -> float:
    """Returns the share of the highest learning rate after so many epochs, in [0, 1].

    Args:
        config: The schedule.
        progress: Epochs, with the part of the present one.
    """
    if progress < config.warmup_epochs:
        return progress / config.warmup_epochs
    part = (progress - config.warmup_epochs) / max(config.epochs - config.warmup_epochs, 1e-9)
    if config.schedule == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * min(part, 1.0)))
    return 0.1 ** min(int(3.0 * part), 2) if config.schedule == "step" else 1.0


def _train_epoch(
    config: ClassifierConfig,
    run: Run,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    data: _Data,
    epoch: int,
) -> float:
    """Trains one epoch; returns the mean training loss in nats, of augmented images."""
    network.train()
    device = next(network.parameters()).device
    augment = augmentation(config)
    order = draw_apart(lambda: torch.randperm(len(data.train.labels)), _key(run, "order", epoch))
    size = config.batch_size
    # 只有一张图的批，批归一化没有方差可言
    batches = [order[start : start + size] for start in range(0, max(len(order) - 1, 1), size)]
    total, seen = 0.0, 0
    for number, batch in enumerate(batches):
        run.beat()
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * rate_share(config, epoch + (number + 1) / len(batches))
        augmented = partial(_augmented, config, data, batch, augment, device)
        images, targets = draw_apart(augmented, _key(run, "augmentation", epoch, number))
        loss = functional.cross_entropy(network(images), targets, label_smoothing=config.label_smoothing)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        total, seen = total + loss.item() * len(batch), seen + len(batch)
    return total / seen


def _augmented(
    config: ClassifierConfig,
    data: _Data,
    batch: torch.Tensor,
    augment: Callable[[torch.Tensor], torch.Tensor],
    device: torch.device,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Normalised images of a batch, (B, 3, resolution, resolution), and their targets, (B, classes)."""
    pixels = torch.stack([augment(image) for image in data.train.pixels[batch]])
    images = _normalised(pixels, data).to(device)
    targets = functional.one_hot(data.train.labels[batch], data.classes).float().to(device)
    return _mixed(images, targets, config.mixup)


def augmentation(config: ClassifierConfig) -> Callable[[torch.Tensor], torch.Tensor]:
    """Returns what is done to each training image, uint8 (3, H, W) to the same; its draws are torch's."""
    side = config.resolution
    steps: list[nn.Module] = []
    if config.crop == "shift":
        steps.append(v2.RandomCrop(side, padding=max(1, side // 8), padding_mode="reflect"))
    elif config.crop == "resized":
        steps.append(v2.RandomResizedCrop(side, scale=(SMALLEST_AREA, 1.0), antialias=True))
    if config.flips:
        steps.append(v2.RandomHorizontalFlip())
    if config.trivial_augment:
        steps.append(v2.TrivialAugmentWide())
    if config.erasing > 0:
        steps.append(v2.RandomErasing(config.erasing))
    return v2.Compose(steps) if steps else lambda image: image


def _mixed(images: torch.Tensor, targets: torch.Tensor, alpha: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Mixes each image and its target with another of the batch, all in one proportion."""
    if alpha == 0.0:
        return images, targets
    share = float(np.random.beta(alpha, alpha))
    partner = torch.randperm(len(images), device="cpu").to(images.device)
    return share * images + (1 - share) * images[partner], share * targets + (1 - share) * targets[partner]


def _normalised(pixels: torch.Tensor, data: _Data) -> torch.Tensor:
    return (pixels.float() / 255.0 - data.mean) / data.deviation


@dataclass(frozen=True)
class _Errors:
    """Error in [0, 1] and mean loss in nats of one split."""

    error: float
    loss: float


def _evaluate(network: nn.Module, images: _Images, data: _Data, run: Run) -> _Errors:
    """Evaluates without augmentation and smoothing."""
    network.eval()
    device = next(network.parameters()).device
    wrong, loss = 0, 0.0
    with torch.inference_mode():
        for start in range(0, len(images.labels), EVALUATION_BATCH):
            run.beat()
            rows = slice(start, start + EVALUATION_BATCH)
            logits, labels = network(_normalised(images.pixels[rows], data).to(device)).cpu(), images.labels[rows]
            wrong += int((logits.argmax(1) != labels).sum())
            loss += float(functional.cross_entropy(logits, labels, reduction="sum"))
    return _Errors(wrong / len(images.labels), loss / len(images.labels))
