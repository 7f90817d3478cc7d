"""One image file: decoded to RGB, shorter side resized, centre crop; and why a bad one is bad. Loads no torch."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
from PIL import Image

from alexnet_core.errors import CoreError

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"})
SMALLEST_SIDE = 2
# 再长的图缩放后会占几个 GB；先裁掉两端，中心裁剪的结果不变
LONGEST_RATIO = 8


class BadImage(CoreError):
    """An image that cannot be used; the message names it and the reason.

    Attributes:
        reason: Why, without the name.
    """

    def __init__(self, path: Path, reason: str) -> None:
        """Says which and why."""
        super().__init__(f"image {path} cannot be read: {reason}")
        self.reason = reason


def decode_image(path: Path, size: int, content: bytes | None = None) -> np.ndarray:
    """Decodes an image: RGB, shorter side resized to `size`, centre crop; never squashed (paper section 2).

    Args:
        path: An image file; grey, palette, alpha, CMYK and 16-bit images become RGB.
        size: Height and width in pixels.
        content: The file's bytes, if they are read already.

    Returns:
        uint8 (size, size, 3).

    Raises:
        BadImage: The image cannot be used: unreadable, empty, truncated, not an image, a pixel wide, or so large that
            decoding it may exhaust the memory.
    """
    try:
        content = path.read_bytes() if content is None else content
    except OSError as error:
        raise BadImage(path, error.strerror or str(error)) from error
    if not content:
        raise BadImage(path, "the file is empty")
    try:
        with warnings.catch_warnings():
            # Pillow 对坏元数据只给警告；对“解压炸弹”也先只警告
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content)) as opened:
                if min(opened.size) < SMALLEST_SIDE:
                    raise BadImage(path, f"it is {opened.size[0]}x{opened.size[1]} pixels")
                image = _rgb(opened)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BadImage(path, f"decompression bomb: {error}") from error
    except (OSError, ValueError, SyntaxError, EOFError, MemoryError, IndexError, TypeError, KeyError) as error:
        reason = "not an image" if "cannot identify" in str(error) else str(error) or type(error).__name__
        raise BadImage(path, reason) from error
    return centre_crop(image, size)


def centre_crop(image: Image.Image, size: int) -> np.ndarray:
    """Resizes the shorter side to `size` and cuts out the centre: uint8 (size, size, channels)."""
    width, height = image.size
    longest = LONGEST_RATIO * min(width, height)
    if max(width, height) > longest:
        left, top = max(0, (width - longest) // 2), max(0, (height - longest) // 2)
        image = image.crop((left, top, left + min(width, longest), top + min(height, longest)))
        width, height = image.size
    if min(width, height) != size:
        scale = size / min(width, height)
        width, height = max(size, round(width * scale)), max(size, round(height * scale))
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - size) // 2, (height - size) // 2
    return np.asarray(image.crop((left, top, left + size, top + size)))


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16") or image.mode == "I":
        # Pillow 的直接转换会把 16 位截断成全白
        levels = np.asarray(image, dtype=np.float64) / 257.0
        return Image.fromarray(np.round(levels).clip(0, 255).astype(np.uint8)).convert("RGB")
    return image.convert("RGB")
