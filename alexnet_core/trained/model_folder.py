"""The folder of an exported model: what is in it, that it is whole, and how it is written. Loads no torch.

model.safetensors    weights by parameter name, and `mean_image`
config.json          the run that trained it
preprocessing.json   what is done to an image before the network sees it
labels.json          names of the classes, in the order of the outputs
README.md            the model card; may be edited
SHA256SUMS           hashes of all of these, in the format of `sha256sum`
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from alexnet_core.configuration.metrics import SplitMetrics
from alexnet_core.configuration.network_spec import layer_shapes
from alexnet_core.configuration.train_config import TrainConfig
from alexnet_core.configuration.wording import counted
from alexnet_core.data.dataset import Dataset
from alexnet_core.errors import CoreError
from alexnet_core.process.files import temporary_path

SUMS = "SHA256SUMS"
CARD = "README.md"
NEEDED = ("model.safetensors", "config.json", "preprocessing.json", "labels.json")


def verify(folder: Path) -> None:
    """Checks the files of an export against its SHA256SUMS (the format of `sha256sum`).

    The model card may be edited or missing: nothing is computed from it.

    Raises:
        CoreError: Names the file that is missing, unlisted or changed.
    """
    sums = folder / SUMS
    if not sums.is_file():
        raise CoreError(
            f"{folder} is not an exported model: it has no {SUMS}; give one that best --export or train --out wrote"
        )
    listed = {}
    for line in sums.read_text(encoding="utf-8", errors="replace").splitlines():
        digest, _, name = line.partition("  ")
        listed[name] = digest
    for name in NEEDED:
        if name not in listed:
            raise CoreError(f"{sums} does not list {name}; export the model anew")
    for name, digest in listed.items():
        if name == CARD:
            continue
        path = folder / name
        # 清单里的名字不许指到文件夹之外
        if Path(name).name != name or not path.is_file():
            raise CoreError(f"{path} is missing; export the model anew")
        if _sha256(path) != digest:
            raise CoreError(f"{path} is not the file that was exported: its SHA-256 differs from {SUMS}")


def write_model(
    folder: Path, weights: Mapping[str, np.ndarray], config: TrainConfig, dataset: Dataset, card: str
) -> None:
    """Writes an export into an empty folder.

    Args:
        folder: Where to.
        weights: By parameter name, each of its parameter's shape, such as (48, 3, 11, 11).
        config: The run that trained them; its paths are left out.
        dataset: The data it was trained on.
        card: The model card, see `model_card`.

    Raises:
        OSError: The folder cannot be written.
        SafetensorError: The weights cannot be written.
    """
    # 均值图与权重放在一起：换一张均值图，网络就不是这个网络了
    save_file(
        {**weights, "mean_image": np.ascontiguousarray(dataset.mean_image)},
        folder / "model.safetensors",
    )
    plain = config.model_dump(mode="json")
    # 别人的机器上没有这些路径
    plain["data"] |= {"root": None, "cache": None}
    _json(folder / "config.json", plain)
    _json(folder / "preprocessing.json", preprocessing(config))
    _json(folder / "labels.json", list(dataset.class_names))
    (folder / CARD).write_text(card, encoding="utf-8")
    sums = [f"{_sha256(path)}  {path.name}\n" for path in sorted(folder.iterdir())]
    (folder / SUMS).write_text("".join(sums), encoding="utf-8")


def replace_folder(temporary: Path, folder: Path) -> None:
    """Renames into place; an export that is replaced goes only after the new one is whole."""
    if not folder.exists():
        temporary.rename(folder)
        return
    old = temporary_path(folder)
    folder.rename(old)
    temporary.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def model_card(
    config: TrainConfig,
    dataset: Dataset,
    measured: Mapping[str, SplitMetrics | None],
    *,
    origin: str,
    remarks: str = "",
    facts: Mapping[str, Any],
) -> str:
    """Returns a model card, in Markdown.

    Args:
        config: The run.
        dataset: The data it was trained on.
        measured: Errors by split; those that are None are left out.
        origin: A sentence: where the model comes from.
        remarks: A paragraph about the errors.
        facts: Further rows about the training and its machine.
    """
    parameters = sum(shape.parameters for shape in layer_shapes(config.network))
    errors = "\n".join(_error_row(name, metrics) for name, metrics in measured.items() if metrics is not None)
    rows = "\n".join(f"| {name} | {value} |" for name, value in facts.items())
    training, size = config.training, config.data.image_size
    return f"""# {config.network.name} on {config.data.name}

{parameters:,} parameters, {counted(config.network.towers, "tower")}, {config.network.classes} classes, input
{config.network.input_size}x{config.network.input_size} pixels. {origin}

## Measured errors

{remarks + 2 * chr(10) if remarks else ""}| split | top-1 error | top-5 error | images |
|---|---|---|---|
{errors}

## Use

```python
from alexnet_core import load_model
model = load_model("this folder")
probabilities = model.predict(images)  # uint8 (N, {size}, {size}, 3), RGB, 0..255
```

`python -m alexnet_core eval --model DIR` reproduces the errors above (add `--data-root` for an image folder).

## Training

{counted(training.epochs, "epoch")}, batch {training.batch_size}, learning rate {training.learning_rate:g}, momentum
{training.momentum:g}, weight decay {training.weight_decay:g}, {len(dataset.train.labels)} training images. Data digest
`{config.data.digest}`. All of it is in `config.json`.

## Environment

| what | value |
|---|---|
{rows}
"""


def _error_row(name: str, metrics: SplitMetrics) -> str:
    return (
        f"| {name} | {100 * metrics.top1_error:.2f} % ({metrics.top1_errors} of {metrics.count}) "
        f"| {100 * metrics.top5_error:.2f} % ({metrics.top5_errors} of {metrics.count}) | {metrics.count} |"
    )


def preprocessing(config: TrainConfig) -> dict[str, Any]:
    """Returns what is done to an image before the network sees it, as `preprocessing.json` says it."""
    return {
        "colour": "RGB",
        "pixel_range": [0, 255],
        "resize_shorter_side": config.data.image_size,
        "resize_filter": "bicubic",
        "centre_crop": config.data.image_size,
        "exif_orientation": "not applied, but in TIFF files (Pillow turns them)",
        "transparency": "dropped; the colours beneath it stay",
        "subtract": "model.safetensors: mean_image, float32 (height, width, 3)",
        "mean_follows_crop": config.training.mean_follows_crop,
        "evaluation_crop": config.network.input_size,
        "standard_deviation": None,
    }


def _json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
