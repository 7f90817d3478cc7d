"""Pictures of a trained network: the first layer's kernels (paper figure 3) and nearest neighbours (figure 4)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from alexnet_core.configuration.network_spec import Convolution
from alexnet_core.configuration.wording import counted
from alexnet_core.data.dataset import Split
from alexnet_core.errors import CoreError
from alexnet_core.model.alexnet import AlexNet
from alexnet_core.process.files import reason_of
from alexnet_core.trained import kernels
from alexnet_core.trained.kernels import GAP, enlarged, side_by_side, tile_grid
from alexnet_core.trained.loaded_model import LoadedModel
from alexnet_core.training.augmentation import centre_views
from alexnet_core.training.evaluation import EVALUATION_BATCH
from alexnet_core.training.loader import ImageLoader
from alexnet_core.training.precision import autocast

_LARGEST_TILE = 96


def kernels_picture(network: AlexNet, columns: int = 6) -> Image.Image:
    """Draws the kernels of the first convolution, the towers side by side (paper figure 3).

    Each kernel is stretched to 0..255 by its own least and largest weight.

    Args:
        network: A trained network with an RGB or grey input.
        columns: Kernels beside one another in a tower.

    Raises:
        CoreError: The first layer is no convolution over one or three channels.
    """
    first = network.spec.layers[0]
    if not isinstance(first, Convolution) or network.spec.channels not in (1, 3):
        raise CoreError(f"{network.spec.name} has no convolution over colours as its first layer")
    towers = [module.get_parameter("weight") for _, module in network.get_submodule(first.name).named_children()]
    return kernels.kernels_picture([weight.detach().float().cpu().numpy() for weight in towers], columns)


@dataclass(frozen=True)
class Neighbours:
    """Images and those nearest to them.

    Attributes:
        queries: int64 (Q,), numbers of test images.
        nearest: int64 (Q, K), numbers of training images, the nearest first.
        distances: float32 (Q, K), Euclidean, between the activations of the last hidden layer.
    """

    queries: np.ndarray
    nearest: np.ndarray
    distances: np.ndarray


def nearest_neighbours(
    model: LoadedModel,
    test: Split,
    train: Split,
    queries: np.ndarray,
    count: int,
    progress: Callable[[int, int], None] | None = None,
) -> Neighbours:
    """Finds the training images whose fc7 activations are nearest to those of test images (paper section 6.1).

    Args:
        model: A trained network.
        test: Where the queries are from.
        train: Where the neighbours are from; gone through once, in constant memory.
        queries: int64 (Q,), numbers of test images.
        count: Neighbours per query.
        progress: Called with (training images looked at, training images in all).

    Raises:
        CoreError: There are fewer training images than neighbours asked for.
    """
    if count > len(train):
        raise CoreError(f"{counted(count, 'neighbour')} asked for, of {counted(len(train), 'training image')}")
    query_features = torch.cat(_features(model, model.loader(test), queries))
    best = torch.full((len(queries), count), float("inf"), device=query_features.device)
    where = torch.zeros((len(queries), count), dtype=torch.int64, device=query_features.device)
    loader = model.loader(train)
    for start in range(0, len(train), EVALUATION_BATCH):
        rows = np.arange(start, min(start + EVALUATION_BATCH, len(train)))
        (features,) = _features(model, loader, rows)
        # 逐批与当前最近的合并，不必存下所有训练图的特征
        # 由矩阵乘法得出的距离有误差：一张图到自己也不为零
        apart = torch.cdist(query_features, features, compute_mode="donot_use_mm_for_euclid_dist")
        distances = torch.cat([best, apart], dim=1)
        numbers = torch.from_numpy(rows).to(where.device).expand(len(queries), -1)
        best, places = distances.topk(count, dim=1, largest=False)
        where = torch.cat([where, numbers], dim=1).gather(1, places)
        if progress is not None:
            progress(start + len(rows), len(train))
    return Neighbours(queries, where.cpu().numpy(), best.cpu().numpy())


def _features(model: LoadedModel, loader: ImageLoader, rows: np.ndarray) -> list[torch.Tensor]:
    """Activations of the last hidden layer of the images `rows` (M,), float32 (B, features) a batch."""
    bounds = [(first, min(first + EVALUATION_BATCH, len(rows))) for first in range(0, len(rows), EVALUATION_BATCH)]
    network, crop = model.network, model.network.spec.input_size
    with torch.inference_mode(), autocast(model.config.training.precision, network.devices[0]):
        return [
            network.features(centre_views(batch, crop)).float()
            for batch in loader.batches(np.ascontiguousarray(rows, dtype=np.int64), bounds)
        ]


def neighbours_picture(neighbours: Neighbours, test: Split, train: Split) -> Image.Image:
    """Draws each query and, to its right, its neighbours (paper figure 4)."""
    side = min(_LARGEST_TILE, max(32, test.images.shape[1]))

    def tiles(split: Split, numbers: np.ndarray) -> list[np.ndarray]:
        ascending = np.sort(np.unique(numbers))
        out = np.empty((len(ascending), *split.images.shape[1:]), dtype=np.uint8)
        split.gather(ascending, out)
        return [enlarged(out[np.searchsorted(ascending, number)], side) for number in numbers]

    queries = tile_grid(tiles(test, neighbours.queries), 1)
    nearest = tile_grid(tiles(train, neighbours.nearest.reshape(-1)), neighbours.nearest.shape[1])
    return Image.fromarray(side_by_side([queries, nearest], 8 * GAP))


def save_picture(picture: Image.Image, path: Path) -> None:
    """Writes a picture; its name's ending says in which format.

    Raises:
        CoreError: The format is not known, or the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path)
    except (OSError, ValueError) as error:
        raise CoreError(f"{path} cannot be written: {reason_of(error)}") from error
