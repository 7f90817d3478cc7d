"""Every seed of every arm as a point, with the arm's mean and standard deviation."""

from __future__ import annotations

from orchestrator.judging.answer import Answer
from orchestrator.judging.numbers import metric
from orchestrator.judging.scales import STATISTICS, unit_in_words
from orchestrator.reporting.figures.style import (
    COLOURS,
    INK,
    MUTED,
    UNTESTED_COLOUR,
    Picture,
    drawing,
    picture,
    rooms,
    short,
)

NAME = "seeds"


def seeds_figure(answer: Answer) -> Picture:
    """Draws the primary metric of every seed in percent, an arm per row.

    Args:
        answer: The answer.
    """
    arms = list(reversed(answer.arms))
    with drawing(NAME, 1.2 + rooms(len(arms), 0.5, 0.36) * len(arms)) as figure:
        axes = figure.subplots()
        for place, arm in enumerate(arms):
            colour = INK if arm.is_baseline else COLOURS.get(arm.word, UNTESTED_COLOUR)
            values = list(arm.errors.values())
            # 点按种子上下错开，同一种子在各行同一高度
            heights = [place + 0.26 - 0.52 * (int(seed) % 8) / 7 for seed in arm.errors]
            axes.plot(values, heights, "o", markersize=4, color=colour, alpha=0.65, mew=0, rasterized=len(values) > 60)
            if arm.never and answer.budget is not None:
                # 预算之内没有到达门槛的种子：箭头指向预算之外
                places = [place + 0.26 - 0.52 * (int(seed) % 8) / 7 for seed in arm.never]
                axes.plot([answer.budget + 1] * len(places), places, ">", markersize=6, color=colour, alpha=0.65, mew=0)
            if arm.median is not None:
                axes.plot(arm.median, place, "|", markersize=15, color=colour, mew=2)
            if arm.mean is not None:
                axes.errorbar(arm.mean, place, xerr=arm.sd, fmt="|", markersize=15, color=colour, capsize=4, mew=2)
        axes.set_yticks(range(len(arms)), [short(arm.name) for arm in arms])
        axes.set_ylim(-0.6, len(arms) - 0.4)
        timed, unit = STATISTICS[answer.statistic].by_signs, unit_in_words(answer.unit)
        bar = (
            "bar: median over seeds; arrow: not within the budget"
            if timed
            else f"{unit}; bar: mean ± standard deviation over seeds".lstrip("; ")
        )
        axes.set_xlabel(f"{answer.metric}, {bar}", color=MUTED)
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        middles = "; ".join(f"{arm.name} {metric(arm)}" for arm in answer.arms if metric(arm))
        kind = "Medians" if timed else f"Means in {unit}" if unit else "Means"
        return picture(
            figure, NAME, "Every seed", f"The {answer.metric} of every seed. {kind}: {middles or 'none yet'}"
        )
