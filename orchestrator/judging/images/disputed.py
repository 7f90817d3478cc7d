"""The images that seeds disagree on: right in some trainings of an arm, wrong in others of the same arm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from orchestrator.judging.images.seen import SeenTrials


@dataclass(frozen=True)
class Disputed:
    """Images that seeds disagree on, those on which most arms' seeds do first.

    Attributes:
        images: int64 (K,), their numbers in the split.
        right: By arm, float64 (K,): the share of its seeds that got each right.
        seeds: By arm, how many seeds.
        unknown: Arms of which it is not on record which images any seed got right.
        among: Images of the split on which the seeds of at least one arm disagree.
    """

    images: NDArray[np.int64]
    right: Mapping[str, NDArray[np.float64]]
    seeds: Mapping[str, int]
    unknown: tuple[str, ...]
    among: int


def disputed_images(seen: SeenTrials, finished: Mapping[str, Sequence[int]], most: int) -> Disputed:
    """Finds the images on which the seeds of most arms disagree; of equals those that all trainings halve best.

    Args:
        seen: Which images the trials got right.
        finished: The seeds of each arm.
        most: How many images to name.
    """
    shares: dict[str, NDArray[np.float64]] = {}
    seeds: dict[str, int] = {}
    for arm, of_arm in finished.items():
        known = [right for seed in of_arm if (right := seen.right(arm, seed)) is not None]
        if known:
            shares[arm], seeds[arm] = np.mean(known, axis=0), len(known)
    unknown = tuple(arm for arm in finished if arm not in shares)
    if not shares:
        return Disputed(np.zeros(0, np.int64), {}, {}, unknown, 0)
    every = np.stack(list(shares.values()))
    disagreeing = ((every > 0.0) & (every < 1.0)).sum(axis=0)
    halved = np.abs(every.mean(axis=0) - 0.5)
    order = np.lexsort((np.arange(every.shape[1]), halved.round(9), -disagreeing))
    among = int((disagreeing > 0).sum())
    chosen = order[: min(most, among)].astype(np.int64)
    return Disputed(chosen, {arm: share[chosen] for arm, share in shares.items()}, seeds, unknown, among)
