"""Which images trials on record got right.

It is read from the records of judged arms alone, once for each command, and kept as the packed bits that it is there.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from orchestrator.errors import LabError
from orchestrator.judging.primary_metric import ImageSplit
from orchestrator.records.evaluations import correct_images_of
from orchestrator.records.layout import trial_folder

logger = logging.getLogger(__name__)
# 一个 trial 的 key、视图数、哪些图
Seen = tuple[str, int, ImageSplit]
Packed = tuple[int, NDArray[np.uint8]]


@dataclass(frozen=True)
class SeenImages:
    """The images that trials on record got right.

    Attributes:
        results: The results folder.
        damaged: Keys of trials whose record of it is damaged or gone; they count as without.
    """

    results: Path
    damaged: set[str] = field(default_factory=set)
    _packed: dict[Seen, Packed | None] = field(default_factory=dict, repr=False)

    def knows(self, key: str, views: int, split: ImageSplit) -> bool:
        """Says whether it is on record which images a trial got right; older records do not say."""
        return self._read((key, views, split)) is not None

    def right(self, key: str, views: int, split: ImageSplit) -> NDArray[np.bool_]:
        """Returns which, bool (images,) in the order of the split.

        Raises:
            KeyError: It is not on record.
        """
        packed = self._read((key, views, split))
        if packed is None:
            raise KeyError(key)
        images, bits = packed
        return np.unpackbits(bits, count=images).astype(np.bool_)

    def _read(self, seen: Seen) -> Packed | None:
        if seen not in self._packed:
            self._packed[seen] = self._on_record(*seen)
        return self._packed[seen]

    def _on_record(self, key: str, views: int, split: ImageSplit) -> Packed | None:
        try:
            sets = correct_images_of(trial_folder(self.results, key), views)
        except LabError as error:
            # 第二个区间不值得让整份报告落空
            logger.warning("%s: nothing is said of new images by it", error)
            self.damaged.add(key)
            return None
        return next(((len(one.correct), np.packbits(one.correct)) for one in sets if one.split == split), None)


@dataclass(frozen=True)
class SeenTrials:
    """The images that the trials of a study's arms got right.

    Attributes:
        images: What the records say.
        trials: Key and views by arm and seed.
        split: Whose images.
    """

    images: SeenImages
    trials: Mapping[tuple[str, int], tuple[str, int]]
    split: ImageSplit

    def right(self, arm: str, seed: int) -> NDArray[np.bool_] | None:
        """Returns which images a trial got right, bool (images,); None where that is not on record."""
        key, views = self.trials[arm, seed]
        return self.images.right(key, views, self.split) if self.images.knows(key, views, self.split) else None
