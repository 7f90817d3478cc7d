"""Loading matplotlib where no home folder can be written, and the pixels of a figure."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from alexnet_core.process.files import scratch_folder

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_FOLDERS = {"XDG_CONFIG_HOME": ".config", "XDG_CACHE_HOME": ".cache"}


def load_matplotlib() -> None:
    """Loads matplotlib, with a private folder for as long as that takes where its own ones cannot be written.

    To be called before anything else imports it.
    """
    if "MPLCONFIGDIR" in os.environ or all(map(_can_be_written, _FOLDERS)):
        return
    # cron、容器里没有家目录：不然它每次都在终端上抱怨，还留下一个临时文件夹
    with scratch_folder("matplotlib") as folder:
        os.environ["MPLCONFIGDIR"] = str(folder)
        try:
            # 只有字体清单在载入时要写
            import matplotlib.font_manager  # noqa: F401
        finally:
            del os.environ["MPLCONFIGDIR"]


def _can_be_written(variable: str) -> bool:
    try:
        folder = Path(os.environ.get(variable) or Path.home() / _FOLDERS[variable]) / "matplotlib"
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):
        return False
    return os.access(folder, os.W_OK)


@contextmanager
def without_glyph_warnings() -> Iterator[None]:
    """Has matplotlib say nothing of letters that its font lacks, for which it draws a box; the text beside has them."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def rendered(figure: Figure, dpi: int) -> Image.Image:
    """Returns the pixels of a figure, as RGB.

    Args:
        figure: The figure.
        dpi: Pixels per inch.
    """
    pixels = BytesIO()
    # 取原始像素：先写成 PNG 再读回要多半秒
    figure.savefig(pixels, format="rgba", dpi=dpi)
    width, height = (int(inches * dpi) for inches in figure.get_size_inches())
    return Image.frombytes("RGBA", (width, height), pixels.getvalue()).convert("RGB")
