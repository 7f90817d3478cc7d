"""Data sets as uint8 arrays: the digits inside scikit-learn, and any tree of class folders.

Counting and hashing come first (`summarise_data`), decoding happens once (`prepare_data`), and training maps
the decoded array (`load_dataset`). Nothing here loads torch or scikit-learn.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import json
import os
import secrets
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from alexnet_core.configuration import DataSpec
from alexnet_core.errors import CoreError
from alexnet_core.specification import Frozen

Source = Literal["digits", "imagefolder"]
SplitName = Literal["train", "validation", "test"]

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"})
DIGITS_SIZE = 16
DIGITS_FRACTIONS = (0.6, 0.2, 0.2)
HELD_OUT_FRACTION = 0.1
THREADS = min(8, os.cpu_count() or 1)


@dataclass(frozen=True)
class Split:
    """Images and labels of one split.

    Attributes:
        images: uint8 (N, H, W, 3), 0..255.
        labels: int64 (N,), indices into the class names.
    """

    images: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class Dataset:
    """Prepared data."""

    train: Split
    validation: Split
    test: Split | None
    class_names: tuple[str, ...]

    @cached_property
    def mean_image(self) -> np.ndarray:
        """The per-pixel mean of the training images (paper section 2), float32 (H, W, 3), 0..255."""
        total = np.zeros(self.train.images.shape[1:], dtype=np.float64)
        for start in range(0, len(self.train.images), 4096):
            total += self.train.images[start : start + 4096].sum(axis=0, dtype=np.float64)
        mean: np.ndarray = (total / len(self.train.images)).astype(np.float32)
        return mean


class DataSummary(Frozen):
    """What is in the data, known without decoding it.

    Attributes:
        digest: SHA-256 of the content: of sorted relative path, size and file hash; not of where it lies.
        class_names: In the order of the labels.
        train: Training images, before any subset.
        validation: Validation images.
        test: Test images; 0 where there is no test set.
    """

    digest: str
    class_names: tuple[str, ...]
    train: int
    validation: int
    test: int


def summarise_data(
    source: Source, root: Path | None = None, cache: Path | None = None, *, split_seed: int = 0
) -> DataSummary:
    """Counts and hashes the data without decoding images.

    Args:
        source: `digits` or `imagefolder`.
        root: Folder with train/ and val/ or test/ (imagefolder).
        cache: Folder for the hashes of unchanged files; None hashes all of them.
        split_seed: Seed of the split.

    Raises:
        CoreError: A folder is missing, a class folder is empty, or the classes of the splits differ.
    """
    if source == "digits":
        images, labels = _read_digits()
        digest = hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()
        names = tuple(str(digit) for digit in range(10))
        counts = [len(rows) for rows in _stratified(labels, DIGITS_FRACTIONS, split_seed)]
        return DataSummary(digest=digest, class_names=names, train=counts[0], validation=counts[1], test=counts[2])
    tree = _read_tree(root)
    digest = _digest(_manifest(tree, cache))
    rows = _split_rows(tree.splits, tree.labels, split_seed)
    return DataSummary(
        digest=digest,
        class_names=tree.class_names,
        train=len(rows["train"]),
        validation=len(rows["validation"]),
        test=len(rows["test"]),
    )


def prepare_data(spec: DataSpec, progress: Callable[[int, int], None] | None = None) -> None:
    """Decodes the images of `spec` once into its cache; does nothing where that is done or there is no cache.

    Args:
        spec: The data.
        progress: Called with (images decoded, images in all).

    Raises:
        CoreError: An image cannot be read (named), or the files are not those of `spec.digest`.
    """
    if spec.source == "digits" or spec.cache is None:
        return
    if _array_path(spec).is_file() and _index_path(spec).is_file():
        return
    tree, images = _decode_tree(spec, progress)
    folder = Path(spec.cache)
    folder.mkdir(parents=True, exist_ok=True)
    index = {
        "class_names": tree.class_names,
        "labels": tree.labels.tolist(),
        "splits": list(tree.splits),
        "files": [path.relative_to(tree.root).as_posix() for path in tree.paths],
    }
    _replace(_index_path(spec), lambda path: path.write_text(json.dumps(index)))
    _replace(_array_path(spec), lambda path: _save_array(path, images))


def load_dataset(spec: DataSpec) -> Dataset:
    """Loads prepared data; with a cache the images are memory-mapped, so that trials share their pages.

    Raises:
        CoreError: The data is missing, unreadable, or not that of `spec.digest`.
    """
    if spec.source == "digits":
        return _load_digits(spec)
    if spec.cache is None:
        tree, images = _decode_tree(spec, None)
        class_names, labels, splits = tree.class_names, tree.labels, tree.splits
    else:
        prepare_data(spec)
        index = json.loads(_index_path(spec).read_text())
        class_names, splits = tuple(index["class_names"]), tuple(index["splits"])
        labels = np.asarray(index["labels"], dtype=np.int64)
        # 写时复制的映射：多个 trial 共享同一份页，且 torch 不抱怨只读
        images = np.load(_array_path(spec), mmap_mode="c")
    rows = _split_rows(splits, labels, spec.split_seed)
    return _dataset(spec, images, labels, rows, class_names)


def _dataset(
    spec: DataSpec,
    images: np.ndarray,
    labels: np.ndarray,
    rows: dict[SplitName, np.ndarray],
    class_names: tuple[str, ...],
) -> Dataset:
    train = rows["train"]
    if spec.train_images is not None:
        train = _even_subset(labels, train, spec.train_images, spec.split_seed)

    def split(which: np.ndarray) -> Split:
        return Split(images=_rows_of(images, which), labels=labels[which])

    return Dataset(
        train=split(train),
        validation=split(rows["validation"]),
        test=split(rows["test"]) if len(rows["test"]) else None,
        class_names=class_names,
    )


def _rows_of(images: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """A view where the rows follow one another, so that a memory map stays one."""
    if len(rows) and rows[-1] - rows[0] == len(rows) - 1 and bool((np.diff(rows) == 1).all()):
        together: np.ndarray = images[rows[0] : rows[-1] + 1]
        return together
    chosen: np.ndarray = images[rows]
    return chosen


# ---- digits -----------------------------------------------------------------------------------------------


def _load_digits(spec: DataSpec) -> Dataset:
    if spec.image_size != DIGITS_SIZE:
        raise CoreError(f"digits are {DIGITS_SIZE} pixels wide: data.image_size must be {DIGITS_SIZE}")
    images, labels = _read_digits()
    if hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest() != spec.digest:
        raise CoreError("the digits of the installed scikit-learn are not those of data.digest")
    train, validation, test = _stratified(labels, DIGITS_FRACTIONS, spec.split_seed)
    rows: dict[SplitName, np.ndarray] = {"train": train, "validation": validation, "test": test}
    return _dataset(spec, images, labels, rows, tuple(str(digit) for digit in range(10)))


@lru_cache(maxsize=1)
def _read_digits() -> tuple[np.ndarray, np.ndarray]:
    """The 1,797 digits of scikit-learn (UCI optdigits test set): uint8 (N, 16, 16, 3) and int64 (N,).

    Values 0..16 become 0..255; each pixel becomes 2x2, so that the mini network's poolings have room.
    """
    # 直接读包内文件，不导入 scikit-learn：它会带来第二个 OpenMP 运行时
    found = importlib.util.find_spec("sklearn")
    if found is None or not found.submodule_search_locations:
        raise CoreError("the digits need scikit-learn's package data; install scikit-learn")
    path = Path(found.submodule_search_locations[0]) / "datasets" / "data" / "digits.csv.gz"
    try:
        with gzip.open(path, "rt", encoding="ascii") as file:
            table = np.loadtxt(file, delimiter=",", dtype=np.int64)
    except OSError as error:
        raise CoreError(f"scikit-learn's digits cannot be read at {path}: {error}") from error
    levels = np.round(table[:, :64].reshape(-1, 8, 8) * (255.0 / 16.0)).astype(np.uint8)
    large = levels.repeat(2, axis=1).repeat(2, axis=2)
    return np.repeat(large[..., None], 3, axis=3), table[:, 64].copy()


# ---- splits -----------------------------------------------------------------------------------------------


def _shuffled(rows: np.ndarray, *key: str | int) -> np.ndarray:
    digest = hashlib.sha256("\n".join(str(part) for part in key).encode()).digest()
    generator = np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:8], "big")))
    return generator.permutation(rows)


def _stratified(labels: np.ndarray, fractions: Sequence[float], seed: int) -> list[np.ndarray]:
    """Splits 0 .. N - 1 into parts with the same share of every class; rows of a part ascend."""
    parts: list[list[np.ndarray]] = [[] for _ in fractions]
    bounds = np.cumsum(fractions)[:-1]
    for label in np.unique(labels):
        rows = _shuffled(np.flatnonzero(labels == label), "split", seed, int(label))
        cuts = [round(bound * len(rows)) for bound in bounds]
        for part, piece in zip(parts, np.split(rows, cuts), strict=True):
            part.append(piece)
    return [np.sort(np.concatenate(part)) for part in parts]


def _split_rows(splits: Sequence[str], labels: np.ndarray, split_seed: int) -> dict[SplitName, np.ndarray]:
    """Rows of train, validation and test; without val/ a tenth of every training class is held out."""
    names = np.asarray(splits)
    train, validation = np.flatnonzero(names == "train"), np.flatnonzero(names == "val")
    if len(validation) == 0:
        kept, held = _stratified(labels[train], (1 - HELD_OUT_FRACTION, HELD_OUT_FRACTION), split_seed)
        train, validation = train[kept], train[held]
    return {"train": train, "validation": validation, "test": np.flatnonzero(names == "test")}


def _even_subset(labels: np.ndarray, rows: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Draws `count` rows with the classes as even as they come."""
    if count > len(rows):
        raise CoreError(f"data.train_images {count} is more than the {len(rows)} training images there are")
    by_class = [_shuffled(rows[labels[rows] == label], "subset", seed, int(label)) for label in np.unique(labels)]
    ranked = sorted((place, which) for which, group in enumerate(by_class) for place in range(len(group)))
    return np.sort(np.asarray([by_class[which][place] for place, which in ranked[:count]], dtype=np.int64))


