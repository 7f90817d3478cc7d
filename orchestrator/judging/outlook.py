"""What a study can still say before it is trained: which differences it would resolve."""

from __future__ import annotations

import json
import math
from pathlib import Path

from alexnet_core.configuration.wording import counted
from orchestrator.judging.scales import STATISTICS
from orchestrator.planning.plan import ALPHA, Plan
from orchestrator.planning.plan_file import looks_on_record
from orchestrator.statistics.alpha_spending import (
    FIRST_LOOK,
    WangTsiatis,
    looks_before,
    seeds_for_a_word,
    share_of_level,
)
from orchestrator.statistics.limits import FEWEST_SEEDS
from orchestrator.statistics.paired import (
    detectable_effect,
    sd_limits,
    seeds_to_reach_a_verdict,
)
from search_spaces.core_config import PERCENT, description_of


def resolution_outlook(plan: Plan, folder: Path) -> str:
    """Says whether this many seeds can reach a verdict, and what they resolve if an earlier answer tells the spread."""
    if plan.study.shows_variance:
        return _of_variance(len(plan.seeds))
    try:
        answer = json.loads((folder / "answer.json").read_bytes())
        judged = [*answer["arms"], *answer.get("contrasts", [])]
        reported = [one.get("difference_sd") for one in judged if isinstance(one, dict)]
        deviations = [float(value) for value in reported if isinstance(value, (int, float)) and 0 < value < math.inf]
        if STATISTICS[plan.study.statistic].scale != "points":
            # 比值的标准差不是百分点，不能当百分点说
            deviations = []
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        deviations = []
    seeds, compared, deviation = len(plan.seeds), plan.comparisons, max(deviations, default=None)
    if plan.max_seeds is not None:
        level = ALPHA / max(1, compared)
        share = WangTsiatis(seeds).nominal_level(level, seeds) / level
        need = seeds_to_reach_a_verdict(compared, ALPHA)
        outlook = verdict_outlook(
            seeds, compared, plan.recipe.smallest_effect, deviation, ALPHA, share, need, noun=_noun(plan)
        )
        outlook = _in_unit(outlook.replace("--seeds", "--max-seeds"), plan)
        return f"at most, with a look at each from {FIRST_LOOK} seeds on; {outlook}"
    on_record = [look for look in looks_on_record(folder, plan) if look >= FEWEST_SEEDS]
    looks = looks_before(on_record, seeds)
    if looks and looks[-1] > seeds:
        return (
            f"{counted(seeds, 'seed')} cannot reach a verdict: {looks[-1]} were looked at already (--seeds {looks[-1]})"
        )
    if plan.study.kind == "reproduction":
        return _of_interval(seeds)
    share = share_of_level(looks, seeds, ALPHA / max(1, compared))
    by_signs = STATISTICS[plan.study.statistic].by_signs
    need = seeds_to_reach_a_verdict(compared, share * ALPHA if by_signs else ALPHA)
    if by_signs and seeds < need:
        # 现在这次看用不上的水平，以后的看也要先扣掉
        need = seeds_for_a_word(looks_before(on_record, 0), compared, ALPHA)
    outlook = verdict_outlook(
        seeds, compared, plan.recipe.smallest_effect, deviation, ALPHA, share, need, by_signs, _noun(plan)
    )
    return _in_unit(outlook, plan)


def _of_interval(seeds: int) -> str:
    """Whether so many seeds tell an interval of a mean, which is all that the words of a reproduction rest on."""
    if seeds < FEWEST_SEEDS:
        return f"{counted(seeds, 'seed')} cannot reach a verdict: it takes {FEWEST_SEEDS} (--seeds {FEWEST_SEEDS})"
    return f"{counted(seeds, 'seed')} can reach a verdict"


def _of_variance(seeds: int) -> str:
    """How well so many seeds tell a standard deviation."""
    if seeds < FEWEST_SEEDS:
        tells = "tells" if seeds == 1 else "tell"
        return (
            f"{counted(seeds, 'seed')} {tells} no standard deviation: it takes {FEWEST_SEEDS} (--seeds {FEWEST_SEEDS})"
        )
    low, high = sd_limits(1.0, seeds)
    return f"{counted(seeds, 'seed')} tell each standard deviation to between {low:.2f} and {high:.2f} times itself"


def _noun(plan: Plan) -> str:
    """What is compared: arms with the baseline, or other contrasts."""
    return "arm" if all(contrast.kind == "arm" for contrast in plan.study.contrasts) else "contrast"


def _in_unit(outlook: str, plan: Plan) -> str:
    """The outlook in the unit of the metric that is judged, where that is not percent."""
    core = description_of(plan.base)
    metric = core.metrics.get(plan.study.primary_metric)
    if metric is None or metric.unit == PERCENT:
        return outlook
    return outlook.replace(" points", f" {metric.unit}".rstrip(), 1)


def verdict_outlook(
    seeds: int,
    arms: int,
    smallest_effect: float,
    standard_deviation: float | None,
    alpha: float = 0.05,
    share: float = 1.0,
    need: int | None = None,
    by_signs: bool = False,
    noun: str = "arm",
) -> str:
    """Says before anything runs whether this many seeds can reach a verdict, and what they resolve.

    Args:
        seeds: Planned seeds.
        arms: Arms compared with the baseline, or other contrasts of one family.
        smallest_effect: The recipe's, in percentage points.
        standard_deviation: Of the differences, from an earlier answer; None without one.
        alpha: Family-wise level.
        share: Of it, what this look may use.
        need: The fewest seeds that sign flips need; None for as many as that share asks for.
        by_signs: Whether the sign test judges, rather than t.
        noun: What is compared.
    """
    need = need or seeds_to_reach_a_verdict(arms, share * alpha)
    if seeds < need:
        tested = counted(arms, noun)
        if by_signs:
            signs = f"the sign test of {tested} needs {need} (--seeds {need})"
            return f"{counted(seeds, 'seed')} cannot reach a verdict: {signs}"
        if seeds < FEWEST_SEEDS:
            return (
                f"{counted(seeds, 'seed')} cannot reach a verdict: it takes {FEWEST_SEEDS}, and {need} for sign "
                f"flips of {tested} "
                f"to confirm it (--seeds {need})"
            )
        return (
            f"{counted(seeds, 'seed')} cannot reach a verdict that sign flips confirm: their exact test of {tested} "
            f"needs {need} "
            f"(--seeds {need}); a word would rest on the t test alone"
        )
    if not standard_deviation:
        return f"{counted(seeds, 'seed')} can reach a verdict"
    resolved = detectable_effect(standard_deviation, seeds, share * alpha / arms)
    worth_finding = "" if resolved <= smallest_effect else f" (worth finding: {smallest_effect:g})"
    shown = f"{resolved:.1f}" if resolved >= 0.1 else f"{resolved:.2g}"
    return f"{counted(seeds, 'seed')} can reach a verdict; can resolve {shown} points{worth_finding}"
