"""Preparing images: a tree or CIFAR-10 becomes a prepared folder (see `prepared`), in constant memory.

Images are decoded in parallel, written one after another, and every finished part is noted, so that a killed
preparation goes on where it was. The folder appears under its name only when it is whole. Loads no torch.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import IO

import numpy as np

from alexnet_core.configuration.wording import counted
from alexnet_core.data.class_names import code_points, look_of, same_look
from alexnet_core.data.dataset import Decoded, ImageSource
from alexnet_core.data.image_file import BadImage, decode_and_look, without_picture_warnings
from alexnet_core.data.image_tree import Tree, some
from alexnet_core.data.manifest import MOST_THREADS, Stamp, file_stamp
from alexnet_core.data.prepared_folder import (
    FORMAT,
    MANIFEST,
    PreparedManifest,
    is_prepared,
    read_lines,
    read_manifest,
)
from alexnet_core.data.preparing.finishing import MOST_NAMED, BadImages, bad_message, finish
from alexnet_core.data.preparing.partial_folder import PARTIAL_FORMAT, PartialFolder, Progress, write_split
from alexnet_core.data.splits import evenly_spaced
from alexnet_core.errors import CoreError
from alexnet_core.process.control_groups import cpu_cores
from alexnet_core.process.files import flush_folder, is_utf8, shown

# 已备好的文件夹里，每个 split 重新核对这么多个文件的内容
LOOKED_AT = 100
WRITERS = 4
# 只有准备时才要的文件
WORKING = ("-bad.tsv", "-odd.tsv", "-kept.bin")
_SPARE_BYTES = 64 * 1024**2


def tree_source(tree: Tree) -> ImageSource:
    """Returns the images of a tree of class folders."""

    def read(name: str, size: int) -> Decoded:
        path = tree.path(name)
        if "\t" in name or "\n" in name:
            raise BadImage(path, "its name has a tab or a line break")
        if not is_utf8(name):
            raise BadImage(path, "its name is not UTF-8")
        if path.exists() and not path.is_file() and not path.is_dir():
            raise BadImage(path, "it is no file")
        try:
            # 先记时间再读：读的时候变了也看得出来
            stamp = file_stamp(path)
            content = path.read_bytes()
        except OSError as error:
            raise BadImage(path, error.strerror or str(error)) from error
        pixels, oddity = decode_and_look(path, size, content)
        return Decoded(pixels, len(content), hashlib.sha256(content).hexdigest(), stamp, oddity)

    def look(name: str) -> tuple[int, str]:
        content = tree.path(name).read_bytes()
        return len(content), hashlib.sha256(content).hexdigest()

    def stamp_of(name: str) -> Stamp:
        return file_stamp(tree.path(name))

    where = str(tree.root.resolve())
    return ImageSource(
        where, tree.class_names, tree.names, tree.labels, read, look, stamp_of, tree.places, tree.remarks
    )


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
        threads: Threads that decode; None for one per core, of a container for one per core of its quota.
        progress: Called with (images done, images in all).

    Returns:
        The manifest.

    Raises:
        CoreError: Images cannot be used, the disk is too small, or `destination` is something else.
    """
    # “.” 没有名字，锁和临时文件夹却要按名字放在它旁边
    destination = destination.resolve()
    _check_outside(destination, source)
    identity = _identity(source, image_size, preparation)
    with _locked(destination):
        if is_prepared(destination):
            return _checked(destination, source, image_size, preparation, bad_images)
        if destination.exists() and any(destination.iterdir()):
            raise CoreError(
                f"{destination} exists and was not made by the preparation; give a folder that is not there"
            )
        partial = destination.with_name(f"{destination.name}.partial")
        _check_disk(partial, disk_need(source, image_size))
        if is_prepared(partial):
            # 上次已经做完，只差改名
            manifest = _checked(partial, source, image_size, preparation, bad_images)
            _publish(partial, destination)
            return manifest
        with without_picture_warnings():
            # 接着上次的做；身份不同就从头开始
            folder = PartialFolder(source, partial, image_size, identity)
            arrays = _written(folder, threads or cpu_cores(), progress)
        manifest = finish(folder, arrays, preparation, bad_images)
        _publish(partial, destination)
        return manifest


