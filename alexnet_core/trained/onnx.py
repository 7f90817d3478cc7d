"""A trained network as an ONNX file (dependency group `onnx`)."""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from alexnet_core.errors import CoreError
from alexnet_core.process.files import replaced
from alexnet_core.trained.loaded_model import LoadedModel


def export_onnx(model: LoadedModel, path: Path) -> None:
    """Writes the network in evaluation mode as one ONNX file.

    Its input `images` is float32 (N, channels, size, size), raw 0..255 minus the mean image, N being free; its output
    `logits` is float32 (N, classes). Weights are those of the towers on the CPU.

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
            program.save(str(temporary), external_data=False)
    except OSError as error:
        raise CoreError(f"{path} cannot be written: {error.strerror}") from error
