"""The forest plot: differences with their intervals, every seed as a point, the paper's number beside them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from alexnet_core.configuration.wording import counted
from orchestrator.judging import numbers
from orchestrator.judging.answer import Answer, Compared, ContrastAnswer
from orchestrator.judging.notes import in_unit
from orchestrator.judging.scales import STATISTICS
from orchestrator.reporting.figures.style import (
    COLOURS,
    INK,
    MARGIN_COLOUR,
    MUTED,
    SURFACE,
    UNTESTED_COLOUR,
    Picture,
    drawing,
    picture,
    rooms,
    short,
)
from search_spaces.core_config import PERCENT

NAME = "differences"
SEED_OFFSET, SEED_STEP, SEED_ROOM = 0.17, 0.085, 0.34
WORD_WIDTH, MOST_VECTOR_SEEDS = 32, 60
# 刻度上的比值：先用稀的，范围太窄就用密的
RATIOS = (
    (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100),
    (0.125, 0.25, 0.5, 1, 1.5, 2, 3, 4, 6, 8),
    (0.5, 0.6, 0.7, 0.8, 0.9, 1, 1.1, 1.2, 1.3, 1.5, 1.7, 2),
)
FEWEST_TICKS = 5


def differences_figure(answer: Answer) -> Picture:
    """Draws the forest plot.

    Args:
        answer: The answer.
    """
    arms = answer.judged
    with drawing(NAME, 1.7 + rooms(len(arms), 0.82, 0.62) * len(arms)) as figure:
        axes = figure.subplots()
        margin = answer.scale.size(answer.margin)
        axes.axvspan(-margin, margin, color=MARGIN_COLOUR, linewidth=0, zorder=0)
        axes.axvline(0.0, color=INK, linewidth=1.0, zorder=1)
        for place, arm in enumerate(reversed(arms)):
            _draw_arm(axes, arm, place)
        _decorate(axes, answer, arms)
        figure.legend(handles=_legend(answer, arms), loc="outside lower left", ncols=5, fontsize=9.5)
        title = "What is compared" if answer.contrasts else f"Differences to {_baseline(answer)}"
        title = "Against what is published" if answer.reproduces else title
        return picture(figure, NAME, title, differences_in_words(answer))


def differences_in_words(answer: Answer) -> str:
    """Says what the forest plot shows."""
    parts = [
        f"{arm.name} {numbers.difference(arm)} {numbers.unit(arm)}".rstrip() + f" ({arm.word})"
        for arm in answer.judged
        if arm.difference is not None
    ]
    what = "Contrasts" if answer.contrasts else "Differences to the baseline"
    return f"{what} with intervals: {'; '.join(parts) or 'none yet'}"


def _draw_arm(axes: Axes, arm: Compared, place: int) -> None:
    colour = COLOURS.get(arm.word, UNTESTED_COLOUR)
    _draw_seeds(axes, list(arm.differences.values()), place, colour)
    claimed = claimed_value(arm)
    if claimed is not None:
        axes.plot(claimed, place, "D", markersize=9, markerfacecolor="none", color=INK, mew=1.8, zorder=4)
    draw_interval(axes, arm, place, colour, 9)
    _write_verdict(axes, arm, place, colour)


def _draw_seeds(axes: Axes, values: list[float], place: int, colour: str) -> None:
    """Every seed is a point of its own: equal differences stand below one another."""
    most = max(Counter(round(value, 6) for value in values).values(), default=1)
    step = min(SEED_STEP, SEED_ROOM / most)
    stacked: Counter[float] = Counter()
    lows = []
    for value in values:
        lows.append(place - SEED_OFFSET - step * stacked[round(value, 6)])
        stacked[round(value, 6)] += 1
    # 几千个点时，SVG 里放像素
    pixels = len(values) > MOST_VECTOR_SEEDS
    axes.plot(values, lows, "o", markersize=4, color=colour, alpha=0.7, mew=0, zorder=2, rasterized=pixels)


def _write_verdict(axes: Axes, arm: Compared, place: int, colour: str) -> None:
    """The numbers stand in a column of their own, so that no label runs into a point."""
    side = axes.get_yaxis_transform()
    text = numbers.difference(arm)
    if arm.interval is not None:
        text += f"  ({numbers.interval(arm)})  at {numbers.level(arm)}"
    axes.text(
        1.02, place + 0.10, short(arm.word, WORD_WIDTH), transform=side, color=colour, fontweight="bold", va="center"
    )
    axes.text(1.02, place - 0.12, text, transform=side, color=MUTED, fontsize=10, va="center")


def _decorate(axes: Axes, answer: Answer, arms: Sequence[Compared]) -> None:
    axes.set_yticks(range(len(arms)), [_tick(arm) for arm in reversed(arms)])
    axes.set_ylim(-0.62, len(arms) - 0.5)
    axes.margins(x=0.08)
    if STATISTICS[answer.statistic].scale == "points":
        unit = "percentage points" if answer.unit == PERCENT else answer.unit
        what = "contrasts" if answer.contrasts else f"arm minus {_baseline(answer)}"
        what = "mean minus the published value" if answer.reproduces else what
        axes.set_xlabel(f"{answer.metric}, {what}, {unit}".rstrip(", "), labelpad=8)
    else:
        what = "contrasts as ratios" if answer.contrasts else f"arm over {_baseline(answer)}"
        axes.set_xlabel(f"{answer.metric}, {what}", labelpad=8)
        ratio_ticks(axes)
    seeds = counted(answer.seeds, "seed")
    axes.set_title(f"{answer.study} on {answer.dataset}, {seeds}", loc="left", fontsize=12)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")


def _tick(arm: Compared) -> str:
    """What stands beside a row: the name, and the seeds; of a reproduction the value that its zero is."""
    if isinstance(arm, ContrastAnswer) and arm.published is not None:
        name = short(arm.name.removesuffix("-vs-published"))
        return f"{name}\npublished {in_unit(arm.published.value, arm.unit)}, n = {arm.n}"
    return f"{short(arm.name)}\nn = {arm.n}"


def ratio_ticks(axes: Axes) -> None:
    """Writes the ticks of an axis of log-ratios as ratios."""
    inside = [[ratio for ratio in ratios if _within(axes, math.log(ratio))] for ratios in RATIOS]
    shown = next((ratios for ratios in inside if len(ratios) >= FEWEST_TICKS), inside[-1])
    axes.set_xticks([math.log(ratio) for ratio in shown], [f"×{ratio:g}" for ratio in shown])


def claimed_value(arm: Compared) -> float | None:
    """Returns the source's number on the axis of the arm: points, or a log-ratio."""
    return arm.claimed_points if arm.claimed_ratio is None else math.log(arm.claimed_ratio)


