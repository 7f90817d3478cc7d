"""How often the verdicts err, what they find and how many seeds they take, by simulation.

`python -m tests.benchmarks.statistics [--studies 20000]` prints tables and curves. The rules are the product's own
boundaries, applied to many studies at once; `tests/orchestrator/statistics/test_error_rates.py` proves that they give
the words of `judge` and `follow`.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import special

from orchestrator.statistics.alpha_spending import (
    FIRST_LOOK,
    PATHS,
    Boundary,
    ShareOfLevel,
    WangTsiatis,
    largest_scores,
    share_of_level,
)
from orchestrator.statistics.paired import LIMITS_LEVEL, power
from orchestrator.statistics.sequential import FUTILE_BELOW, SequentialRule
from search_spaces.contrast import Contrast, families
from search_spaces.study import Study
from tests.made_designs import make_study

ALPHA = 0.05
STUDIES = 20_000
KINDS = ("normal", "t3", "binomial", "unequal")
ARMS = (1, 2, 5, 10)
FIXED_SEEDS = 8
EXTENDED_LOOKS = (5, 10, 15, 20)
MAX_SEEDS = 20
IMAGES = 360
BASE_ERROR = 0.03
# 二项计数的一个种子误差的标准差，百分点
COUNT_SD = 100.0 * math.sqrt(BASE_ERROR * (1.0 - BASE_ERROR) / IMAGES)

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Whole = NDArray[np.int64]


# ---- studies ----------------------------------------------------------------------------------------------


def draw(kind: str, generator: np.random.Generator, shape: tuple[int, int, int], effects: Floats) -> Floats:
    """Draws the errors of whole studies, the baseline first.

    Args:
        kind: `normal`, `t3` (Student's t with 3 degrees of freedom), `binomial` (wrong images of 360), `unequal` (the
            last arm's deviation is three times the others'), `outliers` (a tenth of the last arm's seeds is far off).
        generator: Where from.
        shape: (studies, arms + 1, seeds).
        effects: Of each arm, shape (arms,): points for counts, otherwise deviations of one error.

    Returns:
        Errors, of that shape.
    """
    shifts = np.concatenate([[0.0], effects])[:, None]
    if kind == "binomial":
        return generator.binomial(IMAGES, BASE_ERROR + shifts / 100.0, shape) * (100.0 / IMAGES)
    errors = generator.standard_t(3, shape) if kind == "t3" else generator.normal(0.0, 1.0, shape)
    if kind == "unequal":
        errors[:, -1] *= 3.0
    if kind == "outliers":
        errors[:, -1] += 3.0 * (generator.random((shape[0], shape[2])) < 0.1)
    return errors + shifts


# ---- the rules over many studies at once --------------------------------------------------------------------


@dataclass
class Courses:
    """What has become of each arm of each study; every field (studies, arms).

    Attributes:
        open: Gets further seeds.
        seeds: Seeds at its last look.
        rejected: Differs from zero.
        positive: Its mean at the last look is above zero.
        equivalent: Is called equivalent.
    """

    open: Flags
    seeds: Whole = field(init=False)
    rejected: Flags = field(init=False)
    positive: Flags = field(init=False)
    equivalent: Flags = field(init=False)

    def __post_init__(self) -> None:
        self.seeds = np.zeros(self.open.shape, dtype=np.int64)
        self.rejected, self.positive, self.equivalent = (np.zeros(self.open.shape, dtype=bool) for _ in range(3))

    @property
    def supports(self) -> Flags:
        return self.rejected & ~self.equivalent & self.positive

    @property
    def contradicts(self) -> Flags:
        return self.rejected & ~self.equivalent & ~self.positive


def look(differences: Floats, courses: Courses, margin: float, boundary: Boundary, alpha: float = ALPHA) -> Looked:
    """Judges the open arms at all their seeds and closes those with a word.

    Args:
        differences: Arm minus baseline, (studies, arms, seeds).
        courses: What earlier looks have decided; changed.
        margin: Of equivalence.
        boundary: What this look may use of a level.
        alpha: Family-wise level.
    """
    seeds, arms = differences.shape[2], differences.shape[1]
    mean, sd = differences.mean(2), differences.std(2, ddof=1)
    constant = np.ptp(differences, axis=2) == 0
    error = np.where(constant, 1.0, sd / math.sqrt(seeds))
    p = np.where(constant, 1.0, _overall_p(2.0 * special.stdtr(seeds - 1, -np.abs(mean) / error), boundary, seeds))
    p = np.where(courses.open, p, np.inf)
    unrejected = arms - courses.rejected.sum(1, keepdims=True)
    rank = p.argsort(1).argsort(1)
    passes = np.sort(p, 1) <= alpha / np.maximum(unrejected - np.arange(arms), arms / 2)
    passed = np.logical_and.accumulate(passes, axis=1).sum(1, keepdims=True)
    level = alpha / np.maximum(unrejected - np.minimum(rank, passed), arms / 2)
    half = _half_width(level, boundary, seeds) * error
    tested = courses.open & ~constant
    courses.rejected |= tested & (rank < passed)
    courses.equivalent |= tested & (mean - half > -margin) & (mean + half < margin)
    courses.positive = np.where(courses.open, mean > 0, courses.positive)
    courses.seeds = np.where(courses.open, seeds, courses.seeds)
    courses.open &= ~(courses.rejected | courses.equivalent)
    return Looked(mean, sd, level, constant)


@dataclass
class Looked:
    """What a look saw of each arm; every field (studies, arms)."""

    mean: Floats
    sd: Floats
    level: Floats
    constant: Flags


def _overall_p(p: Floats, boundary: Boundary, seeds: int) -> Floats:
    """`Boundary.overall_p` of many."""
    if isinstance(boundary, WangTsiatis):
        t = -special.stdtrit(seeds - 1, p / 2.0)
        scores = np.sqrt(t * -special.ndtri(p / 2.0)) * math.pow(seeds / boundary.max_seeds, 0.25)
        beyond = PATHS - np.searchsorted(largest_scores(boundary.max_seeds), scores.ravel()).reshape(p.shape)
        return np.asarray((beyond + 1) / (PATHS + 1))
    assert isinstance(boundary, ShareOfLevel)
    return np.minimum(1.0, p / boundary.share)


def _half_width(level: Floats, boundary: Boundary, seeds: int, freedom: int | None = None) -> Floats:
    """Half the interval in standard errors; levels take few values."""
    values, place = np.unique(level, return_inverse=True)
    nominal = np.array([boundary.nominal_level(float(value), seeds) for value in values])
    widths = -special.stdtrit(seeds - 1 if freedom is None else freedom, nominal / 2.0)
    return np.asarray(widths[place.reshape(level.shape)])


def compared(errors: Floats, weights: Floats | None) -> Floats:
    """Returns what is compared by seed, (studies, contrasts, seeds).

    Args:
        errors: The baseline's and the arms', (studies, arms + 1, seeds).
        weights: Of contrasts over them, (contrasts, arms + 1); None for each arm minus the baseline.
    """
    if weights is None:
        return errors[:, 1:] - errors[:, :1]
    return np.einsum("ca,nas->ncs", weights, errors)


def fixed(errors: Floats, margin: float, share: float = 0.8, weights: Floats | None = None) -> Courses:
    """Judges studies once, at all their seeds."""
    differences = compared(errors, weights)
    courses = Courses(np.ones(differences.shape[:2], dtype=bool))
    look(differences, courses, margin, ShareOfLevel(share))
    return courses


def extended(
    errors: Floats, margin: float, looks: Sequence[int] = EXTENDED_LOOKS, weights: Floats | None = None
) -> Iterator[Courses]:
    """Judges studies afresh at each look, as someone does who repeats the command with more seeds."""
    family = errors.shape[1] - 1 if weights is None else len(weights)
    for place, seeds in enumerate(looks):
        share = share_of_level(tuple(looks[:place]), seeds, ALPHA / family)
        yield fixed(errors[:, :, :seeds], margin, share, weights)


def sequential(errors: Floats, rule: SequentialRule, weights: Floats | None = None) -> Courses:
    """Follows studies of `--seeds auto` to their end."""
    differences = compared(errors, weights)
    courses = Courses(np.ones(differences.shape[:2], dtype=bool))
    boundary = WangTsiatis(rule.max_seeds)
    for seeds in range(FIRST_LOOK, rule.max_seeds + 1):
        live = courses.open.any(1)
        part = Courses(courses.open[live])
        for name in ("seeds", "rejected", "positive", "equivalent"):
            setattr(part, name, getattr(courses, name)[live])
        looked = look(differences[live, :, :seeds], part, rule.margin, boundary, rule.alpha)
        if rule.stops_futile and seeds < rule.max_seeds:
            part.open &= looked.constant | (_chance(looked, rule, seeds) >= FUTILE_BELOW)
        for name in ("open", "seeds", "rejected", "positive", "equivalent"):
            getattr(courses, name)[live] = getattr(part, name)
    return courses


def _chance(looked: Looked, rule: SequentialRule, seeds: int) -> Floats:
    """`chance_of_a_word` of many."""
    last, left = rule.max_seeds, rule.max_seeds - seeds
    sd = np.where(looked.constant, 1.0, looked.sd)
    sd = sd * math.sqrt((seeds - 1) / float(special.chdtri(seeds - 1, (1.0 - LIMITS_LEVEL) / 2.0)))
    half = _half_width(looked.level, WangTsiatis(last), last) * sd / math.sqrt(last)
    noise, seen = sd * math.sqrt(left), np.abs(looked.mean)
    chances = []
    for sign in (1.0, -1.0):
        sums = sign * seeds * seen + left * np.maximum(sign * seen, rule.smallest_effect)
        chances.append(special.ndtr((sums - last * half) / noise))
    inside = last * (rule.margin - half)
    within = special.ndtr((seeds * seen + inside) / noise) - special.ndtr((seeds * seen - inside) / noise)
    chances.append(np.where(inside > 0, within, 0.0))
    return np.asarray(np.max(chances, axis=0))


# ---- how often they err -----------------------------------------------------------------------------------------


def judged(design: str, errors: Floats, margin: float, weights: Floats | None = None) -> list[Courses]:
    """Returns what a study has said at each look that someone may stop at."""
    if design == "fixed":
        return [fixed(errors[:, :, :FIXED_SEEDS], margin, weights=weights)]
    if design == "extended":
        return list(extended(errors, margin, weights=weights))
    return [sequential(errors, SequentialRule(MAX_SEEDS, ALPHA, margin, 1.0, stops_futile=False), weights)]


def false_words(
    kind: str, effects: Sequence[float], design: str, margin: float, studies: int, weights: Floats | None = None
) -> Flags:
    """Returns which studies said anything false at any look.

    That is a direction where there is no effect, or equivalent where the effect is the margin (or more).

    Args:
        kind: Of the errors, see `draw`.
        effects: Of each arm.
        design: `fixed`, `extended` or `sequential`.
        margin: Of equivalence.
        studies: How many.
        weights: Of the contrasts of one family, see `compared`.
    """
    generator, shifts = np.random.default_rng(len(effects)), np.asarray(effects, dtype=np.float64)
    # 对比的真值由各 arm 的效应得出；除不尽的权重留下的尾数就是零
    truth = shifts if weights is None else np.round(weights @ np.concatenate([[0.0], shifts]), 9)
    wrong = np.zeros(studies, dtype=bool)
    # 按块计算：十个 arm 的两万个研究一次放不进缓存
    for start in range(0, studies, 5_000):
        size = min(5_000, studies - start)
        errors = draw(kind, generator, (size, len(effects) + 1, MAX_SEEDS), shifts)
        for courses in judged(design, errors, margin, weights):
            directions = (courses.supports | courses.contradicts) & (truth == 0.0)
            wrong[start : start + size] |= (directions | courses.equivalent & (np.abs(truth) >= margin)).any(1)
    return wrong


def tolerated(studies: int) -> float:
    """Returns the rate that so many studies may show at a level of 0.05: three standard errors above."""
    return ALPHA + 3.0 * math.sqrt(ALPHA * (1.0 - ALPHA) / studies)


def edges(kind: str, arms: int, ratio: float, both: bool) -> tuple[list[float], float] | None:
    """Returns effects of exactly the margin (on both sides by turns) and the margin; None below zero errors."""
    margin = ratio * (COUNT_SD if kind == "binomial" else 1.0)
    if kind == "binomial" and both and margin > 100.0 * BASE_ERROR:
        return None
    return [margin * (-1.0) ** (arm if both else 0) for arm in range(arms)], margin


def print_error_rates(studies: int) -> float:
    """Prints the rate of studies with a false word in every case; returns the highest."""
    print(f"false words in {studies} studies a case (fixed {FIXED_SEEDS}, extended {EXTENDED_LOOKS}, sequential 4..20)")
    print(f"tolerated: {tolerated(studies):.4f}\n\nkind       arms  design      no effect  at the margin (worst of 6)")
    highest = 0.0
    for kind in KINDS:
        for arms in ARMS:
            for design in ("fixed", "extended", "sequential"):
                none = float(false_words(kind, [0.0] * arms, design, 0.01, studies).mean())
                cases = [edges(kind, arms, ratio, both) for ratio in (1.25, 2.5, 10.0) for both in (False, True)]
                worst = max(
                    float(false_words(kind, case[0], design, case[1], studies).mean()) for case in cases if case
                )
                highest = max(highest, none, worst)
                print(f"{kind:10} {arms:4}  {design:10} {none:10.4f} {worst:10.4f}  {_bar(none, 0.1)}", flush=True)
    return highest


@dataclass(frozen=True)
class ContrastCase:
    """A family of contrasts and what is true of its arms.

    Attributes:
        name: As printed.
        weights: Of its contrasts over the arms, the baseline first, (contrasts, arms).
        effects: Of the arms but the baseline, in deviations of one error.
        margin: Of equivalence.
    """

    name: str
    weights: Floats
    effects: tuple[float, ...]
    margin: float = 0.01


def contrast_cases() -> list[ContrastCase]:
    """Returns families of contrasts without an effect, with effects on some of them, and at the margin.

    The weights are those that the product gives a study. Steps of a ladder share an arm, so that they are correlated.
    """
    whole, ladder, pairs = make_study("factorial"), make_study("cumulative"), make_study("", "compare: all_pairs")
    factorial, steps, every = (_weights(study, families(study.contrasts)[0]) for study in (whole, ladder, pairs))
    first = whole.arms[0].levels
    cells = np.array([[arm.levels[factor] != level for factor, level in first.items()] for arm in whole.arms])
    mains = tuple((cells @ [2.0, -1.0, 0.0])[1:])
    crossed = tuple((cells[:, 0] & cells[:, 1])[1:] * 2.0)
    edge = 2.0 * cells[:, 2]
    return [
        ContrastCase("factorial, nothing", factorial, (0.0,) * 7),
        ContrastCase("factorial, two main effects", factorial, mains),
        ContrastCase("factorial, one interaction", factorial, crossed),
        ContrastCase("factorial, a main effect at the margin", factorial, tuple(edge[1:]), 2.0),
        ContrastCase("ladder, nothing", steps, (0.0,) * 3),
        ContrastCase("ladder, the second step", steps, (0.0, 2.0, 2.0)),
        ContrastCase("ladder, up and down by the margin", steps, (2.0, 0.0, 2.0), 2.0),
        ContrastCase("all pairs, nothing", every, (0.0, 0.0)),
        ContrastCase("all pairs, one arm apart", every, (0.0, 2.0)),
    ]


def _weights(study: Study, family: Sequence[Contrast]) -> Floats:
    return np.array([[contrast.weights.get(arm.name, 0.0) for arm in study.arms] for contrast in family])


def print_contrasts(studies: int) -> float:
    """Prints the rate of studies with a false word among contrasts; returns the highest."""
    print(f"\ncontrasts, errors normal (t3, binomial, unequal where nothing differs)\n{'':40} design      false words")
    highest = 0.0
    for case in contrast_cases():
        kinds = KINDS if not any(case.effects) else ("normal",)
        for design in ("fixed", "extended", "sequential"):
            rates = [
                float(false_words(kind, case.effects, design, case.margin, studies, case.weights).mean())
                for kind in kinds
            ]
            highest = max(highest, *rates)
            print(f"{case.name:40} {design:10}  {' '.join(f'{rate:.4f}' for rate in rates)}", flush=True)
    return highest


def print_limits(studies: int) -> None:
    """Prints what is known to pass 5 %, or is not promised."""
    print("\nbeyond the promise: 10 % outlier seeds in one arm; half of the arms at the margin, half without effect")
    for design in ("fixed", "extended", "sequential"):
        outliers = [float(false_words("outliers", [0.0] * arms, design, 0.01, studies).mean()) for arms in (1, 5)]
        mixed = [
            float(false_words("normal", [2.5, 0.0] * (arms // 2), design, 2.5, studies).mean()) for arms in (2, 10)
        ]
        print(
            f"{design:10}  outliers, 1 and 5 arms: {outliers[0]:.4f} {outliers[1]:.4f};"
            f"  mixed, 2 and 10 arms: {mixed[0]:.4f} {mixed[1]:.4f}",
            flush=True,
        )


# ---- what they find, and what it takes ----------------------------------------------------------------------------


def fixed_seeds(effect: float, target: float) -> int:
    """Returns the fewest seeds of a t test at 0.05 with that power; the effect is in deviations of a difference."""
    return next(seeds for seeds in range(3, 1000) if power(effect, 1.0, seeds, ALPHA) >= target)


def one_arm(effect: float, rule: SequentialRule, studies: int) -> Courses:
    """Follows studies of one arm; the effect is in deviations of a difference, as are the rule's sizes."""
    errors = draw("normal", np.random.default_rng(1), (studies, 2, rule.max_seeds), np.array([0.0])) / math.sqrt(2.0)
    errors[:, 1] += effect
    return sequential(errors, rule)


def planned_maximum(effect: float, target: float, studies: int) -> int:
    """Returns the smallest maximum at which a sequential study finds the effect as often as wanted."""
    seeds = fixed_seeds(effect, target)
    while one_arm(effect, SequentialRule(seeds, ALPHA, 0.0, effect, False), studies).rejected.mean() < target:
        seeds += 1
    return seeds


def savings(effect: float, target: float, studies: int) -> dict[str, dict[float, tuple[float, float]]]:
    """Returns (power, seeds over those of the fixed design of equal power), by stop and multiple of the effect.

    Args:
        effect: The planned effect in deviations of a difference.
        target: Power of the fixed design (its own, where its whole seeds overshoot).
        studies: How many.
    """
    seeds = fixed_seeds(effect, target)
    maximum = planned_maximum(effect, power(effect, 1.0, seeds, ALPHA), studies)
    saved: dict[str, dict[float, tuple[float, float]]] = {}
    for name, rule in (
        ("words only", SequentialRule(maximum, ALPHA, 0.0, effect, stops_futile=False)),
        ("futility too", SequentialRule(maximum, ALPHA, effect / 2.0, effect)),
    ):
        saved[name] = {}
        for times in (0.0, 0.5, 1.0, 1.5, 2.0):
            courses = one_arm(times * effect, rule, studies)
            saved[name][times] = (float(courses.supports.mean()), float(courses.seeds.mean()) / seeds)
    return saved


def print_savings(studies: int) -> None:
    """Prints power and seeds as curves over the size of the effect; baseline and arm take as many."""
    for effect in (0.8, 1.0):
        for target in (0.9, 0.95):
            seeds = fixed_seeds(effect, target)
            print(f"\none arm, planned effect {effect} deviations, power {target:.0%}: fixed design {seeds} seeds")
            for name, curve in savings(effect, target, studies).items():
                for times, (share, used) in curve.items():
                    print(f"  {name:12} {times:3.1f} x  power {share:.3f} {_bar(share)}  seeds {used:.2f} {_bar(used)}")
    print_trials(studies)


def print_trials(studies: int) -> None:
    """Prints the trials of five arms and their baseline, over those of the fixed design with as many seeds."""
    print("\nfive arms and their baseline, maximum 20: trials over those of 20 seeds each, arms found")
    for times in (0.0, 0.5, 1.0, 1.5, 2.0):
        shifts = np.full(5, times * math.sqrt(2.0))
        errors = draw("normal", np.random.default_rng(2), (studies // 4, 6, MAX_SEEDS), shifts)
        rule = SequentialRule(MAX_SEEDS, ALPHA, math.sqrt(0.5), math.sqrt(2.0))
        courses = sequential(errors, rule)
        trials = (courses.seeds.sum(1) + courses.seeds.max(1)).mean() / (6 * MAX_SEEDS)
        print(f"  {times:3.1f} x  power {courses.supports.mean():.3f}  trials {trials:.2f} {_bar(float(trials))}")


def _bar(value: float, full: float = 1.2) -> str:
    width = 24
    return "#" * round(width * min(1.0, value / full)) + "." * (width - round(width * min(1.0, value / full)))


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints everything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=STUDIES, help=f"studies per case (default: {STUDIES})")
    studies = parser.parse_args(arguments).studies
    started = time.monotonic()
    print_savings(studies)
    print()
    highest = print_error_rates(studies)
    highest = max(highest, print_contrasts(studies))
    print(f"\nhighest rate: {highest:.4f}, tolerated: {tolerated(studies):.4f}")
    print_limits(studies)
    print(f"\n{time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
