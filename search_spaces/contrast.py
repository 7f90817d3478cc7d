"""Contrasts: what a study compares, each as weights over its arms that sum to zero."""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, TypeVar

from pydantic import Field

from search_spaces.arm import Arm, Claim, Name, Published
from search_spaces.design import DesignName, Level, factor_name, level_title

Kind = Literal["arm", "step", "pair", "main", "interaction", "published"]
Family = Literal["study", "steps"]
Trained = TypeVar("Trained", bound=Hashable)
Pairs = Annotated[tuple[tuple[Name, Name], ...], Field(min_length=1)]
Compare = Literal["baseline", "previous", "all_pairs"] | Pairs
# 再多的比较，Holm 之下谁也得不到判词
MOST_CONTRASTS = 1000


@dataclass(frozen=True)
class Contrast:
    """One comparison, evaluated on the values of one seed.

    Attributes:
        name: Of an arm against the baseline the arm's; no two of a study are alike.
        title: What is compared, as shown.
        weights: By arm, summing to zero; of two arms 1 and -1; of an arm against a published value 1.
        kind: An `arm` against the baseline; a `step` against the arm before; a `pair`; of a factorial a `main` effect
            (a level against its factor's first, averaged over the other factors) or an `interaction` (how much that
            effect changes with another factor's level: a difference of differences, averaged over the rest); an arm
            against a `published` value.
        family: Holm's family: `steps` are judged apart from the arms against the top of their ladder.
        claim: What a source says of it.
        published: The value that is subtracted from the arm's, in the unit in which that is shown.
    """

    name: str
    title: str
    weights: Mapping[str, float]
    kind: Kind
    family: Family = "study"
    claim: Claim | None = None
    published: Published | None = None

    @property
    def pair(self) -> tuple[str, str] | None:
        """The two arms, the first minus the second; None where there are more."""
        if len(self.weights) != 2:
            return None
        low, high = sorted(self.weights, key=lambda arm: self.weights[arm])
        return high, low


def contrasts_of(
    arms: Sequence[Arm],
    baseline: str,
    compare: Compare | None,
    design: DesignName | None,
    factors: Mapping[str, Mapping[str, Level]] | None,
) -> tuple[Contrast, ...]:
    """Returns what is compared, in the order in which it is shown.

    Args:
        arms: The study's.
        baseline: The arm that others are compared with.
        compare: What the study says; None for what its design asks: the effects of a factorial, the steps of a ladder
            beside its arms against the top, else each arm against the baseline.
        design: How the factors make arms.
        factors: The design's.
    """
    against = tuple(_against_baseline(arms, baseline))
    if compare == "baseline" or (compare is None and design in (None, "leave_one_out")):
        return against
    made = [arm for arm in arms if arm.levels]
    # 设计之外写出的 arm 仍与基线比
    beside = tuple(contrast for contrast in against if contrast.name not in {arm.name for arm in made})
    if compare is None and design == "factorial" and factors is not None:
        return (*_effects(made, factors), *beside)
    if compare is None and factors is not None:
        return (*_steps(made, factors), *against)
    if compare == "previous":
        return (*_steps(made, factors), *beside) if design == "cumulative" and factors else tuple(_following(arms))
    if compare == "all_pairs":
        pairs = itertools.combinations((arm.name for arm in arms), 2)
        return tuple(_pair(later, earlier, "pair") for earlier, later in pairs)
    assert not isinstance(compare, (str, type(None)))
    return tuple(_pair(first, second, "pair") for first, second in compare)


def against_published(arms: Sequence[Arm]) -> tuple[Contrast, ...]:
    """Returns each arm against what a source publishes of it."""
    return tuple(
        Contrast(f"{arm.name}-vs-published", arm.title, {arm.name: 1.0}, "published", published=arm.published)
        for arm in arms
    )


def _against_baseline(arms: Sequence[Arm], baseline: str) -> Iterator[Contrast]:
    for arm in arms:
        if arm.name != baseline:
            yield Contrast(arm.name, arm.title, {arm.name: 1.0, baseline: -1.0}, "arm", claim=arm.claim)


