"""The ladder as a waterfall: from the full recipe to the bare one, each step from the mean before it."""

from __future__ import annotations

import itertools

from matplotlib.axes import Axes

from orchestrator.judging import numbers
from orchestrator.judging.answer import NOT_JUDGED, Answer, ArmAnswer, ContrastAnswer
from orchestrator.judging.scales import unit_in_words
from orchestrator.reporting.figures.forest import spread_of, thin
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

NAME = "waterfall"
HEIGHT, WORD_WIDTH = 0.46, 30


def waterfall_figure(answer: Answer) -> Picture | None:
    """Draws the rungs of a ladder in percent from full (above) to bare.

    None of another design, where a rung has no mean, or where the study does not compare each with the one before.

    Args:
        answer: The answer.
    """
    rungs = [arm for arm in answer.arms if arm.levels]
    compared = [one for one in answer.contrasts if one.kind == "step"]
    known = {tuple(sorted(one.weights, key=one.weights.__getitem__)): one for one in compared}
    pairs = [(before.name, arm.name) for before, arm in itertools.pairwise(rungs)]
    # `compare` 另写了几对时，没有逐级的台阶可画
    if answer.design != "cumulative" or not pairs or not known.keys() >= {*pairs} or any(a.mean is None for a in rungs):
        return None
    steps = {pair[1]: known[pair] for pair in pairs}
    with drawing(NAME, 1.3 + rooms(len(rungs), 0.72, 0.6) * len(rungs)) as figure:
        axes = figure.subplots()
        _draw_level(axes, rungs[0], len(rungs) - 1)
        for place, (before, arm) in enumerate(itertools.pairwise(rungs), start=2):
            _draw_step(axes, before, arm, steps[arm.name], len(rungs) - place)
        labels = [short(rungs[0].name), *(short(steps[arm.name].title, 30) for arm in rungs[1:])]
        axes.set_yticks(range(len(rungs) - 1, -1, -1), labels)
        axes.set_ylim(-0.6, len(rungs) - 0.4)
        # 柱子默认贴着边：第一级会压在轴线上
        axes.use_sticky_edges = False
        axes.margins(x=0.08)
        axes.set_xlabel(f"mean {answer.metric}, {unit_in_words(answer.unit)}".rstrip(", "), labelpad=8)
        axes.set_title(f"{answer.study} on {answer.dataset}, from the full recipe down", loc="left", fontsize=12)
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0)
        axes.grid(visible=False, axis="y")
        words = "; ".join(f"{one.title} {numbers.difference_in_words(one)} ({one.word})" for one in steps.values())
        first, last = numbers.metric(rungs[0]), numbers.metric(rungs[-1])
        alt = f"A ladder from {first} of the full recipe to {last} of the bare one. Steps: {words}"
        # 右边的字在手机上放不下，会被切掉：宁可横着滚动
        return picture(figure, NAME, "From full to bare", alt)._replace(narrow=b"")


def _draw_level(axes: Axes, arm: ArmAnswer, place: int) -> None:
    axes.plot([arm.mean or 0.0] * 2, [place - HEIGHT / 2, place + HEIGHT / 2], color=INK, linewidth=3.0, zorder=3)
    side = axes.get_yaxis_transform()
    axes.text(1.02, place, numbers.metric(arm), transform=side, color=INK, va="center", fontsize=10)


def _draw_step(axes: Axes, before: ArmAnswer, arm: ArmAnswer, step: ContrastAnswer, place: int) -> None:
    """A bar as long as the step from the mean before, its interval, the arm's own mean, and what is said of it beside.

    Where the step rests on other seeds than the arm's mean, the bar ends beside that mean.
    """
    start, mean, colour = before.mean or 0.0, arm.mean or 0.0, COLOURS.get(step.word, UNTESTED_COLOUR)
    difference = step.difference if step.scale == "points" else None
    end = mean if difference is None else start + difference
    axes.plot([start] * 2, [place + HEIGHT / 2, place + 1 - HEIGHT / 2], color=MUTED, linewidth=0.9, zorder=1)
    axes.barh(place, end - start, left=start, height=HEIGHT, color=colour, alpha=0.35, linewidth=0, zorder=2)
    axes.plot([mean] * 2, [place - HEIGHT / 2, place + HEIGHT / 2], color=colour, linewidth=3.0, zorder=3)
    if step.interval is not None and difference is not None:
        spread = spread_of(difference, step.interval)
        axes.errorbar(end, place, xerr=spread, color=colour, capsize=4, linewidth=1.8, zorder=4)
        if step.beyond is not None:
            axes.errorbar(end, place, xerr=spread_of(difference, step.beyond), **thin(colour, 7))
    side = axes.get_yaxis_transform()
    axes.text(
        1.02,
        place + 0.13,
        short(f"{numbers.difference_in_words(step)} {step.word}", WORD_WIDTH),
        transform=side,
        color=colour,
        fontweight="bold",
        va="center",
    )
    from_top = "" if arm.word == NOT_JUDGED else f", from the top {numbers.difference(arm)} {arm.word}"
    reached = short(f"{numbers.metric(arm)}{from_top}", 48)
    axes.text(1.02, place - 0.15, reached, transform=side, color=MUTED, fontsize=10, va="center")
