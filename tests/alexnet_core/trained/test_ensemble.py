"""Several networks as one: the mean of their softmaxes, recomputed here from their logits in double precision."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from alexnet_core.__main__ import main
from alexnet_core.data.dataset import Dataset
from alexnet_core.model.alexnet import AlexNet, initialise
from alexnet_core.trained.ensemble import ensemble_predictions, evaluate_ensemble
from alexnet_core.trained.loaded_model import LoadedModel, load_model

Make = Callable[..., Path]


@pytest.fixture
def member(export: Path, seal: Callable[[Path], None], tmp_path: Path) -> Make:
    """Writes an export with weights of another seed and, where asked, other labels or data."""

    def make(seed: int, labels: list[str] | None = None, **data: object) -> Path:
        folder = tmp_path / f"member{seed}"
        folder.mkdir()
        for path in export.iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
        config = json.loads((folder / "config.json").read_bytes())
        config["data"] |= data
        (folder / "config.json").write_text(json.dumps(config))
        if labels is not None:
            (folder / "labels.json").write_text(json.dumps(labels))
        network = AlexNet(load_model(export).config.network)
        initialise(network, seed)
        # 每个网络有自己的均值图：不许用第一个的
        mean_image = load_file(export / "model.safetensors")["mean_image"] + np.float32(seed)
        weights = {name: np.ascontiguousarray(tensor.numpy()) for name, tensor in network.state_dict().items()}
        save_file({**weights, "mean_image": mean_image}, folder / "model.safetensors")
        seal(folder)
        return folder

    return make


def softmax(model: LoadedModel, images: np.ndarray, views: int) -> np.ndarray:
    """Mean softmax over the centre crop, or over centre, corners and their flips, in double precision."""
    places = [(1, 1), (0, 0), (0, 2), (2, 0), (2, 2)] if views == 10 else [(1, 1)]
    centred = images.astype(np.float32) - model.mean_image
    total = np.zeros((len(images), len(model.labels)))
    for top, left in places:
        crop = centred[:, top : top + 10, left : left + 10]
        for view in (crop, crop[:, :, ::-1]) if views == 10 else (crop,):
            pixels = torch.from_numpy(np.ascontiguousarray(view.transpose(0, 3, 1, 2)))
            logits = model.network(pixels).detach().double().numpy()
            exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
            total += exponentials / exponentials.sum(axis=1, keepdims=True)
    return total / views


@pytest.mark.parametrize("views", [1, 10])
def test_an_ensemble_is_the_mean_of_its_softmaxes(export: Path, member: Make, dataset: Dataset, views: int) -> None:
    split = dataset.train
    models = [load_model(folder) for folder in (export, member(1), member(2))]
    expected = np.mean([softmax(model, split.images, views) for model in models], axis=0)
    (shown,) = [logarithms.exp().numpy() for _, logarithms in ensemble_predictions(models, split, views)]
    np.testing.assert_allclose(shown, expected, rtol=1e-4)
    metrics = evaluate_ensemble(models, split, views)
    of_class = expected[np.arange(len(split)), split.labels]
    assert metrics.top1_errors == (expected.argmax(axis=1) != split.labels).sum()
    assert metrics.top5_errors == (expected.argmin(axis=1) == split.labels).sum()
    assert metrics.loss_sum == pytest.approx(-np.log(of_class).sum(), rel=1e-5)
    assert metrics.count == 70
    # 一个模型的“集成”就是它自己，逐位相同
    assert evaluate_ensemble(models[:1], split, views) == models[0].evaluate(split, views)


def test_the_command_averages_and_refuses_what_is_not_one_ensemble(
    export: Path, member: Make, dataset: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from PIL import Image

    assert dataset.test is not None
    for number, (image, label) in enumerate(zip(dataset.test.images, dataset.test.labels, strict=True)):
        path = tmp_path / "photos" / "test" / dataset.class_names[label] / f"{number:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)

    def run(*folders: Path) -> tuple[int, str, str]:
        named = [argument for folder in folders for argument in ("--model", str(folder))]
        rows = ["--predictions", str(tmp_path / "rows.csv")]
        code = main(["eval", *named, "--dataset", str(tmp_path / "photos"), "--device", "cpu", *rows])
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    other = member(1)
    code, shown, _ = run(export, other)
    models = [load_model(folder) for folder in (export, other)]
    mean = np.mean([softmax(model, dataset.test.images, 1) for model in models], axis=0)
    wrong = int((mean.argmax(axis=1) != dataset.test.labels).sum())
    assert code == 0
    assert f"centre crop, 2 networks averaged: top-1 error {100 * wrong / 20:.2f} % ({wrong} of 20)" in shown
    right = sum(row.split(",")[2] == "1" for row in (tmp_path / "rows.csv").read_text().splitlines()[1:])
    assert right == 20 - wrong

    run_folder = tmp_path / "run"
    shutil.copytree(export, run_folder / "model")
    for folders, complaint in (
        ((export, export), "names one folder twice"),
        ((export, Path(os.path.relpath(export))), "names one folder twice"),
        ((run_folder, run_folder / "model"), "names one folder twice"),
        ((export, member(2, labels=[f"class{5 - number}" for number in range(6)])), "know other classes"),
        ((export, member(3, train_images=50)), "trained on other data: data.train_images is None and 50"),
        ((export, member(4, digest="1" * 64)), f"data.digest is {'0' * 64} and {'1' * 64}"),
    ):
        code, _, errors = run(*folders)
        assert code == 2
        assert complaint in errors
        assert errors.startswith("error: ")
        assert errors.count("\n") == 1
