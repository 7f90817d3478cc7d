"""The figure of an answer: differences with their intervals, every seed as a point, the paper's number beside them."""

from __future__ import annotations

from io import BytesIO

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from orchestrator.answer import Answer, ArmAnswer

# 色盲可分的 Okabe-Ito 色；“等效”与“无结论”永不同色
COLOURS = {
    "supports": "#009E73",
    "contradicts": "#D55E00",
    "higher": "#E69F00",
    "lower": "#E69F00",
    "equivalent": "#0072B2",
    "inconclusive": "#777777",
}
OTHER_COLOUR = "#AAAAAA"
PAPER_COLOUR = "#CC79A7"


def differences_figure(answer: Answer) -> tuple[bytes, bytes]:
    """Draws the forest plot.

    Args:
        answer: The answer.

    Returns:
        The figure as PNG and as SVG.
    """
    arms = [arm for arm in answer.arms if not arm.is_baseline]
    with matplotlib.rc_context({"svg.hashsalt": "answer", "font.size": 11, "svg.fonttype": "none"}):
        figure = Figure(figsize=(9.0, 2.3 + 0.75 * len(arms)), layout="constrained")
        axes = figure.subplots()
        axes.axvspan(-answer.margin, answer.margin, color="#DCE9F5", zorder=0, label=f"margin ±{answer.margin:g}")
        axes.axvline(0.0, color="#333333", linewidth=1.0, zorder=1)
        for place, arm in enumerate(reversed(arms)):
            _draw_arm(axes, arm, place, labelled=place == 0)
        _decorate(axes, answer, arms)
        return _saved(figure, "png"), _saved(figure, "svg")


def _draw_arm(axes: Axes, arm: ArmAnswer, place: int, *, labelled: bool) -> None:
    colour = COLOURS.get(arm.word, OTHER_COLOUR)
    values = list(arm.differences.values())
    axes.scatter(
        values,
        [place - 0.22] * len(values),
        s=16,
        color=colour,
        alpha=0.45,
        linewidths=0,
        label="one seed" if labelled else None,
    )
    if arm.difference is not None:
        bounds = arm.interval or (arm.difference, arm.difference)
        axes.errorbar(
            arm.difference,
            place,
            xerr=[[arm.difference - bounds[0]], [bounds[1] - arm.difference]],
            fmt="o",
            markersize=8,
            color=colour,
            capsize=5,
            linewidth=2.2,
            label="mean, interval" if labelled else None,
        )
        axes.annotate(
            f"{arm.difference:+.2f}  {arm.word}",
            (max(bounds[1], arm.difference), place),
            xytext=(8, 8),
            textcoords="offset points",
            color=colour,
            fontsize=10,
        )
    if arm.claimed_points is not None:
        axes.scatter(
            [arm.claimed_points],
            [place],
            marker="D",
            s=70,
            facecolors="none",
            edgecolors=PAPER_COLOUR,
            linewidths=2,
            zorder=3,
            label="paper (ImageNet)",
        )


def _decorate(axes: Axes, answer: Answer, arms: list[ArmAnswer]) -> None:
    axes.set_yticks(range(len(arms)), [_label(arm) for arm in reversed(arms)])
    axes.set_ylim(-0.6, len(arms) - 0.35)
    axes.margins(x=0.12)
    axes.set_xlabel(f"top-1 {answer.judged_split} error, arm minus baseline, percentage points")
    axes.set_title(f"{answer.study} on {answer.dataset}, {answer.seeds} seeds", loc="left", fontsize=12)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="#EEEEEE", zorder=0)
    handles, labels = axes.get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    axes.legend(
        unique.values(),
        unique.keys(),
        loc="upper center",
        bbox_to_anchor=(0.5, -0.32),
        ncols=4,
        frameon=False,
    )


def _label(arm: ArmAnswer) -> str:
    return f"{arm.name}\n(n = {arm.n})"


def _saved(figure: Figure, kind: str) -> bytes:
    buffer = BytesIO()
    metadata = {"Date": None} if kind == "svg" else {"Software": None}
    figure.savefig(buffer, format=kind, dpi=150, metadata=metadata)
    return buffer.getvalue()
