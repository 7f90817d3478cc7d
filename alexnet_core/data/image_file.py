"""One image file: decoded to RGB, shorter side resized, centre crop; and why a bad one is bad. Loads no torch."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile

from alexnet_core.errors import CoreError

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"})
# 也是图像，只是我们不收：留在一旁时要说出来
OTHER_IMAGE_SUFFIXES = frozenset({".jfif", ".jpe", ".jp2", ".jxl", ".avif", ".heic", ".heif", ".pbm", ".tga", ".psd"})
SMALLEST_SIDE = 2
# Pillow 自己的界限（8900 万像素，每线程 268 MB）：它对一倍以上只给警告，我们不读
MOST_PIXELS = 89_478_485
# 再长的图缩放后会占几个 GB，所以先裁掉两端；取整与重采样的相位可差不到一个像素（如 333x20）
LONGEST_RATIO = 8
# EXIF 的方向标签
ORIENTATION = 0x0112
# 最亮也不到白色（255）的八分之一：多半是 12 位的值存在 16 位里
DARK_LEVEL = 32
DARK = "stored in more than 8 bits and nearly black: no pixel reaches an eighth of white"
TRANSPARENT = "transparent: the colours beneath show, often black"
TURNED = "turned by EXIF: taken as stored"
SEVERAL = "animated, or of several pages: the first is taken"


class BadImage(CoreError):
    """An image that cannot be used; the message names it and the reason.

    Attributes:
        path: Which.
        reason: Why, without the name.
    """

    def __init__(self, path: Path, reason: str) -> None:
        """Says which and why."""
        super().__init__(f"image {path} cannot be read: {reason}")
        self.path, self.reason = path, reason

    def __reduce__(self) -> tuple[type[BadImage], tuple[Path, str]]:
        """Lets it go from process to process."""
        return BadImage, (self.path, self.reason)


@contextmanager
def without_picture_warnings() -> Iterator[None]:
    """Keeps what Pillow says of odd metadata off the terminal while pictures are decoded.

    The filter holds for the whole process: enter it once, before the threads that decode, and not in them.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def decode_image(path: Path, size: int, content: bytes | None = None) -> np.ndarray:
    """Decodes an image: RGB, shorter side resized to `size`, centre crop; never squashed (paper section 2).

    Args:
        path: An image file; grey, palette, alpha, CMYK and 16-bit images become RGB. Pixels are taken as they are
            stored, as torchvision does: a turn noted in EXIF is not made (Pillow makes that of TIFF files),
            transparency goes and the colours beneath it show, of an animation or of several pages the first is taken,
            16-bit levels 0..65535 of grey or colour become 0..255 whatever the brightest is (of PGM and PPM files
            0..maxval does). `decode_and_look` says where that is other than a viewer shows, or nearly black.
        size: Height and width in pixels.
        content: The file's bytes, if they are read already.

    Returns:
        uint8 (size, size, 3).

    Raises:
        BadImage: The image cannot be used: unreadable, empty, truncated, not an image, a pixel wide, or of more than
            89,478,485 pixels, so that decoding it may exhaust the memory.
    """
    return decode_and_look(path, size, content)[0]


def decode_and_look(path: Path, size: int, content: bytes | None = None) -> tuple[np.ndarray, str]:
    """Decodes an image as `decode_image` does, and says how it looks other than in a viewer.

    Returns:
        uint8 (size, size, 3); and how, empty where it does not.
    """
    try:
        content = path.read_bytes() if content is None else content
    except OSError as error:
        raise BadImage(path, error.strerror or str(error)) from error
    if not content:
        raise BadImage(path, "the file is empty")
    try:
        with Image.open(io.BytesIO(content)) as opened:
            width, height = opened.size
            if min(width, height) < SMALLEST_SIDE:
                raise BadImage(path, f"it is {width}x{height} pixels")
            # 不靠 Pillow 的警告：过滤器是全进程的，多个线程会互相改掉
            if width * height > MOST_PIXELS:
                raise BadImage(path, _too_large(f"{width}x{height} pixels"))
            is_deep = _is_deep(opened)
            image = _rgb(opened)
            oddity = DARK if is_deep and _brightest(image) < DARK_LEVEL else _oddity(opened)
    except Image.DecompressionBombError as error:
        # Pillow 在打开时就拒绝了，大小只在它的话里
        count = re.search(r"\d+", str(error))
        raise BadImage(path, _too_large(f"{count[0]} pixels" if count else "too many pixels")) from error
    except BadImage:
        raise
    except Exception as error:
        # 坏文件能让 Pillow 抛出任何异常，连 AssertionError 也有
        reason = "not an image" if "cannot identify" in str(error) else str(error) or type(error).__name__
        raise BadImage(path, reason) from error
    return centre_crop(image, size), oddity


