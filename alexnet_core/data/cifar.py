"""CIFAR-10 as torchvision unpacks it (`cifar-10-batches-py`), read without running what is in its pickles.

Loads no torch; torchvision is needed for the download alone.
"""

from __future__ import annotations

import hashlib
import io
import pickle
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from alexnet_core.data.dataset import Decoded, ImageSource
from alexnet_core.data.image_file import centre_crop
from alexnet_core.data.manifest import Stamp, file_stamp
from alexnet_core.errors import CoreError
from alexnet_core.process.files import reason_of

FOLDER, SIDE = "cifar-10-batches-py", 32
_BATCHES = {"train": [f"data_batch_{number}" for number in range(1, 6)], "test": ["test_batch"]}
# pickle 可以执行任意代码；这些批次只需要重建 numpy 数组
_ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
}


def is_cifar10(root: Path) -> bool:
    """Says whether a folder holds CIFAR-10 as torchvision unpacks it."""
    return (root / FOLDER / "batches.meta").is_file()


def download_cifar10(root: Path) -> None:
    """Downloads CIFAR-10 to `root` through torchvision, which checks its hashes.

    Raises:
        CoreError: The download failed.
    """
    from torchvision.datasets import CIFAR10

    try:
        CIFAR10(str(root), download=True)
    except (OSError, RuntimeError) as error:
        raise CoreError(f"CIFAR-10 could not be downloaded: {reason_of(error)}") from error


def cifar10_source(root: Path) -> ImageSource:
    """Returns the images of CIFAR-10, its test batch being the test set.

    Args:
        root: The folder that holds `cifar-10-batches-py`.

    Raises:
        CoreError: A file is missing, or not what it should be.
    """
    folder = root / FOLDER
    stamps: dict[str, Stamp] = {}
    class_names = _class_names(folder / "batches.meta")
    pixels: dict[str, np.ndarray] = {}
    names: dict[str, list[str]] = {}
    labels: dict[str, np.ndarray] = {}
    for split, files in _BATCHES.items():
        # 先记下文件的时间再读，读的时候变了也看得出来
        before = [file_stamp(folder / name) if (folder / name).exists() else (0, 0, 0, 0) for name in files]
        parts = [_batch(folder / name, len(class_names)) for name in files]
        labels[split] = np.concatenate([part[1] for part in parts])
        names[split] = _unique(
            f"{split}/{class_names[label]}/{name}"
            for label, name in zip(labels[split].tolist(), (name for part in parts for name in part[2]), strict=True)
        )
        for name, image in zip(names[split], (image for part in parts for image in part[0]), strict=True):
            pixels[name] = image
        per_image = [stamp for stamp, part in zip(before, parts, strict=True) for _ in part[2]]
        stamps |= dict(zip(names[split], per_image, strict=True))

    def read(name: str, size: int) -> Decoded:
        image = pixels[name]
        prepared = centre_crop(Image.fromarray(image), size)
        return Decoded(prepared, image.nbytes, hashlib.sha256(image.tobytes()).hexdigest(), stamps[name])

    def look(name: str) -> tuple[int, str]:
        return pixels[name].nbytes, hashlib.sha256(pixels[name].tobytes()).hexdigest()

    return ImageSource(f"CIFAR-10 in {root.resolve()}", class_names, names, labels, read, look, stamps.__getitem__)


def _unique(names: Iterable[str]) -> list[str]:
    """The names, a repeated one with its number: each names one image."""
    seen: Counter[str] = Counter()
    unique = []
    for name in names:
        seen[name] += 1
        unique.append(name if seen[name] == 1 else f"{name}#{seen[name]}")
    return unique


def _class_names(path: Path) -> tuple[str, ...]:
    try:
        return tuple(name.decode() for name in _unpickled(path)[b"label_names"])
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise CoreError(f"{path} does not name the classes of CIFAR-10") from error


def _batch(path: Path, classes: int) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Images uint8 (N, 32, 32, 3), labels int64 (N,), and file names."""
    content = _unpickled(path)
    try:
        data = np.asarray(content[b"data"], dtype=np.uint8).reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1)
        labels = np.asarray(content[b"labels"], dtype=np.int64)
        if len(labels) and not 0 <= labels.min() <= labels.max() < classes:
            raise ValueError(f"its labels reach from {labels.min()} to {labels.max()}")
        names = [name.decode() for name in content[b"filenames"]]
        if not len(data) == len(labels) == len(names):
            raise ValueError(f"{len(data)} images, {len(labels)} labels, {len(names)} names")
        return np.ascontiguousarray(data), labels, names
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise CoreError(f"{path} is no batch of CIFAR-10: {error}") from error


class _ArrayUnpickler(pickle.Unpickler):
    """Rebuilds arrays, and refuses everything else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"{module}.{name} is not allowed in a batch of CIFAR-10")
        return super().find_class(module, name)


def _unpickled(path: Path) -> dict[bytes, Any]:
    try:
        content = _ArrayUnpickler(io.BytesIO(path.read_bytes()), encoding="bytes").load()
    except OSError as error:
        raise CoreError(f"{path} cannot be read: {error.strerror}") from error
    except (pickle.UnpicklingError, EOFError, ValueError, AttributeError, IndexError, ImportError) as error:
        raise CoreError(f"{path} is no file of CIFAR-10: {error}") from error
    if not isinstance(content, dict):
        raise CoreError(f"{path} is no file of CIFAR-10")
    return content
