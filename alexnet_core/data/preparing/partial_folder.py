"""A prepared folder that is not finished: parts written one after another, resumed after a kill.

state.npz            how far it is, noted after every part: `PartialFolder`
*.npy, *-files.tsv   what will be in the prepared folder, see `prepared_folder`
*-bad.tsv            what cannot be used: relative path, reason
*-odd.tsv            what looks other than in a viewer: relative path, how
*-kept.bin           int64 (N, 5), of every image in the array its place among the split's names, and its file's stamp
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from alexnet_core.data.dataset import Decoded, ImageSource
from alexnet_core.data.image_file import BadImage
from alexnet_core.data.manifest import Stamp
from alexnet_core.data.moments import PixelMoments
from alexnet_core.process.files import replaced, shown

Progress = Callable[[int, int], None]
# 每部分约 32 MiB：内存与图像总数无关，中断最多重做这么多
PART_BYTES = 32 * 1024**2
# 每张一个任务时，线程之间的交接就要百分之一二的时间
AT_ONCE = 8
HEADER_BYTES = 128
# 旧版本开了头的，从头做
PARTIAL_FORMAT = 2
KEPT_FIELDS = 5


@dataclass
class _SplitState:
    """How far a split is: images looked at, images kept, and the lengths of its text files in bytes."""

    looked_at: int = 0
    kept: int = 0
    files_bytes: int = 0
    bad_bytes: int = 0
    odd_bytes: int = 0


@dataclass(frozen=True)
class _Snapshot:
    """How far a preparation was at one moment; safe to write while it goes on.

    Attributes:
        state: Identity and splits, as JSON.
        count: Training images in the moments.
        total: int64 (H, W, C), see `PixelMoments`.
        products: int64 (C, C), see `PixelMoments`.
        looked_at: Images of all splits.
    """

    state: str
    count: int
    total: np.ndarray
    products: np.ndarray
    looked_at: int


class PartialFolder:
    """How far a preparation is: which images its files hold, and the sums over them. For one thread.

    Attributes:
        source: The images.
        path: The folder.
        size: Height and width of a prepared image, in pixels.
        splits: How far each split is.
        moments: Of the training images in the folder.
    """

    def __init__(self, source: ImageSource, path: Path, size: int, identity: str) -> None:
        """Goes on with what lies in the folder if it was begun with the same `identity`; else begins anew."""
        self.source, self.path, self.size = source, path, size
        self._identity = identity
        self.splits: dict[str, _SplitState] = {}
        self.moments = PixelMoments(size)
        if self._read_state():
            for split in self.splits:
                self._look_again(split)
        else:
            shutil.rmtree(path, ignore_errors=True)
            path.mkdir(parents=True)

    @property
    def image_bytes(self) -> int:
        """Bytes of one prepared image."""
        return self.size**2 * 3

    def decode(self, name: str) -> Decoded | BadImage:
        """Decodes one image; may be called from any thread."""
        try:
            return self.source.read(name, self.size)
        except BadImage as error:
            return error

    def images(self, split: str) -> np.ndarray:
        """Returns what is in a split's array: uint8 (kept, size, size, 3), memory-mapped."""
        shape = (self.splits[split].kept, self.size, self.size, 3)
        # 空的映射会报错
        return (
            np.memmap(self.file(split), np.uint8, "r", HEADER_BYTES, shape) if shape[0] else np.empty(shape, np.uint8)
        )

    def file(self, split: str, ending: str = ".npy") -> Path:
        """Returns the path of one of a split's files."""
        return self.path / f"{split}{ending}"

    def snapshot(self) -> _Snapshot:
        """Copies how far it is now."""
        splits = {name: vars(split) for name, split in self.splits.items()}
        self.moments.settle()
        return _Snapshot(
            state=json.dumps({"identity": self._identity, "splits": splits}),
            count=self.moments.count,
            total=self.moments.total.copy(),
            products=self.moments.products.copy(),
            looked_at=sum(split.looked_at for split in self.splits.values()),
        )

    def _read_state(self) -> bool:
        """Takes up what was noted; false where nothing fits."""
        try:
            with np.load(self.path / "state.npz", allow_pickle=False) as saved:
                content = json.loads(str(saved["state"]))
                if content["identity"] != self._identity:
                    return False
                self.splits = {name: _SplitState(**split) for name, split in content["splits"].items()}
                self.moments.count = int(saved["count"])
                self.moments.total, self.moments.products = saved["total"], saved["products"]
        except (OSError, ValueError, KeyError, EOFError, TypeError):
            return False
        return True

    def changed(self, split: str) -> list[str]:
        """Returns the images of a split whose files are no longer those that were decoded."""
        names, kept = self.source.names[split], self._kept(split)
        moved = [row for row, (place, *stamp) in enumerate(kept.tolist()) if self._stamp(names[place]) != tuple(stamp)]
        if not moved:
            return []
        lines = _lines_to(self.file(split, "-files.tsv"), self.splits[split].files_bytes)
        return [name for row in moved if not self._is_same(name := names[kept[row, 0]], lines[row])]

    def _kept(self, split: str) -> np.ndarray:
        """int64 (kept, 5): of every image in the array its place among the names, and its file's stamp."""
        count = self.splits[split].kept * KEPT_FIELDS
        return np.fromfile(self.file(split, "-kept.bin"), dtype=np.int64, count=count).reshape(-1, KEPT_FIELDS)

    def _stamp(self, name: str) -> Stamp | None:
        try:
            return self.source.stamp(name)
        except OSError:
            return None

    def _is_same(self, name: str, line: str) -> bool:
        """Whether a file has the content of its line, though not its times: it was copied, or touched."""
        try:
            size, digest = self.source.look(name)
        except OSError:
            return False
        return line == f"{name}\t{size}\t{digest}"

    def _look_again(self, split: str) -> None:
        """Goes back to before the first image that has been mended or replaced meanwhile."""
        state, names = self.splits[split], self.source.names[split]
        left_out = {line.split("\t")[0] for line in _lines_to(self.file(split, "-bad.tsv"), state.bad_bytes)}
        # 上次记下的不可轻信：坏的可能修好了，好的可能换掉了
        replaced_since = set(self.changed(split))
        for place, name in enumerate(names[: state.looked_at]):
            mended = shown(name) in left_out and not isinstance(self.decode(name), BadImage)
            if mended or name in replaced_since:
                self._go_back(split, place)
                return

    def _go_back(self, split: str, place: int) -> None:
        """Forgets the images of a split from a place on."""
        state, names = self.splits[split], self.source.names[split]
        before = {shown(name) for name in names[:place]}
        bad = _lines_to(self.file(split, "-bad.tsv"), state.bad_bytes)
        odd = _lines_to(self.file(split, "-odd.tsv"), state.odd_bytes)
        state.looked_at, state.kept = place, int(np.searchsorted(self._kept(split)[:, 0], place))
        kept = _lines_to(self.file(split, "-files.tsv"), state.files_bytes)[: state.kept]
        state.files_bytes = sum(len(_line(line)) for line in kept)
        state.bad_bytes = sum(len(_line(line)) for line in bad if line.split("\t")[0] in before)
        state.odd_bytes = sum(len(_line(line)) for line in odd if line.split("\t")[0] in before)
        if split == "train":
            # 和不能逐张减去，只能从留下的图像重算
            self.moments = PixelMoments(self.size)
            self.moments.add(self.images(split))


