"""What a data set is: image files to be decoded, three splits of uint8 images with labels, a summary of the content."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from pydantic import Field

from alexnet_core.configuration.frozen import Frozen
from alexnet_core.data.manifest import Stamp
from alexnet_core.data.moments import PixelMoments

_CHUNK = 1024


@dataclass(frozen=True)
class Split:
    """Images and labels of one split.

    Attributes:
        images: uint8 (N, H, W, 3), 0..255.
        labels: int64 (M,), indices into the class names.
        rows: int64 (M,), which of `images` the split has; None for all of them, M being N.
    """

    images: np.ndarray
    labels: np.ndarray
    rows: np.ndarray | None = None

    def __len__(self) -> int:
        """Number of images."""
        return len(self.labels)

    def gather(self, indices: np.ndarray, out: np.ndarray) -> None:
        """Copies images into `out`; fastest where the indices ascend.

        Args:
            indices: int64 (B,), numbers of images in the split.
            out: uint8 (B, H, W, 3).
        """
        rows = indices if self.rows is None else self.rows[indices]
        # mode="clip" 让 take 直接写进 out，不经过中间缓冲
        np.take(self.images, rows, axis=0, out=out, mode="clip")

    def pick(self, indices: np.ndarray) -> np.ndarray:
        """Returns some of the images, uint8 (B, H, W, 3).

        Args:
            indices: int64 (B,), numbers of images in the split, in any order.
        """
        return np.asarray(self.images[indices if self.rows is None else self.rows[indices]])

    def chunks(self) -> Iterator[np.ndarray]:
        """Yields the images in order, some at a time: uint8 (n, H, W, C)."""
        for start in range(0, len(self), _CHUNK):
            rows = slice(start, start + _CHUNK)
            yield self.images[rows] if self.rows is None else self.images[self.rows[rows]]


@dataclass(frozen=True)
class Dataset:
    """Prepared data.

    Attributes:
        train: Training images.
        validation: Validation images; empty where none are held out (`DataSpec.holds_out`).
        test: Test images, where there are such.
        class_names: In the order of the labels.
        known_mean: The mean image, where it is known already.
        known_covariance: The covariance of the RGB values, where it is known already.
        remarks: What of its files is taken as something else, left out, or looks other than in a viewer: lines.
    """

    train: Split
    validation: Split
    test: Split | None
    class_names: tuple[str, ...]
    known_mean: np.ndarray | None = None
    known_covariance: np.ndarray | None = None
    remarks: tuple[str, ...] = ()

    @cached_property
    def mean_image(self) -> np.ndarray:
        """The per-pixel mean of the training images (paper section 2), float32 (H, W, 3), 0..255."""
        if self.known_mean is not None:
            return self.known_mean
        total = np.zeros(self.train.images.shape[1:], dtype=np.int64)
        for chunk in self.train.chunks():
            total += chunk.sum(axis=0, dtype=np.int64)
        mean: np.ndarray = (total / len(self.train)).astype(np.float32)
        return mean

    @cached_property
    def covariance(self) -> np.ndarray:
        """The covariance of the RGB values of the whole training set (paper section 4.1), float64 (3, 3)."""
        if self.known_covariance is not None:
            return self.known_covariance
        moments = PixelMoments(self.train.images.shape[1], self.train.images.shape[-1])
        for chunk in self.train.chunks():
            moments.add(chunk)
        return moments.covariance()


@dataclass(frozen=True)
class Decoded:
    """An image ready to be written.

    Attributes:
        pixels: uint8 (size, size, 3), 0..255.
        size: Bytes of its file.
        digest: SHA-256 of its file.
        stamp: Of its file before it was read, see `file_stamp`.
        oddity: How it looks other than in a viewer; empty where it does not.
    """

    pixels: np.ndarray
    size: int
    digest: str
    stamp: Stamp = (0, 0, 0, 0)
    oddity: str = ""


@dataclass(frozen=True)
class ImageSource:
    """Where images come from.

    Attributes:
        description: For the manifest.
        class_names: In the order of the labels.
        names: Name of every image, by split folder.
        labels: int64 (N,), by split folder.
        read: Name and size in pixels to `Decoded`; raises BadImage.
        look: Name to the bytes and the SHA-256 of the image file as it is now; raises OSError.
        stamp: Name to the stamp of the file as it is now, see `file_stamp`; raises OSError.
        places: Where an image lies that does not lie at its name, see `Tree`.
        remarks: What of it is taken as something else, and what is left out; see `Tree`.
    """

    description: str
    class_names: tuple[str, ...]
    names: dict[str, list[str]]
    labels: dict[str, np.ndarray]
    read: Callable[[str, int], Decoded]
    look: Callable[[str], tuple[int, str]]
    stamp: Callable[[str], Stamp]
    places: Mapping[str, str] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()


class DataSummary(Frozen):
    """What is in the data, known without decoding it.

    Attributes:
        digest: SHA-256 of the content: of sorted relative path, size and file hash; not of where it lies.
        class_names: In the order of the labels.
        train: Training images, before any subset.
        validation: Validation images; 0 where none are held out.
        test: Test images; 0 where there is no test set.
        remarks: What the user should know of the data before trusting a number: lines.
        fixed_split: Whether no validation images are drawn from those in train/.
    """

    digest: str
    class_names: tuple[str, ...]
    train: int
    validation: int
    test: int
    # 没有话要说时不写出来：以前的 plan.json 一个字节也不变
    remarks: tuple[str, ...] = Field(default=(), exclude_if=lambda remarks: not remarks)
    fixed_split: bool = Field(default=False, exclude_if=lambda fixed: not fixed)
