"""What all figures share: colours that can be told apart, and saving the same bytes for the same data."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from textwrap import wrap
from typing import Any, Literal, NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import LogLocator, NullLocator

from alexnet_core.process.plotting import rendered, without_glyph_warnings
from orchestrator.statistics.verdict import DOES_NOT, REPRODUCES

# 色盲可分的 Okabe-Ito 色；“等效”与“无结论”永不同色
COLOURS = {
    REPRODUCES: "#00795a",
    DOES_NOT: "#c04a00",
    "supports": "#00795a",
    "contradicts": "#c04a00",
    "higher": "#9a6a00",
    "lower": "#9a6a00",
    "equivalent": "#0072b2",
    "inconclusive": "#7a3e9d",
}
UNTESTED_COLOUR = "#767676"
# 网页按颜色替换成 CSS 变量来换深浅，所以各角色的颜色互不相同
INK, MUTED, GRID, MARGIN_COLOUR, SURFACE = "#1b1f24", "#57606a", "#e3e6ea", "#dce9f5", "#fffffe"
ROLES = {
    **{colour: word for word, colour in COLOURS.items()},
    UNTESTED_COLOUR: "untested",
    INK: "ink",
    MUTED: "muted",
    GRID: "grid",
    MARGIN_COLOUR: "margin",
    SURFACE: "surface",
}
WIDTH = 8.6
NARROW_WIDTH = 4.4
LONGEST_LINE, MOST_LETTERS = 40, 12
LARGEST_NARROW = 100_000
PNG_DPI, PNG_COLOURS = 144, 128
# 最高的 9 级只再小几个百分点，却要两三倍的时间
PNG_EFFORT = 8
_SETTINGS: dict[Any, Any] = {
    "font.size": 10.5,
    "svg.fonttype": "none",
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "axes.facecolor": "none",
    "axes.grid": True,
    "grid.color": GRID,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    # 名字里的 $ 不是公式
    "text.parse_math": False,
}
_COORDINATES = re.compile(rb' (?:d|x|y|points|transform)="[^"]*"')
_DECIMALS = re.compile(rb"-?\d+\.\d{2,}")


class Picture(NamedTuple):
    """A figure as it is written.

    Attributes:
        name: Name of its files.
        title: Heading over it.
        alt: What it shows, in words, for those who do not see it.
        png: The picture as PNG.
        svg: The same as SVG with its text as text; empty where there are only pixels.
        narrow: The SVG laid out anew for a phone, whose text would else be too small to read.
    """

    name: str
    title: str
    alt: str
    png: bytes
    svg: bytes = b""
    narrow: bytes = b""


@contextmanager
def drawing(
    name: str, height: float, width: float = WIDTH, layout: Literal["constrained"] | None = "constrained"
) -> Iterator[Figure]:
    """Gives an empty figure of `width` x `height` inches in the house's style."""
    with matplotlib.rc_context({**_SETTINGS, "svg.hashsalt": name}):
        yield Figure(figsize=(width, height), layout=layout, facecolor=SURFACE)


def picture(figure: Figure, name: str, title: str, alt: str) -> Picture:
    """Saves a figure; the same figure gives the same bytes."""
    # 手机上不能只缩小：字会小得看不清
    again = figure.get_layout_engine() is not None
    # SVG 与正文里都有那些字
    with without_glyph_warnings():
        if again:
            # 排版只做一次，两种格式共用
            figure.draw_without_rendering()
            figure.set_layout_engine(None)
        png, svg = _png(figure), _svg(figure)
        fits = _lay_out_for_a_phone(figure, constrained=again)
        narrow = _svg(figure) if fits else b""
    # 几十个 arm 的图画两遍，网页就太大了：那时横着滚动
    return Picture(name, title, alt, png, svg, narrow if len(narrow) <= LARGEST_NARROW else b"")


def _lay_out_for_a_phone(figure: Figure, *, constrained: bool) -> bool:
    """Makes a figure narrow, with letters of the same size; says whether it fits so."""
    figure.set_size_inches(NARROW_WIDTH, figure.get_size_inches()[1])
    for axes in figure.axes:
        axes.set_xlabel("\n".join(wrap(axes.get_xlabel(), LONGEST_LINE)))
    if not constrained:
        figure.subplots_adjust(left=figure.subplotpars.left * WIDTH / NARROW_WIDTH)
        for axes in figure.axes:
            _shorten_title(axes)
        return True
    for legend in list(figure.legends):
        handles = [handle for handle in legend.legend_handles if handle is not None]
        labels = [text.get_text() for text in legend.get_texts()]
        legend.remove()
        figure.legend(handles, labels, loc="outside lower left", ncols=2, fontsize=9.5)
    figure.set_layout_engine("constrained")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            with without_glyph_warnings():
                figure.draw_without_rendering()
    except UserWarning:
        # 名字太长，窄不下来：这张图仍横着滚动
        return False
    finally:
        figure.set_layout_engine(None)
    return True


def _shorten_title(axes: Axes) -> None:
    name = axes.get_title(loc="left")
    for child in axes.get_children():
        if name and isinstance(child, Text) and child.get_text() == name:
            child.set_text(short(name, MOST_LETTERS))


def _png(figure: Figure) -> bytes:
    small = BytesIO()
    # 调色板图小三倍，看不出差别
    rendered(figure, PNG_DPI).quantize(PNG_COLOURS).save(small, "png", compress_level=PNG_EFFORT)
    return small.getvalue()


def _svg(figure: Figure) -> bytes:
    drawn = BytesIO()
    figure.savefig(drawn, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return _COORDINATES.sub(lambda part: _DECIMALS.sub(_shorter, part[0]), drawn.getvalue())


def _shorter(number: re.Match[bytes]) -> bytes:
    # 十分之一点看不出来；小标记的形状才要百分之一
    value = float(number[0])
    return f"{value:.{1 if abs(value) >= 10 else 2}f}".encode()


def short(name: str, longest: int = 32) -> str:
    """Returns a name cut to a length that leaves room for the figure."""
    return name if len(name) <= longest else name[: longest - 1] + "…"


def rooms(arms: int, roomy: float, narrow: float) -> float:
    """Returns the height in inches of one arm's row: less where there are many."""
    return roomy if arms <= 10 else narrow


def spans_decades(values: Sequence[float]) -> bool:
    """Says whether positive values lie so far apart that a logarithmic axis shows more."""
    return bool(values) and min(values) > 0 and max(values) > 8 * min(values)


def scale_by_decades(axis: Axis, scale: Callable[[str], None]) -> None:
    """Makes an axis logarithmic, with plain numbers at 1, 2 and 5.

    Args:
        axis: The axis.
        scale: The panel's `set_xscale` or `set_yscale`.
    """
    scale("log")
    axis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=9))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_locator(NullLocator())
