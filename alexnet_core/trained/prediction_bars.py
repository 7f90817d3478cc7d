"""Test images with their likeliest labels as bars (paper figure 4, left)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from alexnet_core.data.dataset import Split
from alexnet_core.process.plotting import load_matplotlib, rendered, without_glyph_warnings
from alexnet_core.trained.loaded_model import LoadedModel

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLUMNS = 4
RIGHT, OTHER = "#c04a00", "#9db6cf"
_DPI, _LONGEST_NAME = 144, 24


@dataclass(frozen=True)
class Likeliest:
    """Images and the labels that a network holds likeliest.

    Attributes:
        queries: int64 (Q,), numbers of images.
        classes: int64 (Q, K), the likeliest first.
        probabilities: float32 (Q, K), of these classes.
    """

    queries: np.ndarray
    classes: np.ndarray
    probabilities: np.ndarray


def likeliest_labels(model: LoadedModel, split: Split, queries: np.ndarray, most: int = 5) -> Likeliest:
    """Classifies images over the centre crop, and keeps their likeliest labels.

    Args:
        model: A trained network.
        split: Where the images are from.
        queries: int64 (Q,), ascending numbers of its images.
        most: Labels per image; fewer where there are fewer classes.
    """
    probabilities = model.predict(_images(split, queries))
    classes = np.argsort(-probabilities, axis=1, kind="stable")[:, :most]
    return Likeliest(queries, classes, np.take_along_axis(probabilities, classes, axis=1))


def _images(split: Split, queries: np.ndarray) -> np.ndarray:
    """The images of these numbers, uint8 (Q, H, W, 3)."""
    images = np.empty((len(queries), *split.images.shape[1:]), dtype=np.uint8)
    split.gather(queries, images)
    return images


def predictions_picture(likeliest: Likeliest, split: Split, labels: tuple[str, ...]) -> Image.Image:
    """Draws each image with its right label as a heading and its likeliest labels as bars beneath.

    Args:
        likeliest: From `likeliest_labels`.
        split: Where its images are from; its labels are indices into `labels`.
        labels: Names of the classes.
    """
    load_matplotlib()
    from matplotlib.figure import Figure

    rows = -(-len(likeliest.queries) // COLUMNS)
    figure = Figure(figsize=(2.4 * COLUMNS, 3.4 * rows), layout="constrained", facecolor="white")
    grid = figure.add_gridspec(2 * rows, COLUMNS, height_ratios=[1.9, 1.4] * rows)
    names = [_shown(label) for label in labels]
    for place, (query, image) in enumerate(zip(likeliest.queries, _images(split, likeliest.queries), strict=True)):
        row, column = divmod(place, COLUMNS)
        right = int(split.labels[query])
        panel = figure.add_subplot(grid[2 * row, column])
        panel.imshow(image, interpolation="nearest")
        panel.set_axis_off()
        panel.set_title(names[right], fontsize=10, fontweight="bold", parse_math=False)
        _bars(figure.add_subplot(grid[2 * row + 1, column]), likeliest, place, right, names)
    # 名字在输出的文字里都有
    with without_glyph_warnings():
        return rendered(figure, _DPI)


def _bars(panel: Axes, likeliest: Likeliest, place: int, right: int, names: list[str]) -> None:
    """The labels of one image, the likeliest on top; the right one in its own colour and bold."""
    classes, probabilities = likeliest.classes[place].tolist(), likeliest.probabilities[place].tolist()
    colours = [RIGHT if guess == right else OTHER for guess in classes]
    panel.barh(range(len(classes)), probabilities, color=colours, height=0.86)
    for rank, (guess, value) in enumerate(zip(classes, probabilities, strict=True)):
        weight = "bold" if guess == right else "normal"
        panel.text(0.02, rank, names[guess], va="center", fontsize=8, fontweight=weight, parse_math=False)
        panel.text(1.02, rank, f"{100 * value:.1f} %", va="center", fontsize=7, fontweight=weight, clip_on=False)
    panel.set_xlim(0, 1)
    panel.set_ylim(len(classes) - 0.5, -0.5)
    panel.set_xticks([])
    panel.set_yticks([])
    panel.spines[:].set_visible(False)


def _shown(name: str) -> str:
    """A class name of one line, short enough for a bar."""
    line = "".join(letter if letter.isprintable() else "\ufffd" for letter in name)
    return line if len(line) <= _LONGEST_NAME else f"{line[: _LONGEST_NAME - 1]}…"
