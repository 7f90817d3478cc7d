"""An exported model: a folder that says what it is, and proves by hashes that it is whole.

`orchestrator.best --export` and the end of `alexnet_core train --out` write such a folder (see `model_folder`); no file
in it can run code.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file

from alexnet_core.configuration.frozen import first_mistake
from alexnet_core.configuration.metrics import SplitMetrics
from alexnet_core.configuration.train_config import TrainConfig
from alexnet_core.data.class_names import numbers_among, same_look
from alexnet_core.data.dataset import Dataset, Split
from alexnet_core.data.image_file import decode_image, prepared_picture, without_picture_warnings
from alexnet_core.data.image_tree import MOST_SHOWN, some
from alexnet_core.errors import CoreError
from alexnet_core.model.alexnet import AlexNet
from alexnet_core.trained.model_folder import SUMS, verify
from alexnet_core.training.evaluation import EVALUATION_BATCH, evaluate, predictions, split_to_test
from alexnet_core.training.loader import Batch, ImageLoader

Picture = str | Path | Image.Image | np.ndarray


@dataclass(frozen=True)
class LoadedModel:
    """A trained network ready for use.

    Attributes:
        network: In evaluation mode.
        config: The run that trained it.
        labels: Names of the classes, in the order of the outputs.
        mean_image: float32 (H, W, 3), subtracted from the prepared images.
    """

    network: AlexNet
    config: TrainConfig
    labels: tuple[str, ...]
    mean_image: np.ndarray

    def predict(self, images: np.ndarray | Iterable[Picture], views: int = 1) -> np.ndarray:
        """Classifies images.

        Args:
            images: uint8 (N, H, W, 3) of the prepared size (`config.data.image_size`), or image files' paths, Pillow
                images and arrays uint8 (H, W, 3) or (H, W) of any size, in a list or one after another
                (`folder.glob("*.jpg")`), which are prepared as the training images were, 256 at a time, so that their
                number does not count. As in training a turn noted in EXIF is not made (but in TIFF files) and
                transparency is dropped: see `decode_image`.
            views: 1 for the centre crop, 10 for the mean over ten views (paper section 4.1).

        Returns:
            float32 (N, classes), the probabilities; `labels` names the classes.

        Raises:
            CoreError: If the images have another shape or type, or a file cannot be read.
            ValueError: `views` is neither 1 nor 10.
        """
        size = self.config.data.image_size
        if isinstance(images, str | Path | Image.Image):
            one = "image" if isinstance(images, Image.Image) else repr(str(images))
            raise CoreError(f"predict takes a list of images: predict([{one}])")
        if not isinstance(images, Iterable):
            raise CoreError(f"predict takes a list of images, not {type(images).__name__}")
        if not isinstance(images, np.ndarray):
            # 一批一批地解码：内存与图像总数无关
            parts = [self.predict(self._decoded(batch), views) for batch in _batches(images)]
            return np.concatenate(parts) if parts else np.zeros((0, self.network.spec.classes), np.float32)
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != (size, size, 3):
            raise CoreError(f"images must be uint8 (N, {size}, {size}, 3), not {images.dtype} {images.shape}")
        split = Split(images, np.zeros(len(images), np.int64))
        parts = [logarithms.exp().cpu().numpy() for _, logarithms in self.predictions(split, views)]
        classes = self.network.spec.classes
        return np.concatenate(parts) if parts else np.zeros((0, classes), np.float32)

    def _decoded(self, pictures: Sequence[Picture]) -> np.ndarray:
        """Prepares images in files and in memory: uint8 (N, size, size, 3)."""
        size = self.config.data.image_size
        with without_picture_warnings():
            return np.stack(
                [
                    decode_image(Path(one), size) if isinstance(one, str | Path) else prepared_picture(one, size)
                    for one in pictures
                ]
            )

    def labelled(self, split: Split, class_names: Sequence[str]) -> Split:
        """Returns a split with the model's numbers for its classes, whose names are compared as they look.

        Args:
            split: Its labels are indices into `class_names`.
            class_names: In the order of its labels.

        Raises:
            CoreError: The model knows other classes.
        """
        self.check_classes(class_names)
        return replace(split, labels=numbers_among(class_names, self.labels)[split.labels])

    def check_classes(self, class_names: Sequence[str]) -> None:
        """Raises CoreError where these are not the model's classes, in whatever order."""
        if not same_look(class_names, self.labels):
            raise CoreError(
                f"the model knows {len(self.labels)} classes ({some(self.labels, MOST_SHOWN)}), "
                f"the data has {len(class_names)} ({some(class_names, MOST_SHOWN)})"
            )

    def loader(self, split: Split) -> ImageLoader:
        """Returns the images of a split, prepared for this network's first device."""
        follows = self.config.training.mean_follows_crop
        return ImageLoader(split, self.mean_image, self.network.devices[0], mean_follows_crop=follows)

    def predictions(self, split: Split, views: int = 1) -> Generator[tuple[Batch, torch.Tensor]]:
        """Yields every batch of a split with its log-probabilities (B, C), see `evaluation.predictions`."""
        return predictions(self.network, self.loader(split), views, precision=self.config.training.precision)

    def evaluate(self, data: Dataset | Split, views: int = 1) -> SplitMetrics:
        """Evaluates the network on a split or a data set's test images, in the arithmetic it was trained in.

        Args:
            data: A data set whose classes are the model's, in whatever order; the labels of a split are taken as they
                are.
            views: 1 for the centre crop, 10 for the mean over ten views (paper section 4.1).

        Raises:
            CoreError: The data set has other classes.
        """
        split = split_to_test(data)
        loader = self.loader(self.labelled(split, data.class_names) if isinstance(data, Dataset) else split)
        return evaluate(self.network, loader, views, precision=self.config.training.precision)


