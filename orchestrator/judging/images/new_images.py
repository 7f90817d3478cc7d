"""The second interval of every difference of errors: it holds for new images too, not for these alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from orchestrator.judging.answer import Answer, Compared, ContrastAnswer
from orchestrator.judging.images.seen import SeenImages
from orchestrator.judging.primary_metric import ImageSplit, Row
from orchestrator.statistics.crossed_effects import crossed_effects, crossed_limits
from orchestrator.statistics.verdict import Verdict, agrees, sentence
from search_spaces.study import Study

One = TypeVar("One", bound=Compared)


def with_new_images(
    bare: Answer,
    study: Study,
    cells: Mapping[str, Sequence[Row]],
    verdicts: Mapping[str, Verdict],
    split: ImageSplit | None,
    images: SeenImages,
    *,
    fixed_split: bool,
) -> Answer:
    """Returns an answer with the limits for new images beside each interval of a difference of errors.

    No word changes; the sentence of a word says where the wider limits agree with it.

    Args:
        bare: The answer.
        study: The study.
        cells: Its rows of the trials table, by arm and seed.
        verdicts: By contrast.
        split: Whose images are judged; None where the metric is no error in points on validation or test images.
        images: Which images the trials got right.
        fixed_split: See `ComparedImages`.
    """
    if split is None:
        return bare
    views = {arm.name: arm.views for arm in study.arms}
    unseen: set[str] = set()
    other: list[str] = []

    def told(one: One) -> One:
        verdict = verdicts.get(one.name)
        if verdict is None or verdict.interval is None or verdict.equal_level is None:
            return one
        weights, rows = weights_of(one, study.baseline), _seeds(one, study.baseline, cells)
        compared = ComparedImages(weights, views, rows, split, fixed_split)
        if lacking := compared.unknown(images):
            unseen.update(lacking)
            return one
        if not compared.are_the_same:
            other.append(one.name)
            return one
        published = one.published.value if isinstance(one, ContrastAnswer) and one.published is not None else 0.0
        limits = compared.beyond(images, verdict.equal_level, verdict.interval, published)
        return one.model_copy(update=_facts(one, verdict, limits, bare))

    arms, contrasts = tuple(map(told, bare.arms)), tuple(map(told, bare.contrasts))
    more = {"unseen": len(unseen), "damaged_images": tuple(sorted(unseen & images.damaged))}
    return bare.model_copy(update={"arms": arms, "contrasts": contrasts, "other_images": tuple(other), **more})


def _facts(one: Compared, verdict: Verdict, limits: tuple[float, float], bare: Answer) -> dict[str, Any]:
    holds = agrees(one.word, limits, bare.margin)
    facts = {"beyond": limits, "beyond_level": 100.0 * (1.0 - (verdict.equal_level or 0.0)), "holds_beyond": holds}
    if not holds:
        return facts
    return {**facts, "sentence": sentence(one.word, verdict.differs_from_zero, bare.judged_split, limits)}


def weights_of(one: Compared, baseline: str) -> Mapping[str, float]:
    """Returns the weights of a comparison by arm, summing to zero; 1 for an arm beside a published value."""
    return one.weights if isinstance(one, ContrastAnswer) else {one.name: 1.0, baseline: -1.0}


def _seeds(one: Compared, baseline: str, cells: Mapping[str, Sequence[Row]]) -> list[dict[str, Row]]:
    """The rows of its arms on the seeds of its differences."""
    arms = weights_of(one, baseline)
    return [{arm: cells[arm][int(seed)] for arm in arms} for seed in one.differences]


@dataclass(frozen=True)
class ComparedImages:
    """One contrast of finished trials on the same seeds, image by image.

    Attributes:
        weights: By arm.
        views: Of each arm.
        seeds: The rows of its arms, seed by seed.
        split: Whose images.
        fixed_split: Whether no validation images are drawn from the training images, see `DataSummary`.
    """

    weights: Mapping[str, float]
    views: Mapping[str, int]
    seeds: Sequence[Mapping[str, Row]]
    split: ImageSplit
    fixed_split: bool

    def unknown(self, images: SeenImages) -> set[str]:
        """Returns the keys of its trials of which it is not on record which images they got right."""
        trials = {(row["key"], self.views[arm]) for of_seed in self.seeds for arm, row in of_seed.items()}
        return {key for key, views in trials if not images.knows(key, views, self.split)}

    @property
    def are_the_same(self) -> bool:
        """Whether all its trials were judged on the same images; seeds may have splits of their own."""
        rows = [row for of_seed in self.seeds for row in of_seed.values()]
        return len({_images_of(row, self.split, fixed_split=self.fixed_split) for row in rows}) <= 1

    def beyond(
        self, images: SeenImages, level: float, interval: tuple[float, float], published: float = 0.0
    ) -> tuple[float, float]:
        """Returns the limits of its difference for new seeds and new images, percentage points.

        Args:
            images: Which know all of its trials.
            level: Such as 0.05.
            interval: For new seeds alone, at this level or a higher one.
            published: What is subtracted from the weighted errors, percent.
        """
        low, high = crossed_limits(crossed_effects(ImageDifferences(self, images)), level)
        # 舍入误差不该让它窄于第一个区间
        return min(100.0 * low - published, interval[0]), max(100.0 * high - published, interval[1])


@dataclass(frozen=True)
class ImageDifferences:
    """Weighted errors, a row for each seed: float64 (images,); none is held longer than it is looked at."""

    compared: ComparedImages
    images: SeenImages

    def __len__(self) -> int:
        return len(self.compared.seeds)

    def __iter__(self) -> Iterator[NDArray[np.float64]]:
        one = self.compared
        for of_seed in one.seeds:
            wrong = (
                weight * ~self.images.right(of_seed[arm]["key"], one.views[arm], one.split)
                for arm, weight in one.weights.items()
            )
            yield np.sum(list(wrong), axis=0)


def _images_of(row: Row, split: ImageSplit, *, fixed_split: bool) -> tuple[object, ...]:
    """What tells the images of a split from others: their data, and the draws that chose them where some did."""
    draws = ["data.split_seed"] if split == "test" else ["data.split_seed", "data.resplit"]
    # 图像文件夹的测试集自成一处，验证集可以；数字的都由划分的种子选出
    if row.get("data.source") == "imagefolder" and (split == "test" or fixed_split):
        draws = []
    return row.get("data_digest"), row[f"{split}_count"], *(row.get(draw) or 0 for draw in draws)
