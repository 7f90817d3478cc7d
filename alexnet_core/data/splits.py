"""Which rows are for training, validation and test: pure functions of the labels and a seed. Loads no torch."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from alexnet_core.errors import CoreError

SplitName = Literal["train", "validation", "test"]
HELD_OUT_FRACTION = 0.1


def stratified(labels: np.ndarray, fractions: Sequence[float], seed: int) -> list[np.ndarray]:
    """Splits 0 .. N - 1 into parts with the same share of every class; rows of a part ascend.

    Args:
        labels: int64 (N,).
        fractions: Share of each part; they add up to one.
        seed: Seed of the split.
    """
    parts: list[list[np.ndarray]] = [[] for _ in fractions]
    bounds = np.cumsum(fractions)[:-1]
    # 逐类按同样的比例切：小类也不会整个落在一边
    for label in np.unique(labels):
        rows = _shuffled(np.flatnonzero(labels == label), "split", seed, int(label))
        cuts = [round(bound * len(rows)) for bound in bounds]
        for part, piece in zip(parts, np.split(rows, cuts), strict=True):
            part.append(piece)
    return [np.sort(np.concatenate(part)) for part in parts]


def held_out(labels: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns (training, validation) rows of a training set without validation set.

    A tenth of every class is held out, of a class with two to four images one; a single image stays for training.

    Raises:
        CoreError: No class has two images.
    """
    # 验证集从训练图像里留出：测试集不参与任何选择
    kept, held = stratified(labels, (1 - HELD_OUT_FRACTION, HELD_OUT_FRACTION), seed)
    for label in np.setdiff1d(labels, labels[held]):
        of_class = kept[labels[kept] == label]
        if len(of_class) > 1:
            kept, held = np.setdiff1d(kept, of_class[-1:]), np.union1d(held, of_class[-1:])
    if not len(held):
        raise CoreError("no class has two images, so none can be held out for validation: add val/")
    return kept, held


def resplit(
    labels: np.ndarray, train: np.ndarray, validation: np.ndarray, split_seed: int, drawing: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns (training, validation) rows drawn anew from those of both, of every class as many as before.

    Args:
        labels: int64 (N,), of all images.
        train: int64 (M,), the training rows.
        validation: int64 (K,), the validation rows.
        split_seed: Seed of the split that they are of.
        drawing: Which drawing; 0 leaves them as they are.
    """
    if drawing == 0:
        return train, validation
    kept, held = [], []
    for label in np.unique(labels):
        parts = [rows[labels[rows] == label] for rows in (train, validation)]
        # 先排序：抽取只看有哪些图，不看它们从前在哪一边
        rows = _shuffled(np.sort(np.concatenate(parts)), "resplit", split_seed, drawing, int(label))
        kept.append(rows[: len(parts[0])])
        held.append(rows[len(parts[0]) :])
    return np.sort(np.concatenate(kept)), np.sort(np.concatenate(held))


def counts(
    present: Mapping[str, int], labels: np.ndarray, seed: int, *, holds_out: bool = True
) -> dict[SplitName, int]:
    """Returns how many images each split will have.

    Args:
        present: Images in `train`, and in `val` and `test` where there are such.
        labels: int64 (N,), of the images in `train`.
        seed: Seed of the split.
        holds_out: See `DataSpec`.
    """
    train, validation = present["train"], present.get("val", 0)
    if holds_out and "val" not in present:
        kept, held = held_out(labels, seed)
        train, validation = len(kept), len(held)
    return {"train": train, "validation": validation, "test": present.get("test", 0)}


def even_subset(labels: np.ndarray, rows: np.ndarray, count: int, seed: int, drawing: int = 0) -> np.ndarray:
    """Draws `count` rows with the classes as even as they come; they ascend.

    Args:
        labels: int64 (N,), of all images.
        rows: int64 (M,), to draw from.
        count: How many.
        seed: Seed of the split.
        drawing: Which drawing anew, see `DataSpec.resplit`.

    Raises:
        CoreError: There are fewer rows.
    """
    if count > len(rows):
        raise CoreError(f"data.train_images {count} is more than the {len(rows)} training images there are")
    row_labels = labels[rows]
    key: tuple[str | int, ...] = ("subset", seed, *([drawing] if drawing else []))
    by_class = [_shuffled(rows[row_labels == label], *key, int(label)) for label in np.unique(labels)]
    # 各类轮流取：小的子集总含在大的里面
    ranked = sorted((place, which) for which, group in enumerate(by_class) for place in range(len(group)))
    return np.sort(np.asarray([by_class[which][place] for place, which in ranked[:count]], dtype=np.int64))


def evenly_spaced(images: int, count: int) -> np.ndarray:
    """Returns the numbers of at most `count` images, spread over all of them: int64 (min(count, images),), ascending.

    Args:
        images: How many there are.
        count: How many to choose.
    """
    # 均匀取样，免得全来自第一个类
    return np.linspace(0, images - 1, min(count, images)).round().astype(np.int64)


def _shuffled(rows: np.ndarray, *key: str | int) -> np.ndarray:
    # 次序只由（用途，种子，类）决定：多一类，别类的划分不动
    digest = hashlib.sha256("\n".join(str(part) for part in key).encode()).digest()
    generator = np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:8], "big")))
    return generator.permutation(rows)
