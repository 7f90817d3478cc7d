"""A prepared folder: one memory-mapped uint8 array per split, labels, statistics, and a manifest. Loads no torch.

manifest.json       written last: what is in the folder, with hashes
train.npy           uint8 (N, size, size, 3), 0..255; so too val.npy and test.npy, where there are such
train-labels.npy    int64 (N,)
train-files.tsv     row by row: relative path, bytes, SHA-256 of the image file
mean_image.npy      float32 (size, size, 3), the mean of the training images (paper section 2)
bad_images.tsv      what was left out: relative path, reason
odd_images.tsv      what looks other than in a viewer, where there is such: relative path, how
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import Field, ValidationError

from alexnet_core.configuration.frozen import Frozen, first_mistake
from alexnet_core.configuration.wording import counted
from alexnet_core.data.image_tree import MOST_SHOWN, some
from alexnet_core.data.manifest import ManifestLine, manifest_digest
from alexnet_core.data.moments import PixelMoments
from alexnet_core.data.splits import evenly_spaced
from alexnet_core.errors import CoreError
from alexnet_core.process.files import reason_of

MANIFEST = "manifest.json"
FORMAT = 1
ANEW = "remove that folder and prepare the data anew"
# 每次打开都核对这么多张图像的这么多字节：几毫秒；处处都看一点，坏掉的一段就漏不过去
SAMPLED_IMAGES, SAMPLED_BYTES = 256, 4096


class PreparedSplit(Frozen):
    """A split of a prepared folder.

    Attributes:
        images: Number of images.
        array_sha256: Of the SHA-256 digests of its images' pixels, one after another.
        labels_sha256: Of the labels' bytes.
        sample_sha256: Of the pixels of some of its images, see `sample_digest`; folders of earlier versions lack it.
    """

    images: int = Field(ge=1)
    array_sha256: str
    labels_sha256: str
    sample_sha256: str | None = Field(default=None, exclude_if=lambda digest: digest is None)


class PreparedManifest(Frozen):
    """What is in a prepared folder.

    Attributes:
        format: Version of the folder's layout.
        preparation: Version of the preparation, see `DataSpec`.
        source: Where the images came from.
        digest: Of the content of the image files, see `DataSummary`.
        image_size: Height and width in pixels.
        class_names: In the order of the labels.
        splits: By folder name: train, val, test.
        covariance: Of the RGB values of all training images, in grey levels squared.
        bad_images: How many images were left out.
        mean_sha256: Of the mean image's bytes; folders of earlier versions lack it.
        remarks: What was taken as something else or left out of the source, see `Tree`; they lack that too.
    """

    format: int
    preparation: int
    source: str
    digest: str
    image_size: int
    class_names: tuple[str, ...]
    splits: dict[str, PreparedSplit]
    covariance: tuple[tuple[float, ...], ...]
    bad_images: int
    mean_sha256: str | None = Field(default=None, exclude_if=lambda digest: digest is None)
    remarks: tuple[str, ...] = Field(default=(), exclude_if=lambda remarks: not remarks)


@dataclass(frozen=True)
class PreparedData:
    """An open prepared folder.

    Attributes:
        folder: Where it lies.
        manifest: What is in it.
        images: Memory-mapped arrays, by split folder.
        labels: By split folder.
        mean_image: float32 (size, size, 3).
    """

    folder: Path
    manifest: PreparedManifest
    images: dict[str, np.ndarray]
    labels: dict[str, np.ndarray]
    mean_image: np.ndarray

    def files(self, split: str) -> list[str]:
        """Returns the relative paths of a split's images, row by row."""
        return [name for name, _, _ in self.file_lines(split)]

    def file_lines(self, split: str) -> list[ManifestLine]:
        """Returns (relative path, bytes, SHA-256) of a split's image files, row by row.

        Raises:
            CoreError: The file that has them is not what it should be.
        """
        path = self.folder / f"{split}-files.tsv"
        try:
            fields = [line.split("\t") for line in read_lines(path)]
            return [(name, int(size), digest) for name, size, digest in fields]
        except (OSError, ValueError) as error:
            raise CoreError(f"{path} cannot be read: {reason_of(error)}; {ANEW}") from error


def prepared_remarks(data: PreparedData) -> list[str]:
    """Returns lines about images that could not be used, and images that look other than in a viewer."""
    remarks = []
    if count := data.manifest.bad_images:
        are = counted(count, "image was", "images were")
        remarks.append(f"{are} left out as unusable, named in {data.folder / 'bad_images.tsv'}")
    odd = data.folder / "odd_images.tsv"
    lines = [line.partition("\t") for line in (read_lines(odd) if odd.is_file() else [])]
    return [*remarks, *oddity_lines((name, oddity) for name, _, oddity in lines)]


def oddity_lines(odd: Iterable[tuple[str, str]]) -> list[str]:
    """Returns a line about each way in which images look other than in a viewer.

    Args:
        odd: (name, how) of such images.
    """
    kinds: dict[str, list[str]] = {}
    for name, oddity in odd:
        kinds.setdefault(oddity, []).append(name)
    return [
        f"{counted(len(names), 'image is', 'images are')} {oddity} ({some(names, MOST_SHOWN)})"
        for oddity, names in kinds.items()
    ]


def read_lines(path: Path) -> list[str]:
    """Reads the lines of a list of files; names may hold any byte but a newline."""
    # splitlines 还会在 U+2028、read_text 会在回车处断行，文件名里都可能有
    return path.read_bytes().decode("utf-8", "surrogateescape").split("\n")[:-1]


