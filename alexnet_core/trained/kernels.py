"""The kernels of the first convolution as a picture (paper figure 3). Needs no torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from alexnet_core.errors import CoreError
from alexnet_core.process.files import reason_of

GAP = 2


def kernels_of_checkpoint(path: Path, layer: str) -> list[np.ndarray]:
    """Reads a convolution's kernels from a checkpoint.

    Args:
        path: The checkpoint.
        layer: Name of the convolution, such as `conv1`.

    Returns:
        Per tower, float (maps, channels, k, k).

    Raises:
        CoreError: The file cannot be read, or has no such layer.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "numpy") as file:
            names = sorted(name for name in file.keys() if _is_kernel_of(name, layer))  # noqa: SIM118
            kernels = [file.get_tensor(name) for name in names]
    except (OSError, SafetensorError) as error:
        raise CoreError(f"{path} cannot be read: {reason_of(error)}") from error
    if not kernels:
        raise CoreError(f"{path} has no weights of {layer}")
    return kernels


def _is_kernel_of(name: str, layer: str) -> bool:
    return name.startswith(f"weight/{layer}.") and name.endswith(".weight")


def kernels_picture(towers: Sequence[np.ndarray], columns: int = 6) -> Image.Image:
    """Draws kernels, the towers side by side.

    Each kernel is stretched to 0..255 by its own least and largest weight.

    Args:
        towers: Per tower, float (maps, 1 or 3 channels, k, k).
        columns: Kernels beside one another in a tower.

    Raises:
        CoreError: The kernels are not over one or three channels.
    """
    panels = []
    for kernels in towers:
        if kernels.ndim != 4 or kernels.shape[1] not in (1, 3):
            raise CoreError(f"kernels of shape {kernels.shape} are not over colours")
        low, high = kernels.min((1, 2, 3), keepdims=True), kernels.max((1, 2, 3), keepdims=True)
        levels = np.rint(255.0 * (kernels - low) / np.maximum(high - low, 1e-12)).astype(np.uint8)
        tiles = np.broadcast_to(levels.transpose(0, 2, 3, 1), (*levels.shape[:1], *levels.shape[2:], 3))
        size = kernels.shape[-1] * max(3, 32 // kernels.shape[-1])
        panels.append(tile_grid([enlarged(tile, size) for tile in tiles], columns))
    return Image.fromarray(side_by_side(panels, 8 * GAP))


def enlarged(tile: np.ndarray, size: int) -> np.ndarray:
    """Returns a tile uint8 (h, w, 3) as (size, size, 3), without smoothing."""
    return np.asarray(Image.fromarray(tile).resize((size, size), Image.Resampling.NEAREST))


def tile_grid(tiles: Sequence[np.ndarray], columns: int) -> np.ndarray:
    """Returns white paper, uint8 (h, w, 3), with tiles uint8 (size, size, 3) on it, row by row."""
    size, rows = tiles[0].shape[0], -(-len(tiles) // columns)
    step = size + GAP
    paper = np.full((rows * step + GAP, min(columns, len(tiles)) * step + GAP, 3), 255, dtype=np.uint8)
    for number, tile in enumerate(tiles):
        top, left = GAP + (number // columns) * step, GAP + (number % columns) * step
        paper[top : top + size, left : left + size] = tile
    return paper


def side_by_side(panels: Sequence[np.ndarray], gap: int) -> np.ndarray:
    """Returns panels uint8 (h, w, 3) of one height beside one another, as one such picture."""
    white = np.full((panels[0].shape[0], gap, 3), 255, dtype=np.uint8)
    parts = [part for panel in panels for part in (panel, white)]
    return np.concatenate(parts[:-1], axis=1)
