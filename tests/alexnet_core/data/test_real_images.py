"""On real photographs: the signal at the start, and that the networks learn from it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from alexnet_core import AlexNet, network, train, training_recipe
from alexnet_core.configuration.train_config import DataSpec, StepSchedule, TrainConfig
from alexnet_core.data.image_tree import read_tree
from alexnet_core.data.loading import summarise_data
from alexnet_core.data.prepared_folder import PreparedData, open_prepared
from alexnet_core.data.preparing.preparation import prepare, tree_source
from alexnet_core.model.alexnet import initialise
from alexnet_core.training.evaluation import EVALUATION_BATCH

SHARED = Path(__file__).parents[4] / "shared" / "data"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(400),
    pytest.mark.skipif(not SHARED.is_dir(), reason="the real images beside the repository are not here"),
]


def unpacked(name: str, folder: Path) -> Path:
    subprocess.run([sys.executable, str(SHARED / "unpack.py"), name, str(folder)], check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def caltech(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    """Caltech images at 256 pixels; one class has no validation images and goes."""
    root = unpacked("caltech24", tmp_path_factory.mktemp("caltech") / "tree")
    shutil.rmtree(root / "train" / "yin_yang")
    prepare(tree_source(read_tree(root)), root.parent / "made", 256)
    return open_prepared(root.parent / "made")


@pytest.mark.parametrize(("name", "expected"), [("alexnet-145", 0.05), ("alexnet-paper", 0.004)])
def test_the_signal_at_the_start_has_the_original_size(caltech: PreparedData, name: str, expected: float) -> None:
    """The deviation over 64 images of a class's logit, averaged over classes; evaluation mode, initial weights."""
    images = caltech.images["train"]
    rows = np.linspace(0, len(images) - 1, 64).astype(int)
    centred = images[rows].astype(np.float32) - caltech.mean_image
    views = torch.from_numpy(centred[:, 16:240, 16:240]).permute(0, 3, 1, 2)
    model = AlexNet(network(name)).eval()
    initialise(model, 0)
    with torch.inference_mode():
        logits = torch.cat([model(part) for part in views.split(16)])
    size = float(logits.std(dim=0).mean())
    assert expected / 2 < size < expected * 2, size


def test_alexnet_145_learns_photographs_at_full_size(caltech: PreparedData) -> None:
    """Its own recipe but for the batch: 22 updates of 32 images; the training loss falls, no flat start."""
    classes = len(caltech.manifest.class_names)
    config = TrainConfig(
        network=network("alexnet-145").model_copy(update={"classes": classes}),
        training=training_recipe("alexnet-145").model_copy(update={"epochs": 2, "batch_size": 32}),
        data=DataSpec(
            name="caltech24",
            source="imagefolder",
            image_size=256,
            digest=caltech.manifest.digest,
            root=str(caltech.folder),
            train_images=345,
        ),
        seed=0,
    )
    reports = list(train(config))
    losses = [report.train.loss for report in reports]
    assert losses[-1] < losses[0] - 0.2, losses


def cifar10(root: Path) -> Path:
    """The first images of each class: 200 to learn from, 50 to validate and 200 to test, cut from the mosaics."""
    for source, parts in (
        ("train", {"train": slice(0, 200), "val": slice(200, 250)}),
        ("test", {"test": slice(0, 200)}),
    ):
        for mosaic in sorted((SHARED / "cifar10" / source).glob("*.webp")):
            pixels = np.asarray(Image.open(mosaic).convert("RGB"))
            rows, columns = pixels.shape[0] // 32, pixels.shape[1] // 32
            tiles = pixels.reshape(rows, 32, columns, 32, 3).swapaxes(1, 2).reshape(-1, 32, 32, 3)
            for split, chosen in parts.items():
                folder = root / split / mosaic.stem
                folder.mkdir(parents=True)
                for number, tile in enumerate(tiles[chosen]):
                    Image.fromarray(tile).save(folder / f"{number:04d}.png")
    return root


def test_the_mini_network_learns_cifar10(tmp_path: Path) -> None:
    """2,000 photographs of ten kinds, six epochs: the error on 2,000 others falls well below the 90 % of chance."""
    root = cifar10(tmp_path / "tree")
    cache = tmp_path / "cache"
    config = TrainConfig(
        network=network("alexnet-mini"),
        training=training_recipe("alexnet-mini").model_copy(
            update={"epochs": 6, "batch_size": 32, "flips": True, "schedule": StepSchedule(at=(0.8,))}
        ),
        data=DataSpec(
            name="cifar10",
            source="imagefolder",
            image_size=32,
            digest=summarise_data("imagefolder", root, cache).digest,
            root=str(root),
            cache=str(cache),
        ),
        seed=0,
    )
    reports = list(train(config))
    assert reports[-1].train.loss < reports[0].train.loss - 0.3
    assert reports[-1].test is not None
    assert reports[-1].test.top1_error < 0.72
    assert reports[-1].test.count == 2_000 > EVALUATION_BATCH
