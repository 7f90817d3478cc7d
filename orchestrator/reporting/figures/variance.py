"""How far seeds scatter that draw one randomness anew: standard deviations with their chi-square limits."""

from __future__ import annotations

import math

from orchestrator.judging import numbers
from orchestrator.judging.answer import Answer
from orchestrator.reporting.figures.style import INK, MUTED, UNTESTED_COLOUR, Picture, drawing, picture, rooms, short
from search_spaces.core_config import ALL_TOGETHER, OWN_SEED

NAME = "variance"


def variance_figure(answer: Answer) -> Picture:
    """Draws a row per randomness; those of several sources together are darker.

    Args:
        answer: The answer of a study that draws one randomness anew at a time.
    """
    rows = list(reversed(answer.variance))
    with drawing(NAME, 1.3 + rooms(len(rows), 0.5, 0.36) * len(rows)) as figure:
        axes = figure.subplots()
        side = axes.get_yaxis_transform()
        for place, one in enumerate(rows):
            colour = INK if one.name in (OWN_SEED, ALL_TOGETHER) else UNTESTED_COLOUR
            if one.sd is not None and one.limits is not None:
                low, high = one.limits
                axes.plot(_on_axis(answer, [low, high]), [place, place], "-|", color=colour, lw=2, markersize=10, mew=2)
            if one.sd is not None:
                axes.plot(_on_axis(answer, [one.sd]), [place], "o", color=colour, markersize=7)
            said = "none" if one.absent else numbers.deviation(answer, one.sd)
            axes.text(1.02, place, said, transform=side, color=MUTED, va="center", fontsize=10)
        axes.set_yticks(range(len(rows)), [short(one.name.replace("_", " ")) for one in rows])
        axes.set_ylim(-0.6, len(rows) - 0.4)
        axes.set_xlim(left=_on_axis(answer, [0.0])[0])
        unit = f", {answer.scale.unit}" if answer.scale.unit else ""
        axes.set_xlabel(f"standard deviation of the {answer.metric}{unit}; bar: 95 % limits", color=MUTED)
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        return picture(figure, NAME, "What scatters", variance_in_words(answer))


def _on_axis(answer: Answer, values: list[float]) -> list[float]:
    # 对数比的标准差写成倍数
    return values if answer.arms[0].scale == "points" else [math.exp(value) for value in values]


def variance_in_words(answer: Answer) -> str:
    """Says what the figure shows."""
    parts = []
    for one in answer.variance:
        if one.absent:
            parts.append(f"{one.name} none")
        elif one.limits is not None:
            low, high = (numbers.deviation(answer, end) for end in one.limits)
            parts.append(f"{one.name} {numbers.deviation(answer, one.sd)} ({low} to {high})")
        else:
            parts.append(f"{one.name} {numbers.deviation(answer, one.sd) or 'not known yet'}")
    return f"Standard deviations with 95 % limits: {'; '.join(parts)}"