def prepared_picture(picture: Image.Image | np.ndarray, size: int) -> np.ndarray:
    """Prepares a picture that is in memory as `decode_image` does one in a file.

    Args:
        picture: A Pillow image, or uint8 (H, W, 3) or (H, W).
        size: Height and width in pixels.

    Returns:
        uint8 (size, size, 3).

    Raises:
        CoreError: It is neither, an array has another shape or type, or the picture cannot be used.
    """
    if isinstance(picture, np.ndarray):
        if picture.dtype != np.uint8 or (picture.ndim != 2 and picture.shape[2:] != (3,)):
            raise CoreError(f"a picture must be uint8 (H, W, 3) or (H, W), not {picture.dtype} {picture.shape}")
        picture = Image.fromarray(picture)
    if not isinstance(picture, Image.Image):
        raise CoreError(f"a picture must be a Pillow image or an array of uint8, not {type(picture).__name__}")
    if min(picture.size) < SMALLEST_SIDE:
        raise CoreError(f"a picture of {picture.width}x{picture.height} pixels is too small")
    try:
        return centre_crop(_rgb(picture), size)
    except (ValueError, OSError) as error:
        raise CoreError(f"a picture cannot be used: {error}") from error


def _too_large(pixels: str) -> str:
    return f"decompression bomb: {pixels}, more than {MOST_PIXELS}; make it smaller"


def _is_deep(image: ImageFile.ImageFile) -> bool:
    """Whether a file has more than 8 bits per value; to be asked before its pixels are read."""
    if image.mode.startswith("I"):
        return True
    # 彩色的 16 位读进来只剩 8 位：文件的位数只在 Pillow 的 tile 里，读完像素就没有了
    decoder, _, _, arguments = image.tile[0] if image.tile else ("", None, 0, None)
    if decoder in ("ppm", "ppm_plain"):
        return isinstance(arguments, tuple) and int(arguments[1]) > 255
    # BMP 的 16 位是一个像素的，不是一个值的
    return image.format != "BMP" and ";16" in str(arguments)


def _brightest(image: Image.Image) -> int:
    """The highest value of a colour of an RGB image, 0..255."""
    return int(np.asarray(image).max())


def _oddity(image: Image.Image) -> str:
    """Says how a decoded image looks other than in a viewer; empty where it does not."""
    if "A" in image.getbands() or "transparency" in image.info:
        alpha = image.convert("RGBA").getchannel("A").getextrema()
        return TRANSPARENT if alpha[0] != 255 else ""
    if "exif" in image.info and image.getexif().get(ORIENTATION, 1) != 1:
        return TURNED
    return SEVERAL if _has_further_pictures(image) else ""


def _has_further_pictures(image: Image.Image) -> bool:
    """Whether a file has frames or pages behind the first; those that a camera adds to a photo (MPO) do not count."""
    # 后面的帧坏了，与第一帧无关
    with suppress(Exception):
        return image.format != "MPO" and bool(getattr(image, "is_animated", False))
    return False


def centre_crop(image: Image.Image, size: int) -> np.ndarray:
    """Resizes the shorter side to `size` and cuts out the centre (paper section 2).

    An image more than eight times as long as wide loses its ends first; its centre then moves by less than a pixel.

    Returns:
        uint8 (size, size, channels).
    """
    width, height = image.size
    longest = LONGEST_RATIO * min(width, height)
    # 两端裁去一样多，中心才不动
    longest += (max(width, height) - longest) % 2
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
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers; save it with 8 or 16 bits")
    if image.mode.startswith("I;16") or image.mode == "I":
        levels = np.asarray(image, dtype=np.float64)
        if levels.min() < 0 or levels.max() > 65535:
            raise ValueError("its pixels have more than 16 bits")
        # Pillow 的直接转换会把 16 位截断成全白；32 位的文件里也可能只有 8 位的值
        if image.mode.startswith("I;16") or levels.max() > 255:
            levels = levels / 257.0
        return Image.fromarray(np.round(levels).clip(0, 255).astype(np.uint8)).convert("RGB")
    return image.convert("RGB")
