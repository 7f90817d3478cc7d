"""Limits that hold for new seeds and new images too: seeds and images as crossed random effects.

A paired t over seeds says what other seeds would give on these images. Another test set of the same kind is another
sample of images, whose scatter is in the differences of correctness per seed and image. The analysis is that of readers
and cases in diagnostic imaging (Dorfman, Berbaum & Metz 1992; Obuchowski & Rockette 1995; Hillis 2007); its variance
components are those of a two-way random model without replication (Searle, Casella & McCulloch 1992, chapter 4).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Iterator, Sized
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special


class Differences(Sized, Iterable[ArrayLike], Protocol):
    """A row for each seed, of one value for each image; it can be gone through again."""


@dataclass(frozen=True)
class CrossedEffects:
    """A mean difference over seeds and images, both of them samples.

    Attributes:
        seeds: How many.
        images: How many.
        mean: Over all seeds and images, in the unit of the differences.
        seed_variance: Component of variance between seeds, unit squared, not below zero.
        image_variance: Between images, not below zero.
        residual_variance: Of seed by image, with the chance in a single answer.
        seeds_error: Standard error of the mean for new seeds on these images.
        standard_error: Of the mean for new seeds and new images.
        degrees_of_freedom: Of `standard_error`, by Satterthwaite; 0 where all differences are equal.
    """

    seeds: int
    images: int
    mean: float
    seed_variance: float
    image_variance: float
    residual_variance: float
    seeds_error: float
    standard_error: float
    degrees_of_freedom: float


def crossed_effects(differences: Differences) -> CrossedEffects:
    """Splits differences into effects of the seed, of the image, and of both.

    The mean squares of the two-way table have the expectations r + I s, r + S i and r for the components s, i and r, so
    that the variance of the mean, (I s + S i + r) / (S I), is (MS_seed + MS_image - MS_rest) / (S I). A negative
    estimate of a component counts as zero (Searle, Casella & McCulloch 1992, section 4.4; Brennan 2001, section 3.4.4):
    the error is then that of the larger of MS_seed and MS_image alone, which it is never below.

    Args:
        differences: Of one contrast, shape (S seeds, I images): the arm's error minus the baseline's, of the same seed
            on the same image, each 0 or 1; a value is -1, 0 or 1. Other contrasts' values serve as well. They are gone
            through three times and never held as a whole.

    Raises:
        ValueError: There are fewer than two seeds or two images, or a value is not finite.
    """
    # 一次只看一行：几百个种子、几万张图时，整张表要几百兆
    by_seed = np.array([row.mean() for row in _rows(differences)])
    by_image = functools.reduce(np.add, _rows(differences)) / len(by_seed)
    seeds, images, mean = len(by_seed), len(by_image), float(by_seed.mean())
    seed = images * float(by_seed.var(ddof=1))
    image = seeds * float(by_image.var(ddof=1))
    unexplained = zip(_rows(differences), by_seed, strict=True)
    residual = sum(float(((row - of_seed - by_image + mean) ** 2).sum()) for row, of_seed in unexplained)
    residual /= (seeds - 1) * (images - 1)
    total = max(seed + image - residual, seed, image)
    # 每个均方的相对误差由自己的自由度决定：Satterthwaite (1946)
    scatter = seed**2 / (seeds - 1) + image**2 / (images - 1) + residual**2 / ((seeds - 1) * (images - 1))
    return CrossedEffects(
        seeds=seeds,
        images=images,
        mean=mean,
        seed_variance=max(0.0, seed - residual) / images,
        image_variance=max(0.0, image - residual) / seeds,
        residual_variance=residual,
        seeds_error=math.sqrt(seed / (seeds * images)),
        standard_error=math.sqrt(total / (seeds * images)),
        degrees_of_freedom=total**2 / scatter if scatter else 0.0,
    )


def _rows(differences: Differences) -> Iterator[NDArray[np.float64]]:
    """The rows, each float64 (I,)."""
    images = None
    for row in differences:
        values = np.asarray(row, dtype=np.float64)
        if len(differences) < 2 or values.ndim != 1 or len(values) < 2 or images not in (None, len(values)):
            shape = (len(differences), *values.shape)
            raise ValueError(f"crossed effects need two seeds and two images at least, not shape {shape}")
        if not np.isfinite(values).all():
            raise ValueError("crossed effects need finite differences")
        images = len(values)
        yield values


def crossed_limits(effects: CrossedEffects, level: float) -> tuple[float, float]:
    """Returns the limits of the mean difference for new seeds and new images, at confidence 1 - level.

    They are never within those of a t over these seeds: what holds for new images too holds for these.

    Args:
        effects: From `crossed_effects`.
        level: Such as 0.05.
    """
    if not effects.degrees_of_freedom:
        return effects.mean, effects.mean
    both = -float(special.stdtrit(effects.degrees_of_freedom, level / 2.0)) * effects.standard_error
    alone = -float(special.stdtrit(effects.seeds - 1, level / 2.0)) * effects.seeds_error
    half = max(both, alone)
    return effects.mean - half, effects.mean + half