def _pair(first: str, second: str, kind: Kind) -> Contrast:
    return Contrast(f"{first}-vs-{second}", f"{first} against {second}", {first: 1.0, second: -1.0}, kind)


def _following(arms: Sequence[Arm]) -> Iterator[Contrast]:
    for before, arm in itertools.pairwise(arms):
        yield _pair(arm.name, before.name, "step")


def _steps(rungs: Sequence[Arm], factors: Mapping[str, Mapping[str, Level]]) -> Iterator[Contrast]:
    """Each step of a ladder against the one before: what its own level changes there."""
    for before, rung in itertools.pairwise(rungs):
        factor = next(name for name, level in rung.levels.items() if before.levels[name] != level)
        level = factors[factor][rung.levels[factor]]
        yield Contrast(
            f"{factor_name(factor)}-{rung.levels[factor]}",
            level_title(factor, rung.levels[factor], level),
            {rung.name: 1.0, before.name: -1.0},
            "step",
            "steps",
            level.claim,
        )


def _effects(arms: Sequence[Arm], factors: Mapping[str, Mapping[str, Level]]) -> Iterator[Contrast]:
    """Main effects, then two-way interactions; of a factor with more levels one for each but the first."""
    for factor, levels in factors.items():
        first, *others = levels
        for name in others:
            title = f"{level_title(factor, name, levels[name])} against {level_title(factor, first, levels[first])}"
            weights = _weights(arms, {factor: (name, first)})
            yield Contrast(_effect_name(factors, factor, name), title, weights, "main", claim=levels[name].claim)
    for one, other in itertools.combinations(factors, 2):
        for name, second in itertools.product(list(factors[one])[1:], list(factors[other])[1:]):
            start = next(iter(factors[other].items()))
            title = (
                f"{level_title(one, name, factors[one][name])}: its effect at "
                f"'{level_title(other, second, factors[other][second])}' minus that at '{level_title(other, *start)}'"
            )
            signs = {one: (name, next(iter(factors[one]))), other: (second, next(iter(factors[other])))}
            effects = (_effect_name(factors, one, name), _effect_name(factors, other, second))
            yield Contrast(":".join(effects), title, _weights(arms, signs), "interaction")


def _effect_name(factors: Mapping[str, Mapping[str, Level]], factor: str, level: str) -> str:
    return factor_name(factor) if len(factors[factor]) == 2 else f"{factor_name(factor)}-{level}"


def _weights(arms: Sequence[Arm], signs: Mapping[str, tuple[str, str]]) -> dict[str, float]:
    """Plus for the level of interest of each factor, minus for its first; averaged over the other factors' levels."""
    cells = {arm.name: 1.0 for arm in arms if all(arm.levels[name] in pair for name, pair in signs.items())}
    share = 2.0 ** len(signs) / len(cells)
    for arm in arms:
        if arm.name in cells:
            minus = sum(arm.levels[name] == first for name, (_, first) in signs.items())
            cells[arm.name] = share * (-1.0) ** minus
    return cells


def weights_by_trial(contrast: Contrast, trained: Mapping[str, Trained]) -> dict[Trained, float]:
    """Returns the weights over what is trained: arms that are the same trials count together, and may leave nothing.

    Args:
        contrast: The contrast.
        trained: What each of its arms trains.
    """
    weights: dict[Trained, float] = {}
    for arm, weight in contrast.weights.items():
        weights[trained[arm]] = weights.get(trained[arm], 0.0) + weight
    return {what: weight for what, weight in weights.items() if weight}


def families(contrasts: Sequence[Contrast]) -> list[list[Contrast]]:
    """Returns the contrasts that are corrected together, each family in its order."""
    named: dict[Family, list[Contrast]] = {}
    for contrast in contrasts:
        named.setdefault(contrast.family, []).append(contrast)
    return list(named.values())


def largest_family(contrasts: Sequence[Contrast]) -> int:
    """Returns how many comparisons the largest family has."""
    return max(map(len, families(contrasts)), default=0)
