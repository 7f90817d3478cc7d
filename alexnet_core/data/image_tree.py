"""Trees of class folders: `train/`, and `val/` or `test/` or both, each with one folder per class. Loads no torch.

ImageNet as torchvision unpacks it is such a tree.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from alexnet_core.data.image_file import IMAGE_SUFFIXES
from alexnet_core.errors import CoreError
from alexnet_core.process.files import is_utf8, replaced, shown

FOLDERS = ("train", "val", "test")
THREADS = min(8, os.cpu_count() or 1)
ManifestLine = tuple[str, int, str]


@dataclass(frozen=True)
class Tree:
    """The images of a tree, sorted by split, class and name.

    Attributes:
        root: Where it lies.
        class_names: In the order of the labels.
        names: Paths relative to the root, by split folder.
        labels: int64, by split folder.
        passed_over: What else lies in the class folders, as relative paths: folders, and files whose names do not
            end like an image's.
    """

    root: Path
    class_names: tuple[str, ...]
    names: dict[str, list[str]]
    labels: dict[str, np.ndarray]
    passed_over: tuple[str, ...] = ()


def read_tree(root: Path | None) -> Tree:
    """Lists the images of train/, val/ and test/.

    Raises:
        CoreError: A folder is missing or has no images, or the classes of the splits differ.
    """
    if root is None:
        raise CoreError("this data set lies in a folder: say where with --data-root DIR (train/ and val/ or test/)")
    if not root.is_dir():
        raise CoreError(f"data folder {root} does not exist; it should hold train/ and val/ or test/")
    if not (root / "train").is_dir():
        raise CoreError(f"data folder {root} has no train/; it should hold train/ and val/ or test/")
    present = [name for name in FOLDERS if (root / name).is_dir()]
    if present == ["train"]:
        raise CoreError(f"data folder {root} has only train/; it should hold val/ or test/ too")
    classes = {name: _class_folders(root / name) for name in present}
    for name in present[1:]:
        _check_same_classes(root, classes["train"], name, classes[name])
    names: dict[str, list[str]] = {}
    labels: dict[str, np.ndarray] = {}
    others: list[str] = []
    for split in present:
        by_class = [_images_in(root / split / folder, f"{split}/{folder}/", others) for folder in classes["train"]]
        names[split] = [name for images in by_class for name in images]
        labels[split] = np.repeat(np.arange(len(by_class), dtype=np.int64), [len(images) for images in by_class])
    return Tree(root, tuple(classes["train"]), names, labels, tuple(others))


def _class_folders(folder: Path) -> list[str]:
    try:
        names = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))
    except OSError as error:
        raise CoreError(f"{folder} cannot be read: {error.strerror}") from error
    strange = [name for name in names if not is_utf8(name)]
    if strange:
        raise CoreError(f"class folder {folder / shown(strange[0])} has a name that is not UTF-8; rename it")
    if len(names) < 2:
        raise CoreError(f"{folder} has {len(names)} class folders; a classification needs at least two")
    return names


def _check_same_classes(root: Path, train: list[str], name: str, other: list[str]) -> None:
    missing, extra = sorted(set(train) - set(other)), sorted(set(other) - set(train))
    if not missing and not extra:
        return
    parts = []
    if missing:
        parts.append(f"only in train: {some(missing, 5)}")
    if extra:
        parts.append(f"only in {name}: {some(extra, 5)}")
    raise CoreError(f"{root}: the classes of train and {name} differ; {'; '.join(parts)}")


def some(names: Sequence[str], most: int) -> str:
    """Returns the first names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _images_in(folder: Path, prefix: str, others: list[str]) -> list[str]:
    """The images of a class folder in order; what else is in it joins `others`."""
    try:
        entries = sorted(entry.name for entry in os.scandir(folder))
    except OSError as error:
        raise CoreError(f"{folder} cannot be read: {error.strerror}") from error
    images = [prefix + name for name in entries if Path(name).suffix.lower() in IMAGE_SUFFIXES]
    unlike = (name for name in entries if Path(name).suffix.lower() not in IMAGE_SUFFIXES)
    # 隐藏文件（.DS_Store 之类）不值一提
    others += [shown(prefix + name) for name in unlike if not name.startswith(".")]
    if not images:
        raise CoreError(f"class folder {folder} has no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
    return images


def tree_manifest(tree: Tree, cache: Path | None) -> list[ManifestLine]:
    """Returns (relative path, size, SHA-256) of every image.

    Args:
        tree: The tree.
        cache: Folder for the hashes of files that have not changed since; None hashes all of them.

    Raises:
        CoreError: An image cannot be read, or the cache cannot be written.
    """
    known: dict[str, list[str | int]] = {}
    place = None
    if cache is not None:
        name = hashlib.sha256(str(tree.root.resolve()).encode()).hexdigest()[:16]
        place = cache / f"manifest-{name}.json"
        known = _cached(place)
    names = [name for split in tree.names.values() for name in split]
    with ThreadPoolExecutor(THREADS) as pool:
        entries = list(pool.map(lambda name: _entry(tree.root, name, known), names))
    fresh = dict(entries)
    if place is not None and fresh != known:
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            with replaced(place) as temporary:
                temporary.write_text(json.dumps(fresh))
        except OSError as error:
            raise CoreError(f"the cache {place.parent} cannot be written: {error.strerror}") from error
    return [(name, int(size), str(digest)) for name, (_, size, digest) in fresh.items()]


def _cached(place: Path) -> dict[str, list[str | int]]:
    """The hashes that are kept; none where the file is not what it should be."""
    try:
        content = json.loads(place.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(content, dict):
        return {}
    kinds = [int, int, str]
    return {
        name: entry
        for name, entry in content.items()
        if isinstance(entry, list) and list(map(type, entry)) == kinds and len(entry[2]) == 64
    }


def _entry(root: Path, name: str, known: dict[str, list[str | int]]) -> tuple[str, list[str | int]]:
    path = root / name
    if not is_utf8(name):
        raise CoreError(f"image {root / shown(name)} has a name that is not UTF-8; rename it")
    try:
        status = path.stat()
        old = known.get(name)
        if old is not None and old[0] == status.st_mtime_ns and old[1] == status.st_size:
            return name, old
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise CoreError(f"image {path} cannot be read: {error.strerror}") from error
    return name, [status.st_mtime_ns, status.st_size, digest]


def manifest_digest(lines: Iterable[ManifestLine]) -> str:
    """Returns the SHA-256 that names the data's content, whatever the order of the lines."""
    found = hashlib.sha256()
    for name, size, digest in sorted(lines):
        found.update(f"{name}\t{size}\t{digest}\n".encode("utf-8", "surrogateescape"))
    return found.hexdigest()
