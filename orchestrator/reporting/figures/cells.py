"""The cell means of a factorial: lines that are not parallel are an interaction."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes

from orchestrator.judging.answer import Answer, ArmAnswer
from orchestrator.judging.numbers import metric
from orchestrator.judging.scales import unit_in_words
from orchestrator.reporting.figures.style import COLOURS, INK, MUTED, UNTESTED_COLOUR, Picture, drawing, picture, short

NAME = "cells"
MOST_PANELS, COLUMNS = 12, 3
MARKERS = "osD^vP"
# 网页只会换这几种颜色的深浅
LINE_COLOURS = (INK, *(COLOURS[word] for word in ("equivalent", "contradicts", "supports")), UNTESTED_COLOUR)
Factor = tuple[str, tuple[tuple[str, str], ...]]


def cells_figure(answer: Answer) -> Picture | None:
    """Draws the mean of every cell: the first factor along the axis, the second as lines, the others as panels.

    None of another design, where a cell has no mean yet, or where there are too many panels to read.

    Args:
        answer: The answer.
    """
    if answer.design != "factorial":
        return None
    along, *others = answer.factors
    lines, rest = (others[0], others[1:]) if others else (("", (("", ""),)), [])
    panels = list(itertools.product(*(levels for _, levels in rest)))
    arms = [arm for arm in answer.arms if arm.levels]
    if len(panels) > MOST_PANELS or not all(arm.mean is not None for arm in arms):
        return None
    columns = min(COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    with drawing(NAME, 0.9 + 2.7 * rows) as figure:
        grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).flat
        for axes, panel in zip(grid, panels, strict=False):
            fixed = {factor: name for (factor, _), (name, _) in zip(rest, panel, strict=True)}
            _draw_panel(axes, arms, along, lines, fixed)
            axes.set_title(", ".join(title for _, title in panel), loc="left", fontsize=10, color=MUTED)
        for axes in list(grid)[len(panels) :]:
            axes.set_visible(False)
        figure.supylabel(f"{answer.metric}, {unit_in_words(answer.unit)}".rstrip(", "), fontsize=10.5)
        handles, labels = figure.axes[0].get_legend_handles_labels()
        if lines[0]:
            figure.legend(handles, labels, loc="outside lower left", ncols=3, fontsize=9.5)
        words = "; ".join(f"{arm.title}: {metric(arm)}" for arm in arms)
        return picture(figure, NAME, "Cell means", f"The mean {answer.metric} of every combination. {words}")


def _draw_panel(axes: Axes, arms: Sequence[ArmAnswer], along: Factor, lines: Factor, fixed: Mapping[str, str]) -> None:
    """One panel: a line per level of the second factor, over the levels of the first."""
    factor, levels = along
    for place, (name, title) in enumerate(lines[1]):
        chosen = {**fixed, **({lines[0]: name} if lines[0] else {})}
        # 各线左右错开一点，误差线才不叠在一起
        shift, colour = 0.07 * (place - (len(lines[1]) - 1) / 2.0), LINE_COLOURS[place % len(LINE_COLOURS)]
        means, spreads = [], []
        for column, (level, _) in enumerate(levels):
            cell = {**chosen, factor: level}
            arm = next(arm for arm in arms if arm.levels.items() >= cell.items())
            values = list(arm.errors.values())
            axes.plot([column + shift] * len(values), values, ".", color=colour, alpha=0.35, mew=0)
            means.append(arm.mean or 0.0)
            spreads.append(arm.sd or 0.0)
        axes.errorbar(
            [column + shift for column in range(len(levels))],
            means,
            yerr=spreads,
            color=colour,
            marker=MARKERS[place % len(MARKERS)],
            capsize=3,
            linewidth=1.8,
            label=short(title),
        )
    axes.set_xticks(range(len(levels)), [short(title, 22) for _, title in levels])
    axes.set_xlim(-0.4, len(levels) - 0.6)
    axes.grid(visible=False, axis="x")