def _written(folder: PartialFolder, threads: int, progress: Progress | None) -> dict[str, str]:
    """Decodes what is still to be decoded; returns the hash of every split's array."""
    splits = folder.source.names
    with ThreadPoolExecutor(threads, "decode") as pool, ThreadPoolExecutor(WRITERS, "write") as writers:
        arrays = {split: write_split(folder, split, pool, writers, progress) for split in splits}
    # 解码以后又变了的，像素就不再是这些文件的
    if changed := [shown(name) for split in splits for name in folder.changed(split)]:
        raise CoreError(
            f"{some(changed, MOST_NAMED)} changed while it was prepared; the same command again takes it as it is then"
        )
    return arrays


def _check_outside(destination: Path, source: ImageSource) -> None:
    """Refuses a destination among the images."""
    for names in source.names.values():
        folder = source.places.get(names[0], names[0]).split("/")[0]
        if destination.is_relative_to(Path(source.description) / folder):
            raise CoreError(f"{destination} lies in the images themselves ({folder}/); give a folder outside them")


def decode_all(
    paths: Sequence[Path], image_size: int, progress: Progress | None = None
) -> tuple[np.ndarray, list[str]]:
    """Decodes images into a temporary file, so that their number does not fill the memory.

    Args:
        paths: Image files.
        image_size: Height and width in pixels.
        progress: Called with (images done, images in all).

    Returns:
        uint8 (N, image_size, image_size, 3), mapped, whose file goes with it; and of every image how it looks other
        than in a viewer, empty where it does not.

    Raises:
        CoreError: Images cannot be used (named), or there is no room for them.
    """
    shape = (len(paths), image_size, image_size, 3)
    # 已删除的临时文件：映射一释放，磁盘就还回去
    with tempfile.TemporaryFile() as file:
        try:
            # 先占住空间：映射写满磁盘是 SIGBUS，不是错误信息
            os.posix_fallocate(file.fileno(), 0, int(np.prod(shape)))
        except OSError as error:
            raise CoreError(
                f"{counted(len(paths), 'image needs', 'images need')} {np.prod(shape) / 1e9:.2f} GB in "
                f"{tempfile.gettempdir()}: {error.strerror}; "
                "make room, or set TMPDIR"
            ) from error
        images = np.memmap(file, np.uint8, "r+", shape=shape)
    bad, oddities = list[str](), [""] * len(paths)

    def decode(row: int) -> None:
        try:
            images[row], oddities[row] = decode_and_look(paths[row], image_size)
        except BadImage as error:
            bad.append(f"{error.path} ({error.reason})")

    with without_picture_warnings(), ThreadPoolExecutor(cpu_cores(), "decode") as pool:
        for done, _ in enumerate(pool.map(decode, range(len(paths))), start=1):
            if progress is not None and (done % 256 == 0 or done == len(paths)):
                progress(done, len(paths))
    if bad:
        raise CoreError(f"{counted(len(bad), 'image')} cannot be used: {some(sorted(bad), MOST_NAMED)}")
    return images, oddities


def _publish(partial: Path, destination: Path) -> None:
    """Gives the finished folder its name; what only the preparation needed goes."""
    for path in (partial / "state.npz", *(path for ending in WORKING for path in partial.glob(f"*{ending}"))):
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
            _lock(lock, destination)
            yield
    except OSError as error:
        raise CoreError(
            f"{destination} cannot be written: {error.strerror}; what is prepared stays, go on later"
        ) from error


