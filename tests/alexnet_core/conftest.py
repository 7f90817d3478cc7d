"""A two-tower network and a data set small enough for milliseconds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from alexnet_core.configuration.network_spec import (
    Activation,
    Convolution,
    Dropout,
    FullyConnected,
    NetworkSpec,
    Pooling,
    ResponseNorm,
)
from alexnet_core.configuration.train_config import DataSpec, StepSchedule, TrainConfig, TrainingSpec
from alexnet_core.data.dataset import Dataset, Split
from alexnet_core.model.alexnet import AlexNet, initialise

CLASSES = 6


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


def make_spec() -> NetworkSpec:
    """Every kind of layer, both kinds of reading, uneven padding, a pooling that must round up."""
    return NetworkSpec(
        name="small",
        input_size=10,
        classes=CLASSES,
        layers=(
            Convolution(name="conv1", maps=4, kernel=3, padding=0, padding_end=2, weight_std=0.1),
            Activation(name="relu1"),
            ResponseNorm(name="lrn1", alpha=1e-3),
            Pooling(name="pool1"),
            Convolution(name="conv2", maps=6, kernel=3, padding=1, weight_std=0.1, bias=1.0),
            Activation(name="relu2"),
            Convolution(name="conv3", maps=5, kernel=3, padding=1, reads="both", weight_std=0.1),
            Activation(name="relu3"),
            Pooling(name="pool3"),
            FullyConnected(name="fc6", units=8, weight_std=0.1, bias=1.0),
            Activation(name="relu6"),
            Dropout(name="dropout6"),
            FullyConnected(name="fc7", units=8, weight_std=0.1, bias=1.0),
            Activation(name="relu7"),
            Dropout(name="dropout7"),
            FullyConnected(name="fc8", on_last_device=True, weight_std=0.1),
        ),
    )


def make_dataset(train: int = 70, validation: int = 30, test: int = 20, size: int = 12) -> Dataset:
    """Bright squares whose place is the class, on noise."""
    random = np.random.default_rng(7)

    def split(count: int) -> Split:
        labels = np.arange(count) % CLASSES
        images = random.integers(0, 120, (count, size, size, 3), dtype=np.uint8)
        for image, label in zip(images, labels, strict=True):
            row, column = 2 + 4 * (label // 3), 1 + 4 * (label % 3)
            image[row : row + 3, column : column + 3] += 120
        return Split(images, labels.astype(np.int64))

    names = tuple(f"class{number}" for number in range(CLASSES))
    return Dataset(split(train), split(validation), split(test) if test else None, names)


def make_config(seed: int = 0, spec: NetworkSpec | None = None, **training: Any) -> TrainConfig:
    defaults: dict[str, Any] = {
        "epochs": 3,
        "batch_size": 16,
        "learning_rate": 0.002,
        "schedule": StepSchedule(at=(0.6,)),
        "colour_noise": 0.1,
    }
    return TrainConfig(
        network=spec or make_spec(),
        training=TrainingSpec(**{**defaults, **training}),
        data=DataSpec(name="squares", source="imagefolder", image_size=12, digest="0" * 64),
        seed=seed,
    )


@pytest.fixture
def small_spec() -> NetworkSpec:
    return make_spec()


@pytest.fixture
def dataset() -> Dataset:
    return make_dataset()


@pytest.fixture
def config_of() -> Callable[..., TrainConfig]:
    return make_config


def write_sums(folder: Path) -> None:
    names = sorted(path.name for path in folder.iterdir() if path.name != "SHA256SUMS")
    lines = [f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n" for name in names]
    (folder / "SHA256SUMS").write_text("".join(lines))


@pytest.fixture
def model(config_of: Callable[..., TrainConfig]) -> AlexNet:
    made = AlexNet(config_of().network)
    initialise(made, 4)
    return made.eval()


@pytest.fixture
def export(model: AlexNet, config_of: Callable[..., TrainConfig], dataset: Dataset, tmp_path: Path) -> Path:
    """A model's folder, as `orchestrator.best --export` writes it."""
    folder = tmp_path / "export"
    folder.mkdir()
    tensors = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    tensors = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    save_file({**tensors, "mean_image": dataset.mean_image}, folder / "model.safetensors")
    (folder / "config.json").write_text(config_of().model_dump_json())
    (folder / "preprocessing.json").write_text("{}")
    (folder / "labels.json").write_text(json.dumps(dataset.class_names))
    (folder / "README.md").write_text("a model card")
    write_sums(folder)
    return folder


@pytest.fixture
def seal() -> Callable[[Path], None]:
    """Writes SHA256SUMS anew."""
    return write_sums
