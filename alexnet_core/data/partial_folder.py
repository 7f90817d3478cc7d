"""A prepared folder that is not finished: parts written one after another, resumed after a kill."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np

from alexnet_core.data.image_file import BadImage
from alexnet_core.data.image_tree import some
from alexnet_core.data.moments import PixelMoments
from alexnet_core.data.prepared_folder import (
    FORMAT,
    MANIFEST,
    PreparedManifest,
    PreparedSplit,
)
from alexnet_core.errors import CoreError
from alexnet_core.process.files import replaced, shown

BadImages = Literal["fail", "skip"]
Progress = Callable[[int, int], None]
# 每部分约 32 MiB：内存与图像总数无关，中断最多重做这么多
PART_BYTES = 32 * 1024**2
# 每张一个任务时，线程之间的交接就要百分之一二的时间
AT_ONCE = 8
MOST_NAMED = 10
_HEADER = 128


@dataclass(frozen=True)
class Decoded:
    """An image ready to be written: its pixels, the bytes and the SHA-256 of its file."""

    pixels: np.ndarray
    size: int
    digest: str


@dataclass(frozen=True)
class ImageSource:
    """Where images come from.

    Attributes:
        description: For the manifest.
        class_names: In the order of the labels.
        names: Name of every image, by split folder.
        labels: int64, by split folder.
        read: Name and size in pixels to `Decoded`; raises BadImage.
        look: Name to the bytes and the SHA-256 of the image file as it is now; raises OSError.
    """

    description: str
    class_names: tuple[str, ...]
    names: dict[str, list[str]]
    labels: dict[str, np.ndarray]
    read: Callable[[str, int], Decoded]
    look: Callable[[str], tuple[int, str]]


@dataclass
class _SplitState:
    """How far a split is: images looked at, images kept, and the lengths of its text files."""

    looked_at: int = 0
    kept: int = 0
    files_bytes: int = 0
    bad_bytes: int = 0


@dataclass
class _State:
    """How far a preparation is."""

    identity: str
    splits: dict[str, _SplitState] = field(default_factory=dict)


@dataclass(frozen=True)
class _SplitFiles:
    """The files that a split grows in: pixels, names, what was left out, rows that were kept; and who writes pixels."""

    writers: ThreadPoolExecutor
    array: BinaryIO
    names: BinaryIO
    bad: BinaryIO
    rows: BinaryIO

    def flush(self) -> None:
        for file in (self.array, self.names, self.bad, self.rows):
            file.flush()
            os.fsync(file.fileno())


class PartialFolder:
    """A partial folder."""

    def __init__(
        self, source: ImageSource, folder: Path, image_size: int, identity: str, progress: Progress | None
    ) -> None:
        self._source, self._folder, self._size, self._progress = source, folder, image_size, progress
        self._moments, self._image_bytes = PixelMoments(image_size), image_size**2 * 3
        self._state = _State(identity)
        self._sums = {split: hashlib.sha256() for split in source.names}
        self._total = sum(len(names) for names in source.names.values())
        if not self._resume():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)

    def _resume(self) -> bool:
        try:
            with np.load(self._folder / "state.npz", allow_pickle=False) as saved:
                content = json.loads(str(saved["state"]))
                if content["identity"] != self._state.identity:
                    return False
                self._state.splits = {name: _SplitState(**split) for name, split in content["splits"].items()}
                self._moments.count = int(saved["count"])
                self._moments.total, self._moments.products = saved["total"], saved["products"]
        except (OSError, ValueError, KeyError, EOFError, TypeError):
            return False
        for split in self._state.splits:
            self._look_again(split)
        return True

    def _look_again(self, split: str) -> None:
        """Goes back to before the first image that could not be used and now can: it has been mended meanwhile."""
        state, names = self._state.splits[split], self._source.names[split]
        bad = set(_lines_to(self._folder / f"{split}-bad.tsv", state.bad_bytes))
        left_out = {line.split("\t")[0] for line in bad}
        for place, name in enumerate(names[: state.looked_at]):
            if shown(name) in left_out and not isinstance(self._decode(name), BadImage):
                self._go_back(split, place)
                return

    def _go_back(self, split: str, place: int) -> None:
        state, names = self._state.splits[split], self._source.names[split]
        before = {shown(name) for name in names[:place]}
        bad = _lines_to(self._folder / f"{split}-bad.tsv", state.bad_bytes)
        rows = np.fromfile(self._folder / f"{split}-kept.bin", dtype=np.int64, count=state.kept)
        state.looked_at, state.kept = place, int(np.searchsorted(rows, place))
        kept = _lines_to(self._folder / f"{split}-files.tsv", state.files_bytes)[: state.kept]
        state.files_bytes = sum(len(_line(line)) for line in kept)
        state.bad_bytes = sum(len(_line(line)) for line in bad if line.split("\t")[0] in before)
        if split == "train":
            self._moments = PixelMoments(self._size)
            images = (
                np.memmap(self._array(split), np.uint8, "r", _HEADER, (state.kept, self._size, self._size, 3))
                if state.kept
                else ()
            )
            self._moments.add(images)

    def _snapshot(self) -> dict[str, Any]:
        """How far it is now, as `_commit` writes it."""
        splits = {name: vars(split) for name, split in self._state.splits.items()}
        moments = self._moments
        moments.settle()
        return {
            "state": json.dumps({"identity": self._state.identity, "splits": splits}),
            "count": moments.count,
            "total": moments.total.copy(),
            "products": moments.products.copy(),
        }

    def _commit(self, files: _SplitFiles, snapshot: Mapping[str, Any], looked_at: int) -> int:
        files.flush()
        # 数据先落盘，再记进度：进度永远不会超前
        with replaced(self._folder / "state.npz") as path, path.open("wb") as file:
            np.savez(file, **snapshot)
        return looked_at

    def write_split(self, split: str, pool: ThreadPoolExecutor, writers: ThreadPoolExecutor) -> None:
        """Decodes the rest of a split; while one part is written and another flushed, the next is being decoded."""
        names = self._source.names[split]
        state = self._state.splits.setdefault(split, _SplitState())
        per_part = max(1, PART_BYTES // self._image_bytes)
        self._hash_again(split, state)
        with ExitStack() as stack:
            files = _SplitFiles(
                writers=writers,
                array=stack.enter_context(_opened(self._array(split), _HEADER + state.kept * self._image_bytes)),
                names=stack.enter_context(_opened(self._folder / f"{split}-files.tsv", state.files_bytes)),
                bad=stack.enter_context(_opened(self._folder / f"{split}-bad.tsv", state.bad_bytes)),
                rows=stack.enter_context(_opened(self._folder / f"{split}-kept.bin", state.kept * 8)),
            )
            starts = range(state.looked_at, len(names), per_part)
            ahead: list[Future[list[Decoded | BadImage]]] = []
            committer = stack.enter_context(ThreadPoolExecutor(1, "commit"))
            committed: Future[int] | None = None
            for start in starts:
                coming = ahead or self._submit(pool, names[start : start + per_part])
                ahead = self._submit(pool, names[start + per_part : start + 2 * per_part])
                self._write_part(split, start, [image for future in coming for image in future.result()], files)
                self._await(committed)
                # 落盘要等磁盘，期间解码照常进行
                committed = committer.submit(self._commit, files, self._snapshot(), self._looked_at())
            self._await(committed)

    def _looked_at(self) -> int:
        return sum(split.looked_at for split in self._state.splits.values())

    def _await(self, committed: Future[int] | None) -> None:
        """Waits until a part is noted, and says how many images are."""
        noted = committed.result() if committed is not None else None
        if noted is not None and self._progress is not None:
            self._progress(noted, self._total)

    def _hash_again(self, split: str, state: _SplitState) -> None:
        """The running hash cannot be stored, so a resumed split reads what it has."""
        if not state.kept:
            return
        with self._array(split).open("rb") as file:
            file.seek(_HEADER)
            for _ in range(state.kept):
                self._sums[split].update(hashlib.sha256(file.read(self._image_bytes)).digest())

    def _array(self, split: str) -> Path:
        return self._folder / f"{split}.npy"

    def _submit(self, pool: ThreadPoolExecutor, names: Sequence[str]) -> list[Future[list[Decoded | BadImage]]]:
        return [
            pool.submit(lambda some: [self._decode(name) for name in some], names[start : start + AT_ONCE])
            for start in range(0, len(names), AT_ONCE)
        ]

    def _decode(self, name: str) -> Decoded | BadImage:
        try:
            return self._source.read(name, self._size)
        except BadImage as error:
            return error

    def _write_part(self, split: str, start: int, part: Sequence[Decoded | BadImage], files: _SplitFiles) -> None:
        state, names = self._state.splits[split], self._source.names[split]
        good: list[Decoded] = []
        for name, image in zip(names[start : start + len(part)], part, strict=True):
            if isinstance(image, BadImage):
                state.bad_bytes += files.bad.write(_line(shown(name), " ".join(image.reason.split())))
                continue
            good.append(image)
            state.files_bytes += files.names.write(_line(name, str(image.size), image.digest))
        rows = [start + place for place, image in enumerate(part) if isinstance(image, Decoded)]
        files.rows.write(np.asarray(rows, dtype=np.int64).tobytes())
        start_byte = _HEADER + state.kept * self._image_bytes
        stored = [
            files.writers.submit(
                _store,
                files.array.fileno(),
                start_byte + place * self._image_bytes,
                [image.pixels for image in good[place : place + AT_ONCE]],
            )
            for place in range(0, len(good), AT_ONCE)
        ]
        # 像素的哈希在各线程里并行算，这里只按顺序合并
        for digests in stored:
            self._sums[split].update(digests.result())
        if split == "train":
            self._moments.add(image.pixels for image in good)
        state.looked_at = start + len(part)
        state.kept += len(good)

    def finish(self, preparation: int, bad_images: BadImages) -> PreparedManifest:
        """Checks what was found, and writes labels, statistics and the manifest."""
        bad = [line for split in self._source.names for line in read_lines(self._folder / f"{split}-bad.tsv")]
        if bad and bad_images == "fail":
            raise CoreError(_bad_message(self._source.description, bad, self._folder))
        splits: dict[str, PreparedSplit] = {}
        for split, labels in self._source.labels.items():
            rows = np.fromfile(self._folder / f"{split}-kept.bin", dtype=np.int64)
            splits[split] = self._finish_split(split, labels[rows])
        (self._folder / "bad_images.tsv").write_text("".join(f"{line}\n" for line in bad), errors="surrogateescape")
        _save_array(self._folder / "mean_image.npy", self._moments.mean_image())
        manifest = PreparedManifest(
            format=FORMAT,
            preparation=preparation,
            source=self._source.description,
            digest=self._digest(),
            image_size=self._size,
            class_names=self._source.class_names,
            splits=splits,
            covariance=tuple(tuple(row) for row in self._moments.covariance().tolist()),
            bad_images=len(bad),
        )
        with replaced(self._folder / MANIFEST) as path:
            path.write_text(manifest.model_dump_json(indent=1))
        return manifest

    def _finish_split(self, split: str, labels: np.ndarray) -> PreparedSplit:
        empty = sorted(set(range(len(self._source.class_names))) - set(np.unique(labels).tolist()))
        if empty:
            names = [self._source.class_names[label] for label in empty]
            raise CoreError(f"{split} has no usable image of {some(names, 5)}")
        with (self._folder / f"{split}.npy").open("r+b") as file:
            file.write(_npy_header((len(labels), self._size, self._size, 3)))
            os.fsync(file.fileno())
        _save_array(self._folder / f"{split}-labels.npy", labels)
        return PreparedSplit(
            images=len(labels),
            array_sha256=self._sums[split].hexdigest(),
            labels_sha256=hashlib.sha256(labels.tobytes()).hexdigest(),
        )

    def _digest(self) -> str:
        """What `manifest_digest` gives for the lines; of a million only the places are sorted in memory."""
        names: list[str] = []
        places: list[tuple[BinaryIO, array[int]]] = []
        found = hashlib.sha256()
        with ExitStack() as stack:
            for split, all_names in self._source.names.items():
                rows = np.fromfile(self._folder / f"{split}-kept.bin", dtype=np.int64)
                names += [all_names[row] for row in rows]
                file = stack.enter_context((self._folder / f"{split}-files.tsv").open("rb"))
                places.append((file, array("q", accumulate(map(len, file), initial=0))))
            ends = list(accumulate(len(starts) - 1 for _, starts in places))
            for number in sorted(range(len(names)), key=names.__getitem__):
                split_number = bisect_right(ends, number)
                lines, starts = places[split_number]
                lines.seek(starts[number - (ends[split_number - 1] if split_number else 0)])
                found.update(lines.readline())
        return found.hexdigest()


def _store(descriptor: int, offset: int, images: Sequence[np.ndarray]) -> bytes:
    """Writes images one after another from a place on and returns the SHA-256 of the pixels of each, joined."""
    digests = []
    for pixels in images:
        left = memoryview(np.ascontiguousarray(pixels).data).cast("B")
        digests.append(hashlib.sha256(left).digest())
        while left:
            written = os.pwrite(descriptor, left, offset)
            left, offset = left[written:], offset + written
    return b"".join(digests)


def _line(*fields: str) -> bytes:
    return ("\t".join(fields) + "\n").encode("utf-8", "surrogateescape")


def read_lines(path: Path) -> list[str]:
    """Reads the lines of a list of files; names may hold any byte but a newline."""
    # splitlines 还会在 U+2028、read_text 会在回车处断行，文件名里都可能有
    return path.read_bytes().decode("utf-8", "surrogateescape").split("\n")[:-1]


def _lines_to(path: Path, length: int) -> list[str]:
    """The lines of the first bytes of a file: those that are noted as written."""
    with path.open("rb") as file:
        return file.read(length).decode("utf-8", "surrogateescape").split("\n")[:-1]


def _save_array(path: Path, array: np.ndarray) -> None:
    with replaced(path) as temporary, temporary.open("wb") as file:
        np.save(file, array)


def _bad_message(where: str, bad: Sequence[str], folder: Path) -> str:
    named = [f"{name} ({reason})" for name, reason in (line.split("\t") for line in bad)]
    plural = f"{len(bad)} images cannot be used" if len(bad) > 1 else "1 image cannot be used"
    all_of_them = f" ({folder}/*-bad.tsv name them all)" if len(bad) > MOST_NAMED else ""
    return (
        f"{where}: {plural}: {some(named, MOST_NAMED)}{all_of_them}; mend them, or leave them out with "
        "python -m alexnet_core prepare --bad-images skip"
    )


@contextmanager
def _opened(path: Path, length: int) -> Iterator[BinaryIO]:
    """Opens a file for appending after its first `length` bytes; what a killed process wrote beyond goes."""
    with path.open("r+b" if path.exists() else "w+b") as file:
        file.truncate(length)
        file.seek(length)
        yield file


def _npy_header(shape: tuple[int, ...]) -> bytes:
    """The header of an uint8 array in numpy's format, always of the same length."""
    described = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}"
    padded = described.ljust(_HEADER - 10 - 1) + "\n"
    return b"\x93NUMPY\x01\x00" + len(padded).to_bytes(2, "little") + padded.encode("ascii")
