"""All claims at once: the paper's number beside ours, study by study."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from orchestrator.judging.answer import Answer, Compared
from orchestrator.judging.numbers import source_heading
from orchestrator.reporting.figures.forest import claimed_value, draw_interval, ratio_ticks
from orchestrator.reporting.figures.style import (
    COLOURS,
    GRID,
    INK,
    MUTED,
    UNTESTED_COLOUR,
    Picture,
    drawing,
    picture,
    short,
)
from search_spaces.core_config import PERCENT

NAME = "claims"


def claims_figure(answers: Sequence[Answer], dataset: str) -> Picture | None:
    """Draws each arm's difference with its interval, and the paper's number; None where nothing is measured.

    Args:
        answers: The answers on one data set.
        dataset: Its name.
    """
    claims = [(answer, one) for answer in answers for one in answer.judged]
    # 单位不同的差、比值和百分点，都不能画在同一条轴上：百分点在先，比值在后
    panels = [
        [claim for claim in claims if _axis(claim[1]) == axis] for axis in sorted({_axis(arm) for _, arm in claims})
    ]
    panels = [panel for panel in panels if any(arm.difference is not None for _, arm in panel)]
    if not panels:
        return None
    name = f"{NAME}-{dataset}"
    with drawing(name, 0.7 + sum(0.7 + 0.36 * len(panel) for panel in panels)) as figure:
        heights = [len(panel) + 0.5 for panel in panels]
        for axes, panel in zip(
            figure.subplots(len(panels), squeeze=False, height_ratios=heights)[:, 0], panels, strict=True
        ):
            _draw_panel(axes, panel)
        ours = Line2D([], [], color=MUTED, marker="o", linewidth=2, label=f"ours, with interval ({dataset})")
        label = " or ".join(sorted({source_heading(answer) for answer in answers}, reverse=True))
        paper = Line2D([], [], color=INK, marker="D", linewidth=0, mfc="none", mew=1.6, label=label)
        figure.legend(handles=[ours, paper], loc="outside lower left", ncols=2, fontsize=9.5)
        whose = "The paper's" if label.startswith("paper") else "The claimed"
        words = "; ".join(f"{answer.study}, {arm.name}: {arm.word}" for panel in panels for answer, arm in panel)
        return picture(figure, name, f"All claims on {dataset}", f"{whose} numbers beside ours. {words}")


def _axis(arm: Compared) -> tuple[bool, bool, str]:
    """What an arm's difference is in, in the order of the panels."""
    return (False, arm.unit != PERCENT, arm.unit) if arm.scale == "points" else (True, False, "")


def _draw_panel(axes: Axes, claims: Sequence[tuple[Answer, Compared]]) -> None:
    axes.axvline(0.0, color=INK, linewidth=1.0, zorder=1)
    for place, (answer, arm) in enumerate(reversed(claims)):
        _draw(axes, arm, place)
        if arm is answer.judged[0]:
            axes.axhline(place + 0.5, color=GRID, linewidth=0.8)
    labels = [f"{answer.study}: {short(arm.name, 24)}" for answer, arm in reversed(claims)]
    axes.set_yticks(range(len(claims)), labels)
    axes.set_ylim(-0.6, len(claims) - 0.4)
    axes.margins(x=0.08)
    first = claims[0][1]
    if first.scale == "points":
        unit = "percentage points" if first.unit == PERCENT else first.unit
        in_unit = f"in {unit} of" if unit else "in"
        published = any(answer.reproduces for answer, _ in claims)
        what = "the study's baseline, or to what is published," if published else "the study's baseline"
        axes.set_xlabel(f"difference to {what} {in_unit} its own metric", color=MUTED)
    else:
        axes.set_xlabel("ratio to the study's baseline in its own metric", color=MUTED)
        ratio_ticks(axes)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)


def _draw(axes: Axes, arm: Compared, place: int) -> None:
    colour, claimed = COLOURS.get(arm.word, UNTESTED_COLOUR), claimed_value(arm)
    if claimed is not None:
        axes.plot(claimed, place, "D", markersize=7, markerfacecolor="none", color=INK, mew=1.6, zorder=6)
    draw_interval(axes, arm, place, colour, 6)
    side = axes.get_yaxis_transform()
    axes.text(1.02, place, short(arm.word), transform=side, color=colour, fontweight="bold", va="center", fontsize=9.5)
