from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from alexnet_core.configuration.network_spec import NetworkSpec
from alexnet_core.data.dataset import Dataset, Split
from alexnet_core.model.alexnet import AlexNet, initialise
from alexnet_core.trained.loaded_model import load_model
from alexnet_core.training.evaluation import batch_sums, evaluate


@pytest.fixture
def model(small_spec: NetworkSpec) -> AlexNet:
    made = AlexNet(small_spec)
    initialise(made, 0)
    return made


def test_sums_of_a_batch_by_hand() -> None:
    logits = torch.tensor([[3.0, 2, 1, 0, -1, -2, -3], [3.0, 2, 1, 0, -1, -2, -3], [3.0, 2, 1, 0, -1, -2, -3]])
    loss, top1, top5 = batch_sums(logits, torch.tensor([0, 4, 5])).tolist()
    scores = np.exp([3.0, 2, 1, 0, -1, -2, -3])
    assert loss == pytest.approx(-np.log(scores[[0, 4, 5]] / scores.sum()).sum(), rel=1e-6)
    assert (top1, top5) == (2, 1)


def test_one_view_is_the_centre_crop_minus_the_mean(model: AlexNet, dataset: Dataset) -> None:
    metrics = evaluate(model, dataset.validation, mean_image=dataset.mean_image)
    pixels = (dataset.validation.images.astype(np.float32) - dataset.mean_image)[:, 1:11, 1:11]
    model.eval()
    with torch.no_grad():
        logits = model(torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy())).double()
    labels = torch.from_numpy(dataset.validation.labels)
    assert metrics.count == 30
    assert metrics.top1_errors == int((logits.argmax(1) != labels).sum())
    assert metrics.loss_sum == pytest.approx(
        float(torch.nn.functional.cross_entropy(logits, labels, reduction="sum")), rel=1e-5
    )


def test_ten_views_average_the_softmaxes(model: AlexNet, dataset: Dataset) -> None:
    metrics = evaluate(model, dataset.validation, mean_image=dataset.mean_image, views=10)
    pixels = dataset.validation.images.astype(np.float32) - dataset.mean_image
    model.eval()
    total = torch.zeros(30, 6, dtype=torch.float64)
    for top, left in ((0, 0), (0, 2), (2, 0), (2, 2), (1, 1)):
        window = pixels[:, top : top + 10, left : left + 10]
        for view in (window, window[:, :, ::-1]):
            with torch.no_grad():
                total += model(torch.from_numpy(view.transpose(0, 3, 1, 2).copy())).double().softmax(1)
    labels = torch.from_numpy(dataset.validation.labels)
    expected = -(total / 10)[torch.arange(30), labels].log().sum()
    assert metrics.loss_sum == pytest.approx(float(expected), rel=1e-5)
    assert metrics.top1_errors == int((total.argmax(1) != labels).sum())


def test_evaluation_restores_the_mode_and_refuses_other_views(model: AlexNet, dataset: Dataset) -> None:
    model.train()
    evaluate(model, dataset.validation, mean_image=dataset.mean_image)
    assert model.training
    with pytest.raises(ValueError, match="1 or 10"):
        evaluate(model, dataset.validation, mean_image=dataset.mean_image, views=5)
    with pytest.raises(ValueError, match="mean image"):
        evaluate(model, dataset.validation)


def test_ten_views_do_not_underflow(model: AlexNet, dataset: Dataset) -> None:
    with torch.no_grad():
        for parameter in model.fc8.parameters():
            parameter.mul_(1e5)
    metrics = evaluate(model, dataset, 10)
    split = dataset.test
    assert split is not None
    pixels = split.images.astype(np.float32) - dataset.mean_image
    logarithms = []
    model.eval()
    for top, left in ((0, 0), (0, 2), (2, 0), (2, 2), (1, 1)):
        window = pixels[:, top : top + 10, left : left + 10]
        for view in (window, window[:, :, ::-1]):
            with torch.no_grad():
                logits = model(torch.from_numpy(view.transpose(0, 3, 1, 2).copy())).double()
            logarithms.append(logits.log_softmax(1))
    mean = torch.stack(logarithms).logsumexp(0) - np.log(10)
    assert (torch.stack(logarithms).float().exp().mean(0) == 0).any(), "the case is one of underflow"
    labels = torch.from_numpy(split.labels)
    assert metrics.loss_sum == pytest.approx(float(-mean[torch.arange(len(labels)), labels].sum()), rel=1e-4)
    best = mean.topk(5).indices
    assert metrics.top5_errors == int((~(best == labels[:, None]).any(1)).sum())


def test_a_loaded_model_is_evaluated_like_its_network(export: Path, dataset: Dataset) -> None:
    loaded = load_model(export)
    expected = evaluate(loaded.network, dataset, 10)
    assert evaluate(loaded, dataset, 10) == loaded.evaluate(dataset, 10) == expected
    with pytest.raises(ValueError, match="1 or 10"):
        loaded.predict(dataset.validation.images, views=3)
    nothing = Split(dataset.validation.images[:0], dataset.validation.labels[:0])
    with pytest.raises(ValueError, match="no images"):
        evaluate(loaded, nothing)