@dataclass(frozen=True)
class _SplitFiles:
    """The open files that a split grows in, and the threads that write its pixels."""

    writers: ThreadPoolExecutor
    array: BinaryIO
    names: BinaryIO
    bad: BinaryIO
    odd: BinaryIO
    rows: BinaryIO

    def append(self, folder: PartialFolder, split: str, part: Sequence[Decoded | BadImage]) -> list[Future[bytes]]:
        """Appends the next images of a split; the results are their pixels' SHA-256, some joined in each."""
        state, start = folder.splits[split], folder.splits[split].looked_at
        good: list[Decoded] = []
        for name, image in zip(folder.source.names[split][start : start + len(part)], part, strict=True):
            if isinstance(image, BadImage):
                state.bad_bytes += self.bad.write(_line(shown(name), " ".join(image.reason.split())))
                continue
            good.append(image)
            state.files_bytes += self.names.write(_line(name, str(image.size), image.digest))
            if image.oddity:
                state.odd_bytes += self.odd.write(_line(shown(name), image.oddity))
        rows = [(start + place, *image.stamp) for place, image in enumerate(part) if isinstance(image, Decoded)]
        self.rows.write(np.asarray(rows, dtype=np.int64).tobytes())
        offset = HEADER_BYTES + state.kept * folder.image_bytes
        stored = [
            self.writers.submit(
                _store,
                self.array.fileno(),
                offset + place * folder.image_bytes,
                [image.pixels for image in good[place : place + AT_ONCE]],
            )
            for place in range(0, len(good), AT_ONCE)
        ]
        if split == "train":
            # 均值与协方差只取训练图像（论文第 2 节、第 4.1 节）
            folder.moments.add(image.pixels for image in good)
        state.looked_at = start + len(part)
        state.kept += len(good)
        return stored

    def note(self, folder: Path, snapshot: _Snapshot) -> int:
        """Flushes the files and notes how far they are; returns the images looked at. Runs beside the decoding."""
        for file in (self.array, self.names, self.bad, self.odd, self.rows):
            file.flush()
            os.fsync(file.fileno())
        # 数据先落盘，再记进度：进度永远不会超前
        with replaced(folder / "state.npz") as path, path.open("wb") as file:
            np.savez(
                file,
                state=snapshot.state,
                count=snapshot.count,
                total=snapshot.total,
                products=snapshot.products,
            )
        return snapshot.looked_at