def draw_interval(axes: Axes, arm: Compared, place: float, colour: str, size: float) -> None:
    """Draws an arm's difference with its interval; an end without a bound is an arrow."""
    if arm.difference is None:
        return
    if arm.interval is not None:
        spread = spread_of(arm.difference, arm.interval)
        axes.errorbar(arm.difference, place, xerr=spread, color=colour, capsize=0.55 * size, linewidth=2.4, zorder=3)
        for end, is_open, mark in zip(arm.interval, arm.interval_open, "<>", strict=True):
            if is_open:
                axes.plot(end, place, mark, markersize=1.2 * size, color=colour, mew=0, zorder=4)
    if arm.beyond is not None:
        # 细线是第一个区间的延长：对新图也成立
        axes.errorbar(arm.difference, place, xerr=spread_of(arm.difference, arm.beyond), **thin(colour, size))
    filled = colour if arm.interval is not None else SURFACE
    axes.plot(arm.difference, place, "o", markersize=size, color=colour, markerfacecolor=filled, mew=1.8, zorder=5)


def spread_of(difference: float, limits: tuple[float, float]) -> list[list[float]]:
    """Returns how far limits lie from a difference, as `errorbar` takes it."""
    return [[difference - limits[0]], [limits[1] - difference]]


def thin(colour: str, size: float) -> dict[str, Any]:
    """Returns how the interval for new images is drawn: thin, its ends low."""
    return {"color": colour, "capsize": 0.35 * size, "linewidth": 1.0, "capthick": 1.0, "fmt": "none", "zorder": 2.5}


def _within(axes: Axes, value: float) -> bool:
    low, high = axes.get_xlim()
    return low <= value <= high


def _baseline(answer: Answer) -> str:
    return next(arm.name for arm in answer.arms if arm.is_baseline)


def _legend(answer: Answer, arms: Sequence[Compared]) -> list[Line2D | Patch]:
    grey = MUTED
    middle = STATISTICS[answer.statistic].middle
    handles: list[Line2D | Patch] = [
        Patch(color=MARGIN_COLOUR, label=_margin(answer)),
        Line2D(
            [],
            [],
            color=grey,
            marker="o",
            markersize=8,
            linewidth=2.4,
            label=f"{middle}, interval",
        ),
        Line2D([], [], color=grey, marker="o", markersize=4, linewidth=0, alpha=0.7, label="one seed"),
    ]
    if answer.has_beyond:
        handles.append(Line2D([], [], color=grey, linewidth=1.0, label="for new images"))
    if any(arm.claimed_points is not None or arm.claimed_ratio is not None for arm in arms):
        handles.append(
            Line2D(
                [],
                [],
                color=INK,
                marker="D",
                markersize=8,
                linewidth=0,
                mfc="none",
                mew=1.8,
                label=numbers.source_heading(answer),
            )
        )
    return handles


def _margin(answer: Answer) -> str:
    if STATISTICS[answer.statistic].scale == "points":
        return f"margin ±{answer.margin:g}{' around what is published' if answer.reproduces else ''}"
    return f"margin ×{1 / answer.margin:.3g} to ×{answer.margin:g}"
