"""The content of image files: stamps and hashes, the digest that names a data set, and images that are there twice."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from alexnet_core.configuration.wording import counted
from alexnet_core.data.image_tree import MOST_SHOWN, Tree, some
from alexnet_core.data.splits import held_out, resplit
from alexnet_core.errors import CoreError
from alexnet_core.process.control_groups import cpu_cores
from alexnet_core.process.files import is_utf8, replaced, shown

MOST_THREADS = 8
ManifestLine = tuple[str, int, str]
Stamp = tuple[int, int, int, int]


def file_stamp(path: Path) -> Stamp:
    """Returns bytes, time of writing and time of change in ns, and inode of a file.

    No program that writes leaves all of them: `rsync -a` and `tar` put back the time of writing, never that of change.

    Raises:
        OSError: There is no such file.
    """
    status = path.stat()
    # NFS 的 inode 可以用满 64 位
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino & (2**63 - 1)


def tree_manifest(tree: Tree, cache: Path | None) -> list[ManifestLine]:
    """Returns (name, size, SHA-256) of every image.

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
    with ThreadPoolExecutor(min(MOST_THREADS, cpu_cores())) as pool:
        entries = list(pool.map(lambda name: _entry(tree, name, known), names))
    fresh = dict(entries)
    if place is not None and fresh != known:
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            with replaced(place) as temporary:
                temporary.write_text(json.dumps(fresh))
        except OSError as error:
            raise CoreError(f"the cache {place.parent} cannot be written: {error.strerror}") from error
    return [(name, int(entry[0]), str(entry[-1])) for name, entry in fresh.items()]


def _cached(place: Path) -> dict[str, list[str | int]]:
    """The hashes that are kept; none where the file is not what it should be."""
    try:
        content = json.loads(place.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(content, dict):
        return {}
    kinds = [int, int, int, int, str]
    return {
        name: entry
        for name, entry in content.items()
        if isinstance(entry, list) and list(map(type, entry)) == kinds and len(entry[-1]) == 64
    }


def _entry(tree: Tree, name: str, known: dict[str, list[str | int]]) -> tuple[str, list[str | int]]:
    """An image's stamp and hash; a file whose stamp is the one that is kept is not read."""
    path = tree.path(name)
    if not is_utf8(name):
        raise CoreError(f"image {tree.root / shown(name)} has a name that is not UTF-8; rename it")
    try:
        stamp = file_stamp(path)
        old = known.get(name)
        if old is not None and tuple(old[:-1]) == stamp:
            return name, old
        # 名字取决于内容：哈希整个文件，而不是信任时间
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise CoreError(f"image {path} cannot be read: {error.strerror}") from error
    return name, [*stamp, digest]


def manifest_digest(lines: Iterable[ManifestLine]) -> str:
    """Returns the SHA-256 that names the data's content, whatever the order of the lines."""
    content_hash = hashlib.sha256()
    for name, size, digest in sorted(lines):
        content_hash.update(f"{name}\t{size}\t{digest}\n".encode("utf-8", "surrogateescape"))
    return content_hash.hexdigest()


def duplicates(
    lines: Mapping[str, Sequence[ManifestLine]],
    labels: Mapping[str, np.ndarray],
    split_seed: int,
    *,
    drawing: int = 0,
    holds_out: bool = True,
) -> tuple[str, ...]:
    """Says which images stand on both sides of a split, and which have two classes; equal bytes are the same image.

    Args:
        lines: Of every image file in the order of `labels`, by split folder.
        labels: int64 (N,), by split folder.
        split_seed: Seed of the split, where validation images are held out of the training images.
        drawing: Which drawing of them, `DataSpec.resplit`.
        holds_out: Whether they are, see `DataSpec`.

    Returns:
        Lines for the user; none where every image is there once.
    """
    # 只按哈希的前 64 位找；找到的才比整个哈希
    short = {split: np.array([int(line[2][:16], 16) for line in of], dtype=np.uint64) for split, of in lines.items()}
    every = np.concatenate(list(short.values()))
    ordered = np.sort(every)
    twice = ordered[1:][ordered[1:] == ordered[:-1]]
    if not len(twice):
        return ()
    parts = {split: np.full(len(of), {"train": 0, "val": 1, "test": 2}[split]) for split, of in labels.items()}
    if holds_out and "val" not in labels and "train" in labels:
        # 没有 val/ 时，训练图像里留出的那些就是验证集
        first = held_out(labels["train"], split_seed)
        parts["train"][resplit(labels["train"], *first, split_seed, drawing)[1]] = 1
    same: dict[str, list[tuple[int, int, str]]] = {}
    for split, of in lines.items():
        suspects = set(np.flatnonzero(np.isin(short[split], twice)).tolist())
        for row, (name, _, digest) in enumerate(of):
            if row in suspects:
                same.setdefault(digest, []).append((int(parts[split][row]), int(labels[split][row]), shown(name)))
    return tuple(_said_of(list(same.values())))


def _said_of(groups: Sequence[Sequence[tuple[int, int, str]]]) -> Iterator[str]:
    """The lines for groups of (part, class, name) of the same image."""
    parts = ("training", "validation", "test")
    for later, earlier in ((1, 0), (2, 0), (2, 1)):
        pairs = [
            f"{name} = {next(other for part, _, other in group if part == earlier)}"
            for group in groups
            if any(part == earlier for part, _, _ in group)
            for part, _, name in group
            if part == later
        ]
        if pairs:
            kind = f"{parts[earlier]} image" + ("" if len(pairs) == 1 else "s")
            are = "image is a" if len(pairs) == 1 else "images are"
            yield (
                f"{len(pairs)} {parts[later]} {are} {kind} too ({some(pairs, MOST_SHOWN)}): "
                f"the {parts[later]} error is not that of new images"
            )
    mixed = [group for group in groups if len({label for _, label, _ in group}) > 1]
    if mixed:
        named = [_two_classes(group) for group in mixed]
        stand = counted(len(mixed), "image stands", "images stand")
        yield f"{stand} in more than one class ({some(named, MOST_SHOWN)})"


def _two_classes(group: Sequence[tuple[int, int, str]]) -> str:
    _, label, first = group[0]
    return f"{first} = {next(name for _, other, name in group if other != label)}"
