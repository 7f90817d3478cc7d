"""All claims at once: the paper's number beside ours, study by study."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from orchestrator.figures.style import COLOURS, GRID, INK, MUTED, UNTESTED_COLOUR, Picture, drawing, picture, short
from orchestrator.findings import Answer, ArmAnswer

NAME = "claims"


def claims_figure(answers: Sequence[Answer], dataset: str) -> Picture | None:
    """Draws each arm's difference with its interval, and the paper's number; None where nothing is measured.

    Args:
        answers: The answers on one data set.
        dataset: Its name.
    """
    # 比值和百分点不能画在同一条轴上，比值只在表里
    rows = [(answer, arm) for answer in answers for arm in answer.arms if not arm.is_baseline and arm.scale == "points"]
    if not any(arm.difference is not None for _, arm in rows):
        return None
    name = f"{NAME}-{dataset}"
    with drawing(name, 1.4 + 0.36 * len(rows)) as figure:
        axes = figure.subplots()
        axes.axvline(0.0, color=INK, linewidth=1.0, zorder=1)
        for place, (answer, arm) in enumerate(reversed(rows)):
            _draw(axes, arm, place)
            if arm is next(other for other in answer.arms if not other.is_baseline):
                axes.axhline(place + 0.5, color=GRID, linewidth=0.8)
        labels = [f"{answer.study}: {short(arm.name, 24)}" for answer, arm in reversed(rows)]
        axes.set_yticks(range(len(rows)), labels)
        axes.set_ylim(-0.6, len(rows) - 0.4)
        axes.set_xlabel("difference to the study's baseline in percentage points of its own metric", color=MUTED)
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        ours = Line2D([], [], color=MUTED, marker="o", linewidth=2, label=f"ours, with interval ({dataset})")
        paper = Line2D([], [], color=INK, marker="D", linewidth=0, mfc="none", mew=1.6, label="paper (ImageNet)")
        figure.legend(handles=[ours, paper], loc="outside lower left", ncols=2, fontsize=9.5)
        said = "; ".join(f"{answer.study}, {arm.name}: {arm.word}" for answer, arm in rows)
        return picture(figure, name, f"All claims on {dataset}", f"The paper's numbers beside ours. {said}")


def _draw(axes: Axes, arm: ArmAnswer, place: int) -> None:
    colour = COLOURS.get(arm.word, UNTESTED_COLOUR)
    if arm.claimed_points is not None:
        axes.plot(arm.claimed_points, place, "D", markersize=7, markerfacecolor="none", color=INK, mew=1.6, zorder=4)
    if arm.difference is not None:
        low, high = arm.interval if arm.interval is not None else (arm.difference, arm.difference)
        spread = [[arm.difference - low], [high - arm.difference]]
        axes.errorbar(arm.difference, place, xerr=spread, fmt="o", color=colour, capsize=3, linewidth=2, zorder=3)
    side = axes.get_yaxis_transform()
    axes.text(1.02, place, short(arm.word), transform=side, color=colour, fontweight="bold", va="center", fontsize=9.5)
