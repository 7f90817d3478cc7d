"""Views of the images, for a whole batch at once on the training device: crops, reflections, colour noise.

Images stay uint8 (N, H, W, C) on the device; a view is gathered by index arithmetic, which yields
channels_last.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from alexnet_core.configuration import TrainConfig
from alexnet_core.datasets import Split
from alexnet_core.draws import draw_key, normals, uniform_bits


@dataclass(frozen=True)
class DeviceImages:
    """A split on a device.

    Attributes:
        images: uint8 (N, H, W, C), 0..255.
        labels: int64 (N,).
        mean: float32 (H, W, C), the per-pixel mean of the training images (paper section 2).
    """

    images: torch.Tensor
    labels: torch.Tensor
    mean: torch.Tensor


def on_device(split: Split, mean_image: np.ndarray, device: str | torch.device) -> DeviceImages:
    """Moves a split to a device; on the CPU the arrays are shared, not copied."""
    return DeviceImages(
        images=torch.from_numpy(_writable(split.images)).to(device),
        labels=torch.from_numpy(_writable(split.labels)).to(device),
        mean=torch.from_numpy(_writable(mean_image)).to(device),
    )


def _writable(array: np.ndarray) -> np.ndarray:
    # torch 不接受只读数组；写时复制的内存映射本来就可写
    return array if array.flags.writeable else array.copy()


def training_views(
    data: DeviceImages,
    config: TrainConfig,
    epoch: int,
    indices: torch.Tensor,
    positions: torch.Tensor,
    colour_axes: torch.Tensor | None,
) -> torch.Tensor:
    """Returns augmented inputs of a batch (paper section 4.1).

    Args:
        data: The training images.
        config: Crop size, which augmentations, and the seed.
        epoch: Epoch number from 0; part of every draw's key.
        indices: int64 (B,), which images.
        positions: int64 (B,), their positions in the epoch's order (for crops shared by groups).
        colour_axes: float32 (C, C) from `colour_axes`, or None for no colour noise.

    Returns:
        float32 (B, C, crop, crop), channels_last, raw grey levels minus the mean image.
    """
    training, crop = config.training, config.network.input_size
    room = data.images.shape[1] - crop
    key = draw_key("views", config.seed, epoch)
    # 原始实现每 32 张图共用一次裁剪；论文逐图
    who = indices if training.images_per_crop == 1 else positions // training.images_per_crop
    top = left = torch.full_like(indices, room // 2)
    if training.random_crops and room > 0:
        top = (uniform_bits(key, 4 * who) * (room + 1)) >> 32
        left = (uniform_bits(key, 4 * who + 1) * (room + 1)) >> 32
    flipped = torch.zeros_like(indices, dtype=torch.bool)
    if training.flips:
        flipped = (uniform_bits(key, 4 * who + 2) & 1).bool()
    views = _gather(data, indices, top, left, flipped, crop)
    if colour_axes is not None:
        channels = colour_axes.shape[0]
        each = torch.arange(channels, device=indices.device)
        drawn = normals(draw_key("colour", config.seed, epoch), indices[:, None] * channels + each)
        amounts = (drawn * training.colour_noise).to(colour_axes.dtype)
        views = views + (amounts @ colour_axes.T)[:, :, None, None]
    return views


def centre_views(data: DeviceImages, indices: torch.Tensor, crop: int) -> torch.Tensor:
    """Returns the centre crops of a batch as float32 (B, C, crop, crop), minus the mean image."""
    offset = torch.full_like(indices, (data.images.shape[1] - crop) // 2)
    return _gather(data, indices, offset, offset, torch.zeros_like(indices, dtype=torch.bool), crop)


def ten_views(data: DeviceImages, indices: torch.Tensor, crop: int) -> list[torch.Tensor]:
    """Returns the four corner crops, the centre crop and their reflections (paper section 4.1)."""
    room = data.images.shape[1] - crop
    places = [(0, 0), (0, room), (room, 0), (room, room), (room // 2, room // 2)]
    return [
        _gather(
            data,
            indices,
            torch.full_like(indices, top),
            torch.full_like(indices, left),
            torch.full_like(indices, int(flip), dtype=torch.bool),
            crop,
        )
        for flip in (False, True)
        for top, left in places
    ]


def _gather(
    data: DeviceImages,
    indices: torch.Tensor,
    top: torch.Tensor,
    left: torch.Tensor,
    flipped: torch.Tensor,
    crop: int,
) -> torch.Tensor:
    """Crops by fancy indexing; the mean is subtracted at the same pixels, before the reflection."""
    steps = torch.arange(crop, device=indices.device)
    rows = (top[:, None] + steps)[:, :, None]
    columns = torch.where(flipped[:, None], left[:, None] + (crop - 1 - steps), left[:, None] + steps)
    columns = columns[:, None, :]
    pixels = data.images[indices[:, None, None], rows, columns]
    return (pixels.float() - data.mean[rows, columns]).permute(0, 3, 1, 2)


def colour_axes(images: np.ndarray) -> np.ndarray:
    """Returns the principal axes of the training set's RGB values, scaled to one standard deviation.

    Args:
        images: uint8 (N, H, W, C), the whole training set.

    Returns:
        float32 (C, C): column i is axis p_i times the square root of its eigenvalue, in grey levels. The
        paper's text multiplies by the eigenvalue itself, which on 0..255 is some 1,400 levels; the original
        code takes the square root.
    """
    channels = images.shape[-1]
    count, total, products = 0, np.zeros(channels), np.zeros((channels, channels))
    for start in range(0, len(images), 1024):
        pixels = images[start : start + 1024].reshape(-1, channels).astype(np.float64)
        count += len(pixels)
        total += pixels.sum(axis=0)
        products += pixels.T @ pixels
    mean = total / count
    values, vectors = np.linalg.eigh(products / count - np.outer(mean, mean))
    # 特征向量的符号由约定固定，否则换一套 LAPACK 就变号
    signs = np.sign(vectors[np.abs(vectors).argmax(axis=0), np.arange(channels)])
    axes: np.ndarray = (vectors * signs * np.sqrt(np.clip(values, 0.0, None))).astype(np.float32)
    return axes
