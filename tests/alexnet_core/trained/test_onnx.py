"""The ONNX file computes what the network computes."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from alexnet_core.configuration.named_networks import network, training_recipe
from alexnet_core.configuration.train_config import DataSpec, TrainConfig
from alexnet_core.model.alexnet import AlexNet, initialise
from alexnet_core.trained.loaded_model import LoadedModel

pytest.importorskip("onnxscript", reason="the dependency group onnx is not installed")


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", ["alexnet-mini", "cifar-11pct", "alexnet-145"])
def test_the_onnx_file_agrees_with_the_network(name: str, tmp_path: Path) -> None:
    import onnxruntime

    from alexnet_core.trained.onnx import export_onnx

    spec = network(name)
    made = AlexNet(spec)
    initialise(made, 0)
    made.eval()
    config = TrainConfig(
        network=spec,
        training=training_recipe(name),
        data=DataSpec(name="x", source="imagefolder", image_size=256, digest="0" * 64),
        seed=0,
    )
    labels = tuple(str(number) for number in range(spec.classes))
    mean = np.random.default_rng(0).random((256, 256, 3)).astype(np.float32)
    export_onnx(LoadedModel(made, config, labels, mean), tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    about = session.get_modelmeta().custom_metadata_map
    assert tuple(json.loads(about["labels"])) == labels
    assert json.loads(about["preprocessing"])["mean_follows_crop"] is config.training.mean_follows_crop
    restored = np.frombuffer(base64.b64decode(about["mean_image"]), "<f4").reshape(256, 256, 3)
    assert np.array_equal(restored, mean)
    for count in (1, 3):
        images = 50 * torch.randn(count, 3, spec.input_size, spec.input_size)
        with torch.inference_mode():
            expected = made(images).numpy()
        (logits,) = session.run(None, {"images": images.numpy()})
        np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