def is_prepared(folder: Path | None) -> bool:
    """Says whether a folder was made by the preparation, and to its end."""
    return folder is not None and (folder / MANIFEST).is_file()


def read_manifest(folder: Path) -> PreparedManifest:
    """Reads a prepared folder's manifest.

    Raises:
        CoreError: It is missing, or not one that this version can read.
    """
    path = folder / MANIFEST
    try:
        manifest = PreparedManifest.model_validate_json(path.read_bytes())
    except OSError as error:
        raise CoreError(
            f"{path} cannot be read: {error.strerror}; prepare the data with alexnet_core prepare"
        ) from error
    except ValidationError as error:
        raise CoreError(f"{path} is no manifest of prepared data: {first_mistake(error, PreparedManifest)}") from error
    if manifest.format != FORMAT:
        raise CoreError(f"{path} has format {manifest.format}, this version reads {FORMAT}; {ANEW}")
    return manifest


def open_prepared(folder: Path) -> PreparedData:
    """Opens a prepared folder; the arrays are mapped, so that trials on one machine share their pages.

    Labels, mean image and some images of every split are compared with the manifest; `verify_prepared` compares all.

    Raises:
        CoreError: A file is missing, or is not what the manifest says.
    """
    manifest = read_manifest(folder)
    images: dict[str, np.ndarray] = {}
    labels: dict[str, np.ndarray] = {}
    size = manifest.image_size
    for name, split in manifest.splits.items():
        # 写时复制的映射：多个 trial 共享同一份页，且 torch 不抱怨只读
        images[name] = _load(folder / f"{name}.npy", (split.images, size, size, 3), np.uint8, mapped=True)
        labels[name] = _load(folder / f"{name}-labels.npy", (split.images,), np.int64)
        _check_sample(folder / f"{name}.npy", images[name], split)
        if _sha256(labels[name]) != split.labels_sha256:
            raise _not_as_prepared(folder / f"{name}-labels.npy")
    mean = _load(folder / "mean_image.npy", (size, size, 3), np.float32)
    # 旧版本没有记下哈希：至少全零看得出来
    is_other = not mean.any() if manifest.mean_sha256 is None else _sha256(mean) != manifest.mean_sha256
    if is_other:
        raise _not_as_prepared(folder / "mean_image.npy")
    return PreparedData(folder, manifest, images, labels, mean)


def _load(path: Path, shape: tuple[int, ...], dtype: type, *, mapped: bool = False) -> np.ndarray:
    try:
        array: np.ndarray = np.load(path, mmap_mode="c" if mapped else None, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise CoreError(f"{path} cannot be read: {reason_of(error)}; {ANEW}") from error
    if array.shape != shape or array.dtype != dtype:
        raise CoreError(f"{path} holds {array.dtype} {array.shape}, the manifest says {shape}; {ANEW}")
    return array


def sample_digest(images: np.ndarray) -> str:
    """Returns the SHA-256 of 4096 bytes from the middle of 256 evenly spaced images, or of all where there are fewer.

    Args:
        images: uint8 (N, H, W, C).
    """
    return _sha256(_sample(images))


def _sample(images: np.ndarray) -> np.ndarray:
    """What `sample_digest` looks at: uint8 (rows, bytes)."""
    rows = evenly_spaced(len(images), SAMPLED_IMAGES)
    pixels = images.reshape(len(images), -1)
    start = max(0, (pixels.shape[1] - SAMPLED_BYTES) // 2)
    return pixels[rows, start : start + SAMPLED_BYTES]


def _check_sample(path: Path, images: np.ndarray, split: PreparedSplit) -> None:
    """Refuses an array that was damaged since: zeroed by a crash, or torn by a copy that did not end."""
    if split.sample_sha256 is None:
        if not _sample(images).any():
            raise CoreError(f"{path} holds nothing but black pixels; {ANEW}")
    elif sample_digest(images) != split.sample_sha256:
        raise _not_as_prepared(path)


def _sha256(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()


def _not_as_prepared(path: Path) -> CoreError:
    return CoreError(f"{path} is not what was prepared: its hash differs from {MANIFEST}; {ANEW}")


def verify_prepared(folder: Path) -> None:
    """Checks every file of a prepared folder against its manifest; reads all of it.

    Arrays and labels have hashes there; the names, sizes and hashes of the image files make the data's digest; mean
    image and covariance are calculated anew.

    Raises:
        CoreError: Names the file that has changed.
    """
    data = open_prepared(folder)
    for name, split in data.manifest.splits.items():
        pixels, moments = hashlib.sha256(), PixelMoments(data.manifest.image_size)
        for image in data.images[name]:
            pixels.update(hashlib.sha256(np.ascontiguousarray(image).data).digest())
            if name == "train":
                moments.add([image])
        if pixels.hexdigest() != split.array_sha256:
            raise _not_as_prepared(folder / f"{name}.npy")
        if name == "train":
            _verify_moments(data, moments)
    if manifest_digest(line for name in data.manifest.splits for line in data.file_lines(name)) != data.manifest.digest:
        raise CoreError(
            f"{folder}/*-files.tsv are not what was prepared: they do not give the digest in {MANIFEST}; {ANEW}"
        )


def _verify_moments(data: PreparedData, moments: PixelMoments) -> None:
    if not np.array_equal(moments.mean_image(), data.mean_image):
        raise CoreError(f"{data.folder / 'mean_image.npy'} is not the mean of the training images; {ANEW}")
    if not np.array_equal(moments.covariance(), np.asarray(data.manifest.covariance)):
        raise CoreError(f"{data.folder / MANIFEST}: covariance is not that of the training images; {ANEW}")
