"""The mean image and the covariance of the RGB values of a training set, exact and in one pass. Loads no torch."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from alexnet_core.process.compiled import compiled

# 256 张 255 之和仍放得进 uint16：每张图少读写一兆多内存
MOST_RECENT = 256


class PixelMoments:
    """Sums over training images, of which mean image and covariance are made.

    Attributes:
        count: Images so far.
        total: int64 (H, W, C), their sum; complete after `settle`.
        products: int64 (C, C), the sums over all pixels of the products of every two channels.
    """

    def __init__(self, size: int, channels: int = 3) -> None:
        """Starts at zero for images of `size` pixels."""
        self.count = 0
        self.total = np.zeros((size, size, channels), dtype=np.int64)
        self.products = np.zeros((channels, channels), dtype=np.int64)
        self._recent = np.zeros((size, size, channels), dtype=np.uint16)
        self._recent_count = 0

    def add(self, images: Iterable[np.ndarray]) -> None:
        """Adds images, each uint8 (H, W, C), 0..255."""
        for image in images:
            compiled(_add)(np.ascontiguousarray(image).reshape(-1), self._recent.reshape(-1), self.products)
            self.count += 1
            self._recent_count += 1
            if self._recent_count == MOST_RECENT:
                self.settle()

    def settle(self) -> None:
        """Brings `total` up to date."""
        self.total += self._recent
        self._recent[:] = 0
        self._recent_count = 0

    def mean_image(self) -> np.ndarray:
        """Returns the per-pixel mean (paper section 2), float32 (H, W, C), 0..255."""
        self.settle()
        mean: np.ndarray = (self.total / self.count).astype(np.float32)
        return mean

    def covariance(self) -> np.ndarray:
        """Returns the covariance of the RGB values over all pixels, float64 (C, C), in grey levels squared."""
        self.settle()
        pixels = self.count * self.total.shape[0] * self.total.shape[1]
        sums = self.total.sum(axis=(0, 1))
        # 先用整数相减再除，大数相消也不丢位
        exact = [
            [(int(self.products[i, j]) * pixels - int(sums[i]) * int(sums[j])) / pixels**2 for j in range(len(sums))]
            for i in range(len(sums))
        ]
        return np.asarray(exact, dtype=np.float64)


def _add(pixels: np.ndarray, total: np.ndarray, products: np.ndarray) -> None:
    """Adds one image, (H * W * C); a sum over it is an exact integer."""
    for place in range(pixels.shape[0]):
        total[place] += pixels[place]
    channels = products.shape[0]
    if channels == 3:
        # 三个通道时一趟写开，编译器才会用向量指令
        rr = rg = rb = gg = gb = bb = np.int64(0)
        for place in range(0, pixels.shape[0], 3):
            r, g, b = np.int32(pixels[place]), np.int32(pixels[place + 1]), np.int32(pixels[place + 2])
            rr, rg, rb, gg, gb, bb = rr + r * r, rg + r * g, rb + r * b, gg + g * g, gb + g * b, bb + b * b
        products += np.array([[rr, rg, rb], [rg, gg, gb], [rb, gb, bb]])
        return
    for first in range(channels):
        for second in range(channels):
            for place in range(0, pixels.shape[0], channels):
                products[first, second] += np.int32(pixels[place + first]) * np.int32(pixels[place + second])
