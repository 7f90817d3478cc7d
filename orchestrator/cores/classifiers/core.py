"""`core: torchvision`: what the orchestrator sees of the classifiers. Loads torch only when they are trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from alexnet_core.data.dataset import DataSummary
from alexnet_core.data.loading import summarise_data
from orchestrator.cores.classifiers.configuration import ClassifierConfig
from orchestrator.cores.contract import Core, Metric, Run

DIGITS_CLASSES = 10
SOURCES = ("initialisation", "order", "augmentation", "split")


def _train(config: ClassifierConfig, run: Run) -> Iterator[Mapping[str, float]]:
    from orchestrator.cores.classifiers.training import train

    yield from train(config, run)


def _data(config: ClassifierConfig, root: Path | None) -> DataSummary:
    return summarise_data(config.source, root)


def _sizes(config: ClassifierConfig) -> dict[str, float]:
    from orchestrator.cores.classifiers.network import sizes

    # 类别数只在最后一层：没有数据也能比较各 arm 的大小
    return sizes(config, DIGITS_CLASSES)


def _draws(config: ClassifierConfig) -> tuple[str, ...]:
    distorts = config.crop != "none" or config.flips or config.trivial_augment or config.erasing or config.mixup
    return tuple(source for source in SOURCES if source != "augmentation" or distorts)


core = Core(
    name="torchvision",
    version=1,
    config=ClassifierConfig,
    train=_train,
    metrics={
        "train_loss": Metric("nats"),
        "validation_error": Metric("%", scale=100),
        "validation_loss": Metric("nats"),
        "test_error": Metric("%", scale=100),
        "test_loss": Metric("nats"),
    },
    chosen_by="validation_error",
    judged_by="test_error",
    data=_data,
    sizes=_sizes,
    randomness=SOURCES,
    draws=_draws,
)
