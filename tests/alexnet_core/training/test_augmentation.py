from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from alexnet_core.configuration.train_config import TrainConfig
from alexnet_core.data.dataset import Dataset
from alexnet_core.training.augmentation import centre_views, colour_axes, ten_views, training_views
from alexnet_core.training.loader import ImageLoader


@pytest.fixture
def data(dataset: Dataset) -> ImageLoader:
    return ImageLoader(dataset.train, dataset.mean_image, "cpu")


def crops_of(dataset: Dataset, image: int, crop: int) -> dict[tuple[int, int, bool], np.ndarray]:
    """Every crop of one image by slicing, the mean subtracted first."""
    centred = dataset.train.images[image].astype(np.float32) - dataset.mean_image
    room = centred.shape[0] - crop
    crops = {}
    for top in range(room + 1):
        for left in range(room + 1):
            window = centred[top : top + crop, left : left + crop]
            crops[top, left, False] = window.transpose(2, 0, 1)
            crops[top, left, True] = window[:, ::-1].transpose(2, 0, 1)
    return crops


def views_of(
    data: ImageLoader, config: TrainConfig, epoch: int, indices: list[int], axes: torch.Tensor | None = None
) -> torch.Tensor:
    noise = config.training.colour_noise
    return training_views(data.take(indices), config, epoch, torch.arange(len(indices)), axes, noise)


def test_every_training_view_is_a_crop_of_its_image_and_all_offsets_occur(
    dataset: Dataset, data: ImageLoader, config_of: Callable[..., TrainConfig]
) -> None:
    seen = set()
    crops = [crops_of(dataset, image, 10) for image in range(70)]
    for epoch in range(6):
        views = views_of(data, config_of(), epoch, list(range(70))).numpy()
        for image in range(70):
            matches = [place for place, crop in crops[image].items() if np.array_equal(crop, views[image])]
            assert len(matches) == 1
            seen.add(matches[0])
    assert len(seen) == 3 * 3 * 2


def test_a_view_depends_on_its_image_and_epoch_not_on_its_batch(
    data: ImageLoader, config_of: Callable[..., TrainConfig]
) -> None:
    config = config_of()
    together = views_of(data, config, 0, [5, 9, 30])
    assert torch.equal(together[1:2], views_of(data, config, 0, [9]))
    alone = [views_of(data, config, epoch, [9]) for epoch in range(8)]
    assert any(not torch.equal(alone[0], other) for other in alone[1:])


def test_groups_share_one_crop_when_the_original_did(
    dataset: Dataset, data: ImageLoader, config_of: Callable[..., TrainConfig]
) -> None:
    views = views_of(data, config_of(images_per_crop=32), 0, [7] * 64)
    assert (views[:32] == views[0]).all()
    assert (views[32:] == views[32]).all()


def test_no_augmentation_is_the_centre_crop(
    dataset: Dataset, data: ImageLoader, config_of: Callable[..., TrainConfig]
) -> None:
    plain = views_of(data, config_of(random_crops=False, flips=False), 3, [1, 2])
    expected = dataset.train.images[[1, 2], 1:11, 1:11].astype(np.float32) - dataset.mean_image[1:11, 1:11]
    np.testing.assert_array_equal(plain.numpy(), expected.transpose(0, 3, 1, 2))
    assert torch.equal(plain, centre_views(data.take([1, 2]), 10))
    assert plain.is_contiguous(memory_format=torch.channels_last)


def test_ten_views_are_corners_centre_and_their_reflections(dataset: Dataset, data: ImageLoader) -> None:
    views = ten_views(data.take([4]), 10)
    crops = crops_of(dataset, 4, 10)
    places = [(0, 0), (0, 2), (2, 0), (2, 2), (1, 1)]
    expected = [crops[(*place, flip)] for flip in (False, True) for place in places]
    assert len(views) == 10
    for view, crop in zip(views, expected, strict=True):
        np.testing.assert_array_equal(view[0].numpy(), crop)


def test_colour_axes_are_the_principal_axes_in_grey_levels(dataset: Dataset) -> None:
    axes = colour_axes(dataset.covariance)
    covariance = np.cov(dataset.train.images.reshape(-1, 3).T.astype(np.float64), bias=True)
    np.testing.assert_allclose(axes @ axes.T, covariance, rtol=1e-4)
    scaled = axes.T @ axes
    np.testing.assert_allclose(scaled, np.diag(np.diag(scaled)), atol=1e-2)


def test_colour_noise_shifts_a_whole_image_by_a_tenth_of_the_spread(
    dataset: Dataset, data: ImageLoader, config_of: Callable[..., TrainConfig]
) -> None:
    axes = torch.from_numpy(colour_axes(dataset.covariance))
    config = config_of(random_crops=False, flips=False, colour_noise=0.1)
    shifts = []
    for epoch in range(60):
        noisy = views_of(data, config, epoch, list(range(70)), axes)
        difference = noisy - views_of(data, config, epoch, list(range(70)))
        assert float((difference.amax((2, 3)) - difference.amin((2, 3))).max()) < 1e-3
        shifts.append(difference[:, :, 0, 0].numpy())
    covariance = np.cov(np.concatenate(shifts).T)
    pixels = np.cov(dataset.train.images.reshape(-1, 3).T.astype(np.float64))
    np.testing.assert_allclose(covariance, 0.01 * pixels, rtol=0.15, atol=1.0)
