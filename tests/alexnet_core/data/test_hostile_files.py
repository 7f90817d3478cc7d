"""Exports, checkpoints and images of somebody else: loaded, or refused by a CoreError, never anything else."""

from __future__ import annotations

import io
import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from alexnet_core.data.image_file import BadImage, decode_image, without_picture_warnings
from alexnet_core.errors import CoreError
from alexnet_core.trained.loaded_model import load_model
from alexnet_core.training.checkpoint import Position, is_final, latest_checkpoint, read_history, write_checkpoint
from tests.hostile import changed_bytes, changed_file, changed_json

FUZZ = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["config.json", "labels.json", "preprocessing.json", "model.safetensors", "SHA256SUMS"]
)
@given(data=st.data())
@FUZZ
def test_a_changed_export_predicts_or_is_refused(
    export: Path, seal: Callable[[Path], None], name: str, data: st.DataObject
) -> None:
    copy = export.with_name("copy")
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(export, copy)
    (copy / name).write_bytes(data.draw(changed_file((export / name).read_bytes())))
    if name != "SHA256SUMS":
        seal(copy)
    try:
        model = load_model(copy)
    except CoreError:
        return
    size = model.config.data.image_size
    assert model.predict(np.zeros((1, size, size, 3), np.uint8)).shape == (1, len(model.labels))


@given(data=st.data())
@FUZZ
def test_a_changed_checkpoint_is_read_or_passed_over(tmp_path: Path, export: Path, data: st.DataObject) -> None:
    folder = tmp_path / "checkpoint"
    path = write_checkpoint(folder, 1, Position(epoch=2), {"a": torch.zeros(3)}, None)
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = changed_json(json.loads(content[8 : 8 + length])).map(lambda changed: json.dumps(changed).encode())
    rebuilt = header.map(lambda text: struct.pack("<Q", len(text)) + text + content[8 + length :])
    path.write_bytes(data.draw(changed_bytes(content) | st.binary(max_size=40) | rebuilt))
    latest = latest_checkpoint(folder)
    if latest is not None:
        assert is_final(latest) in (True, False)
        assert isinstance(read_history(latest), tuple)


def picture(form: str) -> bytes:
    target = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 255, (12, 14, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(target, form)
    return target.getvalue()


@pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM"])
@given(data=st.data())
@FUZZ
def test_a_changed_image_is_decoded_or_named_as_bad(form: str, data: st.DataObject) -> None:
    content = data.draw(changed_bytes(picture(form)))
    try:
        with without_picture_warnings():
            pixels = decode_image(Path("picture"), 8, content)
    except BadImage:
        return
    assert (pixels.shape, pixels.dtype) == ((8, 8, 3), np.uint8)
