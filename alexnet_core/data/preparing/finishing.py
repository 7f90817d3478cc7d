"""The last step of a preparation: labels, statistics and the manifest of a folder whose splits are all written."""

from __future__ import annotations

import hashlib
import os
from array import array
from bisect import bisect_right
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import accumulate
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np

from alexnet_core.configuration.wording import counted
from alexnet_core.data.dataset import ImageSource
from alexnet_core.data.image_tree import some
from alexnet_core.data.prepared_folder import (
    FORMAT,
    MANIFEST,
    PreparedManifest,
    PreparedSplit,
    read_lines,
    sample_digest,
)
from alexnet_core.data.preparing.partial_folder import HEADER_BYTES, KEPT_FIELDS, PartialFolder
from alexnet_core.errors import CoreError
from alexnet_core.process.files import replaced

BadImages = Literal["fail", "skip"]
MOST_NAMED = 10


def finish(
    folder: PartialFolder, array_sha256: dict[str, str], preparation: int, bad_images: BadImages
) -> PreparedManifest:
    """Checks what was found, and writes labels, statistics and the manifest.

    Args:
        folder: All splits are written.
        array_sha256: By split, from `write_split`.
        preparation: Version of the preparation, see `DataSpec`.
        bad_images: `fail` raises where an image cannot be used.

    Raises:
        CoreError: Images cannot be used, or a class has none left.
    """
    source, path = folder.source, folder.path
    bad = [line for split in source.names for line in read_lines(folder.file(split, "-bad.tsv"))]
    if bad and bad_images == "fail":
        raise CoreError(bad_message(source, bad, f"{path}/*-bad.tsv name them all"))
    splits = {split: _finish_split(folder, split, array_sha256[split]) for split in source.labels}
    odd = [line for split in source.names for line in read_lines(folder.file(split, "-odd.tsv"))]
    (path / "bad_images.tsv").write_text("".join(f"{line}\n" for line in bad), errors="surrogateescape")
    if odd:
        (path / "odd_images.tsv").write_text("".join(f"{line}\n" for line in odd), errors="surrogateescape")
    _save_array(path / "mean_image.npy", folder.moments.mean_image())
    manifest = PreparedManifest(
        format=FORMAT,
        preparation=preparation,
        source=source.description,
        digest=_digest(folder),
        image_size=folder.size,
        class_names=source.class_names,
        splits=splits,
        covariance=tuple(tuple(row) for row in folder.moments.covariance().tolist()),
        bad_images=len(bad),
        mean_sha256=hashlib.sha256(folder.moments.mean_image().tobytes()).hexdigest(),
        remarks=source.remarks,
    )
    # 清单最后写：有清单的文件夹一定是完整的
    with replaced(path / MANIFEST) as temporary:
        temporary.write_text(manifest.model_dump_json(indent=1))
    return manifest


def _finish_split(folder: PartialFolder, split: str, array_sha256: str) -> PreparedSplit:
    class_names = folder.source.class_names
    rows = np.fromfile(folder.file(split, "-kept.bin"), dtype=np.int64).reshape(-1, KEPT_FIELDS)
    labels = folder.source.labels[split][rows[:, 0]]
    empty = sorted(set(range(len(class_names))) - set(np.unique(labels).tolist()))
    if empty:
        raise CoreError(f"{split} has no usable image of {some([class_names[label] for label in empty], 5)}")
    with folder.file(split).open("r+b") as file:
        file.write(_npy_header((len(labels), folder.size, folder.size, 3)))
        os.fsync(file.fileno())
    _save_array(folder.file(split, "-labels.npy"), labels)
    return PreparedSplit(
        images=len(labels),
        array_sha256=array_sha256,
        labels_sha256=hashlib.sha256(labels.tobytes()).hexdigest(),
        sample_sha256=sample_digest(folder.images(split)),
    )


def _digest(folder: PartialFolder) -> str:
    """What `manifest_digest` gives for the lines; of a million only the places are sorted in memory."""
    names: list[str] = []
    places: list[tuple[BinaryIO, array[int]]] = []
    content_hash = hashlib.sha256()
    with ExitStack() as stack:
        for split, all_names in folder.source.names.items():
            rows = np.fromfile(folder.file(split, "-kept.bin"), dtype=np.int64).reshape(-1, KEPT_FIELDS)
            names += [all_names[row] for row in rows[:, 0]]
            file = stack.enter_context(folder.file(split, "-files.tsv").open("rb"))
            places.append((file, array("q", accumulate(map(len, file), initial=0))))
        ends = list(accumulate(len(starts) - 1 for _, starts in places))
        for number in sorted(range(len(names)), key=names.__getitem__):
            split_number = bisect_right(ends, number)
            lines, starts = places[split_number]
            lines.seek(starts[number - (ends[split_number - 1] if split_number else 0)])
            content_hash.update(lines.readline())
    return content_hash.hexdigest()


def bad_message(source: ImageSource, bad: Sequence[str], where_all: str) -> str:
    """Returns the error that names images that cannot be used; `bad` are lines of `bad_images.tsv`."""
    named = [f"{source.places.get(name, name)} ({reason})" for name, reason in (line.split("\t") for line in bad)]
    them = "it" if len(bad) == 1 else "them"
    all_of_them = f" ({where_all})" if len(bad) > MOST_NAMED else ""
    return (
        f"{source.description}: {counted(len(bad), 'image')} cannot be used: {some(named, MOST_NAMED)}{all_of_them}; "
        f"mend {them}, or leave {them} out with "
        "python -m alexnet_core prepare --bad-images skip"
    )


def _save_array(path: Path, array: np.ndarray) -> None:
    with replaced(path) as temporary, temporary.open("wb") as file:
        np.save(file, array)


def _npy_header(shape: tuple[int, ...]) -> bytes:
    """The header of an uint8 array in numpy's format, always of the same length."""
    described = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}"
    padded = described.ljust(HEADER_BYTES - 10 - 1) + "\n"
    return b"\x93NUMPY\x01\x00" + len(padded).to_bytes(2, "little") + padded.encode("ascii")
