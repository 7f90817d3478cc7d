from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alexnet_core.configuration.train_config import TrainConfig
from alexnet_core.data.dataset import Dataset, Split
from alexnet_core.data.image_file import decode_image
from alexnet_core.errors import CoreError
from alexnet_core.model.alexnet import AlexNet
from alexnet_core.trained import loaded_model
from alexnet_core.trained.loaded_model import LoadedModel, load_model
from alexnet_core.trained.model_folder import write_model
from alexnet_core.training.evaluation import EVALUATION_BATCH, evaluate
from alexnet_core.training.loader import ImageLoader
from tests.alexnet_core.data.pictures import picture


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


def test_a_picture_is_the_same_as_a_file_opened_with_pillow_and_as_an_array(export: Path, tmp_path: Path) -> None:
    loaded = load_model(export)
    files = [picture(tmp_path / name) for name in ("one.png", "two.png")]
    expected = loaded.predict([str(path) for path in files])
    opened = [Image.open(path) for path in files]
    np.testing.assert_array_equal(loaded.predict(opened), expected)
    arrays = [np.asarray(image.convert("RGB")) for image in opened]
    np.testing.assert_array_equal(loaded.predict(arrays), expected)
    np.testing.assert_array_equal(loaded.predict([files[0], opened[1]]), expected)
    grey = opened[0].convert("L")
    np.testing.assert_array_equal(loaded.predict([grey]), loaded.predict([np.asarray(grey)]))
    with pytest.raises(CoreError, match=r"predict\(\[image\]\)"):
        loaded.predict(opened[0])  # type: ignore[arg-type]
    with pytest.raises(CoreError, match=r"uint8 \(H, W, 3\) or \(H, W\), not float64"):
        loaded.predict([np.zeros((20, 20, 3))])
    for neither in (files[0].read_bytes(), arrays[0].tolist(), None):
        with pytest.raises(CoreError, match=f"Pillow image or an array of uint8, not {type(neither).__name__}"):
            loaded.predict([files[0], neither])  # type: ignore[list-item]


def test_pictures_of_another_size_or_type_are_refused(export: Path) -> None:
    loaded = load_model(export)
    with pytest.raises(CoreError, match=r"uint8 \(N, 12, 12, 3\)"):
        loaded.predict(np.zeros((1, 10, 10, 3), np.uint8))
    with pytest.raises(CoreError, match="float32"):
        loaded.predict(np.zeros((1, 12, 12, 3), np.float32))
    with pytest.raises(CoreError, match=r"predict\(\['photo.jpg'\]\)"):
        loaded.predict("photo.jpg")
    with pytest.raises(CoreError, match="predict takes a list of images, not NoneType"):
        loaded.predict(None)  # type: ignore[arg-type]


def test_channels_may_be_turned_round_without_a_copy(export: Path, dataset: Dataset) -> None:
    loaded, images = load_model(export), dataset.validation.images
    np.testing.assert_array_equal(loaded.predict(images[..., ::-1]), loaded.predict(images[..., ::-1].copy()))


def test_paths_are_decoded_and_classified_a_batch_at_a_time(
    export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many paths there are, no more pixels are held than a batch has."""
    loaded = load_model(export)
    names = [picture(tmp_path / f"{number}.png", number) for number in range(3)]
    paths = [names[number % 3] for number in range(2 * EVALUATION_BATCH + 5)]
    decoded, held = [], []

    def decode(path: Path, size: int) -> np.ndarray:
        decoded.append(path)
        return decode_image(path, size)

    def loader(model: LoadedModel, split: Split) -> ImageLoader:
        held.append((len(decoded), split.images.nbytes))
        return made(model, split)

    made = LoadedModel.loader
    monkeypatch.setattr(loaded_model, "decode_image", decode)
    monkeypatch.setattr(LoadedModel, "loader", loader)
    # 生成器没有长度：也不先收成一个列表
    probabilities = loaded.predict(path for path in paths)
    # 前一批分完类，才解码下一批
    batch = EVALUATION_BATCH
    assert held == [
        (count, images * 12 * 12 * 3) for count, images in ((batch, batch), (2 * batch, batch), (2 * batch + 5, 5))
    ]
    pixels = np.stack([decode_image(name, 12) for name in names])
    np.testing.assert_allclose(probabilities, loaded.predict(pixels)[np.arange(len(paths)) % 3], rtol=1e-4)


def test_classes_are_compared_as_they_look_and_their_labels_brought_into_the_models_order(
    export: Path, dataset: Dataset, seal: Callable[[Path], None]
) -> None:
    labels = ["a", "b", "c", "d", "f", "\u00e9"]
    (export / "labels.json").write_text(json.dumps(labels))
    seal(export)
    loaded = load_model(export)
    assert dataset.test is not None
    expected = loaded.evaluate(dataset.test)
    # 同样的名字拆成两个码位，就排到 f 前面去了
    spelt = ("a", "b", "c", "d", "e\u0301", "f")
    numbers = np.array([0, 1, 2, 3, 5, 4])[dataset.test.labels]
    other = replace(dataset, class_names=spelt, test=replace(dataset.test, labels=numbers))
    assert loaded.evaluate(other) == expected
    with pytest.raises(CoreError, match=r"the model knows 6 classes \(a, b, c and 3 more\), the data has 6 \(a, b, c"):
        loaded.evaluate(replace(dataset, class_names=("a", "b", "c", "d", "e", "f")))


@pytest.mark.parametrize("follows", [False, True])
def test_what_is_done_to_an_image_is_written_beside_the_weights(
    tmp_path: Path, config_of: Callable[..., TrainConfig], dataset: Dataset, follows: bool
) -> None:
    write_model(tmp_path, {"weight": np.zeros(1, np.float32)}, config_of(mean_follows_crop=follows), dataset, "a card")
    assert json.loads((tmp_path / "preprocessing.json").read_bytes()) == {
        "colour": "RGB",
        "pixel_range": [0, 255],
        "resize_shorter_side": 12,
        "resize_filter": "bicubic",
        "centre_crop": 12,
        "exif_orientation": "not applied, but in TIFF files (Pillow turns them)",
        "transparency": "dropped; the colours beneath it stay",
        "subtract": "model.safetensors: mean_image, float32 (height, width, 3)",
        "mean_follows_crop": follows,
        "evaluation_crop": config_of().network.input_size,
        "standard_deviation": None,
    }
