"""Seconds against the primary metric: what each arm costs and what it gives."""

from __future__ import annotations

from orchestrator.judging.answer import Answer
from orchestrator.judging.notes import in_unit
from orchestrator.judging.scales import unit_in_words
from orchestrator.reporting.figures.style import COLOURS, INK, UNTESTED_COLOUR, Picture, drawing, picture, short

NAME = "costs"


def costs_figure(answer: Answer) -> Picture | None:
    """Draws what an epoch of each arm takes beside the baseline's against its mean metric.

    Arms that were not trained side by side with the baseline are left out; None where none was.

    Args:
        answer: The answer.
    """
    measured = {arm.name: arm.costs.seconds_per_epoch.ratio for arm in answer.arms}
    ratios = {name: ratio for name, ratio in measured.items() if ratio is not None}
    if not ratios:
        return None
    ratios |= {arm.name: 1.0 for arm in answer.arms if arm.is_baseline}
    arms = [arm for arm in answer.arms if arm.name in ratios and arm.mean is not None]
    # 到达门槛的时间没有均值可画；AlexNet 已发表的报告里留着它的空图
    if not arms and answer.core is not None:
        return None
    with drawing(NAME, 3.8) as figure:
        axes = figure.subplots()
        for arm in arms:
            colour = INK if arm.is_baseline else COLOURS.get(arm.word, UNTESTED_COLOUR)
            axes.errorbar(ratios[arm.name], arm.mean or 0.0, yerr=arm.sd, fmt="o", color=colour, capsize=3, alpha=0.9)
            axes.annotate(
                short(arm.name, 24),
                (ratios[arm.name], arm.mean or 0.0),
                (7, 5),
                textcoords="offset points",
                color=colour,
                fontsize=9.5,
            )
        axes.margins(x=0.12)
        what = "epoch" if answer.core is None else "report"
        shown = "error" if answer.core is None else answer.metric
        axes.set_xlabel(f"seconds per {what} over the baseline's, geometric mean of the seeds trained side by side")
        axes.set_ylabel(f"{answer.metric}, {unit_in_words(answer.unit)}".rstrip(", "))
        alt = "; ".join(
            f"{arm.name} {ratios[arm.name]:.2f}, {in_unit(arm.mean, arm.unit)}" for arm in arms if arm.mean is not None
        )
        return picture(
            figure, NAME, f"Seconds against {shown}", f"Seconds over the baseline's and mean {shown} of each arm: {alt}"
        )
