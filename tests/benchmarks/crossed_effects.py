"""How often the limits for new seeds and new images hold, by simulation.

`python -m tests.benchmarks.crossed_effects [--studies 1000]` prints the table of docs/statistics.md.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from orchestrator.statistics.crossed_effects import crossed_effects, crossed_limits
from orchestrator.statistics.verdict import ArmEvidence, agrees, judge

STUDIES = 1_000
LEVEL = 0.05
SEEDS = (3, 5, 8, 20)
IMAGES = (200, 1_000, 10_000)
FAMILIES = ((1, 8, 1_000), (3, 8, 1_000), (6, 8, 1_000))


@dataclass(frozen=True)
class World:
    """Where errors come from: an image is missed where the sum of normal effects is above a threshold.

    Attributes:
        baseline, arm: Error rates over all seeds and images, in [0, 1].
        skill: Standard deviation between seeds, drawn anew for each arm.
        difficulty: Between images, the same for both arms.
        taste: Between images, drawn anew for each arm: what an arm finds hard that the other does not.
        interaction: Of one seed of one arm on one image.
    """

    baseline: float
    arm: float
    skill: float
    difficulty: float
    taste: float
    interaction: float

    @property
    def effect(self) -> float:
        """The true difference of the error rates, over all seeds and images that there could be."""
        return self.arm - self.baseline


WORLDS = {
    "3 % error, no effect": World(0.03, 0.03, 0.05, 1.0, 0.2, 0.5),
    "20 % error, an effect of 2 points": World(0.20, 0.22, 0.05, 1.0, 0.2, 0.5),
    "quiet seeds, images of one arm's taste": World(0.20, 0.22, 0.005, 1.0, 0.5, 0.05),
    "noisy seeds": World(0.10, 0.12, 0.30, 1.0, 0.2, 0.5),
    "no difficulty, all chance": World(0.30, 0.30, 0.0, 0.0, 0.0, 1.0),
}


def draw(world: World, seeds: int, images: int, generator: np.random.Generator) -> np.ndarray:
    """Returns one study's differences of errors, int8 (seeds, images)."""
    baseline, arm = _errors(world, (world.baseline, world.arm), seeds, images, generator)
    return arm - baseline


def _errors(
    world: World, rates: Sequence[float], seeds: int, images: int, generator: np.random.Generator
) -> list[np.ndarray]:
    """The errors of arms with these rates on the same images, each int8 (seeds, images)."""

    def normal(*shape: int) -> np.ndarray:
        return generator.standard_normal(shape, dtype=np.float32)

    spread = math.sqrt(world.skill**2 + world.difficulty**2 + world.taste**2 + world.interaction**2)
    difficulty = world.difficulty * normal(images)
    errors = []
    for rate in rates:
        score = world.interaction * normal(seeds, images) + world.skill * normal(seeds, 1)
        score += difficulty + world.taste * normal(images)
        errors.append((score > -spread * special.ndtri(rate)).astype(np.int8))
    return errors


@dataclass(frozen=True)
class Coverage:
    """How often limits held the true difference, and how wide they were.

    Attributes:
        seeds_alone: Share of studies whose t over seeds held it.
        both: Share whose limits for new seeds and new images held it.
        widening: Median width of these over the width of the t over seeds.
    """

    seeds_alone: float
    both: float
    widening: float


def coverage(world: World, seeds: int, images: int, studies: int, level: float = LEVEL) -> Coverage:
    """Simulates studies whose seeds and images are drawn anew each time."""
    generator = np.random.default_rng((seeds, images))
    quantile = -float(special.stdtrit(seeds - 1, level / 2.0))
    held = np.zeros(2)
    wider = []
    for _ in range(studies):
        effects = crossed_effects(draw(world, seeds, images, generator))
        low, high = crossed_limits(effects, level)
        alone = quantile * effects.seeds_error
        held += (abs(effects.mean - world.effect) <= alone, low <= world.effect <= high)
        wider.append((high - low) / (2.0 * alone) if alone else math.inf)
    return Coverage(*(held / studies).tolist(), widening=float(np.median(wider)))


# 种子几乎不起伏，每个 arm 各有自己觉得难的图：在这些图上处处有差别，换一批图却没有
ILLUSION = World(0.20, 0.20, 0.005, 1.0, 0.5, 0.05)


def false_beyond(arms: int, seeds: int, images: int, studies: int, level: float = LEVEL) -> tuple[float, float]:
    """Simulates studies of arms that differ on these images and not on new ones, judged as one family.

    Returns:
        Share of the studies with a sentence that says "and beyond" of some arm: with limits at an equal share of the
        family's level, as they are shown, and at the level that Holm's procedure hands each arm on.
    """
    generator = np.random.default_rng((arms, seeds, images))
    false = np.zeros(2)
    for _ in range(studies):
        baseline, *others = _errors(ILLUSION, [ILLUSION.baseline] * (arms + 1), seeds, images, generator)
        tables = {f"arm {place}": of_arm - baseline for place, of_arm in enumerate(others)}
        evidence = [ArmEvidence(name, tuple(100.0 * table.mean(axis=1)), seeds) for name, table in tables.items()]
        verdicts = judge(evidence, 0.0, level)
        found = np.zeros(2, dtype=bool)
        for name, verdict in verdicts.items():
            effects = crossed_effects(tables[name])
            for place, chosen in enumerate((verdict.equal_level, verdict.level)):
                found[place] |= chosen is not None and agrees(verdict.word, crossed_limits(effects, chosen), 0.0)
        false += found
    equal, handed_on = (false / studies).tolist()
    return equal, handed_on


def tolerated(studies: int, level: float = LEVEL) -> float:
    """The coverage that chance alone may leave of a nominal one: three standard errors below."""
    return 1.0 - level - 3.0 * math.sqrt(level * (1.0 - level) / studies)


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the table: a row for each number of seeds, in it the coverage for each number of images."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=STUDIES, help=f"studies per case (default: {STUDIES})")
    studies = parser.parse_args(arguments).studies
    started, lowest = time.monotonic(), 1.0
    headings = " | ".join(f"{images:,} images" for images in IMAGES)
    print(f"| errors | seeds | {headings} |\n|---|---|{'---|' * len(IMAGES)}")
    for name, world in WORLDS.items():
        for seeds in SEEDS:
            found = [coverage(world, seeds, images, studies) for images in IMAGES]
            lowest = min(lowest, *(one.both for one in found))
            cells = " | ".join(f"{one.both:.3f} ({one.seeds_alone:.3f}), x{one.widening:.2f}" for one in found)
            print(f"| {name} | {seeds} | {cells} |", flush=True)
    print("\n| arms, seeds, images | says beyond falsely | at the levels handed on |\n|---|---|---|")
    for arms, seeds, images in FAMILIES:
        equal, handed_on = false_beyond(arms, seeds, images, studies)
        print(f"| {arms}, {seeds}, {images:,} | {equal:.3f} | {handed_on:.3f} |", flush=True)
    print(f"\nlowest coverage: {lowest:.3f}, tolerated: {tolerated(studies):.3f}")
    print(f"{time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