def _batches(pictures: Iterable[Picture]) -> Iterator[list[Picture]]:
    rest = iter(pictures)
    while batch := list(islice(rest, EVALUATION_BATCH)):
        yield batch


def export_of(folder: Path) -> Path:
    """Returns the export that a folder is, or that a training left in it."""
    has_inside = not (folder / SUMS).is_file() and (folder / "model" / SUMS).is_file()
    return folder / "model" if has_inside else folder


def load_model(folder: str | Path, devices: Sequence[str] = ("cpu", "cpu")) -> LoadedModel:
    """Loads an exported model after checking every file against SHA256SUMS.

    Args:
        folder: The export, or a folder of `alexnet_core train --out` whose training has ended.
        devices: One per tower.

    Raises:
        CoreError: If a file is missing, or is not the one that was exported.
    """
    folder = export_of(Path(folder))
    # 先核对哈希再读：被改过或不完整的导出不给出数字
    verify(folder)
    try:
        config = TrainConfig.model_validate_json((folder / "config.json").read_bytes())
        labels = json.loads((folder / "labels.json").read_bytes())
        tensors = load_file(folder / "model.safetensors")
        mean_image = tensors.pop("mean_image").numpy()
        network = AlexNet(config.network, devices)
        network.load_state_dict(tensors)
    except ValidationError as error:
        raise CoreError(f"{folder} is not an export that this version can load: {first_mistake(error)}") from error
    except (ValueError, KeyError, RuntimeError, SafetensorError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise CoreError(f"{folder} is not an export that this version can load: {first}") from error
    _check_parts(folder, config, labels, mean_image)
    network.eval()
    return LoadedModel(network, config, tuple(labels), mean_image)


def _check_parts(folder: Path, config: TrainConfig, labels: Any, mean_image: np.ndarray) -> None:
    """Compares labels and mean image (H, W, 3) with the configuration; raises CoreError."""
    classes, size = config.network.classes, config.data.image_size
    if not isinstance(labels, list) or len(labels) != classes or not all(isinstance(label, str) for label in labels):
        raise CoreError(f"{folder / 'labels.json'} does not name the network's {classes} classes")
    if mean_image.shape != (size, size, 3) or mean_image.dtype != np.float32:
        raise CoreError(f"{folder / 'model.safetensors'} has no mean image of float32 ({size}, {size}, 3)")
