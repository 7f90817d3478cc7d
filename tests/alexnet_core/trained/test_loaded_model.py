from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from alexnet_core.data.dataset import Dataset
from alexnet_core.errors import CoreError
from alexnet_core.model.alexnet import AlexNet
from alexnet_core.trained.loaded_model import load_model
from alexnet_core.training.evaluation import evaluate


def test_a_loaded_model_is_the_exported_one(export: Path, model: AlexNet, dataset: Dataset) -> None:
    loaded = load_model(export)
    assert loaded.labels == dataset.class_names
    expected = evaluate(model, dataset.validation, mean_image=dataset.mean_image)
    assert evaluate(loaded.network, dataset.validation, mean_image=loaded.mean_image) == expected
    probabilities = loaded.predict(dataset.validation.images)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    wrong = int((probabilities.argmax(axis=1) != dataset.validation.labels).sum())
    assert wrong == expected.top1_errors
    assert loaded.predict(dataset.validation.images[:0]).shape == (0, 6)


def test_one_changed_bit_is_found(export: Path) -> None:
    weights = bytearray((export / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (export / "model.safetensors").write_bytes(weights)
    with pytest.raises(CoreError, match=r"model\.safetensors is not the file that was exported"):
        load_model(export)


def test_the_model_card_may_be_edited_or_go(export: Path, seal: Callable[[Path], None]) -> None:
    (export / "README.md").write_text("a card")
    seal(export)
    (export / "README.md").write_text("my own words")
    assert len(load_model(export).labels) == 6
    (export / "README.md").unlink()
    assert len(load_model(export).labels) == 6


def test_missing_and_unlisted_files_are_named(export: Path, tmp_path: Path, seal: Callable[[Path], None]) -> None:
    (export / "labels.json").unlink()
    with pytest.raises(CoreError, match=r"labels\.json is missing"):
        load_model(export)
    seal(export)
    with pytest.raises(CoreError, match=r"does not list labels\.json"):
        load_model(export)
    with pytest.raises(CoreError, match="no SHA256SUMS"):
        load_model(tmp_path)


def test_a_sealed_export_of_another_network_is_refused(export: Path, seal: Callable[[Path], None]) -> None:
    config = json.loads((export / "config.json").read_text())
    config["network"]["layers"][0]["maps"] = 5
    (export / "config.json").write_text(json.dumps(config))
    seal(export)
    with pytest.raises(CoreError, match="not an export that this version can load"):
        load_model(export)


def test_pictures_of_another_size_or_type_are_refused(export: Path) -> None:
    loaded = load_model(export)
    with pytest.raises(CoreError, match=r"uint8 \(N, 12, 12, 3\)"):
        loaded.predict(np.zeros((1, 10, 10, 3), np.uint8))
    with pytest.raises(CoreError, match="float32"):
        loaded.predict(np.zeros((1, 12, 12, 3), np.float32))
    with pytest.raises(CoreError, match=r"predict\(\['photo.jpg'\]\)"):
        loaded.predict("photo.jpg")


def test_channels_may_be_turned_round_without_a_copy(export: Path, dataset: Dataset) -> None:
    loaded, images = load_model(export), dataset.validation.images
    np.testing.assert_array_equal(loaded.predict(images[..., ::-1]), loaded.predict(images[..., ::-1].copy()))
