"""Images that seeds disagree on, each with what is said of it below."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from orchestrator.reporting.figures.style import INK, MUTED, WIDTH, drawing, picture, short

NAME = "images"
COLUMNS, MOST_LINES = 6, 10
LONGEST_LINE, LINE_HEIGHT = 20, 0.155
Lines = Sequence[str]


def disputed_picture(title: str, images: NDArray[np.uint8], captions: Sequence[Lines]) -> bytes:
    """Draws images in rows, each with its lines below it; returns a PNG.

    Args:
        title: Above them.
        images: uint8 (K, H, W, 3), K at least 1.
        captions: The lines of each: its name, its class, and one for each arm; of many arms the first.
    """
    rows = -(-len(images) // COLUMNS)
    lines = min(MOST_LINES, max(map(len, captions)))
    side = WIDTH / COLUMNS - 0.15
    with drawing(NAME, 0.6 + rows * (side + LINE_HEIGHT * lines + 0.25)) as figure:
        figure.suptitle(title, x=0.01, ha="left", fontsize=12)
        grid = list(figure.subplots(rows, COLUMNS, squeeze=False).flat)
        for axes in grid:
            axes.set_axis_off()
        for axes, image, caption in zip(grid, images, captions, strict=False):
            axes.imshow(image, interpolation="nearest")
            _write_below(axes, caption)
        return picture(figure, NAME, title, title).png


def _write_below(axes: Axes, caption: Lines) -> None:
    """A file's name is told by its end."""
    name, *others = caption
    more = len(caption) > MOST_LINES
    told = [
        *(short(line, LONGEST_LINE) for line in others[: MOST_LINES - 2 if more else None]),
        *(["…"] if more else []),
    ]
    shown = name if len(name) <= LONGEST_LINE else f"…{name[1 - LONGEST_LINE :]}"
    axes.text(0.0, -0.04, shown, transform=axes.transAxes, va="top", fontsize=7.5, color=MUTED)
    axes.text(
        0.0, -0.17, "\n".join([*told, ""]), transform=axes.transAxes, va="top", fontsize=7.5, color=INK, linespacing=1.3
    )
