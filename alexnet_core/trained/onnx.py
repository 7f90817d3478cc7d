"""A trained network as an ONNX file (dependency group `onnx`)."""

from __future__ import annotations

import base64
import json
import logging
from pathlib import Path

import numpy as np
import torch

from alexnet_core.errors import CoreError
from alexnet_core.process.files import replaced
from alexnet_core.trained.loaded_model import LoadedModel
from alexnet_core.trained.model_folder import preprocessing


def onnx_metadata(model: LoadedModel) -> dict[str, str]:
    """Returns what surrounds the network, as text.

    `labels` and `preprocessing` are JSON; `mean_image` is base64 of little-endian float32 (H, W, 3), whose centre of
    the network's input size is subtracted from a centre crop:
    `numpy.frombuffer(base64.b64decode(text), "<f4").reshape(height, width, 3)`.
    """
    mean = np.ascontiguousarray(model.mean_image, dtype="<f4")
    facts = preprocessing(model.config) | {"subtract": f"mean_image, float32 {mean.shape}"}
    return {
        "labels": json.dumps(list(model.labels)),
        "preprocessing": json.dumps(facts),
        "mean_image": base64.b64encode(mean.tobytes()).decode("ascii"),
    }


def export_onnx(model: LoadedModel, path: Path) -> None:
    """Writes the network in evaluation mode as one ONNX file.

    Its input `images` is float32 (N, channels, size, size), raw 0..255 minus the mean image, N being free; its output
    `logits` is float32 (N, classes). Weights are those of the towers on the CPU. The file's metadata hold what
    surrounds the network, see `onnx_metadata`.

    Args:
        model: The network, on the CPU.
        path: The file to write.

    Raises:
        CoreError: The packages are missing, or the file cannot be written.
    """
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise CoreError(
            f"the ONNX export needs {error.name}: uv sync --group onnx, or pip install onnx onnxscript"
        ) from error
    network = model.network
    size = network.spec.input_size
    example = torch.zeros(2, network.spec.channels, size, size)
    # 导出器会为没装的 torchvision 算子逐个警告
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    program = torch.onnx.export(
        network,
        (example,),
        input_names=["images"],
        output_names=["logits"],
        dynamic_shapes={"images": {0: torch.export.Dim("images")}},
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replaced(path) as temporary:
            program.model.metadata_props.update(onnx_metadata(model))
            program.save(str(temporary), external_data=False)
    except OSError as error:
        raise CoreError(f"{path} cannot be written: {error.strerror}") from error
