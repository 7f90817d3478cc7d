"""The mean image and the covariance of the RGB values of a training set, exact and in one pass. Loads no torch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

# 256 个 255**2 的和在 float32 里仍是精确整数
_EXACT_PIXELS = 256


def channel_products(image: np.ndarray) -> np.ndarray:
    """Returns the sums over all pixels of the products of every two channels.

    Args:
        image: uint8 (..., C), 0..255.

    Returns:
        int64 (C, C), exact.
    """
    channels = image.shape[-1]
    pixels = image.reshape(-1, channels)
    flat = np.zeros((channels, -(-len(pixels) // _EXACT_PIXELS) * _EXACT_PIXELS), dtype=np.float32)
    for channel in range(channels):
        flat[channel, : len(pixels)] = pixels[:, channel]
    planes = flat.reshape(channels, -1, _EXACT_PIXELS)
    products = np.zeros((channels, channels), dtype=np.int64)
    for i in range(channels):
        for j in range(i, channels):
            sums = np.einsum("ab,ab->a", planes[i], planes[j])
            products[i, j] = products[j, i] = int(sums.sum(dtype=np.float64))
    return products


class PixelMoments:
    """Sums over training images, of which mean image and covariance are made.

    Attributes:
        count: Images so far.
        total: int64 (H, W, C), their sum.
        products: int64 (C, C), see `channel_products`.
    """

    def __init__(self, size: int, channels: int = 3) -> None:
        """Starts at zero for images of `size` pixels."""
        self.count = 0
        self.total = np.zeros((size, size, channels), dtype=np.int64)
        self.products = np.zeros((channels, channels), dtype=np.int64)

    def add(self, images: Sequence[np.ndarray] | np.ndarray, products: Iterable[np.ndarray] | None = None) -> None:
        """Adds images.

        Args:
            images: N images, each uint8 (H, W, C); at most 2**24 at a time.
            products: `channel_products` of each, where they are known.
        """
        self.count += len(images)
        # 先在 32 位里累加，比逐张加到 64 位快两倍
        total = np.zeros(self.total.shape, dtype=np.uint32)
        for image in images:
            np.add(total, image, out=total, casting="unsafe")
        self.total += total
        known = (channel_products(image) for image in images) if products is None else products
        for product in known:
            self.products += product

    def mean_image(self) -> np.ndarray:
        """Returns the per-pixel mean (paper section 2), float32 (H, W, C), 0..255."""
        mean: np.ndarray = (self.total / self.count).astype(np.float32)
        return mean

    def covariance(self) -> np.ndarray:
        """Returns the covariance of the RGB values over all pixels, float64 (C, C), in grey levels squared."""
        pixels = self.count * self.total.shape[0] * self.total.shape[1]
        sums = self.total.sum(axis=(0, 1))
        # 先用整数相减再除，大数相消也不丢位
        exact = [
            [(int(self.products[i, j]) * pixels - int(sums[i]) * int(sums[j])) / pixels**2 for j in range(len(sums))]
            for i in range(len(sums))
        ]
        return np.asarray(exact, dtype=np.float64)
