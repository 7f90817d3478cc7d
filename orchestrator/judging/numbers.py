"""How numbers are shown: errors in percent, differences in percentage points, p values, levels, seeds."""

from __future__ import annotations

from orchestrator.judging.answer import RETUNED_STUDY, Answer, ArmAnswer, Compared, ContrastAnswer
from orchestrator.judging.scales import scale_of
from orchestrator.statistics.paired import MOST_SEEDS, ROUNDING
from search_spaces.core_config import PERCENT, number_in, significant
from search_spaces.study import study_names


def metric(arm: ArmAnswer) -> str:
    """Returns mean ± standard deviation of the primary metric in its unit; of times the median, and how many came.

    `17, all of 8`; where there is no median `half never, 4 of 8`, `most never, 3 of 8` or `never, 0 of 8`.
    """
    if arm.median is not None or arm.never:
        there = arm.n - len(arm.never)
        share = "never" if not there else "half never" if there == len(arm.never) else "most never"
        time = share if arm.median is None else f"{arm.median:g}"
        return f"{time}, {'all' if not arm.never else there} of {arm.n}"
    if arm.mean is None:
        return ""
    mean = number_in(arm.mean, arm.unit)
    if arm.sd is None:
        return mean
    return f"{mean} ± {f'{arm.sd:.2f}' if arm.unit == PERCENT else significant(arm.sd, 2)}"


def difference(arm: Compared) -> str:
    """Returns the arm's difference with its sign, in points or the metric's unit, or as a ratio: `at least ×2.40`."""
    shown = scale_of(arm.scale, arm.unit).difference(_without_rounding(arm, arm.difference))
    return shown if arm.difference_is == "known" else f"{arm.difference_is} {shown}"


def _without_rounding(arm: Compared, value: float | None) -> float | None:
    """The value, or 0 for what subtracting numbers of the arm's size leaves of equal ones."""
    # 别的比较在算的时候就去掉了舍入
    mean = arm.mean if isinstance(arm, ArmAnswer) else None
    is_rounding = value is not None and mean is not None and abs(value) < ROUNDING * abs(mean)
    return 0.0 if is_rounding else value


def difference_in_words(arm: Compared) -> str:
    """Returns the arm's difference with its unit: `+1.23 points`, `at least ×2.40`; nothing where there is none."""
    in_unit = f" {unit(arm)}".rstrip() if arm.difference is not None and arm.scale == "points" else ""
    return difference(arm) + in_unit


def interval(arm: Compared) -> str:
    """Returns the two ends of the arm's interval, or nothing; an unbounded end of a ratio is 0 or ∞."""
    if arm.interval is None:
        return ""
    ends = [scale_of(arm.scale, arm.unit).difference(_without_rounding(arm, end)) for end in arm.interval]
    low, high = ("×0" if arm.interval_open[0] else ends[0], "∞" if arm.interval_open[1] else ends[1])
    return f"{low}, {high}"


def beyond(arm: Compared) -> str:
    """Returns the two ends of the arm's interval for new images, with its level where that is not the first one's."""
    if arm.beyond is None:
        return ""
    scale = scale_of(arm.scale, arm.unit)
    ends = ", ".join(scale.difference(_without_rounding(arm, end)) for end in arm.beyond)
    return ends if beyond_level(arm) == level(arm) else f"{ends} at {beyond_level(arm)}"


def beyond_level(arm: Compared) -> str:
    """Returns the confidence of the arm's interval for new images."""
    return "" if arm.beyond_level is None else f"{arm.beyond_level:.4g} %"


def claimed(arm: Compared) -> str:
    """Returns the source's number."""
    if isinstance(arm, ContrastAnswer) and arm.published is not None:
        return number_in(arm.published.value, arm.unit)
    if arm.claimed_ratio is not None:
        return f"×{arm.claimed_ratio:g}"
    if arm.unit != PERCENT:
        return scale_of("points", arm.unit).difference(arm.claimed_points)
    return points(arm.claimed_points, 1)


def source_heading(answer: Answer) -> str:
    """Returns what the source's numbers are called: the paper's, or what somebody claims in a study of their own."""
    if answer.reproduces:
        return "published"
    return "paper" if is_of_the_paper(answer) else "claimed"


def is_of_the_paper(answer: Answer) -> bool:
    """Returns whether a study asks one of the paper's claims: it has one, comes with the package, and is AlexNet's."""
    is_ours = answer.core is None and answer.study.removesuffix(RETUNED_STUDY) in study_names()
    return is_ours and bool(answer.claim)


def unit(arm: Compared) -> str:
    """Returns what the arm's difference is in: `points`, the metric's own unit, or `ratio`."""
    return scale_of(arm.scale, arm.unit).unit


def points(value: float | None, digits: int = 2) -> str:
    """Returns percentage points with their sign, or nothing for None."""
    return "" if value is None else f"{value:+.{digits}f}"


def bounds(interval: tuple[float, float] | None) -> str:
    """Returns the two ends of an interval in percentage points, or nothing for None."""
    return "" if interval is None else f"{interval[0]:+.2f}, {interval[1]:+.2f}"


def level(arm: Compared) -> str:
    """Returns the confidence of the arm's interval, such as `97.5 %`."""
    return "" if arm.interval_level is None else f"{arm.interval_level:.4g} %"


def level_in_words(answer: Answer, arm: Compared) -> str:
    """Returns the confidence and where it comes from: `98 % (4 % over 2 arms)`, the chance of an error in any arm.

    Where looks at every seed share the level there is no such count of arms, and the confidence stands alone.
    """
    if arm.interval_level is None:
        return ""
    shared = 100.0 * answer.alpha * answer.level_share
    arms = shared / (100.0 - arm.interval_level)
    if answer.max_seeds is not None or round(arms) < 2 or abs(arms - round(arms)) > 1e-6:
        return level(arm)
    noun = "arms" if isinstance(arm, ArmAnswer) and not answer.contrasts else "comparisons"
    return f"{level(arm)} ({shared:.3g} % over {round(arms)} {noun})"


def flips(arm: Compared) -> str:
    """Returns the sign-flip p with its floor."""
    return "" if arm.sign_flip_p is None else f"{p_value(arm.sign_flip_p)} ({p_value(arm.sign_flip_floor)})"


def needed(arm: Compared) -> str:
    """Returns the range of seeds needed, nothing of an arm that is decided."""
    if arm.seeds_needed is None or arm.word != "inconclusive":
        return ""
    return seeds_range(arm.seeds_needed)


def seeds_range(seeds_needed: tuple[int, int] | None) -> str:
    """Returns a range of seeds, nothing for None; a bound that the search did not reach is marked with a plus."""
    if seeds_needed is None:
        return ""
    low, high = (f"{seeds}{'+' if seeds >= MOST_SEEDS else ''}" for seeds in seeds_needed)
    return low if low == high else f"{low}-{high}"


def deviation(answer: Answer, value: float | None) -> str:
    """Returns a standard deviation of the primary metric, without its unit; of ratios a factor, `×1.20`."""
    if value is None:
        return ""
    return f"{value:.2f}" if answer.scale.unit == "points" else answer.scale.difference(value).lstrip("+")


def p_value(value: float | None) -> str:
    """Returns a p value with four digits, or nothing for None."""
    if value is None:
        return ""
    return "< 0.0001" if value < 1e-4 else f"{value:.4f}"