def _lock(lock: IO[str], destination: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
    except OSError as error:
        raise CoreError(
            f"{destination} cannot be locked: {error.strerror}; prepare on a file system with locks (a local disk), "
            "and "
            "move what that makes"
        ) from error


def _identity(source: ImageSource, image_size: int, preparation: int) -> str:
    """What a partial folder must have been begun with to be gone on with."""
    identity = hashlib.sha256(f"{FORMAT} {PARTIAL_FORMAT} {preparation} {image_size} {source.description}\n".encode())
    for split, names in source.names.items():
        identity.update(f"{split}\n".encode())
        for name in names:
            identity.update(name.encode("utf-8", "surrogateescape") + b"\n")
    return identity.hexdigest()


def _checked(
    destination: Path, source: ImageSource, image_size: int, preparation: int, bad_images: BadImages
) -> PreparedManifest:
    """The manifest of what is prepared already, if it is of these images as they are now."""
    manifest = read_manifest(destination)
    if (manifest.preparation, manifest.image_size) != (preparation, image_size) or not same_look(
        manifest.class_names, source.class_names
    ):
        raise CoreError(
            f"{destination} holds other prepared data ({manifest.image_size} pixels, {len(manifest.class_names)} "
            "classes); give a folder that is not there"
        )
    by_look = {look_of(name): name for name in manifest.class_names}
    for now in source.class_names:
        if (before := by_look[look_of(now)]) != now:
            # 看起来一样，字节不一样：摘要也就不同，算不得同一份数据
            raise CoreError(
                f"{destination} was prepared from a tree that spells class {now} in other code points "
                f"({code_points(before)}) than {source.description} does ({code_points(now)}), so it has another "
                "digest: rename the class folders, or give a folder that is not there"
            )
    bad = read_lines(destination / "bad_images.tsv")
    left_out = {line.split("\t")[0] for line in bad}
    _check_left_out(destination, source, image_size, left_out)
    for split in manifest.splits:
        if split not in source.names:
            raise _other_images(destination, manifest.source, f"{split} is not there any more")
    is_elsewhere = manifest.source != source.description
    for split, names in source.names.items():
        lines = read_lines(destination / f"{split}-files.tsv") if split in manifest.splits else []
        prepared = [line.split("\t")[0] for line in lines]
        if prepared != [name for name in names if shown(name) not in left_out]:
            raise _other_images(destination, manifest.source, f"{split} has other files now")
        for name in _changed_since(destination / MANIFEST, source, lines, is_elsewhere):
            raise _other_images(destination, manifest.source, f"{name} is not the file that was prepared")
    # 那张坏图已经不在了，就没有什么可修的
    there = {shown(name) for names in source.names.values() for name in names if shown(name) in left_out}
    still_bad = [line for line in bad if line.split("\t")[0] in there]
    if still_bad and bad_images == "fail":
        raise CoreError(bad_message(source, still_bad, f"{destination}/bad_images.tsv names them all"))
    return manifest


def _check_left_out(destination: Path, source: ImageSource, image_size: int, left_out: set[str]) -> None:
    """Refuses a folder that lacks an image which could be used by now."""
    mended = []
    for name in (name for names in source.names.values() for name in names if shown(name) in left_out):
        try:
            source.read(name, image_size)
            mended.append(name)
        except BadImage:
            continue
    if mended:
        raise CoreError(
            f"{destination} was prepared without {some(mended, MOST_NAMED)}, which can be used now; "
            f"move {destination} away to prepare it anew, or give a folder that is not there"
        )


def _changed_since(made: Path, source: ImageSource, lines: Sequence[str], is_elsewhere: bool) -> Iterator[str]:
    """Names whose file is not the one that was prepared.

    Read again is every file that has a time of change after the folder was made or lies in a folder that has, and some
    of the others; of a source elsewhere than the prepared one every file is.
    """
    changed_at = _folders_changed_at(source)
    some_others = set(evenly_spaced(len(lines), LOOKED_AT).tolist())
    made_at = made.stat().st_mtime_ns

    def is_changed(place: int) -> bool:
        name, size, digest = lines[place].split("\t")
        try:
            # 改动时间（ctime）没有程序能往回拨，mtime 却可以
            # 整个文件夹换进来时，里面的文件时间不变，文件夹自己的变
            is_older = not is_elsewhere and max(source.stamp(name)[2], changed_at(name)) < made_at
            if is_older and place not in some_others:
                return False
            return source.look(name) != (int(size), digest)
        except OSError:
            return True

    with ThreadPoolExecutor(min(MOST_THREADS, cpu_cores())) as pool:
        changed = list(pool.map(is_changed, range(len(lines))))
    return (lines[place].split("\t")[0] for place in np.flatnonzero(changed).tolist())


def _folders_changed_at(source: ImageSource) -> Callable[[str], int]:
    """Returns when the folders in which an image lies were last changed, in nanoseconds; 0 where it lies in none."""
    root = Path(source.description)

    @cache
    def changed_at(folder: Path) -> int:
        nanoseconds = folder.stat().st_ctime_ns
        return nanoseconds if folder == root else max(nanoseconds, changed_at(folder.parent))

    if not root.is_dir():
        return lambda name: 0
    return lambda name: changed_at((root / source.places.get(name, name)).parent)


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
