"""Learning curves: each arm beside the baseline, the mean with its band, and single runs."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from orchestrator.figures.style import (
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
from orchestrator.findings import Answer, ArmAnswer

NAME = "curves"
COLUMNS = 3
MOST_RUNS, MOST_EPOCHS = 10, 60


def curves_figure(answer: Answer, epochs: pl.DataFrame) -> Picture | None:
    """Draws validation and training error by epoch, a panel per arm; None where no epoch is on record.

    Args:
        answer: The answer; its arms in its order, the baseline first.
        epochs: Columns arm, seed, epoch, train_error, validation_error (percent).
    """
    if not epochs.height:
        return None
    epochs = _thinned(epochs)
    by_arm = {str(name): rows for (name,), rows in epochs.group_by("arm", maintain_order=True)}
    arms = [arm for arm in answer.arms if arm.name in by_arm]
    columns = min(COLUMNS, len(arms))
    lines = math.ceil(len(arms) / columns)
    with drawing(NAME, 0.9 + 2.1 * lines) as figure:
        panels = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
        baseline = next((by_arm[arm.name] for arm in arms if arm.is_baseline), None)
        for panel, arm in zip(panels.flat, arms, strict=False):
            if baseline is not None and not arm.is_baseline:
                _draw(panel, baseline, INK, runs=False)
            _draw(panel, by_arm[arm.name], _colour(arm), runs=True)
            panel.xaxis.set_major_locator(MaxNLocator(5, integer=True))
            panel.set_title(short(arm.name), loc="left", fontsize=10.5, color=_colour(arm))
        low = float(epochs["validation_error"].min())  # type: ignore[arg-type]
        if spans_decades([low, float(epochs["validation_error"].max())]):  # type: ignore[arg-type]
            scale_by_decades(panels[0, 0].yaxis, panels[0, 0].set_yscale)
            panels[0, 0].set_ylim(bottom=0.8 * low)
        for panel in panels.flat[len(arms) :]:
            panel.set_axis_off()
        figure.supxlabel("epoch", fontsize=10.5)
        figure.supylabel("top-1 error, percent", fontsize=10.5)
        alt = f"Validation and training error by epoch of {', '.join(arm.name for arm in arms)}."
        return picture(figure, NAME, "Learning curves", alt)


def _colour(arm: ArmAnswer) -> str:
    return INK if arm.is_baseline else COLOURS.get(arm.word, UNTESTED_COLOUR)


def _thinned(epochs: pl.DataFrame) -> pl.DataFrame:
    """At most so many epochs, evenly spread, the last among them."""
    last = int(epochs["epoch"].max())  # type: ignore[arg-type]
    shown = np.unique(np.linspace(1, last, min(last, MOST_EPOCHS)).round().astype(int))
    return epochs.filter(pl.col("epoch").is_in(shown.tolist())).sort("arm", "seed", "epoch")


def _draw(axes: Axes, rows: pl.DataFrame, colour: str, *, runs: bool) -> None:
    if runs:
        for (seed,), run in rows.group_by("seed", maintain_order=True):
            if int(str(seed)) < MOST_RUNS:
                axes.plot(run["epoch"], run["validation_error"], color=colour, linewidth=0.6, alpha=0.35)
    mean = rows.group_by("epoch").agg(
        pl.col("validation_error").mean().alias("mean"),
        pl.col("validation_error").std().fill_null(0.0).alias("sd"),
        pl.col("train_error").mean().alias("train"),
    )
    mean = mean.sort("epoch")
    low, high = mean["mean"] - mean["sd"], mean["mean"] + mean["sd"]
    axes.fill_between(mean["epoch"], low.clip(0.0), high, color=colour, alpha=0.15, linewidth=0)
    axes.plot(mean["epoch"], mean["mean"], color=colour, linewidth=1.8 if runs else 1.2)
    axes.plot(mean["epoch"], mean["train"], color=colour if runs else MUTED, linewidth=1.0, linestyle=(0, (3, 2)))
