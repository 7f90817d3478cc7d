"""Views of the images, for a whole batch at once on the training device: crops, reflections, colour noise.

Images stay uint8 (N, H, W, C) on the device; a view is gathered by index arithmetic, which yields
channels_last.
"""

from __future__ import annotations

import numpy as np
import torch

from alexnet_core.configuration.train_config import TrainConfig
from alexnet_core.model.draws import draw_key, normals, uniform_bits
from alexnet_core.training.loader import Batch


def training_views(
    batch: Batch,
    config: TrainConfig,
    epoch: int,
    positions: torch.Tensor,
    colour_axes: torch.Tensor | None,
    colour_noise: float,
) -> torch.Tensor:
    """Returns augmented inputs of a batch (paper section 4.1).

    Args:
        batch: Training images.
        config: Crop size, which augmentations, and the seed.
        epoch: Epoch number from 0; part of every draw's key.
        positions: int64 (B,), the images' positions in the epoch's order (for crops shared by groups).
        colour_axes: float32 (C, C) from `colour_axes`; needed with colour noise.
        colour_noise: Standard deviation of the a_i in this epoch; 0 for none.

    Returns:
        float32 (B, C, crop, crop), channels_last, raw grey levels minus the mean image.
    """
    training, crop, indices = config.training, config.network.input_size, batch.indices
    room = batch.images.shape[1] - crop
    seed = config.seed_of("augmentation")
    key = draw_key("views", seed, epoch)
    # 原始实现每 32 张图共用一次裁剪；论文逐图
    who = indices if training.images_per_crop == 1 else positions // training.images_per_crop
    top = left = torch.full_like(indices, room // 2)
    if training.random_crops and room > 0:
        top = (uniform_bits(key, 4 * who) * (room + 1)) >> 32
        left = (uniform_bits(key, 4 * who + 1) * (room + 1)) >> 32
    flipped = torch.zeros_like(indices, dtype=torch.bool)
    if training.flips:
        flipped = (uniform_bits(key, 4 * who + 2) & 1).bool()
    views = _gather(batch, top, left, flipped, crop)
    if colour_noise > 0 and colour_axes is not None:
        channels = colour_axes.shape[0]
        each = torch.arange(channels, device=indices.device)
        # 单位是灰度级：a_i 乘各主轴上的标准差（约十二级），不是特征值（约一千四百级）
        drawn = normals(draw_key("colour", seed, epoch), indices[:, None] * channels + each)
        amounts = (drawn * colour_noise).to(colour_axes.dtype)
        views = views + (amounts @ colour_axes.T)[:, :, None, None]
        # 原始代码（convdata.py）加噪声后除以 1.1，论文没有提
        if training.divides_by_colour_noise:
            views = views / (1.0 + colour_noise)
    return views


def centre_views(batch: Batch, crop: int) -> torch.Tensor:
    """Returns the centre crops of a batch as float32 (B, C, crop, crop), minus the mean image."""
    offset = torch.full_like(batch.rows, (batch.images.shape[1] - crop) // 2)
    return _gather(batch, offset, offset, torch.zeros_like(batch.rows, dtype=torch.bool), crop)


def ten_views(batch: Batch, crop: int) -> list[torch.Tensor]:
    """Returns ten views of a batch: the four corner crops, the centre crop and their reflections (paper section 4.1).

    Args:
        batch: Images of a split, (M, H, W, C).
        crop: Side of a view in pixels.

    Returns:
        Ten of float32 (B, C, crop, crop), raw grey levels minus the mean image.
    """
    room = batch.images.shape[1] - crop
    places = [(0, 0), (0, room), (room, 0), (room, room), (room // 2, room // 2)]
    return [
        _gather(
            batch,
            torch.full_like(batch.rows, top),
            torch.full_like(batch.rows, left),
            torch.full_like(batch.rows, int(flip), dtype=torch.bool),
            crop,
        )
        for flip in (False, True)
        for top, left in places
    ]


def _gather(batch: Batch, top: torch.Tensor, left: torch.Tensor, flipped: torch.Tensor, crop: int) -> torch.Tensor:
    """Crops (B, C, crop, crop) from a batch by fancy indexing; top, left and flipped are (B,).

    The mean is subtracted at the same pixels, before the reflection.
    """
    steps = torch.arange(crop, device=batch.rows.device)
    rows = (top[:, None] + steps)[:, :, None]
    columns = torch.where(flipped[:, None], left[:, None] + (crop - 1 - steps), left[:, None] + steps)
    columns = columns[:, None, :]
    pixels = batch.images[batch.rows[:, None, None], rows, columns].float()
    if batch.mean_follows_crop:
        return (pixels - batch.mean[rows, columns]).permute(0, 3, 1, 2)
    # 原始代码（convdata.py）总是减去均值图的中心，不随裁剪移动，也不翻转
    start = (batch.mean.shape[0] - crop) // 2
    return (pixels - batch.mean[start : start + crop, start : start + crop]).permute(0, 3, 1, 2)


def colour_axes(covariance: np.ndarray) -> np.ndarray:
    """Returns the principal axes of the training set's RGB values, scaled to one standard deviation.

    Args:
        covariance: float64 (C, C) of the RGB values of the whole training set, in grey levels squared.

    Returns:
        float32 (C, C): column i is axis p_i times the square root of its eigenvalue, in grey levels. The
        paper's text multiplies by the eigenvalue itself, which on 0..255 is some 1,400 levels; the original
        code takes the square root.
    """
    values, vectors = np.linalg.eigh(covariance)
    # 特征向量的符号由约定固定，否则换一套 LAPACK 就变号
    signs = np.sign(vectors[np.abs(vectors).argmax(axis=0), np.arange(len(covariance))])
    axes: np.ndarray = (vectors * signs * np.sqrt(np.clip(values, 0.0, None))).astype(np.float32)
    return axes
