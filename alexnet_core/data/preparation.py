"""Preparing images: a tree or CIFAR-10 becomes a prepared folder (see `prepared`), in constant memory.

Images are decoded in parallel, written one after another, and every finished part is noted, so that a killed
preparation goes on where it was. The folder appears under its name only when it is whole. Loads no torch.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from alexnet_core.data.dataset import Decoded, ImageSource
from alexnet_core.data.image_file import BadImage, decode_image, without_picture_warnings
from alexnet_core.data.image_tree import Tree
from alexnet_core.data.partial_folder import BadImages, PartialFolder, Progress, finish, read_lines, write_split
from alexnet_core.data.prepared_folder import (
    FORMAT,
    PreparedManifest,
    is_prepared,
    read_manifest,
)
from alexnet_core.errors import CoreError
from alexnet_core.process.files import flush_folder, is_utf8, shown

# 已备好的文件夹里，每个 split 重新核对这么多个文件的内容
LOOKED_AT = 100
WRITERS = 4
_SPARE_BYTES = 64 * 1024**2


def tree_source(tree: Tree) -> ImageSource:
    """Returns the images of a tree of class folders."""

    def read(name: str, size: int) -> Decoded:
        path = tree.root / name
        if "\t" in name or "\n" in name:
            raise BadImage(path, "its name has a tab or a line break")
        if not is_utf8(name):
            raise BadImage(path, "its name is not UTF-8")
        if path.exists() and not path.is_file() and not path.is_dir():
            raise BadImage(path, "it is no file")
        try:
            content = path.read_bytes()
        except OSError as error:
            raise BadImage(path, error.strerror or str(error)) from error
        pixels = decode_image(path, size, content)
        return Decoded(pixels, len(content), hashlib.sha256(content).hexdigest())

    def look(name: str) -> tuple[int, str]:
        content = (tree.root / name).read_bytes()
        return len(content), hashlib.sha256(content).hexdigest()

    return ImageSource(str(tree.root.resolve()), tree.class_names, tree.names, tree.labels, read, look)


def disk_need(source: ImageSource, image_size: int) -> int:
    """Returns the bytes that the prepared folder will take."""
    images = sum(len(names) for names in source.names.values())
    return images * (image_size**2 * 3 + 8 + 150) + _SPARE_BYTES


def prepare(
    source: ImageSource,
    destination: Path,
    image_size: int = 256,
    *,
    preparation: int = 1,
    bad_images: BadImages = "fail",
    threads: int | None = None,
    progress: Progress | None = None,
) -> PreparedManifest:
    """Makes a prepared folder, or goes on with one; does nothing where the same one is there.

    Args:
        source: The images.
        destination: The folder to make.
        image_size: Height and width in pixels: shorter side resized, then centre crop (paper section 2: 256).
        preparation: Version of the preparation, see `DataSpec`.
        bad_images: `fail` names all images that cannot be used, and makes nothing; `skip` leaves them out.
        threads: Threads that decode; None for one per core.
        progress: Called with (images done, images in all).

    Returns:
        The manifest.

    Raises:
        CoreError: Images cannot be used, the disk is too small, or `destination` is something else.
    """
    # “.” 没有名字，锁和临时文件夹却要按名字放在它旁边
    destination = destination.resolve()
    for split in source.names:
        if destination.is_relative_to(Path(source.description) / split):
            raise CoreError(f"{destination} lies in the images themselves ({split}/); give a folder outside them")
    identity = _identity(source, image_size, preparation)
    with _locked(destination):
        if is_prepared(destination):
            return _checked(destination, source, image_size, preparation)
        if destination.exists() and any(destination.iterdir()):
            raise CoreError(
                f"{destination} exists and was not made by the preparation; give a folder that is not there"
            )
        partial = destination.with_name(f"{destination.name}.partial")
        _check_disk(partial, disk_need(source, image_size))
        if is_prepared(partial):
            # 上次已经做完，只差改名
            manifest = _checked(partial, source, image_size, preparation)
            _publish(partial, destination)
            return manifest
        count = threads or len(os.sched_getaffinity(0))
        with (
            without_picture_warnings(),
            ThreadPoolExecutor(count, "decode") as pool,
            ThreadPoolExecutor(WRITERS, "write") as writers,
        ):
            # 接着上次的做；身份不同就从头开始
            folder = PartialFolder(source, partial, image_size, identity)
            arrays = {split: write_split(folder, split, pool, writers, progress) for split in source.names}
        manifest = finish(folder, arrays, preparation, bad_images)
        _publish(partial, destination)
        return manifest


def _publish(partial: Path, destination: Path) -> None:
    """Gives the finished folder its name; what only the preparation needed goes."""
    for path in (partial / "state.npz", *partial.glob("*-bad.tsv"), *partial.glob("*-kept.bin")):
        path.unlink(missing_ok=True)
    if destination.is_dir():
        destination.rmdir()
    partial.rename(destination)
    flush_folder(destination.parent)


@contextmanager
def _locked(destination: Path) -> Iterator[None]:
    """Lets one process at a time prepare a folder; another waits and then finds it made."""
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        with (destination.parent / f".{destination.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
    except OSError as error:
        raise CoreError(
            f"{destination} cannot be written: {error.strerror}; what is prepared stays, go on later"
        ) from error


def _identity(source: ImageSource, image_size: int, preparation: int) -> str:
    """What a partial folder must have been begun with to be gone on with."""
    found = hashlib.sha256(f"{FORMAT} {preparation} {image_size} {source.description}\n".encode())
    for split, names in source.names.items():
        found.update(f"{split}\n".encode())
        for name in names:
            found.update(name.encode("utf-8", "surrogateescape") + b"\n")
    return found.hexdigest()


def _checked(destination: Path, source: ImageSource, image_size: int, preparation: int) -> PreparedManifest:
    """The manifest of what is prepared already, if it is of these images: all names, and the files of some."""
    manifest = read_manifest(destination)
    wanted = (preparation, image_size, source.class_names)
    if (manifest.preparation, manifest.image_size, manifest.class_names) != wanted:
        raise CoreError(
            f"{destination} holds other prepared data ({manifest.image_size} pixels, {len(manifest.class_names)} "
            "classes); give a folder that is not there"
        )
    left_out = {line.split("\t")[0] for line in read_lines(destination / "bad_images.tsv")}
    for split, names in source.names.items():
        lines = read_lines(destination / f"{split}-files.tsv") if split in manifest.splits else []
        prepared = [line.split("\t")[0] for line in lines]
        if prepared != [name for name in names if shown(name) not in left_out]:
            raise _other_images(destination, manifest.source, f"{split} has other files now")
        for place in np.unique(np.linspace(0, len(lines) - 1, min(LOOKED_AT, len(lines))).astype(int)).tolist():
            name, size, digest = lines[place].split("\t")
            try:
                unchanged = source.look(name) == (int(size), digest)
            except OSError:
                unchanged = False
            if not unchanged:
                raise _other_images(destination, manifest.source, f"{name} is not the file that was prepared")
    return manifest


def _other_images(destination: Path, source: str, what: str) -> CoreError:
    return CoreError(
        f"{destination} was prepared from other images (of {source}): {what}; give a folder that is not there"
    )


def _check_disk(partial: Path, need: int) -> None:
    done = sum(path.stat().st_size for path in partial.iterdir()) if partial.is_dir() else 0
    free = shutil.disk_usage(partial.parent).free + done
    if need > free:
        raise CoreError(
            f"preparing needs {need / 1e9:.2f} GB at {partial.parent}, only {free / 1e9:.2f} GB are free; "
            "make room, or give another folder"
        )
