"""The sweep, sliced: the metric that chooses, of every point, against each of its parameters."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import polars as pl
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from alexnet_core.configuration.wording import counted
from orchestrator.judging.answer import Answer
from orchestrator.judging.scales import unit_in_words
from orchestrator.reporting.figures.style import INK, MUTED, Picture, drawing, picture, scale_by_decades, spans_decades
from search_spaces.core_config import CoreDescription

NAME = "slices"
COLUMNS = 3
LOST_COLOUR, POINT_COLOUR = "#c04a00", "#0072b2"
# 点多时画成像素，否则 SVG 有几兆
MOST_VECTOR_POINTS = 400


def slices_figure(answer: Answer, points: pl.DataFrame) -> Picture | None:
    """Draws a panel per parameter; None where no point has ended.

    Args:
        answer: The answer.
        points: Columns parameters (JSON), state, and the metric that chooses (validation_error, in percent), in the
            order asked.
    """
    core = answer.description
    sampled = [(json.loads(text), error) for text, error in points.select("parameters", core.chosen_by).iter_rows()]
    finished = [(parameters, error) for parameters, error in sampled if error is not None]
    if not finished:
        return None
    paths = sorted({path for parameters, _ in sampled for path in parameters})
    columns = min(COLUMNS, len(paths))
    lines = math.ceil(len(paths) / columns)
    best, _ = min(finished, key=lambda point: core.chosen.objective(point[1]))
    with drawing(NAME, 0.7 + 2.3 * lines) as figure:
        panels = figure.subplots(lines, columns, sharey=True, squeeze=False)
        for panel, path in zip(panels.flat, paths, strict=False):
            _draw(panel, path, sampled, core)
        if spans_decades([error for _, error in finished]):
            scale_by_decades(panels[0, 0].yaxis, panels[0, 0].set_yscale)
        for panel in panels.flat[len(paths) :]:
            panel.set_axis_off()
        figure.supylabel(f"{answer.chosen_by}, {unit_in_words(core.chosen.unit)}".rstrip(", "), fontsize=10.5)
        at = ", ".join(f"{path} {_shown(best[path])}" for path in sorted(best))
        whole = counted(len(finished), "finished point")
        alt = f"{answer.chosen_by.capitalize()} of {whole} of {len(sampled)} by parameter; the best at {at}."
        return picture(figure, NAME, "The sweep, sliced by parameter", alt)


def _draw(axes: Axes, path: str, points: Sequence[tuple[dict[str, Any], float | None]], core: CoreDescription) -> None:
    values = [(parameters[path], error) for parameters, error in points if path in parameters]
    numeric = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value, _ in values)
    names = sorted({str(value) for value, _ in values})
    places = [float(value) if numeric else float(names.index(str(value))) for value, _ in values]
    pixels = len(values) > MOST_VECTOR_POINTS
    size = 3.0 if pixels else 4.5
    done = [(place, error) for place, (_, error) in zip(places, values, strict=True) if error is not None]
    axes.plot(*zip(*done, strict=True), "o", markersize=size, color=POINT_COLOUR, alpha=0.6, mew=0, rasterized=pixels)
    lost = [place for place, (_, error) in zip(places, values, strict=True) if error is None]
    if lost:
        # 没有误差的点（发散、失败）画在上沿
        axes.plot(lost, [0.98] * len(lost), "x", color=LOST_COLOUR, transform=axes.get_xaxis_transform(), markersize=6)
    best = min(done, key=lambda point: core.chosen.objective(point[1]))
    axes.plot(*best, "o", markersize=10, markerfacecolor="none", color=INK, mew=1.5)
    if not numeric:
        axes.set_xticks(range(len(names)), names)
    elif min(places) > 0 and max(places) / min(places) > 20:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(numticks=5))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.set_xlabel(path, color=MUTED)


def _shown(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
