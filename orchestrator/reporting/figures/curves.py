"""Learning curves: each arm beside the baseline, the mean with its band, and single runs."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.ticker import MaxNLocator

from orchestrator.judging.answer import NOT_JUDGED, Answer, ArmAnswer
from orchestrator.judging.scales import unit_in_words
from orchestrator.reporting.figures.style import (
    COLOURS,
    INK,
    MUTED,
    UNTESTED_COLOUR,
    Picture,
    drawing,
    picture,
    scale_by_decades,
    short,
    spans_decades,
)
from search_spaces.core_config import PERCENT

NAME = "curves"
SOLID, DASHED = "solid", "dashed"
COLUMNS, PANEL_HEIGHT = 3, 2.1
# 网页只会换这几种颜色的深浅
UNJUDGED_COLOURS = (*dict.fromkeys(COLOURS.values()), UNTESTED_COLOUR)
MOST_RUNS, MOST_LINES, MOST_EPOCHS = 10, 100, 60


def curves_figure(answer: Answer, epochs: pl.DataFrame) -> Picture | None:
    """Draws validation and training error by epoch, a panel per arm; None where no epoch is on record.

    Args:
        answer: The answer; its arms in its order, the baseline first.
        epochs: Columns arm, seed, epoch, train_error, validation_error (percent); of another core than AlexNet its
            metrics by name.
    """
    solid, dashed = _drawn_metrics(answer, epochs)
    if not epochs.height or solid not in epochs.columns:
        return None
    epochs = _thinned(epochs.rename({solid: SOLID, **({dashed: DASHED} if dashed is not None else {})}))
    if dashed is None:
        epochs = epochs.with_columns(pl.col(SOLID).alias(DASHED))
    by_arm = {str(name): rows for (name,), rows in epochs.group_by("arm", maintain_order=True)}
    arms = [arm for arm in answer.arms if arm.name in by_arm]
    baseline = next((by_arm[arm.name] for arm in arms if arm.is_baseline), None)
    runs = min(MOST_RUNS, max(2, MOST_LINES // len(arms)))
    columns = min(COLUMNS, len(arms))
    lines = math.ceil(len(arms) / columns)
    height = 0.9 + PANEL_HEIGHT * lines
    with drawing(NAME, height, layout=None) as figure:
        panels = figure.subplots(lines, columns, squeeze=False)
        # 面板多时自动排版和共用坐标轴要好几秒，而边距与范围这里本来就知道
        margins = {"left": 0.085, "right": 0.985, "bottom": 0.6 / height, "top": 1 - 0.3 / height}
        figure.subplots_adjust(**margins, hspace=0.3, wspace=0.06)
        for place, (panel, arm) in enumerate(zip(panels.flat, arms, strict=False)):
            if baseline is not None and not arm.is_baseline:
                _draw(panel, baseline, INK, runs=0)
            colour = _colour(arm, place)
            _draw(panel, by_arm[arm.name], colour, runs=runs)
            # 给定高度，matplotlib 就不必每次量遍刻度才放标题
            panel.set_title(short(arm.name), loc="left", y=1.0, fontsize=10.5, color=colour)
            _scale(panel, epochs, answer.description.chosen.unit == PERCENT)
            panel.tick_params(labelleft=place % columns == 0, labelbottom=place >= len(arms) - columns)
        for panel in panels.flat[len(arms) :]:
            panel.set_axis_off()
        what, label = _axes_in_words(answer)
        figure.supxlabel(what, fontsize=10.5, y=0.1 / height)
        figure.supylabel(label, fontsize=10.5, x=0.012)
        names = ", ".join(arm.name for arm in arms)
        drawn = "Training error" if dashed is None else "Validation and training error"
        alt = f"{drawn if answer.core is None else label.capitalize()} by {what} of {names}."
        return picture(figure, NAME, "Learning curves", alt)


def _drawn_metrics(answer: Answer, epochs: pl.DataFrame) -> tuple[str, str | None]:
    """The columns of the solid and the dashed line: of another core the metrics that choose and judge."""
    core = answer.core
    if core is None:
        # 没有留出图像的训练只有训练误差可画
        validated = "validation_error" not in epochs.columns or epochs["validation_error"].is_not_null().any()
        return ("validation_error", "train_error") if validated else ("train_error", None)
    # 单位不同的两个量不能画在同一条轴上
    same_unit = core.metrics[core.judged_by].unit == core.chosen.unit
    return core.chosen_by, core.judged_by if core.judged_by != core.chosen_by and same_unit else None


def _axes_in_words(answer: Answer) -> tuple[str, str]:
    if answer.core is None:
        return "epoch", "top-1 error, percent"
    return "report", f"{answer.chosen_by}, {unit_in_words(answer.core.chosen.unit)}".rstrip(", ")


def _colour(arm: ArmAnswer, place: int) -> str:
    """The colour of its verdict; of an arm that is not judged by itself one that its neighbours have not."""
    if arm.word == NOT_JUDGED:
        return UNJUDGED_COLOURS[place % len(UNJUDGED_COLOURS)]
    return INK if arm.is_baseline else COLOURS.get(arm.word, UNTESTED_COLOUR)


def _thinned(epochs: pl.DataFrame) -> pl.DataFrame:
    """At most so many epochs, evenly spread, the last among them."""
    last = epochs["epoch"].to_numpy().max()
    shown = np.unique(np.linspace(1, last, min(last, MOST_EPOCHS)).round().astype(int))
    return epochs.filter(pl.col("epoch").is_in(shown.tolist())).sort("arm", "seed", "epoch")


def _draw(axes: Axes, rows: pl.DataFrame, colour: str, *, runs: int) -> None:
    if runs:
        arm_rows = rows.filter(pl.col("seed") < runs)
        lines = [run.to_numpy() for run in arm_rows.select("seed", "epoch", SOLID).partition_by("seed")]
        thin = [line[:, 1:] for line in lines]
        axes.add_collection(LineCollection(thin, colors=colour, linewidths=0.6, alpha=0.35), autolim=False)
    mean = rows.group_by("epoch").agg(
        pl.col(SOLID).mean().alias("mean"),
        pl.col(SOLID).std().fill_null(0.0).alias("sd"),
        pl.col(DASHED).mean().alias("train"),
    )
    mean = mean.sort("epoch")
    low, high = mean["mean"] - mean["sd"], mean["mean"] + mean["sd"]
    # 误差不会为负，别的指标可以
    low = low.clip(0.0) if mean["mean"].to_numpy().min() >= 0.0 else low
    axes.fill_between(mean["epoch"], low, high, color=colour, alpha=0.15, linewidth=0)
    axes.plot(mean["epoch"], mean["mean"], color=colour, linewidth=1.8 if runs else 1.2)
    axes.plot(mean["epoch"], mean["train"], color=colour if runs else MUTED, linewidth=1.0, linestyle=(0, (3, 2)))


def _scale(axes: Axes, epochs: pl.DataFrame, is_percent: bool) -> None:
    """The same range in every panel."""
    errors = epochs.select(SOLID, DASHED).to_numpy()
    low, high = float(errors.min()), float(errors.max())
    last = float(epochs["epoch"].to_numpy().max())
    axes.set_xlim(1.0 - 0.03 * last, 1.03 * last)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    if spans_decades([low, high]):
        scale_by_decades(axes.yaxis, axes.set_yscale)
        axes.set_ylim(0.8 * low, 1.15 * high)
    elif not is_percent:
        # 不是百分数：按自己的范围留边
        room = 0.05 * (high - low) or 0.1
        axes.set_ylim(low - room, high + room)
    else:
        axes.set_ylim(min(0.95 * low, low - 1.0) if low > 1.0 else 0.0, 1.05 * high + 0.1)
