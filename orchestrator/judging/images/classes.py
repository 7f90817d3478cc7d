"""Which classes an arm changes: the difference of errors on the images of each class, seed by seed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from orchestrator.judging.answer import Answer, Compared
from orchestrator.judging.images.new_images import weights_of
from orchestrator.judging.images.seen import SeenTrials
from orchestrator.planning.plan import ALPHA
from orchestrator.statistics.paired import PairedTest, holm, paired_test, t_interval


@dataclass(frozen=True)
class ClassChange:
    """How a comparison changes the error of one class.

    Attributes:
        label: The class.
        images: Images of it.
        compared: The arm, or the contrast.
        n: Seeds.
        difference: Mean difference of its error over seeds, percentage points.
        interval: Of that, at `interval_level`; None where all seeds differ by the same.
        interval_level: Confidence in percent.
        p: Of the paired t test; None as for the interval.
        adjusted_p: Holm's over all classes and comparisons.
    """

    label: str
    images: int
    compared: str
    n: int
    difference: float
    interval: tuple[float, float] | None
    interval_level: float | None
    p: float | None
    adjusted_p: float | None


def class_changes(
    answer: Answer, seen: SeenTrials, labels: NDArray[np.int64], class_names: Sequence[str]
) -> list[ClassChange]:
    """Returns the change of every class in every comparison that has an interval for new images, the surest first.

    A value is published of all classes together, so that an arm held against one has none here.
    All of them are one family of Holm's, which was not written down before the training: it only points at classes.

    Args:
        answer: The answer.
        seen: Which images its trials got right.
        labels: int64 (images,), the class of each image.
        class_names: In the order of the labels.
    """
    baseline = next((arm.name for arm in answer.arms if arm.is_baseline), "")
    cells = [
        (one.name, label, test)
        for one in answer.judged
        if one.beyond is not None and not answer.reproduces
        for label, test in _tests(one, baseline, seen, labels)
    ]
    # 差全相等的没有 t：仍占一个名额，别的不因此变得容易
    entries = holm([1.0 if test.p is None else test.p for _, _, test in cells], ALPHA)
    images = np.bincount(labels, minlength=len(class_names))
    changes = [
        ClassChange(
            label=class_names[label],
            images=int(images[label]),
            compared=name,
            n=test.n,
            difference=test.mean,
            interval=None if test.p is None else t_interval(test, entry.level),
            interval_level=None if test.p is None else 100.0 * (1.0 - entry.level),
            p=test.p,
            adjusted_p=None if test.p is None else entry.adjusted_p,
        )
        for (name, label, test), entry in zip(cells, entries, strict=True)
    ]
    return sorted(changes, key=lambda change: (change.p is None, change.p or 0.0, -abs(change.difference)))


def _tests(
    one: Compared, baseline: str, seen: SeenTrials, labels: NDArray[np.int64]
) -> Iterator[tuple[int, PairedTest]]:
    """The paired test of each class that has images."""
    weights, images = weights_of(one, baseline), np.bincount(labels)
    rows = []
    for seed in map(int, one.differences):
        difference = np.zeros(len(labels))
        for arm, weight in weights.items():
            right = seen.right(arm, seed)
            assert right is not None
            difference -= weight * right
        # 同一个类别的图求和：整数之和没有舍入误差
        rows.append(np.bincount(labels, weights=difference))
    for label in np.flatnonzero(images):
        yield int(label), paired_test([100.0 * float(row[label]) / float(images[label]) for row in rows])
