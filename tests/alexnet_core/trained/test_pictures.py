"""Kernels and neighbours: the pictures show what the weights and the features say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from alexnet_core.configuration.named_networks import network
from alexnet_core.configuration.train_config import TrainConfig
from alexnet_core.data.dataset import Dataset
from alexnet_core.errors import CoreError
from alexnet_core.model.alexnet import AlexNet, initialise
from alexnet_core.trained import prediction_bars
from alexnet_core.trained.loaded_model import LoadedModel
from alexnet_core.trained.pictures import kernels_picture, nearest_neighbours, neighbours_picture, save_picture
from alexnet_core.trained.prediction_bars import likeliest_labels, predictions_picture
from alexnet_core.training.evaluation import evaluate


@pytest.fixture
def model(config_of: Callable[..., TrainConfig], dataset: Dataset) -> LoadedModel:
    config = config_of()
    made = AlexNet(config.network)
    initialise(made, 4)
    return LoadedModel(made.eval(), config, dataset.class_names, dataset.mean_image)


@pytest.mark.slow
def test_every_kernel_stands_in_its_towers_panel() -> None:
    made = AlexNet(network("alexnet-paper"))
    initialise(made, 0)
    picture = np.asarray(kernels_picture(made))
    side = 33
    assert picture.shape == (2 + 8 * 35, 2 * (2 + 6 * 35) + 16, 3)
    for tower, number in ((0, 0), (0, 47), (1, 8)):
        weight = made.get_parameter(f"conv1.{tower}.weight")[number].detach().permute(1, 2, 0).numpy()
        levels = np.round(255 * (weight - weight.min()) / (weight.max() - weight.min())).astype(np.uint8)
        top, left = 2 + (number // 6) * 35, 2 + (number % 6) * 35 + tower * (2 + 6 * 35 + 16)
        assert np.array_equal(picture[top : top + side : 3, left : left + side : 3], levels)


def test_neighbours_are_the_nearest_in_the_last_hidden_layer(model: LoadedModel, dataset: Dataset) -> None:
    assert dataset.test is not None
    queries = np.array([0, 5, 19])
    neighbours = nearest_neighbours(model, dataset.test, dataset.train, queries, 4)

    def features(images: np.ndarray) -> np.ndarray:
        centred = (images.astype(np.float32) - dataset.mean_image)[:, 1:11, 1:11].transpose(0, 3, 1, 2)
        return model.network.features(torch.from_numpy(centred)).detach().double().numpy()

    test, train = features(dataset.test.images[queries]), features(dataset.train.images)
    distances = np.sqrt(((test[:, None] - train[None]) ** 2).sum(-1))
    expected = np.sort(distances, axis=1)[:, :4]
    np.testing.assert_allclose(neighbours.distances, expected, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(np.take_along_axis(distances, neighbours.nearest, 1), expected, rtol=1e-3, atol=1e-4)
    with pytest.raises(CoreError, match="71 neighbours asked for, of 70 training images"):
        nearest_neighbours(model, dataset.test, dataset.train, queries, 71)


def test_a_training_image_is_its_own_nearest_neighbour(model: LoadedModel, dataset: Dataset, tmp_path: Path) -> None:
    queries = np.arange(0, 70, 7)
    neighbours = nearest_neighbours(model, dataset.train, dataset.train, queries, 3)
    np.testing.assert_allclose(neighbours.distances[:, 0], 0, atol=2e-2)
    picture = neighbours_picture(neighbours, dataset.train, dataset.train)
    save_picture(picture, tmp_path / "sub" / "picture.png")
    assert (tmp_path / "sub" / "picture.png").stat().st_size > 100
    with pytest.raises(CoreError, match="cannot be written"):
        save_picture(picture, tmp_path / "picture.nothing")


def test_bars_are_the_softmax_of_the_network(model: LoadedModel, dataset: Dataset) -> None:
    assert dataset.test is not None
    queries = np.array([0, 3, 8, 19])
    likeliest = likeliest_labels(model, dataset.test, queries)
    centred = (dataset.test.images[queries].astype(np.float32) - dataset.mean_image)[:, 1:11, 1:11]
    logits = model.network(torch.from_numpy(centred.transpose(0, 3, 1, 2))).detach().double().numpy()
    softmax = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(likeliest.probabilities, -np.sort(-softmax, axis=1)[:, :5], rtol=1e-4)
    np.testing.assert_allclose(likeliest.probabilities, np.take_along_axis(softmax, likeliest.classes, 1), rtol=1e-4)

    # 画出来的条：长度是概率，只有正确的一条有自己的颜色
    names = tuple(f"$a_{number}\x1b^ 猫" * number for number in range(6))
    panel = Figure().subplots()
    right = int(likeliest.classes[1, 2])
    prediction_bars._bars(panel, likeliest, 1, right, list(names))
    widths = [bar.get_width() for bar in panel.patches if isinstance(bar, Rectangle)]
    np.testing.assert_allclose(widths, likeliest.probabilities[1])
    colours = [to_hex(bar.get_facecolor()) for bar in panel.patches]
    assert colours == [prediction_bars.RIGHT if rank == 2 else prediction_bars.OTHER for rank in range(5)]
    picture = np.asarray(predictions_picture(likeliest, dataset.test, names))
    for colour in (prediction_bars.OTHER, prediction_bars.RIGHT):
        levels = [round(255 * level) for level in to_rgb(colour)]
        assert (picture == levels).all(axis=2).sum() > 50


def test_predict_takes_files_and_arrays(model: LoadedModel, dataset: Dataset, tmp_path: Path) -> None:
    from PIL import Image

    paths = []
    for row in range(3):
        paths.append(tmp_path / f"{row}.png")
        Image.fromarray(dataset.train.images[row]).save(paths[-1])
    by_array = model.predict(dataset.train.images[:3])
    assert np.array_equal(model.predict(paths), by_array)
    np.testing.assert_allclose(by_array.sum(axis=1), 1, rtol=1e-5)
    assert model.predict([]).shape == (0, 6)
    # 路径比一批多时，结果与一次解码相同
    many = [paths[number % 3] for number in range(300)]
    rows = np.arange(300) % 3
    assert np.array_equal(model.predict(many), model.predict(dataset.train.images[rows]))
    metrics = evaluate(model.network, dataset)
    assert dataset.test is not None
    wrong = (model.predict(dataset.test.images).argmax(1) != dataset.test.labels).sum()
    assert metrics.top1_errors == wrong == model.evaluate(dataset.test).top1_errors