# ---- trees of class folders -------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Tree:
    root: Path
    class_names: tuple[str, ...]
    paths: tuple[Path, ...]
    splits: tuple[str, ...]
    labels: np.ndarray


def _read_tree(root: Path | None) -> _Tree:
    """Lists the images of train/, val/ and test/, sorted by class and name."""
    if root is None:
        raise CoreError("this data set lies in a folder: say where with --data-root DIR (train/ and val/ or test/)")
    if not root.is_dir():
        raise CoreError(f"data folder {root} does not exist; it should hold train/ and val/ or test/")
    if not (root / "train").is_dir():
        raise CoreError(f"data folder {root} has no train/; it should hold train/ and val/ or test/")
    present = [name for name in ("train", "val", "test") if (root / name).is_dir()]
    if present == ["train"]:
        raise CoreError(f"data folder {root} has only train/; it should hold val/ or test/ too")
    classes = {name: _class_folders(root / name) for name in present}
    for name in present[1:]:
        _check_same_classes(root, classes["train"], name, classes[name])
    paths: list[Path] = []
    splits: list[str] = []
    labels: list[int] = []
    for name in present:
        for label, folder in enumerate(classes["train"]):
            images = _images_in(root / name / folder)
            paths += images
            splits += [name] * len(images)
            labels += [label] * len(images)
    return _Tree(root, tuple(classes["train"]), tuple(paths), tuple(splits), np.asarray(labels, dtype=np.int64))


