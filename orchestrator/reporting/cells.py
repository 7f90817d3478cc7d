"""How numbers are shown: errors in percent, differences in percentage points, p values, levels, seeds."""

from __future__ import annotations

from orchestrator.findings import ArmAnswer
from orchestrator.statistics import MOST_SEEDS


def error(arm: ArmAnswer) -> str:
    """Returns mean ± standard deviation of the primary metric in percent."""
    if arm.mean is None:
        return ""
    return f"{arm.mean:.2f}" + (f" ± {arm.sd:.2f}" if arm.sd is not None else "")


def points(value: float | None, digits: int = 2) -> str:
    """Returns percentage points with their sign, or nothing for None."""
    return "" if value is None else f"{value:+.{digits}f}"


def bounds(interval: tuple[float, float] | None) -> str:
    """Returns the two ends of an interval in percentage points, or nothing for None."""
    return "" if interval is None else f"{interval[0]:+.2f}, {interval[1]:+.2f}"


def level(arm: ArmAnswer) -> str:
    """Returns the confidence of the arm's interval, such as `97.5 %`."""
    return "" if arm.interval_level is None else f"{arm.interval_level:.4g} %"


def flips(arm: ArmAnswer) -> str:
    """Returns the sign-flip p with its floor."""
    return "" if arm.sign_flip_p is None else f"{p_value(arm.sign_flip_p)} ({p_value(arm.sign_flip_floor)})"


def needed(arm: ArmAnswer) -> str:
    """Returns the range of seeds needed; a bound that the search did not reach is marked with a plus."""
    if arm.seeds_needed is None:
        return ""
    low, high = (f"{seeds}{'+' if seeds >= MOST_SEEDS else ''}" for seeds in arm.seeds_needed)
    return low if low == high else f"{low}-{high}"


def p_value(value: float | None) -> str:
    """Returns a p value with four digits, or nothing for None."""
    if value is None:
        return ""
    return "< 0.0001" if value < 1e-4 else f"{value:.4f}"
