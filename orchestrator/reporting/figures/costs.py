"""Seconds against error: what each arm costs and what it gives."""

from __future__ import annotations

from orchestrator.judging.answer import Answer
from orchestrator.reporting.figures.style import COLOURS, INK, UNTESTED_COLOUR, Picture, drawing, picture, short

NAME = "costs"


def costs_figure(answer: Answer) -> Picture | None:
    """Draws each arm's mean seconds per trial against its mean error; None where fewer than two arms are measured.

    Args:
        answer: The answer.
    """
    arms = [arm for arm in answer.arms if arm.seconds is not None and arm.mean is not None]
    if len(arms) < 2:
        return None
    with drawing(NAME, 3.8) as figure:
        axes = figure.subplots()
        for arm in arms:
            colour = INK if arm.is_baseline else COLOURS.get(arm.word, UNTESTED_COLOUR)
            axes.errorbar(arm.seconds or 0.0, arm.mean or 0.0, yerr=arm.sd, fmt="o", color=colour, capsize=3, alpha=0.9)
            axes.annotate(
                short(arm.name, 24),
                (arm.seconds or 0.0, arm.mean or 0.0),
                (7, 5),
                textcoords="offset points",
                color=colour,
                fontsize=9.5,
            )
        axes.margins(x=0.12)
        axes.set_xlabel("seconds of training per trial, mean over seeds")
        axes.set_ylabel(f"{answer.metric}, percent")
        alt = "; ".join(f"{arm.name} {arm.seconds:.1f} s, {arm.mean:.2f} %" for arm in arms)
        return picture(figure, NAME, "Seconds against error", f"Mean seconds and mean error of each arm: {alt}")