def _class_folders(folder: Path) -> list[str]:
    names = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))
    if len(names) < 2:
        raise CoreError(f"{folder} has {len(names)} class folders; a classification needs at least two")
    return names


def _check_same_classes(root: Path, train: list[str], name: str, other: list[str]) -> None:
    missing, extra = sorted(set(train) - set(other)), sorted(set(other) - set(train))
    if not missing and not extra:
        return
    parts = []
    if missing:
        parts.append(f"only in train: {_some(missing)}")
    if extra:
        parts.append(f"only in {name}: {_some(extra)}")
    raise CoreError(f"{root}: the classes of train and {name} differ; {'; '.join(parts)}")


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _images_in(folder: Path) -> list[Path]:
    images = sorted(entry.path for entry in os.scandir(folder) if Path(entry.name).suffix.lower() in IMAGE_SUFFIXES)
    if not images:
        raise CoreError(f"class folder {folder} has no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
    return [Path(path) for path in images]


Manifest = list[tuple[str, int, str]]


def _manifest(tree: _Tree, cache: Path | None) -> Manifest:
    """(relative path, size, SHA-256) of every image; hashes of unchanged files come from the cache."""
    known: dict[str, list[str | int]] = {}
    place = None
    if cache is not None:
        name = hashlib.sha256(str(tree.root.resolve()).encode()).hexdigest()[:16]
        place = cache / f"manifest-{name}.json"
        try:
            known = json.loads(place.read_text())
        except (OSError, json.JSONDecodeError):
            known = {}
    with ThreadPoolExecutor(THREADS) as pool:
        entries = list(pool.map(lambda path: _entry(tree.root, path, known), tree.paths))
    fresh = dict(entries)
    if place is not None and fresh != known:
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            _replace(place, lambda path: path.write_text(json.dumps(fresh)))
        except OSError as error:
            raise CoreError(f"the cache {place.parent} cannot be written: {error.strerror}") from error
    return sorted((name, int(size), str(digest)) for name, (_, size, digest) in fresh.items())


def _entry(root: Path, path: Path, known: dict[str, list[str | int]]) -> tuple[str, list[str | int]]:
    name = path.relative_to(root).as_posix()
    try:
        status = path.stat()
        old = known.get(name)
        if old is not None and old[0] == status.st_mtime_ns and old[1] == status.st_size:
            return name, old
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise CoreError(f"image {path} cannot be read: {error.strerror}") from error
    return name, [status.st_mtime_ns, status.st_size, digest]


def _digest(manifest: Manifest) -> str:
    lines = "".join(f"{name}\t{size}\t{digest}\n" for name, size, digest in manifest)
    return hashlib.sha256(lines.encode()).hexdigest()


def _decode_tree(spec: DataSpec, progress: Callable[[int, int], None] | None) -> tuple[_Tree, np.ndarray]:
    """Decodes every image to uint8 (N, size, size, 3) with a pool of threads."""
    tree = _read_tree(Path(spec.root) if spec.root is not None else None)
    digest = _digest(_manifest(tree, Path(spec.cache) if spec.cache is not None else None))
    if digest != spec.digest:
        raise CoreError(
            f"the images in {tree.root} are not those of data.digest {spec.digest[:12]}: they are {digest[:12]}"
        )
    images = np.empty((len(tree.paths), spec.image_size, spec.image_size, 3), dtype=np.uint8)
    with ThreadPoolExecutor(THREADS) as pool:
        decoded: Iterable[np.ndarray] = pool.map(lambda path: decode_image(path, spec.image_size), tree.paths)
        for row, image in enumerate(decoded):
            images[row] = image
            if progress is not None:
                progress(row + 1, len(tree.paths))
    return tree, images


def decode_image(path: Path, size: int) -> np.ndarray:
    """Decodes an image: RGB, shorter side resized to `size`, centre crop; never squashed (paper section 2).

    Args:
        path: An image file; grey, palette, alpha, CMYK and 16-bit images become RGB.
        size: Height and width in pixels.

    Returns:
        uint8 (size, size, 3).

    Raises:
        CoreError: The image cannot be read; the message names it and the reason.
    """
    try:
        with Image.open(path) as opened:
            image = _rgb(opened)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = "not an image" if "cannot identify" in str(error) else str(error)
        raise CoreError(f"image {path} cannot be read: {reason}") from error
    width, height = image.size
    if min(width, height) != size:
        scale = size / min(width, height)
        width, height = max(size, round(width * scale)), max(size, round(height * scale))
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - size) // 2, (height - size) // 2
    return np.asarray(image.crop((left, top, left + size, top + size)))


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16") or image.mode == "I":
        # Pillow 的直接转换会把 16 位截断成全白
        levels = np.asarray(image, dtype=np.float64) / 257.0
        return Image.fromarray(np.round(levels).clip(0, 255).astype(np.uint8)).convert("RGB")
    return image.convert("RGB")


# ---- cache ------------------------------------------------------------------------------------------------


def _array_path(spec: DataSpec) -> Path:
    return Path(spec.cache or ".") / f"{spec.digest[:32]}-{spec.image_size}-v{spec.preparation}.npy"


def _index_path(spec: DataSpec) -> Path:
    return Path(spec.cache or ".") / f"{spec.digest[:32]}.json"


def _save_array(path: Path, images: np.ndarray) -> None:
    with path.open("wb") as file:
        np.save(file, images)
        file.flush()
        os.fsync(file.fileno())


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    """Writes beside `path` and renames, so that two processes may prepare the same data at once."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    try:
        write(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