def write_split(
    folder: PartialFolder, split: str, pool: ThreadPoolExecutor, writers: ThreadPoolExecutor, progress: Progress | None
) -> str:
    """Decodes the rest of a split; while one part is written and another flushed, the next is being decoded.

    Args:
        folder: Where to.
        split: Which.
        pool: Threads that decode.
        writers: Threads that write and hash pixels.
        progress: Called with (images looked at, images in all) when a part is noted.

    Returns:
        `array_sha256` of the split, see `PreparedSplit`.
    """
    names, state = folder.source.names[split], folder.splits.setdefault(split, _SplitState())
    total = sum(map(len, folder.source.names.values()))
    per_part = max(1, PART_BYTES // folder.image_bytes)
    # 哈希的中间状态存不下来，接着做时重读已写的
    pixels = _hash_of_kept(folder, split)
    with ExitStack() as stack:
        files = _open_files(folder, split, writers, stack)
        committer = stack.enter_context(ThreadPoolExecutor(1, "commit"))
        ahead: list[Future[list[Decoded | BadImage]]] = []
        noted: Future[int] | None = None

        def say(noted: Future[int] | None) -> None:
            if noted is not None and (looked_at := noted.result()) and progress is not None:
                progress(looked_at, total)

        for start in range(state.looked_at, len(names), per_part):
            coming = ahead or _decoding(folder, names[start : start + per_part], pool)
            ahead = _decoding(folder, names[start + per_part : start + 2 * per_part], pool)
            part = [image for future in coming for image in future.result()]
            # 像素的哈希在各线程里并行算，这里只按顺序合并
            for digests in files.append(folder, split, part):
                pixels.update(digests.result())
            say(noted)
            # 落盘要等磁盘，期间解码照常进行
            noted = committer.submit(files.note, folder.path, folder.snapshot())
        say(noted)
    return pixels.hexdigest()


def _decoding(
    folder: PartialFolder, names: Sequence[str], pool: ThreadPoolExecutor
) -> list[Future[list[Decoded | BadImage]]]:
    """Begins to decode images, some in each task."""
    return [
        pool.submit(lambda some: [folder.decode(name) for name in some], names[start : start + AT_ONCE])
        for start in range(0, len(names), AT_ONCE)
    ]


def _open_files(folder: PartialFolder, split: str, writers: ThreadPoolExecutor, stack: ExitStack) -> _SplitFiles:
    """Opens a split's files where what is noted of them ends."""
    state = folder.splits[split]
    lengths = {
        ".npy": HEADER_BYTES + state.kept * folder.image_bytes,
        "-files.tsv": state.files_bytes,
        "-bad.tsv": state.bad_bytes,
        "-odd.tsv": state.odd_bytes,
        "-kept.bin": state.kept * 8 * KEPT_FIELDS,
    }
    opened = [stack.enter_context(_opened(folder.file(split, ending), length)) for ending, length in lengths.items()]
    return _SplitFiles(writers, *opened)


def _hash_of_kept(folder: PartialFolder, split: str) -> hashlib._Hash:
    """The running hash over the images that are in a split's array."""
    running_hash = hashlib.sha256()
    for image in folder.images(split):
        running_hash.update(hashlib.sha256(np.ascontiguousarray(image).data).digest())
    return running_hash


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


def _lines_to(path: Path, length: int) -> list[str]:
    """The lines of the first bytes of a file: those that are noted as written."""
    with path.open("rb") as file:
        return file.read(length).decode("utf-8", "surrogateescape").split("\n")[:-1]


@contextmanager
def _opened(path: Path, length: int) -> Iterator[BinaryIO]:
    """Opens a file for appending after its first `length` bytes; what a killed process wrote beyond goes."""
    with path.open("r+b" if path.exists() else "w+b") as file:
        file.truncate(length)
        file.seek(length)
        yield file
